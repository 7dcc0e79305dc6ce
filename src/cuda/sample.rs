//! The choice of the next token of each row, where its logits are.

use super::defined::{SAMPLE_PICK, SAMPLE_ROW, defined};
use super::module::{Grid, Kernel, Order};
use super::{CudaError, Device, During, Result};

/// Threads of a block, which has one row or a slice of it.
const THREADS: usize = defined(SAMPLE_ROW, "SAMPLE_THREADS");

/// Columns of a slice.
const SLICE: usize = THREADS * defined(SAMPLE_ROW, "AT_ONCE");

/// Columns of the longest row of which the kernel's sums have room for.
pub(super) const MOST_COLUMNS: usize =
    32 * defined(SAMPLE_ROW, "AT_ONCE") * defined(SAMPLE_PICK, "MOST_SPANS");

/// `struct Pick` of `sample/row.cuh` as words: what is wanted of a row of logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pick([u32; Self::WORDS]);

/// What may be drawn of a row, and where the draw falls.
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    /// Divides the logits.
    pub temperature: f32,
    /// How many of the largest are kept, and those equal to the last of them;
    /// 0 keeps all.
    pub top_k: usize,
    /// The least likely are dropped as long as they sum up to no more than one
    /// minus this.
    pub top_p: f32,
    /// Those are kept that are at least this likely, relative to the likeliest.
    pub min_p: f32,
    /// Where the cumulative distribution is inverted, in [0, 1).
    pub u: f64,
}

impl Pick {
    pub(super) const WORDS: usize = 8;

    /// The whole row is wanted, and no token of it chosen.
    pub const WHOLE_ROW: Self = Self([0; Self::WORDS]);

    /// The first of the largest of the first `columns` logits.
    pub fn greedy(columns: usize) -> Self {
        Self([0, 0, 1, columns as u32, 0, 0, 0, 0])
    }

    /// A draw from the first `columns` logits; the largest if nothing can be
    /// drawn, because none is finite.
    pub fn draw(columns: usize, draw: Draw) -> Self {
        let u = draw.u.to_bits();
        // One that doesn't fit keeps all, as does any beyond the columns.
        let top_k = i32::try_from(draw.top_k).unwrap_or(0);
        Self([
            u as u32,
            (u >> 32) as u32,
            2,
            columns as u32,
            top_k as u32,
            draw.temperature.to_bits(),
            draw.top_p.to_bits(),
            draw.min_p.to_bits(),
        ])
    }

    /// Whether the whole row is wanted.
    pub fn is_whole(self) -> bool {
        self == Self::WHOLE_ROW
    }

    pub(super) fn words(self) -> [u32; Self::WORDS] {
        self.0
    }

    fn columns(self) -> usize {
        self.0[3] as usize
    }
}

/// A token that was chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Picked {
    /// Its column.
    pub id: u32,
    /// Natural log of its probability among all columns, before any filter.
    pub logprob: f32,
}

impl Picked {
    /// Words of `struct Picked`.
    pub(super) const WORDS: usize = 2;

    /// From what the kernel wrote, one after another.
    pub(super) fn all(words: &[u32]) -> impl Iterator<Item = Self> {
        let (words, _) = words.as_chunks::<{ Self::WORDS }>();
        words.iter().map(|&[id, logprob]| Self {
            id,
            logprob: f32::from_bits(logprob),
        })
    }
}

/// The kernels: one looks at slices of a row, one chooses.
#[derive(Debug)]
pub(super) struct Sampling {
    device: Device,
    scan: Kernel,
    sample: Kernel,
}

/// Memory that rows are chosen from and to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choosing {
    /// `[rows, vocab]`
    pub logits: u64,
    /// `[rows]`
    pub picks: u64,
    /// What is found in slices: as many words for each row as
    /// [`slice_words`] says.
    pub slices: u64,
    /// `[rows]`
    pub picked: u64,
}

/// Words that the slices of a row take: `struct Slice` of `sample/scan.cuh`.
pub(super) fn slice_words(vocab: usize) -> usize {
    6 * vocab.div_ceil(SLICE)
}

impl Sampling {
    pub(super) fn new(device: &Device) -> Result<Self> {
        Ok(Self {
            device: device.clone(),
            scan: device.named_kernel("scan")?,
            sample: device.named_kernel("sample")?,
        })
    }

    /// Writes what `rows` picks choose of rows of logits; nothing for those that
    /// want the row.
    pub(super) fn launch(&self, choosing: Choosing, rows: usize, vocab: usize) -> Result<()> {
        let Choosing {
            logits,
            picks,
            slices,
            picked,
        } = choosing;
        let (stream, order) = (&self.device.stream, Order::Overlapping);
        let columns = vocab as i32;
        let mut scan = self.scan.begin();
        scan.arg(&slices).arg(&logits).arg(&picks).arg(&columns);
        let mut sample = self.sample.begin();
        sample.arg(&picked).arg(&logits).arg(&slices).arg(&picks);
        sample.arg(&columns);
        // SAFETY: the callers give memory of these shapes, and picks of no
        // more columns than a row has; an id that is chosen is one of these.
        unsafe {
            let grid = Grid(rows, vocab.div_ceil(SLICE), THREADS);
            scan.launch(stream, grid, order).during("scan")?;
            let grid = Grid(rows, 1, THREADS);
            sample.launch(stream, grid, order).during("sample")
        }
    }
}

/// That no pick looks beyond a row of `vocab` logits.
pub(super) fn check(picks: &[Pick], vocab: usize) -> Result<()> {
    if picks.iter().all(|pick| pick.columns() <= vocab) {
        return Ok(());
    }
    let message = format!("a choice among more than the {vocab} logits of a row");
    Err(CudaError::Unsupported(message))
}

impl Device {
    /// What picks choose of rows of logits `[picks, vocab]`; what it says of
    /// one that wants the row means nothing.
    ///
    /// # Errors
    /// [`CudaError`]: rows that are not whole or longer than the kernel's sums
    /// allow, a pick of more columns, or what the driver says.
    pub fn pick(&self, logits: &[f32], picks: &[Pick]) -> Result<Vec<Picked>> {
        if picks.is_empty() {
            return Ok(Vec::new());
        }
        let vocab = logits.len() / picks.len();
        if vocab == 0 || vocab > MOST_COLUMNS || vocab * picks.len() != logits.len() {
            let message = format!("{} logits for {} rows", logits.len(), picks.len());
            return Err(CudaError::Unsupported(message));
        }
        check(picks, vocab)?;
        let words: Vec<u32> = picks.iter().flat_map(|pick| pick.words()).collect();
        let (logits, words) = (self.upload(logits)?, self.upload(&words)?);
        let slices = self.zeros::<u32>(picks.len() * slice_words(vocab))?;
        let picked = self.zeros::<u32>(picks.len() * Picked::WORDS)?;
        let choosing = Choosing {
            logits: logits.pointer,
            picks: words.pointer,
            slices: slices.pointer,
            picked: picked.pointer,
        };
        Sampling::new(self)?.launch(choosing, picks.len(), vocab)?;
        let words = self.read(&picked, picked.len())?;
        Ok(Picked::all(&words).collect())
    }
}
