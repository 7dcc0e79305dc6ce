//! What the next forward pass computes. Pure: no tensors, no clock, no channels.

use std::ops::Range;

/// Most tokens of a prompt in one forward pass: a cancelled request frees the
/// engine after at most that much work.
pub const PREFILL_CHUNK: usize = 256;

/// Most tokens scored in one forward pass: each needs a row of logits.
pub const SCORE_CHUNK: usize = 64;

/// The next piece of a sequence to compute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Tokens of the sequence, by position.
    pub tokens: Range<usize>,
    /// Whether they are the last known ones, so that the next can be chosen.
    pub last: bool,
}

/// The next step of a sequence of `known` tokens, `computed` of which are in
/// the cache; `None` when all are.
pub fn next_step(known: usize, computed: usize, chunk: usize) -> Option<Step> {
    let end = known.min(computed + chunk);
    (computed < known).then_some(Step {
        tokens: computed..end,
        last: end == known,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_cover_every_token_once_in_order() {
        for known in 0..40 {
            for chunk in 1..10 {
                let mut computed = 0;
                while let Some(step) = next_step(known, computed, chunk) {
                    assert_eq!(step.tokens.start, computed);
                    assert!((1..=chunk).contains(&step.tokens.len()));
                    assert_eq!(step.last, step.tokens.end == known);
                    computed = step.tokens.end;
                }
                assert_eq!(computed, known);
            }
        }
    }
}
