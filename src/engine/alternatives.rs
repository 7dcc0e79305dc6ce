//! What else could have come: the most likely tokens at a place.

use serde::Serialize;

/// A token that could have come.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Alternative {
    /// Its id.
    pub token_id: u32,
    /// Natural log of its probability under the model alone.
    pub logprob: f32,
}

impl Alternative {
    /// The `count` most likely tokens by `logits [vocab]`, the most likely
    /// first, of equal ones the lower id first. `log_total` is the log of the
    /// sum of all exponentials.
    pub(super) fn most_likely(logits: &[f32], log_total: f32, count: usize) -> Vec<Self> {
        // Most requests ask for none.
        if count == 0 {
            return Vec::new();
        }
        let mut top: Vec<(u32, f32)> = Vec::with_capacity(count + 1);
        for (id, &logit) in logits.iter().enumerate() {
            let full = top.len() == count;
            if full && top.last().is_some_and(|&(_, lowest)| logit <= lowest) {
                continue;
            }
            let place = top.partition_point(|&(_, other)| other >= logit);
            top.insert(place, (id as u32, logit));
            top.truncate(count);
        }
        let alternative = |(token_id, logit)| Self {
            token_id,
            logprob: logit - log_total,
        };
        top.into_iter().map(alternative).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_likely_come_first_and_ties_by_id() {
        let logits = [1.0, 3.0, -1.0, 3.0, 2.0];
        let ids = |count| {
            let top = Alternative::most_likely(&logits, 0.5, count);
            assert!(
                top.iter()
                    .all(|a| a.logprob == logits[a.token_id as usize] - 0.5)
            );
            top.iter().map(|a| a.token_id).collect::<Vec<_>>()
        };
        assert!(ids(0).is_empty());
        assert_eq!(ids(1), [1]);
        assert_eq!(ids(3), [1, 3, 4]);
        assert_eq!(ids(9), [1, 3, 4, 0, 2]);
    }
}
