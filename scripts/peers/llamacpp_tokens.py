"""Compares Allod's greedy tokens with llama.cpp's, on GGUF files that `allod convert` wrote.

    python scripts/peers/llamacpp_tokens.py ALLOD [--folders DIR] [--prompts N] [NAME...]

ALLOD is a release build of the binary. DIR holds folders of small models; NAME picks some of them. Needs
llama-cpp-python, numpy and safetensors. When no DIR is named, the models are the goldens, and those that use what
llama.cpp has no place for are made again without it (FITTED says what), which needs Transformers.

Each folder is converted to F32 (a quantized one as it is) and loaded in llama.cpp, which continues N prompts (64) of 1 to 24 random ids greedily
to 64 ids. The same ids then go through `allod logits`:
its choice after every position must be the id that follows, so the two write the same tokens. Logits differ by rounding
(llama.cpp reads GELU from a table of F16 numbers). Where the choice differs, the logits by at most FAR of their standard
deviation, and llama.cpp's best two are closer than twice that row's difference, the place is listed as a tie, and the
rest of that prompt is not compared; any other difference makes the model DIFFERENT. Both keep keys and values in F32.
Encoders have no tokens: there the hidden states are compared by their least cosine.
"""

import argparse
import ctypes
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[2]
GOLDENS = ROOT / "crates/models/tests/goldens"
LENGTH, LONGEST_PROMPT = 64, 24
#: Most that logits may differ, as a share of the standard deviation of all.
FAR = 2e-2
COSINE = 0.9999
#: What llama.cpp takes for granted of YaRN's ramp, whatever the file says.
RAMP = {"rope_parameters.beta_fast": 32.0, "rope_parameters.beta_slow": 1.0}
#: What else it has no place for, and the changes that leave it out.
FITTED = {
    "deepseek_v2": ("YaRN's ramp is fixed; groups are ranked as V3 does", RAMP | {"topk_method": "greedy"}),
    "deepseek_v2-lite": ("queries without a latent only in models of 27 layers", {"num_hidden_layers": 27}),
    "deepseek_v3": ("YaRN's ramp is fixed", RAMP),
    "gemma2": ("scores are scaled by the head size", {"query_pre_attn_scalar": 16}),
    "gemma3_text": ("scores are scaled by the head size", {"query_pre_attn_scalar": 16}),
    "gpt2-scaled": (
        "no scale by layer, and GELU in its tanh form",
        {"scale_attn_by_inverse_layer_idx": False, "activation_function": "gelu_new"},
    ),
    "gpt_oss": ("YaRN's ramp is fixed and ends at whole numbers", RAMP | {"rope_parameters.truncate": True}),
    "gpt_oss-mxfp4": ("YaRN's ramp is fixed and ends at whole numbers", RAMP | {"rope_parameters.truncate": True}),
    "llama-yarn": ("YaRN's ramp is fixed", RAMP),
    "llama4_text": ("chunks and steps of temperature of 8192", {"attention_chunk_size": 8192, "floor_scale": 8192}),
    "mistral": ("no window in `llama`", {"sliding_window": None}),
    "nemotron": ("heads as wide as the stream", {"head_dim": 8}),
    "olmo3": (
        "YaRN's ramp is fixed, no attention factor beside it",
        {
            "rope_parameters.full_attention.beta_fast": 32.0,
            "rope_parameters.full_attention.beta_slow": 1.0,
            "rope_parameters.full_attention.attention_factor": None,
        },
    ),
    "olmoe": ("as many key heads as query heads, not clipped", {"num_key_value_heads": 4, "clip_qkv": None}),
    "phi3-longrope": ("no window", {"sliding_window": None}),
    "qwen2-window": ("no window", {"use_sliding_window": False, "layer_types": ["full_attention"] * 3}),
    "qwen2_moe-dense-layers": (
        "no dense layers, weights that sum to what they do",
        {"decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": False},
    ),
    "qwen3_5_text": ("lengths in the delta rule take the norms' epsilon; here it is 1e-6", {"rms_norm_eps": 1e-6}),
    "qwen3_next": ("lengths in the delta rule take the norms' epsilon; here it is 1e-6", {"rms_norm_eps": 1e-6}),
}


class Peer:
    """A model in llama.cpp, through the C interface: the Python class hides which batch is run."""

    def __init__(self, path, encoder):
        import llama_cpp as c

        self.c, self.log = c, []
        self.keep = c.llama_log_callback(self.listen)
        c.llama_log_set(self.keep, ctypes.c_void_p(0))
        c.llama_backend_init()
        self.model = c.llama_model_load_from_file(str(path).encode(), c.llama_model_default_params())
        if not self.model:
            raise RuntimeError("does not load: " + " ".join(self.log[-2:]))
        params = c.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_threads, params.n_threads_batch = 256, 256, 256, 1, 1
        params.type_k = params.type_v = 0
        params.flash_attn_type = 0
        if encoder:
            params.embeddings, params.pooling_type, params.attention_type = True, 0, 1
        self.context = c.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError("no context: " + " ".join(self.log[-2:]))
        vocabulary = c.llama_model_get_vocab(self.model)
        self.vocabulary, self.width = c.llama_vocab_n_tokens(vocabulary), c.llama_model_n_embd(self.model)

    def listen(self, level, text, _):
        if level >= 4:
            self.log.append(text.decode(errors="replace").strip())

    def run(self, ids):
        tokens = (self.c.llama_token * len(ids))(*ids)
        if self.c.llama_decode(self.context, self.c.llama_batch_get_one(tokens, len(ids))):
            raise RuntimeError("decode failed: " + " ".join(self.log[-2:]))

    def row(self, found, at, width):
        return np.ctypeslib.as_array(found(self.context, at), (width,)).copy()

    def clear(self):
        memory = self.c.llama_get_memory(self.context)
        if memory:
            self.c.llama_memory_clear(memory, True)

    def greedy(self, prompt):
        """The prompt with its continuation, and the logits before each new id."""
        self.clear()
        ids, rows, new = list(prompt), [], list(prompt)
        while len(ids) < LENGTH:
            self.run(new)
            rows.append(self.row(self.c.llama_get_logits_ith, -1, self.vocabulary))
            new = [int(rows[-1].argmax())]
            ids += new
        return ids, np.stack(rows)

    def hidden(self, ids):
        self.clear()
        tokens = (self.c.llama_token * len(ids))(*ids)
        batch = self.c.llama_batch_get_one(tokens, len(ids))
        if self.c.llama_encode(self.context, batch):
            raise RuntimeError("encode failed: " + " ".join(self.log[-2:]))
        return np.stack([self.row(self.c.llama_get_embeddings_ith, i, self.width) for i in range(len(ids))])


def ours(allod, file, ids, folder):
    (folder / "ids.json").write_text(json.dumps(ids))
    command = [allod, "logits", file, "--ids", folder / "ids.json", "-o", folder / "out.safetensors", "--threads", "1"]
    subprocess.run(command, check=True, capture_output=True)
    return load_file(folder / "out.safetensors")


def compare_tokens(peer, allod, file, prompts, tmp):
    written = [peer.greedy(p) for p in prompts]
    logits = ours(allod, file, [ids for ids, _ in written], tmp)["logits"]
    same = tokens = further = 0
    notes, far = [], 0.0
    for number, ((ids, rows), prompt, mine) in enumerate(zip(written, prompts, logits)):
        mine = mine[len(prompt) - 1 : LENGTH - 1]
        deviation = rows.std()
        differ = np.flatnonzero(mine.argmax(1) != rows.argmax(1))
        end = differ[0] if len(differ) else len(rows)
        tokens += end
        distance = np.abs(mine[: end + 1] - rows[: end + 1]).max(1) / deviation
        far = max(far, distance.max())
        further += int((distance > FAR).sum())
        if not len(differ):
            same += 1
            continue
        best = np.sort(rows[end])[-2:]
        gap = (best[1] - best[0]) / deviation
        kind = "tie" if gap < 2 * distance[end] and distance[end] <= FAR else "OTHER"
        notes.append(f"{kind} prompt {number} position {len(prompt) + end}, gap {gap:.1e}")
    wrong = [n for n in notes if n.startswith("OTHER")]
    report = f"{same} of {len(prompts)} prompts, {tokens} tokens, logits within {far:.0e}"
    if further:
        report += f", {further} rows further than {FAR}"
    return not wrong, "; ".join([report, *notes[:4], *([f"… {len(notes)} in all"] if len(notes) > 4 else [])])


def compare_hidden(peer, allod, file, prompts, tmp):
    ids = [np.resize(p, LENGTH).tolist() for p in prompts]
    mine = ours(allod, file, ids, tmp)["hidden"].reshape(-1, peer.width)
    rows = np.concatenate([peer.hidden(i) for i in ids])
    cosine = (mine * rows).sum(1) / np.linalg.norm(mine, axis=1) / np.linalg.norm(rows, axis=1)
    return cosine.min() >= COSINE, f"hidden states of {len(rows)} rows, least cosine {cosine.min():.7f}"


def fit(name, root):
    """Makes the golden `name` again with the changes of FITTED, and returns its folder."""
    import torch
    import transformers

    sys.path.insert(0, str(ROOT))
    from scripts.goldens.models import make
    from scripts.goldens.models.__main__ import GOLDENS as makers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    golden = next(g for g in makers if g.name == name)
    config = golden.config
    for path, value in FITTED[name][1].items():
        config = make.changed(config, path, value)
    model = make.build(golden, config)
    make.fill(golden, model, make.SEED)
    folder = root / name
    model.save_pretrained(folder)
    if golden.repack:
        golden.repack(golden, folder)
    return folder


def one(args):
    """Compares one folder. In a process of its own: llama.cpp ends the process where it does not like a file."""
    folder = Path(args.one)
    config = json.loads((folder / "config.json").read_text())
    inner = config.get("text_config", config)
    encoder = not any("LM" in name or "ForConditional" in name for name in config["architectures"])
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        file = tmp / "model.gguf"
        plain = "quantization_config" not in config
        convert = [args.allod, "convert", folder, "-o", file, *(["--type", "F32"] if plain else [])]
        done = subprocess.run(convert, capture_output=True, text=True)
        if done.returncode:
            print("OUR CONVERTER: " + done.stderr.strip())
            return 2
        peer = Peer(file, encoder)
        rng = np.random.default_rng(7)
        lengths = rng.integers(1, LONGEST_PROMPT + 1, args.prompts)
        prompts = [rng.integers(3, inner["vocab_size"], n).tolist() for n in lengths]
        good, report = (compare_hidden if encoder else compare_tokens)(peer, args.allod, file, prompts, tmp)
        print(report)
        return 0 if good else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("allod")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--folders", type=Path)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        try:
            return one(args)
        except RuntimeError as error:
            print(f"llama.cpp {error}")
            return 3
    outcomes = {0: "same", 1: "DIFFERENT", 2: "NOT CONVERTED"}
    counts = {}
    with tempfile.TemporaryDirectory() as tmp:
        for folder in sorted(p for p in (args.folders or GOLDENS).iterdir() if (p / "config.json").is_file()):
            if args.names and folder.name not in args.names:
                continue
            fitted = FITTED.get(folder.name) if args.folders is None else None
            if fitted:
                folder = fit(folder.name, Path(tmp))
            again = [sys.executable, __file__, args.allod, "--one", str(folder), "--prompts", str(args.prompts)]
            done = subprocess.run(again, capture_output=True, text=True)
            outcome = outcomes.get(done.returncode, "REFUSED")
            counts[outcome] = counts.get(outcome, 0) + 1
            lines = (done.stdout.strip() or done.stderr.strip()).splitlines()
            why = f" [{fitted[0]}]" if fitted else ""
            print(f"{folder.name:24} {outcome:13} {lines[-1] if lines else ''}{why}", flush=True)
    print(counts)


if __name__ == "__main__":
    sys.exit(main())
