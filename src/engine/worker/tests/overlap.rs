//! What was chosen is told beside the next forward pass: when, in which order,
//! and what comes of it when something goes wrong.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// A half of a forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    Begin,
    Finish,
}
use Half::{Begin, Finish};

/// A model that calls this in each half of each step, with the step's number.
/// It is a device's, or else the processor's.
struct Watched<const DEVICE: bool, W>(W, AtomicUsize);

impl<const DEVICE: bool, W> Forward for Watched<DEVICE, W>
where
    W: Fn(Half, usize) -> Result<(), ModelError>,
{
    const TELL: Tell = match DEVICE {
        true => Tell::BesideNext,
        false => Tell::AtOnce,
    };
    type Pass = usize;

    fn begin(&self, _: &Batch, _: &mut KvCache) -> Result<usize, ModelError> {
        let step = self.1.fetch_add(1, Ordering::Relaxed);
        (self.0)(Begin, step)?;
        Ok(step)
    }

    fn finish(&self, step: usize, batch: &Batch, _: &mut KvCache) -> Result<Logits, ModelError> {
        (self.0)(Finish, step)?;
        sevens(batch)
    }
}

/// Nobody looks.
impl<const DEVICE: bool, W> Look for Watched<DEVICE, W> {
    fn look(
        &self,
        batch: &Batch,
        _: &mut KvCache,
        _: &mut Inspector<'_>,
    ) -> Result<Logits, ModelError> {
        sevens(batch)
    }

    fn answer(&self, _: &mut Inspecting) -> Result<(), EngineError> {
        Ok(())
    }
}

fn watched<const DEVICE: bool>(
    watch: impl Fn(Half, usize) -> Result<(), ModelError> + Send + 'static,
) -> Fixture {
    let model = Watched::<DEVICE, _>(watch, AtomicUsize::new(0));
    Fixture::with(model, Speculation::PromptLookup)
}

fn at_most(max_tokens: u64) -> SamplingOptions {
    SamplingOptions {
        max_tokens: Some(max_tokens),
        ..Default::default()
    }
}

/// How many events of a request of two tokens came until each half of each
/// step, and its last ones; after it, another is asked for if `others`.
fn told<const DEVICE: bool>(others: bool) -> (Vec<(Half, usize)>, Vec<Event>) {
    let events: Arc<Mutex<Option<Events>>> = Arc::default();
    let log: Arc<Mutex<Vec<(Half, usize)>>> = Arc::default();
    let (watched_events, watching) = (Arc::clone(&events), Arc::clone(&log));
    let fixture = watched::<DEVICE>(move |half, _| {
        // The first step waits here until the request is in its place.
        let mut events = watched_events.lock().unwrap();
        let receiver = &mut events.as_mut().unwrap().receiver;
        let count = std::iter::from_fn(|| receiver.try_recv().ok()).count();
        watching.lock().unwrap().push((half, count));
        Ok(())
    });
    let mut place = events.lock().unwrap();
    *place = Some(fixture.ask(vec![1, 2], at_most(2)));
    let other = others.then(|| fixture.ask(vec![3], at_most(4)));
    drop(place);
    drop(fixture.commands);
    fixture.worker.join().unwrap();
    if let Some(other) = other {
        assert_eq!(end(other).0, 4);
    }
    let mut events = events.lock().unwrap().take().unwrap();
    let last = std::iter::from_fn(|| events.receiver.try_recv().ok()).collect();
    let log = log.lock().unwrap().clone();
    (log, last)
}

#[test]
fn a_token_is_told_between_the_halves_of_the_next_pass() {
    let (log, last) = told::<true>(false);
    assert_eq!(log, [(Begin, 0), (Finish, 0), (Begin, 0), (Finish, 1)]);
    // After the last step, at once.
    assert!(
        matches!(&last[..], [Event::Token(_), Event::Finished(_)]),
        "{last:?}"
    );
}

#[test]
fn where_the_processor_computes_a_token_is_told_at_once() {
    let (log, last) = told::<false>(false);
    assert_eq!(log, [(Begin, 0), (Finish, 0), (Begin, 1), (Finish, 0)]);
    assert!(
        matches!(&last[..], [Event::Token(_), Event::Finished(_)]),
        "{last:?}"
    );
}

#[test]
fn who_has_ended_is_told_beside_the_steps_of_others() {
    let (log, last) = told::<true>(true);
    let expected = [
        (Begin, 0),
        (Finish, 0),
        (Begin, 0),
        (Finish, 1),
        (Begin, 0),
        // Its second token and its end.
        (Finish, 2),
    ];
    assert_eq!(log[..6], expected);
    assert!(last.is_empty(), "{last:?}");
}

#[test]
fn what_was_chosen_is_told_before_a_failure() {
    for half in [Begin, Finish] {
        for panics in [true, false] {
            let fixture = watched::<true>(move |now, step| {
                let bad = (now, step) == (half, 2);
                assert!(!(bad && panics), "on purpose");
                match bad {
                    true => Err(ModelError::Batch("on purpose".to_owned())),
                    false => Ok(()),
                }
            });
            let failed = end(fixture.submit(vec![1, 2]));
            assert!(
                matches!(&failed, (2, Event::Failed(error)) if error.to_string().contains("on purpose")),
                "{half:?}: {failed:?}"
            );
            // The engine goes on.
            assert_eq!(end(fixture.submit(vec![1, 2])).0, 100);
        }
    }
}

#[test]
fn what_was_chosen_is_told_before_a_deadline() {
    let deadline = Instant::now() + Duration::from_secs(2);
    let fixture = watched::<true>(move |half, step| {
        if (half, step) == (Finish, 1) {
            std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
        }
        Ok(())
    });
    let ended = end(fixture.ask_until(Some(deadline), vec![1, 2], at_most(100)));
    assert!(
        matches!(ended, (2, Event::Failed(EngineError::DeadlineExceeded))),
        "{ended:?}"
    );
}

/// Nobody reads at first. One alone is guessed far ahead, so that its steps
/// fill the room that there is; four don't fit the cache, even where two wait
/// for their readers while the others end.
#[test]
fn who_stalls_or_gives_up_blocks_is_told_everything_in_order() {
    for count in [1, 4] {
        let all_there = Arc::new(Mutex::new(()));
        let (waits, held) = (Arc::clone(&all_there), all_there.lock().unwrap());
        let fixture = watched::<true>(move |_, _| {
            drop(waits.lock());
            Ok(())
        });
        let ask = |i| fixture.ask(vec![i; 300], at_most(700));
        let all: Vec<Events> = (1..=count).map(ask).collect();
        drop(held);
        std::thread::sleep(Duration::from_millis(20));
        let readers = all.into_iter().map(|e| std::thread::spawn(|| end(e).0));
        for reader in readers.collect::<Vec<_>>() {
            assert_eq!(reader.join().unwrap(), 700);
        }
        let text = fixture.metrics.encode();
        let tokens = format!("gpt2_generated_tokens_total {}", 700 * count);
        assert!(text.contains(&tokens), "{text}");
        assert_eq!(
            text.contains("gpt2_preemptions_total 0"),
            count == 1,
            "{text}"
        );
    }
}
