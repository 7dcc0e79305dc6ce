//! `gpt2 score`: how likely the model finds a text.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::pin::pin;

use anyhow::{Context, Result};
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc::{self, Receiver};

use super::common::{Ids, ModelArgs, text_or_stdin};
use crate::engine::{Engine, EngineError};
use crate::scoring::{TextScore, WhenFull, score_text, stride};

/// Lines that are scored together.
const AT_A_TIME: usize = 32;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The text; standard input, without its last line break, when `-` or missing
    text: Option<String>,
    /// Read the text from a file
    #[arg(long, conflicts_with = "text")]
    file: Option<PathBuf>,
    /// Token ids in place of a text, such as 1,2,3
    #[arg(long, conflicts_with_all = ["text", "file"])]
    ids: Option<Ids>,
    /// Take each line of a file, of standard input where it is `-`, as a text of its own, and print
    /// a line for each: its perplexity, its log probability and its number of tokens
    #[arg(long, value_name = "FILE", conflicts_with_all = ["text", "file", "ids"])]
    lines: Option<PathBuf>,
    /// Tokens that each window adds, where the text is longer than the context
    /// [default: half the context]
    #[arg(long, value_name = "TOKENS")]
    stride: Option<u64>,
    #[command(flatten)]
    model: ModelArgs,
    /// Print one JSON object, with --lines one for each
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let engine = args.model.engine()?;
    let stride = stride(args.stride, engine.config().n_positions)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let mut out = io::stdout().lock();
    if let Some(file) = &args.lines {
        let print = |score: &TextScore| match args.json {
            true => print_json(&mut out, score),
            false => print_line(&mut out, score),
        };
        return runtime.block_on(score_lines(&engine, lines_of(file)?, stride, print));
    }
    let ids = match (args.ids, args.file) {
        (Some(Ids(ids)), _) => ids,
        (None, Some(file)) => {
            let text =
                std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            engine.tokenizer()?.encode(&text)?
        }
        (None, None) => engine.tokenizer()?.encode(&text_or_stdin(args.text)?)?,
    };
    let score = runtime.block_on(score_text(&engine, &ids, stride, WhenFull::Refuse))?;
    if args.json {
        return print_json(&mut out, &score);
    }
    print_table(&mut out, &score)
}

/// The lines of a file as they come: on a thread, so that scores are printed
/// while the next line is awaited.
fn lines_of(file: &Path) -> Result<Receiver<io::Result<String>>> {
    let source: Box<dyn Read + Send> = match file == Path::new("-") {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(file).with_context(|| file.display().to_string())?),
    };
    let (sender, receiver) = mpsc::channel(AT_A_TIME);
    std::thread::spawn(move || {
        for line in BufReader::new(source).lines() {
            // After an error nobody reads on.
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// Scores texts, several at a time, and prints them in their order.
async fn score_lines(
    engine: &Engine,
    mut lines: Receiver<io::Result<String>>,
    stride: usize,
    mut print: impl FnMut(&TextScore) -> Result<()>,
) -> Result<()> {
    let lines = stream::poll_fn(move |cx| lines.poll_recv(cx));
    let scores = lines.enumerate().map(|(i, line)| async move {
        let score = score_line(engine, line, stride).await;
        score.with_context(|| format!("line {}", i + 1))
    });
    let mut scores = pin!(scores.buffered(AT_A_TIME));
    while let Some(score) = scores.next().await {
        print(&score?)?;
    }
    Ok(())
}

/// An empty line has a score, too, so that there are as many as lines.
async fn score_line(engine: &Engine, line: io::Result<String>, stride: usize) -> Result<TextScore> {
    let ids = engine.tokenizer()?.encode(&line?)?;
    // The lines before it are in the queue.
    match score_text(engine, &ids, stride, WhenFull::Wait).await {
        Err(EngineError::NothingToScore) => Ok(TextScore::of_nothing(engine)),
        score => Ok(score?),
    }
}

fn print_json(out: &mut impl Write, score: &TextScore) -> Result<()> {
    Ok(writeln!(out, "{}", serde_json::to_string(score)?)?)
}

fn print_line(out: &mut impl Write, score: &TextScore) -> Result<()> {
    let perplexity = score
        .perplexity
        .map_or("-".to_owned(), |p| format!("{p:.3}"));
    let (sum, count) = (score.logprob_sum, score.token_count);
    Ok(writeln!(out, "{perplexity}\t{sum:.4}\t{count}")?)
}

fn print_table(out: &mut impl Write, score: &TextScore) -> Result<()> {
    writeln!(out, "{:>7} {:>9} {:>6}  text", "id", "logprob", "rank")?;
    for token in &score.tokens {
        let logprob = token.logprob.map_or("-".to_owned(), |l| format!("{l:.4}"));
        let rank = token.rank.map_or("-".to_owned(), |r| r.to_string());
        let (id, text) = (token.id, &token.text);
        writeln!(out, "{id:>7} {logprob:>9} {rank:>6}  {text:?}")?;
    }
    let (count, sum) = (score.token_count, score.logprob_sum);
    write!(out, "{count} tokens, log probability {sum:.4}")?;
    match score.perplexity {
        Some(perplexity) => writeln!(out, ", perplexity {perplexity:.3}")?,
        None => writeln!(out)?,
    }
    Ok(())
}
