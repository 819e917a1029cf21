//! Tensor names, shapes and metadata of real models, as llama.cpp's converter writes them.

use allod_formats::{Array, Metadata, Value};

/// A model without its weights.
pub(super) struct Blueprint {
    pub(super) metadata: Metadata,
    /// Names and shapes (outermost axis first) in file order.
    pub(super) tensors: Vec<(String, Vec<usize>)>,
}

/// A shape that can be written.
pub struct Shape {
    /// Its name.
    pub name: &'static str,
    pub(super) build: fn(&mut Builder),
}

/// Every shape there is.
pub static SHAPES: &[Shape] = &[
    Shape { name: "qwen2.5-0.5b", build: qwen2_5 },
    Shape { name: "qwen3-0.6b", build: |b| qwen3(b, 28, 1024, 16, 3072, true) },
    Shape { name: "qwen3-1.7b", build: |b| qwen3(b, 28, 2048, 16, 6144, true) },
    Shape { name: "qwen3-4b", build: |b| qwen3(b, 36, 2560, 32, 9728, true) },
    Shape { name: "qwen3-8b", build: |b| qwen3(b, 36, 4096, 32, 12288, false) },
    Shape { name: "llama-3.2-1b", build: |b| llama(b, 16, 2048, 32, 64) },
    Shape { name: "llama-3.2-3b", build: |b| llama(b, 28, 3072, 24, 128) },
    Shape { name: "qwen3-30b-a3b", build: |b| qwen3moe(b, 48, 2048, 32, 768, 128) },
    Shape { name: "qwen3-moe-2.7b", build: |b| qwen3moe(b, 24, 1024, 16, 512, 64) },
    Shape { name: "gpt-oss-20b", build: gpt_oss },
    Shape { name: "deepseek-v2-lite", build: deepseek_v2_lite },
    Shape { name: "granite-4-tiny", build: granite_4_tiny },
];

/// Collects a blueprint.
pub(super) struct Builder {
    arch: &'static str,
    plan: Blueprint,
}

impl Builder {
    pub(super) fn build(shape: &Shape) -> Blueprint {
        let mut b = Builder { arch: "", plan: Blueprint { metadata: Metadata::default(), tensors: Vec::new() } };
        (shape.build)(&mut b);
        b.plan
    }

    fn start(&mut self, arch: &'static str, layers: usize, dim: usize, context: usize) {
        self.arch = arch;
        self.plan.metadata.set("general.architecture", arch);
        self.uint("block_count", layers);
        self.uint("context_length", context);
        self.uint("embedding_length", dim);
    }

    /// A key of the architecture.
    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.plan.metadata.set(format!("{}.{key}", self.arch), value);
    }

    fn uint(&mut self, key: &str, value: usize) {
        self.set(key, value as u32);
    }

    fn heads(&mut self, heads: usize, kv: usize, head: usize, base: f32) {
        self.uint("attention.head_count", heads);
        self.uint("attention.head_count_kv", kv);
        self.uint("attention.key_length", head);
        self.uint("attention.value_length", head);
        self.uint("rope.dimension_count", head);
        self.set("rope.freq_base", base);
    }

    fn experts(&mut self, experts: usize, used: usize, ff: usize) {
        self.uint("expert_count", experts);
        self.uint("expert_used_count", used);
        self.uint("expert_feed_forward_length", ff);
    }

    fn tensor(&mut self, name: impl Into<String>, shape: &[usize]) {
        self.plan.tensors.push((name.into(), shape.to_vec()));
    }

    fn ends(&mut self, vocab: usize, dim: usize, tied: bool) {
        self.uint("vocab_size", vocab);
        self.tensor("token_embd.weight", &[vocab, dim]);
        self.tensor("output_norm.weight", &[dim]);
        if !tied {
            self.tensor("output.weight", &[vocab, dim]);
        }
    }

    /// Weights of layer `i`.
    fn layer(&mut self, i: usize, tensors: &[(&str, &[usize])]) {
        for (name, shape) in tensors {
            self.tensor(format!("blk.{i}.{name}"), shape);
        }
    }

    fn gqa(&mut self, i: usize, dim: usize, heads: usize, kv: usize, head: usize) {
        self.layer(
            i,
            &[
                ("attn_q.weight", &[heads * head, dim]),
                ("attn_k.weight", &[kv * head, dim]),
                ("attn_v.weight", &[kv * head, dim]),
                ("attn_output.weight", &[dim, heads * head]),
            ],
        );
    }

    /// Gate, up and down matrices under names that end in `suffix`, of as many experts as `outer` says, if any.
    fn glu(&mut self, i: usize, suffix: &str, outer: &[usize], dim: usize, ff: usize) {
        for (part, rows, columns) in [("gate", ff, dim), ("up", ff, dim), ("down", dim, ff)] {
            self.tensor(format!("blk.{i}.ffn_{part}{suffix}.weight"), &[outer, &[rows, columns]].concat());
        }
    }
}

fn qwen2_5(b: &mut Builder) {
    let (layers, dim, heads, kv, head, ff) = (24, 896, 14, 2, 64, 4864);
    b.start("qwen2", layers, dim, 32_768);
    b.heads(heads, kv, head, 1e6);
    b.set("attention.layer_norm_rms_epsilon", 1e-6f32);
    b.uint("feed_forward_length", ff);
    b.ends(151_936, dim, true);
    for i in 0..layers {
        b.layer(i, &[("attn_norm.weight", &[dim]), ("ffn_norm.weight", &[dim])]);
        b.gqa(i, dim, heads, kv, head);
        b.layer(i, &[("attn_q.bias", &[heads * head]), ("attn_k.bias", &[kv * head]), ("attn_v.bias", &[kv * head])]);
        b.glu(i, "", &[], dim, ff);
    }
}

fn qwen3_attention(b: &mut Builder, i: usize, dim: usize, heads: usize, kv: usize) {
    b.layer(i, &[("attn_norm.weight", &[dim]), ("ffn_norm.weight", &[dim])]);
    b.layer(i, &[("attn_q_norm.weight", &[128]), ("attn_k_norm.weight", &[128])]);
    b.gqa(i, dim, heads, kv, 128);
}

fn qwen3(b: &mut Builder, layers: usize, dim: usize, heads: usize, ff: usize, tied: bool) {
    b.start("qwen3", layers, dim, 40960);
    b.heads(heads, 8, 128, 1e6);
    b.set("attention.layer_norm_rms_epsilon", 1e-6f32);
    b.uint("feed_forward_length", ff);
    b.ends(151_936, dim, tied);
    for i in 0..layers {
        qwen3_attention(b, i, dim, heads, 8);
        b.glu(i, "", &[], dim, ff);
    }
}

fn qwen3moe(b: &mut Builder, layers: usize, dim: usize, heads: usize, ff: usize, experts: usize) {
    b.start("qwen3moe", layers, dim, 40960);
    b.heads(heads, 4, 128, 1e6);
    b.set("attention.layer_norm_rms_epsilon", 1e-6f32);
    b.uint("feed_forward_length", 8 * ff);
    b.experts(experts, 8, ff);
    b.ends(151_936, dim, false);
    for i in 0..layers {
        qwen3_attention(b, i, dim, heads, 4);
        b.layer(i, &[("ffn_gate_inp.weight", &[experts, dim])]);
        b.glu(i, "_exps", &[experts], dim, ff);
    }
}

fn llama(b: &mut Builder, layers: usize, dim: usize, heads: usize, head: usize) {
    b.start("llama", layers, dim, 131_072);
    b.heads(heads, 8, head, 5e5);
    b.set("attention.layer_norm_rms_epsilon", 1e-5f32);
    b.uint("feed_forward_length", 8192);
    b.ends(128_256, dim, true);
    b.tensor("rope_freqs.weight", &[head / 2]);
    for i in 0..layers {
        b.layer(i, &[("attn_norm.weight", &[dim]), ("ffn_norm.weight", &[dim])]);
        b.gqa(i, dim, heads, 8, head);
        b.glu(i, "", &[], dim, 8192);
    }
}

fn gpt_oss(b: &mut Builder) {
    let (layers, dim, heads, kv, head, experts) = (24, 2880, 64, 8, 64, 32);
    b.start("gpt-oss", layers, dim, 131_072);
    b.heads(heads, kv, head, 1.5e5);
    b.set("attention.layer_norm_rms_epsilon", 1e-5f32);
    b.uint("attention.sliding_window", 128);
    b.set("rope.scaling.type", "yarn");
    b.set("rope.scaling.factor", 32f32);
    b.uint("rope.scaling.original_context_length", 4096);
    b.uint("feed_forward_length", dim);
    b.experts(experts, 4, dim);
    b.ends(201_088, dim, false);
    for i in 0..layers {
        b.layer(i, &[("attn_norm.weight", &[dim]), ("post_attention_norm.weight", &[dim])]);
        b.gqa(i, dim, heads, kv, head);
        b.layer(i, &[("attn_q.bias", &[heads * head]), ("attn_k.bias", &[kv * head]), ("attn_v.bias", &[kv * head])]);
        b.layer(i, &[("attn_output.bias", &[dim]), ("attn_sinks.weight", &[heads])]);
        b.layer(i, &[("ffn_gate_inp.weight", &[experts, dim]), ("ffn_gate_inp.bias", &[experts])]);
        b.glu(i, "_exps", &[experts], dim, dim);
        b.layer(i, &[("ffn_gate_exps.bias", &[experts, dim]), ("ffn_up_exps.bias", &[experts, dim])]);
        b.layer(i, &[("ffn_down_exps.bias", &[experts, dim])]);
    }
}

fn deepseek_v2_lite(b: &mut Builder) {
    let (layers, dim, heads, rank, nope, rope, value) = (27, 2048, 16, 512, 128, 64, 128);
    let (experts, ff, dense) = (64, 1408, 10944);
    b.start("deepseek2", layers, dim, 163_840);
    // Queries meet the latent directly: one key-value head of latent and rotary part.
    b.heads(heads, 1, rank + rope, 1e4);
    b.uint("attention.value_length", rank);
    b.uint("attention.key_length_mla", nope + rope);
    b.uint("attention.value_length_mla", value);
    b.uint("attention.kv_lora_rank", rank);
    b.uint("rope.dimension_count", rope);
    b.set("rope.scaling.type", "yarn");
    b.set("rope.scaling.factor", 40f32);
    b.uint("rope.scaling.original_context_length", 4096);
    b.set("rope.scaling.yarn_log_multiplier", 0.0707f32);
    b.set("attention.layer_norm_rms_epsilon", 1e-6f32);
    b.uint("feed_forward_length", dense);
    b.uint("leading_dense_block_count", 1);
    b.experts(experts, 6, ff);
    b.uint("expert_shared_count", 2);
    b.set("expert_weights_scale", 1f32);
    b.set("expert_weights_norm", Value::Bool(false));
    b.uint("expert_gating_func", 1);
    b.ends(102_400, dim, false);
    for i in 0..layers {
        b.layer(i, &[("attn_norm.weight", &[dim]), ("attn_q.weight", &[heads * (nope + rope), dim])]);
        b.layer(i, &[("attn_kv_a_mqa.weight", &[rank + rope, dim]), ("attn_kv_a_norm.weight", &[rank])]);
        b.layer(i, &[("attn_k_b.weight", &[heads, rank, nope]), ("attn_v_b.weight", &[heads, value, rank])]);
        b.layer(i, &[("attn_output.weight", &[dim, heads * value]), ("ffn_norm.weight", &[dim])]);
        if i == 0 {
            b.glu(i, "", &[], dim, dense);
        } else {
            b.layer(i, &[("ffn_gate_inp.weight", &[experts, dim])]);
            b.glu(i, "_exps", &[experts], dim, ff);
            b.glu(i, "_shexp", &[], dim, 2 * ff);
        }
    }
}

fn granite_4_tiny(b: &mut Builder) {
    let (layers, dim, heads, kv, head) = (40, 1536, 12, 4, 128);
    let (inner, state, ssm_heads, kernel) = (3072, 128, 48, 4);
    let (experts, ff, shared) = (64, 512, 1024);
    let attends = |i: usize| i % 10 == 5;
    b.start("granitehybrid", layers, dim, 131_072);
    b.heads(heads, kv, head, 1e4);
    let per_layer = (0..layers).map(|i| if attends(i) { kv as u32 } else { 0 }).collect();
    b.set("attention.head_count_kv", Array::U32(per_layer));
    b.set("attention.layer_norm_rms_epsilon", 1e-5f32);
    b.set("attention.scale", 1f32 / 128.0);
    b.set("embedding_scale", 12f32);
    b.set("residual_scale", 0.22f32);
    b.set("logit_scale", 6f32);
    b.set("rope.scaling.finetuned", Value::Bool(false));
    b.uint("feed_forward_length", ff);
    b.experts(experts, 6, ff);
    b.uint("expert_shared_feed_forward_length", shared);
    b.uint("ssm.conv_kernel", kernel);
    b.uint("ssm.inner_size", inner);
    b.uint("ssm.state_size", state);
    b.uint("ssm.time_step_rank", ssm_heads);
    b.uint("ssm.group_count", 1);
    b.ends(100_352, dim, true);
    for i in 0..layers {
        b.layer(i, &[("attn_norm.weight", &[dim]), ("ffn_norm.weight", &[dim])]);
        if attends(i) {
            b.gqa(i, dim, heads, kv, head);
        } else {
            let channels = inner + 2 * state;
            b.layer(i, &[("ssm_in.weight", &[inner + channels + ssm_heads, dim]), ("ssm_dt.bias", &[ssm_heads])]);
            b.layer(i, &[("ssm_conv1d.weight", &[channels, kernel]), ("ssm_conv1d.bias", &[channels])]);
            b.layer(i, &[("ssm_a", &[ssm_heads, 1]), ("ssm_d", &[ssm_heads, 1]), ("ssm_norm.weight", &[1, inner])]);
            b.layer(i, &[("ssm_out.weight", &[dim, inner])]);
        }
        b.layer(i, &[("ffn_gate_inp.weight", &[experts, dim])]);
        b.glu(i, "_exps", &[experts], dim, ff);
        b.glu(i, "_shexp", &[], dim, shared);
    }
}
