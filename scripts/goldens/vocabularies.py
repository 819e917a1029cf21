"""Trains a small tokenizer of every kind and writes what Hugging Face's library makes of difficult texts.

    python scripts/goldens/vocabularies.py [OUT]

OUT is crates/text/tests/it/goldens/tokenizers unless given. Each file there holds a `tokenizer.json` (`file`) and
`answers`: a text, its ids with special tokens parsed and added, its ids with special tokens as text, and the text of the
former without special tokens. Needs tokenizers and sentencepiece. All text is the project's own or made here.
"""

import json
import random
import sys
import tempfile
from pathlib import Path

import sentencepiece
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ROOT = Path(__file__).parents[2]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PIECES = [
    "the", " model", " Tokens", "é", "e\u0301", "ﬁ", "Ａ", "½", "²", "ß", "İ", "İstanbul", "Straße", "你好", "한국어", "ไทย", "שלום",
    "👩🏽‍💻", "🦙", "\u200d", "\u00ad", "\ufffd", "\u0000", "\u0085", " ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", "\u00a0",
    "\u3000", "\u2028", "'s", "'LL", "don't", "123", "1234567", "3.14", "!?", "...", "--", "()", "[UNK]", "<s>", "</s>",
    "<unk>", "▁", "▁▁", "<0x41>", "Ġ", "##a", "</w>", "a", "aaaa", "\U0010ffff", "Ελλάδα", "мир",
]
ADDED = [
    AddedToken("<|end|>", special=True),
    AddedToken("<|left|>", lstrip=True, special=True),
    AddedToken("<|right|>", rstrip=True, special=True),
    AddedToken("<|both|>", lstrip=True, rstrip=True),
    AddedToken("word", single_word=True, normalized=False),
    AddedToken("Normal", normalized=True),
    AddedToken("Raw Token", normalized=False),
]


def corpus():
    files = sorted(ROOT.glob("docs/*.md")) + [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    lines = [line for file in files for line in file.read_text().splitlines() if line.strip()]
    return lines + ["naïve café, Straße und Ελλάδα; мир 你好 한국어 🦙 1234567"] * 4


def texts(lines, seed):
    """Lines of the corpus, and random chains of difficult pieces, added tokens among them."""
    draw = random.Random(seed)
    pieces = PIECES + [token.content for token in ADDED]
    chains = ["".join(draw.choice(pieces) for _ in range(draw.randint(1, 9))) for _ in range(30)]
    return ["", " ", *draw.sample(lines, 8), *chains]


def byte_level(size=420, **model):
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, trainers.BpeTrainer(
        vocab_size=size, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )


def space_bpe(normalizer, pre_tokenizer, decoder, byte_fallback=True):
    """BPE on characters, as converted from SentencePiece."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=byte_fallback))
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizer, pre_tokenizer, decoder
    special = ["<unk>", "<s>", "</s>"] + ([f"<0x{byte:02X}>" for byte in range(256)] if byte_fallback else [])
    return tokenizer, trainers.BpeTrainer(vocab_size=len(special) + 260, show_progress=False, special_tokens=special)


def llama_decoder(strip=1):
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence(parts + [decoders.Strip(" ", strip, 0)] * (strip > 0))


def word_piece(lowercase):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return tokenizer, trainers.WordPieceTrainer(vocab_size=400, show_progress=False, special_tokens=special)


def unigram(pre_tokenizer, decoder, normalizer=None):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizer, pre_tokenizer, decoder
    return tokenizer, trainers.UnigramTrainer(
        vocab_size=350, show_progress=False, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>"
    )


def with_bytes(tokenizer):
    """A model with byte fallback: the trainers make none for Unigram, and added tokens of the bytes for BPE."""
    file = json.loads(tokenizer.to_str())
    file["added_tokens"] = [token for token in file["added_tokens"] if not token["content"].startswith("<0x")]
    if file["model"]["type"] == "Unigram":
        file["model"]["vocab"] += [[f"<0x{byte:02X}>", 0.0] for byte in range(256)]
        file["model"]["byte_fallback"] = True
    return Tokenizer.from_str(json.dumps(file))


def with_all_merges(tokenizer):
    """As converted from SentencePiece: every cut of a token into two is a merge, ranked by what it makes."""
    file = json.loads(tokenizer.to_str())
    vocab = file["model"]["vocab"]
    rank = {left + right: rank for rank, (left, right) in enumerate(file["model"]["merges"])}
    cuts = [(text[:at], text[at:]) for text in rank for at in range(1, len(text))]
    cuts = [(left, right) for left, right in cuts if left in vocab and right in vocab]
    order = lambda cut: (rank[cut[0] + cut[1]], -len(cut[0]), -len(cut[1]), vocab[cut[0]], vocab[cut[1]])
    file["model"]["merges"] = sorted(cuts, key=order)
    return Tokenizer.from_str(json.dumps(file))


def charsmap(lines):
    """A small precompiled normalization by SentencePiece."""
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder, "rules.tsv")
        replaced = {"é": "e", "e\u0301": "e", "ﬁ": "fi", "Ａ": "A", "½": "1/2", "\u3000": " ", "\u00ad": "", "👩🏽‍💻": "coder"}
        hexes = lambda text: " ".join(f"{ord(c):X}" for c in text)
        rules.write_text("".join(f"{hexes(a)}\t{hexes(b)}\n" for a, b in replaced.items()))
        Path(folder, "text").write_text("\n".join(lines))
        sentencepiece.SentencePieceTrainer.train(
            input=f"{folder}/text", model_prefix=f"{folder}/m", vocab_size=300, normalization_rule_tsv=str(rules),
            hard_vocab_limit=False, minloglevel=2,
        )
        # Field 3 of a model is its normalizer, field 2 of that the map.
        model = Path(folder, "m.model").read_bytes()
        return field(field(model, 3), 2)


def field(message, wanted):
    """The bytes of a protocol-buffer message's field."""

    def varint(at):
        value = shift = 0
        while True:
            value, shift, at = value | (message[at] & 0x7F) << shift, shift + 7, at + 1
            if message[at - 1] < 0x80:
                return value, at

    at = 0
    while at < len(message):
        tag, at = varint(at)
        match tag & 7:
            case 0:
                _, at = varint(at)
            case 1:
                at += 8
            case 2:
                size, at = varint(at)
                if tag >> 3 == wanted:
                    return message[at : at + size]
                at += size
            case 5:
                at += 4


def split(pattern, behavior, invert=False):
    return pre_tokenizers.Split(pattern, behavior, invert)


def kinds(lines):
    """Names, tokenizers and their trainers."""
    byte = pre_tokenizers.ByteLevel
    tokenizer, trainer = byte_level()
    tokenizer.pre_tokenizer = byte(add_prefix_space=False)
    yield "gpt2", tokenizer, trainer
    tokenizer, trainer = byte_level()
    tokenizer.pre_tokenizer = byte(add_prefix_space=True)
    yield "byte-prefix-space", tokenizer, trainer
    tokenizer, trainer = byte_level(ignore_merges=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split(Regex(LLAMA3), "isolated"), byte(add_prefix_space=False, use_regex=False)]
    )
    yield "llama3", tokenizer, trainer
    tokenizer, trainer = byte_level()
    tokenizer.normalizer = normalizers.NFC()
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte(add_prefix_space=False)])
    yield "nfc-digits", tokenizer, trainer
    tokenizer, trainer = byte_level()
    tokenizer.normalizer = normalizers.ByteLevel()
    tokenizer.pre_tokenizer = split(Regex(r"[^Ċ]+|Ċ"), "isolated")
    yield "byte-normalizer", tokenizer, trainer
    for behavior in ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]:
        for invert in [False, True]:
            tokenizer, trainer = byte_level(300)
            cut = split(Regex(r"\s|[0-9]"), behavior, invert)
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, byte(add_prefix_space=False, use_regex=False)])
            yield f"split-{behavior.replace('_', '-')}{'-inverted' * invert}", tokenizer, trainer
    llama = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    yield "llama2", *space_bpe(llama, None, llama_decoder())
    yield "gemma", *space_bpe(normalizers.Replace(" ", "▁"), split(" ", "merged_with_previous"), llama_decoder(0))
    for scheme in ["never", "first", "always"]:
        for cut in [True, False]:
            meta = pre_tokenizers.Metaspace("▁", scheme, cut)
            decoder = decoders.Metaspace("▁", scheme, cut)
            yield f"metaspace-{scheme}{'' if cut else '-whole'}", *space_bpe(None, meta, decoder, False)
    always, spaced = pre_tokenizers.Metaspace("▁", "always"), decoders.Metaspace("▁", "always")
    yield "unigram", *unigram(always, spaced)
    yield "unigram-nfkc", *unigram(always, spaced, normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]))
    yield "unigram-bytes", *unigram(always, llama_decoder())
    squeeze = normalizers.Replace(Regex(" {2,}"), " ")
    precompiled = normalizers.Precompiled(charsmap(lines))
    yield "unigram-precompiled", *unigram(always, spaced, normalizers.Sequence([precompiled, squeeze]))
    yield "wordpiece-uncased", *word_piece(True)
    yield "wordpiece-cased", *word_piece(False)
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation("isolated")]
    )
    yield "wordlevel", tokenizer, trainers.WordLevelTrainer(vocab_size=200, show_progress=False, special_tokens=["[UNK]"])
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.WhitespaceSplit()
    yield "word-end", tokenizer, trainers.BpeTrainer(
        vocab_size=300, show_progress=False, special_tokens=["<unk>"], end_of_word_suffix="</w>"
    )
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", continuing_subword_prefix="##"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.UnicodeScripts()])
    yield "continuing", tokenizer, trainers.BpeTrainer(
        vocab_size=300, show_progress=False, special_tokens=["<unk>"], continuing_subword_prefix="##"
    )


def finished(name, tokenizer):
    """With odd added tokens and what goes around a text."""
    if name in ["unigram-bytes", "llama2", "gemma"]:
        tokenizer = with_bytes(tokenizer)
    if name in ["llama2", "gemma"] or name.startswith("metaspace"):
        tokenizer = with_all_merges(tokenizer)
    tokenizer.add_tokens(ADDED)
    tokenizer.add_special_tokens([token for token in ADDED if token.special])
    ids = {text: tokenizer.token_to_id(text) for text in ["<s>", "</s>", "[CLS]", "[SEP]"]}
    if ids["[CLS]"] is not None:
        around = [("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
        tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", around)
    elif ids["<s>"] is not None:
        around = [("<s>", ids["<s>"]), ("</s>", ids["</s>"])]
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", around)
    return tokenizer


def answers(tokenizer, lines):
    rows = []
    for text in lines:
        tokenizer.encode_special_tokens = False
        ids = tokenizer.encode(text).ids
        tokenizer.encode_special_tokens = True
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        rows.append([text, ids, plain, tokenizer.decode(ids)])
    return rows


def main():
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "crates/text/tests/it/goldens/tokenizers"
    out.mkdir(parents=True, exist_ok=True)
    lines = corpus()
    for number, (name, tokenizer, trainer) in enumerate(kinds(lines)):
        tokenizer.train_from_iterator(lines, trainer)
        tokenizer = finished(name, tokenizer)
        golden = {
            "made_with": f"tokenizers {tokenizers.__version__}, sentencepiece {sentencepiece.__version__}",
            "file": json.loads(tokenizer.to_str()),
            "answers": answers(tokenizer, texts(lines, number)),
        }
        (out / f"{name}.json").write_text(json.dumps(golden, ensure_ascii=False, separators=(",", ":")) + "\n")


main()
