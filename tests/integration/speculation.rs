//! Guessing ahead changes nothing but the time.

use gpt2_engine::engine::{Engine, Speculation};
use gpt2_engine::model::{Dtype, ModelFiles};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::fixture::root;
use crate::generation::{answer, request};

fn engine(files: &ModelFiles, dtype: Dtype, speculation: Speculation) -> Engine {
    let builder = Engine::builder().model(files.clone()).dtype(dtype);
    builder.speculation(speculation).build().unwrap()
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
