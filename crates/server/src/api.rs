//! The OpenAPI document, made from the handlers and their forms. It is a test: the document in `docs` must be what the
//! code says.

use crate::dialect::jobs::{batches, files};
use crate::dialect::{adapters, anthropic, decisions, infill, judge, ollama, openai, responses, tokens, vectors};
use crate::stream;
use utoipa::OpenApi;

#[derive(OpenApi)]
#[openapi(
    info(title = "Allod", description = "Language models on your own machine."),
    modifiers(&Errors),
    paths(
        openai::chat::create,
        openai::completions::create,
        openai::models::list,
        openai::models::get,
        adapters::load,
        adapters::unload,
        responses::create,
        responses::get,
        responses::delete,
        responses::cancel,
        responses::input_items,
        stream::routes::get,
        stream::routes::delete,
        files::create,
        files::list,
        files::get,
        files::delete,
        files::download,
        batches::create,
        batches::list,
        batches::get,
        batches::cancel,
        vectors::openai,
        vectors::ollama,
        vectors::ollama_old,
        anthropic::messages::create,
        anthropic::messages::count,
        ollama::generate::generate,
        ollama::chat::chat,
        ollama::models::tags,
        ollama::models::ps,
        ollama::models::show,
        ollama::models::delete,
        ollama::models::version,
        ollama::create::create,
        ollama::create::copy,
        ollama::create::registry,
        ollama::blobs::head,
        ollama::blobs::post,
        infill::infill,
        judge::rerank,
        judge::compare,
        judge::classify,
        decisions::systemone,
        decisions::decisions,
        tokens::tokenize,
        tokens::detokenize,
        tokens::render,
    )
)]
struct Document;

/// Every operation may end in an error, which has the form of its dialect.
struct Errors;

impl utoipa::Modify for Errors {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        for item in document.paths.paths.values_mut() {
            let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.head];
            for operation in operations.into_iter().flatten() {
                let error = utoipa::openapi::Response::new("What was wrong, in the words of the dialect");
                operation.responses.responses.insert("default".into(), utoipa::openapi::RefOr::T(error));
            }
        }
    }
}

#[test]
fn the_document_is_what_the_code_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
    let made = Document::openapi().to_pretty_json().unwrap() + "\n";
    if std::env::var_os("ALLOD_WRITE_OPENAPI").is_some() {
        std::fs::write(path, &made).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(made == written, "docs/openapi.json is old: run this test with ALLOD_WRITE_OPENAPI=1");
}
