"""Holds the default model's file against three implementations that are not Allod's.

    check.py FILE                                  numpy, torch and Transformers agree on every logit
    check.py FILE --held-out held-out.txt          loss on whole stories, by torch
    check.py FILE --known-answer PROMPT --out JSON greedy ids that a test can compare with, by numpy
"""

import argparse
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from gguf_file import BOS, NumpyLlama
from model import Config, Llama


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


def torch_model(file):
    f = file.fields
    config = Config(
        vocab=f["llama.vocab_size"], width=f["llama.embedding_length"], layers=file.layers, heads=file.heads,
        kv_heads=file.kv_heads, ffn=f["llama.feed_forward_length"], context=f["llama.context_length"],
        rope_theta=file.theta, norm_eps=float(file.eps),
    )
    model = Llama(config)
    model.load_state_dict({n: torch.from_numpy(w.copy()) for n, w in file.weights.items()})
    return model


@torch.no_grad()
def check(path):
    """numpy from the file, torch, and Transformers' own GGUF reader agree on every logit."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = NumpyLlama(path)
    text = "Once upon a time, there was a little dragon named Rex. He couldn't fly!\n\n\"Why?\" asked his mom."
    tokenizer = tokenizer_of(file)
    ids = [0] + tokenizer.encode(text).ids
    assert tokenizer.decode(ids[1:]) == text
    ours = file.logits(ids)
    report(ours, torch_model(file)(torch.tensor([ids]))[0].numpy(), "torch")
    folder, name = Path(path).resolve().parent, Path(path).name
    theirs = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    report(ours, theirs(torch.tensor([ids])).logits[0].numpy(), "transformers")
    their_ids = AutoTokenizer.from_pretrained(folder, gguf_file=name).encode(text, add_special_tokens=False)
    assert their_ids == ids[1:], (their_ids, ids)
    print("tokenizer: same ids as transformers")


def report(ours, theirs, name):
    spread = ours.max() - ours.min()
    difference = np.abs(ours - theirs).max()
    print(f"numpy and {name}: largest difference {difference:.2e} of a spread of {spread:.1f}")
    assert difference < 1e-4 * spread


@torch.no_grad()
def held_out(path, texts):
    """Every story for itself, between two end tokens, up to the length of the context."""
    file = NumpyLlama(path)
    model, tokenizer = torch_model(file), tokenizer_of(file)
    stories = Path(texts).read_text().removesuffix("\n").split(f"\n{BOS}\n")
    nats, tokens = 0.0, 0
    for story in stories:
        row = torch.tensor(([0] + tokenizer.encode(story).ids + [0])[: model.c.context + 1])
        nats += F.cross_entropy(model(row[None, :-1])[0], row[1:], reduction="sum").item()
        tokens += len(row) - 1
    bits = nats / math.log(2) / sum(len(s.encode()) for s in stories)
    print(f"{len(stories)} stories: {nats / tokens:.4f} nats per token of {tokens}, {bits:.4f} bits per byte")


def known_answer(path, prompt, out):
    file = NumpyLlama(path)
    tokenizer = tokenizer_of(file)
    prompt_ids = [0] + tokenizer.encode(prompt).ids
    ids, margin = file.greedy(prompt_ids, 64)
    answer = {
        "prompt": prompt,
        "prompt_token_ids": prompt_ids,
        "token_ids": ids,
        "text": tokenizer.decode(ids, skip_special_tokens=False),
        "smallest_margin": round(margin, 4),
        "sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest(),
        "made_by": f"numpy {np.__version__} in float32, BOS first, from the file's dequantized weights",
    }
    Path(out).write_text(json.dumps(answer, indent=1) + "\n")
    print(answer["text"], margin)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--held-out", metavar="TEXT")
    parser.add_argument("--known-answer", metavar="PROMPT")
    parser.add_argument("--out")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.known_answer:
        known_answer(args.file, args.known_answer, args.out)
    elif args.held_out:
        held_out(args.file, args.held_out)
    else:
        check(args.file)


if __name__ == "__main__":
    main()
