"""Make one golden: random weights that make every path matter, the answer, and proof that it would catch an error.

A golden is only worth committing if a wrong implementation cannot pass it. So each one is tried before it is written:

* a changed config value (`moves`) must move the logits, and so must every tensor when it is taken away;
* noise of 1e-5 in the weights must not (no top-k choice hangs on a rounding error);
* f64 arithmetic, running token by token with the cache, and running a prefix must all give the same answer;
* what was saved, loaded again, must give the same.
"""

import copy
import json
import re
import shutil
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

SEED = 20260101
#: What may differ from the answer, and what must: fractions of the spread (max - min) of the logits.
SAME, MOVED, FAINT = 2e-5, 1e-3, 2e-4


@dataclass
class Golden:
    """One small model: its config, how its weights are drawn, and which changes must be seen in its answer."""

    name: str
    config: object
    #: dotted config field -> a wrong value, which must move the logits
    moves: dict = field(default_factory=dict)
    #: the same for what moves them less (the two GELUs are 5e-4 apart at most), but more than tests tolerate
    faint: dict = field(default_factory=dict)
    #: regular expression on the tensor name -> (mean, std) or a function of (shape, generator)
    init: dict = field(default_factory=dict)
    #: tensors that cannot matter (a key bias without rotary positions drops out of the softmax)
    inert: str = r"(?!)"
    dtype: torch.dtype = torch.bfloat16
    positions: int = 32
    #: also record the answer for this many positions, where it is not a prefix of the long one
    short: int = 0
    #: why decoding with the cache is not compared, if it is not
    uncached: str = ""
    auto: type = AutoModelForCausalLM
    #: an encoder: its answer is the last hidden state, and vectors pooled from it
    encoder: bool = False
    #: called with the built model before its answer is taken
    adjust: Callable | None = None
    #: lowest id that a sequence may hold (above the special tokens)
    first_id: int = 3
    #: called with the folder after saving, to write other tensors (quantized experts)
    repack: Callable | None = None


def build(golden, config):
    model = golden.auto.from_config(copy.deepcopy(config), attn_implementation="eager", dtype=torch.float32)
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    return model.eval()


def draw(golden, name, tensor, seed):
    """A new value for one parameter. Its default (ones, zeros, noise) and its shape tell what it is."""
    gen = torch.Generator().manual_seed((seed << 32) + zlib.crc32(name.encode()))
    normal = lambda mean, std: mean + std * torch.randn(tensor.shape, generator=gen)
    for pattern, rule in golden.init.items():
        if re.search(pattern, name) and not (callable(rule) and tensor.ndim < 2):
            return rule(tensor.shape, gen) if callable(rule) else normal(*rule)
    if tensor.ndim <= 1:
        # A norm: around what leaves the row as it is. A bias: around 0.
        return normal(1.0 if tensor.numel() and bool((tensor == 1).all()) else 0.0, 0.3)
    if re.search(r"embed|wte|wpe|embd|embeddings", name) and tensor.ndim == 2:
        return normal(0.0, 0.25)
    gain = 1.3 if re.search(r"\b(q|k|query|key|q_proj|k_proj)\b", name) else 1.0
    return normal(0.0, gain / tensor.shape[-1] ** 0.5)


def tensors(model):
    """What a checkpoint holds: the parameters (tied ones once) and the buffers that are saved (a router's bias)."""
    saved = model.state_dict().keys()
    buffers = [(k, v) for k, v in model.named_buffers() if k in saved and v.is_floating_point()]
    return [*model.named_parameters(), *buffers]


@torch.no_grad()
def fill(golden, model, seed):
    for name, tensor in tensors(model):
        tensor.copy_(draw(golden, name, tensor, seed).to(golden.dtype))
    if golden.adjust:
        golden.adjust(model)


def sequences(golden, vocabulary, seed):
    gen = torch.Generator().manual_seed(seed + 1)
    return torch.randint(golden.first_id, vocabulary, (2, golden.positions), generator=gen)


@torch.no_grad()
def answer(model, ids):
    """[sequences, positions, vocabulary] logits, or the hidden states of a model without a head."""
    out = model(input_ids=ids, use_cache=False)
    return out.logits if "logits" in out else out.last_hidden_state


@torch.no_grad()
def decoded(model, ids):
    """The logits of every position when the tokens come one at a time."""
    rows, cache = [], None
    for at in range(ids.shape[1]):
        key = "cache_params" if hasattr(model, "backbone") and "mamba" in model.config.model_type else "past_key_values"
        out = model(input_ids=ids[:, at : at + 1], use_cache=True, **({key: cache} if cache is not None else {}))
        cache = out.get(key)
        rows.append(out.logits)
    return torch.cat(rows, dim=1)


def apart(a, b):
    """Largest difference, as a fraction of the spread of `a`."""
    return ((a - b).abs().max() / (a.max() - a.min())).item()


def changed(config, path, value):
    config = copy.deepcopy(config)
    *outer, last = path.split(".")
    at = config
    for key in outer:
        at = at[key] if isinstance(at, dict) else getattr(at, key)
    if isinstance(at, dict):
        assert last in at, f"{path}: not in the config"
        at[last] = value
    else:
        assert hasattr(at, last), f"{path}: not in the config"
        setattr(at, last, value)
    return config


def check_fields(golden, model, ids, logits):
    found = {}
    for path, value in (golden.moves | golden.faint).items():
        other = build(golden, changed(golden.config, path, value))
        other.load_state_dict(model.state_dict())
        found[path] = apart(logits, answer(other, ids))
        least = MOVED if path in golden.moves else FAINT
        assert found[path] > least, f"{golden.name}: {path} = {value} moves the logits by only {found[path]:.1e}"
    return found


@torch.no_grad()
def check_tensors(golden, model, ids, logits):
    """Take each tensor (each expert of a stack) away: the answer must change."""
    weakest = (9.0, "")
    for name, tensor in tensors(model):
        if re.search(golden.inert, name):
            continue
        for part in tensor.unbind(0) if tensor.ndim == 3 and tensor.shape[1] > 1 else [tensor]:
            kept = part.clone()
            part.fill_(1.0 if part.ndim == 1 and abs(part.mean() - 1) < 0.3 else 0.0)
            moved = apart(logits, answer(model, ids))
            part.copy_(kept)
            assert moved > MOVED, f"{golden.name}: without {name} the logits move by only {moved:.1e}"
            weakest = min(weakest, (moved, name))
    return weakest


@torch.no_grad()
def check_steady(golden, model, ids, logits):
    """Noise far below f32 kernels' freedom times a thousand moves nothing: no choice is close to a tie."""
    clean, worst = copy.deepcopy(model.state_dict()), 0.0
    gen = torch.Generator().manual_seed(1)
    for _ in range(6):
        noise = lambda t: 1 + 1e-5 * torch.randn(t.shape, generator=gen)
        model.load_state_dict({k: t * noise(t) if t.is_floating_point() else t for k, t in clean.items()})
        worst = max(worst, apart(logits, answer(model, ids)))
    model.load_state_dict(clean)
    return worst


def check(golden, model, ids, logits):
    moved = check_fields(golden, model, ids, logits)
    exact = apart(logits, answer(copy.deepcopy(model).double(), ids).float())
    assert exact < SAME, f"{golden.name}: f64 differs by {exact:.1e}"
    if not golden.short and not golden.encoder:
        part = apart(logits[:, :11], answer(build_like(golden, model), ids[:, :11]))
        assert part < SAME, f"{golden.name}: a prefix alone differs by {part:.1e}"
    cached = float("nan")
    if not golden.uncached and not golden.encoder:
        cached = apart(logits, decoded(build_like(golden, model), ids))
        assert cached < SAME, f"{golden.name}: token by token differs by {cached:.1e}"
    fields = " ".join(f"{k}:{v:.0e}" for k, v in moved.items())
    print(f"  f64 {exact:.0e}  cached {cached:.0e}  {fields}", flush=True)


def build_like(golden, model):
    """A fresh copy: some rotary embeddings keep state from one call to the next."""
    other = build(golden, golden.config)
    other.load_state_dict(model.state_dict())
    return other


def attempt(golden, seed):
    """The model of one seed with its answer, if all can be seen in it."""
    model = build(golden, golden.config)
    fill(golden, model, seed)
    ids = sequences(golden, model.config.get_text_config().vocab_size, seed)
    logits = answer(model, ids)
    assert torch.isfinite(logits).all(), f"{golden.name}: logits not finite"
    noise = check_steady(golden, model, ids, logits)
    assert noise < 3e-4, f"{golden.name}: hangs on a rounding error ({noise:.1e})"
    weakest = check_tensors(golden, model, ids, logits)
    spread = (logits.max() - logits.min()).item()
    size = sum(p.numel() for p in model.parameters())
    print(f"{golden.name}: {size} parameters, logits {logits.std():.2f} std, {spread:.1f} spread, noise {noise:.0e}")
    print(f"  weakest tensor {weakest[0]:.0e} {weakest[1]}")
    return model, ids, logits


def make(golden, root):
    """Write `root/<name>`; returns the seed that was used: the first whose routing is steady and uses every expert."""
    for seed in range(SEED, SEED + 20):
        try:
            model, ids, logits = attempt(golden, seed)
            break
        except AssertionError as error:
            reason = error
    else:
        raise reason
    check(golden, model, ids, logits)

    found = {"ids": ids, **(pooled(logits) if golden.encoder else {"logits": logits})}
    if golden.short:
        found["ids_short"] = ids[:, : golden.short].clone()
        found["logits_short"] = answer(build_like(golden, model), found["ids_short"])
    save(golden, model, found, root / golden.name)
    return seed


def pooled(hidden):
    """The vectors that sentence-transformers makes of hidden states, and those divided by their length."""
    vectors = {"mean": hidden.mean(1), "cls": hidden[:, 0], "last": hidden[:, -1]}
    unit = {f"{k}_normalized": torch.nn.functional.normalize(v, dim=-1) for k, v in vectors.items()}
    return {"hidden": hidden, **vectors, **unit}


def save(golden, model, found, folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    copy.deepcopy(model).to(golden.dtype).save_pretrained(folder)
    save_file({k: v.contiguous() for k, v in found.items()}, folder / "golden.safetensors")
    again = golden.auto.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    if hasattr(again, "set_experts_implementation"):
        again.set_experts_implementation("eager")
    logits = found["hidden" if golden.encoder else "logits"]
    # Where a tensor lies in memory may change the order of a sum.
    assert apart(logits, answer(again, found["ids"])) < 1e-6, f"{golden.name}: differs after loading"
    if golden.repack:
        golden.repack(golden, folder)


def versions(path, seeds):
    """Record what made the goldens, beside the seed of each."""
    import numpy, platform, safetensors, transformers

    old = json.loads(path.read_text()) if path.exists() else {}
    made = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "safetensors": safetensors.__version__,
        "numpy": numpy.__version__,
        "seeds": dict(sorted({**old.get("seeds", {}), **seeds}.items())),
    }
    path.write_text(json.dumps(made, indent=2) + "\n")


def default_root():
    return Path(__file__).resolve().parents[3] / "crates" / "models" / "tests" / "goldens"
