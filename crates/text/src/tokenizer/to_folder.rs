//! The tokenizer of a GGUF file as the files that Transformers reads.

use super::description::{Added, Description, Model};
use super::error::Error;
use super::pipeline;
use super::{Special, Tokenizer, folder, gguf};
use crate::Templates;
use allod_formats::Metadata;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Writes the tokenizer and the chat templates of a GGUF file's metadata to the folder `out`, which must be there:
/// `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json`. Returns the files; none where the metadata
/// have no tokenizer.
///
/// What is written is read back, and must encode a text of many of its tokens as the metadata's tokenizer does.
///
/// # Errors
/// Those of [`Tokenizer::from_gguf`]; [`Error::Unsupported`] for a vocabulary that a `tokenizer.json` cannot say, such
/// as one with two tokens of the same text; [`Error::Io`].
pub fn to_folder(meta: &Metadata, out: &Path) -> Result<Vec<PathBuf>, Error> {
    if matches!(meta.str("tokenizer.ggml.model"), None | Some("none" | "no_vocab")) {
        return Ok(Vec::new());
    }
    let (description, original) = (gguf::describe(meta)?, Tokenizer::from_gguf(meta)?);
    let special = special_tokens(&original);
    let mut config = special.clone();
    config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    config.insert("clean_up_tokenization_spaces".into(), false.into());
    let length = meta.str("general.architecture").and_then(|arch| meta.uint(&format!("{arch}.context_length")));
    config.extend(length.map(|length| ("model_max_length".to_owned(), length.into())));
    config.extend(chat_template(&Templates::from_gguf(meta)).map(|template| ("chat_template".to_owned(), template)));
    let file = description.into_json()?;
    let bytes = file.to_string().into_bytes();
    verify(&original, &Tokenizer::from_json(&bytes)?)?;
    let mut files = Vec::new();
    let small = |value: Map<String, Value>| format!("{:#}\n", Value::Object(value)).into_bytes();
    for (name, bytes) in [
        ("tokenizer.json", bytes),
        ("tokenizer_config.json", small(config)),
        ("special_tokens_map.json", small(special)),
    ] {
        let path = out.join(name);
        std::fs::write(&path, bytes).map_err(|source| Error::Io { path: path.clone(), source })?;
        files.push(path);
    }
    Ok(files)
}

/// The texts of the tokens that play a role, by Transformers' names.
fn special_tokens(tokenizer: &Tokenizer) -> Map<String, Value> {
    let token = |&(role, name): &(super::Role, &str)| {
        let text = tokenizer.token_text(tokenizer.special(role)?)?;
        Some((name.to_owned(), text.into()))
    };
    folder::NAMES.iter().filter(|(role, _)| *role != super::Role::Eot).filter_map(token).collect()
}

/// One template as a text, several as a list of names and texts.
fn chat_template(templates: &Templates) -> Option<Value> {
    if templates.named.is_empty() {
        return templates.default.as_deref().map(Value::from);
    }
    let default = templates.default.iter().map(|source| ("default", source));
    let named = templates.named.iter().map(|(name, source)| (&**name, source));
    Some(default.chain(named).map(|(name, source)| json!({"name": name, "template": source})).collect())
}

impl Description {
    /// The `tokenizer.json` of this.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when two tokens have the same text.
    fn into_json(self) -> Result<Value, Error> {
        let texts = self.texts()?;
        let post_processor = self.post_processor();
        let Description { vocab, mut added, normalizer, pre_tokenizer, decoder, model, .. } = self;
        added.sort_by_key(|added| added.id);
        let entry = |Added { id, token }: &Added| {
            json!({
                "id": id,
                "content": token.content,
                "single_word": token.single_word,
                "lstrip": token.lstrip,
                "rstrip": token.rstrip,
                "normalized": token.normalized,
                "special": token.special,
            })
        };
        let ids = || texts.iter().zip(0u32..).map(|(text, id)| (text.clone(), id.into())).collect::<Map<_, Value>>();
        let model = match model {
            Model::Bpe(bpe) => {
                let mut model = json!({
                    "type": "BPE",
                    "dropout": null,
                    "unk_token": bpe.unk,
                    "continuing_subword_prefix": bpe.prefix,
                    "end_of_word_suffix": bpe.suffix,
                    "fuse_unk": bpe.fuse_unk,
                    "byte_fallback": bpe.byte_fallback,
                    "ignore_merges": bpe.whole_words,
                    "vocab": ids(),
                });
                let merges = pipeline::possible_merges(bpe, &vocab)?.into_iter();
                model["merges"] = merges.map(|(left, right)| json!([left, right])).collect();
                model
            }
            Model::Unigram { pieces, unk, byte_fallback } => {
                let pieces = texts.iter().zip(pieces).map(|(text, (_, score))| json!([text, score]));
                let vocab: Vec<Value> = pieces.collect();
                json!({"type": "Unigram", "unk_id": unk, "vocab": vocab, "byte_fallback": byte_fallback})
            }
            Model::WordPiece { unk, prefix, max_chars, .. } => json!({
                "type": "WordPiece",
                "unk_token": unk,
                "continuing_subword_prefix": prefix,
                "max_input_chars_per_word": max_chars,
                "vocab": ids(),
            }),
            Model::Words { unk, .. } => json!({"type": "WordLevel", "vocab": ids(), "unk_token": unk}),
        };
        Ok(json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added.iter().map(entry).collect::<Vec<Value>>(),
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": post_processor,
            "decoder": decoder,
            "model": model,
        }))
    }

    /// The texts of all tokens as the library spells them.
    fn texts(&self) -> Result<Vec<String>, Error> {
        let mut texts: Vec<String> = self.vocab.tokens.iter().map(|token| token.text.to_string()).collect();
        for (text, id) in self.model.ids() {
            texts[*id as usize].clone_from(text);
        }
        let mut seen = HashMap::with_capacity(texts.len());
        for (text, id) in texts.iter().zip(0u32..) {
            if let Some(first) = seen.insert(text.as_str(), id) {
                return Err(Error::unsupported(
                    "tokenizer.json",
                    format!("a vocabulary in which tokens {first} and {id} are both {text:?}"),
                ));
            }
        }
        Ok(texts)
    }

    /// What goes around one text or two.
    fn post_processor(&self) -> Value {
        let (before, after) = (&self.before, &self.after);
        if before.is_empty() && after.is_empty() {
            return Value::Null;
        }
        let text = |id: u32| self.vocab.get(id).map_or_else(String::new, |token| token.text.to_string());
        let tokens = |ids: &[u32], kind: u32| {
            let token = |&id: &u32| json!({"SpecialToken": {"id": text(id), "type_id": kind}});
            ids.iter().map(token).collect::<Vec<Value>>()
        };
        let sequence = |name: &str, kind: u32| vec![json!({"Sequence": {"id": name, "type_id": kind}})];
        let single = [tokens(before, 0), sequence("A", 0), tokens(after, 0)].concat();
        // Where nothing ends a text, what begins one separates two.
        let between = if after.is_empty() { tokens(before, 1) } else { Vec::new() };
        let pair = [single.clone(), between, sequence("B", 1), tokens(after, 1)].concat();
        let special: Map<String, Value> = [&before[..], after]
            .concat()
            .into_iter()
            .map(|id| (text(id), json!({"id": text(id), "ids": [id], "tokens": [text(id)]})))
            .collect();
        json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special})
    }
}

/// Both encode the texts of many tokens alike.
fn verify(original: &Tokenizer, written: &Tokenizer) -> Result<(), Error> {
    let sample = original.sample(5);
    let special = Special { parse: true, add: true };
    match original.encode(&sample, special)? == written.encode(&sample, special)? {
        true => Ok(()),
        false => Err(Error::unsupported("tokenizer.json", "a vocabulary that cuts as this one does")),
    }
}
