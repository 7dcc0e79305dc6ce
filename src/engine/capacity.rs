//! How much memory the KV cache may take.

use std::fs;
use std::path::Path;

use crate::model::{CacheFormat, Config, KvCache};

/// Room in the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheSize {
    /// For so many tokens.
    Tokens(usize),
    /// For as many tokens as fit so many bytes.
    Bytes(usize),
}

impl CacheSize {
    /// Tokens, for a model of this shape.
    pub(super) fn tokens(self, config: &Config, format: CacheFormat) -> usize {
        match self {
            Self::Tokens(tokens) => tokens,
            Self::Bytes(bytes) => {
                let block = KvCache::bytes_for(config, format, KvCache::BLOCK).max(1);
                bytes / block * KvCache::BLOCK
            }
        }
    }
}

/// Contexts that the cache holds at most, where nobody says: more than run at a time.
const MOST_CONTEXTS: usize = 64;

/// The share of the memory that is free now, in parts.
const SHARE: usize = 4;

/// Assumed where the system doesn't tell.
const UNKNOWN: usize = 4 << 30;

/// Tokens for which the cache has room unless set: a quarter of the memory
/// that is free, at least one context, at most 64.
pub fn default_tokens(config: &Config, format: CacheFormat, free: usize) -> usize {
    let context = KvCache::bytes_for(config, format, config.n_positions).max(1);
    let contexts = free / SHARE / context;
    contexts.clamp(1, MOST_CONTEXTS) * config.n_positions
}

/// Bytes that the process may still take: what the system has left or, if
/// that is less, what its container has.
pub fn free_memory() -> usize {
    let system = read(Path::new("/proc/meminfo"), available).unwrap_or(UNKNOWN);
    let group = Path::new("/sys/fs/cgroup");
    let number = |text: &str| text.trim().parse::<usize>().ok();
    let limit = read(&group.join("memory.max"), number);
    let used = read(&group.join("memory.current"), number);
    match (limit, used) {
        (Some(limit), Some(used)) => system.min(limit.saturating_sub(used)),
        _ => system,
    }
}

fn read(path: &Path, parse: impl FnOnce(&str) -> Option<usize>) -> Option<usize> {
    parse(&fs::read_to_string(path).ok()?)
}

/// Bytes of the line `MemAvailable: N kB`.
fn available(meminfo: &str) -> Option<usize> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_a_context_at_least() {
        let tiny = Config::from_json(br#"{"n_embd": 4, "n_head": 1, "n_layer": 1}"#, "test");
        let tiny = tiny.expect("a config");
        let tokens = default_tokens(&tiny, CacheFormat::F32, free_memory());
        assert_eq!(tokens % tiny.n_positions, 0);
        assert!((1..=64).contains(&(tokens / tiny.n_positions)));
    }

    #[test]
    fn bytes_are_whole_blocks() {
        let json = br#"{"n_embd": 768, "n_head": 12, "n_layer": 12}"#;
        let config = Config::from_json(json, "test").expect("a config");
        // 2 x 12 x 768 x 4 bytes per token in f32.
        let tokens = |bytes, format| CacheSize::Bytes(bytes).tokens(&config, format);
        assert_eq!(tokens(72 << 20, CacheFormat::F32), 1024);
        assert_eq!(tokens((72 << 20) - 1, CacheFormat::F32), 992);
        assert_eq!(tokens(72 << 20, CacheFormat::Bf16), 2048);
    }

    #[test]
    fn available_memory_is_read_in_kib() {
        let meminfo = "MemTotal:       24 kB\nMemAvailable:   12345 kB\n";
        assert_eq!(available(meminfo), Some(12345 * 1024));
        assert_eq!(available("MemTotal: 24 kB\n"), None);
    }
}
