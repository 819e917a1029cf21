"""AdamW's state as bitsandbytes keeps it in eight bits: its tables, and its codes for the state after one step.

Its search on the CPU is not exact: a few codes are not those of the nearest value, so that a test may ask for values as
near as its, or nearer.

pip install torch==2.15.0 bitsandbytes==0.50.2
python adamw8.py ../../crates/train/tests/it/golden/adamw8.json
"""

import json
import sys
from pathlib import Path

import bitsandbytes
import torch
from bitsandbytes.functional import create_dynamic_map, quantize_blockwise

N, BETAS = 4096, (0.9, 0.999)


def draw():
    """Numbers from -0.5 to 0.5 by a linear congruential generator that is easy to write anywhere."""
    seed, out = 1, []
    for _ in range(N):
        seed = (seed * 1_664_525 + 1_013_904_223) % 2**32
        out.append((seed >> 8) / 2**24 - 0.5)
    return torch.tensor(out, dtype=torch.float32)


def main(path):
    tables = [create_dynamic_map(signed=s).float() for s in (True, False)]
    g = draw()
    moments = [torch.zeros(N).lerp(g, 1 - BETAS[0]), torch.zeros(N).addcmul(g, g, value=1 - BETAS[1])]
    codes = [quantize_blockwise(m, code=t, blocksize=256)[0] for m, t in zip(moments, tables)]
    out = {
        "versions": {"torch": torch.__version__, "bitsandbytes": bitsandbytes.__version__},
        "tables": [t.tolist() for t in tables],
        "codes": [c.numpy().tobytes().hex() for c in codes],
    }
    Path(path).write_text(json.dumps(out, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
