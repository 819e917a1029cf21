"""Losses with their derivatives, optimizer steps and learning-rate schedules, computed by TRL, torch and Transformers.

pip install torch==2.15.0 transformers==5.23.0 trl==1.16.0 peft==0.21.2
python training.py ../../crates/train/tests/it/golden/training.json
"""

import contextlib
import json
import os
import sys
from collections import defaultdict
from types import SimpleNamespace

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", CI="1", CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")
import torch
import transformers
import trl
from transformers import get_scheduler
from transformers.optimization import Adafactor
from trl.experimental.cpo.cpo_trainer import CPOTrainer
from trl.experimental.orpo.orpo_trainer import ORPOTrainer
from trl.trainer import dpo_trainer, kto_trainer

torch.set_num_threads(1)


class Accelerator:
    device = torch.device("cpu")

    def gather(self, x):
        return x

    gather_for_metrics = gather

    def unwrap_model(self, model):
        return model


class Stub(torch.nn.Module):
    """A model that gives fixed log-probabilities."""

    def __init__(self, logps, mask):
        super().__init__()
        self.logps, self.mask, self.config = logps, mask, SimpleNamespace()

    def forward(self, **_):
        zero = torch.zeros_like(self.logps)
        return SimpleNamespace(
            log_probs=self.logps, entropy=zero, log_sum_sq_probs=zero, mean_logits=zero, is_top1=zero.bool(),
            label_mask=self.mask, aux_loss=None, loss=None,
        )


def rows(tensor, lengths):
    return [t[:n].tolist() for t, n in zip(tensor, lengths)]


def random_sides(generator, lengths):
    width = max(lengths)
    mask = torch.arange(width)[None] < torch.tensor(lengths)[:, None]
    logps = (-torch.rand(len(lengths), width, generator=generator) * 2).masked_fill(~mask, 0)
    reference = logps + 0.6 * torch.randn(len(lengths), width, generator=generator)
    return mask, logps, reference.clamp(max=-1e-3).masked_fill(~mask, 0)


def dpo(generator):
    lengths = [4, 5, 3, 6, 5, 2, 4, 6]
    mask, logps, reference = random_sides(generator, lengths)
    pairs = len(lengths) // 2
    inputs_mask = torch.cat([torch.zeros(len(lengths), 1, dtype=torch.long), mask.long()], 1)
    cases = []

    def case(losses, smoothing=0.0, divergence="reverse_kl", ld_alpha=None):
        policy = logps.clone().requires_grad_()
        model = Stub(policy, mask).train()
        this = SimpleNamespace(
            model=model, ref_model=Stub(reference, mask), accelerator=Accelerator(), aux_loss_enabled=False,
            ld_alpha=ld_alpha, precompute_ref_logps=False, f_divergence_type=divergence, f_alpha_divergence_coef=0.5,
            loss_types=[name for name, _ in losses], loss_weights=[weight for _, weight in losses], beta=0.1,
            label_smoothing=smoothing, use_weighting=False,
            args=SimpleNamespace(discopop_tau=0.05, gradient_checkpointing_kwargs=None),
            _metrics={"train": defaultdict(list)}, _total_train_tokens=0, _tp_size=1,
        )
        dpo_trainer.disable_gradient_checkpointing = lambda *a, **k: contextlib.nullcontext()
        dpo_trainer.is_peft_model = lambda _: False
        ones = torch.ones_like(inputs_mask)
        inputs = {"input_ids": ones, "attention_mask": ones, "completion_mask": inputs_mask}
        loss = dpo_trainer.DPOTrainer._compute_loss(this, model, inputs, False)
        loss.backward()
        cases.append(dict(
            losses=[dict(loss=name, weight=weight) for name, weight in losses], label_smoothing=smoothing,
            divergence={"alpha_divergence": {"alpha_divergence": 0.5}}.get(divergence, divergence), ld_alpha=ld_alpha,
            loss=loss.item(), gradients=rows(policy.grad, lengths),
        ))

    plain = "sigmoid hinge ipo nca_pair robust bco_pair sppo_hard aot aot_unpaired apo_zero apo_down discopop sft sigmoid_norm"
    for name in plain.split():
        case([(name, 1.0)])
    for name in ["exo_pair", "robust", "aot", "aot_unpaired"]:
        case([(name, 1.0)], smoothing=0.1)
    for divergence in ["forward_kl", "js_divergence", "alpha_divergence"]:
        case([("sigmoid", 1.0)], divergence=divergence)
    case([("ipo", 1.0)], divergence="js_divergence")
    case([("sigmoid", 1.0)], ld_alpha=0.5)
    case([("sigmoid", 0.8), ("bco_pair", 0.2), ("sft", 1.0)])
    return dict(beta=0.1, pairs=pairs, logps=rows(logps, lengths), reference=rows(reference, lengths), cases=cases)


def means(logps, mask):
    return logps.sum(1) / mask.sum(1)


def orpo(generator):
    # The better answers' rows begin with a prompt, which is learned as well; the odds are of the answers only.
    lengths, prompts = [6, 7, 5, 4, 6, 3], [2, 3, 1, 2, 3, 1]
    mask, logps, _ = random_sides(generator, lengths)
    answer = mask & (torch.arange(mask.size(1))[None] >= torch.tensor(prompts)[:, None])
    policy = logps.clone().requires_grad_()
    chosen, rejected = means(policy * answer, answer).chunk(2)
    this = SimpleNamespace(beta=0.1, accelerator=Accelerator())
    ratio = ORPOTrainer.odds_ratio_loss(this, chosen, rejected)[0]
    nll = -policy[:3].sum() / mask[:3].sum()
    loss = nll - ratio.mean()
    loss.backward()
    return dict(beta=0.1, prompts=prompts, logps=rows(logps, lengths), loss=loss.item(), gradients=rows(policy.grad, lengths))


def cpo(generator):
    lengths = [4, 5, 3, 5, 2, 4]
    mask, logps, _ = random_sides(generator, lengths)
    cases = []
    for name, smoothing, alpha in [("sigmoid", 0, 1.0), ("sigmoid", 0.1, 1.0), ("hinge", 0, 1.0), ("ipo", 0, 1.0), ("simpo", 0, 1.0), ("simpo", 0, 0.0)]:
        policy = logps.clone().requires_grad_()
        this = SimpleNamespace(
            alpha=0.0, beta=0.1, simpo_gamma=0.5, loss_type=name, label_smoothing=smoothing, accelerator=Accelerator()
        )
        sides = means(policy, mask) if name in ["ipo", "simpo"] else policy.sum(1)
        nll = -policy[:3].sum() / mask[:3].sum()
        loss = CPOTrainer.cpo_loss(this, *sides.chunk(2))[0].mean() + alpha * nll
        loss.backward()
        cases.append(dict(name=name, label_smoothing=smoothing, alpha=alpha, loss=loss.item(), gradients=rows(policy.grad, lengths)))
    return dict(beta=0.1, gamma=0.5, logps=rows(logps, lengths), cases=cases)


def kto(generator):
    lengths = [4, 5, 3, 5, 2]
    mask, logps, reference = random_sides(generator, lengths)
    kl_lengths = [3, 4, 6, 2, 5]
    _, kl_logps, kl_reference = random_sides(generator, kl_lengths)
    labels = torch.tensor([True, False, True, False, False])
    inputs_mask = torch.cat([torch.zeros(len(lengths), 1, dtype=torch.long), mask.long()], 1)
    kto_trainer.disable_gradient_checkpointing = lambda *a, **k: contextlib.nullcontext()
    kto_trainer.is_peft_model = lambda _: False
    cases = []
    for name, lift, weights in [("kto", 0.0, (1.0, 1.0)), ("kto", 0.4, (1.0, 1.0)), ("kto", 0.4, (1.3, 0.7)), ("apo_zero_unpaired", 0.4, (1.0, 1.0))]:
        policy = logps.clone().requires_grad_()
        model, ref = Stub(policy, mask).train(), Stub(reference, mask)
        companions = {id(model): kl_logps.sum(1) + lift, id(ref): kl_reference.sum(1)}
        this = SimpleNamespace(
            model=model, ref_model=ref, accelerator=Accelerator(), aux_loss_enabled=False, precompute_ref_logps=False,
            calculate_KL=name == "kto", loss_type=name, beta=0.1, desirable_weight=weights[0], undesirable_weight=weights[1],
            args=SimpleNamespace(gradient_checkpointing_kwargs=None), _metrics={"train": defaultdict(list)},
            _total_train_tokens=0, _tp_size=1, _compute_kl_logps=lambda m, _: companions[id(m)],
        )
        ones = torch.ones_like(inputs_mask)
        inputs = {"input_ids": ones, "attention_mask": ones, "completion_mask": inputs_mask, "label": labels}
        loss = kto_trainer.KTOTrainer._compute_loss(this, model, inputs, False)
        loss.backward()
        cases.append(dict(
            name=name, weights=weights, loss=loss.item(), gradients=rows(policy.grad, lengths),
            companions=[[v] for v in companions[id(model)].tolist()],
        ))
    return dict(
        beta=0.1, labels=labels.tolist(), logps=rows(logps, lengths), reference=rows(reference, lengths),
        companion_reference=[[v] for v in kl_reference.sum(1).tolist()], cases=cases,
    )


def reward(generator):
    scores = torch.randn(8, generator=generator)
    margins = torch.rand(4, generator=generator)
    cases = []
    for with_margin in (False, True):
        for center in (0.0, 0.01):
            policy = scores.clone().requires_grad_()
            c, r = policy.chunk(2)
            loss = -torch.nn.functional.logsigmoid(c - r - (margins if with_margin else 0)).mean()
            loss = loss + center * torch.mean((c + r) ** 2)
            loss.backward()
            cases.append(dict(margin=with_margin, center=center, loss=loss.item(), gradients=policy.grad.tolist()))
    return dict(scores=scores.tolist(), margins=margins.tolist(), cases=cases)


def optimizers(generator):
    shapes = [[6, 4], [3, 7], [5]]
    start = [torch.randn(s, generator=generator) for s in shapes]
    steps = [[torch.randn(s, generator=generator) * 0.3 for s in shapes] for _ in range(6)]
    rates = [0.0, 1e-2, 2e-2, 1.5e-2, 1e-2, 3e-3]
    # torch's Muon rounds to bfloat16 between its steps; here it is held to its formula in single precision.
    torch.bfloat16 = torch.float32
    cases = []

    def case(name, make, only_matrices=False, **described):
        params = [torch.nn.Parameter(t.clone()) for t in start if not only_matrices or t.dim() == 2]
        optimizer = make(params)
        for gradients, rate in zip(steps, rates):
            for group in optimizer.param_groups:
                group["lr"] = rate
            for p, g in zip(params, gradients):
                p.grad = g.clone()
            optimizer.step()
        cases.append(dict(optimizer=dict(name=name, **described.pop("constants", {})), **described,
                          end=[p.detach().flatten().tolist() for p in params]))

    adam = dict(beta1=0.9, beta2=0.95, eps=1e-6)
    case("adamw", lambda p: torch.optim.AdamW(p, lr=1.0, weight_decay=0.0), weight_decay=0.0)
    case("adamw", lambda p: torch.optim.AdamW(p, lr=1.0, weight_decay=0.1, betas=(0.9, 0.95), eps=1e-6), weight_decay=0.1, constants=adam)
    case("sgd", lambda p: torch.optim.SGD(p, lr=1.0, weight_decay=0.1), weight_decay=0.1)
    case("sgd", lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9, nesterov=True), weight_decay=0.0, constants=dict(momentum=0.9, nesterov=True))
    case("adafactor", lambda p: Adafactor(p, lr=1.0, scale_parameter=False, relative_step=False, weight_decay=0.1), weight_decay=0.1)
    case("muon", lambda p: torch.optim.Muon(p, lr=1.0, weight_decay=0.1), weight_decay=0.1, only_matrices=True)
    case("muon", lambda p: torch.optim.Muon(p, lr=1.0, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"), weight_decay=0.0, only_matrices=True, constants=dict(match_rms=True))
    return dict(
        shapes=shapes, start=[t.flatten().tolist() for t in start], rates=rates,
        gradients=[[g.flatten().tolist() for g in gradients] for gradients in steps], cases=cases,
    )


def schedules():
    cases = []

    def case(name, warmup, steps, shape, **kwargs):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=steps, scheduler_specific_kwargs=kwargs or None)
        factors = []
        for _ in range(steps):
            factors.append(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()
        cases.append(dict(shape=shape, warmup=warmup, steps=steps, factors=factors))

    for warmup in (0, 5):
        case("linear", warmup, 23, dict(name="linear"))
        case("cosine", warmup, 23, dict(name="cosine"))
        case("cosine_with_min_lr", warmup, 23, dict(name="cosine_with_min_lr", min_ratio=0.1), min_lr_rate=0.1)
        case("cosine_with_restarts", warmup, 23, dict(name="cosine_with_restarts", cycles=3), num_cycles=3)
        case("polynomial", warmup, 23, dict(name="polynomial", power=2.0, end_ratio=0.05), power=2.0, lr_end=0.05)
        case("inverse_sqrt", warmup, 23, dict(name="inverse_sqrt"), **({} if warmup else dict(timescale=10000)))
        case("warmup_stable_decay", warmup, 20, dict(name="wsd", decay=0.3, min_ratio=0.1, curve="cosine"), num_decay_steps=6, min_lr_ratio=0.1)
        case("warmup_stable_decay", warmup, 20, dict(name="wsd", decay=0.3, curve="linear"), num_decay_steps=6, decay_type="linear")
        case("warmup_stable_decay", warmup, 20, dict(name="wsd", decay=0.3, curve="one_minus_sqrt"), num_decay_steps=6, decay_type="1-sqrt")
    case("constant_with_warmup", 5, 23, dict(name="constant"))
    return cases


def main():
    generator = torch.Generator().manual_seed(20)
    out = dict(
        versions=dict(torch=torch.__version__, transformers=transformers.__version__, trl=trl.__version__),
        dpo=dpo(generator), orpo=orpo(generator), cpo=cpo(generator), kto=kto(generator), reward=reward(generator),
        optimizers=optimizers(generator), schedules=schedules(),
    )
    with open(sys.argv[1], "w") as f:
        json.dump(out, f)
        f.write("\n")


main()
