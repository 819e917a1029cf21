"""Importance statistics by llama.cpp's own tool, in both of its forms, for crates/quantize/tests/goldens.

    imatrix.py LLAMA_IMATRIX STORIES260K.gguf OUT

Made with the llama-imatrix of llama-cpp-python 0.3.36's vendored llama.cpp, and stories260K (karpathy/tinyllamas).
"""

import subprocess
import sys
from pathlib import Path

TEXT = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park with her friends. "
    "One day, she saw a big red ball near the tree. She wanted to play with it, but it was too high. "
)

tool, model, out = sys.argv[1], sys.argv[2], Path(sys.argv[3]).resolve()
(out / "imatrix.txt").write_text(TEXT * 3)
for form in ("gguf", "dat"):
    command = [tool, "-m", model, "-f", "imatrix.txt", "-c", "64", "--chunks", "3", "-b", "64", "-t", "1", "--no-ppl"]
    subprocess.run([*command, "--output-format", form, "-o", f"imatrix.{form}"], check=True, cwd=out)
