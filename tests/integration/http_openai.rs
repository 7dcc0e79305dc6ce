//! The OpenAI API, scoring and tokens over real sockets, with the demo model.

use gpt2_engine::server::{ChatTemplate, RequestLimits, ServerConfig};
use serde_json::{Value, json};

use crate::http_client::{JSON, answer, events_of, post, post_to, send, server, start_with};

const PATH: &str = "/v1/completions";

fn complete(body: Value) -> Value {
    let (status, answer) = post(PATH, &body);
    assert_eq!(status, 200, "{body}: {answer}");
    answer
}

fn texts(answer: &Value) -> Vec<&str> {
    let choices = answer["choices"].as_array().unwrap();
    choices
        .iter()
        .map(|c| c["text"].as_str().unwrap())
        .collect()
}

fn refused(path: &str, body: &Value, param: &str) {
    let (status, answer) = post(path, body);
    assert_eq!(status, 400, "{body}: {answer}");
    assert_eq!(answer["error"]["param"], param, "{body}: {answer}");
}

fn streamed(body: &Value) -> Vec<Value> {
    let head = format!("POST {PATH} HTTP/1.1\r\n{JSON}");
    let (status, _, body) = answer(send(server(), &head, body.to_string().as_bytes()));
    assert_eq!(status, 200, "{body}");
    let mut events = events_of(&dechunked(&body));
    assert_eq!(events.pop().unwrap(), "[DONE]");
    let parsed = events.iter().map(|event| serde_json::from_str(event));
    parsed.collect::<Result<_, _>>().unwrap()
}

/// Each chunk is a line with its length, its bytes and a line break; events
/// never hold one themselves.
fn dechunked(body: &str) -> String {
    body.replace("\r\n", "\n")
}

#[test]
fn greedy_completions_are_those_of_the_native_api() {
    let answer = complete(
        json!({"model": "demo", "prompt": "Once upon a time", "max_tokens": 20,
        "temperature": 0}),
    );
    let native = json!({"prompt": "Once upon a time", "max_tokens": 20});
    let (_, native) = post("/api/generate", &native);
    let text = format!("Once upon a time{}", texts(&answer)[0]);
    assert_eq!(text, native["generated_text"]);
    assert_eq!(answer["object"], "text_completion");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["choices"][0]["logprobs"], Value::Null);
    let usage = &answer["usage"];
    assert_eq!(usage["prompt_tokens"], 4);
    assert_eq!(usage["completion_tokens"], 20);
    assert_eq!(usage["total_tokens"], 24);
    assert!(usage["prompt_tokens_details"]["cached_tokens"].is_u64());
    let echoed = complete(
        json!({"prompt": "Once upon a time", "max_tokens": 20, "temperature": 0,
        "echo": true}),
    );
    assert_eq!(texts(&echoed)[0], text);
}

#[test]
fn every_form_of_prompt_is_the_same_prompt() {
    let of = |prompt: Value| {
        complete(json!({"prompt": prompt, "max_tokens": 6, "temperature": 0}))["choices"].clone()
    };
    let ids = json!([360, 361, 257, 347]);
    let one = of(json!("Once upon a time"));
    assert_eq!(one, of(ids.clone()));
    assert_eq!(one, of(json!([ids])));
    let two = of(json!(["Once upon a time", "The fox"]));
    assert_eq!(two[0], one[0]);
    assert_eq!(two[1]["index"], 1);
    assert_eq!(two[1]["text"], of(json!("The fox"))[0]["text"]);
    // Nothing, null and "" begin a new text.
    let empty = of(json!(""));
    assert_eq!(empty, of(Value::Null));
    assert_eq!(empty, of(json!([0])));
}

#[test]
fn a_seed_repeats_all_choices_and_the_first_is_that_of_one() {
    let of = |n: u64, prompt: Value| {
        complete(json!({"prompt": prompt, "max_tokens": 12, "seed": -5, "n": n}))
    };
    let four = of(4, json!("Once"));
    let texts_of_four = texts(&four);
    assert_eq!(texts_of_four.len(), 4);
    assert_eq!(texts_of_four, texts(&of(4, json!("Once"))));
    assert_eq!(texts_of_four[0], texts(&of(1, json!("Once")))[0]);
    let different = texts_of_four.iter().any(|text| *text != texts_of_four[0]);
    assert!(different, "{texts_of_four:?}");
    // A prompt among several is answered as if it were alone.
    assert_eq!(
        texts(&of(2, json!(["The", "Once"])))[2..],
        texts_of_four[..2]
    );
    assert_eq!(four["usage"]["prompt_tokens"], 1);
}

#[test]
fn the_best_of_several_has_the_highest_mean_logprob() {
    let body = json!({"prompt": "Once", "max_tokens": 10, "seed": 3, "n": 8, "logprobs": 0});
    let all = complete(body.clone());
    let mean = |choice: &Value| {
        let logprobs = choice["logprobs"]["token_logprobs"].as_array().unwrap();
        let sum: f64 = logprobs.iter().map(|l| l.as_f64().unwrap()).sum();
        sum / logprobs.len() as f64
    };
    let choices = all["choices"].as_array().unwrap();
    let best = choices.iter().max_by(|a, b| mean(a).total_cmp(&mean(b)));
    let mut body = body;
    body["n"] = 1.into();
    body["best_of"] = 8.into();
    let found = complete(body);
    assert_eq!(found["choices"][0]["text"], best.unwrap()["text"]);
    let tokens = |answer: &Value| answer["usage"]["completion_tokens"].clone();
    assert_eq!(tokens(&found), tokens(&all));
}

#[test]
fn logprobs_lie_in_the_text_where_they_say() {
    let answer = complete(
        json!({"prompt": "Once upon é 🦊", "max_tokens": 8, "temperature": 0,
        "echo": true, "logprobs": 3}),
    );
    let choice = &answer["choices"][0];
    let text: Vec<char> = choice["text"].as_str().unwrap().chars().collect();
    let logprobs = &choice["logprobs"];
    let list = |name: &str| logprobs[name].as_array().unwrap().clone();
    let (tokens, offsets) = (list("tokens"), list("text_offset"));
    let (own, top) = (list("token_logprobs"), list("top_logprobs"));
    assert_eq!([offsets.len(), own.len(), top.len()], [tokens.len(); 3]);
    assert_eq!((&own[0], &top[0]), (&Value::Null, &Value::Null));
    for (i, token) in tokens.iter().enumerate() {
        let token = token.as_str().unwrap();
        let at = offsets[i].as_u64().unwrap() as usize;
        if !token.starts_with("bytes:") {
            assert!(text[at..].iter().collect::<String>().starts_with(token));
        }
        if i > 0 {
            let top = top[i].as_object().unwrap();
            assert!((3..=4).contains(&top.len()), "{top:?}");
            assert_eq!(top[token], own[i]);
        }
    }
    let bytes = tokens
        .iter()
        .filter(|t| t.as_str().unwrap().starts_with("bytes:\\x"));
    assert!(bytes.count() >= 2, "é has no token of its own: {tokens:?}");
}

#[test]
fn a_prompt_is_scored_as_by_the_score_route() {
    let answer = complete(
        json!({"prompt": "The cat sat.", "max_tokens": 0, "echo": true,
        "logprobs": 1, "prompt_logprobs": 2, "return_token_ids": true}),
    );
    let choice = &answer["choices"][0];
    assert_eq!(choice["text"], "The cat sat.");
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(choice["token_ids"], json!([]));
    assert_eq!(answer["usage"]["completion_tokens"], 0);
    let (status, score) = post("/api/score", &json!({"input": "The cat sat."}));
    assert_eq!(status, 200, "{score}");
    let tokens = score["results"][0]["tokens"].as_array().unwrap();
    for (i, token) in tokens.iter().enumerate() {
        assert_eq!(choice["prompt_token_ids"][i], token["id"]);
        assert_eq!(choice["logprobs"]["token_logprobs"][i], token["logprob"]);
        let entry = &choice["prompt_logprobs"][i];
        if i > 0 {
            let own = &entry[token["id"].to_string()];
            assert_eq!(
                (&own["logprob"], &own["rank"]),
                (&token["logprob"], &token["rank"])
            );
        } else {
            assert_eq!(entry, &Value::Null);
        }
    }
}

#[test]
fn a_stream_joins_to_the_whole_answer() {
    for body in [
        json!({"prompt": "Once upon a time", "max_tokens": 30, "seed": 9, "n": 3}),
        json!({"prompt": ["Once", "The"], "max_tokens": 9, "seed": 1, "echo": true, "logprobs": 2}),
        json!({"prompt": "Once upon", "max_tokens": 60, "temperature": 0, "stop": [" was", "zz"],
            "return_token_ids": true}),
        json!({"prompt": "Once upon", "max_tokens": 0, "echo": true, "logprobs": 1}),
    ] {
        let whole = complete(body.clone());
        let mut body = body;
        body["stream"] = true.into();
        body["stream_options"] = json!({"include_usage": true});
        let mut events = streamed(&body);
        let last = events.pop().unwrap();
        assert_eq!(last["choices"], json!([]));
        for key in ["prompt_tokens", "completion_tokens", "total_tokens"] {
            assert_eq!(last["usage"][key], whole["usage"][key]);
        }
        for choice in whole["choices"].as_array().unwrap() {
            let parts = events.iter().flat_map(|e| e["choices"].as_array().unwrap());
            let parts: Vec<_> = parts.filter(|c| c["index"] == choice["index"]).collect();
            let text: String = parts.iter().map(|c| c["text"].as_str().unwrap()).collect();
            assert_eq!(text, choice["text"], "{body}");
            let ends = parts.iter().filter(|c| !c["finish_reason"].is_null());
            let ends: Vec<_> = ends.map(|c| c["finish_reason"].clone()).collect();
            assert_eq!(ends, [choice["finish_reason"].clone()]);
            let joined = |pointer: &str| -> Vec<Value> {
                let lists = parts.iter().filter_map(|c| c.pointer(pointer)?.as_array());
                lists.flatten().cloned().collect()
            };
            for pointer in ["/logprobs/tokens", "/logprobs/text_offset", "/token_ids"] {
                let all = choice.pointer(pointer).and_then(Value::as_array).cloned();
                assert_eq!(joined(pointer), all.unwrap_or_default(), "{pointer} {body}");
            }
        }
        assert!(
            events
                .iter()
                .all(|e| e["usage"].is_null() && e["id"] == last["id"])
        );
    }
}

#[test]
fn vllms_extensions_do_what_they_say() {
    let of = |extra: Value| {
        let mut body = json!({"prompt": "Once upon a time", "max_tokens": 12, "temperature": 0,
            "return_token_ids": true});
        body.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        complete(body)
    };
    let plain = of(json!({}));
    let ids = plain["choices"][0]["token_ids"].as_array().unwrap().clone();
    let stopped = of(json!({"stop_token_ids": [ids[3]]}));
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    assert_eq!(
        stopped["choices"][0]["token_ids"].as_array().unwrap().len(),
        4
    );
    let late = of(json!({"stop_token_ids": [ids[3]], "min_tokens": 6}));
    assert!(late["choices"][0]["token_ids"].as_array().unwrap().len() >= 6);
    let hot = json!({"temperature": 2, "top_k": 1, "seed": 1});
    assert_eq!(
        of(hot)["choices"][0]["token_ids"],
        plain["choices"][0]["token_ids"]
    );
    let narrow = json!({"temperature": 2, "top_p": 0, "seed": 1});
    assert_eq!(
        of(narrow)["choices"][0]["token_ids"],
        plain["choices"][0]["token_ids"]
    );
    let mut bias = json!({"logit_bias": {}});
    bias["logit_bias"][ids[0].to_string()] = json!(-100);
    assert_ne!(of(bias)["choices"][0]["token_ids"][0], ids[0]);
    let cut = of(json!({"truncate_prompt_tokens": 2}));
    assert_eq!(cut["choices"][0]["prompt_token_ids"], json!([257, 347]));
    let long = json!({"prompt": "fox ".repeat(2000), "truncate_prompt_tokens": -1});
    assert_eq!(of(long)["usage"]["prompt_tokens"], 256 - 12);
}

#[test]
fn what_is_out_of_range_is_named() {
    for (field, bad) in [
        ("n", json!(0)),
        ("n", json!(17)),
        ("best_of", json!(17)),
        ("logprobs", json!(6)),
        ("logprobs", json!(true)),
        ("max_tokens", json!(-1)),
        ("max_tokens", json!(256)),
        ("temperature", json!(2.1)),
        ("temperature", json!(1e39)),
        ("top_p", json!(1.1)),
        ("presence_penalty", json!(-2.1)),
        ("frequency_penalty", json!("1")),
        ("logit_bias", json!({"2048": 1})),
        ("logit_bias", json!({"x": 1})),
        ("logit_bias", json!({"1": 101})),
        ("seed", json!(1.5)),
        ("stop", json!(["a", "b", "c", "d", "e"])),
        ("stop", json!("x".repeat(257))),
        ("suffix", json!("x")),
        ("suffix", json!(1)),
        ("top_k", json!(-2)),
        ("min_tokens", json!(17)),
        ("stop_token_ids", json!([2048])),
        ("truncate_prompt_tokens", json!(0)),
        ("prompt_logprobs", json!(21)),
        ("stream_options", json!({"include_usage": true})),
        ("prompt", json!([2048])),
        ("prompt", json!([])),
        ("prompt", json!({})),
        ("prompt", json!("fox ".repeat(100_000))),
        ("prompt", json!(vec!["a"; 129])),
        ("tools", json!([])),
    ] {
        let mut body = json!({"prompt": "a"});
        body[field] = bad;
        refused(PATH, &body, field);
    }
    let both = json!({"prompt": "a", "n": 2, "best_of": 1});
    refused(PATH, &both, "best_of");
    refused(
        PATH,
        &json!({"prompt": "a", "best_of": 2, "stream": true}),
        "best_of",
    );
    refused(PATH, &json!({"prompt": vec!["a"; 17], "n": 16}), "n");
    let ignored = json!({"prompt": "a", "user": "u", "metadata": {}, "store": true,
        "service_tier": "auto"});
    assert_eq!(post(PATH, &ignored).0, 200);
    let (status, answer) = post(PATH, &json!({"model": "gpt-5", "prompt": "a"}));
    assert_eq!(
        (status, &answer["error"]["code"]),
        (404, &json!("model_not_found"))
    );
}

#[test]
fn limits_are_settings() {
    let limits = RequestLimits {
        prompts: 1,
        ..RequestLimits::default()
    };
    let server = start_with(ServerConfig {
        limits,
        ..ServerConfig::default()
    });
    let (status, _, answer) = post_to(server, PATH, &json!({"prompt": ["a", "b"]}));
    assert_eq!(status, 400);
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("at most 1"), "{message}");
}

#[test]
fn models_are_listed() {
    let get = |path: &str| {
        let (status, _, body) = answer(send(server(), &format!("GET {path} HTTP/1.1"), b""));
        (status, serde_json::from_str::<Value>(&body).unwrap())
    };
    let (status, list) = get("/v1/models");
    assert_eq!((status, &list["data"][0]["id"]), (200, &json!("demo")));
    assert_eq!(get("/v1/models/demo").1, list["data"][0]);
    let server = start_with(ServerConfig {
        aliases: vec!["my/demo".to_owned()],
        ..ServerConfig::default()
    });
    for (model, status) in [("demo", 200), ("my/demo", 200), ("my", 404)] {
        let body = json!({"model": model, "prompt": "a", "max_tokens": 1});
        assert_eq!(post_to(server, PATH, &body).0, status, "{model}");
    }
    assert_eq!(
        get("/v1/models/a%2Fb").1["error"]["code"],
        "model_not_found"
    );
}

#[test]
fn chats_need_a_template() {
    let body = json!({"messages": [{"role": "user", "content": "Once upon"}], "temperature": 0,
        "max_tokens": 8, "logprobs": true, "top_logprobs": 2});
    let (status, answer) = post("/v1/chat/completions", &body);
    assert_eq!(
        (status, &answer["error"]["code"]),
        (400, &json!("no_chat_template"))
    );
    let template = ChatTemplate::new("{% for m in messages %}{{ m.content }}{% endfor %}");
    let server = start_with(ServerConfig {
        chat_template: Some(template.unwrap()),
        ..ServerConfig::default()
    });
    let (status, _, answer) = post_to(server, "/v1/chat/completions", &body);
    assert_eq!(status, 200, "{answer}");
    let plain = complete(json!({"prompt": "Once upon", "temperature": 0, "max_tokens": 8}));
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"]["content"], plain["choices"][0]["text"]);
    assert_eq!(choice["message"]["role"], "assistant");
    let content = choice["logprobs"]["content"].as_array().unwrap();
    assert_eq!(
        (
            content.len(),
            content[0]["top_logprobs"].as_array().unwrap().len()
        ),
        (8, 2)
    );
    let with = |more: Value| {
        let mut body = json!({"messages": [{"role": "user", "content": "a"}]});
        let fields = more.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(fields);
        body
    };
    // What asks for nothing, such as an answer's fields that are sent back.
    let neutral = json!({"max_tokens": 1, "tools": [], "tool_choice": "none", "modalities": ["text"],
        "parallel_tool_calls": true, "response_format": {"type": "text"}, "messages": [
            {"role": "assistant", "content": "a", "refusal": null, "annotations": [],
                "audio": null, "function_call": null, "tool_calls": null},
            {"role": "user", "content": [{"type": "text", "text": "b"}]}]});
    let (status, _, answer) = post_to(server, "/v1/chat/completions", &neutral);
    assert_eq!(status, 200, "{answer}");
    for (bad, param) in [
        (json!({"messages": []}), "messages"),
        (
            json!({"messages": [{"role": "robot", "content": "a"}]}),
            "messages[0].role",
        ),
        (json!({"messages": [["user", "a"]]}), "messages[0]"),
        (
            json!({"messages": [{"role": "assistant", "content": "a", "tool_calls": []}]}),
            "messages[0].tool_calls",
        ),
        (with(json!({"tools": [{}]})), "tools"),
        (with(json!({"tool_choice": "required"})), "tool_choice"),
        (
            with(json!({"response_format": {"type": "json_object"}})),
            "response_format.type",
        ),
        (with(json!({"max_tokens": 256})), "max_tokens"),
        (
            with(json!({"max_completion_tokens": 256})),
            "max_completion_tokens",
        ),
        (
            with(json!({"max_completion_tokens": 3_000_000_000u64})),
            "max_completion_tokens",
        ),
    ] {
        let (status, _, answer) = post_to(server, "/v1/chat/completions", &bad);
        assert_eq!(
            (status, &answer["error"]["param"]),
            (400, &json!(param)),
            "{bad}"
        );
    }
}

#[test]
fn texts_of_any_length_are_scored() {
    let long = "Once upon a time, there was a fox. ".repeat(60);
    let body = json!({"input": [long, "The cat sat."], "stride": 100});
    let (status, answer) = post("/api/score", &body);
    assert_eq!(status, 200, "{answer}");
    let results = answer["results"].as_array().unwrap();
    let count = results[0]["token_count"].as_u64().unwrap() as usize;
    assert!(count > 256);
    let tokens = results[0]["tokens"].as_array().unwrap();
    assert_eq!(tokens.len(), count);
    assert!(tokens[1..].iter().all(|token| token["logprob"].is_f64()));
    // The first window is a text of its own; the next token sees the most.
    let ids: Vec<_> = tokens.iter().map(|t| t["id"].clone()).collect();
    let (_, window) = post("/api/score", &json!({"input": ids[..256]}));
    assert_eq!(
        window["results"][0]["tokens"].as_array().unwrap()[..],
        tokens[..256]
    );
    let (_, window) = post("/api/score", &json!({"input": ids[100..356]}));
    assert_eq!(window["results"][0]["tokens"][156], tokens[256]);
    assert_eq!(results[1]["token_count"], 5);
    refused("/api/score", &json!({"input": ""}), "input");
    refused("/api/score", &json!({"input": [[1], [2048]]}), "input[1]");
    refused(
        "/api/score",
        &json!({"input": "a", "stride": 256}),
        "stride",
    );
    refused(
        "/api/score",
        &json!({"input": "a".repeat(200_000)}),
        "input",
    );
    refused("/api/score", &json!({"inputs": "a"}), "inputs");
}

#[test]
fn tokens_in_three_dialects() {
    let ids = json!([360, 361, 257, 347]);
    let text = "Once upon a time";
    let (_, vllm) = post(
        "/tokenize",
        &json!({"model": "x", "prompt": text,
        "add_special_tokens": false}),
    );
    assert_eq!((&vllm["tokens"], &vllm["count"]), (&ids, &json!(4)));
    let (_, llama) = post("/tokenize", &json!({"content": text, "with_pieces": true}));
    assert_eq!(llama["tokens"][1], json!({"id": 361, "piece": " upon"}));
    let (_, tgi) = post("/tokenize", &json!({"inputs": text}));
    assert_eq!(
        tgi[1],
        json!({"id": 361, "text": " upon", "start": 4, "stop": 9})
    );
    let (_, back) = post("/detokenize", &json!({"tokens": ids}));
    assert_eq!(back, json!({"prompt": text, "content": text}));
    refused(
        "/tokenize",
        &json!({"prompt": "a", "content": "a"}),
        "prompt",
    );
    refused("/tokenize", &json!({}), "prompt");
    refused("/detokenize", &json!({"tokens": [2048]}), "tokens");
    let (status, _, info) = answer(send(server(), "GET /tokenizer_info HTTP/1.1", b""));
    assert_eq!(status, 200);
    assert!(info.contains(r#""eos_token":"<|endoftext|>""#), "{info}");
}

#[test]
fn the_document_describes_every_route() {
    let (_, _, body) = answer(send(server(), "GET /openapi.json HTTP/1.1", b""));
    let document: Value = serde_json::from_str(&body).unwrap();
    let paths = document["paths"].as_object().unwrap();
    for (path, item) in paths {
        let method = if item.get("post").is_some() {
            "GET"
        } else {
            "POST"
        };
        let path = path.replace("{id}", "demo");
        let request = format!("{method} {path} HTTP/1.1\r\n{JSON}");
        let (status, _, _) = answer(send(server(), &request, b"{}"));
        assert_eq!(status, 405, "{path}: described, not served");
        if let Some(post) = item.get("post") {
            assert!(post["requestBody"].is_object(), "{path}");
        }
    }
    let source = include_str!("../../src/server/mod.rs");
    let routes = source.split(".route(\"").skip(1);
    let routes = routes.map(|rest| rest.split('"').next().unwrap().replace("{*", "{"));
    let mut routes: Vec<_> = routes.filter(|route| route != "/openapi.json").collect();
    routes.sort();
    let mut described: Vec<_> = paths.keys().cloned().collect();
    described.sort();
    assert_eq!(described, routes);
}
