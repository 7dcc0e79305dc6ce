//! The command line.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use gpt2_engine::model::ModelFiles;
use serde::Serialize;

/// How requests come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// So many streams, each of which asks again as soon as it is answered
    Closed,
    /// At random times (a Poisson process), whether or not others are answered
    Open,
    /// As open, at four times the rate that the closed mode reaches, for 15 seconds
    Overload,
    /// Streams of which one after another is given up by its client
    Disconnect,
}

/// Loads `gpt2 serve` with requests and measures the answers.
#[derive(Debug, Clone, Parser, Serialize)]
pub struct Args {
    /// How requests come
    #[arg(long, value_enum, default_value = "closed")]
    pub mode: Mode,
    /// A checkpoint's folder, or demo
    #[arg(long, default_value = "demo")]
    pub model: String,
    /// Precision of the weights
    #[arg(long, default_value = "f32")]
    pub dtype: String,
    /// Threads that compute
    #[arg(long, default_value_t = 2)]
    pub threads: u16,
    /// Streams of the closed mode
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=512))]
    pub streams: u16,
    /// Requests of a round [default: closed as many as streams, open 64]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub requests: Option<u16>,
    /// Requests a second of the open mode
    #[arg(long, default_value_t = 8.0)]
    pub rate: f64,
    /// Tokens of each prompt, or LEAST-MOST [default: closed 32, open 32-512]
    #[arg(long, value_parser = lengths)]
    pub prompt: Option<[usize; 2]>,
    /// Tokens that each request asks for
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    pub tokens: u16,
    /// Which prompts, and when
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Rounds of the same requests
    #[arg(long, default_value_t = 3)]
    pub rounds: u16,
    /// Seconds after which a round gives up
    #[arg(long, default_value_t = 120)]
    pub limit: u16,
    /// A file for all that was measured
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// A round for every line of standard input, its measurements as a line of JSON
    #[arg(long)]
    pub repl: bool,
    /// The program that serves
    #[arg(long, default_value = env!("CARGO_BIN_EXE_gpt2"))]
    #[serde(skip)]
    pub binary: PathBuf,
    /// Further arguments of `gpt2 serve`. Unless there are some, it gains nothing from weights that
    /// repeat themselves, or from prompts that come again every round
    #[arg(last = true, default_values = ["--speculation", "off", "--prefix-reuse", "off"])]
    pub serve: Vec<String>,
}

impl Args {
    pub fn request_count(&self) -> usize {
        let default = match self.mode {
            Mode::Closed | Mode::Disconnect => self.streams,
            Mode::Open => 64,
            // Several times, so that they don't begin together.
            Mode::Overload => self.streams.saturating_mul(4),
        };
        self.requests.unwrap_or(default).into()
    }

    /// Least and most tokens of a prompt.
    pub fn prompt_lengths(&self) -> [usize; 2] {
        let default = match self.mode {
            Mode::Open => [32, 512],
            Mode::Closed | Mode::Overload | Mode::Disconnect => [32, 32],
        };
        self.prompt.unwrap_or(default)
    }

    pub fn time_limit(&self) -> Duration {
        Duration::from_secs(self.limit.into())
    }

    pub fn files(&self) -> anyhow::Result<ModelFiles> {
        Ok(match self.model.as_str() {
            "demo" => ModelFiles::demo(),
            folder => ModelFiles::from_dir(Path::new(folder))?,
        })
    }

    /// What server and bench are both told.
    pub fn of_model(&self) -> [String; 6] {
        let [model, dtype] = [self.model.clone(), self.dtype.clone()];
        let threads = self.threads.to_string();
        let name = |name: &str| format!("--{name}");
        [
            name("model"),
            model,
            name("dtype"),
            dtype,
            name("threads"),
            threads,
        ]
    }
}

fn lengths(text: &str) -> Result<[usize; 2], String> {
    let (least, most) = text.split_once('-').unwrap_or((text, text));
    match (least.parse(), most.parse()) {
        (Ok(least), Ok(most)) if 0 < least && least <= most => Ok([least, most]),
        _ => Err("expected tokens, as in 32, or the least and the most, as in 32-512".to_owned()),
    }
}
