#!/usr/bin/env python3
"""Allod and llama.cpp in turn on the same files: medians and ratios, as Markdown and JSON.

    python3 benches/peers/speed.py --allod target/release/allod --llama-bench BIN/llama-bench \\
        [--batched-bench BIN/llama-batched-bench] [-p 512] [-n 64] [-d 0,4096] [-b 1,16] [-t 1,2] \\
        [--rounds 5] [--pin 0,1] [--json OUT.json] MODEL.gguf...

llama.cpp's programs are built outside the project, for example from the source inside PyPI's `llama-cpp-python` sdist.
Each round measures every test once with each program, one after the other, so that a drift of the machine falls on
both. llama.cpp runs with flash attention on; at a depth also with it off, and the better median counts.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path


def numbers(text):
    return [int(n) for n in text.split(",")]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--allod", required=True)
    parser.add_argument("--llama-bench", required=True)
    parser.add_argument("--batched-bench", help="needed for more than one sequence")
    parser.add_argument("-p", "--prompt", type=int, default=512)
    parser.add_argument("-n", "--generate", type=int, default=64)
    parser.add_argument("-d", "--depth", type=numbers, default=[0])
    parser.add_argument("-b", "--batch", type=numbers, default=[1])
    parser.add_argument("-t", "--threads", type=numbers, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pin", help="processors to run on, such as 0,1")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


class Programs:
    """The two programs; each call is one measurement of `{test: tokens per second}`."""

    def __init__(self, args):
        self.args = args
        self.prefix = ["taskset", "-c", args.pin] if args.pin else []

    def run(self, command):
        done = subprocess.run([*self.prefix, *map(str, command)], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stderr[-2000:]}")
        return done.stdout

    def allod(self, model, threads, depth, batch):
        prompt = self.args.prompt if batch == 1 else 0
        command = [self.args.allod, "bench", model, "-p", prompt, "-n", self.args.generate]
        rows = json.loads(self.run([*command, "-d", depth, "-b", batch, "-t", threads, "-r", 1, "--json"]))
        return {"prompt" if row["prompt"] else "generate": row["tokens_per_second"] for row in rows}

    def llama(self, model, threads, depth, batch, flash):
        if batch > 1:
            return self.batched(model, threads, depth, batch)
        command = [self.args.llama_bench, "-m", model, "-p", self.args.prompt, "-n", self.args.generate, "-d", depth]
        rows = json.loads(self.run([*command, "-t", threads, "-fa", flash, "-r", 1, "-o", "json"]))
        return {"prompt" if row["n_prompt"] else "generate": row["avg_ts"] for row in rows}

    def batched(self, model, threads, depth, batch):
        before = max(depth, 1)
        context = batch * (before + self.args.generate) + 64
        command = [self.args.batched_bench, "-m", model, "-c", context, "-npp", before, "-ntg", self.args.generate]
        out = self.run([*command, "-npl", batch, "-t", threads, "-fa", "on", "--output-format", "jsonl"])
        rows = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        return {"generate": rows[-1]["speed_tg"]}


def compare(programs, model, threads, depth, batch, rounds):
    """The samples of every test: `{test: {"allod": [...], "llama.cpp": [...]}}`."""
    variants = {"llama.cpp": 1}
    if depth > 0 and batch == 1:
        variants["llama.cpp, flash attention off"] = 0
    samples = {}
    for _ in range(rounds):
        taken = {"allod": programs.allod(model, threads, depth, batch)}
        for name, flash in variants.items():
            taken[name] = programs.llama(model, threads, depth, batch, flash)
        for name, tests in taken.items():
            for test, speed in tests.items():
                samples.setdefault(test, {}).setdefault(name, []).append(speed)
    return samples


def main():
    args = arguments()
    if max(args.batch) > 1 and not args.batched_bench:
        sys.exit("--batch beyond 1 needs --batched-bench")
    programs, results = Programs(args), []
    print("| model | threads | depth | batch | test | Allod tok/s | llama.cpp tok/s | ratio |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for model in args.models:
        points = [(t, d, b) for t in args.threads for d in args.depth for b in args.batch]
        for threads, depth, batch in points:
            for test, samples in compare(programs, model, threads, depth, batch, args.rounds).items():
                ours = statistics.median(samples["allod"])
                theirs = max(statistics.median(v) for k, v in samples.items() if k != "allod")
                where = {"model": model.stem, "threads": threads, "depth": depth, "batch": batch, "test": test}
                results.append(where | {"samples": samples, "ratio": ours / theirs})
                cells = [*where.values(), f"{ours:.1f}", f"{theirs:.1f}", f"**{ours / theirs:.2f}**"]
                print("|", " | ".join(map(str, cells)), "|", flush=True)
            if args.json:
                args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
