//! Random requests, and answers that can be compared.

use gpt2_engine::engine::{
    Engine, Event, Events, FinishReason, Request, SamplingOptions, SamplingParams, Strategy,
};
use rand::Rng;
use rand::rngs::StdRng;

/// Ids, bits of the log probabilities, text and why it ended.
pub type Answer = (Vec<u32>, Vec<u32>, String, FinishReason);

pub fn answer(engine: &Engine, request: Request) -> Answer {
    collect(engine.submit(request).unwrap())
}

/// The answer that these events are.
pub fn collect(mut events: Events) -> Answer {
    let (mut ids, mut logprobs, mut text) = (Vec::new(), Vec::new(), String::new());
    loop {
        match events.blocking_next().unwrap() {
            Event::Token(token) => {
                assert_eq!(token.index, ids.len());
                ids.push(token.token_id);
                logprobs.push(token.logprob.to_bits());
                text += &token.text;
            }
            Event::Finished(end) => {
                assert_eq!(end.usage.completion_tokens, ids.len());
                return (ids, logprobs, text, end.finish_reason);
            }
            Event::Failed(error) => panic!("{error}"),
        }
    }
}

/// A request whose prompt mostly repeats itself, so that there is much to
/// guess, rightly and wrongly.
pub fn request(rng: &mut StdRng, vocab: u32, most: u64) -> Request {
    let phrase: Vec<u32> = (0..rng.random_range(1..6))
        .map(|_| rng.random_range(0..vocab))
        .collect();
    let mut prompt: Vec<u32> = (0..rng.random_range(1..4))
        .flat_map(|_| phrase.clone())
        .collect();
    prompt.push(rng.random_range(0..vocab));
    prompt.extend_from_slice(&phrase);
    let strategy = [Strategy::Greedy, Strategy::TopK, Strategy::TopP][rng.random_range(0..3)];
    let sampled = strategy != Strategy::Greedy;
    let options = SamplingOptions {
        strategy,
        k: (strategy == Strategy::TopK).then(|| rng.random_range(1..5)),
        temperature: sampled.then(|| rng.random_range(0.1..1.5)),
        top_p: (strategy == Strategy::TopP).then(|| rng.random_range(0.1..1.0)),
        seed: Some(rng.random()),
        repetition_penalty: rng.random_bool(0.2).then_some(1.1),
        min_tokens: rng.random_range(0..10),
        max_tokens: Some(rng.random_range(1..most)),
        stop: if rng.random_bool(0.2) {
            vec!["e ".to_owned()]
        } else {
            Vec::new()
        },
        ..Default::default()
    };
    Request::new(prompt, SamplingParams::new(options).unwrap())
}
