//! tiktoken's rank files: one line a token, its bytes in base64 and its rank, which is its id.

use super::description::{Added, Bpe, Description, Model, sequence, split};
use super::error::Error;
use super::gguf::byte_level;
use super::pre::Pre;
use super::vocab::{Kind, Spelling, Token, Vocab};
use super::{Tokenizer, bytes, roles, scores, steps};
use serde_json::Value;
use tokenizers::AddedToken;

impl Tokenizer {
    /// The tokenizer of tiktoken ranks. The file says neither how text is cut, which `pre` names as GGUF's
    /// `tokenizer.ggml.pre` does (`gpt-4o` for o200k, `kimi-k2`), nor which special tokens there are.
    ///
    /// # Errors
    /// [`Error::Malformed`] with the line, [`Error::Unsupported`] for an unknown `pre`.
    pub fn from_tiktoken(ranks: &[u8], pre: &str, special: &[(&str, u32)]) -> Result<Tokenizer, Error> {
        describe(ranks, pre, special)?.build()
    }
}

/// What the ranks say.
pub(super) fn describe(ranks: &[u8], pre: &str, special: &[(&str, u32)]) -> Result<Description, Error> {
    let pre = Pre::named(pre)?;
    let mut tokens = vec![Token { text: "".into(), kind: Kind::Unused }; highest(ranks, special)? + 1];
    let mut ids = Vec::new();
    for (bytes, id) in lines(ranks).flatten() {
        let text = bytes::to_printable(&bytes);
        tokens[id as usize] = Token { text: text.as_str().into(), kind: Kind::Normal };
        ids.push((text, id));
    }
    for &(text, id) in special {
        tokens[id as usize] = Token { text: text.into(), kind: Kind::Control };
    }
    let mut vocab = Vocab::new(tokens, Spelling::ByteLevel);
    roles::complete(&mut vocab, &[]);
    let merges = scores::merges_of_ranks(&ids);
    let added = |&(text, id): &(&str, u32)| Added { id, token: AddedToken::from(text, true) };
    let cuts = pre.cuts.iter().map(|pattern| split(pattern)).chain([byte_level()]);
    Ok(Description {
        vocab,
        added: special.iter().map(added).collect(),
        normalizer: Value::Null,
        pre_tokenizer: sequence("pretokenizers", cuts.collect()),
        decoder: byte_level(),
        model: Model::Bpe(Bpe { ids, merges, lenient: true, whole_words: true, ..Bpe::default() }),
        before: Vec::new(),
        after: Vec::new(),
    })
}

/// The highest id, after every line was found to be right. Ids are dense but for a few special ones.
fn highest(ranks: &[u8], special: &[(&str, u32)]) -> Result<usize, Error> {
    let mut highest = 0;
    for line in lines(ranks) {
        highest = highest.max(line?.1);
    }
    let highest = special.iter().map(|&(_, id)| id).fold(highest, u32::max) as usize;
    match highest >= ranks.len().max(1 << 20) {
        true => Err(Error::malformed("ranks", "ids that are dense", format!("id {highest}"))),
        false => Ok(highest),
    }
}

fn lines(ranks: &[u8]) -> impl Iterator<Item = Result<(Vec<u8>, u32), Error>> + '_ {
    let lines = ranks.split(|&b| b == b'\n').enumerate().filter(|(_, line)| !line.trim_ascii().is_empty());
    lines.map(|(number, line)| {
        let line = std::str::from_utf8(line).unwrap_or("").trim();
        let parsed = line.split_once(' ').and_then(|(text, rank)| Some((steps::base64(text)?, rank.parse().ok()?)));
        parsed.ok_or_else(|| Error::malformed(format!("line {}", number + 1), "base64 and a rank", line))
    })
}
