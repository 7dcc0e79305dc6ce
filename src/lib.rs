//! A GPT-2 engine in pure Rust: checkpoints from safetensors, the transformer
//! in candle with an explicit KV cache, text and logprobs equal to Hugging
//! Face's, and an HTTP server over it.
//!
//! # The flow
//! A prompt is encoded ([`tokenizer`]), submitted ([`engine`]) and turned into
//! events, token by token, by the one thread that owns the model ([`model`],
//! computed by [`kernels`]). [`server`] and [`cli`] do nothing but translate.
//!
//! # The floors
//! Each module knows only those below it: `cli` → `server` → `scoring` →
//! `engine` → `tokenizer` → `model` → `kernels`, and `cuda` where it is built;
//! `cli` → `hub` → `model`. A test holds this.
//!
//! # The invariants
//! ARCHITECTURE.md lists them; the first is that the batch never changes the
//! answer.

pub mod metrics;

#[cfg(feature = "cuda")]
pub mod cuda;
pub mod kernels;
pub mod model;
pub mod tokenizer;

pub mod engine;

pub mod scoring;

pub mod hub;

pub mod server;

#[doc(hidden)]
pub mod cli;
