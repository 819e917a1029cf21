"""Writes crates/formats/src/codec/tables.rs: the codebooks of the IQ types, taken as numbers from gguf-py.

    pip install gguf==0.19.0 && python scripts/iq_tables.py

A codebook row has eight values of two bits or four of three, and fits sixteen bits; the first value is lowest.
"""

from importlib.metadata import version
from pathlib import Path

from gguf import quants

HEAD = f"""//! The codebooks of the IQ types: part of the format. Written by `scripts/iq_tables.py` from gguf-py {version("gguf")}.
//!
//! A row has eight values of two bits, or four of three bits in four, the first in the lowest bits; the values are
//! numbers of a level in the type's list of levels.
"""


def rows(codebook):
    codebook.init_grid()
    levels = [float(v) for v in codebook.grid_map]
    grid = codebook.grid.reshape(codebook.grid_shape)
    bits = 16 // grid.shape[1]
    return [sum(levels.index(float(v)) << (bits * i) for i, v in enumerate(row)) for row in grid]


def table(name, codebook):
    numbers = rows(codebook)
    lines, levels = [], ", ".join(str(int(v)) for v in codebook.grid_map)
    for i in range(0, len(numbers), 14):
        lines.append("    " + " ".join(f"{n:#06x}," for n in numbers[i : i + 14]))
    body = "\n".join(lines)
    kind = "i8"
    return (
        f"\n/// Levels of {name}.\npub(super) const {name}_LEVELS: [{kind}; {len(codebook.grid_map)}] = [{levels}];\n"
        f"/// Codebook of {name}.\n#[rustfmt::skip]\npub(super) const {name}_ROWS: [u16; {len(numbers)}] = [\n{body}\n];\n"
    )


def main():
    names = ["IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S"]
    text = HEAD + "".join(table(n, getattr(quants, n)) for n in names)
    Path(__file__).parents[1].joinpath("crates/formats/src/codec/tables.rs").write_text(text)


main()
