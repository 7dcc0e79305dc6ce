//! Connections that break, contents that are wrong, processes that die.

use std::fs::File;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::{Done, Machine, demo, noise};
use crate::fake_hub::{Content, FakeHub, Fault};
use crate::wait::wait_until;

const WEIGHTS: &str = "/lfs/";
const PULL: [&str; 2] = ["pull", "me/model"];

fn etag(hub: &FakeHub, file: &str) -> String {
    let repos = hub.state.repos.lock().unwrap();
    repos["me/model"].commits.values().next().unwrap()[file]
        .etag
        .clone()
}

#[test]
fn a_page_in_place_of_the_weights_is_refused_and_healed() {
    let hub = FakeHub::of(demo());
    let machine = Machine::new(&hub);
    hub.rule("GET", WEIGHTS, 1, Fault::Refuse(403, String::new()));
    machine.run(&PULL).failed(&["/lfs/", "answered 403"]);
    assert!(!machine.blobs().contains(&etag(&hub, "model.safetensors")));
    machine
        .run(&["generate", "a", "--model", "me/model", "--offline"])
        .failed(&["cache"]);
    machine.run(&PULL).fine();

    // A client that doesn't look has put the page into the cache.
    let blob = machine
        .repo()
        .join("blobs")
        .join(etag(&hub, "model.safetensors"));
    std::fs::write(blob, "<html>go away</html>").unwrap();
    let done = machine
        .run(&["generate", "a", "--max-tokens", "2", "--model", "me/model"])
        .fine();
    assert!(
        done.said.contains("model.safetensors is damaged"),
        "{}",
        done.said
    );
    machine.assert_only_the_cache();
}

#[test]
fn one_flipped_bit_is_found() {
    for (path, file, kind) in [
        (WEIGHTS, "model.safetensors", "sha256"),
        ("/resolve-cache/", "config.json", "git object id"),
    ] {
        let hub = FakeHub::of(demo());
        let machine = Machine::new(&hub);
        hub.rule("GET", path, 2, Fault::FlipBit(100));
        machine
            .run(&PULL)
            .failed(&[file, kind, "expected", &etag(&hub, file)]);
        let left = machine.blobs();
        let of_it = left
            .iter()
            .filter(|name| name.starts_with(&etag(&hub, file)));
        assert_eq!(of_it.count(), 0, "something of it is left: {left:?}");
        assert!(!machine.repo().join("refs/main").exists());

        // Once, and it is fetched once more without a word from the user.
        hub.rule("GET", path, 1, Fault::FlipBit(200));
        machine.run(&PULL).fine();
        machine.assert_only_the_cache();
    }
}

#[test]
fn a_broken_content_is_resumed() {
    let silence = Duration::from_secs(10);
    for (fault, reason) in [
        (Fault::CutAfter(1_000_000), "disconnected, "),
        (Fault::ShortChunked(1_000_000), "the connection ended, "),
        (
            Fault::StallAfter(1_000_000, silence),
            "the server fell silent, ",
        ),
    ] {
        let hub = FakeHub::of(demo());
        let mut machine = Machine::new(&hub);
        if matches!(fault, Fault::StallAfter(..)) {
            machine.set("HF_HUB_DOWNLOAD_TIMEOUT", "3");
        }
        hub.rule("GET", WEIGHTS, 1, fault);
        let done = machine.run(&PULL).fine();
        let said = format!("{reason}after 1000000 of 4448800 bytes");
        assert!(done.said.contains(&said), "{}", done.said);
        let ranges: Vec<_> = hub
            .gets(WEIGHTS)
            .into_iter()
            .map(|seen| seen.range)
            .collect();
        assert_eq!(ranges, [None, Some("bytes=1000000-".to_owned())]);
    }
}

#[test]
fn a_server_without_ranges_begins_anew() {
    let hub = FakeHub::of(demo());
    let machine = Machine::new(&hub);
    hub.rule("GET", WEIGHTS, 1, Fault::CutAfter(1_000_000));
    hub.rule("GET", WEIGHTS, 1, Fault::NoRanges);
    machine.run(&PULL).fine();
    assert_eq!(hub.gets(WEIGHTS).len(), 2);
}

#[test]
fn what_is_longer_than_announced_is_refused() {
    let hub = FakeHub::of(demo());
    let machine = Machine::new(&hub);
    hub.announce("1000");
    machine
        .run(&PULL)
        .failed(&["model.safetensors", "4448800 bytes, expected 1000"]);
    assert!(!machine.blobs().contains(&etag(&hub, "model.safetensors")));
}

#[test]
fn every_file_is_of_one_commit() {
    let hub = FakeHub::of(demo());
    let machine = Machine::new(&hub);
    let first = hub.commit("main");
    // When the first file is asked for, the branch moves on.
    let mut moved = false;
    *hub.state.hook.lock().unwrap() = Some(Box::new(move |seen, repos| {
        if seen.path.contains("/resolve/") && !moved {
            moved = true;
            repos
                .get_mut("me/model")
                .unwrap()
                .commit("main", noise(1000));
        }
    }));
    machine.run(&PULL).fine();
    assert_ne!(hub.commit("main"), first);
    let snapshot = machine.repo().join("snapshots").join(&first);
    for (name, content) in demo() {
        let bytes = std::fs::read(snapshot.join(&name)).unwrap();
        assert!(bytes == *content.bytes, "{name}");
    }
    let resolved = hub
        .seen()
        .into_iter()
        .filter(|seen| seen.path.contains("/resolve"));
    for seen in resolved {
        assert!(
            seen.path.contains(&first),
            "not by the commit: {}",
            seen.path
        );
    }
}

/// Starts a pull of `size` bytes, of which the last third stays out, and ends
/// it by `signal` when half is there.
fn interrupted(machine: &Machine, hub: &FakeHub, size: usize, signal: &str) -> Done {
    let silence = Fault::StallAfter(size * 2 / 3, Duration::from_secs(10));
    hub.rule("GET", WEIGHTS, 1, silence);
    let child = machine.start(&PULL);
    let name = format!("{}.incomplete", etag(hub, "model.safetensors"));
    let partial = machine.repo().join("blobs").join(name);
    wait_until("half of it is there", Duration::from_secs(30), || {
        std::fs::metadata(&partial).is_ok_and(|m| m.len() >= size as u64 / 2)
    });
    let id = child.id().to_string();
    assert!(
        Command::new("kill")
            .args([signal, &id])
            .status()
            .unwrap()
            .success()
    );
    Done::of(child.wait_with_output().unwrap())
}

#[test]
fn a_killed_download_goes_on_where_it_was() {
    const SIZE: usize = 6_000_000;
    // SIGTERM in place of Ctrl-C's SIGINT, which is ignored where the tests
    // run in the background; `pull` handles neither.
    for signal in ["-KILL", "-TERM"] {
        let hub = FakeHub::of(noise(SIZE));
        let machine = Machine::new(&hub);
        let killed = interrupted(&machine, &hub, SIZE, signal);
        assert_ne!(killed.code, Some(0));
        machine
            .run(&["tokenize", "a", "--offline", "--model", "me/model"])
            .failed(&["not in the cache"]);
        let done = machine.run(&["pull", "me/model"]).fine();
        assert!(done.said.contains("going on after"), "{}", done.said);
        let range = hub.gets(WEIGHTS).last().unwrap().range.clone().unwrap();
        let start: usize = range
            .trim_start_matches("bytes=")
            .trim_end_matches('-')
            .parse()
            .unwrap();
        assert!(start >= SIZE / 2, "{range}");
        let blob = machine
            .repo()
            .join("blobs")
            .join(etag(&hub, "model.safetensors"));
        assert_eq!(std::fs::metadata(blob).unwrap().len(), SIZE as u64);
        machine.assert_only_the_cache();
    }
}

#[test]
fn two_processes_share_one_download() {
    let hub = FakeHub::of(noise(3_000_000));
    let machine = Machine::new(&hub);
    hub.rule("GET", WEIGHTS, 9, Fault::Slowly(500_000));
    let both: Vec<Child> = (0..2).map(|_| machine.start(&PULL)).collect();
    let done: Vec<Done> = both
        .into_iter()
        .map(|child| Done::of(child.wait_with_output().unwrap()).fine())
        .collect();
    assert_eq!(hub.gets(WEIGHTS).len(), 1);
    // Of the weights: for one of the small files, each may wait for the other.
    let waiting = "model.safetensors: another process";
    let waited = done.iter().filter(|done| done.said.contains(waiting));
    assert_eq!(waited.count(), 1);
}

#[test]
fn a_lock_is_waited_for() {
    let hub = FakeHub::of(demo());
    let machine = Machine::new(&hub);
    let locks = machine.path("hf/hub/.locks/models--me--model");
    std::fs::create_dir_all(&locks).unwrap();
    let name = format!("{}.lock", etag(&hub, "model.safetensors"));
    let lock = File::create(locks.join(name)).unwrap();
    lock.lock().unwrap();
    // Longer than libraries that give up: they do so after five seconds.
    let start = Instant::now();
    let child = machine.start(&PULL);
    std::thread::sleep(Duration::from_secs(7));
    assert_eq!(hub.gets(WEIGHTS).len(), 0);
    lock.unlock().unwrap();
    let done = Done::of(child.wait_with_output().unwrap()).fine();
    assert!(start.elapsed() >= Duration::from_secs(7));
    assert!(done.said.contains("another process"), "{}", done.said);
}

#[test]
fn files_that_are_not_used_may_be_damaged() {
    let mut files = demo();
    files.insert(
        "pytorch_model.bin".into(),
        Content::new("pytorch_model.bin", vec![1; 99]),
    );
    let hub = FakeHub::of(files);
    let machine = Machine::new(&hub);
    machine.run(&PULL).fine();
    // As Python would have fetched it.
    let name = etag(&hub, "pytorch_model.bin");
    std::fs::write(machine.repo().join("blobs").join(&name), "damaged").unwrap();
    let snapshot = machine.repo().join("snapshots").join(hub.commit("main"));
    let target = format!("../../blobs/{name}");
    std::os::unix::fs::symlink(target, snapshot.join("pytorch_model.bin")).unwrap();
    let done = machine
        .run(&["tokenize", "a", "--model", "me/model", "--offline"])
        .fine();
    assert_eq!(done.said, "");
}

#[test]
fn a_damaged_file_is_named_and_fetched_again() {
    let hub = FakeHub::of(demo());
    let machine = Machine::new(&hub);
    machine.run(&PULL).fine();
    let blob = machine
        .repo()
        .join("blobs")
        .join(etag(&hub, "model.safetensors"));
    let mut bytes = std::fs::read(&blob).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    let generate = [
        "generate",
        "Once",
        "--max-tokens",
        "4",
        "--model",
        "me/model",
    ];
    let offline = machine.run(&[&generate[..], &["--offline"]].concat());
    offline.failed(&[
        "model.safetensors is damaged",
        "sha256",
        "gpt2 pull me/model",
    ]);
    let healed = machine.run(&generate).fine();
    assert!(
        healed.said.contains("model.safetensors is damaged"),
        "{}",
        healed.said
    );
    assert_eq!(healed.out, machine.run(&generate[..4]).fine().out);
    let quiet = machine
        .run(&[&generate[..], &["--offline"]].concat())
        .fine();
    assert_eq!(quiet.said, "");
}
