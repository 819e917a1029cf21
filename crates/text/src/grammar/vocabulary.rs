//! The tokens of a model as a tree of bytes.

use super::{Error, first_lines};
use crate::tokenizer::{Role, Special, Tokenizer};
use llguidance::api::TopLevelGrammar;
use llguidance::{ParserFactory, TokenParser};
use std::sync::Arc;
use toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenizerEnv};

/// Longer tokens are never chosen under a grammar; the tree counts levels in ten bits.
const LONGEST: usize = 1000;
/// Bytes of all tokens together; the tree counts its nodes in 22 bits.
const TOTAL: usize = (1 << 22) - 2;
/// States of one grammar's lexer, at 1 to 2 KiB.
const LEXER_STATES: usize = 50_000;

/// A model's tokens, prepared for grammars. Made once a model, in some hundred milliseconds for large vocabularies;
/// cheap to clone.
#[derive(Clone)]
pub struct Vocabulary {
    factory: Arc<ParserFactory>,
}

impl std::fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tokens = self.factory.tok_env().tok_trie().vocab_size();
        f.debug_struct("Vocabulary").field("tokens", &tokens).finish_non_exhaustive()
    }
}

impl Vocabulary {
    /// The vocabulary of `tokenizer`.
    ///
    /// # Errors
    /// [`Error::Vocabulary`] when it is empty, has no token that ends an answer, or is too large.
    pub fn new(tokenizer: &Tokenizer) -> Result<Vocabulary, Error> {
        let words = words(tokenizer);
        let stops = tokenizer.stop_tokens();
        let eos = tokenizer.special(Role::Eos).or(stops.first().copied());
        let eos = eos.ok_or_else(|| Error::Vocabulary("no token ends an answer".into()))?;
        if words.iter().map(Vec::len).sum::<usize>() > TOTAL {
            return Err(Error::Vocabulary(format!("its tokens have more than {TOTAL} bytes")));
        }
        let size = u32::try_from(words.len()).ok().filter(|&n| n < 1 << 24);
        let size = size.ok_or_else(|| Error::Vocabulary("more than 16 million tokens".into()))?;
        let trie = TokTrie::from(&TokRxInfo::new(size, eos), &words);
        let ends: Vec<u32> = std::iter::once(eos).chain(stops.iter().copied().filter(|&id| id != eos)).collect();
        let trie = trie.with_eos_tokens(&ends);
        let environment: TokEnv = Arc::new(Environment { trie, tokenizer: tokenizer.clone() });
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices)
            .map_err(|e| Error::Vocabulary(first_lines(&e.to_string())))?;
        factory.quiet();
        factory.limits_mut().max_lexer_states = LEXER_STATES;
        factory.limits_mut().verbose_errors = false;
        Ok(Vocabulary { factory: Arc::new(factory) })
    }

    /// A parser for `grammar`, or what is wrong with that.
    pub(super) fn parser(&self, grammar: TopLevelGrammar) -> Result<TokenParser, String> {
        self.factory.create_parser(grammar).map_err(|e| first_lines(&format!("{e:#}")))
    }
}

/// The bytes of every token, as the tree wants them: control tokens behind a byte that no text has, and nothing for
/// tokens that no text can need.
fn words(tokenizer: &Tokenizer) -> Vec<Vec<u8>> {
    let word = |id: usize| {
        let id = u32::try_from(id).ok()?;
        let bytes = tokenizer.token_bytes(id)?;
        if bytes.len() > LONGEST || bytes.contains(&TokTrie::SPECIAL_TOKEN_MARKER) {
            return None;
        }
        if !tokenizer.is_special(id) {
            return Some(bytes.into_owned());
        }
        let mut word = vec![TokTrie::SPECIAL_TOKEN_MARKER];
        word.extend_from_slice(&bytes);
        Some(word)
    };
    (0..tokenizer.vocab_size()).map(|id| word(id).unwrap_or_default()).collect()
}

struct Environment {
    trie: TokTrie,
    tokenizer: Tokenizer,
}

impl Environment {
    /// The ids that `text` has after other text.
    fn encode(&self, text: &str) -> Option<Vec<u32>> {
        let ids = self.tokenizer.encode(text, Special::NONE).ok()?;
        if self.after(&ids, b"") == Some(0) && self.length(&ids) == text.len() {
            return Some(ids);
        }
        // The vocabulary puts a space before a text: let another character have it.
        let ids = self.tokenizer.encode(&format!("\n{text}"), Special::NONE).ok()?;
        let start = self.after(&ids, b" \n").or_else(|| self.after(&ids, b"\n"))?;
        (self.length(&ids[start..]) == text.len()).then(|| ids[start..].to_vec())
    }

    /// How many of `ids` spell `prefix` exactly.
    fn after(&self, ids: &[u32], prefix: &[u8]) -> Option<usize> {
        let mut rest = prefix;
        for (i, &id) in ids.iter().enumerate() {
            if rest.is_empty() {
                return Some(i);
            }
            rest = rest.strip_prefix(self.trie.token(id))?;
        }
        rest.is_empty().then_some(ids.len())
    }

    fn length(&self, ids: &[u32]) -> usize {
        ids.iter().map(|&id| self.trie.token_len(id)).sum()
    }
}

impl TokenizerEnv for Environment {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        self.trie.tokenize_with_greedy_fallback(bytes, |text| {
            let ids = self.encode(text).filter(|ids| self.trie.decode_raw(ids) == text.as_bytes());
            ids.unwrap_or_else(|| self.trie.greedy_tokenize(text.as_bytes()))
        })
    }
}
