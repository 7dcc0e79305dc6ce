//! Names and links that lead out of the cache.

use std::os::unix::fs::symlink;

use super::{Machine, demo, fixture};
use crate::fake_hub::{Content, FakeHub, Fault, Repo};

const PULL: [&str; 2] = ["pull", "me/model"];
const BAD: [&str; 4] = ["../../../../../evil", "/etc/evil", "a/../../evil", "C:evil"];

#[test]
fn shards_outside_the_folder_are_refused() {
    for shard in BAD {
        let mut files = fixture("sharded");
        let index = format!(r#"{{"weight_map": {{"wte.weight": "{shard}"}}}}"#);
        let name = "model.safetensors.index.json";
        files.insert(name.into(), Content::new(name, index.into_bytes()));
        files.insert(shard.into(), Content::new("x.safetensors", vec![1, 2, 3]));
        let hub = FakeHub::of(files);
        let machine = Machine::new(&hub);
        machine.run(&PULL).failed(&["weight_map", shard]);
        assert_eq!(hub.gets("evil").len(), 0);
        machine.assert_only_the_cache();
    }
}

#[test]
fn etags_are_hashes_or_nothing() {
    for etag in BAD
        .into_iter()
        .chain(["", "\"abc\"", "d41d8cd98f00b204e9800998ecf8427e"])
    {
        let hub = FakeHub::of(demo());
        let machine = Machine::new(&hub);
        let fault = Fault::Header("X-Linked-Etag", format!("\"{etag}\""));
        hub.rule("HEAD", "/model.safetensors", 1, fault);
        machine
            .run(&PULL)
            .failed(&["model.safetensors", "etag", "could not be verified"]);
        assert_eq!(hub.gets("/lfs/").len(), 0);
        machine.assert_only_the_cache();
    }
}

#[test]
fn commits_and_revisions_are_names() {
    for name in BAD {
        let mut repo = Repo::new(demo());
        repo.branches.insert("main".into(), name.into());
        repo.commits.insert(name.into(), demo());
        let hub = FakeHub::new([("me/model", repo)]);
        let machine = Machine::new(&hub);
        machine
            .run(&PULL)
            .failed(&["the commit", "40 hexadecimal digits"]);
        let done = machine.run(&["pull", "me/model", "--revision", name]);
        done.failed(&["the revision"]);
        machine
            .run(&["models", "rm", "me/model", "--revision", name])
            .failed(&["the revision"]);
        let id = format!("me/{name}");
        machine
            .run(&["generate", "a", "--model", &id])
            .failed(&["no model"]);
        machine.run(&["models", "rm", &id]).failed(&["no model"]);
        assert_eq!(machine.listing().len(), 0);
    }
    // An answer for another commit than was asked for.
    let hub = FakeHub::of(demo());
    let machine = Machine::new(&hub);
    let fault = Fault::Header("X-Repo-Commit", "0".repeat(40));
    hub.rule("HEAD", "/config.json", 9, fault);
    machine.run(&PULL).failed(&["answered for commit"]);
}

#[test]
fn links_out_of_the_cache_are_not_followed() {
    let hub = FakeHub::of(demo());
    let machine = Machine::new(&hub);
    machine.run(&PULL).fine();
    let outside = machine.path("outside.json");
    let config = demo()["config.json"].clone();
    std::fs::write(&outside, &*config.bytes).unwrap();
    let snapshot = machine.repo().join("snapshots").join(hub.commit("main"));
    let blob = machine.repo().join("blobs").join(&config.etag);
    let generate = ["generate", "a", "--max-tokens", "2", "--model", "me/model"];
    let offline = [&generate[..], &["--offline"]].concat();

    // First the snapshot's link, then the blob; the content is even the same.
    for (link, target) in [
        (snapshot.join("config.json"), "../../../../../outside.json"),
        (blob, "../../../../outside.json"),
    ] {
        std::fs::remove_file(&link).unwrap();
        symlink(target, &link).unwrap();
        assert_eq!(
            std::fs::read(&link).unwrap(),
            *config.bytes,
            "the test's own link"
        );
        machine
            .run(&offline)
            .failed(&["config.json is damaged", "is a link"]);
        let healed = machine.run(&generate).fine();
        assert!(
            healed.said.contains("config.json is damaged"),
            "{}",
            healed.said
        );
        machine.run(&offline).fine();
        assert_eq!(
            std::fs::read(&outside).unwrap(),
            *config.bytes,
            "it was written to"
        );
    }

    // A whole snapshot that lies elsewhere.
    let moved = machine.path("moved");
    std::fs::rename(&snapshot, &moved).unwrap();
    symlink(&moved, &snapshot).unwrap();
    let done = machine.run(&offline);
    assert_ne!(done.code, Some(0), "{}", done.said);
}
