//! Attention of a few rows that fit the registers.

use super::{BLOCK, Cache, Heads, Layer};
use crate::kernels::SharedMut;
use crate::kernels::activation::exp_negative;
use crate::kernels::linear::{Ahead, PANEL, Words, multiply, multiply_chunks, panels, words_of};
use crate::kernels::vector::{LANES, Vector, by_halves, load_two, store_two};

/// Blocks of a span.
pub(super) const SPAN_BLOCKS: usize = 4;

/// Positions in a step of the softmax, from a multiple of it on.
pub const SPAN: usize = SPAN_BLOCKS * BLOCK;

/// One head of a few rows of one sequence.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// The first row.
    pub row: usize,
    /// Positions that the first row attends to, itself included; each further
    /// row sees one more.
    pub len: usize,
    /// The blocks of the sequence.
    pub blocks: &'a [u32],
    pub head: usize,
}

/// The softmax of one row so far.
#[derive(Clone, Copy)]
pub(super) struct Online {
    highest: f32,
    total: f32,
}

impl Online {
    pub const START: Self = Self {
        highest: f32::NEG_INFINITY,
        total: 0.0,
    };

    /// Makes the sum of weighted values their mean.
    #[inline(always)]
    pub fn finish(self, out: &mut [f32]) {
        let scale = 1.0 / self.total;
        for o in out {
            *o *= scale;
        }
    }
}

/// Words of one row's query of a head as it meets the keys.
#[inline(always)]
pub(super) fn query_words<W: Words>(dim: usize) -> usize {
    dim.div_ceil(LANES) * words_of::<W>(LANES)
}

/// Room for scores `[rows, SPAN]` and for so many words of queries.
#[inline(always)]
pub(super) fn room(scratch: &mut Vec<[u32; SPAN]>, rows: usize, query_words: usize) {
    // Only ever longer: what lies there need not be zero.
    let room = rows + query_words.div_ceil(SPAN);
    if scratch.len() < room {
        scratch.resize(room, [0; SPAN]);
    }
}

impl Rows<'_> {
    /// Attention of `R` rows; returns `R`. `scratch` keeps its memory.
    ///
    /// # Safety
    /// The set of `V` must be there; `out` must hold `[rows, heads·dim]`, and
    /// no other thread may touch this head of these rows.
    #[inline(always)]
    pub unsafe fn attend<V: Vector, W: Words, const R: usize>(
        self,
        layer: Layer<'_>,
        scratch: &mut Vec<[u32; SPAN]>,
        out: SharedMut,
    ) -> usize {
        let (dim, width) = (layer.heads.dim, layer.heads.width());
        // SAFETY: this head of row `row + r`, which is this task's own.
        let out = |r: usize| unsafe { out.slice((self.row + r) * width + self.head * dim, dim) };
        (0..R).for_each(|r| out(r).fill(0.0));
        let mut online = [Online::START; R];
        let query_words = R * query_words::<W>(dim);
        room(scratch, R, query_words);
        let split = scratch.split_first_chunk_mut::<R>();
        let (scores, queries) = split.expect("R of them, and more, are there");
        let queries = &mut queries.as_flattened_mut()[..query_words];
        // SAFETY: passed on from the caller.
        unsafe { self.pack_queries::<V, W, R>(layer, queries) };
        let blocks = &self.blocks[..(self.len + R - 1).div_ceil(BLOCK)];
        for (i, span) in blocks.chunks(SPAN_BLOCKS).enumerate() {
            // Negative where the span begins after the first row's position.
            let seen = self.len as isize - (i * SPAN) as isize;
            let ahead = blocks[i * SPAN_BLOCKS..].chunks(SPAN_BLOCKS).nth(1);
            // SAFETY: passed on from the caller.
            unsafe {
                for (b, &block) in span.iter().enumerate() {
                    let values = Next::new(layer.place(Cache::Values, block, self.head));
                    self.score::<V, W, R>(layer, queries, (b, block), values, scores);
                }
                let shrinks = weigh_rows::<V, W, R>(scores, span.len(), seen, &mut online);
                let keys = |b| self.next_keys(layer, (span, ahead), b);
                let weights = scores.as_ptr().cast();
                self.add_values::<V, W, R>(layer, (span, keys), weights, (shrinks, seen), out);
            }
        }
        for (r, online) in online.into_iter().enumerate() {
            online.finish(out(r));
        }
        R
    }

    /// Lays out the queries, scaled: `[dim / LANES, R]`, each as it meets the
    /// keys.
    ///
    /// # Safety
    /// The set of `V` must be there.
    #[inline(always)]
    pub(super) unsafe fn pack_queries<V: Vector, W: Words, const R: usize>(
        self,
        layer: Layer<'_>,
        out: &mut [u32],
    ) {
        let Heads { dim, scale, .. } = layer.heads;
        let stride = 3 * layer.heads.width();
        let chunk_words = words_of::<W>(LANES);
        for r in 0..R {
            let start = (self.row + r) * stride + self.head * dim;
            let query = &layer.qkv[start..][..dim];
            let chunks = out.chunks_mut(R * chunk_words);
            for (x, out) in query.chunks(LANES).zip(chunks) {
                let mut scaled = [0.0; LANES];
                for (scaled, x) in scaled.iter_mut().zip(x) {
                    *scaled = x * scale;
                }
                let out = &mut out[r * chunk_words..][..words_of::<W>(x.len())];
                // SAFETY: the caller's promise.
                unsafe { W::pack::<V>(&scaled[..x.len()], out) };
            }
            // Each is read once, far from the one before it: those of the
            // piece after this one.
            let later = query.as_ptr().wrapping_add(R * stride);
            for i in (0..dim).step_by(LANES) {
                V::prefetch(later.wrapping_add(i).cast());
            }
        }
    }

    /// Scores of all rows with all keys of the `b`-th block of a span, as bits.
    ///
    /// # Safety
    /// The set of `V` must be there; `queries` as they are laid out.
    #[inline(always)]
    pub(super) unsafe fn score<V: Vector, W: Words, const R: usize>(
        self,
        layer: Layer<'_>,
        queries: &[u32],
        (b, block): (usize, u32),
        ahead: Next,
        scores: &mut [[u32; SPAN]; R],
    ) {
        // SAFETY: the set, the cache and the queries are the caller's promise;
        // a block of scores is two vectors.
        unsafe {
            let keys = layer.words(Cache::Keys, block, self.head);
            let steps = keys.len() / PANEL;
            let ahead = ahead.in_steps(steps);
            let mut sums = [[V::splat(0.0); 2]; R];
            let queries = (queries.as_ptr(), LANES / W::IN_WORD);
            multiply_chunks::<V, W, R>(queries, keys.as_ptr(), steps, ahead, &mut sums);
            for (sum, scores) in sums.into_iter().zip(scores) {
                let scores = scores[b * BLOCK..][..BLOCK].as_mut_ptr().cast::<f32>();
                sum[0].store(scores);
                sum[1].store(scores.add(LANES));
            }
        }
    }

    /// Adds the values of blocks of a span, weighted, to the outputs, which are
    /// shrunk first: `seen` of them to the first row, and one more to each
    /// further row. `ahead` says what to ask for during each block.
    ///
    /// # Safety
    /// The set of `V` must be there; `weights` as [`weigh_rows`] leaves them,
    /// from the first of the blocks on, the rows [`SPAN`] words apart.
    #[inline(always)]
    pub(super) unsafe fn add_values<'o, V: Vector, W: Words, const R: usize>(
        self,
        layer: Layer<'_>,
        (blocks, ahead): (&[u32], impl Fn(usize) -> Next),
        weights: *const u32,
        (shrinks, seen): ([f32; R], isize),
        out: impl Fn(usize) -> &'o mut [f32],
    ) {
        let (panels, block_steps) = (panels(layer.heads.dim), BLOCK / W::IN_WORD);
        let block_words = words_of::<W>(BLOCK);
        for panel in 0..panels {
            let start = panel * PANEL;
            // SAFETY: the set is the caller's promise; weights and panels have
            // `block_steps` steps a block.
            unsafe {
                let mut sums = [[V::splat(0.0); 2]; R];
                for (r, sum) in sums.iter_mut().enumerate() {
                    let before = load_two::<V>(&out(r)[start..]);
                    let shrink = V::splat(shrinks[r]);
                    *sum = [before[0].mul(shrink), before[1].mul(shrink)];
                }
                for (b, &block) in blocks.iter().enumerate() {
                    let values = layer.words(Cache::Values, block, self.head);
                    let values = &values[panel * block_steps * PANEL..][..block_steps * PANEL];
                    let x = weights.add(b * block_words);
                    let ahead = ahead(b).in_steps(panels * block_steps);
                    let ahead = ahead.after(panel * block_steps);
                    // What all rows see, and what the last one sees.
                    let seen = seen - (b * BLOCK) as isize;
                    let all = seen.clamp(0, BLOCK as isize) as usize / W::IN_WORD;
                    let last = (seen + R as isize - 1).clamp(0, BLOCK as isize) as usize;
                    multiply::<V, W, R>((x, SPAN), values.as_ptr(), all, ahead, &mut sums);
                    for i in all..last.div_ceil(W::IN_WORD) {
                        for (r, sum) in sums.iter_mut().enumerate() {
                            // A row that doesn't see it must not even add 0 of it.
                            let seen = seen + r as isize - (i * W::IN_WORD) as isize;
                            if seen > 0 {
                                let both = seen >= W::IN_WORD as isize;
                                let step = W::load::<V>(values.as_ptr().add(i * PANEL), both);
                                *sum = W::add(*sum, x.add(r * SPAN + i * W::INPUT_WORDS), step);
                            }
                        }
                    }
                }
                for (r, sum) in sums.into_iter().enumerate() {
                    store_two(sum, &mut out(r)[start..]);
                }
            }
        }
    }

    /// The keys that are read after the `b`-th block's values: those of the
    /// span after it or, after the last, of the next head.
    #[inline(always)]
    fn next_keys(
        self,
        layer: Layer<'_>,
        (span, ahead): (&[u32], Option<&[u32]>),
        b: usize,
    ) -> Next {
        let (block, head) = match ahead {
            Some(ahead) => (ahead[b.min(ahead.len() - 1)], self.head),
            None => (span[b], (self.head + 1).min(layer.heads.count - 1)),
        };
        Next::new(layer.place(Cache::Keys, block, head))
    }
}

/// One head's keys or values of a block, to be asked for while others are used.
#[derive(Clone, Copy)]
pub(super) struct Next {
    from: *const u32,
    /// Words.
    len: usize,
}

impl Next {
    #[inline(always)]
    pub fn new((from, len): (*const u32, usize)) -> Self {
        Self { from, len }
    }

    /// Nothing that isn't there already.
    #[inline(always)]
    pub fn nothing(there: &[u32]) -> Self {
        Self {
            from: there.as_ptr(),
            len: 0,
        }
    }

    /// Asks for them evenly, in so many steps.
    #[inline(always)]
    fn in_steps(self, steps: usize) -> Ahead {
        Ahead {
            from: self.from.cast(),
            stride: self.len * size_of::<u32>() / steps,
        }
    }
}

/// Turns the rows' scores of a span of some blocks into weights relative to
/// the highest score so far, as they meet the values: of the first row `seen`
/// and of each further row one more. Returns what the sums of the spans before
/// are to be multiplied by.
///
/// # Safety
/// The set of `V` must be there.
#[inline(always)]
unsafe fn weigh_rows<V: Vector, W: Words, const R: usize>(
    scores: &mut [[u32; SPAN]; R],
    blocks: usize,
    seen: isize,
    online: &mut [Online; R],
) -> [f32; R] {
    let mut shrinks = [1.0; R];
    for (r, scores) in scores.iter_mut().enumerate() {
        let seen = seen + r as isize;
        if seen > 0 {
            let scores = &mut scores[..blocks * BLOCK];
            // SAFETY: the caller's promise.
            shrinks[r] = unsafe { weigh::<V, W>(scores, seen as usize, &mut online[r]) };
        }
    }
    shrinks
}

/// [`weigh_rows`] for one row.
///
/// # Safety
/// The set of `V` must be there.
#[inline(always)]
pub(super) unsafe fn weigh<V: Vector, W: Words>(
    scores: &mut [u32],
    seen: usize,
    online: &mut Online,
) -> f32 {
    // Beyond the row's own position: perhaps other sequences' keys.
    if seen < scores.len() {
        scores[seen..].fill(f32::NEG_INFINITY.to_bits());
    }
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for scores in scores.as_chunks::<LANES>().0 {
        for (lane, &score) in lanes.iter_mut().zip(scores) {
            *lane = higher(*lane, f32::from_bits(score));
        }
    }
    let highest = higher(online.highest, by_halves(lanes, higher));
    let shrink = exp_negative(online.highest - highest);
    lanes = [0.0; LANES];
    for i in 0..scores.len() / LANES {
        let mut weights = [0.0; LANES];
        for (weight, &score) in weights.iter_mut().zip(&scores[i * LANES..]) {
            *weight = exp_negative(f32::from_bits(score) - highest);
        }
        for (lane, weight) in lanes.iter_mut().zip(weights) {
            *lane += weight;
        }
        // They take no more room than the scores, which have been read.
        let words = words_of::<W>(LANES);
        // SAFETY: the caller's promise.
        unsafe { W::pack::<V>(&weights, &mut scores[i * words..][..words]) };
    }
    *online = Online {
        highest,
        total: f32::mul_add(online.total, shrink, by_halves(lanes, |a, b| a + b)),
    };
    shrink
}

#[inline(always)]
fn higher(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}
