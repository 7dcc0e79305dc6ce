//! At GPT-2's size, where blocks fill a device and a kernel may begin while
//! those before it run: what comes too early shows there, if anywhere.

use candle_core::Tensor;
use gpt2_engine::model::{
    Batch, Config, CudaGpt2, Dtype, Gpt2, KvCache, LogitRows, ModelError, Pick, Recorder, Wish,
};

use super::fixture::largest_difference;
use super::sampling::{Chosen, outcome};
use super::{mean_difference, on_cpu, on_gpu, whole};

/// Looks at everything, so that the host copies and waits after each half of a
/// layer, and no step is recorded.
struct Watcher;

impl Recorder for Watcher {
    fn hidden(&mut self, _layer: usize, _x: &Tensor) -> Result<(), ModelError> {
        Ok(())
    }
}

/// How the steps are computed.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// As always: recorded, each kernel launched before the last one ends.
    Fast,
    /// Under a [`Watcher`].
    Watched,
}

fn random(config: &str) -> Gpt2 {
    let config = Config::from_json(config.as_bytes(), "random").unwrap();
    Gpt2::random(config, Dtype::F32, 7).unwrap()
}

fn ids(model: &Gpt2, count: usize) -> Vec<u32> {
    let vocab = model.config().vocab_size;
    (0..count).map(|i| (i * 7919 % vocab) as u32).collect()
}

/// Of each step what came of its rows: each sequence goes on with its likeliest
/// token. Every eighth step brings the logits.
fn decode(model: &CudaGpt2, count: usize, steps: usize, way: Way) -> Vec<Vec<Chosen>> {
    let room = (steps + 8).next_multiple_of(KvCache::BLOCK);
    let mut cache = model.cache(count * room).unwrap();
    let mut leases: Vec<_> = (0..count).map(|_| cache.lease()).collect();
    let vocab = model.config().vocab_size;
    let token = |i: usize| (i * 7919 % vocab) as u32;
    // Prompts of their own, of one to seven tokens.
    let mut prompts = Batch::new();
    for (i, lease) in leases.iter_mut().enumerate() {
        let prompt: Vec<u32> = (i..=i + i % 7).map(token).collect();
        lease.grow(prompt.len()).unwrap();
        prompts.push(&prompt, lease, LogitRows::None).unwrap();
        lease.commit(prompt.len());
    }
    model.forward(&prompts, &mut cache).unwrap();
    let likeliest = Wish::Pick(Pick {
        columns: vocab,
        draw: None,
    });
    let mut next: Vec<u32> = (0..count).map(token).collect();
    let mut all = Vec::new();
    for step in 1..=steps {
        let wish = match step % 8 {
            0 => Wish::Logits,
            _ => likeliest,
        };
        let mut batch = Batch::new();
        for (lease, token) in leases.iter_mut().zip(&next) {
            lease.grow(1).unwrap();
            batch.push_wishes(&[*token], lease, &[wish]).unwrap();
            lease.commit(1);
        }
        let logits = match way {
            Way::Fast => model.forward(&batch, &mut cache),
            Way::Watched => model.forward_recorded(&batch, &mut cache, &mut Watcher),
        };
        let found = outcome(logits.unwrap());
        next = found.iter().map(token_of).collect();
        all.push(found);
    }
    all
}

fn token_of(chosen: &Chosen) -> u32 {
    match chosen {
        Ok((token, _)) => *token,
        Err(logits) => {
            let ids = 0..logits.len();
            ids.max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
                .unwrap() as u32
        }
    }
}

/// How far two outcomes of a row are from each other.
fn difference(a: &Chosen, b: &Chosen) -> f64 {
    match (a, b) {
        (Err(a), Err(b)) => largest_difference(a, b),
        (Ok((_, a)), Ok((_, b))) => f64::from((f32::from_bits(*a) - f32::from_bits(*b)).abs()),
        _ => f64::INFINITY,
    }
}

fn fast_steps_have_the_bits_of_watched_ones(host: &Gpt2, counts: &[usize], steps: usize) {
    let model = on_gpu(host, Dtype::Bf16);
    for &count in counts {
        let fast = decode(&model, count, steps, Way::Fast);
        let watched = decode(&model, count, steps, Way::Watched);
        // All of them first, so that it is seen how many are wrong.
        let (mut wrong, mut first, mut worst) = (0, None, 0.0_f64);
        for (step, (fast, watched)) in fast.iter().zip(&watched).enumerate() {
            for (row, (fast, watched)) in fast.iter().zip(watched).enumerate() {
                if fast != watched {
                    wrong += 1;
                    first = first.or(Some((step, row)));
                    worst = worst.max(difference(fast, watched));
                }
            }
        }
        println!("{steps} steps of {count}: {wrong} rows differ, by {worst:.1e} at most");
        assert!(
            first.is_none(),
            "of {count} rows the first (step, row) is {first:?}"
        );
    }
}

fn a_prompt_is_near_the_cpus(host: &Gpt2, len: usize) {
    let ids = ids(host, len);
    let exact = on_cpu(host, &ids);
    let on_gpu = whole(&on_gpu(host, Dtype::Bf16), &ids);
    let bf16 = mean_difference(&exact, &on_gpu);
    let rounded = host.repacked(Dtype::Bf16, |_| {}).unwrap();
    let cpus = mean_difference(&exact, &on_cpu(&rounded, &ids));
    let rows = exact.iter().zip(&on_gpu);
    let worst = rows.map(|(exact, found)| largest_difference(exact, found));
    let worst = worst.fold(0.0, f64::max);
    println!("{len} tokens: bf16 {bf16:.1e}, on the CPU {cpus:.1e}; logits {worst:.1e} at most");
    assert!(bf16 < 2.0 * cpus, "{bf16}");
}

const SMALL: &str = r#"{"n_layer": 2, "n_embd": 96, "n_head": 3, "vocab_size": 333,
    "n_positions": 96}"#;

const GPT2: &str = r#"{"n_layer": 12, "n_embd": 768, "n_head": 12, "vocab_size": 50257,
    "n_positions": 1024}"#;

#[test]
fn of_a_small_model_fast_steps_have_the_bits_of_watched_ones() {
    fast_steps_have_the_bits_of_watched_ones(&random(SMALL), &[1, 5, 17], 9);
}

#[test]
fn of_a_small_model_a_prompt_is_near_the_cpus() {
    a_prompt_is_near_the_cpus(&random(SMALL), 60);
}

#[test]
#[ignore = "takes hours without a GPU; benches/cuda/run.sh runs it on one"]
fn of_gpt2_fast_steps_have_the_bits_of_watched_ones() {
    fast_steps_have_the_bits_of_watched_ones(&random(GPT2), &[1, 5, 17, 200], 64);
}

#[test]
#[ignore = "takes hours without a GPU; benches/cuda/run.sh runs it on one"]
fn of_gpt2_a_prompt_is_near_the_cpus() {
    a_prompt_is_near_the_cpus(&random(GPT2), 600);
}
