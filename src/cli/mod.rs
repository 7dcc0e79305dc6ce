//! The command line: one file per subcommand.
//!
//! Raw arguments become validated values once, before anything runs; exit
//! codes are 0 (fine), 1 (failed) and 2 (used wrongly).

mod bench;
mod common;
mod generate;
mod models;
mod progress;
mod pull;
mod scheduling;
mod score;
mod serve;
mod tokenize;

use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::engine::{EngineError, ParamError};
use serve::LogFormat;

/// A pure-Rust GPT-2: generates and scores text, and serves it over HTTP.
#[derive(Debug, Parser)]
#[command(name = "gpt2", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Continue a text
    Generate(generate::Args),
    /// Serve the model over HTTP
    Serve(Box<serve::Args>),
    /// Log probabilities and perplexity of a text
    Score(score::Args),
    /// Text to token ids
    Tokenize(tokenize::TokenizeArgs),
    /// Token ids to text
    Detokenize(tokenize::DetokenizeArgs),
    /// Fetch a model from Hugging Face into the cache
    Pull(pull::Args),
    /// List or remove the models in the cache
    Models(models::Args),
    /// Measure speed and memory
    Bench(bench::Args),
}

/// The arguments make no sense together, or a value is out of range.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// Parses the process's arguments, runs the command, reports its error.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    init_logging(&cli.command);
    let result = match cli.command {
        Command::Generate(args) => generate::run(args),
        Command::Serve(args) => serve::run(*args),
        Command::Score(args) => score::run(args),
        Command::Tokenize(args) => tokenize::tokenize(args),
        Command::Detokenize(args) => tokenize::detokenize(args),
        Command::Pull(args) => pull::run(args),
        Command::Models(args) => models::run(args),
        Command::Bench(args) => bench::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            match param_of(&error) {
                Some(ParamError { param, message }) => {
                    eprintln!("error: {}: {message}", option_of(param));
                }
                None => eprintln!("error: {error:#}"),
            }
            ExitCode::from(if is_usage(&error) { 2 } else { 1 })
        }
    }
}

fn init_logging(command: &Command) {
    let (default, format) = match command {
        Command::Serve(args) => ("info", args.log_format()),
        _ => ("warn", LogFormat::Text),
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .with_target(false);
    // Fails only when a logger is there already, which is fine too.
    let _ = match format {
        LogFormat::Text => subscriber.try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    };
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

fn is_usage(error: &anyhow::Error) -> bool {
    error.is::<Usage>()
        || param_of(error).is_some()
        || matches!(error.downcast_ref(), Some(EngineError::UnknownToken { .. }))
}

fn param_of(error: &anyhow::Error) -> Option<&ParamError> {
    match error.downcast_ref() {
        Some(EngineError::Param(error)) => Some(error),
        _ => error.downcast_ref(),
    }
}

/// The option by which a parameter is given.
fn option_of(param: &str) -> String {
    match param.len() {
        1 => format!("-{param}"),
        _ => format!("--{}", param.replace('_', "-")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        super::Cli::command().debug_assert();
    }
}
