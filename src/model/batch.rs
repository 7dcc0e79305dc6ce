//! What one forward pass computes: new tokens of several sequences.

use std::ops::Range;

use super::blocks::{Blocks, Lease};
use super::kv_cache::KvCache;
use super::workspace::Values;
use super::{Config, ModelError};

/// Which rows of a span get logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitRows {
    /// None: a chunk of a prompt that goes on.
    None,
    /// The last one: the next token is to be sampled.
    Last,
    /// All of them: the tokens are to be scored.
    All,
}

/// A ragged batch: the spans of its sequences lie one after another, one row
/// per token.
#[derive(Debug, Default)]
pub struct Batch {
    pub(super) tokens: Vec<u32>,
    pub(super) positions: Vec<u32>,
    pub(super) spans: Vec<Span>,
    /// Rows that get logits, in the order of the batch.
    pub(super) logit_rows: Vec<u32>,
}

/// The new tokens of one sequence.
#[derive(Debug)]
pub(super) struct Span {
    pub(super) rows: Range<usize>,
    /// Tokens that were in the cache before.
    pub(super) past: usize,
    pub(super) blocks: Vec<u32>,
    pub(super) owner: Blocks,
    /// Number of the lease.
    lease: u64,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next `tokens` of the sequence that `lease` belongs to.
    ///
    /// # Errors
    /// [`ModelError::Batch`] if there are no tokens, the lease was not grown
    /// for them, or its sequence is in the batch already.
    pub fn push(
        &mut self,
        tokens: &[u32],
        lease: &Lease,
        logits: LogitRows,
    ) -> Result<(), ModelError> {
        let past = lease.len();
        if tokens.is_empty() {
            return Err(ModelError::Batch("a span without tokens".to_owned()));
        }
        if past + tokens.len() > lease.capacity() {
            return Err(ModelError::Batch(format!(
                "a span of {} tokens after {past}, but its lease has room for {} in all",
                tokens.len(),
                lease.capacity()
            )));
        }
        let same = |span: &Span| span.lease == lease.number() && span.owner.same(lease.owner());
        if self.spans.iter().any(same) {
            return Err(ModelError::Batch("one sequence twice".to_owned()));
        }
        let start = self.tokens.len();
        let rows = start..start + tokens.len();
        self.tokens.extend_from_slice(tokens);
        self.positions
            .extend((past..past + tokens.len()).map(|p| p as u32));
        match logits {
            LogitRows::None => {}
            LogitRows::Last => self.logit_rows.push(rows.end as u32 - 1),
            LogitRows::All => self.logit_rows.extend(rows.clone().map(|r| r as u32)),
        }
        self.spans.push(Span {
            rows,
            past,
            blocks: lease.blocks().to_vec(),
            owner: lease.owner().clone(),
            lease: lease.number(),
        });
        Ok(())
    }

    /// Whether a model of this shape can compute it with this cache.
    ///
    /// # Errors
    /// [`ModelError::Batch`] for an id outside the vocabulary, a position
    /// outside the context or a lease on another cache.
    pub(super) fn check(&self, config: &Config, cache: &KvCache) -> Result<(), ModelError> {
        let fail = |reason: String| Err(ModelError::Batch(reason));
        let (vocab, context) = (config.vocab_size, config.n_positions);
        if self.is_empty() {
            return fail("no tokens".to_owned());
        }
        if let Some(id) = self.tokens.iter().find(|&&id| id as usize >= vocab) {
            return fail(format!(
                "token id {id} is not below the vocabulary's size, {vocab}"
            ));
        }
        if let Some(p) = self.positions.iter().find(|&&p| p as usize >= context) {
            return fail(format!(
                "position {p} is outside the context of {context} tokens"
            ));
        }
        if !self
            .spans
            .iter()
            .all(|span| cache.blocks().same(&span.owner))
        {
            return fail("a lease of another cache".to_owned());
        }
        Ok(())
    }

    /// The new tokens of all sequences, `[rows]`.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Rows that get logits, in the order of the batch.
    pub fn logit_rows(&self) -> &[u32] {
        &self.logit_rows
    }

    /// Whether it is the next token of each sequence, and all get logits.
    #[cfg(feature = "cuda")]
    pub(super) fn is_a_step(&self) -> bool {
        self.spans.len() == self.len() && self.logit_rows.len() == self.len()
    }

    /// Rows: new tokens of all sequences.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether nothing was pushed.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }
}

/// Logits of the rows that asked for them, `[rows, vocab_size]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Logits {
    pub(super) values: Values,
    pub(super) vocab_size: usize,
}

impl Logits {
    /// Logits `[rows, vocab_size]`.
    ///
    /// # Errors
    /// [`ModelError::Batch`] if these are no whole rows.
    pub fn new(values: Vec<f32>, vocab_size: usize) -> Result<Self, ModelError> {
        if vocab_size == 0 || !values.len().is_multiple_of(vocab_size) {
            let len = values.len();
            return Err(ModelError::Batch(format!(
                "{len} logits are no rows of {vocab_size}"
            )));
        }
        let values = values.into();
        Ok(Self { values, vocab_size })
    }

    /// Number of rows, in the order of the batch.
    pub fn rows(&self) -> usize {
        self.values.len() / self.vocab_size
    }

    /// The logits of one row, `[vocab_size]`.
    ///
    /// # Panics
    /// If `row` is not below [`rows`](Self::rows).
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.vocab_size..][..self.vocab_size]
    }

    /// The same, for a sampler to work in.
    ///
    /// # Panics
    /// If `row` is not below [`rows`](Self::rows).
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.values[row * self.vocab_size..][..self.vocab_size]
    }

    /// All rows, each for a sampler of its own to work in.
    pub fn rows_mut(&mut self) -> impl Iterator<Item = &mut [f32]> {
        self.values.chunks_mut(self.vocab_size)
    }
}
