//! One test binary; each file is a subject.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad_checkpoints;
mod cli;
mod demo;
mod fake_hub;
mod fixture;
mod http;
mod hub;
mod parity;
mod speculation;
mod tidy;
mod tokenizer;
