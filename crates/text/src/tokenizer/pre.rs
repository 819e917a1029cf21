//! How GGUF files name the way a text is cut before byte-pair encoding: `tokenizer.ggml.pre`.
//!
//! The names are llama.cpp's. The patterns are those of the models' own `tokenizer.json` (its `Split` and `Digits`
//! steps as regular expressions, each cutting what the one before it left, matches and gaps both words), written
//! without possessive quantifiers where those change nothing. Such a name says nothing about Unicode normalization, and
//! no reader of GGUF applies any: a text in normal form D is encoded as it stands, unlike by some models' own files.

use super::error::Error;

/// One way of cutting, under all its names.
pub(super) struct Pre {
    /// The first is the one written to files.
    pub(super) names: &'static [&'static str],
    pub(super) cuts: &'static [&'static str],
    /// Words that are tokens are taken whole.
    pub(super) whole_words: bool,
    /// A text begins with BOS unless the file says otherwise.
    pub(super) add_bos: bool,
    /// Merges work on characters, with `▁` for a space, not on bytes.
    pub(super) on_chars: bool,
}

const PLAIN: Pre = Pre { names: &[], cuts: &[], whole_words: false, add_bos: false, on_chars: false };

pub(super) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const CJK: &str = "[一-龥぀-ゟ゠-ヿ]+";
/// Cased letters, as DeepSeek's tokenizers list them.
const CASED: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u{1F7D}ᾀ-ᾴᾶ-ᾼ\u{1FBE}ῂ-ῄῆ-ῌῐ-\u{1FD3}ῖ-\u{1FDB}ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u{2126}ℨ\u{212A}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
const POSSESSIVES: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])";

/// Every known way of cutting. Where two have the same patterns, the first is the one an unnamed tokenizer is given.
pub(super) const ALL: &[Pre] = &[
    // Before models named their way of cutting, this was everybody's.
    Pre { names: &["default"], cuts: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"], ..PLAIN },
    Pre {
        names: &["gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "jina-v2-es", "jina-v2-de", "a.x-4.0", "mellum"],
        cuts: &[GPT2],
        ..PLAIN
    },
    Pre { names: &["jina-v1-en", "jina-v2-code", "roberta-bpe"], cuts: &[GPT2], ..PLAIN },
    Pre {
        names: &["jais", "trillion", "granite-docling", "exaone4", "olmo", "mpt", "modern-bert"],
        cuts: &[GPT2],
        ..PLAIN
    },
    Pre {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        cuts: &[LLAMA3],
        whole_words: true,
        add_bos: true,
        ..PLAIN
    },
    Pre { names: &["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"], cuts: &[LLAMA3], ..PLAIN },
    Pre {
        names: &["minicpm5"],
        cuts: &[
            r"\p{N}{1,3}",
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        whole_words: true,
        ..PLAIN
    },
    Pre {
        names: &["jais-2"],
        cuts: &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}",
        ],
        ..PLAIN
    },
    Pre { names: &["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2"], cuts: &[QWEN2], ..PLAIN },
    Pre { names: &["hunyuan", "solar-open", "grok-2"], cuts: &[QWEN2], ..PLAIN },
    Pre { names: &["laguna"], cuts: &[r"[^\n]+|[\n]+", QWEN2], ..PLAIN },
    Pre {
        names: &["ufakzeka"],
        cuts: &[r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"],
        ..PLAIN
    },
    Pre { names: &["qwen35"], cuts: &[QWEN35], ..PLAIN },
    Pre {
        names: &["seed-coder"],
        cuts: &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        ..PLAIN
    },
    Pre {
        names: &["exaone-moe"],
        cuts: &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
        ],
        ..PLAIN
    },
    Pre {
        names: &["bailingmoe", "bailingmoe2", "llada-moe"],
        cuts: &[
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        ],
        ..PLAIN
    },
    Pre {
        names: &["gpt-4o", "o200k", "gpt-oss", "llama4", "kanana2", "talkie", "minimax-m2"],
        cuts: &[O200K],
        ..PLAIN
    },
    Pre { names: &["granite-embed-multi-97m"], cuts: &[O200K], whole_words: true, ..PLAIN },
    Pre { names: &["tiny_aya", "cohere2moe"], cuts: &[r"\d{1,3}(?=(?:\d{3})*\b)", O200K], ..PLAIN },
    Pre { names: &["tekken"], cuts: &[TEKKEN], whole_words: true, add_bos: true, ..PLAIN },
    Pre {
        names: &["kimi-k2"],
        cuts: &[
            r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        ..PLAIN
    },
    Pre {
        names: &["deepseek-llm"],
        cuts: &["[\r\n]", CASED, r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", "[一-龥ࠀ-一가-퟿]+", r"\p{N}+"],
        ..PLAIN
    },
    Pre {
        names: &["deepseek-coder"],
        cuts: &["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"],
        ..PLAIN
    },
    Pre {
        names: &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        cuts: &[r"\p{N}{1,3}", CJK, DEEPSEEK3],
        ..PLAIN
    },
    Pre {
        names: &["spark2_5"],
        cuts: &[
            r"\p{N}{1,3}",
            CJK,
            r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"##,
            r"\p{N}",
        ],
        ..PLAIN
    },
    Pre {
        names: &["youtu"],
        cuts: &[
            r"[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+",
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        whole_words: true,
        ..PLAIN
    },
    Pre {
        names: &["afmoe"],
        cuts: &[
            // Digits in threes, counted from the right.
            r"\p{N}{1,3}(?=(?:\p{N}{3})*(?:\P{N}|\z))",
            "[一-鿿㐀-䶿\u{F900}-\u{FAFF}぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿຀-໿ក-៿က-႟ꩠ-ꩿꧠ-꧿가-힯ᄀ-ᇿ]+",
            DEEPSEEK3,
        ],
        ..PLAIN
    },
    Pre { names: &["superbpe"], cuts: &[r"\p{N}+", r"(?=(\d{3})+(?!\d))"], ..PLAIN },
    Pre { names: &["falcon"], cuts: &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"], ..PLAIN },
    Pre {
        names: &["starcoder", "refact", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2", "command-r"],
        cuts: &[r"\p{N}", GPT2],
        ..PLAIN
    },
    Pre { names: &["bloom", "poro-chat", "gpt3-finnish"], cuts: &[r" ?[^(\s|.,!?…。，、।۔،)]+"], ..PLAIN },
    Pre { names: &["viking"], cuts: &[r" ?[^(\s|.,!?…。，、।۔،)]+", r"\p{N}"], ..PLAIN },
    Pre {
        names: &["chameleon"],
        cuts: &[
            "<sentinel:[0-9]+>",
            "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
            r"([\t\n]|    |  )",
            r"\p{N}",
            r"[\p{P}!-/:-@\[-`{-~]",
            GPT2,
        ],
        add_bos: true,
        ..PLAIN
    },
    Pre {
        names: &["gemma4", "granite-embed-multi-311m"],
        cuts: &[r"[^\n]+|[\n]+"],
        add_bos: true,
        on_chars: true,
        ..PLAIN
    },
    Pre { names: &["sarvam-moe"], cuts: &[r"[^\n]+|[\n]+"], on_chars: true, ..PLAIN },
];

impl Pre {
    /// The way of cutting named `name`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] with the nearest known name.
    pub(super) fn named(name: &str) -> Result<&'static Pre, Error> {
        ALL.iter().find(|pre| pre.names.contains(&name)).ok_or_else(|| Error::Unsupported {
            field: "tokenizer.ggml.pre".into(),
            name: name.chars().take(80).collect(),
            nearest: nearest(name),
        })
    }

    /// True when `patterns` cut as this does.
    pub(super) fn cuts_like(&self, patterns: &[&str]) -> bool {
        patterns.len() == self.cuts.len() && patterns.iter().zip(self.cuts).all(|(a, b)| canonical(a) == canonical(b))
    }
}

/// One spelling for patterns that are written in several ways.
fn canonical(pattern: &str) -> String {
    let insensitive = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
    pattern
        .replace("?+", "?")
        .replace("++", "+")
        .replace('\r', r"\r")
        .replace('\n', r"\n")
        .replace("(?i:[sdmt]|ll|ve|re)", "(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])")
        .replace(POSSESSIVES, insensitive)
        .replace(r"\p{N}{1}", r"\p{N}")
}

/// The known name that shares the most with `name`, if they share enough to have been meant.
fn nearest(name: &str) -> Option<String> {
    let best = ALL.iter().flat_map(|pre| pre.names).min_by_key(|known| distance(name, known))?;
    (distance(name, best) <= best.len() / 2).then(|| (*best).to_owned())
}

/// Levenshtein distance in bytes; a long `a` is cut, it is no name anyway.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (&a.as_bytes()[..a.len().min(64)], b.as_bytes());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::super::description::{sequence, split};
    use super::super::steps;
    use super::*;
    use tokenizers::PreTokenizer;

    #[test]
    fn every_pattern_compiles_and_covers_text() {
        let text = "I'll pay 1234567 €, naïve Straße!\r\n\t  你好 мир 한국어 ünïcödé   end  ";
        for pre in ALL {
            let mut words = tokenizers::PreTokenizedString::from(text);
            let cuts: Vec<_> = pre.cuts.iter().map(|pattern| split(pattern)).collect();
            for cut in steps::pre_tokenizer(&sequence("pretokenizers", cuts), "").unwrap() {
                cut.pre_tokenize(&mut words).unwrap();
            }
            let words = words.get_splits(tokenizers::OffsetReferential::Original, tokenizers::OffsetType::Byte);
            assert_eq!(words.iter().map(|(word, ..)| *word).collect::<String>(), text, "{:?}", pre.names);
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = ALL.iter().flat_map(|p| p.names).collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_nearest() {
        let message = Pre::named("qwen-2").err().unwrap().to_string();
        assert_eq!(message, "tokenizer.ggml.pre: `qwen-2` is not supported; the nearest known one is `qwen2`");
        assert!(!Pre::named("completely-else-thing").err().unwrap().to_string().contains("nearest"));
    }
}
