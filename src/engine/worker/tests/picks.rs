//! Guesses ahead on a model that chooses tokens itself, as a GPU does.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::engine::Strategy;
use crate::model::{Draw, Pick, Picked, Wish};

/// After every token the next number is likely, and two others are possible.
fn likely(token: u32) -> [f32; 16] {
    let mut logits = [-30.0; 16];
    logits[token as usize % 3] = 0.5;
    logits[(token as usize + 1) % 3] = 2.0;
    logits[(token as usize + 2) % 3] = 0.0;
    logits
}

/// A log probability that no sampler finds.
const MARK: f32 = -77.0;

fn choose(logits: &[f32], pick: &Pick) -> Picked {
    let Some(Draw { u, .. }) = pick.draw else {
        let likeliest = (0..16).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
        let id = likeliest.unwrap() as u32;
        return Picked { id, logprob: MARK };
    };
    let total: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
    let mut left = u * total;
    let drawn = logits.iter().position(|&l| {
        left -= f64::from(l).exp();
        left < 0.0
    });
    let id = drawn.unwrap_or(15) as u32;
    Picked { id, logprob: MARK }
}

fn chosen_or_whole(batch: &Batch) -> Result<Logits, ModelError> {
    let (mut values, mut picked) = (Vec::new(), Vec::new());
    for (&row, wish) in batch.logit_rows().iter().zip(batch.wishes()) {
        let logits = likely(batch.tokens()[row as usize]);
        picked.push(match wish {
            Wish::Pick(pick) => Some(choose(&logits, pick)),
            Wish::Logits => None,
        });
        if *wish == Wish::Logits {
            values.extend(logits);
        }
    }
    Logits::with_tokens(values, 16, picked)
}

/// Ids and the bits of their log probabilities, and how many steps it took.
fn answer(options: &SamplingOptions, speculation: Speculation) -> (Vec<(u32, u32)>, usize) {
    let steps = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&steps);
    let model = Fake(move |batch: &Batch| {
        counter.fetch_add(1, Ordering::Relaxed);
        chosen_or_whole(batch)
    });
    let fixture = Fixture::with(model, speculation);
    let mut events = fixture.ask(vec![0, 1, 2, 0, 1, 2], options.clone());
    let mut tokens = Vec::new();
    while let Some(Event::Token(token)) = events.blocking_next() {
        tokens.push((token.token_id, token.logprob.to_bits()));
    }
    (tokens, steps.load(Ordering::Relaxed))
}

#[test]
fn guesses_change_no_token_that_the_model_chooses() {
    for seed in 0..20 {
        let sampled = SamplingOptions {
            strategy: Strategy::TopP,
            seed: Some(seed),
            max_tokens: Some(200),
            ..Default::default()
        };
        let greedy = SamplingOptions {
            strategy: Strategy::Greedy,
            ..sampled.clone()
        };
        let late = SamplingOptions {
            min_tokens: 20 + seed,
            ..sampled.clone()
        };
        let with_others = SamplingOptions {
            logprobs: Some(2),
            ..sampled.clone()
        };
        let all = [
            (sampled, 0),
            (greedy, 0),
            (late, 20 + seed as usize),
            (with_others, 200),
        ];
        for (options, whole) in all {
            let (tokens, steps) = answer(&options, Speculation::Off);
            let chosen = |(_, logprob): &&(u32, u32)| *logprob == MARK.to_bits();
            assert_eq!((tokens.len(), steps), (200, 200));
            assert_eq!(tokens.iter().filter(chosen).count(), 200 - whole);
            let (again, fewer) = answer(&options, Speculation::PromptLookup);
            assert_eq!(again, tokens, "{options:?}");
            assert!(fewer < steps, "no guess was right: {options:?}");
        }
    }
}
