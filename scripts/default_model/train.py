"""Trains the default model that `allod run` answers with, and writes it as one GGUF file.

    train.py TEXT --work DIR --out allod-stories.gguf     train (or go on from DIR's checkpoint), then write
    train.py --check allod-stories.gguf                   read the file back and compare three implementations
    train.py --known-answer PROMPT --file FILE --out JSON greedy ids that a test can compare with

One thread and a fixed seed: on the same machine and versions a run repeats itself.
"""

import argparse
import hashlib
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import tokenizers
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import gguf_file
from corpus import Wishes, read_stories
from gguf_file import BOS
from model import Config, Llama

VERSION = "1"
BATCH_TOKENS = 2048
WARMUP_STEPS = 50
DECAY_SHARE = 0.4
MUON = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.1}
ADAMW = {"lr": 0.003, "betas": (0.9, 0.95), "weight_decay": 0.0}
WISH_SHARE = 0.5
IGNORE = -100


def train_tokenizer(stories, vocab):
    """Byte-level BPE with GPT-2's pre-tokenizer; token 0 stands before and after every story."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(stories, trainer)
    return tokenizer


class Data:
    """Tokenized stories: 2 % held out, the rest drawn in a new order and with new wishes every epoch."""

    def __init__(self, path, config, seed):
        self.seed, self.context = seed, config.context
        self.sha256 = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        stories = read_stories(path)
        random.Random(seed).shuffle(stories)
        held = len(stories) // 50
        self.held, self.stories = stories[:held], stories[held:]
        self.tokenizer = train_tokenizer(self.stories, config.vocab)
        self.wishes = Wishes(self.stories)

    def encode(self, texts):
        """One list of ids per text, from BOS to EOS, at most context + 1 long."""
        encoded = self.tokenizer.encode_batch(texts)
        return [([0] + e.ids + [0])[: self.context + 1] for e in encoded]

    def batches(self, rows, rng):
        """Batches of rows of similar length, about BATCH_TOKENS each, as (ids, targets)."""
        for start in range(0, len(rows), 512):
            rows[start : start + 512] = sorted(rows[start : start + 512], key=len)
        groups, group, longest = [], [], 0
        for row in rows:
            longest = max(longest, len(row) - 1)
            if group and longest * (len(group) + 1) > BATCH_TOKENS:
                groups.append(group)
                group, longest = [], len(row) - 1
            group.append(row)
        groups.append(group)
        rng.shuffle(groups)
        for group in groups:
            yield pad(group)

    def epoch(self, number):
        rng = random.Random(f"{self.seed} {number}")
        stories = list(self.stories)
        rng.shuffle(stories)
        texts = []
        for story in stories:
            wish = self.wishes.draw(story, rng) if rng.random() < WISH_SHARE else None
            texts.append(f"A story about {wish}.\n\n{story}" if wish else story)
        return self.batches(self.encode(texts), rng)

    def forever(self, steps_done):
        """(epoch, batch) without end, from after the batches that `steps_done` steps have used."""
        number, seen = 0, 0
        while True:
            for batch in self.epoch(number):
                seen += 1
                if seen > steps_done:
                    yield number, batch
            number += 1

    def held_out(self):
        return self.batches(self.encode(self.held), random.Random(0))


def pad(group):
    longest = max(map(len, group)) - 1
    ids = torch.zeros(len(group), longest, dtype=torch.long)
    targets = torch.full((len(group), longest), IGNORE)
    for i, row in enumerate(group):
        ids[i, : len(row) - 1] = torch.tensor(row[:-1])
        targets[i, : len(row) - 1] = torch.tensor(row[1:])
    return ids, targets


def loss_of(model, ids, targets, reduction="mean"):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(ids)
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction=reduction)


@torch.no_grad()
def validate(model, data):
    """Loss in nats per token, and bits per byte of text, over the held-out stories."""
    nats, tokens = 0.0, 0
    for ids, targets in data.held_out():
        nats += loss_of(model, ids, targets, "sum").item()
        tokens += (targets != IGNORE).sum().item()
    return nats / tokens, nats / math.log(2) / sum(len(s.encode()) for s in data.held)


def rate(step, steps):
    """Share of the full learning rate: up, level, then down to nothing."""
    decay_start = steps * (1 - DECAY_SHARE)
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    return min(1.0, (steps - step) / (steps - decay_start))


def optimizers_of(model):
    matrices = [p for p in model.blk.parameters() if p.dim() == 2]
    rest = [p for n, p in model.named_parameters() if p.dim() == 1 or n == "token_embd.weight"]
    return torch.optim.Muon(matrices, **MUON), torch.optim.AdamW(rest, **ADAMW)


def save(path, model, optimizers, progress):
    state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "progress": progress}
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").rename(path)


def train(args):
    torch.manual_seed(args.seed)
    config = Config()
    data = Data(args.text, config, args.seed)
    model = Llama(config)
    optimizers = optimizers_of(model)
    progress = {"step": 0, "tokens": 0, "epochs": 0.0, "seconds": 0.0}
    checkpoint = Path(args.work) / "last.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        progress = state["progress"]
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {len(data.stories)} stories", flush=True)

    source = data.forever(progress["step"])
    began = time.monotonic() - progress["seconds"]
    train_tokens = sum(len(r) - 1 for r in data.encode(data.stories))
    while progress["step"] < args.steps:
        step = progress["step"]
        _, (ids, targets) = next(source)
        loss = loss_of(model, ids, targets)
        loss.backward()
        for optimizer, settings in zip(optimizers, (MUON, ADAMW)):
            for group in optimizer.param_groups:
                group["lr"] = settings["lr"] * rate(step, args.steps)
            optimizer.step()
            optimizer.zero_grad()
        progress["step"] = step + 1
        progress["tokens"] += (targets != IGNORE).sum().item()
        progress["epochs"] = progress["tokens"] / train_tokens
        progress["seconds"] = time.monotonic() - began
        if (step + 1) % 20 == 0:
            print(f"step {step + 1} loss {loss.item():.3f} tokens {progress['tokens']} {progress['seconds']:.0f} s", flush=True)
        if (step + 1) % 200 == 0 or step + 1 == args.steps:
            progress["validation"] = validate(model, data)
            print("validation: %.4f nats/token, %.4f bits/byte" % progress["validation"], flush=True)
            save(checkpoint, model, optimizers, progress)
            if step + 1 <= args.steps * (1 - DECAY_SHARE):
                save(checkpoint.with_name("level.pt"), model, optimizers, progress)
    export(model, data, progress, args)


def export(model, data, progress, args):
    loss, bits = progress["validation"]
    run = {
        "version": VERSION,
        "seed": args.seed,
        "steps": progress["step"],
        "tokens": progress["tokens"],
        "epochs": progress["epochs"],
        "validation_loss": loss,
        "validation_bits_per_byte": bits,
        "torch_version": torch.__version__,
        "dataset_sha256": data.sha256,
    }
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    gguf_file.write(args.out, state, model.c, data.tokenizer.to_str(), run)
    print(json.dumps(run, indent=1))


def tokenizer_of(file):
    """The file's tokenizer, rebuilt from its keys."""
    f = file.fields
    vocab = {t: i for i, t in enumerate(f["tokenizer.ggml.tokens"])}
    merges = [tuple(m.split(" ")) for m in f["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([BOS])
    return tokenizer


def check(path):
    """numpy from the file, this script's torch model, and Transformers' own GGUF reader agree on every logit."""
    file = gguf_file.NumpyLlama(path)
    f = file.fields
    config = Config(
        vocab=f["llama.vocab_size"], width=f["llama.embedding_length"], layers=file.layers, heads=file.heads,
        kv_heads=file.kv_heads, ffn=f["llama.feed_forward_length"], context=f["llama.context_length"],
        rope_theta=file.theta, norm_eps=float(file.eps),
    )
    text = "Once upon a time, there was a little dragon named Rex. He couldn't fly!\n\n\"Why?\" asked his mom."
    tokenizer = tokenizer_of(file)
    ids = [0] + tokenizer.encode(text).ids
    assert tokenizer.decode(ids[1:]) == text
    ours = file.logits(ids)
    model = Llama(config)
    model.load_state_dict({n: torch.from_numpy(w.copy()) for n, w in file.weights.items()})
    with torch.no_grad():
        torch_logits = model(torch.tensor([ids]))[0].numpy()
    report(ours, torch_logits, "torch")

    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, name = Path(path).resolve().parent, Path(path).name
    theirs = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    with torch.no_grad():
        report(ours, theirs(torch.tensor([ids])).logits[0].numpy(), "transformers")
    their_ids = AutoTokenizer.from_pretrained(folder, gguf_file=name).encode(text, add_special_tokens=False)
    assert their_ids == ids[1:], (their_ids, ids)
    print("tokenizer: same ids as transformers")


def report(ours, theirs, name):
    spread = ours.max() - ours.min()
    difference = np.abs(ours - theirs).max()
    print(f"numpy and {name}: largest difference {difference:.2e} of a spread of {spread:.1f}")
    assert difference < 1e-4 * spread


def known_answer(args):
    file = gguf_file.NumpyLlama(args.file)
    tokenizer = tokenizer_of(file)
    prompt = [0] + tokenizer.encode(args.known_answer).ids
    ids, margin = file.greedy(prompt, 64)
    answer = {
        "prompt": args.known_answer,
        "prompt_token_ids": prompt,
        "token_ids": ids,
        "text": tokenizer.decode(ids, skip_special_tokens=False),
        "smallest_margin": round(margin, 4),
        "sha256": hashlib.sha256(Path(args.file).read_bytes()).hexdigest(),
        "made_by": f"numpy {np.__version__} in float32, BOS first, from the file's dequantized weights",
    }
    Path(args.out).write_text(json.dumps(answer, indent=1) + "\n")
    print(answer["text"], margin)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="?")
    parser.add_argument("--work", help="folder for checkpoints")
    parser.add_argument("--out")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--check", metavar="FILE")
    parser.add_argument("--known-answer", metavar="PROMPT")
    parser.add_argument("--file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    if args.check:
        check(args.check)
    elif args.known_answer:
        known_answer(args)
    else:
        Path(args.work).mkdir(parents=True, exist_ok=True)
        train(args)


if __name__ == "__main__":
    main()
