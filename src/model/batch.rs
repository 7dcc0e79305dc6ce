//! What one forward pass computes: new tokens of several sequences.

use std::ops::Range;

use super::blocks::{Blocks, Lease};
use super::kv_cache::KvCache;
use super::pick::Wish;
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
    /// What is wanted of each of these.
    pub(super) wishes: Vec<Wish>,
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
        let wanted = match logits {
            LogitRows::None => 0,
            LogitRows::Last => 1,
            LogitRows::All => tokens.len(),
        };
        self.push_wishes(tokens, lease, &vec![Wish::Logits; wanted])
    }

    /// Adds the next `tokens` of the sequence that `lease` belongs to, of
    /// which as many of the last get logits as there are `wishes`.
    ///
    /// # Errors
    /// As [`push`](Self::push), and if there are more wishes than tokens.
    pub fn push_wishes(
        &mut self,
        tokens: &[u32],
        lease: &Lease,
        wishes: &[Wish],
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
        let Some(unwanted) = tokens.len().checked_sub(wishes.len()) else {
            return Err(ModelError::Batch("more wishes than tokens".to_owned()));
        };
        let same = |span: &Span| span.lease == lease.number() && span.owner.same(lease.owner());
        if self.spans.iter().any(same) {
            return Err(ModelError::Batch("one sequence twice".to_owned()));
        }
        let start = self.tokens.len();
        let rows = start..start + tokens.len();
        self.tokens.extend_from_slice(tokens);
        self.positions
            .extend((past..past + tokens.len()).map(|p| p as u32));
        let wanted = rows.start + unwanted..rows.end;
        self.logit_rows.extend(wanted.map(|row| row as u32));
        self.wishes.extend_from_slice(wishes);
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

    /// What is wanted of each of these.
    pub fn wishes(&self) -> &[Wish] {
        &self.wishes
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
