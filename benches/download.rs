//! How fast a large file comes from a hub on this machine, beside what bounds
//! it: curl writing the same bytes to the same disk, and one thread hashing
//! them. Verified, synced to the disk, and in the cache at the end.
//!
//! `cargo bench --bench download [-- FOLDER]`: the cache is put into FOLDER
//! (default: /dev/shm, so that the disk doesn't hide the rest). Needs curl.

#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

#[path = "../tests/integration/fake_hub/mod.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod fake_hub;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fake_hub::{Content, FakeHub, Files, files_of};
use gpt2_engine::hub::{Hub, NoProgress, Settings};
use sha2::{Digest, Sha256};

const MIB: usize = 1 << 20;
const ROUNDS: usize = 5;

fn main() {
    let folder = std::env::args().skip(1).find(|a| !a.starts_with("--"));
    let folder = PathBuf::from(folder.unwrap_or("/dev/shm".to_owned()));
    let size = 512 * MIB;
    let files = model(size);
    let content = files["model.safetensors"].clone();
    let hub = FakeHub::of(files);

    let (mut curl, mut hash, mut pull) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let scratch = tempfile::tempdir_in(&folder).unwrap();
        curl.push(rate(size, || fetch_with_curl(&hub, scratch.path())));
        hash.push(rate(size, || {
            std::hint::black_box(Sha256::digest(&*content.bytes));
        }));
        pull.push(rate(size, || {
            let mut child = gpt2_pull(&hub, scratch.path());
            assert!(child.wait().unwrap().success());
        }));
    }
    let (curl, hash, pull) = (median(curl), median(hash), median(pull));
    println!(
        "{} MiB into {}, medians of {ROUNDS}",
        size / MIB,
        folder.display()
    );
    println!("curl                  {curl:7.0} MB/s");
    println!("SHA-256, one thread   {hash:7.0} MB/s");
    println!(
        "gpt2 pull, verified   {pull:7.0} MB/s, {:.0}% of the lower of the two",
        100.0 * pull / curl.min(hash)
    );

    let scratch = tempfile::tempdir_in(&folder).unwrap();
    let peaks = [32, 512].map(|mib| {
        let hub = FakeHub::of(model(mib * MIB));
        let cache = scratch.path().join(mib.to_string());
        (mib, peak_memory(gpt2_pull(&hub, &cache)))
    });
    for (mib, peak) in peaks {
        println!(
            "peak memory, {mib:3} MiB file   {:.1} MiB",
            peak as f64 / MIB as f64
        );
    }
    let warm = warm_start(&scratch.path().join("512"));
    println!("warm start, checks    {:7.2} ms", warm.as_secs_f64() * 1e3);
}

/// A model whose weights are so many bytes of noise.
fn model(size: usize) -> Files {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = files_of(&root.join("tests/fixtures/small-vocab"));
    let mut state = 1u64;
    let mut bytes = Vec::with_capacity(size);
    while bytes.len() < size {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    files.insert(
        "model.safetensors".into(),
        Content::new("model.safetensors", bytes),
    );
    files
}

fn rate(size: usize, task: impl FnOnce()) -> f64 {
    let start = Instant::now();
    task();
    size as f64 / start.elapsed().as_secs_f64() / 1e6
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn fetch_with_curl(hub: &FakeHub, folder: &Path) {
    let url = format!("{}/me/model/resolve/main/model.safetensors", hub.url());
    let status = Command::new("curl")
        .args(["-sSfL", "-o"])
        .arg(folder.join("curl"))
        .arg(url)
        .status()
        .expect("curl is there");
    assert!(status.success());
}

fn gpt2_pull(hub: &FakeHub, home: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_gpt2"))
        .args(["pull", "me/model"])
        .env("HF_HOME", home)
        .env("HF_ENDPOINT", hub.url())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The largest resident set that is seen while the process runs, in bytes.
fn peak_memory(mut child: Child) -> usize {
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<usize>().ok());
        peak = peak.max(kib.unwrap_or(0) << 10);
        std::thread::sleep(Duration::from_millis(2));
    }
    peak
}

/// What finding and checking a cached model takes, the median of several.
fn warm_start(home: &Path) -> Duration {
    let mut settings = Settings::from_env().unwrap();
    settings.cache = home.join("hub");
    settings.offline = true;
    let hub = Hub::new(settings);
    let times = (0..21).map(|_| {
        let start = Instant::now();
        hub.resolve("me/model", None, &NoProgress).unwrap();
        start.elapsed().as_secs_f64()
    });
    Duration::from_secs_f64(median(times.collect()))
}
