//! Receipts: what answers were made from and what they were, so that whoever has the model can make them again.
//!
//! A receipt depends on model and request only, never on what else is being served. It is sealed field by field, so
//! that a change names itself; what the seal cannot tell, making the answers again does.

mod digest;
mod make;
mod seal;
mod verify;

pub use digest::{Digests, digests, path_digest};
pub use seal::Difference;
pub use verify::{Verified, VerifyError, verify};

pub(crate) use make::Recorder;

/// `blake3:` and the digest of a text, such as a template.
pub fn text_digest(text: &str) -> String {
    digest::of(text.as_bytes())
}

use allod_cpu::Activations;
use allod_engine::SamplingParams;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The form that this program writes and reads.
const FORM: u32 = 1;

/// What answers were made from, and what they were.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The form of the receipt, 1.
    pub receipt: u32,
    /// The program.
    pub made_by: MadeBy,
    /// The model.
    pub model: ModelPart,
    /// What was asked.
    pub request: RequestPart,
    /// What came.
    pub answers: Vec<AnswerPart>,
}

/// A program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MadeBy {
    /// `allod` and its version.
    pub program: String,
    /// The revision of the kernels' results. Within one, no kernel's result differs on any machine.
    pub kernels: String,
}

/// A model and how it was run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelPart {
    /// What it was called; a note.
    pub name: String,
    /// BLAKE3 of its file; of several, BLAKE3 of the list that `b3sum` writes of them.
    pub digest: String,
    /// BLAKE3 of the program that its file describes.
    pub plan: String,
    /// BLAKE3 of its tokenizer.
    pub tokenizer: String,
    /// BLAKE3 of the chat template that the prompt went through, if it did.
    pub template: Option<String>,
    /// BLAKE3 of the adapters added to its weights.
    pub adapters: Vec<String>,
    /// Type of cached keys and values.
    pub cache_type: String,
    /// What BF16 weights were multiplied with; left out where it is the usual.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub activations: Activations,
    /// Positions that it was planned for.
    pub context: usize,
}

fn is_usual(activations: &Activations) -> bool {
    *activations == Activations::default()
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestPart {
    /// The prompts, one or more.
    pub prompts: Vec<Tokens>,
    /// Answers to each.
    pub n: u32,
    /// The sampler's parameters, all of them; a bias that bans a token is `"-inf"`.
    pub sampling: Value,
    /// Texts that end an answer.
    pub stop: Vec<String>,
    /// The text that ended an answer belongs to it.
    pub include_stop: bool,
    /// Special tokens do not show in the text.
    pub skip_special: bool,
    /// The grammar that answers were held to.
    pub grammar: Option<Value>,
}

/// Token ids and their digest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokens {
    /// The ids.
    pub token_ids: Vec<u32>,
    /// BLAKE3 of the ids as 32-bit little-endian numbers.
    pub digest: String,
}

impl Tokens {
    /// The ids with their digest.
    pub fn new(token_ids: Vec<u32>) -> Tokens {
        let bytes: Vec<u8> = token_ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        Tokens { token_ids, digest: digest::of(&bytes) }
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerPart {
    /// Names its noise.
    pub seed: u64,
    /// Its tokens, without the one that ended it.
    pub tokens: Tokens,
    /// BLAKE3 of the text of these tokens.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
}

impl AnswerPart {
    /// An answer of these tokens, whose text is `text`.
    pub fn new(seed: u64, tokens: Vec<u32>, text: &str, finish: Finish) -> AnswerPart {
        AnswerPart { seed, tokens: Tokens::new(tokens), text: digest::of(text.as_bytes()), finish }
    }
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model ended it.
    End,
    /// A token that the request names.
    StopToken,
    /// A text that the request names.
    StopString,
    /// As long as asked for.
    Length,
    /// The context was full.
    ContextFull,
    /// Somebody ended it: the tokens are what had come.
    Cancelled,
}

impl Receipt {
    /// A receipt of this program.
    pub fn new(model: ModelPart, request: RequestPart, answers: Vec<AnswerPart>) -> Receipt {
        let made_by = MadeBy {
            program: concat!("allod ", env!("CARGO_PKG_VERSION")).into(),
            kernels: format!("cpu-{}", allod_cpu::REVISION),
        };
        Receipt { receipt: FORM, made_by, model, request, answers }
    }

    /// The receipt as it is given out, with its seal.
    pub fn sealed(&self) -> Value {
        let mut value = json!(self);
        value["seal"] = json!(seal::of(&value));
        value
    }
}

/// The sampler's parameters as a receipt holds them, numbers as short as they were given.
///
/// # Errors
/// JSON's, for parameters that have no form in it.
pub fn sampling_value(params: &SamplingParams) -> serde_json::Result<Value> {
    let mut params = params.clone();
    let bias = std::mem::take(&mut params.logit_bias);
    let mut value: Value = serde_json::from_str(&serde_json::to_string(&params)?)?;
    let one = |(id, bias): (u32, f32)| {
        let written = if bias.is_finite() { serde_json::from_str(&bias.to_string()) } else { Ok(json!("-inf")) };
        Ok((id.to_string(), written?))
    };
    let bias = bias.into_iter().map(one).collect::<serde_json::Result<BTreeMap<_, _>>>()?;
    value["logit_bias"] = json!(bias);
    Ok(value)
}

/// The parameters that a receipt holds.
fn sampling_params(value: &Value) -> serde_json::Result<SamplingParams> {
    let mut value = value.clone();
    let bias = value.as_object_mut().and_then(|all| all.remove("logit_bias")).unwrap_or_default();
    let mut params: SamplingParams = serde_json::from_value(value)?;
    let bias: BTreeMap<String, Value> = serde_json::from_value(bias)?;
    for (id, bias) in bias {
        use serde::de::Error;
        let id = id.parse().map_err(|_| serde_json::Error::custom(format!("logit_bias: {id:?} is no token id")))?;
        let bias = if bias == "-inf" { f32::NEG_INFINITY } else { serde_json::from_value(bias)? };
        params.logit_bias.insert(id, bias);
    }
    Ok(params)
}
