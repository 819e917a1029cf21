//! The metrics themselves. Names, labels and buckets are vLLM's, so that its dashboards and routers work here.

use crate::generate::Reason;
use crate::models::Models;
use allod_engine::engine::EngineStats;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Of which model.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Labels {
    model_name: String,
    engine: &'static str,
}

impl Labels {
    pub(super) fn new(model: &str) -> Labels {
        Labels { model_name: model.to_owned(), engine: "0" }
    }

    pub(super) fn with(&self, finished_reason: Outcome) -> Ended {
        Ended { model_name: self.model_name.clone(), engine: self.engine, finished_reason }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Ended {
    model_name: String,
    engine: &'static str,
    finished_reason: Outcome,
}

/// How an answer ended, in vLLM's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Outcome {
    Stop,
    Length,
    Abort,
    Error,
}

impl Outcome {
    pub(super) fn of(reason: &Reason) -> Outcome {
        match reason {
            Reason::End | Reason::StopToken(_) | Reason::StopString(_) => Outcome::Stop,
            Reason::Length | Reason::ContextFull => Outcome::Length,
            Reason::Cancelled => Outcome::Abort,
        }
    }
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        let word = match self {
            Outcome::Stop => "stop",
            Outcome::Length => "length",
            Outcome::Abort => "abort",
            Outcome::Error => "error",
        };
        EncodeLabelValue::encode(&word, encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CacheLabels {
    model_name: String,
    engine: &'static str,
    block_size: u32,
    num_gpu_blocks: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HttpLabels {
    path: String,
    method: String,
    status: u16,
}

/// Makes histograms with fixed buckets.
#[derive(Clone, Copy)]
pub(super) struct Buckets(&'static [f64]);

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

type Histograms = Family<Labels, Histogram, Buckets>;

const FIRST_TOKEN: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
];
const INTER_TOKEN: &[f64] =
    &[0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0];
const LATENCY: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
];
const TOKENS: &[f64] = &[
    1.0,
    2.0,
    5.0,
    10.0,
    20.0,
    50.0,
    100.0,
    200.0,
    500.0,
    1000.0,
    2000.0,
    5000.0,
    10000.0,
    20000.0,
    50000.0,
    100_000.0,
    200_000.0,
    500_000.0,
    1_000_000.0,
];
const ANSWERS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0];
const HTTP: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// Everything that is counted.
pub(crate) struct Metrics {
    registry: Registry,
    running: Family<Labels, Gauge>,
    waiting: Family<Labels, Gauge>,
    cache_usage: Family<Labels, Gauge<f64, AtomicU64>>,
    cache_usage_old: Family<Labels, Gauge<f64, AtomicU64>>,
    cache_config: Family<CacheLabels, Gauge>,
    preemptions: Family<Labels, Counter>,
    draft_tokens: Family<Labels, Counter>,
    accepted_tokens: Family<Labels, Counter>,
    pub(super) prompt_tokens: Family<Labels, Counter>,
    pub(super) generation_tokens: Family<Labels, Counter>,
    pub(super) cache_queries: Family<Labels, Counter>,
    pub(super) cache_hits: Family<Labels, Counter>,
    pub(super) success: Family<Ended, Counter>,
    pub(super) rejections: Family<Labels, Counter>,
    pub(super) first_token: Histograms,
    pub(super) inter_token: Histograms,
    pub(super) per_token: Histograms,
    pub(super) end_to_end: Histograms,
    pub(super) queue_time: Histograms,
    pub(super) inference_time: Histograms,
    pub(super) prefill_time: Histograms,
    pub(super) decode_time: Histograms,
    pub(super) request_prompt_tokens: Histograms,
    pub(super) request_generation_tokens: Histograms,
    pub(super) request_computed_tokens: Histograms,
    pub(super) request_max_tokens: Histograms,
    pub(super) request_n: Histograms,
    model_bytes: Family<Labels, Gauge>,
    loads: Counter,
    evictions: Counter,
    http_requests: Family<HttpLabels, Counter>,
    http_seconds: Histogram,
}

/// The two forms of the exposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Text {
    OpenMetrics,
    /// Prometheus's own, version 0.0.4.
    Prometheus,
}

impl Text {
    /// The one that a client accepts.
    pub(crate) fn accepted(accept: Option<&str>) -> Text {
        if accept.is_some_and(|a| a.contains("application/openmetrics-text")) {
            Text::OpenMetrics
        } else {
            Text::Prometheus
        }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Text::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Text::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Registers what it makes.
struct Maker(Registry);

impl Maker {
    fn add<M: prometheus_client::registry::Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.0.register(name, help, metric.clone());
        metric
    }

    fn count(&mut self, name: &str, help: &str) -> Family<Labels, Counter> {
        self.add(name, help, Family::default())
    }

    fn times(&mut self, name: &str, help: &str, buckets: &'static [f64]) -> Histograms {
        self.add(name, help, Family::new_with_constructor(Buckets(buckets)))
    }
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        let mut m = Maker(Registry::default());
        Metrics {
            running: m.add("vllm:num_requests_running", "Answers being computed", Family::default()),
            waiting: m.add("vllm:num_requests_waiting", "Answers that wait", Family::default()),
            cache_usage: m.add("vllm:kv_cache_usage_perc", "Pages in use, 1 is all", Family::default()),
            cache_usage_old: m.add("vllm:gpu_cache_usage_perc", "Pages in use, 1 is all", Family::default()),
            cache_config: m.add("vllm:cache_config_info", "Pages of the pool", Family::default()),
            preemptions: m.count("vllm:num_preemptions", "Answers that had to give way"),
            draft_tokens: m.count("vllm:spec_decode_num_draft_tokens", "Tokens drafted"),
            accepted_tokens: m.count("vllm:spec_decode_num_accepted_tokens", "Drafted tokens that were right"),
            prompt_tokens: m.count("vllm:prompt_tokens", "Tokens of prompts"),
            generation_tokens: m.count("vllm:generation_tokens", "Tokens of answers"),
            cache_queries: m.count("vllm:prefix_cache_queries", "Prompt tokens looked up"),
            cache_hits: m.count("vllm:prefix_cache_hits", "Prompt tokens found computed"),
            success: m.add("vllm:request_success", "Answers by how they ended", Family::default()),
            rejections: m.count("vllm:admission_rejections", "Requests that the engine refused"),
            first_token: m.times("vllm:time_to_first_token_seconds", "To the first token", FIRST_TOKEN),
            inter_token: m.times("vllm:inter_token_latency_seconds", "Between tokens", INTER_TOKEN),
            per_token: m.times("vllm:request_time_per_output_token_seconds", "Mean between tokens", INTER_TOKEN),
            end_to_end: m.times("vllm:e2e_request_latency_seconds", "Whole requests", LATENCY),
            queue_time: m.times("vllm:request_queue_time_seconds", "Before the engine had it", LATENCY),
            inference_time: m.times("vllm:request_inference_time_seconds", "In the engine", LATENCY),
            prefill_time: m.times("vllm:request_prefill_time_seconds", "In the engine to the first token", LATENCY),
            decode_time: m.times("vllm:request_decode_time_seconds", "First to last token", LATENCY),
            request_prompt_tokens: m.times("vllm:request_prompt_tokens", "Tokens of a prompt", TOKENS),
            request_generation_tokens: m.times("vllm:request_generation_tokens", "Tokens of an answer", TOKENS),
            request_computed_tokens: m.times(
                "vllm:request_prefill_kv_computed_tokens",
                "Prompt tokens of a request that were computed",
                TOKENS,
            ),
            request_max_tokens: m.times("vllm:request_params_max_tokens", "Most tokens asked for", TOKENS),
            request_n: m.times("vllm:request_params_n", "Answers asked for", ANSWERS),
            model_bytes: m.add("allod:model_bytes", "Memory that a model holds", Family::default()),
            loads: m.add("allod:model_loads", "Models loaded", Counter::default()),
            evictions: m.add("allod:model_evictions", "Models given up for others", Counter::default()),
            http_requests: m.add("allod:http_requests", "Requests by path and status", Family::default()),
            http_seconds: m.add("allod:http_request_seconds", "To the response's head", Buckets(HTTP).new_metric()),
            registry: m.0,
        }
    }

    pub(crate) fn http(&self, path: &str, method: &str, status: u16, time: Duration) {
        let labels = HttpLabels { path: path.to_owned(), method: method.to_owned(), status };
        self.http_requests.get_or_create(&labels).inc();
        self.http_seconds.observe(time.as_secs_f64());
    }

    /// Everything as text, with how the engines stand now.
    pub(crate) async fn expose(&self, models: &Arc<Models>, form: Text) -> Result<String, std::fmt::Error> {
        self.gather(models).await;
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(match form {
            Text::OpenMetrics => text,
            Text::Prometheus => classic(&text),
        })
    }

    async fn gather(&self, models: &Arc<Models>) {
        use std::sync::atomic::Ordering::Relaxed;
        self.running.clear();
        self.waiting.clear();
        self.cache_usage.clear();
        self.cache_usage_old.clear();
        self.cache_config.clear();
        self.model_bytes.clear();
        for working in models.working() {
            let labels = Labels::new(&working.name);
            let bytes = working.loaded.bytes.iter().sum::<u64>();
            self.model_bytes.get_or_create(&labels).set(i64::try_from(bytes).unwrap_or(i64::MAX));
            if let Some(stats) = stats(&working.loaded).await {
                self.engine(&labels, &stats);
            }
        }
        raise(&self.loads, models.loads.load(Relaxed));
        raise(&self.evictions, models.evictions.load(Relaxed));
    }

    fn engine(&self, labels: &Labels, stats: &EngineStats) {
        let usage = stats.held_pages as f64 / stats.pages.max(1) as f64;
        self.running.get_or_create(labels).set(stats.running as i64);
        self.waiting.get_or_create(labels).set(stats.waiting as i64);
        self.cache_usage.get_or_create(labels).set(usage);
        self.cache_usage_old.get_or_create(labels).set(usage);
        let config = CacheLabels {
            model_name: labels.model_name.clone(),
            engine: labels.engine,
            block_size: allod_plan::PAGE as u32,
            num_gpu_blocks: stats.pages as u64,
        };
        self.cache_config.get_or_create(&config).set(1);
        raise(&self.preemptions.get_or_create(labels), stats.counters.preemptions);
        raise(&self.draft_tokens.get_or_create(labels), stats.counters.drafted);
        raise(&self.accepted_tokens.get_or_create(labels), stats.counters.kept);
    }
}

/// How a model's engine stands after the step that is running.
pub(crate) async fn stats(loaded: &crate::models::Loaded) -> Option<EngineStats> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    loaded
        .engine
        .look_then(move |stats, _| {
            let _ = sender.send(stats);
        })
        .ok()?;
    receiver.await.ok()
}

/// Brings a counter up to a count that somebody else keeps.
fn raise(counter: &Counter, to: u64) {
    counter.inc_by(to.saturating_sub(counter.get()));
}

/// OpenMetrics as Prometheus's older form: counters carry their suffix in the head too, and there is no end mark.
fn classic(text: &str) -> String {
    let counters: Vec<&str> =
        text.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut out = String::with_capacity(text.len() + 512);
    for line in text.lines().filter(|l| *l != "# EOF") {
        let head = line.strip_prefix("# ").and_then(|rest| rest.split_once(' '));
        match head.and_then(|(word, rest)| Some((word, rest.split_once(' ')?))) {
            Some((word, (name, rest))) if counters.contains(&name) => {
                out.push_str(&format!("# {word} {name}_total {rest}\n"));
            }
            _ => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}
