"""What types llama.cpp's quantizer gives the tensors of models of many forms, under every recipe.

    python scripts/goldens/recipes.py LLAMA_QUANTIZE > crates/quantize/tests/goldens/recipes.json
    python scripts/goldens/recipes.py LLAMA_QUANTIZE MODEL RECIPE [imatrix]     # lists the types instead

Made with gguf 0.19.0 and the llama-quantize of llama-cpp-python 0.3.36's vendored llama.cpp, run with `--dry-run` on files
that have the models' tensors but no data. For every model, recipe, and with or without importance statistics, the golden
holds the 64-bit FNV-1a hash of the lines "name type\\n" in the order of the tool; for models it holds what tensors they
have.
"""
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np

FTYPES = (
    "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q2_K_S Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K IQ4_NL IQ4_XS "
    "IQ3_XXS IQ3_XS IQ3_S IQ3_M IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M TQ1_0 TQ2_0 MXFP4_MOE Q1_0 Q2_0"
).split()


# Parts of a layer: (name, [axes, innermost first]) with the model's sizes filled in.
def model(arch, layers, heads, kv, experts, outer, every, only=()):
    """`every`: tensors of all layers; `only`: (layers, tensors) beside them."""
    parts = [[name, ne, None] for name, ne in outer] + [[name, ne, [0, layers]] for name, ne in every]
    parts += [[name, ne, list(span)] for span, tensors in only for name, ne in tensors]
    return dict(arch=arch, layers=layers, heads=heads, kv_heads=kv, experts=experts, tensors=parts)


def dense(arch, layers, d, heads, kv, hd, ff, vocab, tied, qkv=False, gate=True):
    outer = [["token_embd.weight", [d, vocab]], ["output_norm.weight", [d]]] + ([] if tied else [["output.weight", [d, vocab]]])
    attn = [["attn_qkv.weight", [d, (heads + 2 * kv) * hd]]] if qkv else [
        ["attn_q.weight", [d, heads * hd]], ["attn_k.weight", [d, kv * hd]], ["attn_v.weight", [d, kv * hd]]]
    every = [["attn_norm.weight", [d]]] + attn + [["attn_output.weight", [heads * hd, d]], ["ffn_norm.weight", [d]],
                                                  ["ffn_up.weight", [d, ff]], ["ffn_down.weight", [ff, d]]]
    every += [["ffn_gate.weight", [d, ff]]] if gate else [["attn_qkv.bias", [(heads + 2 * kv) * hd]]]
    return model(arch, layers, heads, kv, 0, outer, every)


def moe(arch, layers, d, heads, kv, hd, ff, experts, vocab):
    m = dense(arch, layers, d, heads, kv, hd, ff, vocab, False)
    m["experts"] = experts
    m["tensors"] = [t for t in m["tensors"] if not t[0].startswith(("ffn_up", "ffn_gate", "ffn_down"))]
    for name, ne in (("ffn_gate_inp.weight", [d, experts]), ("ffn_gate_exps.weight", [d, ff, experts]),
                     ("ffn_up_exps.weight", [d, ff, experts]), ("ffn_down_exps.weight", [ff, d, experts])):
        m["tensors"].append([name, ne, [0, layers]])
    return m


def deepseek(layers):
    d, h = 2048, 16
    every = [["attn_norm.weight", [d]], ["attn_q.weight", [d, h * 192]], ["attn_kv_a_mqa.weight", [d, 576]],
             ["attn_kv_a_norm.weight", [512]], ["attn_kv_b.weight", [512, h * 256]], ["attn_output.weight", [h * 128, d]]]
    first = [["ffn_gate.weight", [d, 10944]], ["ffn_up.weight", [d, 10944]], ["ffn_down.weight", [10944, d]]]
    rest = [["ffn_gate_inp.weight", [d, 64]]] + [[f"ffn_{p}_{k}.weight", ([1408 * s, d] if p == "down" else [d, 1408 * s]) + x]
                                                 for p in ("gate", "up", "down") for k, s, x in (("exps", 1, [64]), ("shexp", 2, []))]
    outer = [["token_embd.weight", [d, 102400]], ["output.weight", [d, 102400]], ["output_norm.weight", [d]]]
    return model("deepseek2", layers, h, h, 64, outer, every, [((0, 1), first), ((1, layers), rest)])


MODELS = {f"{name}-{layers}": make(layers) for name, counts, make in (
    ("llama", (7, 16, 22, 32, 80), lambda n: dense("llama", n, 4096, 32, 8, 128, 14336, 128256, False)),
    ("llama-mha", (32, 80), lambda n: dense("llama", n, 4096, 32, 32, 128, 11008, 32000, False)),
    ("qwen2", (24, 80), lambda n: dense("qwen2", n, 896, 14, 2, 64, 4864, 151936, True)),
    ("qwen3", (28, 36), lambda n: dense("qwen3", n, 1024, 16, 8, 128, 3072, 151936, True)),
    ("qwen3moe", (48, 9), lambda n: moe("qwen3moe", n, 2048, 32, 4, 128, 768, 128, 151936)),
    ("gemma3", (18, 26), lambda n: dense("gemma3", n, 1152, 4, 1, 256, 6912, 262144, True)),
    ("gpt2", (12, 48), lambda n: dense("gpt2", n, 1600, 25, 25, 64, 6400, 50257, False, qkv=True, gate=False)),
    ("gpt-oss", (24, 36), lambda n: moe("gpt-oss", n, 2880, 64, 8, 64, 2880, 32, 201088)),
    ("mixtral", (32, 56), lambda n: moe("llama", n, 4096, 32, 8, 128, 14336, 8, 32000)),
    ("deepseek", (27, 61), deepseek),
    ("phi3", (32, 40), lambda n: dense("phi3", n, 3072, 32, 8, 96, 8192, 32064, False, qkv=True)),
    ("gemma2", (42,), lambda n: dense("gemma2", n, 3584, 16, 8, 256, 14336, 256000, True)),
    ("four-experts", (20,), lambda n: moe("llama", n, 2048, 16, 8, 128, 5632, 4, 32000)),
    ("narrow", (12,), lambda n: dense("llama", n, 288, 6, 6, 48, 772, 32000, True)),
    ("falcon", (32, 60), lambda n: dense("falcon", n, 4544, 71, 1, 64, 18176, 65024, False, qkv=True, gate=False)),
) for layers in counts}


def expand(m):
    for name, ne, span in m["tensors"]:
        yield from [(name, ne)] if span is None else [(f"blk.{i}.{name}", ne) for i in range(*span)]


def fnv(lines):
    h = 0xcbf29ce484222325
    for b in "".join(f"{name} {t}\n" for name, t in lines).encode():
        h = (h ^ b) * 0x100000001b3 % 2**64
    return f"{h:016x}"


class Tool:
    def __init__(self, path, folder):
        self.path, self.folder = path, Path(folder)
        self.imatrix = self.folder / "imatrix.gguf"
        w = gguf.GGUFWriter(self.imatrix, "", use_temp_file=False)
        w.add_string("general.type", "imatrix")
        w.add_array("imatrix.datasets", ["none"])
        w.add_uint32("imatrix.chunk_count", 1)
        w.add_uint32("imatrix.chunk_size", 1)
        w.add_tensor("blk.999.none.weight.in_sum2", np.ones((1, 256), np.float32))
        w.add_tensor("blk.999.none.weight.counts", np.ones((1, 1), np.float32))
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()

    def write(self, m):
        """A file with the model's tensors, all BF16, and nothing in them."""
        path = self.folder / "model.gguf"
        path.unlink(missing_ok=True)
        arch = m["arch"]
        w = gguf.GGUFWriter(path, arch)
        axes = dict(expand(m))
        d = axes["token_embd.weight"][0]
        ff = next((ne[1] for n, ne in axes.items() if ".ffn_up" in n), 4 * d)
        numbers = {"context_length": 4096, "embedding_length": d, "block_count": m["layers"], "feed_forward_length": ff,
                   "expert_feed_forward_length": ff, "attention.head_count": m["heads"],
                   "attention.head_count_kv": m["kv_heads"], "vocab_size": axes["token_embd.weight"][1], "attention.sliding_window": 512, "leading_dense_block_count": 1,
                   "attention.kv_lora_rank": 512, "attention.q_lora_rank": 1536, "rope.scaling.yarn_log_multiplier": 0.1,
                   "expert_weights_scale": 1.0}
        if m["experts"]:
            numbers |= {"expert_count": m["experts"], "expert_used_count": 2, "expert_shared_count": 1}
        for key, n in numbers.items():
            (w.add_float32 if isinstance(n, float) else w.add_uint32)(f"{arch}.{key}", n)
        for key in ("layer_norm_epsilon", "layer_norm_rms_epsilon"):
            w.add_float32(f"{arch}.attention.{key}", 1e-5)
        for name, ne in axes.items():
            shape = ne[::-1]
            size = 2 * int(np.prod(shape, dtype=np.int64))
            w.add_tensor_info(name, shape, np.dtype(np.float16), size, raw_dtype=gguf.GGMLQuantizationType.BF16)
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_ti_data_to_file()
        end = sum(-(-2 * int(np.prod(ne, dtype=np.int64)) // 32) * 32 for ne in axes.values())
        w.close()
        with open(path, "r+b") as file:
            file.truncate(-(-path.stat().st_size // 32) * 32 + end)
        return path

    def types(self, path, ftype, imatrix):
        command = [self.path, "--dry-run", *(["--imatrix", str(self.imatrix)] if imatrix else []), str(path), ftype]
        run = subprocess.run(command, capture_output=True, text=True)
        if "no tensor type fallback is defined" in run.stdout + run.stderr:
            return None
        if run.returncode:
            sys.exit(f"{' '.join(command)}\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
        line = re.compile(r"\[ *\d+/ *\d+\] +(\S+) +- \[.*?\], type = +(\w+), size = .*?(?:\((\w+)\))?$", re.M)
        return [(name, (to or kept).upper()) for name, kept, to in line.findall(run.stdout + run.stderr)]


with tempfile.TemporaryDirectory() as folder:
    tool = Tool(sys.argv[1], folder)
    if len(sys.argv) > 3:
        for line in tool.types(tool.write(MODELS[sys.argv[2]]), sys.argv[3], len(sys.argv) > 4):
            print(*line)
        sys.exit()
    out = {}
    for name, m in MODELS.items():
        path = tool.write(m)
        hashes = {}
        for f in FTYPES:
            found = [tool.types(path, f, imx) for imx in (False, True)]
            if None not in found:  # else the tool refuses: it has no type to put in place of one that does not fit
                assert all(len(lines) == len(dict(expand(m))) for lines in found), (name, f)
                hashes[f] = " ".join(fnv(lines) for lines in found)
        out[name] = {**m, "types": hashes}
        print(name, file=sys.stderr)
    usage = subprocess.run([tool.path, "--help"], capture_output=True, text=True)
    numbers = {name: int(n) for n, name in re.findall(r"^ *(\d+) +or +(\w+)", usage.stdout + usage.stderr, re.M)}
    text = json.dumps({"file_types": {f: numbers[f] for f in FTYPES}, "models": out}, separators=(",", ":"))
    print(text.replace('"models":{', '"models":{\n').replace('}},"', '}},\n"'))
