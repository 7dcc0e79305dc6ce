//! `gpt2 bench`: speed, memory and accuracy, beside what the machine could do.

mod accuracy;
mod ggml;
mod machine;
mod measure;
mod repl;
mod report;
mod requests;
mod source;
mod table;

use std::io::Write;

use anyhow::Result;
use serde::Serialize;

use super::common::ModelArgs;
use crate::kernels::{Isa, pool};
use crate::model::Dtype;
use machine::Machine;
use report::{Measured, Report};
use source::{Shape, Source};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Random weights of this shape: distilgpt2, gpt2, gpt2-medium, gpt2-large or gpt2-xl
    #[arg(long, conflicts_with = "model", value_parser = source::parse_shape)]
    shape: Option<Shape>,
    /// Also measure so many requests at once through the engine, each with 128 random tokens in
    /// and 128 out
    #[arg(long, conflicts_with_all = ["repl", "accuracy"])]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=4096))]
    requests: Option<u16>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Measure what JSON lines on standard input ask for, one JSON line in answer to each
    ///
    /// The first line printed is {"ready": true, "packed_bytes": ...}. Asked may be
    /// {"case": "decode", "batch": 8, "prompt": 32, "tokens": 64},
    /// {"case": "prefill", "tokens": 512}, {"case": "bandwidth"} and {"case": "peak"}.
    /// The end of the input ends it.
    #[arg(long, conflicts_with = "json")]
    repl: bool,
    /// Compare log probabilities of bf16, q8 and q4 with those of f32, and ours with
    /// llama.cpp's formulas for weights of 8 and 4 bits
    #[arg(long, conflicts_with_all = ["repl", "dtype"])]
    accuracy: bool,
    /// Texts on which they are compared; a few can't tell close ones apart
    #[arg(long, default_value_t = 4, requires = "accuracy")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=64))]
    texts: u16,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    if let Some(threads) = args.model.threads() {
        // Nothing ran before in this process, so it is the first word.
        pool::set_threads(threads);
    }
    args.model.check()?;
    let machine = Machine::of(args.model.device())?;
    let source = match args.shape {
        Some(shape) => Source::Random(shape),
        None => Source::Files(args.model.files()?),
    };
    if args.repl {
        return repl::run(&source, args.model.dtype().unwrap_or_default(), &machine);
    }
    if args.accuracy {
        let report = accuracy::Report::new(&source, args.texts)?;
        return if args.json {
            print_json(&report)
        } else {
            Ok(table::write_accuracy(&mut std::io::stdout(), &report)?)
        };
    }
    let dtypes = match args.model.dtype() {
        Some(dtype) => vec![dtype],
        None => machine.dtypes(),
    };
    let requests = args.requests.map(usize::from);
    let measured = |dtype| Measured::new(&source, dtype, &machine, requests);
    if !args.json {
        let what = format!("{}, {}", source.name(), machine.name()?);
        return print_table(&what, &dtypes, measured);
    }
    let precisions = dtypes.iter().map(|&dtype| measured(dtype));
    print_json(&Report {
        model: source.name(),
        version: env!("CARGO_PKG_VERSION"),
        machine: machine.name()?,
        threads: pool::threads(),
        instruction_set: Isa::current().name(),
        precisions: precisions.collect::<Result<_>>()?,
    })
}

fn print_json(report: &impl Serialize) -> Result<()> {
    let report = serde_json::to_string(report)?;
    Ok(writeln!(std::io::stdout(), "{report}")?)
}

/// Each precision as soon as it is measured.
fn print_table(
    what: &str,
    dtypes: &[Dtype],
    measured: impl Fn(Dtype) -> Result<Measured>,
) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{what}")?;
    for &dtype in dtypes {
        table::write(&mut out, &measured(dtype)?)?;
        out.flush()?;
    }
    Ok(())
}
