//! Traces in OpenTelemetry's words, with its names for generative models: a span for each answer, from the arrival of
//! its request to its last token. The whole of OpenTelemetry stays in this file, since it changes with every release.

use crate::generate::{Job, Reason};
use allod_engine::{Stats, engine::Task};
use axum::http::HeaderMap;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{Span, SpanBuilder, SpanKind, Tracer, TracerProvider};
use opentelemetry::{Context, KeyValue, global};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanExporter};
use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

/// The spans of this process; shut down, they have all left.
pub type Traces = SdkTracerProvider;

/// Lets the spans of this process leave through `exporter`. What it gives back flushes them.
pub fn trace_with(exporter: impl SpanExporter + 'static) -> Traces {
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).build();
    global::set_tracer_provider(provider.clone());
    provider
}

/// Where a request comes from, in the headers of W3C's trace context.
pub(crate) fn parent(headers: &HeaderMap) -> Context {
    let names = ["traceparent", "tracestate"];
    let carried = names.into_iter().filter_map(|n| Some((n.to_owned(), headers.get(n)?.to_str().ok()?.to_owned())));
    TraceContextPropagator::new().extract(&carried.collect::<HashMap<_, _>>())
}

/// A request on its way.
pub(crate) struct Trace {
    parent: Context,
    started: SystemTime,
    clock: Instant,
    operation: &'static str,
    model: String,
    request: Vec<KeyValue>,
}

impl Trace {
    pub(crate) fn new(parent: &Context, arrived: Instant, model: &str, job: &Job) -> Trace {
        let operation = match job.task {
            Task::Generate => "text_completion",
            Task::Score(_) => "score",
            Task::Embed => "embeddings",
        };
        let sampling = &job.sampling;
        let mut request = vec![
            KeyValue::new("gen_ai.operation.name", operation),
            KeyValue::new("gen_ai.provider.name", "allod"),
            KeyValue::new("gen_ai.request.model", model.to_owned()),
            KeyValue::new("gen_ai.request.temperature", f64::from(sampling.temperature)),
            KeyValue::new("gen_ai.request.top_p", f64::from(sampling.top_p)),
        ];
        request.extend(sampling.max_tokens.map(|n| KeyValue::new("gen_ai.request.max_tokens", i64::from(n))));
        request.extend(sampling.seed.map(|n| KeyValue::new("gen_ai.request.seed", n as i64)));
        let started = SystemTime::now() - arrived.elapsed();
        Trace { parent: parent.clone(), started, clock: arrived, operation, model: model.into(), request }
    }

    /// An answer is complete: its span begins and ends in the past.
    pub(crate) fn answered(&self, reason: &Reason, stats: &Stats, first_token: Option<Instant>) {
        let finish = match reason {
            Reason::Length | Reason::ContextFull => "length",
            Reason::Cancelled => "cancelled",
            Reason::End | Reason::StopToken(_) | Reason::StopString(_) => "stop",
        };
        let mut attributes = self.request.clone();
        attributes.extend([
            KeyValue::new("gen_ai.response.model", self.model.clone()),
            KeyValue::new("gen_ai.response.finish_reasons", finish),
            KeyValue::new("gen_ai.usage.input_tokens", stats.prompt_tokens as i64),
            KeyValue::new("gen_ai.usage.output_tokens", stats.generated_tokens as i64),
            KeyValue::new("gen_ai.usage.cache_read.input_tokens", stats.cached_tokens as i64),
        ]);
        let seconds = |name, time: Duration| KeyValue::new(name, time.as_secs_f64());
        attributes.extend(first_token.map(|at| seconds("gen_ai.server.time_to_first_token", at - self.clock)));
        let tracer = global::tracer_provider().tracer("allod");
        let builder = SpanBuilder::from_name(format!("{} {}", self.operation, self.model))
            .with_kind(SpanKind::Server)
            .with_start_time(self.started)
            .with_attributes(attributes);
        let mut span = tracer.build_with_context(builder, &self.parent);
        if let Some(at) = first_token {
            span.add_event_with_timestamp("first token", self.started + (at - self.clock), Vec::new());
        }
        span.end_with_timestamp(self.started + self.clock.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use crate::{Catalog, Origin, Server, Settings, Spec, router};
    use axum::body::Body;
    use axum::http::{Request, header};
    use opentelemetry::global;
    use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
    use tower::ServiceExt;

    #[test]
    fn an_answer_leaves_a_span() {
        let exporter = InMemorySpanExporter::default();
        global::set_tracer_provider(SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build());
        let data = tempfile::tempdir().unwrap();
        let mut catalog = Catalog::default();
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../allod/assets/allod-stories.gguf");
        catalog.insert("stories", Spec::new(Origin::Path(file.into())));
        let server = Server::new(Settings { catalog, data: Some(data.path().into()), ..Settings::default() });
        let request = Request::post("/v1/completions")
            .header(header::HOST, "localhost")
            .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
            .body(Body::from(r#"{"prompt": "Once", "max_tokens": 5, "seed": 3, "ignore_eos": true}"#))
            .unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let response = runtime.block_on(router::router(&server.app).oneshot(request)).unwrap();
        assert_eq!(response.status().as_u16(), 200);
        let spans = exporter.get_finished_spans().unwrap();
        let span = spans.iter().find(|s| s.name == "text_completion stories").unwrap();
        assert_eq!(span.span_context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(span.parent_span_id.to_string(), "b7ad6b7169203331");
        assert!(span.end_time > span.start_time);
        let value = |name: &str| {
            let found = span.attributes.iter().find(|a| a.key.as_str() == name);
            found.map(|a| a.value.to_string()).unwrap_or_default()
        };
        assert_eq!(value("gen_ai.usage.output_tokens"), "5");
        assert_eq!(value("gen_ai.request.seed"), "3");
        assert_eq!(value("gen_ai.response.finish_reasons"), "length");
        assert!(value("gen_ai.server.time_to_first_token").parse::<f64>().unwrap() > 0.0);
    }
}
