"""Reading the model's file with nothing but numpy."""

import gguf
import numpy as np

BOS = "<|endoftext|>"


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
