//! What architectures share. Each block is a method on [`Scope`] with a struct whose defaults are "off", so that a
//! difference between two architectures is visible where it is made.

mod attention;
mod delta;
mod mla;
mod mlp;
mod rope;
mod ssm;

pub use attention::{Attn, Bias, Gate, Kv, QkNorm, alibi_slopes};
pub use delta::Delta;
pub use mla::Mla;
pub use mlp::{Ffn, Moe};
pub use rope::RopeSpec;
pub use ssm::{Mamba, Mamba2};

use crate::{Config, Output, Pooling};
use allod_plan::{Norm, NormKind, Pool, Scope, Value};

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

    /// Latent attention with all its projections.
    fn mla(&mut self, x: Value, a: Mla) -> Value;

    /// A Mamba mixer.
    fn mamba(&mut self, x: Value, s: Mamba) -> Value;

    /// A Mamba-2 mixer.
    fn mamba2(&mut self, x: Value, s: Mamba2) -> Value;

    /// A gated delta rule mixer.
    fn delta(&mut self, x: Value, d: Delta) -> Value;

    /// A feed-forward part: mixture of experts, with its router.
    fn moe(&mut self, x: Value, m: Moe) -> Value;

    /// The experts alone, chosen by `logits` of a router.
    fn routed(&mut self, x: Value, logits: Value, m: Moe) -> Value;

    /// Learned positions: the table `position_embd`.
    fn positions(&mut self, c: &Config) -> Value;

    /// What the model returns, as [`Config::output`] says: the wanted rows through `norm` and `head`, the same without
    /// the head, or all rows through `norm` and pooled.
    fn output(
        &mut self,
        x: Value,
        c: &Config,
        norm: impl FnOnce(&mut Self, Value) -> Value,
        head: impl FnOnce(&mut Self, Value) -> Value,
    ) -> Value;

    /// Output by the RMS norm `output_norm`, and `output` or, where there is none, the embedding table.
    fn logits(&mut self, x: Value, c: &Config) -> Value;

    /// Likewise with a layer norm.
    fn layer_norm_logits(&mut self, x: Value, c: &Config) -> Value;

    /// Output of an encoder whose last layer ends with a norm.
    fn hidden(&mut self, x: Value, c: &Config) -> Value;

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

    fn mla(&mut self, x: Value, a: Mla) -> Value {
        mla::record(self, x, a)
    }

    fn mamba(&mut self, x: Value, s: Mamba) -> Value {
        ssm::mamba(self, x, s)
    }

    fn mamba2(&mut self, x: Value, s: Mamba2) -> Value {
        ssm::mamba2(self, x, s)
    }

    fn delta(&mut self, x: Value, d: Delta) -> Value {
        delta::record(self, x, d)
    }

    fn moe(&mut self, x: Value, m: Moe) -> Value {
        mlp::moe(self, x, m)
    }

    fn routed(&mut self, x: Value, logits: Value, m: Moe) -> Value {
        mlp::experts(self, x, logits, &m)
    }

    fn positions(&mut self, c: &Config) -> Value {
        let table = self.shape("position_embd.weight").and_then(|s| s.first().copied());
        let rows = table.unwrap_or(c.trained_context);
        if c.context > rows {
            self.reject(format_args!("positions for {rows} tokens are learned, {} are asked for", c.context));
        }
        self.embed_positions("position_embd", rows, c.dim, 0)
    }

    fn output(
        &mut self,
        x: Value,
        c: &Config,
        norm: impl FnOnce(&mut Self, Value) -> Value,
        head: impl FnOnce(&mut Self, Value) -> Value,
    ) -> Value {
        if let Some(pooling) = pooling(c) {
            let x = norm(self, x);
            return embedding(self, x, pooling);
        }
        let x = self.gather_outputs(x);
        let x = norm(self, x);
        let x = self.tag("hidden", x);
        if c.output == Output::Hidden { x } else { head(self, x) }
    }

    fn logits(&mut self, x: Value, c: &Config) -> Value {
        self.output(x, c, |m, x| m.rms_norm("output_norm", x, c.eps), |m, x| m.head(x, c))
    }

    fn layer_norm_logits(&mut self, x: Value, c: &Config) -> Value {
        self.output(x, c, |m, x| m.layer_norm("output_norm", x, c.eps), |m, x| m.head(x, c))
    }

    fn hidden(&mut self, x: Value, c: &Config) -> Value {
        self.output(x, c, |_, x| x, |_, x| x)
    }

    fn head(&mut self, x: Value, c: &Config) -> Value {
        let logits = match self.has("output.weight") {
            true => self.linear("output", x, c.vocab),
            false => self.linear("token_embd", x, c.vocab),
        };
        // A head may have a bias of its own beside the table that it shares.
        let logits = match self.has("output.bias") && !self.has("output.weight") {
            true => self.add_vector("output.bias", logits),
            false => logits,
        };
        self.tag("logits", logits)
    }
}

/// How sequences become vectors, where they do: as the caller or the model says, else by the last row, which has seen
/// all the others, or where all rows see each other, by their mean.
fn pooling(c: &Config) -> Option<Pooling> {
    let how = if c.causal { Pool::Last } else { Pool::Mean };
    match c.output {
        Output::Own | Output::Hidden => None,
        Output::Embedding => Some(c.pooling.unwrap_or(Pooling { how, normalize: true })),
        Output::Pooled(pooling) => Some(pooling),
    }
}

/// One vector for each sequence.
fn embedding(m: &mut Scope<'_, '_>, x: Value, pooling: Pooling) -> Value {
    let x = m.pool(x, pooling.how);
    let width = m.width(x);
    if pooling.normalize { m.bare_norm("embedding", x, NormKind::L2, width, SHORTEST * SHORTEST) } else { x }
}

/// The length below which a vector is not normalized, as in PyTorch.
const SHORTEST: f32 = 1e-12;
