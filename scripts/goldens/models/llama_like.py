"""LLaMA and the dense families that differ from it in a detail: biases, windows, norms, rotary scaling."""

import torch
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from .make import Golden

#: Sizes shared by most: a width that is not heads x head_dim would hide fewer errors, so some families differ.
SMALL = dict(
    vocab_size=128,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    rms_norm_eps=1e-3,
    max_position_embeddings=64,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
EPS = {"rms_norm_eps": 1e-6}
#: Gemma multiplies embeddings by sqrt(width): small ones keep a token from choosing itself.
GEMMA = {"embed_tokens": (0.0, 0.06)}
THETA = {"rope_parameters.rope_theta": 10000.0}


def sized(**other):
    return {**SMALL, **other}


def rope(kind="default", theta=500.0, **other):
    return {"rope_type": kind, "rope_theta": theta, **other}


def llama_scaled(name, moves, positions=40, **parameters):
    config = LlamaConfig(**sized(head_dim=16, num_hidden_layers=2, rope_parameters=rope(**parameters)))
    moves = {f"rope_parameters.{k}": v for k, v in moves.items()}
    return Golden(f"llama-{name}", config, positions=positions, moves=THETA | moves)


LONG_ROPE = dict(
    short_factor=[1.0, 1.1, 1.3, 1.7, 2.0, 2.5],
    long_factor=[1.0, 1.4, 2.0, 3.0, 4.0, 6.0],
    original_max_position_embeddings=16,
    partial_rotary_factor=0.75,
)

GOLDENS = [
    Golden(
        "llama",
        LlamaConfig(**sized(rope_parameters=rope(), attention_bias=False)),
        dtype=torch.float32,
        moves=EPS | THETA,
    ),
    # head_dim apart from width / heads, biases everywhere, tied embeddings: what Llama's config allows.
    Golden(
        "llama-biased",
        LlamaConfig(
            **sized(rope_parameters=rope(), head_dim=16, attention_bias=True, mlp_bias=True, tie_word_embeddings=True)
        ),
        moves=EPS | THETA,
    ),
    llama_scaled("linear", {"factor": 1.0}, kind="linear", factor=4.0),
    # The base follows the length of the whole sequence, so all positions of the long answer use that of 40
    # positions; a prefix alone (ids_short) is not scaled at all. Decoding with Transformers' cache mixes bases.
    Golden(
        "llama-dynamic",
        LlamaConfig(
            **sized(head_dim=16, num_hidden_layers=2, max_position_embeddings=16)
            | {"rope_parameters": rope("dynamic", factor=4.0)}
        ),
        positions=40,
        short=12,
        uncached="keys already cached keep the base they were rotated with",
        moves=THETA | {"rope_parameters.factor": 1.0, "max_position_embeddings": 20},
    ),
    llama_scaled(
        "yarn",
        {"factor": 2.0, "original_max_position_embeddings": 32, "beta_fast": 8.0, "beta_slow": 0.1},
        kind="yarn",
        factor=4.0,
        original_max_position_embeddings=16,
        beta_fast=1.0,
        beta_slow=0.25,
    ),
    llama_scaled(
        "llama3",
        {"factor": 4.0, "low_freq_factor": 0.5, "high_freq_factor": 8.0, "original_max_position_embeddings": 32},
        kind="llama3",
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=16,
    ),
    Golden(
        "mistral",
        MistralConfig(**sized(head_dim=16, sliding_window=8, rope_parameters=rope())),
        moves=EPS | THETA | {"sliding_window": 9},
    ),
    Golden(
        "qwen2",
        Qwen2Config(**sized(rope_parameters=rope(), tie_word_embeddings=True)),
        moves=EPS | THETA,
    ),
    Golden(
        "qwen2-window",
        Qwen2Config(**sized(rope_parameters=rope(), use_sliding_window=True, sliding_window=8, max_window_layers=1)),
        moves=EPS | THETA | {"sliding_window": 9, "layer_types": ["sliding_attention"] * 3},
    ),
    Golden(
        "qwen3",
        Qwen3Config(**sized(head_dim=16, rope_parameters=rope())),
        init={r"[qk]_norm": (1.2, 0.3)},
        moves=EPS | THETA,
    ),
    Golden(
        "smollm3",
        SmolLM3Config(**sized(num_hidden_layers=4, rope_parameters=rope(), tie_word_embeddings=True)),
        moves=EPS | THETA | {"no_rope_layers": [1, 1, 1, 1]},
    ),
    Golden(
        "phi3",
        Phi3Config(**sized(rope_parameters=rope(partial_rotary_factor=1.0), original_max_position_embeddings=64)),
        moves=EPS | THETA,
    ),
    # 40 positions are past the original 16, so every position uses the long factors; ids_short uses the short ones.
    Golden(
        "phi3-longrope",
        Phi3Config(
            **sized(hidden_size=64, num_attention_heads=4, num_hidden_layers=2, sliding_window=24)
            | {"original_max_position_embeddings": 16, "rope_parameters": rope("longrope", **LONG_ROPE)}
        ),
        positions=40,
        short=12,
        uncached="keys already cached keep the factors they were rotated with",
        moves=THETA
        | {
            "rope_parameters.long_factor": LONG_ROPE["short_factor"],
            "max_position_embeddings": 32,
            "sliding_window": 25,
        },
    ),
    Golden(
        "gemma",
        GemmaConfig(**sized(head_dim=16, num_key_value_heads=1, rope_parameters=rope())),
        init=GEMMA,
        moves=EPS | THETA | {"hidden_act": "silu"},
    ),
    Golden(
        "gemma2",
        Gemma2Config(
            **sized(
                head_dim=16,
                num_hidden_layers=4,
                query_pre_attn_scalar=12,
                sliding_window=8,
                attn_logit_softcapping=2.0,
                final_logit_softcapping=1.0,
                rope_parameters=rope(),
            )
        ),
        dtype=torch.float32,
        init=GEMMA,
        moves=EPS
        | THETA
        | {
            "query_pre_attn_scalar": 16,
            "sliding_window": 9,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 1.5,
            "layer_types": ["full_attention"] * 4,
        },
    ),
    Golden(
        "gemma3_text",
        Gemma3TextConfig(
            **sized(
                head_dim=16,
                num_hidden_layers=4,
                query_pre_attn_scalar=12,
                sliding_window=8,
                layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
                rope_parameters={
                    "sliding_attention": rope(theta=100.0),
                    "full_attention": rope("linear", theta=2000.0, factor=4.0),
                },
            )
        ),
        init=GEMMA | {r"[qk]_norm": (0.2, 0.3)},
        positions=40,
        moves=EPS
        | {
            "query_pre_attn_scalar": 16,
            "sliding_window": 9,
            "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
            "rope_parameters.sliding_attention.rope_theta": 10000.0,
            "rope_parameters.full_attention.rope_theta": 10000.0,
            "rope_parameters.full_attention.factor": 1.0,
        },
    ),
]
