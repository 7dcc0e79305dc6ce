//! Weights into their packed layout, and columns out of it.

use half::f16;

use super::bf16::Bf16;
use super::f32::F32;
use super::format::Format;
use super::q4::{self, Q4};
use super::q8::Q8;
use super::quantize::{BLOCK, Columns, Quantized, weights_q4, weights_q8};
use super::{PANEL, Precision};
use crate::kernels::isa::{Isa, dispatch};
use crate::kernels::vector::{Vector, pair};

/// Where packed weights should start: a cache line, which is also a vector.
const ALIGNMENT: usize = 64;

/// The number of panels that `n` output columns take.
pub fn panels(n: usize) -> usize {
    n.div_ceil(PANEL)
}

/// Bytes of the packed weights `[k, n]`.
pub fn packed_len(precision: Precision, k: usize, n: usize) -> usize {
    panels(n) * panel_len(precision, k)
}

/// The first byte of `buffer` from which packed weights are read fastest: at
/// most 63.
pub fn aligned_start(buffer: &[u8]) -> usize {
    buffer.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT - 1)
}

/// Bytes of a panel with `k` inputs.
fn panel_len(precision: Precision, k: usize) -> usize {
    let (step, bytes) = match precision {
        Precision::F32 => (F32::STEP, F32::STEP_BYTES),
        Precision::Bf16 => (Bf16::STEP, Bf16::STEP_BYTES),
        Precision::Q8 => (Q8::STEP, Q8::STEP_BYTES),
        Precision::Q4 => (Q4::STEP, Q4::STEP_BYTES),
    };
    k.div_ceil(step) * bytes
}

/// Packs one panel: `values [k, PANEL]`, zero in columns that aren't there,
/// into `out`, which has `packed_len(precision, k, 1)` bytes.
///
/// # Panics
/// If the slices' lengths don't fit each other.
pub fn pack_panel(precision: Precision, values: &[f32], out: &mut [u8]) {
    let (rows, rest) = values.as_chunks::<PANEL>();
    assert!(rest.is_empty(), "values are not [k, {PANEL}]");
    assert_eq!(out.len(), panel_len(precision, rows.len()), "packed panel");
    let isa = Isa::current();
    match precision {
        Precision::F32 => dispatch!(isa, pack_f32(rows: &[Columns<f32>], out: &mut [u8])),
        Precision::Bf16 => dispatch!(isa, pack_bf16(rows: &[Columns<f32>], out: &mut [u8])),
        Precision::Q8 => dispatch!(isa, pack_q8(rows: &[Columns<f32>], out: &mut [u8])),
        Precision::Q4 => dispatch!(isa, pack_q4(rows: &[Columns<f32>], out: &mut [u8])),
    }
}

/// Writes the `k` weights of output `column`, as the products see them, to
/// `out [k]`.
///
/// # Panics
/// If `column` is not in `packed`.
pub fn unpack_column(precision: Precision, packed: &[u8], column: usize, out: &mut [f32]) {
    let len = panel_len(precision, out.len());
    let panel = &packed[column / PANEL * len..][..len];
    let c = column % PANEL;
    let half = |bytes: &[u8], at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let scale = |block: &[u8], scales: usize| f16::from_bits(half(block, scales + 2 * c)).to_f32();
    match precision {
        Precision::F32 => {
            let weights = panel.as_chunks::<4>().0.iter().skip(c).step_by(PANEL);
            for (out, w) in out.iter_mut().zip(weights) {
                *out = f32::from_le_bytes(*w);
            }
        }
        Precision::Bf16 => {
            for (i, out) in out.iter_mut().enumerate() {
                let at = (i / 2) * Bf16::STEP_BYTES + 4 * c + 2 * (i % 2);
                *out = half::bf16::from_bits(half(panel, at)).to_f32();
            }
        }
        Precision::Q8 => {
            let blocks = panel.chunks(Q8::STEP_BYTES);
            for (out, block) in out.chunks_mut(BLOCK).zip(blocks) {
                let scale = scale(block, Q8::SCALES);
                for (i, out) in out.iter_mut().enumerate() {
                    *out = scale * (f32::from(block[Q8::offset(c, i)]) - 128.0);
                }
            }
        }
        Precision::Q4 => {
            let blocks = panel.chunks(Q4::STEP_BYTES);
            for (out, block) in out.chunks_mut(BLOCK).zip(blocks) {
                let scale = scale(block, Q4::SCALES);
                for (i, out) in out.iter_mut().enumerate() {
                    let (at, bit) = Q4::offset(c, i);
                    *out = scale * (i32::from(block[at] >> bit & 15) - q4::OFFSET) as f32;
                }
            }
        }
    }
}

/// # Safety
/// None of its own: unsafe only because every dispatched kernel is.
#[inline(always)]
unsafe fn pack_f32<V: Vector>(rows: &[Columns<f32>], out: &mut [u8]) {
    for (value, out) in rows.as_flattened().iter().zip(out.as_chunks_mut().0) {
        *out = value.to_le_bytes();
    }
}

/// # Safety
/// As [`pack_f32`].
#[inline(always)]
unsafe fn pack_bf16<V: Vector>(rows: &[Columns<f32>], out: &mut [u8]) {
    let steps = out.chunks_mut(Bf16::STEP_BYTES);
    for (rows, out) in rows.chunks(2).zip(steps) {
        let second = rows.get(1).unwrap_or(&[0.0; PANEL]);
        for (c, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
            *out = pair(rows[0][c], second[c]).to_le_bytes();
        }
    }
}

/// # Safety
/// As [`pack_f32`].
#[inline(always)]
unsafe fn pack_q8<V: Vector>(rows: &[Columns<f32>], out: &mut [u8]) {
    for (rows, out) in rows.chunks(BLOCK).zip(out.chunks_mut(Q8::STEP_BYTES)) {
        let Quantized { q, scales } = weights_q8(&block(rows));
        for (i, q) in q.iter().enumerate() {
            for (c, q) in q.iter().enumerate() {
                // −127 to 127, so 1 to 255.
                out[Q8::offset(c, i)] = (q + 128) as u8;
            }
        }
        put_scales(&scales, &mut out[Q8::SCALES..]);
    }
}

/// # Safety
/// As [`pack_f32`].
#[inline(always)]
unsafe fn pack_q4<V: Vector>(rows: &[Columns<f32>], out: &mut [u8]) {
    for (rows, out) in rows.chunks(BLOCK).zip(out.chunks_mut(Q4::STEP_BYTES)) {
        let Quantized { q, scales } = weights_q4(&block(rows));
        out.fill(0);
        for (i, q) in q.iter().enumerate() {
            for (c, q) in q.iter().enumerate() {
                let (at, bit) = Q4::offset(c, i);
                // −8 to 7, so 0 to 15.
                out[at] |= ((q + q4::OFFSET) as u8) << bit;
            }
        }
        put_scales(&scales, &mut out[Q4::SCALES..]);
    }
}

fn block(rows: &[Columns<f32>]) -> [Columns<f32>; BLOCK] {
    let mut block = [[0.0; PANEL]; BLOCK];
    block[..rows.len()].copy_from_slice(rows);
    block
}

fn put_scales(scales: &Columns<f16>, out: &mut [u8]) {
    for (scale, out) in scales.iter().zip(out.as_chunks_mut().0) {
        *out = scale.to_le_bytes();
    }
}
