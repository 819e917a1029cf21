//! Mamba-2: state-space-duality mixers alone.

use super::mamba;
use crate::{
    Arch, Config,
    blocks::{Blocks, Mamba2},
    hf::{Fix, Hf, fixed, mamba2_names, number, same},
};
use allod_formats::{Array, Value as Meta};
use allod_plan::{Scope, Value};

pub(super) static ARCH: Arch = Arch {
    gguf: "mamba2",
    model_type: "mamba2",
    classes: &["Mamba2ForCausalLM", "Mamba2Model"],
    defaults: "num_heads=128 head_dim=64 hidden_size=4096 state_size=128 num_hidden_layers=64 \
               layer_norm_epsilon=1e-05 conv_kernel=4 n_groups=8 use_bias=false use_conv_bias=true",
    keys: |h| {
        h.expect_str("hidden_act", &["silu"]);
        mamba::common(h);
        mixer(h, ["num_heads", "head_dim", "state_size", "n_groups", "conv_kernel"]);
        mamba::expand_back(h, "expand");
    },
    names: &[mamba::NAMES, mamba2_names!("mixer")],
    forward,
};

/// Keys of a Mamba-2 mixer. `names` are the fields for heads, elements of a head, of the state of a channel, groups, and
/// taps of the convolution.
pub(super) fn mixer(h: &mut Hf, names: [&str; 5]) {
    let [heads, head, state, groups, kernel] = names;
    if let Some((n, width)) = h.uint(heads).zip(h.uint(head)) {
        h.set("ssm.inner_size", n.saturating_mul(width));
    }
    for (name, key) in [
        (heads, "ssm.time_step_rank"),
        (state, "ssm.state_size"),
        (groups, "ssm.group_count"),
        (kernel, "ssm.conv_kernel"),
    ] {
        h.copy_uint(name, key);
    }
    let width = h.known("ssm.inner_size").zip(h.known("ssm.time_step_rank")).and_then(|(i, n)| i.checked_div(n));
    width.into_iter().for_each(|w| h.field(head, w));
    if let Some(limit) = h.meta.floats(&h.key("ssm.time_step_limit")) {
        // JSON has no infinity.
        h.field("time_step_limit", limit.iter().map(|v| number(v.min(f32::MAX))).collect::<Vec<_>>());
    }
    // Without bounds other than 0 and infinity GGUF has no key for them.
    let limit = h
        .get(&["time_step_limit"])
        .and_then(|l| l.as_array())
        .map(|l| l.iter().map(|v| v.as_f64().map_or(f32::INFINITY, |v| v as f32)).collect::<Vec<f32>>());
    if let Some(limit) = limit.filter(|l| *l != [0.0, f32::INFINITY]) {
        h.set("ssm.time_step_limit", Meta::Array(Array::F32(limit)));
    }
}

fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let mut x = m.tokens(c);
    for i in 0..c.layers {
        x = m.layer(i).residual(x, |l, x| {
            let h = l.rms_norm("attn_norm", x, c.eps);
            l.mamba2(h, Mamba2::of(c))
        });
    }
    m.logits(x, c)
}
