//! Many short requests, half of them given up at some point: afterwards the
//! server is as it was before.
//!
//! 2,000 requests; `GPT2_SOAK=10000 cargo test soak` sends as many as it says.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const CLIENTS: usize = 16;
/// What may remain of anonymous memory.
const MEMORY: u64 = 16 << 20;
/// How long the server may take to notice that clients have gone.
const SETTLE: Duration = Duration::from_secs(10);

/// The binary, serving the demo on a port of the system's choice.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start() -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_gpt2"))
            .args(["serve", "--port", "0", "--kv-cache", "4096t"])
            .args(["--max-running", "8"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.split("listening on http://").nth(1).map(str::to_owned))
            .expect("an address in the log");
        // Read on, so that the server never waits for its log.
        std::thread::spawn(move || lines.for_each(drop));
        let server = Self { process, address };
        while !server.get("/health").starts_with("HTTP/1.1 200") {
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        stream
    }

    fn get(&self, path: &str) -> String {
        let mut stream = self.connect();
        let host = &self.address;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    /// Sends a request and, in half of the cases, goes away at some point.
    fn ask(&self, rng: &mut StdRng) {
        let prompt =
            ["Once upon a time", "The cat", "There was a shy puffin who"][rng.random_range(0..3)];
        let (tokens, seed) = (rng.random_range(1..24), rng.random::<u32>());
        let body = format!(
            r#"{{"prompt":"{prompt}","max_tokens":{tokens},"strategy":"top-k","seed":{seed}}}"#
        );
        let (host, length) = (&self.address, body.len());
        let request = format!(
            "POST /api/stream HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\nconnection: close\r\n\r\n{body}"
        );
        let mut stream = self.connect();
        if rng.random_bool(0.15) {
            // Gone in the head or the body.
            let part = rng.random_range(0..request.len());
            let _ = stream.write_all(&request.as_bytes()[..part]);
            return;
        }
        stream.write_all(request.as_bytes()).unwrap();
        let mut lines = BufReader::new(stream).lines();
        if rng.random_bool(0.4) {
            // Gone in the queue, in the prompt or while it writes.
            let read = rng.random_range(0..20);
            lines.by_ref().take(read).for_each(drop);
            return;
        }
        let last = lines
            .map_while(Result::ok)
            .filter(|line| line.starts_with("data:"))
            .last();
        assert_eq!(last.as_deref(), Some("data: [DONE]"));
    }

    /// Sends `count` requests from several clients.
    fn load(&self, count: usize, seed: u64) {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for client in 0..CLIENTS {
                let next = &next;
                let mut rng = StdRng::seed_from_u64(seed + client as u64);
                scope.spawn(move || {
                    while next.fetch_add(1, Ordering::Relaxed) < count {
                        self.ask(&mut rng);
                    }
                });
            }
        });
    }

    fn state(&self) -> State {
        let metrics = self.get("/metrics");
        let value = |name: &str| -> u64 {
            let line = metrics.lines().find_map(|line| line.strip_prefix(name));
            let value = line.unwrap_or_else(|| panic!("no {name} in\n{metrics}"));
            value.trim().parse().unwrap()
        };
        let of_process = |file| format!("/proc/{}/{file}", self.process.id());
        let status = fs::read_to_string(of_process("status")).unwrap();
        let anonymous = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let kib: u64 = anonymous
            .unwrap()
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .unwrap();
        State {
            blocks: value("gpt2_kv_blocks_used "),
            requests: value("gpt2_requests_running ") + value("gpt2_requests_waiting "),
            tasks: value("gpt2_http_tasks "),
            files: fs::read_dir(of_process("fd")).unwrap().count() as u64,
            threads: fs::read_dir(of_process("task")).unwrap().count() as u64,
            memory: kib << 10,
        }
    }

    /// The state once all requests have ended.
    fn settled(&self) -> State {
        let started = Instant::now();
        loop {
            let state = self.state();
            let busy = state.blocks + state.requests > 0;
            if !busy && started.elapsed() > Duration::from_millis(200) {
                return state;
            }
            assert!(started.elapsed() < SETTLE, "still busy: {state}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a server holds.
#[derive(Debug, Clone, Copy)]
struct State {
    blocks: u64,
    requests: u64,
    tasks: u64,
    files: u64,
    threads: u64,
    memory: u64,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            blocks,
            requests,
            tasks,
            files,
            threads,
            memory,
        } = self;
        let mib = *memory as f64 / f64::from(1 << 20);
        write!(
            f,
            "{blocks} blocks, {requests} requests, {tasks} tasks, {files} files, \
             {threads} threads, {mib:.1} MiB"
        )
    }
}

#[test]
fn afterwards_the_server_is_as_it_was() {
    let asked = std::env::var("GPT2_SOAK").ok();
    let count = asked.map_or(2000, |count| count.parse().expect("GPT2_SOAK is a number"));
    let server = Server::start();
    // Until every block has been written once and all threads are there.
    server.load(400, 1);
    let before = server.settled();
    let started = Instant::now();
    server.load(count, 100);
    let took = started.elapsed();
    let after = server.settled();
    println!("{count} requests in {took:.1?}; before: {before}; after: {after}");
    assert_eq!(after.tasks, before.tasks, "tasks");
    assert_eq!(after.files, before.files, "file descriptors");
    assert!(after.threads <= before.threads, "threads");
    assert!(after.memory <= before.memory + MEMORY, "anonymous memory");
}
