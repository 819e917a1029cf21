#!/usr/bin/env python3
"""Allod and llama.cpp run alternately on one GGUF file; medians and their ratios.

    python compare.py model.gguf --allod target/release/allod                    # llama-cpp-python of this environment
    python compare.py model.gguf --allod target/release/allod --llama-bench …/llama-bench -p 512 -n 64 -t 1,2
    python compare.py model.gguf … -d 4096 -r 3                                  # against the better of its two settings
    python compare.py model.gguf … --llama-batched-bench … -p 0 -n 32 -b 16,32   # sequences decoding together
    python compare.py model.gguf … --isa avx2                                    # give a llama-bench built for AVX2 then

Needs Python 3.10 or later and, where no binary is named, `pip install llama-cpp-python` (see peer.py beside this file)
in an environment outside the project. A round is one run of each program over all points, so that both meet the same
weather; a point's figure is the median over rounds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict

HERE = os.path.dirname(os.path.abspath(__file__))
# Tokens that every sequence holds before sequences decode together.
SHARED_DEPTH = 16


def numbers(text):
    return [int(n) for n in text.split(",") if n]


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("--allod", default="target/release/allod")
    p.add_argument("--llama-bench", help="its benchmark; without it, llama-cpp-python")
    p.add_argument("--llama-batched-bench", help="its benchmark of several sequences; without it, llama-cpp-python")
    p.add_argument("-p", "--prompt", type=numbers, default=[512])
    p.add_argument("-n", "--generate", type=numbers, default=[64])
    p.add_argument("-d", "--depth", type=numbers, default=[0])
    p.add_argument("-b", "--batch", type=numbers, default=[1])
    p.add_argument("-t", "--threads", type=numbers, default=[1, 2])
    p.add_argument("-r", "--rounds", type=int, default=5)
    p.add_argument("--isa", help="instruction set for Allod")
    p.add_argument("--activations", help="what BF16 weights are multiplied with, for Allod: f32 or bf16")
    p.add_argument("--cache-type", help="type of cached keys and values, in both")
    p.add_argument("--cpus", help="pin both to these processors, as taskset takes them")
    p.add_argument("--json", metavar="FILE", help="also write every sample")
    return p.parse_args()


class Runs:
    """Samples of tokens per second by (test, depth, batch, threads)."""

    def __init__(self, args):
        self.args = args
        self.pin = ["taskset", "-c", args.cpus] if args.cpus else []
        self.samples = {"allod": defaultdict(list), "llama.cpp": defaultdict(list)}

    def output(self, command):
        done = subprocess.run(self.pin + [str(c) for c in command], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(map(str, command))}\nended with {done.returncode}:\n{done.stderr[-2000:]}")
        return done.stdout

    def round(self):
        a = self.args
        for batch in a.batch:
            for depth in a.depth:
                points = self.points(batch, depth)
                self.allod(batch, points)
                if batch > 1:
                    self.batched(batch, points)
                else:
                    self.single(points)

    def points(self, batch, depth):
        return {
            "prompt": [] if batch > 1 else [p for p in self.args.prompt if p],
            "generate": [n for n in self.args.generate if n],
            "depth": SHARED_DEPTH if batch > 1 else depth,
        }

    def add(self, who, test, points, batch, threads, speed, setting=""):
        self.samples[who][(test, points["depth"], batch, threads)].append((setting, speed))

    def allod(self, batch, points):
        a = self.args
        command = [a.allod, "bench", a.model, "--json", "-r", 1, "-b", batch, "-d", points["depth"]]
        command += ["-t", ",".join(map(str, a.threads))]
        command += ["-p", ",".join(map(str, points["prompt"] or [0])), "-n", ",".join(map(str, points["generate"] or [0]))]
        command += ["--isa", a.isa] if a.isa else []
        command += ["--activations", a.activations] if a.activations else []
        command += ["--cache-type", a.cache_type] if a.cache_type else []
        for row in json.loads(self.output(command)):
            test = f"prompt {row['prompt']}" if row["prompt"] else f"generate {row['generate']}"
            self.add("allod", test, points, batch, row["threads"], row["tokens_per_second"])

    def single(self, points):
        a = self.args
        tool = [a.llama_bench, "-o", "json"] if a.llama_bench else [sys.executable, os.path.join(HERE, "peer.py")]
        # With flash attention and without where the context matters; its own choice else.
        settings = ["0", "1"] if points["depth"] else ["auto"]
        if a.cache_type and a.cache_type.startswith("q"):
            settings = ["1"]
        for setting in settings:
            command = tool + ["-m", a.model, "-r", 1, "-fa", setting, "-d", points["depth"]]
            command += ["-t", ",".join(map(str, a.threads))]
            command += ["-p", ",".join(map(str, points["prompt"] or [0]))]
            command += ["-n", ",".join(map(str, points["generate"] or [0]))]
            command += ["-ctk", a.cache_type, "-ctv", a.cache_type] if a.cache_type else []
            for row in json.loads(self.output(command)):
                test = f"prompt {row['n_prompt']}" if row["n_prompt"] else f"generate {row['n_gen']}"
                self.add("llama.cpp", test, points, 1, row["n_threads"], row["avg_ts"], setting)

    def batched(self, batch, points):
        a = self.args
        for threads in a.threads:
            for count in points["generate"]:
                size = batch * (points["depth"] + count + 1)
                if a.llama_batched_bench:
                    command = [a.llama_batched_bench, "-m", a.model, "-c", size, "-npp", points["depth"], "-ntg", count]
                    command += ["-npl", batch, "-t", threads, "-tb", threads, "--output-format", "jsonl"]
                    lines = [line for line in self.output(command).splitlines() if line.startswith("{")]
                    speed = json.loads(lines[-1])["speed_tg"]
                else:
                    command = [sys.executable, os.path.join(HERE, "peer.py"), "-m", a.model, "-b", batch, "-r", 1]
                    command += ["-t", threads, "-p", 0, "-n", count, "-d", points["depth"]]
                    speed = json.loads(self.output(command))[-1]["avg_ts"]
                self.add("llama.cpp", f"generate {count}", points, batch, threads, speed)

    def table(self):
        """One row a point: medians, the ratio of medians, and the range of the rounds' ratios."""
        rows = []
        for point, ours in self.samples["allod"].items():
            settings = defaultdict(list)
            for setting, speed in self.samples["llama.cpp"].get(point, []):
                settings[setting].append(speed)
            if not settings:
                continue
            setting, theirs = max(settings.items(), key=lambda s: statistics.median(s[1]))
            ours = [speed for _, speed in ours]
            ratios = [a / b for a, b in zip(ours, theirs)]
            median = statistics.median
            test, depth, batch, threads = point
            rows.append({
                "test": test, "depth": depth, "batch": batch, "threads": threads,
                "allod": median(ours), "llama.cpp": median(theirs), "flash_attention": setting,
                "ratio": median(ours) / median(theirs), "least": min(ratios), "most": max(ratios),
                "allod_samples": ours, "llama.cpp_samples": theirs,
            })
        return rows


def main():
    args = arguments()
    runs = Runs(args)
    for i in range(args.rounds):
        print(f"round {i + 1} of {args.rounds}", file=sys.stderr)
        runs.round()
    rows = runs.table()
    print(f"{os.path.basename(args.model)}{', ' + args.isa if args.isa else ''}, median of {args.rounds}\n")
    print("| test | depth | batch | threads | allod | llama.cpp | ratio | range |")
    print("|---|---|---|---|---|---|---|---|")
    for r in rows:
        print(f"| {r['test']} | {r['depth']} | {r['batch']} | {r['threads']} | {r['allod']:.1f} | {r['llama.cpp']:.1f} "
              f"| {r['ratio']:.2f} | {r['least']:.2f}–{r['most']:.2f} |")
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"model": os.path.basename(args.model), "isa": args.isa, "rows": rows}, f, indent=1)


if __name__ == "__main__":
    main()
