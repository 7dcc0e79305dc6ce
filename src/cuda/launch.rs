//! Which kernels are launched, and how. `kernels/` says what each of them
//! does; what it may touch is promised by the callers in `pass.rs`.

use std::ops::RangeInclusive;

use super::arguments::{HeadsArgument, NormArgument, RowsArgument, Spread};
use super::defined::{ATTENTION, defined};
use super::linear::Linear;
use super::module::{Grid, Kernel, Order};
use super::sample::Sampling;
use super::{Device, During, Format, Result};

/// Rows up to which each has a block of its own for a LayerNorm.
const SPREAD_ROWS: usize = 64;

/// Warps of a block that share a row's attention.
const ATTENTION_WARPS: RangeInclusive<usize> = 4..=defined(ATTENTION, "SEGMENTS");

/// Warps of a block for attention of many rows, a tile each.
const TILE_WARPS: usize = defined(ATTENTION, "TILE_WARPS");

/// Warps of a block for attention in f32.
const PLAIN_WARPS: usize = defined(ATTENTION, "PLAIN_WARPS");

/// The kernels of a format.
#[derive(Debug)]
pub(super) struct Kernels {
    device: Device,
    multiprocessors: usize,
    embed: Kernel,
    layer_norm: Kernel,
    pub(super) linear: Linear,
    write_cache: Kernel,
    attention: AttentionKernels,
    attention_weights: Kernel,
    pub(super) sampling: Sampling,
}

#[derive(Debug)]
enum AttentionKernels {
    Plain(Kernel),
    Tensor { few: Kernel, many: Kernel },
}

impl Kernels {
    pub(super) fn new(device: &Device, format: Format) -> Result<Self> {
        let kernel = |name| device.kernel(name, format);
        Ok(Self {
            multiprocessors: device.multiprocessors()?,
            device: device.clone(),
            embed: kernel("embed")?,
            layer_norm: kernel("layer_norm")?,
            linear: Linear::new(device, format)?,
            write_cache: kernel("write_cache")?,
            attention: match format {
                Format::F32 => AttentionKernels::Plain(kernel("attention")?),
                Format::Bf16 | Format::F16 => AttentionKernels::Tensor {
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
        let warps = if rows <= SPREAD_ROWS { 1 } else { 8 };
        let grid = Grid(rows.div_ceil(warps), 1, 32 * warps);
        // SAFETY: `pass.rs` gives memory of these shapes; the index names rows.
        unsafe { launch.launch(&self.device.stream, grid, Order::Overlapping) }.during("layer_norm")
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
                let grid = Grid(rows, head_count, 32 * PLAIN_WARPS);
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
