"""8-bit floats as DeepSeek V3 and others store them: blocks of a matrix share a scale, `<name>_scale_inv`."""

import json
import re

import torch
from safetensors.torch import load_file, save_file
from transformers import FineGrainedFP8Config

#: Rows and columns of a block: other than those of published models, which are larger than these matrices.
BLOCK = (8, 4)
#: What published checkpoints leave in a larger type is everything else.
MATRICES = re.compile(r"(self_attn\.\w+_proj(_with_mqa)?|(gate|up|down)_proj)\.weight$|experts\.(gate_up|down)_proj$")
LARGEST = 448.0


def quantize(matrix):
    """[..., rows, columns] f32 -> E4M3 values and [..., row blocks, column blocks] scales."""
    high, wide = BLOCK
    blocks = matrix.unflatten(-1, (-1, wide)).unflatten(-3, (-1, high))
    scales = blocks.abs().amax((-3, -1)) / LARGEST
    return (blocks / scales[..., None, :, None]).flatten(-4, -3).flatten(-2).to(torch.float8_e4m3fn), scales


def dequantize(values, scales):
    high, wide = BLOCK
    return values.float() * scales.repeat_interleave(high, -2).repeat_interleave(wide, -1)


@torch.no_grad()
def round_matrices(model):
    for name, tensor in model.named_parameters():
        if MATRICES.search(name):
            tensor.copy_(dequantize(*quantize(tensor)))


def repack(golden, folder):
    """Replaces the matrices in a saved folder; Transformers' own reader of them must give the answer again."""
    tensors, packed = load_file(folder / "model.safetensors"), {}
    for name, tensor in tensors.items():
        if MATRICES.search(name):
            values, scales = quantize(tensor.float())
            assert torch.equal(dequantize(values, scales), tensor.float()), f"{name}: not the rounded numbers"
            packed |= {name: values, f"{name}_scale_inv": scales}
        else:
            packed[name] = tensor
    save_file(packed, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    quantization = {"quant_method": "fp8", "weight_block_size": list(BLOCK), "activation_scheme": "dynamic"}
    config["quantization_config"] = quantization | {"modules_to_not_convert": ["lm_head"]}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")

    found = load_file(folder / "golden.safetensors")
    plain = FineGrainedFP8Config(weight_block_size=BLOCK, dequantize=True, modules_to_not_convert=["lm_head"])
    again = golden.auto.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32, quantization_config=plain
    )
    with torch.no_grad():
        logits = again.eval()(found["ids"]).logits
    far = (logits - found["logits"]).abs().max() / found["logits"].std()
    assert far < 1e-4, f"{folder.name}: Transformers reads it otherwise, by {far:.1e}"
