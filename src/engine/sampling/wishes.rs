//! What a sampler leaves to the model, where that can choose tokens.

use super::{Chosen, Sampler};
use crate::engine::params::Choice;
use crate::model::{Draw, Pick, Picked, Row, Wish};

impl Sampler {
    /// What is wanted of each of the next `rows` rows, which continue each
    /// other: a token where the model can choose as [`choose`](Self::choose)
    /// does, else the logits. Asked again, it says the same of the same row.
    pub fn wishes(&mut self, rows: usize) -> Vec<Wish> {
        (0..rows).map(|row| self.wish(row)).collect()
    }

    fn wish(&mut self, row: usize) -> Wish {
        let generated = self.generated + row;
        if !self.params.leaves_logits(generated) || self.params.logprobs > 0 {
            return Wish::Logits;
        }
        let draw = match self.params.choice {
            Choice::Greedy => None,
            Choice::Sample { filters, .. } => {
                let u = self.draws.look_ahead(row);
                Some(Draw { filters, u })
            }
        };
        Wish::Pick(Pick {
            columns: self.sampled,
            draw,
        })
    }

    /// Takes the next token from what the model gives for it: from its logits
    /// as [`choose`](Self::choose), or as the model chose it.
    pub fn take(&mut self, row: &mut Row<'_>, eos: &[u32]) -> Chosen {
        match row {
            Row::Logits(logits) => self.choose(logits, eos),
            &mut Row::Picked(Picked { id, logprob }) => {
                if let Choice::Sample { .. } = self.params.choice {
                    self.draws.next();
                }
                self.count(id);
                let top = Vec::new();
                Chosen { id, logprob, top }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::params::{SamplingOptions, SamplingParams, Strategy};

    #[test]
    fn wishes_look_ahead_at_the_draws_and_consume_none() {
        let params = SamplingParams::new(SamplingOptions {
            strategy: Strategy::TopP,
            seed: Some(7),
            ..Default::default()
        });
        let params = params.unwrap();
        let logits: Vec<f32> = (0..40).map(|i| (i * 7 % 11) as f32 * 0.3).collect();
        let draws = |wishes: Vec<Wish>| {
            let u = |wish| match wish {
                Wish::Pick(Pick {
                    draw: Some(draw), ..
                }) => draw.u,
                other => panic!("{other:?}"),
            };
            wishes.into_iter().map(u).collect::<Vec<_>>()
        };
        let mut plain = Sampler::new(params.clone(), &[]);
        let mut ahead = Sampler::new(params.clone(), &[]);
        let expected = draws(Sampler::new(params, &[]).wishes(9));
        // Some are accepted from logits, some as they were picked.
        for (step, rows) in [1, 4, 2, 3, 1].into_iter().enumerate() {
            assert_eq!(draws(ahead.wishes(rows)), expected[step..][..rows]);
            let chosen = plain.choose(&mut logits.clone(), &[]);
            let (id, logprob) = (chosen.id, chosen.logprob);
            let mut picked = Row::Picked(Picked { id, logprob });
            let taken = match step % 2 {
                0 => ahead.take(&mut Row::Logits(&mut logits.clone()), &[]),
                _ => ahead.take(&mut picked, &[]),
            };
            assert_eq!(taken, chosen);
        }
        assert_eq!(ahead.generated(), 5);
    }

    #[test]
    fn only_what_needs_the_logits_asks_for_them() {
        let whole = |change: &dyn Fn(&mut SamplingOptions)| {
            let mut options = SamplingOptions::default();
            change(&mut options);
            let params = SamplingParams::new(options).unwrap();
            let wishes = Sampler::new(params, &[]).limited_to(9).wishes(3);
            wishes.into_iter().filter(|w| *w == Wish::Logits).count()
        };
        assert_eq!(whole(&|_| ()), 0);
        assert_eq!(whole(&|o| o.strategy = Strategy::TopK), 0);
        assert_eq!(whole(&|o| o.logprobs = Some(0)), 0);
        assert_eq!(whole(&|o| o.logprobs = Some(1)), 3);
        assert_eq!(whole(&|o| o.logit_bias = vec![(1, 0.5)]), 3);
        assert_eq!(whole(&|o| o.repetition_penalty = Some(1.1)), 3);
        assert_eq!(whole(&|o| o.presence_penalty = Some(0.1)), 3);
        assert_eq!(whole(&|o| o.frequency_penalty = Some(0.1)), 3);
        // The rows after the second token don't, whichever step they are in.
        assert_eq!(whole(&|o| o.min_tokens = 2), 2);
    }
}
