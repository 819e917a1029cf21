"""MXFP4 as the gpt-oss checkpoints store it: 32 values share a power of two, each a 4-bit float (OCP MX v1.0)."""

import json
import re

import torch
from safetensors.torch import load_file, save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

VALUES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])
EXPERTS = re.compile(r"experts\.(gate_up|down)_proj$")


def quantize(rows):
    """[..., width] f32 -> codes [..., width / 32, 32] and exponents [..., width / 32], biased by 127."""
    blocks = rows.unflatten(-1, (-1, 32))
    largest = blocks.abs().amax(-1)
    exponents = (torch.floor(torch.log2(largest)) - 2).clamp(-127, 127)
    scaled = blocks / torch.exp2(exponents)[..., None]
    codes = (scaled[..., None] - VALUES).abs().argmin(-1)
    return codes, exponents + 127


def dequantize(codes, exponents):
    return (VALUES[codes] * torch.exp2(exponents - 127)[..., None]).flatten(-2)


@torch.no_grad()
def round_experts(model):
    """Make the experts representable. Parameters are [experts, inputs, outputs]; blocks run along the inputs."""
    for name, tensor in model.named_parameters():
        if EXPERTS.search(name):
            tensor.copy_(dequantize(*quantize(tensor.mT.contiguous())).mT)


def repack(_golden, folder):
    """Replace the experts in a saved folder by `_blocks` (two codes a byte, the even one low) and `_scales`.

    Transformers' own reader of them must give the rounded values back.
    """
    tensors, packed = load_file(folder / "model.safetensors"), {}
    for name, tensor in tensors.items():
        if EXPERTS.search(name):
            codes, exponents = quantize(tensor.float().mT.contiguous())
            blocks = (codes[..., 0::2] | codes[..., 1::2] << 4).to(torch.uint8)
            scales = exponents.to(torch.uint8)
            assert torch.equal(convert_moe_packed_tensors(blocks, scales, dtype=torch.float32), tensor.float())
            packed |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        else:
            packed[name] = tensor
    save_file(packed, folder / "model.safetensors", metadata={"format": "pt"})

    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "modules_to_not_convert": [
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "model.embed_tokens",
            "lm_head",
        ],
        "quant_method": "mxfp4",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
