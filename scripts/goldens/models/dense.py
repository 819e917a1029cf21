"""Dense decoders that are not LLaMA-like: learned positions or ALiBi, LayerNorm, parallel residuals, plain MLPs."""

import torch
from transformers import (
    ArceeConfig,
    BloomConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    GraniteConfig,
    NemotronConfig,
    Olmo2Config,
    Olmo3Config,
    OlmoConfig,
    OpenAIGPTConfig,
    OPTConfig,
    PhiConfig,
)

from .llama_like import EPS, THETA, rope, sized
from .make import Golden

TOKENS = dict(bos_token_id=1, eos_token_id=2, pad_token_id=0)
#: The names of GPT-1 to GPT-J.
GPT = dict(vocab_size=128, n_positions=64, n_embd=48, n_layer=3, n_head=6, **TOKENS)
DROPOUT = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
LAYER_NORM = {"layer_norm_epsilon": 1e-6}


def conv1d(shape, generator):
    """GPT-1 and GPT-2 store a matrix as [inputs, outputs]."""
    return torch.randn(shape, generator=generator) / shape[0] ** 0.5


CONV1D = {r"(c_attn|c_proj|c_fc)\.weight": conv1d}


def wide_down(shape, generator):
    return 5.0 * torch.randn(shape, generator=generator) / max(shape) ** 0.5


#: A GELU's exact form and its tanh form are 5e-4 apart at most: make its inputs negative, where that is a large part
#: of what comes out, and its outputs weigh much.
TELLING = {
    r"mlp.*(c_fc|fc_in|fc1|h_to_4h)\.bias": (-1.8, 0.4),
    r"mlp.*(c_proj|fc_out|fc2|4h_to_h)\.weight": wide_down,
}
#: So small that the fixed epsilon (1e-5) of the first norm is felt.
FAINT = {r"embed_(tokens|positions)": (0.0, 0.02)}
#: Without rotary positions a key's bias adds the same to every score of a query, so it drops out of the softmax.
KEY_BIAS = r"k_proj\.bias"


def without(names, **other):
    return {k: v for k, v in sized(**other).items() if k not in names.split()}


def neox(name, parallel):
    return Golden(
        name,
        GPTNeoXConfig(
            **without("num_key_value_heads rms_norm_eps", num_attention_heads=3, layer_norm_eps=1e-3),
            use_parallel_residual=parallel,
            rope_parameters=rope(partial_rotary_factor=0.25),
        ),
        init=TELLING,
        moves=THETA
        | {"layer_norm_eps": 1e-6, "use_parallel_residual": not parallel}
        | {"rope_parameters.partial_rotary_factor": 0.5},
        faint={"hidden_act": "gelu_new"},
    )


def opt(name, dtype=torch.bfloat16, init=None, **other):
    sizes = dict(vocab_size=128, num_hidden_layers=3, ffn_dim=96, max_position_embeddings=64, num_attention_heads=6)
    return Golden(
        name,
        OPTConfig(**sizes, dropout=0.0, bos_token_id=2, eos_token_id=2, pad_token_id=1, **other),
        dtype=dtype,
        init=init or {},
        inert=KEY_BIAS,
        moves={"activation_function": "gelu"},
    )


GOLDENS = [
    Golden(
        "openai-gpt",
        OpenAIGPTConfig(**GPT, **DROPOUT, layer_norm_epsilon=1e-2),
        init=TELLING | CONV1D,
        uncached="the model has no cache",
        moves=LAYER_NORM | {"afn": "silu"},
    ),
    Golden(
        "gpt2",
        GPT2Config(**GPT, **DROPOUT, n_inner=112, layer_norm_epsilon=1e-3),
        init=TELLING | CONV1D,
        moves=LAYER_NORM,
        faint={"activation_function": "gelu"},
    ),
    # What Megatron-style checkpoints use beside the defaults.
    Golden(
        "gpt2-scaled",
        GPT2Config(
            **GPT,
            **DROPOUT,
            activation_function="gelu",
            scale_attn_by_inverse_layer_idx=True,
            tie_word_embeddings=False,
            layer_norm_epsilon=1e-3,
        ),
        init=TELLING | CONV1D,
        moves=LAYER_NORM | {"scale_attn_by_inverse_layer_idx": False},
        faint={"activation_function": "gelu_new"},
    ),
    Golden(
        "gptj",
        GPTJConfig(**(GPT | {"n_head": 3}), **DROPOUT, rotary_dim=8, layer_norm_epsilon=1e-3),
        init=TELLING,
        moves=LAYER_NORM | {"rotary_dim": 16},
        faint={"activation_function": "gelu"},
    ),
    neox("gpt_neox", True),
    neox("gpt_neox-serial", False),
    opt("opt", torch.float16, FAINT, hidden_size=48),
    opt("opt-350m", hidden_size=48, do_layer_norm_before=False, word_embed_proj_dim=32),
    # Six heads: not a power of two, so ALiBi's slopes come from two series.
    Golden(
        "bloom",
        BloomConfig(vocab_size=128, hidden_size=48, n_layer=3, n_head=6, layer_norm_epsilon=1e-3, **TOKENS),
        init=TELLING,
        moves=LAYER_NORM | {"apply_residual_connection_post_layernorm": True},
    ),
    Golden(
        "olmo",
        OlmoConfig(**without("rms_norm_eps", num_key_value_heads=6, clip_qkv=1.0, rope_parameters=rope())),
        init=FAINT,
        moves=THETA | {"clip_qkv": 1.5},
    ),
    Golden("olmo2", Olmo2Config(**sized(rope_parameters=rope())), moves=EPS | THETA),
    Golden(
        "olmo3",
        Olmo3Config(
            **sized(
                num_hidden_layers=4,
                sliding_window=8,
                rope_parameters={
                    "sliding_attention": rope(),
                    "full_attention": rope(
                        "yarn",
                        factor=4.0,
                        original_max_position_embeddings=16,
                        beta_fast=1.0,
                        beta_slow=0.25,
                        attention_factor=1.2,
                    ),
                },
            )
        ),
        positions=40,
        moves=EPS
        | {
            "sliding_window": 9,
            "layer_types": ["sliding_attention"] * 4,
            "rope_parameters.sliding_attention.rope_theta": 10000.0,
            "rope_parameters.full_attention.factor": 8.0,
            "rope_parameters.full_attention.attention_factor": 1.1386,
            "rope_parameters.full_attention.beta_slow": 0.1,
        },
    ),
    Golden(
        "phi",
        PhiConfig(
            **without("rms_norm_eps num_key_value_heads", num_attention_heads=3, layer_norm_eps=1e-3),
            rope_parameters=rope(partial_rotary_factor=0.5),
        ),
        init=TELLING,
        moves=THETA
        | {"layer_norm_eps": 1e-6, "rope_parameters.partial_rotary_factor": 0.75},
        faint={"hidden_act": "gelu"},
    ),
    Golden(
        "granite",
        GraniteConfig(
            **sized(
                embedding_multiplier=2.0,
                logits_scaling=3.0,
                residual_multiplier=0.4,
                attention_multiplier=0.2,
                tie_word_embeddings=True,
                rope_parameters=rope(),
            )
        ),
        init={"embed_tokens": (0.0, 0.1)},
        moves=EPS
        | THETA
        | {
            "embedding_multiplier": 1.0,
            "logits_scaling": 1.0,
            "residual_multiplier": 1.0,
            "attention_multiplier": 8**-0.5,
        },
    ),
    Golden("arcee", ArceeConfig(**sized(rope_parameters=rope())), moves=EPS | THETA | {"hidden_act": "relu"}),
    Golden(
        "nemotron",
        NemotronConfig(
            **without("rms_norm_eps", head_dim=16, norm_eps=1e-3, rope_parameters=rope(partial_rotary_factor=0.5))
        ),
        init={"norm": (0.0, 0.3)},
        moves=THETA | {"norm_eps": 1e-6, "rope_parameters.partial_rotary_factor": 0.75, "hidden_act": "relu"},
    ),
]
