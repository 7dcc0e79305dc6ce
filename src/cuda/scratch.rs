//! Memory on the device for what one pass computes.

use super::Result;
use super::arguments::{RowsArgument, Spread, TILE_ROWS};
use super::device::{Buffer, Pinned};
use super::network::{Network, padded};
use super::pass::{Rows, Wanted};
use super::sample::{Pick, Picked, slice_words};

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
    /// Picks, tokens, positions, sequences, logit rows, tables and how the rows
    /// are [spread](Spread), one after another, so that one copy brings them.
    inputs: Buffer<u32>,
    inputs_on_host: Pinned,
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
    /// What is found in slices of the logits.
    pub(super) slices: Buffer<u32>,
    /// What was chosen: `[logit_rows]` times [`Picked`].
    pub(super) picked: Buffer<u32>,
    picked_on_host: Pinned,
}

/// What is computed in a pass, and for what.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Inputs<'a> {
    pub(super) rows: Rows<'a>,
    pub(super) wanted: Wanted<'a>,
}

/// For how many rows inputs are laid out, so many or more than they have.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Layout {
    pub(super) rows: usize,
    /// Rows that get logits.
    pub(super) wanted: usize,
    /// Entries of each block table.
    pub(super) stride: usize,
}

/// Where the inputs are on the device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    pub(super) argument: RowsArgument,
    pub(super) spread: Spread,
    /// Which rows get logits.
    pub(super) index: u64,
    pub(super) picks: u64,
}

/// Rows of a sequence from which on they are computed in tiles.
const TILED: usize = 8;

/// Rows that are computed one by one, and the first rows of tiles of the
/// others, of rows whose sequences are these.
fn spread(sequences: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let (mut alone, mut tiles) = (Vec::new(), Vec::new());
    let mut start = 0;
    for rows in sequences.chunk_by(|before, after| before == after) {
        let range = start..start + rows.len() as u32;
        start = range.end;
        match rows.len() < TILED {
            true => alone.extend(range),
            false => tiles.extend(range.step_by(TILE_ROWS)),
        }
    }
    (alone, tiles)
}

/// What a pass gives for the rows that get logits.
#[derive(Debug)]
pub struct Outcome {
    /// The rows that are wanted whole, `[whole, vocab_size]`.
    pub logits: Vec<f32>,
    /// The choices of the others: for each row that gets logits one, or none
    /// where it is wanted whole.
    pub picked: Vec<Option<Picked>>,
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
        let inputs = logit_rows * (Pick::WORDS + 1) + 4 * rows + tables;
        Ok(Self {
            room,
            inputs: device.zeros(inputs)?,
            inputs_on_host: device.pinned(inputs)?,
            x: device.zeros(rows * shape.n_embd)?,
            // The head takes its rows through this, too.
            normed: device.zeros(rows.max(logit_rows) * normed)?,
            attended: device.zeros(rows * normed)?,
            qkv: device.zeros(rows * 3 * shape.n_embd * bytes)?,
            inner: device.zeros(rows * padded(shape.n_inner) * bytes)?,
            logits: device.zeros(logit_rows * shape.vocab_size)?,
            slices: device.zeros(logit_rows * slice_words(shape.vocab_size))?,
            picked: device.zeros(logit_rows * Picked::WORDS)?,
            picked_on_host: device.pinned(logit_rows * Picked::WORDS)?,
        })
    }

    /// Brings the inputs, filled up with rows that are none; where they are
    /// then.
    pub(super) fn write(
        &mut self,
        network: &Network,
        Inputs { rows, wanted }: Inputs<'_>,
        layout: Layout,
    ) -> Result<Places> {
        let Layout { stride, .. } = layout;
        let mut all = Vec::with_capacity(self.inputs.len());
        // First, so that they lie at a multiple of their size.
        all.extend(wanted.picks.iter().flat_map(|pick| pick.words()));
        let first = layout.wanted * Pick::WORDS;
        all.resize(first, 0);
        let mut filled = |values: &[u32], filler: u32, len: usize| {
            let start = all.len();
            all.extend_from_slice(values);
            all.resize(start + len, filler);
        };
        filled(rows.tokens, 0, layout.rows);
        // -1, as the kernels see it.
        filled(rows.positions, u32::MAX, layout.rows);
        filled(rows.sequences, 0, layout.rows);
        filled(wanted.rows, 0, layout.wanted);
        for table in rows.tables {
            all.extend_from_slice(table);
            all.resize(all.len() + stride - table.len(), 0);
        }
        let (lists, one_each) = (all.len(), rows.one_each());
        let (alone, tiles) = match one_each {
            true => Default::default(),
            false => spread(rows.sequences),
        };
        all.extend(&alone);
        all.extend(&tiles);
        let Self {
            inputs,
            inputs_on_host,
            ..
        } = self;
        let fill = |words: &mut [u32]| words[..all.len()].copy_from_slice(&all);
        network.device.bring(inputs_on_host, inputs, fill)?;
        let at = |values: usize| self.inputs.pointer + (values * size_of::<u32>()) as u64;
        let argument = RowsArgument {
            tokens: at(first),
            positions: at(first + layout.rows),
            sequences: at(first + 2 * layout.rows),
            tables: at(first + 3 * layout.rows + layout.wanted),
            stride: stride as i32,
        };
        let spread = match one_each {
            true => Spread::OneEach,
            false => Spread::Lists {
                alone: (at(lists), alone.len()),
                tiles: (at(lists + alone.len()), tiles.len()),
            },
        };
        Ok(Places {
            argument,
            spread,
            index: at(first + 3 * layout.rows),
            picks: at(0),
        })
    }

    /// Lets what is chosen come to the host as soon as it is there.
    pub(super) fn send_choices(&mut self, network: &Network, picks: &[Pick]) -> Result<()> {
        if picks.iter().all(|pick| pick.is_whole()) {
            return Ok(());
        }
        let words = picks.len() * Picked::WORDS;
        network
            .device
            .send(&self.picked, words, &mut self.picked_on_host)
    }

    /// What was computed, when it is: the rows that are wanted whole, which
    /// are copied only now, and the [choices](Self::send_choices) of the others.
    pub(super) fn outcome(&self, network: &Network, picks: &[Pick]) -> Result<Outcome> {
        let Network { device, shape, .. } = network;
        let whole: Vec<usize> = (0..picks.len()).filter(|&i| picks[i].is_whole()).collect();
        // Neighbours come in one copy.
        let runs = whole.chunk_by(|before, after| before + 1 == *after);
        let ranges = runs.map(|run| {
            let start = run[0] * shape.vocab_size;
            start..start + run.len() * shape.vocab_size
        });
        let ranges: Vec<_> = ranges.collect();
        let words = match whole.len() < picks.len() {
            true => device.sent(&self.picked_on_host)?,
            false => &[],
        };
        let mut chosen = Picked::all(words);
        let picked = picks.iter().map(|pick| {
            let picked = chosen.next();
            picked.filter(|_| !pick.is_whole())
        });
        Ok(Outcome {
            picked: picked.collect(),
            logits: device.read_ranges(&self.logits, &ranges)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_sequences_are_tiled_and_short_ones_are_not() {
        let rows = |counts: &[usize]| {
            let sequences = counts.iter().zip(0..);
            let rows = sequences.flat_map(|(&count, i)| std::iter::repeat_n(i, count));
            spread(&rows.collect::<Vec<u32>>())
        };
        assert_eq!(rows(&[1, 1]), (vec![0, 1], vec![]));
        assert_eq!(rows(&[7, 8]), (vec![0, 1, 2, 3, 4, 5, 6], vec![7]));
        assert_eq!(rows(&[33, 1, 16]), (vec![33], vec![0, 16, 32, 34]));
    }
}
