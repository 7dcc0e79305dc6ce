//! What a device could do, for the benchmarks.

use std::time::Instant;

use super::module::{Grid, Order};
use super::{Device, During, Format, Result};

/// Runs of a measurement, of which the best counts: it is a limit.
const RUNS: usize = 5;

/// Blocks of 256 threads: a few for each multiprocessor of any GPU.
const BLOCKS: usize = 1056;
const GRID: Grid = Grid(BLOCKS, 1, 256);

impl Device {
    /// Bytes per second that are read from the device's memory.
    ///
    /// # Errors
    /// [`CudaError`](super::CudaError) when the memory cannot be had.
    pub fn read_bandwidth(&self) -> Result<f64> {
        // Far more than any cache holds, in loads of 16 bytes.
        const BYTES: usize = 2 << 30;
        // Next to so many, to launch and to wait is nothing.
        const LAUNCHES: usize = 8;
        let bytes = BYTES.min(self.free_memory()? / 2) / 16 * 16;
        let values = self.zeros::<u8>(bytes)?;
        let out = self.zeros::<u32>(1)?;
        let kernel = self.named_kernel("read_through_u8")?;
        let (values, out, count) = (values.pointer, out.pointer, bytes as u64 / 16);
        self.best(|| {
            let mut launch = kernel.begin();
            launch.arg(&out).arg(&values).arg(&count);
            for _ in 0..LAUNCHES {
                // SAFETY: `values` has `count` times 16 bytes; both live on.
                unsafe { launch.launch(&self.stream, GRID, Order::After) }
                    .during("read_through")?;
            }
            Ok((LAUNCHES * bytes) as f64)
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
        let threads = (BLOCKS * 256) as f64;
        let pointer = out.pointer;
        self.best(|| {
            let mut launch = kernel.begin();
            launch.arg(&pointer).arg(&ROUNDS);
            // SAFETY: it writes `out` at most, which lives on.
            unsafe { launch.launch(&self.stream, GRID, Order::After) }.during("multiply_add")?;
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
