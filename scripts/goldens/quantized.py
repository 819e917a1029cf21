"""Makes folders with quantized weights at the block sizes of published models, to hold Allod against Transformers.

    python -m scripts.goldens.quantized OUT [--seed N]
    ALLOD_GOLDENS=OUT ALLOD_BACK=DIR cargo test -p allod-models golden -- --nocapture

FP8 with blocks of 128 by 128 whose last ones are cut short, with one scale a tensor and one a row (by the names of
FineGrainedFP8, FBGEMM and compressed-tensors), for a dense model and one shaped like DeepSeek V3; MXFP4 experts as in
gpt-oss. The answer is that of Transformers in f32 with the numbers that the weights stand for. Nothing made here is
committed. Needs what the goldens need.
"""

import argparse
import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import DeepseekV3Config, GptOssConfig, LlamaConfig

from .models import fp8, make, mxfp4
from .models.__main__ import GOLDENS
from .models.llama_like import rope
from .models.make import Golden

BASES = {golden.name: golden for golden in GOLDENS}
BLOCK = 128
COMMON = dict(vocab_size=300, max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=0)


def spread(scales, shape):
    """The scale of every element, for blocks of which the last may be cut short."""
    return scales.repeat_interleave(BLOCK, -2)[..., : shape[-2], :].repeat_interleave(BLOCK, -1)[..., : shape[-1]]


def blocks(matrix):
    rows, columns = matrix.shape[-2:]
    padded = torch.nn.functional.pad(matrix, (0, -columns % BLOCK, 0, -rows % BLOCK))
    return padded.unflatten(-1, (-1, BLOCK)).unflatten(-3, (-1, BLOCK)).abs().amax((-3, -1)) / fp8.LARGEST


def by_block(matrix):
    scales = blocks(matrix)
    values = (matrix / spread(scales, matrix.shape)).to(torch.float8_e4m3fn)
    return values, {"_scale_inv": scales}, values.float() * spread(scales, matrix.shape)


def by_power(matrix):
    """Blocks whose scales are powers of two, stored as exponents alone (E8M0)."""
    scales = torch.exp2(torch.ceil(torch.log2(blocks(matrix))))
    values = (matrix / spread(scales, matrix.shape)).to(torch.float8_e4m3fn)
    return values, {"_scale_inv": scales.to(torch.float8_e8m0fnu)}, values.float() * spread(scales, matrix.shape)


def by_row(matrix):
    scales = matrix.abs().amax(-1, keepdim=True) / fp8.LARGEST
    values = (matrix / scales).to(torch.float8_e4m3fn)
    return values, {"_scale": scales}, values.float() * scales


def by_tensor(matrix):
    scale = matrix.abs().max() / fp8.LARGEST
    values = (matrix / scale).to(torch.float8_e4m3fn)
    return values, {"_scale": scale}, values.float() * scale


def wide(matrix):
    """E5M2 with one scale for the tensor, as a vector of one."""
    scale = matrix.abs().max() / 57344.0
    values = (matrix / scale).to(torch.float8_e5m2)
    return values, {"_scale_inv": scale[None]}, values.float() * scale


def compressed(strategy):
    weights = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": strategy}
    group = {"targets": ["Linear"], "weights": weights}
    return {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {"group_0": group}}


FINE = {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK], "activation_scheme": "dynamic", "fmt": "e4m3"}
FORMS = {
    "blocks": (by_block, FINE),
    "powers": (by_power, FINE | {"scale_fmt": "ue8m0"}),
    "rows": (by_row, compressed("channel")),
    "fbgemm": (by_row, {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}),
    "tensor": (by_tensor, compressed("tensor")),
    "static": (by_tensor, {"quant_method": "fp8", "activation_scheme": "static"}),
    "wide": (wide, {"quant_method": "fp8", "activation_scheme": "dynamic"}),
}


def llama():
    sizes = dict(hidden_size=384, intermediate_size=320, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2)
    return LlamaConfig(**COMMON, **sizes, rope_parameters=rope(theta=500.0), tie_word_embeddings=False)


def deepseek():
    sizes = dict(hidden_size=256, intermediate_size=384, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4)
    latent = dict(kv_lora_rank=160, q_lora_rank=200, qk_nope_head_dim=48, qk_rope_head_dim=16, v_head_dim=40)
    experts = dict(moe_intermediate_size=136, n_routed_experts=8, num_experts_per_tok=3, n_group=4, topk_group=2)
    more = dict(first_k_dense_replace=1, n_shared_experts=1, num_nextn_predict_layers=0, rope_parameters=rope(theta=500.0))
    return DeepseekV3Config(**COMMON, **sizes, **latent, **experts, **more)


def gpt_oss():
    sizes = dict(hidden_size=256, intermediate_size=192, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=2)
    more = dict(head_dim=32, num_local_experts=8, num_experts_per_tok=3, sliding_window=16)
    yarn = rope("yarn", 500.0, factor=4.0, original_max_position_embeddings=32, truncate=False)
    return GptOssConfig(**COMMON, **sizes, **more, rope_parameters=yarn)


def build(name, config, base, seed):
    golden = Golden(name, config, init=BASES[base].init, positions=48, dtype=torch.float32)
    model = make.build(golden, config)
    make.fill(golden, model, seed)
    return golden, model


def write(golden, model, seed, root):
    ids = make.sequences(golden, golden.config.vocab_size, seed)
    make.save(golden, model, {"ids": ids, "logits": make.answer(model, ids)}, root / golden.name)
    return root / golden.name


@torch.no_grad()
def float8(name, config, base, form, seed, root):
    quantize, said = FORMS[form]
    golden, model = build(name, config, base, seed)
    folder = root / name
    model.save_pretrained(folder)
    path = folder / "model.safetensors"
    plain, packed = load_file(path), {}
    for weight, tensor in plain.items():
        packed[weight] = tensor
        if fp8.MATRICES.search(weight):
            packed[weight], scales, plain[weight] = quantize(tensor)
            packed |= {f"{weight}{ending}": scale for ending, scale in scales.items()}
            if form == "static":
                packed[weight.replace(".weight", ".input_scale")] = torch.tensor(0.02)
    # What the bytes stand for, computed by Transformers; then the bytes.
    save_file(plain, path, metadata={"format": "pt"})
    write(golden, golden.auto.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval(), seed, root)
    save_file(packed, path, metadata={"format": "pt"})
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(written | {"quantization_config": said}, indent=2))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    args.out.mkdir(parents=True, exist_ok=True)
    for form in FORMS:
        float8(f"llama-{form}", llama(), "llama", form, args.seed, args.out)
        print(f"llama-{form}", flush=True)
    for form in ("blocks", "powers"):
        float8(f"deepseek-{form}", deepseek(), "deepseek_v3", form, args.seed, args.out)
        print(f"deepseek-{form}", flush=True)
    golden, model = build("gpt_oss-mxfp4", gpt_oss(), "gpt_oss", args.seed)
    mxfp4.round_experts(model)
    mxfp4.repack(golden, write(golden, model, args.seed, args.out))
    print("gpt_oss-mxfp4")


if __name__ == "__main__":
    main()
