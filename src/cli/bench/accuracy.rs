//! `gpt2 bench --accuracy`: how far each precision is from f32.

use anyhow::Result;
use serde::Serialize;

use super::ggml::Ggml;
use super::source::Source;
use crate::engine::{Sampler, SamplingOptions, SamplingParams, Strategy};
use crate::kernels::pool;
use crate::kernels::softmax::log_sum_exp;
use crate::model::{Batch, Dtype, Gpt2, LogitRows, Logits};

/// Tokens of each text, as far as the context goes.
const TOKENS: usize = 128;

/// What `--accuracy --json` prints: the fields are the keys.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Texts that the f32 model sampled with top-p 1 and seeds from 0 on.
    pub texts: usize,
    /// Tokens of each.
    pub tokens: usize,
    /// Each compared with the f32 model on those texts.
    pub compared: Vec<Compared>,
}

/// One way to hold the weights.
#[derive(Debug, Serialize)]
pub struct Compared {
    /// `bf16`, `q8`, `q4`, or the formula of llama.cpp's `Q8_0` or `Q4_0`.
    pub weights: &'static str,
    /// What the activations are rounded to where they meet weights: `bf16`,
    /// `8 bits`, or `f32` where only the weights are rounded.
    pub activations: &'static str,
    /// Mean |Δ log probability| of the token that comes next in the text.
    pub next_token_difference: f64,
    /// Mean |Δ log probability| over all tokens of the vocabulary.
    pub vocabulary_difference: f64,
    /// How often the likeliest token is the same, 0 to 1.
    pub top_1_agreement: f64,
}

impl Report {
    /// Loads, writes the texts and compares.
    pub fn new(source: &Source, texts: u16) -> Result<Self> {
        let model = source.load_on_cpu(Dtype::F32)?;
        let reference = Reference::new(&model, texts)?;
        let compare = |variant: Variant| reference.compare(variant, &variant.of(&model)?);
        Ok(Self {
            texts: reference.texts.len(),
            tokens: reference.texts[0].len(),
            compared: VARIANTS.into_iter().map(compare).collect::<Result<_>>()?,
        })
    }
}

/// How the weights of the f32 model are rounded, and what is computed with.
#[derive(Debug, Clone, Copy)]
enum Variant {
    /// As the engine runs it.
    Ours(Dtype),
    /// Its weights, with f32 activations.
    OurWeights(Dtype),
    /// llama.cpp's weights with our activations of 8 bits in blocks of 32,
    /// which are those of its Q8_0 but for the scale's precision.
    Theirs(Ggml),
    /// llama.cpp's weights, with f32 activations.
    TheirWeights(Ggml),
}

const VARIANTS: [Variant; 9] = [
    Variant::Ours(Dtype::Bf16),
    Variant::Ours(Dtype::Q8),
    Variant::Theirs(Ggml::Q8_0),
    Variant::OurWeights(Dtype::Q8),
    Variant::TheirWeights(Ggml::Q8_0),
    Variant::Ours(Dtype::Q4),
    Variant::Theirs(Ggml::Q4_0),
    Variant::OurWeights(Dtype::Q4),
    Variant::TheirWeights(Ggml::Q4_0),
];

impl Variant {
    fn of(self, model: &Gpt2) -> Result<Gpt2> {
        let as_they_are = |_: &mut [f32]| ();
        Ok(match self {
            Self::Ours(dtype) => model.repacked(dtype, as_they_are)?,
            Self::OurWeights(dtype) => model
                .repacked(dtype, as_they_are)?
                .repacked(Dtype::F32, as_they_are)?,
            Self::Theirs(ggml) => model.repacked(ggml.dtype(), |w| ggml.round(w))?,
            Self::TheirWeights(ggml) => model.repacked(Dtype::F32, |w| ggml.round(w))?,
        })
    }

    fn weights(self) -> &'static str {
        match self {
            Self::Ours(dtype) | Self::OurWeights(dtype) => dtype.as_str(),
            Self::Theirs(ggml) | Self::TheirWeights(ggml) => ggml.as_str(),
        }
    }

    fn activations(self) -> &'static str {
        match self {
            Self::Ours(Dtype::F32) | Self::OurWeights(_) | Self::TheirWeights(_) => "f32",
            Self::Ours(Dtype::Bf16) => "bf16",
            Self::Ours(Dtype::F16) => "f16",
            Self::Ours(Dtype::Q8 | Dtype::Q4) | Self::Theirs(_) => "8 bits",
        }
    }
}

/// Texts of the f32 model, and its logits on them.
struct Reference {
    texts: Vec<Vec<u32>>,
    logits: Vec<Logits>,
}

impl Reference {
    fn new(model: &Gpt2, count: u16) -> Result<Self> {
        let texts = texts(model, count)?;
        let logits = texts.iter().map(|text| logits_of(model, text));
        Ok(Self {
            logits: logits.collect::<Result<_>>()?,
            texts,
        })
    }

    fn compare(&self, variant: Variant, model: &Gpt2) -> Result<Compared> {
        let mut sum = Difference::default();
        let mut positions = 0;
        for (text, expected) in self.texts.iter().zip(&self.logits) {
            let found = logits_of(model, text)?;
            // The last row has no next token.
            let mut rows = vec![Difference::default(); text.len() - 1];
            pool::for_each_chunk(&mut rows, 1, |i, row| {
                row[0] = Difference::of(found.row(i), expected.row(i), text[i + 1]);
            });
            positions += rows.len();
            rows.into_iter().for_each(|row| sum.add(row));
        }
        let mean = |sum: f64| sum / positions as f64;
        Ok(Compared {
            weights: variant.weights(),
            activations: variant.activations(),
            next_token_difference: mean(sum.next_token),
            vocabulary_difference: mean(sum.vocabulary),
            top_1_agreement: mean(sum.top_1),
        })
    }
}

/// Of one row of logits, or summed over rows.
#[derive(Debug, Clone, Copy, Default)]
struct Difference {
    next_token: f64,
    vocabulary: f64,
    /// 1 where the likeliest token is the same.
    top_1: f64,
}

impl Difference {
    fn of(found: &[f32], expected: &[f32], next: u32) -> Self {
        let shift = f64::from(log_sum_exp(found)) - f64::from(log_sum_exp(expected));
        let difference = |f: f32, e: f32| (f64::from(f) - f64::from(e) - shift).abs();
        let all = found.iter().zip(expected).map(|(f, e)| difference(*f, *e));
        let next = next as usize;
        let same = likeliest(found) == likeliest(expected);
        Self {
            next_token: difference(found[next], expected[next]),
            vocabulary: all.sum::<f64>() / found.len() as f64,
            top_1: f64::from(u8::from(same)),
        }
    }

    fn add(&mut self, other: Self) {
        self.next_token += other.next_token;
        self.vocabulary += other.vocabulary;
        self.top_1 += other.top_1;
    }
}

fn likeliest(logits: &[f32]) -> Option<usize> {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]))
}

/// What the model itself writes: text on which its precision matters.
fn texts(model: &Gpt2, count: u16) -> Result<Vec<Vec<u32>>> {
    let config = model.config();
    let tokens = TOKENS.min(config.n_positions);
    let in_vocabulary = |id: &u32| (*id as usize) < config.vocab_size;
    let start = config.eos_token_ids.iter().copied().find(in_vocabulary);
    let start = start.unwrap_or(0);
    let write = |seed| -> Result<Vec<u32>> {
        let params = SamplingParams::new(SamplingOptions {
            strategy: Strategy::TopP,
            top_p: Some(1.0),
            seed: Some(seed),
            ..SamplingOptions::default()
        })?;
        let mut sampler = Sampler::new(params, &[]);
        let mut cache = model.cache(tokens)?;
        let mut lease = cache.lease();
        let mut text = vec![start];
        while text.len() < tokens {
            lease.grow(1)?;
            let mut batch = Batch::new();
            batch.push(&text[text.len() - 1..], &lease, LogitRows::Last)?;
            let mut logits = model.forward(&batch, &mut cache)?;
            lease.commit(1);
            text.push(sampler.choose(logits.row_mut(0), &[]).id);
        }
        Ok(text)
    };
    (0..count.into()).map(write).collect()
}

/// `[tokens, vocab]`
fn logits_of(model: &Gpt2, text: &[u32]) -> Result<Logits> {
    let mut cache = model.cache(text.len())?;
    let mut lease = cache.lease();
    lease.grow(text.len())?;
    let mut batch = Batch::new();
    batch.push(text, &lease, LogitRows::All)?;
    Ok(model.forward(&batch, &mut cache)?)
}
