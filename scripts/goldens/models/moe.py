"""Mixtures of experts on attention: every expert is chosen by some token, and no choice is close to a tie."""

import torch
from transformers import (
    AfmoeConfig,
    DeepseekV2Config,
    DeepseekV3Config,
    Gemma4TextConfig,
    GptOssConfig,
    Llama4TextConfig,
    MixtralConfig,
    OlmoeConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

from . import fp8, mxfp4
from .llama_like import EPS, GEMMA, THETA, rope, sized
from .make import Golden


def inputs_first(gain):
    """Stacked experts stored as [experts, inputs, outputs]."""
    return lambda shape, generator: gain * torch.randn(shape, generator=generator) / shape[-2] ** 0.5


def inputs_last(gain):
    return lambda shape, generator: gain * torch.randn(shape, generator=generator) / shape[-1] ** 0.5


def mixture(**other):
    return sized(hidden_size=32, num_attention_heads=4, intermediate_size=24, rope_parameters=rope(), **other)


YARN = dict(factor=4.0, original_max_position_embeddings=16, beta_fast=1.0, beta_slow=0.25)

QWEN2_MOE = dict(
    moe_intermediate_size=16,
    shared_expert_intermediate_size=24,
    num_experts=6,
    num_experts_per_tok=2,
    norm_topk_prob=False,
)

# The published checkpoints use eps 1e-6, and Transformers does so for the latent norms whatever the config says.
# So it is 1e-6 here, and the embeddings are so small that the first layer feels it.
MLA = dict(
    rms_norm_eps=1e-6,
    hidden_size=48,
    num_attention_heads=4,
    num_key_value_heads=4,
    kv_lora_rank=16,
    qk_nope_head_dim=16,
    qk_rope_head_dim=8,
    v_head_dim=12,
    intermediate_size=64,
    moe_intermediate_size=16,
    n_routed_experts=8,
    num_experts_per_tok=3,
    n_shared_experts=2,
    first_k_dense_replace=1,
    routed_scaling_factor=1.5,
)
MLA_YARN = YARN | dict(beta_fast=0.5, beta_slow=0.1)
MLA_INIT = {"embed_tokens": (0.0, 0.004), r"(q_proj|q_b_proj|kv_b_proj|kv_a_proj)": inputs_first(1.3)}
MLA_MOVES = {"rms_norm_eps": 1e-5, "routed_scaling_factor": 1.0, "num_experts_per_tok": 2} | THETA
YARN_MOVES = {f"rope_parameters.{k}": v for k, v in {"factor": 8.0, "beta_fast": 8.0, "mscale_all_dim": 0.5}.items()}

GPT_OSS = dict(
    vocab_size=128,
    num_hidden_layers=4,
    hidden_size=64,
    intermediate_size=32,
    head_dim=16,
    num_attention_heads=4,
    num_key_value_heads=2,
    num_local_experts=4,
    num_experts_per_tok=2,
    sliding_window=8,
    rms_norm_eps=1e-3,
    max_position_embeddings=64,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
    rope_parameters=rope("yarn", truncate=False, **YARN),
)


def gpt_oss(name, **other):
    return Golden(
        name,
        GptOssConfig(**GPT_OSS),
        positions=40,
        # The experts' inputs to the clamped GLU pass its limit of 7 now and then.
        init={"gate_up_proj$": inputs_first(3.5), "down_proj$": inputs_first(0.15), "sinks": (0.5, 1.0)},
        moves=EPS
        | THETA
        | {
            "sliding_window": 9,
            "swiglu_limit": 6.0,
            "swiglu_alpha": 1.0,
            "num_experts_per_tok": 3,
            "rope_parameters.factor": 8.0,
            "rope_parameters.truncate": True,
        },
        **other,
    )


GEMMA4 = dict(
    vocab_size=128,
    hidden_size=48,
    intermediate_size=64,
    num_attention_heads=4,
    head_dim=8,
    global_head_dim=16,
    rms_norm_eps=1e-3,
    max_position_embeddings=64,
    bos_token_id=2,
    eos_token_id=1,
    pad_token_id=0,
    sliding_window=8,
    final_logit_softcapping=1.0,
    rope_parameters={
        "sliding_attention": rope(theta=100.0),
        "full_attention": rope("proportional", theta=1000.0, partial_rotary_factor=0.25),
    },
)
# Attention is not scaled: the norms of queries and keys do it.
GEMMA4_INIT = GEMMA | {r"[qk]_norm": (0.45, 0.15)}
#: The final norm undoes it.
LAST_SCALAR = r"layers\.(4|2)\.layer_scalar"
GEMMA4_MOVES = EPS | {
    "sliding_window": 9,
    "final_logit_softcapping": 1.5,
    "rope_parameters.sliding_attention.rope_theta": 10000.0,
    "rope_parameters.full_attention.rope_theta": 100.0,
    "rope_parameters.full_attention.partial_rotary_factor": 0.5,
}

GOLDENS = [
    Golden(
        "mixtral",
        MixtralConfig(**mixture(num_local_experts=4, num_experts_per_tok=2)),
        moves=EPS | THETA | {"num_experts_per_tok": 1},
    ),
    Golden(
        "qwen2_moe",
        Qwen2MoeConfig(**mixture(**QWEN2_MOE)),
        moves=EPS | THETA | {"num_experts_per_tok": 3, "norm_topk_prob": True},
    ),
    # Dense layers between: every second layer is sparse, and layer 1 is made dense by name.
    Golden(
        "qwen2_moe-dense-layers",
        Qwen2MoeConfig(
            **mixture(num_hidden_layers=4, decoder_sparse_step=2, mlp_only_layers=[1], **QWEN2_MOE)
            | {"norm_topk_prob": True}
        ),
        moves=EPS | THETA | {"num_experts_per_tok": 3, "norm_topk_prob": False},
    ),
    Golden(
        "qwen3_moe",
        Qwen3MoeConfig(
            **mixture(
                head_dim=16, moe_intermediate_size=16, num_experts=8, num_experts_per_tok=3, norm_topk_prob=True
            )
        ),
        init={r"[qk]_norm": (1.2, 0.3)},
        moves=EPS | THETA | {"num_experts_per_tok": 2, "norm_topk_prob": False},
    ),
    Golden(
        "olmoe",
        OlmoeConfig(**mixture(num_experts=8, num_experts_per_tok=3, clip_qkv=1.5)),
        moves=EPS | THETA | {"num_experts_per_tok": 2, "norm_topk_prob": True, "clip_qkv": 2.0},
    ),
    gpt_oss("gpt_oss"),
    gpt_oss("gpt_oss-mxfp4", adjust=mxfp4.round_experts, repack=mxfp4.repack),
    Golden(
        "deepseek_v2",
        DeepseekV2Config(
            **sized(
                **MLA,
                q_lora_rank=24,
                topk_method="group_limited_greedy",
                n_group=4,
                topk_group=2,
                rope_parameters=rope("yarn", **MLA_YARN, mscale=0.707, mscale_all_dim=0.707),
            )
        ),
        init=MLA_INIT,
        positions=40,
        moves=MLA_MOVES | YARN_MOVES | {"topk_group": 3, "topk_method": "greedy"},
    ),
    Golden(
        "deepseek_v2-lite",
        DeepseekV2Config(**sized(**MLA, q_lora_rank=None, topk_method="greedy", rope_parameters=rope())),
        init=MLA_INIT,
        moves=MLA_MOVES,
    ),
    Golden(
        "deepseek_v3",
        DeepseekV3Config(
            **sized(
                **MLA,
                q_lora_rank=24,
                n_group=4,
                topk_group=2,
                norm_topk_prob=True,
                num_mtp_layers=0,
                rope_parameters=rope("yarn", **MLA_YARN, mscale=1.0, mscale_all_dim=1.0),
            )
        ),
        init=MLA_INIT,
        dtype=torch.float32,
        positions=40,
        moves=MLA_MOVES | YARN_MOVES | {"topk_group": 3, "norm_topk_prob": False, "rope_interleave": False},
    ),
    Golden(
        "deepseek_v3-fp8",
        DeepseekV3Config(
            **sized(
                **MLA,
                q_lora_rank=24,
                n_group=4,
                topk_group=2,
                norm_topk_prob=True,
                num_mtp_layers=0,
                rope_parameters=rope(),
            )
        ),
        init=MLA_INIT,
        dtype=torch.float32,
        adjust=fp8.round_matrices,
        repack=fp8.repack,
        moves=MLA_MOVES,
    ),
    Golden(
        "llama4_text",
        Llama4TextConfig(
            **mixture(
                num_hidden_layers=4,
                head_dim=8,
                intermediate_size_mlp=48,
                num_local_experts=4,
                interleave_moe_layer_step=2,
                attention_chunk_size=8,
                floor_scale=4,
            )
        ),
        init={r"experts\.(gate_up|down)_proj": inputs_first(1.3)},
        moves=EPS
        | THETA
        | {
            "attention_chunk_size": 10,
            "floor_scale": 8,
            "attn_scale": 0.2,
            "use_qk_norm": False,
            "no_rope_layers": [1, 1, 1, 1],
            "num_experts_per_tok": 2,
        },
    ),
    Golden(
        "afmoe",
        AfmoeConfig(
            **mixture(
                num_hidden_layers=4,
                head_dim=16,
                moe_intermediate_size=16,
                num_dense_layers=1,
                num_experts=8,
                num_experts_per_tok=3,
                num_shared_experts=1,
                route_scale=1.7,
                sliding_window=8,
                mup_enabled=True,
            )
        ),
        init=GEMMA | {"expert_bias": (0.0, 0.1), r"router\.gate": inputs_last(2.0)},
        moves=EPS
        | THETA
        | {
            "num_experts_per_tok": 2,
            "route_scale": 1.0,
            "sliding_window": 9,
            "mup_enabled": False,
            "layer_types": ["sliding_attention"] * 4,
        },
    ),
    # Per-layer embeddings; the last two layers take keys and values from the last unshared layer of their kind and
    # have a wider MLP.
    Golden(
        "gemma4_text",
        Gemma4TextConfig(
            **GEMMA4,
            num_hidden_layers=5,
            layer_types=[f"{kind}_attention" for kind in ("sliding", "sliding", "full", "sliding", "full")],
            num_key_value_heads=1,
            vocab_size_per_layer_input=128,
            hidden_size_per_layer_input=8,
            num_kv_shared_layers=2,
            use_double_wide_mlp=True,
        ),
        init=GEMMA4_INIT,
        inert=LAST_SCALAR,
        positions=40,
        moves=GEMMA4_MOVES,
    ),
    # Experts beside the dense MLP; full layers take the values from the keys' projection.
    Golden(
        "gemma4_text-moe",
        Gemma4TextConfig(
            **GEMMA4,
            num_hidden_layers=3,
            layer_types=["sliding_attention", "sliding_attention", "full_attention"],
            num_key_value_heads=2,
            num_global_key_value_heads=1,
            hidden_size_per_layer_input=0,
            attention_k_eq_v=True,
            enable_moe_block=True,
            num_experts=6,
            top_k_experts=2,
            moe_intermediate_size=16,
        ),
        inert=LAST_SCALAR,
        init=GEMMA4_INIT | {r"router\.proj": (0.0, 2.0)},
        positions=40,
        moves=GEMMA4_MOVES | {"top_k_experts": 3},
    ),
]
