//! Arguments that every command with a model takes.

use std::io::Read;
use std::str::FromStr;

use anyhow::{Context, Result};

use super::Usage;
use super::progress::Display;
use crate::engine::{Engine, EngineBuilder, Speculation};
use crate::hub::{self, Hub, Settings};
use crate::model::{Device, Dtype, ModelFiles};

/// Which model, and where it may come from.
#[derive(Debug, clap::Args)]
pub struct SourceArgs {
    /// `demo` (embedded), a folder with config.json, weights and tokenizer, or a model on Hugging
    /// Face: gpt2, gpt2-medium, gpt2-large, gpt2-xl, distilgpt2, or OWNER/NAME, perhaps with
    /// @REVISION [default: demo]
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Branch, tag or commit of a model on Hugging Face [default: main]
    #[arg(long, value_name = "REVISION", requires = "model")]
    revision: Option<String>,
    /// Use what is in the cache and open no connection
    #[arg(long)]
    offline: bool,
}

impl SourceArgs {
    /// The model's files, fetched if need be.
    pub fn files(&self) -> Result<ModelFiles> {
        let Some(name) = self.model.as_deref() else {
            return Ok(ModelFiles::demo());
        };
        let revision = self.revision.as_deref();
        if let Some(files) = hub::local(name, revision)? {
            return Ok(files);
        }
        Ok(open_hub(self.offline)?.resolve(name, revision, &Display::new())?)
    }
}

/// The hub as the environment has it.
pub fn open_hub(offline: bool) -> Result<Hub> {
    let mut settings = Settings::from_env()?;
    settings.offline |= offline;
    Ok(Hub::new(settings))
}

#[derive(Debug, clap::Args)]
pub struct ModelArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// Precision of the weights: f32, bf16, q8 or q4, on a GPU f32, bf16 or f16 [default: f32;
    /// bench measures each]
    #[arg(long)]
    dtype: Option<Dtype>,
    /// Threads that compute [default: all the process may use]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Where to compute: `cpu`, or `cuda[:N]` in builds with CUDA
    #[arg(long, default_value = "cpu")]
    device: Device,
}

impl ModelArgs {
    /// What the model is called, if one was named.
    pub fn name(&self) -> Option<&str> {
        self.source.model.as_deref()
    }

    /// The model's files.
    pub fn files(&self) -> Result<ModelFiles> {
        self.check()?;
        self.source.files()
    }

    /// Whether the device has the precision: known before anything is fetched.
    pub fn check(&self) -> Result<()> {
        let dtype = self.dtype.unwrap_or_default();
        let known = match self.device {
            Device::Cpu => dtype.precision().map(drop),
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => dtype.format().map(drop),
        };
        known.map_err(|error| Usage(error.to_string()).into())
    }

    /// Loads the model and starts an engine on it.
    pub fn engine(&self) -> Result<Engine> {
        Ok(self.builder(self.files()?).build()?)
    }

    /// An engine to be built on these files.
    fn builder(&self, files: ModelFiles) -> EngineBuilder {
        let builder = Engine::builder()
            .model(files)
            .device(self.device)
            .dtype(self.dtype.unwrap_or_default());
        match self.threads() {
            Some(threads) => builder.threads(threads),
            None => builder,
        }
    }

    /// Where to compute.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The precision asked for.
    pub fn dtype(&self) -> Option<Dtype> {
        self.dtype
    }

    /// The number of threads asked for.
    pub fn threads(&self) -> Option<usize> {
        self.threads.map(usize::from)
    }
}

/// Arguments that every command that generates takes.
#[derive(Debug, clap::Args)]
pub struct GenerationArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// How tokens are guessed ahead, which saves time and changes no answer: prompt-lookup
    /// (copied from earlier in the text) or off
    #[arg(long, default_value = "prompt-lookup", value_parser = parse_speculation)]
    speculation: Speculation,
}

impl GenerationArgs {
    /// Loads the model and starts an engine on it.
    pub fn engine(&self) -> Result<Engine> {
        Ok(self.builder(self.model.files()?).build()?)
    }

    /// An engine to be built on these files.
    pub fn builder(&self, files: ModelFiles) -> EngineBuilder {
        self.model.builder(files).speculation(self.speculation)
    }
}

fn parse_speculation(name: &str) -> Result<Speculation, String> {
    match name {
        "prompt-lookup" => Ok(Speculation::PromptLookup),
        "off" => Ok(Speculation::Off),
        _ => Err("expected prompt-lookup or off".to_owned()),
    }
}

/// A comma-separated list of token ids.
#[derive(Debug, Clone)]
pub struct Ids(pub Vec<u32>);

impl FromStr for Ids {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let id = |part: &str| {
            let part = part.trim();
            part.parse()
                .map_err(|_| format!("{part:?} is not a token id"))
        };
        text.split(',').map(id).collect::<Result<_, _>>().map(Ids)
    }
}

/// The text given, or standard input where it is `-` or missing.
pub fn text_or_stdin(text: Option<String>) -> Result<String> {
    match text {
        Some(text) if text != "-" => Ok(text),
        _ => {
            let mut bytes = Vec::new();
            std::io::stdin()
                .read_to_end(&mut bytes)
                .context("standard input")?;
            // A line typed or echoed ends with a line break that isn't meant.
            let text = String::from_utf8(bytes)
                .map_err(|_| Usage("standard input is not UTF-8".to_owned()))?;
            let trimmed = text.strip_suffix('\n').unwrap_or(&text);
            Ok(trimmed.strip_suffix('\r').unwrap_or(trimmed).to_owned())
        }
    }
}
