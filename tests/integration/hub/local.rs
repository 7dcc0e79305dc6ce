//! Folders, the list of what is cached, and removing it.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::{Machine, demo, fixture, names};
use crate::fake_hub::{Content, FakeHub, Repo};

const GENERATE: [&str; 5] = ["generate", "Once upon", "--max-tokens", "4", "--model"];

fn generate(machine: &Machine, model: &[&str]) -> super::Done {
    machine.run(&[&GENERATE, model].concat())
}

#[test]
fn a_folder_wins_and_the_log_says_so() {
    let hub = FakeHub::of(fixture("small-vocab"));
    let mut machine = Machine::new(&hub);
    machine
        .run(&["pull", "me/model", "--to", "carried/model"])
        .fine();
    let folder = machine.path("me/model");
    std::fs::create_dir_all(folder.parent().unwrap()).unwrap();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/demo");
    std::os::unix::fs::symlink(demo, &folder).unwrap();
    let done = generate(&machine, &["me/model"]).fine();
    assert!(
        done.said.contains("using the folder") && done.said.contains("not the model me/model"),
        "{}",
        done.said
    );
    assert_eq!(done.out, generate(&machine, &["demo"]).fine().out);
    generate(&machine, &["me/model", "--revision", "main"])
        .failed(&["--revision", "not on the hub"]);
    machine.set("RUST_LOG", "info");
    let done = generate(&machine, &["./me/model"]).fine();
    assert!(done.said.contains("using the folder"), "{}", done.said);
    std::fs::remove_file(&folder).unwrap();
    let done = generate(&machine, &["me/model", "--offline"]).fine();
    assert!(
        done.said.contains("using me/model, as cached: commit"),
        "{}",
        done.said
    );
}

#[test]
fn the_demo_is_the_embedded_one() {
    let hub = FakeHub::of(fixture("small-vocab"));
    let machine = Machine::new(&hub);
    let embedded = generate(&machine, &["demo"]).fine();
    std::fs::create_dir(machine.path("demo")).unwrap();
    let beside = generate(&machine, &["demo"]).fine();
    assert_eq!(beside.out, embedded.out);
    assert!(beside.said.contains("not the folder"), "{}", beside.said);
    generate(&machine, &["./demo"]).failed(&["config.json"]);
}

#[test]
fn a_folder_needs_no_home_and_no_settings() {
    let hub = FakeHub::of(demo());
    let mut machine = Machine::new(&hub);
    machine.set("HF_ENDPOINT", "nonsense");
    machine.set("HTTPS_PROXY", "more nonsense");
    generate(&machine, &["demo"]).fine();
    generate(&machine, &["me/model"]).failed(&["HF_ENDPOINT", "nonsense"]);
}

#[test]
fn a_pulled_folder_is_carried_elsewhere() {
    let hub = FakeHub::of(demo());
    let machine = Machine::new(&hub);
    let done = machine.run(&["pull", "me/model", "--to", "carried"]).fine();
    assert_eq!(done.out, "carried\n");
    assert_eq!(
        names(&machine.path("carried")),
        ["config.json", "model.safetensors", "tokenizer.json"]
    );
    for (name, content) in demo() {
        let path = machine.path("carried").join(name);
        assert!(!path.is_symlink());
        assert_eq!(std::fs::read(path).unwrap(), *content.bytes);
    }
    let expected = generate(&machine, &["demo"]).fine().out;
    assert_eq!(
        generate(&machine, &["./carried", "--offline"]).fine().out,
        expected
    );

    // From the cache alone, onto what is there; but not into another model.
    machine
        .run(&["pull", "me/model", "--offline", "--to", "carried"])
        .fine();
    std::fs::write(machine.path("carried/vocab.json"), "{}").unwrap();
    let mixed = machine.run(&["pull", "me/model", "--offline", "--to", "carried"]);
    mixed.failed(&["carried/vocab.json", "another model"]);
}

#[test]
fn models_are_listed_and_removed() {
    let mut repo = Repo::new(demo());
    let mut changed = demo();
    changed.insert(
        "generation_config.json".into(),
        Content::new("g.json", b"{}".to_vec()),
    );
    repo.commit("next", changed);
    let hub = FakeHub::new([("me/model", repo), ("me/small", Repo::new(fixture("bf16")))]);
    let machine = Machine::new(&hub);
    let done = machine.run(&["models"]).fine();
    assert!(
        done.out.is_empty() && done.said.contains("no GPT-2 models in"),
        "{}",
        done.said
    );
    for model in ["me/model", "me/model@next", "me/small"] {
        machine.run(&["pull", model]).fine();
    }
    let list = || -> Vec<Value> {
        let done = machine.run(&["models", "--json"]).fine();
        let answer: Value = serde_json::from_str(&done.out).unwrap();
        assert_eq!(answer["cache"], machine.path("hf/hub").to_str().unwrap());
        answer["models"].as_array().unwrap().clone()
    };
    let models = list();
    assert_eq!(models.len(), 3);
    let main = models
        .iter()
        .find(|m| m["revisions"][0] == "main" && m["model"] == "me/model");
    let main = main.unwrap();
    assert_eq!(main["commit"], hub.commit("main"));
    assert_eq!(main["dtype"], "f16");
    let size: usize = demo().values().map(|content| content.bytes.len()).sum();
    assert_eq!(main["size"], size);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    assert!(now - main["last_used"].as_u64().unwrap() < 600);
    assert_eq!(
        models.iter().find(|m| m["model"] == "me/small").unwrap()["dtype"],
        "bf16"
    );
    let table = machine.run(&["models"]).fine().out;
    for part in [
        "model",
        "last used",
        "me/model",
        "next",
        &hub.commit("main")[..12],
        "4.6 MB",
        "just now",
    ] {
        assert!(table.contains(part), "no {part} in {table}");
    }

    // One revision: the blobs that the other needs stay.
    machine.run(&["models", "rm", "me/model@main"]).fine();
    assert_eq!(list().len(), 2);
    generate(&machine, &["me/model@next", "--offline"]).fine();
    generate(&machine, &["me/model", "--offline"]).failed(&["not in the cache"]);
    let freed = machine.run(&["models", "rm", "me/model"]).fine().out;
    assert!(freed.contains("MB freed"), "{freed}");
    assert_eq!(list().len(), 1);
    assert!(!machine.repo().exists());
    machine
        .run(&["models", "rm", "me/model"])
        .failed(&["not in the cache"]);
}

#[test]
fn short_names_are_those_of_the_hub() {
    let hub = FakeHub::new([("openai-community/gpt2", Repo::new(demo()))]);
    let machine = Machine::new(&hub);
    generate(&machine, &["gpt2"]).fine();
    // Where Python fetched it under its short name, it is found as well.
    let cache = machine.path("hf/hub");
    std::fs::rename(
        cache.join("models--openai-community--gpt2"),
        cache.join("models--gpt2"),
    )
    .unwrap();
    generate(&machine, &["gpt2", "--offline"]).fine();
    generate(&machine, &["openai-community/gpt2", "--offline"]).fine();
    machine.run(&["pull", "gpt2"]).fine();
    assert_eq!(
        hub.gets("/lfs/").len(),
        1,
        "fetched again, under another name"
    );
    machine.run(&["models", "rm", "gpt2"]).fine();
    generate(&machine, &["gpt2", "--offline"])
        .failed(&["openai-community/gpt2", "not in the cache"]);
}
