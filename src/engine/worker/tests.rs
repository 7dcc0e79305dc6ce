//! Steps that fail, with a fake model in place of the transformer.

mod overlap;
mod picks;

use super::forward::Look;
use super::*;
use crate::engine::queue::Queue;
use crate::engine::{Events, SamplingOptions};
use crate::model::{CacheFormat, Config, ModelError};

/// A prompt with one of these tokens makes the step panic, or fail.
const PANICS: u32 = 13;
const FAILS: u32 = 14;

/// A model that is a function of the batch.
struct Fake<F>(F);

impl<F: Fn(&Batch) -> Result<Logits, ModelError>> Forward for Fake<F> {
    const TELL: Tell = Tell::AtOnce;
    type Pass = ();

    fn begin(&self, _: &Batch, _: &mut KvCache) -> Result<(), ModelError> {
        Ok(())
    }

    fn finish(&self, (): (), batch: &Batch, _: &mut KvCache) -> Result<Logits, ModelError> {
        self.0(batch)
    }
}

/// Nobody looks.
impl<F: Fn(&Batch) -> Result<Logits, ModelError>> Look for Fake<F> {
    fn look(
        &self,
        batch: &Batch,
        _: &mut KvCache,
        _: &mut Inspector<'_>,
    ) -> Result<Logits, ModelError> {
        self.0(batch)
    }

    fn answer(&self, _: &mut Inspecting) -> Result<(), EngineError> {
        Ok(())
    }
}

/// Token 7 follows every token.
fn sevens(batch: &Batch) -> Result<Logits, ModelError> {
    assert!(!batch.tokens().contains(&PANICS), "on purpose");
    if batch.tokens().contains(&FAILS) {
        return Err(ModelError::Batch("on purpose".to_owned()));
    }
    let row: Vec<f32> = (0..16).map(|id| f32::from(u8::from(id == 7))).collect();
    Logits::new(row.repeat(batch.logit_rows().len()), 16)
}

struct Fixture {
    commands: std::sync::mpsc::Sender<Command>,
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
    worker: std::thread::JoinHandle<()>,
}

impl Fixture {
    fn start() -> Self {
        Self::with(Fake(sevens), Speculation::PromptLookup)
    }

    fn with(model: impl Forward + Send + 'static, speculation: Speculation) -> Self {
        let json = br#"{"n_embd": 4, "n_head": 1, "n_layer": 1, "vocab_size": 16}"#;
        let config = Config::from_json(json, "test").unwrap();
        let metrics = Arc::new(Metrics::new());
        let setup = Setup {
            tokenizer: None,
            limits: Limits {
                n_positions: config.n_positions,
                sampled: 16,
                eos: Vec::new(),
            },
            speculation,
            bounds: Bounds {
                running: 4,
                chunks: crate::engine::Chunks::CPU.at_most(64),
                reuse: true,
            },
            patience: Duration::from_secs(5),
            metrics: Arc::clone(&metrics),
        };
        let cache = KvCache::new(&config, CacheFormat::F32, 2 * config.n_positions).unwrap();
        let (commands, receiver) = std::sync::mpsc::channel();
        let worker = Worker::new(model, cache, setup);
        Self {
            commands,
            queue: Queue::new(100, 10_000),
            metrics,
            worker: std::thread::spawn(move || worker.run(receiver)),
        }
    }

    fn submit(&self, prompt: Vec<u32>) -> Events {
        let options = SamplingOptions {
            max_tokens: Some(100),
            ..Default::default()
        };
        self.ask(prompt, options)
    }

    fn ask(&self, prompt: Vec<u32>, options: SamplingOptions) -> Events {
        self.ask_until(None, prompt, options)
    }

    fn ask_until(
        &self,
        deadline: Option<Instant>,
        prompt: Vec<u32>,
        options: SamplingOptions,
    ) -> Events {
        let (events, receiver) = mpsc::channel(crate::engine::EVENTS);
        let admission = Admission {
            place: self.queue.enter(&[prompt.len()]).unwrap().pop().unwrap(),
            deadline,
            submitted: Instant::now(),
        };
        let command = Command::Generate {
            prompt,
            params: SamplingParams::new(options).unwrap(),
            events,
            admission,
        };
        self.commands.send(command).unwrap();
        Events::new(receiver)
    }
}

/// The number of tokens, and the event that ends them.
fn end(mut events: Events) -> (usize, Event) {
    let mut tokens = 0;
    loop {
        match events.blocking_next().unwrap() {
            Event::Token(token) => {
                assert_eq!((token.index, token.token_id), (tokens, 7));
                tokens += 1;
            }
            last => {
                assert!(events.blocking_next().is_none());
                return (tokens, last);
            }
        }
    }
}

#[test]
fn a_step_that_fails_ends_its_own_requests_and_no_others() {
    let fixture = Fixture::start();
    for (bad, expected) in [(PANICS, "internal error"), (FAILS, "invalid batch")] {
        let failed = end(fixture.submit(vec![1, bad]));
        assert!(
            matches!(&failed, (0, Event::Failed(error)) if error.to_string().contains(expected)),
            "{failed:?}"
        );
        let (tokens, last) = end(fixture.submit(vec![1, 2]));
        assert_eq!(tokens, 100);
        assert!(matches!(last, Event::Finished(_)));
    }
    drop(fixture.commands);
    fixture.worker.join().unwrap();
    let text = fixture.metrics.encode();
    assert!(text.contains("gpt2_failed_steps_total 2"), "{text}");
    assert!(text.contains("gpt2_kv_blocks_used 0"), "{text}");
}

#[test]
fn what_is_asked_is_answered_after_the_handle_is_gone() {
    let fixture = Fixture::start();
    let events: Vec<_> = (0..9).map(|_| fixture.submit(vec![1; 40])).collect();
    drop(fixture.commands);
    for events in events {
        assert_eq!(end(events).0, 100);
    }
    fixture.worker.join().unwrap();
}
