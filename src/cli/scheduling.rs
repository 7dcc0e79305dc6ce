//! Arguments about many requests at a time.

use std::time::Duration;

use clap::ArgAction;

use crate::engine::{CacheSize, EngineBuilder};
use crate::model::KvDtype;

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Many requests")]
pub struct SchedulingArgs {
    /// Memory for the KV cache, in MiB, or tokens as in 65536t [default: what 64 contexts need,
    /// but at most a quarter of the memory that is free]
    #[arg(long, value_name = "SIZE", value_parser = parse_cache)]
    kv_cache: Option<CacheSize>,
    /// Precision of the KV cache: f32, or bf16, which is half as large and faster, but beside f32
    /// weights not equal to transformers [default: f32 beside f32 weights, else bf16]
    #[arg(long, value_name = "DTYPE")]
    kv_dtype: Option<KvDtype>,
    /// Requests that are computed together
    #[arg(long, value_name = "N", value_parser = positive(),
        default_value_t = EngineBuilder::RUNNING as u32)]
    max_running: u32,
    /// Requests that may wait; more are refused with status 429
    #[arg(long, value_name = "N", value_parser = positive(),
        default_value_t = EngineBuilder::QUEUE_REQUESTS as u32)]
    max_waiting: u32,
    /// Tokens of all waiting prompts together
    #[arg(long, value_name = "N", value_parser = positive(),
        default_value_t = EngineBuilder::QUEUE_TOKENS as u32)]
    max_waiting_tokens: u32,
    /// Tokens of prompts in one step at most. Fewer make running answers wait less for new
    /// prompts, and all of them together take longer [default on a CPU: 256, and 128 beside
    /// running answers]
    #[arg(long, value_name = "TOKENS", value_parser = positive())]
    prefill_chunk: Option<u32>,
    /// Whether prompts that begin alike are computed once, which changes no answer: on or off
    #[arg(long, default_value = "on", value_parser = parse_switch, action = ArgAction::Set)]
    prefix_reuse: bool,
    /// Seconds after which a client that doesn't read its tokens is given up
    #[arg(long, value_name = "SECONDS", value_parser = positive(),
        default_value_t = EngineBuilder::PATIENCE.as_secs() as u32)]
    reader_timeout: u32,
}

impl SchedulingArgs {
    /// What was asked for, given to the engine.
    pub fn apply(&self, builder: EngineBuilder) -> EngineBuilder {
        let builder = builder
            .running(self.max_running as usize)
            .queue(self.max_waiting as usize, self.max_waiting_tokens as usize)
            .prefix_reuse(self.prefix_reuse)
            .patience(Duration::from_secs(u64::from(self.reader_timeout)));
        let builder = match self.prefill_chunk {
            Some(tokens) => builder.prefill_chunk(tokens as usize),
            None => builder,
        };
        let builder = match self.kv_dtype {
            Some(dtype) => builder.kv_dtype(dtype),
            None => builder,
        };
        match self.kv_cache {
            Some(size) => builder.kv_cache(size),
            None => builder,
        }
    }
}

fn positive() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..)
}

fn parse_cache(text: &str) -> Result<CacheSize, String> {
    let (digits, is_tokens) = match text.strip_suffix('t') {
        Some(digits) => (digits, true),
        None => (text, false),
    };
    match digits.parse().ok().filter(|&number| number > 0) {
        Some(tokens) if is_tokens => Ok(CacheSize::Tokens(tokens)),
        Some(mib) => Ok(CacheSize::Bytes(usize::saturating_mul(mib, 1 << 20))),
        None => Err("expected MiB, as in 2048, or tokens, as in 65536t".to_owned()),
    }
}

fn parse_switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("expected on or off".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn prefix_reuse_is_switched() {
        let reuse = |arguments: &[&str]| parse(arguments).map(|args| args.prefix_reuse);
        assert_eq!(reuse(&[]), Some(true));
        assert_eq!(reuse(&["--prefix-reuse", "off"]), Some(false));
        assert_eq!(reuse(&["--prefix-reuse", "maybe"]), None);
    }

    #[test]
    fn a_chunk_has_a_token_at_least() {
        let chunk = |arguments: &[&str]| parse(arguments).map(|args| args.prefill_chunk);
        assert_eq!(chunk(&[]), Some(None));
        assert_eq!(chunk(&["--prefill-chunk", "32"]), Some(Some(32)));
        assert_eq!(chunk(&["--prefill-chunk", "0"]), None);
    }

    #[test]
    fn keys_and_values_have_a_dtype_of_their_own() {
        let dtype = |arguments: &[&str]| parse(arguments).map(|args| args.kv_dtype);
        assert_eq!(dtype(&[]), Some(None));
        assert_eq!(dtype(&["--kv-dtype", "bf16"]), Some(Some(KvDtype::Bf16)));
        assert_eq!(dtype(&["--kv-dtype", "q8"]), None);
    }

    fn parse(arguments: &[&str]) -> Option<SchedulingArgs> {
        #[derive(clap::Parser)]
        struct Command {
            #[command(flatten)]
            scheduling: SchedulingArgs,
        }
        let command = Command::try_parse_from([&["serve"], arguments].concat());
        command.map(|command| command.scheduling).ok()
    }

    #[test]
    fn a_cache_is_given_in_mib_or_tokens() {
        assert_eq!(parse_cache("100t"), Ok(CacheSize::Tokens(100)));
        assert_eq!(parse_cache("72"), Ok(CacheSize::Bytes(72 << 20)));
        assert!(parse_cache("0").is_err() && parse_cache("72M").is_err());
    }
}
