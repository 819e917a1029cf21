"""Small random adapters on the golden models, as PEFT saves them, with the logits that PEFT computes.

    python scripts/goldens/adapters.py

Written with peft 0.21.2, transformers 5.23.0, torch 2.15.0, gguf 0.17 (the GGUF adapter; its layout of rotary rows is
the one of llama.cpp's converter). Each goes to crates/models/tests/adapters/NAME.
"""

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

TESTS = Path(__file__).parents[2] / "crates/models/tests"
LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]

CASES = {
    "llama-lora": dict(
        r=4, lora_alpha=8, target_modules=LLAMA, rank_pattern={"down_proj": 2}, alpha_pattern={"q_proj": 16, "layers.1.mlp.*": 4}
    ),
    "llama-rslora": dict(r=3, lora_alpha=5, use_rslora=True, target_modules=["q_proj", "embed_tokens", "lm_head"]),
    "qwen3-dora": dict(r=4, lora_alpha=8, use_dora=True, target_modules=LLAMA),
    "phi3-lora": dict(r=4, lora_alpha=8, target_modules=["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]),
    "gpt2-lora": dict(r=4, lora_alpha=8, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True),
    "qwen3_moe-experts": dict(
        r=3, lora_alpha=6, target_modules=["q_proj"], target_parameters=[*EXPERTS, "mlp.gate.weight"],
        rank_pattern={"experts.gate_up_proj": 4}, alpha_pattern={"experts.gate_up_proj": 5, "gate.weight": 9},
    ),
    "gpt_oss-experts": dict(r=2, lora_alpha=6, use_rslora=True, target_modules=["o_proj"], target_parameters=EXPERTS),
    "gpt_neox-dora": dict(r=4, lora_alpha=8, use_dora=True, target_modules=["query_key_value", "dense_h_to_4h"]),
}


def make(name, config):
    base = TESTS / "goldens" / name.split("-")[0]
    ids = load_file(base / "golden.safetensors")["ids"]
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **config)).eval()
    torch.manual_seed(sum(map(ord, name)))
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "lora_magnitude" in key:
                value.mul_(1 + 0.3 * torch.randn_like(value))
            elif "lora_" in key:
                value.normal_(0, 0.15)
        logits = model(ids).logits
    out = TESTS / "adapters" / name
    shutil.rmtree(out, ignore_errors=True)
    model.save_pretrained(out)
    (out / "README.md").unlink(missing_ok=True)
    config = json.loads((out / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = base.name
    for key in ("target_modules", "target_parameters"):
        config[key] = config[key] and sorted(config[key])
    (out / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file({"ids": ids, "logits": logits.contiguous()}, out / "golden.safetensors")
    if name == "llama-lora":
        to_gguf(out, model.config, out / "adapter.gguf")


def to_gguf(folder, config, path):
    """The LoRA of a Llama as GGUF, without the modules whose alpha or rank has a pattern of its own."""
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output"}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    for key, value in load_file(folder / "adapter_model.safetensors").items():
        layer, _, module = key.removeprefix("base_model.model.model.layers.").partition(".")
        module, _, part = module.partition(".lora_")
        if module not in names:
            continue
        value = value.numpy()
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(names[module])
        if heads and part == "B.weight":
            out, rank = value.shape
            value = value.reshape(heads, 2, out // heads // 2, rank).swapaxes(1, 2).reshape(out, rank)
        writer.add_tensor(f"blk.{layer}.{names[module]}.weight.lora_{part[0].lower()}", np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    for case in CASES.items():
        make(*case)
