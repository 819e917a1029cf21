"""Goldens of the sampling filters: kept tokens and their probabilities, by the formulas of the papers, in float64.

    python scripts/goldens/sampling.py > crates/engine/tests/goldens/sampling.json

Nothing here is fast or shared with the Rust code: each filter is its definition, over whole probability vectors.
"""

import json
import sys

import numpy as np


def softmax(x):
    e = np.exp(x - x[np.isfinite(x)].max())
    return e / e.sum()


def entropy(p):
    p = p[p > 0]
    return -(p * np.log(p)).sum()


# A filter takes logits (removed tokens are -inf) and returns logits.
def keep(x, mask):
    return np.where(mask, x, -np.inf)


def by_probability(x):
    return np.lexsort((np.arange(len(x)), -x))


def top_k(x, k):
    mask = np.zeros(len(x), bool)
    mask[by_probability(x)[:k]] = True
    return keep(x, mask & np.isfinite(x))


def smallest_prefix(order, p, mass):
    """The first tokens of an order up to the one that brings their probability to the mass."""
    mask = np.zeros(len(p), bool)
    total = 0.0
    for i in order:
        mask[i] = True
        total += p[i]
        if total >= mass:
            break
    return mask


def top_p(x, mass):  # Holtzman et al. 2019
    p = softmax(x)
    return keep(x, smallest_prefix(by_probability(x), p, mass) & (p > 0))


def min_p(x, fraction):  # Nguyen et al. 2024
    p = softmax(x)
    return keep(x, p >= fraction * p.max())


def typical(x, mass):  # Meister et al. 2022
    p = softmax(x)
    with np.errstate(divide="ignore"):
        distance = np.abs(-np.log(p) - entropy(p))
    order = np.lexsort((np.arange(len(x)), distance))
    return keep(x, smallest_prefix(order, p, mass) & (p > 0))


def top_n_sigma(x, n):  # Tang et al. 2024
    alive = x[np.isfinite(x)]
    return keep(x, x >= alive.max() - n * alive.std())


def xtc(x, threshold):  # p-e-w 2024, the coin having come up
    p = softmax(x)
    top = [i for i in by_probability(x) if p[i] >= threshold]
    mask = p > 0
    if len(top) >= 2:
        mask[top[:-1]] = False
    return keep(x, mask)


def penalties(x, history, repeat, frequency, presence):  # Keskar et al. 2019; OpenAI's reference
    x = x.copy()
    for i in set(history):
        x[i] = x[i] / repeat if x[i] > 0 else x[i] * repeat
        x[i] -= history.count(i) * frequency + presence
    return x


def dry(x, history, multiplier, base, allowed):  # p-e-w 2024, without breakers
    x = x.copy()
    worst = {}
    for end in range(1, len(history)):
        n = 0
        while n < end and history[end - 1 - n] == history[-1 - n]:
            n += 1
        worst[history[end]] = max(n, worst.get(history[end], 0))
    for i, n in worst.items():
        if n >= allowed:
            x[i] -= multiplier * base ** (n - allowed)
    return x


def temperature(x, t):
    return x / t


def dynamic(x, t, spread, exponent):
    p = softmax(x)
    low, high = max(0.0, t - spread), t + spread
    share = entropy(p) / np.log(np.isfinite(x).sum())
    return x / (low + (high - low) * share**exponent)


def mirostat2(x, mu):  # Basu et al. 2020
    p = softmax(x)
    with np.errstate(divide="ignore"):
        mask = -np.log2(p) <= mu
    mask[np.argmax(p)] = True
    return keep(x, mask)


OFF = dict(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)


def cases(rng):
    def case(name, params, *steps, n=40, spread=2.0):
        logits = (rng.standard_normal(n) * spread).astype(np.float32)
        history = [int(i) for i in rng.integers(0, 6, 24)]
        x = logits.astype(np.float64)
        for step in steps:
            x = step(x, history)
        p = softmax(x)
        kept = [[int(i), float(p[i])] for i in np.lexsort((np.arange(n), -p)) if p[i] > 0]
        return dict(name=name, params=OFF | params, logits=[float(v) for v in logits], history=history, kept=kept)

    yield case("nothing", {})
    for k in (1, 5, 39, 40, 100):
        yield case(f"top_k {k}", dict(top_k=k), lambda x, h, k=k: top_k(x, k))
    for p in (0.0, 0.1, 0.5, 0.9, 0.99):
        yield case(f"top_p {p}", dict(top_p=p), lambda x, h, p=p: top_p(x, p))
    for p in (0.01, 0.1, 0.5, 1.0):
        yield case(f"min_p {p}", dict(min_p=p), lambda x, h, p=p: min_p(x, p))
    for p in (0.05, 0.2, 0.5, 0.9, 0.99):
        yield case(f"typical_p {p}", dict(typical_p=p), lambda x, h, p=p: typical(x, p))
    for n in (0.5, 1.0, 2.0, 3.0):
        yield case(f"top_n_sigma {n}", dict(top_n_sigma=n), lambda x, h, n=n: top_n_sigma(x, n))
    for t in (0.05, 0.1, 0.4):
        params = dict(xtc_probability=1.0, xtc_threshold=t)
        yield case(f"xtc {t}", params, lambda x, h, t=t: xtc(x, t), spread=1.0)
    for r, f, pr in ((1.3, 0, 0), (1.0, 0.4, 0), (1.0, 0, 0.7), (1.2, -0.3, 0.5)):
        params = dict(repeat_penalty=r, frequency_penalty=f, presence_penalty=pr)
        yield case(f"penalties {r} {f} {pr}", params, lambda x, h, a=(r, f, pr): penalties(x, h, *a))
    yield case(
        "repeat_last_n",
        dict(repeat_penalty=1.5, repeat_last_n=5),
        lambda x, h: penalties(x, h[-5:], 1.5, 0, 0),
    )
    for allowed in (1, 2, 3):
        params = dict(dry_multiplier=0.8, dry_allowed_length=allowed)
        yield case(f"dry {allowed}", params, lambda x, h, a=allowed: dry(x, h, 0.8, 1.75, a))
    for t in (0.2, 0.7, 1.5):
        yield case(f"temperature {t}", dict(temperature=t), lambda x, h, t=t: temperature(x, t))
    for t, spread, exponent in ((1.0, 0.5, 1.0), (0.8, 0.8, 2.0), (0.5, 1.0, 0.5)):
        params = dict(temperature=t, dynatemp_range=spread, dynatemp_exponent=exponent)
        yield case(f"dynatemp {t} {spread} {exponent}", params, lambda x, h, a=(t, spread, exponent): dynamic(x, *a))
    for tau in (0.5, 2.0, 5.0):
        yield case(f"mirostat {tau}", dict(mirostat=2, mirostat_tau=tau), lambda x, h, m=2 * tau: mirostat2(x, m))
    default = (
        lambda x, h: penalties(x, h[-64:], 1.1, 0.1, 0.1),
        lambda x, h: dry(x, h, 0.5, 1.75, 2),
        lambda x, h: top_n_sigma(x, 2.5),
        lambda x, h: top_k(x, 20),
        lambda x, h: typical(x, 0.95),
        lambda x, h: top_p(x, 0.95),
        lambda x, h: min_p(x, 0.05),
        lambda x, h: temperature(x, 0.8),
    )
    params = dict(
        repeat_penalty=1.1, frequency_penalty=0.1, presence_penalty=0.1, dry_multiplier=0.5,
        top_n_sigma=2.5, top_k=20, typical_p=0.95, top_p=0.95, min_p=0.05, temperature=0.8,
    )  # fmt: skip
    yield case("the whole chain", params, *default)
    yield case(
        "temperature before top_p",
        dict(temperature=0.5, top_p=0.8, samplers=["temperature", "top_p"]),
        lambda x, h: temperature(x, 0.5),
        lambda x, h: top_p(x, 0.8),
    )
    bias = {3: 5.0, 7: -100.0, 11: 1.5}

    def biased(x, h):
        x = x.copy()
        for i, b in bias.items():
            x[i] += b
        return x

    yield case("logit_bias", dict(logit_bias={str(i): b for i, b in bias.items()}), biased)
    # More than a sorted prefix of the implementation can hold at once.
    yield case("a long nucleus", dict(top_p=0.97), lambda x, h: top_p(x, 0.97), n=600, spread=1.0)


def main():
    made = dict(numpy=np.__version__, python=sys.version.split()[0])
    rows = ",\n".join(json.dumps(c) for c in cases(np.random.default_rng(20)))
    print(f'{{"made_with": {json.dumps(made)}, "cases": [\n{rows}\n]}}')


main()
