//! What a device could do, for the benchmarks.

use std::time::Instant;

use cudarc::driver::{LaunchConfig, PushKernelArg};

use super::{Device, During, Format, Result};

/// Runs of a measurement, of which the best counts: it is a limit.
const RUNS: usize = 5;

/// Blocks of 256 threads: a few for each multiprocessor of any GPU.
const BLOCKS: u32 = 1056;

impl Device {
    /// Bytes per second that are read from the device's memory.
    ///
    /// # Errors
    /// [`CudaError`](super::CudaError) when the memory cannot be had.
    pub fn read_bandwidth(&self) -> Result<f64> {
        // Far more than any cache holds, in loads of 16 bytes.
        const BYTES: usize = 2 << 30;
        let bytes = BYTES.min(self.free_memory()? / 2) / 16 * 16;
        let values = self.zeros::<u8>(bytes)?;
        let out = self.zeros::<u32>(1)?;
        let kernel = self.named_kernel("read_through_u8")?;
        let (values, out, count) = (values.pointer, out.pointer, bytes as u64 / 16);
        self.best(|| {
            let mut launch = self.stream.launch_builder(&kernel);
            launch.arg(&out).arg(&values).arg(&count);
            // SAFETY: `values` has `count` times 16 bytes; both live on.
            unsafe { launch.launch(config()) }.during("read_through")?;
            Ok(bytes as f64)
        })
    }

    /// Operations per second, two for each multiply-add, on values in
    /// registers: of the tensor cores as `mma.sync` reaches them or, in f32,
    /// of the others.
    ///
    /// # Errors
    /// [`CudaError`](super::CudaError), what the driver says.
    pub fn multiply_add_peak(&self, format: Format) -> Result<f64> {
        const ROUNDS: i32 = 1 << 14;
        const CHAINS: f64 = 8.0;
        let out = self.zeros::<f32>(1)?;
        let kernel = self.kernel("multiply_add", format)?;
        // Of a thread, or a thread's share of a warp's product.
        let each = match format {
            Format::F32 => 1.0,
            Format::Bf16 | Format::F16 => 16.0 * 8.0 * 16.0 / 32.0,
        };
        let threads = f64::from(BLOCKS) * 256.0;
        let pointer = out.pointer;
        self.best(|| {
            let mut launch = self.stream.launch_builder(&kernel);
            launch.arg(&pointer).arg(&ROUNDS);
            // SAFETY: it writes `out` at most, which lives on.
            unsafe { launch.launch(config()) }.during("multiply_add")?;
            Ok(2.0 * each * threads * CHAINS * f64::from(ROUNDS))
        })
    }

    fn best(&self, work: impl Fn() -> Result<f64>) -> Result<f64> {
        let mut best = 0.0_f64;
        for _ in 0..=RUNS {
            self.wait()?;
            let started = Instant::now();
            let amount = work()?;
            self.wait()?;
            best = best.max(amount / started.elapsed().as_secs_f64());
        }
        Ok(best)
    }
}

fn config() -> LaunchConfig {
    LaunchConfig {
        grid_dim: (BLOCKS, 1, 1),
        block_dim: (256, 1, 1),
        shared_mem_bytes: 0,
    }
}
