"""Models with recurrent layers: Mamba, Mamba-2, gated DeltaNet, alone or between attention layers."""

import torch
from transformers import (
    GraniteMoeHybridConfig,
    JambaConfig,
    Mamba2Config,
    MambaConfig,
    NemotronHConfig,
    Qwen3_5TextConfig,
    Qwen3NextConfig,
)

from .llama_like import EPS, THETA, rope, sized
from .make import Golden

#: Decays between nearly keeping and nearly forgetting the state; steps about 0.3.
STATE = {"A_log": (-0.5, 0.7), r"dt_bias|dt_proj\.bias": (-1.0, 0.6)}
LAYER_NORM = {"layer_norm_epsilon": 1e-6}
TOKENS = dict(vocab_size=128, bos_token_id=1, eos_token_id=2, pad_token_id=0)
LINEAR, FULL = "linear_attention", "full_attention"

#: Twice as many value heads as key heads, so no mix-up goes unseen. Their sizes are equal, as GGUF holds only one.
DELTA_NET = dict(
    hidden_size=32,
    num_attention_heads=4,
    head_dim=16,
    linear_num_key_heads=2,
    linear_num_value_heads=4,
    linear_key_head_dim=8,
    linear_value_head_dim=8,
)
DELTA_INIT = STATE | {r"self_attn\.[qk]_norm": (0.2, 0.3)}

MAMBA2_IN_NEMOTRON = dict(
    ssm_state_size=8, mamba_num_heads=4, mamba_head_dim=16, n_groups=2, conv_kernel=4, chunk_size=8, expand=2
)
MIX = dict(
    n_routed_experts=8,
    num_experts_per_tok=3,
    n_shared_experts=1,
    moe_intermediate_size=16,
    moe_shared_expert_intermediate_size=24,
    routed_scaling_factor=1.5,
)


def nemotron_h(name, layers, **other):
    mixture = "moe" in layers
    return Golden(
        name,
        NemotronHConfig(
            **TOKENS,
            **MAMBA2_IN_NEMOTRON,
            **(MIX if mixture else {}),
            hidden_size=32,
            intermediate_size=48,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            layer_norm_epsilon=1e-3,
            max_position_embeddings=64,
            layers_block_type=[{"mamba": LINEAR, "attention": FULL}.get(kind, kind) for kind in layers.split()],
            **other,
        ),
        # Beside sigmoids a small bias already decides; a larger one would leave experts unused.
        init=STATE | {"e_score_correction_bias": (0.0, 0.1), r"gate\.weight": (0.0, 0.4)},
        moves=LAYER_NORM
        | {"mlp_hidden_act": "relu"}
        | ({"routed_scaling_factor": 1.0, "num_experts_per_tok": 2, "norm_topk_prob": False} if mixture else {}),
    )


GRANITE = dict(
    embedding_multiplier=2.0,
    logits_scaling=3.0,
    residual_multiplier=0.5,
    attention_multiplier=0.2,
    shared_intermediate_size=40,
    tie_word_embeddings=True,
    rope_parameters=rope(),
)
GRANITE_MOVES = EPS | {
    "embedding_multiplier": 1.0,
    "logits_scaling": 1.0,
    "residual_multiplier": 1.0,
    "attention_multiplier": 8**-0.5,
}

GOLDENS = [
    Golden(
        "mamba",
        MambaConfig(
            **TOKENS, hidden_size=32, state_size=8, num_hidden_layers=3, time_step_rank=4, layer_norm_epsilon=1e-3
        ),
        init=STATE,
        moves=LAYER_NORM | {"hidden_act": "gelu"},
    ),
    Golden(
        "mamba2",
        Mamba2Config(
            **TOKENS,
            hidden_size=32,
            num_heads=4,
            head_dim=16,
            n_groups=2,
            state_size=8,
            num_hidden_layers=3,
            chunk_size=8,
            layer_norm_epsilon=1e-3,
        ),
        init=STATE,
        dtype=torch.float32,
        moves=LAYER_NORM | {"hidden_act": "gelu"},
    ),
    Golden(
        "jamba",
        JambaConfig(
            **sized(hidden_size=32, intermediate_size=32, num_hidden_layers=4, num_attention_heads=4),
            mamba_d_state=8,
            mamba_dt_rank=4,
            use_mamba_kernels=False,
            attn_layer_period=3,
            attn_layer_offset=1,
            expert_layer_period=2,
            expert_layer_offset=1,
            num_experts=4,
        ),
        init=STATE,
        moves=EPS | {"num_experts_per_tok": 1},
    ),
    Golden(
        "qwen3_next",
        Qwen3NextConfig(
            **sized(
                **DELTA_NET,
                num_hidden_layers=4,
                moe_intermediate_size=16,
                shared_expert_intermediate_size=24,
                num_experts=8,
                num_experts_per_tok=3,
                rope_parameters=rope(partial_rotary_factor=0.5),
            )
        ),
        init=DELTA_INIT,
        moves=EPS
        | THETA
        | {"rope_parameters.partial_rotary_factor": 0.25, "num_experts_per_tok": 2, "norm_topk_prob": False},
    ),
    Golden(
        "qwen3_5_text",
        Qwen3_5TextConfig(
            **sized(
                **DELTA_NET,
                num_hidden_layers=4,
                intermediate_size=48,
                layer_types=[LINEAR, FULL, LINEAR, FULL],
                rope_parameters=rope(partial_rotary_factor=0.5, mrope_section=[2, 1, 1], mrope_interleaved=True),
            )
        ),
        init=DELTA_INIT,
        moves=EPS | THETA | {"rope_parameters.partial_rotary_factor": 0.25},
    ),
    nemotron_h("nemotron_h", "mamba mlp attention mlp mamba"),
    nemotron_h("nemotron_h-moe", "mamba moe attention moe"),
    nemotron_h("nemotron_h-latent", "mamba moe attention moe", moe_latent_size=16),
    Golden(
        "granitemoehybrid",
        GraniteMoeHybridConfig(
            **sized(hidden_size=32, intermediate_size=16, num_attention_heads=4),
            **GRANITE,
            num_local_experts=6,
            num_experts_per_tok=2,
            layer_types=[LINEAR, FULL, LINEAR],
            position_embedding_type="nope",
            mamba_n_heads=4,
            mamba_d_head=16,
            mamba_n_groups=2,
            mamba_d_state=8,
            mamba_chunk_size=8,
        ),
        init=STATE,
        moves=GRANITE_MOVES | {"num_experts_per_tok": 1, "position_embedding_type": "rope"},
    ),
    # Mamba-2 beside attention, the shared MLP alone.
    Golden(
        "granitemoehybrid-h",
        GraniteMoeHybridConfig(
            **sized(hidden_size=32, num_attention_heads=4),
            **GRANITE,
            num_local_experts=0,
            num_experts_per_tok=0,
            layer_types=[LINEAR, FULL, LINEAR],
            position_embedding_type="nope",
            mamba_n_heads=4,
            mamba_d_head=16,
            mamba_n_groups=2,
            mamba_d_state=8,
            mamba_chunk_size=8,
        ),
        init=STATE,
        moves=GRANITE_MOVES | {"position_embedding_type": "rope"},
    ),
    # What the small Granite 4 models are: attention with rotary positions, the shared MLP alone.
    Golden(
        "granitemoehybrid-dense",
        GraniteMoeHybridConfig(
            **sized(hidden_size=32, num_attention_heads=4),
            **GRANITE,
            num_local_experts=0,
            num_experts_per_tok=0,
            layer_types=[FULL] * 3,
            position_embedding_type="rope",
            mamba_n_heads=4,
        ),
        moves=GRANITE_MOVES | THETA | {"position_embedding_type": "nope"},
    ),
]
