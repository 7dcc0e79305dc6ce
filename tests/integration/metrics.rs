//! Reading what is counted.

use std::net::SocketAddr;

use crate::http_client::{answer, send};

/// What a server says of itself.
pub fn metrics(server: SocketAddr) -> String {
    answer(send(server, "GET /metrics HTTP/1.1", b"")).2
}

/// The value of one metric without labels.
pub fn value_of(metrics: &str, name: &str) -> f64 {
    let mut lines = metrics.lines().filter_map(|line| line.split_once(' '));
    let line = lines.find(|(its_name, _)| *its_name == name);
    let (_, value) = line.unwrap_or_else(|| panic!("no {name} in\n{metrics}"));
    value.parse().unwrap()
}
