use super::*;

fn noise(len: usize, seed: usize) -> Vec<f32> {
    (0..len)
        .map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 500.0 - 2.0)
        .collect()
}

/// Keys and values of each sequence as they come, `[tokens, 3·width]`.
#[derive(Clone)]
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
fn run(
    (isa, format): (Isa, CacheFormat),
    sequences: &[Sequence],
    heads: Heads,
    chunk: usize,
) -> Vec<Vec<f32>> {
    let width = heads.width();
    // What a cache holds before must not matter: NaN in each format.
    let mut keys = vec![u32::MAX; 12 * heads.block_words(Cache::Keys, format)];
    let mut values = vec![u32::MAX; 12 * heads.block_words(Cache::Values, format)];
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
        let mut out = vec![f32::NAN; qkv.len() / 3];
        let layer = Attention {
            qkv: &qkv,
            format,
            pieces: &pieces,
            heads,
        };
        let cache = CacheMut {
            keys: &mut keys,
            values: &mut values,
        };
        attention_with(isa, layer, cache, &mut out);
        let mut rows = out.chunks(width);
        for (s, output) in sequences.iter().zip(&mut outputs) {
            let count = len(s).min(start + chunk).saturating_sub(start);
            rows.by_ref().take(count).for_each(|row| output.extend(row));
        }
    }
    outputs
}

/// Keys and values as a cache in bf16 holds them.
fn rounded(sequence: &Sequence, width: usize) -> Sequence {
    let mut qkv = sequence.qkv.clone();
    for token in qkv.chunks_mut(3 * width) {
        for x in &mut token[width..] {
            *x = half::bf16::from_f32(*x).to_f32();
        }
    }
    Sequence {
        blocks: sequence.blocks.clone(),
        qkv,
    }
}

/// Some sequences of up to several spans.
fn some_sequences(width: usize) -> Vec<Sequence> {
    let tables = [vec![4, 0, 2, 10, 9, 11], vec![1], vec![3, 5], vec![6, 8, 7]];
    let sequences = std::iter::zip(tables, [170, 1, 33, 96]).enumerate();
    sequences
        .map(|(i, (blocks, len))| Sequence {
            blocks,
            qkv: noise(len * 3 * width, i),
        })
        .collect()
}

fn check(format: CacheFormat, tolerance: f64) {
    // Many heads are several in a task, the most of them in parts.
    let many = [(20, 7), (48, 2), (90, 1)];
    for (count, dim) in [(1, 1), (3, 7), (2, 16), (2, 40), (1, 64), (1, 150)]
        .into_iter()
        .chain(many)
    {
        let heads = Heads {
            count,
            dim,
            scale: 0.3 / (dim as f32).sqrt(),
        };
        let sequences = some_sequences(heads.width());
        // The product of bf16 rounds as the processor's own does.
        let same_bits = format != CacheFormat::Bf16Products;
        let scalar = run((Isa::Scalar, format), &sequences, heads, 200);
        for (s, output) in sequences.iter().zip(&scalar) {
            let exact = match format {
                CacheFormat::F32 => s.clone(),
                _ => rounded(s, heads.width()),
            };
            for (i, found) in output.chunks(dim).enumerate() {
                let expected = naive(&exact, i / count, heads, i % count);
                for (f, e) in found.iter().zip(expected) {
                    let close = (f64::from(*f) - e).abs() < tolerance;
                    assert!(close, "{format:?} {count} x {dim}: {f} {e}");
                }
            }
        }
        for &isa in Isa::available() {
            let on = (isa, format);
            let reference = match same_bits {
                true => scalar.clone(),
                false => run(on, &sequences, heads, 200),
            };
            for (f, e) in reference.iter().flatten().zip(scalar.iter().flatten()) {
                assert!((f - e).abs() < 1e-3, "{on:?} {count} x {dim}: {f} {e}");
            }
            for chunk in [1, 5, 32, 200] {
                let found = run(on, &sequences, heads, chunk);
                assert_eq!(found, reference, "{on:?}, {count} x {dim}, by {chunk}");
            }
            let alone = run(on, &sequences[..1], heads, 13);
            assert_eq!(alone[0], reference[0], "{on:?}, {count} x {dim}, alone");
        }
    }
}

#[test]
fn equals_the_naive_softmax_and_chunks_and_sets_give_the_same_bits() {
    check(CacheFormat::F32, 2e-5);
    check(CacheFormat::Bf16, 2e-5);
}

#[test]
fn bf16_products_are_near_and_chunks_give_the_same_bits() {
    check(CacheFormat::Bf16Products, 2e-2);
}

#[test]
fn tasks_are_every_head_of_every_piece_once() {
    for heads in [1, 12, 17, 25, 40] {
        let pieces: Vec<Piece<'_>> = (0..64)
            .map(|row| Piece {
                blocks: &[0, 1],
                row,
                position: if row < 2 { row } else { 40 },
                count: 1,
            })
            .collect();
        for pieces in [&pieces[..1], &pieces[..5], &pieces] {
            let shape = Heads {
                count: heads,
                dim: 1,
                scale: 1.0,
            };
            let tasks = Tasks::new(Attention {
                qkv: &[],
                format: CacheFormat::F32,
                pieces,
                heads: shape,
            });
            let mut found: Vec<_> = (0..tasks.count())
                .map(|i| tasks.get(i))
                .inspect(|task| assert!(task.heads <= MOST_HEADS))
                .flat_map(|task| {
                    let heads = task.first_head..task.first_head + task.heads;
                    heads.map(move |head| (task.piece.row, head))
                })
                .collect();
            found.sort_unstable();
            let all = (0..pieces.len()).flat_map(|row| (0..heads).map(move |head| (row, head)));
            assert!(found.into_iter().eq(all), "{heads} heads, {}", pieces.len());
        }
    }
}
