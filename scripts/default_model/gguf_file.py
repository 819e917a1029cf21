"""The model as one GGUF file: writing it, and reading it back with nothing but numpy."""

import json

import gguf
import numpy as np

BOS = "<|endoftext|>"

# A user's message is a wish ("tell me a story about a dragon", "a dragon") or the beginning of a story. Every message
# starts a new story: the model was never shown two of them in a row.
CHAT_TEMPLATE = """\
{%- set ns = namespace(text='') -%}
{%- for message in messages if message['role'] == 'user' -%}
    {%- set ns.text = message['content'] | trim -%}
{%- endfor -%}
{%- set text = ns.text -%}
{%- set low = text | lower -%}
{%- set asks = low.split(' ')[0] in ['tell', 'write', 'make', 'give', 'please', 'can', 'could', 'about'] -%}
{{- bos_token -}}
{%- if 'story about ' in low or (asks and 'about ' in low) -%}
    {{- 'A story about ' ~ text[low.rfind('about ') + 6:].rstrip('.!? ') ~ '.\\n\\n' -}}
{%- elif asks or not text -%}
{%- elif low.split() | length < 4 -%}
    {{- 'A story about ' ~ text.rstrip('.!? ') ~ '.\\n\\n' -}}
{%- else -%}
    {{- text[:1] | upper -}}{{- text[1:] -}}
{%- endif -%}
"""

DESCRIPTION = (
    "A very small story model: writes short English stories in the manner of TinyStories, from their first words or "
    "loosely, from a wish ('A story about a brave cat.'). It knows a small child's words and nothing of the world: it cannot "
    "answer questions, follow instructions, hold a conversation, use tools or write in other languages, and it loses "
    "its thread and contradicts itself. It is there so that a fresh offline machine has a model to try and test with."
)
# Chosen by reading: without the penalty sentences repeat, and above 0.7 new words appear.
SAMPLING = {"temp": 0.6, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "penalty_last_n": 64, "penalty_repeat": 1.1}


def write(path, state, config, tokenizer_json, run):
    """Writes `state` (GGUF tensor name to float32 array), matrices as F16. `run` is the record of the training."""
    w = gguf.GGUFWriter(path, "llama")
    w.add_type("model")
    w.add_name("allod-stories")
    w.add_author("the Allod developers")
    w.add_version(run["version"])
    w.add_description(DESCRIPTION)
    w.add_size_label(f"{sum(v.size for v in state.values()) / 1e6:.1f}M")
    w.add_license("MIT OR Apache-2.0")
    w.add_dataset_count(1)
    w.add_dataset_name(0, "TinyStories")
    w.add_dataset_author(0, "Ronen Eldan and Yuanzhi Li")
    w.add_dataset_description(
        0,
        "A 4 MB lower-cased sample of short stories written by GPT-3.5 and GPT-4, under CDLA-Sharing-1.0. Capitals were"
        " put back by rule, broken characters repaired, stories cut off in mid-sentence left out.",
    )
    w.add_dataset_url(0, "https://arxiv.org/abs/2305.07759")
    w.add_dataset_repo_url(0, "https://huggingface.co/datasets/roneneldan/TinyStories")
    w.add_string("general.dataset.0.license", "CDLA-Sharing-1.0")
    w.add_string("general.dataset.0.sha256", run["dataset_sha256"])
    w.add_tags(["text-generation", "stories", "tiny"])
    w.add_languages(["en"])
    for key, value in SAMPLING.items():
        getattr(w, f"add_sampling_{key}")(value)
    w.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    write_training_record(w, run)

    w.add_vocab_size(config.vocab)
    w.add_context_length(config.context)
    w.add_embedding_length(config.width)
    w.add_block_count(config.layers)
    w.add_feed_forward_length(config.ffn)
    w.add_head_count(config.heads)
    w.add_head_count_kv(config.kv_heads)
    w.add_layer_norm_rms_eps(config.norm_eps)
    w.add_rope_freq_base(config.rope_theta)
    w.add_rope_dimension_count(config.head_dim)

    write_tokenizer(w, tokenizer_json)
    for name, value in state.items():
        w.add_tensor(name, value.astype(np.float16 if value.ndim == 2 else np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def write_training_record(w, run):
    w.add_string("allod.training.script", "scripts/default_model/train.py")
    w.add_string("allod.training.torch_version", run["torch_version"])
    w.add_uint64("allod.training.seed", run["seed"])
    w.add_uint32("allod.training.steps", run["steps"])
    w.add_uint64("allod.training.tokens", run["tokens"])
    w.add_float32("allod.training.epochs", run["epochs"])
    w.add_float32("allod.training.validation_loss", run["validation_loss"])
    w.add_float32("allod.training.validation_bits_per_byte", run["validation_bits_per_byte"])


def write_tokenizer(w, tokenizer_json):
    model = json.loads(tokenizer_json)["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    bos = model["vocab"][BOS]
    types = [gguf.TokenType.CONTROL if i == bos else gguf.TokenType.NORMAL for i in range(len(tokens))]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(tokens)
    w.add_token_types(types)
    w.add_token_merges(merges)
    w.add_bos_token_id(bos)
    w.add_eos_token_id(bos)
    w.add_add_bos_token(True)
    w.add_add_eos_token(False)
    w.add_chat_template(CHAT_TEMPLATE)


class NumpyLlama:
    """The forward pass in float32, from the file alone: hyperparameters from its keys, weights dequantized."""

    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        self.fields = {name: field.contents() for name, field in reader.fields.items()}
        self.weights = {
            t.name: gguf.dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors
        }
        self.layers = self.fields["llama.block_count"]
        self.heads = self.fields["llama.attention.head_count"]
        self.kv_heads = self.fields["llama.attention.head_count_kv"]
        self.eps = np.float32(self.fields["llama.attention.layer_norm_rms_epsilon"])
        self.theta = self.fields["llama.rope.freq_base"]
        self.head_dim = self.fields["llama.embedding_length"] // self.heads

    def norm(self, x, weight):
        return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + self.eps) * weight

    def rope(self, x):
        """x [tokens, heads, head_dim]; complex multiplication of neighbouring pairs."""
        frequency = self.theta ** (-np.arange(0, self.head_dim, 2) / self.head_dim)
        turn = np.exp(1j * np.arange(len(x))[:, None] * frequency).astype(np.complex64)
        return (np.ascontiguousarray(x).view(np.complex64) * turn[:, None]).view(np.float32)

    def attention(self, h, w):
        q, k, v = (
            (h @ w[f"attn_{n}.weight"].T).reshape(len(h), heads, self.head_dim)
            for n, heads in (("q", self.heads), ("k", self.kv_heads), ("v", self.kv_heads))
        )
        q, k = self.rope(q), self.rope(k)
        group = self.heads // self.kv_heads
        k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
        scores = np.einsum("qhd,khd->hqk", q, k) / np.float32(np.sqrt(self.head_dim))
        scores = np.where(np.tri(len(h), dtype=bool), scores, -np.inf)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        return np.einsum("hqk,khd->qhd", p, v).reshape(len(h), -1) @ w["attn_output.weight"].T

    def logits(self, ids):
        """Logits [tokens, vocab] of one sequence of ids."""
        x = self.weights["token_embd.weight"][ids]
        for i in range(self.layers):
            prefix = f"blk.{i}."
            w = {n.removeprefix(prefix): t for n, t in self.weights.items() if n.startswith(prefix)}
            x = x + self.attention(self.norm(x, w["attn_norm.weight"]), w)
            h = self.norm(x, w["ffn_norm.weight"])
            gate = h @ w["ffn_gate.weight"].T
            x = x + (gate / (1 + np.exp(-gate)) * (h @ w["ffn_up.weight"].T)) @ w["ffn_down.weight"].T
        return self.norm(x, self.weights["output_norm.weight"]) @ self.weights["token_embd.weight"].T

    def greedy(self, ids, count):
        """The next `count` ids, each the likeliest, and the smallest lead of a first over a second logit."""
        ids, margin = list(ids), np.inf
        for _ in range(count):
            logits = self.logits(ids)[-1]
            second, first = np.sort(logits)[-2:]
            margin = min(margin, float(first - second))
            ids.append(int(logits.argmax()))
        return ids[-count:], margin
