"""Adapters that `allod tune` wrote, in the hands of those they are for: PEFT and llama.cpp.

    python scripts/peers/adapters.py ALLOD BASE [NAME...]

ALLOD is a release build of the binary, BASE a folder of a small model in Transformers' layout with its tokenizer. Each
variant is trained for a few steps with a high learning rate, then loaded by PEFT (the folder) and by llama.cpp
(adapter.gguf), and merged by `allod convert --adapter`. The logits of `allod logits` on the merged model are what the
others are held against: by a share of their spread (highest less lowest) of at most NEAR with PEFT, which adds in f32 as
we do, and FAR with llama.cpp, which reads some functions from tables. Experts are trained on small random models, of which
llama.cpp reads those in LLAMA_CPP. Versions it was run with: peft 0.21.2, transformers 5.23.0, llama-cpp-python 0.3.36.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from llama_cpp import Llama
from peft import PeftModel
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

NEAR, FAR = 1e-5, 1e-3
GOLDENS = Path(__file__).parents[2] / "crates/models/tests/goldens"
VARIANTS = {
    "lora": [],
    "rslora": ["--rslora", "--rank", "8"],
    "dora": ["--dora"],
    "dora-dropout": ["--dora", "--dropout", "0.1"],
    "pissa": ["--init", "pissa", "--rank", "4"],
    "one-matrix": ["--target", "blk.0.attn_q", "--target", "down_proj"],
    "embeddings": ["--whole", "token_embd"],
    "norms": ["--whole", "attn_norm", "--target", "q_proj"],
}
ALL = ["--target", "all-experts", "--rank", "4"]
BOTH = [*ALL, "--target", "all-linear"]
# By golden model, and what tells variants of it apart.
EXPERTS = {
    "mixtral": BOTH,
    "qwen3_moe": BOTH,
    "qwen3_moe/gates": ["--target", "ffn_gate_exps", "--rank", "4", "--rslora"],
    "qwen3_moe/some": ["--target", "blk.1.ffn_up_exps", "--target", "blk.2.ffn_down_exps", "--target", "ffn_gate_inp"],
    "mixtral/routers": ["--target", "blk.1.ffn_gate_inp", "--target", "blk.0.ffn_gate_exps"],
    "granitemoehybrid/routers": ["--target", "ffn_gate_inp", "--target", "blk.1.ffn_down_exps"],
    "deepseek_v2/dense": ["--target", "all-linear"],
    "qwen3_moe/pissa": [*BOTH, "--init", "pissa", "--rslora"],
    **{name: BOTH for name in ("olmoe", "gpt_oss", "deepseek_v2", "afmoe", "gemma4_text-moe")},
    # Of these some linear modules have no adapters in PEFT, or only parts of them.
    **{name: ALL for name in ("qwen2_moe", "qwen3_next", "granitemoehybrid", "jamba", "nemotron_h-moe")},
}
LLAMA_CPP = ["mixtral", "qwen3_moe"]
TEXTS = ["The cat sat on the mat.", "A dog ran far away.", "Once upon a time", "He said: hello!", "They went home again."]


def call(*command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stderr}")
    return done.stderr


def ours(allod, model, ids, folder):
    (folder / "ids.json").write_text(json.dumps([ids]))
    call(allod, "logits", model, "--ids", folder / "ids.json", "-o", folder / "logits.safetensors")
    return load_file(folder / "logits.safetensors")["logits"][0]


def peft(base, adapter, ids):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    bare = model(torch.tensor([ids])).logits[0].detach().numpy()
    model = PeftModel.from_pretrained(model, adapter).eval()
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy(), bare


def llama_cpp(base, adapter, ids):
    more = {"lora_path": str(adapter)} if adapter else {}
    llm = Llama(str(base), n_ctx=128, logits_all=True, n_threads=1, verbose=False, type_k=0, type_v=0, **more)
    llm.eval(ids)
    return np.array(llm.scores[: len(ids)])


def compare(name, who, theirs, expected, bound):
    spread = expected.max() - expected.min()
    apart = float(np.abs(theirs - expected).max() / spread)
    same = float((theirs.argmax(-1) == expected.argmax(-1)).mean())
    verdict = "ok" if apart <= bound else "DIFFERENT"
    print(f"{name:24} {who:10} {apart:.1e} of the spread, {100 * same:.0f} % of greedy tokens the same: {verdict}", flush=True)
    return apart <= bound


def tune(allod, base, data, out, flags):
    call(allod, "tune", base, "--data", data, "-o", out, "--steps", 6, "--batch", 3, "--lr", "2e-2", "-t", 1, *flags)


def variant(allod, base, name, folder):
    data, out, plain = folder / "data.jsonl", folder / name, folder / "base.gguf"
    if not plain.exists():
        call(allod, "convert", base, "--type", "F32", "-o", plain)
        lines = [{"prompt": t[: len(t) // 2], "completion": t[len(t) // 2 :]} for t in TEXTS]
        data.write_text("\n".join(map(json.dumps, lines)))
    tune(allod, base, data, out, VARIANTS[name])
    merged = folder / f"{name}.gguf"
    call(allod, "convert", plain, "--adapter", out / "adapter", "-o", merged)
    ids = AutoTokenizer.from_pretrained(base)(" ".join(TEXTS))["input_ids"][:48]
    expected = ours(allod, merged, ids, folder)
    theirs, bare = peft(base, out / "adapter", ids)
    print(f"{name:24} moved logits by {np.abs(expected - bare).max():.2f}")
    good = compare(name, "PEFT", theirs, expected, NEAR)
    adapter = out / "adapter.gguf"
    if name in ("embeddings", "norms"):
        # The weights trained whole are in the model that the run wrote; the adapter goes with it.
        call(allod, "convert", out / "model.gguf", "--type", "F32", "-o", folder / "whole.gguf", "--force")
        return compare(name, "llama.cpp", llama_cpp(folder / "whole.gguf", adapter, ids), expected, FAR) and good
    if adapter.exists():
        return compare(name, "llama.cpp", llama_cpp(plain, adapter, ids), expected, FAR) and good
    return compare(name, "merged", llama_cpp(merged, None, ids), expected, FAR) and good


def experts(allod, variant, folder):
    name, folder = variant.split("/")[0], folder / variant.replace("/", "-")
    base = folder / name
    shutil.copytree(GOLDENS / name, base)
    size = json.loads((base / "config.json").read_text())["vocab_size"]
    # Only ids are trained on, but a model is not tuned, nor a GGUF file read, without a vocabulary.
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": level, "post_processor": None,
        "decoder": level, "model": {"type": "BPE", "vocab": {f"t{i}": i for i in range(size)}, "merges": []},
    }
    (base / "tokenizer.json").write_text(json.dumps(tokenizer))
    (base / "tokenizer_config.json").write_text('{"eos_token": "t2", "bos_token": "t1"}')
    data, out, plain = folder / f"{name}.jsonl", folder / f"{name}-out", folder / f"{name}.gguf"
    rows = [[1 + (7 * i * j + j) % (size - 1) for j in range(1, 20)] for i in range(1, 7)]
    data.write_text("\n".join(json.dumps({"input_ids": r, "labels": r}) for r in rows))
    call(allod, "convert", base, "--type", "F32", "-o", plain)
    tune(allod, base, data, out, EXPERTS[variant])
    merged = folder / f"{name}-merged.gguf"
    call(allod, "convert", plain, "--adapter", out / "adapter.gguf", "-o", merged)
    ids = rows[2]
    expected = ours(allod, merged, ids, folder)
    theirs, bare = peft(base, out / "adapter", ids)
    print(f"{variant:24} moved logits by {np.abs(expected - bare).max():.2f}")
    good = compare(variant, "PEFT", theirs, expected, NEAR)
    if variant in LLAMA_CPP:
        good = compare(variant, "llama.cpp", llama_cpp(plain, out / "adapter.gguf", ids), expected, FAR) and good
    return good


def main(allod, base, *names):
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        folder, good = Path(folder), True
        for name in names or [*VARIANTS, *EXPERTS]:
            one = experts(allod, name, folder) if name in EXPERTS else variant(allod, base, name, folder)
            good = one and good
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
