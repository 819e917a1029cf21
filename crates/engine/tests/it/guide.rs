//! Constraints, thinking, end tokens, scores: what decides beside the model, and what is asked of it beside answers.

use crate::toy::{Toy, logits};
use allod_engine::engine::{
    BeamParams, Constraint, ConstraintError, Event, EventKind, Failure, Grammar, Request, Task, Thinking, TokenMask,
    best_of,
};
use allod_engine::{Engine, EngineOptions, Error, Finish, SampleError, Sampler, SamplingParams, Token};
use allod_plan::Capacity;
use std::sync::Arc;

const CAPACITY: Capacity = Capacity { width: 50, rows: 32, pages: 64, states: 8, context: 400 };

/// Tokens that grow by at most `step`, and end from `end` on. Anything may break it in a way of its own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Growing {
    pub(crate) step: u32,
    pub(crate) end: u32,
    breaks_after: Option<usize>,
    last: u32,
    count: usize,
}

impl Growing {
    pub(crate) fn new(step: u32, end: u32) -> Growing {
        Growing { step, end, ..Growing::default() }
    }
}

impl Grammar for Growing {
    fn start(&self) -> Result<Box<dyn Constraint>, ConstraintError> {
        if self.step == 0 {
            return Err(ConstraintError("a step of 0".into()));
        }
        Ok(Box::new(self.clone()))
    }
}

impl Constraint for Growing {
    fn mask(&mut self, mask: &mut TokenMask) -> Result<(), ConstraintError> {
        assert!(mask.is_empty());
        if self.breaks_after.is_some_and(|count| self.count >= count) {
            assert!(self.step < 9, "a fault in the constraint");
            return Err(ConstraintError("broken".into()));
        }
        (self.last..=self.last + self.step).for_each(|id| mask.set(id, true));
        Ok(())
    }

    fn accept(&mut self, id: u32) -> Result<(), ConstraintError> {
        if !(self.last..=self.last + self.step).contains(&id) {
            return Err(ConstraintError(format!("{id} after {}", self.last)));
        }
        self.last = id;
        self.count += 1;
        Ok(())
    }

    fn fork(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }

    fn may_end(&mut self) -> bool {
        self.last >= self.end
    }

    fn is_complete(&mut self) -> bool {
        self.last >= 2 * self.end
    }

    fn likely(&mut self) -> Vec<u32> {
        vec![self.last; 2]
    }
}

fn engine(draft: usize) -> Engine {
    let mut toy = Toy::new(CAPACITY);
    toy.recurrent = false;
    Engine::new(
        Box::new(toy),
        EngineOptions { outputs: 32, chunk: 16, draft, adaptive: false, ..EngineOptions::default() },
    )
}

fn request(ids: &[u32], max_tokens: u32) -> Request {
    let sampling =
        SamplingParams { max_tokens: Some(max_tokens), seed: Some(5), temperature: 1.0, ..Default::default() };
    Request { ids: ids.to_vec(), sampling, ..Default::default() }
}

fn drain(engine: &mut Engine) -> Vec<Event> {
    let mut events = Vec::new();
    while !engine.is_idle() {
        events.extend(engine.step());
    }
    assert_eq!(engine.stats().held_pages, 0);
    events
}

/// The tokens of answer `answer` and its last event.
fn outcome(events: &[Event], answer: u32) -> (Vec<u32>, EventKind) {
    let of = |e: &&Event| e.answer == answer;
    let id = |e: &Event| if let EventKind::Token(token) = &e.kind { Some(token.id) } else { None };
    let tokens = events.iter().filter(of).filter_map(id).collect();
    (tokens, events.iter().rev().find(of).unwrap().kind.clone())
}

fn alone(request: &Request, draft: usize) -> Vec<(Vec<u32>, EventKind)> {
    let mut engine = engine(draft);
    engine.submit(request.clone()).unwrap();
    let events = drain(&mut engine);
    (0..request.answers()).map(|answer| outcome(&events, answer)).collect()
}

#[test]
fn answers_keep_to_their_constraint() {
    let request =
        Request { constraint: Some(Arc::new(Growing::new(3, 12))), eos: vec![49], n: 4, ..request(&[1, 2, 3], 200) };
    let answers = alone(&request, 0);
    for (tokens, end) in &answers {
        let mut last = 0;
        for &id in tokens {
            assert!((last..=last + 3).contains(&id), "{tokens:?}");
            last = id;
        }
        let EventKind::Finished { reason, .. } = end else { panic!("{end:?}") };
        assert!(last >= 12);
        match reason {
            Finish::Complete => assert!(last >= 24),
            Finish::Stop(49) => {}
            other => panic!("{other:?}"),
        }
    }
    let endless = Request { eos: vec![], ..request.clone() };
    for (tokens, end) in alone(&endless, 0) {
        assert!(matches!(end, EventKind::Finished { reason: Finish::Complete, .. }));
        assert!(tokens.last().is_some_and(|&last| last >= 24));
    }
    let tokens = |answers: &[(Vec<u32>, EventKind)]| answers.iter().map(|a| a.0.clone()).collect::<Vec<_>>();
    assert_eq!(tokens(&answers), tokens(&alone(&request, 8)), "drafts change nothing");
    for (answer, (found, _)) in (0..).zip(&answers) {
        let mut one = Request { n: 1, ..request.clone() };
        one.sampling.seed = Some(5 + answer);
        assert_eq!(alone(&one, 0)[0].0, *found);
    }
}

#[test]
fn a_broken_constraint_ends_its_own_answer() {
    let mut engine = engine(0);
    let nothing = Request { constraint: Some(Arc::new(Growing::new(0, 1))), ..request(&[1], 5) };
    let refused = engine.submit(nothing).unwrap_err();
    assert_eq!(refused, Failure::Request(ConstraintError("a step of 0".into()).into()));
    let breaks = Growing { breaks_after: Some(3), ..Growing::new(5, 1000) };
    let broken = engine.submit(Request { constraint: Some(Arc::new(breaks)), ..request(&[1], 50) }).unwrap();
    let panics = Growing { breaks_after: Some(2), ..Growing::new(9, 1000) };
    let panics = engine.submit(Request { constraint: Some(Arc::new(panics)), ..request(&[1], 50) }).unwrap();
    // Nothing is allowed where the vocabulary ends.
    let stuck = Growing { last: 60, ..Growing::new(1, 1000) };
    let stuck = engine.submit(Request { constraint: Some(Arc::new(stuck)), ..request(&[1], 50) }).unwrap();
    let good = engine.submit(request(&[1], 50)).unwrap();
    let events = drain(&mut engine);
    let last = |id| events.iter().rev().find(|e| e.request == id).unwrap().kind.clone();
    let error = |error: Error| EventKind::Failed(Failure::Request(error));
    assert_eq!(last(broken), error(ConstraintError("broken".into()).into()));
    assert_eq!(events.iter().filter(|e| e.request == broken).count(), 4);
    assert_eq!(last(panics), error(ConstraintError("it panicked".into()).into()));
    assert_eq!(last(stuck), error(SampleError::NothingLeft.into()));
    assert!(matches!(last(good), EventKind::Finished { reason: Finish::Length, .. }));
}

#[test]
fn thinking_ends_when_its_budget_does_and_the_constraint_waits_for_it() {
    let thinking = |start, budget| Some(Thinking { start, end: vec![7, 8, 9], budget });
    let constraint: Option<Arc<dyn Grammar>> = Some(Arc::new(Growing::new(2, 4)));
    let mut open = Request { thinking: thinking(None, Some(20)), eos: vec![3], constraint, ..request(&[1, 2], 300) };
    open.sampling.logit_bias = [(9, -100.0)].into();
    let (tokens, _) = &alone(&open, 0)[0];
    let end = tokens.windows(3).position(|w| w == [7, 8, 9]).unwrap();
    assert!((17..=20).contains(&end), "{tokens:?}");
    assert!(!tokens[..end].contains(&3), "what must keep to a constraint does not stop thinking and all");
    assert!(tokens[..end].iter().any(|&id| id > 20), "the constraint was applied to the thinking");
    assert!(tokens[end + 3..].is_sorted() && tokens[end + 3] <= 2, "{tokens:?}");
    assert_eq!(*tokens, alone(&open, 8)[0].0);

    // Whether it thinks at all is the model's choice.
    let mut choice = Request { thinking: thinking(Some(40), Some(5)), ..open.clone() };
    choice.sampling.logit_bias = [(9, -100.0), (40, 100.0)].into();
    let (tokens, _) = &alone(&choice, 0)[0];
    assert_eq!(tokens[0], 40);
    assert_eq!(tokens.windows(3).position(|w| w == [7, 8, 9]), Some(6), "{tokens:?}");
    choice.sampling.logit_bias = [(40, -100.0)].into();
    let (tokens, _) = &alone(&choice, 0)[0];
    assert!(tokens.is_sorted() && tokens[0] <= 2, "{tokens:?}");

    // Without a budget or a constraint it ends by itself.
    let free = Request { constraint: None, thinking: thinking(None, None), ..open.clone() };
    let plain = Request { thinking: None, ..free.clone() };
    assert_eq!(alone(&free, 0)[0].0, alone(&plain, 0)[0].0);
    let endless = Request { thinking: Some(Thinking { start: None, end: vec![], budget: Some(1) }), ..open };
    assert_eq!(engine(0).submit(endless).unwrap_err(), Error::EndlessThinking.into());
}

#[test]
fn an_answer_has_its_least_length_and_only_allowed_tokens() {
    let mut request = Request { eos: (0..40).collect(), ..request(&[1, 2, 3], 60) };
    assert!(alone(&request, 0)[0].0.len() < 20);
    request.sampling.min_tokens = 20;
    let tokens = &alone(&request, 0)[0].0;
    assert!((20..60).contains(&tokens.len()) && tokens.iter().all(|&id| id >= 40), "{tokens:?}");
    request.sampling.min_tokens = 0;
    request.sampling.allowed_token_ids = vec![41, 45, 48];
    let (tokens, _) = &alone(&request, 0)[0];
    assert!(tokens.len() == 60 && tokens.iter().all(|id| [41, 45, 48].contains(id)), "{tokens:?}");
    request.sampling.min_tokens = 61;
    assert!(matches!(engine(0).submit(request), Err(Failure::Request(Error::Params(_)))));
}

#[test]
fn continuations_are_scored_from_one_prompt() {
    let toy = Toy::new(CAPACITY);
    let log = toy.log();
    let options = EngineOptions { recurrent: true, sequences: Some(3), outputs: 32, ..EngineOptions::default() };
    let mut recurrent = Engine::new(Box::new(toy), options);
    for engine in [&mut recurrent, &mut engine(4)] {
        let prompt: Vec<u32> = (0..100).map(|i| i * 3 % 50).collect();
        let continuations: Vec<Vec<u32>> = (1..8)
            .map(|length| (0..length * length).map(|i| (i * 7 + length) % 50).collect())
            .chain([vec![4]])
            .collect();
        let mut request = Request { task: Task::Score(continuations.clone()), ..request(&prompt, 1) };
        request.sampling.logprobs = Some(2);
        engine.submit(request.clone()).unwrap();
        let events = drain(engine);
        let sampler = Sampler::new(&SamplingParams::default(), 50).unwrap();
        for (answer, continuation) in (0..).zip(&continuations) {
            let found = events.iter().find_map(|e| match &e.kind {
                EventKind::Scored(tokens) if e.answer == answer => Some(tokens),
                _ => None,
            });
            let mut text = prompt.clone();
            let mut expected = Vec::new();
            for &id in continuation {
                expected.push(sampler.score(&logits(&text, 50), id, 2).unwrap());
                text.push(id);
            }
            assert_eq!(found, Some(&expected), "continuation {answer}");
        }
        let empty = Request { task: Task::Score(vec![vec![1], vec![]]), ..request.clone() };
        assert_eq!(engine.submit(empty).unwrap_err(), Error::EmptyContinuation { index: 1 }.into());
        let long = Request { task: Task::Score(vec![vec![1; 401]]), ..request.clone() };
        assert!(matches!(engine.submit(long), Err(Failure::Request(Error::PromptTooLong { tokens: 500, .. }))));
        let vector = Request { task: Task::Embed, ..request };
        assert!(matches!(engine.submit(vector), Err(Failure::Task { .. })));
    }
    let rows: usize = log.lock().unwrap().iter().sum();
    let continued: usize = (1..8).map(|n| n * n - 1).sum();
    assert!((100 + continued..=2 * (100 + continued)).contains(&rows), "{rows} rows");
}

#[test]
fn beams_find_the_likeliest_answers() {
    let sampler = Sampler::new(&SamplingParams::default(), 50).unwrap();
    let logprob = |text: &[u32], id: u32| f64::from(sampler.score(&logits(text, 50), id, 0).unwrap().logprob.unwrap());
    // Wide enough to lose nothing in two tokens: the best of all 50 × 50.
    let mut all: Vec<(f64, Vec<u32>)> = Vec::new();
    for a in 0..50 {
        for b in 0..50 {
            all.push((logprob(&[4, 5], a) + logprob(&[4, 5, a], b), vec![a, b]));
        }
    }
    all.sort_by(|x, y| y.0.total_cmp(&x.0));
    let params = BeamParams { width: 25, length_penalty: 1.0, early_stopping: false };
    let mut wide = Engine::new(
        Box::new(Toy::new(Capacity { states: 0, ..CAPACITY })),
        EngineOptions { outputs: 32, ..EngineOptions::default() },
    );
    let found = wide.beam_search(request(&[4, 5], 2), params).unwrap();
    assert_eq!(found.len(), 25);
    for (hypothesis, (sum, tokens)) in found.iter().zip(&all).take(5) {
        assert_eq!(hypothesis.tokens, *tokens);
        assert!((hypothesis.logprob - sum).abs() < 1e-5 && (hypothesis.score - sum / 2.0).abs() < 1e-5);
    }
    // Ends count, on a thread as well.
    let ending = Request { eos: vec![found[0].tokens[1]], ..request(&[4, 5], 6) };
    let params = BeamParams { width: 4, length_penalty: 0.0, early_stopping: false };
    let alone = engine(0).beam_search(ending.clone(), params).unwrap();
    assert_eq!(engine(0).spawn(4).unwrap().beam_search(ending.clone(), params).unwrap(), alone);
    assert!(alone[0].end.is_some() && alone.iter().all(|h| h.logprob <= alone[0].logprob), "{alone:?}");
    let token = |logprob| Token { id: 1, logprob: Some(logprob), top: vec![] };
    let answers = [vec![token(-2.0)], vec![], vec![token(-1.0), token(-2.0), token(-1.0)], vec![token(-1.5); 2]];
    assert_eq!(best_of(&answers, 3), [2, 3, 0]);
    let none = BeamParams { width: 0, ..params };
    assert!(matches!(engine(0).beam_search(ending, none), Err(Failure::Answers { .. })));
}
