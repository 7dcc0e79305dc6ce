use super::*;

fn noise(len: usize, seed: usize) -> Vec<f32> {
    (0..len)
        .map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 500.0 - 2.0)
        .collect()
}

/// Keys and values of each sequence as they come, `[tokens, 3·width]`.
struct Sequence {
    blocks: Vec<u32>,
    qkv: Vec<f32>,
}

/// Softmax of all scores at once, in f64, without a cache.
fn naive(sequence: &Sequence, position: usize, heads: Heads, head: usize) -> Vec<f64> {
    let width = heads.width();
    let part = |p: usize, third: usize| {
        &sequence.qkv[(p * 3 + third) * width + head * heads.dim..][..heads.dim]
    };
    let weights: Vec<f64> = (0..=position)
        .map(|p| {
            let product = |(q, k): (&f32, &f32)| f64::from(*q) * f64::from(*k);
            let score = part(position, 0).iter().zip(part(p, 1)).map(product);
            (f64::from(heads.scale) * score.sum::<f64>()).exp()
        })
        .collect();
    let total: f64 = weights.iter().sum();
    let sum = |d: usize| {
        let terms = weights.iter().enumerate();
        terms
            .map(|(p, w)| w * f64::from(part(p, 2)[d]))
            .sum::<f64>()
            / total
    };
    (0..heads.dim).map(sum).collect()
}

/// Runs the sequences together, `chunk` tokens of each at a time; the
/// outputs `[tokens, width]` of each.
fn run(isa: Isa, sequences: &[Sequence], heads: Heads, chunk: usize) -> Vec<Vec<f32>> {
    let width = heads.width();
    // What a cache holds before must not matter.
    let mut keys = vec![f32::NAN; 9 * heads.key_block()];
    let mut values = vec![f32::NAN; 9 * heads.value_block()];
    let mut outputs: Vec<Vec<f32>> = sequences.iter().map(|_| Vec::new()).collect();
    let len = |s: &Sequence| s.qkv.len() / (3 * width);
    for start in (0..sequences.iter().map(len).max().unwrap()).step_by(chunk) {
        let (mut qkv, mut pieces) = (Vec::new(), Vec::new());
        for s in sequences {
            let end = len(s).min(start + chunk);
            for position in (start.min(end)..end).step_by(PIECE_ROWS) {
                let count = PIECE_ROWS.min(end - position);
                let row = qkv.len() / (3 * width);
                pieces.push(Piece {
                    blocks: &s.blocks,
                    row,
                    position,
                    count,
                });
                let tokens = position * 3 * width..(position + count) * 3 * width;
                qkv.extend_from_slice(&s.qkv[tokens]);
            }
        }
        write_cache(Cache::Keys, &qkv, &pieces, heads, &mut keys);
        write_cache(Cache::Values, &qkv, &pieces, heads, &mut values);
        let mut out = vec![f32::NAN; qkv.len() / 3];
        let layer = Attention {
            qkv: &qkv,
            keys: &keys,
            values: &values,
            pieces: &pieces,
            heads,
        };
        attention_with(isa, layer, &mut out);
        let mut rows = out.chunks(width);
        for (s, output) in sequences.iter().zip(&mut outputs) {
            let count = len(s).min(start + chunk).saturating_sub(start);
            rows.by_ref().take(count).for_each(|row| output.extend(row));
        }
    }
    outputs
}

#[test]
fn equals_the_naive_softmax_and_chunks_and_sets_give_the_same_bits() {
    for (count, dim) in [(1, 1), (3, 7), (2, 16), (2, 40), (1, 64), (1, 150)] {
        let heads = Heads {
            count,
            dim,
            scale: 0.3 / (dim as f32).sqrt(),
        };
        let tables = [vec![4, 0, 2], vec![1], vec![3, 5], vec![6, 8, 7]];
        let sequences: Vec<Sequence> = std::iter::zip(tables, [70, 1, 33, 96])
            .enumerate()
            .map(|(i, (blocks, len))| Sequence {
                blocks,
                qkv: noise(len * 3 * heads.width(), i),
            })
            .collect();
        let reference = run(Isa::Scalar, &sequences, heads, 200);
        for (s, output) in sequences.iter().zip(&reference) {
            for (i, found) in output.chunks(dim).enumerate() {
                let expected = naive(s, i / count, heads, i % count);
                for (f, e) in found.iter().zip(expected) {
                    assert!((f64::from(*f) - e).abs() < 2e-5, "{count} x {dim}: {f} {e}");
                }
            }
        }
        for &isa in Isa::available() {
            for chunk in [1, 5, 32, 200] {
                let found = run(isa, &sequences, heads, chunk);
                assert_eq!(
                    found, reference,
                    "{isa:?}, {count} x {dim}, chunks of {chunk}"
                );
            }
            let alone = run(isa, &sequences[..1], heads, 13);
            assert_eq!(alone[0], reference[0], "{isa:?}, {count} x {dim}, alone");
        }
    }
}
