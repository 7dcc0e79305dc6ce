//! `gpt2 tokenize` and `gpt2 detokenize`: the tokenizer alone.

use std::io::Write;

use anyhow::Result;
use serde_json::json;

use super::Usage;
use super::common::{Ids, SourceArgs, text_or_stdin};
use crate::tokenizer::Tokenizer;

#[derive(Debug, clap::Args)]
pub struct TokenizeArgs {
    /// The text; standard input, without its last line break, when `-` or missing
    text: Option<String>,
    #[command(flatten)]
    source: SourceArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct DetokenizeArgs {
    /// Token ids, apart or separated by commas
    #[arg(required = true, value_name = "ID")]
    ids: Vec<Ids>,
    #[command(flatten)]
    source: SourceArgs,
}

/// Runs `gpt2 tokenize`.
pub fn tokenize(args: TokenizeArgs) -> Result<()> {
    let tokenizer = Tokenizer::load(&args.source.files()?.tokenizer)?;
    let ids = tokenizer.encode(&text_or_stdin(args.text)?)?;
    let tokens = ids
        .iter()
        .map(|&id| tokenizer.decode(&[id]))
        .collect::<Result<Vec<_>, _>>()?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", json!({"ids": ids, "tokens": tokens}))?;
        return Ok(());
    }
    for (id, token) in ids.iter().zip(tokens) {
        writeln!(out, "{id:>7}  {token:?}")?;
    }
    Ok(())
}

/// Runs `gpt2 detokenize`.
pub fn detokenize(args: DetokenizeArgs) -> Result<()> {
    let tokenizer = Tokenizer::load(&args.source.files()?.tokenizer)?;
    let size = tokenizer.vocab_size();
    let ids: Vec<u32> = args.ids.into_iter().flat_map(|Ids(ids)| ids).collect();
    if let Some(id) = ids.iter().find(|&&id| id as usize >= size) {
        return Err(Usage(format!("{id} is not below the vocabulary's size, {size}")).into());
    }
    writeln!(std::io::stdout(), "{}", tokenizer.decode(&ids)?)?;
    Ok(())
}
