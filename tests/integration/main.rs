//! One test binary; each file is a subject.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad_checkpoints;
mod cli;
mod demo;
mod fake_hub;
mod fixture;
mod fuzz;
mod generation;
mod http;
mod http_abuse;
mod http_client;
mod http_lifecycle;
mod http_openai;
mod http_security;
mod hub;
mod inspection;
mod metrics;
mod parity;
mod scheduling;
mod served;
mod soak;
mod speculation;
mod tidy;
mod tokenizer;
mod wait;
