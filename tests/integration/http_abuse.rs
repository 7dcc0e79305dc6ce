//! Clients that mean no good, while a well-behaved one, the canary, streams:
//! its text must not change by a byte. 500 of them leave early;
//! `GPT2_DISCONNECTS=10000 cargo test clients_that_leave` lets as many as it says.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gpt2_engine::server::{ApiKeys, ConnectionLimits, ServerConfig};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::http_client::{JSON, answer, events_of, exchange, send, start_with, status_of};
use crate::metrics::metrics;
use crate::wait::wait_until;

/// Time limits that a test can wait for.
fn impatient() -> ConnectionLimits {
    ConnectionLimits {
        header_timeout: Duration::from_millis(500),
        body_timeout: Duration::from_millis(500),
        write_timeout: Duration::from_millis(500),
        ..ConnectionLimits::default()
    }
}

fn impatient_server() -> SocketAddr {
    start_with(ServerConfig {
        connections: impatient(),
        ..ServerConfig::default()
    })
}

/// For clients that are not slow themselves, on a machine that may be.
fn server() -> SocketAddr {
    start_with(ServerConfig::default())
}

/// What the canary hears: all events of one stream.
fn song(server: SocketAddr) -> Vec<String> {
    let body = json!({"prompt": "Once upon a time", "max_tokens": 200, "strategy": "top-k",
        "k": 40, "seed": 11});
    let head = format!("POST /api/stream HTTP/1.1\r\n{JSON}");
    let (status, _, body) = answer(send(server, &head, body.to_string().as_bytes()));
    assert_eq!(status, 200, "{body}");
    events_of(&body)
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Lets the canary sing, again and again, as long as `abuse` lasts and once
/// after it.
fn with_canary(server: SocketAddr, abuse: impl FnOnce()) {
    let alone = song(server);
    assert!(alone.len() > 20 && alone.last().unwrap() == "[DONE]");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let canary = scope.spawn(|| {
            let mut songs = 0;
            while !over.load(Ordering::Acquire) || songs == 0 {
                assert_eq!(song(server), alone);
                songs += 1;
            }
        });
        // Also where the abuse panics: the scope waits for the canary.
        let set = SetOnDrop(&over);
        abuse();
        drop(set);
        canary.join().unwrap();
    });
    assert_eq!(song(server), alone);
    let metrics = metrics(server);
    assert!(metrics.contains("gpt2_http_panics_total 0\n"), "{metrics}");
}

fn post_raw(server: SocketAddr, path: &str, headers: &str, body: &[u8]) -> u16 {
    let head = format!("POST {path} HTTP/1.1\r\n{headers}");
    answer(send(server, &head, body)).0
}

#[test]
fn a_thousand_sockets_with_slow_heads() {
    // Both ends of each are in this process, which often may open 1,024 files
    // unless it asks for more.
    let files = getrlimit(Resource::Nofile);
    if files.current.is_some_and(|most| most < 4096) {
        let more = Rlimit {
            current: files
                .maximum
                .map_or(Some(4096), |most| Some(most.min(4096))),
            ..files
        };
        setrlimit(Resource::Nofile, more).unwrap();
    }
    let server = start_with(ServerConfig {
        connections: ConnectionLimits {
            connections: 1100,
            ..impatient()
        },
        ..ServerConfig::default()
    });
    with_canary(server, || {
        let mut sockets: Vec<TcpStream> = (0..1000)
            .map(|_| TcpStream::connect(server).unwrap())
            .collect();
        for socket in &mut sockets {
            socket.write_all(b"GET /health HTTP/1.1\r\nx: ").unwrap();
        }
        for socket in &mut sockets {
            let limit = Duration::from_secs(20);
            socket.set_read_timeout(Some(limit)).unwrap();
            let mut rest = Vec::new();
            // Closed, orderly or not; only a socket left open is wrong.
            if let Err(error) = socket.read_to_end(&mut rest) {
                assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock);
            }
            assert!(rest.is_empty());
        }
    });
}

#[test]
fn bodies_of_a_byte_at_a_time() {
    let server = impatient_server();
    with_canary(server, || {
        let head = format!(
            "POST /v1/completions HTTP/1.1\r\nhost: a\r\n{JSON}\r\ncontent-length: 1000\r\n\r\n"
        );
        std::thread::scope(|scope| {
            for _ in 0..32 {
                scope.spawn(|| {
                    let mut socket = TcpStream::connect(server).unwrap();
                    socket.write_all(head.as_bytes()).unwrap();
                    for _ in 0..20 {
                        // The server may have closed meanwhile.
                        let _ = socket.write_all(b"{");
                        std::thread::sleep(Duration::from_millis(50));
                    }
                    let mut text = String::new();
                    let _ = socket.read_to_string(&mut text);
                    assert_eq!(status_of(&text), 408, "{text}");
                });
            }
        });
    });
}

#[test]
fn clients_that_never_read() {
    let server = impatient_server();
    // Fewer than may wait: the canary is to be slowed, not refused.
    let body = json!({"prompt": "Once", "max_tokens": 250, "n": 3, "stream": true, "logprobs": 5,
        "ignore_eos": true})
    .to_string();
    with_canary(server, || {
        let head = format!("POST /v1/completions HTTP/1.1\r\n{JSON}");
        let sockets: Vec<_> = (0..64)
            .map(|_| send(server, &head, body.as_bytes()))
            .collect();
        std::thread::sleep(Duration::from_millis(1500));
        drop(sockets);
    });
}

#[test]
fn looks_that_nobody_reads() {
    let server = start_with(ServerConfig::default());
    let look = |tokens: usize| json!({"ids": vec![1; tokens], "hidden": true}).to_string();
    let head = format!("POST /api/inspect HTTP/1.1\r\n{JSON}");
    let status = || answer(send(server, &head, look(1).as_bytes())).0;
    with_canary(server, || {
        // Answers of megabytes, more than a socket holds.
        let mut unread: Vec<TcpStream> = Vec::new();
        for _ in 0..4 {
            let mut socket = send(server, &head, look(256).as_bytes());
            socket.read_exact(&mut [0; 12]).unwrap();
            unread.push(socket);
        }
        assert_eq!(status(), 429);
        drop(unread);
        wait_until("there is room", Duration::from_secs(10), || status() == 200);
    });
}

#[test]
fn clients_that_leave_at_every_phase() {
    let server = impatient_server();
    let body = json!({"prompt": "Once upon a time", "max_tokens": 200, "ignore_eos": true,
        "stream": true, "seed": 1})
    .to_string();
    let length = body.len();
    let request = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: a\r\n{JSON}\r\ncontent-length: {length}\r\n\r\n\
         {body}"
    );
    let asked = std::env::var("GPT2_DISCONNECTS").ok();
    let count = asked.map_or(500, |n| n.parse().expect("GPT2_DISCONNECTS is a number"));
    with_canary(server, || {
        for round in 0..count {
            let mut socket = TcpStream::connect(server).unwrap();
            if round % 2 == 0 {
                // In the middle of the request.
                let cut = round * request.len() / count;
                let _ = socket.write_all(&request.as_bytes()[..cut]);
            } else {
                // In the middle of the stream: in its head, or some events on.
                socket.write_all(request.as_bytes()).unwrap();
                let mut some = vec![0; 20 + round % 500 * 4];
                socket.read_exact(&mut some).unwrap();
                assert!(some.starts_with(b"HTTP/1.1 200 OK"));
            }
            if round % 3 == 0 {
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
    });
    let limit = Duration::from_secs(10);
    wait_until("nothing is left behind", limit, || {
        let metrics = metrics(server);
        let left = [
            "gpt2_requests_running 0\n",
            "gpt2_requests_waiting 0\n",
            "gpt2_http_connections 1\n",
        ];
        left.iter().all(|line| metrics.contains(line))
    });
}

#[test]
fn malformed_json_and_text() {
    let server = server();
    with_canary(server, || {
        let mut bodies: Vec<(Vec<u8>, u16)> = vec![
            (br#"{"prompt": "\ud800"}"#.to_vec(), 400),
            (br#"{"prompt": "\udc00\ud800"}"#.to_vec(), 400),
            (b"{\"prompt\": \"\xff\xfe\"}".to_vec(), 400),
            (b"{\"prompt\": \"a\x00b\"}".to_vec(), 400),
            (br#"{"prompt": "a\u0000b", "max_tokens": 1}"#.to_vec(), 200),
            (br#"{"prompt": "a", "prompt": "b"}"#.to_vec(), 400),
            (br#"{"prompt": "a", "temperature": 1e999}"#.to_vec(), 400),
            (br#"{"prompt": "a", "temperature": 1e39}"#.to_vec(), 400),
            (
                br#"{"prompt": "a", "max_tokens": 99999999999999999999}"#.to_vec(),
                400,
            ),
            (br#"{"prompt": "a", "max_tokens": -0}"#.to_vec(), 400),
            (br#"{"prompt": "a", "seed": 1e3}"#.to_vec(), 400),
            (b"{\"prompt\": \"a\"".to_vec(), 400),
            (b"".to_vec(), 400),
            (b"nan".to_vec(), 400),
        ];
        let nested = |open: &str, close: &str| {
            let (open, close) = (open.repeat(100_000), close.repeat(100_000));
            format!("{{\"prompt\": {open}{close}}}").into_bytes()
        };
        bodies.push((nested("[", "]"), 400));
        bodies.push((nested("{\"a\":", "}"), 400));
        let repeats = json!({"prompt": "a".repeat(1_000_000)}).to_string();
        bodies.push((repeats.into_bytes(), 400));
        for path in ["/v1/completions", "/api/generate", "/api/stream"] {
            for (body, expected) in &bodies {
                let native = path.starts_with("/api");
                // The older API counts with floats where it can.
                let status = post_raw(server, path, JSON, body);
                let shown = String::from_utf8_lossy(&body[..body.len().min(60)]);
                assert_eq!(status, *expected, "{path} (native {native}) {shown}");
            }
        }
        let million = json!({"input": "a".repeat(1_000_000)}).to_string();
        assert_eq!(
            post_raw(server, "/api/score", JSON, million.as_bytes()),
            400
        );
    });
}

#[test]
fn what_is_not_sent_as_json() {
    let server = server();
    let body = br#"{"prompt": "a", "max_tokens": 1}"#;
    with_canary(server, || {
        for headers in [
            "content-type: text/plain",
            "content-type: application/x-www-form-urlencoded",
            "content-type: multipart/form-data; boundary=x",
            "content-type: application/jsonp",
            "x-nothing: 1",
            "content-type: application/json\r\ncontent-encoding: gzip",
        ] {
            assert_eq!(
                post_raw(server, "/v1/completions", headers, body),
                415,
                "{headers}"
            );
        }
        let utf8 = "content-type: Application/JSON; charset=utf-8";
        assert_eq!(post_raw(server, "/v1/completions", utf8, body), 200);
    });
}

#[test]
fn paths_that_are_nearly_right() {
    let server = start_with(ServerConfig {
        api_keys: ApiKeys::new(vec!["key".into()]).unwrap(),
        ..ServerConfig::default()
    });
    for path in [
        "//v1/models",
        "/V1/models",
        "/v1//models",
        "/v1/models/",
        "/./v1/models",
        "/health/../v1/models",
        "/health%2f..%2fv1%2fmodels",
        "/v1/models;/health",
        "/v1/models?/health",
    ] {
        let (status, _, _) = answer(send(server, &format!("GET {path} HTTP/1.1"), b""));
        assert_eq!(status, 401, "{path}");
    }
}

#[test]
fn smuggled_requests_are_not_answered() {
    let server = server();
    let inner = "GET /health/live HTTP/1.1\r\nhost: a\r\n\r\n";
    with_canary(server, || {
        for framing in [
            "content-length: 5\r\ntransfer-encoding: chunked",
            "transfer-encoding: chunked\r\ncontent-length: 5",
            "content-length: 5\r\ncontent-length: 6",
            "transfer-encoding: chunked, identity",
            "transfer-encoding: xchunked",
            "content-length: +5",
            "content-length: -1",
        ] {
            let request = format!(
                "POST /api/generate HTTP/1.1\r\nhost: a\r\n{JSON}\r\n{framing}\r\n\r\n\
                 0\r\n\r\n{inner}"
            );
            let answers = exchange(server, request.as_bytes());
            assert_eq!(
                answers.matches("HTTP/1.1 ").count(),
                1,
                "{framing}: {answers}"
            );
            assert_eq!(status_of(&answers), 400, "{framing}: {answers}");
        }
    });
}

#[test]
fn unknown_methods_and_versions() {
    let server = server();
    let status = |line: &str| {
        let request = format!("{line}\r\nhost: a\r\nconnection: close\r\n\r\n");
        status_of(&exchange(server, request.as_bytes()))
    };
    assert_eq!(status("DELETE /v1/models HTTP/1.1"), 405);
    assert_eq!(status("TRACE /health HTTP/1.1"), 405);
    assert_eq!(status("FOO /health HTTP/1.1"), 405);
    assert_eq!(status("GET /health HTTP/1.0"), 200);
    for line in [
        "GET /health HTTP/3.7",
        "GET  HTTP/1.1",
        "\x16\x03\x01",
        "GET /\x01 HTTP/1.1",
    ] {
        assert!([0, 400, 404].contains(&status(line)), "{line:?}");
    }
}

#[test]
fn errors_have_one_form() {
    let server = server();
    let error_of = |request: &str, body: &[u8]| {
        let (status, head, body) = answer(send(server, request, body));
        assert!(head.contains("content-type: application/json"), "{head}");
        let error: Value = serde_json::from_str(&body).unwrap();
        let keys: Vec<_> = error["error"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        assert_eq!(keys, ["message", "type", "param", "code"]);
        status
    };
    let post = format!("POST /v1/completions HTTP/1.1\r\n{JSON}");
    assert_eq!(error_of(&post, b"{"), 400);
    assert_eq!(error_of("GET /nowhere HTTP/1.1", b""), 404);
    assert_eq!(error_of("GET /v1/completions HTTP/1.1", b""), 405);
    assert_eq!(error_of("POST /v1/completions HTTP/1.1", b"{}"), 415);
    assert_eq!(error_of(&post, &vec![b' '; (1 << 20) + 1]), 413);
}
