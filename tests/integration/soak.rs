//! Many short requests, half of them given up at some point: afterwards the
//! server is as it was before.
//!
//! 2,000 requests; `GPT2_SOAK=10000 cargo test soak` sends as many as it says.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::metrics::{metrics, value_of};
use crate::served::Served;

const CLIENTS: usize = 16;
/// What may remain of anonymous memory.
const MEMORY: u64 = 16 << 20;
/// How long the server may take to notice that clients have gone.
const SETTLE: Duration = Duration::from_secs(10);

/// The server under load.
struct Server(Served);

impl Server {
    fn start() -> Self {
        let arguments = ["--kv-cache", "4096t", "--max-running", "8"];
        Self(Served::start(&arguments))
    }

    /// Sends a request and, in half of the cases, goes away at some point.
    fn ask(&self, rng: &mut StdRng) {
        let prompt =
            ["Once upon a time", "The cat", "There was a shy puffin who"][rng.random_range(0..3)];
        let (tokens, seed) = (rng.random_range(1..24), rng.random::<u32>());
        let body = format!(
            r#"{{"prompt":"{prompt}","max_tokens":{tokens},"strategy":"top-k","seed":{seed}}}"#
        );
        let (host, length) = (self.0.address, body.len());
        let request = format!(
            "POST /api/stream HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\nconnection: close\r\n\r\n{body}"
        );
        let mut stream = TcpStream::connect(host).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
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
        let count_of = |folder| {
            let path = format!("/proc/{}/{folder}", self.0.child.id());
            fs::read_dir(path).unwrap().count() as u64
        };
        // Before there is a connection to ask for the metrics.
        let (files, threads) = (count_of("fd"), count_of("task"));
        let metrics = metrics(self.0.address);
        let value = |name| value_of(&metrics, name) as u64;
        let status = format!("/proc/{}/status", self.0.child.id());
        let status = fs::read_to_string(status).unwrap();
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
            blocks: value("gpt2_kv_blocks_used"),
            requests: value("gpt2_requests_running") + value("gpt2_requests_waiting"),
            tasks: value("gpt2_http_tasks"),
            files,
            threads,
            memory: kib << 10,
        }
    }

    /// The state once all requests have ended and no socket is left of them.
    fn settled(&self) -> State {
        const APART: Duration = Duration::from_millis(200);
        let started = Instant::now();
        let mut last = self.state();
        loop {
            std::thread::sleep(APART);
            let state = self.state();
            let busy = state.blocks + state.requests > 0;
            if !busy && (state.files, state.tasks) == (last.files, last.tasks) {
                return state;
            }
            assert!(started.elapsed() < SETTLE, "still busy: {state}");
            last = state;
        }
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
