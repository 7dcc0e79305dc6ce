//! The way that works: fetched once, then from the cache.

use std::time::Duration;

use serde_json::Value;

use super::{Machine, demo, fixture, names};
use crate::fake_hub::{Content, FakeHub, Fault, Repo};

const PROMPT: [&str; 4] = ["generate", "Once upon a time", "--max-tokens", "8"];

fn generate(machine: &Machine, args: &[&str]) -> super::Done {
    machine.run(&[&PROMPT, args].concat())
}

#[test]
fn a_model_is_fetched_once_and_speaks() {
    let hub = FakeHub::of(demo());
    let machine = Machine::new(&hub);
    let expected = generate(&machine, &[]).fine().out;
    let first = generate(&machine, &["--model", "me/model"]).fine();
    assert_eq!(first.out, expected);
    assert!(
        first.said.contains("model.safetensors: verified"),
        "{}",
        first.said
    );
    let requests = hub.seen().len();
    let again = generate(&machine, &["--model", "me/model"]).fine();
    assert_eq!(
        (again.out.as_str(), again.said.as_str()),
        (expected.as_str(), "")
    );
    assert_eq!(hub.seen().len(), requests, "the hub was asked again");
    machine.assert_only_the_cache();

    // Without a hub it is the same, and another model is not to be had.
    hub.stop();
    assert_eq!(
        generate(&machine, &["--model", "me/model", "--offline"])
            .fine()
            .out,
        expected
    );
    assert_eq!(
        generate(&machine, &["--model", "me/model"]).fine().out,
        expected
    );
    let missing = generate(&machine, &["--model", "me/other", "--offline"]);
    missing.failed(&["me/other", "not in the cache", "offline"]);
    let missing = generate(&machine, &["--model", "me/other"]);
    missing.failed(&["cannot reach http://127.0.0.1", "in the cache"]);
}

#[test]
fn the_cache_has_the_layout_that_python_reads() {
    let hub = FakeHub::of(demo());
    let machine = Machine::new(&hub);
    machine.run(&["pull", "me/model"]).fine();
    let commit = hub.commit("main");
    let reference = std::fs::read_to_string(machine.repo().join("refs/main")).unwrap();
    assert_eq!(reference, commit);
    let mut etags = Vec::new();
    for (name, content) in demo() {
        let pointer = machine.repo().join("snapshots").join(&commit).join(name);
        let target = std::fs::read_link(pointer).unwrap();
        assert_eq!(
            target.to_str().unwrap(),
            format!("../../blobs/{}", content.etag)
        );
        etags.push(content.etag);
    }
    etags.sort();
    assert_eq!(machine.blobs(), etags);
    let locks = names(&machine.path("hf/hub/.locks/models--me--model"));
    assert_eq!(locks.len(), etags.len());
    // The token-less store was asked without a token, once for the weights.
    let stored: Vec<_> = hub.seen().into_iter().filter(|s| s.to_store).collect();
    assert_eq!(stored.len(), 1);
}

#[test]
fn only_the_files_needed_are_fetched() {
    let mut files = demo();
    for name in [
        "README.md",
        "pytorch_model.bin",
        "tf_model.h5",
        "vocab.json",
        "merges.txt",
        "64.tflite",
        "onnx/decoder_model.onnx",
    ] {
        files.insert(name.to_owned(), Content::new(name, b"not needed".to_vec()));
    }
    for name in [
        "generation_config.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
    ] {
        files.insert(name.to_owned(), Content::new(name, b"{}".to_vec()));
    }
    let hub = FakeHub::of(files);
    let machine = Machine::new(&hub);
    let done = machine.run(&["pull", "me/model", "--json"]).fine();
    let answer: Value = serde_json::from_str(&done.out).unwrap();
    let mut names: Vec<_> = answer["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| &f["name"])
        .collect();
    names.sort_by_key(|name| name.as_str());
    let expected = [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(names, expected);
    // Four of the files are equal, and so one blob.
    assert_eq!(machine.blobs().len(), names.len() - 3);
    let number = |key: &str| answer[key].as_u64().unwrap();
    assert_eq!(number("downloaded") + 3 * 2, number("size"));
}

#[test]
fn shards_and_pickles_are_models_too() {
    for name in ["sharded", "pytorch-bin", "bpe-vocab-merges"] {
        let files = fixture(name);
        let count = files.len();
        let hub = FakeHub::of(files);
        let machine = Machine::new(&hub);
        let done = machine.run(&["pull", "me/model", "--json"]).fine();
        let answer: Value = serde_json::from_str(&done.out).unwrap();
        assert_eq!(answer["files"].as_array().unwrap().len(), count, "{name}");
        let local = crate::fixture::root().join(name);
        let ids = ["generate", "--ids", "1,2,3", "--max-tokens", "6", "--model"];
        let expected = machine
            .run(&[&ids[..], &[local.to_str().unwrap()]].concat())
            .fine();
        let found = machine
            .run(&[&ids[..], &["me/model", "--offline"]].concat())
            .fine();
        assert_eq!(found.out, expected.out, "{name}");
    }
}

#[test]
fn revisions_are_branches_tags_and_commits() {
    let mut repo = Repo::new(fixture("small-vocab"));
    let old = repo.branches["main"].clone();
    let mut changed = fixture("small-vocab");
    let content = Content::new("generation_config.json", b"{\"eos_token_id\": 1}".to_vec());
    changed.insert("generation_config.json".into(), content);
    let new = repo.commit("refs/pr/1", changed);
    let hub = FakeHub::new([("me/model", repo)]);
    let machine = Machine::new(&hub);
    let commit = |args: &[&str]| {
        let done = machine.run(&[&["pull", "--json"], args].concat()).fine();
        serde_json::from_str::<Value>(&done.out).unwrap()["commit"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(commit(&["me/model"]), old);
    assert_eq!(commit(&["me/model@refs/pr/1"]), new);
    assert_eq!(commit(&["me/model", "--revision", &new]), new);
    assert_eq!(
        commit(&["me/model", "--offline", "--revision", &old[..8]]),
        old
    );
    let weights = hub.gets("/lfs/").len();
    assert_eq!(weights, 1, "the weights are the same in both");
    let done = machine.run(&["pull", "me/model@nowhere"]);
    done.failed(&["me/model has no revision \"nowhere\""]);

    // A branch that moved: what is loaded stays, until it is pulled again.
    hub.edit(|repos| {
        let branches = &mut repos.get_mut("me/model").unwrap().branches;
        branches.insert("main".into(), new.clone());
    });
    let tokens = ["tokenize", "a", "--model", "me/model"];
    machine.run(&tokens).fine();
    assert_eq!(commit(&["me/model", "--offline"]), old);
    assert_eq!(commit(&["me/model"]), new);
    assert_eq!(commit(&["me/model", "--offline"]), new);
}

#[test]
fn several_files_come_at_a_time() {
    let hub = FakeHub::of(fixture("sharded"));
    let machine = Machine::new(&hub);
    // Each takes three seconds, so they meet.
    hub.rule(
        "GET",
        "/lfs/",
        3,
        Fault::StallAfter(0, Duration::from_secs(3)),
    );
    machine.run(&["pull", "me/model"]).fine();
    assert_eq!(hub.most_at_a_time(), 3);
}

#[test]
fn all_failing_at_once_name_a_reason() {
    for _ in 0..5 {
        let hub = FakeHub::of(fixture("sharded"));
        let machine = Machine::new(&hub);
        hub.rule("GET", "/lfs/", 9, Fault::Refuse(403, String::new()));
        machine
            .run(&["pull", "me/model"])
            .failed(&["/lfs/", "answered 403"]);
    }
}
