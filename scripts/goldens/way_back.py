"""Has Transformers read the folders that the conversion test wrote, and compares what they compute with the goldens.

    ALLOD_BACK=DIR cargo test -p allod-models goldens_survive
    python scripts/goldens/way_back.py DIR [--goldens DIR] [NAME...]
"""

import argparse
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM

GOLDENS = Path(__file__).parents[2] / "crates/models/tests/goldens"
#: Distance allowed, as a share of the standard deviation: that of the tests.
TOLERANCE = 1e-4
#: A head of another task, which GGUF leaves out.
LEFT_OUT = "pooler."


def problem(folder, goldens):
    golden = load_file(goldens / folder.name / "golden.safetensors")
    key, auto = ("logits", AutoModelForCausalLM) if "logits" in golden else ("hidden", AutoModel)
    model, report = auto.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, attn_implementation="eager"
    )
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    with torch.no_grad():
        out = model.eval()(golden["ids"])
    found, expected = out.logits if key == "logits" else out.last_hidden_state, golden[key].float()
    far = ((found - expected).abs().max() / expected.std()).item()
    odd = {kind: [n for n in names if not n.startswith(LEFT_OUT)] for kind, names in report.items()}
    odd = {kind: names for kind, names in odd.items() if names}
    return f"{far:.1e} {odd or ''}" if odd or not far <= TOLERANCE else None


def main():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--goldens", type=Path, default=GOLDENS)
    args = parser.parse_args()
    failed = 0
    for folder in sorted(p for p in args.root.iterdir() if (p / "config.json").is_file()):
        if args.names and folder.name not in args.names:
            continue
        try:
            found = problem(folder, args.goldens)
        except Exception as error:  # whatever a model's code raises is what we came to see
            found = f"{type(error).__name__}: {str(error)[:400]}"
        failed += found is not None
        print(folder.name, found or "ok", flush=True)
    raise SystemExit(f"{failed} failed" if failed else 0)


if __name__ == "__main__":
    main()
