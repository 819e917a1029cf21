"""Makes random models of every family, of sizes and settings that no golden has, to hold Allod against Transformers.

    python -m scripts.goldens.variants OUT [--seed N] [--each N] [FAMILY...]
    ALLOD_GOLDENS=OUT ALLOD_BACK=DIR cargo test -p allod-models golden -- --nocapture
    python scripts/goldens/way_back.py DIR --goldens OUT

Sizes are seldom powers of two: heads, their size, layers, widths, vocabularies, experts. Windows, chunks and stretched
rotary positions fall where pages begin and end; biases, ties and norms are on or off. Some `config.json` are written as
older versions of Transformers wrote them (`rope_theta` and `rope_scaling` at the top), some leave out flags
and names that are the class's default, and some everything that Transformers knows without being told. Nothing made here is committed; what falls is mended, and becomes a golden when it shows a new kind of
mistake. Needs what the goldens need.
"""

import argparse
import copy
import json
import random
import shutil
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig

from .models import make
from .models.__main__ import GOLDENS
from .models.llama_like import rope
from .models.make import Golden

BASES = {golden.name: golden for golden in GOLDENS}
#: What a variant's logits may move by when its weights move by 1e-5 of themselves; beyond, it hangs on a rounding error.
STEADY = 2e-4


class Draw(random.Random):
    """Random sizes."""

    def one(self, *values):
        return self.choice(values)

    def chance(self, share=0.5):
        return self.random() < share

    def eps(self):
        return self.one(1e-3, 1e-5, 1e-6)

    def heads(self):
        """Query heads, and the key heads they share, one to eight each."""
        kv, ratio = self.randint(1, 3), self.randint(1, 8)
        return dict(num_attention_heads=kv * ratio, num_key_value_heads=kv)

    def base(self, **other):
        """What nearly all have."""
        sizes = dict(
            vocab_size=self.randint(70, 211),
            hidden_size=2 * self.randint(9, 37),
            intermediate_size=self.randint(17, 101),
            num_hidden_layers=self.randint(1, 5),
            max_position_embeddings=128,
            rms_norm_eps=self.eps(),
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            tie_word_embeddings=self.chance(),
        )
        return sizes | self.heads() | other

    def free(self, **other):
        """The same where heads have a size of their own. (Configurations ask that they divide the width all the same.)"""
        sizes = self.base(head_dim=2 * self.randint(2, 13), **other)
        return sizes | dict(hidden_size=sizes["num_attention_heads"] * self.randint(3, 9))

    def bound(self, of=1, **other):
        """The same where the heads divide the width. Rotated halves need an even size, shares of it more."""
        sizes = self.base(**other)
        return sizes | dict(hidden_size=sizes["num_attention_heads"] * 2 * of * self.randint(2, 8 // of))

    def window(self):
        return self.one(3, 7, 15, 16, 17, 31, 33)

    def kinds(self, layers, *names):
        return [self.one(*names) for _ in range(layers)]

    def theta(self):
        return self.one(10000.0, 500.0, 123456.0, 37.0)

    def rope(self, dims, kinds="default linear dynamic yarn llama3 longrope", **other):
        """Rotary positions of one kind, and the context that goes with it."""
        kind = self.one(*kinds.split())
        factor, original = self.one(2.0, 3.5, 8.0), self.one(8, 16, 24, 48)
        more, context = {}, 128
        if kind in ("linear", "dynamic"):
            more = dict(factor=factor)
        if kind == "dynamic":
            context = original
        if kind == "yarn":
            more = dict(factor=factor, original_max_position_embeddings=original)
            if self.chance():
                more |= dict(beta_fast=self.one(16.0, 4.0), beta_slow=self.one(0.5, 2.0))
            if self.chance(0.3):
                more |= dict(attention_factor=1.3)
            if self.chance(0.3):
                more |= dict(truncate=False)
            if self.chance(0.3):
                more |= dict(mscale=0.8, mscale_all_dim=self.one(0.4, 0.8))
        if kind == "llama3":
            low = self.one(1.0, 1.5)
            more = dict(factor=factor, low_freq_factor=low, high_freq_factor=low * self.one(2.0, 4.0))
            more |= dict(original_max_position_embeddings=original)
        if kind == "longrope":
            lists = {f"{n}_factor": [1 + self.random() * 3 for _ in range(dims // 2)] for n in ("long", "short")}
            more = lists | dict(original_max_position_embeddings=original)
            if self.chance():
                more |= dict(factor=factor)
        return rope(kind, self.theta(), **more, **other), context

    def roped(self, config, share=1.0, **other):
        """The configuration with rotary positions for its heads."""
        head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        partial = dict(partial_rotary_factor=share) if share != 1.0 else {}
        parameters, context = self.rope(int(head * share), **partial, **other)
        if "original_max_position_embeddings" in parameters and parameters["rope_type"] == "longrope":
            config = config | dict(original_max_position_embeddings=parameters["original_max_position_embeddings"])
        return config | dict(rope_parameters=parameters, max_position_embeddings=context)

    def experts(self, name="num_experts", **other):
        count = self.randint(3, 11)
        return {name: count, "num_experts_per_tok": self.randint(1, min(4, count)), **other}


def drop(config, *names):
    return {k: v for k, v in config.items() if k not in names}


def gpt(d, **other):
    heads = d.randint(1, 7)
    sizes = dict(vocab_size=d.randint(70, 211), n_positions=d.randint(70, 99), n_embd=heads * 2 * d.randint(2, 8))
    sizes |= dict(n_layer=d.randint(1, 4), n_head=heads, layer_norm_epsilon=d.eps(), **make_tokens())
    return sizes | dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0) | other


def make_tokens():
    return dict(bos_token_id=1, eos_token_id=2, pad_token_id=0)


def gpt2(d):
    act = d.one("gelu_new", "gelu", "relu", "gelu_fast", "silu")
    flags = dict(scale_attn_weights=d.chance(0.8), scale_attn_by_inverse_layer_idx=d.chance(0.3))
    return gpt(d, activation_function=act, tie_word_embeddings=d.chance(), n_inner=d.one(None, 57), **flags)


def gptj(d):
    c = gpt(d, n_inner=d.one(None, 61), activation_function=d.one("gelu_new", "gelu"))
    head = c["n_embd"] // c["n_head"]
    return c | dict(rotary_dim=2 * d.randint(1, head // 2), tie_word_embeddings=d.chance(0.3))


def gpt_neox(d):
    c = drop(d.bound(of=4), "num_key_value_heads", "rms_norm_eps") | dict(layer_norm_eps=d.eps())
    c |= dict(use_parallel_residual=d.chance(), attention_bias=d.chance(0.7), hidden_act=d.one("gelu", "gelu_new"))
    return d.roped(c, d.one(0.25, 0.5, 1.0), kinds="default linear dynamic yarn")


def opt(d):
    heads = d.randint(1, 7)
    width = heads * 2 * d.randint(2, 8)
    c = dict(vocab_size=d.randint(70, 211), hidden_size=width, num_hidden_layers=d.randint(1, 4), ffn_dim=d.randint(17, 99))
    c |= dict(num_attention_heads=heads, max_position_embeddings=d.randint(70, 99), dropout=0.0)
    c |= dict(bos_token_id=2, eos_token_id=2, pad_token_id=1, activation_function=d.one("relu", "gelu"))
    c |= dict(do_layer_norm_before=d.chance(0.7), word_embed_proj_dim=d.one(width, width // 2))
    return c | dict(enable_bias=d.chance(0.7), tie_word_embeddings=d.chance(0.7))


def bloom(d):
    heads = d.randint(1, 13)
    c = dict(vocab_size=d.randint(70, 211), hidden_size=heads * d.randint(3, 9), n_layer=d.randint(1, 4), n_head=heads)
    c |= dict(tie_word_embeddings=d.chance(0.7), apply_residual_connection_post_layernorm=d.chance(0.3))
    return c | dict(layer_norm_epsilon=d.eps(), **make_tokens())


def llama(d):
    c = d.free() if d.chance() else d.bound()
    return d.roped(c | dict(attention_bias=d.chance(0.3), mlp_bias=d.chance(0.3)))


def llama4(d):
    layers = d.randint(2, 6)
    c = drop(d.free(num_hidden_layers=layers), "intermediate_size")
    c |= dict(intermediate_size=d.randint(9, 33), intermediate_size_mlp=d.randint(17, 77))
    c |= dict(interleave_moe_layer_step=d.one(1, 2, 3), attention_chunk_size=d.window(), floor_scale=d.one(3, 8, 16))
    c |= dict(attn_scale=d.one(0.1, 0.3), attn_temperature_tuning=d.chance(0.8), use_qk_norm=d.chance(0.7))
    c |= dict(no_rope_layers=[d.one(0, 1) for _ in range(layers)] if d.chance() else [], no_rope_layer_interval=d.one(2, 3, 4))
    c |= dict(attention_bias=d.chance(0.2))
    return d.roped(c | d.experts("num_local_experts"), kinds="default llama3")


def mistral(d):
    return d.roped(d.free(sliding_window=d.one(None, d.window())), kinds="default linear yarn")


def mixtral(d):
    c = d.free()
    return d.roped(c | d.experts("num_local_experts", sliding_window=d.one(None, d.window())), kinds="default linear yarn")


def qwen2(d):
    c = d.bound()
    if d.chance(0.4):
        c |= dict(use_sliding_window=True, sliding_window=d.window(), max_window_layers=d.randint(0, 4))
    return d.roped(c, kinds="default linear dynamic yarn")


def sparse(d):
    c = dict(moe_intermediate_size=d.randint(9, 33), norm_topk_prob=d.chance())
    if d.chance(0.4):
        c |= dict(decoder_sparse_step=2)
    if d.chance(0.4):
        c |= dict(mlp_only_layers=[d.randint(0, 2)])
    return d.experts() | c


def qwen2_moe(d):
    c = dict(shared_expert_intermediate_size=d.randint(9, 33), qkv_bias=d.chance(0.8))
    if d.chance(0.4):
        c |= dict(use_sliding_window=True, sliding_window=d.window(), max_window_layers=d.randint(0, 4))
    return d.roped(d.bound() | sparse(d) | c, kinds="default yarn")


def qwen3(d):
    c = d.free(attention_bias=d.chance(0.3))
    if d.chance(0.3):
        c |= dict(use_sliding_window=True, sliding_window=d.window(), max_window_layers=d.randint(0, 4))
    return d.roped(c)


def qwen3_moe(d):
    slides = dict(use_sliding_window=True, sliding_window=d.window()) if d.chance(0.3) else {}
    return d.roped(d.free(attention_bias=d.chance(0.3), **slides) | sparse(d), kinds="default yarn")


def delta_net(d):
    keys, size = d.randint(1, 4), 2 * d.randint(2, 7)
    heads = dict(linear_num_key_heads=keys, linear_num_value_heads=keys * d.randint(1, 3))
    sizes = dict(linear_key_head_dim=size, linear_value_head_dim=size, linear_conv_kernel_dim=d.one(2, 4, 5))
    layers = d.randint(2, 5)
    c = d.free(num_hidden_layers=layers, attention_bias=d.chance(0.2)) | dict(head_dim=8 * d.randint(1, 3)) | heads | sizes
    c |= dict(layer_types=["linear_attention"] + d.kinds(layers - 1, "linear_attention", "full_attention"))
    return d.roped(c, d.one(0.25, 0.5, 1.0), kinds="default yarn")


def qwen3_next(d):
    return drop(delta_net(d) | sparse(d), "mlp_only_layers", "decoder_sparse_step") | dict(shared_expert_intermediate_size=d.randint(9, 33))


def gemma(d):
    return d.roped(d.free(hidden_act=d.one(TANH, TANH, "gelu", "silu")), kinds="default linear proportional")


TANH = "gelu_pytorch_tanh"


def gemma2(d):
    c = d.free(sliding_window=d.window(), query_pre_attn_scalar=d.randint(4, 40))
    c |= dict(hidden_activation=d.one(TANH, TANH, "gelu", "relu"), attention_bias=d.chance(0.2))
    caps = dict(attn_logit_softcapping=d.one(None, 2.0, 5.0), final_logit_softcapping=d.one(None, 1.0, 3.0))
    return d.roped(c | caps, kinds="default")


def gemma3(d):
    layers = d.randint(1, 7)
    c = d.free(sliding_window=d.window(), query_pre_attn_scalar=d.randint(4, 40), num_hidden_layers=layers)
    if d.chance():
        c |= dict(layer_types=d.kinds(layers, "sliding_attention", "full_attention"))
    elif d.chance():
        c |= dict(sliding_window_pattern=d.one(2, 3))
    c |= dict(hidden_activation=d.one(TANH, TANH, "gelu"), attention_bias=d.chance(0.2))
    full, _ = d.rope(c["head_dim"], kinds="default linear llama3 yarn")
    caps = dict(attn_logit_softcapping=d.one(None, 3.0), final_logit_softcapping=d.one(None, 1.0))
    return c | caps | dict(rope_parameters={"sliding_attention": rope(theta=d.theta()), "full_attention": full})


def gemma4(d):
    layers = d.randint(2, 6)
    kinds = d.kinds(layers - 1, "sliding_attention", "full_attention") + ["full_attention"]
    c = d.free(num_hidden_layers=layers, sliding_window=d.window(), layer_types=kinds)
    c |= dict(head_dim=4 * d.randint(1, 4), global_head_dim=8 * d.randint(1, 3), final_logit_softcapping=d.one(None, 1.0))
    full = rope("proportional", d.theta(), partial_rotary_factor=d.one(0.25, 0.5))
    if d.chance(0.3):
        full |= dict(factor=2.0)
    elif d.chance(0.3):
        full = rope(theta=d.theta())
    c |= dict(hidden_activation=d.one(TANH, TANH, "gelu"), attention_bias=d.chance(0.2))
    c |= dict(rope_parameters={"sliding_attention": rope(theta=d.theta()), "full_attention": full})
    inputs = d.one(0, 6)
    c |= dict(hidden_size_per_layer_input=inputs, vocab_size_per_layer_input=c["vocab_size"], tie_word_embeddings=True)
    # Shared layers take keys from the last unshared layer of their kind, which must be there.
    unshared = max((i for i in range(1, layers) if set(kinds[i:]) <= set(kinds[:i])), default=layers)
    if d.chance() and unshared < layers:
        c |= dict(num_kv_shared_layers=layers - unshared, use_double_wide_mlp=d.chance())
    elif d.chance():
        c |= dict(attention_k_eq_v=True, num_global_key_value_heads=c["num_key_value_heads"])
    if d.chance(0.4):
        count = d.randint(3, 9)
        c |= dict(enable_moe_block=True, num_experts=count, top_k_experts=d.randint(1, 3), moe_intermediate_size=d.randint(9, 33))
    return c


def gpt_oss(d):
    layers = d.randint(1, 5)
    c = drop(d.free(num_hidden_layers=layers, sliding_window=d.window()), "tie_word_embeddings") | d.experts("num_local_experts")
    if d.chance():
        c |= dict(layer_types=d.kinds(layers, "sliding_attention", "full_attention"))
    return c if d.chance(0.3) else d.roped(c, kinds="default yarn")


def olmo(d):
    c = drop(d.bound(), "rms_norm_eps") | dict(clip_qkv=d.one(None, 0.7), attention_bias=d.chance(0.2))
    return d.roped(c, kinds="default linear")


def olmo2(d):
    return d.roped(d.bound(attention_bias=d.chance(0.2)), kinds="default yarn")


def olmo3(d):
    layers = d.randint(1, 6)
    c = d.bound(sliding_window=d.window(), num_hidden_layers=layers)
    if d.chance():
        c |= dict(layer_types=d.kinds(layers, "sliding_attention", "full_attention"))
    full, _ = d.rope(c["hidden_size"] // c["num_attention_heads"], kinds="default yarn")
    return c | dict(rope_parameters={"sliding_attention": rope(theta=d.theta()), "full_attention": full})


def olmoe(d):
    c = d.bound() | d.experts(norm_topk_prob=d.chance(), clip_qkv=d.one(None, 1.0))
    return d.roped(c, kinds="default")


def phi(d):
    c = drop(d.bound(of=2), "rms_norm_eps") | dict(layer_norm_eps=d.eps(), tie_word_embeddings=False)
    return d.roped(c | dict(hidden_act=d.one("gelu_new", "gelu")), d.one(0.5, 1.0), kinds="default linear")


def phi3(d):
    c = d.bound(of=2, sliding_window=d.one(None, d.window()))
    return d.roped(c, d.one(0.5, 1.0), kinds="default longrope")


def smollm3(d):
    layers = d.randint(1, 6)
    c = (d.free if d.chance() else d.bound)(num_hidden_layers=layers, attention_bias=d.chance(0.2), mlp_bias=d.chance(0.2))
    if d.chance():
        c |= dict(no_rope_layers=[d.one(0, 1) for _ in range(layers)])
    elif d.chance():
        c |= dict(no_rope_layer_interval=d.one(2, 3))
    if d.chance(0.4):
        c |= dict(use_sliding_window=True, sliding_window=d.window())
    return d.roped(c, kinds="default yarn linear")


def multiplied(d):
    scales = dict(embedding_multiplier=d.one(1.0, 3.0), logits_scaling=d.one(1.0, 4.0))
    return scales | dict(residual_multiplier=d.one(1.0, 0.3), attention_multiplier=d.one(0.1, 0.4))


def granite(d):
    c = (d.free if d.chance() else d.bound)(attention_bias=d.chance(0.2), mlp_bias=d.chance(0.2))
    return d.roped(c | multiplied(d), kinds="default linear yarn")


def granite_hybrid(d):
    layers, heads, groups = d.randint(2, 5), 2 * d.randint(1, 3), d.one(1, 2)
    c = d.bound(num_hidden_layers=layers, shared_intermediate_size=d.randint(9, 55)) | multiplied(d)
    c |= dict(hidden_size=c["num_attention_heads"] * heads * 2)
    c |= dict(mamba_n_heads=heads, mamba_d_head=2 * c["hidden_size"] // heads, mamba_n_groups=groups)
    c |= dict(time_step_limit=d.one((0.0, float("inf")), (0.3, 0.9)), mamba_proj_bias=d.chance(0.2), attention_bias=d.chance(0.2))
    c |= dict(mamba_d_state=d.randint(3, 11), mamba_chunk_size=8, mamba_d_conv=d.one(2, 4), mamba_conv_bias=d.chance(0.8))
    c |= dict(layer_types=["linear_attention"] + d.kinds(layers - 1, "linear_attention", "full_attention"))
    c |= d.experts("num_local_experts") if d.chance() else dict(num_local_experts=0, num_experts_per_tok=0)
    return c | dict(position_embedding_type=d.one("nope", "rope"), rope_parameters=rope(theta=d.theta()))


def arcee(d):
    return d.roped((d.free if d.chance() else d.bound)(attention_bias=d.chance(0.2), mlp_bias=d.chance(0.2)), kinds="default yarn")


def nemotron(d):
    c = drop(d.free(attention_bias=d.chance(0.3), mlp_bias=d.chance(0.3)), "rms_norm_eps") | dict(norm_eps=d.eps())
    c |= dict(head_dim=4 * d.randint(1, 6))
    return d.roped(c, d.one(0.5, 1.0), kinds="default")


def nemotron_h(d):
    heads, groups = 2 * d.randint(1, 3), d.one(1, 2)
    kinds = ["linear_attention"] + d.kinds(d.randint(1, 4), "linear_attention", "full_attention", "mlp", "moe")
    c = drop(d.free(), "rms_norm_eps", "num_hidden_layers") | dict(layer_norm_epsilon=d.eps(), layers_block_type=kinds)
    c |= dict(mamba_num_heads=heads, mamba_head_dim=2 * d.randint(2, 9), n_groups=groups, ssm_state_size=d.randint(3, 11))
    c |= dict(conv_kernel=d.one(2, 4), chunk_size=8, use_conv_bias=d.chance(0.8), attention_bias=False)
    c |= dict(time_step_min=d.one(0.001, 0.5, 0.9), use_bias=d.chance(0.2), mlp_bias=d.chance(0.2))
    if "moe" in kinds:
        c |= d.experts("n_routed_experts", moe_intermediate_size=d.randint(9, 33), norm_topk_prob=d.chance())
        c |= dict(n_shared_experts=1, moe_shared_expert_intermediate_size=d.randint(9, 33), routed_scaling_factor=d.one(1.0, 2.5))
        c |= dict(moe_latent_size=d.one(None, 10))
    return c


def deepseek(d, v3):
    c = drop(d.base(), "num_key_value_heads")
    heads = d.randint(1, 7)
    c |= dict(hidden_size=heads * d.randint(4, 13), num_attention_heads=heads, num_key_value_heads=heads)
    c |= dict(kv_lora_rank=2 * d.randint(3, 9))
    c |= dict(q_lora_rank=d.one(None, d.randint(5, 19)), qk_nope_head_dim=2 * d.randint(2, 8), qk_rope_head_dim=2 * d.randint(1, 6))
    c |= dict(v_head_dim=d.randint(3, 17), first_k_dense_replace=d.randint(0, 2), n_shared_experts=d.randint(1, 3))
    groups, each = d.one(1, 2, 4), d.randint(2, 4)
    kept = d.randint(1, groups)
    c |= dict(moe_intermediate_size=d.randint(9, 33), n_routed_experts=groups * each, num_experts_per_tok=d.randint(1, min(4, kept * each)))
    c |= dict(routed_scaling_factor=d.one(1.0, 2.5), n_group=groups, topk_group=kept, rms_norm_eps=1e-6)
    if v3:
        c |= dict(norm_topk_prob=d.chance(), num_nextn_predict_layers=0, attention_bias=d.chance(0.2))
    else:
        c |= dict(topk_method=d.one("greedy", "group_limited_greedy"), attention_bias=d.chance(0.2), mlp_bias=d.chance(0.2))
    parameters, context = d.rope(c["qk_rope_head_dim"], kinds="default yarn")
    return c | dict(rope_parameters=parameters, max_position_embeddings=context)


def afmoe(d):
    layers = d.randint(2, 5)
    c = d.free(num_hidden_layers=layers, sliding_window=d.window(), moe_intermediate_size=d.randint(9, 33))
    c |= d.experts() | dict(num_dense_layers=d.randint(0, 2), num_shared_experts=d.randint(1, 2))
    c |= dict(route_scale=d.one(1.0, 1.7), mup_enabled=d.chance(), attention_bias=d.chance(0.2))
    c |= dict(layer_types=d.kinds(layers, "sliding_attention", "full_attention")) if d.chance() else dict(global_attn_every_n_layers=d.one(2, 4))
    return c | dict(rope_parameters=rope(theta=d.theta()))


def mamba(d):
    c = dict(vocab_size=d.randint(70, 211), hidden_size=2 * d.randint(5, 29), num_hidden_layers=d.randint(1, 4), **make_tokens())
    c |= dict(state_size=d.randint(3, 17), time_step_rank=d.randint(1, 9), conv_kernel=d.one(2, 4, 5), expand=d.one(1, 2, 3))
    c |= dict(use_bias=d.chance(0.3), use_conv_bias=d.chance(0.8), layer_norm_epsilon=d.eps())
    return c | dict(tie_word_embeddings=d.chance())


def mamba2(d):
    heads, groups = 2 * d.randint(1, 4), d.one(1, 2)
    c = dict(vocab_size=d.randint(70, 211), hidden_size=heads * d.randint(2, 8), num_hidden_layers=d.randint(1, 4), **make_tokens())
    c |= dict(num_heads=heads, n_groups=groups, state_size=d.randint(3, 17), conv_kernel=d.one(2, 4), expand=2)
    c |= dict(head_dim=2 * c["hidden_size"] // heads, chunk_size=8, layer_norm_epsilon=d.eps())
    limit = d.one((0.0, float("inf")), (0.05, 0.6))
    return c | dict(use_bias=d.chance(0.3), use_conv_bias=d.chance(0.8), time_step_limit=limit, tie_word_embeddings=d.chance())


def jamba(d):
    layers = d.randint(2, 5)
    c = d.bound(num_hidden_layers=layers) | d.experts()
    c |= dict(mamba_d_state=d.randint(3, 17), mamba_dt_rank=d.randint(1, 9), mamba_d_conv=d.one(2, 4), use_mamba_kernels=False)
    c |= dict(attn_layer_period=d.randint(2, 3), attn_layer_offset=1, expert_layer_period=d.randint(1, 2), expert_layer_offset=0)
    return c | dict(mamba_expand=d.one(1, 2), mamba_conv_bias=d.chance(0.8), mamba_proj_bias=d.chance(0.3))


def bert(d):
    heads = d.randint(1, 7)
    c = dict(vocab_size=d.randint(70, 211), hidden_size=heads * d.randint(3, 11), num_hidden_layers=d.randint(1, 4))
    c |= dict(num_attention_heads=heads, intermediate_size=d.randint(17, 99), max_position_embeddings=d.randint(80, 99))
    c |= dict(layer_norm_eps=d.one(1e-12, 1e-5, 1e-2), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, pad_token_id=0)
    return c | dict(hidden_act=d.one("gelu", "gelu_new", "relu", "silu"), type_vocab_size=d.randint(1, 3))


def roberta(d):
    return bert(d) | dict(pad_token_id=d.one(0, 1), bos_token_id=0, eos_token_id=2, type_vocab_size=1)


def modernbert(d):
    heads, layers = d.randint(1, 6), d.randint(1, 6)
    c = dict(vocab_size=d.randint(70, 211), hidden_size=heads * 2 * d.randint(2, 8), num_hidden_layers=layers)
    c |= dict(num_attention_heads=heads, intermediate_size=d.randint(17, 99), max_position_embeddings=128)
    c |= dict(norm_eps=d.eps(), local_attention=2 * d.randint(2, 17), norm_bias=d.chance(0.3), mlp_bias=d.chance(0.3))
    c |= dict(attention_bias=d.chance(0.3), pad_token_id=0, cls_token_id=1, sep_token_id=2, bos_token_id=1, eos_token_id=2)
    if d.chance():
        c |= dict(layer_types=d.kinds(layers, "sliding_attention", "full_attention"))
    return c | dict(rope_parameters={k: rope(theta=d.theta()) for k in ("full_attention", "sliding_attention")})


#: Transformers' name -> how to draw a configuration. Weights are drawn as for the golden of that name.
FAMILIES = {
    "openai-gpt": lambda d: gpt(d, afn=d.one("gelu", "silu", "relu"), tie_word_embeddings=True),
    "gpt2": gpt2,
    "gptj": gptj,
    "gpt_neox": gpt_neox,
    "opt": opt,
    "bloom": bloom,
    "llama": llama,
    "llama4_text": llama4,
    "mistral": mistral,
    "mixtral": mixtral,
    "qwen2": qwen2,
    "qwen2_moe": qwen2_moe,
    "qwen3": qwen3,
    "qwen3_moe": qwen3_moe,
    "qwen3_next": qwen3_next,
    "qwen3_5_text": delta_net,
    "gemma": gemma,
    "gemma2": gemma2,
    "gemma3_text": gemma3,
    "gemma4_text": gemma4,
    "gpt_oss": gpt_oss,
    "olmo": olmo,
    "olmo2": olmo2,
    "olmo3": olmo3,
    "olmoe": olmoe,
    "phi": phi,
    "phi3": phi3,
    "smollm3": smollm3,
    "granite": granite,
    "granitemoehybrid": granite_hybrid,
    "arcee": arcee,
    "nemotron": nemotron,
    "nemotron_h": nemotron_h,
    "deepseek_v2": lambda d: deepseek(d, False),
    "deepseek_v3": lambda d: deepseek(d, True),
    "afmoe": afmoe,
    "mamba": mamba,
    "mamba2": mamba2,
    "jamba": jamba,
    "bert": bert,
    "roberta": roberta,
    "modernbert": modernbert,
}


def older(config):
    """As Transformers 4 wrote it."""
    rope = config.get("rope_parameters")
    if not rope or any(isinstance(v, dict) for v in rope.values()):
        return config
    config = drop(config, "rope_parameters", "dtype") | {"torch_dtype": "float32"}
    kind = rope.pop("rope_type", "default")
    config["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        name = "rotary_pct" if config["model_type"] == "gpt_neox" else "partial_rotary_factor"
        config[name] = rope.pop("partial_rotary_factor")
    config["rope_scaling"] = {"type": kind, **rope} if kind != "default" else None
    return config


def terse(config):
    """Without the flags and names that are the class's default. Numbers are always written."""
    defaults = type(AutoConfig.for_model(config["model_type"]))().to_dict()
    implied = lambda k, v: k in defaults and defaults[k] == v and (v is None or isinstance(v, (bool, str)))
    return {k: v for k, v in config.items() if k == "model_type" or not implied(k, v)}


def bare(golden, path):
    """Without what Transformers knows without being told: other fields, lists that follow from them, the class's numbers."""
    known = type(golden.config)
    read = lambda c: known.from_dict(known._decode_special_floats(copy.deepcopy(c))).to_dict()
    config = json.loads(path.read_text())
    whole = read(config)
    for name in list(config):
        without = drop(config, name)
        try:
            if name != "model_type" and read(without) == whole:
                config = without
        except Exception:
            continue
    return config


#: Settings that variants written bare may leave to the class: any but sizes.
UNSAID = """rms_norm_eps layer_norm_eps norm_eps layer_norm_epsilon rope_parameters attn_scale floor_scale routed_scaling_factor
embedding_multiplier logits_scaling residual_multiplier attention_multiplier query_pre_attn_scalar final_logit_softcapping
attn_logit_softcapping layer_types no_rope_layers no_rope_layer_interval global_attn_every_n_layers norm_topk_prob n_group
topk_group route_scale mup_enabled num_dense_layers first_k_dense_replace hidden_act hidden_activation activation_function
afn conv_kernel mamba_d_conv linear_conv_kernel_dim expand mamba_expand interleave_moe_layer_step local_attention
type_vocab_size clip_qkv time_step_limit time_step_min use_qk_norm attn_temperature_tuning max_window_layers
num_experts_per_tok mamba_n_groups n_groups""".split()


def variant(family, seed):
    d = Draw(f"{family} {seed}")
    settings, base = FAMILIES[family](d), BASES[family]
    style = d.one("plain", "older", "terse", "bare", "bare")
    if style == "bare":
        original = settings
        settings = {k: v for k, v in settings.items() if k not in UNSAID or d.chance(0.6)}
        try:
            make.build(Golden(family, type(base.config)(**settings), auto=base.auto), type(base.config)(**settings))
        except Exception:
            settings = original  # the class's numbers do not fit these sizes
    config = type(base.config)(**settings)
    golden = Golden(
        f"{family}-{seed}",
        config,
        init=base.init,
        auto=base.auto,
        encoder=base.encoder,
        positions=d.randint(36, 66),
        dtype=torch.float32,
    )
    model = make.build(golden, config)
    for attempt in range(20):
        make.fill(golden, model, 1000 * seed + attempt)
        ids = make.sequences(golden, model.config.get_text_config().vocab_size, attempt)
        found = make.answer(model, ids)
        if torch.isfinite(found).all() and make.check_steady(golden, model, ids, found) < STEADY:
            return golden, model, ids, make.answer(make.build_like(golden, model), ids), style
    raise AssertionError(f"{golden.name}: no seed is steady")


def save(golden, model, ids, answer, style, root):
    folder = root / golden.name
    make.save(golden, model, {"ids": ids, ("hidden" if golden.encoder else "logits"): answer}, folder)
    if style == "plain":
        return style
    path = folder / "config.json"
    plain = path.read_text()
    config = json.loads(plain)
    other = older(config) if style == "older" else terse(config) if style == "terse" else bare(golden, path)
    path.write_text(json.dumps(other, indent=2))
    try:
        again = golden.auto.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
        if hasattr(again, "set_experts_implementation"):
            again.set_experts_implementation("eager")
        if make.apart(answer, make.answer(again, ids)) < 1e-6:
            return style
    except Exception as error:
        print(f"  Transformers does not read {style} {golden.name}: {str(error)[:100]}")
    # Transformers itself takes it for another model.
    path.write_text(plain)
    return f"plain, for Transformers reads {style} otherwise"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("families", nargs="*", metavar="FAMILY")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--each", type=int, default=3)
    args = parser.parse_args()
    if unknown := set(args.families) - set(FAMILIES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(FAMILIES)}")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    args.out.mkdir(parents=True, exist_ok=True)
    for family in args.families or FAMILIES:
        for seed in range(args.seed, args.seed + args.each):
            try:
                print(f"{family}-{seed}", save(*variant(family, seed), args.out), flush=True)
            except Exception as error:
                shutil.rmtree(args.out / f"{family}-{seed}", ignore_errors=True)
                print(f"{family}-{seed} NOT MADE: {type(error).__name__} {' '.join(str(error).split())[:200]}", flush=True)


if __name__ == "__main__":
    main()
