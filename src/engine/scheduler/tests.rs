//! Random schedules with a fake model whose next token depends on all that
//! the cache holds for a sequence.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

const BLOCK: usize = Blocks::SIZE;

/// Longest text of the fake model.
const CONTEXT: usize = 6 * BLOCK;

#[derive(Debug, Clone)]
struct Fake {
    id: usize,
    tokens: Vec<u32>,
    /// Length at which it is over.
    end: usize,
    scores: bool,
    /// Rows of logits that a scoring job has taken.
    scored: usize,
    ready: bool,
    guesses: Vec<u32>,
    starts: usize,
    reused: usize,
}

impl Fake {
    fn generating(id: usize, tokens: Vec<u32>, end: usize) -> Self {
        Self {
            id,
            tokens,
            end,
            scores: false,
            scored: 0,
            ready: true,
            guesses: Vec::new(),
            starts: 0,
            reused: 0,
        }
    }

    fn scoring(id: usize, tokens: Vec<u32>) -> Self {
        Self {
            scores: true,
            ..Self::generating(id, tokens, 0)
        }
    }

    fn is_over(&self) -> bool {
        match self.scores {
            true => self.scored == self.tokens.len(),
            false => self.tokens.len() >= self.end,
        }
    }

    /// Takes the tokens that the model says follow; guesses as long as they
    /// are right.
    fn advance(&mut self, next: &[u32]) {
        if self.scores {
            self.scored += next.len();
            return;
        }
        for (row, &token) in next.iter().enumerate() {
            self.tokens.push(token);
            if self.is_over() || self.guesses.get(row) != Some(&token) {
                break;
            }
        }
    }
}

impl Runnable for Fake {
    fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    fn purpose(&self) -> Purpose {
        match self.scores {
            true => Purpose::Score,
            false => Purpose::Continue,
        }
    }

    fn is_ready(&self) -> bool {
        self.ready
    }

    /// Right guesses first, then a wrong one, so that both occur.
    fn guess(&mut self, most: usize) -> usize {
        let most = most.min(self.end - self.tokens.len() - 1);
        let mut text = self.tokens.clone();
        self.guesses.clear();
        for i in 0..most.min(self.id % 4) {
            let right = follow(&text);
            text.push(if i == 2 { right + 1 } else { right });
            self.guesses.push(text[text.len() - 1]);
        }
        self.guesses.len()
    }

    fn started(&mut self, reused: usize) {
        self.starts += 1;
        self.reused = reused;
        self.scored = 0;
    }
}

/// The fake model: what follows a text.
fn follow(text: &[u32]) -> u32 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    (hasher.finish() % 50_000) as u32
}

/// `tokens`, continued up to `end`.
fn continued(mut tokens: Vec<u32>, end: usize) -> Vec<u32> {
    while tokens.len() < end {
        tokens.push(follow(&tokens));
    }
    tokens
}

/// A cache that holds tokens in place of keys and values.
struct FakeCache {
    cells: Vec<[u32; BLOCK]>,
    scheduler: Scheduler<Fake>,
    steps: usize,
}

impl FakeCache {
    fn new(blocks: usize, bounds: Bounds) -> Self {
        Self {
            cells: vec![[u32::MAX; BLOCK]; blocks],
            scheduler: Scheduler::new(Blocks::new(blocks), bounds),
            steps: 0,
        }
    }

    /// Schedules a step, checks it and computes it; the jobs that are over.
    fn step(&mut self) -> Vec<Fake> {
        self.steps += 1;
        let spans = self.scheduler.schedule();
        self.check(&spans);
        for span in &spans {
            let running = &mut self.scheduler.running()[span.index];
            let rows: Vec<u32> = running.job.tokens[span.tokens.clone()]
                .iter()
                .chain(&running.job.guesses[..span.guesses])
                .copied()
                .collect();
            for (i, &token) in rows.iter().enumerate() {
                let position = span.tokens.start + i;
                let block = running.lease.blocks()[position / BLOCK];
                self.cells[block as usize][position % BLOCK] = token;
            }
            let text: Vec<u32> = (running.lease.blocks().iter())
                .flat_map(|&block| self.cells[block as usize])
                .take(span.tokens.start + rows.len())
                .collect();
            let asked = match span.rows {
                LogitRows::None => 0..0,
                LogitRows::Last => rows.len() - 1..rows.len(),
                LogitRows::All => 0..rows.len(),
            };
            let next: Vec<u32> = asked
                .map(|row| follow(&text[..span.tokens.start + row + 1]))
                .collect();
            running.job.advance(&next);
        }
        self.scheduler.settle(&spans, Fake::is_over)
    }

    /// What holds for every step.
    fn check(&mut self, spans: &[Span]) {
        let bounds = self.scheduler.bounds;
        let running = self.scheduler.running();
        assert!(running.len() <= bounds.running);
        assert!(running.is_sorted_by_key(|r| r.job.id), "order of arrival");
        assert!(
            spans.is_sorted_by(|a, b| a.index < b.index),
            "one span each"
        );
        let mut holders: BTreeMap<u32, usize> = BTreeMap::new();
        for block in running.iter().flat_map(|r| r.lease.blocks()) {
            *holders.entry(*block).or_default() += 1;
        }
        let (mut prompts, mut guesses, mut decoding) = (0, 0, 0);
        for span in spans {
            let Running { job, lease, .. } = &running[span.index];
            assert_eq!(span.tokens.start, lease.len(), "what comes next");
            assert!(!span.tokens.is_empty() && span.tokens.end <= job.tokens.len());
            assert!(job.is_ready());
            assert!(lease.capacity() >= span.tokens.end + span.guesses);
            let written =
                span.tokens.start / BLOCK..(span.tokens.end + span.guesses).div_ceil(BLOCK);
            for block in &lease.blocks()[written] {
                assert_eq!(holders[block], 1, "a shared block would be written");
            }
            assert_eq!(
                span.rows == LogitRows::None,
                span.tokens.end < job.tokens.len() && !job.scores
            );
            guesses += span.guesses;
            if span.tokens.end == job.tokens.len() && span.tokens.len() == 1 {
                decoding += 1;
            } else {
                prompts += span.tokens.len();
            }
        }
        assert!(
            prompts <= bounds.chunks.alone,
            "{prompts} tokens of prompts"
        );
        assert!(guesses == 0 || guesses + decoding <= CHEAP_ROWS);
        // A job that waits for its next token always gets it.
        for (index, r) in running.iter().enumerate() {
            let waits = r.rest() == 1 && r.job.is_ready();
            assert!(!waits || spans.iter().any(|span| span.index == index));
        }
    }

    fn run(&mut self) -> Vec<Fake> {
        let mut over = Vec::new();
        while !self.scheduler.is_empty() {
            over.extend(self.step());
            assert!(self.steps < 100_000, "no end");
        }
        over
    }
}

fn bounds(running: usize, chunk: usize) -> Bounds {
    Bounds {
        running,
        chunks: Chunks::CPU.at_most(chunk),
        reuse: true,
    }
}

#[test]
fn random_schedules_lose_nothing_and_change_nothing() {
    let (mut preemptions, mut reused, mut cancelled) = (0, 0, 0);
    for seed in 0..60 {
        let mut rng = StdRng::seed_from_u64(seed);
        let blocks = CONTEXT / BLOCK + rng.random_range(0..20);
        let mut limits = bounds(rng.random_range(1..12), rng.random_range(1..100));
        limits.reuse = rng.random_bool(0.8);
        let mut cache = FakeCache::new(blocks, limits);
        let mut expected: BTreeMap<usize, Fake> = BTreeMap::new();
        let mut next_id = 0;
        let mut done = HashSet::new();
        let mut finish = |over: Vec<Fake>, expected: &mut BTreeMap<usize, Fake>| {
            for job in over {
                let asked = expected.remove(&job.id).expect("answered once");
                assert_eq!(job.tokens, continued(asked.tokens, asked.end));
                reused += job.reused;
                assert!(done.insert(job.id));
            }
        };
        for _ in 0..400 {
            match rng.random_range(0..10) {
                0..3 => {
                    // A few beginnings, so that many begin alike.
                    let beginning = rng.random_range(0..3);
                    let len = rng.random_range(1..CONTEXT);
                    let mut tokens: Vec<u32> =
                        (0..len as u32).map(|i| i + beginning * 999).collect();
                    if rng.random_bool(0.5) {
                        *tokens.last_mut().unwrap() = rng.random_range(0..50_000);
                    }
                    let job = match rng.random_bool(0.2) {
                        true => Fake::scoring(next_id, tokens),
                        false => {
                            Fake::generating(next_id, tokens, rng.random_range(len..CONTEXT) + 1)
                        }
                    };
                    next_id += 1;
                    expected.insert(job.id, job.clone());
                    cache.scheduler.submit(job);
                }
                3 => {
                    let id = rng.random_range(0..next_id.max(1));
                    cache.scheduler.retain(|job| job.id != id);
                    cancelled += usize::from(expected.remove(&id).is_some());
                }
                4 => {
                    let mut coin = || rng.random_bool(0.7);
                    cache.scheduler.retain(|job| {
                        job.ready = coin();
                        true
                    });
                }
                5 => {
                    let spans = cache.scheduler.schedule();
                    for job in cache.scheduler.fail(&spans) {
                        assert!(expected.remove(&job.id).is_some());
                    }
                }
                _ => finish(cache.step(), &mut expected),
            }
        }
        cache.scheduler.retain(|job| {
            job.ready = true;
            true
        });
        finish(cache.run(), &mut expected);
        assert!(expected.is_empty(), "lost: {:?}", expected.keys());
        let counts = cache.scheduler.blocks().counts();
        assert_eq!((counts.used, counts.shared), (0, 0), "blocks are leaked");
        preemptions += cache.scheduler.preemptions();
    }
    println!("{preemptions} preemptions, {reused} tokens reused, {cancelled} cancelled");
    assert!(
        preemptions > 50 && reused > 1000 && cancelled > 100,
        "nothing happened"
    );
}

#[test]
fn a_newcomer_joins_at_once_and_a_long_prompt_lets_others_go_on() {
    let mut cache = FakeCache::new(100, bounds(8, 256));
    cache.scheduler.submit(Fake::generating(0, vec![1], 80));
    cache.step();
    let long: Vec<u32> = (0..180).collect();
    cache.scheduler.submit(Fake::generating(1, long, 190));
    for step in 1..4 {
        let spans = cache.scheduler.schedule();
        assert_eq!(spans.len(), 2, "step {step}");
        assert!(spans[1].len() <= Chunks::CPU.beside);
        cache.step();
    }
}

#[test]
fn equal_prompts_are_computed_once() {
    let mut cache = FakeCache::new(100, bounds(8, 256));
    let prompt: Vec<u32> = (0..5 * BLOCK as u32 + 3).collect();
    for id in 0..4 {
        let end = prompt.len() + 4;
        cache
            .scheduler
            .submit(Fake::generating(id, prompt.clone(), end));
    }
    cache.step();
    assert_eq!(cache.scheduler.blocks().counts().used, 6);
    let over = cache.run();
    assert_eq!(
        over.iter().map(|job| job.reused).collect::<HashSet<_>>(),
        [0, 5 * BLOCK].into()
    );
    assert_eq!(cache.scheduler.blocks().counts().idle, 5);
}

#[test]
fn the_youngest_gives_way_and_comes_back() {
    let mut cache = FakeCache::new(CONTEXT / BLOCK, bounds(8, 256));
    for id in 0..3 {
        let prompt = vec![id as u32; BLOCK];
        cache
            .scheduler
            .submit(Fake::generating(id, prompt, 4 * BLOCK));
    }
    let over = cache.run();
    assert!(cache.scheduler.preemptions() > 0);
    assert_eq!(over[0].id, 0, "the oldest is done first");
    assert_eq!(over[0].starts, 1, "and never gives way");
    assert!(over[1].starts > 1);
}

#[test]
fn a_job_whose_reader_stalls_holds_up_nobody() {
    let mut cache = FakeCache::new(100, bounds(8, 256));
    let prompt: Vec<u32> = (0..3 * BLOCK as u32).collect();
    let mut stalled = Fake::generating(0, prompt.clone(), 4 * BLOCK);
    stalled.ready = false;
    cache.scheduler.submit(stalled);
    cache
        .scheduler
        .submit(Fake::generating(1, prompt, 4 * BLOCK));
    let done = (0..2 * BLOCK).flat_map(|_| cache.step()).map(|job| job.id);
    assert_eq!(done.collect::<Vec<_>>(), [1]);
}
