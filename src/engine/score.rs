//! How likely the model finds a given text.

use serde::Serialize;

use super::alternatives::Alternative;
use crate::kernels::softmax;

/// The score of one token of a text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenScore {
    /// The token.
    pub id: u32,
    /// Natural log of its probability after the tokens before it; none for
    /// the first.
    pub logprob: Option<f32>,
    /// Its place among all tokens by probability, from 1; ties share the
    /// lower number. None for the first.
    pub rank: Option<usize>,
    /// The most likely tokens at its place, as many as were asked for.
    #[serde(skip)]
    pub top: Vec<Alternative>,
}

impl TokenScore {
    /// The first token of a text, which nothing predicts.
    pub fn first(id: u32) -> Self {
        Self {
            id,
            logprob: None,
            rank: None,
            top: Vec::new(),
        }
    }

    /// Scores `id` by the logits `[vocab]` of the position before it, beside
    /// `alternatives` others.
    pub fn new(logits: &[f32], id: u32, alternatives: usize) -> Self {
        let logit = logits[id as usize];
        let higher = logits.iter().filter(|&&l| l > logit).count();
        let log_total = softmax::log_sum_exp(logits);
        Self {
            id,
            logprob: Some(logit - log_total),
            rank: Some(higher + 1),
            top: Alternative::most_likely(logits, log_total, alternatives),
        }
    }
}

/// Sum of the log probabilities of a text's tokens.
pub fn logprob_sum(scores: &[TokenScore]) -> f64 {
    let logprobs = scores.iter().filter_map(|score| score.logprob);
    // No tokens sum to −0.
    logprobs.map(f64::from).sum::<f64>() + 0.0
}

/// exp(−sum / (tokens − 1)) of the log probabilities; none for one token.
pub fn perplexity(scores: &[TokenScore]) -> Option<f64> {
    let predicted = scores.len().saturating_sub(1);
    (predicted > 0).then(|| (-logprob_sum(scores) / predicted as f64).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_share_the_lower_rank() {
        let logits = [1.0, 3.0, 3.0, 0.0];
        let rank = |id| TokenScore::new(&logits, id, 0).rank.unwrap();
        assert_eq!([rank(0), rank(1), rank(2), rank(3)], [3, 1, 1, 4]);
    }

    #[test]
    fn perplexity_of_a_uniform_model_is_its_vocabulary() {
        let scores = [
            TokenScore::first(0),
            TokenScore::new(&[0.0; 8], 3, 0),
            TokenScore::new(&[0.0; 8], 5, 0),
        ];
        assert!((logprob_sum(&scores) + 2.0 * 8f64.ln()).abs() < 1e-6);
        assert!((perplexity(&scores).unwrap() - 8.0).abs() < 1e-5);
        assert_eq!(perplexity(&scores[..1]), None);
        assert!(logprob_sum(&scores[..1]).is_sign_positive());
    }
}
