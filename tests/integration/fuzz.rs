//! The fuzz targets over mutated seeds, for toolchains without a fuzzer.

#[path = "../../fuzz/targets.rs"]
mod targets;

use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Pieces that parsers stumble over.
const PIECES: &[&str] = &[
    "\"",
    "\\",
    "\\ud800",
    "\\u0000",
    "{",
    "}",
    "[",
    "]",
    "[[[[[[[[",
    ",",
    ":",
    "null",
    "true",
    "-1",
    "1e39",
    "1e-46",
    "1e999",
    "0",
    "4294967296",
    "18446744073709551616",
    "-9223372036854775809",
    "\u{0}",
    "\u{feff}",
    "\u{10ffff}",
    "data: [DONE]\n\n",
    "\"prompt\":",
    "\"a\":1,",
];

fn mutated(seeds: &[Vec<u8>], random: &mut StdRng) -> Vec<u8> {
    let mut data = seeds[random.random_range(0..seeds.len())].clone();
    for _ in 0..random.random_range(1..6) {
        let at = random.random_range(0..=data.len());
        let end = (at + random.random_range(0..16)).min(data.len());
        match random.random_range(0..6) {
            0 if at < data.len() => data[at] = random.random(),
            1 if at < data.len() => data[at] ^= 1 << random.random_range(0..8),
            2 => drop(data.drain(at..end)),
            3 => {
                let copy = data[at..end].to_vec();
                data.splice(at..at, copy);
            }
            4 => {
                let piece = PIECES[random.random_range(0..PIECES.len())];
                data.splice(at..end, piece.bytes());
            }
            _ => data.truncate(at),
        }
    }
    data
}

/// Runs a target over `rounds` mutations; the seeds themselves are accepted,
/// so that the mutations start from something.
fn run(name: &str, rounds: u64, target: fn(&[u8]) -> bool) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(name);
    let files = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    let seeds: Vec<_> = files
        .iter()
        .map(|file| std::fs::read(file).unwrap())
        .collect();
    for (file, seed) in files.iter().zip(&seeds) {
        assert!(target(seed), "{} is refused", file.display());
    }
    let asked = std::env::var("FUZZ_ROUNDS")
        .ok()
        .and_then(|n| n.parse().ok());
    for round in 0..asked.unwrap_or(rounds) {
        let mut random = StdRng::seed_from_u64(round);
        let data = mutated(&seeds, &mut random);
        let result = std::panic::catch_unwind(|| target(&data));
        assert!(
            result.is_ok(),
            "{name}, round {round}: {}",
            String::from_utf8_lossy(&data)
        );
    }
}

#[test]
fn requests() {
    run("request", 5000, targets::request);
}

#[test]
fn server_sent_events() {
    run("sse", 5000, targets::sse);
}

#[test]
fn configurations() {
    run("config", 5000, targets::config);
}

#[test]
fn checkpoints() {
    run("checkpoint", 500, targets::checkpoint);
}

#[test]
fn tokenizers() {
    run("tokenizer", 300, targets::tokenizer);
}
