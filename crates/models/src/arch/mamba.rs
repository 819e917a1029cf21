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
    defaults: "hidden_size=768 state_size=16 num_hidden_layers=32 layer_norm_epsilon=1e-05 expand=2 \
               conv_kernel=4 use_bias=false use_conv_bias=true",
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
    let inner = h.uint("intermediate_size").or(h.uint("expand").and_then(|n| n.checked_mul(width)));
    h.set("ssm.inner_size", inner.unwrap_or(0));
    h.set("ssm.time_step_rank", h.uint("time_step_rank").unwrap_or(width.div_ceil(16)));
    h.copy_back("intermediate_size", "ssm.inner_size");
    h.copy_back("time_step_rank", "ssm.time_step_rank");
    expand_back(h, "expand");
}

/// On the way back, how many times wider than the stream the mixer is.
pub(super) fn expand_back(h: &mut Hf, name: &str) {
    let expand = h.known("ssm.inner_size").zip(h.known("embedding_length")).and_then(|(i, d)| i.checked_div(d));
    expand.into_iter().for_each(|n| h.field(name, n));
}

/// What Mamba and Mamba-2 share.
pub(super) fn common(h: &mut Hf) {
    h.prefix("backbone.");
    h.tied_by_default();
    h.set("context_length", CONTEXT);
    h.set("feed_forward_length", 0u32);
    h.set("attention.head_count", 0u32);
    h.copy_float("layer_norm_epsilon", "attention.layer_norm_rms_epsilon");
    h.omit(&["num_attention_heads", "intermediate_size", "rope_parameters", "max_position_embeddings"]);
    biases_back(h, ["use_bias", "use_conv_bias"]);
}

/// On the way back, the flags for biases of the mixer's projections and of its convolution.
pub(super) fn biases_back(h: &mut Hf, [projections, convolution]: [&str; 2]) {
    h.field(projections, h.layers_with("ssm_in.bias").contains(&true));
    h.field(convolution, h.layers_with("ssm_conv1d.bias").contains(&true));
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
