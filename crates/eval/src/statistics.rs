//! Means with their errors, and percentiles, as llama.cpp reports them.

use serde::Serialize;

/// A value and its standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Estimate {
    /// The value.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
}

impl Estimate {
    /// The mean of `values`; the error of ten or fewer is not known and said to be 0.
    pub(crate) fn mean(values: impl ExactSizeIterator<Item = f64>) -> Estimate {
        let count = values.len();
        if count == 0 {
            return Estimate::default();
        }
        let (sum, squares) = values.fold((0.0, 0.0), |(s, q), v| (s + v, q + v * v));
        let n = count as f64;
        let value = sum / n;
        let variance = squares / n - value * value;
        let error = if variance > 0.0 && count > 10 { libm::sqrt(variance / (n - 1.0)) } else { 0.0 };
        Estimate { value, error }
    }

    /// `e` to the power of it.
    pub(crate) fn exp(self) -> Estimate {
        let value = libm::exp(self.value);
        Estimate { value, error: value * self.error }
    }

    /// The share of `hits` in `count`.
    pub(crate) fn share(hits: usize, count: usize) -> Estimate {
        let value = hits as f64 / count.max(1) as f64;
        Estimate { value, error: libm::sqrt(value * (1.0 - value) / (count.max(2) - 1) as f64) }
    }
}

/// Covariance of two means.
pub(crate) fn covariance(a: &[f64], b: &[f64]) -> f64 {
    let n = a.len() as f64;
    if a.len() < 10 {
        return 0.0;
    }
    let mean = |v: &[f64]| v.iter().sum::<f64>() / n;
    let products = a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / n;
    (products - mean(a) * mean(b)) / (n - 1.0)
}

/// How values are spread, interpolated between neighbours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Percentiles {
    pub minimum: f64,
    pub p0_1: f64,
    pub p1: f64,
    pub p5: f64,
    pub p10: f64,
    pub p25: f64,
    pub median: f64,
    pub p75: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    pub p99_9: f64,
    pub maximum: f64,
}

impl Percentiles {
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Percentiles {
        let mut v: Vec<f64> = values.collect();
        v.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = share * v.len().saturating_sub(1) as f64;
            let i = place as usize;
            let value = |i: usize| v.get(i).or(v.last()).copied().unwrap_or(0.0);
            value(i) + (place - i as f64) * (value(i + 1) - value(i))
        };
        Percentiles {
            minimum: at(0.0),
            p0_1: at(0.001),
            p1: at(0.01),
            p5: at(0.05),
            p10: at(0.1),
            p25: at(0.25),
            median: at(0.5),
            p75: at(0.75),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            p99_9: at(0.999),
            maximum: at(1.0),
        }
    }
}
