//! A tile of a product: one group of rows against one panel, and what becomes
//! of their sums.

use super::PANEL;
use super::blocking::Plan;
use super::format::{Ahead, CHUNK, Format, MANY_ROWS};
use super::pack::panels;
use crate::kernels::SharedMut;
use crate::kernels::activation::{self, Function};
use crate::kernels::vector::{Vector, load_two, store_two};

/// A panel's outputs are a chunk of the next layer's inputs.
const _: () = assert!(PANEL == CHUNK);

/// Where products go, after their bias.
#[derive(Clone, Copy)]
pub enum Out {
    /// They are the outputs, `[rows, n]`.
    Store(SharedMut),
    /// They are added to what the outputs were, `[rows, n]`.
    Add(SharedMut),
    /// They go through an activation and are laid out as inputs of a layer of
    /// the same precision, in the same groups of rows.
    Inputs(SharedMut<u32>, Option<Function>),
}

/// One group of rows against one panel.
#[derive(Clone, Copy)]
pub struct Tile {
    pub panel: usize,
    pub row: usize,
    /// How many rows went before these, and how many there are, for which
    /// this panel is read: each asks for its part of the next panel, so that
    /// memory is read at an even pace.
    pub part: (usize, usize),
}

impl Tile {
    /// Computes a group of `R` rows.
    ///
    /// # Safety
    /// The set of `V` must be there; `out` must have room for all rows, and no
    /// other thread may touch these rows and columns of it.
    #[inline(always)]
    pub unsafe fn run<V: Vector, F: Format, const R: usize>(
        self,
        plan: Plan<'_>,
        x: &[u32],
        out: Out,
    ) {
        let Self { panel, row, part } = self;
        let Plan { matrix, steps, .. } = plan;
        let row_words = plan.row_words::<F>();
        let x = &x[row * row_words..][..R * row_words];
        let w = &matrix.weight[panel * steps * F::STEP_BYTES..][..steps * F::STEP_BYTES];
        // SAFETY: the set is the caller's promise, the lengths of `x` and `w`
        // are those asked for, and nobody else has this tile's outputs.
        unsafe {
            let mut sums = [[V::splat(0.0); 2]; R];
            F::multiply::<V, R>(
                x.as_ptr(),
                w.as_ptr(),
                steps,
                ahead::<F, R>(w, part),
                &mut sums,
            );
            if let Some(bias) = matrix.bias {
                let bias = load_two(&bias[panel * PANEL..]);
                for sum in &mut sums {
                    *sum = add(*sum, bias);
                }
            }
            match out {
                Out::Store(y) => self.finish(plan, sums, y, |sum, _| sum),
                Out::Add(y) => self.finish(plan, sums, y, |sum, y| add(load_two(y), sum)),
                Out::Inputs(words, activation) => {
                    self.lay_out::<V, F, R>(plan, sums, activation, words);
                }
            }
        }
    }

    /// Stores what `join` makes of each row's sums and the outputs as they were.
    ///
    /// # Safety
    /// As [`run`](Self::run); `y` must hold `[rows, n]`.
    #[inline(always)]
    unsafe fn finish<V: Vector, const R: usize>(
        self,
        plan: Plan<'_>,
        sums: [[V; 2]; R],
        y: SharedMut,
        join: impl Fn([V; 2], &[f32]) -> [V; 2],
    ) {
        let (start, n) = (self.panel * PANEL, plan.matrix.n);
        for (r, sum) in sums.into_iter().enumerate() {
            // SAFETY: rows `row..row + R` and the columns of a panel lie in
            // `[rows, n]`, and are the caller's.
            unsafe {
                let y = y.slice((self.row + r) * n + start, PANEL.min(n - start));
                store_two(join(sum, y), y);
            }
        }
    }

    /// Lays out activated sums as a chunk of the next layer's inputs.
    ///
    /// # Safety
    /// As [`run`](Self::run); `out` must hold the next layer's inputs.
    #[inline(always)]
    unsafe fn lay_out<V: Vector, F: Format, const R: usize>(
        self,
        plan: Plan<'_>,
        sums: [[V; 2]; R],
        activation: Option<Function>,
        out: SharedMut<u32>,
    ) {
        let n = plan.matrix.n;
        let row_words = panels(n) * F::CHUNK_WORDS;
        let first = self.row * row_words + self.panel * R * F::CHUNK_WORDS;
        let width = PANEL.min(n - self.panel * PANEL);
        let mut values = [[0.0; PANEL]; R];
        // SAFETY: the set is the caller's promise; a group's chunks lie one
        // after another, and those of this panel are the caller's.
        unsafe {
            for (sum, values) in sums.into_iter().zip(&mut values) {
                store_two(sum, values);
            }
            if let Some(function) = activation {
                activation::map(function, values.as_flattened_mut());
            }
            let out = out.slice(first, R * F::CHUNK_WORDS);
            for (values, out) in values.iter_mut().zip(out.chunks_mut(F::CHUNK_WORDS)) {
                // There are no such outputs, whatever the activation of 0 is.
                values[width..].fill(0.0);
                F::pack_chunk(load_two::<V>(values), out);
            }
        }
    }
}

/// How far ahead of its use a panel is asked for that nobody asked for before,
/// in bytes.
const DISTANCE: usize = 8192;

/// What to ask for while `R` of so many rows, with so many before them, use
/// the panel `w`: panels lie one after another.
#[inline(always)]
fn ahead<F: Format, const R: usize>(w: &[u8], (before, rows): (usize, usize)) -> Ahead {
    if R < rows {
        return Ahead {
            from: w.as_ptr_range().end.wrapping_add(before * (w.len() / rows)),
            stride: F::STEP_BYTES * R / rows,
        };
    }
    // The panel itself comes from memory. Processors look ahead far enough
    // where there is little to compute with each part of it.
    if R < MANY_ROWS {
        return Ahead::nothing(w.as_ptr());
    }
    Ahead {
        from: w.as_ptr().wrapping_add(DISTANCE),
        stride: F::STEP_BYTES,
    }
}

/// The sums of two vectors each.
///
/// # Safety
/// The set of `V` must be there.
#[inline(always)]
unsafe fn add<V: Vector>(a: [V; 2], b: [V; 2]) -> [V; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let one = V::splat(1.0);
        [a[0].fma(b[0], one), a[1].fma(b[1], one)]
    }
}
