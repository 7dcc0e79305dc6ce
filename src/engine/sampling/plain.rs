//! The sampler's filters and draw written as their definitions read: sort, add
//! up in f64, compare. What the fast ones are compared with.

use crate::model::Filters;

/// Temperature, top-k, top-p and min-p: what is dropped becomes −∞.
pub(super) fn filter(row: &[f32], filters: &Filters) -> Vec<f32> {
    let mut scores: Vec<f32> = row.iter().map(|l| l / filters.temperature).collect();
    if (1..scores.len()).contains(&filters.top_k) {
        let kth = scores[descending(&scores)[filters.top_k - 1]];
        keep(&mut scores, |l| l >= kth);
    }
    if filters.top_p < 1.0 {
        top_p(&mut scores, f64::from(filters.top_p));
    }
    if filters.min_p > 0.0 {
        let threshold = scores[descending(&scores)[0]] + filters.min_p.ln();
        keep(&mut scores, |l| l >= threshold);
    }
    scores
}

/// Inverse of the cumulative distribution at `u`.
pub(super) fn draw(scores: &[f32], u: f64) -> usize {
    let weights = weights(scores);
    let mut left = u * weights.iter().sum::<f64>();
    let drawn = weights.iter().position(|weight| {
        left -= weight;
        left < 0.0
    });
    drawn.unwrap_or(scores.len() - 1)
}

fn top_p(scores: &mut [f32], p: f64) {
    let weights = weights(scores);
    let limit = (1.0 - p) * weights.iter().sum::<f64>();
    let mut order = descending(scores);
    let mut dropped = 0.0;
    while let [_, .., last] = order[..] {
        dropped += weights[last];
        if dropped > limit {
            break;
        }
        scores[last] = f32::NEG_INFINITY;
        order.pop();
    }
}

fn keep(scores: &mut [f32], wanted: impl Fn(f32) -> bool) {
    for score in scores.iter_mut().filter(|score| !wanted(**score)) {
        *score = f32::NEG_INFINITY;
    }
}

fn descending(scores: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order
}

fn weights(scores: &[f32]) -> Vec<f64> {
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |&l: &f32| f64::from(l - highest).exp();
    scores.iter().map(weight).collect()
}
