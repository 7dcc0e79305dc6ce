//! Single kernels at the shapes of GPT-2 124M, beside what the machine can do:
//! `cargo bench --bench kernels [-- FILTER]`.

use std::time::{Duration, Instant};

use gpt2_engine::kernels::activation::{self, Function};
use gpt2_engine::kernels::attention::{
    Attention, BLOCK, Cache, CacheFormat, CacheMut, Heads, PIECE_ROWS, Piece, attention,
};
use gpt2_engine::kernels::linear::{
    Inputs, Linear, Matrix, PANEL, Precision, Then, aligned_start, linear, pack_panel, packed_len,
};
use gpt2_engine::kernels::{limits, pool, softmax};

const RUNS: usize = 31;

fn main() {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    let wanted = |name: &str| filter.as_deref().is_none_or(|f| name.contains(f));
    println!("{} threads; medians of {RUNS} runs", pool::threads());
    if wanted("fork") {
        fork_join();
    }
    for precision in [
        Precision::F32,
        Precision::Bf16,
        Precision::Q8,
        Precision::Q4,
    ] {
        let name = format!("{precision:?}").to_lowercase();
        if wanted(&format!("linear {name}")) {
            linears(precision, &name);
        }
    }
    for format in [
        CacheFormat::F32,
        CacheFormat::Bf16,
        CacheFormat::Bf16Products,
    ] {
        attentions(format, &wanted);
    }
    if wanted("rows") {
        rows();
    }
}

/// Median seconds of `work`, after a run that doesn't count.
fn seconds(mut work: impl FnMut()) -> f64 {
    work();
    let mut times: Vec<f64> = (0..RUNS)
        .map(|_| {
            let started = Instant::now();
            work();
            started.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_unstable_by(f64::total_cmp);
    times[RUNS / 2]
}

/// What a job costs beyond the 10 µs that each thread works in it.
fn fork_join() {
    const JOBS: usize = 1000;
    const WORK: Duration = Duration::from_micros(10);
    let time = seconds(|| {
        for _ in 0..JOBS {
            pool::run(pool::threads(), |_| {
                let started = Instant::now();
                while started.elapsed() < WORK {
                    std::hint::spin_loop();
                }
            });
        }
    });
    let over = time / JOBS as f64 - WORK.as_secs_f64();
    println!("fork-join {:>31.2} µs besides 10 µs of work", over * 1e6);
}

/// The linear layers of GPT-2 124M: `(name, k, n)`.
const LAYERS: [(&str, usize, usize); 5] = [
    ("c_attn", 768, 2304),
    ("attn.c_proj", 768, 768),
    ("c_fc", 768, 3072),
    ("mlp.c_proj", 3072, 768),
    ("head", 768, 50_257),
];

fn linears(precision: Precision, name: &str) {
    let peak = peak(precision);
    println!("{name}: multiply-add peak {:.0} GFLOP/s", peak / 1e9);
    for (layer, k, n) in LAYERS {
        let len = packed_len(precision, k, n);
        let mut buffer = vec![0u8; len + 64];
        let start = aligned_start(&buffer);
        let values: Vec<f32> = noise(k * PANEL);
        pool::for_each_chunk(
            &mut buffer[start..start + len],
            packed_len(precision, k, 1),
            |_, out| pack_panel(precision, &values, out),
        );
        for rows in [1, 8, 32, 512] {
            if rows == 512 && n > 10_000 {
                continue;
            }
            let x = noise(rows * k);
            let (mut y, mut scratch) = (vec![0.0; rows * n], Vec::new());
            let time = seconds(|| {
                let matrix = Matrix {
                    weight: &buffer[start..start + len],
                    precision,
                    bias: None,
                    k,
                    n,
                };
                let layer = Linear {
                    inputs: Inputs { x: &x, norm: None },
                    matrix,
                    then: Then::Store,
                };
                linear(layer, &mut scratch, &mut y);
            });
            println!(
                "linear {name:>5} {layer:<11} x {rows:<4} {:>9.1} µs {:>7.1} GB/s {:>5.1}% of peak",
                time * 1e6,
                len as f64 / time / 1e9,
                2.0 * (rows * k * n) as f64 / time / peak * 100.0
            );
        }
    }
}

fn peak(precision: Precision) -> f64 {
    const ROUNDS: usize = 100_000;
    let threads = pool::threads();
    let time = seconds(|| {
        pool::run(threads, |_| {
            std::hint::black_box(limits::multiply_add(precision, ROUNDS));
        });
    });
    2.0 * (threads as u64 * limits::multiply_add(precision, ROUNDS)) as f64 / time
}

fn attentions(format: CacheFormat, wanted: &dyn Fn(&str) -> bool) {
    let heads = Heads {
        count: 12,
        dim: 64,
        scale: 0.125,
    };
    // (sequences, tokens before, new tokens)
    for (sequences, past, new) in [
        (1usize, 0usize, 512usize),
        (1, 31, 1),
        (1, 511, 1),
        (1, 991, 1),
        (32, 95, 1),
    ] {
        let name = format!("attention {format:?} {sequences:>2} x {new:<3} after {past:<4}");
        if !wanted(&name) {
            continue;
        }
        let per_sequence = (past + new).div_ceil(BLOCK);
        let blocks: Vec<Vec<u32>> = (0..sequences)
            .map(|s| {
                (0..per_sequence)
                    .map(|b| (s * per_sequence + b) as u32)
                    .collect()
            })
            .collect();
        let mut keys = vec![0; sequences * per_sequence * heads.block_words(Cache::Keys, format)];
        let mut values =
            vec![0; sequences * per_sequence * heads.block_words(Cache::Values, format)];
        let rows = sequences * new;
        let qkv = noise(rows * 3 * 768);
        let pieces: Vec<Piece<'_>> = (0..sequences)
            .flat_map(|s| (0..new).step_by(PIECE_ROWS).map(move |i| (s, i)))
            .map(|(s, i)| Piece {
                blocks: &blocks[s],
                row: s * new + i,
                position: past + i,
                count: PIECE_ROWS.min(new - i),
            })
            .collect();
        let mut out = vec![0.0; rows * 768];
        let time = seconds(|| {
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
            attention(layer, cache, &mut out);
        });
        let pairs: usize = (0..new).map(|i| past + i + 1).sum::<usize>() * sequences;
        println!(
            "{name:<42} {:>9.1} µs {:>6.1} GFLOP/s",
            time * 1e6,
            4.0 * (pairs * 768) as f64 / time / 1e9,
        );
    }
}

fn rows() {
    let x = noise(3072);
    for function in [Function::GeluTanh, Function::GeluErf] {
        let mut y = x[..3072].to_vec();
        let time = seconds(|| {
            y.copy_from_slice(&x[..3072]);
            activation::apply(function, &mut y);
        });
        println!("rows {function:?} 3072  {:>19.2} µs", time * 1e6);
    }
    let logits = noise(50_257);
    let time = seconds(|| {
        std::hint::black_box(softmax::log_sum_exp(&logits));
    });
    println!("rows log_sum_exp 50257  {:>14.2} µs", time * 1e6);
}

fn noise(len: usize) -> Vec<f32> {
    let mut state = 1u32;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        })
        .collect()
}
