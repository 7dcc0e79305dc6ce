//! Answers several requests at a time, asynchronously, and scores a text
//! beside them: `cargo run --release --example concurrent`.
//!
//! All of them share the model's steps; each gets the answer that it would
//! have got alone.

use std::error::Error;

use futures_util::future::try_join_all;
use gpt2_engine::engine::{
    Engine, Event, Events, Request, SamplingOptions, SamplingParams, Strategy, logprob_sum,
    perplexity,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let engine = Engine::builder().running(8).build()?;
    let tokenizer = engine.tokenizer()?;

    let prompt = "Once upon a time";
    let request = |seed| {
        let params = SamplingParams::new(SamplingOptions {
            strategy: Strategy::TopP,
            top_p: Some(0.9),
            seed: Some(seed),
            max_tokens: Some(24),
            ..SamplingOptions::default()
        })?;
        Ok::<_, Box<dyn Error>>(Request::new(tokenizer.encode(prompt)?, params))
    };
    // All or none are taken; what their prompts share is computed once.
    let requests = (0..4).map(request).collect::<Result<_, _>>()?;
    let answers = engine.submit_all(requests)?.into_iter().map(text);
    for (seed, text) in try_join_all(answers).await?.into_iter().enumerate() {
        println!("seed {seed}: {prompt}{text}");
    }

    let scores = engine.score(tokenizer.encode(prompt)?).await?;
    let (sum, perplexity) = (logprob_sum(&scores), perplexity(&scores));
    println!("{prompt:?}: log probability {sum:.2}, perplexity {perplexity:.1?}");
    Ok(())
}

/// The whole text of an answer.
async fn text(mut events: Events) -> Result<String, Box<dyn Error>> {
    let mut text = String::new();
    while let Some(event) = events.next().await {
        match event {
            Event::Token(token) => text += &token.text,
            Event::Finished(_) => break,
            Event::Failed(error) => return Err(error.into()),
        }
    }
    Ok(text)
}
