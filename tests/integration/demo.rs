//! The embedded demo model.

#[path = "../../examples/train_demo/model.rs"]
#[allow(dead_code, reason = "the trainer uses all of it")]
mod plain;

use candle_core::{DType, Device, Tensor};
use gpt2_engine::engine::{Engine, Event, FinishReason, Request, SamplingOptions, SamplingParams};
use gpt2_engine::model::{Batch, Config, Gpt2, LoadOptions, LogitRows, ModelFiles};
use gpt2_engine::model::{Source, WeightFiles};

use crate::fixture::largest_difference;

#[test]
fn the_trainers_plain_forward_equals_the_engines() {
    let files = ModelFiles::demo();
    let WeightFiles::Safetensors(Source::Embedded { bytes, .. }) = &files.weights else {
        panic!("the demo is one embedded file");
    };
    let tensors = candle_core::safetensors::load_buffer(bytes, &Device::Cpu).unwrap();
    let widened = tensors
        .into_iter()
        .map(|(n, t)| (n, t.to_dtype(DType::F32).unwrap()));
    let config = Config::from_json(&files.config.read().unwrap(), "demo").unwrap();
    let shape = plain::Shape {
        vocab_size: config.vocab_size,
        n_positions: config.n_positions,
        n_embd: config.n_embd,
        n_layer: config.n_layer,
        n_head: config.n_head,
    };
    let plain = plain::PlainGpt2::new(shape, widened.collect()).unwrap();
    let ids: Vec<u32> = (0..100)
        .map(|i| i * 19 % config.vocab_size as u32)
        .collect();
    let input = Tensor::new(&*ids, &Device::Cpu)
        .unwrap()
        .unsqueeze(0)
        .unwrap();
    let expected: Vec<f32> = plain
        .forward(&input)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap();

    let model = Gpt2::load(&files, &LoadOptions::default()).unwrap();
    let mut cache = model.cache(ids.len()).unwrap();
    let mut lease = cache.lease();
    lease.grow(ids.len()).unwrap();
    let mut batch = Batch::new();
    batch.push(&ids, &lease, LogitRows::All).unwrap();
    let logits = model.forward(&batch, &mut cache).unwrap();
    let found: Vec<f32> = (0..logits.rows())
        .flat_map(|r| logits.row(r).to_vec())
        .collect();
    let difference = largest_difference(&found, &expected);
    println!("plain forward against the engine: {difference:.1e}");
    assert!(difference < 1e-3, "{difference:e}");
}

#[test]
fn a_story_ends_by_itself_and_keeps_its_hero() {
    let engine = Engine::builder().build().unwrap();
    let prompt = engine
        .tokenizer()
        .unwrap()
        .encode("Once upon a time")
        .unwrap();
    let params = SamplingParams::new(SamplingOptions::default()).unwrap();
    let mut events = engine.submit(Request::new(prompt, params)).unwrap();
    let mut text = String::new();
    let finished = loop {
        match events.blocking_next().unwrap() {
            Event::Token(token) => text += &token.text,
            Event::Finished(finished) => break finished,
            Event::Failed(error) => panic!("{error}"),
        }
    };
    println!("Once upon a time{text}");
    assert_eq!(finished.finish_reason, FinishReason::Stop);
    assert!(text.len() > 200, "{text}");
    let (_, rest) = text.split_once("named ").expect("a hero with a name");
    let name = rest.split(|c: char| !c.is_alphanumeric()).next().unwrap();
    assert!(
        text.matches(name).count() >= 3,
        "{name} is forgotten: {text}"
    );
    assert!(events.blocking_next().is_none());
}

#[test]
fn dropping_the_events_frees_the_worker() {
    let engine = Engine::builder().build().unwrap();
    let options = || SamplingOptions {
        ignore_eos: true,
        ..Default::default()
    };
    let request = |options| Request::new(vec![1], SamplingParams::new(options).unwrap());
    // Each of these would generate some 255 tokens if it went on.
    for _ in 0..40 {
        let mut events = engine.submit(request(options())).unwrap();
        assert!(matches!(events.blocking_next(), Some(Event::Token(_))));
    }
    let short = SamplingOptions {
        max_tokens: Some(1),
        ..options()
    };
    let mut events = engine.submit(request(short)).unwrap();
    assert!(matches!(events.blocking_next(), Some(Event::Token(_))));
    assert!(matches!(events.blocking_next(), Some(Event::Finished(_))));
}
