"""Writes crates/formats/tests/goldens/codecs.safetensors: what gguf-py's numpy codec makes of given bytes and floats.

    pip install gguf==0.19.0 numpy==2.4.6 safetensors && python scripts/goldens/codecs.py

Per type: `TYPE.bytes` and `TYPE.values`, two decoded blocks to look at; in the metadata `TYPE.decode`, a checksum over
64 KiB of pseudo-random blocks (every scale there is, infinities and subnormals too; NaN counts as one number);
`TYPE.encoded`, the floats `special` encoded, and `TYPE.encode`, a checksum over pseudo-random floats. The test makes the
same pseudo-random numbers.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, quants
from gguf.constants import GGMLQuantizationType as T
from safetensors.numpy import save_file

DECODED = [
    *"F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S".split(),
    *"IQ4_NL IQ4_XS TQ1_0 TQ2_0 MXFP4 NVFP4".split(),
]
NUMBERS = {"F32": np.float32, "F64": np.float64, "I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64}
ENCODED = "F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 TQ1_0 TQ2_0 MXFP4".split()


def stream(n):
    """The first n numbers of splitmix64 from seed 0."""
    z = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def checksum(words):
    """The sum of all words, each plus one and times twice its place plus one, modulo 2^64."""
    w = words.astype(np.uint64) + np.uint64(1)
    return f"{int(np.sum(w * (2 * np.arange(len(w), dtype=np.uint64) + np.uint64(1)), dtype=np.uint64)):016x}"


def bits(values):
    return np.where(np.isnan(values), np.uint32(0x7FC00000), values.view(np.uint32))


def decode(name, data):
    if name in NUMBERS:
        return data.view(NUMBERS[name]).astype(np.float32)
    return quants.dequantize(data.reshape(1, -1), T[name]).ravel()


def encode(name, values):
    return quants.quantize(values.reshape(1, -1), T[name]).view(np.uint8).ravel()


def random_floats(n):
    """In turn by 256: exponents from -20 to 11 (heavy tails), evenly spread in [-0.5, 0.5), and -1, 0, 1 times 3/64."""
    z = stream(n)
    sign, exponent = (z >> np.uint64(63)) << np.uint64(31), np.uint64(107) + (z >> np.uint64(58) & np.uint64(31))
    heavy = (sign | exponent << np.uint64(23) | z & np.uint64(0x7FFFFF)).astype(np.uint32).view(np.float32)
    even = (z >> np.uint64(40)).astype(np.float32) / np.float32(2**24) - np.float32(0.5)
    three = ((z >> np.uint64(40)) % np.uint64(3)).astype(np.float32) * np.float32(3 / 64) - np.float32(3 / 64)
    return np.choose(np.arange(n) // 256 % 3, [heavy, even, three]).astype(np.float32)


def special_floats():
    """Blocks of 256: zeros, a constant, ties of every kind, the largest of either sign, limits of half precision."""
    i = np.arange(256)
    below_two = [np.nextafter(np.float32(2.0**k), np.float32(0)) for k in range(-12, 12, 3)]
    rows = [
        np.zeros(256),
        np.full(256, 0.7),
        np.full(256, -3.0),
        (i % 32 - 16) / 4,
        (i % 17 - 8) + 0.5 * (i % 2),
        np.where(i % 2 == 0, 5.0, -5.0),
        np.where(i % 2 == 0, -5.0, 5.0),
        (i % 255 - 127) * 0.5,
        (i % 31) / 31 * 2 - 0.25,
        np.repeat(np.array(below_two, dtype=np.float32), 32) * (1 - (i % 32) / 32),
        np.repeat(2.0 ** np.arange(-4, 4), 32) * (1 - (i % 32) / 32),
        (i - 128) * 6e4,
        (i - 128) * 1e-7,
        (i - 128) * 3e-10,
        np.where(i % 32 == 7, 1e4, 1e-3),
    ]
    return np.array(rows, dtype=np.float32)


def main():
    tensors, special = {}, special_floats()
    meta = {"made by": f"gguf {version('gguf')}, numpy {np.__version__}"}
    data = stream(8192).view(np.uint8)
    tensors["special"] = special
    with np.errstate(all="ignore"):
        for name in DECODED + list(NUMBERS):
            block = GGML_QUANT_SIZES[T[name]][1]
            some = data[: len(data) // block * block]
            meta[f"{name}.decode"] = checksum(bits(decode(name, some)))
            few = 2 * block if block > 8 else 64
            tensors[f"{name}.bytes"] = some[:few].copy()
            tensors[f"{name}.values"] = decode(name, tensors[f"{name}.bytes"])
        floats = random_floats(3 * 256 * 64)
        for name in ENCODED:
            meta[f"{name}.encode"] = checksum(encode(name, floats))
            tensors[f"{name}.encoded"] = encode(name, special)
    out = Path(__file__).parents[2] / "crates/formats/tests/goldens/codecs.safetensors"
    save_file(tensors, out, metadata=meta)


main()
