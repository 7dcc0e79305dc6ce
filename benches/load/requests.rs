//! What is asked, and when: the same for the same seed.

use anyhow::{Result, ensure};
use gpt2_engine::tokenizer::Tokenizer;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde::Serialize;

use crate::args::{Args, Mode};

/// A request that is yet to be made.
#[derive(Debug, Serialize)]
pub struct Planned {
    /// Seconds from the start of the round.
    pub at: f64,
    /// The prompt's ids, for engines that are asked without a tokenizer.
    pub ids: Vec<u32>,
    /// The body of the HTTP request.
    #[serde(skip)]
    pub body: String,
    /// Tokens to come.
    pub tokens: usize,
}

/// All requests of a round, in the order of their times.
pub fn plan(args: &Args) -> Result<Vec<Planned>> {
    let words = Words::new(Tokenizer::load(&args.files()?.tokenizer)?)?;
    let rng = &mut StdRng::seed_from_u64(args.seed);
    let [least, most] = args.prompt_lengths();
    let mut at = 0.0;
    let request = |_| {
        if args.mode == Mode::Open {
            // The time to the next event of a Poisson process.
            at -= (1.0 - rng.random::<f64>()).ln() / args.rate;
        }
        let (prompt, ids) = words.prompt(rng.random_range(least..=most), rng)?;
        let body = serde_json::json!({"prompt": prompt, "max_tokens": args.tokens});
        Ok(Planned {
            at,
            ids,
            body: body.to_string(),
            tokens: args.tokens.into(),
        })
    };
    (0..args.request_count()).map(request).collect()
}

/// Pieces of text that are a token each wherever letters and digits alternate,
/// as GPT-2's tokenizer never joins the two.
struct Words {
    tokenizer: Tokenizer,
    letters: Vec<String>,
    digits: Vec<String>,
}

impl Words {
    fn new(tokenizer: Tokenizer) -> Result<Self> {
        let of = |kind: fn(&u8) -> bool| -> Vec<String> {
            let tokens = (0..tokenizer.vocab_size() as u32).filter_map(|id| {
                let token = tokenizer.token(id)?;
                let single = || tokenizer.encode(&token).is_ok_and(|ids| ids == [id]);
                (token.as_bytes().iter().all(kind) && single()).then_some(token)
            });
            tokens.collect()
        };
        let letters = of(u8::is_ascii_lowercase);
        let digits = of(u8::is_ascii_digit);
        ensure!(
            !letters.is_empty() && !digits.is_empty(),
            "the tokenizer has no letters or no digits to make prompts of"
        );
        Ok(Self {
            tokenizer,
            letters,
            digits,
        })
    }

    /// A text of exactly so many tokens, and their ids.
    fn prompt(&self, tokens: usize, rng: &mut StdRng) -> Result<(String, Vec<u32>)> {
        let mut text = String::new();
        for i in 0..tokens {
            let kind = [&self.letters, &self.digits][i % 2];
            text += kind.choose(rng).map_or("", String::as_str);
        }
        let ids = self.tokenizer.encode(&text)?;
        ensure!(
            ids.len() == tokens,
            "a prompt of {tokens} tokens became {}: the tokenizer joins letters and digits",
            ids.len()
        );
        Ok((text, ids))
    }
}
