//! The real binary, as a user runs it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::fixture;

fn gpt2(args: &[&str]) -> Output {
    gpt2_with_input(args, "")
}

fn gpt2_with_input(args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_gpt2"))
        .args(args)
        .env_remove("RUST_LOG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&stdout(&gpt2(args))).unwrap()
}

/// Exit code and what was said of it.
fn failure(args: &[&str]) -> (i32, String) {
    let output = gpt2(args);
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), said)
}

#[test]
fn generate_prints_prompt_and_continuation() {
    let text = stdout(&gpt2(&["generate", "Once upon a time"]));
    assert!(
        text.starts_with("Once upon a time, ") && text.ends_with('\n'),
        "{text}"
    );
    let piped = gpt2_with_input(&["generate", "-"], "Once upon a time\n");
    assert_eq!(stdout(&piped), text);
    let missing = gpt2_with_input(&["generate"], "Once upon a time");
    assert_eq!(stdout(&missing), text);
}

#[test]
fn generate_json_has_the_documented_fields() {
    let answer = json(&["generate", "Once", "--max-tokens", "5", "--json"]);
    let keys: Vec<&String> = answer.as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        [
            "prompt",
            "generated_text",
            "token_ids",
            "finish_reason",
            "usage"
        ]
    );
    assert_eq!(answer["token_ids"].as_array().unwrap().len(), 5);
    assert_eq!(answer["finish_reason"], "length");
    assert!(
        answer["generated_text"]
            .as_str()
            .unwrap()
            .starts_with("Once")
    );
}

#[test]
fn a_seed_repeats_and_a_stop_string_stops() {
    let seeded = |seed| {
        let args = [
            "generate",
            "Once upon a time",
            "--strategy",
            "top-k",
            "-k",
            "20",
            "--seed",
        ];
        stdout(&gpt2(&[&args[..], &[seed]].concat()))
    };
    assert_eq!(seeded("7"), seeded("7"));
    assert_ne!(seeded("7"), seeded("8"));
    let answer = json(&["generate", "Once upon a time", "--stop", " lived", "--json"]);
    assert_eq!(answer["finish_reason"], "stop");
    assert!(
        !answer["generated_text"]
            .as_str()
            .unwrap()
            .contains(" lived")
    );
}

#[test]
fn score_equals_transformers() {
    let dir = fixture::root().join("base-prefixed");
    let expected = fixture::json(&dir.join("expected.json"));
    let ids: Vec<String> = expected["input_ids"]
        .as_array()
        .unwrap()
        .iter()
        .map(Value::to_string)
        .collect();
    let answer = json(&[
        "score",
        "--model",
        dir.to_str().unwrap(),
        "--ids",
        &ids.join(","),
        "--json",
    ]);
    assert_eq!(answer["model"], "base-prefixed");
    assert_eq!(answer["token_count"], ids.len());
    let mut sum = 0.0;
    for (token, expected) in answer["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .zip(expected["logprobs"].as_array().unwrap())
    {
        let (found, expected) = (token["logprob"].as_f64(), expected.as_f64());
        assert_eq!(found.is_some(), expected.is_some());
        sum += found.unwrap_or(0.0);
        assert!((found.unwrap_or(0.0) - expected.unwrap_or(0.0)).abs() < 1e-4);
    }
    assert!((answer["logprob_sum"].as_f64().unwrap() - sum).abs() < 1e-6);
    let perplexity = (-sum / (ids.len() - 1) as f64).exp();
    assert!((answer["perplexity"].as_f64().unwrap() / perplexity - 1.0).abs() < 1e-6);
    let one = json(&["score", "--ids", "5", "--json"]);
    assert!(one["perplexity"].is_null() && one["tokens"][0]["rank"].is_null());
}

#[test]
fn each_line_is_scored_as_it_is_alone() {
    // More lines than are scored together, one of them empty.
    let mut lines: Vec<String> = (0..40).map(|i| format!("The cat sat {i} times.")).collect();
    lines[7].clear();
    let input = lines.join("\n");
    let whole = gpt2_with_input(&["score", "--lines", "-", "--json"], &input);
    let whole = stdout(&whole);
    let scores: Vec<Value> = whole
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(scores.len(), lines.len());
    assert_eq!(scores[7]["token_count"], 0);
    assert!(scores[7]["perplexity"].is_null());
    for i in [0, 39] {
        assert_eq!(scores[i], json(&["score", &lines[i], "--json"]));
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("lines");
    std::fs::write(&file, &input).unwrap();
    let short = stdout(&gpt2(&["score", "--lines", file.to_str().unwrap()]));
    let perplexity = scores[0]["perplexity"].as_f64().unwrap();
    let sum = scores[0]["logprob_sum"].as_f64().unwrap();
    let count = &scores[0]["token_count"];
    let expected = format!("{perplexity:.3}\t{sum:.4}\t{count}");
    assert_eq!(short.lines().next(), Some(&*expected));
    assert_eq!(short.lines().nth(7), Some("-\t0.0000\t0"));

    std::fs::write(&file, b"fine\n\xff\n").unwrap();
    let (code, said) = failure(&["score", "--lines", file.to_str().unwrap()]);
    assert!(code == 1 && said.contains("line 2"), "{said}");
}

#[test]
fn a_line_is_scored_while_the_next_is_awaited() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_gpt2"))
        .args(["score", "--lines", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut scores = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        input.write_all(b"The cat sat.\n").unwrap();
        let score = scores.next().unwrap().unwrap();
        assert!(score.ends_with("\t5"), "{score}");
    }
    drop(input);
    assert!(scores.next().is_none() && child.wait().unwrap().success());
}

#[test]
fn what_is_refused_prints_nothing() {
    let long = gpt2_with_input(&["generate"], &"a b c ".repeat(500));
    assert!(!long.status.success() && long.stdout.is_empty());
    let unknown = gpt2(&["generate", "--ids", "1,2,99999"]);
    assert!(!unknown.status.success() && unknown.stdout.is_empty());
    let (code, said) = failure(&["generate", "x", "--max-tokens", "-1"]);
    assert!(code == 2 && said.contains("not negative"), "{said}");
    let (code, said) = failure(&["generate", "x", "--temperature", "-1"]);
    assert!(
        code == 2 && said.contains("error: --temperature: -1"),
        "{said}"
    );
}

#[test]
fn tokenize_and_detokenize_are_inverse() {
    let answer = json(&["tokenize", "a small 🦊", "--json"]);
    let tokens = answer["tokens"].as_array().unwrap();
    let ids: Vec<String> = answer["ids"]
        .as_array()
        .unwrap()
        .iter()
        .map(Value::to_string)
        .collect();
    assert_eq!(tokens.len(), ids.len());
    let args: Vec<&str> = ["detokenize"]
        .into_iter()
        .chain(ids.iter().map(|s| &**s))
        .collect();
    assert_eq!(stdout(&gpt2(&args)), "a small 🦊\n");
}

#[test]
fn wrong_use_is_2_and_failure_is_1() {
    let (code, said) = failure(&["generate", "x", "--model", "./no-such-model"]);
    assert_eq!(code, 1);
    assert!(
        said.contains("no-such-model") && said.contains("config.json"),
        "{said}"
    );
    for args in [
        &["generate", "x", "--dtype", "f16"][..],
        &["generate", "x", "--device", "cuda"],
        &["generate", "x", "--strategy", "best"],
        &["generate", "x", "--max-tokens", "0"],
        &["generate", "x", "--strategy", "top-p", "--top-p", "1.5"],
        &["generate", "x", "--ids", "1"],
        &["generate", "--ids", "1,x"],
        &["detokenize", "99999999"],
        &["nonsense"],
    ] {
        let (code, said) = failure(args);
        assert_eq!(code, 2, "{args:?}: {said}");
        assert!(!said.is_empty() && !said.contains("panicked"), "{said}");
    }
    let (code, said) = failure(&["generate", "x", "-k", "0", "--strategy", "top-k"]);
    assert!(code == 2 && said.contains("error: -k: "), "{said}");
    let (code, said) = failure(&["generate", "--ids", "99999999"]);
    assert_eq!(code, 2);
    assert!(
        said.contains("99999999") && said.contains("vocabulary"),
        "{said}"
    );
}

#[test]
fn bench_reports_its_figures() {
    let answer = json(&["bench", "--dtype", "q8", "--requests", "3", "--json"]);
    let [measured] = &answer["precisions"].as_array().unwrap()[..] else {
        panic!("not one precision: {answer}");
    };
    assert_eq!(measured["dtype"], "q8");
    assert_eq!(answer["model"], "demo");
    assert!(measured["load_seconds"].as_f64().unwrap() > 0.0);
    let batches: Vec<_> = measured["decode"]
        .as_array()
        .unwrap()
        .iter()
        .inspect(|row| assert!(row["tokens_per_second"].as_f64().unwrap() > 0.0))
        .map(|row| row["batch"].as_u64().unwrap())
        .collect();
    assert_eq!(batches, [1, 8, 32]);
    let around = &measured["read_bandwidth_bytes_per_second"];
    assert!(around["before"].as_f64().unwrap() > 0.0);
    let share = measured["prefill"][0]["share_of_peak"].as_f64().unwrap();
    assert!(share > 0.0 && share < 1.0, "{share}");
    let requests = &measured["requests"];
    assert_eq!(requests["requests"], 3);
    assert_eq!(requests["prompt_tokens"], 128);
    let outputs = requests["output_tokens_per_second"].as_f64().unwrap();
    let all = requests["tokens_per_second"].as_f64().unwrap();
    assert!(outputs > 0.0, "{requests}");
    assert!((all / outputs - 2.0).abs() < 1e-9, "{requests}");
}

#[test]
fn bench_answers_line_by_line() {
    let asked = r#"{"case": "decode", "batch": 2, "prompt": 8, "tokens": 4}
{"case": "prefill", "tokens": 16}
{"case": "prefill", "tokens": 100000}
nonsense
{"case": "peak"}
"#;
    let output = gpt2_with_input(&["bench", "--dtype", "f32", "--repl"], asked);
    let answers: Vec<Value> = stdout(&output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let [ready, decode, prefill, too_long, nonsense, peak] = &answers[..] else {
        panic!("not one answer each: {answers:?}");
    };
    assert_eq!(ready["ready"], true);
    assert!(ready["packed_bytes"].as_u64().unwrap() > 0);
    for (answer, tokens) in [(decode, 8.0), (prefill, 16.0)] {
        let (seconds, rate) = (&answer["seconds"], &answer["tokens_per_second"]);
        let found = seconds.as_f64().unwrap() * rate.as_f64().unwrap();
        assert!((found - tokens).abs() < 1e-6, "{answer}");
    }
    assert!(too_long["error"].as_str().unwrap().contains("256"));
    assert!(nonsense["error"].is_string());
    assert!(peak["operations_per_second"].as_f64().unwrap() > 0.0);
}

#[test]
fn bench_finds_more_bits_more_accurate() {
    let answer = json(&["bench", "--accuracy", "--json"]);
    let of = |weights, key| -> f64 {
        let rows = answer["compared"].as_array().unwrap();
        let row = rows.iter().find(|row| row["weights"] == weights).unwrap();
        row[key].as_f64().unwrap()
    };
    for key in ["next_token_difference", "vocabulary_difference"] {
        assert!(0.0 < of("bf16", key) && of("bf16", key) < of("q4", key));
        assert!(of("q8", key) < of("q4", key));
    }
    assert!(of("q8", "top_1_agreement") > 0.9);
}
