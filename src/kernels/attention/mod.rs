//! Causal attention over a KV cache in blocks, with an online softmax (Milakov
//! and Gimelshein, 2018).
//!
//! The softmax goes through spans of absolute positions, and every score and
//! every output is one running sum, so a row's bits do not depend on how its
//! prompt was chunked, which rows were computed with it, or what else is in
//! the batch.

mod cache;
mod format;
mod rows;
mod single;
mod weights;

use std::cell::RefCell;

use super::SharedMut;
use super::isa::{Isa, dispatch};
use super::linear::{Floats, PairProducts, Pairs, Words};
use super::pool;
use super::vector::Vector;
pub use cache::{BLOCK, Cache};
pub use format::CacheFormat;
use rows::{Rows, SPAN};
use single::{MOST_HEADS, Row};
pub use weights::weights;

/// Rows in a [`Piece`] at most.
pub const PIECE_ROWS: usize = 12;

/// Consecutive new tokens of one sequence.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a> {
    /// The cache blocks of the sequence, in the order of positions.
    pub blocks: &'a [u32],
    /// Row of the batch of its first token.
    pub row: usize,
    /// Position of its first token.
    pub position: usize,
    /// Tokens, up to [`PIECE_ROWS`].
    pub count: usize,
}

/// The shape of the heads.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// Number of heads.
    pub count: usize,
    /// Width of a head.
    pub dim: usize,
    /// What scores are multiplied by.
    pub scale: f32,
}

/// An attention layer to compute.
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    /// Queries, keys and values of the new tokens, `[rows, 3·heads·dim]`.
    pub qkv: &'a [f32],
    /// How keys and values are kept.
    pub format: CacheFormat,
    /// The rows of the batch, each in one piece.
    pub pieces: &'a [Piece<'a>],
    /// The shape of the heads.
    pub heads: Heads,
}

/// The cached keys and values of a layer, of all sequences.
pub struct CacheMut<'a> {
    /// See [`Cache::Keys`].
    pub keys: &'a mut [u32],
    /// See [`Cache::Values`].
    pub values: &'a mut [u32],
}

/// Puts the new keys and values into the cache and computes
/// `out[rows, heads·dim]`: each row attends to its sequence's positions up to
/// its own. Sequences may share blocks, but not those of the new positions.
///
/// # Panics
/// If the slices' lengths don't fit each other, or a row looks outside the cache.
pub fn attention(layer: Attention<'_>, cache: CacheMut<'_>, out: &mut [f32]) {
    attention_with(Isa::current(), layer, cache, out);
}

/// [`attention`] with a given instruction set, one of [`Isa::available`].
pub fn attention_with(isa: Isa, layer: Attention<'_>, cache: CacheMut<'_>, out: &mut [f32]) {
    layer.check(&cache, out);
    let Attention {
        qkv, format, heads, ..
    } = layer;
    let tasks = Tasks::new(layer);
    let layer = Layer {
        qkv,
        format,
        heads,
        keys: SharedMut(cache.keys.as_mut_ptr()),
        values: SharedMut(cache.values.as_mut_ptr()),
    };
    let write = |i: usize| {
        let (piece, head) = (tasks.several[i / heads.count], i % heads.count);
        dispatch!(isa, write(layer: Layer<'_>, piece: Piece<'_>, head: usize));
    };
    let writes = tasks.several.len() * heads.count;
    if writes < PARALLEL_WRITES {
        (0..writes).for_each(write);
    } else {
        pool::run(writes, write);
    }
    let out = SharedMut(out.as_mut_ptr());
    pool::run(tasks.count(), |i| {
        let task = tasks.get(i);
        match format {
            CacheFormat::F32 => run::<Floats>(isa, layer, task, out),
            CacheFormat::Bf16 => run::<Pairs>(isa, layer, task, out),
            CacheFormat::Bf16Products => {
                run::<PairProducts>(isa.with_bf16_products(), layer, task, out);
            }
        }
    });
}

/// Heads of pieces worth writing to the cache on several threads.
const PARALLEL_WRITES: usize = 16;

impl Attention<'_> {
    fn check(&self, cache: &CacheMut<'_>, out: &[f32]) {
        let (heads, width) = (self.heads, self.heads.width());
        let mut rows = 0;
        for piece in self.pieces {
            assert_eq!(piece.row, rows, "pieces are not in order");
            assert!(piece.count <= PIECE_ROWS, "a piece of {} rows", piece.count);
            rows += piece.count;
            let blocks = &piece.blocks[..(piece.position + piece.count).div_ceil(BLOCK)];
            let end = blocks.iter().max().map_or(0, |&last| last as usize + 1);
            for (part, held) in [(Cache::Keys, &cache.keys), (Cache::Values, &cache.values)] {
                let needed = end * heads.block_words(part, self.format);
                assert!(needed <= held.len(), "a block outside the cache");
            }
        }
        assert_eq!(self.qkv.len(), rows * 3 * width, "queries");
        assert_eq!(out.len(), rows * width, "outputs");
    }
}

/// An attention layer as its tasks see it: all of them read the cache, and some
/// write it.
#[derive(Clone, Copy)]
struct Layer<'a> {
    qkv: &'a [f32],
    format: CacheFormat,
    heads: Heads,
    keys: SharedMut<u32>,
    values: SharedMut<u32>,
}

impl<'a> Layer<'a> {
    fn part(&self, part: Cache) -> SharedMut<u32> {
        match part {
            Cache::Keys => self.keys,
            Cache::Values => self.values,
        }
    }

    /// Where one head's keys or values of a block begin, and how many words
    /// they are.
    #[inline(always)]
    fn place(&self, part: Cache, block: u32, head: usize) -> (*const u32, usize) {
        let place = self.heads.of_block((part, self.format), block, head);
        let start = self.part(part).0.wrapping_add(place.start);
        (start.cast_const(), place.len())
    }

    /// One head's keys or values of a block.
    ///
    /// # Safety
    /// The block must be in the cache, and no other thread may write this head
    /// of it.
    #[inline(always)]
    unsafe fn words(&self, part: Cache, block: u32, head: usize) -> &'a [u32] {
        let (start, len) = self.place(part, block, head);
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts(start, len) }
    }
}

/// Writes one head of a piece's keys and values.
///
/// # Safety
/// As [`Layer::write`].
#[inline(always)]
unsafe fn write<V: Vector>(layer: Layer<'_>, piece: Piece<'_>, head: usize) {
    // SAFETY: passed on from the caller.
    unsafe { layer.write::<V>(piece, head) }
}

/// Some heads of one piece.
#[derive(Clone, Copy)]
struct Task<'a> {
    piece: Piece<'a>,
    first_head: usize,
    heads: usize,
    /// Whether it is a [`Row`], which writes its own keys and values.
    single: bool,
}

/// An attention layer, cut into tasks.
struct Tasks<'a> {
    /// Pieces of several rows, a head a task: those of one sequence read the
    /// same keys and values, of which one head stays in the second cache, all
    /// would not. What they all read is written before.
    several: Vec<Piece<'a>>,
    /// Pieces of a row, each all of its sequence's, in the order in which they
    /// lie. Each task writes what it reads alone.
    single: Vec<Piece<'a>>,
    heads: usize,
    /// Heads of a task for a row.
    together: usize,
}

impl<'a> Tasks<'a> {
    /// Tasks for each thread at least, where there are enough heads.
    const PER_THREAD: usize = 8;

    fn new(layer: Attention<'a>) -> Self {
        let (mut several, mut single) = (Vec::new(), Vec::new());
        // Where a piece before this one would end whose tokens these follow.
        let mut end = None;
        for &piece in layer.pieces {
            let alone = piece.count == 1 && end != Some(piece.position);
            if alone { &mut single } else { &mut several }.push(piece);
            end = (piece.count > 1).then_some(piece.position + piece.count);
        }
        let heads = layer.heads.count;
        let together = single.len() * heads / (Self::PER_THREAD * pool::threads());
        // As many tasks as that takes, of one size.
        let tasks = heads.div_ceil(together.clamp(1, heads.min(MOST_HEADS)));
        Self {
            several,
            single,
            heads,
            together: heads.div_ceil(tasks),
        }
    }

    fn count(&self) -> usize {
        self.several.len() * self.heads + self.single.len() * self.heads.div_ceil(self.together)
    }

    fn get(&self, i: usize) -> Task<'a> {
        let Self {
            heads, together, ..
        } = *self;
        let (first, count) = (self.several.len() * heads, self.several.len());
        if i < first {
            return Task {
                piece: self.several[i % count],
                first_head: i / count,
                heads: 1,
                single: false,
            };
        }
        let (i, parts) = (i - first, heads.div_ceil(together));
        let first_head = i % parts * together;
        Task {
            piece: self.single[i / parts],
            first_head,
            heads: together.min(heads - first_head),
            single: true,
        }
    }
}

fn run<W: Kernels>(isa: Isa, layer: Layer<'_>, task: Task<'_>, out: SharedMut) {
    thread_local! {
        /// Scores, and queries as they meet the keys.
        static SCRATCH: RefCell<Vec<[u32; SPAN]>> = const { RefCell::new(Vec::new()) };
    }
    SCRATCH.with_borrow_mut(|scratch| W::attend_on(isa, layer, task, scratch, out));
}

/// The kernel for such words, compiled for each instruction set.
trait Kernels: Words {
    fn attend_on(
        isa: Isa,
        layer: Layer<'_>,
        task: Task<'_>,
        scratch: &mut Vec<[u32; SPAN]>,
        out: SharedMut,
    );
}

macro_rules! kernels {
    ($words:ident, $extra:literal) => {
        impl Kernels for $words {
            fn attend_on(
                isa: Isa,
                layer: Layer<'_>,
                task: Task<'_>,
                scratch: &mut Vec<[u32; SPAN]>,
                out: SharedMut,
            ) {
                dispatch!($extra, isa, attend[$words](
                    layer: Layer<'_>, task: Task<'_>, scratch: &mut Vec<[u32; SPAN]>, out: SharedMut
                ));
            }
        }
    };
}
kernels!(Floats, "avx512f");
kernels!(Pairs, "avx512f");
kernels!(PairProducts, "avx512bf16");

/// One task, in groups of rows that fit the registers.
///
/// # Safety
/// The set of `V` must be there, the piece's blocks in the cache; `out` must
/// hold `[rows, heads·dim]`. No other thread may touch these heads of these
/// rows, nor write these of a single row's blocks; those of others must be written.
#[inline(always)]
unsafe fn attend<V: Vector, W: Words>(
    layer: Layer<'_>,
    task: Task<'_>,
    scratch: &mut Vec<[u32; SPAN]>,
    out: SharedMut,
) {
    let piece = task.piece;
    if task.single {
        let row = Row {
            piece,
            heads: task.first_head..task.first_head + task.heads,
        };
        // SAFETY: passed on from the caller.
        return unsafe { row.attend::<V, W>(layer, scratch, out) };
    }
    for head in task.first_head..task.first_head + task.heads {
        let mut done = 0;
        while done < piece.count {
            let rows = Rows {
                row: piece.row + done,
                len: piece.position + done + 1,
                blocks: piece.blocks,
                head,
            };
            // SAFETY: passed on from the caller.
            done += unsafe {
                match V::ROWS.min(piece.count - done) {
                    12.. => rows.attend::<V, W, 12>(layer, scratch, out),
                    4.. => rows.attend::<V, W, 4>(layer, scratch, out),
                    3 => rows.attend::<V, W, 3>(layer, scratch, out),
                    2 => rows.attend::<V, W, 2>(layer, scratch, out),
                    _ => rows.attend::<V, W, 1>(layer, scratch, out),
                }
            };
        }
    }
}

#[cfg(test)]
mod tests;
