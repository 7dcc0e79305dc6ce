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
mod weights;

use std::cell::RefCell;

use super::SharedMut;
use super::isa::{Isa, dispatch};
use super::linear::{Floats, PairProducts, Pairs, Words};
use super::pool;
use super::vector::Vector;
pub use cache::{BLOCK, Cache, write_cache};
pub use format::CacheFormat;
use rows::{Rows, SPAN};
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
    /// Queries, keys and values of the new tokens, `[rows, 3·heads·dim]`;
    /// only the queries are read here.
    pub qkv: &'a [f32],
    /// How keys and values are kept.
    pub format: CacheFormat,
    /// Cached keys, see [`Cache::Keys`].
    pub keys: &'a [u32],
    /// Cached values, see [`Cache::Values`].
    pub values: &'a [u32],
    /// The rows of the batch, each in one piece.
    pub pieces: &'a [Piece<'a>],
    /// The shape of the heads.
    pub heads: Heads,
}

/// Computes `out[rows, heads·dim]`: each row attends to its sequence's cached
/// positions up to its own.
///
/// # Panics
/// If the slices' lengths don't fit each other, or a row looks outside the cache.
pub fn attention(layer: Attention<'_>, out: &mut [f32]) {
    attention_with(Isa::current(), layer, out);
}

/// [`attention`] with a given instruction set, one of [`Isa::available`].
pub fn attention_with(isa: Isa, layer: Attention<'_>, out: &mut [f32]) {
    let width = layer.heads.width();
    let mut rows = 0;
    for piece in layer.pieces {
        assert_eq!(piece.row, rows, "pieces are not in order");
        assert!(piece.count <= PIECE_ROWS, "a piece of {} rows", piece.count);
        rows += piece.count;
    }
    assert_eq!(layer.qkv.len(), rows * 3 * width, "queries");
    assert_eq!(out.len(), rows * width, "outputs");
    let out = SharedMut(out.as_mut_ptr());
    let tasks = Tasks::new(layer);
    pool::run(tasks.count(), |i| {
        let task = tasks.get(i);
        match layer.format {
            CacheFormat::F32 => run::<Floats>(isa, layer, task, out),
            CacheFormat::Bf16 => run::<Pairs>(isa, layer, task, out),
            CacheFormat::Bf16Products => {
                run::<PairProducts>(isa.with_bf16_products(), layer, task, out);
            }
        }
    });
}

impl<'a> Attention<'a> {
    fn head_keys(&self, block: u32, head: usize) -> &'a [u32] {
        let part = (Cache::Keys, self.format);
        self.heads.of_block(part, self.keys, block, head)
    }

    fn head_values(&self, block: u32, head: usize) -> &'a [u32] {
        let part = (Cache::Values, self.format);
        self.heads.of_block(part, self.values, block, head)
    }
}

/// Some heads of one piece.
#[derive(Clone, Copy)]
struct Task<'a> {
    piece: Piece<'a>,
    first_head: usize,
    heads: usize,
}

/// An attention layer, cut into tasks.
struct Tasks<'a> {
    /// Pieces of several rows, a head a task: those of one sequence read the
    /// same keys and values, of which one head stays in the second cache, all
    /// would not.
    several: Vec<Piece<'a>>,
    /// Pieces of a row, which read their own: in the order in which they lie.
    single: Vec<Piece<'a>>,
    heads: usize,
    /// Heads of a task for a row.
    together: usize,
}

impl<'a> Tasks<'a> {
    /// Tasks for each thread at least, where there are enough heads.
    const PER_THREAD: usize = 8;

    fn new(layer: Attention<'a>) -> Self {
        let (several, single): (Vec<_>, Vec<_>) =
            layer.pieces.iter().partition(|piece| piece.count > 1);
        let heads = layer.heads.count;
        let together = single.len() * heads / (Self::PER_THREAD * pool::threads());
        Self {
            several,
            single,
            heads,
            together: together.clamp(1, heads),
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
            };
        }
        let (i, parts) = (i - first, heads.div_ceil(together));
        let first_head = i % parts * together;
        Task {
            piece: self.single[i / parts],
            first_head,
            heads: together.min(heads - first_head),
        }
    }
}

fn run<W: Kernels>(isa: Isa, layer: Attention<'_>, task: Task<'_>, out: SharedMut) {
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
        layer: Attention<'_>,
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
                layer: Attention<'_>,
                task: Task<'_>,
                scratch: &mut Vec<[u32; SPAN]>,
                out: SharedMut,
            ) {
                dispatch!($extra, isa, attend[$words](
                    layer: Attention<'_>, task: Task<'_>, scratch: &mut Vec<[u32; SPAN]>, out: SharedMut
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
/// The set of `V` must be there; `out` must hold `[rows, heads·dim]`, and no
/// other thread may touch these heads of these rows.
#[inline(always)]
unsafe fn attend<V: Vector, W: Words>(
    layer: Attention<'_>,
    task: Task<'_>,
    scratch: &mut Vec<[u32; SPAN]>,
    out: SharedMut,
) {
    let piece = task.piece;
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
