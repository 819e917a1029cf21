"""Gradients of the golden models by autograd: `python scripts/goldens/gradients.py [NAME...]`, beside each golden.

    pip install torch transformers==5.23.0 safetensors

Loss of a decoder: the mean cross-entropy of each next token of all sequences. Of an encoder: the sum over sequences of
its last row times fixed factors. The gradients take the weights' place and are saved as a model, so that they carry the
names and layouts of the checkpoint; of each kind of tensor the first one is kept, if it is small.
"""

import argparse
import re
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).parents[2] / "crates" / "models" / "tests" / "goldens"
LARGEST = 4096
BUDGET = 16384


def load(folder):
    config = transformers.AutoConfig.from_pretrained(folder)
    name = config.architectures[0]
    kind = getattr(transformers, name)
    return kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def gradients(folder):
    torch.manual_seed(0)
    model = load(folder).eval()
    ids = load_file(folder / "golden.safetensors")["ids"]
    with safe_open(folder / "golden.safetensors", "pt") as f:
        decoder = "logits" in f.keys()
    if decoder:
        logits = model(input_ids=ids, use_cache=False).logits.float()
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    else:
        hidden = model(input_ids=ids).last_hidden_state[:, -1]
        factors = (torch.arange(hidden.shape[-1]) * 7 % 11) / 5 - 0.9
        loss = (hidden * factors).sum()
    loss.backward()
    buffers = {name for name, _ in model.named_buffers()}
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.grad if p.grad is not None else torch.zeros_like(p))
    with tempfile.TemporaryDirectory() as out:
        model.save_pretrained(out)
        tensors = load_file(Path(out) / "model.safetensors")
    kept, kinds, used = {}, {}, 0
    tensors = {n: t for n, t in tensors.items() if n not in buffers}
    for name in sorted(tensors, key=lambda n: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", n)]):
        kind = re.sub(r"\d+", "N", name)
        layer = (re.findall(r"\d+", name) or ["-"])[0]
        kinds.setdefault(kind, layer)
        if kinds[kind] != layer:
            continue
        kept[name] = tensors[name].float().contiguous()
    total = {}
    for name, t in kept.items():
        total.setdefault(re.sub(r"\d+", "N", name), []).append(t.numel())
    small = {}
    for kind, sizes in sorted(total.items(), key=lambda i: sum(i[1])):
        if sum(sizes) > LARGEST or used + sum(sizes) > BUDGET:
            continue
        used += sum(sizes)
        small |= {n: t for n, t in kept.items() if re.sub(r"\d+", "N", n) == kind}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    save_file(small, folder / "gradients.safetensors", metadata={"loss": repr(loss.item()), **versions})
    print(folder.name, loss.item(), len(small), used, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for folder in sorted(p.parent for p in ROOT.glob("*/golden.safetensors")):
        if args.names and folder.name not in args.names:
            continue
        try:
            gradients(folder)
        except Exception as error:  # a family that autograd cannot follow here is named and left out
            print("FAILED", folder.name, type(error).__name__, str(error)[:300], flush=True)


if __name__ == "__main__":
    main()
