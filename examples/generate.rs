//! The library in a few lines: load a model, continue a text, score it.
//!
//! `cargo run --release --example generate -- [FOLDER]`

use std::io::Write;
use std::path::Path;

use gpt2_engine::engine::{
    Engine, Event, Request, SamplingOptions, SamplingParams, Strategy, perplexity,
};
use gpt2_engine::model::ModelFiles;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = match std::env::args().nth(1) {
        Some(folder) => ModelFiles::from_dir(Path::new(&folder))?,
        None => ModelFiles::demo(),
    };
    let engine = Engine::builder().model(files).build()?;
    let prompt = engine.tokenizer()?.encode("Once upon a time")?;
    let params = SamplingParams::new(SamplingOptions {
        strategy: Strategy::TopP,
        top_p: Some(0.9),
        seed: Some(1),
        max_tokens: Some(60),
        ..Default::default()
    })?;
    let mut events = engine.submit(Request {
        prompt: prompt.clone(),
        params,
    })?;
    while let Some(event) = events.blocking_next() {
        match event {
            Event::Token(token) => print!("{}", token.text),
            Event::Finished(finished) => println!("\n[{}]", finished.finish_reason.as_str()),
            Event::Failed(error) => return Err(error.into()),
        }
        std::io::stdout().flush()?;
    }
    let (_, perplexity) = perplexity(&engine.score_blocking(prompt)?);
    println!("perplexity of the prompt: {perplexity:?}");
    Ok(())
}
