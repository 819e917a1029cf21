"""Encoders: bidirectional attention, no head; the answer is the last hidden state."""

from functools import partial

from transformers import AutoModel, BertConfig, ModernBertConfig, RobertaConfig

from .dense import wide_down
from .llama_like import rope
from .make import Golden

SMALL = dict(
    vocab_size=128,
    hidden_size=48,
    num_hidden_layers=3,
    num_attention_heads=6,
    intermediate_size=80,
    max_position_embeddings=66,
)
BERT = SMALL | dict(layer_norm_eps=1e-2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
#: The pooler is saved but not part of the hidden states; a key's bias drops out of the softmax.
INERT = r"pooler|key\.bias"
# What tells the exact GELU from its tanh form, as in `dense`.
TELLING = {r"intermediate\.dense\.bias": (-1.8, 0.4), r"\d\.output\.dense\.weight": wide_down}
Encoder = partial(Golden, auto=AutoModel, encoder=True)

GOLDENS = [
    Encoder(
        "bert",
        BertConfig(**BERT, pad_token_id=0),
        init=TELLING,
        inert=INERT,
        moves={"layer_norm_eps": 1e-12},
        faint={"hidden_act": "gelu_new"},
    ),
    # Positions count from pad_token_id + 1.
    Encoder(
        "roberta",
        RobertaConfig(**BERT | {"type_vocab_size": 1}, pad_token_id=1, bos_token_id=0, eos_token_id=2),
        init=TELLING,
        inert=INERT,
        moves={"layer_norm_eps": 1e-12},
        faint={"hidden_act": "gelu_new"},
    ),
    Encoder(
        "modernbert",
        ModernBertConfig(
            **(SMALL | {"num_hidden_layers": 4}),
            norm_eps=1e-3,
            local_attention=8,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            cls_token_id=1,
            sep_token_id=2,
            rope_parameters={"full_attention": rope(theta=1000.0), "sliding_attention": rope(theta=50.0)},
        ),
        init={r"mlp\.Wo": wide_down},
        moves={
            "norm_eps": 1e-6,
            "local_attention": 10,
            "layer_types": ["full_attention", "sliding_attention", "full_attention", "full_attention"],
            "rope_parameters.full_attention.rope_theta": 50.0,
            "rope_parameters.sliding_attention.rope_theta": 1000.0,
        },
        faint={"hidden_activation": "gelu_new"},
    ),
]
