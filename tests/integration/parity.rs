//! The engine against transformers, rung by rung: each layer's output, logits,
//! log probabilities, greedy ids, text. Prints the largest differences
//! (`cargo test parity -- --nocapture`).

use candle_core::Tensor;
use gpt2_engine::engine::{
    Engine, Event, Request, SamplingOptions, SamplingParams, Strategy, processed_scores,
};
use gpt2_engine::model::{Batch, KvDtype, LogitRows, ModelError, ModelFiles, Recorder};

use crate::fixture::{self, Fixture, largest_difference, log_softmax};

/// The bound on differences of log probabilities.
const BOUND: f64 = 1e-4;

#[derive(Default)]
struct Layers(Vec<Vec<f32>>);

impl Recorder for Layers {
    fn hidden(&mut self, layer: usize, x: &Tensor) -> Result<(), ModelError> {
        assert_eq!(layer, self.0.len());
        self.0.push(x.flatten_all()?.to_vec1()?);
        Ok(())
    }
}

#[test]
fn every_layer_and_logprob_equals_transformers() {
    let variants = fixture::variants();
    assert!(variants.len() >= 28, "fixtures are missing: {variants:?}");
    let mut worst = (0.0, String::new());
    for name in variants {
        let fixture = Fixture::load(&name);
        let ids = fixture.ids("/input_ids");
        let mut layers = Layers::default();
        let logits = fixture.recorded(&ids, ids.len(), &mut layers);
        let mut deepest: f64 = 0.0;
        for (i, layer) in layers.0.iter().enumerate() {
            let difference = largest_difference(layer, &fixture.tensor(&format!("hidden.{i}")));
            assert!(difference < BOUND, "{name}, layer {i}: {difference:e}");
            deepest = deepest.max(difference);
        }
        let expected = fixture.tensor("logits");
        let mut logprob: f64 = 0.0;
        for (row, expected) in logits.iter().zip(expected.chunks(logits[0].len())) {
            let pairs = log_softmax(row).into_iter().zip(log_softmax(expected));
            logprob = pairs.map(|(a, b)| (a - b).abs()).fold(logprob, f64::max);
        }
        println!("{name:>20}: hidden states {deepest:.1e}, log probabilities {logprob:.1e}");
        assert!(logprob < BOUND, "{name}: {logprob:e}");
        if logprob > worst.0 {
            worst = (logprob, name);
        }
    }
    println!(
        "largest difference of a log probability: {:.1e} ({})",
        worst.0, worst.1
    );
}

#[test]
fn a_wrong_model_is_noticed() {
    let right = Fixture::load("base-prefixed");
    let wrong = Fixture::load("hub-style");
    let ids = right.ids("/input_ids");
    let logits = wrong.logits(&ids, ids.len()).concat();
    assert!(largest_difference(&logits, &right.tensor("logits")) > 0.1);
}

#[test]
fn chunks_and_single_tokens_give_the_same_bits() {
    for name in fixture::variants() {
        let fixture = Fixture::load(&name);
        let ids = fixture.ids("/input_ids");
        let whole = fixture.logits(&ids, ids.len());
        for chunk in [1, 3, 7] {
            assert_eq!(
                fixture.logits(&ids, chunk),
                whole,
                "{name}, chunks of {chunk}"
            );
        }
    }
}

#[test]
fn a_cache_in_bf16_is_near_and_one_in_f32_is_equal() {
    for name in fixture::variants() {
        let mut fixture = Fixture::load(&name);
        let ids = fixture.ids("/input_ids");
        let expected = fixture.logits(&ids, 7).concat();
        fixture.model = fixture.model.with_kv_dtype(KvDtype::Bf16);
        let largest = largest_difference(&fixture.logits(&ids, 7).concat(), &expected);
        println!("{name}: {largest:.1e} with keys and values in bf16");
        assert!(largest > 0.0 && largest < 0.1, "{name}: {largest}");
        fixture.model = fixture.model.with_kv_dtype(KvDtype::F32);
        assert_eq!(fixture.logits(&ids, 7).concat(), expected, "{name}");
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_in_a_batch() {
    let fixture = Fixture::load("long");
    let ids = fixture.ids("/input_ids");
    let alone = fixture.logits(&ids, ids.len());
    let mut cache = fixture.model.cache(6 * 64).unwrap();
    let lens = [40, 1, 17, 33, 5];
    let mut leases: Vec<_> = lens.iter().map(|_| cache.lease()).collect();
    let mut batch = Batch::new();
    for (lease, len) in leases.iter_mut().zip(lens) {
        lease.grow(len).unwrap();
        batch.push(&ids[..len], lease, LogitRows::Last).unwrap();
    }
    let logits = fixture.model.forward(&batch, &mut cache).unwrap();
    for (row, len) in lens.into_iter().enumerate() {
        assert_eq!(logits.row(row), alone[len - 1], "after {len} tokens");
    }
}

#[test]
fn greedy_ids_and_text_equal_transformers() {
    for name in fixture::variants() {
        let fixture = Fixture::load(&name);
        let greedy = &fixture.expected["greedy"];
        let gaps = greedy["gaps"]
            .as_array()
            .unwrap()
            .iter()
            .map(|g| g.as_f64().unwrap());
        // After a near tie the two may rightly part; compare up to there.
        let clear = gaps.take_while(|gap| *gap > 2e-4).count();
        let expected = fixture.ids("/greedy/ids");
        let prompt = fixture.ids("/greedy/prompt_ids");
        let padded = name == "padded-vocab";
        let files = ModelFiles::from_dir(&fixture.dir).unwrap();
        let engine = Engine::builder().model(files).build().unwrap();
        let (ids, text) = generate(&engine, prompt.clone(), expected.len() as u64);
        let upto = clear.min(ids.len());
        greedy_with_the_references_ids(&fixture, &prompt, &expected);
        let beyond = |id: &u32| *id as usize >= engine.tokenizer().unwrap().vocab_size();
        if padded && expected.iter().any(beyond) {
            // transformers knows no tokenizer here and takes padding columns.
            assert!(
                !ids.iter().any(beyond),
                "{name}: a padding column was sampled"
            );
            continue;
        }
        assert_eq!(ids[..upto], expected[..upto], "{name}");
        assert_eq!(ids.len(), expected.len(), "{name}");
        if let Some(whole) = fixture.expected["text"].as_str() {
            let start = engine.tokenizer().unwrap().decode(&prompt).unwrap();
            assert_eq!(start + &text, whole, "{name}");
        }
    }
}

/// With the reference's own ids fed in, the likeliest token is the reference's
/// at every step that was no near tie, also after one.
fn greedy_with_the_references_ids(fixture: &Fixture, prompt: &[u32], expected: &[u32]) {
    let fed = [prompt, &expected[..expected.len() - 1]].concat();
    let logits = fixture.logits(&fed, fed.len());
    let gaps = fixture.expected["greedy"]["gaps"].as_array().unwrap();
    for (step, (row, gap)) in logits[prompt.len() - 1..].iter().zip(gaps).enumerate() {
        let likeliest = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]));
        if gap.as_f64().unwrap() > 2e-4 {
            assert_eq!(likeliest.unwrap() as u32, expected[step], "step {step}");
        }
    }
}

fn generate(engine: &Engine, prompt: Vec<u32>, max_tokens: u64) -> (Vec<u32>, String) {
    let options = SamplingOptions {
        max_tokens: Some(max_tokens),
        ..Default::default()
    };
    let params = SamplingParams::new(options).unwrap();
    let mut events = engine.submit(Request::new(prompt, params)).unwrap();
    let (mut ids, mut text) = (Vec::new(), String::new());
    while let Some(event) = events.blocking_next() {
        match event {
            Event::Token(token) => {
                ids.push(token.token_id);
                text += &token.text;
            }
            Event::Finished(_) => {}
            Event::Failed(error) => panic!("{error}"),
        }
    }
    (ids, text)
}

#[test]
fn scores_and_ranks_equal_transformers() {
    for name in ["base-prefixed", "long", "f16"] {
        let fixture = Fixture::load(name);
        let files = ModelFiles::from_dir(&fixture.dir).unwrap();
        let engine = Engine::builder().model(files).build().unwrap();
        let scores = engine.score_blocking(fixture.ids("/input_ids")).unwrap();
        for (i, score) in scores.iter().enumerate() {
            let logprob = fixture.expected["logprobs"][i].as_f64();
            let rank = fixture.expected["ranks"][i].as_u64();
            assert_eq!(score.rank.map(|r| r as u64), rank, "{name}, token {i}");
            match (score.logprob, logprob) {
                (Some(a), Some(b)) => assert!((f64::from(a) - b).abs() < BOUND, "{name}: {a} {b}"),
                (a, b) => assert!(a.is_none() && b.is_none(), "{name}, token {i}"),
            }
        }
    }
}

#[test]
fn filters_equal_transformers_processors() {
    let cases = fixture::json(&fixture::root().join("sampling.json"));
    for case in cases.as_array().unwrap() {
        let floats = |key: &str| -> Vec<f32> {
            let list = case[key].as_array().unwrap().iter();
            list.map(|v| v.as_f64().map_or(f32::NEG_INFINITY, |f| f as f32))
                .collect()
        };
        let prompt: Vec<u32> = case["input_ids"]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v.as_u64().unwrap() as u32)
            .collect();
        let params = SamplingParams::new(SamplingOptions {
            strategy: Strategy::TopP,
            k: case["top_k"].as_u64(),
            top_p: case["top_p"].as_f64(),
            min_p: case["min_p"].as_f64(),
            temperature: case["temperature"].as_f64(),
            repetition_penalty: case["repetition_penalty"].as_f64(),
            ..Default::default()
        });
        let found = processed_scores(params.unwrap(), &prompt, &floats("logits"));
        for (i, (a, b)) in found.iter().zip(floats("expected")).enumerate() {
            let same = a == &b || (a - b).abs() < 1e-5;
            assert!(same, "token {i}: {a}, expected {b}, in {case}");
        }
    }
}
