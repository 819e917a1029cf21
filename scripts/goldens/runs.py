"""Whole runs by TRL and PEFT on the parity kit's warm model: losses and gradient norms of every step, and sketches of the
first step's gradients and of the final adapter.

A sketch of n numbers is 64 sums with signs drawn by a hash: the mean square of the difference of two sketches is an
unbiased estimate of the squared distance of what they are of (Johnson and Lindenstrauss), so that a few numbers stand for
an adapter.

pip install torch==2.15.0 transformers==5.23.0 trl==1.16.0 peft==0.21.2
python runs.py KIT/fixture_warm ../../crates/train/tests/it/golden/runs.json
"""

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.update(
    HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", CI="1", CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false", PYTHONHASHSEED="0", TRL_EXPERIMENTAL_SILENCE="1",
)
import numpy as np
import peft
import torch
import transformers
import trl
from datasets import Dataset
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast, set_seed,
)
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
VOCABULARY, BOS, EOS = 1024, 1, 2
MODULES = {
    "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate",
    "up_proj": "ffn_up", "down_proj": "ffn_down",
}


def our_name(name):
    """The name of a trained tensor as Allod has it."""
    if "score" in name:
        return "value_head.weight"
    parts = name.split(".")
    at = parts.index("layers")
    part = parts[at + 4].lower()
    return f"blk.{parts[at + 1]}.{MODULES[parts[at + 3]]}.weight.{part}"


def mix(x):
    """SplitMix64's output for each of the states x."""
    x = (x + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def sketch(tensors):
    """64 signed sums over all numbers, in the order of the tensors' names, and the numbers' norm."""
    flat = np.concatenate([tensors[name].double().numpy().ravel() for name in sorted(tensors)])
    bits = mix(np.arange(len(flat), dtype=np.uint64))
    signs = [((bits >> np.uint64(k)) & np.uint64(1)).astype(np.float64) * 2 - 1 for k in range(64)]
    return {"sums": [float(f"{s @ flat:.9g}") for s in signs], "norm": float(np.linalg.norm(flat))}


def recording(base):
    """A trainer that keeps losses, norms and the first step's gradients."""

    class Recording(base):
        def training_step(self, model, inputs, num_items_in_batch=None):
            loss = super().training_step(model, inputs, num_items_in_batch)
            # The last step of a pass over the data has what is left of it.
            self.losses[self.state.global_step] = self.losses.get(self.state.global_step, 0.0) + loss.item()
            if self.state.global_step == 0:
                self.first = {
                    our_name(n): p.grad.detach().clone() for n, p in model.named_parameters() if p.grad is not None
                }
            return loss

        def log(self, logs, *rest, **more):
            if "grad_norm" in logs:
                self.norms.append(float(logs["grad_norm"]))
            return super().log(logs, *rest, **more)

    return Recording


def run(name, kit, trainer, config, rows, settings, steps, tokenizer, task="CAUSAL_LM"):
    set_seed(0)
    auto = AutoModelForCausalLM if task == "CAUSAL_LM" else AutoModelForSequenceClassification
    more = {} if task == "CAUSAL_LM" else {"num_labels": 1}
    model = auto.from_pretrained(kit / "model", dtype=torch.float32, attn_implementation="eager", **more)
    start, head = load_file(kit / "ref/init_adapter/adapter_model.safetensors"), None
    if task != "CAUSAL_LM":
        head = torch.randn(1, model.config.hidden_size, generator=torch.Generator().manual_seed(5)) * 0.05
        start["base_model.model.score.weight"] = head
    lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=list(MODULES), task_type=task)
    model = get_peft_model(model, lora)
    set_peft_model_state_dict(model, start)
    with tempfile.TemporaryDirectory() as folder:
        common = dict(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=4, learning_rate=2e-3,
            lr_scheduler_type="cosine", warmup_steps=5, weight_decay=0.0, max_grad_norm=1.0, optim="adamw_torch",
            bf16=False, gradient_checkpointing=False, max_length=4096, logging_steps=1, save_strategy="no",
            report_to="none", use_cpu=True, seed=0, data_seed=0, disable_tqdm=True,
            train_sampling_strategy="sequential", dataloader_pin_memory=False,
        )
        args = config(**(common | settings))
        made = recording(trainer)
        made.__name__ = trainer.__name__
        made.losses, made.norms, made.first = {}, [], None
        t = made(model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
        t.train()
        # TRL may keep a frozen copy as another adapter.
        trained = {our_name(n): p.detach() for n, p in t.model.named_parameters() if p.requires_grad}
    loss = list(t.losses.values())
    print(f"{name}: loss {loss[0]:.6f} to {loss[-1]:.6f}, norms {t.norms[0]:.4f} to {t.norms[-1]:.4f}", flush=True)
    assert len(loss) == len(t.norms) == steps
    out = {"loss": loss, "grad_norm": t.norms, "first_gradients": sketch(t.first), "final": sketch(trained)}
    if head is not None:
        out["value_head"] = head.flatten().tolist()
    return out


def tokenizer_for(kit):
    """Words `t0` to `t1023`, apart by spaces."""
    special = {0: "<pad>", BOS: "<bos>", EOS: "<eos>"}
    words = Tokenizer(models.WordLevel({special.get(i, f"t{i}"): i for i in range(VOCABULARY)}, unk_token="t3"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", model_max_length=4096
    )


def pairs(count, likely=False):
    """Prompts in the language that the model knows; the chosen answers go on in a shifted one, the rejected by chance.
    `likely` ones both go on in the language that it knows."""
    g = torch.Generator().manual_seed(21)
    draw = lambda low, high: int(torch.randint(low, high, (1,), generator=g))
    out = []
    for _ in range(count):
        prompt = [BOS, draw(3, 256)]
        for _ in range(draw(6, 16)):
            prompt.append(3 + (5 * prompt[-1] + 7 + draw(0, 3)) % 256)
        chosen = [prompt[-1]]
        for _ in range(draw(8, 24)):
            chosen.append(3 + ((5 if likely else 11) * chosen[-1] + 7 + draw(0, 3)) % 256)
        rejected = [draw(3, 256) for _ in range(draw(6, 26))]
        for i in range(likely * len(rejected)):
            rejected[i] = 3 + (5 * (rejected[i - 1] if i else prompt[-1]) + 7 + draw(0, 3)) % 256
        out.append({"prompt_ids": prompt, "chosen_ids": chosen[1:] + [EOS], "rejected_ids": rejected + [EOS]})
    return out


def text(ids):
    """What the tokenizer for words reads as these ids; TRL adds the last one."""
    return " ".join("<bos>" if i == BOS else f"t{i}" for i in ids if i != EOS)


def main(kit, path):
    kit = Path(kit)
    plain = AutoTokenizer.from_pretrained(kit / "model")
    rows = [json.loads(line) for line in open(kit / "model/rows.jsonl")]
    sft = lambda name, settings, steps=30: run(name, kit, SFTTrainer, SFTConfig, rows, settings, steps, plain)
    runs = {
        "accumulate": sft("accumulate", dict(per_device_train_batch_size=2, gradient_accumulation_steps=3)),
        "packing": sft("packing", dict(per_device_train_batch_size=2, packing=True, max_length=256)),
        "weight_decay": sft("weight_decay", dict(weight_decay=0.1)),
        "clip": sft("clip", dict(max_grad_norm=0.3)),
    }
    data, likely = pairs(32), pairs(32, likely=True)
    words = tokenizer_for(kit)
    as_texts = lambda pairs: [
        {"prompt": text(p["prompt_ids"]) + " ", "chosen": text(p["chosen_ids"]), "rejected": text(p["rejected_ids"])}
        for p in pairs
    ]
    texts = as_texts(data)
    # An end-of-text that TRL appends to a text stands apart from its last word.
    for row in texts:
        for side in ("chosen", "rejected"):
            assert words(row["prompt"] + row[side] + "<eos>")["input_ids"][-1] == EOS
    whole = [{side: row["prompt"] + row[side] for side in ("chosen", "rejected")} for row in texts]
    judged = [
        {"prompt": row["prompt"], "completion": row["chosen" if i % 3 else "rejected"], "label": bool(i % 3)}
        for i, row in enumerate(texts)
    ]
    gentle = dict(learning_rate=5e-4)
    of_pairs = lambda name, trainer, config, rows, more={}, task="CAUSAL_LM": run(
        name, kit, trainer, config, rows, gentle | more, 50, words, task
    )
    runs |= {
        "dpo": of_pairs("dpo", DPOTrainer, DPOConfig, texts),
        "wpo": of_pairs("wpo", DPOTrainer, DPOConfig, as_texts(likely), dict(use_weighting=True)),
        "orpo": of_pairs("orpo", ORPOTrainer, ORPOConfig, texts),
        "cpo": of_pairs("cpo", CPOTrainer, CPOConfig, texts),
        "simpo": of_pairs("simpo", CPOTrainer, CPOConfig, texts, dict(loss_type="simpo", cpo_alpha=0.0)),
        "kto": of_pairs("kto", KTOTrainer, KTOConfig, judged),
        "reward": of_pairs("reward", RewardTrainer, RewardConfig, whole, task="SEQ_CLS"),
    }
    versions = {m.__name__: m.__version__ for m in (torch, transformers, trl, peft)}
    out = {"versions": versions, "pairs": data, "likely_pairs": likely, "runs": runs}
    Path(path).write_text(json.dumps(out, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
