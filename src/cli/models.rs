//! `gpt2 models`: what is in the cache, and taking it out again.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use serde_json::{Value, json};

use super::Usage;
use super::common::open_hub;
use super::progress::bytes;
use crate::hub::CachedModel;

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Remove a model from the cache
    Rm(RmArgs),
}

#[derive(Debug, clap::Args)]
struct RmArgs {
    /// Its name as `gpt2 models` lists it, or a short one; with @REVISION that revision alone
    model: String,
    /// Remove this branch, tag or commit alone
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let hub = open_hub(true)?;
    let mut out = std::io::stdout().lock();
    if let Some(Command::Rm(args)) = args.command {
        if args.model == "demo" {
            return Err(Usage("demo is part of the program, not of the cache".to_owned()).into());
        }
        let freed = hub.remove(&args.model, args.revision.as_deref())?;
        writeln!(out, "removed {}, {} freed", args.model, bytes(freed.bytes))?;
        return Ok(());
    }
    let cache = hub.settings().cache.display().to_string();
    let models = hub.cached()?;
    if args.json {
        let models: Vec<Value> = models.iter().map(to_json).collect();
        writeln!(out, "{}", json!({"cache": cache, "models": models}))?;
        return Ok(());
    }
    if models.is_empty() {
        eprintln!("no GPT-2 models in {cache}; `gpt2 pull gpt2` fetches one");
        return Ok(());
    }
    let rows: Vec<[String; 5]> = models.iter().map(to_row).collect();
    write_table(
        &mut out,
        ["model", "revision", "dtype", "size", "last used"],
        &rows,
    )?;
    Ok(())
}

fn to_json(model: &CachedModel) -> Value {
    json!({
        "model": model.repo.as_str(),
        "commit": model.commit.as_str(),
        "revisions": model.revisions,
        "dtype": model.dtype,
        "size": model.size,
        "last_used": model.last_used.and_then(unix_seconds),
        "folder": model.folder.display().to_string(),
    })
}

fn unix_seconds(time: SystemTime) -> Option<u64> {
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

/// The commit is shortened as git does it.
fn to_row(model: &CachedModel) -> [String; 5] {
    let commit = &model.commit.as_str()[..12];
    let revision = match model.revisions.as_slice() {
        [] => commit.to_owned(),
        names => format!("{commit} {}", names.join(", ")),
    };
    [
        model.repo.to_string(),
        revision,
        model.dtype.clone().unwrap_or("incomplete".to_owned()),
        bytes(model.size),
        model.last_used.map_or("-".to_owned(), ago),
    ]
}

/// How long ago, in the largest unit that fits.
fn ago(time: SystemTime) -> String {
    let seconds = time.elapsed().unwrap_or_default().as_secs();
    let units = [(86_400, "day"), (3_600, "hour"), (60, "minute")];
    let Some((unit, name)) = units.iter().find(|(unit, _)| seconds >= *unit) else {
        return "just now".to_owned();
    };
    let count = seconds / unit;
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {name}{plural} ago")
}

fn write_table(out: &mut impl Write, head: [&str; 5], rows: &[[String; 5]]) -> Result<()> {
    let widths: Vec<usize> = (0..5)
        .map(|i| {
            rows.iter()
                .map(|row| row[i].len())
                .max()
                .unwrap_or(0)
                .max(head[i].len())
        })
        .collect();
    let mut line = |cells: [&str; 5]| {
        let cells = cells.iter().zip(&widths);
        let padded: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        writeln!(out, "{}", padded.join("  ").trim_end())
    };
    line(head)?;
    for row in rows {
        line(row.each_ref().map(String::as_str))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_for_people() {
        let past = |seconds| ago(SystemTime::now() - Duration::from_secs(seconds));
        assert_eq!(past(0), "just now");
        assert_eq!(past(60), "1 minute ago");
        assert_eq!(past(7_300), "2 hours ago");
        assert_eq!(past(200_000), "2 days ago");
    }
}
