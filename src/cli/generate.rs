//! `gpt2 generate`: continue a text.

use std::io::Write;

use anyhow::Result;
use serde_json::json;

use super::common::{GenerationArgs, Ids, text_or_stdin};
use crate::engine::{Engine, Event, Finished, Request, SamplingOptions, SamplingParams, Strategy};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The text to continue; standard input, without its last line break, when `-` or missing
    prompt: Option<String>,
    /// Token ids in place of a text, such as 1,2,3
    #[arg(long, conflicts_with = "prompt")]
    ids: Option<Ids>,
    #[command(flatten)]
    generation: GenerationArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Print one JSON object when done instead of text as it comes
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct SamplingArgs {
    /// Most tokens to generate [default: up to end-of-text or the context's end]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole)]
    max_tokens: Option<u64>,
    /// How to choose the next token: greedy, top-k or top-p
    #[arg(long, default_value = "greedy", value_parser = parse_strategy)]
    strategy: Strategy,
    /// Sample among the N likeliest tokens [default with top-k: 50]
    #[arg(short, value_name = "N", allow_negative_numbers = true, value_parser = whole)]
    k: Option<u64>,
    /// Sample from the smallest set of tokens with this probability
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = number)]
    top_p: Option<f64>,
    /// Drop tokens less likely than P times the likeliest
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = number)]
    min_p: Option<f64>,
    /// Divides the logits: below 1 is safer, above is wilder, 0 is greedy [default: 1]
    #[arg(long, value_name = "T", allow_negative_numbers = true, value_parser = number)]
    temperature: Option<f64>,
    /// Above 1, tokens that were there before are less likely, below it likelier, with greedy, too
    /// [default: 1]
    #[arg(long, value_name = "R", allow_negative_numbers = true, value_parser = number)]
    repetition_penalty: Option<f64>,
    /// Seed of the draws [default: a new one each time]
    #[arg(long, value_name = "S", allow_negative_numbers = true, value_parser = whole)]
    seed: Option<u64>,
    /// A text that ends the output and is not part of it; may be repeated
    #[arg(long, value_name = "STR")]
    stop: Vec<String>,
}

impl SamplingArgs {
    fn resolve(self) -> Result<SamplingParams> {
        let ignored = [
            (self.k.is_some(), "-k"),
            (self.top_p.is_some(), "--top-p"),
            (self.min_p.is_some(), "--min-p"),
            (self.temperature.is_some(), "--temperature"),
            (self.seed.is_some(), "--seed"),
        ];
        if self.strategy == Strategy::Greedy {
            for (_, name) in ignored.iter().filter(|(given, _)| *given) {
                eprintln!("warning: {name} has no effect without --strategy top-k or top-p");
            }
        }
        Ok(SamplingParams::new(SamplingOptions {
            strategy: self.strategy,
            k: self.k,
            top_p: self.top_p,
            min_p: self.min_p,
            temperature: self.temperature,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
            stop: self.stop,
            max_tokens: self.max_tokens,
            ..Default::default()
        })?)
    }
}

fn parse_strategy(name: &str) -> Result<Strategy, String> {
    Strategy::from_name(name).ok_or_else(|| "expected greedy, top-k or top-p".to_owned())
}

fn whole(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| "expected a whole number that is not negative".to_owned())
}

fn number(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| "expected a number".to_owned())
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let params = args.sampling.resolve()?;
    let engine = args.generation.engine()?;
    let prompt = Prompt::resolve(&engine, args.prompt, args.ids)?;
    // What is refused is so before anything is printed.
    let mut events = engine.submit(Request::new(prompt.ids, params))?;
    let mut out = std::io::stdout().lock();
    if !args.json {
        write!(out, "{}", prompt.text)?;
        out.flush()?;
    }
    let mut generated = prompt.text.clone();
    let mut token_ids = Vec::new();
    while let Some(event) = events.blocking_next() {
        match event {
            Event::Token(token) => {
                generated += &token.text;
                token_ids.push(token.token_id);
                if !args.json {
                    write!(out, "{}", token.text)?;
                    out.flush()?;
                }
            }
            Event::Finished(Finished {
                finish_reason,
                usage,
            }) if args.json => {
                let answer = json!({
                    "prompt": prompt.text,
                    "generated_text": generated,
                    "token_ids": token_ids,
                    "finish_reason": finish_reason,
                    "usage": usage,
                });
                writeln!(out, "{answer}")?;
            }
            Event::Finished(_) => {
                // Without a tokenizer there was no text to show.
                if engine.tokenizer().is_err() {
                    let ids: Vec<String> = token_ids.iter().map(u32::to_string).collect();
                    write!(out, "{}", ids.join(","))?;
                }
                writeln!(out)?;
            }
            Event::Failed(error) => return Err(error.into()),
        }
    }
    Ok(())
}

struct Prompt {
    ids: Vec<u32>,
    text: String,
}

impl Prompt {
    fn resolve(engine: &Engine, text: Option<String>, ids: Option<Ids>) -> Result<Self> {
        match ids {
            Some(Ids(ids)) => {
                let decode = |t: &crate::tokenizer::Tokenizer| t.decode(&ids);
                let text = engine
                    .tokenizer()
                    .ok()
                    .map(decode)
                    .transpose()?
                    .unwrap_or_default();
                Ok(Self { ids, text })
            }
            None => {
                let tokenizer = engine.tokenizer()?;
                let text = text_or_stdin(text)?;
                Ok(Self {
                    ids: tokenizer.encode(&text)?,
                    text,
                })
            }
        }
    }
}
