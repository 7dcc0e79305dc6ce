//! Guesses of what comes next, copied from what came before.
//!
//! Prompt-lookup decoding (Saxena, 2023): where the last tokens stood earlier
//! in the text, what followed them then is tried again. One forward pass
//! checks all guesses; since a row has the same bits in any batch, what is
//! emitted is what would have been emitted without them, only sooner.

use std::collections::HashMap;

/// Whether tokens are guessed ahead. The output is the same either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Speculation {
    /// Guesses are copied from earlier in the text.
    #[default]
    PromptLookup,
    /// One token for each forward pass.
    Off,
}

/// Tokens that must have stood there before in this order.
const NGRAM: usize = 3;

/// Most tokens of a draft: with the known token before them they fill one
/// group of rows of the widest kernels, and cost little more than one row.
pub const LONGEST: usize = 11;

/// What a guessed row costs of a forward pass with one row: about the most
/// that was measured, in q4. A draft pays if more of it is right.
const COST: f64 = 0.3;

/// Most steps without a draft after drafts that did not pay.
const LONGEST_PAUSE: usize = 63;

/// Makes the drafts of one text.
#[derive(Debug)]
pub struct Drafter {
    /// For each n-gram the position that last followed it.
    followers: HashMap<[u32; NGRAM], usize>,
    /// Positions entered in `followers`.
    indexed: usize,
    /// Length of the next draft.
    length: usize,
    /// Steps without a draft after the last one that did not pay.
    pause: usize,
    /// Those of them still to come.
    waiting: usize,
}

impl Default for Drafter {
    fn default() -> Self {
        Self {
            followers: HashMap::new(),
            indexed: NGRAM,
            length: 2,
            pause: 0,
            waiting: 0,
        }
    }
}

impl Drafter {
    /// Guesses at most `most` tokens to come after `tokens`, which must begin
    /// with those of the call before.
    pub fn draft(&mut self, tokens: &[u32], most: usize) -> Vec<u32> {
        self.index(tokens);
        if self.waiting > 0 {
            self.waiting -= 1;
            return Vec::new();
        }
        let Some(&start) = tokens
            .last_chunk()
            .and_then(|ngram| self.followers.get(ngram))
        else {
            return Vec::new();
        };
        // Past the end the draft goes on as it began: a text that repeats
        // itself with a short period can still be guessed far ahead.
        let count = self.length.min(most);
        tokens[start..]
            .iter()
            .copied()
            .cycle()
            .take(count)
            .collect()
    }

    /// Learns that `right` of `drafted` guesses were right.
    pub fn learn(&mut self, drafted: usize, right: usize) {
        if drafted == 0 {
            return;
        }
        self.length = if right == drafted {
            (2 * self.length).min(LONGEST)
        } else {
            right.max(1)
        };
        self.pause = if right as f64 > COST * drafted as f64 {
            0
        } else {
            (2 * self.pause + 1).min(LONGEST_PAUSE)
        };
        self.waiting = self.pause;
    }

    /// Enters all n-grams that have a follower.
    fn index(&mut self, tokens: &[u32]) {
        let first = self.indexed - NGRAM;
        for (i, window) in tokens.windows(NGRAM + 1).enumerate().skip(first) {
            if let Some(ngram) = window.first_chunk() {
                self.followers.insert(*ngram, i + NGRAM);
            }
        }
        self.indexed = self.indexed.max(tokens.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_last_time_is_guessed() {
        let mut drafter = Drafter::default();
        assert!(drafter.draft(&[], 9).is_empty());
        assert!(drafter.draft(&[1, 2, 3], 9).is_empty());
        let text = [1, 2, 3, 4, 5, 6, 1, 2, 3];
        assert_eq!(drafter.draft(&text, 9), [4, 5]);
        assert_eq!(drafter.draft(&text, 1), [4]);
        // The last occurrence counts.
        let text = [1, 2, 3, 4, 5, 6, 1, 2, 3, 7, 1, 2, 3];
        assert_eq!(drafter.draft(&text, 9), [7, 1]);
    }

    #[test]
    fn a_short_period_is_guessed_far_ahead() {
        let mut drafter = Drafter::default();
        let text = [8, 9, 8, 9, 8, 9];
        for expected in [2, 4, 8, 11, 11] {
            let draft = drafter.draft(&text, 50);
            assert_eq!(draft.len(), expected);
            assert!(draft.iter().zip([8, 9].iter().cycle()).all(|(a, b)| a == b));
            drafter.learn(draft.len(), draft.len());
        }
    }

    #[test]
    fn misses_make_drafts_short_and_rare() {
        let mut drafter = Drafter::default();
        let text = [5; 20];
        let mut drafted = 0;
        for _ in 0..2000 {
            let draft = drafter.draft(&text, 50);
            drafted += draft.len();
            drafter.learn(draft.len(), 0);
        }
        assert!((20..60).contains(&drafted), "{drafted} guesses");
        // One success, and it tries again at once.
        while drafter.draft(&text, 50).is_empty() {}
        drafter.learn(1, 1);
        assert_eq!(drafter.draft(&text, 50).len(), 2);
    }
}
