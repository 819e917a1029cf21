"""Compares Allod's encoders with llama.cpp's on the same values: root-mean-square error, plain and weighted, and speed.

    python scripts/peers/encoders.py ENCODE LIBGGML [FILE.safetensors ...] [MODEL.gguf IMATRIX.gguf]

ENCODE is the binary of `cargo build --release -p allod-quantize --example encode`, LIBGGML a shared library that
exports `ggml_quantize_chunk` (libggml-base.so of the PyPI package llama-cpp-python). Needs numpy and gguf. Both
encoders' bytes are decoded by gguf-py. Without weights llama.cpp gets none where it allows that, else weights of one.
An unquantized model and its importance statistics are compared matrix by matrix: rows of each, weighted as measured.
"""
import ctypes
import os
import subprocess
import sys
import tempfile
import time

import gguf
import numpy as np

ENCODE, LIB = sys.argv[1], ctypes.CDLL(sys.argv[2])
LIB.ggml_quantize_chunk.restype = ctypes.c_size_t
LIB.ggml_quantize_requires_imatrix.restype = ctypes.c_bool
TYPES = os.environ.get("TYPES", "Q2_K Q3_K Q4_K Q5_K Q6_K IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ4_NL IQ4_XS "
                                "NVFP4 Q1_0 Q2_0 Q4_0 Q4_1 Q5_0 Q5_1").split()
ROWS, COLUMNS = int(os.environ.get("ROWS", 32)), 1024


def theirs(kind, x, w):
    t = {"Q1_0": 41, "Q2_0": 42}.get(kind) or gguf.GGMLQuantizationType[kind]
    block, size = {"Q1_0": (128, 18), "Q2_0": (64, 18)}.get(kind) or gguf.GGML_QUANT_SIZES[t]
    out = np.zeros((x.shape[0], x.shape[1] // block * size), np.uint8)
    if w is None and LIB.ggml_quantize_requires_imatrix(int(t)):
        w = np.ones(x.shape[1], np.float32)
    p = lambda a: None if a is None else a.ctypes.data_as(ctypes.c_void_p)
    LIB.ggml_quantize_init(int(t))
    start = time.perf_counter()
    LIB.ggml_quantize_chunk(int(t), p(x), p(out), ctypes.c_int64(0), ctypes.c_int64(x.shape[0]),
                            ctypes.c_int64(x.shape[1]), p(w))
    return out, x.size / 1e6 / (time.perf_counter() - start)


def ours(kind, x, w, tmp):
    x.tofile(f"{tmp}/x")
    args = [ENCODE, kind, str(x.shape[1]), f"{tmp}/x", f"{tmp}/q"]
    if w is not None:
        w.tofile(f"{tmp}/w")
        args.append(f"{tmp}/w")
    speed = float(subprocess.run(args, check=True, capture_output=True, text=True).stdout)
    return np.fromfile(f"{tmp}/q", np.uint8).reshape(x.shape[0], -1), speed


def decode(kind, q, x):
    """gguf-py lacks the newest two types."""
    if kind in ("Q1_0", "Q2_0"):
        n, bits = (128, 1) if kind == "Q1_0" else (64, 2)
        b = q.reshape(-1, 2 + n * bits // 8)
        d = b[:, :2].copy().view(np.float16).astype(np.float32)
        per = 8 // bits
        v = (b[:, 2:, None] >> (np.arange(per, dtype=np.uint8) * bits)) & ((1 << bits) - 1)
        v = v.reshape(b.shape[0], n).astype(np.float32)
        return (d * (2 * v - 1 if bits == 1 else v - 1)).reshape(x.shape)
    return gguf.quants.dequantize(q, gguf.GGMLQuantizationType[kind]).reshape(x.shape)


def rmse(x, y, w):
    return float(np.sqrt(np.mean((x - y) ** 2 * (1 if w is None else w), dtype=np.float64)))


def matrices(model, imatrix):
    """Some rows and the measured weights of every matrix whose rows blocks of 256 divide."""
    stats = {t.name: t.data for t in gguf.GGUFReader(imatrix).tensors}
    for t in gguf.GGUFReader(model).tensors:
        sums = stats.get(t.name + ".in_sum2")
        if sums is None or len(t.shape) != 2 or t.shape[0] % 256:
            continue
        x = gguf.quants.dequantize(t.data, t.tensor_type).reshape(-1, int(t.shape[0]))
        w = sums.ravel().astype(np.float32)
        yield np.ascontiguousarray(x[:: max(1, len(x) // 16)][:16]).astype(np.float32), w / w.mean()


def main():
    gguf_files = [p for p in sys.argv[3:] if p.endswith(".gguf")]
    sets = values([p for p in sys.argv[3:] if not p.endswith(".gguf")])
    pairs = list(matrices(*gguf_files)) if gguf_files else []
    pairs = pairs[:: max(1, len(pairs) // 14)]
    weights = np.random.default_rng(2).lognormal(0, 1, COLUMNS).astype(np.float32)
    names = [name + k for name in sets for k in ("", " weighted")] + (["model", "model weighted"] if pairs else [])
    print(f"{'type':8}" + "".join(f" {name:>14}" for name in names) + "   Mvalues/s (peer)")
    with tempfile.TemporaryDirectory() as tmp:
        for kind in TYPES:
            ratios, speeds = [], []

            def both(x, w):
                (a, sa), (b, sb) = ours(kind, x, w, tmp), theirs(kind, x, w)
                speeds.append((sa, sb))
                return rmse(x, decode(kind, a, x), w), rmse(x, decode(kind, b, x), w)

            for x in sets.values():
                ratios += [a / b for a, b in (both(x, None), both(x, weights))]
            for weighted in (False, True) if pairs else ():
                # Every matrix counts by the part of its power that is lost.
                lost = np.zeros(2)
                for x, w in pairs:
                    w = w if weighted else None
                    lost += (np.array(both(x, w)) / rmse(x, 0, w)) ** 2
                ratios.append(float(np.sqrt(lost[0] / lost[1])))
            # Small pieces spend their time on what is done once.
            sa, sb = np.median([s[0] for s in speeds[:2 * len(sets)]]), np.median([s[1] for s in speeds[:2 * len(sets)]])
            print(f"{kind:8}" + "".join(f" {r:14.4f}" for r in ratios) + f"   {sa:.2f} ({sb:.2f})", flush=True)


def values(files):
    rng = np.random.default_rng(1)
    sets = {
        "gauss": rng.standard_normal((ROWS, COLUMNS)).astype(np.float32) * 0.02,
        "heavy": (rng.standard_t(4, (ROWS, COLUMNS)) * 0.02).astype(np.float32),
    }
    for path in files:
        from safetensors.numpy import load_file
        flat = np.concatenate([v.astype(np.float32).ravel() for v in load_file(path).values() if v.ndim == 2])
        rows = min(len(flat) // COLUMNS, ROWS)
        sets["real"] = np.ascontiguousarray(flat[-rows * COLUMNS:].reshape(rows, COLUMNS))
    return sets


main()
