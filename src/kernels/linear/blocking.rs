//! Which part of a product is computed when, and by whom: rows in groups that
//! fit the registers, weights in chunks that fit the caches.
//!
//! None of it changes a result: an output is always the same running sum.

use super::bf16::Bf16;
use super::f32::F32;
use super::format::{Ahead, CHUNK, Format};
use super::pack::{packed_len, panels};
use super::q4::Q4;
use super::q8::Q8;
use super::{PANEL, Precision};
use crate::kernels::SharedMut;
use crate::kernels::activation::{self, Function};
use crate::kernels::isa::{Isa, dispatch};
use crate::kernels::layer_norm::Norm;
use crate::kernels::pool;
use crate::kernels::vector::{Vector, load_two, store_two};

/// A linear layer to compute.
#[derive(Clone, Copy)]
pub struct Linear<'a> {
    /// Inputs, `[rows, k]`.
    pub x: &'a [f32],
    /// Packed weights, [`packed_len`] bytes.
    pub weight: &'a [u8],
    /// How the weights are packed.
    pub precision: Precision,
    /// What happens to the inputs first.
    pub norm: Option<Norm<'a>>,
    /// Added to every row, `[n]`.
    pub bias: Option<&'a [f32]>,
    /// What happens to the products.
    pub then: Then,
    /// Inputs per row.
    pub k: usize,
    /// Outputs per row.
    pub n: usize,
}

/// What a linear layer does with its products, after their bias.
#[derive(Debug, Clone, Copy)]
pub enum Then {
    /// They are the outputs.
    Store,
    /// The outputs are an activation of them.
    Activate(Function),
    /// They are added to what the outputs were.
    Add,
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
    let Linear { x, k, n, .. } = layer;
    assert!(
        k > 0 && n > 0 && x.len().is_multiple_of(k),
        "inputs are not [rows, {k}]"
    );
    let expected = packed_len(layer.precision, k, n);
    assert_eq!(layer.weight.len(), expected, "packed weights");
    assert_eq!(y.len(), x.len() / k * n, "outputs");
    assert!(layer.bias.is_none_or(|b| b.len() == n), "bias");
    let fits = |norm: Norm<'_>| norm.weight.len() == k && norm.bias.len() == k;
    assert!(layer.norm.is_none_or(fits), "norm");
    match layer.precision {
        Precision::F32 => run::<F32>(isa, layer, scratch, y),
        Precision::Bf16 => run::<Bf16>(isa.with_bf16_products(), layer, scratch, y),
        Precision::Q8 => run::<Q8>(isa.with_byte_products(), layer, scratch, y),
        Precision::Q4 => run::<Q4>(isa.with_byte_products(), layer, scratch, y),
    }
}

/// One product, cut into tasks.
#[derive(Clone, Copy)]
struct Plan<'a> {
    layer: Linear<'a>,
    rows: usize,
    /// Rows in a group at most.
    group: usize,
    /// Steps of a sum.
    steps: usize,
    /// Rows of a task, a multiple of `group`.
    task_rows: usize,
    /// Panels of a task.
    task_panels: usize,
}

/// Rows of a task: while they pass by, a panel stays in the second cache.
const TASK_ROWS: usize = 96;
/// Products of a task at most, unless a panel has more: about a quarter of a
/// millisecond in f32. The threads that are done wait for the last task.
const TASK_PRODUCTS: usize = 1 << 24;
/// Inputs worth laying out on several threads.
const PARALLEL_INPUTS: usize = 8 << 10;

impl<'a> Plan<'a> {
    fn new<F: Format>(layer: Linear<'a>, group: usize) -> Self {
        let rows = layer.x.len() / layer.k;
        let task_rows = TASK_ROWS.next_multiple_of(group);
        let row_tasks = rows.div_ceil(task_rows).max(1);
        // A few tasks per thread: enough to even out, few enough to fork.
        let panel_tasks = (4 * pool::threads()).div_ceil(row_tasks);
        let products = task_rows.min(rows) * layer.k * PANEL;
        let most_panels = (TASK_PRODUCTS / products.max(1)).max(1);
        Self {
            layer,
            rows,
            group,
            steps: layer.k.div_ceil(F::STEP),
            task_rows,
            task_panels: panels(layer.n).div_ceil(panel_tasks).min(most_panels),
        }
    }

    /// Words of a row's inputs as they are laid out.
    #[inline(always)]
    fn row_words<F: Format>(&self) -> usize {
        self.layer.k.div_ceil(CHUNK) * F::CHUNK_WORDS
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

fn run<F: Tasks>(isa: Isa, layer: Linear<'_>, scratch: &mut Vec<u32>, y: &mut [f32]) {
    let plan = Plan::new::<F>(layer, F::group_size(isa));
    if plan.rows == 0 {
        return;
    }
    let row_words = plan.row_words::<F>();
    // Only ever longer: what lies there need not be zero.
    if scratch.len() < plan.rows * row_words {
        scratch.resize(plan.rows * row_words, 0);
    }
    let scratch = &mut scratch[..plan.rows * row_words];
    let task_rows = if layer.x.len() < PARALLEL_INPUTS {
        plan.rows
    } else {
        plan.group
    };
    pool::for_each_chunk(scratch, task_rows * row_words, |i, out| {
        F::pack_on(isa, plan, i * task_rows, out);
    });
    let (x, out) = (&*scratch, SharedMut(y.as_mut_ptr()));
    let panel_tasks = panels(layer.n).div_ceil(plan.task_panels);
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
    fn pack_on(isa: Isa, plan: Plan<'_>, first: usize, out: &mut [u32]);
    fn multiply_on(isa: Isa, plan: Plan<'_>, x: &[u32], task: Task, out: SharedMut);
}

macro_rules! tasks {
    ($format:ident, $extra:literal) => {
        impl Tasks for $format {
            fn group_size(isa: Isa) -> usize {
                dispatch!($extra, isa, group_size[$format]() -> usize)
            }
            fn pack_on(isa: Isa, plan: Plan<'_>, first: usize, out: &mut [u32]) {
                dispatch!($extra, isa, pack[$format](
                    plan: Plan<'_>, first: usize, out: &mut [u32]
                ));
            }
            fn multiply_on(isa: Isa, plan: Plan<'_>, x: &[u32], task: Task, out: SharedMut) {
                dispatch!($extra, isa, multiply[$format](
                    plan: Plan<'_>, x: &[u32], task: Task, out: SharedMut
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

/// Lays out the inputs of rows from `first` on, a multiple of the group, as many
/// as `out` has room for.
///
/// # Safety
/// The set of `V` must be there.
#[inline(always)]
unsafe fn pack<V: Vector, F: Format>(plan: Plan<'_>, first: usize, out: &mut [u32]) {
    let row_words = plan.row_words::<F>();
    let last = first + out.len() / row_words;
    for (start, size) in plan.groups(first, last) {
        let group = &mut out[(start - first) * row_words..][..size * row_words];
        for r in 0..size {
            let first = &mut group[r * F::CHUNK_WORDS..];
            // SAFETY: the caller's promise.
            unsafe { pack_row::<V, F>(&plan.layer, start + r, first, size) };
        }
    }
}

/// Normalises a row's inputs and lays them out in every `size`-th chunk of
/// `out`, those beyond `k` as zeros.
///
/// # Safety
/// The set of `V` must be there.
#[inline(always)]
unsafe fn pack_row<V: Vector, F: Format>(
    layer: &Linear<'_>,
    row: usize,
    out: &mut [u32],
    size: usize,
) {
    let x = &layer.x[row * layer.k..][..layer.k];
    let norm = layer.norm.map(|norm| (norm, norm.moments(x)));
    let chunks = out.chunks_mut(size * F::CHUNK_WORDS);
    for (i, (x, out)) in x.chunks(CHUNK).zip(chunks).enumerate() {
        let out = &mut out[..F::CHUNK_WORDS];
        // SAFETY: the caller's promise.
        unsafe {
            let mut values = load_two::<V>(x);
            if let Some((norm, moments)) = norm {
                values = norm.apply(moments, i * CHUNK, values);
            }
            F::pack_chunk(values, out);
        }
    }
}

/// One task of a plan.
///
/// # Safety
/// The set of `V` must be there; `out` must hold `[rows, n]`, and no other
/// thread may touch this task's rows and columns of it.
#[inline(always)]
unsafe fn multiply<V: Vector, F: Format>(plan: Plan<'_>, x: &[u32], task: Task, out: SharedMut) {
    let first_row = task.row * plan.task_rows;
    let last_row = (first_row + plan.task_rows).min(plan.rows);
    let first_panel = task.panel * plan.task_panels;
    let last_panel = (first_panel + plan.task_panels).min(panels(plan.layer.n));
    let groups = (last_row - first_row).div_ceil(plan.group);
    for panel in first_panel..last_panel {
        for (g, (row, size)) in plan.groups(first_row, last_row).enumerate() {
            let tile = Tile {
                panel,
                row,
                part: (g, groups),
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

/// One group of rows against one panel.
#[derive(Clone, Copy)]
struct Tile {
    panel: usize,
    row: usize,
    /// Which of how many groups read this panel: each asks for its part of
    /// the next panel, so that memory is read at an even pace.
    part: (usize, usize),
}

impl Tile {
    /// # Safety
    /// As [`multiply`].
    #[inline(always)]
    unsafe fn run<V: Vector, F: Format, const R: usize>(
        self,
        plan: Plan<'_>,
        x: &[u32],
        out: SharedMut,
    ) {
        let Self { panel, row, part } = self;
        let Plan { layer, steps, .. } = plan;
        let row_words = plan.row_words::<F>();
        let x = &x[row * row_words..][..R * row_words];
        let w = &layer.weight[panel * steps * F::STEP_BYTES..][..steps * F::STEP_BYTES];
        let start = panel * PANEL;
        let width = PANEL.min(layer.n - start);
        // SAFETY: the set is the caller's promise, the lengths of `x` and `w`
        // are those asked for; rows `row..row + R` and columns
        // `start..start + width` lie in `[rows, n]`, and no other thread
        // touches them.
        unsafe {
            let mut sums = [[V::splat(0.0); 2]; R];
            let ahead = ahead::<F>(w, part);
            F::multiply::<V, R>(x.as_ptr(), w.as_ptr(), steps, ahead, &mut sums);
            for (r, sum) in sums.into_iter().enumerate() {
                let y = out.slice((row + r) * layer.n + start, width);
                finish(&layer, start, sum, y);
            }
        }
    }
}

/// What to ask for while the panel `w` is used: panels lie one after another.
#[inline(always)]
fn ahead<F: Format>(w: &[u8], (g, groups): (usize, usize)) -> Ahead {
    if groups == 1 {
        // The panel itself comes from memory as it is read.
        return Ahead::nothing(w.as_ptr());
    }
    Ahead {
        from: w.as_ptr_range().end.wrapping_add(g * (w.len() / groups)),
        stride: F::STEP_BYTES / groups,
    }
}

/// One row's products with a panel become outputs, the columns from `start` on.
///
/// # Safety
/// The set of `V` must be there.
#[inline(always)]
unsafe fn finish<V: Vector>(layer: &Linear<'_>, start: usize, mut sum: [V; 2], y: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe {
        if let Some(bias) = layer.bias {
            sum = add(sum, load_two(&bias[start..]));
        }
        if matches!(layer.then, Then::Add) {
            sum = add(load_two(y), sum);
        }
        store_two(sum, y);
    }
    if let Then::Activate(function) = layer.then {
        // The usual width as a constant: compilers unroll it.
        match y.first_chunk_mut::<PANEL>() {
            Some(whole) => activation::map(function, whole),
            None => activation::map(function, y),
        }
    }
}

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
