//! The promise of the kernels: a row's bits depend on the row alone.

use super::quantize::BLOCK;
use super::*;
use crate::kernels::activation::{Function, apply_with};
use crate::kernels::isa::Isa;
use crate::kernels::layer_norm::Norm;

const ALL: [Precision; 4] = [
    Precision::F32,
    Precision::Bf16,
    Precision::Q8,
    Precision::Q4,
];

fn noise(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        })
        .collect()
}

/// `w [k, n]`, packed.
fn pack(precision: Precision, w: &[f32], k: usize, n: usize) -> Vec<u8> {
    let mut packed = vec![0; packed_len(precision, k, n)];
    let len = packed_len(precision, k, 1);
    for (panel, out) in packed.chunks_mut(len).enumerate() {
        let mut values = vec![0.0; k * PANEL];
        for i in 0..k {
            for j in 0..PANEL.min(n - panel * PANEL) {
                values[i * PANEL + j] = w[i * n + panel * PANEL + j];
            }
        }
        pack_panel(precision, &values, &mut out[..]);
    }
    packed
}

/// The weights as the products see them, `[k, n]`.
fn unpack(precision: Precision, packed: &[u8], k: usize, n: usize) -> Vec<f32> {
    let mut w = vec![0.0; k * n];
    let mut column = vec![0.0; k];
    for j in 0..n {
        unpack_column(precision, packed, j, &mut column);
        for i in 0..k {
            w[i * n + j] = column[i];
        }
    }
    w
}

struct Case {
    precision: Precision,
    k: usize,
    n: usize,
    packed: Vec<u8>,
    bias: Vec<f32>,
}

impl Case {
    fn new(precision: Precision, k: usize, n: usize) -> Self {
        Self {
            precision,
            k,
            n,
            packed: pack(precision, &noise(k * n, 2), k, n),
            bias: noise(n, 3),
        }
    }

    fn matrix(&self) -> Matrix<'_> {
        Matrix {
            weight: &self.packed,
            precision: self.precision,
            bias: Some(&self.bias),
            k: self.k,
            n: self.n,
        }
    }

    fn run(&self, isa: Isa, x: &[f32]) -> Vec<f32> {
        let layer = Linear {
            inputs: Inputs { x, norm: None },
            matrix: self.matrix(),
            then: Then::Store,
        };
        let mut y = vec![f32::NAN; x.len() / self.k * self.n];
        linear_with(isa, layer, &mut Vec::new(), &mut y);
        y
    }
}

/// What a sum in order gives, from the weights and inputs as they are rounded:
/// the plain twin of each kernel. For bytes, the sums of a block are exact.
fn naive(case: &Case, x: &[f32]) -> Vec<f32> {
    let (k, n) = (case.k, case.n);
    let w = unpack(case.precision, &case.packed, k, n);
    let mut y = Vec::new();
    for row in x.chunks(k) {
        for j in 0..n {
            let column = |i: usize| w[i * n + j];
            let sum = match case.precision {
                Precision::F32 => (0..k).fold(0.0f32, |s, i| row[i].mul_add(column(i), s)),
                Precision::Bf16 => (0..k).fold(0.0f32, |s, i| {
                    let x = half::bf16::from_f32(row[i]).to_f32();
                    x.mul_add(column(i), s)
                }),
                Precision::Q8 | Precision::Q4 => {
                    let mut sum = 0.0f32;
                    for (b, block) in row.chunks(BLOCK).enumerate() {
                        let highest = block.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                        let mut scale = highest / 127.0;
                        if case.precision == Precision::Q4 {
                            scale = scale.log2().ceil().exp2();
                        }
                        let dot: f64 = block
                            .iter()
                            .enumerate()
                            .map(|(i, x)| {
                                let q = f64::from((x / scale).round_ties_even());
                                q * f64::from(column(b * BLOCK + i))
                            })
                            .sum();
                        sum += (dot * f64::from(scale)) as f32;
                    }
                    sum
                }
            };
            y.push(sum + case.bias[j]);
        }
    }
    y
}

#[test]
fn every_precision_is_near_its_plain_twin() {
    for precision in ALL {
        for (rows, k, n) in [
            (1, 1, 1),
            (3, 31, 33),
            (5, 48, 97),
            (13, 96, 64),
            (30, 130, 31),
        ] {
            let case = Case::new(precision, k, n);
            let x = noise(rows * k, 1);
            let expected = naive(&case, &x);
            let found = case.run(Isa::Scalar, &x);
            let worst = std::iter::zip(&found, &expected).map(|(f, e)| (f - e).abs());
            let worst = worst.fold(0.0, f32::max);
            // In f32 the sums are the same; a quotient on the edge between two
            // bytes may fall to either side.
            let bound = match precision {
                Precision::F32 => 0.0,
                Precision::Bf16 => 1e-6,
                Precision::Q8 | Precision::Q4 => 4e-3,
            };
            assert!(
                worst <= bound,
                "{precision:?} [{rows}, {k}] x [{k}, {n}]: {worst:e}"
            );
        }
    }
}

/// Every set on this machine, all lengths, odd widths, rows alone and in
/// batches of every group size: one answer. bf16 may differ between sets.
#[test]
fn a_row_has_the_same_bits_alone_in_a_batch_and_on_every_set() {
    for precision in ALL {
        for k in (1..=130).chain([700]) {
            let n = [1, 31, 32, 33, 97][k % 5];
            let case = Case::new(precision, k, n);
            let x = noise(27 * k, k as u32);
            let reference = case.run(Isa::Scalar, &x);
            for &isa in Isa::available() {
                let together = case.run(isa, &x);
                if precision != Precision::Bf16 {
                    assert_eq!(together, reference, "{isa:?} {precision:?} k {k} n {n}");
                }
                for rows in [1, 2, 3, 4, 6, 7, 8, 13] {
                    // Unaligned on purpose: every row is its own slice.
                    let found: Vec<f32> =
                        x.chunks(rows * k).flat_map(|x| case.run(isa, x)).collect();
                    assert_eq!(
                        found, together,
                        "{isa:?} {precision:?} k {k} n {n} by {rows}"
                    );
                }
            }
        }
    }
}

/// Large enough to be cut into chunks of inputs, groups kept in the cache and
/// tasks of rows.
#[test]
fn blocking_does_not_change_the_bits() {
    for precision in ALL {
        let (k, n) = (1500, 200);
        let case = Case::new(precision, k, n);
        let x = noise(230 * k, 1);
        for &isa in &Isa::available()[..1] {
            let together = case.run(isa, &x);
            for row in [0, 100, 229] {
                let alone = case.run(isa, &x[row * k..][..k]);
                assert_eq!(
                    alone,
                    together[row * n..][..n],
                    "{isa:?} {precision:?} row {row}"
                );
            }
        }
    }
}

/// The comparison above can fail: adding up in another order changes bits.
#[test]
fn another_order_of_adding_is_noticed() {
    let (k, n) = (130, 33);
    let case = Case::new(Precision::F32, k, n);
    let w = unpack(Precision::F32, &case.packed, k, n);
    let x = noise(k, 1);
    let backwards: Vec<f32> = (0..n)
        .map(|j| {
            let sum = (0..k)
                .rev()
                .fold(0.0f32, |s, i| x[i].mul_add(w[i * n + j], s));
            sum + case.bias[j]
        })
        .collect();
    let found = case.run(Isa::Scalar, &x);
    assert_ne!(found, backwards);
    let far = std::iter::zip(&found, &backwards).any(|(a, b)| (a - b).abs() > 1e-5);
    assert!(!far, "the two are the same sum, but for rounding");
}

#[test]
fn inputs_are_normalised_and_outputs_added() {
    let (rows, k, n) = (5, 40, 45);
    let case = Case::new(Precision::F32, k, n);
    let x = noise(rows * k, 1);
    let (weight, bias) = (noise(k, 7), noise(k, 8));
    let norm = Norm {
        weight: &weight,
        bias: &bias,
        epsilon: 1e-5,
    };
    let normalised: Vec<f32> = x.chunks(k).flat_map(|x| layer_norm(x, norm)).collect();
    for &isa in Isa::available() {
        let plain = case.run(isa, &normalised);
        let run = |then, y: &mut [f32]| {
            let layer = Linear {
                inputs: Inputs {
                    x: &x,
                    norm: Some(norm),
                },
                matrix: case.matrix(),
                then,
            };
            linear_with(isa, layer, &mut Vec::new(), y);
        };
        let near = |y: &[f32], expected: &[f32]| {
            let worst = std::iter::zip(y, expected).map(|(a, b)| (a - b).abs());
            assert!(worst.fold(0.0, f32::max) < 1e-5, "{isa:?}");
        };
        let mut stored = vec![f32::NAN; rows * n];
        run(Then::Store, &mut stored);
        near(&stored, &plain);

        let before = noise(rows * n, 9);
        let mut added = before.clone();
        run(Then::Add, &mut added);
        let expected: Vec<f32> = std::iter::zip(&before, &stored)
            .map(|(b, s)| b + s)
            .collect();
        assert_eq!(added, expected, "{isa:?}");
    }
}

#[test]
fn no_rows_have_no_outputs() {
    for precision in ALL {
        let (c_fc, c_proj) = (Case::new(precision, 40, 45), Case::new(precision, 45, 40));
        for &isa in Isa::available() {
            assert!(c_fc.run(isa, &[]).is_empty());
            let layers = Mlp {
                norm: None,
                c_fc: c_fc.matrix(),
                activation: None,
                c_proj: c_proj.matrix(),
            };
            mlp_with(isa, layers, &mut Vec::new(), &mut []);
        }
    }
}

#[test]
fn an_mlp_is_its_layers_one_after_another() {
    for precision in ALL {
        for (k, n) in [(40, 45), (64, 130), (33, 32)] {
            let (c_fc, c_proj) = (Case::new(precision, k, n), Case::new(precision, n, k));
            let (weight, bias) = (noise(k, 7), noise(k, 8));
            let norm = Norm {
                weight: &weight,
                bias: &bias,
                epsilon: 1e-5,
            };
            // 0.5 where there is no output: its padding must not count.
            let functions = [Some(Function::GeluTanh), Some(Function::Sigmoid), None];
            for (&isa, activation) in Isa::available().iter().zip(functions.iter().cycle()) {
                for rows in [1, 5, 13, 100] {
                    let x = noise(rows * k, 1);
                    let mut found = x.clone();
                    let layers = Mlp {
                        norm: Some(norm),
                        c_fc: c_fc.matrix(),
                        activation: *activation,
                        c_proj: c_proj.matrix(),
                    };
                    mlp_with(isa, layers, &mut Vec::new(), &mut found);

                    let mut inner = vec![f32::NAN; rows * n];
                    let layer = |x, norm, matrix, then| Linear {
                        inputs: Inputs { x, norm },
                        matrix,
                        then,
                    };
                    let first = layer(&x, Some(norm), c_fc.matrix(), Then::Store);
                    linear_with(isa, first, &mut Vec::new(), &mut inner);
                    activation
                        .iter()
                        .for_each(|&f| apply_with(isa, f, &mut inner));
                    let mut expected = x.clone();
                    let second = layer(&inner, None, c_proj.matrix(), Then::Add);
                    linear_with(isa, second, &mut Vec::new(), &mut expected);
                    assert_eq!(
                        found, expected,
                        "{precision:?} {isa:?} {rows} {activation:?}"
                    );
                }
            }
        }
    }
}

/// The plain twin of the norm, in f64.
fn layer_norm(x: &[f32], norm: Norm<'_>) -> Vec<f32> {
    let n = x.len() as f64;
    let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let squares = x.iter().map(|&x| (f64::from(x) - mean).powi(2));
    let deviation = (squares.sum::<f64>() / n + f64::from(norm.epsilon)).sqrt();
    let value = |(i, &x): (usize, &f32)| {
        let scaled = (f64::from(x) - mean) / deviation * f64::from(norm.weight[i]);
        (scaled + f64::from(norm.bias[i])) as f32
    };
    x.iter().enumerate().map(value).collect()
}

/// How far packed weights are from what they stand for, against the formulas
/// of llama.cpp's Q8_0 and Q4_0 on the same blocks.
#[test]
fn packed_weights_are_as_near_as_llama_cpps() {
    let (k, n) = (320, 64);
    let w: Vec<f32> = std::iter::zip(noise(k * n, 5), noise(k * n, 6))
        .map(|(a, b)| 0.02 * (a + b))
        .collect();
    let error = |approximated: &dyn Fn(usize, usize) -> f32| -> f64 {
        let squares = (0..k * n).map(|at| f64::from(w[at] - approximated(at / n, at % n)).powi(2));
        (squares.sum::<f64>() / (k * n) as f64).sqrt()
    };
    for (precision, levels) in [(Precision::Q8, 127.0), (Precision::Q4, -8.0)] {
        let ours = unpack(precision, &pack(precision, &w, k, n), k, n);
        let theirs = |i: usize, j: usize| {
            let block = (i / BLOCK * BLOCK..).take(BLOCK).map(|i| w[i * n + j]);
            let largest = block.fold(0.0f32, |m, v| if v.abs() > m.abs() { v } else { m });
            let scale = if levels > 0.0 { largest.abs() } else { largest } / levels;
            let stored = half::f16::from_f32(scale).to_f32();
            let q = w[i * n + j] / scale;
            stored
                * (if levels > 0.0 {
                    q.round()
                } else {
                    (q + 8.5).floor().min(15.0) - 8.0
                })
        };
        let ours = error(&|i, j| ours[i * n + j]);
        let theirs = error(&theirs);
        println!("{precision:?}: root mean square error {ours:.3e}, llama.cpp's {theirs:.3e}");
        assert!(
            ours <= theirs * 1.000_5,
            "{precision:?}: {ours:e} against {theirs:e}"
        );
    }
}

/// From inputs that are nearly nothing to the largest there may be: what the
/// weights make of them scales with them, and weights of 0 make 0 of them.
#[test]
fn inputs_of_any_size() {
    for precision in ALL {
        let (k, n) = (64, 33);
        let mut case = Case::new(precision, k, n);
        case.bias.fill(0.0);
        let x = noise(k, 1);
        for &isa in Isa::available() {
            let plain = case.run(isa, &x);
            for power in [-90, -1, 1, 100] {
                let by = 2f32.powi(power);
                let found = case.run(isa, &x.iter().map(|x| x * by).collect::<Vec<_>>());
                let expected: Vec<f32> = plain.iter().map(|y| y * by).collect();
                assert_eq!(found, expected, "{isa:?} {precision:?} 2^{power}");
            }
        }
        case.packed = pack(precision, &vec![0.0; k * n], k, n);
        for &isa in Isa::available() {
            for by in [0.0, 1e-40, 1e-30, 1.0, 1e30] {
                let y = case.run(isa, &x.iter().map(|x| x * by).collect::<Vec<_>>());
                assert!(y.iter().all(|&y| y == 0.0), "{isa:?} {precision:?} {by}");
            }
        }
    }
}

#[test]
fn what_is_not_finite_stays_so() {
    for precision in ALL {
        let case = Case::new(precision, 40, 33);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = noise(40, 1);
            x[7..11].fill(bad);
            for &isa in Isa::available() {
                let y = case.run(isa, &x);
                assert!(
                    y.iter().all(|y| !y.is_finite()),
                    "{isa:?} {precision:?} {bad}"
                );
            }
        }
    }
}
