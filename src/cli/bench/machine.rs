//! What the machine gives: read bandwidth, multiply-add rate, memory used.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;

use crate::kernels::linear::{Linear, PANEL, linear};

/// Runs of a measurement, of which the best counts: it is a limit.
const RUNS: usize = 5;

/// Bytes per second that all threads together read from memory.
pub fn read_bandwidth() -> f64 {
    const BYTES: usize = 256 << 20;
    let buffer = vec![1u64; BYTES / 8];
    let sum = |part: &[u64]| {
        let mut lanes = [0u64; 16];
        for chunk in part.as_chunks::<16>().0 {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *lane ^= x;
            }
        }
        lanes.iter().fold(0, |a, b| a ^ b)
    };
    best(|| {
        let total: u64 = buffer.par_chunks(1 << 18).map(sum).sum();
        black_box(total);
        BYTES as f64
    })
}

/// Floating-point operations per second of the f32 matrix kernel on operands
/// that stay in the first caches.
pub fn multiply_add_peak() -> f64 {
    const K: usize = 128;
    const REPEATS: usize = 64;
    let threads = rayon::current_num_threads();
    let (rows, n) = (48, PANEL * threads);
    let (x, weight) = (vec![0.5; rows * K], vec![0.5; n * K]);
    let mut y = vec![0.0; rows * n];
    // One panel per thread and many rounds: as little beside the arithmetic
    // as this kernel can have.
    let rows_per_call = rows * REPEATS;
    let x_long: Vec<f32> = x.iter().copied().cycle().take(rows_per_call * K).collect();
    y.resize(rows_per_call * n, 0.0);
    best(|| {
        let layer = Linear {
            x: &x_long,
            weight: &weight,
            bias: None,
            k: K,
            n,
        };
        linear(layer, &mut y);
        black_box(&y);
        2.0 * (rows_per_call * K * n) as f64
    })
}

fn best(mut work: impl FnMut() -> f64) -> f64 {
    (0..=RUNS)
        .map(|_| {
            let started = Instant::now();
            let amount = work();
            amount / started.elapsed().as_secs_f64()
        })
        .fold(0.0, f64::max)
}

/// The process's peak resident memory in bytes, where the system tells it.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}
