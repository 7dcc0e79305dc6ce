//! The kernels' parameters, and their launches. `kernels.cu` says what each
//! kernel does; what it may touch is promised by the callers in `pass.rs`.

use cudarc::driver::{CudaFunction, DeviceRepr, LaunchConfig, PushKernelArg};

use super::sample::Sampling;
use super::{Device, During, Format, Result};

/// Rows up to which the kernel for few is taken: it reads the weights once for
/// 16 rows, the other one for 128, but with fewer blocks to share the work.
const FEW: usize = 64;

/// Inputs that are summed before the sums are.
const CHUNK: usize = 256;

/// Warps of a block of the kernel for few.
const MOST_WARPS: usize = 32;

/// `struct Rows` of `kernels.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RowsArgument {
    pub tokens: u64,
    pub positions: u64,
    pub sequences: u64,
    pub tables: u64,
    pub stride: i32,
}

/// `struct Linear` of `kernels.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct LinearArgument {
    pub y: u64,
    pub x: u64,
    pub w: u64,
    pub bias: u64,
    pub rows: i32,
    pub k: i32,
    pub n: i32,
    pub y_stride: i32,
    pub then: i32,
    pub activation: i32,
}

/// `struct Heads` of `kernels.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct HeadsArgument {
    pub count: i32,
    pub dim: i32,
    pub scale: f32,
}

// SAFETY: the same fields in the same order as in C; any bits are a value.
unsafe impl DeviceRepr for RowsArgument {}
// SAFETY: as above.
unsafe impl DeviceRepr for LinearArgument {}
// SAFETY: as above.
unsafe impl DeviceRepr for HeadsArgument {}

/// What becomes of a linear layer's sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// They are rounded to the format.
    Store = 0,
    /// They are added to f32 values.
    Add = 1,
    /// They are stored in f32.
    Logits = 2,
    /// They go through the activation and are rounded to the format.
    Activate = 3,
}

/// The kernels of a format.
#[derive(Debug)]
pub(super) struct Kernels {
    device: Device,
    embed: CudaFunction,
    layer_norm: CudaFunction,
    linear: LinearKernels,
    write_cache: CudaFunction,
    attention: CudaFunction,
    pub(super) sampling: Sampling,
}

#[derive(Debug)]
enum LinearKernels {
    Plain(CudaFunction),
    Tensor {
        few: CudaFunction,
        many: CudaFunction,
    },
}

impl Kernels {
    pub(super) fn new(device: &Device, format: Format) -> Result<Self> {
        let kernel = |name| device.kernel(name, format);
        Ok(Self {
            device: device.clone(),
            embed: kernel("embed")?,
            layer_norm: kernel("layer_norm")?,
            linear: match format {
                Format::F32 => LinearKernels::Plain(kernel("linear_plain")?),
                Format::Bf16 | Format::F16 => LinearKernels::Tensor {
                    few: kernel("linear_few")?,
                    many: kernel("linear_many")?,
                },
            },
            write_cache: kernel("write_cache")?,
            attention: kernel("attention")?,
            sampling: Sampling::new(device)?,
        })
    }

    /// x `[rows, width]` = wte of the tokens + wpe of the positions.
    pub(super) fn embed(
        &self,
        (x, wte, wpe): (u64, u64, u64),
        (argument, rows): (RowsArgument, usize),
        (width, padded): (i32, i32),
    ) -> Result<()> {
        let mut launch = self.device.stream.launch_builder(&self.embed);
        launch.arg(&x).arg(&wte).arg(&wpe).arg(&argument);
        launch.arg(&width).arg(&padded);
        // SAFETY: `pass.rs` gives memory of these shapes, and rows whose
        // tokens and positions were checked.
        unsafe { launch.launch(grid(rows, 1, 256)) }.during("embed")?;
        Ok(())
    }

    /// y `[rows, padded]` = LayerNorm of rows of x `[.., width]`: of those
    /// that `index` names, or of the first where it is 0.
    pub(super) fn layer_norm(
        &self,
        (y, x, index): (u64, u64, u64),
        (weight, bias, epsilon): (u64, u64, f32),
        rows: usize,
        (width, padded): (i32, i32),
    ) -> Result<()> {
        let mut launch = self.device.stream.launch_builder(&self.layer_norm);
        launch.arg(&y).arg(&x).arg(&weight).arg(&bias).arg(&index);
        launch.arg(&epsilon).arg(&width).arg(&padded);
        // SAFETY: `pass.rs` gives memory of these shapes; the index names rows.
        unsafe { launch.launch(grid(rows, 1, 256)) }.during("layer_norm")?;
        Ok(())
    }

    /// A linear layer.
    pub(super) fn linear(&self, argument: LinearArgument) -> Result<()> {
        let (rows, n, k) = (
            argument.rows as usize,
            argument.n as usize,
            argument.k as usize,
        );
        let (kernel, config) = match &self.linear {
            LinearKernels::Plain(plain) => {
                let config = grid(n.div_ceil(32), rows.div_ceil(32), 256);
                (plain, config)
            }
            LinearKernels::Tensor { few, .. } if rows <= FEW => {
                let warps = k.div_ceil(CHUNK).clamp(1, MOST_WARPS);
                let config = grid(n.div_ceil(8), rows.div_ceil(16), 32 * warps);
                (few, config)
            }
            LinearKernels::Tensor { many, .. } => {
                let config = grid(n.div_ceil(128), rows.div_ceil(128), 256);
                (many, config)
            }
        };
        let mut launch = self.device.stream.launch_builder(kernel);
        launch.arg(&argument);
        // SAFETY: `pass.rs` gives memory of these shapes, and the kernels look
        // at no row and no output beyond `rows` and `n`.
        unsafe { launch.launch(config) }.during("linear")?;
        Ok(())
    }

    /// Puts the new keys and values of qkv `[rows, stride]` into the cache.
    pub(super) fn write_cache(
        &self,
        (cache, qkv): (u64, u64),
        (argument, rows): (RowsArgument, usize),
        heads: HeadsArgument,
        stride: i32,
    ) -> Result<()> {
        let mut launch = self.device.stream.launch_builder(&self.write_cache);
        launch.arg(&cache).arg(&qkv).arg(&argument).arg(&heads);
        launch.arg(&stride);
        // SAFETY: `pass.rs` has checked that the tables name blocks of the
        // cache, enough of them for the positions.
        unsafe { launch.launch(grid(rows, 1, 256)) }.during("write_cache")?;
        Ok(())
    }

    /// Causal attention: qkv `[rows, stride]` → out `[rows, padded]`.
    pub(super) fn attention(
        &self,
        (out, cache, qkv): (u64, u64, u64),
        (argument, rows): (RowsArgument, usize),
        heads: HeadsArgument,
        (stride, padded): (i32, i32),
    ) -> Result<()> {
        let mut launch = self.device.stream.launch_builder(&self.attention);
        launch.arg(&out).arg(&cache).arg(&qkv).arg(&argument);
        launch.arg(&heads).arg(&stride).arg(&padded);
        // SAFETY: as for `write_cache`.
        unsafe { launch.launch(grid(rows, heads.count as usize, 128)) }.during("attention")?;
        Ok(())
    }
}

/// `x · y` blocks of `threads` threads. Shapes are bounded when a model is
/// loaded, rows when a pass begins.
pub(super) fn grid(x: usize, y: usize, threads: usize) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (x as u32, y as u32, 1),
        block_dim: (threads as u32, 1, 1),
        shared_mem_bytes: 0,
    }
}
