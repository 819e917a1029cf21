//! What one request adds to the metrics.

use super::registry::{Labels, Metrics, Outcome};
use crate::app::Caller;
use crate::auth::Key;
use crate::generate::{Job, Reason};
use allod_engine::Stats;
use std::sync::Arc;
use std::time::Instant;

/// Follows one request from its arrival to its end. Dropped before its end, it counts as aborted.
pub(crate) struct Observer {
    metrics: Arc<Metrics>,
    labels: Labels,
    started: Instant,
    key: Option<Arc<Key>>,
    max_tokens: Option<u32>,
    n: usize,
    /// When each answer had its first and its last token so far.
    answers: Vec<Option<(Instant, Instant)>>,
    open: usize,
    #[cfg(feature = "otel")]
    trace: crate::otel::Trace,
}

impl Observer {
    /// The request of a caller.
    pub(crate) fn new(metrics: &Arc<Metrics>, model: &str, job: &Job, caller: &Caller) -> Observer {
        Observer {
            metrics: Arc::clone(metrics),
            labels: Labels::new(model),
            started: caller.arrived,
            key: caller.key.clone(),
            max_tokens: job.sampling.max_tokens,
            n: job.n.max(1) as usize,
            answers: vec![None; job.answers()],
            open: job.answers(),
            #[cfg(feature = "otel")]
            trace: crate::otel::Trace::new(&caller.parent, caller.arrived, model, job),
        }
    }

    pub(crate) fn token(&mut self, answer: usize) {
        let now = Instant::now();
        match &mut self.answers[answer] {
            Some((_, last)) => {
                self.metrics.inter_token.get_or_create(&self.labels).observe((now - *last).as_secs_f64());
                *last = now;
            }
            first => {
                self.metrics.first_token.get_or_create(&self.labels).observe((now - self.started).as_secs_f64());
                *first = Some((now, now));
            }
        }
    }

    pub(crate) fn finished(&mut self, answer: usize, reason: &Reason, stats: &Stats) {
        let (metrics, labels) = (&self.metrics, &self.labels);
        let now = Instant::now();
        let whole = now - self.started;
        metrics.end_to_end.get_or_create(labels).observe(whole.as_secs_f64());
        metrics.inference_time.get_or_create(labels).observe(stats.total.as_secs_f64());
        metrics.prefill_time.get_or_create(labels).observe(stats.first_token.as_secs_f64());
        metrics.queue_time.get_or_create(labels).observe(whole.saturating_sub(stats.total).as_secs_f64());
        if let Some((first, last)) = self.answers[answer] {
            let decode = (last - first).as_secs_f64();
            metrics.decode_time.get_or_create(labels).observe(decode);
            if stats.generated_tokens > 1 {
                let each = decode / (stats.generated_tokens - 1) as f64;
                metrics.per_token.get_or_create(labels).observe(each);
            }
        }
        if answer.is_multiple_of(self.n) {
            metrics.prompt_tokens.get_or_create(labels).inc_by(stats.prompt_tokens as u64);
            metrics.cache_queries.get_or_create(labels).inc_by(stats.prompt_tokens as u64);
            metrics.cache_hits.get_or_create(labels).inc_by(stats.cached_tokens as u64);
            metrics.request_prompt_tokens.get_or_create(labels).observe(stats.prompt_tokens as f64);
            let computed = stats.prompt_tokens.saturating_sub(stats.cached_tokens);
            metrics.request_computed_tokens.get_or_create(labels).observe(computed as f64);
            metrics.request_n.get_or_create(labels).observe(self.n as f64);
            if let Some(max) = self.max_tokens {
                metrics.request_max_tokens.get_or_create(labels).observe(f64::from(max));
            }
        }
        if let Some(key) = &self.key {
            let prompt = if answer.is_multiple_of(self.n) { stats.prompt_tokens } else { 0 };
            key.spend(prompt, stats.generated_tokens);
        }
        metrics.generation_tokens.get_or_create(labels).inc_by(stats.generated_tokens as u64);
        metrics.request_generation_tokens.get_or_create(labels).observe(stats.generated_tokens as f64);
        #[cfg(feature = "otel")]
        self.trace.answered(reason, stats, self.answers[answer].map(|(first, _)| first));
        self.end(Outcome::of(reason));
    }

    pub(crate) fn failed(&mut self) {
        self.end(Outcome::Error);
        self.open = 0;
    }

    /// The engine did not take it.
    pub(crate) fn refused(&mut self) {
        self.metrics.rejections.get_or_create(&self.labels).inc();
        self.open = 0;
    }

    fn end(&mut self, outcome: Outcome) {
        self.metrics.success.get_or_create(&self.labels.with(outcome)).inc();
        self.open = self.open.saturating_sub(1);
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        while self.open > 0 {
            self.end(Outcome::Abort);
        }
    }
}
