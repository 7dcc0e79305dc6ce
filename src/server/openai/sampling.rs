//! The sampling fields of a request → the engine's options.

use serde_json::Number;

use super::LogitBias;
use crate::engine::{Engine, SamplingOptions, SamplingParams, Strategy};
use crate::server::config::RequestLimits;
use crate::server::error::ApiError;
use crate::server::generation::{check_ids, stop_strings};
use crate::server::values::{Seed, Strings, Whole};

/// The fields that completions and chats have in common.
#[derive(Debug, Default)]
pub struct Sampling {
    pub temperature: Option<Number>,
    pub top_p: Option<Number>,
    pub top_k: Option<i64>,
    pub min_p: Option<Number>,
    pub repetition_penalty: Option<Number>,
    pub presence_penalty: Option<Number>,
    pub frequency_penalty: Option<Number>,
    pub logit_bias: Option<LogitBias>,
    pub seed: Option<Seed>,
    pub stop: Option<Strings>,
    pub stop_token_ids: Option<Vec<u32>>,
    pub min_tokens: Option<Whole>,
    pub ignore_eos: Option<bool>,
}

/// The most tokens to generate, and the field that says so.
#[derive(Debug, Clone, Copy)]
pub struct MaxTokens {
    pub param: &'static str,
    /// 0 is for requests that generate nothing; none goes on to the context's
    /// end.
    pub value: Option<u64>,
}

/// What the sampler is to do for each choice of a request.
#[derive(Debug, Clone)]
pub struct ChoiceOptions(SamplingOptions);

impl Sampling {
    /// Checks what the engine doesn't know: the API's own ranges, and ids
    /// against the width of the logits.
    ///
    /// # Errors
    /// 400 for the first field out of range.
    pub fn resolve(
        self,
        engine: &Engine,
        limits: &RequestLimits,
        max_tokens: MaxTokens,
        logprobs: Option<u64>,
    ) -> Result<ChoiceOptions, ApiError> {
        let number = |number: &Option<Number>| number.as_ref().and_then(Number::as_f64);
        let temperature = number(&self.temperature).unwrap_or(1.0);
        if !(0.0..=2.0).contains(&temperature) {
            let message = format!("`temperature`: {temperature} is not a number from 0 to 2");
            return Err(ApiError::field("temperature", message));
        }
        let stop_token_ids = self.stop_token_ids.unwrap_or_default();
        check_ids(engine, "stop_token_ids", &stop_token_ids)?;
        let options = SamplingOptions {
            strategy: if temperature == 0.0 {
                Strategy::Greedy
            } else {
                Strategy::TopP
            },
            k: top_k(self.top_k)?,
            top_p: number(&self.top_p).map(above_zero),
            min_p: number(&self.min_p),
            temperature: Some(temperature),
            repetition_penalty: number(&self.repetition_penalty),
            presence_penalty: number(&self.presence_penalty),
            frequency_penalty: number(&self.frequency_penalty),
            logit_bias: logit_bias(engine, self.logit_bias)?,
            seed: self.seed.map(|seed| seed.0),
            stop: stop_strings(self.stop, limits)?,
            stop_token_ids,
            max_tokens: max_tokens.value.map(|most| most.max(1)),
            min_tokens: min_tokens(self.min_tokens, max_tokens)?,
            ignore_eos: self.ignore_eos.unwrap_or(false),
            logprobs,
        };
        SamplingParams::new(options.clone())
            .map_err(|error| ApiError::from(error).renamed("max_tokens", max_tokens.param))?;
        Ok(ChoiceOptions(options))
    }
}

impl ChoiceOptions {
    /// The parameters of one of several choices: the first draws as a request
    /// for one does, the others from seeds of their own.
    ///
    /// # Errors
    /// None that were not found by [`Sampling::resolve`].
    pub fn choice(&self, index: usize) -> Result<SamplingParams, ApiError> {
        let mut options = self.0.clone();
        options.seed = options.seed.map(|seed| choice_seed(seed, index as u64));
        Ok(SamplingParams::new(options)?)
    }
}

/// Far apart for any two choices of a seed, and for the same choice of two
/// seeds: SplitMix64 (Steele et al., 2014).
fn choice_seed(seed: u64, index: u64) -> u64 {
    if index == 0 {
        return seed;
    }
    let mut z = seed.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The API takes a `top_p` of 0, which leaves the likeliest token.
fn above_zero(top_p: f64) -> f64 {
    if top_p == 0.0 {
        f64::from(f32::MIN_POSITIVE)
    } else {
        top_p
    }
}

/// -1 and 0 keep all tokens.
fn top_k(top_k: Option<i64>) -> Result<Option<u64>, ApiError> {
    match top_k {
        None | Some(-1 | 0) => Ok(None),
        Some(k) => u64::try_from(k).map(Some).map_err(|_| {
            let message = format!("`top_k`: {k} is not a whole number of -1 or more");
            ApiError::field("top_k", message)
        }),
    }
}

fn min_tokens(min: Option<Whole>, max: MaxTokens) -> Result<u64, ApiError> {
    let min = min.map_or(0, |min| min.0);
    match max.value {
        Some(most) if min > most => {
            let message = format!("`min_tokens`: {min} is more than {}, {most}", max.param);
            Err(ApiError::field("min_tokens", message))
        }
        _ => Ok(min),
    }
}

fn logit_bias(engine: &Engine, bias: Option<LogitBias>) -> Result<Vec<(u32, f64)>, ApiError> {
    let entry = |(key, value): (String, Number)| {
        let id = key.parse().map_err(|_| {
            let key: String = key.chars().take(64).collect();
            let message = format!("`logit_bias`: {key:?} is not a token id");
            ApiError::field("logit_bias", message)
        })?;
        check_ids(engine, "logit_bias", &[id])?;
        // Every number of JSON has a value; the engine checks its range.
        Ok((id, value.as_f64().unwrap_or(f64::NAN)))
    };
    bias.unwrap_or_default().into_iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_draw_from_seeds_of_their_own() {
        assert_eq!(choice_seed(7, 0), 7);
        let mut seeds: Vec<u64> = (0..64)
            .flat_map(|seed| (0..64).map(move |index| choice_seed(seed, index)))
            .collect();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), 64 * 64);
    }

    #[test]
    fn top_k_of_none_or_all() {
        assert_eq!(top_k(Some(-1)).unwrap(), None);
        assert_eq!(top_k(Some(3)).unwrap(), Some(3));
        assert!(top_k(Some(-2)).is_err());
    }
}
