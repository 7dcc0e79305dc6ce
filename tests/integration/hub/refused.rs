//! What a hub refuses, and what we refuse to fetch; every message says what
//! to do.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::{Machine, demo, fixture};
use crate::fake_hub::{Content, FakeHub, Fault, Repo, TOKEN};

const PULL: [&str; 2] = ["pull", "me/model"];

#[test]
fn gated_and_private_models_need_a_token() {
    for gated in [true, false] {
        let mut repo = Repo::new(demo());
        repo.gated = gated;
        repo.private = !gated;
        let hub = FakeHub::new([("me/model", repo)]);
        let mut machine = Machine::new(&hub);
        let page = format!("{}/me/model", hub.url());
        let parts = if gated {
            ["is gated", "accept the terms"]
        } else {
            ["no such model", "private"]
        };
        machine
            .run(&PULL)
            .failed(&[&page, parts[0], parts[1], "HF_TOKEN"]);

        machine.set("HF_TOKEN", "hf_wrong");
        let wrong = machine.run(&PULL).failed(&[&page, "token"]);
        assert!(!wrong.said.contains("hf_wrong"), "{}", wrong.said);
        machine.set("HF_TOKEN", "");
        std::fs::create_dir_all(machine.path("hf")).unwrap();
        std::fs::write(machine.path("hf/token"), format!("{TOKEN}\n")).unwrap();
        machine.run(&PULL).fine();
        std::fs::remove_file(machine.path("hf/token")).unwrap();
        machine.assert_only_the_cache();
        for seen in hub.seen() {
            assert!(
                !seen.to_store || seen.authorization.is_none(),
                "the token left home: {seen:?}"
            );
        }
    }
}

#[test]
fn other_models_are_refused_before_their_weights_come() {
    let mut files = demo();
    let config = br#"{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}"#;
    files.insert(
        "config.json".into(),
        Content::new("config.json", config.to_vec()),
    );
    let hub = FakeHub::of(files);
    let machine = Machine::new(&hub);
    machine
        .run(&PULL)
        .failed(&["me/model/config.json", "model_type", "llama"]);
    assert_eq!(hub.gets("/lfs/").len(), 0);
}

#[test]
fn models_without_weights_that_can_be_read() {
    let mut files = fixture("small-vocab");
    files.remove("model.safetensors");
    files.insert("tf_model.h5".into(), Content::new("tf_model.h5", vec![1]));
    let hub = FakeHub::of(files);
    let machine = Machine::new(&hub);
    machine
        .run(&PULL)
        .failed(&["me/model has no model.safetensors", "tf_model.h5"]);
    machine
        .run(&["pull", "me/other"])
        .failed(&["/me/other", "no such model", "HF_TOKEN"]);
    machine
        .run(&["pull", "demo"])
        .failed(&["demo", "nothing to fetch"]);
    machine
        .run(&["pull", "gpt3"])
        .failed(&["gpt3", "owner/name", "distilgpt2"]);
    assert_eq!(machine.listing().len(), 0, "nothing was written");
}

#[test]
fn busy_servers_are_waited_for() {
    let hub = FakeHub::of(demo());
    let machine = Machine::new(&hub);
    let later = "Retry-After: 2".to_owned();
    hub.rule("GET", "/api/models/", 1, Fault::Refuse(429, later.clone()));
    hub.rule("GET", "/lfs/", 1, Fault::Refuse(429, later));
    hub.rule("HEAD", "/config.json", 1, Fault::Refuse(503, String::new()));
    let start = Instant::now();
    let done = machine.run(&PULL).fine();
    assert!(
        start.elapsed() >= Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    // Not "429" alone: the port of the fake hub may have these digits.
    let refused = done.said.matches("answered 429").count();
    assert_eq!(refused, 2, "{}", done.said);
    assert!(done.said.contains("trying again in 2.0 s"), "{}", done.said);
    assert!(done.said.contains("answered 503"), "{}", done.said);
}

#[test]
fn a_server_that_stays_busy_is_given_up() {
    let hub = FakeHub::of(demo());
    let machine = Machine::new(&hub);
    let later = "Retry-After: 86400".to_owned();
    hub.rule("GET", "/api/models/", 1, Fault::Refuse(429, later));
    machine.run(&PULL).failed(&["/api/models/", "answered 429"]);

    // What is there is used, and that is said.
    machine.run(&PULL).fine();
    hub.rule(
        "GET",
        "/api/models/",
        1,
        Fault::Refuse(429, "Retry-After: 86400".to_owned()),
    );
    let done = machine.run(&PULL).fine();
    assert!(
        done.said.contains("what is in the cache is whole"),
        "{}",
        done.said
    );
}

#[test]
fn too_little_room_is_seen_before_anything_comes() {
    let hub = FakeHub::of(demo());
    let machine = Machine::new(&hub);
    hub.announce("1000000000000000");
    machine
        .run(&PULL)
        .failed(&["not enough room", "1000000000", "free"]);
    assert_eq!(hub.gets("/lfs/").len(), 0);
}

#[test]
fn redirects_stay_on_the_web() {
    for location in ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", ""] {
        let hub = FakeHub::of(demo());
        let machine = Machine::new(&hub);
        hub.rule("GET", "/resolve/", 9, Fault::Redirect(location.to_owned()));
        machine.run(&PULL).failed(&["redirects to", location]);
    }
    let hub = FakeHub::of(demo());
    let machine = Machine::new(&hub);
    let round = format!("{}/me/model/resolve/x", hub.url());
    hub.rule("GET", "/resolve/", 99, Fault::Redirect(round));
    machine.run(&PULL).failed(&["more than 10 redirects"]);
    machine.assert_only_the_cache();
}

#[test]
fn a_server_without_head_is_asked_for_the_first_byte() {
    let hub = FakeHub::of(fixture("small-vocab"));
    let machine = Machine::new(&hub);
    hub.rule("HEAD", "/", 99, Fault::Refuse(405, String::new()));
    machine.run(&PULL).fine();
    assert!(
        hub.seen()
            .iter()
            .any(|seen| seen.range.as_deref() == Some("bytes=0-0"))
    );
}

#[test]
fn what_speaks_no_tls_is_no_hub() {
    let hub = FakeHub::of(demo());
    let mut machine = Machine::new(&hub);
    machine.set("HF_ENDPOINT", &hub.url().replace("http://", "https://"));
    machine
        .run(&PULL)
        .failed(&["no safe connection to https://127.0.0.1", "speaks no TLS"]);
}

/// A proxy that passes connections on, or refuses them.
fn proxy(refuses: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().take(20) {
            let client = client.unwrap();
            std::thread::spawn(move || pass_on(client, refuses));
        }
    });
    format!("http://user:secret@{address}")
}

fn pass_on(mut client: TcpStream, refuses: bool) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if client.read(&mut byte).unwrap_or(0) == 0 {
            return;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let target = head
        .strip_prefix("CONNECT ")
        .unwrap()
        .split(' ')
        .next()
        .unwrap();
    if refuses
        || !head
            .to_ascii_lowercase()
            .contains("proxy-authorization: basic")
    {
        let _ = client.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n");
        return;
    }
    let mut server = TcpStream::connect(target).unwrap();
    let _ = client.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
    let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    std::thread::spawn(move || std::io::copy(&mut from, &mut to));
    let _ = std::io::copy(&mut server, &mut client);
}

#[test]
fn proxies_come_from_the_environment() {
    let hub = FakeHub::of(fixture("small-vocab"));
    let mut machine = Machine::new(&hub);
    machine.set("HTTP_PROXY", &proxy(true));
    let refused = machine
        .run(&PULL)
        .failed(&["the proxy http://127.0.0.1", "refused", "403"]);
    assert!(!refused.said.contains("secret"), "{}", refused.said);
    assert_eq!(hub.seen().len(), 0);
    machine.set("HTTP_PROXY", &proxy(false));
    machine.run(&PULL).fine();
    machine.set("HTTP_PROXY", "http://127.0.0.1:1");
    machine.set("NO_PROXY", "example.org, 127.0.0.1");
    machine.run(&PULL).fine();
    machine.set("NO_PROXY", "");
    machine.set("HTTP_PROXY", "no proxy at all");
    machine
        .run(&PULL)
        .failed(&["HTTP_PROXY", "is not the address of a proxy"]);
}
