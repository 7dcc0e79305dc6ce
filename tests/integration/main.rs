//! One test binary; each file is a subject.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad_checkpoints;
mod cli;
mod demo;
mod fake_hub;
mod fixture;
mod generation;
mod http;
mod hub;
mod inspection;
mod parity;
mod scheduling;
mod speculation;
mod tidy;
mod tokenizer;
