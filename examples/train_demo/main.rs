//! Trains the demo model, `weights/demo`, from scratch: generates the corpus,
//! trains a byte-level BPE and a small GPT-2 on it, and writes checkpoint,
//! tokenizer and model card.
//!
//! `cargo run --release --example train_demo -- [--steps N] [--out DIR] [--seed S]`

mod card;
mod corpus;
mod model;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::optim::{AdamW, Optimizer, ParamsAdamW};
use clap::Parser;
use model::{PlainGpt2, Shape};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer, TokenizerImpl};

const END_OF_TEXT: &str = "<|endoftext|>";
/// Stories the tokenizer is trained on.
const TOKENIZER_STORIES: usize = 4_000;
const HELD_OUT_STORIES: usize = 300;
const WINDOW: usize = 256;
const BATCH: usize = 4;
const PEAK_RATE: f64 = 2e-3;
/// Steps between checkpoints and lines of progress.
const REPORT: usize = 50;

#[derive(Parser)]
struct Args {
    /// Training steps of 4 windows of 256 tokens each.
    #[arg(long, default_value_t = 1600)]
    steps: usize,
    /// Folder to write.
    #[arg(long, default_value = "weights/demo")]
    out: PathBuf,
    /// Seed of the corpus, the initial weights and the samples.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    fs::create_dir_all(&args.out)?;
    let mut rng = StdRng::seed_from_u64(args.seed);
    let tokenizer = train_tokenizer(&mut rng)?;
    let eos = tokenizer
        .token_to_id(END_OF_TEXT)
        .context("no end-of-text token")?;
    let shape = Shape {
        vocab_size: tokenizer.get_vocab_size(true),
        n_positions: WINDOW,
        n_embd: 192,
        n_layer: 4,
        n_head: 6,
    };
    write(
        &args.out,
        "tokenizer.json",
        tokenizer.to_string(true).map_err(anyhow::Error::msg)?,
    )?;
    write(&args.out, "config.json", card::config_json(&shape, eos)?)?;

    let mut stories = Stories {
        tokenizer: &tokenizer,
        eos,
    };
    let mut held_out_rng = StdRng::seed_from_u64(args.seed ^ 0x5eed);
    let held_out = stories.windows(&mut held_out_rng, HELD_OUT_STORIES / 2)?;
    let vars = initial_weights(&shape, &mut rng)?;
    let tensors: HashMap<String, Tensor> = vars
        .iter()
        .map(|(name, var)| (name.clone(), var.as_tensor().clone()))
        .collect();
    let model = PlainGpt2::new(shape, tensors)?;
    let parameters: usize = vars.values().map(|v| v.elem_count()).sum();
    println!("{parameters} parameters, vocabulary {}", shape.vocab_size);

    let params = ParamsAdamW {
        beta2: 0.98,
        weight_decay: 0.01,
        ..Default::default()
    };
    let mut optimizer = AdamW::new(vars.values().cloned().collect(), params)?;
    let started = Instant::now();
    let mut training = 0.0;
    let mut recent = Vec::new();
    for step in 0..args.steps {
        optimizer.set_learning_rate(rate(step, args.steps));
        let loss = loss(&model, &stories.windows(&mut rng, BATCH)?)?;
        optimizer.backward_step(&loss)?;
        recent.push(loss.to_scalar::<f32>()?);
        if (step + 1) % REPORT == 0 || step + 1 == args.steps {
            training = recent.iter().sum::<f32>() / recent.len() as f32;
            recent.clear();
            let seconds = started.elapsed().as_secs();
            println!(
                "step {} of {}: loss {training:.4}, {seconds} s",
                step + 1,
                args.steps
            );
            save(&args.out, &vars)?;
        }
    }
    let mut total = 0.0;
    let chunks = held_out.dim(0)? / BATCH;
    for i in 0..chunks {
        total += loss(&model, &held_out.narrow(0, i * BATCH, BATCH)?)?.to_scalar::<f32>()?;
    }
    let report = card::Report {
        shape,
        parameters,
        steps: args.steps,
        tokens: args.steps * BATCH * WINDOW,
        seed: args.seed,
        training_loss: training,
        held_out_loss: total / chunks as f32,
    };
    println!("held-out loss {:.4}", report.held_out_loss);
    let samples = (0..10)
        .map(|seed| card::sample(&model, &tokenizer, WINDOW, eos, seed))
        .collect::<Result<Vec<_>>>()?;
    write(&args.out, "README.md", card::markdown(&report, &samples))
}

struct Stories<'a> {
    tokenizer: &'a Tokenizer,
    eos: u32,
}

impl Stories<'_> {
    /// `count` windows of whole stories, one after another, each started at
    /// the beginning of a story: `[count, WINDOW + 1]`.
    fn windows(&mut self, rng: &mut StdRng, count: usize) -> Result<Tensor> {
        let mut ids = Vec::with_capacity(count * (WINDOW + 1));
        for _ in 0..count {
            let mut window = Vec::new();
            while window.len() <= WINDOW {
                let text = corpus::story(rng);
                let encoding = self
                    .tokenizer
                    .encode(text, false)
                    .map_err(anyhow::Error::msg)?;
                window.extend_from_slice(encoding.get_ids());
                window.push(self.eos);
            }
            ids.extend_from_slice(&window[..=WINDOW]);
        }
        Ok(Tensor::from_vec(ids, (count, WINDOW + 1), &Device::Cpu)?)
    }
}

/// Mean cross-entropy of the next token, in nats.
fn loss(model: &PlainGpt2, windows: &Tensor) -> Result<Tensor> {
    let logits = model.forward(&windows.narrow(1, 0, WINDOW)?.contiguous()?)?;
    let targets = windows.narrow(1, 1, WINDOW)?.contiguous()?.flatten_all()?;
    Ok(candle_nn::loss::cross_entropy(
        &logits.flatten_to(1)?,
        &targets,
    )?)
}

/// Linear warm-up, then a cosine down to a twentieth of the peak.
fn rate(step: usize, steps: usize) -> f64 {
    let warm_up = (steps / 20).max(1);
    if step < warm_up {
        return PEAK_RATE * (step + 1) as f64 / warm_up as f64;
    }
    let progress = (step - warm_up) as f64 / (steps - warm_up).max(1) as f64;
    PEAK_RATE * (0.05 + 0.95 * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()))
}

fn train_tokenizer(rng: &mut StdRng) -> Result<Tokenizer> {
    let stories: Vec<String> = (0..TOKENIZER_STORIES).map(|_| corpus::story(rng)).collect();
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(2048)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
        .build();
    let byte_level = || ByteLevel::new(false, true, true);
    let mut tokenizer =
        TokenizerImpl::<BPE, tokenizers::NormalizerWrapper, ByteLevel, ByteLevel, ByteLevel>::new(
            BPE::default(),
        );
    tokenizer
        .with_pre_tokenizer(Some(byte_level()))
        .with_decoder(Some(byte_level()));
    tokenizer
        .train(&mut trainer, stories.into_iter())
        .map_err(anyhow::Error::msg)?;
    let json = tokenizer.to_string(false).map_err(anyhow::Error::msg)?;
    json.parse().map_err(anyhow::Error::msg)
}

/// GPT-2's initialisation, with a deviation for a narrower model: normal with
/// 0.05, the projections back
/// into the residual stream scaled by 1/√(2·n_layer).
fn initial_weights(shape: &Shape, rng: &mut StdRng) -> Result<HashMap<String, Var>> {
    let mut normal = || {
        let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
        ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    };
    let mut vars = HashMap::new();
    for (name, dims) in shape.tensors() {
        let count = dims.iter().product();
        let deviation = match &*name {
            n if n.ends_with("c_proj.weight") => 0.05 / (2.0 * shape.n_layer as f32).sqrt(),
            n if n.ends_with(".weight") && dims.len() == 2 => 0.05,
            _ => 0.0,
        };
        let base = if name.contains("ln_") && name.ends_with("weight") {
            1.0
        } else {
            0.0
        };
        let values: Vec<f32> = (0..count).map(|_| base + deviation * normal()).collect();
        let tensor = Tensor::from_vec(values, dims, &Device::Cpu)?;
        vars.insert(name, Var::from_tensor(&tensor)?);
    }
    Ok(vars)
}

fn save(out: &Path, vars: &HashMap<String, Var>) -> Result<()> {
    let halves = vars
        .iter()
        .map(|(name, var)| Ok((name.clone(), var.to_dtype(DType::F16)?)))
        .collect::<Result<HashMap<_, _>>>()?;
    let path = out.join("model.safetensors.new");
    candle_core::safetensors::save(&halves, &path)?;
    Ok(fs::rename(path, out.join("model.safetensors"))?)
}

/// Writes beside the final name first, so that an interrupted run leaves the
/// old file whole.
fn write(out: &Path, name: &str, content: String) -> Result<()> {
    let path = out.join(format!("{name}.new"));
    fs::write(&path, content)?;
    Ok(fs::rename(path, out.join(name))?)
}
