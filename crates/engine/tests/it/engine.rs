//! Who is served when, and what becomes of requests that cannot be.

use crate::toy::{Toy, logits};
use allod_engine::engine::{Event, EventKind, Failure, Request, RequestId};
use allod_engine::{Engine, EngineOptions, Error, Finish, SampleError, Sampler, SamplingParams};
use allod_plan::{Capacity, PAGE};
use std::time::{Duration, Instant};

const CAPACITY: Capacity = Capacity { width: 50, rows: 32, pages: 64, states: 8, context: 400 };

fn options() -> EngineOptions {
    // What a toy's steps take says nothing.
    EngineOptions { outputs: 32, chunk: 16, delay: f64::INFINITY, ..EngineOptions::default() }
}

/// A toy that sees everything and has room for eight sequences.
fn toy() -> Toy {
    let mut toy = Toy::new(CAPACITY);
    toy.recurrent = false;
    toy
}

fn engine(options: EngineOptions) -> Engine {
    Engine::new(Box::new(toy()), options)
}

fn request(ids: &[u32], max_tokens: u32) -> Request {
    let sampling = SamplingParams { max_tokens: Some(max_tokens), seed: Some(5), ..Default::default() };
    Request { ids: ids.to_vec(), sampling, ..Default::default() }
}

fn drain(engine: &mut Engine) -> Vec<Event> {
    let mut events = Vec::new();
    for _ in 0..10_000 {
        if engine.is_idle() {
            assert_eq!(engine.stats().held_pages, 0);
            return events;
        }
        events.extend(engine.step());
    }
    panic!("the engine does not come to an end: {:?}", engine.stats());
}

fn last(events: &[Event], id: RequestId) -> &EventKind {
    &events.iter().rev().find(|e| e.request == id).unwrap().kind
}

fn tokens(events: &[Event], id: RequestId) -> Vec<u32> {
    let token = |e: &Event| match &e.kind {
        EventKind::Token(token) if e.request == id => Some(token.id),
        _ => None,
    };
    events.iter().filter_map(token).collect()
}

#[test]
fn what_cannot_be_is_refused_at_once() {
    let mut engine = engine(EngineOptions { queue: 3, ..options() });
    let refused = |engine: &mut Engine, request| engine.submit(request).unwrap_err();
    assert_eq!(refused(&mut engine, request(&[], 1)), Error::EmptyPrompt.into());
    let long = Error::PromptTooLong { tokens: 400, context: 400 };
    assert_eq!(refused(&mut engine, request(&[1; 400], 1)), long.into());
    let unknown = Error::UnknownToken { id: 50, position: 1, vocabulary: 50 };
    assert_eq!(refused(&mut engine, request(&[1, 50], 1)), unknown.into());
    assert_eq!(refused(&mut engine, Request { n: 0, ..request(&[1], 1) }), Failure::Answers { limit: 3, found: 0 });
    let top = Request { prompt_logprobs: Some(51), ..request(&[1], 1) };
    assert_eq!(refused(&mut engine, top), Failure::PromptLogprobs { vocabulary: 50, found: 51 });
    assert!(matches!(refused(&mut engine, request(&[1], 0)), Failure::Request(Error::Params(_))));
    engine.submit(Request { n: 2, ..request(&[1], 1) }).unwrap();
    let full = Failure::QueueFull { waiting: 2, wanted: 2, limit: 3 };
    assert_eq!(refused(&mut engine, Request { n: 2, ..request(&[1], 1) }), full);
    assert_eq!(drain(&mut engine).len(), 4);
    let small = Toy::new(Capacity { pages: 2, ..CAPACITY });
    let mut small = Engine::new(Box::new(small), options());
    let pool = Error::PromptTooLong { tokens: 32, context: 32 };
    assert_eq!(refused(&mut small, request(&[1; 32], 1)), pool.into());
}

#[test]
fn zero_budgets_still_get_on() {
    let nothing = EngineOptions { sequences: Some(0), rows: 0, chunk: 0, outputs: 0, ..options() };
    let mut engine = Engine::new(Box::new(toy()), nothing);
    let ids: Vec<_> = (0..3).map(|i| engine.submit(request(&[i; 20], 5)).unwrap()).collect();
    let events = drain(&mut engine);
    assert!(ids.iter().all(|&id| tokens(&events, id).len() == 5));
}

#[test]
fn broken_logits_and_refused_steps_fail_one_request() {
    let mut toy = toy();
    (toy.breaks_on, toy.refuses) = (Some(48), Some(49));
    let mut engine = Engine::new(Box::new(toy), options());
    let ban = |ids: &[u32]| {
        let mut request = request(ids, 20);
        request.sampling.logit_bias = [(48, f32::NEG_INFINITY), (49, f32::NEG_INFINITY)].into();
        request
    };
    let good = engine.submit(ban(&[1, 2, 3])).unwrap();
    let broken = engine.submit(ban(&[1, 48])).unwrap();
    let refused = engine.submit(ban(&[1, 49])).unwrap();
    let scored = engine.submit(Request { prompt_logprobs: Some(0), ..ban(&[1, 48, 2]) }).unwrap();
    let events = drain(&mut engine);
    let error = |id| match last(&events, id) {
        EventKind::Failed(Failure::Request(error)) => error.clone(),
        other => panic!("{other:?}"),
    };
    assert!(matches!(error(broken), Error::Sample(SampleError::NotFinite { id: 49, .. })));
    assert!(matches!(error(scored), Error::Sample(SampleError::NotFinite { .. })));
    assert!(matches!(error(refused), Error::Step(_)));
    assert_eq!(tokens(&events, good).len(), 20);
    assert_eq!(engine.stats().counters.failed, 3);
}

#[test]
fn a_long_prompt_stalls_nobody() {
    let toy = toy();
    let log = toy.log();
    let mut engine = Engine::new(Box::new(toy), options());
    let victim = engine.submit(request(&[1, 2, 3], 60)).unwrap();
    engine.step();
    let long = engine.submit(request(&[4; 350], 1)).unwrap();
    let short = engine.submit(request(&[5, 6], 1)).unwrap();
    let mut finished = Vec::new();
    while finished.len() < 2 {
        let events = engine.step();
        assert_eq!(tokens(&events, victim).len(), 1, "every step brings the victim's next token");
        finished.extend(events.iter().filter(|e| e.kind.is_last()).map(|e| e.request));
    }
    assert_eq!(finished, [short, long]);
    assert!(log.lock().unwrap()[1..].iter().all(|&rows| rows <= 1 + 16), "{:?}", log.lock().unwrap());
    drain(&mut engine);
}

#[test]
fn priorities_come_first_and_clients_share() {
    let mut engine = Engine::new(Box::new(toy()), EngineOptions { sequences: Some(1), ..options() });
    let greedy: Vec<_> =
        (0..6).map(|_| engine.submit(Request { client: 1, ..request(&[1; 20], 4) }).unwrap()).collect();
    let modest: Vec<_> =
        (0..2).map(|_| engine.submit(Request { client: 2, ..request(&[2; 20], 4) }).unwrap()).collect();
    let mut events = engine.step();
    let urgent = engine.submit(Request { priority: 1, client: 1, ..request(&[3], 2) }).unwrap();
    events.extend(drain(&mut engine));
    let ended: Vec<_> = events.iter().filter(|e| e.kind.is_last()).map(|e| e.request).collect();
    assert_eq!(ended[0], urgent, "it pushed out what was running");
    let place = |id| ended.iter().position(|&e| e == id).unwrap();
    assert!(place(modest[0]) <= 2 && place(modest[1]) <= 4, "{ended:?}");
    assert!(greedy.iter().all(|&id| tokens(&events, id).len() == 4));
}

#[test]
fn deadlines_and_cancellation_give_everything_back() {
    let mut engine = engine(options());
    let late = engine.submit(Request { deadline: Some(Instant::now()), ..request(&[1; 40], 100) }).unwrap();
    let cancelled = engine.submit(Request { n: 3, ..request(&[2; 40], 100) }).unwrap();
    let flagged = request(&[3; 40], 100);
    let flag = flagged.cancel.clone();
    let flagged = engine.submit(flagged).unwrap();
    let mut events: Vec<Event> = (0..12).flat_map(|_| engine.step()).collect();
    assert!(engine.stats().held_pages > 0);
    flag.cancel();
    engine.cancel(cancelled);
    assert_eq!(engine.stats().running, 1);
    events.extend(drain(&mut engine));
    assert_eq!(*last(&events, late), EventKind::Failed(Failure::Deadline { generated: 0 }));
    let ends = events.iter().filter(|e| matches!(e.kind, EventKind::Finished { reason: Finish::Cancelled, .. }));
    let ends: Vec<_> = ends.map(|e| (e.request, e.answer)).collect();
    assert_eq!(ends, [(cancelled, 0), (cancelled, 1), (cancelled, 2), (flagged, 0)]);
}

#[test]
fn running_sequences_share_one_prefix() {
    let toy = toy();
    let log = toy.log();
    let mut engine = Engine::new(Box::new(toy), options());
    let prefix: Vec<u32> = (0..160).map(|i| i % 47).collect();
    for i in 0..8 {
        engine.submit(request(&[&prefix[..], &[i, i]].concat(), 30)).unwrap();
    }
    let mut most = 0;
    while !engine.is_idle() {
        engine.step();
        most = most.max(engine.stats().held_pages);
    }
    let rows: usize = log.lock().unwrap().iter().sum();
    let trace = engine.trace();
    assert_eq!(trace.iter().map(|step| step.prompt_rows + step.decode_rows).sum::<usize>(), rows);
    assert_eq!(trace.iter().map(|step| step.generated).sum::<u64>(), 8 * 30);
    assert!(trace.is_sorted_by_key(|step| (step.step, step.start_us)));
    assert!(rows <= 160 + 8 * (2 + 30), "the prefix ran more than once: {rows} rows");
    assert!(most <= 64);
    assert_eq!(engine.stats().held_pages, 0);
    let again = engine.submit(request(&[&prefix[..], &[9]].concat(), 1)).unwrap();
    let events = drain(&mut engine);
    let EventKind::Finished { stats, .. } = last(&events, again) else { panic!() };
    assert_eq!(stats.cached_tokens, 160);
}

#[test]
fn answers_to_one_prompt_compute_it_once() {
    for recurrent in [false, true] {
        let mut toy = toy();
        toy.recurrent = recurrent;
        let log = toy.log();
        let options = EngineOptions { sequences: Some(6), recurrent, prefix_cache: false, ..options() };
        let mut engine = Engine::new(Box::new(toy), options);
        engine.submit(Request { n: 5, ..request(&[7; 100], 10) }).unwrap();
        drain(&mut engine);
        assert_eq!(log.lock().unwrap().iter().sum::<usize>(), 100 + 5 * 9);
    }
}

#[test]
fn a_window_holds_no_more_than_it_sees() {
    let mut toy = toy();
    toy.window = 20;
    let options = EngineOptions { horizon: Some(20), ..options() };
    let mut engine = Engine::new(Box::new(toy), options);
    engine.submit(request(&[1, 2, 3], 300)).unwrap();
    while !engine.is_idle() {
        engine.step();
        assert!(engine.stats().held_pages <= 20usize.div_ceil(PAGE) + 1);
    }
}

#[test]
fn log_probabilities_of_a_prompt_are_those_of_its_tokens() {
    let mut engine = engine(options());
    let ids: Vec<u32> = (0..40).map(|i| i * 7 % 50).collect();
    engine.submit(request(&ids, 1)).unwrap();
    drain(&mut engine);
    engine.submit(Request { prompt_logprobs: Some(3), ..request(&ids, 1) }).unwrap();
    let events = drain(&mut engine);
    let found = events.iter().find_map(|e| if let EventKind::PromptLogprobs(f) = &e.kind { Some(f) } else { None });
    let sampler = Sampler::new(&SamplingParams::default(), 50).unwrap();
    let expected: Vec<_> = (1..40).map(|i| sampler.score(&logits(&ids[..i], 50), ids[i], 3).unwrap()).collect();
    assert_eq!(found, Some(&expected));
}

#[test]
fn a_thread_serves_streams_and_notices_who_left() {
    let handle = engine(options()).spawn(2).unwrap();
    let slow = handle.submit(request(&[1; 20], 50)).unwrap();
    let gone = handle.submit(request(&[2; 20], 300)).unwrap();
    let other = handle.clone();
    let no_progress = |e: &Event| !matches!(e.kind, EventKind::Prompt { .. });
    let quick = move || other.submit(request(&[3; 20], 50)).unwrap().filter(no_progress).count();
    let quick = std::thread::spawn(quick);
    assert_eq!(quick.join().unwrap(), 51, "a slow receiver holds up nobody");
    drop(gone);
    let until = Instant::now() + Duration::from_secs(10);
    while handle.look().unwrap().0.running > 1 {
        assert!(Instant::now() < until, "the abandoned request goes on");
    }
    let (stats, snapshot) = handle.look().unwrap();
    assert!(stats.counters.generated < 50 + 50 + 300);
    assert_eq!(snapshot.sequences.len(), 1);
    assert_eq!(slow.filter(no_progress).count(), 51, "no event was lost");
    assert!(matches!(handle.submit(request(&[], 1)), Err(Failure::Request(Error::EmptyPrompt))));
}
