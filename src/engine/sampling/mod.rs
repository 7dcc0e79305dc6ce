//! Logits → the next token, in the order in which transformers applies its
//! processors: bias, min-tokens, repetition, presence and frequency penalties,
//! temperature, top-k, top-p, min-p.

use std::collections::{HashMap, HashSet};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::params::{Choice, Filters, SamplingParams};
use crate::kernels::softmax;

/// The sampler of one request. Its draws come from the request's own seed.
#[derive(Debug)]
pub struct Sampler {
    params: SamplingParams,
    rng: StdRng,
    /// Tokens of prompt and output: what the repetition penalty looks at.
    seen: HashSet<u32>,
    /// Occurrences in the output.
    counts: HashMap<u32, u32>,
    generated: usize,
    /// Columns of the logits that have a token.
    sampled: usize,
    scratch: Vec<f32>,
}

/// A chosen token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Chosen {
    /// Its id.
    pub id: u32,
    /// Natural log of its probability under the model alone: before bias,
    /// penalties and filters.
    pub logprob: f32,
}

impl Sampler {
    /// A sampler for a request with this prompt.
    pub fn new(params: SamplingParams, prompt: &[u32]) -> Self {
        let seed = match params.choice {
            Choice::Sample {
                seed: Some(seed), ..
            } => seed,
            Choice::Sample { seed: None, .. } => rand::random(),
            Choice::Greedy => 0,
        };
        Self {
            rng: StdRng::seed_from_u64(seed),
            seen: prompt.iter().copied().collect(),
            counts: HashMap::new(),
            generated: 0,
            sampled: usize::MAX,
            scratch: Vec::new(),
            params,
        }
    }

    /// Never chooses an id of `columns` or more: columns of a padded
    /// vocabulary, which no token stands for.
    pub fn limited_to(mut self, columns: usize) -> Self {
        self.sampled = columns;
        self
    }

    /// Chooses the next token from `logits [vocab]`, which are worked in.
    /// `eos` are the tokens that `min_tokens` holds back.
    pub fn choose(&mut self, logits: &mut [f32], eos: &[u32]) -> Chosen {
        let log_total = softmax::log_sum_exp(logits);
        self.scratch.clear();
        self.scratch.extend_from_slice(logits);
        if let Some(padding) = logits.get_mut(self.sampled..) {
            padding.fill(f32::NEG_INFINITY);
        }
        self.penalise(logits, eos);
        let id = match self.params.choice {
            Choice::Greedy => argmax(logits),
            Choice::Sample { filters, .. } => {
                filter(logits, &filters);
                draw(logits, self.rng.random())
            }
        };
        self.seen.insert(id);
        *self.counts.entry(id).or_default() += 1;
        self.generated += 1;
        Chosen {
            id,
            logprob: self.scratch[id as usize] - log_total,
        }
    }

    /// Tokens chosen so far.
    pub fn generated(&self) -> usize {
        self.generated
    }

    fn penalise(&self, logits: &mut [f32], eos: &[u32]) {
        let params = &self.params;
        for &(id, bias) in &params.logit_bias {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit += bias;
            }
        }
        if self.generated < params.min_tokens {
            for &id in eos {
                if let Some(logit) = logits.get_mut(id as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        if params.repetition_penalty != 1.0 {
            for &id in &self.seen {
                if let Some(logit) = logits.get_mut(id as usize) {
                    let penalty = params.repetition_penalty;
                    *logit = if *logit < 0.0 {
                        *logit * penalty
                    } else {
                        *logit / penalty
                    };
                }
            }
        }
        if params.presence_penalty != 0.0 || params.frequency_penalty != 0.0 {
            for (&id, &count) in &self.counts {
                if let Some(logit) = logits.get_mut(id as usize) {
                    *logit -= params.presence_penalty + params.frequency_penalty * count as f32;
                }
            }
        }
    }
}

/// The first of the largest values.
fn argmax(logits: &[f32]) -> u32 {
    let highest = softmax::max(logits);
    logits.iter().position(|&l| l == highest).unwrap_or(0) as u32
}

/// Temperature, top-k, top-p and min-p: what is dropped becomes −∞.
fn filter(logits: &mut [f32], filters: &Filters) {
    if filters.temperature != 1.0 {
        for logit in logits.iter_mut() {
            *logit /= filters.temperature;
        }
    }
    if (1..logits.len()).contains(&filters.top_k) {
        let threshold = kth_largest(logits, filters.top_k);
        keep(logits, |l| l >= threshold);
    }
    if filters.top_p < 1.0 {
        top_p(logits, filters.top_p);
    }
    if filters.min_p > 0.0 {
        let threshold = softmax::max(logits) + filters.min_p.ln();
        keep(logits, |l| l >= threshold);
    }
}

fn keep(logits: &mut [f32], wanted: impl Fn(f32) -> bool) {
    for logit in logits {
        *logit = if wanted(*logit) {
            *logit
        } else {
            f32::NEG_INFINITY
        };
    }
}

/// The `k`-th largest value, 1 ≤ k ≤ len.
///
/// The k-th largest of the maxima of short runs is a lower bound for it, and
/// few values reach that bound: only those are partitioned.
fn kth_largest(values: &[f32], k: usize) -> f32 {
    let run = (values.len() / (4 * k)).clamp(1, 64);
    let mut maxima: Vec<f32> = values.chunks(run).map(softmax::max).collect();
    let descending = |a: &f32, b: &f32| b.total_cmp(a);
    let bound = if maxima.len() < k {
        f32::NEG_INFINITY
    } else {
        *maxima.select_nth_unstable_by(k - 1, descending).1
    };
    let mut candidates: Vec<f32> = values.iter().copied().filter(|&v| v >= bound).collect();
    *candidates.select_nth_unstable_by(k - 1, descending).1
}

/// Keeps the most likely tokens up to and including the one with which their
/// probability reaches `p`; never fewer than one.
///
/// Probabilities are summed by ranges of logits first, so that only the range
/// in which the sum crosses `p` has to be sorted.
fn top_p(logits: &mut [f32], p: f32) {
    const RANGES: usize = 256;
    const PER_UNIT: f32 = 8.0;
    let highest = softmax::max(logits);
    let last = (RANGES - 1) as f32;
    // A cast saturates, so that −∞ falls into the last range.
    let ranges: Vec<u8> = logits
        .iter()
        .map(|l| ((highest - l) * PER_UNIT).min(last) as u8)
        .collect();
    let mut probabilities = logits.to_vec();
    softmax::exp_sum(&mut probabilities, highest);
    let mut sums = [0.0f64; RANGES];
    for (&range, &e) in ranges.iter().zip(&probabilities) {
        sums[usize::from(range)] += f64::from(e);
    }
    // The total of the same sums: another order of adding could leave it, and
    // with it a limit near it, out of their reach.
    let limit = f64::from(p) * sums.iter().sum::<f64>();
    let mut before = 0.0;
    let mut crossing = 0;
    while crossing + 1 < RANGES && before + sums[crossing] < limit {
        before += sums[crossing];
        crossing += 1;
    }
    let mut inside: Vec<(f32, f32)> = ranges
        .iter()
        .enumerate()
        .filter(|(i, range)| usize::from(**range) == crossing && probabilities[*i] > 0.0)
        .map(|(i, _)| (logits[i], probabilities[i]))
        .collect();
    inside.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
    // Sums in another order may miss the limit by a rounding: then the whole
    // range counts.
    let mut threshold = highest - crossing as f32 / PER_UNIT;
    for (logit, e) in inside {
        if before >= limit {
            break;
        }
        threshold = logit;
        before += f64::from(e);
    }
    keep(logits, |l| l >= threshold);
}

/// Inverse of the cumulative distribution, in the order of ids, at `u` in
/// [0, 1).
fn draw(logits: &mut [f32], u: f64) -> u32 {
    const RUN: usize = 64;
    let highest = softmax::max(logits);
    softmax::exp_sum(logits, highest);
    let sums: Vec<f64> = logits
        .chunks(RUN)
        .map(|run| f64::from(softmax::total(run)))
        .collect();
    let mut left = u * sums.iter().sum::<f64>();
    let mut last = 0;
    for (i, (run, sum)) in logits.chunks(RUN).zip(sums).enumerate() {
        if left >= sum {
            left -= sum;
            continue;
        }
        for (j, &e) in run.iter().enumerate().filter(|(_, e)| **e > 0.0) {
            last = i * RUN + j;
            left -= f64::from(e);
            if left < 0.0 {
                return last as u32;
            }
        }
    }
    // Rounding left a crumb: the last possible token takes it.
    let end = logits.iter().rposition(|&e| e > 0.0);
    end.unwrap_or(last) as u32
}

/// The processed scores, as transformers' processors return them; for tests
/// that compare the two.
#[doc(hidden)]
pub fn processed_scores(params: SamplingParams, prompt: &[u32], logits: &[f32]) -> Vec<f32> {
    let mut scores = logits.to_vec();
    let choice = params.choice;
    Sampler::new(params, prompt).penalise(&mut scores, &[]);
    if let Choice::Sample { filters, .. } = choice {
        filter(&mut scores, &filters);
    }
    scores
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};
    use candle_transformers::generation::{LogitsProcessor, Sampling};

    use super::*;
    use crate::engine::params::{SamplingOptions, Strategy};

    fn noise(n: usize, seed: u64) -> Vec<f32> {
        let mut rng = StdRng::seed_from_u64(seed);
        (0..n).map(|_| rng.random_range(-4.0..4.0)).collect()
    }

    fn sampled(change: impl FnOnce(&mut SamplingOptions)) -> SamplingParams {
        let mut options = SamplingOptions {
            strategy: Strategy::TopP,
            ..Default::default()
        };
        change(&mut options);
        SamplingParams::new(options).unwrap()
    }

    fn kept(params: SamplingParams, logits: &[f32]) -> HashSet<u32> {
        let scores = processed_scores(params, &[], logits);
        (0..scores.len() as u32)
            .filter(|&i| scores[i as usize].is_finite())
            .collect()
    }

    /// Which tokens candle-transformers' processor ever returns.
    fn oracle(sampling: Sampling, logits: &[f32]) -> HashSet<u32> {
        let logits = Tensor::new(logits, &Device::Cpu).unwrap();
        let mut processor = LogitsProcessor::from_sampling(1, sampling);
        (0..4000)
            .map(|_| processor.sample(&logits).unwrap())
            .collect()
    }

    #[test]
    fn top_p_just_below_one_keeps_almost_all() {
        for seed in 0..20 {
            let logits = noise(50_257, seed);
            for p in [0.999_99, 0.999_999_9, 0.999_999_91] {
                let count = kept(sampled(|o| o.top_p = Some(p)), &logits).len();
                assert!(count > 49_000, "seed {seed}, top_p {p}: {count} kept");
            }
        }
    }

    #[test]
    fn a_tiny_temperature_is_greedy() {
        for temperature in [1e-29, 1e-31, 1e-38, 1e-44] {
            let params = sampled(|o| o.temperature = Some(temperature));
            let chosen = Sampler::new(params, &[]).choose(&mut [-90.0, 80.0, 90.0, 10.0], &[]);
            assert_eq!(chosen.id, 2, "temperature {temperature}");
        }
    }

    #[test]
    fn filters_keep_what_candle_transformers_samples() {
        let logits = noise(40, 3);
        let k = kept(sampled(|o| o.k = Some(5)), &logits);
        assert_eq!(
            k,
            oracle(
                Sampling::TopK {
                    k: 5,
                    temperature: 1.0
                },
                &logits
            )
        );
        let p = kept(sampled(|o| o.top_p = Some(0.5)), &logits);
        assert_eq!(
            p,
            oracle(
                Sampling::TopP {
                    p: 0.5,
                    temperature: 1.0
                },
                &logits
            )
        );
        let mut greedy = LogitsProcessor::from_sampling(1, Sampling::ArgMax);
        let expected = greedy
            .sample(&Tensor::new(&*logits, &Device::Cpu).unwrap())
            .unwrap();
        assert_eq!(argmax(&logits), expected);
    }

    #[test]
    fn kth_largest_is_that_of_a_sort() {
        for n in [1, 2, 63, 64, 65, 1000, 50_257] {
            let values = noise(n, n as u64);
            let mut sorted = values.clone();
            sorted.sort_unstable_by(|a, b| b.total_cmp(a));
            for k in [1, 2, 50, n / 2, n]
                .into_iter()
                .filter(|k| (1..=n).contains(k))
            {
                assert_eq!(kth_largest(&values, k), sorted[k - 1], "{k} of {n}");
            }
        }
    }

    #[test]
    fn top_p_is_that_of_a_sort() {
        for (seed, p) in [(1, 0.1), (2, 0.5), (3, 0.9), (4, 0.999), (5, 1e-6)] {
            let logits = noise(5000, seed);
            let mut order: Vec<usize> = (0..logits.len()).collect();
            order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
            let total: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
            let mut before = 0.0;
            let expected: HashSet<u32> = order
                .iter()
                .take_while(|&&i| {
                    let wanted = before < p * total;
                    before += f64::from(logits[i]).exp();
                    wanted
                })
                .map(|&i| i as u32)
                .collect();
            let found = kept(sampled(|o| o.top_p = Some(p)), &logits);
            assert!(
                found.symmetric_difference(&expected).count() <= 1,
                "p = {p}"
            );
        }
    }

    #[test]
    fn draws_follow_the_distribution_and_the_seed() {
        let logits = [0.0f32, f32::NEG_INFINITY, 1.0, 2.0];
        let total: f64 = [0.0f64, 1.0, 2.0].iter().map(|l| l.exp()).sum();
        let mut counts = [0.0; 4];
        let params = sampled(|o| o.seed = Some(7));
        let mut sampler = Sampler::new(params.clone(), &[]);
        let ids: Vec<u32> = (0..20_000)
            .map(|_| sampler.choose(&mut logits.to_vec(), &[]).id)
            .collect();
        ids.iter()
            .for_each(|&id| counts[id as usize] += 1.0 / ids.len() as f64);
        assert_eq!(counts[1], 0.0);
        for i in [0, 2, 3] {
            assert!((counts[i] - f64::from(logits[i]).exp() / total).abs() < 0.015);
        }
        let mut again = Sampler::new(params, &[]);
        assert!(
            ids.iter()
                .all(|&id| again.choose(&mut logits.to_vec(), &[]).id == id)
        );
    }

    #[test]
    fn padding_is_never_chosen_but_counts_in_logprobs() {
        let params = SamplingParams::new(SamplingOptions::default()).unwrap();
        let mut sampler = Sampler::new(params, &[]).limited_to(2);
        let chosen = sampler.choose(&mut [0.0, 1.0, 3.0], &[]);
        assert_eq!(chosen.id, 1);
        let total: f32 = [0.0f32, 1.0, 3.0].iter().map(|l| l.exp()).sum();
        assert!((chosen.logprob - (1.0 - total.ln())).abs() < 1e-6);
    }

    #[test]
    fn min_tokens_hold_the_end_back_and_logprobs_are_the_models() {
        let options = SamplingOptions {
            min_tokens: 1,
            ..Default::default()
        };
        let mut sampler = Sampler::new(SamplingParams::new(options).unwrap(), &[]);
        let first = sampler.choose(&mut [5.0, 1.0], &[0]);
        let second = sampler.choose(&mut [5.0, 1.0], &[0]);
        assert_eq!((first.id, second.id), (1, 0));
        assert!((first.logprob - (-4.0 - (-4.0f32).exp().ln_1p())).abs() < 1e-6);
    }
}
