//! Which part of a product is computed when, and by whom: rows in groups that
//! fit the registers, weights in chunks that fit the caches.
//!
//! None of it changes a result: an output is always the same running sum.

use std::ops::Range;

use super::bf16::Bf16;
use super::f32::F32;
use super::format::{CHUNK, Format};
use super::pack::{packed_len, panels};
use super::q4::Q4;
use super::q8::Q8;
use super::tile::{Out, Tile};
use super::{PANEL, Precision};
use crate::kernels::SharedMut;
use crate::kernels::activation::Function;
use crate::kernels::isa::{Isa, dispatch};
use crate::kernels::layer_norm::Norm;
use crate::kernels::pool;
use crate::kernels::vector::{Vector, load_two};

/// A packed layer.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    /// Packed weights, [`packed_len`] bytes.
    pub weight: &'a [u8],
    /// How the weights are packed.
    pub precision: Precision,
    /// Added to every row, `[n]`.
    pub bias: Option<&'a [f32]>,
    /// Inputs per row.
    pub k: usize,
    /// Outputs per row.
    pub n: usize,
}

/// Inputs of a layer.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// Values, `[rows, k]`.
    pub x: &'a [f32],
    /// What happens to them first.
    pub norm: Option<Norm<'a>>,
}

/// A linear layer to compute.
#[derive(Clone, Copy)]
pub struct Linear<'a> {
    /// What is multiplied.
    pub inputs: Inputs<'a>,
    /// What with.
    pub matrix: Matrix<'a>,
    /// What happens to the products.
    pub then: Then,
}

/// What a linear layer does with its products, after their bias.
#[derive(Debug, Clone, Copy)]
pub enum Then {
    /// They are the outputs.
    Store,
    /// They are added to what the outputs were.
    Add,
}

/// The second half of a transformer block to compute: two layers of the same
/// precision. What is between them is never stored as floats: it is laid out
/// as the second layer reads it.
#[derive(Clone, Copy)]
pub struct Mlp<'a> {
    /// What happens to the inputs first.
    pub norm: Option<Norm<'a>>,
    /// The first layer, `[k → n]`.
    pub c_fc: Matrix<'a>,
    /// What its outputs go through.
    pub activation: Option<Function>,
    /// The second layer, `[n → k]`.
    pub c_proj: Matrix<'a>,
}

/// Computes `y[rows, n]` from norm(x)·W + bias on the threads of the pool. `scratch`
/// takes the inputs as the kernels read them, and keeps its memory.
///
/// # Panics
/// If the slices' lengths don't fit each other.
pub fn linear(layer: Linear<'_>, scratch: &mut Vec<u32>, y: &mut [f32]) {
    linear_with(Isa::current(), layer, scratch, y);
}

/// [`linear`] with a given instruction set, one of [`Isa::available`].
pub fn linear_with(isa: Isa, layer: Linear<'_>, scratch: &mut Vec<u32>, y: &mut [f32]) {
    layer.matrix.check();
    run(isa, layer.matrix.precision, layer, scratch, y);
}

/// Adds to `x[rows, k]` what the layers make of norm(x); each is computed as by
/// [`linear`].
///
/// # Panics
/// If the slices' lengths or the layers don't fit each other.
pub fn mlp(layers: Mlp<'_>, scratch: &mut Vec<u32>, x: &mut [f32]) {
    mlp_with(Isa::current(), layers, scratch, x);
}

/// [`mlp`] with a given instruction set, one of [`Isa::available`].
pub fn mlp_with(isa: Isa, layers: Mlp<'_>, scratch: &mut Vec<u32>, x: &mut [f32]) {
    let Mlp { c_fc, c_proj, .. } = layers;
    c_fc.check();
    c_proj.check();
    assert_eq!((c_fc.k, c_fc.n), (c_proj.n, c_proj.k), "the layers' shapes");
    assert_eq!(c_fc.precision, c_proj.precision, "precisions");
    run(isa, c_fc.precision, layers, scratch, x);
}

/// What is computed in one precision.
trait Product {
    fn run<F: Tasks>(self, isa: Isa, scratch: &mut Vec<u32>, y: &mut [f32]);
}

fn run(
    isa: Isa,
    precision: Precision,
    product: impl Product,
    scratch: &mut Vec<u32>,
    y: &mut [f32],
) {
    match precision {
        Precision::F32 => product.run::<F32>(isa, scratch, y),
        Precision::Bf16 => product.run::<Bf16>(isa.with_bf16_products(), scratch, y),
        Precision::Q8 => product.run::<Q8>(isa.with_byte_products(), scratch, y),
        Precision::Q4 => product.run::<Q4>(isa.with_byte_products(), scratch, y),
    }
}

impl Matrix<'_> {
    fn check(&self) {
        let Self { k, n, .. } = *self;
        assert!(k > 0 && n > 0, "a layer of {k} inputs and {n} outputs");
        let expected = packed_len(self.precision, k, n);
        assert_eq!(self.weight.len(), expected, "packed weights");
        assert!(self.bias.is_none_or(|b| b.len() == n), "bias");
    }
}

impl Inputs<'_> {
    /// Rows of `k` inputs each.
    fn rows(&self, k: usize) -> usize {
        let Self { x, norm } = *self;
        assert!(
            k > 0 && x.len().is_multiple_of(k),
            "inputs are not [rows, {k}]"
        );
        let fits = |norm: Norm<'_>| norm.weight.len() == k && norm.bias.len() == k;
        assert!(norm.is_none_or(fits), "norm");
        x.len() / k
    }
}

/// One product, cut into tasks.
#[derive(Clone, Copy)]
pub struct Plan<'a> {
    pub matrix: Matrix<'a>,
    pub rows: usize,
    /// Rows in a group at most.
    group: usize,
    /// Steps of a sum.
    pub steps: usize,
    /// Rows of a task, a multiple of `group`.
    task_rows: usize,
    /// Panels of a task.
    task_panels: usize,
}

/// Rows of a task: while they pass by, a panel stays in the second cache.
const TASK_ROWS: usize = 96;
/// Tasks of a thread at least, if there are enough panels: enough of them that
/// none waits long for another at the end.
const TASKS: usize = 16;
/// Products of a task at most, unless a panel has more: about a quarter of a
/// millisecond in f32.
const TASK_PRODUCTS: usize = 1 << 24;
/// Inputs worth laying out on several threads.
const PARALLEL_INPUTS: usize = 8 << 10;

impl<'a> Plan<'a> {
    fn new<F: Format>(matrix: Matrix<'a>, rows: usize, group: usize) -> Self {
        let task_rows = TASK_ROWS.next_multiple_of(group);
        let row_tasks = rows.div_ceil(task_rows).max(1);
        let panel_tasks = (TASKS * pool::threads()).div_ceil(row_tasks);
        let products = task_rows.min(rows) * matrix.k * PANEL;
        let most_panels = (TASK_PRODUCTS / products.max(1)).max(1);
        Self {
            matrix,
            rows,
            group,
            steps: matrix.k.div_ceil(F::STEP),
            task_rows,
            task_panels: panels(matrix.n).div_ceil(panel_tasks).min(most_panels),
        }
    }

    /// Words of a row's inputs as they are laid out.
    #[inline(always)]
    pub fn row_words<F: Format>(&self) -> usize {
        self.matrix.k.div_ceil(CHUNK) * F::CHUNK_WORDS
    }

    /// Words of all rows' inputs.
    fn words<F: Format>(&self) -> usize {
        self.rows * self.row_words::<F>()
    }

    /// The groups of rows `first..last`: the first row and the size of each.
    /// They are the same for every cut at a multiple of `group`.
    #[inline(always)]
    fn groups(&self, first: usize, last: usize) -> impl Iterator<Item = (usize, usize)> {
        let group = self.group;
        let mut row = first;
        std::iter::from_fn(move || {
            let size = match group.min(last - row) {
                12.. => 12,
                8.. => 8,
                6.. => 6,
                size => size.min(4),
            };
            let start = row;
            row += size;
            (size > 0).then_some((start, size))
        })
    }
}

impl Product for Linear<'_> {
    fn run<F: Tasks>(self, isa: Isa, scratch: &mut Vec<u32>, y: &mut [f32]) {
        let Self { inputs, matrix, .. } = self;
        let rows = inputs.rows(matrix.k);
        assert_eq!(y.len(), rows * matrix.n, "outputs");
        let plan = Plan::new::<F>(matrix, rows, F::group_size(isa));
        let x = room(scratch, plan.words::<F>());
        pack_all::<F>(isa, plan, inputs, x);
        let y = SharedMut(y.as_mut_ptr());
        let out = match self.then {
            Then::Store => Out::Store(y),
            Then::Add => Out::Add(y),
        };
        multiply_all::<F>(isa, plan, x, out);
    }
}

impl Product for Mlp<'_> {
    fn run<F: Tasks>(self, isa: Isa, scratch: &mut Vec<u32>, x: &mut [f32]) {
        let inputs = Inputs {
            x: &*x,
            norm: self.norm,
        };
        let rows = inputs.rows(self.c_fc.k);
        // Both have the same groups of rows.
        let plan = |matrix| Plan::new::<F>(matrix, rows, F::group_size(isa));
        let (c_fc, c_proj) = (plan(self.c_fc), plan(self.c_proj));
        let words = c_fc.words::<F>();
        let (packed, inner) = room(scratch, words + c_proj.words::<F>()).split_at_mut(words);
        pack_all::<F>(isa, c_fc, inputs, packed);
        let between = Out::Inputs(SharedMut(inner.as_mut_ptr()), self.activation);
        multiply_all::<F>(isa, c_fc, packed, between);
        multiply_all::<F>(isa, c_proj, inner, Out::Add(SharedMut(x.as_mut_ptr())));
    }
}

/// Room for so many words, which need not be zero.
fn room(scratch: &mut Vec<u32>, words: usize) -> &mut [u32] {
    // Only ever longer.
    if scratch.len() < words {
        scratch.resize(words, 0);
    }
    &mut scratch[..words]
}

fn pack_all<F: Tasks>(isa: Isa, plan: Plan<'_>, inputs: Inputs<'_>, out: &mut [u32]) {
    let rows = if inputs.x.len() < PARALLEL_INPUTS {
        plan.rows
    } else {
        // Not by groups, of which there may be one.
        plan.rows.div_ceil(TASKS * pool::threads())
    }
    .max(1);
    let out = SharedMut(out.as_mut_ptr());
    pool::run(plan.rows.div_ceil(rows), |i| {
        let last = plan.rows.min((i + 1) * rows);
        F::pack_on(isa, plan, inputs, i * rows..last, out);
    });
}

fn multiply_all<F: Tasks>(isa: Isa, plan: Plan<'_>, x: &[u32], out: Out) {
    let panel_tasks = panels(plan.matrix.n).div_ceil(plan.task_panels);
    let row_tasks = plan.rows.div_ceil(plan.task_rows);
    pool::run(panel_tasks * row_tasks, |task| {
        let (panel, row) = (task / row_tasks, task % row_tasks);
        F::multiply_on(isa, plan, x, Task { panel, row }, out);
    });
}

/// Which part of a plan.
#[derive(Clone, Copy)]
struct Task {
    panel: usize,
    row: usize,
}

/// The kernels of a format, compiled for each instruction set.
trait Tasks: Format {
    fn group_size(isa: Isa) -> usize;
    fn pack_on(
        isa: Isa,
        plan: Plan<'_>,
        inputs: Inputs<'_>,
        rows: Range<usize>,
        out: SharedMut<u32>,
    );
    fn multiply_on(isa: Isa, plan: Plan<'_>, x: &[u32], task: Task, out: Out);
}

macro_rules! tasks {
    ($format:ident, $extra:literal) => {
        impl Tasks for $format {
            fn group_size(isa: Isa) -> usize {
                dispatch!($extra, isa, group_size[$format]() -> usize)
            }
            fn pack_on(
                isa: Isa,
                plan: Plan<'_>,
                inputs: Inputs<'_>,
                rows: Range<usize>,
                out: SharedMut<u32>,
            ) {
                dispatch!($extra, isa, pack[$format](
                    plan: Plan<'_>, inputs: Inputs<'_>, rows: Range<usize>, out: SharedMut<u32>
                ));
            }
            fn multiply_on(isa: Isa, plan: Plan<'_>, x: &[u32], task: Task, out: Out) {
                dispatch!($extra, isa, multiply[$format](
                    plan: Plan<'_>, x: &[u32], task: Task, out: Out
                ));
            }
        }
    };
}
tasks!(F32, "avx512f");
tasks!(Bf16, "avx512bf16");
tasks!(Q8, "avx512vnni");
tasks!(Q4, "avx512vnni");

/// # Safety
/// None of its own: unsafe only because every dispatched kernel is.
#[inline(always)]
unsafe fn group_size<V: Vector, F: Format>() -> usize {
    F::rows::<V>()
}

/// Lays out the inputs of some rows.
///
/// # Safety
/// The set of `V` must be there; `out` must hold all rows' inputs, and no other
/// thread may touch those of these rows.
#[inline(always)]
unsafe fn pack<V: Vector, F: Format>(
    plan: Plan<'_>,
    inputs: Inputs<'_>,
    rows: Range<usize>,
    out: SharedMut<u32>,
) {
    let (k, row_words) = (plan.matrix.k, plan.row_words::<F>());
    for (start, size) in plan.groups(0, plan.rows) {
        for row in rows.start.max(start)..rows.end.min(start + size) {
            let x = &inputs.x[row * k..][..k];
            let first = start * row_words + (row - start) * F::CHUNK_WORDS;
            // SAFETY: passed on from the caller; a group's rows lie chunk by
            // chunk, those of a row `size` chunks apart.
            unsafe { pack_row::<V, F>(x, inputs.norm, (first, size * F::CHUNK_WORDS), out) };
        }
    }
}

/// Normalises a row's inputs and lays them out in chunks from the word `first`
/// on, `stride` words apart, those beyond the row as zeros.
///
/// # Safety
/// The set of `V` must be there, and the chunks in `out`; no other thread may
/// touch them.
#[inline(always)]
unsafe fn pack_row<V: Vector, F: Format>(
    x: &[f32],
    norm: Option<Norm<'_>>,
    (first, stride): (usize, usize),
    out: SharedMut<u32>,
) {
    let norm = norm.map(|norm| (norm, norm.moments(x)));
    for (i, x) in x.chunks(CHUNK).enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            let mut values = load_two::<V>(x);
            if let Some((norm, moments)) = norm {
                values = norm.apply(moments, i * CHUNK, values);
            }
            F::pack_chunk(values, out.slice(first + i * stride, F::CHUNK_WORDS));
        }
    }
}

/// One task of a plan.
///
/// # Safety
/// The set of `V` must be there; `out` must have room for all rows, and no
/// other thread may touch this task's rows and columns of it.
#[inline(always)]
unsafe fn multiply<V: Vector, F: Format>(plan: Plan<'_>, x: &[u32], task: Task, out: Out) {
    let first_row = task.row * plan.task_rows;
    let last_row = (first_row + plan.task_rows).min(plan.rows);
    let first_panel = task.panel * plan.task_panels;
    let last_panel = (first_panel + plan.task_panels).min(panels(plan.matrix.n));
    for panel in first_panel..last_panel {
        for (row, size) in plan.groups(first_row, last_row) {
            let tile = Tile {
                panel,
                row,
                part: (row - first_row, last_row - first_row),
            };
            // SAFETY: passed on from the caller.
            unsafe {
                match size {
                    12 => tile.run::<V, F, 12>(plan, x, out),
                    8 => tile.run::<V, F, 8>(plan, x, out),
                    6 => tile.run::<V, F, 6>(plan, x, out),
                    4 => tile.run::<V, F, 4>(plan, x, out),
                    3 => tile.run::<V, F, 3>(plan, x, out),
                    2 => tile.run::<V, F, 2>(plan, x, out),
                    _ => tile.run::<V, F, 1>(plan, x, out),
                }
            }
        }
    }
}
