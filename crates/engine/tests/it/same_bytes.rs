//! An answer does not depend on who else is served: random requests alone, then together in every way.

use crate::guide::Growing;
use crate::plain::{Outcome, plain};
use crate::toy::Toy;
use allod_cpu::{Cpu, Options, Pool};
use allod_engine::engine::{Event, EventKind, Grammar, Request, SpillOptions};
use allod_engine::{Engine, EngineOptions, Finish, SamplingParams};
use allod_formats::{WeightSource, codec};
use allod_models::{Model, model, open_source};
use allod_plan::{Backend, Capacity, Delta, Lora, Op, Plan};
use allod_tensor::Tensor;
use allod_testkit::Memory;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// SplitMix64 (Steele et al. 2014).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

const CONTEXT: usize = 96;

/// Requests of every kind; many share a beginning, many repeat themselves.
fn requests(count: usize, vocabulary: usize, seed: u64) -> Vec<Request> {
    let mut random = Random(seed);
    let text = |length: usize, alphabet: usize, random: &mut Random| -> Vec<u32> {
        (0..length).map(|_| random.below(alphabet) as u32).collect()
    };
    let shared: Vec<Vec<u32>> = (0..3).map(|_| text(50, vocabulary, &mut random)).collect();
    let mut one = || {
        let mut ids = shared[random.below(3)][..random.below(51)].to_vec();
        let (length, alphabet) = (1 + random.below(25), [4, vocabulary][random.below(2)]);
        ids.extend(text(length, alphabet, &mut random));
        let sampling = SamplingParams {
            temperature: [0.0, 0.3, 0.8, 1.5][random.below(4)],
            seed: Some(random.below(1000) as u64),
            max_tokens: Some(1 + random.below(30) as u32),
            logprobs: random.chance(30).then_some(2),
            repeat_penalty: if random.chance(30) { 1.2 } else { 1.0 },
            mirostat: if random.chance(15) { 2 } else { 0 },
            ..SamplingParams::default()
        };
        Request {
            ids,
            sampling,
            eos: vec![3],
            constraint: random.chance(20).then(|| {
                let (step, end) = (1 + random.below(4) as u32, 2 + random.below(17) as u32);
                Arc::new(Growing::new(step, end)) as Arc<dyn Grammar>
            }),
            n: if random.chance(25) { 1 + random.below(3) as u32 } else { 1 },
            prompt_logprobs: random.chance(15).then_some(1),
            priority: if random.chance(20) { random.below(3) as i32 } else { 0 },
            client: random.below(4) as u64,
            salt: if random.chance(10) { b"other".to_vec() } else { Vec::new() },
            ..Request::default()
        }
    };
    (0..count).map(|_| one()).collect()
}

/// Each answer alone.
fn alone(backend: &mut dyn Backend, all: &[Request]) -> Vec<Vec<Outcome>> {
    let mut one = |request: &Request| (0..request.n).map(|i| plain(backend, request, i, CONTEXT)).collect();
    all.iter().map(&mut one).collect()
}

/// What happened on the way, to see that a test tested what it says.
#[derive(Debug, Default)]
struct Seen {
    preemptions: u64,
    found: u64,
    kept: u64,
}

/// All requests through one engine, arriving and cancelled at random, and every outcome held against that alone.
fn together(mut engine: Engine, all: &[Request], expected: &[Vec<Outcome>], seed: u64) -> Seen {
    let mut random = Random(seed);
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by_cached_key(|_| random.below(1 << 30));
    let mut arriving = order.into_iter();
    let mut ids = BTreeMap::new();
    let mut outcomes: BTreeMap<_, Outcome> = BTreeMap::new();
    let mut left = all.len();
    while left > 0 || !engine.is_idle() {
        for _ in 0..random.below(5) {
            if let Some(index) = arriving.next() {
                ids.insert(engine.submit(all[index].clone()).unwrap(), index);
                left -= 1;
            }
        }
        if random.chance(4) && !ids.is_empty() {
            let id = *ids.keys().nth(random.below(ids.len())).unwrap();
            engine.cancel(id);
            assert!(engine.snapshot().sequences.iter().all(|s| s.request != id));
        }
        for Event { request, answer, kind } in engine.step() {
            let outcome = outcomes.entry((ids[&request], answer)).or_default();
            assert_eq!(outcome.finish, None, "an event after the last");
            match kind {
                EventKind::Token(token) => outcome.tokens.push(token),
                EventKind::PromptLogprobs(tokens) => outcome.prompt = Some(tokens),
                EventKind::Finished { reason, stats } => {
                    assert_eq!(stats.generated_tokens, outcome.tokens.len());
                    assert!(stats.cached_tokens <= stats.prompt_tokens);
                    outcome.finish = Some(reason);
                }
                EventKind::Prompt { done, total } => assert!(done < total),
                EventKind::Scored(_) | EventKind::Embedded(_) => panic!("nobody asked for that"),
                EventKind::Failed(failure) => panic!("{failure}"),
            }
        }
    }
    let stats = engine.stats();
    assert_eq!((stats.running, stats.waiting, stats.held_pages), (0, 0, 0), "something was not given back");
    assert_eq!(outcomes.len(), all.iter().map(|r| r.n as usize).sum::<usize>());
    let mut cancelled = 0;
    for ((index, answer), found) in &outcomes {
        let expected = &expected[*index][*answer as usize];
        if found.finish == Some(Finish::Cancelled) {
            cancelled += 1;
            assert_eq!(found.tokens, expected.tokens[..found.tokens.len()], "request {index}, answer {answer}");
        } else {
            assert_eq!(found, expected, "request {index}, answer {answer}");
        }
    }
    assert!(cancelled < outcomes.len() / 2);
    let counters = stats.counters;
    Seen { preemptions: counters.preemptions, found: counters.found_tokens, kept: counters.kept }
}

/// Memory and rows of a backend.
#[derive(Clone, Copy, Debug)]
struct Size {
    rows: usize,
    outputs: usize,
    slots: usize,
    pages: usize,
    threads: usize,
}

const ROOMY: Size = Size { rows: 64, outputs: 32, slots: 12, pages: 80, threads: 1 };
/// For one sequence, all results of a prompt at once.
const WHOLE: Size = Size { rows: CONTEXT, outputs: CONTEXT, slots: 1, pages: CONTEXT / 16, threads: 1 };
const TIGHT: Size = Size { pages: 7, ..ROOMY };

/// Every way to run them together. Returns how many drafted tokens held.
fn all_ways(
    backend: &dyn Fn(Size) -> Box<dyn Backend>,
    options: &EngineOptions,
    adapters: &[Lora],
    mut all: Vec<Request>,
) -> u64 {
    let mut whole = backend(WHOLE);
    let mut first = Engine::new(backend(ROOMY), options.clone());
    let ids: Vec<_> = adapters.iter().map(|adapter| first.load_adapter(adapter).unwrap()).collect();
    for (request, index) in all.iter_mut().zip(0..) {
        request.adapter = ids.get(index % 5).copied();
    }
    for (adapter, id) in adapters.iter().zip(&ids) {
        whole.load_adapter(id.number(), adapter).unwrap();
    }
    let expected = alone(&mut *whole, &all);
    let all = &all[..];
    let engine = |size: Size, change: &dyn Fn(&mut EngineOptions)| {
        let mut options = EngineOptions { outputs: size.outputs, rows: size.rows, ..options.clone() };
        change(&mut options);
        let mut engine = Engine::new(backend(size), options);
        assert!(adapters.iter().zip(&ids).all(|(adapter, id)| engine.load_adapter(adapter).unwrap() == *id));
        engine
    };
    let roomy = together(engine(ROOMY, &|_| {}), all, &expected, 1);
    assert!(roomy.found > 0, "no prefix was found: {roomy:?}");
    let tight = together(engine(TIGHT, &|_| {}), all, &expected, 2);
    // With room enough, only priority makes anybody give way; a window needs few pages at any time.
    assert!(
        options.horizon.is_some() || tight.preemptions > roomy.preemptions,
        "nobody ran out of pages: {roomy:?}, {tight:?}"
    );
    let seen = together(engine(ROOMY, &|o| o.prefix_cache = false), all, &expected, 3);
    assert_eq!(seen.found, 0);
    together(engine(Size { threads: 2, ..ROOMY }, &|o| o.chunk = 5), all, &expected, 4);
    let few = Size { rows: 7, outputs: 2, slots: 3, ..TIGHT };
    together(engine(few, &|o| o.chunk = 3), all, &expected, 5);
    let drafting = together(engine(ROOMY, &|o| (o.draft, o.adaptive) = (8, false)), all, &expected, 6);
    together(engine(Size { threads: 2, ..TIGHT }, &|o| (o.draft, o.past) = (4, 500)), all, &expected, 7);
    let by_model = engine(ROOMY, &|o| (o.draft, o.adaptive) = (5, false)).with_draft(backend(ROOMY), 32);
    let by_model = together(by_model, all, &expected, 8);
    assert!(options.recurrent || by_model.kept > drafting.kept, "{by_model:?}, {drafting:?}");
    let by_model = engine(few, &|o| o.draft = 5).with_draft(backend(TIGHT), 2);
    together(by_model, all, &expected, 9);
    spilling(&|| engine(TIGHT, &|_| {}), all, &expected);
    drafting.kept
}

/// With disk behind too little memory, and again after a restart.
fn spilling(engine: &dyn Fn() -> Engine, all: &[Request], expected: &[Vec<Outcome>]) {
    let folder = tempfile::tempdir().unwrap();
    for (seed, bytes) in [(10, 1 << 30), (11, 1 << 30), (12, 40_000)] {
        let options = SpillOptions { folder: folder.path().into(), bytes, identity: b"test".to_vec() };
        let engine = engine().with_spill(&options).unwrap();
        assert_eq!(engine.stats().spilled > 0, seed > 10, "what was there was not found again");
        assert!(engine.stats().spilled_bytes <= bytes);
        together(engine, all, expected, seed);
    }
}

fn toy(size: Size, recurrent: bool, window: usize) -> Box<dyn Backend> {
    let Size { rows, pages, slots, .. } = size;
    let mut toy = Toy::new(Capacity { width: 40, rows, pages, states: slots, context: CONTEXT });
    (toy.recurrent, toy.window) = (recurrent, window);
    Box::new(toy)
}

#[test]
fn of_a_toy() {
    let options = EngineOptions::default();
    all_ways(&|size| toy(size, false, usize::MAX), &options, &two_adapters(), requests(200, 40, 11));
}

#[test]
fn of_a_toy_that_forgets() {
    let options = EngineOptions { horizon: Some(6), ..EngineOptions::default() };
    let kept = all_ways(&|size| toy(size, false, 6), &options, &two_adapters(), requests(200, 40, 12));
    assert!(kept > 0, "no draft held");
}

#[test]
fn of_a_recurrent_toy() {
    let options = EngineOptions { recurrent: true, ..EngineOptions::default() };
    all_ways(&|size| toy(size, true, 0), &options, &two_adapters(), requests(200, 40, 13));
}

/// Two that a toy tells apart.
fn two_adapters() -> [Lora; 2] {
    let delta = Delta { rank: 0, a: [].into(), b: [].into(), scale: 1.0, magnitude: None };
    let mut other = Lora::default();
    other.deltas.insert("anything".into(), delta);
    [Lora::default(), other]
}

/// Two that change every plain matrix of a plan.
fn random_adapters(plan: &Plan) -> [Lora; 2] {
    [21, 22].map(|seed| {
        let mut random = Random(seed);
        let mut lora = Lora::default();
        let parts = plan.nodes().iter().filter_map(|node| match &node.op {
            Op::Linear { parts } => Some(parts),
            _ => None,
        });
        for param in parts.flatten().map(|part| plan.param(part.weight)).filter(|p| p.name.starts_with("blk.")) {
            let mut values =
                |count: usize| -> Vec<f32> { (0..count).map(|_| random.below(2001) as f32 / 1000.0 - 1.0).collect() };
            let (a, b) = (values(2 * param.shape[1]).into(), values(2 * param.shape[0]).into());
            let magnitude = (seed == 22).then(|| vec![0.5; param.shape[0]].into());
            lora.deltas.insert(param.name.clone(), Delta { rank: 2, a, b, scale: 0.05, magnitude });
        }
        lora
    })
}

fn golden(name: &str) -> Model {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/goldens").join(name);
    model(open_source(&folder).unwrap(), Some(CONTEXT)).unwrap()
}

fn of_a_model(name: &str, count: usize) -> EngineOptions {
    let model = golden(name);
    let options = EngineOptions::for_plan(&model.plan, 1);
    let pools = [Arc::new(Pool::new(1)), Arc::new(Pool::new(2))];
    let backend = |size: Size| -> Box<dyn Backend> {
        let Size { rows, outputs, slots, pages, threads } = size;
        let options =
            Options { rows, outputs, sequences: slots, context: CONTEXT, pages: Some(pages), ..Options::default() };
        Box::new(Cpu::new(&model.plan, &*model.source, pools[threads - 1].clone(), &options).unwrap())
    };
    let vocabulary = backend(ROOMY).capacity().width;
    let kept = all_ways(&backend, &options, &random_adapters(&model.plan), requests(count, vocabulary, 14));
    assert_eq!(kept > 0, !options.recurrent, "drafts held: {kept}");
    options
}

#[test]
fn of_a_dense_model() {
    of_a_model("llama", 100);
}

#[test]
fn of_a_sliding_window() {
    assert_eq!(of_a_model("mistral", 100).horizon, Some(8));
}

#[test]
fn of_a_mixture_of_experts() {
    of_a_model("mixtral", 100);
}

#[test]
fn of_latent_attention() {
    of_a_model("deepseek_v2", 100);
}

#[test]
fn of_a_mamba_hybrid() {
    assert!(of_a_model("jamba", 100).recurrent);
}

/// Keys and values that are not numbers stay in pages that others get next.
#[test]
fn beside_a_broken_token() {
    const BROKEN: u32 = 127;
    let model = golden("llama");
    let mut poisoned = Memory::default();
    for name in model.source.names() {
        let mut tensor = model.source.tensor(&name).unwrap();
        if name == "token_embd.weight" {
            let mut values = codec::to_f32(&tensor).unwrap();
            let width = values.len() / tensor.shape[0];
            values[BROKEN as usize * width..][..width].fill(f32::NAN);
            tensor = Tensor::from_f32(tensor.shape.clone(), &values);
        }
        poisoned = poisoned.with(&name, tensor);
    }
    let backend = |source: &dyn WeightSource| -> Box<dyn Backend> {
        let options = Options {
            rows: CONTEXT,
            outputs: CONTEXT,
            sequences: 4,
            context: CONTEXT,
            pages: Some(6),
            ..Options::default()
        };
        Box::new(Cpu::new(&model.plan, source, Arc::new(Pool::new(1)), &options).unwrap())
    };
    let mut engine = Engine::new(backend(&poisoned), EngineOptions::for_plan(&model.plan, 8));
    let mut good_backend = backend(&*model.source);
    let mut good = requests(40, BROKEN as usize, 15);
    for request in &mut good {
        request.sampling.logit_bias = [(BROKEN, f32::NEG_INFINITY)].into();
        request.n = 1;
        let broken = engine.submit(Request { ids: vec![BROKEN; 1 + request.ids.len()], ..request.clone() }).unwrap();
        engine.submit(request.clone()).unwrap();
        let mut tokens = Vec::new();
        while !engine.is_idle() {
            for event in engine.step() {
                match event.kind {
                    EventKind::Failed(_) => assert_eq!(event.request, broken),
                    EventKind::Token(token) => tokens.push(token),
                    _ => {}
                }
            }
        }
        assert_eq!(tokens, plain(&mut *good_backend, request, 0, CONTEXT).tokens);
    }
    assert_eq!(engine.stats().counters.failed, 40);
}
