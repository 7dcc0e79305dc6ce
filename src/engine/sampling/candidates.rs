//! Which tokens of a row may be drawn, and the draw.
//!
//! Temperature and top-k come first and look at logits. What they leave is
//! weighed once: a token's weight is e^(logit − highest), its probability
//! relative to the likeliest token's. Top-p and min-p each keep the tokens
//! down to some weight, so that together they are one cut.

use std::ops::Range;

use crate::kernels::vector::LANES;
use crate::kernels::{select, softmax};
use crate::model::Filters;

/// What may be drawn. Its buffers serve one row after another.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    /// Where each stands in the row, ascending; empty if it's all of the row.
    places: Vec<u32>,
    /// Room for as many places as a row has.
    found: Vec<u32>,
    /// Their logits, after the temperature; empty if they are the row's own.
    logits: Vec<f32>,
    weights: Vec<f32>,
    /// Sums of blocks of weights.
    sums: Vec<f32>,
    /// The weight from which on a candidate may be drawn.
    cut: f32,
    /// Weights among which the cut of top-p lies, and room for fewer of them.
    open: [Vec<f32>; 2],
}

impl Candidates {
    /// Weighs a row that is drawn from as it is, against `highest`, and
    /// returns the sum of its weights.
    pub(super) fn weigh_all(&mut self, row: &[f32], highest: f32) -> f64 {
        self.places.clear();
        self.logits.clear();
        self.weigh(row, highest)
    }

    /// Weighs what temperature and top-k leave of a row.
    pub(super) fn weigh_filtered(&mut self, row: &[f32], filters: &Filters) {
        self.places.clear();
        self.logits.clear();
        if keeps_top_k(filters, row.len()) {
            self.top_k(row, filters);
        } else {
            self.logits.extend_from_slice(row);
            self.cool(filters.temperature);
        }
        let logits = std::mem::take(&mut self.logits);
        self.weigh(&logits, softmax::max(&logits));
        self.logits = logits;
    }

    /// Top-p and min-p.
    pub(super) fn cut(&mut self, filters: &Filters) {
        self.cut = filters.min_p;
        if filters.top_p < 1.0 {
            self.cut = self.cut.max(self.top_p(filters.top_p));
        }
        if self.cut > 0.0 {
            select::sums_from(&self.weights, self.cut, &mut self.sums);
        }
    }

    /// Inverse of the cumulative distribution, in the order of ids, at `u` in
    /// [0, 1). None if nothing can be drawn, because no logit is finite.
    pub(super) fn draw(&self, u: f64) -> Option<u32> {
        let drawn = |&weight: &f32| weight > 0.0 && weight >= self.cut;
        let mut left = u * self.total();
        for (block, &sum) in self.sums.iter().enumerate() {
            if left >= f64::from(sum) {
                left -= f64::from(sum);
                continue;
            }
            for i in self.block(block) {
                if drawn(&self.weights[i]) {
                    left -= f64::from(self.weights[i]);
                    if left < 0.0 {
                        return Some(self.place(i));
                    }
                }
            }
        }
        // Rounding left a crumb: the last possible token takes it.
        let last = self.weights.iter().rposition(drawn);
        last.map(|i| self.place(i))
    }

    /// The scores of a processed row, as transformers returns them: −∞ where
    /// a token is not kept.
    pub(super) fn scores(&self, row: &[f32]) -> Vec<f32> {
        let mut scores = vec![f32::NEG_INFINITY; row.len()];
        for (i, &weight) in self.weights.iter().enumerate() {
            if weight >= self.cut {
                let place = self.place(i) as usize;
                scores[place] = *self.logits.get(i).unwrap_or(&row[place]);
            }
        }
        scores
    }

    fn place(&self, i: usize) -> u32 {
        self.places.get(i).copied().unwrap_or(i as u32)
    }

    fn block(&self, block: usize) -> Range<usize> {
        let start = block * softmax::BLOCK;
        start..self.weights.len().min(start + softmax::BLOCK)
    }

    fn weigh(&mut self, logits: &[f32], highest: f32) -> f64 {
        self.cut = 0.0;
        // Every value is overwritten: only what a buffer grows by is filled.
        self.weights.resize(logits.len(), 0.0);
        self.sums.resize(logits.len().div_ceil(softmax::BLOCK), 0.0);
        softmax::exp_sums(logits, highest, &mut self.weights, &mut self.sums);
        self.total()
    }

    fn total(&self) -> f64 {
        self.sums.iter().map(|&sum| f64::from(sum)).sum()
    }

    fn cool(&mut self, temperature: f32) {
        if temperature != 1.0 {
            softmax::divide(&mut self.logits, temperature);
        }
    }

    /// Keeps the `k` largest logits and those equal to the last of them, all
    /// divided by the temperature.
    fn top_k(&mut self, row: &[f32], filters: &Filters) {
        let bound = lower_bound(row, filters.top_k, &mut self.weights);
        // Division can round a smaller logit up to the k-th: the bound leaves
        // room for those.
        let bound = bound - bound.abs() * 1e-6;
        self.found.resize(row.len(), 0);
        let count = select::at_least(row, bound, &mut self.found);
        self.places.extend_from_slice(&self.found[..count]);
        let logits = self.places.iter().map(|&i| row[i as usize]);
        self.logits.extend(logits);
        self.cool(filters.temperature);
        let Some(last) = filters.top_k.min(count).checked_sub(1) else {
            return;
        };
        self.weights.clear();
        self.weights.extend_from_slice(&self.logits);
        let kth = *select_nth_largest(&mut self.weights, last);
        let mut kept = self.logits.iter().map(|&logit| logit >= kth);
        self.places.retain(|_| kept.next() == Some(true));
        self.logits.retain(|&logit| logit >= kth);
    }

    /// The weight down to which top-p keeps tokens. As in transformers, the
    /// least likely are dropped while they sum up to no more than 1 − p: a sum
    /// of small numbers, exact also where p is close to one.
    ///
    /// Each round asks for the sums below a few weights, and goes on with
    /// those between the two where the limit is crossed.
    fn top_p(&mut self, p: f32) -> f32 {
        let limit = (1.0 - f64::from(p)) * self.total();
        let count = self.weights.len();
        let mut search = Search {
            range: 0..1.0f32.to_bits() + 1,
            below: 0.0,
            limit,
        };
        // Were all as small as this, their sum would not exceed the limit.
        let harmless = (limit / count as f64).min(1.0) as f32;
        let [mut open, mut fewer] = std::mem::take(&mut self.open);
        make_room(&mut open, count);
        let mut left = search.narrow(harmless.to_bits(), &self.weights, &mut open);
        make_room(&mut fewer, left);
        while left > FEW && search.range.len() > 1 {
            left = search.narrow(search.range.start, &open[..left], &mut fewer);
            std::mem::swap(&mut open, &mut fewer);
        }
        let cut = search.finish(&mut open[..left]);
        self.open = [open, fewer];
        // The likeliest token always stays.
        cut.min(1.0)
    }
}

/// Whether top-k drops anything of `columns` logits.
pub(super) fn keeps_top_k(filters: &Filters, columns: usize) -> bool {
    (1..columns).contains(&filters.top_k)
}

/// So few weights are sorted at once.
const FEW: usize = 64;

/// Looks for the smallest weight that top-p keeps.
///
/// Bits of floats that are not negative have the floats' order, and equal
/// steps in them are about equal factors.
struct Search {
    /// Bits of the weights that may still be it.
    range: Range<u32>,
    /// The sum of all weights below the range.
    below: f64,
    /// What may be dropped.
    limit: f64,
}

impl Search {
    /// Narrows the range to one of the parts into which it is divided from
    /// `start` on. `open` are the weights in the range; those that are left go
    /// to `fewer`, and their number is returned.
    fn narrow(&mut self, start: u32, open: &[f32], fewer: &mut [f32]) -> usize {
        let width = u64::from(self.range.end - start);
        // Nothing is below the range's own start: no need to ask.
        let skipped = u64::from(start == self.range.start);
        let parts = select::LIMITS as u64 + skipped;
        let limits: [u32; select::LIMITS] =
            std::array::from_fn(|i| start + (width * (i as u64 + skipped) / parts) as u32);
        let sums = select::sums_below(open, &limits.map(f32::from_bits));
        let dropped = |sum: &f64| self.below + sum <= self.limit;
        let passed = sums.iter().take_while(|sum| dropped(sum)).count();
        if let Some(&end) = limits.get(passed) {
            self.range.end = end;
        }
        if let Some(last) = passed.checked_sub(1) {
            self.range.start = limits[last];
            self.below += sums[last];
        }
        let [low, high] = [self.range.start, self.range.end].map(f32::from_bits);
        select::between(open, low, high, fewer)
    }

    /// Drops the weights in the range one by one.
    fn finish(self, open: &mut [f32]) -> f32 {
        open.sort_unstable_by(f32::total_cmp);
        let mut sum = self.below;
        let kept = open.iter().find(|&&weight| {
            sum += f64::from(weight);
            sum > self.limit
        });
        // Sums in another order may miss the limit by a rounding: then all in
        // the range goes.
        *kept.unwrap_or(&f32::from_bits(self.range.end))
    }
}

/// Lengthens a buffer, if need be, so that `count` values can be copied to it.
fn make_room(buffer: &mut Vec<f32>, count: usize) {
    buffer.resize(buffer.len().max(count + select::SLACK), 0.0);
}

/// A lower bound, close by, of the `k`-th largest value: the k-th largest of
/// the maxima of small groups.
fn lower_bound(row: &[f32], k: usize, maxima: &mut Vec<f32>) -> f32 {
    /// Groups per value that is looked for.
    const GROUPS: usize = 4;
    const LARGEST: usize = 64;
    let size = (row.len() / k / GROUPS).clamp(1, LARGEST);
    maxima.resize(row.len().div_ceil(size * LANES) * LANES, 0.0);
    select::group_maxima(row, size, maxima);
    *select_nth_largest(maxima, k - 1)
}

fn select_nth_largest(values: &mut [f32], n: usize) -> &f32 {
    values.select_nth_unstable_by(n, |a, b| b.total_cmp(a)).1
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::super::plain;
    use super::*;

    fn noise(n: usize, seed: u64) -> Vec<f32> {
        let mut rng = StdRng::seed_from_u64(seed);
        (0..n).map(|_| rng.random_range(-6.0..6.0)).collect()
    }

    const ALL: Filters = Filters {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
    };

    fn filtered(row: &[f32], filters: &Filters) -> Candidates {
        let mut candidates = Candidates::default();
        candidates.weigh_filtered(row, filters);
        candidates.cut(filters);
        candidates
    }

    /// Compares scores, of which the last that top-p keeps may differ by a
    /// rounding, and draws, which may fall on the other side of a border.
    fn compare(row: &[f32], filters: &Filters) {
        let candidates = filtered(row, filters);
        let (found, expected) = (candidates.scores(row), plain::filter(row, filters));
        let others = found.iter().zip(&expected).filter(|(a, b)| a != b).count();
        let some = usize::from(filters.top_p < 1.0 || filters.min_p > 0.0);
        assert!(others <= some, "{others} of {}: {filters:?}", row.len());
        let draws = (0..200).map(|i| (f64::from(i) + 0.37) / 200.0);
        let moved = draws.filter(|&u| candidates.draw(u) != Some(plain::draw(&expected, u) as u32));
        let moved = moved.count();
        assert!(moved <= 3, "{moved} draws of {}: {filters:?}", row.len());
    }

    #[test]
    fn filters_and_draws_are_the_plain_ones() {
        for n in [1, 2, 63, 64, 65, 1000, 50_257] {
            let row = noise(n, n as u64);
            compare(&row, &ALL);
            compare(
                &row,
                &Filters {
                    temperature: 0.7,
                    ..ALL
                },
            );
            for top_k in [1, 2, 50, n / 2, n - 1, n] {
                compare(&row, &Filters { top_k, ..ALL });
            }
            for top_p in [1e-30, 0.1, 0.5, 0.9, 0.99, 0.999, 0.999_99] {
                compare(&row, &Filters { top_p, ..ALL });
            }
            for min_p in [1e-6, 0.05, 0.7, 1.0] {
                compare(&row, &Filters { min_p, ..ALL });
            }
            compare(
                &row,
                &Filters {
                    temperature: 0.8,
                    top_k: 1000,
                    top_p: 0.95,
                    min_p: 0.01,
                },
            );
        }
    }

    #[test]
    fn equal_logits_are_kept_together() {
        let row: Vec<f32> = (0..3000).map(|i| (i % 3) as f32).collect();
        let kept = |filters: &Filters| {
            let scores = filtered(&row, filters).scores(&row);
            scores.iter().filter(|s| s.is_finite()).count()
        };
        assert_eq!(kept(&Filters { top_k: 5, ..ALL }), 1000);
        assert_eq!(kept(&Filters { top_k: 1001, ..ALL }), 2000);
        assert_eq!(kept(&Filters { top_p: 0.1, ..ALL }), 1000);
        assert_eq!(kept(&Filters { top_p: 0.8, ..ALL }), 2000);
        assert_eq!(kept(&Filters { min_p: 1.0, ..ALL }), 1000);
    }

    #[test]
    fn buffers_forget_the_row_before() {
        let mut candidates = Candidates::default();
        let rows = [noise(5000, 1), noise(300, 2), noise(5000, 3)];
        let top_k = Filters {
            top_k: 40,
            top_p: 0.9,
            ..ALL
        };
        for (row, filters) in rows.iter().zip([top_k, ALL, Filters { top_p: 0.7, ..ALL }]) {
            candidates.weigh_filtered(row, &filters);
            candidates.cut(&filters);
            assert_eq!(candidates.scores(row), filtered(row, &filters).scores(row));
        }
    }
}
