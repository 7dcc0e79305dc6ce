//! One request over a connection of its own.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::{sleep_until, timeout_at};

use crate::requests::Planned;

/// What came back, in seconds from the start of the round.
#[derive(Debug)]
pub struct Answer {
    /// When the request was due; when a stream got to it, if that was later.
    pub asked: f64,
    /// When each token came.
    pub tokens: Vec<f64>,
    /// When the server said that it has too much to do.
    pub refused: Option<f64>,
    pub error: Option<String>,
}

/// How the reading of an answer ended, where it did not fail.
enum End {
    Complete,
    /// Status 429.
    Refused,
}

/// Waits for the request's time, and for its answer.
pub async fn ask(
    server: SocketAddr,
    request: &Planned,
    started: Instant,
    limit: Duration,
) -> Answer {
    let reached = started.elapsed().as_secs_f64();
    let mut answer = Answer {
        // A request that is sent late has waited all the same.
        asked: if request.at > 0.0 {
            request.at
        } else {
            reached
        },
        tokens: Vec::with_capacity(request.tokens),
        refused: None,
        error: None,
    };
    sleep_until((started + Duration::from_secs_f64(request.at)).into()).await;
    let reading = read(server, request, |count| {
        let now = started.elapsed().as_secs_f64();
        answer.tokens.extend(std::iter::repeat_n(now, count));
    });
    let result = timeout_at((started + limit).into(), reading).await;
    answer.error = match result {
        Ok(Ok(End::Refused)) => {
            answer.refused = Some(started.elapsed().as_secs_f64());
            None
        }
        Ok(Ok(End::Complete)) if answer.tokens.len() == request.tokens => None,
        Ok(Ok(End::Complete)) => Some(format!(
            "{} tokens instead of {}",
            answer.tokens.len(),
            request.tokens
        )),
        Ok(Err(error)) => Some(format!("{error:#}")),
        Err(_) => Some(format!("no end after {} s", limit.as_secs())),
    };
    answer
}

/// Reads the events of `POST /api/stream` as they come; `on_tokens` hears how
/// many tokens a read brought.
async fn read(
    server: SocketAddr,
    request: &Planned,
    mut on_tokens: impl FnMut(usize),
) -> Result<End> {
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    // HTTP/1.0: the body is the events and nothing else, up to the end of the
    // connection.
    let head = format!(
        "POST /api/stream HTTP/1.0\r\nHost: {server}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        request.body.len()
    );
    write_all(&stream, (head + &request.body).as_bytes()).await?;
    let mut text = Vec::new();
    let mut buffer = [0; 8192];
    let mut events = Events::default();
    loop {
        stream.readable().await?;
        let count = match stream.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.into()),
        };
        text.extend_from_slice(&buffer[..count]);
        let end = text.iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1);
        let mut tokens = 0;
        for line in text[..end].split(|&b| b == b'\n') {
            tokens += usize::from(events.line(line)?);
        }
        if tokens > 0 {
            on_tokens(tokens);
        }
        if events.accepted == Some(false) {
            return Ok(End::Refused);
        }
        text.drain(..end);
    }
    events.end(request.ids.len())?;
    Ok(End::Complete)
}

async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// How far the answer has come.
#[derive(Debug, Default)]
struct Events {
    /// What the status line said, once it is there: 200, or 429.
    accepted: Option<bool>,
    /// The event with the usage.
    last: Option<Value>,
    done: bool,
}

impl Events {
    /// Whether a line of the answer is a token. Only what isn't is parsed.
    fn line(&mut self, line: &[u8]) -> Result<bool> {
        let line = line.trim_ascii_end();
        let accepted = match self.accepted {
            Some(accepted) => accepted,
            None => {
                let status = String::from_utf8_lossy(line);
                let accepted = !status.contains(" 429 ");
                let known = !accepted || status.contains(" 200 ");
                ensure!(known, "the server answered {status}");
                *self.accepted.insert(accepted)
            }
        };
        if !accepted {
            return Ok(false);
        }
        let Some(data) = line.strip_prefix(b"data: ") else {
            return Ok(false);
        };
        if data.starts_with(b"{\"index\":") {
            return Ok(true);
        }
        if data == b"[DONE]" {
            self.done = true;
            return Ok(false);
        }
        let event: Value = serde_json::from_slice(data).context("an event of no JSON")?;
        if let Some(error) = event.get("error") {
            bail!("the server answered {error}");
        }
        self.last = Some(event);
        Ok(false)
    }

    fn end(self, prompt: usize) -> Result<()> {
        let last = self.last.filter(|_| self.done);
        let last = last.context("the answer ended before its last event")?;
        let found = &last["usage"]["prompt_tokens"];
        ensure!(*found == prompt, "{found} tokens of a prompt of {prompt}");
        Ok(())
    }
}
