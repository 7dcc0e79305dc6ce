//! Four times as many requests as can be answered.

use anyhow::{Result, bail};

use crate::Load;
use crate::args::{Args, Mode};
use crate::report::{Quantiles, median};
use crate::requests;

/// Seconds for which requests come.
const SECONDS: f64 = 15.0;
/// Seconds until the server is full, which don't count.
const FILLING: f64 = 3.0;
/// How much more comes than can be answered.
const TIMES: f64 = 4.0;

/// Measures the peak with streams that never pause, then what is left of it
/// when too much is asked, and how soon the others are told.
pub fn measure(load: &Load<'_>) -> Result<()> {
    let mut shares = Vec::new();
    for number in 1..=load.args.rounds {
        let peak = load.round()?.full_tokens_per_second;
        let rate = TIMES * peak / f64::from(load.args.tokens);
        let args = Args {
            mode: Mode::Open,
            prompt: Some(load.args.prompt_lengths()),
            rate,
            requests: Some((rate * SECONDS) as u16),
            seed: load.args.seed + u64::from(number),
            ..load.args.clone()
        };
        let requests = requests::plan(&args)?;
        let round = load.round_of(&requests, requests.len())?;
        if let Some(first) = round.errors.first() {
            bail!("{} requests failed, one with: {first}", round.errors.len());
        }
        let last = requests.last().map_or(0.0, |r| r.at);
        let within = |t: &&f64| FILLING < **t && **t <= last;
        let goodput =
            round.tokens.iter().flatten().filter(within).count() as f64 / (last - FILLING);
        shares.push(goodput / peak);
        println!(
            "round {number}: {rate:.1} requests/s for {last:.1} s, {} answered and {} told 429, after \
             {} (p50/p99); {goodput:.1} tokens/s, {:.1}% of the peak of {peak:.1}",
            requests.len() - round.refused.len(),
            round.refused.len(),
            Quantiles::of(round.refused),
            100.0 * goodput / peak,
        );
    }
    println!(
        "goodput {:.1}% of the peak (median)",
        100.0 * median(shares)
    );
    Ok(())
}
