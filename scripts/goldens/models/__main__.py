"""python -m scripts.goldens.models [--out DIR] [NAME...]: make the goldens (all of them when none is named)."""

import argparse
from pathlib import Path

import torch
import transformers

from . import dense, encoders, llama_like, make, moe, recurrent

ROOMS = (llama_like, dense, moe, recurrent, encoders)
GOLDENS = [golden for room in ROOMS for golden in room.GOLDENS]


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
    failed = []
    for name in args.names or known:
        try:
            seed = make.make(known[name], args.out)
        except AssertionError as error:
            failed.append(error)
            print(f"FAILED {error}", flush=True)
        else:
            make.versions(args.out / "versions.json", {name: seed})
    if failed:
        raise SystemExit(f"{len(failed)} failed")


if __name__ == "__main__":
    main()
