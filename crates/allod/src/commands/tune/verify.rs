//! `allod tune verify`: the run again, compared step by step.

use super::VerifyArgs;
use super::job::Job;
use crate::failure::Failure;
use crate::printer::{Progress, note};
use allod_plan::Trainable;
use allod_train::run::{Config, Event, Manifest, Trainer, manifest, metrics};
use anyhow::{Context, Result};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{Write, stdout};
use std::ops::ControlFlow;
use std::process::ExitCode;

pub(crate) fn run(args: &VerifyArgs) -> Result<ExitCode> {
    let record = Manifest::read(&args.run)?;
    let config: Config = toml::from_str(&record.config).context("the settings in the manifest")?;
    let mut differences: Vec<String> = Vec::new();
    for (name, digest) in &record.outputs {
        let path = args.run.join(name);
        if !path.exists() || manifest::digest(&path)? != *digest {
            differences.push(format!("{name} is not what the run wrote"));
        }
    }
    let job = Job::new(&config, args.threads)?;
    let files = |what: &str, now: &BTreeMap<String, String>, then: &BTreeMap<String, String>| {
        let other = then.iter().filter(|(name, digest)| now.get(*name) != Some(*digest));
        other.map(|(name, _)| format!("{what} {name} has changed")).collect::<Vec<_>>()
    };
    differences.extend(files("base file", &job.base, &record.base));
    differences.extend(files("data file", &job.files, &record.data));
    if job.tokens != record.tokens {
        differences.push("the data give other tokens or masks".into());
    }
    let template = job.encoder.template().map(|t| manifest::digest_bytes(t.as_bytes()));
    if template != record.template {
        differences.push("the chat template has changed".into());
    }
    let until = args.steps.unwrap_or(record.steps).min(record.steps);
    let mut replayed = 0;
    if differences.is_empty() {
        replayed = replay(args, &job, &record, until, &mut differences)?;
    }
    let whole = until == record.steps;
    if args.json {
        let object = json!({ "same": differences.is_empty(), "steps": replayed, "of": record.steps, "differences": differences });
        writeln!(stdout(), "{object}")?;
    } else if differences.is_empty() {
        let what =
            if whole { "every loss and the trained weights are the same bytes" } else { "every loss is the same" };
        note(&format!("{replayed} of {} steps replayed: {what}", record.steps));
    }
    match differences.first() {
        None => Ok(ExitCode::SUCCESS),
        Some(_) if args.json => Ok(ExitCode::FAILURE),
        Some(first) => {
            let more =
                if differences.len() > 1 { format!(" (and {} more)", differences.len() - 1) } else { String::new() };
            let hint = "replay with the files, and the version of allod, that the manifest names";
            Err(Failure::new(format!("not the run that the manifest records: {first}{more}"), hint).into())
        }
    }
}

/// Runs again and compares losses and norms with those that were written down, and in the end the weights.
fn replay(
    args: &VerifyArgs,
    job: &Job,
    record: &Manifest,
    until: usize,
    differences: &mut Vec<String>,
) -> Result<usize> {
    let path = args.run.join(metrics::FILE);
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let lines: Vec<&str> = text.lines().filter(|l| l.starts_with(r#"{"phase":"train""#)).collect();
    let mut learner = job.learner()?;
    let mut progress = Progress::default();
    let mut first: Option<usize> = None;
    let mut trainer = Trainer {
        config: &job.config,
        store: &job.data.store,
        items: &job.data.train,
        // Evaluations change nothing but when a run with patience ends, and that is known.
        held_out: &[],
        model: &mut learner,
        pool: &job.pool,
        identity: job.identity.clone(),
        resume: false,
        until: Some(until),
        writes: false,
    };
    let summary = trainer.run(&mut |event| {
        if let Event::Step { step: (at, _), figures } = event {
            progress.show(&format!("replaying step {at} of {until}"));
            let line = lines.get(at - 1).copied().unwrap_or_default();
            let same = figures.iter().filter(|f| f.0 == "loss" || f.0 == "grad_norm").all(|(name, value)| {
                let text = serde_json::to_string(value).unwrap_or_default();
                line.contains(&format!("\"{name}\":{text},"))
            });
            if !same && first.is_none() {
                first = Some(at);
            }
        }
        ControlFlow::Continue(())
    })?;
    progress.clear();
    if let Some(step) = first {
        differences.push(format!("step {step} has another loss or gradient norm"));
    }
    if until == record.steps {
        if summary.losses != record.losses {
            differences.push("the chain of losses is another".into());
        }
        if manifest::digest_tensors(learner.tensors()) != record.trained {
            differences.push("the trained weights are others".into());
        }
    }
    Ok(summary.steps)
}
