"""A small model from nothing by `allod pretrain`, and the same training in plain PyTorch: same start, batches and steps.

    python scripts/peers/shakespeare.py ALLOD tinyshakespeare.txt [--steps N]

ALLOD is a release build of the binary. It trains a vocabulary and draws the first weights; Transformers reads both from
the files that it wrote (base.gguf, tokenizer.json), torch takes the same windows in the same order. Printed are the
largest difference of a step's loss and the held-out losses of both, which must agree within 0.01. Versions it was run
with: torch 2.15.0, transformers 5.23.0.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

CONTEXT, BATCH, WARMUP, RATE, DECAY = 128, 8, 20, 2e-3, 0.1
SIZE = dict(vocabulary=512, width=128, layers=4, heads=4, kv_heads=2, ff=352, context=CONTEXT)


def windows(tokenizer, text):
    """Each window repeats the last id of the one before, so that every id is predicted once."""
    ids = tokenizer.encode(text.rstrip("\n")).ids + [tokenizer.token_to_id("<|endoftext|>")]
    return [torch.tensor(ids[i : i + CONTEXT + 1]) for i in range(0, len(ids) - 1, CONTEXT)]


def loss_of(model, rows):
    """The sum over all predicted ids, and their number."""
    total, count = 0.0, 0
    for row in rows:
        logits = model(row[None, :-1]).logits[0]
        total = total + F.cross_entropy(logits, row[1:], reduction="sum")
        count += len(row) - 1
    return total, count


def factor(step, steps):
    return step / WARMUP if step < WARMUP else 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (steps - WARMUP)))


def train(model, rows, steps):
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), eps=1e-8)
    losses = []
    for step in range(steps):
        batch = rows[step * BATCH : (step + 1) * BATCH]
        logits = model(torch.stack([r[:-1] for r in batch])).logits
        loss = F.cross_entropy(logits.flatten(0, 1), torch.stack([r[1:] for r in batch]).flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = RATE * factor(step, steps)
        optimizer.step()
        losses.append(loss.item())
    return losses


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("allod")
    parser.add_argument("text", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()
    torch.set_num_threads(1)
    text = args.text.read_text()
    cut = text.index("\n\n", 900_000)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        parts = {"train.txt": text[:cut], "held.txt": text[cut:].lstrip("\n")}
        for name, part in parts.items():
            (folder / name).write_text(part)
        out = folder / "out"
        command = [args.allod, "pretrain", "--data", folder / "train.txt", "--eval", folder / "held.txt", "-o", out,
                   "--optim", "adamw", "--lr", RATE, "--weight-decay", DECAY, "--warmup-steps", WARMUP, "--scheduler",
                   "cosine", "--steps", args.steps, "--batch", BATCH, "--no-shuffle", "-t", 1]
        command += [x for k, v in SIZE.items() for x in (f"--{k.replace('_', '-')}", v)]
        subprocess.run([str(c) for c in command], check=True, capture_output=True)
        lines = [json.loads(line) for line in open(out / "metrics.jsonl")]
        ours = [line["loss"] for line in lines if line["phase"] == "train"]
        held = [line["loss"] for line in lines if line["phase"] == "eval"][-1]
        tokenizer = Tokenizer.from_file(str(out / "tokenizer/tokenizer.json"))
        model = AutoModelForCausalLM.from_pretrained(out, gguf_file="base.gguf", dtype=torch.float32)
        theirs = train(model, windows(tokenizer, parts["train.txt"]), args.steps)
        with torch.no_grad():
            total, count = loss_of(model.eval(), windows(tokenizer, parts["held.txt"]))
    worst = max(abs(a - b) for a, b in zip(ours, theirs))
    print(f"{args.steps} steps: first loss {ours[0]:.4f} and {theirs[0]:.4f}, last {ours[-1]:.4f} and {theirs[-1]:.4f}, "
          f"largest difference {worst:.1e}")
    print(f"held out: Allod {held:.4f}, PyTorch {total.item() / count:.4f} nats per token")
    sys.exit(0 if abs(held - total.item() / count) <= 0.01 else 1)


if __name__ == "__main__":
    main()
