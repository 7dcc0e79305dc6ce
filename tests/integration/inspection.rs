//! What a look inside shows, against transformers.

use gpt2_engine::engine::{Engine, InspectRequest, Request, SamplingOptions, SamplingParams};

use crate::fixture::{self, Fixture, inspect, largest_difference};
use crate::generation::{answer, collect};

const BOUND: f64 = 1e-4;

/// Euclidean norms of the rows of `a - b`.
fn norms(a: &[f32], b: &[f32], n_embd: usize) -> Vec<f32> {
    let difference: Vec<f32> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    let norm = |row: &[f32]| row.iter().map(|x| x * x).sum::<f32>().sqrt();
    difference.chunks(n_embd).map(norm).collect()
}

#[test]
fn attention_and_streams_equal_transformers() {
    let mut worst = [0.0f64; 3];
    let mut note = |kind: usize, name: &str, found: &[f32], expected: &[f32]| {
        let difference = largest_difference(found, expected);
        assert!(difference < BOUND, "{name}: {difference:e}");
        worst[kind] = worst[kind].max(difference);
    };
    for name in fixture::variants() {
        let fixture = Fixture::load(&name);
        let ids = fixture.ids("/input_ids");
        let n_embd = fixture.model.config().n_embd;
        let inspection = inspect(&fixture.model, &ids, 7);
        for (layer, heads) in inspection.attention().iter().enumerate() {
            let expected = fixture.tensor(&format!("attention.{layer}"));
            // transformers pads with the zeros of the causal mask.
            let padded = |weights: &Vec<f32>| {
                let zeros = vec![0.0; ids.len() - weights.len()];
                [weights.clone(), zeros].concat()
            };
            let found: Vec<f32> = heads.iter().flatten().flat_map(padded).collect();
            note(0, &name, &found, &expected);
        }
        let mut before = Vec::new();
        for (layer, stream) in inspection.streams().iter().enumerate() {
            let expected = fixture.tensor(&format!("hidden.{layer}"));
            note(1, &name, stream, &expected);
            let zeros = vec![0.0; expected.len()];
            let residual = &inspection.norms().residual[layer];
            note(2, &name, residual, &norms(&expected, &zeros, n_embd));
            if layer > 0 {
                // Both writes together can't be longer than their sum.
                let whole = norms(&expected, &before, n_embd);
                let writes = &inspection.norms();
                let parts = writes.attention[layer - 1]
                    .iter()
                    .zip(&writes.mlp[layer - 1]);
                assert!(
                    whole
                        .iter()
                        .zip(parts)
                        .all(|(w, (a, m))| *w <= a + m + 1e-3)
                );
            }
            before = expected;
        }
    }
    let [attention, streams, norms] = worst;
    println!(
        "largest differences: attention {attention:.1e}, streams {streams:.1e}, norms {norms:.1e}"
    );
}

#[test]
fn chunks_change_nothing() {
    let fixture = Fixture::load("bpe-json");
    let ids = fixture.ids("/input_ids");
    let whole = inspect(&fixture.model, &ids, ids.len());
    let mut pieces = inspect(&fixture.model, &ids, 1);
    assert_eq!(whole.attention(), pieces.attention());
    assert_eq!(whole.streams(), pieces.streams());
    assert_eq!(whole.norms(), pieces.norms());
    pieces.restart();
    assert_eq!(pieces.seen(), 0);
    assert!(pieces.norms().residual.iter().all(Vec::is_empty));
}

#[test]
fn the_engine_looks_inside_while_others_go_on() {
    let engine = Engine::builder().build().unwrap();
    let ids = engine
        .tokenizer()
        .unwrap()
        .encode("Once upon a time, there was a shy");
    let ids = ids.unwrap();
    let options = |max_tokens| SamplingOptions {
        max_tokens: Some(max_tokens),
        logprobs: Some(3),
        ignore_eos: true,
        ..Default::default()
    };
    let request = |max_tokens| {
        let params = SamplingParams::new(options(max_tokens)).unwrap();
        Request::new(ids.clone(), params)
    };
    let alone = answer(&engine, request(200));
    let beside = engine.submit(request(200)).unwrap();

    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let look = InspectRequest {
        ids: ids.clone(),
        attention: true,
        lens: 3,
        lens_positions: Some(vec![2, ids.len() - 1]),
        ..Default::default()
    };
    let seen = runtime.block_on(engine.inspect(look)).unwrap();
    assert_eq!(collect(beside), alone, "a look beside it changed an answer");

    let config = engine.config();
    let attention = seen.inspection.attention();
    assert_eq!(
        (attention.len(), attention[0].len()),
        (config.n_layer, config.n_head)
    );
    for weights in attention.iter().flatten().flatten() {
        let total: f32 = weights.iter().sum();
        assert!((total - 1.0).abs() < 1e-5, "weights add up to {total}");
    }
    // After the last block the lens shows what the model says.
    let mut next = engine.submit(request(1)).unwrap();
    let Some(gpt2_engine::engine::Event::Token(token)) = next.blocking_next() else {
        panic!("no token");
    };
    assert_eq!(seen.lens.len(), config.n_layer + 1);
    let last = &seen.lens[config.n_layer][1];
    assert_eq!(last.len(), 3);
    for (lens, top) in last.iter().zip(&token.top) {
        assert_eq!(lens.token_id, top.token_id);
        assert!((lens.logprob - top.logprob).abs() < 1e-4);
    }
}
