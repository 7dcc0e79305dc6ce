//! The options of `gpt2 serve` and the settings they come to.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use clap::builder::NonEmptyStringValueParser;

use crate::cli::Usage;
use crate::model::ModelFiles;
use crate::server::{
    AllowedHosts, ApiKeys, ChatTemplate, ConnectionLimits, Cors, RequestLimits, ServerConfig, Tls,
};

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, clap::Args)]
pub struct ServerArgs {
    /// Address to listen on; 0.0.0.0 for all
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0 lets the system choose
    #[arg(long, default_value_t = 3000)]
    pub port: u16,
    /// Name of the model in answers, and for requests, in place of its own
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub served_model_name: Option<String>,
    /// The form of the log on standard error
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// Write prompts into the log
    #[arg(long)]
    log_prompts: bool,
    /// A Jinja template for /v1/chat/completions, in place of the model's own
    #[arg(long, value_name = "FILE")]
    chat_template: Option<PathBuf>,
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    limits: LimitArgs,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Access")]
struct AccessArgs {
    /// Key that clients must send as `Authorization: Bearer KEY`; may be repeated. Better given
    /// by the environment or a file than here, where other users of the machine see it
    #[arg(long, value_name = "KEY", env = "GPT2_API_KEY", hide_env_values = true)]
    api_key: Vec<String>,
    /// File with a key on each line
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Host header to answer to, beside this machine's own names, such as the name under which a
    /// proxy is reached; may be repeated. Without it, a server on 127.0.0.1 answers to localhost
    /// only, one on another address to every host
    #[arg(long, value_name = "HOST")]
    allowed_host: Vec<String>,
    /// Origin of pages that may call the server from a browser, such as `https://example.org`, or
    /// * for all; may be repeated
    #[arg(long, value_name = "ORIGIN")]
    cors_origin: Vec<String>,
    /// Certificate chain (PEM); the server then speaks HTTPS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Key of the certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// Connections at a time
    #[arg(long, value_name = "N", default_value_t = ConnectionLimits::default().connections)]
    max_connections: usize,
    /// Bytes of a request's body
    #[arg(long, value_name = "BYTES", default_value_t = RequestLimits::default().body_bytes)]
    max_body_bytes: usize,
    /// Prompts, or texts to score, in a request
    #[arg(long, value_name = "N", default_value_t = RequestLimits::default().prompts)]
    max_prompts: usize,
    /// `n`, and `best_of`, in a request
    #[arg(long, value_name = "N", default_value_t = RequestLimits::default().choices)]
    max_choices: usize,
    /// Choices over all prompts of a request
    #[arg(long, value_name = "N", default_value_t = RequestLimits::default().total_choices)]
    max_total_choices: usize,
    /// Stop strings in a request
    #[arg(long, value_name = "N", default_value_t = RequestLimits::default().stop_strings)]
    max_stop_strings: usize,
    /// Bytes of a stop string
    #[arg(long, value_name = "BYTES", default_value_t = RequestLimits::default().stop_bytes)]
    max_stop_bytes: usize,
    /// Seconds for the head of a request
    #[arg(long, value_name = "SECONDS",
        default_value_t = Seconds(ConnectionLimits::default().header_timeout))]
    header_timeout: Seconds,
    /// Seconds for the body of a request
    #[arg(long, value_name = "SECONDS",
        default_value_t = Seconds(ConnectionLimits::default().body_timeout))]
    body_timeout: Seconds,
    /// Seconds that a connection may be idle between requests
    #[arg(long, value_name = "SECONDS",
        default_value_t = Seconds(ConnectionLimits::default().idle_timeout))]
    idle_timeout: Seconds,
    /// Seconds that a client may take nothing of what is sent to it
    #[arg(long, value_name = "SECONDS",
        default_value_t = Seconds(ConnectionLimits::default().write_timeout))]
    write_timeout: Seconds,
    /// Seconds for running answers to end after SIGTERM
    #[arg(long, value_name = "SECONDS",
        default_value_t = Seconds(ConnectionLimits::default().drain_timeout))]
    drain_timeout: Seconds,
    /// Seconds after which an answer is cut short [default: none]
    #[arg(long, value_name = "SECONDS", value_parser = some_seconds)]
    request_timeout: Option<Duration>,
}

/// A time in seconds, as arguments have it.
#[derive(Debug, Clone, Copy)]
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_secs_f64().fmt(f)
    }
}

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        seconds(text).map(Self)
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let parsed = text
        .parse()
        .ok()
        .and_then(|s| Duration::try_from_secs_f64(s).ok());
    // A day; far beyond it, adding to a clock could overflow.
    let most = Duration::from_secs(24 * 3600);
    parsed
        .filter(|duration| *duration <= most)
        .ok_or_else(|| "expected seconds, from 0 to 86400".to_owned())
}

/// Some time: no request is answered in none.
fn some_seconds(text: &str) -> Result<Duration, String> {
    let some = seconds(text).ok().filter(|duration| !duration.is_zero());
    some.ok_or_else(|| "expected seconds, above 0 and up to 86400".to_owned())
}

impl ServerArgs {
    /// The settings for a server of `model` that listens on `address`; `asked`
    /// is what the model was called when it was asked for.
    pub fn config(
        &self,
        address: IpAddr,
        model: &ModelFiles,
        asked: Option<&str>,
    ) -> Result<ServerConfig> {
        let chat_template = match (&self.chat_template, model.dir()) {
            (Some(file), _) => Some(ChatTemplate::new(read("--chat-template", file)?)?),
            (None, Some(dir)) => ChatTemplate::from_dir(dir)?,
            (None, None) => None,
        };
        Ok(ServerConfig {
            api_keys: self.access.api_keys()?,
            hosts: AllowedHosts::for_address(address, &self.access.allowed_host),
            cors: self.access.cors()?,
            tls: self.access.tls()?,
            limits: self.limits.request(),
            connections: self.limits.connection(),
            chat_template,
            aliases: match self.served_model_name {
                Some(_) => Vec::new(),
                None => asked.map(str::to_owned).into_iter().collect(),
            },
            log_prompts: self.log_prompts,
        })
    }
}

impl AccessArgs {
    fn api_keys(&self) -> Result<ApiKeys> {
        let mut keys = self.api_key.clone();
        if let Some(file) = &self.api_key_file {
            let text = read("--api-key-file", file)?;
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            let before = keys.len();
            keys.extend(lines.map(str::to_owned));
            // An empty file is a mistake, not an open server.
            if keys.len() == before {
                return Err(Usage(format!("{} holds no key", file.display())).into());
            }
        }
        Ok(ApiKeys::new(keys).map_err(Usage)?)
    }

    fn cors(&self) -> Result<Cors> {
        if self.cors_origin.iter().any(|origin| origin == "*") {
            return Ok(Cors::Any);
        }
        let origin = |text: &String| {
            let is_origin = text.starts_with("http://") || text.starts_with("https://");
            let value = text.parse().ok();
            value
                .filter(|_| is_origin && !text.ends_with('/'))
                .ok_or_else(|| {
                    Usage(format!(
                        "--cors-origin: {text:?} is no origin, such as https://example.org"
                    ))
                })
        };
        let origins: Vec<_> = self
            .cors_origin
            .iter()
            .map(origin)
            .collect::<Result<_, _>>()?;
        Ok(if origins.is_empty() {
            Cors::Off
        } else {
            Cors::Origins(origins)
        })
    }

    fn tls(&self) -> Result<Option<Tls>> {
        match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => Ok({
                let tls = Tls::from_pem_files(certificate, key);
                Some(tls.context("--tls-cert, --tls-key")?)
            }),
            _ => Ok(None),
        }
    }
}

impl LimitArgs {
    fn request(&self) -> RequestLimits {
        RequestLimits {
            body_bytes: self.max_body_bytes,
            prompts: self.max_prompts,
            choices: self.max_choices,
            total_choices: self.max_total_choices,
            stop_strings: self.max_stop_strings,
            stop_bytes: self.max_stop_bytes,
        }
    }

    fn connection(&self) -> ConnectionLimits {
        ConnectionLimits {
            connections: self
                .max_connections
                .min(tokio::sync::Semaphore::MAX_PERMITS),
            header_timeout: self.header_timeout.0,
            body_timeout: self.body_timeout.0,
            idle_timeout: self.idle_timeout.0,
            write_timeout: self.write_timeout.0,
            drain_timeout: self.drain_timeout.0,
            request_timeout: self.request_timeout,
            ..ConnectionLimits::default()
        }
    }
}

fn read(option: &str, file: &Path) -> Result<String> {
    let text = std::fs::read_to_string(file);
    text.with_context(|| format!("{option} {}", file.display()))
}
