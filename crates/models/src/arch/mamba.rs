//! Mamba: state-space mixers alone.

use crate::{
    Arch, Config,
    blocks::{Blocks, Mamba},
    hf::{Fix, Hf, Name, fixed, mamba_names, same},
};
use allod_plan::{Scope, Value};

pub(super) static ARCH: Arch = Arch {
    gguf: "mamba",
    model_type: "mamba",
    classes: &["MambaForCausalLM", "MambaModel"],
    keys,
    names: &[NAMES, mamba_names!("mixer")],
    forward,
};

pub(super) const NAMES: &[Name] = &[
    same("token_embd", "embeddings"),
    same("token_embd", "embedding"),
    same("output_norm", "norm_f"),
    same("output", "lm_head"),
    same("blk.{}.attn_norm", "layers.{}.norm"),
];

/// Mamba has no limit; llama.cpp writes this one.
const CONTEXT: u32 = 1 << 20;

fn keys(h: &mut Hf) {
    h.expect_str("hidden_act", &["silu"]);
    common(h);
    h.copy_uint("state_size", "ssm.state_size");
    h.copy_uint("conv_kernel", "ssm.conv_kernel");
    let width = h.uint("hidden_size").unwrap_or(0);
    let inner = h.uint("expand").unwrap_or(2).saturating_mul(width);
    h.set("ssm.inner_size", inner);
    h.copy_uint("intermediate_size", "ssm.inner_size");
    h.set("ssm.time_step_rank", width.div_ceil(16));
    h.copy_uint("time_step_rank", "ssm.time_step_rank");
}

/// What Mamba and Mamba-2 share.
pub(super) fn common(h: &mut Hf) {
    h.prefix("backbone.");
    h.tied_by_default();
    h.set("context_length", CONTEXT);
    h.set("feed_forward_length", 0u32);
    h.set("attention.head_count", 0u32);
    h.copy_float("layer_norm_epsilon", "attention.layer_norm_rms_epsilon");
}

fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    // Falcon's Mamba norms what the others do not, without weights; see `ssm.dt_b_c_rms`.
    if c.flag("ssm.dt_b_c_rms") == Some(true) {
        m.reject("Mamba with norms of dt, B and C is not supported");
    }
    let mut x = m.tokens(c);
    for i in 0..c.layers {
        x = m.layer(i).residual(x, |l, x| {
            let h = l.rms_norm("attn_norm", x, c.eps);
            l.mamba(h, Mamba::of(c))
        });
    }
    m.logits(x, c)
}
