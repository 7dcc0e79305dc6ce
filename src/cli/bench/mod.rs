//! `gpt2 bench`: speed and memory, beside what the machine could do.

mod machine;
mod measure;

use std::io::Write;
use std::time::Instant;

use anyhow::Result;
use serde_json::{Value, json};

use super::common::ModelArgs;
use crate::model::{Config, Gpt2, LoadOptions};
use measure::Bench;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Random weights of this shape: distilgpt2, gpt2, gpt2-medium, gpt2-large or gpt2-xl
    #[arg(long, conflicts_with = "model", value_parser = parse_shape)]
    shape: Option<Config>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn parse_shape(name: &str) -> Result<Config, String> {
    let (n_layer, n_embd, n_head) = match name {
        "distilgpt2" => (6, 768, 12),
        "gpt2" => (12, 768, 12),
        "gpt2-medium" => (24, 1024, 16),
        "gpt2-large" => (36, 1280, 20),
        "gpt2-xl" => (48, 1600, 25),
        _ => {
            return Err("expected distilgpt2, gpt2, gpt2-medium, gpt2-large or gpt2-xl".to_owned());
        }
    };
    let config = json!({"n_layer": n_layer, "n_embd": n_embd, "n_head": n_head});
    Config::from_json(config.to_string().as_bytes(), name).map_err(|e| e.to_string())
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    if let Some(threads) = args.model.threads() {
        // Nothing ran before in this process, so it is the first word.
        crate::kernels::pool::set_threads(threads);
    }
    let started = Instant::now();
    let model = match args.shape {
        Some(config) => Gpt2::random(config, args.model.dtype(), 0)?,
        None => Gpt2::load(
            &args.model.files()?,
            &LoadOptions {
                dtype: args.model.dtype(),
            },
        )?,
    };
    let load_seconds = started.elapsed().as_secs_f64();
    let bench = Bench::new(model);
    let before = machine::read_bandwidth();
    let peak = machine::multiply_add_peak(args.model.dtype().precision());
    let context = bench.n_positions();
    let mut prefill = Vec::new();
    for tokens in [128, 512].into_iter().filter(|&n| n < context) {
        let rate = bench.prefill(tokens)?;
        let share = rate * bench.flops_per_token() / peak;
        prefill.push(json!({"tokens": tokens, "tokens_per_second": rate, "share_of_peak": share}));
    }
    let mut decode = Vec::new();
    for batch in [1, 8, 32] {
        let rate = bench.decode(batch, 32.min(context / 4))?;
        let share = rate / batch as f64 * bench.packed_bytes() as f64 / before;
        decode.push(json!({
            "batch": batch, "tokens_per_second": rate, "share_of_bandwidth": share,
        }));
    }
    let mut depth = Vec::new();
    for past in [32, 256, 512, 960]
        .into_iter()
        .filter(|&n| n + 48 < context)
    {
        let milliseconds = 1e3 / bench.decode(1, past)?;
        depth.push(json!({"past_tokens": past, "milliseconds_per_token": milliseconds}));
    }
    let report = json!({
        "threads": crate::kernels::pool::threads(),
        "instruction_set": crate::kernels::Isa::current().name(),
        "dtype": args.model.dtype().as_str(),
        "packed_bytes": bench.packed_bytes(),
        "load_seconds": load_seconds,
        "time_to_first_token_seconds": 32.0 / bench.prefill(32.min(context / 2))?,
        "read_bandwidth_bytes_per_second": (before + machine::read_bandwidth()) / 2.0,
        "multiply_add_peak_flops": peak,
        "prefill": prefill,
        "decode": decode,
        "decode_by_depth": depth,
        "peak_memory_bytes": machine::peak_memory(),
    });
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{report}")?;
    } else {
        table(&mut out, &report)?;
    }
    Ok(())
}

fn table(out: &mut impl Write, report: &Value) -> Result<()> {
    let number = |v: &Value| v.as_f64().unwrap_or(f64::NAN);
    let threads = &report["threads"];
    let (dtype, isa) = (report["dtype"].as_str(), report["instruction_set"].as_str());
    let (dtype, isa) = (dtype.unwrap_or_default(), isa.unwrap_or_default());
    writeln!(out, "{threads} threads, {dtype}, {isa}")?;
    let mib = number(&report["packed_bytes"]) / (1 << 20) as f64;
    writeln!(out, "weights               {mib:>9.1} MiB")?;
    if let Some(bytes) = report["peak_memory_bytes"].as_f64() {
        writeln!(
            out,
            "peak memory           {:>9.1} MiB",
            bytes / (1 << 20) as f64
        )?;
    }
    writeln!(
        out,
        "load                  {:>9.3} s",
        number(&report["load_seconds"])
    )?;
    let first = number(&report["time_to_first_token_seconds"]) * 1e3;
    writeln!(out, "first token of 32     {first:>9.1} ms")?;
    let bandwidth = number(&report["read_bandwidth_bytes_per_second"]) / 1e9;
    writeln!(out, "read bandwidth        {bandwidth:>9.1} GB/s")?;
    let peak = number(&report["multiply_add_peak_flops"]) / 1e9;
    writeln!(out, "multiply-add peak     {peak:>9.1} GFLOP/s")?;
    for row in report["prefill"].as_array().into_iter().flatten() {
        let (tokens, rate) = (&row["tokens"], number(&row["tokens_per_second"]));
        let share = number(&row["share_of_peak"]) * 100.0;
        writeln!(
            out,
            "prefill {tokens:>5}         {rate:>9.1} tokens/s {share:>5.1}% of peak"
        )?;
    }
    for row in report["decode"].as_array().into_iter().flatten() {
        let (batch, rate) = (&row["batch"], number(&row["tokens_per_second"]));
        let share = number(&row["share_of_bandwidth"]) * 100.0;
        writeln!(
            out,
            "decode, batch {batch:>3}     {rate:>9.1} tokens/s {share:>5.1}% of bandwidth"
        )?;
    }
    for row in report["decode_by_depth"].as_array().into_iter().flatten() {
        let (past, cost) = (&row["past_tokens"], number(&row["milliseconds_per_token"]));
        writeln!(out, "decode after {past:>5}    {cost:>9.2} ms/token")?;
    }
    Ok(())
}
