//! The reports for people.

use std::io::{Result, Write};

use super::accuracy;
use super::report::{Around, Decoded, Measured};

/// Bytes, or operations, in a billion.
const GIGA: f64 = 1e9;

/// One precision's figures.
pub fn write(out: &mut impl Write, m: &Measured) -> Result<()> {
    writeln!(out, "\n{}", m.dtype)?;
    memory(out, m)?;
    if let Some(seconds) = m.load_seconds {
        line(out, "load", format_args!("{seconds:>9.3} s"))?;
    }
    let bandwidth = m.read_bandwidth_bytes_per_second;
    limit(out, "read bandwidth", bandwidth, "GB/s")?;
    let peak = m.multiply_add_peak_operations_per_second;
    limit(out, "multiply-add peak", peak, "GFLOP/s")?;
    let label = format!("first token of {}", m.time_to_first_token_prompt);
    let milliseconds = m.time_to_first_token_seconds * 1e3;
    line(out, &label, format_args!("{milliseconds:>9.1} ms"))?;
    for row in &m.prefill {
        let (rate, share) = (row.tokens_per_second, row.share_of_peak * 100.0);
        let figures = format_args!("{rate:>9.1} tokens/s {:>22} {share:>5.1}% of peak", "");
        let label = match row.prompts {
            1 => format!("prefill {}", row.tokens),
            many => format!("prefill {many} x {}", row.tokens),
        };
        line(out, &label, figures)?;
    }
    for row in &m.decode {
        decoded(out, &format!("decode, batch {}", row.batch), row)?;
    }
    let label = format!("  {} sampled top-p", m.decode_top_p.batch);
    decoded(out, &label, &m.decode_top_p)?;
    for row in &m.decode_by_depth {
        let cost = row.milliseconds_per_token;
        let label = format!("decode after {}", row.past_tokens);
        line(out, &label, format_args!("{cost:>9.2} ms/token"))?;
    }
    if let Some(row) = &m.requests {
        let (all, outputs) = (row.tokens_per_second, row.output_tokens_per_second);
        let figures = format_args!("{all:>9.1} tokens/s in and out, {outputs:.1} out");
        line(out, &format!("{} requests", row.requests), figures)?;
    }
    Ok(())
}

/// What rounding costs, a line for each way to round.
pub fn write_accuracy(out: &mut impl Write, report: &accuracy::Report) -> Result<()> {
    let (texts, tokens) = (report.texts, report.tokens);
    writeln!(
        out,
        "{texts} texts of {tokens} tokens, sampled from the f32 model; mean |Δ log probability|\n\
         of the next token and of the whole vocabulary, and the same likeliest token:\n"
    )?;
    let (next, all, same) = ("next token", "vocabulary", "same top");
    writeln!(
        out,
        "{:<18} {:<12} {next:>10} {all:>10} {same:>9}",
        "weights", "activations"
    )?;
    for c in &report.compared {
        let (next, all) = (c.next_token_difference, c.vocabulary_difference);
        let (weights, activations) = (c.weights, c.activations);
        let same = c.top_1_agreement * 100.0;
        writeln!(
            out,
            "{weights:<18} {activations:<12} {next:>10.5} {all:>10.5} {same:>8.2}%"
        )?;
    }
    Ok(())
}

fn memory(out: &mut impl Write, m: &Measured) -> Result<()> {
    let mut bytes = |label, bytes: f64| {
        let mib = bytes / f64::from(1 << 20);
        line(out, label, format_args!("{mib:>9.1} MiB"))
    };
    bytes("weights", m.packed_bytes as f64)?;
    if let Some(resident) = m.resident_bytes {
        bytes("process with model", resident as f64)?;
    }
    if let Some(peak) = m.peak_memory_bytes {
        bytes("peak memory", peak as f64)?;
    }
    Ok(())
}

fn limit(out: &mut impl Write, label: &str, around: Around, unit: &str) -> Result<()> {
    let (before, after) = (around.before / GIGA, around.after / GIGA);
    let figures = format_args!("{before:>9.1} {unit} before, {after:.1} after");
    line(out, label, figures)
}

fn decoded(out: &mut impl Write, label: &str, row: &Decoded) -> Result<()> {
    let rate = row.tokens_per_second;
    let (bandwidth, peak) = (row.share_of_bandwidth * 100.0, row.share_of_peak * 100.0);
    let figures =
        format_args!("{rate:>9.1} tokens/s {bandwidth:>5.1}% of bandwidth, {peak:>5.1}% of peak");
    line(out, label, figures)
}

fn line(out: &mut impl Write, label: &str, figures: std::fmt::Arguments<'_>) -> Result<()> {
    writeln!(out, "{label:<21} {figures}")
}
