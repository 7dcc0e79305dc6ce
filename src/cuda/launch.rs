//! Which kernels are launched, and how. `kernels/` says what each of them
//! does; what it may touch is promised by the callers in `pass.rs`.

use super::arguments::{HeadsArgument, LinearArgument, NormArgument, RowsArgument, Spread};
use super::module::{Grid, Kernel, Order};
use super::sample::Sampling;
use super::{Device, During, Format, Result};

/// Rows up to which the kernel for few may be taken: it reads the weights once
/// for 16 rows.
const FEW: usize = 64;

/// Inputs that are summed before the sums are.
const CHUNK: usize = 256;

/// Warps of a block that share the chunks of a sum.
const MOST_WARPS: usize = 16;

/// Warps of the kernel for few rows on a multiprocessor: enough weights are
/// under way, and blocks of the next kernel have room to ask for theirs.
const FEW_WARPS: usize = 16;

/// Rows up to which each block of the kernel for few computes a LayerNorm for
/// itself, and the numbers of a row.
const NORMED_ROWS: usize = 4;
const MOST_WIDTH: usize = 2048;

/// Parts of a sum in f32, each of `STEP` inputs, and rows of a block for few.
const PLAIN_PARTS: usize = 128;
const PLAIN_ROWS: usize = 4;

/// Rows up to which the kernel for few is taken in f32.
const PLAIN_FEW: usize = 32;

/// Warps of a block that share a row's attention.
const ATTENTION_WARPS: std::ops::RangeInclusive<usize> = 4..=12;

/// Warps of a block for attention of many rows, a tile each.
const TILE_WARPS: usize = 4;

/// The kernels of a format.
#[derive(Debug)]
pub(super) struct Kernels {
    device: Device,
    multiprocessors: usize,
    embed: Kernel,
    layer_norm: Kernel,
    linear: LinearKernels,
    write_cache: Kernel,
    attention: AttentionKernels,
    attention_weights: Kernel,
    pub(super) sampling: Sampling,
}

#[derive(Debug)]
enum LinearKernels {
    Plain {
        few: Kernel,
        many: Kernel,
    },
    Tensor {
        few: Kernel,
        normed: Kernel,
        some: Kernel,
        many: Kernel,
    },
}

#[derive(Debug)]
enum AttentionKernels {
    Plain(Kernel),
    Tensor { few: Kernel, many: Kernel },
}

impl Kernels {
    pub(super) fn new(device: &Device, format: Format) -> Result<Self> {
        let kernel = |name| device.kernel(name, format);
        let (few, many) = (kernel("linear_few")?, kernel("linear_many")?);
        let is_plain = format == Format::F32;
        Ok(Self {
            multiprocessors: device.multiprocessors()?,
            device: device.clone(),
            embed: kernel("embed")?,
            layer_norm: kernel("layer_norm")?,
            linear: match is_plain {
                true => LinearKernels::Plain { few, many },
                false => LinearKernels::Tensor {
                    few,
                    normed: kernel("linear_normed")?,
                    some: kernel("linear_some")?,
                    many,
                },
            },
            write_cache: kernel("write_cache")?,
            attention: match is_plain {
                true => AttentionKernels::Plain(kernel("attention")?),
                false => AttentionKernels::Tensor {
                    few: kernel("attention_few")?,
                    many: kernel("attention_many")?,
                },
            },
            attention_weights: kernel("attention_weights")?,
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
        let mut launch = self.embed.begin();
        launch.arg(&x).arg(&wte).arg(&wpe).arg(&argument);
        launch.arg(&width).arg(&padded);
        // What came before is a copy of its inputs, not a kernel.
        let order = Order::After;
        // SAFETY: `pass.rs` gives memory of these shapes, and rows whose
        // tokens and positions were checked.
        unsafe { launch.launch(&self.device.stream, Grid(rows, 1, 256), order) }.during("embed")
    }

    /// y `[rows, padded]` = LayerNorm.
    pub(super) fn layer_norm(
        &self,
        y: u64,
        norm: NormArgument,
        rows: usize,
        padded: i32,
    ) -> Result<()> {
        let count = rows as i32;
        let mut launch = self.layer_norm.begin();
        launch.arg(&y).arg(&norm).arg(&count).arg(&padded);
        // A warp for a row; few rows spread over the device.
        let warps = if rows <= FEW { 1 } else { 8 };
        let grid = Grid(rows.div_ceil(warps), 1, 32 * warps);
        // SAFETY: `pass.rs` gives memory of these shapes; the index names rows.
        unsafe { launch.launch(&self.device.stream, grid, Order::Overlapping) }.during("layer_norm")
    }

    /// Whether [`linear`](Self::linear) computes the LayerNorm before a layer
    /// of `k` inputs, too.
    pub(super) fn norms(&self, rows: usize, k: usize) -> bool {
        let is_tensor = matches!(self.linear, LinearKernels::Tensor { .. });
        is_tensor && rows <= NORMED_ROWS && k <= MOST_WIDTH
    }

    /// A linear layer.
    pub(super) fn linear(&self, argument: LinearArgument) -> Result<()> {
        let (rows, n, k) = (
            argument.rows as usize,
            argument.n as usize,
            argument.k as usize,
        );
        // A warp for a chunk of inputs; where there are more of them than warps,
        // small blocks of which several run at a time.
        let chunks = k.div_ceil(CHUNK);
        let rounds = match chunks <= MOST_WARPS {
            true => 1,
            false => chunks.div_ceil(MOST_WARPS / 2),
        };
        let threads = 32 * chunks.div_ceil(rounds);
        // Two warps end the sums.
        let few_threads = threads.max(64);
        let most = (32 * FEW_WARPS / few_threads).max(1) * self.multiprocessors;
        let few_grid = Grid(
            few_blocks(n.div_ceil(8), most),
            rows.div_ceil(16),
            few_threads,
        );
        // Blocks of the other kernels.
        let some_blocks = (n.div_ceil(32), rows.div_ceil(64));
        let many_blocks = (n.div_ceil(128), rows.div_ceil(128));
        let fill = |(x, y): (usize, usize), share: usize| x * y * share >= self.multiprocessors;
        let (kernel, grid) = match &self.linear {
            LinearKernels::Plain { few, .. } if rows <= PLAIN_FEW => {
                let parts = k.div_ceil(super::network::STEP).clamp(4, PLAIN_PARTS);
                let grid = Grid(n.div_ceil(8), rows.div_ceil(PLAIN_ROWS), 8 * parts);
                (few, grid)
            }
            LinearKernels::Plain { many, .. } => {
                (many, Grid(n.div_ceil(64), rows.div_ceil(64), 256))
            }
            LinearKernels::Tensor { normed, .. } if argument.x == 0 => (normed, few_grid),
            LinearKernels::Tensor { few, .. }
                if rows <= 16 || rows <= FEW && !fill(some_blocks, 1) =>
            {
                (few, few_grid)
            }
            LinearKernels::Tensor { many, .. } if rows > FEW && fill(many_blocks, 2) => {
                (many, Grid(many_blocks.0, many_blocks.1, 256))
            }
            LinearKernels::Tensor { some, .. } => {
                let (x, y) = some_blocks;
                (some, Grid(x, y, threads))
            }
        };
        let mut launch = kernel.begin();
        launch.arg(&argument);
        // SAFETY: `pass.rs` gives memory of these shapes, and the kernels look
        // at no row and no output beyond `rows` and `n`.
        unsafe { launch.launch(&self.device.stream, grid, Order::Overlapping) }.during("linear")
    }

    /// Causal attention: qkv `[rows, stride]` → out `[rows, padded]`, with the
    /// new keys and values in the cache first.
    pub(super) fn attention(
        &self,
        (out, cache, qkv): (u64, u64, u64),
        (argument, rows): (RowsArgument, usize),
        spread: Spread,
        heads: HeadsArgument,
        (stride, padded): (i32, i32),
    ) -> Result<()> {
        let stream = &self.device.stream;
        let (count, head_count) = (rows as i32, heads.count as usize);
        // Rows that are computed alone, 0 for all of them; tiles; and whether a
        // row's block writes its key and value, which no other block reads.
        let (alone, tiles, writes) = match spread {
            Spread::OneEach => ((0, rows), (0, 0), 1),
            Spread::Lists { alone, tiles } => (alone, tiles, 0),
        };
        if writes == 0 {
            let mut launch = self.write_cache.begin();
            launch.arg(&cache).arg(&qkv).arg(&argument).arg(&count);
            launch.arg(&heads).arg(&stride);
            let grid = Grid(rows.div_ceil(32), head_count, 256);
            // SAFETY: `pass.rs` has checked that the tables name blocks of the
            // cache, enough of them for the positions.
            unsafe { launch.launch(stream, grid, Order::Overlapping) }.during("write_cache")?;
        }
        let (few, many) = match &self.attention {
            AttentionKernels::Tensor { few, many } => (few, many),
            AttentionKernels::Plain(plain) => {
                let mut launch = plain.begin();
                launch.arg(&out).arg(&cache).arg(&qkv).arg(&argument);
                launch.arg(&heads).arg(&stride).arg(&padded).arg(&writes);
                let grid = Grid(rows, head_count, 128);
                // SAFETY: as above.
                return unsafe { launch.launch(stream, grid, Order::Overlapping) }
                    .during("attention");
            }
        };
        if alone.1 > 0 {
            // As many as the device runs, whatever the rows.
            let warps = (16 * self.multiprocessors / (alone.1 * head_count))
                .clamp(*ATTENTION_WARPS.start(), *ATTENTION_WARPS.end());
            let mut launch = few.begin();
            launch.arg(&out).arg(&cache).arg(&qkv).arg(&argument);
            launch.arg(&alone.0).arg(&heads);
            launch.arg(&stride).arg(&padded).arg(&writes);
            let grid = Grid(alone.1, head_count, 32 * warps);
            // SAFETY: as above; the list names rows.
            unsafe { launch.launch(stream, grid, Order::Overlapping) }.during("attention")?;
        }
        if tiles.1 > 0 {
            let tile_count = tiles.1 as i32;
            let mut launch = many.begin();
            launch.arg(&out).arg(&cache).arg(&qkv).arg(&argument);
            launch.arg(&count).arg(&tiles.0).arg(&tile_count);
            launch.arg(&heads).arg(&stride).arg(&padded);
            let grid = Grid(tiles.1.div_ceil(TILE_WARPS), head_count, 32 * TILE_WARPS);
            // SAFETY: as above.
            unsafe { launch.launch(stream, grid, Order::Overlapping) }.during("attention")?;
        }
        Ok(())
    }

    /// What rows attend to, out `[rows, heads, most]`: of the rows that `list`
    /// names, each of which has `most` positions up to its own at most.
    pub(super) fn attention_weights(
        &self,
        (out, cache, qkv): (u64, u64, u64),
        argument: RowsArgument,
        (list, rows): (u64, usize),
        heads: HeadsArgument,
        (stride, most): (i32, i32),
    ) -> Result<()> {
        let mut launch = self.attention_weights.begin();
        launch.arg(&out).arg(&cache).arg(&qkv).arg(&argument);
        launch.arg(&list).arg(&heads).arg(&stride).arg(&most);
        let grid = Grid(rows, heads.count as usize, 32);
        // SAFETY: as for `attention`; `pass.rs` gives memory of this shape.
        unsafe { launch.launch(&self.device.stream, grid, Order::Overlapping) }
            .during("attention_weights")
    }
}

/// Blocks, of `most` at most, that share `outputs` as evenly as can be: each of
/// them has as many turns.
fn few_blocks(outputs: usize, most: usize) -> usize {
    outputs.div_ceil(outputs.div_ceil(most))
}
