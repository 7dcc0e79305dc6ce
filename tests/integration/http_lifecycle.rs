//! The server process from its start to its end.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::http_client::{JSON, answer, events_of, post_to, send, status_of};
use crate::metrics::{metrics, value_of};
use crate::served::Served;
use crate::wait::wait_until;

impl Served {
    fn signal(&self) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// Waits until it has seen the signal: of two at once it may see one.
    fn stopping(&self) {
        wait_until("it stops", Duration::from_secs(5), || {
            self.health().1.contains("stopping")
        });
    }

    /// The exit status, within `limit`.
    fn exit(&mut self, limit: Duration) -> Option<i32> {
        let mut status = None;
        wait_until("it ends", limit, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.and_then(|status| status.code())
    }

    /// Streams that run, requests that wait, and bodies that are half sent.
    fn load(&self) -> Load {
        let long = json!({"prompt": "Once upon a time", "max_tokens": 250, "ignore_eos": true,
            "n": 4, "stream": true})
        .to_string();
        let head = format!("POST /v1/completions HTTP/1.1\r\n{JSON}");
        let mut streams: Vec<TcpStream> = (0..32)
            .map(|_| send(self.address, &head, long.as_bytes()))
            .collect();
        // Each has begun.
        for stream in &mut streams {
            stream.peek(&mut [0]).unwrap();
        }
        let whole = json!({"prompt": "The", "max_tokens": 200, "ignore_eos": true}).to_string();
        let waiting = (0..8)
            .map(|_| send(self.address, &head, whole.as_bytes()))
            .collect();
        let half = (0..4).map(|_| {
            let mut socket = TcpStream::connect(self.address).unwrap();
            let request =
                format!("{head}\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{{\"pro");
            socket.write_all(request.as_bytes()).unwrap();
            socket
        });
        let load = Load {
            streams,
            waiting,
            half: half.collect(),
        };
        // First come, first served: those that wait are the last to have come.
        wait_until("all wait", Duration::from_secs(5), || {
            self.waiting() >= load.waiting.len()
        });
        load
    }

    /// How many texts the engine has not begun.
    fn waiting(&self) -> usize {
        value_of(&metrics(self.address), "gpt2_requests_waiting") as usize
    }
}

struct Load {
    streams: Vec<TcpStream>,
    waiting: Vec<TcpStream>,
    half: Vec<TcpStream>,
}

impl Load {
    /// Checks that everyone heard an end. How many streams were cut short.
    fn all_answered(self) -> usize {
        let read = |mut socket: TcpStream| {
            let mut text = String::new();
            let _ = socket.read_to_string(&mut text);
            text
        };
        let mut cut = 0;
        for socket in self.streams {
            let text = read(socket);
            let events = events_of(&text);
            assert_eq!(events.last().map(String::as_str), Some("[DONE]"), "{text}");
            let end: Value = serde_json::from_str(&events[events.len() - 2]).unwrap();
            if end["error"].is_object() {
                assert_eq!(end["error"]["code"], "shutting_down");
                cut += 1;
            } else {
                assert_eq!(end["choices"][0]["finish_reason"], "length");
            }
        }
        for socket in self.waiting {
            let text = read(socket);
            assert!([200, 503].contains(&status_of(&text)), "{text}");
        }
        for socket in self.half {
            let text = read(socket);
            assert_eq!(status_of(&text), 503, "{text}");
            assert!(text.contains("shutting_down"), "{text}");
        }
        cut
    }
}

#[test]
fn sigterm_lets_what_runs_end() {
    let mut served = Served::start(&["--max-running", "32", "--drain-timeout", "60"]);
    let load = served.load();
    served.signal();
    served.stopping();
    // Whoever comes now hears so.
    let ask = |head: &str, body: &[u8]| answer(send(served.address, head, body));
    let post = format!("POST /api/generate HTTP/1.1\r\n{JSON}");
    let (status, _, body) = ask(&post, br#"{"prompt": "a"}"#);
    assert!(status == 503 && body.contains("shutting_down"), "{body}");
    assert_eq!(served.health().0, 503);
    assert_eq!(ask("GET /health/live HTTP/1.1", b"").0, 200);
    assert_eq!(load.all_answered(), 0);
    assert_eq!(served.exit(Duration::from_secs(60)), Some(0));
}

#[test]
fn sigterm_cuts_short_what_takes_too_long() {
    let mut served = Served::start(&["--max-running", "32", "--drain-timeout", "0.1"]);
    let load = served.load();
    served.signal();
    let begun = Instant::now();
    assert!(load.all_answered() > 0);
    assert_eq!(served.exit(Duration::from_secs(10)), Some(0));
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut served = Served::start(&["--max-running", "4", "--drain-timeout", "60"]);
    let load = served.load();
    served.signal();
    served.stopping();
    served.signal();
    let begun = Instant::now();
    assert_eq!(served.exit(Duration::from_secs(5)), Some(1));
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    drop(load);
}

#[test]
fn a_model_is_served_under_the_name_it_was_asked_for() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/weights/../weights/demo");
    for (options, model, asked) in [
        (["--model", folder], "demo", folder),
        (["--served-model-name", "stories"], "stories", "stories"),
    ] {
        let served = Served::start(&options);
        let body = json!({"model": asked, "prompt": "a", "max_tokens": 1});
        let (status, _, answer) = post_to(served.address, "/v1/completions", &body);
        assert_eq!((status, &answer["model"]), (200, &json!(model)), "{answer}");
        let (_, _, answer) = post_to(served.address, "/api/score", &json!({"input": "a"}));
        assert_eq!(answer["results"][0]["model"], model);
    }
}

#[test]
fn a_model_that_does_not_load_ends_the_server() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::write(dir.path().join(name), "{}").unwrap();
    }
    let output = Command::new(env!("CARGO_BIN_EXE_gpt2"))
        .args(["serve", "--port", "0", "--model"])
        .arg(dir.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("error: "), "{said}");
}
