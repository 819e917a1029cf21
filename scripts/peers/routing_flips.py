"""Shows where rows in 8 bits move a mixture's answers: at the tokens whose experts change.

    python scripts/peers/routing_flips.py ALLOD [FOLDER]

ALLOD is a release build of the binary, FOLDER a model with experts in MXFP4 (the golden gpt_oss-mxfp4). Its logits and
router logits are computed twice: with products of MXFP4, which round the rows they multiply to 8 bits, and with the same
numbers as F32. A row is touched when its own token, or one before it, went to other experts in some layer. Needs numpy
and safetensors.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

GOLDEN = Path(__file__).parents[2] / "crates/models/tests/goldens/gpt_oss-mxfp4"
SEQUENCES, LENGTH = 32, 40


def main():
    allod, folder = sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else GOLDEN
    config = json.loads((folder / "config.json").read_text())
    layers, used = config["num_hidden_layers"], config["num_experts_per_tok"]
    ids = np.random.default_rng(0).integers(3, config["vocab_size"], (SEQUENCES, LENGTH))
    routers = [f"blk.{i}.ffn_gate_inp" for i in range(layers)]
    found = []
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        (tmp / "ids.json").write_text(json.dumps(ids.tolist()))
        for form in ([], ["--type", "F32"]):
            file, out = tmp / "model.gguf", tmp / "out.safetensors"
            taps = [word for name in routers for word in ("--tap", name)]
            for command in (
                ["convert", folder, "-o", file, "--force", *form],
                ["logits", file, "--ids", tmp / "ids.json", "-o", out, *taps],
            ):
                subprocess.run([allod, *map(str, command)], check=True, capture_output=True)
            found.append(load_file(out))
    coded, plain = found
    far = np.abs(coded["logits"] - plain["logits"]).max(-1) / plain["logits"].std()
    chosen = lambda logits: np.sort(np.argsort(-logits, -1)[..., :used], -1)
    flips = np.any([(chosen(coded[r]) != chosen(plain[r])).any(-1) for r in routers], 0)
    touched = np.maximum.accumulate(flips, 1)
    for name, rows in (("untouched", ~touched), ("an earlier token's", touched & ~flips), ("their own", flips)):
        print(f"{name:20} {rows.sum():5} rows, distance median {np.median(far[rows]):.3f}, most {far[rows].max():.3f}")


if __name__ == "__main__":
    main()
