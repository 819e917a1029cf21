//! Making the answers of a receipt again.

use super::{AnswerPart, Difference, FORM, Finish, Receipt, sampling_params, seal};
use crate::app::Caller;
use crate::error::ApiError;
use crate::generate::{Job, grammar_spec, guide};
use crate::models::{Catalog, Lease, LoadError, Origin, Sizing, Spec};
use crate::{Server, Settings};
use allod_cpu::KvType;
use serde_json::Value;

/// A receipt that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Answers made again.
    pub answers: usize,
    /// Tokens of these answers.
    pub tokens: usize,
}

/// Why a receipt does not hold, or cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It is no receipt, or one of another form.
    #[error("this is no receipt that can be read here: {0}")]
    Form(String),
    /// The first field that is not as the receipt says.
    #[error("{0}")]
    Differs(Difference),
    /// The model cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The request cannot be made again.
    #[error("the request cannot be made again: {0}")]
    Request(String),
}

impl From<ApiError> for VerifyError {
    fn from(error: ApiError) -> VerifyError {
        VerifyError::Request(error.message)
    }
}

/// The name of the only model.
const MODEL: &str = "model";

/// Makes the answers of a receipt again with the model at `origin`, and compares everything.
///
/// # Errors
/// The first difference; a receipt or model that cannot be read.
pub async fn verify(receipt: &Value, origin: Origin, threads: usize) -> Result<Verified, VerifyError> {
    let told = read(receipt)?;
    let cache_type: KvType = told
        .model
        .cache_type
        .parse()
        .map_err(|_| VerifyError::Form(format!("cache_type {}", told.model.cache_type)))?;
    let mut catalog = Catalog::default();
    let sizing = Sizing {
        context: Some(told.model.context),
        cache_type: Some(cache_type),
        activations: told.model.activations,
        ..Sizing::default()
    };
    catalog.insert(MODEL, Spec { sizing, ..Spec::new(origin) });
    // Nothing is written.
    let data = std::env::temp_dir().join(crate::ids::new("allod-verify-"));
    let server = Server::new(Settings { catalog, threads, data: Some(data), ..Settings::default() });
    let lease = server.app.lease(MODEL).await?;
    same_model(&lease, &told).await?;
    let made = again(&server, lease, &told).await?.sealed();
    let note = |path: &str| path == "model.name" || path == "model.template" || path.starts_with("made_by.program");
    let bound = |path: &str| ["model.", "made_by.", "request."].iter().any(|part| path.starts_with(part));
    let meaning = "the receipt is of another model, or of another way to run it";
    let differs = seal::first(receipt, &made, |path| bound(path) && !note(path), meaning);
    let came = "the answer made here is another one";
    let differs = differs.or_else(|| seal::first(receipt, &made, |path| path.starts_with("answers"), came));
    match differs {
        Some(difference) => Err(VerifyError::Differs(difference)),
        None => {
            let tokens = told.answers.iter().map(|answer| answer.tokens.token_ids.len()).sum();
            Ok(Verified { answers: told.answers.len(), tokens })
        }
    }
}

/// Reads a receipt whose seal is whole.
fn read(receipt: &Value) -> Result<Receipt, VerifyError> {
    if !receipt["receipt"].is_number() {
        return Err(VerifyError::Form("it has no number of a form in \"receipt\"".into()));
    }
    if let Some(difference) = seal::broken(receipt) {
        return Err(VerifyError::Differs(difference));
    }
    if receipt["receipt"] != FORM {
        return Err(VerifyError::Form(format!("expected form {FORM}, found {}", receipt["receipt"])));
    }
    let mut plain = receipt.clone();
    plain.as_object_mut().map(|all| all.remove("seal"));
    serde_path_to_error::deserialize(plain).map_err(|e| VerifyError::Form(e.to_string()))
}

/// Holds the model against the receipt before anything is asked of it.
async fn same_model(lease: &Lease, told: &Receipt) -> Result<(), VerifyError> {
    let digests = lease.digests().await?;
    let plan = format!("blake3:{}", lease.plan_digest);
    let fields = [
        ("model.digest", &told.model.digest, &digests.model),
        ("model.plan", &told.model.plan, &plan),
        ("model.tokenizer", &told.model.tokenizer, &digests.tokenizer),
    ];
    match fields.into_iter().find(|(_, told, found)| told != found) {
        None => Ok(()),
        Some((field, expected, found)) => Err(VerifyError::Differs(Difference {
            field: field.into(),
            expected: expected.clone(),
            found: found.clone(),
            meaning: "the receipt is of another model",
        })),
    }
}

/// Whether an answer ends so by itself.
fn is_own(finish: Finish) -> bool {
    !matches!(finish, Finish::ContextFull | Finish::Cancelled)
}

/// The receipt of the same request, made now.
async fn again(server: &Server, lease: Lease, told: &Receipt) -> Result<Receipt, VerifyError> {
    let asked = &told.request;
    let sampling = sampling_params(&asked.sampling).map_err(|e| VerifyError::Form(format!("request.sampling: {e}")))?;
    sampling.validate(lease.vocabulary).map_err(|e| VerifyError::Request(e.to_string()))?;
    if let Some(template) = &told.model.template {
        known(&lease, template)?;
    }
    let mut job = Job::new(Vec::new(), sampling);
    job.prompts = asked.prompts.iter().map(|prompt| prompt.token_ids.clone()).collect();
    job.n = asked.n;
    crate::generate::check_answers(job.prompts.len(), job.n)?;
    job.stop = asked.stop.clone();
    (job.include_stop, job.skip_special) = (asked.include_stop, asked.skip_special);
    job.template = told.model.template.clone();
    job.receipt = true;
    if let Some(grammar) = &asked.grammar {
        let spec = grammar_spec(grammar).ok_or_else(|| VerifyError::Form("request.grammar".into()))?;
        job.constraint = Some(guide(&lease, &spec, "request.grammar")?);
    }
    if told.answers.iter().any(|answer| !is_own(answer.finish)) {
        // What was cut off is made as far as it went.
        let longest = told.answers.iter().map(|answer| answer.tokens.token_ids.len()).max().unwrap_or(0);
        job.sampling.max_tokens = Some((longest as u32).max(1));
    }
    let asked_for = job.sampling.max_tokens;
    let mut running = server.app.run(lease, job, &Caller::owner()).await?;
    while let Some(output) = running.next().await {
        output?;
    }
    let mut made = running.receipt().ok_or_else(|| VerifyError::Request("nothing was recorded".into()))?;
    for (told, made) in told.answers.iter().zip(&mut made.answers).filter(|(told, _)| !is_own(told.finish)) {
        let mut ids = std::mem::take(&mut made.tokens.token_ids);
        ids.truncate(told.tokens.token_ids.len());
        let text = running.lease.tokenizer.decode(&ids, asked.skip_special);
        *made = AnswerPart::new(made.seed, ids, &text, told.finish);
    }
    if made.request.sampling["max_tokens"] == serde_json::json!(asked_for) {
        made.request.sampling["max_tokens"] = told.request.sampling["max_tokens"].clone();
    }
    Ok(made)
}

/// Templates of the model can be told from others; one that came with the request cannot be checked.
fn known(lease: &Lease, template: &str) -> Result<(), VerifyError> {
    let mut own = lease.templates.digests();
    own.extend(lease.spec.template.as_deref().map(super::text_digest));
    if template.starts_with("request:") || own.iter().any(|digest| digest == template) {
        return Ok(());
    }
    Err(VerifyError::Differs(Difference {
        field: "model.template".into(),
        expected: template.into(),
        found: if own.is_empty() { "no template".into() } else { own.join(", ") },
        meaning: "the model has no such template",
    }))
}
