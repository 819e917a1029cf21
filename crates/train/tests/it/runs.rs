//! The loop, with a model that is easy to see through.

use crate::toy::Bigram;
use allod_kernels::pool::Pool;
use allod_plan::Trainable;
use allod_train::Error;
use allod_train::data::encode::Tokens;
use allod_train::data::store::Builder;
use allod_train::data::{Item, Source, Store};
use allod_train::objective::{Dpo, Kto, Objective, Sft};
use allod_train::optim::{Adam, Kind, Muon};
use allod_train::run::config::{Config, DataConfig, OptimizerConfig, RunConfig, TrainConfig};
use allod_train::run::{Event, Summary, Trainer, checkpoint, limits, metrics};
use std::ops::ControlFlow;
use std::path::Path;

const VOCABULARY: usize = 12;

fn config(output: &Path) -> Config {
    Config {
        model: "toy".into(),
        output: output.into(),
        data: DataConfig { train: vec![Source { path: "none".into(), weight: 1.0 }], ..DataConfig::default() },
        objective: Objective::Sft(Sft::default()),
        train: TrainConfig { full: true, ..TrainConfig::default() },
        optimizer: OptimizerConfig { learning_rate: Some(0.05), ..OptimizerConfig::default() },
        run: RunConfig { steps: Some(24), batch: 3, accumulate: 2, save_every: 5, ..RunConfig::default() },
    }
}

/// Forty sequences in which each token is followed by the next, mostly.
fn sequences() -> (Store, Vec<Item>) {
    let folder = tempfile::tempdir().unwrap();
    let mut builder = Builder::new(folder.path());
    let mut items = Vec::new();
    for i in 0..40usize {
        let length = 4 + i % 7;
        let ids: Vec<u32> =
            (0..length).map(|t| ((i * 5 + t * if i % 9 == 0 { 2 } else { 1 }) % VOCABULARY) as u32).collect();
        let tokens = Tokens { learned: (0..length).map(|t| t > i % 3).collect(), ids, prompt: i % 3, cut: 0 };
        items.push(Item::One(builder.push(&tokens).unwrap()));
    }
    (builder.finish().unwrap(), items)
}

fn pairs(kind: impl Fn(u32, u32) -> Item) -> (Store, Vec<Item>) {
    let (store, items) = sequences();
    let numbers: Vec<u32> = items.iter().flat_map(|i| i.sequences()).collect();
    (store, numbers.chunks(2).map(|n| kind(n[0], n[1])).collect())
}

struct Setup<'a> {
    config: &'a Config,
    data: &'a (Store, Vec<Item>),
    held_out: &'a [Item],
    resume: bool,
}

fn run(setup: &Setup<'_>, model: &mut Bigram, threads: usize, stop: Option<usize>) -> Result<Summary, Error> {
    let pool = Pool::new(threads);
    model.most = limits(setup.config, &setup.data.0, &setup.data.1, setup.held_out);
    let mut trainer = Trainer {
        config: setup.config,
        store: &setup.data.0,
        items: &setup.data.1,
        held_out: setup.held_out,
        model,
        pool: &pool,
        identity: "toy".into(),
        resume: setup.resume,
        until: None,
        writes: true,
    };
    trainer.run(&mut |event| match event {
        Event::Step { step: (at, _), .. } if Some(at) == stop => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    })
}

fn weights(model: &Bigram) -> Vec<u32> {
    model.tensors()[0].data.iter().map(|v| v.to_bits()).collect()
}

fn fresh(config: &Config, data: &(Store, Vec<Item>), threads: usize) -> (Summary, Vec<u32>) {
    let mut model = Bigram::new(VOCABULARY);
    let setup = Setup { config, data, held_out: &[], resume: false };
    let summary = run(&setup, &mut model, threads, None).unwrap();
    (summary, weights(&model))
}

#[test]
fn it_learns() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    fresh(&config, &sequences(), 1);
    let curve = metrics::curve(folder.path(), "train", "loss").unwrap();
    assert_eq!(curve.len(), 24);
    assert!(curve[23].1 < 0.7 * curve[0].1, "{curve:?}");
}

#[test]
fn threads_change_nothing() {
    let data = sequences();
    for kind in
        [Kind::Adamw(Adam::default()), Kind::Adamw8bit(Adam::default()), Kind::Muon(Muon::default()), Kind::Adafactor]
    {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let results: Vec<_> = [1, 3]
            .into_iter()
            .zip(&folders)
            .map(|(threads, folder)| {
                let mut config = config(folder.path());
                config.optimizer.kind = kind;
                fresh(&config, &data, threads)
            })
            .collect();
        assert_eq!(results[0].1, results[1].1, "{kind:?}");
    }
}

/// Stopped at any step and resumed, also twice, a run ends with the same weights, figures and chain of losses.
#[test]
fn a_stopped_run_goes_on_to_the_same_end() {
    let data = sequences();
    let whole = tempfile::tempdir().unwrap();
    let (expected, end) = fresh(&config(whole.path()), &data, 1);
    for stops in [vec![1], vec![7, 8], vec![5, 23], vec![3, 13, 20]] {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        for (i, stop) in stops.iter().enumerate() {
            let setup = Setup { config: &config, data: &data, held_out: &[], resume: i > 0 };
            let stopped = run(&setup, &mut Bigram::new(VOCABULARY), 2, Some(*stop));
            assert!(matches!(stopped, Err(Error::Stopped)));
        }
        let mut model = Bigram::new(VOCABULARY);
        let setup = Setup { config: &config, data: &data, held_out: &[], resume: true };
        let summary = run(&setup, &mut model, 2, None).unwrap();
        assert_eq!((weights(&model), &summary.losses), (end.clone(), &expected.losses), "{stops:?}");
        let figures = |path: &Path| metrics::curve(path, "train", "loss").unwrap();
        assert_eq!(figures(folder.path()), figures(whole.path()));
    }
}

/// A checkpoint half written is none.
#[test]
fn what_a_killed_run_left_is_passed_over() {
    let data = sequences();
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let setup = Setup { config: &config, data: &data, held_out: &[], resume: false };
    run(&setup, &mut Bigram::new(VOCABULARY), 1, Some(12)).unwrap_err();
    let partial = folder.path().join("checkpoints/.step-0000013.partial");
    std::fs::create_dir_all(&partial).unwrap();
    std::fs::write(partial.join("tensors.safetensors"), b"half").unwrap();
    std::fs::OpenOptions::new()
        .append(true)
        .open(folder.path().join("metrics.jsonl"))
        .and_then(|mut f| {
            std::io::Write::write_all(&mut f, b"{\"phase\":\"train\",\"step\":13,\"loss\":1.0}\n{\"phase\":\"tra")
        })
        .unwrap();
    let mut model = Bigram::new(VOCABULARY);
    let setup = Setup { config: &config, data: &data, held_out: &[], resume: true };
    run(&setup, &mut model, 1, None).unwrap();
    let other = tempfile::tempdir().unwrap();
    assert_eq!(weights(&model), fresh(&super::runs::config(other.path()), &data, 1).1);
}

/// One micro-batch of six is two of three: the sum over all tokens is divided by their number once. The sums differ in
/// order, so the weights differ in their last bits.
#[test]
fn accumulation_is_a_larger_batch() {
    let data = sequences();
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let ends: Vec<Vec<u32>> = [(3, 2), (6, 1)]
        .into_iter()
        .zip(&folders)
        .map(|((batch, accumulate), folder)| {
            let mut config = config(folder.path());
            (config.run.batch, config.run.accumulate) = (batch, accumulate);
            fresh(&config, &data, 1).1
        })
        .collect();
    let apart =
        ends[0].iter().zip(&ends[1]).map(|(a, b)| (f32::from_bits(*a) - f32::from_bits(*b)).abs()).fold(0.0, f32::max);
    assert!(apart < 1e-4, "{apart}");
}

#[test]
fn no_number_stops_the_run_and_keeps_the_last_checkpoint() {
    let data = sequences();
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let mut model = Bigram::new(VOCABULARY);
    model.breaks_after = Some(22);
    let setup = Setup { config: &config, data: &data, held_out: &[], resume: false };
    let error = run(&setup, &mut model, 1, None).unwrap_err().to_string();
    assert!(
        error.starts_with("step 12: the loss is NaN")
            && error.contains("step-0000010")
            && error.contains("learning rate"),
        "{error}"
    );
    assert_eq!(checkpoint::list(folder.path()).unwrap().len(), 2);
    assert!(model.tensors()[0].data.iter().all(|v| v.is_finite()));
}

#[test]
fn another_runs_checkpoint_is_refused() {
    let data = sequences();
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    fresh(&config, &data, 1);
    let pool = Pool::new(1);
    let mut model = Bigram::new(VOCABULARY);
    let mut trainer = Trainer {
        config: &config,
        store: &data.0,
        items: &data.1,
        held_out: &[],
        model: &mut model,
        pool: &pool,
        identity: "another".into(),
        resume: true,
        until: None,
        writes: true,
    };
    let error = trainer.run(&mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
    assert!(error.contains("other settings, data or base model"), "{error}");
}

#[test]
fn it_ends_early_when_evaluations_no_longer_improve() {
    let data = sequences();
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.run.steps = Some(400);
    config.run.eval_every = 4;
    config.run.patience = 2;
    // What is held out goes the other way, so learning soon makes it worse.
    let held_out = {
        let folder = tempfile::tempdir().unwrap();
        let mut builder = Builder::new(folder.path());
        let ids: Vec<u32> = (0..12).rev().collect();
        let number = builder.push(&Tokens { learned: vec![true; 12], ids, prompt: 0, cut: 0 }).unwrap();
        assert_eq!(number, 0);
        builder.finish().unwrap()
    };
    let mut all = Vec::new();
    let merged = {
        let folder = tempfile::tempdir().unwrap();
        let mut builder = Builder::new(folder.path());
        for store in [&data.0, &held_out] {
            for n in 0..store.len() as u32 {
                let s = store.get(n);
                let tokens =
                    Tokens { ids: s.ids().collect(), learned: s.learned().collect(), prompt: s.prompt, cut: 0 };
                all.push(Item::One(builder.push(&tokens).unwrap()));
            }
        }
        builder.finish().unwrap()
    };
    let last = all.split_off(all.len() - 1);
    let both = (merged, all);
    let setup = Setup { config: &config, data: &both, held_out: &last, resume: false };
    let summary = run(&setup, &mut Bigram::new(VOCABULARY), 1, None).unwrap();
    assert!(summary.stopped_early && summary.steps < 100, "{summary:?}");
}

/// The chosen answer's lead over the rejected one grows where the objective compares with a reference.
#[test]
fn preferences_are_learned() {
    let wanted = pairs(|a, b| Item::Pair(a, b, None));
    let judged = pairs(|a, b| Item::Judged(a, b, a % 4 == 0));
    for (objective, data) in [(Objective::Dpo(Dpo::default()), wanted), (Objective::Kto(Kto::default()), judged)] {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path());
        config.objective = objective;
        config.run.steps = Some(30);
        fresh(&config, &data, 1);
        let curve = metrics::curve(folder.path(), "train", "loss").unwrap();
        let mean = |c: &[(f64, f64)]| c.iter().map(|p| p.1).sum::<f64>() / c.len() as f64;
        assert!(mean(&curve[25..]) < mean(&curve[..5]), "{curve:?}");
        assert!(folder.path().join("reference.safetensors").exists());
    }
}

/// The reference scores pairs in the order of the files, where the longest may lie together, whatever the steps take.
#[test]
fn a_model_is_made_for_its_reference_too() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.objective = Objective::Dpo(Dpo::default());
    (config.run.steps, config.run.accumulate) = (Some(1), 1);
    let (store, mut items) = pairs(|a, b| Item::Pair(a, b, None));
    items.sort_by_key(|i| i.sequences().map(|s| store.get(s).len()).sum::<usize>());
    fresh(&config, &(store, items), 1);
}

#[test]
fn settings_are_read_and_held_against_sense() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.toml");
    let text = "model = \"m.gguf\"\noutput = \"out\"\n[data]\ntrain = [{ path = \"a.jsonl\", weight = 0.5 }]\n\
                [objective]\nname = \"dpo\"\nbeta = 0.2\n[optimizer]\nlearning_rate = 5e-6\nschedule = { name = \"cosine\" }\n\
                kind = { name = \"adamw8bit\", beta2 = 0.99 }\n[run]\nsteps = 7\n";
    std::fs::write(&path, text).unwrap();
    let config = Config::read(&path).unwrap();
    assert_eq!(config.data.train[0].path, folder.path().join("a.jsonl"));
    assert_eq!(config.learning_rate(), 5e-6);
    let again: Config = toml::from_str(&config.to_toml().unwrap()).unwrap();
    assert_eq!(again, config);
    for (from, to, expected) in [
        ("steps = 7", "steps = 0", "run.steps"),
        ("steps = 7", "stepps = 7", "unknown field `stepps`"),
        ("beta = 0.2", "beta = \"x\"", "line"),
        ("5e-6", "-1.0", "optimizer.learning_rate"),
    ] {
        std::fs::write(&path, text.replace(from, to)).unwrap();
        let error = Config::read(&path).unwrap_err().to_string();
        assert!(error.contains(expected), "{to}: {error}");
    }
}
