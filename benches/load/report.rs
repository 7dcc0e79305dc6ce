//! What was measured, as numbers and as text.

use std::fmt;

use serde::Serialize;

use crate::args::Args;
use crate::client::Answer;

/// Figures of a round; times in seconds.
#[derive(Debug, Serialize)]
pub struct Round {
    /// When each request was due.
    pub asked: Vec<f64>,
    /// When each token of each request came.
    pub tokens: Vec<Vec<f64>>,
    pub errors: Vec<String>,
    /// From the start to the last token.
    pub seconds: f64,
    /// Tokens of all requests in that time.
    pub tokens_per_second: f64,
    /// The same while every stream had a token before and one to come.
    pub full_tokens_per_second: f64,
    pub first_token: Quantiles,
    pub between_tokens: Quantiles,
    /// Processor time of this process.
    pub generator_seconds: f64,
    /// Processor time of the server.
    pub server_seconds: f64,
    /// That of its threads that don't compute.
    pub http_seconds: f64,
    /// Mean time to the first token as the engine sees it.
    pub engine_first_token: f64,
    /// Mean time to the first token as the client sees it.
    pub mean_first_token: f64,
    /// How long requests waited that were told to come later.
    pub refused: Vec<f64>,
    /// Most bytes that the server held in memory so far.
    pub server_peak_bytes: u64,
    /// What `gpt2 bench` decodes in a second.
    pub bench: Option<f64>,
}

impl Round {
    /// Of `answers` that came over so many streams.
    pub fn new(answers: Vec<Answer>, streams: usize) -> Self {
        let errors = answers.iter().filter_map(|a| a.error.clone()).collect();
        let refused = answers.iter().filter_map(|a| Some(a.refused? - a.asked));
        let refused = refused.collect();
        let (asked, tokens): (Vec<f64>, Vec<Vec<f64>>) =
            answers.into_iter().map(|a| (a.asked, a.tokens)).unzip();
        let first = |(tokens, asked): (&Vec<f64>, &f64)| Some(tokens.first()? - asked);
        let gaps = |tokens: &Vec<f64>| tokens.windows(2).map(|w| w[1] - w[0]).collect::<Vec<_>>();
        let count = tokens.iter().flatten().count();
        let seconds = tokens.iter().flatten().copied().fold(0.0, f64::max);
        let firsts: Vec<f64> = tokens.iter().zip(&asked).filter_map(first).collect();
        Self {
            mean_first_token: firsts.iter().sum::<f64>() / firsts.len() as f64,
            first_token: Quantiles::of(firsts),
            between_tokens: Quantiles::of(tokens.iter().flat_map(gaps).collect()),
            tokens_per_second: count as f64 / seconds,
            full_tokens_per_second: full_rate(&tokens, streams),
            asked,
            tokens,
            errors,
            seconds,
            generator_seconds: 0.0,
            server_seconds: 0.0,
            http_seconds: 0.0,
            engine_first_token: 0.0,
            refused,
            server_peak_bytes: 0,
            bench: None,
        }
    }
}

/// Tokens per second from when the last of the first `streams` requests had
/// its first token, until one of the last `streams` ended.
fn full_rate(tokens: &[Vec<f64>], streams: usize) -> f64 {
    let first = tokens.iter().take(streams).filter_map(|t| t.first());
    let last = tokens.iter().rev().take(streams).filter_map(|t| t.last());
    let from = first.copied().fold(0.0, f64::max);
    let to = last.copied().fold(f64::INFINITY, f64::min);
    let within = |t: &&f64| from < **t && **t <= to;
    tokens.iter().flatten().filter(within).count() as f64 / (to - from)
}

/// Of times, in seconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Quantiles {
    pub p50: f64,
    pub p99: f64,
}

impl Quantiles {
    /// By nearest rank; 0 of nothing.
    pub fn of(mut times: Vec<f64>) -> Self {
        times.sort_unstable_by(f64::total_cmp);
        let rank = |share: f64| {
            let rank = (share * times.len() as f64).ceil() as usize;
            times.get(rank.max(1) - 1).copied().unwrap_or(0.0)
        };
        Self {
            p50: rank(0.50),
            p99: rank(0.99),
        }
    }
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0}/{:.0} ms", 1e3 * self.p50, 1e3 * self.p99)
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1} tokens/s in {:.2} s, first token p50/p99 {}, between tokens {}, {} errors, \
             processor {:.2} s server, {:.2} s generator",
            self.tokens_per_second,
            self.seconds,
            self.first_token,
            self.between_tokens,
            self.errors.len(),
            self.server_seconds,
            self.generator_seconds,
        )?;
        match self.bench {
            Some(bench) => write!(
                f,
                "; {:.1} with all streams busy, gpt2 bench {bench:.1}: {:.1}%",
                self.full_tokens_per_second,
                100.0 * self.full_tokens_per_second / bench,
            ),
            None => Ok(()),
        }
    }
}

/// Medians over the rounds.
pub fn summary(args: &Args, rounds: &[Round]) -> String {
    let of = |value: fn(&Round) -> f64| median(rounds.iter().map(value).collect());
    let quantiles = |value: fn(&Round) -> Quantiles| Quantiles {
        p50: median(rounds.iter().map(|r| value(r).p50).collect()),
        p99: median(rounds.iter().map(|r| value(r).p99).collect()),
    };
    let [least, most] = args.prompt_lengths();
    let mut text = format!(
        "medians of {} rounds, {} requests of {least} to {most} tokens in and {} out, {}:\n\
         {:.1} tokens/s, first token p50/p99 {}, between tokens {}",
        rounds.len(),
        args.request_count(),
        args.tokens,
        args.dtype,
        of(|r| r.tokens_per_second),
        quantiles(|r| r.first_token),
        quantiles(|r| r.between_tokens),
    );
    if rounds.iter().all(|r| r.bench.is_some()) {
        text += &format!(
            "\n{:.1} tokens/s with all {} streams busy, {:.1}% of what gpt2 bench decodes",
            of(|r| r.full_tokens_per_second),
            args.streams,
            100.0 * of(|r| r.full_tokens_per_second / r.bench.unwrap_or(f64::NAN)),
        );
    }
    text + &format!(
        "\nthe generator took {:.1}% of the processor time, the server's HTTP {:.2}% of the server's\n\
         the first token came {:.2} ms later to the client than from the engine",
        100.0 * of(|r| r.generator_seconds / (r.generator_seconds + r.server_seconds)),
        100.0 * of(|r| r.http_seconds / r.server_seconds),
        1e3 * of(|r| r.mean_first_token - r.engine_first_token),
    )
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n => (values[(n - 1) / 2] + values[n / 2]) / 2.0,
    }
}
