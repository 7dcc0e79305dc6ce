//! What faces the network: keys, hosts, origins, TLS, limits in time and size.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gpt2_engine::server::{AllowedHosts, ApiKeys, ConnectionLimits, Cors, ServerConfig, Tls};
use serde_json::{Value, json};
use tokio_rustls::rustls;

use crate::http_client::{JSON, answer, exchange, post_to, send, start_with, status_of};
use crate::wait::wait_until;

fn short(change: impl FnOnce(&mut ConnectionLimits)) -> SocketAddr {
    let mut connections = ConnectionLimits::default();
    change(&mut connections);
    start_with(ServerConfig {
        connections,
        ..ServerConfig::default()
    })
}

fn get(to: SocketAddr, path: &str, headers: &str) -> (u16, String, String) {
    let end = if headers.is_empty() { "" } else { "\r\n" };
    answer(send(to, &format!("GET {path} HTTP/1.1{end}{headers}"), b""))
}

#[test]
fn a_key_is_needed_for_all_but_the_public_routes() {
    let server = start_with(ServerConfig {
        api_keys: ApiKeys::new(vec!["first".into(), "second".into()]).unwrap(),
        ..ServerConfig::default()
    });
    for path in ["/health", "/health/ready", "/health/live"] {
        assert_eq!(get(server, path, "").0, 200, "{path}");
    }
    for path in [
        "/metrics",
        "/openapi.json",
        "/v1/models",
        "/tokenizer_info",
        "/nowhere",
        "//health",
        "/health/",
        "/Health",
        "/health/live/../../metrics",
        "/%68ealth",
        "/v1/models/..%2fhealth",
    ] {
        let (status, head, body) = get(server, path, "");
        assert_eq!(status, 401, "{path}: {body}");
        assert!(head.contains("www-authenticate: bearer"), "{head}");
        let error: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(error["error"]["code"], "invalid_api_key");
    }
    for key in ["first", "second"] {
        let header = format!("authorization: Bearer {key}");
        assert_eq!(get(server, "/v1/models", &header).0, 200);
    }
    for header in [
        "authorization: Bearer firs",
        "authorization: Bearer first2",
        "authorization: Basic first",
        "authorization: first",
        "authorization: Bearer first\r\nauthorization: Bearer first",
        "x-forwarded-for: 127.0.0.1",
        "host: localhost",
    ] {
        assert!(get(server, "/v1/models", header).0 >= 400, "{header}");
    }
    // Refused before the body is read.
    let head = format!("POST /api/generate HTTP/1.1\r\n{JSON}");
    assert_eq!(answer(send(server, &head, b"{")).0, 401);
}

#[test]
fn only_named_hosts_are_answered_on_a_loopback_address() {
    let named = ["proxy.example".to_owned()];
    let server = start_with(ServerConfig {
        hosts: AllowedHosts::for_address("127.0.0.1".parse().unwrap(), &named),
        ..ServerConfig::default()
    });
    let status = |request: &str| status_of(&exchange(server, request.as_bytes()));
    let host = |host: &str| {
        status(&format!(
            "GET /health/live HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
        ))
    };
    for fine in [
        "localhost",
        "127.0.0.1:99",
        "[::1]",
        "proxy.example",
        "LocalHost:1",
    ] {
        assert_eq!(host(fine), 200, "{fine}");
    }
    for foreign in [
        "evil.example",
        "localhost.evil.example",
        "evil.example#localhost",
        "localhost@evil.example",
        "169.254.169.254",
    ] {
        let status = host(foreign);
        assert!([400, 403].contains(&status), "{foreign}: {status}");
    }
    let two = "GET /health/live HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\n\
        connection: close\r\n\r\n";
    assert_eq!(status(two), 400);
    let none = "GET /health/live HTTP/1.1\r\nconnection: close\r\n\r\n";
    assert_eq!(status(none), 400);
    let absolute = "GET http://evil.example/health/live HTTP/1.1\r\nhost: localhost\r\n\
        connection: close\r\n\r\n";
    assert_eq!(status(absolute), 403);
}

#[test]
fn browsers_of_other_sites_are_let_in_only_where_that_was_set() {
    let closed = start_with(ServerConfig::default());
    let origin = "origin: https://a.example";
    let (_, head, _) = get(closed, "/v1/models", origin);
    assert!(!head.contains("access-control"), "{head}");
    let open = start_with(ServerConfig {
        cors: Cors::Origins(vec!["https://a.example".parse().unwrap()]),
        api_keys: ApiKeys::new(vec!["key".into()]).unwrap(),
        ..ServerConfig::default()
    });
    let ask = format!("{origin}\r\naccess-control-request-method: POST");
    let preflight = format!("OPTIONS /v1/completions HTTP/1.1\r\n{ask}");
    let (status, head, _) = answer(send(open, &preflight, b""));
    assert_eq!(status, 200);
    assert!(
        head.contains("access-control-allow-origin: https://a.example"),
        "{head}"
    );
    let other = preflight.replace("a.example", "b.example");
    let (_, head, _) = answer(send(open, &other, b""));
    assert!(
        !head.contains("access-control-allow-origin: https://b.example"),
        "{head}"
    );
}

#[test]
fn every_answer_has_its_id_its_time_and_its_headers() {
    let server = start_with(ServerConfig::default());
    let (_, head, _) = get(server, "/health/live", "x-request-id: my-id.1");
    assert!(head.contains("x-request-id: my-id.1\r\n"), "{head}");
    for wanted in [
        "server-timing: total;dur=",
        "x-content-type-options: nosniff",
    ] {
        assert!(head.contains(wanted), "{head}");
    }
    let (_, head, _) = get(server, "/nowhere", "x-request-id: two words");
    let id = head.split("x-request-id: ").nth(1).unwrap();
    assert_eq!(id.lines().next().unwrap().len(), 32, "{head}");
}

#[test]
fn metrics_count_and_their_labels_are_bounded() {
    let server = start_with(ServerConfig::default());
    let body = json!({"prompt": "Once", "max_tokens": 3});
    assert_eq!(post_to(server, "/api/generate", &body).0, 200);
    for i in 0..20 {
        get(server, &format!("/nowhere/{i}"), "");
    }
    let (status, head, text) = get(server, "/metrics", "");
    assert_eq!(status, 200);
    assert!(head.contains("content-type: application/openmetrics-text"));
    let has = |line: &str| assert!(text.contains(line), "{line} in\n{text}");
    has("gpt2_http_requests_total{route=\"/api/generate\",status=\"200\"} 1\n");
    has("gpt2_http_requests_total{route=\"unmatched\",status=\"404\"} 20\n");
    has("gpt2_generated_tokens_total 3\n");
    has("gpt2_http_panics_total 0\n");
    assert!(!text.contains("nowhere") && text.ends_with("# EOF\n"));
}

#[test]
fn a_slow_head_is_cut_off_and_a_slow_body_is_told_so() {
    let server = short(|limits| {
        limits.header_timeout = Duration::from_millis(300);
        limits.body_timeout = Duration::from_millis(300);
    });
    let trickle = |start: &str| {
        let mut stream = TcpStream::connect(server).unwrap();
        let limit = Duration::from_millis(50);
        stream.set_read_timeout(Some(limit)).unwrap();
        stream.write_all(start.as_bytes()).unwrap();
        let begun = Instant::now();
        let mut answer = Vec::new();
        while begun.elapsed() < Duration::from_secs(10) {
            let _ = stream.write_all(b" ");
            let mut buffer = [0; 4096];
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => answer.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{:?}",
            begun.elapsed()
        );
        String::from_utf8(answer).unwrap()
    };
    assert_eq!(trickle("GET / HTTP/1.1\r\nx: "), "");
    let body = trickle(&format!(
        "POST /api/generate HTTP/1.1\r\nhost: a\r\n{JSON}\r\ncontent-length: 9999\r\n\r\n{{"
    ));
    assert_eq!(status_of(&body), 408, "{body}");
    assert!(body.contains("takes too long"), "{body}");
}

#[test]
fn an_idle_connection_ends_and_one_too_many_is_told_so() {
    let server = short(|limits| {
        limits.connections = 2;
        limits.idle_timeout = Duration::from_secs(3);
    });
    let idle: Vec<_> = (0..2)
        .map(|_| TcpStream::connect(server).unwrap())
        .collect();
    let refusal = exchange(server, b"");
    assert_eq!(status_of(&refusal), 503, "{refusal}");
    for mut stream in idle {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty());
    }
    wait_until("there is room", Duration::from_secs(5), || {
        get(server, "/health/live", "").0 == 200
    });
}

#[test]
fn a_large_head_is_refused() {
    let server = start_with(ServerConfig::default());
    let long = format!("x: {}", "y".repeat(20_000));
    assert_eq!(get(server, "/health/live", &long).0, 431);
    let many: String = (0..200).map(|i| format!("x-{i}: 1\r\n")).collect();
    assert_eq!(get(server, "/health/live", many.trim_end()).0, 431);
}

#[test]
fn tls_answers_with_the_given_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(file("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(file("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let server = start_with(ServerConfig {
        tls: Some(Tls::from_pem_files(&file("cert.pem"), &file("key.pem")).unwrap()),
        ..ServerConfig::default()
    });
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "localhost".try_into().unwrap();
    let client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let socket = TcpStream::connect(server).unwrap();
    let mut stream = rustls::StreamOwned::new(client, socket);
    let request = b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.contains("\"status\":\"ok\""), "{said}");
    // Without TLS there is no answer.
    assert_eq!(
        status_of(&exchange(server, b"GET /health HTTP/1.1\r\n\r\n")),
        0
    );
    let swapped = Tls::from_pem_files(&file("key.pem"), &file("cert.pem"));
    assert!(swapped.unwrap_err().to_string().contains("key.pem"));
}
