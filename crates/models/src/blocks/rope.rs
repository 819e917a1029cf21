use crate::rope::{Scaling, frequencies};
use allod_plan::{Rope, RopeStyle, Scope, Value};

/// Rotary positions of one attention.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// Elements of a head that are rotated: the first.
    pub dims: usize,
    /// Base of the frequencies.
    pub base: f32,
    /// How they are stretched.
    pub scaling: Scaling,
    /// Which elements pair up.
    pub style: RopeStyle,
    /// Divide the frequencies by the tensor `rope_freqs`, where the source has it and nothing else stretches them.
    pub factors: bool,
}

impl RopeSpec {
    /// The same, not stretched.
    pub fn plain(&self) -> RopeSpec {
        RopeSpec { scaling: Scaling::None, factors: false, ..self.clone() }
    }

    /// Rotates every head of `x`; `context` is the length that the plan is for.
    pub fn apply(&self, m: &mut Scope<'_, '_>, x: Value, head_dim: usize, context: usize) -> Value {
        if !self.dims.is_multiple_of(2) || self.dims > head_dim {
            m.reject(format_args!("{} elements of a head of {head_dim} cannot be rotated in pairs", self.dims));
        }
        let table = match self.scaling {
            Scaling::LongRope { original, .. } if context > original => "rope_factors_long.weight",
            Scaling::LongRope { .. } => "rope_factors_short.weight",
            Scaling::None if self.factors => "rope_freqs.weight",
            _ => "",
        };
        let factors = m.constants(table);
        if let Some(f) = factors.as_ref().filter(|f| f.len() != self.dims / 2) {
            m.reject(format_args!("{table} has {} factors for {} rotated elements", f.len(), self.dims));
        }
        let (list, magnitude) = frequencies(self.dims, self.base, &self.scaling, context, factors.as_deref());
        m.rope(x, Rope { head_dim, style: self.style, frequencies: list.into(), magnitude })
    }
}
