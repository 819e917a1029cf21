"""Shows that what Allod and llama.cpp compute of MXFP4 experts is what Transformers computes of rows in 8 bits.

    python scripts/peers/rounded_rows.py ALLOD

ALLOD is a release build of the binary. Both round the rows that they multiply with quantized weights, to integers from
-127 to 127 in blocks of 32: Allod with a scale in F32 and halves to the even, llama.cpp with a scale that it keeps in
F16 and halves away from 0; llama.cpp also rounds the rows for BF16 weights to BF16. Here Transformers is made to do
either, and the two are compared with it, and with Transformers as it is, on the ids that llama.cpp writes. Distances are
shares of the standard deviation of the logits; a row whose rounding sends a token to other experts is far from any other.
Needs what llamacpp_tokens.py and the goldens need.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import llamacpp_tokens as tokens
import numpy as np
import torch
from transformers import AutoModelForCausalLM

NAME, PROMPTS = "gpt_oss-mxfp4", 24


def to_even(x):
    return torch.round(x)


def away_from_zero(x):
    return torch.sign(x) * torch.floor(x.abs() + 0.5)


def eight_bits(x, whole, keep):
    blocks = x.float().unflatten(-1, (-1, 32))
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    codes = whole(torch.where(scale > 0, blocks / scale, 0.0))
    return (codes * keep(scale)).flatten(-2)


def allods(x):
    return eight_bits(x, to_even, lambda scale: scale)


def llamas(x):
    return eight_bits(x, away_from_zero, lambda scale: scale.half().float())


def round_rows(model, experts, linears):
    """Has `model` round the rows before its experts and before its other products."""
    for layer in model.model.layers:
        e = layer.mlp.experts
        gate, forward = e._apply_gate, e.forward
        e._apply_gate = lambda x, gate=gate: experts(gate(x))
        e.forward = lambda x, *rest, forward=forward: forward(experts(x), *rest)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _, inputs: (linears(inputs[0]),))


def load(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    model.set_experts_implementation("eager")
    return model


def main():
    allod, same = sys.argv[1], lambda x: x
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        folder, file = tokens.fit(NAME, tmp), tmp / "model.gguf"
        subprocess.run([allod, "convert", folder, "-o", file], check=True, capture_output=True)
        rng = np.random.default_rng(7)
        prompts = [rng.integers(3, 128, n).tolist() for n in rng.integers(1, tokens.LONGEST_PROMPT + 1, PROMPTS)]
        peer = tokens.Peer(file, False)
        written = [peer.greedy(p) for p in prompts]
        ids = [w[0] for w in written]
        allods_logits = tokens.ours(allod, file, ids, tmp)["logits"]
        found = {}
        for name, experts, linears in (
            ("Transformers", same, same),
            ("Transformers, rounding as Allod", allods, same),
            ("Transformers, rounding as llama.cpp", llamas, lambda x: x.bfloat16().float()),
        ):
            model = load(folder)
            round_rows(model, experts, linears)
            with torch.no_grad():
                found[name] = model(torch.tensor(ids)).logits.numpy()
        tail = lambda logits: np.concatenate([l[len(p) - 1 : tokens.LENGTH - 1] for l, p in zip(logits, prompts)])
        peers = np.concatenate([rows for _, rows in written])
        for who, logits in (("Allod", tail(allods_logits)), ("llama.cpp", peers)):
            for name, expected in found.items():
                far = np.abs(logits - tail(expected)).max(1) / peers.std()
                same_choice = (logits.argmax(1) == tail(expected).argmax(1)).mean()
                print(
                    f"{who:9} and {name:35}: median {np.median(far):.1e}, nine in ten {np.quantile(far, 0.9):.1e}, "
                    f"most {far.max():.1e}; the same choice at {100 * same_choice:.1f}%"
                )


if __name__ == "__main__":
    main()
