//! `gpt2 bench --repl`: measurements asked for as JSON lines, so that a script
//! can take turns between this engine and others (`benches/peers`).

use std::io::{BufRead, Write};

use anyhow::Result;
use serde::Deserialize;
use serde_json::{Value, json};

use super::machine::{self, Machine};
use super::measure::{self, Decode, Prompts};
use super::source::Source;
use crate::model::{Dtype, Transformer};

/// What a line asks for.
#[derive(Debug, Deserialize)]
#[serde(tag = "case", rename_all = "lowercase")]
enum Case {
    Decode(Decode),
    Prefill { tokens: usize },
    Bandwidth,
    Peak,
}

/// Answers until the input ends.
pub fn run(source: &Source, dtype: Dtype, machine: &Machine) -> Result<()> {
    let model = source.load(dtype, machine)?;
    let mut prompts = Prompts::new(&*model, machine.chunk())?;
    let mut out = std::io::stdout().lock();
    let ready = json!({"ready": true, "packed_bytes": model.packed_bytes()});
    say(&mut out, &ready)?;
    // Bytes, since what isn't UTF-8 is a bad line like others.
    for line in std::io::stdin().lock().split(b'\n') {
        let line = line?;
        let answer = answer((&*model, machine), &mut prompts, dtype, &line);
        say(
            &mut out,
            &answer.unwrap_or_else(|e| json!({"error": format!("{e:#}")})),
        )?;
    }
    Ok(())
}

/// A line at once: the other side waits for it.
fn say(out: &mut impl Write, answer: &Value) -> Result<()> {
    writeln!(out, "{answer}")?;
    Ok(out.flush()?)
}

fn answer(
    (model, machine): (&dyn Transformer, &Machine),
    prompts: &mut Prompts<'_>,
    dtype: Dtype,
    line: &[u8],
) -> Result<Value> {
    Ok(match serde_json::from_slice(line)? {
        Case::Decode(decode) => {
            let tokens = decode.batch.saturating_mul(decode.tokens);
            timed(measure::decode_once(model, decode)?, tokens)
        }
        Case::Prefill { tokens } => timed(prompts.once(tokens)?, tokens),
        Case::Bandwidth => {
            let bandwidth = machine.read_bandwidth()?;
            // What it read was the measurement's memory, not the model's. Where
            // that can't be forgotten, the peak is too high by it.
            machine::reset_peak_memory();
            json!({"bytes_per_second": bandwidth})
        }
        Case::Peak => {
            let peak = machine.multiply_add_peak(dtype)?;
            json!({"operations_per_second": peak})
        }
    })
}

fn timed(seconds: f64, tokens: usize) -> Value {
    json!({"seconds": seconds, "tokens_per_second": tokens as f64 / seconds})
}
