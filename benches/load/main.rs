//! `gpt2 serve` under load, through HTTP:
//!
//! ```sh
//! cargo bench --bench load -- --model DIR                # streams that never pause
//! cargo bench --bench load -- --model DIR --mode open    # requests that come as they please
//! cargo bench --bench load -- --model DIR --mode overload    # four times what can be answered
//! cargo bench --bench load -- --model DIR --mode disconnect  # how soon those who leave make room
//! ```
//!
//! It starts the server itself, on a port that the system picks, and ends it.
//! With the first mode `gpt2 bench` decodes as many sequences in turn, without
//! server or scheduler. What follows a second `--` goes to the server.

mod args;
mod client;
mod disconnect;
mod overload;
mod process;
mod report;
mod requests;

use std::io::{BufRead, Write};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;
use futures_util::{StreamExt, stream};
use serde_json::json;

use args::{Args, Mode};
use client::Answer;
use process::{Bench, Server, processor_seconds};
use report::Round;
use requests::Planned;

fn main() -> Result<()> {
    // Cargo adds it after all others.
    let args = Args::parse_from(std::env::args().filter(|arg| arg != "--bench"));
    let load = Load {
        requests: requests::plan(&args)?,
        server: Server::start(&args)?,
        runtime: tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?,
        args: &args,
    };
    // So that no round pays for what only the first request sees.
    load.warm_up()?;
    if args.repl {
        return load.take_orders();
    }
    let mut bench = match args.mode {
        Mode::Closed => Some(Bench::start(&args)?),
        Mode::Open => None,
        Mode::Overload => return overload::measure(&load),
        Mode::Disconnect => return disconnect::measure(&load),
    };
    let mut rounds = Vec::new();
    for number in 1..=args.rounds {
        let mut round = load.round()?;
        if let Some(bench) = &mut bench {
            round.bench = Some(bench.decode(&args)?);
        }
        println!("round {number}: {round}");
        rounds.push(round);
    }
    println!("{}", report::summary(&args, &rounds));
    if let Some(path) = &args.json {
        let whole = json!({"arguments": &args, "rounds": rounds});
        std::fs::write(path, format!("{whole}\n"))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    // Last, so that the figures of those that were answered are seen.
    let errors: Vec<&String> = rounds.iter().flat_map(|r| &r.errors).collect();
    match errors.first() {
        Some(first) => bail!("{} requests failed, one with: {first}", errors.len()),
        None => Ok(()),
    }
}

/// A server and what it is asked.
struct Load<'a> {
    args: &'a Args,
    requests: Vec<Planned>,
    server: Server,
    runtime: tokio::runtime::Runtime,
}

impl Load<'_> {
    fn warm_up(&self) -> Result<()> {
        let first = &self.requests[..self.requests.len().min(4)];
        let answers = self.answers(first, first.len());
        match answers.into_iter().find_map(|a| a.error) {
            Some(error) => bail!("the first request failed: {error}"),
            None => Ok(()),
        }
    }

    fn round(&self) -> Result<Round> {
        let together = match self.args.mode {
            // All of them: each waits for its time.
            Mode::Open => self.requests.len(),
            _ => self.args.streams.into(),
        };
        self.round_of(&self.requests, together)
    }

    /// These requests, at most `together` at a time.
    fn round_of(&self, requests: &[Planned], together: usize) -> Result<Round> {
        let first_tokens = || {
            self.server.metrics([
                "gpt2_time_to_first_token_seconds_sum",
                "gpt2_time_to_first_token_seconds_count",
            ])
        };
        let before = first_tokens()?;
        let http = self.server.http_seconds()?;
        let own = processor_seconds("self")?;
        let theirs = self.server.processor_seconds()?;
        let answers = self.answers(requests, together);
        let mut round = Round::new(answers, together);
        round.generator_seconds = processor_seconds("self")? - own;
        round.server_seconds = self.server.processor_seconds()? - theirs;
        round.http_seconds = self.server.http_seconds()? - http;
        let after = first_tokens()?;
        round.engine_first_token = (after[0] - before[0]) / (after[1] - before[1]);
        round.server_peak_bytes = self.server.peak_memory()?;
        Ok(round)
    }

    /// Asks for all of these, at most `together` at a time; answers in the order
    /// in which they were asked for.
    fn answers(&self, requests: &[Planned], together: usize) -> Vec<Answer> {
        let started = Instant::now();
        let limit = self.args.time_limit();
        let ask = |request| client::ask(self.server.address, request, started, limit);
        let answers = stream::iter(requests).map(ask).buffer_unordered(together);
        let mut answers: Vec<_> = self.runtime.block_on(answers.collect());
        answers.sort_by(|a, b| a.asked.total_cmp(&b.asked));
        answers
    }

    /// A round for every line: a script takes turns between this engine and
    /// others, which get the requests that the first answer lists.
    fn take_orders(&self) -> Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", json!({"ready": true, "requests": self.requests}))?;
        out.flush()?;
        for line in std::io::stdin().lock().lines() {
            line?;
            writeln!(out, "{}", json!(self.round()?))?;
            out.flush()?;
        }
        Ok(())
    }
}
