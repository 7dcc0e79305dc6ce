//! How soon a client that leaves makes room for another.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::Load;
use crate::report::Quantiles;

/// Clients that leave.
const COUNT: usize = 200;
/// Events after which they do.
const EVENTS: usize = 5;
/// When to give up.
const PATIENCE: Duration = Duration::from_secs(5);

/// Keeps streams running, ends one after another, and waits until the engine
/// has one request fewer.
pub fn measure(load: &Load<'_>) -> Result<()> {
    let streams = usize::from(load.args.streams.min(8));
    let mut running = Vec::new();
    while running.len() < streams {
        running.push(open(load)?);
    }
    let (mut freed, mut steps) = (Vec::new(), Vec::new());
    for i in 0..COUNT {
        let mut leaving = running.swap_remove(i % streams);
        steps.push(between_events(&mut leaving)?);
        let before = running_requests(load)?;
        let left = Instant::now();
        drop(leaving);
        while running_requests(load)? >= before {
            ensure!(left.elapsed() < PATIENCE, "its slot was never freed");
            std::thread::sleep(Duration::from_millis(1));
        }
        freed.push(left.elapsed().as_secs_f64());
        running.push(open(load)?);
    }
    println!(
        "{COUNT} clients left one of {streams} streams: {} (p50/p99) until its slot was free; \
         a token came every {}",
        Quantiles::of(freed),
        Quantiles::of(steps),
    );
    Ok(())
}

fn running_requests(load: &Load<'_>) -> Result<f64> {
    let [running] = load.server.metrics(["gpt2_requests_running"])?;
    Ok(running)
}

/// A stream that goes on for long, once it has begun.
fn open(load: &Load<'_>) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(load.server.address)?;
    let body = concat!(
        r#"{"prompt": "Once upon a time", "max_tokens": 900, "#,
        r#""ignore_eos": true, "stream": true}"#
    );
    write!(
        stream,
        "POST /v1/completions HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        load.server.address,
        body.len(),
    )?;
    stream.set_read_timeout(Some(PATIENCE))?;
    read_some(&mut stream)?;
    Ok(stream)
}

/// Seconds between two of some events.
fn between_events(stream: &mut TcpStream) -> Result<f64> {
    read_some(stream)?;
    let started = Instant::now();
    for _ in 0..EVENTS {
        read_some(stream)?;
    }
    Ok(started.elapsed().as_secs_f64() / EVENTS as f64)
}

fn read_some(stream: &mut TcpStream) -> Result<()> {
    let count = stream.read(&mut [0; 4096]).context("no event came")?;
    ensure!(count > 0, "the stream ended");
    Ok(())
}
