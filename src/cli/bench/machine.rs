//! What the machine gives: read bandwidth, multiply-add rate, memory used.

use std::time::Instant;

use anyhow::{Context, Result};

#[cfg(feature = "cuda")]
use crate::cuda;
use crate::engine::Chunks;
use crate::kernels::linear::Precision;
use crate::kernels::{Isa, limits, memory, pool};
use crate::model::{Device, Dtype};

/// Runs of a measurement, of which the best counts: it is a limit.
const RUNS: usize = 5;

/// What is measured.
pub enum Machine {
    /// The processor.
    Cpu,
    /// A GPU.
    #[cfg(feature = "cuda")]
    Cuda(cuda::Device),
}

impl Machine {
    /// The one that computes where `device` says.
    pub fn of(device: Device) -> Result<Self> {
        match device {
            #[cfg(feature = "cuda")]
            Device::Cuda(ordinal) => Ok(Self::Cuda(cuda::Device::open(ordinal)?)),
            Device::Cpu => Ok(Self::Cpu),
        }
    }

    /// In words.
    pub fn name(&self) -> Result<String> {
        match self {
            Self::Cpu => Ok(format!(
                "{} threads, {}",
                pool::threads(),
                Isa::current().name()
            )),
            #[cfg(feature = "cuda")]
            Self::Cuda(device) => Ok(device.name()?),
        }
    }

    /// The precisions that it has.
    pub fn dtypes(&self) -> Vec<Dtype> {
        match self {
            Self::Cpu => Dtype::ALL.to_vec(),
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => vec![Dtype::F32, Dtype::Bf16, Dtype::F16],
        }
    }

    /// Numbers of sequences worth measuring, ascending.
    pub fn batches(&self) -> &'static [usize] {
        match self {
            Self::Cpu => &[1, 8, 32],
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => &[1, 8, 32, 256],
        }
    }

    /// Tokens of prompts in a step, as in the engine.
    pub fn chunk(&self) -> usize {
        match self {
            Self::Cpu => Chunks::CPU.alone,
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => Chunks::GPU.alone,
        }
    }

    /// Prompts worth computing together: so many, of so many tokens.
    pub fn prompts(&self) -> Option<(usize, usize)> {
        match self {
            // One fills it.
            Self::Cpu => None,
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => Some((64, 512)),
        }
    }

    /// Bytes per second that are read from memory.
    pub fn read_bandwidth(&self) -> Result<f64> {
        match self {
            Self::Cpu => read_bandwidth(),
            #[cfg(feature = "cuda")]
            Self::Cuda(device) => Ok(device.read_bandwidth()?),
        }
    }

    /// Operations per second, two for each multiply-add, on values in
    /// registers.
    pub fn multiply_add_peak(&self, dtype: Dtype) -> Result<f64> {
        match self {
            Self::Cpu => Ok(multiply_add_peak(dtype.precision()?)),
            #[cfg(feature = "cuda")]
            Self::Cuda(device) => Ok(device.multiply_add_peak(dtype.format()?)?),
        }
    }
}

/// Bytes per second that all threads together read from memory.
fn read_bandwidth() -> Result<f64> {
    const VALUES: usize = 64 << 20;
    const PART: usize = 1 << 18;
    let mut values = memory::zeros(VALUES).context("no memory to measure reading with")?;
    values.fill(1f32);
    Ok(best(|| {
        pool::run(VALUES / PART, |i| {
            limits::read_through(&values[i * PART..][..PART]);
        });
        (VALUES * size_of::<f32>()) as f64
    }))
}

/// Operations per second, two for each multiply-add, of all threads together
/// on values in registers.
fn multiply_add_peak(precision: Precision) -> f64 {
    const ROUNDS: usize = 200_000;
    let threads = pool::threads();
    best(|| {
        let done = std::sync::atomic::AtomicU64::new(0);
        pool::run(4 * threads, |_| {
            let count = limits::multiply_add(precision, ROUNDS);
            done.fetch_add(count, std::sync::atomic::Ordering::Relaxed);
        });
        2.0 * done.into_inner() as f64
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

/// Forgets the peak so far, so that what is read later is the peak from now
/// on; false where the system can't.
pub fn reset_peak_memory() -> bool {
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// The process's peak resident memory in bytes, where the system tells it.
pub fn peak_memory() -> Option<u64> {
    status("VmHWM:")
}

/// The process's resident memory in bytes, where the system tells it.
pub fn resident_memory() -> Option<u64> {
    status("VmRSS:")
}

fn status(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix(field))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}
