//! A model that is a hash of the tokens it can see, so that a wrong page, position or state changes its answer.

use allod_plan::{AdapterError, Backend, Capacity, Lora, PAGE, Step, StepError};
use std::collections::HashSet;
use std::sync::{Arc, Mutex};

/// Rows of each step that ran.
pub(crate) type Log = Arc<Mutex<Vec<usize>>>;

pub(crate) struct Toy {
    capacity: Capacity,
    /// The token that was stored at each position of each page.
    memory: Vec<u32>,
    /// Hash of everything seen, per slot. A recurrent toy answers from it, another from its pages.
    states: Vec<u64>,
    results: Vec<f32>,
    log: Log,
    /// From this position on, logits are not numbers.
    pub(crate) breaks_at: usize,
    /// The logits after this token are not numbers.
    pub(crate) breaks_on: Option<u32>,
    /// Steps with this token are refused.
    pub(crate) refuses: Option<u32>,
    /// Positions that a row sees.
    pub(crate) window: usize,
    /// Answers from its state.
    pub(crate) recurrent: bool,
}

impl Toy {
    pub(crate) fn new(capacity: Capacity) -> Toy {
        Toy {
            capacity,
            memory: vec![u32::MAX; capacity.pages * PAGE],
            states: vec![u64::MAX; capacity.states],
            results: Vec::new(),
            log: Log::default(),
            breaks_at: usize::MAX,
            breaks_on: None,
            refuses: None,
            window: usize::MAX,
            recurrent: capacity.states > 0,
        }
    }

    pub(crate) fn log(&self) -> Log {
        self.log.clone()
    }
}

fn mix(hash: u64, token: u32) -> u64 {
    (hash ^ u64::from(token)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
}

/// The logits after these tokens.
pub(crate) fn logits(tokens: &[u32], vocabulary: usize) -> Vec<f32> {
    spread(tokens.iter().fold(0, |hash, &t| mix(hash, t)), vocabulary)
}

fn spread(hash: u64, vocabulary: usize) -> Vec<f32> {
    (0..vocabulary as u32).map(|id| (mix(hash, id) >> 40) as f32 / (1 << 21) as f32).collect()
}

impl Backend for Toy {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn run(&mut self, step: &Step<'_>) -> Result<&[f32], StepError> {
        assert!(step.tokens.len() <= self.capacity.rows);
        if step.tokens.iter().any(|&t| Some(t) == self.refuses) {
            return Err(StepError::Inconsistent("refused".into()));
        }
        let slots: HashSet<u32> = step.sequences.iter().map(|s| s.state).collect();
        assert!(!self.recurrent || slots.len() == step.sequences.len(), "a state is used twice");
        self.log.lock().unwrap().push(step.tokens.len());
        self.results.clear();
        for s in step.sequences {
            for (row, position) in s.rows.clone().zip(s.start as usize..) {
                let token = step.tokens[row];
                self.memory[s.pages[position / PAGE] as usize * PAGE + position % PAGE] = token;
                let hash = if self.recurrent {
                    let state = &mut self.states[s.state as usize];
                    *state = mix(*state, token ^ s.adapter << 20);
                    *state
                } else {
                    let begin = u64::from(s.adapter) * 0x1234_5678_9ABC;
                    let at = |p: usize| self.memory[s.pages[p / PAGE] as usize * PAGE + p % PAGE];
                    ((position + 1).saturating_sub(self.window)..=position).fold(begin, |hash, p| mix(hash, at(p)))
                };
                if step.outputs.contains(&(row as u32)) {
                    self.results.extend(spread(hash, self.capacity.width));
                    if Some(token) == self.breaks_on {
                        self.results.pop();
                        self.results.push(f32::NAN);
                    }
                    if position >= self.breaks_at {
                        self.results.push(f32::NAN);
                        self.results.swap_remove(0);
                    }
                }
            }
        }
        Ok(&self.results)
    }

    fn load_adapter(&mut self, _: u32, _: &Lora) -> Result<(), AdapterError> {
        Ok(())
    }

    fn read_page(&self, page: u32, out: &mut Vec<u8>) -> bool {
        let tokens = &self.memory[page as usize * PAGE..][..PAGE];
        tokens.iter().for_each(|token| out.extend(token.to_le_bytes()));
        true
    }

    fn write_page(&mut self, page: u32, bytes: &[u8]) -> bool {
        let tokens = self.memory[page as usize * PAGE..][..PAGE].iter_mut();
        tokens.zip(bytes.as_chunks::<4>().0).for_each(|(token, bytes)| *token = u32::from_le_bytes(*bytes));
        true
    }

    fn read_state(&self, slot: u32, out: &mut Vec<u8>) -> bool {
        out.extend(self.states[slot as usize].to_le_bytes());
        true
    }

    fn write_state(&mut self, slot: u32, bytes: &[u8]) -> bool {
        self.states[slot as usize] = u64::from_le_bytes(bytes.try_into().unwrap());
        true
    }

    fn copy_page(&mut self, from: u32, to: u32) {
        let from = from as usize * PAGE;
        self.memory.copy_within(from..from + PAGE, to as usize * PAGE);
    }

    fn copy_state(&mut self, from: u32, to: u32) {
        self.states[to as usize] = self.states[from as usize];
    }

    fn clear_state(&mut self, slot: u32) {
        self.states[slot as usize] = 0;
    }
}
