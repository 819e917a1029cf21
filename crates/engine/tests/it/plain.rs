//! What an answer is, by the shortest way: one sequence, one loop, none of the engine.

use allod_engine::engine::{Request, Task, TokenMask};
use allod_engine::{Finish, Outputs, PagePool, Rows, Sampler, SamplingParams, Sequence, Token, forward};
use allod_plan::Backend;

/// What came of an answer.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) tokens: Vec<Token>,
    pub(crate) prompt: Option<Vec<Token>>,
    pub(crate) finish: Option<Finish>,
}

/// Answer `answer` of `request`, from an empty memory.
pub(crate) fn plain(backend: &mut dyn Backend, request: &Request, answer: u32, context: usize) -> Outcome {
    assert_eq!(request.task, Task::Generate);
    let vocabulary = backend.capacity().width;
    backend.clear_state(0);
    let mut pool = PagePool::new(backend.capacity().pages);
    let mut sequence = Sequence::new(0).through(request.adapter.map_or(0, |id| id.number()));
    let seed = request.sampling.seed.map(|seed| seed + u64::from(answer));
    let sampling = SamplingParams { seed, ..request.sampling.clone() };
    let mut sampler = Sampler::new(&sampling, vocabulary).unwrap();
    let mut constraint = request.constraint.as_ref().map(|grammar| grammar.start().unwrap());
    let mut tokens = request.ids.clone();
    let mut outcome = Outcome::default();
    let outputs = Outputs::All;
    let rows = Rows { sequence: &mut sequence, tokens: &request.ids, outputs };
    let all = forward(backend, &mut pool, &mut [rows]).unwrap();
    if let Some(count) = request.prompt_logprobs.filter(|_| answer == 0) {
        let rows = all.chunks(vocabulary).zip(&tokens[1..]);
        outcome.prompt = Some(rows.map(|(row, &id)| sampler.score(row, id, count).unwrap()).collect());
    }
    let mut row = all[all.len() - vocabulary..].to_vec();
    let most = sampling.max_tokens.map_or(usize::MAX, |most| most as usize);
    loop {
        let token = match &mut constraint {
            None => sampler.choose(&row, &tokens).unwrap(),
            Some(constraint) => {
                let mut mask = TokenMask::none(vocabulary);
                constraint.mask(&mut mask).unwrap();
                let may_end = constraint.may_end();
                request.eos.iter().for_each(|&id| mask.set(id, may_end));
                sampler.choose_among(&row, &tokens, Some(&mask)).unwrap()
            }
        };
        let id = token.id;
        if request.eos.contains(&id) {
            outcome.finish = Some(Finish::Stop(id));
            return outcome;
        }
        tokens.push(id);
        outcome.tokens.push(token);
        if let Some(constraint) = &mut constraint {
            constraint.accept(id).unwrap();
            if constraint.is_complete() {
                outcome.finish = Some(Finish::Complete);
                return outcome;
            }
        }
        if outcome.tokens.len() >= most || tokens.len() >= context {
            let full = outcome.tokens.len() < most;
            outcome.finish = Some(if full { Finish::ContextFull } else { Finish::Length });
            return outcome;
        }
        let rows = Rows { sequence: &mut sequence, tokens: &[id], outputs };
        row = forward(backend, &mut pool, &mut [rows]).unwrap().to_vec();
    }
}
