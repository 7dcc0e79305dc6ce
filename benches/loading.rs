//! How long a checkpoint takes to load from a warm page cache, beside reading
//! its file once into memory, in turn, and what it then holds:
//! `cargo bench --bench loading -- FOLDER [f32|bf16|q8|q4]`.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::time::Instant;

use gpt2_engine::kernels::pool;
use gpt2_engine::model::{Dtype, Gpt2, LoadOptions, ModelFiles};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const ROUNDS: usize = 5;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1).filter(|a| !a.starts_with('-'));
    let folder = args.next().ok_or("the folder of a checkpoint, please")?;
    let asked = args.next().unwrap_or_default();
    println!("{} threads; medians of {ROUNDS} rounds", pool::threads());
    for dtype in Dtype::ALL {
        if asked.is_empty() || asked == dtype.as_str() {
            report(Path::new(&folder), dtype)?;
        }
    }
    Ok(())
}

fn report(folder: &Path, dtype: Dtype) -> Result<()> {
    let files = ModelFiles::from_dir(folder)?;
    let file = folder.join("model.safetensors");
    let (mut reading, mut loading, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut held = (0, 0);
    read(&file)?;
    for _ in 0..ROUNDS {
        let read = read(&file)?;
        let before = resident()?;
        let started = Instant::now();
        let model = Gpt2::load(&files, &LoadOptions { dtype })?;
        let load = started.elapsed().as_secs_f64();
        held = (model.packed_bytes(), resident()?.saturating_sub(before));
        reading.push(read);
        loading.push(load);
        ratios.push(load / read);
    }
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    println!(
        "{:>4}: read in {:.3} s, loaded in {:.3} s, {:.2} × by rounds; \
         {:.0} MiB of packed weights, {:.0} MiB more resident",
        dtype.as_str(),
        median(reading),
        median(loading),
        median(ratios),
        mib(held.0),
        mib(held.1),
    );
    Ok(())
}

/// Seconds of reading a file into fresh memory, on one thread.
fn read(file: &Path) -> Result<f64> {
    let started = Instant::now();
    let mut bytes = Vec::new();
    File::open(file)?.read_to_end(&mut bytes)?;
    std::hint::black_box(&bytes);
    Ok(started.elapsed().as_secs_f64())
}

/// Bytes of memory that the process holds, files not counted.
fn resident() -> Result<usize> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
    let kib = line.ok_or("no RssAnon")?.trim().trim_end_matches(" kB");
    Ok(kib.parse::<usize>()? << 10)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}
