//! Requests through the engine: the GPU's answers beside the CPU's, whatever
//! else is asked for, and however tokens are guessed ahead.

use std::time::Duration;

use gpt2_engine::engine::{Engine, Event, Request, Speculation};
use gpt2_engine::engine::{SamplingOptions, SamplingParams, Strategy};
use gpt2_engine::model::Device;

const PROMPTS: [&str; 3] = ["Once upon a time", "The dog", "One day, Tom and his friend"];

fn greedy() -> SamplingOptions {
    SamplingOptions {
        seed: Some(3),
        max_tokens: Some(12),
        ignore_eos: true,
        ..Default::default()
    }
}

fn sampled() -> SamplingOptions {
    SamplingOptions {
        strategy: Strategy::TopP,
        ..greedy()
    }
}

fn filtered() -> SamplingOptions {
    SamplingOptions {
        k: Some(40),
        top_p: Some(0.9),
        min_p: Some(0.01),
        temperature: Some(0.8),
        ..sampled()
    }
}

/// Ids and log probabilities.
type Answer = Vec<(u32, f32)>;

fn answer(engine: &Engine, prompt: &str, options: SamplingOptions) -> Answer {
    let prompt = engine.tokenizer().unwrap().encode(prompt).unwrap();
    let request = Request::new(prompt, SamplingParams::new(options).unwrap());
    let mut events = engine.submit(request).unwrap();
    let mut answer = Vec::new();
    while let Some(event) = events.blocking_next() {
        match event {
            Event::Token(token) => answer.push((token.token_id, token.logprob)),
            Event::Finished(_) => break,
            Event::Failed(error) => panic!("{error}"),
        }
    }
    answer
}

/// All at once, in the same steps.
fn together(engine: &Engine, requests: &[(&'static str, SamplingOptions)]) -> Vec<Answer> {
    std::thread::scope(|scope| {
        let ask = |(prompt, options): &(&'static str, SamplingOptions)| {
            let (prompt, options) = (*prompt, options.clone());
            scope.spawn(move || answer(engine, prompt, options))
        };
        let answers: Vec<_> = requests.iter().map(ask).collect();
        answers.into_iter().map(|a| a.join().unwrap()).collect()
    })
}

fn bits(answers: &[Answer]) -> Vec<Vec<(u32, u32)>> {
    let of_one = |answer: &Answer| answer.iter().map(|(id, l)| (*id, l.to_bits())).collect();
    answers.iter().map(of_one).collect()
}

/// Some that the device chooses for, beside some that need the logits.
fn requests() -> Vec<(&'static str, SamplingOptions)> {
    let with_logprobs = SamplingOptions {
        logprobs: Some(3),
        ..sampled()
    };
    let penalised = SamplingOptions {
        repetition_penalty: Some(1.2),
        ..filtered()
    };
    let kept_going = SamplingOptions {
        min_tokens: 5,
        ..filtered()
    };
    let all = [
        greedy(),
        sampled(),
        filtered(),
        with_logprobs,
        penalised,
        kept_going,
    ];
    let pairs = all.into_iter().zip(PROMPTS.iter().cycle());
    pairs.map(|(options, prompt)| (*prompt, options)).collect()
}

#[test]
fn the_engine_tells_the_same_stories() {
    let engine = |device| Engine::builder().device(device).build().unwrap();
    let (cpu, gpu) = (engine(Device::Cpu), engine(Device::Cuda(0)));
    let requests = requests();
    let expected = together(&cpu, &requests);
    let found = together(&gpu, &requests);
    let mut worst = 0.0_f32;
    for (found, expected) in found.iter().zip(&expected) {
        let ids = |answer: &Answer| answer.iter().map(|(id, _)| *id).collect::<Vec<_>>();
        assert_eq!(ids(found), ids(expected));
        let pairs = found.iter().zip(expected);
        worst = pairs.fold(worst, |worst, (f, e)| worst.max((f.1 - e.1).abs()));
    }
    println!("stories: log probabilities {worst:.1e}");
    assert!(worst < 1e-4);
    // Whoever is beside it, an answer has the same bits.
    let alone = |request| together(&gpu, std::slice::from_ref(request)).remove(0);
    let alone: Vec<Answer> = requests.iter().map(alone).collect();
    assert_eq!(bits(&found), bits(&alone));
}

/// Steps so far, when none is under way.
fn steps(engine: &Engine) -> usize {
    loop {
        let metrics = engine.metrics().encode();
        // A step is counted before or after its events are sent.
        if metrics.contains("gpt2_requests_running 0\n") {
            let value = |line: &str| line.strip_prefix("gpt2_step_seconds_count ")?.parse().ok();
            return metrics.lines().find_map(value).unwrap();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn right_guesses_save_steps_and_change_no_bit() {
    let engine = |speculation| {
        let builder = Engine::builder().device(Device::Cuda(0));
        builder.speculation(speculation).build().unwrap()
    };
    let (on, off) = (engine(Speculation::PromptLookup), engine(Speculation::Off));
    // What repeats itself is guessed, and the story goes on to do so.
    let prompt = "\"Yes,\" said Tom. \"No,\" said Ann. \"Yes,\" said Tom. \"No,\" said Ann. \
                  \"Yes,\" said";
    let cool = |options| SamplingOptions {
        temperature: Some(0.2),
        max_tokens: Some(24),
        ..options
    };
    let late = SamplingOptions {
        min_tokens: 6,
        ..filtered()
    };
    for options in [greedy(), filtered(), late].map(cool) {
        // One by one: there is room for guesses then.
        let ask = |engine: &Engine| {
            let before = steps(engine);
            let answer = answer(engine, prompt, options.clone());
            (bits(&[answer]), steps(engine) - before)
        };
        let ((found, fewer), (expected, all)) = (ask(&on), ask(&off));
        assert_eq!(found, expected, "{options:?}");
        println!("guesses: {fewer} steps instead of {all}");
        assert_eq!(all, 24);
        assert!(fewer < all, "no guess was right: {options:?}");
    }
}
