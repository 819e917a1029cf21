"""python -m scripts.goldens.models [--out DIR] [NAME...]: make the goldens (all of them when none is named)."""

import argparse
from pathlib import Path

import torch
import transformers

from . import make, llama_like

GOLDENS = [*llama_like.GOLDENS]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--out", type=Path, default=make.default_root())
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    known = {g.name: g for g in GOLDENS}
    assert len(known) == len(GOLDENS), "two goldens of one name"
    if unknown := set(args.names) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.names or known:
        seed = make.make(known[name], args.out)
        make.versions(args.out / "versions.json", {name: seed})


if __name__ == "__main__":
    main()
