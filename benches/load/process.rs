//! The processes that are measured. They are ended with their handle.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::args::Args;

/// Far longer than it takes to load a checkpoint.
const LOADING: Duration = Duration::from_secs(60);

/// A process, ended on Drop.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `gpt2 serve`, ready to answer.
pub struct Server {
    process: Process,
    pub address: SocketAddr,
}

impl Server {
    /// Starts it and waits until it is healthy.
    pub fn start(args: &Args) -> Result<Self> {
        let mut process = Command::new(&args.binary)
            .args(["serve", "--port", "0"])
            .args(args.of_model())
            .args(&args.serve)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", args.binary.display()))?;
        let stderr = process.stderr.take().context("no stderr")?;
        let process = Process(process);
        let address = listening(stderr)?;
        let server = Self { process, address };
        server.wait_until_healthy()?;
        Ok(server)
    }

    fn wait_until_healthy(&self) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < LOADING {
            if self.health()?.contains(" 200 ") {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("the server was not ready after {} s", LOADING.as_secs());
    }

    /// The status line of `/health`.
    fn health(&self) -> Result<String> {
        let answer = self.get("/health")?;
        Ok(answer.lines().next().unwrap_or_default().to_owned())
    }

    fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(self.address)?;
        let host = self.address;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// These values of `/metrics`.
    pub fn metrics<const N: usize>(&self, names: [&str; N]) -> Result<[f64; N]> {
        let text = self.get("/metrics")?;
        let mut values = [0.0; N];
        for (value, name) in values.iter_mut().zip(names) {
            let of = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
            let found = text.lines().find_map(of);
            *value = found.with_context(|| format!("no metric {name}"))?;
        }
        Ok(values)
    }

    /// Processor time of the threads that don't compute: HTTP, and what goes
    /// with it.
    pub fn http_seconds(&self) -> Result<f64> {
        let mut seconds = 0.0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.process.0.id()))? {
            let task = task?.path();
            let name = std::fs::read_to_string(task.join("comm"))?;
            if name.trim() != "gpt2-worker" && !name.starts_with("gpt2-compute") {
                seconds += seconds_of(&task)?;
            }
        }
        Ok(seconds)
    }

    pub fn processor_seconds(&self) -> Result<f64> {
        processor_seconds(&self.process.0.id().to_string())
    }

    /// Peak resident bytes.
    pub fn peak_memory(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.process.0.id());
        let status = std::fs::read_to_string(&path)?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let kib = line.and_then(|l| l.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        Ok(kib.with_context(|| format!("no VmHWM in {path}"))? << 10)
    }
}

/// The address that the server tells. What it says later is read on, so that
/// it never waits for a full pipe.
fn listening(stderr: impl Read + Send + 'static) -> Result<SocketAddr> {
    let mut lines = BufReader::new(stderr).lines();
    let mut said = Vec::new();
    for line in lines.by_ref() {
        let line = line?;
        if let Some((_, address)) = line.split_once("listening on http://") {
            let address = address.trim().parse();
            std::thread::spawn(move || lines.for_each(drop));
            return address.with_context(|| format!("no address in {line:?}"));
        }
        said.push(line);
    }
    bail!("the server ended: {}", said.join("\n"));
}

/// Processor time that a process has used so far, of all its threads.
pub fn processor_seconds(process: &str) -> Result<f64> {
    seconds_of(&Path::new("/proc").join(process))
}

/// The same of a process or a thread.
fn seconds_of(folder: &Path) -> Result<f64> {
    /// Linux counts in hundredths (USER_HZ), whatever its own clock.
    const TICKS: f64 = 100.0;
    let path = folder.join("stat");
    let stat = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    // The name before may hold anything; utime and stime are the 12th and 13th
    // field after it (man 5 proc).
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let times = fields.split_whitespace().skip(11).take(2);
    let ticks: f64 = times.filter_map(|t| t.parse::<f64>().ok()).sum();
    Ok(ticks / TICKS)
}

/// `gpt2 bench --repl`: the model without server and scheduler.
pub struct Bench {
    // Before the process, so that it is told of the end first.
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    _process: Process,
}

impl Bench {
    pub fn start(args: &Args) -> Result<Self> {
        let mut process = Command::new(&args.binary)
            .args(["bench", "--repl"])
            .args(args.of_model())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut bench = Self {
            orders: process.stdin.take().context("no stdin")?,
            answers: BufReader::new(process.stdout.take().context("no stdout")?),
            _process: Process(process),
        };
        bench.answer()?;
        Ok(bench)
    }

    /// Tokens per second of as many sequences as there are streams.
    pub fn decode(&mut self, args: &Args) -> Result<f64> {
        let prompt = args.prompt_lengths()[0];
        let order = json!({
            "case": "decode", "batch": args.streams, "prompt": prompt, "tokens": args.tokens,
        });
        writeln!(self.orders, "{order}")?;
        let answer = self.answer()?;
        let rate = answer["tokens_per_second"].as_f64();
        rate.with_context(|| format!("gpt2 bench answered {answer}"))
    }

    fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("gpt2 bench answered {line:?}"))
    }
}
