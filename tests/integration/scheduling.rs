//! The same request has the same answer alone and under any load.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gpt2_engine::engine::{
    CacheSize, Engine, EngineBuilder, EngineError, Event, Request, SamplingOptions, SamplingParams,
    Speculation,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::generation::{Answer, answer, collect, request};
use crate::metrics::value_of;
use crate::wait::wait_until;

/// Requests that are compared, and clients that send them.
const REQUESTS: usize = 1000;
const CLIENTS: usize = 12;

/// A request whose prompt begins like many others'.
fn one_of_a_family(seed: u64, vocab: u32) -> Request {
    let rng = &mut StdRng::seed_from_u64(seed);
    let mut request = request(rng, vocab, 90);
    let family = rng.random_range(0..4);
    let shared = (0..family * 35).map(|i| (i * 31 + family) % vocab);
    request.prompt = shared.chain(request.prompt).collect();
    request
}

/// Answers `requests` from many clients at a time, among neighbours that are
/// cancelled in the queue, in their prompts and later.
fn answers_under_load(engine: &Engine, requests: &[Request]) -> Vec<Answer> {
    let next = AtomicUsize::new(0);
    let client = |seed: u64| {
        let rng = &mut StdRng::seed_from_u64(seed);
        let mut answers = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(request) = requests.get(index) else {
                return answers;
            };
            let neighbour = requests[rng.random_range(0..requests.len())].clone();
            let mut neighbour = engine.submit(neighbour).unwrap();
            let events = engine.submit(request.clone()).unwrap();
            for _ in 0..rng.random_range(0..5) {
                neighbour.blocking_next();
            }
            drop(neighbour);
            answers.push((index, collect(events)));
        }
    };
    let mut answers: Vec<(usize, Answer)> = std::thread::scope(|scope| {
        let clients = (0..CLIENTS as u64).map(|seed| scope.spawn(move || client(seed)));
        let clients: Vec<_> = clients.collect();
        let answers = clients
            .into_iter()
            .flat_map(|client| client.join().unwrap());
        answers.collect()
    });
    answers.sort_by_key(|(index, _)| *index);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// The value of one metric.
fn metric(engine: &Engine, name: &str) -> f64 {
    value_of(&engine.metrics().encode(), name)
}

/// Waits until the engine has nothing left, and checks that it holds nothing.
fn assert_whole(engine: &Engine) {
    let left = || metric(engine, "gpt2_kv_blocks_used") + metric(engine, "gpt2_requests_running");
    wait_until("no block is leaked", Duration::from_secs(5), || {
        left() == 0.0
    });
}

#[test]
fn a_thousand_answers_are_the_same_alone_and_under_load() {
    let plain = Engine::builder()
        .running(1)
        .prefix_reuse(false)
        .speculation(Speculation::Off);
    let plain = plain.build().unwrap();
    let vocab = plain.config().vocab_size as u32;
    let requests: Vec<Request> = (0..REQUESTS as u64)
        .map(|seed| one_of_a_family(seed, vocab))
        .collect();
    let expected: Vec<Answer> = requests
        .iter()
        .map(|request| answer(&plain, request.clone()))
        .collect();
    let tokens: usize = expected.iter().map(|answer| answer.0.len()).sum();
    println!("{REQUESTS} requests, {tokens} tokens");

    // One block more than a context, so that requests give way to each other;
    // odd chunks; and the defaults.
    let builders: [(&str, EngineBuilder); 3] = [
        (
            "small cache",
            Engine::builder()
                .kv_cache(CacheSize::Tokens(288))
                .running(7),
        ),
        (
            "no reuse, no guesses",
            Engine::builder()
                .prefill_chunk(13)
                .prefix_reuse(false)
                .speculation(Speculation::Off),
        ),
        ("defaults", Engine::builder()),
    ];
    for (index, (name, builder)) in builders.into_iter().enumerate() {
        let engine = builder.build().unwrap();
        let found = answers_under_load(&engine, &requests);
        let differing = found.iter().zip(&expected).filter(|(f, e)| f != e).count();
        let preemptions = metric(&engine, "gpt2_preemptions_total");
        let cached = metric(&engine, "gpt2_cached_tokens_total");
        println!("{name}: {differing} differ; {preemptions} preemptions, {cached} tokens reused");
        assert_eq!(differing, 0, "{name}");
        match index {
            0 => assert!(preemptions > 10.0, "the cache was not small"),
            1 => assert_eq!(cached, 0.0),
            _ => assert!(cached > 1000.0, "nothing was reused"),
        }
        assert_whole(&engine);
    }
}

/// A request that goes on to the end of the context.
fn long() -> Request {
    let options = SamplingOptions {
        ignore_eos: true,
        ..Default::default()
    };
    Request::new(vec![1], SamplingParams::new(options).unwrap())
}

#[test]
fn a_full_queue_is_an_error_at_once_and_nothing_is_half_admitted() {
    let engine = Engine::builder().queue(8, 100).running(1).build().unwrap();
    let mut first = engine.submit(long()).unwrap();
    first.blocking_next();
    // Those at the front of the queue may get their turns meanwhile.
    let waiting = engine.submit_all(vec![long(); 7]).unwrap();
    let refused = engine.submit_all(vec![long(); 8]);
    assert!(matches!(
        refused,
        Err(EngineError::Overloaded {
            requests: 1..=7,
            ..
        })
    ));
    let mut last = engine.submit(long()).unwrap();
    drop(first);
    drop(waiting);
    assert!(matches!(last.blocking_next(), Some(Event::Token(_))));
}

#[test]
fn a_cancelled_request_ends_without_an_error() {
    let engine = Engine::builder().build().unwrap();
    let mut events = engine.submit(long()).unwrap();
    assert!(matches!(events.blocking_next(), Some(Event::Token(_))));
    events.cancel();
    let rest = std::iter::from_fn(|| events.blocking_next());
    assert!(
        !rest
            .into_iter()
            .any(|event| matches!(event, Event::Failed(_)))
    );
    assert!(events.blocking_next().is_none());
    assert_whole(&engine);
}

#[test]
fn a_deadline_and_a_stalled_reader_end_a_request() {
    let patience = Duration::from_secs(1);
    let builder = Engine::builder().running(2).patience(patience);
    let engine = builder.build().unwrap();
    let deadline = Instant::now() + Duration::from_millis(1);
    let queued = long().deadline(deadline);
    let mut late: Vec<_> = engine.submit_all(vec![queued; 5]).unwrap();
    for events in &mut late {
        let last = std::iter::from_fn(|| events.blocking_next()).last();
        assert!(matches!(
            last,
            Some(Event::Failed(EngineError::DeadlineExceeded) | Event::Finished(_))
        ));
    }
    // More events than may wait: 255 tokens in few steps would still fit.
    let mut stalled = engine.submit(long()).unwrap();
    let mut beside = engine.submit(long()).unwrap();
    let beside = std::iter::from_fn(|| beside.blocking_next()).last();
    assert!(matches!(beside, Some(Event::Finished(_))));
    // Whoever stalls runs until it is given up.
    assert_whole(&engine);
    let last = std::iter::from_fn(|| stalled.blocking_next()).last();
    assert!(matches!(
        last,
        Some(Event::Failed(EngineError::SlowReader { .. }))
    ));
}
