//! What is written beside the weights: configuration, samples, model card.

use anyhow::Result;
use candle_core::{Device, Tensor};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokenizers::Tokenizer;

use crate::model::{PlainGpt2, Shape};

/// The figures of a training run.
pub struct Report {
    pub shape: Shape,
    pub parameters: usize,
    pub steps: usize,
    pub tokens: usize,
    pub seed: u64,
    pub training_loss: f32,
    pub held_out_loss: f32,
}

/// `config.json` as transformers writes it.
pub fn config_json(shape: &Shape, eos: u32) -> Result<String> {
    let config = serde_json::json!({
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": shape.vocab_size,
        "n_positions": shape.n_positions,
        "n_ctx": shape.n_positions,
        "n_embd": shape.n_embd,
        "n_layer": shape.n_layer,
        "n_head": shape.n_head,
        "n_inner": null,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "scale_attn_weights": true,
        "tie_word_embeddings": true,
        "bos_token_id": eos,
        "eos_token_id": eos
    });
    Ok(serde_json::to_string_pretty(&config)? + "\n")
}

/// "Once upon a time", continued at temperature 0.8 until end-of-text.
pub fn sample(
    model: &PlainGpt2,
    tokenizer: &Tokenizer,
    limit: usize,
    eos: u32,
    seed: u64,
) -> Result<String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let prompt = tokenizer
        .encode("Once upon a time", false)
        .map_err(anyhow::Error::msg)?;
    let mut ids = prompt.get_ids().to_vec();
    while ids.len() < limit {
        let logits = model.forward(&Tensor::new(&*ids, &Device::Cpu)?.unsqueeze(0)?)?;
        let last = (logits.get(0)?.get(ids.len() - 1)? / 0.8)?;
        let probabilities = candle_nn::ops::softmax(&last, 0)?.to_vec1::<f32>()?;
        let mut left: f32 = rng.random();
        let next = probabilities.iter().position(|p| {
            left -= p;
            left <= 0.0
        });
        let next = next.map_or(eos, |i| i as u32);
        if next == eos {
            break;
        }
        ids.push(next);
    }
    tokenizer.decode(&ids, false).map_err(anyhow::Error::msg)
}

/// The model card.
pub fn markdown(report: &Report, samples: &[String]) -> String {
    let Shape {
        vocab_size,
        n_positions,
        n_embd,
        n_layer,
        n_head,
    } = report.shape;
    let Report {
        parameters,
        steps,
        tokens,
        seed,
        training_loss,
        held_out_loss,
        ..
    } = report;
    let mut card = format!(
        "# The demo model\n\n\
         A demonstration of the engine, not the real GPT-2: it tells small children's stories and \
         knows nothing else. It has GPT-2's architecture and was trained from scratch on text that \
         a grammar in `examples/train_demo/corpus.rs` generates. No outside data was used.\n\n\
         | | |\n|---|---|\n\
         | parameters | {parameters} |\n\
         | layers, width, heads | {n_layer}, {n_embd}, {n_head} |\n\
         | context | {n_positions} tokens |\n\
         | vocabulary | {vocab_size}, byte-level BPE trained on the same text |\n\
         | weights | f16 |\n\
         | trained on | {tokens} tokens in {steps} steps |\n\
         | training loss, at the end | {training_loss:.4} nats per token |\n\
         | held-out loss | {held_out_loss:.4} nats per token |\n\n\
         Made by `cargo run --release --example train_demo -- --steps {steps} --seed {seed}` \
         (on a CPU). Much of the loss is the grammar's own randomness: which name, which place, \
         which plot.\n\n\
         ## Ten samples, unpicked\n\n\
         \"Once upon a time\" continued at temperature 0.8, seeds 0 to 9.\n"
    );
    for (seed, sample) in samples.iter().enumerate() {
        card += &format!("\n{seed}. {sample}\n");
    }
    card += "\n## Licence\n\nMIT, as the rest of the project.\n";
    card
}
