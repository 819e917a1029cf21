//! What architectures share. Each block is a method on [`Scope`] with a struct whose defaults are "off", so that a
//! difference between two architectures is visible where it is made.

mod attention;
mod mlp;
mod rope;

pub use attention::{Attn, Bias, QkNorm};
pub use mlp::{Ffn, Moe};
pub use rope::RopeSpec;

use crate::Config;
use allod_plan::{Norm, NormKind, Scope, Value};

/// Blocks as methods of the recorder.
pub trait Blocks<'s> {
    /// The token embedding `token_embd`.
    fn tokens(&mut self, c: &Config) -> Value;

    /// `x · scale + f(x)`: a block around which the residual stream runs. The names within are the layer's.
    fn residual(&mut self, x: Value, f: impl FnOnce(&mut Scope<'_, 's>, Value) -> Value) -> Value;

    /// RMS norm over the whole row with the weight `name`.
    fn rms_norm(&mut self, name: &str, x: Value, eps: f32) -> Value;

    /// Layer norm over the whole row with the weight and, where the source has it, the bias `name`.
    fn layer_norm(&mut self, name: &str, x: Value, eps: f32) -> Value;

    /// A norm of groups of `group` elements with one weight of `group` elements for all.
    fn head_norm(&mut self, name: &str, x: Value, group: usize, eps: f32) -> Value;

    /// A norm without weights over groups of `group` elements.
    fn bare_norm(&mut self, name: &str, x: Value, kind: NormKind, group: usize, eps: f32) -> Value;

    /// Attention with all its projections.
    fn attention(&mut self, x: Value, a: Attn) -> Value;

    /// A feed-forward part: dense.
    fn ffn(&mut self, x: Value, f: Ffn) -> Value;

    /// A feed-forward part: mixture of experts, with its router.
    fn moe(&mut self, x: Value, m: Moe) -> Value;

    /// Logits: the wanted rows, `output_norm` (RMS), and `output` or, where there is none, the embedding table.
    fn logits(&mut self, x: Value, c: &Config) -> Value;

    /// The head alone: the wanted rows times `output`, or the embedding table where there is none.
    fn head(&mut self, x: Value, c: &Config) -> Value;
}

impl<'s> Blocks<'s> for Scope<'_, 's> {
    fn tokens(&mut self, c: &Config) -> Value {
        self.embed("token_embd", c.vocab, c.dim)
    }

    fn residual(&mut self, x: Value, f: impl FnOnce(&mut Scope<'_, 's>, Value) -> Value) -> Value {
        let y = f(self, x);
        self.add(x, y)
    }

    fn rms_norm(&mut self, name: &str, x: Value, eps: f32) -> Value {
        let width = self.width(x);
        self.head_norm(name, x, width, eps)
    }

    fn layer_norm(&mut self, name: &str, x: Value, eps: f32) -> Value {
        let group = self.width(x);
        let weight = Some(self.param(&format!("{name}.weight"), &[group]));
        let bias = self.optional(&format!("{name}.bias"), &[group]);
        self.norm(name, x, Norm { kind: NormKind::Layer, group, eps, weight, bias })
    }

    fn head_norm(&mut self, name: &str, x: Value, group: usize, eps: f32) -> Value {
        let weight = Some(self.param(&format!("{name}.weight"), &[group]));
        self.norm(name, x, Norm { kind: NormKind::Rms, group, eps, weight, bias: None })
    }

    fn bare_norm(&mut self, name: &str, x: Value, kind: NormKind, group: usize, eps: f32) -> Value {
        self.norm(name, x, Norm { kind, group, eps, weight: None, bias: None })
    }

    fn attention(&mut self, x: Value, a: Attn) -> Value {
        attention::record(self, x, a)
    }

    fn ffn(&mut self, x: Value, f: Ffn) -> Value {
        mlp::ffn(self, x, f)
    }

    fn moe(&mut self, x: Value, m: Moe) -> Value {
        mlp::moe(self, x, m)
    }

    fn logits(&mut self, x: Value, c: &Config) -> Value {
        let x = self.gather_outputs(x);
        let x = self.rms_norm("output_norm", x, c.eps);
        self.head(x, c)
    }

    fn head(&mut self, x: Value, c: &Config) -> Value {
        let name = if self.has("output.weight") { "output" } else { "token_embd" };
        let logits = self.linear(name, x, c.vocab);
        self.tag("logits", logits)
    }
}
