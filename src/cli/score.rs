//! `gpt2 score`: how likely the model finds a text.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::common::{Ids, ModelArgs, text_or_stdin};
use crate::scoring::{TextScore, score_text, stride};

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
    /// Tokens that each window adds, where the text is longer than the context
    /// [default: half the context]
    #[arg(long, value_name = "TOKENS")]
    stride: Option<u64>,
    #[command(flatten)]
    model: ModelArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let engine = args.model.engine()?;
    let stride = stride(args.stride, engine.config().n_positions)?;
    let ids = match (args.ids, args.file) {
        (Some(Ids(ids)), _) => ids,
        (None, Some(file)) => {
            let text =
                std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            engine.tokenizer()?.encode(&text)?
        }
        (None, None) => engine.tokenizer()?.encode(&text_or_stdin(args.text)?)?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let score = runtime.block_on(score_text(&engine, &ids, stride))?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&score)?)?;
        return Ok(());
    }
    print_table(&mut out, &score)
}

fn print_table(out: &mut impl Write, score: &TextScore) -> Result<()> {
    writeln!(out, "{:>7} {:>9} {:>6}  text", "id", "logprob", "rank")?;
    for token in &score.tokens {
        let logprob = token.logprob.map_or("-".to_owned(), |l| format!("{l:.4}"));
        let rank = token.rank.map_or("-".to_owned(), |r| r.to_string());
        let (id, text) = (token.id, &token.text);
        writeln!(out, "{id:>7} {logprob:>9} {rank:>6}  {text:?}")?;
    }
    let (count, sum) = (score.token_count, score.logprob_sum);
    write!(out, "{count} tokens, log probability {sum:.4}")?;
    match score.perplexity {
        Some(perplexity) => writeln!(out, ", perplexity {perplexity:.3}")?,
        None => writeln!(out)?,
    }
    Ok(())
}
