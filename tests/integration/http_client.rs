//! HTTP as a client speaks it: over real sockets, byte by byte.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::OnceLock;
use std::time::Duration;

use gpt2_engine::engine::Engine;
use gpt2_engine::server::{AppState, ServerConfig, serve};
use serde_json::Value;

/// A server on a port of the system's choice.
pub fn start(state: AppState) -> SocketAddr {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            serve(listener, state, std::future::pending())
                .await
                .unwrap();
        });
    });
    receiver.recv().unwrap()
}

/// The server that most tests share.
pub fn server() -> SocketAddr {
    static SERVER: OnceLock<SocketAddr> = OnceLock::new();
    *SERVER.get_or_init(|| {
        let state = AppState::loading("demo");
        state.set_engine(Engine::builder().build().unwrap());
        start(state)
    })
}

pub fn send(to: SocketAddr, head: &str, body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(to).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let length = body.len();
    let head =
        format!("{head}\r\nhost: {to}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    // A refused body may be cut off while it is sent.
    let _ = stream.write_all(&[head.as_bytes(), body].concat());
    stream
}

pub fn answer(mut stream: TcpStream) -> (u16, String, String) {
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head
        .split(' ')
        .nth(1)
        .expect("a status line")
        .parse()
        .unwrap();
    (status, head.to_ascii_lowercase(), body.to_owned())
}

pub const JSON: &str = "content-type: application/json";

pub fn post(path: &str, body: &Value) -> (u16, Value) {
    raw_post(path, body.to_string().as_bytes())
}

pub fn raw_post(path: &str, body: &[u8]) -> (u16, Value) {
    let (status, _, body) = answer(send(
        server(),
        &format!("POST {path} HTTP/1.1\r\n{JSON}"),
        body,
    ));
    (status, serde_json::from_str(&body).unwrap_or(Value::Null))
}

/// A stream's data lines.
pub fn stream(body: &Value) -> Vec<String> {
    let head = format!("POST /api/stream HTTP/1.1\r\n{JSON}");
    let (_, _, body) = answer(send(server(), &head, body.to_string().as_bytes()));
    events_of(&body)
}

/// A server of the demo model with settings of its own.
pub fn start_with(config: ServerConfig) -> SocketAddr {
    let state = AppState::with_config("demo", config);
    state.set_engine(Engine::builder().build().unwrap());
    start(state)
}

/// Sends these bytes, and nothing else, and reads until the server closes.
pub fn exchange(to: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(to).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let _ = stream.write_all(bytes);
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// The status of an answer; 0 where there is none.
pub fn status_of(answer: &str) -> u16 {
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok());
    status.unwrap_or(0)
}

/// A POST of JSON to this server.
pub fn post_to(to: SocketAddr, path: &str, body: &Value) -> (u16, String, Value) {
    let head = format!("POST {path} HTTP/1.1\r\n{JSON}");
    let (status, head, body) = answer(send(to, &head, body.to_string().as_bytes()));
    let json = serde_json::from_str(&body).unwrap_or(Value::Null);
    (status, head, json)
}

/// The data of an answer of server-sent events.
pub fn events_of(body: &str) -> Vec<String> {
    let data = |line: &str| line.strip_prefix("data: ").map(str::to_owned);
    body.lines().filter_map(data).collect()
}
