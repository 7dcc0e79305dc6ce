//! Logits → the next token, in the order in which transformers applies its
//! processors: bias, min-tokens, repetition, presence and frequency penalties,
//! temperature, top-k, top-p, min-p.

use std::collections::{HashMap, HashSet};

use super::alternatives::Alternative;
use super::params::{Choice, SamplingParams};
use crate::kernels::{select, softmax};
use candidates::{Candidates, keeps_top_k};
use draws::Draws;

mod candidates;
mod draws;
#[cfg(test)]
mod plain;
mod wishes;

/// The sampler of one request. Its draws come from the request's own seed.
#[derive(Debug)]
pub struct Sampler {
    params: SamplingParams,
    draws: Draws,
    /// Tokens of prompt and output: what the repetition penalty looks at.
    seen: HashSet<u32>,
    /// Occurrences in the output.
    counts: HashMap<u32, u32>,
    generated: usize,
    /// Columns of the logits that have a token.
    sampled: usize,
    candidates: Candidates,
    /// Logits that were changed, with what they were; the first entry of a
    /// token is the model's.
    changed: Vec<(u32, f32)>,
}

/// A chosen token.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// Its id.
    pub id: u32,
    /// Natural log of its probability under the model alone: before bias,
    /// penalties and filters.
    pub logprob: f32,
    /// The most likely tokens, as many as were asked for.
    pub top: Vec<Alternative>,
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
            draws: Draws::new(seed),
            seen: prompt.iter().copied().collect(),
            counts: HashMap::new(),
            generated: 0,
            sampled: usize::MAX,
            candidates: Candidates::default(),
            changed: Vec::new(),
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
        let columns = self.sampled.min(logits.len());
        let (row, padding) = logits.split_at_mut(columns);
        let highest = softmax::max(row);
        let shift = highest.max(softmax::max(padding));
        // The exponentials of the log probability are the draw's weights too,
        // if nothing comes between.
        let direct = highest == shift && self.draws_directly(columns);
        let total = if direct {
            self.candidates.weigh_all(row, shift)
        } else {
            softmax::exp_total(row, shift)
        };
        let log_total = softmax::log_total(shift, total + softmax::exp_total(padding, shift));
        let top = Alternative::most_likely(row, log_total, self.params.logprobs);
        self.penalise(row, eos);
        let id = match self.params.choice {
            Choice::Greedy if self.changed.is_empty() => first(row, highest),
            Choice::Greedy => first(row, softmax::max(row)),
            Choice::Sample { filters, .. } => {
                if !direct {
                    self.candidates.weigh_filtered(row, &filters);
                }
                self.candidates.cut(&filters);
                let drawn = self.candidates.draw(self.draws.next());
                drawn.unwrap_or_else(|| first(row, highest))
            }
        };
        let logprob = self.model_logit(row, id) - log_total;
        self.count(id);
        Chosen { id, logprob, top }
    }

    /// Notes a chosen token.
    fn count(&mut self, id: u32) {
        self.seen.insert(id);
        *self.counts.entry(id).or_default() += 1;
        self.generated += 1;
    }

    /// Tokens chosen so far.
    pub fn generated(&self) -> usize {
        self.generated
    }

    /// Whether tokens are drawn from the model's own distribution, with no
    /// bias, penalty or temperature, and not from some of its logits only.
    fn draws_directly(&self, columns: usize) -> bool {
        match self.params.choice {
            Choice::Greedy => false,
            Choice::Sample { filters, .. } => {
                self.params.leaves_logits(self.generated)
                    && filters.temperature == 1.0
                    && !keeps_top_k(&filters, columns)
            }
        }
    }

    /// A token's logit before it was changed.
    fn model_logit(&self, row: &[f32], id: u32) -> f32 {
        let before = self.changed.iter().find(|(changed, _)| *changed == id);
        before.map_or(row[id as usize], |(_, logit)| *logit)
    }

    /// Bias, min-tokens and the penalties.
    fn penalise(&mut self, row: &mut [f32], eos: &[u32]) {
        let params = &self.params;
        self.changed.clear();
        let mut row = Changing {
            row,
            changed: &mut self.changed,
        };
        for &(id, bias) in &params.logit_bias {
            row.change(id, |logit| logit + bias);
        }
        if self.generated < params.min_tokens {
            for &id in eos {
                row.change(id, |_| f32::NEG_INFINITY);
            }
        }
        let penalty = params.repetition_penalty;
        if penalty != 1.0 {
            for &id in &self.seen {
                row.change(id, |logit| {
                    if logit < 0.0 {
                        logit * penalty
                    } else {
                        logit / penalty
                    }
                });
            }
        }
        if params.presence_penalty != 0.0 || params.frequency_penalty != 0.0 {
            for (&id, &count) in &self.counts {
                let penalty = params.presence_penalty + params.frequency_penalty * count as f32;
                row.change(id, |logit| logit - penalty);
            }
        }
    }
}

/// A row of which few logits change, and those as they were.
struct Changing<'a> {
    row: &'a mut [f32],
    changed: &'a mut Vec<(u32, f32)>,
}

impl Changing<'_> {
    /// Replaces a token's logit, if it has one.
    fn change(&mut self, id: u32, new: impl Fn(f32) -> f32) {
        if let Some(logit) = self.row.get_mut(id as usize) {
            self.changed.push((id, *logit));
            *logit = new(*logit);
        }
    }
}

/// The first of the largest values, `highest`; 0 if there is none.
fn first(row: &[f32], highest: f32) -> u32 {
    select::position(row, highest).unwrap_or(0) as u32
}

/// The processed scores, as transformers' processors return them; for tests
/// that compare the two.
#[doc(hidden)]
pub fn processed_scores(params: SamplingParams, prompt: &[u32], logits: &[f32]) -> Vec<f32> {
    let mut row = logits.to_vec();
    let choice = params.choice;
    let mut sampler = Sampler::new(params, prompt);
    sampler.penalise(&mut row, &[]);
    let Choice::Sample { filters, .. } = choice else {
        return row;
    };
    sampler.candidates.weigh_filtered(&row, &filters);
    sampler.candidates.cut(&filters);
    sampler.candidates.scores(&row)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};
    use candle_transformers::generation::{LogitsProcessor, Sampling};
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

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
        assert_eq!(first(&logits, softmax::max(&logits)), expected);
    }

    #[test]
    fn changed_logits_leave_the_logprob_alone() {
        let params = sampled(|o| {
            o.logit_bias = vec![(1, 100.0), (1, -1.0)];
            o.repetition_penalty = Some(1.5);
            o.temperature = Some(0.5);
        });
        let chosen = Sampler::new(params, &[1]).choose(&mut [1.0, 2.0, 3.0], &[]);
        let total: f32 = [1.0f32, 2.0, 3.0].iter().map(|l| l.exp()).sum();
        assert_eq!(chosen.id, 1);
        assert!((chosen.logprob - (2.0 - total.ln())).abs() < 1e-6);
    }

    #[test]
    fn rows_without_a_finite_logit_do_no_harm() {
        const NAN: f32 = f32::NAN;
        const INF: f32 = f32::INFINITY;
        let all = |o: &mut SamplingOptions| {
            (o.k, o.top_p, o.min_p) = (Some(2), Some(0.9), Some(0.1));
        };
        for row in [[NAN; 4], [-INF; 4], [INF; 4], [1.0, NAN, INF, -INF]] {
            for params in [
                sampled(all),
                sampled(|o| o.top_p = Some(0.5)),
                sampled(|_| ()),
            ] {
                let chosen = Sampler::new(params, &[]).choose(&mut row.clone(), &[]);
                assert!(chosen.id < 4);
            }
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
