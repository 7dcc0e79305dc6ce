//! `y = x·W + b` over packed weights, for one row or many.
//!
//! Each output element is one running sum over K in order, fused multiply-add,
//! so its bits don't depend on how many rows are computed together.

use rayon::prelude::*;

use super::SharedMut;
use super::isa::{Isa, dispatch};
use super::vector::{LANES, Vector};

/// Output columns in a panel. Packed weights are `[panels, K, PANEL]`, the
/// last panel filled up with zeros: a panel is read front to back, once per
/// group of rows.
pub const PANEL: usize = 2 * LANES;

/// The number of panels that `n` output columns take.
pub fn panels(n: usize) -> usize {
    n.div_ceil(PANEL)
}

/// Index of column `n`, input `k` in packed weights with `k_len` inputs.
pub fn packed_index(k: usize, n: usize, k_len: usize) -> usize {
    ((n / PANEL) * k_len + k) * PANEL + n % PANEL
}

/// A linear layer to compute.
#[derive(Clone, Copy)]
pub struct Linear<'a> {
    /// Inputs, `[rows, k]`.
    pub x: &'a [f32],
    /// Packed weights, `[panels(n), k, PANEL]`.
    pub weight: &'a [f32],
    /// Added to every row, `[n]`, if there is one.
    pub bias: Option<&'a [f32]>,
    /// Inputs per row.
    pub k: usize,
    /// Outputs per row.
    pub n: usize,
}

/// Computes `y[rows, n] = x·W + b` on the threads of the current pool.
///
/// # Panics
/// If the slices' lengths don't fit each other.
pub fn linear(layer: Linear<'_>, y: &mut [f32]) {
    linear_with(Isa::current(), layer, y);
}

/// [`linear`] with a given instruction set, one of [`Isa::available`].
pub fn linear_with(isa: Isa, layer: Linear<'_>, y: &mut [f32]) {
    let Linear {
        x,
        weight,
        bias,
        k,
        n,
    } = layer;
    assert!(
        k > 0 && n > 0 && x.len().is_multiple_of(k),
        "inputs are not [rows, {k}]"
    );
    assert_eq!(weight.len(), panels(n) * k * PANEL, "packed weights");
    assert_eq!(y.len(), x.len() / k * n, "outputs");
    assert!(bias.is_none_or(|b| b.len() == n), "bias");
    let out = SharedMut(y.as_mut_ptr());
    // A few runs of panels per thread: enough to even out, few enough to fork.
    let runs = (4 * rayon::current_num_threads()).min(panels(n));
    let run = panels(n).div_ceil(runs);
    (0..panels(n).div_ceil(run)).into_par_iter().for_each(|i| {
        let first = i * run;
        let last = (first + run).min(panels(n));
        dispatch!(isa, panel_run(layer: Linear<'_>, first: usize, last: usize, out: SharedMut));
    });
}

/// Panels `first..last` of all rows.
///
/// # Safety
/// The set of `V` must be there; `out` must hold `[rows, n]`, and no other
/// thread may touch the columns of these panels.
#[inline(always)]
unsafe fn panel_run<V: Vector>(layer: Linear<'_>, first: usize, last: usize, out: SharedMut) {
    let rows = layer.x.len() / layer.k;
    for panel in first..last {
        let mut row = 0;
        while row < rows {
            // SAFETY: passed on from the caller.
            row += unsafe {
                match V::ROWS.min(rows - row) {
                    12.. => rows_of::<V, 12>(layer, panel, row, out),
                    8.. => rows_of::<V, 8>(layer, panel, row, out),
                    4.. => rows_of::<V, 4>(layer, panel, row, out),
                    3 => rows_of::<V, 3>(layer, panel, row, out),
                    2 => rows_of::<V, 2>(layer, panel, row, out),
                    _ => rows_of::<V, 1>(layer, panel, row, out),
                }
            };
        }
    }
}

/// `R` rows from `row` on, against one panel; returns `R`.
///
/// # Safety
/// As [`panel_run`].
#[inline(always)]
unsafe fn rows_of<V: Vector, const R: usize>(
    layer: Linear<'_>,
    panel: usize,
    row: usize,
    out: SharedMut,
) -> usize {
    let Linear {
        x,
        weight,
        bias,
        k,
        n,
    } = layer;
    let weight = &weight[panel * k * PANEL..][..k * PANEL];
    let x: [&[f32]; R] = std::array::from_fn(|r| &x[(row + r) * k..][..k]);
    // SAFETY: the set is the caller's promise; every index is below the
    // lengths sliced above, and each store covers sixteen values of `tile`.
    let tile: [[f32; PANEL]; R] = unsafe {
        let mut sums = [[V::splat(0.0); 2]; R];
        for i in 0..k {
            let w = weight.as_ptr().add(i * PANEL);
            let w = [V::load(w), V::load(w.add(LANES))];
            for r in 0..R {
                let a = V::splat(*x[r].get_unchecked(i));
                sums[r][0] = sums[r][0].fma(a, w[0]);
                sums[r][1] = sums[r][1].fma(a, w[1]);
            }
        }
        let mut tile = [[0.0; PANEL]; R];
        for r in 0..R {
            sums[r][0].store(tile[r].as_mut_ptr());
            sums[r][1].store(tile[r].as_mut_ptr().add(LANES));
        }
        tile
    };
    let start = panel * PANEL;
    let width = PANEL.min(n - start);
    for (r, values) in tile.iter().enumerate() {
        // SAFETY: row `row + r` and columns `start..start + width` lie in
        // `[rows, n]`, and no other thread touches these columns.
        let y = unsafe { std::slice::from_raw_parts_mut(out.0.add((row + r) * n + start), width) };
        y.copy_from_slice(&values[..width]);
        if let Some(bias) = bias {
            for (y, b) in y.iter_mut().zip(&bias[start..]) {
                *y += b;
            }
        }
    }
    R
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 24) as f32 - 0.5
            })
            .collect()
    }

    fn pack(w: &[f32], k: usize, n: usize) -> Vec<f32> {
        let mut packed = vec![0.0; panels(n) * k * PANEL];
        for i in 0..k {
            for j in 0..n {
                packed[packed_index(i, j, k)] = w[i * n + j];
            }
        }
        packed
    }

    fn naive(x: &[f32], w: &[f32], bias: &[f32], k: usize, n: usize) -> Vec<f32> {
        let mut y = Vec::new();
        for row in x.chunks(k) {
            for j in 0..n {
                let sum = (0..k).fold(0.0f32, |s, i| row[i].mul_add(w[i * n + j], s));
                y.push(sum + bias[j]);
            }
        }
        y
    }

    #[test]
    fn every_set_and_row_count_gives_the_naive_bits() {
        for (rows, k, n) in [
            (1, 1, 1),
            (1, 7, 33),
            (5, 48, 97),
            (13, 21, 64),
            (30, 5, 31),
        ] {
            let (x, w, bias) = (noise(rows * k, 1), noise(k * n, 2), noise(n, 3));
            let packed = pack(&w, k, n);
            let expected = naive(&x, &w, &bias, k, n);
            for &isa in Isa::available() {
                let layer = Linear {
                    x: &x,
                    weight: &packed,
                    bias: Some(&bias),
                    k,
                    n,
                };
                let mut y = vec![f32::NAN; rows * n];
                linear_with(isa, layer, &mut y);
                assert_eq!(y, expected, "{isa:?} [{rows}, {k}] x [{k}, {n}]");
            }
        }
    }
}
