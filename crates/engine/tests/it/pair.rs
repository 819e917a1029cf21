//! A real draft and target pair with one vocabulary, where their weights are at hand.

use allod_cpu::{Cpu, Options, Pool};
use allod_engine::engine::{Counters, EventKind, Request};
use allod_engine::{Engine, EngineOptions, SamplingParams};
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn data() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let folder = std::env::var_os("ALLOD_TEST_DATA").map_or_else(beside, PathBuf::from);
    folder.join("weights").is_dir().then_some(folder)
}

fn cpu(path: &Path) -> (Box<Cpu>, EngineOptions) {
    let model = allod_models::open(path, None).unwrap();
    let size = Options { outputs: 64, sequences: 8, context: 512, pages: Some(256), ..Options::default() };
    let cpu = Cpu::new(&model.plan, &*model.source, Arc::new(Pool::new(1)), &size).unwrap();
    (Box::new(cpu), EngineOptions::for_plan(&model.plan, 64))
}

/// The tokens of eight answers side by side, half of them greedy.
fn answers(mut engine: Engine) -> (Vec<Vec<u32>>, Counters) {
    let ids: Vec<_> = (0..8)
        .map(|index| {
            let temperature = [0.0, 0.8][index as usize % 2];
            let sampling =
                SamplingParams { temperature, seed: Some(index), max_tokens: Some(150), ..Default::default() };
            engine.submit(Request { ids: vec![1], sampling, ..Request::default() }).unwrap()
        })
        .collect();
    let mut answers = vec![Vec::new(); ids.len()];
    while !engine.is_idle() {
        for event in engine.step() {
            let index = ids.iter().position(|&id| id == event.request).unwrap();
            match event.kind {
                EventKind::Token(token) => answers[index].push(token.id),
                EventKind::Failed(failure) => panic!("{failure}"),
                _ => {}
            }
        }
    }
    (answers, engine.stats().counters)
}

#[test]
fn a_trained_draft_model_is_mostly_right_and_changes_nothing() {
    let Some(data) = data() else {
        eprintln!("skipped: there is no folder of test data (ALLOD_TEST_DATA)");
        return;
    };
    let (target, options) = cpu(&data.join("weights/stories260K/stories260K.bin"));
    let (plain, _) = answers(Engine::new(target, options.clone()));
    assert!(plain.iter().all(|tokens| tokens.len() == 150));
    let (target, _) = cpu(&data.join("weights/stories260K/stories260K.bin"));
    let (draft, _) = cpu(&data.join("weights/llama2xs/model.bin"));
    // Past answers and the text itself would draft as well.
    let options = EngineOptions { draft: 4, adaptive: false, past: 0, ..options };
    let (drafted, counters) = answers(Engine::new(target, options).with_draft(draft, 64));
    assert_eq!(drafted, plain);
    // The two agree about 75.5 % of greedy tokens; a draft ends at the first that differs, and the shared noise keeps
    // sampled tokens nearly as close.
    let right = counters.kept as f64 / counters.drafted as f64;
    eprintln!("{} of {} drafted tokens were right", counters.kept, counters.drafted);
    assert!(right > 0.35, "{right}");
    assert!(counters.steps * 8 < 150 * 8 * 2 / 3, "{} steps for 150 tokens each", counters.steps);
}
