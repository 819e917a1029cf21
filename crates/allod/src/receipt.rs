//! The receipt of an answer that was given here.

use crate::answer::{Answer, Ended};
use crate::chat::Chat;
use crate::load::{DEFAULT, STORIES};
use allod_engine::Finish as End;
use allod_server::{AnswerPart, Finish, ModelPart, Origin, Receipt, RequestPart, Tokens, digests, sampling_value};
use anyhow::{Context, Result};
use std::path::Path;

/// Writes the receipt of `answer` to the prompt `ids`, which went through the template of this digest.
pub(crate) fn write(
    path: &Path,
    model: &Path,
    chat: &Chat,
    template: Option<String>,
    ids: &[u32],
    answer: &Answer,
) -> Result<()> {
    let origin = match model == Path::new(DEFAULT) {
        true => Origin::Embedded("allod-stories.gguf", STORIES),
        false => Origin::Path(model.to_owned()),
    };
    let digests = digests(&origin).context("the model's digest")?;
    let mut sampling = chat.sampling.clone();
    sampling.seed = Some(answer.seed);
    let model = ModelPart {
        name: chat.name.clone(),
        digest: digests.model,
        plan: chat.plan.clone(),
        tokenizer: digests.tokenizer,
        template,
        adapters: Vec::new(),
        cache_type: chat.cache_type.name().into(),
        activations: chat.activations,
        context: chat.planned,
    };
    let request = RequestPart {
        prompts: vec![Tokens::new(ids.to_vec())],
        n: 1,
        sampling: sampling_value(&sampling)?,
        stop: chat.stop.clone(),
        include_stop: false,
        skip_special: true,
        grammar: None,
    };
    let finish = match answer.ended {
        Some(Ended::StopString) => Finish::StopString,
        Some(Ended::By(End::Stop(_) | End::Complete)) => Finish::End,
        Some(Ended::By(End::Length)) => Finish::Length,
        Some(Ended::By(End::ContextFull)) => Finish::ContextFull,
        Some(Ended::By(End::Cancelled)) | None => Finish::Cancelled,
    };
    let tokens: Vec<u32> = answer.tokens.iter().map(|token| token.id).collect();
    let text = chat.tokenizer.decode(&tokens, true);
    let receipt = Receipt::new(model, request, vec![AnswerPart::new(answer.seed, tokens, &text, finish)]);
    let written = serde_json::to_string_pretty(&receipt.sealed())? + "\n";
    allod_formats::write_file(path, written.as_bytes())?;
    Ok(())
}
