"""The rules of llama.cpp's quantization recipes (v0.5.0), stated on their own, and what they give for models of many forms.

    python scripts/goldens/recipes.py > crates/quantize/tests/goldens/recipes.json
    python scripts/goldens/recipes.py MODEL RECIPE [imatrix]     # lists the types instead

Standard library only. For every model, recipe, and with or without importance statistics, the file holds the 64-bit
FNV-1a hash of the lines "name type\\n" in order; for models it holds what tensors they have.
"""
import json
import sys

BLOCK = {"F32": 1, "F16": 1, "BF16": 1, "Q4_0": 32, "Q4_1": 32, "Q5_0": 32, "Q5_1": 32, "Q8_0": 32, "IQ4_NL": 32, "MXFP4": 32,
         "Q2_0": 64, "Q1_0": 128}
block = lambda t: BLOCK.get(t, 256)

# name: (file type, default)
FTYPES = {
    "F32": (0, "F32"), "F16": (1, "F16"), "BF16": (32, "BF16"),
    "Q4_0": (2, "Q4_0"), "Q4_1": (3, "Q4_1"), "Q5_0": (8, "Q5_0"), "Q5_1": (9, "Q5_1"), "Q8_0": (7, "Q8_0"),
    "Q2_K": (10, "Q2_K"), "Q2_K_S": (21, "Q2_K"), "Q3_K_S": (11, "Q3_K"), "Q3_K_M": (12, "Q3_K"), "Q3_K_L": (13, "Q3_K"),
    "Q4_K_S": (14, "Q4_K"), "Q4_K_M": (15, "Q4_K"), "Q5_K_S": (16, "Q5_K"), "Q5_K_M": (17, "Q5_K"), "Q6_K": (18, "Q6_K"),
    "IQ4_NL": (25, "IQ4_NL"), "IQ4_XS": (30, "IQ4_XS"), "IQ3_XXS": (23, "IQ3_XXS"), "IQ3_XS": (22, "IQ3_S"),
    "IQ3_S": (26, "IQ3_S"), "IQ3_M": (27, "IQ3_S"), "IQ1_S": (24, "IQ1_S"), "IQ1_M": (31, "IQ1_M"),
    "IQ2_XXS": (19, "IQ2_XXS"), "IQ2_XS": (20, "IQ2_XS"), "IQ2_S": (28, "IQ2_XS"), "IQ2_M": (29, "IQ2_S"),
    "TQ1_0": (36, "TQ1_0"), "TQ2_0": (37, "TQ2_0"), "MXFP4_MOE": (38, "MXFP4"), "Q1_0": (40, "Q1_0"), "Q2_0": (41, "Q2_0"),
}
LOW = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M")


def more(i, n):
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


def layer_of(name):
    return int(name.split(".")[1]) if name.startswith("blk.") else -1


def category(name):
    if name == "output.weight":
        return "output"
    if name in ("token_embd.weight", "per_layer_token_embd.weight"):
        return "embd"
    for part, cat in (("attn_qkv.weight", "v"), ("attn_kv_b.weight", "v"), ("attn_v.weight", "v"), ("attn_k.weight", "k"),
                      ("attn_q.weight", "q"), ("attn_output.weight", "o"), ("ffn_up", "up"), ("ffn_gate", "gate"),
                      ("ffn_down", "down")):
        if part in name:
            return cat
    return "other"


def quantizable(name, ne):
    dims = len(ne)
    while dims > 1 and ne[dims - 1] == 1:
        dims -= 1
    if dims < 2 or not name.endswith("weight") or "_norm.weight" in name or "ffn_gate_inp.weight" in name:
        return False
    return name != "position_embd.weight" and name != "token_types.weight" and "ssm_conv1d" not in name


class Model:
    def __init__(self, arch, layers, heads, kv, experts, tensors):
        self.arch, self.layers, self.heads, self.kv, self.experts, self.tensors = arch, layers, heads, kv, experts, tensors

    def seventy(self):
        return self.layers == 80 and (self.arch == "qwen2" or self.arch == "llama" and self.heads != self.kv)


def kquant(m, ftype, cat, i_v, n_v, i, n, imx, t):
    """Recipes of the K, IQ3 and IQ4 families: `i_v` of `n_v` value matrices, or layer `i` of `n`."""
    wide, eight, falcon = m.heads // m.kv >= 4, m.experts == 8, m.arch == "falcon"
    if cat == "v":
        if ftype == "Q2_K":
            t = "Q4_K" if wide else "Q3_K"
        elif ftype == "Q2_K_S" and wide:
            t = "Q4_K"
        elif ftype == "IQ3_XXS":
            t = "Q4_K" if wide else "IQ3_XXS" if imx else "IQ3_S"
        elif ftype in ("IQ3_XS", "IQ3_S") and wide:
            t = "Q4_K"
        elif ftype == "IQ3_M":
            t = "Q4_K"
        elif ftype == "Q3_K_M":
            t = "Q5_K" if i_v < 2 else "Q4_K"
        elif ftype == "Q3_K_L":
            t = "Q5_K"
        elif ftype in ("IQ4_NL", "IQ4_XS") and wide:
            t = "Q5_K"
        elif ftype in ("Q4_K_M", "Q5_K_M") and more(i_v, n_v):
            t = "Q6_K"
        elif ftype == "Q4_K_S" and i_v < 4:
            t = "Q5_K"
        if m.seventy() and t in ("Q3_K", "Q4_K"):
            t = "Q5_K"
        return "Q8_0" if eight else t
    if cat == "k":
        return "Q8_0" if eight else {"IQ3_XS": "IQ3_XXS", "IQ3_XXS": "IQ2_S"}.get(ftype, t)
    if cat == "q":
        return {"IQ3_XS": "IQ3_XXS", "IQ3_XXS": "IQ2_S"}.get(ftype, t)
    if cat == "down":
        if ftype == "Q2_K":
            return "Q3_K"
        if ftype == "Q2_K_S":
            return "Q4_K" if i < n // 8 else t
        if ftype == "IQ3_XXS" and not imx:
            return "Q4_K" if i < n // 8 else "Q3_K"
        if ftype == "Q3_K_M":
            return "Q5_K" if i < n // 16 else "Q4_K" if not falcon or more(i, n) else "Q3_K"
        if ftype == "IQ3_M":
            return "Q4_K" if i < n // 8 or eight and more(i, n) else t
        if ftype == "Q3_K_L":
            return "Q4_K" if falcon else "Q5_K"
        if ftype == "Q4_K_M":
            if falcon:
                return "Q6_K" if i < n // 16 else "Q5_K" if more(i, n) else "Q4_K"
            return "Q6_K" if more(i, n) else t
        if ftype in ("IQ4_NL", "IQ4_XS"):
            return "Q5_K" if not imx and i < n // 8 else t
        if ftype == "Q5_K_M":
            return "Q6_K" if more(i, n) else t
        if ftype == "Q4_K_S":
            return "Q5_K" if not falcon and i < n // 8 else t
        if ftype in ("Q4_0", "Q5_0"):
            return {"Q4_0": "Q4_1", "Q5_0": "Q5_1"}[ftype] if imx and i < n // 8 else t
        return t
    if cat == "o":
        if falcon:
            return "Q4_K" if ftype == "Q3_K_L" else t
        if eight:
            raised = "Q2_K IQ3_XS IQ3_XXS Q3_K_S Q3_K_M IQ4_NL Q4_K_S Q4_K_M IQ3_S IQ3_M IQ4_XS".split()
            return "Q5_K" if ftype in raised else t
        return {"Q2_K": "Q3_K", "IQ3_XXS": "IQ3_S", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K", "IQ3_M": "Q4_K"}.get(ftype, t)
    if cat in ("up", "gate") and ftype == "IQ3_XS":
        return "IQ3_XXS" if n // 8 <= i < 7 * n // 8 else t
    return t


def low(m, ftype, cat, i_down, n, t):
    """Recipes of one and two-bit codebooks."""
    plus = ftype in ("IQ2_S", "IQ2_M")
    if cat == "v":
        return "Q4_K" if m.heads // m.kv >= 4 or m.experts >= 4 else "IQ3_S" if plus else "Q2_K"
    if cat == "k":
        return "Q4_K" if m.experts == 8 else t
    if cat == "down":
        return ("IQ3_S" if plus else "Q2_K") if i_down < n // 8 else t
    if cat == "o":
        return "Q5_K" if m.experts == 8 else "IQ2_XXS" if ftype in ("IQ1_S", "IQ1_M") else "IQ3_S" if plus else t
    return t


def fallback(t, ne0):
    if ne0 % block(t) == 0:
        return t
    if t.startswith("IQ"):
        t2 = "IQ4_NL"
    elif t in ("Q2_K", "Q3_K", "Q2_0", "TQ1_0", "TQ2_0"):
        t2 = "Q4_0"
    else:
        t2 = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}.get(t, "F16")
    return t2 if ne0 % block(t2) == 0 else "F16"


def types(m, ftype, imx):
    tensors = sorted(m.tensors, key=lambda t: (layer_of(t[0]), t[0].encode()))
    tied = all(name != "output.weight" for name, _ in tensors)
    n_v = sum(category(name) == "v" for name, _ in tensors)
    count = dict.fromkeys(("v", "up", "gate", "down"), 0)
    for name, ne in tensors:
        default, cat = FTYPES[ftype][1], category(name)
        t = default
        if not quantizable(name, ne):
            yield name, "BF16"
            continue
        if default in ("F32", "F16", "BF16"):
            yield name, default
            continue
        if cat == "output" or tied and cat == "embd":
            if ftype == "MXFP4_MOE" or m.arch == "falcon" or ne[0] % block(default):
                t = "Q8_0"
            elif ftype in LOW or ftype == "IQ3_XXS":
                t = "Q5_K"
            elif default != "Q8_0":
                t = "Q6_K"
        elif ftype == "MXFP4_MOE":
            t = "MXFP4" if len(ne) > 2 and ne[2] > 1 else "Q8_0"
        elif cat == "embd":
            if ftype in ("IQ2_XXS", "IQ2_XS", "IQ1_S", "IQ1_M"):
                t = "Q2_K"
            elif ftype in ("IQ2_S", "IQ2_M", "IQ3_XXS"):
                t = "IQ3_S"
            elif ftype in ("TQ1_0", "TQ2_0", "Q2_0"):
                t = "Q4_K"
        elif ftype in LOW:
            t = low(m, ftype, cat, count["down"], m.layers, t)
        else:
            i = layer_of(name) if m.experts > 1 else count.get(cat, 0)
            t = kquant(m, ftype, cat, count["v"], n_v, i, m.layers, imx, t)
        if cat in count:
            count[cat] += 1
        yield name, fallback(t, ne[0])


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
    ("falcon", (32, 60), lambda n: dense("falcon", n, 4544, 71, 1, 64, 18176, 65024, False, qkv=True, gate=False)),
) for layers in counts}


def expand(m):
    for name, ne, span in m["tensors"]:
        yield from [(name, ne)] if span is None else [(f"blk.{i}.{name}", ne) for i in range(*span)]


def as_model(m):
    return Model(m["arch"], m["layers"], m["heads"], m["kv_heads"], m["experts"], list(expand(m)))


def fnv(lines):
    h = 0xcbf29ce484222325
    for b in "".join(f"{name} {t}\n" for name, t in lines).encode():
        h = (h ^ b) * 0x100000001b3 % 2**64
    return f"{h:016x}"


if len(sys.argv) > 2:
    for line in types(as_model(MODELS[sys.argv[1]]), sys.argv[2], len(sys.argv) > 3):
        print(*line)
else:
    out = {"file_types": {f: n for f, (n, _) in FTYPES.items()}, "models": {}}
    for name, m in MODELS.items():
        hashes = {f: [fnv(types(as_model(m), f, imx)) for imx in (False, True)] for f in FTYPES}
        out["models"][name] = {**m, "types": {f: " ".join(h) for f, h in hashes.items()}}
    text = json.dumps(out, separators=(",", ":"))
    print(text.replace('"models":{', '"models":{\n').replace('}},"', '}},\n"'))
