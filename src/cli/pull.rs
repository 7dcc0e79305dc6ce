//! `gpt2 pull`: a model from Hugging Face into the cache, or into a folder.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;

use super::common::open_hub;
use super::progress::{Display, bytes};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// gpt2, gpt2-medium, gpt2-large, gpt2-xl, distilgpt2, or OWNER/NAME, perhaps with @REVISION
    model: String,
    /// Branch, tag or commit [default: main]
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,
    /// Copy the files into a folder as well, to carry to a machine without a network
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// Use what is in the cache and open no connection
    #[arg(long)]
    offline: bool,
    /// Print one JSON object when done
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let hub = open_hub(args.offline)?;
    let display = Display::new();
    let snapshot = hub.pull(&args.model, args.revision.as_deref(), &display)?;
    let received = display.received();
    drop(display);
    if let Some(folder) = &args.to {
        snapshot.export(folder)?;
    }
    let folder = args.to.as_ref().unwrap_or(&snapshot.folder);
    let mut out = std::io::stdout().lock();
    if args.json {
        let file = |(name, size)| json!({"name": name, "size": size});
        let answer = json!({
            "model": snapshot.repo.as_str(),
            "commit": snapshot.commit.as_str(),
            "folder": folder.display().to_string(),
            "files": snapshot.file_sizes().map(file).collect::<Vec<_>>(),
            "size": snapshot.size(),
            "downloaded": received,
        });
        writeln!(out, "{answer}")?;
        return Ok(());
    }
    eprintln!(
        "{} at commit {}: {}, {} of it fetched now",
        snapshot.repo,
        snapshot.commit,
        bytes(snapshot.size()),
        bytes(received)
    );
    writeln!(out, "{}", folder.display())?;
    Ok(())
}
