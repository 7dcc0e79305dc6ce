//! What the next forward pass computes, and for whom. Pure: no tensors, no
//! clock, no channels.
//!
//! Jobs are admitted in the order in which they came. A step takes the next
//! token of each job that has its prompt behind it, and pieces of prompts as
//! far as the step's budget goes, the oldest job first. When blocks run out,
//! the youngest job gives up its own and waits to be computed again; its
//! tokens, and so its answer, stay what they are. So does a job whose reader
//! stalls, if others wait.

use std::collections::VecDeque;
use std::ops::Range;

use crate::model::{Blocks, Lease, LogitRows};

/// Most tokens of prompts in one step.
#[derive(Debug, Clone, Copy)]
pub struct Chunks {
    /// While no job waits for its next token.
    pub alone: usize,
    /// While others wait for their next token: enough rows to be computed at
    /// full speed, few enough to be done soon.
    pub beside: usize,
}

impl Chunks {
    /// For a processor.
    pub const CPU: Self = Self {
        alone: 256,
        beside: 128,
    };
    /// For a GPU, which fewer rows leave idle.
    pub const GPU: Self = Self {
        alone: 8192,
        beside: 1024,
    };

    /// Those of at most `most` tokens.
    pub fn at_most(self, most: usize) -> Self {
        Self {
            alone: most,
            beside: self.beside.min(most),
        }
    }
}

/// Most tokens scored in one step: each needs a row of logits.
const SCORE_CHUNK: usize = 64;

/// Rows that cost little more than one row: one group of the widest kernels.
/// Guesses are worth their rows only as long as a step has fewer.
const CHEAP_ROWS: usize = 12;

/// What the scheduler needs to know of a job.
pub trait Runnable {
    /// Its tokens, as far as they are known. Never empty.
    fn tokens(&self) -> &[u32];

    /// What is to become of its tokens.
    fn purpose(&self) -> Purpose;

    /// Whether what it produces can be handed over.
    fn is_ready(&self) -> bool;

    /// Guesses at most `most` tokens after the known ones, and returns how
    /// many. They are part of the next span of this job.
    fn guess(&mut self, most: usize) -> usize;

    /// It has left the queue, for the first time or again, and goes on from
    /// the `reused`-th token on.
    fn started(&mut self, reused: usize);
}

/// What a job wants of its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The token after the last one, and so on.
    Continue,
    /// The logits of every one.
    Score,
    /// That they are computed while someone looks.
    Inspect,
}

/// The bounds of a step.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Most jobs that run at a time.
    pub running: usize,
    /// Most tokens of prompts in a step.
    pub chunks: Chunks,
    /// Whether blocks are reused for texts that begin alike.
    pub reuse: bool,
}

/// Jobs that wait and jobs that run.
#[derive(Debug)]
pub struct Scheduler<J> {
    blocks: Blocks,
    bounds: Bounds,
    /// The oldest first.
    waiting: VecDeque<Arrived<J>>,
    /// Those whose readers stall, without blocks.
    parked: Vec<Arrived<J>>,
    /// The oldest first.
    running: Vec<Running<J>>,
    arrivals: u64,
    preemptions: u64,
}

/// A job and its number in the order in which they came.
#[derive(Debug)]
struct Arrived<J> {
    job: J,
    arrival: u64,
}

/// A job with its place in the cache.
#[derive(Debug)]
pub struct Running<J> {
    /// The job.
    pub job: J,
    arrival: u64,
    /// The blocks of its tokens.
    pub lease: Lease,
    started: bool,
}

/// The part of one job in a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Which of the running jobs.
    pub index: usize,
    /// Its known tokens to be computed.
    pub tokens: Range<usize>,
    /// Guesses after them.
    pub guesses: usize,
    /// Which of these rows get logits.
    pub rows: LogitRows,
}

impl Span {
    /// Rows of the forward pass.
    pub fn len(&self) -> usize {
        self.tokens.len() + self.guesses
    }

    /// Rows of logits.
    pub fn logit_rows(&self) -> usize {
        match self.rows {
            LogitRows::None => 0,
            LogitRows::Last => 1,
            LogitRows::All => self.len(),
        }
    }
}

/// What is left of a step's room.
struct Budget {
    /// Jobs that wait for their next token.
    decoding: usize,
    /// Tokens of prompts.
    prompts: usize,
    /// Rows of guesses.
    guesses: usize,
}

impl<J: Runnable> Scheduler<J> {
    /// No jobs yet.
    pub fn new(blocks: Blocks, bounds: Bounds) -> Self {
        Self {
            blocks,
            bounds,
            waiting: VecDeque::new(),
            parked: Vec::new(),
            running: Vec::new(),
            arrivals: 0,
            preemptions: 0,
        }
    }

    /// Adds a job behind all others.
    pub fn submit(&mut self, job: J) {
        self.arrivals += 1;
        self.waiting.push_back(Arrived {
            job,
            arrival: self.arrivals,
        });
    }

    /// Whether there is no job.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.parked.is_empty() && self.running.is_empty()
    }

    /// Jobs that wait, be it for their readers.
    pub fn waiting(&self) -> usize {
        self.waiting.len() + self.parked.len()
    }

    /// Jobs that run, the oldest first.
    pub fn running(&mut self) -> &mut [Running<J>] {
        &mut self.running
    }

    /// All jobs, whatever their state.
    pub fn jobs(&mut self) -> impl Iterator<Item = &mut J> {
        let waiting = self.waiting.iter_mut().chain(&mut self.parked);
        let running = self.running.iter_mut().map(|running| &mut running.job);
        waiting.map(|arrived| &mut arrived.job).chain(running)
    }

    /// How often a job had to give up its blocks.
    pub fn preemptions(&self) -> u64 {
        self.preemptions
    }

    /// The blocks that leases are taken from.
    pub fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// Lets go of the jobs for which `keep` is false, whatever their state.
    pub fn retain(&mut self, mut keep: impl FnMut(&mut J) -> bool) {
        self.waiting.retain_mut(|waiting| keep(&mut waiting.job));
        self.parked.retain_mut(|parked| keep(&mut parked.job));
        self.running.retain_mut(|running| keep(&mut running.job));
    }

    /// Decides on the next step, in the order of [`running`](Self::running):
    /// at most one span of each job. The leases have room for them.
    pub fn schedule(&mut self) -> Vec<Span> {
        self.unpark();
        if !self.waiting.is_empty() {
            self.park();
        }
        self.admit();
        let decoding = |r: &&Running<J>| r.rest() == 1 && r.job.is_ready();
        let decoding = self.running.iter().filter(decoding).count();
        let mut budget = Budget {
            decoding,
            prompts: match decoding {
                0 => self.bounds.chunks.alone,
                _ => self.bounds.chunks.beside,
            },
            guesses: CHEAP_ROWS.saturating_sub(decoding),
        };
        let mut spans = Vec::with_capacity(self.running.len());
        // Those who give up their blocks are behind `index`, and have no span
        // yet.
        let mut index = 0;
        while index < self.running.len() {
            spans.extend(self.span(index, &mut budget));
            index += 1;
        }
        spans
    }

    /// The forward pass of `spans` is done and each job has taken its logits;
    /// `over` tells which jobs have nothing more to do. Takes these out.
    pub fn settle(&mut self, spans: &[Span], over: impl Fn(&J) -> bool) -> Vec<J> {
        for span in spans {
            let Running { job, lease, .. } = &mut self.running[span.index];
            lease.commit(span.len());
            // Wrong guesses are forgotten, and the last token of a text that
            // goes on is yet to be computed.
            let known = job.tokens();
            lease.truncate(match job.purpose() {
                Purpose::Continue => known.len() - 1,
                Purpose::Score | Purpose::Inspect => known.len(),
            });
            if self.bounds.reuse {
                lease.publish(known);
            }
        }
        let ended = self.running.extract_if(.., |running| over(&running.job));
        ended.map(|running| running.job).collect()
    }

    /// The forward pass of `spans` failed: takes its jobs out.
    pub fn fail(&mut self, spans: &[Span]) -> Vec<J> {
        let failed = spans.iter().rev();
        failed
            .map(|span| self.running.remove(span.index).job)
            .collect()
    }

    /// Takes the blocks and the places of jobs whose readers stall.
    fn park(&mut self) {
        let stalled = self.running.extract_if(.., |r| !r.job.is_ready());
        self.parked.extend(stalled.map(Running::stopped));
    }

    /// Lets the jobs wait for their turn whose readers read again.
    fn unpark(&mut self) {
        let ready: Vec<_> = self.parked.extract_if(.., |p| p.job.is_ready()).collect();
        ready.into_iter().for_each(|job| self.wait(job));
    }

    /// Puts a job that came earlier back into the queue, in its old place.
    fn wait(&mut self, job: Arrived<J>) {
        let place = self
            .waiting
            .partition_point(|other| other.arrival < job.arrival);
        self.waiting.insert(place, job);
    }

    /// Starts waiting jobs as long as there is room for all that they know.
    fn admit(&mut self) {
        let promised = |r: &Running<J>| {
            let all = (r.job.tokens().len() + 1).div_ceil(Blocks::SIZE);
            all.saturating_sub(r.lease.blocks().len())
        };
        let mut promised: usize = self.running.iter().map(promised).sum();
        let available = self.blocks.counts().available();
        while self.running.len() < self.bounds.running
            && let Some(first) = self.waiting.front()
        {
            let needed = self.blocks.needed_for(first.job.tokens());
            // One block more for each that runs, so that the newcomer is not
            // sent back as soon as one of them grows.
            let room = available >= promised + needed + self.running.len();
            if !room && !self.running.is_empty() {
                break;
            }
            promised += needed;
            let Some(Arrived { job, arrival }) = self.waiting.pop_front() else {
                break;
            };
            let place = self.running.partition_point(|r| r.arrival < arrival);
            let running = Running {
                job,
                arrival,
                lease: self.blocks.lease(),
                started: false,
            };
            self.running.insert(place, running);
        }
    }

    /// What the job at `index` computes in this step, if anything.
    fn span(&mut self, index: usize, budget: &mut Budget) -> Option<Span> {
        if !self.running[index].job.is_ready() {
            return None;
        }
        if self.running[index].rest() > 1 && self.reuse(index) {
            return None;
        }
        let running = &mut self.running[index];
        let (start, rest) = (running.lease.len(), running.rest());
        let count = match rest {
            1 => 1,
            _ => piece(start, rest, running.limit(budget.prompts)),
        };
        if count == 0 || !self.make_room(index, count) {
            return None;
        }
        let running = &mut self.running[index];
        if !running.started {
            running.started = true;
            running.job.started(start);
        }
        let mut guesses = 0;
        if rest == 1 && budget.decoding > 0 {
            let most = budget.guesses / budget.decoding;
            guesses = running.guess(most);
            budget.guesses -= guesses;
            budget.decoding -= 1;
        } else {
            budget.prompts -= count.min(budget.prompts);
        }
        let rows = match running.job.purpose() {
            Purpose::Score => LogitRows::All,
            Purpose::Inspect => LogitRows::None,
            Purpose::Continue if count < rest => LogitRows::None,
            Purpose::Continue if guesses > 0 => LogitRows::All,
            Purpose::Continue => LogitRows::Last,
        };
        Some(Span {
            index,
            tokens: start..start + count,
            guesses,
            rows,
        })
    }

    /// Goes on with blocks that others computed. True if an older job is about
    /// to compute the next ones: waiting for it is sooner than doing it twice.
    fn reuse(&mut self, index: usize) -> bool {
        let (older, running) = self.running.split_at_mut(index);
        let Running { job, lease, .. } = &mut running[0];
        if !self.bounds.reuse || job.purpose() != Purpose::Continue {
            return false;
        }
        lease.reuse(job.tokens());
        let end = lease.len() + Blocks::SIZE;
        let aligned = lease.len().is_multiple_of(Blocks::SIZE);
        aligned
            && end < job.tokens().len()
            && older.iter().any(|older| {
                older.job.is_ready()
                    && older.lease.len() < end
                    && older.job.tokens().get(..end) == Some(&job.tokens()[..end])
            })
    }

    /// Grows the lease of the job at `index`, at the cost of younger jobs if
    /// it must. False if the job had to give up its own blocks.
    fn make_room(&mut self, index: usize, count: usize) -> bool {
        while self.running[index].lease.grow(count).is_err() {
            let Some(youngest) = self.running.pop() else {
                break;
            };
            self.wait(youngest.stopped());
            self.preemptions += 1;
            if self.running.len() == index {
                return false;
            }
        }
        true
    }
}

impl<J: Runnable> Running<J> {
    /// The job without its blocks.
    fn stopped(self) -> Arrived<J> {
        let Self { job, arrival, .. } = self;
        Arrived { job, arrival }
    }

    /// Known tokens that are not in the cache.
    fn rest(&self) -> usize {
        self.job.tokens().len() - self.lease.len()
    }

    /// Most tokens of a piece of its prompt, given the room of the step.
    fn limit(&self, room: usize) -> usize {
        match self.job.purpose() {
            Purpose::Score => room.min(SCORE_CHUNK),
            Purpose::Continue | Purpose::Inspect => room,
        }
    }

    /// Guesses as many tokens as there is room for without taking blocks from
    /// others.
    fn guess(&mut self, most: usize) -> usize {
        let guesses = match self.job.purpose() {
            Purpose::Continue => self.job.guess(most),
            Purpose::Score | Purpose::Inspect => 0,
        };
        if guesses > 0 && self.lease.grow(1 + guesses).is_err() {
            return self.job.guess(0);
        }
        guesses
    }
}

/// How many of the `rest` tokens from `start` on are computed in a step with
/// room for `room`: all, or else whole blocks if possible, so that others can
/// go on from there.
fn piece(start: usize, rest: usize, room: usize) -> usize {
    if rest <= room {
        return rest;
    }
    let whole = (start + room) / Blocks::SIZE * Blocks::SIZE;
    if whole > start { whole - start } else { room }
}

#[cfg(test)]
mod tests;
