//! The binary as a server.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::http_client::{answer, send};
use crate::wait::wait_until;

/// A server process; ended on Drop.
pub struct Served {
    pub child: Child,
    pub address: SocketAddr,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Served {
    /// A server of the binary with these arguments, ready, on a port of the
    /// system's choice.
    pub fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_gpt2"))
            .args(["serve", "--port", "0", "--log-format", "json"])
            .args(arguments)
            .env_remove("RUST_LOG")
            .env_remove("GPT2_API_KEY")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| Some(line.split("http://").nth(1)?.split('"').next()?.to_owned()))
            .expect("the server says where it listens")
            .parse()
            .unwrap();
        // The rest of the log is read, so that the server never waits for it.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        let served = Self { child, address };
        wait_until("the model is loaded", Duration::from_secs(30), || {
            served.health().0 == 200
        });
        served
    }

    /// What `/health` says.
    pub fn health(&self) -> (u16, String) {
        let (status, _, body) = answer(send(self.address, "GET /health HTTP/1.1", b""));
        (status, body)
    }
}
