"""Training killed at random moments (kill -9) and resumed, against the same training left alone.

    python scripts/killed_runs.py ALLOD [--kills N] [--seed S]

ALLOD is a release build of the binary. An adapter on the built-in model and a small model from nothing are trained twice:
once undisturbed, once killed N times (20) at moments drawn over the whole of the run, from its first milliseconds to
the writing of its outputs. Every output must be the same bytes, and `allod tune verify` must replay it.
"""

import argparse
import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = "the cat sat on a mat and saw her dog run to his big red ball".split()


def story(rng):
    return " ".join(rng.choice(WORDS) for _ in range(rng.randrange(8, 40))).capitalize() + "."


def digests(folder, names):
    return {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names}


def check(allod, what, command, names, folder, kills, rng):
    calm, torn = folder / f"{what}-calm", folder / f"{what}-torn"
    start = time.monotonic()
    subprocess.run([*command, "-o", str(calm)], check=True, capture_output=True)
    whole = time.monotonic() - start
    killed = 0
    while True:
        process = subprocess.Popen([*command, "-o", str(torn), "--resume"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            # Short lives, so that a run that goes on from its last checkpoint is met at every place.
            wait = rng.uniform(0.002, whole / 4) if killed < kills else None
            _, err = process.communicate(timeout=wait)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            killed += 1
            continue
        if process.returncode != 0:
            sys.exit(f"{what}: after {killed} kills the run failed:\n{err.decode()}")
        if killed >= kills:
            break
        # It ended before it was killed: the next begins anew in the same folder's place.
        subprocess.run(["rm", "-r", str(torn)], check=True)
    same = digests(calm, names) == digests(torn, names)
    verified = subprocess.run([allod, "tune", "verify", str(torn)], capture_output=True, text=True)
    print(f"{what}: {whole:.1f} s undisturbed, killed {killed} times; same bytes: {same}; {verified.stderr.strip()}")
    return same and verified.returncode == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("allod")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        text = folder / "stories.txt"
        text.write_text("\n<|endoftext|>\n".join(story(rng) for _ in range(200)))
        tune = [args.allod, "tune", "default", "--data", str(text), "--steps", "60", "--batch", "4", "--lr", "1e-3",
                "--dropout", "0.1", "--save-every", "2", "-t", "1", "--held-out", "0.05"]
        pretrain = [args.allod, "pretrain", "--data", str(text), "--name", "small", "--vocabulary", "300", "--width", "64", "--layers", "2",
                    "--heads", "2", "--kv-heads", "1", "--ff", "128", "--context", "64", "--steps", "80", "--batch", "4",
                    "--warmup-steps", "5", "--save-every", "3", "-t", "1"]
        adapter = ["adapter/adapter_model.safetensors", "adapter/adapter_config.json", "adapter.gguf"]
        good = check(args.allod, "adapter", tune, adapter, folder, args.kills, rng)
        good = check(args.allod, "pretraining", pretrain, ["model.gguf", "base.gguf"], folder, args.kills, rng) and good
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
