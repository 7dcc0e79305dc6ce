//! Memory on the device for what one pass computes.

use super::Result;
use super::device::Buffer;
use super::launch::RowsArgument;
use super::network::{Network, padded};
use super::pass::Rows;

/// How much a pass needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) rows: usize,
    /// Entries of all block tables.
    pub(super) tables: usize,
    pub(super) logit_rows: usize,
}

impl Room {
    pub(super) fn holds(self, other: Self) -> bool {
        self.rows >= other.rows
            && self.tables >= other.tables
            && self.logit_rows >= other.logit_rows
    }

    /// Some to spare, and what there was before.
    pub(super) fn grown(self, before: Option<Self>) -> Self {
        let larger = |of: fn(Self) -> usize| of(self).next_power_of_two().max(before.map_or(0, of));
        Self {
            rows: larger(|room| room.rows),
            tables: larger(|room| room.tables),
            logit_rows: larger(|room| room.logit_rows),
        }
    }
}

/// Memory for the rows of a pass, and for what they hand on. Its paddings are
/// zero and stay so.
#[derive(Debug)]
pub(super) struct Scratch {
    pub(super) room: Room,
    /// Tokens, positions, sequences, logit rows and tables, one after another,
    /// so that one copy brings them.
    rows: Buffer<u32>,
    /// The residual stream, `[rows, n_embd]`.
    pub(super) x: Buffer<f32>,
    /// Normed rows, and what attention gives: `[rows, padded n_embd]`.
    pub(super) normed: Buffer<u8>,
    pub(super) attended: Buffer<u8>,
    /// `[rows, 3 · n_embd]`
    pub(super) qkv: Buffer<u8>,
    /// `[rows, padded n_inner]`
    pub(super) inner: Buffer<u8>,
    /// `[logit_rows, vocab_size]`
    pub(super) logits: Buffer<f32>,
}

impl Scratch {
    pub(super) fn new(network: &Network, room: Room) -> Result<Self> {
        let Network { device, shape, .. } = network;
        let bytes = network.format.bytes();
        let normed = padded(shape.n_embd) * bytes;
        let Room {
            rows,
            tables,
            logit_rows,
        } = room;
        Ok(Self {
            room,
            rows: device.zeros(3 * rows + logit_rows + tables)?,
            x: device.zeros(rows * shape.n_embd)?,
            // The head takes its rows through this, too.
            normed: device.zeros(rows.max(logit_rows) * normed)?,
            attended: device.zeros(rows * normed)?,
            qkv: device.zeros(rows * 3 * shape.n_embd * bytes)?,
            inner: device.zeros(rows * padded(shape.n_inner) * bytes)?,
            logits: device.zeros(logit_rows * shape.vocab_size)?,
        })
    }

    /// Brings the rows and which of them get logits, filled up with rows that
    /// are none, to `count` rows; where they are then.
    pub(super) fn write(
        &mut self,
        network: &Network,
        rows: Rows<'_>,
        index: &[u32],
        (count, stride): (usize, usize),
    ) -> Result<(RowsArgument, u64)> {
        let mut all = Vec::with_capacity(self.rows.len());
        let filled = |all: &mut Vec<u32>, values: &[u32], filler: u32| {
            all.extend_from_slice(values);
            all.resize(all.len() + count - values.len(), filler);
        };
        filled(&mut all, rows.tokens, 0);
        // -1, as the kernels see it.
        filled(&mut all, rows.positions, u32::MAX);
        filled(&mut all, rows.sequences, 0);
        all.extend_from_slice(index);
        for table in rows.tables {
            all.extend_from_slice(table);
            all.resize(all.len() + stride - table.len(), 0);
        }
        network.device.write(&all, &mut self.rows)?;
        let at = |values: usize| self.rows.pointer + (values * size_of::<u32>()) as u64;
        let argument = RowsArgument {
            tokens: at(0),
            positions: at(count),
            sequences: at(2 * count),
            tables: at(3 * count + index.len()),
            stride: stride as i32,
        };
        Ok((argument, at(3 * count)))
    }
}
