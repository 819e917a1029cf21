use crate::toy::{Toy, logits};
use allod_engine::{
    Cancel, Error, Event, Finish, Outputs, PagePool, Request, Rows, SampleError, Sampler, SamplingParams, Sequence,
    Session, Stats, forward,
};
use allod_plan::{Backend, Capacity};
use proptest::prelude::*;

const CAPACITY: Capacity = Capacity { width: 50, rows: 7, pages: 8, states: 0, context: 100 };

fn request(prompt: &[u32], max_tokens: u32) -> Request {
    let sampling = SamplingParams { max_tokens: Some(max_tokens), seed: Some(5), ..Default::default() };
    Request { prompt: prompt.to_vec(), sampling, ..Default::default() }
}

/// Tokens, reason and statistics of an answer.
fn answer(session: &mut Session, request: Request) -> (Vec<u32>, Finish, Stats) {
    let mut ids = Vec::new();
    for event in session.generate(request).unwrap() {
        match event.unwrap() {
            Event::Token(token) => ids.push(token.id),
            Event::Prompt { done, total } => assert!(done < total),
            Event::Finished { reason, stats } => return (ids, reason, stats),
        }
    }
    panic!("the answer did not finish");
}

/// What the toy says without any machinery.
fn expected(prompt: &[u32], count: usize) -> Vec<u32> {
    let params = SamplingParams { seed: Some(5), ..Default::default() };
    let mut sampler = Sampler::new(&params, CAPACITY.width).unwrap();
    let mut ids = prompt.to_vec();
    for _ in 0..count {
        ids.push(sampler.choose(&logits(&ids, CAPACITY.width), &ids).unwrap().id);
    }
    ids.split_off(prompt.len())
}

#[test]
fn a_prompt_is_fed_in_chunks_and_continued() {
    let toy = Toy::new(CAPACITY);
    let log = toy.log();
    let mut session = Session::new(Box::new(toy), false);
    let prompt: Vec<u32> = (0..20).collect();
    let (ids, reason, stats) = answer(&mut session, request(&prompt, 30));
    assert_eq!(ids, expected(&prompt, 30));
    assert_eq!(reason, Finish::Length);
    assert_eq!((stats.prompt_tokens, stats.cached_tokens, stats.generated_tokens), (20, 0, 30));
    assert!(stats.first_token <= stats.total);
    assert_eq!(log.lock().unwrap()[..4], [7, 7, 6, 1]);
    assert_eq!(log.lock().unwrap().iter().sum::<usize>(), 49, "the last token was never needed as input");
    assert_eq!(session.cached_tokens(), 48);
}

#[test]
fn stop_tokens_end_the_answer_and_are_not_part_of_it() {
    let mut session = Session::new(Box::new(Toy::new(CAPACITY)), false);
    let ids = expected(&[1, 2, 3], 6);
    let cut = ids.iter().position(|id| *id == ids[5]).unwrap();
    let stop = Request { eos: vec![ids[5]], ..request(&[1, 2, 3], 30) };
    assert_eq!(answer(&mut session, stop.clone()).0, ids[..cut]);
    let mut on = stop.clone();
    on.sampling.ignore_eos = true;
    assert_eq!(answer(&mut session, on.clone()).0.len(), 30);
    on.sampling.stop_token_ids = vec![ids[5]];
    assert_eq!(answer(&mut session, on).1, Finish::Stop(ids[5]));
}

#[test]
fn nothing_is_cut_silently() {
    let mut session = Session::new(Box::new(Toy::new(CAPACITY)), false);
    let (ids, reason, _) = answer(&mut session, request(&[1; 90], 500));
    assert_eq!((ids.len(), reason), (10, Finish::ContextFull));
    let long = session.generate(request(&[1; 100], 5)).err().unwrap();
    assert_eq!(long, Error::PromptTooLong { tokens: 100, context: 100 });
    assert_eq!(session.generate(request(&[], 5)).err(), Some(Error::EmptyPrompt));
    let unknown = Error::UnknownToken { id: 50, position: 1, vocabulary: 50 };
    assert_eq!(session.generate(request(&[49, 50], 5)).err(), Some(unknown));
    let absurd = Request { sampling: SamplingParams { top_p: 7.0, ..Default::default() }, ..request(&[1], 5) };
    assert!(matches!(session.generate(absurd).err(), Some(Error::Params(_))));
}

#[test]
fn cancelling_ends_the_answer_and_the_session_goes_on() {
    let mut session = Session::new(Box::new(Toy::new(CAPACITY)), false);
    let cancel = Cancel::default();
    let mut generation = session.generate(Request { cancel: cancel.clone(), ..request(&[3, 4], 50) }).unwrap();
    assert!(matches!(generation.next(), Some(Ok(Event::Token(_)))));
    cancel.cancel();
    assert!(matches!(generation.next(), Some(Ok(Event::Finished { reason: Finish::Cancelled, .. }))));
    assert!(generation.next().is_none());
    drop(generation);
    assert_eq!(answer(&mut session, request(&[3, 4], 9)).0, expected(&[3, 4], 9));
}

#[test]
fn broken_logits_end_this_answer_only() {
    let mut toy = Toy::new(CAPACITY);
    toy.breaks_at = 5;
    let mut session = Session::new(Box::new(toy), false);
    let events: Vec<_> = session.generate(request(&[1, 2, 3], 50)).unwrap().collect();
    assert_eq!(events.len(), 4);
    assert!(matches!(events[3], Err(Error::Sample(SampleError::NotFinite { .. }))));
    assert_eq!(answer(&mut session, request(&[8], 3)).0, expected(&[8], 3));
}

#[test]
fn a_recurrent_model_goes_on_from_its_checkpoint() {
    let toy = Toy::new(Capacity { states: 3, ..CAPACITY });
    let log = toy.log();
    let mut session = Session::new(Box::new(toy), true);
    let prompt: Vec<u32> = (0..20).collect();
    let first = answer(&mut session, request(&prompt, 5)).0;
    assert_eq!(first, expected(&prompt, 5));
    // Another try, and another question after the same beginning, go on from the end of its last page.
    let (again, _, stats) = answer(&mut session, request(&prompt, 5));
    assert_eq!((again, stats.cached_tokens), (first, 16));
    log.lock().unwrap().clear();
    let edited = [&prompt[..19], &[40, 41, 42]].concat();
    assert_eq!(answer(&mut session, request(&edited, 1)).0, expected(&edited, 1));
    assert_eq!(*log.lock().unwrap(), [6]);
}

#[test]
fn a_full_pool_is_an_error_and_changes_nothing() {
    let mut toy = Toy::new(CAPACITY);
    let mut pool = PagePool::new(2);
    let (mut a, mut b) = (Sequence::new(0), Sequence::new(0));
    let mut run = |sequence: &mut Sequence, tokens: &[u32], pool: &mut PagePool| {
        let rows = Rows { sequence, tokens, outputs: Outputs::Last };
        forward(&mut toy, pool, &mut [rows]).map(<[f32]>::to_vec)
    };
    run(&mut a, &[1, 2], &mut pool).unwrap();
    run(&mut b, &[3], &mut pool).unwrap();
    for _ in 0..2 {
        run(&mut b, &[3; 7], &mut pool).unwrap();
    }
    let full = run(&mut b, &[3; 2], &mut pool);
    assert_eq!(full, Err(Error::NoPages { wanted: 1, free: 0, total: 2 }));
    assert_eq!(b.tokens().len(), 15);
    a.truncate(0, &mut pool);
    assert_eq!(run(&mut b, &[3; 2], &mut pool).unwrap(), logits(&[3; 17], CAPACITY.width));
    b.truncate(0, &mut pool);
    assert_eq!(pool.free(), 2);
}

#[test]
fn sequences_of_one_step_do_not_see_each_other() {
    let mut toy = Toy::new(CAPACITY);
    let mut pool = PagePool::new(toy.capacity().pages);
    let (mut a, mut b) = (Sequence::new(0), Sequence::new(0));
    let results = forward(
        &mut toy,
        &mut pool,
        &mut [
            Rows { sequence: &mut a, tokens: &[1, 2, 3], outputs: Outputs::All },
            Rows { sequence: &mut b, tokens: &[9, 8], outputs: Outputs::Last },
        ],
    );
    let wanted: Vec<f32> = [&[1][..], &[1, 2], &[1, 2, 3], &[9, 8]].iter().flat_map(|t| logits(t, 50)).collect();
    assert_eq!(results.unwrap(), wanted);
}

proptest! {
    /// Whatever was asked before, an answer is what a fresh session would say.
    #[test]
    fn the_cache_changes_no_answer(
        prompts in prop::collection::vec(prop::collection::vec(0u32..3, 1..60), 1..8),
        states in 0usize..4,
        rows in 1usize..20,
    ) {
        let mut session = Session::new(Box::new(Toy::new(Capacity { states, rows, ..CAPACITY })), states > 0);
        for prompt in prompts {
            prop_assert_eq!(answer(&mut session, request(&prompt, 8)).0, expected(&prompt, 8));
        }
    }
}
