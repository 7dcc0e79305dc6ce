//! The native HTTP API over real sockets, with the demo model.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use gpt2_engine::engine::Engine;
use gpt2_engine::server::{AppState, ServerConfig};
use serde_json::{Value, json};

use crate::http_client::{
    JSON, answer, post, post_to, raw_post, send, server, start, start_with, stream,
};
use crate::metrics::{metrics, value_of};

#[test]
fn generate_answers_as_published() {
    let (status, answer) = post("/api/generate", &json!({"prompt": "Once upon a time"}));
    assert_eq!(status, 200);
    let text = answer["generated_text"].as_str().unwrap();
    assert!(text.starts_with("Once upon a time, "), "{text}");
    assert_eq!(answer["prompt"], "Once upon a time");
    let expected = r#"{"max_tokens":50,"strategy":"greedy","k":50,"temperature":1.0}"#;
    assert_eq!(answer["params"].to_string(), expected);
}

#[test]
fn params_are_echoed_as_received() {
    let body = json!({"prompt": "Once", "max_tokens": 3, "strategy": "top-p", "top_p": 0.8,
        "temperature": 0.7, "seed": 18446744073709551615u64, "stop": "x", "unknown": [1]});
    let (status, answer) = post("/api/generate", &body);
    assert_eq!(status, 200, "{answer}");
    let expected = json!({"max_tokens": 3, "strategy": "top-p", "k": 50, "temperature": 0.7,
        "top_p": 0.8, "seed": 18446744073709551615u64, "stop": "x"});
    assert_eq!(answer["params"], expected);
    assert_eq!(post("/api/generate", &body), (status, answer));
}

#[test]
fn a_stream_joins_to_the_whole_answer() {
    for body in [
        json!({"prompt": "Once upon a time", "max_tokens": 300}),
        json!({"prompt": "Once", "strategy": "top-k", "seed": 3, "stop": ["named", "e. "]}),
        json!({"prompt": "", "max_tokens": 8}),
    ] {
        let events = stream(&body);
        let (end, events) = events.split_last().unwrap();
        assert_eq!(end, "[DONE]");
        let (done, tokens) = events.split_last().unwrap();
        let done: Value = serde_json::from_str(done).unwrap();
        let mut text = body["prompt"].as_str().unwrap().to_owned();
        for (i, token) in tokens.iter().enumerate() {
            let token: Value = serde_json::from_str(token).unwrap();
            assert_eq!(token["index"], i);
            assert!(token["token_id"].is_u64());
            text += token["token"].as_str().unwrap();
        }
        assert_eq!(done["done"], true);
        assert_eq!(done["generated_text"], text);
        assert_eq!(done["usage"]["completion_tokens"], tokens.len());
        let (_, whole) = post(
            "/api/generate",
            &body.as_object().map_or(Value::Null, |b| {
                let mut body = b.clone();
                body.entry("max_tokens").or_insert(50.into());
                body.into()
            }),
        );
        assert_eq!(whole["generated_text"], text);
        assert!(!text.contains("<|endoftext|>"));
    }
}

#[test]
fn tokens_arrive_while_later_ones_are_computed() {
    let server = start_with(ServerConfig::default());
    let generated = || value_of(&metrics(server), "gpt2_generated_tokens_total") as usize;
    let body = json!({"prompt": "Once upon a time", "max_tokens": 300}).to_string();
    let head = format!("POST /api/stream HTTP/1.1\r\n{JSON}");
    // Whoever reads may be slow, but not each time.
    let early = (0..20).any(|_| {
        let before = generated();
        let mut lines = BufReader::new(send(server, &head, body.as_bytes())).lines();
        let is_token = |line: &std::io::Result<String>| {
            let line = line.as_ref().expect("a line");
            line.starts_with("data: {\"index\"")
        };
        assert!(lines.by_ref().any(|line| is_token(&line)), "no token");
        let then = generated() - before;
        let tokens = 1 + lines.filter(is_token).count();
        assert!(tokens > 50, "{tokens}");
        then < tokens
    });
    assert!(early, "all tokens are computed before the first arrives");
}

#[test]
fn two_clients_at_once_get_their_own_answers() {
    let ask = |prompt: &'static str| {
        std::thread::spawn(move || post("/api/generate", &json!({"prompt": prompt})).1)
    };
    let (a, b) = (ask("Once upon a time"), ask("Long ago"));
    let (a, b) = (a.join().unwrap(), b.join().unwrap());
    assert!(
        a["generated_text"]
            .as_str()
            .unwrap()
            .starts_with("Once upon a time")
    );
    assert!(
        b["generated_text"]
            .as_str()
            .unwrap()
            .starts_with("Long ago")
    );
    assert_eq!(
        a,
        post("/api/generate", &json!({"prompt": "Once upon a time"})).1
    );
}

#[test]
fn a_client_that_leaves_frees_the_worker() {
    // An own server: nobody else may keep its worker busy.
    let state = AppState::loading("demo");
    state.set_engine(Engine::builder().build().unwrap());
    let server = start(state);
    let body = json!({"prompt": "Once", "max_tokens": 2000, "strategy": "top-p", "seed": 1});
    let one = Instant::now();
    answer(send(
        server,
        &format!("POST /api/generate HTTP/1.1\r\n{JSON}"),
        body.to_string().as_bytes(),
    ));
    let one = one.elapsed();
    for path in ["/api/stream", "/api/generate"] {
        let started = Instant::now();
        for _ in 0..30 {
            let head = format!("POST {path} HTTP/1.1\r\n{JSON}");
            drop(send(server, &head, body.to_string().as_bytes()));
        }
        let short = json!({"prompt": "Once", "max_tokens": 1});
        let head = format!("POST /api/generate HTTP/1.1\r\n{JSON}");
        assert_eq!(
            answer(send(server, &head, short.to_string().as_bytes())).0,
            200
        );
        let took = started.elapsed();
        assert!(
            took < one * 15 + Duration::from_millis(500),
            "{path}: {took:?}, one takes {one:?}"
        );
    }
}

#[test]
fn bad_requests_name_the_field() {
    let refused = |body: Value, param: &str| {
        for path in ["/api/generate", "/api/stream"] {
            let (status, answer) = post(path, &body);
            assert_eq!(status, 400, "{body}: {answer}");
            assert_eq!(answer["error"]["param"], param, "{body}: {answer}");
            assert_eq!(answer["error"]["type"], "invalid_request_error");
            assert!(
                answer["error"]["message"].as_str().unwrap().contains(param),
                "{answer}"
            );
        }
    };
    refused(json!({}), "prompt");
    refused(json!({"prompt": null}), "prompt");
    refused(json!({"prompt": ["a"]}), "prompt");
    for bad in [
        json!(0),
        json!(-1),
        json!(1.5),
        json!("5"),
        json!(2_147_483_648u64),
        json!(1e300),
    ] {
        refused(json!({"prompt": "a", "max_tokens": bad}), "max_tokens");
    }
    refused(json!({"prompt": "a", "strategy": "beam"}), "strategy");
    refused(json!({"prompt": "a", "strategy": 3}), "strategy");
    refused(json!({"prompt": "a", "k": 0}), "k");
    refused(json!({"prompt": "a", "temperature": -1}), "temperature");
    refused(json!({"prompt": "a", "temperature": 1e39}), "temperature");
    refused(json!({"prompt": "a", "top_p": 0}), "top_p");
    refused(json!({"prompt": "a", "seed": -1}), "seed");
    refused(
        json!({"prompt": "a", "stop": ["a", "b", "c", "d", "e"]}),
        "stop",
    );
    refused(json!({"prompt": "a", "stop": ""}), "stop");
    refused(json!({"prompt": "a", "stop": "x".repeat(257)}), "stop");
    let long = "fox ".repeat(1000);
    let (status, answer) = post("/api/generate", &json!({"prompt": long}));
    assert_eq!((status, &answer["error"]["param"]), (400, &json!("prompt")));
    assert!(
        answer["error"]["message"].as_str().unwrap().contains("256"),
        "{answer}"
    );
}

#[test]
fn the_field_that_was_sent_is_named() {
    let (status, answer) = post("/api/inspect", &json!({"prompt": "", "attention": false}));
    assert_eq!((status, &answer["tokens"][0]["id"]), (200, &json!(0)));
    let about = |path: &str, body: Value| {
        let (status, answer) = post(path, &body);
        assert_eq!(status, 400, "{answer}");
        let text = |field: &str| answer["error"][field].as_str().unwrap_or("").to_owned();
        (text("param"), text("message"))
    };
    let (param, said) = about("/api/inspect", json!({"prompt": "a b c d ".repeat(80)}));
    assert!(param == "prompt" && !said.contains("`ids`"), "{said}");
    let (param, said) = about("/api/score", json!({"input": ["a", ""]}));
    assert!(param == "input[1]" && said.contains("`input[1]`"), "{said}");
    let (param, said) = about("/api/score", json!({"input": [[1], [99999]]}));
    assert!(param == "input[1]" && said.contains("99999"), "{said}");
    assert_eq!(about("/api/score", json!({"input": ""})).0, "input");
    let plain = json!({"content": "<|endoftext|>", "parse_special": false});
    assert_eq!(about("/tokenize", plain).0, "parse_special");
}

#[test]
fn answers_that_are_whole_are_not_cut_off() {
    let server = start_with(ServerConfig::default());
    let look = json!({"prompt": "Once upon a time", "hidden": true});
    let (status, head, answered) = post_to(server, "/api/inspect", &look);
    assert!(status == 200 && head.contains("content-length: "), "{head}");
    assert!(answered["hidden"].is_array());
    for path in ["/", "/health/live"] {
        let (status, _, body) = answer(send(server, &format!("HEAD {path} HTTP/1.1"), b""));
        assert!(status == 200 && body.is_empty(), "{path}");
    }
    let metrics = metrics(server);
    assert!(!metrics.contains("gpt2_http_cut_off_total{"), "{metrics}");
}

#[test]
fn bad_http_gets_json_errors() {
    let (status, answer) = raw_post("/api/generate", b"{\"prompt\": ");
    assert_eq!(status, 400, "{answer}");
    assert!(
        answer["error"]["message"]
            .as_str()
            .unwrap()
            .contains("JSON")
    );
    assert_eq!(raw_post("/api/generate", b"[1]").0, 400);
    assert_eq!(raw_post("/api/generate", b"\xff\xfe").0, 400);
    assert_eq!(raw_post("/api/generate", &[b'['; 100_000]).0, 400);
    let (status, answer) = post("/nowhere", &json!({}));
    assert_eq!(
        (status, answer["error"]["type"].as_str()),
        (404, Some("invalid_request_error"))
    );
    assert_eq!(post("/health", &json!({})).0, 405);
    let large = json!({"prompt": "a".repeat(1 << 20)});
    assert_eq!(post("/api/generate", &large).0, 413);
    let form = "POST /api/generate HTTP/1.1\r\ncontent-type: application/x-www-form-urlencoded";
    assert_eq!(answer_of(form, b"{\"prompt\": \"a\"}").0, 415);
}

fn answer_of(head: &str, body: &[u8]) -> (u16, String, String) {
    answer(send(server(), head, body))
}

#[test]
fn more_tokens_than_fit_end_with_length_at_the_contexts_end() {
    let body = json!({"prompt": "fox ".repeat(120), "max_tokens": 2_147_483_647,
        "strategy": "top-p", "seed": 2, "temperature": 3.0});
    let events = stream(&body);
    let done: Value = serde_json::from_str(&events[events.len() - 2]).unwrap();
    if done["finish_reason"] == "length" {
        assert_eq!(done["usage"]["total_tokens"], 256);
    } else {
        assert!(done["usage"]["total_tokens"].as_u64().unwrap() <= 256);
    }
}

#[test]
fn health_tells_the_truth() {
    let state = AppState::loading("demo");
    let server = start(state.clone());
    let health = |path: &str| {
        let (status, _, body) = answer(send(server, &format!("GET {path} HTTP/1.1"), b""));
        (status, serde_json::from_str::<Value>(&body).unwrap())
    };
    let (status, body) = health("/health");
    assert_eq!((status, &body["status"]), (503, &json!("loading")));
    assert_eq!(health("/health/live").0, 200);
    let head = format!("POST /api/generate HTTP/1.1\r\n{JSON}");
    assert_eq!(answer(send(server, &head, b"{\"prompt\": \"a\"}")).0, 503);
    state.set_engine(Engine::builder().build().unwrap());
    for path in ["/health", "/health/ready"] {
        let (status, body) = health(path);
        assert_eq!((status, &body["status"]), (200, &json!("ok")));
        assert_eq!(
            (&body["model_loaded"], &body["model"]),
            (&json!(true), &json!("demo"))
        );
    }
    state.set_failed();
    let (status, body) = health("/health");
    assert_eq!((status, &body["status"]), (503, &json!("error")));
}
