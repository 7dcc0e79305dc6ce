//! What a request may ask of the sampler, checked once.

use crate::model::Filters;

/// A parameter out of its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{param}`: {message}")]
pub struct ParamError {
    /// The parameter's name, as HTTP requests spell it.
    pub param: &'static str,
    /// What was given and what was expected.
    pub message: String,
}

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strategy {
    /// The most likely token; temperature and filters are ignored.
    #[default]
    Greedy,
    /// Sampling among the `k` most likely tokens, 50 unless given.
    TopK,
    /// Sampling from the smallest set with probability `top_p`.
    TopP,
}

impl Strategy {
    /// The name in requests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Greedy => "greedy",
            Self::TopK => "top-k",
            Self::TopP => "top-p",
        }
    }

    /// The strategy of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Greedy, Self::TopK, Self::TopP]
            .into_iter()
            .find(|s| s.as_str() == name)
    }
}

/// Parameters as they were given; `None` where they were not.
#[derive(Debug, Clone, Default)]
pub struct SamplingOptions {
    /// How the next token is chosen.
    pub strategy: Strategy,
    /// Keep the `k` most likely tokens (ties kept); at least 1.
    pub k: Option<u64>,
    /// Keep the smallest set with this probability; above 0, up to 1.
    pub top_p: Option<f64>,
    /// Keep tokens at least this likely, relative to the likeliest; 0 to 1.
    pub min_p: Option<f64>,
    /// Divides the logits; 0 is greedy.
    pub temperature: Option<f64>,
    /// Divides positive and multiplies negative logits of tokens in prompt
    /// and output (Keskar et al., 2019); above 0.
    pub repetition_penalty: Option<f64>,
    /// Subtracted once from the logit of a token in the output; −2 to 2.
    pub presence_penalty: Option<f64>,
    /// Subtracted per occurrence in the output; −2 to 2.
    pub frequency_penalty: Option<f64>,
    /// Added to the logits of these tokens; −100 to 100.
    pub logit_bias: Vec<(u32, f64)>,
    /// Seed of the draws; `None` draws one.
    pub seed: Option<u64>,
    /// Texts that end the output; they are not part of it.
    pub stop: Vec<String>,
    /// Most tokens to generate; `None` goes on to the context's end.
    pub max_tokens: Option<u64>,
    /// End-of-text and stop strings don't count before this many tokens.
    pub min_tokens: u64,
    /// Generate end-of-text like any other token.
    pub ignore_eos: bool,
    /// Tokens that end the output as end-of-text does.
    pub stop_token_ids: Vec<u32>,
    /// The most likely tokens that are told with each token, with their log
    /// probabilities under the model alone; at most [`MAX_LOGPROBS`].
    pub logprobs: Option<u64>,
}

/// Most alternatives that are told of a token.
pub const MAX_LOGPROBS: u64 = 20;

/// Validated parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    pub(super) choice: Choice,
    pub(super) repetition_penalty: f32,
    pub(super) presence_penalty: f32,
    pub(super) frequency_penalty: f32,
    pub(super) logit_bias: Vec<(u32, f32)>,
    pub(super) stop: Vec<String>,
    pub(super) max_tokens: usize,
    pub(super) min_tokens: usize,
    pub(super) ignore_eos: bool,
    pub(super) stop_token_ids: Vec<u32>,
    pub(super) logprobs: usize,
}

/// Greedy, or sampling with filters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Choice {
    Greedy,
    Sample { filters: Filters, seed: Option<u64> },
}

/// `k` of top-k where it isn't given.
pub const DEFAULT_K: u64 = 50;

/// Below this temperature the choice is greedy: dividing by it would overflow,
/// and any difference between two logits is already decisive.
const COLDEST: f32 = 1e-30;

impl SamplingParams {
    /// Checks every parameter, whether the strategy uses it or not.
    ///
    /// # Errors
    /// [`ParamError`] with the name of the first that is out of range.
    pub fn new(options: SamplingOptions) -> Result<Self, ParamError> {
        let number = |param, value: Option<f64>, default: f32, range: Range| {
            let Some(value) = value else {
                return Ok(default);
            };
            let narrow = value as f32;
            if narrow.is_finite() && range.contains(value, narrow) {
                return Ok(narrow);
            }
            let message = format!("{value} is not a number {}", range.text);
            Err(ParamError { param, message })
        };
        let temperature = number("temperature", options.temperature, 1.0, NOT_NEGATIVE)?;
        let filters = Filters {
            temperature,
            top_k: top_k(&options)?,
            top_p: number("top_p", options.top_p, 1.0, PROBABILITY)?,
            min_p: number("min_p", options.min_p, 0.0, ZERO_TO_ONE)?,
        };
        let logit_bias = options
            .logit_bias
            .iter()
            .map(|&(id, bias)| Ok((id, number("logit_bias", Some(bias), 0.0, BIAS)?)))
            .collect::<Result<_, ParamError>>()?;
        if options.stop.iter().any(String::is_empty) {
            let message = "a stop string is empty".to_owned();
            return Err(ParamError {
                param: "stop",
                message,
            });
        }
        let greedy = options.strategy == Strategy::Greedy || temperature < COLDEST;
        Ok(Self {
            choice: if greedy {
                Choice::Greedy
            } else {
                Choice::Sample {
                    filters,
                    seed: options.seed,
                }
            },
            repetition_penalty: number(
                "repetition_penalty",
                options.repetition_penalty,
                1.0,
                POSITIVE,
            )?,
            presence_penalty: number("presence_penalty", options.presence_penalty, 0.0, PENALTY)?,
            frequency_penalty: number(
                "frequency_penalty",
                options.frequency_penalty,
                0.0,
                PENALTY,
            )?,
            logit_bias,
            stop: options.stop,
            max_tokens: max_tokens(options.max_tokens)?,
            min_tokens: usize::try_from(options.min_tokens).unwrap_or(usize::MAX),
            ignore_eos: options.ignore_eos,
            stop_token_ids: options.stop_token_ids,
            logprobs: logprobs(options.logprobs)?,
        })
    }

    /// Whether neither bias nor penalties change logits once so many tokens
    /// are generated.
    pub(super) fn leaves_logits(&self, generated: usize) -> bool {
        self.logit_bias.is_empty()
            && generated >= self.min_tokens
            && self.repetition_penalty == 1.0
            && self.presence_penalty == 0.0
            && self.frequency_penalty == 0.0
    }
}

fn top_k(options: &SamplingOptions) -> Result<usize, ParamError> {
    let default = if options.strategy == Strategy::TopK {
        DEFAULT_K
    } else {
        0
    };
    match options.k {
        Some(0) => Err(ParamError {
            param: "k",
            message: "0 is not 1 or more".to_owned(),
        }),
        // Top-p ignores a k that was not asked for, but applies a given one.
        k => Ok(usize::try_from(k.unwrap_or(default)).unwrap_or(usize::MAX)),
    }
}

fn max_tokens(value: Option<u64>) -> Result<usize, ParamError> {
    const MAX: u64 = i32::MAX as u64;
    match value {
        None => Ok(usize::MAX),
        Some(n @ 1..=MAX) => Ok(n as usize),
        Some(n) => Err(ParamError {
            param: "max_tokens",
            message: format!("{n} is not a whole number from 1 to {MAX}"),
        }),
    }
}

fn logprobs(value: Option<u64>) -> Result<usize, ParamError> {
    match value {
        None => Ok(0),
        Some(n) if n <= MAX_LOGPROBS => Ok(n as usize),
        Some(n) => Err(ParamError {
            param: "logprobs",
            message: format!("{n} is not a whole number from 0 to {MAX_LOGPROBS}"),
        }),
    }
}

#[derive(Clone, Copy)]
struct Range {
    low: f64,
    high: f64,
    open: bool,
    text: &'static str,
}

impl Range {
    /// An open range excludes zero also after rounding to f32.
    fn contains(self, value: f64, narrow: f32) -> bool {
        value >= self.low && value <= self.high && !(self.open && narrow <= 0.0)
    }
}

const fn range(low: f64, high: f64, open: bool, text: &'static str) -> Range {
    Range {
        low,
        high,
        open,
        text,
    }
}

const NOT_NEGATIVE: Range = range(0.0, f64::MAX, false, "from 0 to 3.4e38");
const POSITIVE: Range = range(0.0, f64::MAX, true, "above 0 and up to 3.4e38");
const PROBABILITY: Range = range(0.0, 1.0, true, "above 0 and up to 1");
const ZERO_TO_ONE: Range = range(0.0, 1.0, false, "from 0 to 1");
const PENALTY: Range = range(-2.0, 2.0, false, "from -2 to 2");
const BIAS: Range = range(-100.0, 100.0, false, "from -100 to 100");

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut SamplingOptions)) -> &'static str {
        let mut options = SamplingOptions::default();
        change(&mut options);
        SamplingParams::new(options).unwrap_err().param
    }

    #[test]
    fn out_of_range_values_are_named() {
        assert_eq!(refused(|o| o.temperature = Some(-0.1)), "temperature");
        assert_eq!(refused(|o| o.temperature = Some(1e39)), "temperature");
        assert_eq!(refused(|o| o.temperature = Some(f64::NAN)), "temperature");
        assert_eq!(refused(|o| o.top_p = Some(0.0)), "top_p");
        assert_eq!(refused(|o| o.top_p = Some(1e-46)), "top_p");
        assert_eq!(refused(|o| o.min_p = Some(1.5)), "min_p");
        assert_eq!(refused(|o| o.k = Some(0)), "k");
        assert_eq!(refused(|o| o.max_tokens = Some(0)), "max_tokens");
        assert_eq!(refused(|o| o.max_tokens = Some(1 << 31)), "max_tokens");
        assert_eq!(refused(|o| o.logprobs = Some(21)), "logprobs");
        assert_eq!(refused(|o| o.stop = vec![String::new()]), "stop");
        assert_eq!(refused(|o| o.logit_bias = vec![(1, 101.0)]), "logit_bias");
        assert_eq!(
            refused(|o| o.repetition_penalty = Some(0.0)),
            "repetition_penalty"
        );
    }

    #[test]
    fn temperature_zero_is_greedy_and_k_belongs_to_top_k() {
        let choice = |strategy, temperature, k| {
            let options = SamplingOptions {
                strategy,
                temperature,
                k,
                ..Default::default()
            };
            SamplingParams::new(options).unwrap().choice
        };
        let k_of = |choice| match choice {
            Choice::Sample { filters, .. } => filters.top_k,
            Choice::Greedy => panic!("greedy"),
        };
        assert_eq!(choice(Strategy::TopK, Some(0.0), None), Choice::Greedy);
        assert_eq!(k_of(choice(Strategy::TopK, None, None)), 50);
        assert_eq!(k_of(choice(Strategy::TopP, None, None)), 0);
        assert_eq!(k_of(choice(Strategy::TopP, None, Some(7))), 7);
    }
}
