"""Whether llama.cpp reads what `allod quantize` writes: perplexity of both over the same text, for every recipe and type.

    python scripts/peers/loads.py ALLOD LLAMA_PERPLEXITY MODEL TEXT FOLDER [IMATRIX]

MODEL is an unquantized GGUF file or folder of safetensors, best with rows that 256 divides. Files are written into
FOLDER and removed again. Needs only Python; llama-perplexity is a tool of llama.cpp.
"""
import json
import os
import re
import subprocess
import sys
import time

ALLOD, PEER, MODEL, TEXT, FOLDER = sys.argv[1:6]
IMATRIX = sys.argv[6:7]
ONLY = os.environ.get("ONLY", "").split()
CHUNKS, CONTEXT, THREADS = os.environ.get("CHUNKS", "16"), "512", os.environ.get("THREADS", "2")
RECIPES = ("F16 BF16 Q8_0 Q6_K Q5_K_M Q5_K_S Q4_K_M Q4_K_S Q3_K_L Q3_K_M Q3_K_S Q2_K Q2_K_S Q5_1 Q5_0 Q4_1 Q4_0 IQ4_XS "
           "IQ4_NL IQ3_M IQ3_S IQ3_XS IQ3_XXS IQ2_M IQ2_S IQ2_XS IQ2_XXS IQ1_M IQ1_S TQ2_0 TQ1_0 MXFP4_MOE").split()
# Types that no recipe gives to a dense model's matrices.
TYPES = "MXFP4 NVFP4 Q1_0 Q2_0 TQ1_0 TQ2_0 IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S".split()


def call(*args):
    done = subprocess.run(args, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr or done.stdout).strip().splitlines()[-1][:200])
    return done.stdout + done.stderr


def ours(path):
    out = subprocess.run([ALLOD, "eval", "perplexity", path, "-f", TEXT, "--chunks", CHUNKS, "--ctx", CONTEXT, "-t", THREADS,
                          "--json"], check=True, capture_output=True, text=True).stdout
    p = json.loads(out)["perplexity"]
    return p["value"] if isinstance(p, dict) else p


def theirs(path):
    # Now and then it ends before its last line is written.
    for _ in range(4):
        out = call(PEER, "-m", path, "-f", TEXT, "-c", CONTEXT, "-b", CONTEXT, "--chunks", CHUNKS, "-t", THREADS)
        if found := re.search(r"PPL = ([0-9.]+)", out):
            return float(found[1])
    raise RuntimeError("llama.cpp says: " + out.strip().splitlines()[-1][:200])


def one(name, *args):
    if ONLY and name not in ONLY:
        return
    path = f"{FOLDER}/{name}.gguf"
    try:
        call(ALLOD, "quantize", MODEL, "-o", path, "-t", THREADS, *args)
        files = sorted(f for f in os.listdir(FOLDER) if f.startswith(name) and f.endswith(".gguf"))
        first = f"{FOLDER}/{files[0]}"
        a, b = ours(first), theirs(first)
        size = sum(os.path.getsize(f"{FOLDER}/{f}") for f in files)
        print(f"{name:24} {len(files)} {size:10} {a:14.4f} {b:14.4f} {100 * (a / b - 1):+9.4f} %"
              + ("" if abs(a / b - 1) <= 0.005 else "  APART"), flush=True)
    except (RuntimeError, subprocess.CalledProcessError) as e:
        print(f"{name:24} {e}", flush=True)
    for f in os.listdir(FOLDER):
        if f.startswith(name):
            os.remove(f"{FOLDER}/{f}")


def main():
    os.makedirs(FOLDER, exist_ok=True)
    print(f"{'file':24} n      bytes          Allod      llama.cpp", flush=True)
    start = time.time()
    for r in RECIPES:
        one(r, "--to", r)
    for t in TYPES:
        one(f"all-{t}", "--to", "Q8_0", "--tensor-type", f"blk.*(attn|ffn).*weight={t}")
    one("split", "--to", "Q4_K_M", "--split-max-size", os.environ.get("SPLIT", "6M"))
    one("bpw", "--bpw", "4.5")
    if IMATRIX:
        for r in "Q4_K_M Q3_K_M Q2_K IQ4_XS IQ3_S IQ2_M IQ2_XXS IQ1_M IQ1_S Q4_0 Q5_1".split():
            one(f"{r}-imatrix", "--to", r, "--imatrix", IMATRIX[0])
        one("bpw-imatrix", "--bpw", "3.5", "--imatrix", IMATRIX[0])
    print(f"{time.time() - start:.0f} s")


main()
