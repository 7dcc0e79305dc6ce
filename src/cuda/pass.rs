//! One forward pass: the new tokens of several sequences, a row for each.

use std::sync::PoisonError;

use super::device::Buffer;
use super::launch::{HeadsArgument, LinearArgument, RowsArgument, Then};
use super::network::{Cache, Matrix, Network, Norm, Shape, padded};
use super::{BLOCK, CudaError, Result};

/// What a pass computes.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// `[rows]`
    pub tokens: &'a [u32],
    /// `[rows]`
    pub positions: &'a [u32],
    /// The number of each row's sequence, `[rows]`.
    pub sequences: &'a [u32],
    /// The cache's blocks that each sequence has, for all of its positions.
    pub tables: &'a [&'a [u32]],
}

impl Rows<'_> {
    /// Whatever the kernels would follow out of bounds.
    fn check(&self, shape: &Shape, cache: &Cache) -> Result<()> {
        let fail = |what: &str| Err(CudaError::Unsupported(format!("a batch with {what}")));
        let rows = self.tokens.len();
        if rows == 0 || rows > MOST_ROWS {
            return fail("no rows, or too many");
        }
        if self.positions.len() != rows || self.sequences.len() != rows {
            return fail("rows that are not whole");
        }
        let inside = |limit: usize| move |&value: &u32| (value as usize) < limit;
        if !self.tokens.iter().all(inside(shape.vocab_size))
            || !self.positions.iter().all(inside(shape.n_positions))
        {
            return fail("a token or position out of range");
        }
        let blocks = self.tables.iter().flat_map(|table| table.iter());
        if !blocks.into_iter().all(inside(cache.blocks)) {
            return fail("a block that the cache doesn't have");
        }
        let has_room = |(&position, &sequence): (&u32, &u32)| {
            let table = self.tables.get(sequence as usize);
            table.is_some_and(|table| position as usize / BLOCK < table.len())
        };
        if !self.positions.iter().zip(self.sequences).all(has_room) {
            return fail("a position without a block");
        }
        Ok(())
    }
}

/// Rows that one pass takes; a grid has so many blocks in its second
/// dimension, each of 16 rows at least.
const MOST_ROWS: usize = 1 << 20;

/// Memory for the rows of a pass, and for what they hand on. Its paddings are
/// zero and stay so.
#[derive(Debug)]
pub(super) struct Scratch {
    rows: usize,
    tables: usize,
    logit_rows: usize,
    tokens_buffer: Buffer<u32>,
    positions_buffer: Buffer<u32>,
    sequences_buffer: Buffer<u32>,
    tables_buffer: Buffer<u32>,
    index_buffer: Buffer<u32>,
    /// The residual stream, `[rows, n_embd]`.
    x: Buffer<f32>,
    /// Normed rows, and what attention gives: `[rows, padded n_embd]`.
    normed: Buffer<u8>,
    attended: Buffer<u8>,
    /// `[rows, 3 · n_embd]`
    qkv: Buffer<u8>,
    /// `[rows, padded n_inner]`
    inner: Buffer<u8>,
    /// `[logit_rows, vocab_size]`
    logits: Buffer<f32>,
}

impl Scratch {
    fn new(network: &Network, (rows, tables, logit_rows): (usize, usize, usize)) -> Result<Self> {
        let Network { device, shape, .. } = network;
        let bytes = network.format.bytes();
        let normed = padded(shape.n_embd) * bytes;
        Ok(Self {
            rows,
            tables,
            logit_rows,
            tokens_buffer: device.zeros(rows)?,
            positions_buffer: device.zeros(rows)?,
            sequences_buffer: device.zeros(rows)?,
            tables_buffer: device.zeros(tables)?,
            index_buffer: device.zeros(rows.max(logit_rows))?,
            x: device.zeros(rows * shape.n_embd)?,
            // The head takes its rows through this, too.
            normed: device.zeros(rows.max(logit_rows) * normed)?,
            attended: device.zeros(rows * normed)?,
            qkv: device.zeros(rows * 3 * shape.n_embd * bytes)?,
            inner: device.zeros(rows * padded(shape.n_inner) * bytes)?,
            logits: device.zeros(logit_rows * shape.vocab_size)?,
        })
    }

    /// Whether there is room for this.
    fn holds(&self, (rows, tables, logit_rows): (usize, usize, usize)) -> bool {
        self.rows >= rows && self.tables >= tables && self.logit_rows >= logit_rows
    }
}

/// A pass under way.
#[derive(Debug)]
pub struct Pass<'a> {
    network: &'a Network,
    scratch: Scratch,
    rows: usize,
    argument: RowsArgument,
}

impl Network {
    /// Begins a pass of which `logit_rows` rows get logits: the embedding.
    ///
    /// # Errors
    /// [`CudaError`]: rows that the cache has no blocks for, or what the
    /// driver says.
    pub fn begin(&self, rows: Rows<'_>, cache: &Cache, logit_rows: usize) -> Result<Pass<'_>> {
        rows.check(&self.shape, cache)?;
        let count = rows.tokens.len();
        let stride = rows.tables.iter().map(|t| t.len()).max().unwrap_or(0);
        let mut tables = vec![0; stride * rows.tables.len()];
        for (table, to) in rows.tables.iter().zip(tables.chunks_mut(stride.max(1))) {
            to[..table.len()].copy_from_slice(table);
        }
        let mut scratch = self.scratch((count, tables.len(), logit_rows))?;
        let device = &self.device;
        device.write(rows.tokens, &mut scratch.tokens_buffer)?;
        device.write(rows.positions, &mut scratch.positions_buffer)?;
        device.write(rows.sequences, &mut scratch.sequences_buffer)?;
        device.write(&tables, &mut scratch.tables_buffer)?;
        let argument = RowsArgument {
            tokens: scratch.tokens_buffer.pointer,
            positions: scratch.positions_buffer.pointer,
            sequences: scratch.sequences_buffer.pointer,
            tables: scratch.tables_buffer.pointer,
            stride: stride as i32,
        };
        let pass = Pass {
            network: self,
            scratch,
            rows: count,
            argument,
        };
        let pointers = (
            pass.scratch.x.pointer,
            self.wte.values.pointer,
            self.wpe.pointer,
        );
        let widths = (self.shape.n_embd as i32, self.wte.padded_k as i32);
        self.kernels.embed(pointers, (argument, count), widths)?;
        Ok(pass)
    }

    /// Memory with room for rows, tables and logit rows: what the last pass
    /// left if it is large enough, else new memory with some room to spare.
    fn scratch(&self, needed: (usize, usize, usize)) -> Result<Scratch> {
        let mut kept = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        match kept.take() {
            Some(scratch) if scratch.holds(needed) => Ok(scratch),
            old => {
                let (rows, tables, logit_rows) = needed;
                let old = old.map_or((0, 0, 0), |old| (old.rows, old.tables, old.logit_rows));
                let larger = (
                    rows.next_power_of_two().max(old.0),
                    tables.next_power_of_two().max(old.1),
                    logit_rows.next_power_of_two().max(old.2),
                );
                Scratch::new(self, larger)
            }
        }
    }
}

impl Pass<'_> {
    /// x += attn(ln_1(x)), then x += mlp(ln_2(x)), with block `i`.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn block(&mut self, i: usize, cache: &mut Cache) -> Result<()> {
        let Network {
            shape,
            kernels,
            blocks,
            ..
        } = self.network;
        let (block, cache) = (&blocks[i], cache.layers[i].pointer);
        let Scratch {
            x,
            normed,
            attended,
            qkv,
            inner,
            ..
        } = &self.scratch;
        let heads = HeadsArgument {
            count: shape.n_head as i32,
            dim: (shape.n_embd / shape.n_head) as i32,
            scale: shape.scales[i],
        };
        let (stride, width) = (3 * shape.n_embd as i32, padded(shape.n_embd) as i32);
        let rows = (self.argument, self.rows);

        self.norm(&block.ln_1, normed.pointer)?;
        self.linear(normed.pointer, &block.c_attn, Then::Store, qkv.pointer)?;
        kernels.write_cache((cache, qkv.pointer), rows, heads, stride)?;
        let pointers = (attended.pointer, cache, qkv.pointer);
        kernels.attention(pointers, rows, heads, (stride, width))?;
        self.linear(attended.pointer, &block.attn_c_proj, Then::Add, x.pointer)?;

        self.norm(&block.ln_2, normed.pointer)?;
        self.linear(normed.pointer, &block.c_fc, Then::Activate, inner.pointer)?;
        self.linear(inner.pointer, &block.mlp_c_proj, Then::Add, x.pointer)
    }

    /// The residual stream, `[rows, n_embd]`.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn stream(&self) -> Result<Vec<f32>> {
        let len = self.rows * self.network.shape.n_embd;
        self.network.device.read(&self.scratch.x, len)
    }

    /// Ends the pass: the logits of these rows, `[index, vocab_size]`.
    ///
    /// # Errors
    /// [`CudaError`]: a row that isn't there, more rows than were announced,
    /// or what the driver says.
    pub fn logits(mut self, index: &[u32]) -> Result<Vec<f32>> {
        let network = self.network;
        let fits = index.len() <= self.scratch.logit_rows
            && index.iter().all(|&row| (row as usize) < self.rows);
        if !fits {
            let message = "logits of rows that the batch doesn't have";
            return Err(CudaError::Unsupported(message.to_owned()));
        }
        network
            .device
            .write(index, &mut self.scratch.index_buffer)?;
        let Scratch {
            x,
            normed,
            logits,
            index_buffer,
            ..
        } = &self.scratch;
        let values = if index.is_empty() {
            network.device.read(logits, 0)?
        } else {
            let pointers = (normed.pointer, x.pointer, index_buffer.pointer);
            self.norm_of(&network.ln_f, pointers, index.len())?;
            let head = network.lm_head.as_ref().unwrap_or(&network.wte);
            let rows = index.len();
            self.linear_of(normed.pointer, head, Then::Logits, (logits.pointer, rows))?;
            network
                .device
                .read(logits, rows * network.shape.vocab_size)?
        };
        let mut kept = network.scratch.lock();
        let kept = kept.as_deref_mut();
        if let Ok(kept) = kept {
            *kept = Some(self.scratch);
        }
        Ok(values)
    }

    fn norm(&self, norm: &Norm, y: u64) -> Result<()> {
        self.norm_of(norm, (y, self.scratch.x.pointer, 0), self.rows)
    }

    fn norm_of(&self, norm: &Norm, pointers: (u64, u64, u64), rows: usize) -> Result<()> {
        let shape = &self.network.shape;
        let widths = (shape.n_embd as i32, padded(shape.n_embd) as i32);
        let parameters = (norm.weight.pointer, norm.bias.pointer, shape.epsilon);
        let kernels = &self.network.kernels;
        kernels.layer_norm(pointers, parameters, rows, widths)
    }

    fn linear(&self, x: u64, matrix: &Matrix, then: Then, y: u64) -> Result<()> {
        self.linear_of(x, matrix, then, (y, self.rows))
    }

    fn linear_of(
        &self,
        x: u64,
        matrix: &Matrix,
        then: Then,
        (y, rows): (u64, usize),
    ) -> Result<()> {
        let y_stride = match then {
            Then::Activate => padded(matrix.n),
            Then::Store | Then::Add | Then::Logits => matrix.n,
        };
        self.network.kernels.linear(LinearArgument {
            y,
            x,
            w: matrix.values.pointer,
            bias: matrix.bias.as_ref().map_or(0, |bias| bias.pointer),
            rows: rows as i32,
            k: matrix.padded_k as i32,
            n: matrix.n as i32,
            y_stride: y_stride as i32,
            then: then as i32,
            activation: self.network.shape.activation,
        })
    }
}
