//! What a step says about sequences: checked once, then handed to the kernels that care.

use allod_kernels::attention::{KvCache, KvError, KvLayout, KvType};
use allod_plan::{CacheInfo, Capacity, PAGE, RowLimits, Step, StepError};

pub(crate) fn cache(c: &CacheInfo, dtype: KvType, pages: usize) -> Result<KvCache, KvError> {
    let v_dim = if c.value_in_key { 0 } else { c.value_dim };
    KvCache::new(KvLayout { kv_heads: c.kv_heads, k_dim: c.key_dim, v_dim, dtype }, pages)
}

fn below(what: &'static str, found: usize, limit: usize) -> Result<(), StepError> {
    if found < limit { Ok(()) } else { Err(StepError::Outside { what, found, limit }) }
}

/// Holds a step against what the backend was built for. Nothing has been written when this fails.
pub(crate) fn check(step: &Step<'_>, c: &Capacity, limits: RowLimits, vocabulary: usize) -> Result<(), StepError> {
    below("rows in a step", step.tokens.len(), limits.tokens + 1)?;
    below("wanted rows", step.outputs.len(), limits.outputs + 1)?;
    below("sequences in a step", step.sequences.len(), limits.sequences + 1)?;
    for &id in step.tokens {
        below("token id", id as usize, vocabulary)?;
    }
    let mut next = 0;
    for s in step.sequences {
        if s.rows.start != next || s.rows.end <= next {
            let what = format!("rows {:?} of a sequence do not follow row {next}", s.rows);
            return Err(StepError::Inconsistent(what));
        }
        next = s.rows.end;
        let end = s.start as usize + s.rows.len();
        below("position", end - 1, c.context)?;
        below("pages needed", end.div_ceil(PAGE), s.pages.len() + 1)?;
        for &p in s.pages {
            below("page", p as usize, c.pages)?;
        }
        below("state slot", s.state as usize, c.states)?;
    }
    if next != step.tokens.len() {
        return Err(StepError::Inconsistent(format!("sequences cover {next} of {} rows", step.tokens.len())));
    }
    if let Some(w) = step.outputs.windows(2).find(|w| w[0] >= w[1]) {
        return Err(StepError::Inconsistent(format!("wanted rows {} and {} are not increasing", w[0], w[1])));
    }
    match step.outputs.last() {
        Some(&row) => below("wanted row", row as usize, step.tokens.len()),
        None => Ok(()),
    }
}

/// Two sequences cannot continue the same state.
pub(crate) fn check_states(step: &Step<'_>) -> Result<(), StepError> {
    let mut slots: Vec<u32> = step.sequences.iter().map(|s| s.state).collect();
    slots.sort_unstable();
    match slots.windows(2).find(|w| w[0] == w[1]) {
        Some(w) => Err(StepError::Inconsistent(format!("two sequences share the state in slot {}", w[0]))),
        None => Ok(()),
    }
}
