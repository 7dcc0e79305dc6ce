//! Guessing ahead changes nothing but the time.

use gpt2_engine::engine::{
    Engine, Event, FinishReason, Request, SamplingOptions, SamplingParams, Speculation, Strategy,
};
use gpt2_engine::model::{Dtype, ModelFiles};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::fixture::root;

/// Ids, bits of the log probabilities, text and why it ended.
type Answer = (Vec<u32>, Vec<u32>, String, FinishReason);

fn engine(files: &ModelFiles, dtype: Dtype, speculation: Speculation) -> Engine {
    let builder = Engine::builder().model(files.clone()).dtype(dtype);
    builder.speculation(speculation).build().unwrap()
}

fn answer(engine: &Engine, request: Request) -> Answer {
    let mut events = engine.submit(request).unwrap();
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
fn request(rng: &mut StdRng, vocab: u32, most: u64) -> Request {
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

/// Compares `count` generations; returns how many tokens they had.
fn compare(files: &ModelFiles, dtype: Dtype, count: u64) -> usize {
    let with = engine(files, dtype, Speculation::PromptLookup);
    let without = engine(files, dtype, Speculation::Off);
    let config = with.config();
    let (vocab, most) = (config.vocab_size as u32, config.n_positions as u64 + 9);
    let mut tokens = 0;
    for seed in 0..count {
        let request = request(&mut StdRng::seed_from_u64(seed), vocab, most);
        let found = answer(&with, request.clone());
        tokens += found.0.len();
        assert_eq!(found, answer(&without, request), "{dtype:?}, seed {seed}");
    }
    tokens
}

#[test]
fn a_thousand_generations_are_the_same_with_and_without_it() {
    let small = ModelFiles::from_dir(&root().join("bpe-json")).unwrap();
    let mut tokens = 0;
    for dtype in Dtype::ALL {
        tokens += compare(&small, dtype, 240);
        tokens += compare(&ModelFiles::demo(), dtype, 10);
    }
    println!("1000 generations, {tokens} tokens, no difference");
    assert!(tokens > 20_000, "{tokens} tokens are too few to tell");
}
