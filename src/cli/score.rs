//! `gpt2 score`: how likely the model finds a text.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::json;

use super::common::{Ids, ModelArgs, text_or_stdin};
use crate::engine::{Engine, perplexity};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The text; standard input when `-` or missing
    text: Option<String>,
    /// Read the text from a file
    #[arg(long, conflicts_with = "text")]
    file: Option<PathBuf>,
    /// Token ids in place of a text, such as 1,2,3
    #[arg(long, conflicts_with_all = ["text", "file"])]
    ids: Option<Ids>,
    #[command(flatten)]
    model: ModelArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let engine = args.model.engine()?;
    let ids = match (args.ids, args.file) {
        (Some(Ids(ids)), _) => ids,
        (None, Some(file)) => {
            let text =
                std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            engine.tokenizer()?.encode(&text)?
        }
        (None, None) => engine.tokenizer()?.encode(&text_or_stdin(args.text)?)?,
    };
    let scores = engine.score_blocking(ids)?;
    let (logprob_sum, perplexity) = perplexity(&scores);
    let mut out = std::io::stdout().lock();
    if args.json {
        let tokens: Vec<_> = scores
            .iter()
            .map(|s| {
                json!({"id": s.id, "text": piece(&engine, s.id), "logprob": s.logprob, "rank": s.rank})
            })
            .collect();
        let answer = json!({
            "model": engine.model_name(),
            "tokens": tokens,
            "logprob_sum": logprob_sum,
            "token_count": scores.len(),
            "perplexity": perplexity,
        });
        writeln!(out, "{answer}")?;
        return Ok(());
    }
    writeln!(out, "{:>7} {:>9} {:>6}  text", "id", "logprob", "rank")?;
    for score in &scores {
        let logprob = score.logprob.map_or("-".to_owned(), |l| format!("{l:.4}"));
        let rank = score.rank.map_or("-".to_owned(), |r| r.to_string());
        let text = piece(&engine, score.id);
        writeln!(out, "{:>7} {logprob:>9} {rank:>6}  {text:?}", score.id)?;
    }
    write!(
        out,
        "{} tokens, log probability {logprob_sum:.4}",
        scores.len()
    )?;
    match perplexity {
        Some(perplexity) => writeln!(out, ", perplexity {perplexity:.3}")?,
        None => writeln!(out)?,
    }
    Ok(())
}

/// A token's own text; empty without a tokenizer.
fn piece(engine: &Engine, id: u32) -> String {
    let tokenizer = engine.tokenizer().ok();
    tokenizer
        .and_then(|t| t.decode(&[id]).ok())
        .unwrap_or_default()
}
