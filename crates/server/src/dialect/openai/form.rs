//! The fields that chat completions and completions share.

use serde::Deserialize;

/// One text or several.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(untagged, expecting = "a string or an array of strings")]
pub(crate) enum Texts {
    One(String),
    Many(Vec<String>),
}

impl Texts {
    pub(crate) fn into_vec(self) -> Vec<String> {
        match self {
            Texts::One(text) => vec![text],
            Texts::Many(texts) => texts,
        }
    }
}

/// What a stream carries beside the answer.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StreamOptions {
    /// A last chunk with the usage of all answers.
    pub(crate) include_usage: bool,
    /// Usage so far in every chunk.
    pub(crate) continuous_usage_stats: bool,
    /// Random padding against eavesdroppers who measure chunks.
    pub(crate) include_obfuscation: bool,
}

/// A request form of OpenAI's with the fields that both kinds of completion have. Serde cannot deny unknown fields of
/// a flattened structure, so the fields are written into each form.
macro_rules! form {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, serde::Deserialize)]
        #[cfg_attr(test, derive(utoipa::ToSchema))]
        #[serde(deny_unknown_fields)]
        pub(crate) struct $name {
            $($(#[$field_meta])* pub(crate) $field: $kind,)*
            /// The model; the server's first one where it is left out.
            #[serde(default)]
            pub(crate) model: String,
            /// Answers wanted.
            pub(crate) n: Option<u32>,
            /// The answer comes as server-sent events.
            #[serde(default)]
            pub(crate) stream: bool,
            pub(crate) stream_options: Option<crate::dialect::openai::form::StreamOptions>,
            /// Most tokens of an answer.
            pub(crate) max_tokens: Option<u32>,
            /// Least tokens of an answer.
            pub(crate) min_tokens: Option<u32>,
            /// Texts that end an answer.
            pub(crate) stop: Option<crate::dialect::openai::form::Texts>,
            /// Tokens that end an answer.
            pub(crate) stop_token_ids: Option<Vec<u32>>,
            /// The stop text stays at the end of the answer.
            #[serde(default)]
            pub(crate) include_stop_str_in_output: bool,
            /// Goes on past the model's own end.
            #[serde(default)]
            pub(crate) ignore_eos: bool,
            /// Special tokens do not show in the text; they do where this is false.
            pub(crate) skip_special_tokens: Option<bool>,
            pub(crate) temperature: Option<f32>,
            pub(crate) top_p: Option<f32>,
            /// 0 and -1 are off.
            pub(crate) top_k: Option<i64>,
            pub(crate) min_p: Option<f32>,
            pub(crate) typical_p: Option<f32>,
            pub(crate) top_n_sigma: Option<f32>,
            pub(crate) xtc_probability: Option<f32>,
            pub(crate) xtc_threshold: Option<f32>,
            pub(crate) dynatemp_range: Option<f32>,
            pub(crate) dynatemp_exponent: Option<f32>,
            pub(crate) dry_multiplier: Option<f32>,
            pub(crate) dry_base: Option<f32>,
            pub(crate) dry_allowed_length: Option<u32>,
            pub(crate) dry_penalty_last_n: Option<i32>,
            /// Texts that a repeated run does not cross.
            pub(crate) dry_sequence_breakers: Option<Vec<String>>,
            pub(crate) mirostat: Option<u8>,
            pub(crate) mirostat_tau: Option<f32>,
            pub(crate) mirostat_eta: Option<f32>,
            /// The order of the sampler's stages.
            pub(crate) samplers: Option<Vec<String>>,
            pub(crate) presence_penalty: Option<f32>,
            pub(crate) frequency_penalty: Option<f32>,
            pub(crate) repetition_penalty: Option<f32>,
            /// Tokens that the three penalties look back; -1 is all.
            pub(crate) repeat_last_n: Option<i32>,
            /// Added to the logits of tokens, by id; -100 bans one.
            pub(crate) logit_bias: Option<std::collections::BTreeMap<String, f32>>,
            /// Only these tokens may follow.
            pub(crate) allowed_token_ids: Option<Vec<u32>>,
            /// The same seed gives the same answer; answer `i` has seed `seed + i`.
            pub(crate) seed: Option<i64>,
            /// Log-probabilities of the prompt's tokens, each with so many likeliest.
            pub(crate) prompt_logprobs: Option<u32>,
            /// Keeps the last so many tokens of the prompt; -1 is what the context holds.
            pub(crate) truncate_prompt_tokens: Option<i64>,
            /// The answer carries the ids of prompt and answer.
            #[serde(default)]
            pub(crate) return_token_ids: bool,
            /// Tokens are written `token_id:N` where log-probabilities name them.
            #[serde(default)]
            pub(crate) return_tokens_as_token_ids: bool,
            /// Requests of higher priority run first.
            pub(crate) priority: Option<i32>,
            /// Only requests with the same salt share what is computed of their prompts.
            pub(crate) cache_salt: Option<String>,
            /// Names the request.
            pub(crate) request_id: Option<String>,
            /// What the answer is held to: JSON, a regular expression, a choice, a grammar.
            pub(crate) structured_outputs: Option<crate::dialect::structure::StructuredOutputs>,
            /// Who asks, on whose account it is booked.
            pub(crate) user: Option<String>,
            /// The answer carries a receipt, with which it can be made again.
            pub(crate) receipt: Option<bool>,
            /// Milliseconds after which the request ends unanswered.
            pub(crate) timeout_ms: Option<u64>,
        }

        impl $name {
            /// The fields that say how tokens are chosen, as they were given.
            fn given(&self) -> crate::dialect::openai::sampling::Given<'_> {
                crate::dialect::openai::sampling::Given {
                    numbers: vec![
                        ("temperature", self.temperature.map(Into::into)),
                        ("top_p", self.top_p.map(Into::into)),
                        ("min_p", self.min_p.map(Into::into)),
                        ("typical_p", self.typical_p.map(Into::into)),
                        ("top_n_sigma", self.top_n_sigma.map(Into::into)),
                        ("xtc_probability", self.xtc_probability.map(Into::into)),
                        ("xtc_threshold", self.xtc_threshold.map(Into::into)),
                        ("dynatemp_range", self.dynatemp_range.map(Into::into)),
                        ("dynatemp_exponent", self.dynatemp_exponent.map(Into::into)),
                        ("dry_multiplier", self.dry_multiplier.map(Into::into)),
                        ("dry_base", self.dry_base.map(Into::into)),
                        ("dry_allowed_length", self.dry_allowed_length.map(Into::into)),
                        ("dry_penalty_last_n", self.dry_penalty_last_n.map(Into::into)),
                        ("mirostat", self.mirostat.map(Into::into)),
                        ("mirostat_tau", self.mirostat_tau.map(Into::into)),
                        ("mirostat_eta", self.mirostat_eta.map(Into::into)),
                        ("samplers", self.samplers.clone().map(Into::into)),
                        ("presence_penalty", self.presence_penalty.map(Into::into)),
                        ("frequency_penalty", self.frequency_penalty.map(Into::into)),
                        ("repeat_penalty", self.repetition_penalty.map(Into::into)),
                        ("repeat_last_n", self.repeat_last_n.map(Into::into)),
                        ("min_tokens", self.min_tokens.map(Into::into)),
                        ("allowed_token_ids", self.allowed_token_ids.clone().map(Into::into)),
                    ],
                    top_k: self.top_k,
                    seed: self.seed,
                    // None at all is for whoever only wants the prompt looked at.
                    max_tokens: self.max_tokens.filter(|&n| n > 0),
                    stop_token_ids: self.stop_token_ids.as_deref(),
                    ignore_eos: self.ignore_eos,
                    logit_bias: self.logit_bias.as_ref(),
                    breakers: self.dry_sequence_breakers.as_deref(),
                }
            }

            /// The caller, on whose account the request is booked.
            fn account(&self, caller: crate::app::Caller) -> crate::app::Caller {
                match &self.user {
                    Some(user) => caller.on_account_of(user),
                    None => caller,
                }
            }

            /// The name of the answer.
            fn id(&self, prefix: &str) -> String {
                match &self.request_id {
                    Some(id) => format!("{prefix}{id}"),
                    None => crate::ids::new(prefix),
                }
            }

            /// Everything of the job that does not depend on the kind of completion.
            fn job(
                &self,
                lease: &crate::models::Lease,
                prompts: Vec<Vec<u32>>,
            ) -> Result<crate::generate::Job, crate::error::ApiError> {
                let sampling = self.given().over(lease)?;
                let n = self.n.unwrap_or(1);
                crate::generate::check_answers(prompts.len(), n)?;
                let stop = match &self.stop {
                    Some(texts) => texts.clone().into_vec(),
                    None => lease.spec.stop.clone(),
                };
                crate::generate::check_stops(&stop)?;
                let deadline = self.timeout_ms.map(|ms| std::time::Instant::now() + std::time::Duration::from_millis(ms));
                let keep = |prompt| {
                    let keep = self.truncate_prompt_tokens;
                    crate::dialect::openai::sampling::truncated(prompt, keep, lease, self.max_tokens)
                };
                let constraint = match &self.structured_outputs {
                    Some(structure) => {
                        Some(crate::generate::guide(lease, &structure.spec()?, "structured_outputs")?)
                    }
                    None => None,
                };
                Ok(crate::generate::Job {
                    constraint,
                    prompts: prompts.into_iter().map(keep).collect::<Result<_, _>>()?,
                    n,
                    stop,
                    include_stop: self.include_stop_str_in_output,
                    skip_special: self.skip_special_tokens.unwrap_or(true),
                    prompt_logprobs: self.prompt_logprobs,
                    priority: self.priority.unwrap_or(0),
                    salt: self.cache_salt.clone().unwrap_or_default().into_bytes(),
                    deadline,
                    receipt: self.receipt.unwrap_or(false),
                    ..crate::generate::Job::new(Vec::new(), sampling)
                })
            }
        }
    };
}

pub(crate) use form;

/// Fields of both kinds of completion that are known and not offered.
pub(crate) const REFUSED: crate::body::Refused = &[
    ("use_beam_search", "beam search is not offered"),
    ("length_penalty", "beam search is not offered"),
    ("early_stopping", "beam search is not offered"),
    ("bad_words", "ban tokens with logit_bias"),
    ("kv_transfer_params", "prefill and decoding are not taken apart here"),
    ("repetition_detection", "not offered"),
    ("logits_processors", "not offered"),
    ("prompt_embeds", "prompts are texts or token ids"),
    ("cache_prompt", "prefixes are always found; cache_salt keeps requests apart"),
    ("id_slot", "there are no slots"),
    ("grammar", "use structured_outputs"),
];
