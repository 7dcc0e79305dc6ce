//! One forward pass: the new tokens of several sequences, a row for each.

use super::arguments::{HeadsArgument, LinearArgument, NormArgument, Then};
use super::launch::Kernels;
use super::network::{Cache, Matrix, Network, Norm, Shape, padded};
use super::pending::{Memory, Pending};
use super::sample::{self, Choosing, Pick};
use super::scratch::{Inputs, Layout, Places, Room, Scratch};
use super::{BLOCK, CudaError, Result};
use crate::kernels::pool;

/// What a pass computes.
#[derive(Debug, Clone, Copy, Default)]
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
    /// Whether no sequence has two rows.
    pub(super) fn one_each(&self) -> bool {
        self.sequences.is_sorted_by(|before, after| before < after)
    }

    /// Whatever the kernels would follow out of bounds.
    pub(super) fn check(&self, shape: &Shape, cache: &Cache) -> Result<()> {
        let fail = |what: &str| Err(CudaError::Unsupported(format!("a batch with {what}")));
        let rows = self.tokens.len();
        if rows == 0 || rows > MOST_ROWS {
            return fail("no rows, or too many");
        }
        if self.positions.len() != rows || self.sequences.len() != rows {
            return fail("rows that are not whole");
        }
        if !self.sequences.is_sorted() {
            return fail("rows that are not in the order of their sequences");
        }
        let most_blocks = shape.n_positions.div_ceil(BLOCK);
        if self.tables.len() > rows || self.tables.iter().any(|table| table.len() > most_blocks) {
            return fail("more sequences than rows, or more blocks than a context");
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

/// The rows that get logits, and what is wanted of each.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted<'a> {
    /// Which rows, `[wanted]`.
    pub rows: &'a [u32],
    /// `[wanted]`
    pub picks: &'a [Pick],
}

impl Wanted<'_> {
    /// Whatever the kernels would follow out of bounds, among `rows` rows.
    pub(super) fn check(&self, shape: &Shape, rows: usize) -> Result<()> {
        let inside = self.rows.iter().all(|&row| (row as usize) < rows);
        if !inside || self.rows.len() != self.picks.len() {
            let message = "logits of rows that the batch doesn't have";
            return Err(CudaError::Unsupported(message.to_owned()));
        }
        sample::check(self.picks, shape.vocab_size)
    }
}

/// Rows that one pass takes: a grid has so many blocks in its second dimension,
/// each of 16 rows at least.
const MOST_ROWS: usize = 65_535 * 16;

/// A pass under way.
#[derive(Debug)]
pub struct Pass<'a> {
    pub(super) network: &'a Network,
    /// Those of the network, or of the stream on which the pass is recorded.
    pub(super) kernels: &'a Kernels,
    pub(super) scratch: Scratch,
    /// Rows that are computed.
    pub(super) rows: usize,
    /// Of each of them, `[rows]`; empty where nothing is looked at.
    pub(super) positions: Vec<u32>,
    pub(super) places: Places,
    /// What is wanted of the rows that get logits.
    pub(super) picks: Vec<Pick>,
}

impl Network {
    /// Begins a pass: the embedding.
    ///
    /// # Errors
    /// [`CudaError`]: rows that the cache has no blocks for, logits of rows or
    /// choices among columns that aren't there, or what the driver says.
    pub fn begin(&self, rows: Rows<'_>, cache: &Cache, wanted: Wanted<'_>) -> Result<Pass<'_>> {
        rows.check(&self.shape, cache)?;
        let count = rows.tokens.len();
        wanted.check(&self.shape, count)?;
        let stride = rows.tables.iter().map(|t| t.len()).max().unwrap_or(0);
        let mut scratch = self.scratch(Room {
            rows: count,
            tables: stride * rows.tables.len(),
            logit_rows: wanted.rows.len(),
        })?;
        let layout = Layout {
            rows: count,
            wanted: wanted.rows.len(),
            stride,
        };
        let places = scratch.write(self, Inputs { rows, wanted }, layout)?;
        let pass = Pass {
            network: self,
            kernels: &self.kernels,
            scratch,
            rows: count,
            positions: rows.positions.to_vec(),
            places,
            picks: wanted.picks.to_vec(),
        };
        pass.embed()?;
        Ok(pass)
    }

    /// The logits of rows of the residual stream x `[rows, n_embd]`: the final
    /// LayerNorm, then the head; `[rows, vocab_size]`.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn unembed(&self, x: &[f32]) -> Result<Vec<f32>> {
        let rows = x.len() / self.shape.n_embd;
        let mut scratch = self.scratch(Room {
            rows,
            tables: 0,
            logit_rows: rows,
        })?;
        let index: Vec<u32> = (0..rows as u32).collect();
        let picks = vec![Pick::WHOLE_ROW; rows];
        let wanted = Wanted {
            rows: &index,
            picks: &picks,
        };
        let inputs = Inputs {
            wanted,
            ..Default::default()
        };
        let layout = Layout {
            rows,
            wanted: rows,
            ..Default::default()
        };
        let places = scratch.write(self, inputs, layout)?;
        self.device.write(x, &mut scratch.x)?;
        let pass = Pass {
            network: self,
            kernels: &self.kernels,
            scratch,
            rows,
            positions: Vec::new(),
            places,
            picks,
        };
        Ok(self.finish(pass.end()?)?.logits)
    }

    /// Memory with this much room: what the last pass left if it is large
    /// enough, else new memory.
    fn scratch(&self, needed: Room) -> Result<Scratch> {
        match pool::lock(&self.scratch).take() {
            Some(scratch) if scratch.room.holds(needed) => Ok(scratch),
            old => Scratch::new(self, needed.grown(old.map(|old| old.room))),
        }
    }
}

impl Pass<'_> {
    pub(super) fn launch_all(&mut self, cache: &mut Cache) -> Result<()> {
        self.embed()?;
        for i in 0..self.network.blocks.len() {
            self.attend(i, cache)?;
            self.feed_forward(i)?;
        }
        self.head()?;
        self.sample()
    }

    /// x = wte(tokens) + wpe(positions).
    fn embed(&self) -> Result<()> {
        let Network { wte, wpe, .. } = self.network;
        let pointers = (self.scratch.x.pointer, wte.values.pointer, wpe.pointer);
        let widths = (self.network.shape.n_embd as i32, wte.padded_k as i32);
        let rows = (self.places.argument, self.rows);
        self.kernels.embed(pointers, rows, widths)
    }

    /// x += attn(ln_1(x)), with block `i`.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn attend(&mut self, i: usize, cache: &mut Cache) -> Result<()> {
        let (block, cache) = (&self.network.blocks[i], cache.layers[i].pointer);
        let Scratch {
            x, attended, qkv, ..
        } = &self.scratch;
        let ln_1 = self.normed(&block.ln_1, 0);
        self.linear(ln_1, &block.c_attn, Then::Store, qkv.pointer)?;
        let pointers = (attended.pointer, cache, qkv.pointer);
        let widths = (self.qkv_stride(), block.attn_c_proj.padded_k as i32);
        let rows = (self.places.argument, self.rows);
        let spread = self.places.spread;
        self.kernels
            .attention(pointers, rows, spread, self.heads(i), widths)?;
        let attended = From::Rows(attended.pointer);
        self.linear(attended, &block.attn_c_proj, Then::Add, x.pointer)
    }

    /// x += mlp(ln_2(x)), with block `i`.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn feed_forward(&mut self, i: usize) -> Result<()> {
        let block = &self.network.blocks[i];
        let Scratch { x, inner, .. } = &self.scratch;
        let ln_2 = self.normed(&block.ln_2, 0);
        self.linear(ln_2, &block.c_fc, Then::Activate, inner.pointer)?;
        let inner = From::Rows(inner.pointer);
        self.linear(inner, &block.mlp_c_proj, Then::Add, x.pointer)
    }

    /// How much `rows` attend to each position up to their own, after block `i`
    /// has [attended](Self::attend): `[rows, n_head, most]`. A row means
    /// nothing after its own position.
    ///
    /// # Errors
    /// [`CudaError`]: rows that there are not or that have more than `most`
    /// positions, or what the driver says.
    pub fn attention_weights(
        &self,
        i: usize,
        cache: &Cache,
        rows: &[u32],
        most: usize,
    ) -> Result<Vec<f32>> {
        let has = |&row: &u32| {
            self.positions
                .get(row as usize)
                .is_some_and(|&p| (p as usize) < most)
        };
        if !rows.iter().all(has) {
            let message = "attention of rows that the batch doesn't have, or has later";
            return Err(CudaError::Unsupported(message.to_owned()));
        }
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let Network { device, shape, .. } = self.network;
        let list = device.upload(rows)?;
        let out = device.zeros::<f32>(rows.len() * shape.n_head * most)?;
        let pointers = (
            out.pointer,
            cache.layers[i].pointer,
            self.scratch.qkv.pointer,
        );
        let list = (list.pointer, rows.len());
        let widths = (self.qkv_stride(), most as i32);
        let argument = self.places.argument;
        self.kernels
            .attention_weights(pointers, argument, list, self.heads(i), widths)?;
        device.read(&out, out.len())
    }

    fn heads(&self, i: usize) -> HeadsArgument {
        let shape = &self.network.shape;
        HeadsArgument {
            count: shape.n_head as i32,
            dim: shape.head() as i32,
            padded: padded(shape.head()) as i32,
            scale: shape.scales[i],
        }
    }

    fn qkv_stride(&self) -> i32 {
        3 * self.network.shape.n_embd as i32
    }

    /// The residual stream, `[rows, n_embd]`.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn stream(&self) -> Result<Vec<f32>> {
        let len = self.rows * self.network.shape.n_embd;
        self.network.device.read(&self.scratch.x, len)
    }

    /// Launches the end of the pass: logits and choices.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn end(mut self) -> Result<Pending> {
        self.head()?;
        if !self.picks.iter().all(|pick| pick.is_whole()) {
            self.sample()?;
        }
        self.scratch.send_choices(self.network, &self.picks)?;
        Ok(Pending {
            memory: Memory::Pass(self.scratch),
            picks: self.picks,
        })
    }

    /// logits = head(ln_f(x)) of some rows.
    fn head(&self) -> Result<()> {
        let rows = self.picks.len();
        if rows == 0 {
            return Ok(());
        }
        let ln_f = self.normed(&self.network.ln_f, self.places.index);
        let head = self.network.lm_head.as_ref().unwrap_or(&self.network.wte);
        let logits = self.scratch.logits.pointer;
        self.linear_of(ln_f, head, Then::Logits, (logits, rows))
    }

    /// The choices, from the logits.
    fn sample(&self) -> Result<()> {
        let scratch = &self.scratch;
        let choosing = Choosing {
            logits: scratch.logits.pointer,
            picks: self.places.picks,
            slices: scratch.slices.pointer,
            picked: scratch.picked.pointer,
        };
        let vocab = self.network.shape.vocab_size;
        self.kernels
            .sampling
            .launch(choosing, self.picks.len(), vocab)
    }

    /// The LayerNorm of the rows of the residual stream that `index` names, or
    /// of all where it is 0.
    fn normed(&self, norm: &Norm, index: u64) -> From {
        From::Norm(NormArgument {
            x: self.scratch.x.pointer,
            weight: norm.weight.pointer,
            bias: norm.bias.pointer,
            index,
            epsilon: self.network.shape.epsilon,
            width: self.network.shape.n_embd as i32,
        })
    }

    fn linear(&self, from: From, matrix: &Matrix, then: Then, y: u64) -> Result<()> {
        self.linear_of(from, matrix, then, (y, self.rows))
    }

    fn linear_of(
        &self,
        from: From,
        matrix: &Matrix,
        then: Then,
        (y, rows): (u64, usize),
    ) -> Result<()> {
        let kernels = self.kernels;
        let (x, norm) = match from {
            From::Rows(x) => (x, NormArgument::default()),
            From::Norm(norm) if kernels.linear.norms(rows, matrix.padded_k) => (0, norm),
            From::Norm(norm) => {
                let normed = self.scratch.normed.pointer;
                kernels.layer_norm(normed, norm, rows, matrix.padded_k as i32)?;
                (normed, NormArgument::default())
            }
        };
        let y_stride = match then {
            Then::Activate => padded(matrix.n),
            Then::Store | Then::Add | Then::Logits => matrix.n,
        };
        kernels.linear.launch(LinearArgument {
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
            norm,
        })
    }
}

/// What goes into a linear layer.
#[derive(Debug, Clone, Copy)]
enum From {
    /// Rows of the format, `[rows, padded k]`.
    Rows(u64),
    /// The LayerNorm of rows.
    Norm(NormArgument),
}
