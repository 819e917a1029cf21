//! Which path leads where.

use crate::admin;
use crate::app::App;
use crate::dialect::jobs::{batches, files};
use crate::dialect::{adapters, anthropic, decisions, infill, judge, ollama, openai, responses, tokens, vectors};
use crate::error::{ApiError, Kind};
use crate::guard;
use crate::health;
use crate::stream;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use axum::routing::{delete, get, post};
use std::sync::Arc;

/// All routes, behind the layer that every request passes.
pub(crate) fn router(app: &Arc<App>) -> Router {
    routes(app).layer(from_fn_with_state(Arc::clone(app), guard::outer))
}

/// All routes, for requests that have a [`crate::app::Caller`] already.
pub(crate) fn routes(app: &Arc<App>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(openai::chat::create))
        .route("/v1/completions", post(openai::completions::create))
        .route("/v1/models", get(openai::models::list))
        .route("/v1/models/{*model}", get(openai::models::get))
        .route("/v1/load_lora_adapter", post(adapters::load))
        .route("/v1/unload_lora_adapter", post(adapters::unload))
        .route("/v1/messages", post(anthropic::messages::create))
        .route("/v1/messages/count_tokens", post(anthropic::messages::count))
        .route("/", get(async || "Allod is running"))
        .route("/api/version", get(ollama::models::version))
        .route("/api/generate", post(ollama::generate::generate))
        .route("/api/chat", post(ollama::chat::chat))
        .route("/api/tags", get(ollama::models::tags))
        .route("/api/ps", get(ollama::models::ps))
        .route("/api/show", post(ollama::models::show))
        .route("/api/create", post(ollama::create::create))
        .route("/api/copy", post(ollama::create::copy))
        .route("/api/delete", delete(ollama::models::delete))
        .route("/api/pull", post(ollama::create::registry))
        .route("/api/push", post(ollama::create::registry))
        .route("/api/blobs/{digest}", post(ollama::blobs::post).head(ollama::blobs::head))
        .route("/v1/streams/{id}", get(stream::routes::get).delete(stream::routes::delete))
        .route("/v1/responses", post(responses::create))
        .route("/v1/responses/{id}", get(responses::get).delete(responses::delete))
        .route("/v1/responses/{id}/cancel", post(responses::cancel))
        .route("/v1/responses/{id}/input_items", get(responses::input_items))
        // A file has a limit of its own.
        .route("/v1/files", get(files::list).post(files::create).layer(DefaultBodyLimit::disable()))
        .route("/v1/files/{id}", get(files::get).delete(files::delete))
        .route("/v1/files/{id}/content", get(files::download))
        .route("/v1/batches", get(batches::list).post(batches::create))
        .route("/v1/batches/{id}", get(batches::get))
        .route("/v1/batches/{id}/cancel", post(batches::cancel))
        .route("/v1/embeddings", post(vectors::openai))
        .route("/api/embed", post(vectors::ollama))
        .route("/api/embeddings", post(vectors::ollama_old))
        .route("/v1/rerank", post(judge::rerank))
        .route("/rerank", post(judge::rerank))
        .route("/v1/score", post(judge::compare))
        .route("/score", post(judge::compare))
        .route("/v1/classify", post(judge::classify))
        .route("/classify", post(judge::classify))
        .route("/v1/systemone", post(decisions::systemone))
        .route("/v1/decisions", post(decisions::decisions))
        .route("/infill", post(infill::infill))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/v1/chat/completions/render", post(tokens::render))
        .route("/admin/reload", post(admin::reload))
        .route("/admin/keys", get(admin::keys).post(admin::create_key))
        .route("/admin/keys/{id}", delete(admin::revoke_key))
        .route("/ready", get(health::ready))
        .route("/load", get(health::load))
        .route("/health", get(health::health))
        .route("/metrics", get(health::metrics))
        .fallback(async || ApiError::not_found("there is nothing at this path"))
        .method_not_allowed_fallback(async || ApiError::new(Kind::Method, "this path takes another method"))
        .layer(tower_http::catch_panic::CatchPanicLayer::custom(|_| {
            ApiError::internal("a fault of the server; other requests go on").into_response()
        }))
        .with_state(Arc::clone(app))
}
