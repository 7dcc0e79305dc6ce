//! Requests through the engine: the GPU's answers beside the CPU's, whatever
//! else is asked for, and however tokens are guessed ahead.

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

#[test]
fn guessing_ahead_changes_no_bit() {
    let engine = |speculation| {
        let builder = Engine::builder().device(Device::Cuda(0));
        builder.speculation(speculation).build().unwrap()
    };
    // What repeats itself is guessed.
    let prompt = "The dog ran. The cat ran. The dog ran. The cat ran. The dog";
    let cool = |options| SamplingOptions {
        temperature: Some(0.5),
        max_tokens: Some(20),
        ..options
    };
    let late = SamplingOptions {
        min_tokens: 6,
        ..filtered()
    };
    let all = [greedy(), cool(sampled()), cool(filtered()), cool(late)];
    let requests = all.map(|options| (prompt, options));
    let answers = |speculation| {
        let engine = engine(speculation);
        // One by one: there is room for guesses then.
        let ask = |request| together(&engine, std::slice::from_ref(request)).remove(0);
        requests.iter().map(ask).collect::<Vec<Answer>>()
    };
    let off = answers(Speculation::Off);
    assert_eq!(bits(&answers(Speculation::PromptLookup)), bits(&off));
}
