"""Compares Allod's token ids with Transformers' and llama.cpp's, line by line.

    python scripts/peers/tokenizers_compared.py EXAMPLE TEXT [--lines N] VOCABULARY...

EXAMPLE is `target/release/examples/tokenizer`, built with
`cargo build --release -p allod-text --example tokenizer`. TEXT is a file whose lines are encoded, N (3000) of them from
all over it; as many lines are random chains of difficult pieces. A VOCABULARY is

- a GGUF file: its tokenizer is written as a folder, which `AutoTokenizer` must read to the same ids, the same decoded
  text and the same rendered chat template; and llama.cpp (`vocab_only`) must give the same ids, with special tokens
  parsed and not, with BOS and without;
- a folder or a golden of `scripts/goldens/vocabularies.py`: Hugging Face's library must give the same ids and text as
  Allod from the file, and as Allod from the GGUF keys that it makes of it.

Prints a line for every pair and up to five differences. Needs transformers and llama-cpp-python.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

PIECES = [
    "the", " model", " Tokens", "é", "e\u0301", "ﬁ", "Ａ", "½", "²", "ß", "İstanbul", "Straße", "你好", "한국어", "ไทย", "שלום", "مرحبا",
    "👩🏽‍💻", "🦙", "❤️", "\u200d", "\u00ad", "\ufffd", "\u0085", " ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", " \n ", "\u00a0", "\u3000",
    "\u2028", "'s", "'LL", "don't", "123", "1234567", "3.14", "!?", "...", "--", "()", "[UNK]", "[MASK]", "<s>", "</s>", "<unk>",
    "▁", "▁▁", "<0x41>", "Ġ", "##a", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<bos>", "<eos>", "<pad>", "a", "aaaa",
    "\U0010ffff", "Ελλάδα", "мир", "_", "`code`", "def f(x):\n    return x", "http://a.b/c?d=e&f", "{\"a\": [1, null]}",
]
CHAT = [{"role": "user", "content": "Hi, who are you?"}, {"role": "assistant", "content": "A model."}, {"role": "user", "content": "Why?"}]


def texts(file, count):
    draw = random.Random(7)
    lines = [line for line in Path(file).read_text().splitlines() if line.strip()]
    anything = lambda: chr(draw.choice([draw.randrange(32, 0x300), draw.randrange(0x300, 0xD800), draw.randrange(0xE000, 0x2FFFF)]))
    piece = lambda: draw.choice(PIECES) if draw.random() < 0.8 else anything()
    chains = ["".join(piece() for _ in range(draw.randint(1, 12))) for _ in range(count)]
    paragraphs = ["\n".join(lines[at : at + 30]) for at in range(0, min(len(lines), 900), 90)]
    return draw.sample(lines, min(count, len(lines))) + paragraphs + chains


def allod(example, vocabulary, lines, *options):
    """What Allod makes of the lines; the reason where it refuses the vocabulary."""
    stdin = "".join(json.dumps(line) + "\n" for line in lines)
    run = subprocess.run([example, vocabulary, *options], input=stdin, capture_output=True, text=True)
    return [json.loads(line) for line in run.stdout.splitlines()] if run.returncode == 0 else run.stderr.strip()[-200:]


def report(what, lines, ours, theirs):
    if isinstance(ours, str):
        print(f"  {what}: refused: {ours}")
        return
    differing = [(line, a, b) for line, a, b in zip(lines, ours, theirs) if a != b]
    print(f"  {what}: {len(lines) - len(differing)} of {len(lines)} the same")
    for line, a, b in differing[:5]:
        if isinstance(a, list):
            at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
            a, b = f"…{a[max(at - 2, 0):at + 5]}", f"…{b[max(at - 2, 0):at + 5]}"
        print(f"    {line[:100]!r}\n      ours   {a!r:.150}\n      theirs {b!r:.150}")


def hugging_face(tokenizer, lines):
    """The rows that Allod prints, by the library."""
    rows = []
    for line in lines:
        tokenizer.encode_special_tokens = False
        parsed = tokenizer.encode(line, add_special_tokens=False).ids
        row = {"ids": tokenizer.encode(line).ids, "parsed": parsed, "text": tokenizer.decode(parsed, skip_special_tokens=False)}
        tokenizer.encode_special_tokens = True
        rows.append(row | {"plain": tokenizer.encode(line, add_special_tokens=False).ids})
    return rows


def rows(name, lines, ours, theirs):
    if isinstance(ours, str):
        return report(name, lines, ours, theirs)
    for key in ["ids", "plain", "text"]:
        report(f"{name}, {key}", lines, [row[key] for row in ours], [row[key] for row in theirs])


def folder(example, path, lines):
    from tokenizers import Tokenizer

    with tempfile.TemporaryDirectory() as out:
        if path.suffix == ".json":
            Path(out, "tokenizer.json").write_text(json.dumps(json.loads(path.read_text())["file"]))
            path = Path(out)
        theirs = hugging_face(Tokenizer.from_file(str(path / "tokenizer.json")), lines)
        rows("from the file", lines, allod(example, path, lines), theirs)
        rows("through GGUF", lines, allod(example, path, lines, "--through-gguf"), theirs)


def gguf_file(example, path, lines):
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as out:
        ours = allod(example, path, lines, "--folder", out)
        if isinstance(ours, str):
            return print(f"  refused: {ours}")
        tokenizer = AutoTokenizer.from_pretrained(out)
        rows("Transformers on the folder", lines, ours, hugging_face(tokenizer.backend_tokenizer, lines))
        called = [tokenizer(line)["input_ids"] for line in lines[:200]]
        report("Transformers, called", lines[:200], [row["ids"] for row in ours], called)
        rows("Allod on the folder", lines, allod(example, out, lines), ours)
        source = chat_template(path)
        if source:
            rendered = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
            directly = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True, chat_template=source)
            print("  chat template:", "the same" if rendered == directly and tokenizer.chat_template == source else "DIFFERS")
    llamacpp(path, lines, ours)


def chat_template(path):
    from gguf import GGUFReader

    field = GGUFReader(path).get_field("tokenizer.chat_template")
    return field.contents() if field else None


def llamacpp(path, lines, ours):
    from llama_cpp import Llama

    llama = Llama(str(path), vocab_only=True, verbose=False)
    # It ends a text at a NUL.
    kept = [(line, row) for line, row in zip(lines, ours) if line and "\0" not in line]
    lines = [line for line, _ in kept]
    for key, bos, special in [("parsed", False, True), ("plain", False, False), ("ids", True, True)]:
        theirs = [llama.tokenize(line.encode(), add_bos=bos, special=special) for line in lines]
        report(f"llama.cpp, {key}", lines, [row[key] for _, row in kept], theirs)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("example")
    parser.add_argument("text")
    parser.add_argument("vocabularies", nargs="+", type=Path)
    parser.add_argument("--lines", type=int, default=3000)
    arguments = parser.parse_args()
    lines = texts(arguments.text, arguments.lines)
    for path in arguments.vocabularies:
        print(path.name, flush=True)
        compare = gguf_file if path.suffix == ".gguf" else folder
        compare(arguments.example, path, lines)
        sys.stdout.flush()


main()
