//! OpenAI's responses: answers that the server remembers, may make in the background, and can take back.

mod events;
mod form;
mod input;
mod items;
mod record;

pub(crate) use input::{text_of, transcript};

use crate::app::{App, Caller};
use crate::body;
use crate::chat::{Exchange, Reasoning};
use crate::error::{ApiError, Kind};
use crate::generate::{Job, Running, layered};
use crate::models::{Lease, lock};
use crate::prompt::Talk;
use crate::stream::routes::Resume;
use crate::stream::{Writer, event_stream};
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use events::Events;
use form::ResponseForm;
use record::Record;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

const KIND: &str = "responses";

/// Answers that are being made in the background, and how to end each.
#[derive(Debug, Default)]
pub(crate) struct Background(Mutex<HashMap<String, Arc<Notify>>>);

/// Answers an input.
#[cfg_attr(test, utoipa::path(post, path = "/v1/responses", request_body = ResponseForm,
    responses((status = 200, description = "A response, or a stream of events"))))]
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let form: ResponseForm = body::json(&headers, body, &app.limits).await?;
    form.check()?;
    let place = app.enter()?;
    let lease = app.lease(&form.model).await?;
    let before = match &form.previous_response_id {
        Some(id) => conversation(&app, id)?,
        None => Vec::new(),
    };
    let input = form.items()?;
    let job = job(&lease, &form, &before, &input)?;
    let record = Record::new(&form, &lease.name, input, crate::ids::now());
    let caller = form.user.as_deref().map_or_else(|| caller.clone(), |user| caller.on_account_of(user));
    if form.background && form.stream {
        let id = record.id.clone();
        let mut record = record;
        record.status = "in_progress".into();
        record.save(&app)?;
        let owner = caller.owner_id();
        let running = app.run(lease, job, &caller).await?;
        let replay = app.streams.begin(&id, owner, true, running, Events::new(record, &app), place);
        return Ok(event_stream(replay.read(0)?, Events::CONTENT_TYPE));
    }
    if form.background {
        return Ok(Json(in_background(&app, lease, job, record, caller, place)?).into_response());
    }
    let running = app.run(lease, job, &caller).await?;
    if form.stream {
        return Ok(crate::stream::respond(running, Events::new(record, &app), place));
    }
    let mut running = running;
    let record = finish(&mut running, record).await;
    record.save(&app)?;
    let mut object = record.object();
    running.attach(&mut object);
    Ok(Json(object).into_response())
}

/// The job of an input after what was said before.
fn job(lease: &Lease, form: &ResponseForm, before: &[Value], input: &[Value]) -> Result<Job, ApiError> {
    let system = form.instructions.as_ref().map(|text| json!({ "role": "system", "content": text }));
    let items: Vec<Value> = before.iter().chain(input).cloned().collect();
    let messages = system.into_iter().chain(input::messages(&items)?).collect();
    let effort = form.reasoning.as_ref().and_then(|reasoning| reasoning.effort.clone());
    let exchange = Exchange {
        talk: Talk { messages, add_generation_prompt: true, ..Talk::default() },
        tools: form.tools()?,
        reasoning: Reasoning { effort: effort.map(|effort| (effort, "reasoning.effort")), ..Reasoning::default() },
        structure: form.structure(),
    };
    let opening = exchange.open(lease)?;
    let values = [
        ("temperature", form.temperature.map(Value::from)),
        ("top_p", form.top_p.map(Value::from)),
        ("max_tokens", form.max_output_tokens.map(Value::from)),
    ];
    let values = values.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    let sampling = layered(&super::openai::neutral(), lease, values)?;
    sampling
        .validate(lease.vocabulary)
        .map_err(|e| ApiError::field(e.name, format!("expected {}, found {}", e.expected, e.found)))?;
    let mut job = Job { stop: lease.spec.stop.clone(), ..Job::new(opening.rendered.ids.clone(), sampling) };
    opening.hold(&mut job);
    Ok(job)
}

/// Everything that was said up to and with a response.
fn conversation(app: &App, id: &str) -> Result<Vec<Value>, ApiError> {
    let mut chain = Vec::new();
    let mut next = Some(id.to_owned());
    while let Some(id) = next {
        let record = Record::load(app, &id)?;
        next = record.previous_response_id.clone();
        chain.push(record);
    }
    let said = |record: Record| record.input.into_iter().chain(record.output);
    Ok(chain.into_iter().rev().flat_map(said).collect())
}

/// Waits for the answer and writes it into the record.
async fn finish(running: &mut Running, mut record: Record) -> Record {
    while let Some(output) = running.next().await {
        match output {
            Ok(output) => record.take(output.piece, &mut |_, _| ()),
            Err(error) => {
                record.fail(&error);
                break;
            }
        }
    }
    record
}

/// Lets a response be made while nobody waits for it.
fn in_background(
    app: &Arc<App>,
    lease: Lease,
    job: Job,
    mut record: Record,
    caller: Caller,
    place: crate::app::Place,
) -> Result<Value, ApiError> {
    record.status = "queued".into();
    record.save(app)?;
    let object = record.object();
    let cancelled = Arc::new(Notify::new());
    lock(&app.background.0).insert(record.id.clone(), Arc::clone(&cancelled));
    let app = Arc::clone(app);
    tokio::spawn(async move {
        let id = record.id.clone();
        let work = async {
            let mut record = record.clone();
            match app.run(lease, job, &caller).await {
                Ok(mut running) => finish(&mut running, record).await,
                Err(error) => {
                    record.fail(&error);
                    record
                }
            }
        };
        // A cancelled answer is dropped, which ends it in the engine.
        let done = tokio::select! {
            done = work => done,
            () = cancelled.notified() => record.clone().cancelled(),
        };
        if let Err(error) = done.save(&app) {
            tracing::error!(id, error = error.message, "a response could not be written down");
        }
        lock(&app.background.0).remove(&id);
        drop(place);
    });
    Ok(object)
}

/// Responses that were being made when the server ended will never be.
pub(crate) fn restore(store: &crate::store::Store) {
    for mut record in store.all::<Record>(KIND) {
        if ["queued", "in_progress"].contains(&record.status.as_str()) {
            record.fail(&ApiError::internal("the server ended before the answer was complete"));
            drop(store.put(KIND, &record.id, &record));
        }
    }
}

/// A response that is remembered.
#[cfg_attr(test, utoipa::path(get, path = "/v1/responses/{id}", params(("id" = String, Path), GetForm),
    responses((status = 200, description = "The response"), (status = 404, description = "There is none"))))]
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    query: Result<Query<GetForm>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Query(form) = query.map_err(|e| ApiError::invalid(e.body_text()))?;
    if form.stream {
        let resume = Resume { starting_after: form.starting_after };
        let body = app.streams.find(&id, &caller)?.read(resume.from(&headers)?)?;
        return Ok(event_stream(body, Events::CONTENT_TYPE));
    }
    Ok(Json(Record::load(&app, &id)?.object()).into_response())
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub(crate) struct GetForm {
    /// The events of a response that is streamed in the background.
    #[serde(default)]
    stream: bool,
    /// The number of the last event that the client has.
    starting_after: Option<u64>,
}

/// What a response answers.
#[cfg_attr(test, utoipa::path(get, path = "/v1/responses/{id}/input_items", params(("id" = String, Path)),
    responses((status = 200, description = "The items"), (status = 404, description = "There is none"))))]
pub(crate) async fn input_items(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let record = Record::load(&app, &id)?;
    let named = |(i, item): (usize, Value)| {
        let mut item = item;
        if item.get("id").is_none() {
            item["id"] = format!("msg_{}_{i}", record.id).into();
        }
        item
    };
    let data: Vec<Value> = record.input.iter().cloned().enumerate().map(named).rev().collect();
    let id = |entry: Option<&Value>| entry.map(|e| e["id"].clone());
    Ok(Json(json!({
        "object": "list", "first_id": id(data.first()), "last_id": id(data.last()), "has_more": false, "data": data,
    })))
}

/// Forgets a response.
#[cfg_attr(test, utoipa::path(delete, path = "/v1/responses/{id}", params(("id" = String, Path)),
    responses((status = 200, description = "It is forgotten"), (status = 404, description = "There is none"))))]
pub(crate) async fn delete(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    match app.store.delete(KIND, &id).map_err(ApiError::internal)? {
        true => Ok(Json(json!({ "id": id, "object": "response", "deleted": true }))),
        false => Err(ApiError::not_found(format!("there is no response {id:?}"))),
    }
}

/// Ends a response that is being made in the background.
#[cfg_attr(test, utoipa::path(post, path = "/v1/responses/{id}/cancel", params(("id" = String, Path)),
    responses((status = 200, description = "It ends"), (status = 409, description = "It is over already"))))]
pub(crate) async fn cancel(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let record = Record::load(&app, &id)?;
    if let Ok(replay) = app.streams.find(&id, &caller)
        && record.status == "in_progress"
    {
        replay.end();
        let record = record.cancelled();
        record.save(&app)?;
        return Ok(Json(record.object()));
    }
    // One that is written down as complete is over, though its task may not have ended yet.
    let open = ["queued", "in_progress"].contains(&record.status.as_str());
    let working = lock(&app.background.0).get(&id).cloned().filter(|_| open);
    match working {
        Some(notify) => {
            notify.notify_one();
            Ok(Json(record.cancelled().object()))
        }
        None if record.status == "cancelled" => Ok(Json(record.object())),
        None => Err(ApiError::new(Kind::Conflict, format!("the response is {} already", record.status))),
    }
}
