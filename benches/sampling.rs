//! Milliseconds per row of sampling a 50,257-token vocabulary, per strategy:
//! `cargo bench --bench sampling`.

use std::time::Instant;

use gpt2_engine::engine::{Sampler, SamplingOptions, SamplingParams, Strategy};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const VOCAB: usize = 50_257;
const ROWS: usize = 301;

fn main() {
    let mut rng = StdRng::seed_from_u64(1);
    let logits: Vec<f32> = (0..VOCAB)
        .map(|_| (0..4).map(|_| rng.random_range(-2.5..2.5f32)).sum())
        .collect();
    let options = |strategy| SamplingOptions {
        strategy,
        seed: Some(1),
        ..Default::default()
    };
    let cases = [
        ("greedy", options(Strategy::Greedy)),
        ("top-k 50", options(Strategy::TopK)),
        ("top-p 1", options(Strategy::TopP)),
        (
            "top-p 0.9",
            SamplingOptions {
                top_p: Some(0.9),
                ..options(Strategy::TopP)
            },
        ),
        (
            "top-p 0.99",
            SamplingOptions {
                top_p: Some(0.99),
                ..options(Strategy::TopP)
            },
        ),
        (
            "min-p 0.05",
            SamplingOptions {
                min_p: Some(0.05),
                ..options(Strategy::TopP)
            },
        ),
        (
            "all of them",
            SamplingOptions {
                k: Some(1000),
                top_p: Some(0.95),
                min_p: Some(0.01),
                temperature: Some(0.8),
                repetition_penalty: Some(1.1),
                ..options(Strategy::TopK)
            },
        ),
    ];
    for (name, options) in cases {
        let params = match SamplingParams::new(options) {
            Ok(params) => params,
            Err(error) => panic!("{name}: {error}"),
        };
        let mut sampler = Sampler::new(params, &[1, 2, 3]);
        let mut times: Vec<f64> = (0..ROWS)
            .map(|_| {
                let mut row = logits.clone();
                let started = Instant::now();
                std::hint::black_box(sampler.choose(&mut row, &[50_256]));
                started.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        times.sort_unstable_by(f64::total_cmp);
        println!("{name:>12}: {:.3} ms (median of {ROWS})", times[ROWS / 2]);
    }
}
