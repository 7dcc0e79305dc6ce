//! The device's choices beside the sampler's.

use std::sync::OnceLock;

use gpt2_engine::cuda;
use gpt2_engine::engine::{SamplingOptions, SamplingParams, Strategy, processed_scores};
use gpt2_engine::model::{
    Batch, CudaGpt2, Draw, Dtype, Filters, KvCache, LogitRows, Logits, Pick, Picked, Row, Wish,
};

use super::fixture::log_softmax;
use super::{Layers, odd, on_gpu, some_ids};

const ALL: Filters = Filters {
    temperature: 1.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
};

/// Open as long as the tests run.
pub fn device() -> &'static cuda::Device {
    static DEVICE: OnceLock<cuda::Device> = OnceLock::new();
    DEVICE.get_or_init(|| cuda::Device::open(0).unwrap())
}

/// Numbers that no seed has to be kept for.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32
    };
    (0..n).map(|_| next() * 12.0 - 6.0).collect()
}

fn draw(columns: usize, filters: Filters, u: f64) -> Wish {
    let draw = Some(Draw { filters, u });
    Wish::Pick(Pick { columns, draw })
}

fn picks(row: &[f32], wishes: &[Wish]) -> Vec<Picked> {
    CudaGpt2::pick(device(), &row.repeat(wishes.len()), wishes).unwrap()
}

/// The weights of what the sampler keeps of a row, 0 for the rest.
fn kept(row: &[f32], filters: &Filters) -> Vec<f64> {
    let params = SamplingParams::new(SamplingOptions {
        strategy: Strategy::TopP,
        k: (filters.top_k > 0).then_some(filters.top_k as u64),
        top_p: Some(f64::from(filters.top_p)),
        min_p: Some(f64::from(filters.min_p)),
        temperature: Some(f64::from(filters.temperature)),
        ..Default::default()
    });
    let scores = processed_scores(params.unwrap(), &[], row);
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |&score: &f32| f64::from(score - highest).exp();
    scores.iter().map(weight).collect()
}

/// Aims at the middle of each of some kept tokens' part of the distribution,
/// from the likeliest to the least likely. How many are missed, and how far
/// the log probabilities are off at most.
fn missed(row: &[f32], columns: usize, filters: &Filters) -> (usize, f64) {
    const AIMS: usize = 12;
    let weights = kept(&row[..columns], filters);
    let total: f64 = weights.iter().sum();
    let mut sum = 0.0;
    let mut parts = Vec::new();
    for (id, weight) in weights.into_iter().enumerate() {
        // One as small as the roundings of the others can't be aimed at.
        if weight > 1e-6 * total {
            parts.push((weight, id, (sum + weight / 2.0) / total));
        }
        sum += weight;
    }
    parts.sort_by(|a, b| b.0.total_cmp(&a.0));
    let last = parts.len() - 1;
    let count = parts.len().min(AIMS);
    let aims = (0..count).map(|i| parts[last * i / (count - 1).max(1)]);
    let aims: Vec<_> = aims.collect();
    let wishes: Vec<_> = aims
        .iter()
        .map(|&(.., u)| draw(columns, *filters, u))
        .collect();
    let exact = log_softmax(row);
    let (mut missed, mut off) = (0, 0.0_f64);
    for (found, &(_, id, _)) in picks(row, &wishes).into_iter().zip(&aims) {
        missed += usize::from(found.id as usize != id);
        off = off.max((f64::from(found.logprob) - exact[found.id as usize]).abs());
    }
    (missed, off)
}

#[test]
fn choices_are_the_samplers() {
    let some = Filters {
        temperature: 0.8,
        top_k: 30,
        top_p: 0.95,
        min_p: 0.01,
    };
    let (mut all_missed, mut worst) = (0, 0.0_f64);
    for (n, columns) in [
        (1, 1),
        (2, 2),
        (63, 63),
        (64, 50),
        (1000, 1000),
        (5003, 5000),
    ] {
        let row = noise(n, n as u64);
        let mut filters = vec![ALL, some];
        filters.extend([0.05, 0.7, 3.0].map(|temperature| Filters { temperature, ..ALL }));
        filters.extend([1, 2, 50, columns - 1, columns].map(|top_k| Filters { top_k, ..ALL }));
        filters.extend([1e-30, 0.3, 0.9, 0.999, 0.999_99].map(|top_p| Filters { top_p, ..ALL }));
        filters.extend([1e-6, 0.05, 1.0].map(|min_p| Filters { min_p, ..ALL }));
        for filters in filters {
            let (missed, off) = missed(&row, columns, &filters);
            // Where a token's part is as small as the roundings of a sum.
            let border = if n > 100 { 2 } else { 0 };
            assert!(missed <= border, "{missed} missed of {n}: {filters:?}");
            (all_missed, worst) = (all_missed + missed, worst.max(off));
        }
    }
    println!("choices: {all_missed} on the other side of a border, log probabilities {worst:.1e}");
    assert!(worst < 1e-5);
}

/// A search looks through the whole row until what is left fits there.
#[test]
fn a_border_among_more_than_shared_memory_holds_is_found() {
    // Of 10,000 columns, 5,000 are in the same part at first.
    let flat = Filters {
        temperature: 3.0,
        ..ALL
    };
    let of_both = Filters {
        top_k: 6000,
        top_p: 0.9,
        ..flat
    };
    let row = noise(10_000, 1);
    // 300 of the kernel's 512 threads have all that is large, so that what is
    // as large as the k-th thread's largest is far more than k.
    let uneven = row.iter().enumerate().map(|(i, &l)| match i % 512 {
        ..300 => l / 12.0 + 5.0,
        _ => l / 12.0 - 5.0,
    });
    let uneven = uneven.collect();
    for (row, filters) in [
        (&row, Filters { top_p: 0.9, ..flat }),
        (
            &row,
            Filters {
                top_k: 6000,
                ..flat
            },
        ),
        (&row, of_both),
        (
            &row,
            Filters {
                top_k: 500,
                ..of_both
            },
        ),
        (&uneven, Filters { top_k: 310, ..flat }),
    ] {
        let (missed, _) = missed(row, row.len(), &filters);
        assert!(missed <= 2, "{missed} missed: {filters:?}");
    }
}

#[test]
fn as_many_are_kept_as_asked_for() {
    // The likeliest first, so that the end of the distribution is the last
    // that is kept.
    let row: Vec<f32> = (0..40).map(|i| i as f32 * -0.1).collect();
    let weights: Vec<f64> = row.iter().map(|&l| f64::from(l).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut wishes = Vec::new();
    for last in 0..40 {
        let sum: f64 = weights[..last].iter().sum();
        let top_k = last + 1;
        // Half of the last one is needed.
        let top_p = ((sum + weights[last] / 2.0) / total) as f32;
        let min_p = (weights[last] * 0.99) as f32;
        let one_by_one = [
            Filters { top_k, ..ALL },
            Filters { top_p, ..ALL },
            Filters { min_p, ..ALL },
        ];
        wishes.extend(one_by_one.map(|filters| draw(40, filters, 1.0 - 1e-12)));
    }
    let found = picks(&row, &wishes).into_iter().map(|p| p.id);
    let expected = (0..40).flat_map(|last| [last; 3]);
    assert_eq!(found.collect::<Vec<u32>>(), expected.collect::<Vec<u32>>());
}

#[test]
fn padding_is_never_chosen_but_counts_in_logprobs() {
    let row = [0.0, 1.0, 3.0];
    let greedy = Wish::Pick(Pick {
        columns: 2,
        draw: None,
    });
    let end = draw(2, ALL, 1.0 - 1e-12);
    for picked in picks(&row, &[greedy, end]) {
        assert_eq!(picked.id, 1);
        let off = f64::from(picked.logprob) - log_softmax(&row)[1];
        assert!(off.abs() < 1e-6, "{off}");
    }
}

#[test]
fn equal_logits_are_kept_together() {
    // More of each than shared memory holds.
    let row: Vec<f32> = (0..15_000).map(|i| (i % 3) as f32).collect();
    // At the end of the distribution is the last token that is kept, at its
    // middle one of the largest: how many are kept tells its id.
    let ends = |filters| [0.0, 0.5, 1.0 - 1e-12].map(|u| draw(15_000, filters, u));
    let ids = |filters| {
        let picked = picks(&row, &ends(filters));
        picked.into_iter().map(|p| p.id).collect::<Vec<_>>()
    };
    let twos = [2, 7502, 14_999];
    assert_eq!(ids(Filters { top_k: 5, ..ALL }), twos);
    assert_eq!(ids(Filters { top_p: 0.1, ..ALL }), twos);
    assert_eq!(ids(Filters { min_p: 1.0, ..ALL }), twos);
    // Ones and twos, and so the first is a one.
    assert_eq!(ids(Filters { top_k: 5001, ..ALL })[0], 1);
    assert_eq!(ids(Filters { top_p: 0.8, ..ALL })[0], 1);
    assert_eq!(
        ids(Filters {
            top_k: 10_001,
            ..ALL
        })[0],
        0
    );
    // The two zeros are equal, and the first of the largest is greedy's.
    let zeros = [-1.0, -0.0, 0.0, -0.0, -2.0];
    let greedy = Wish::Pick(Pick {
        columns: 5,
        draw: None,
    });
    assert_eq!(picks(&zeros, &[greedy])[0].id, 1);
    let one = Filters { top_k: 1, ..ALL };
    let ids = [0.1, 0.5, 0.9].map(|u| picks(&zeros, &[draw(5, one, u)])[0].id);
    assert_eq!(ids, [1, 2, 3]);
}

#[test]
fn rows_without_a_finite_logit_do_no_harm() {
    const NAN: f32 = f32::NAN;
    const INF: f32 = f32::INFINITY;
    let filters = [
        ALL,
        Filters { top_k: 2, ..ALL },
        Filters { top_p: 0.5, ..ALL },
        Filters {
            temperature: 1e-30,
            top_k: 2,
            top_p: 0.9,
            min_p: 0.1,
        },
    ];
    let rows = [
        [NAN; 4],
        [-INF; 4],
        [INF; 4],
        [1.0, NAN, INF, -INF],
        [1.0, NAN, -INF, 2.0],
        [3e38, -3e38, 0.0, 3e38],
    ];
    for row in rows {
        for filters in filters {
            for columns in [3, 4, 9] {
                let wishes = [0.0, 0.7, 1.0 - 1e-16].map(|u| draw(columns, filters, u));
                let picked = picks(&row, &wishes);
                let inside = |p: &Picked| (p.id as usize) < columns.min(4);
                assert!(picked.iter().all(inside), "{row:?}: {picked:?}");
            }
        }
    }
    // What is finite is drawn from, and only that.
    let ids = [0.0, 0.99].map(|u| picks(&rows[4], &[draw(4, ALL, u)])[0].id);
    assert_eq!(ids, [0, 3]);
}

/// The token of a row with the bits of its log probability, or its logits.
pub type Chosen = Result<(u32, u32), Vec<f32>>;

pub fn outcome(mut logits: Logits) -> Vec<Chosen> {
    let row = |row: Row<'_>| match row {
        Row::Logits(logits) => Err(logits.to_vec()),
        Row::Picked(picked) => Ok((picked.id, picked.logprob.to_bits())),
    };
    logits.rows_mut().map(row).collect()
}

/// A step after some prompts, which wants of each what `wishes` say.
fn step(model: &CudaGpt2, lens: &[usize], wishes: &[Wish], recorded: bool) -> Vec<Chosen> {
    let ids = some_ids(0..91);
    let mut cache = model.cache(lens.len() * 96).unwrap();
    let mut leases: Vec<_> = lens.iter().map(|_| cache.lease()).collect();
    let mut next = Batch::new();
    for (lease, &len) in leases.iter_mut().zip(lens) {
        lease.grow(len).unwrap();
        let mut prompt = Batch::new();
        prompt.push(&ids[..len], lease, LogitRows::None).unwrap();
        model.forward(&prompt, &mut cache).unwrap();
        lease.commit(len);
    }
    for ((lease, &len), wish) in leases.iter_mut().zip(lens).zip(wishes) {
        lease.grow(1).unwrap();
        next.push_wishes(&ids[len..=len], lease, &[*wish]).unwrap();
    }
    outcome(match recorded {
        true => model.forward(&next, &mut cache).unwrap(),
        // While someone looks, nothing is recorded.
        false => {
            let to = &mut Layers::default();
            model.forward_recorded(&next, &mut cache, to).unwrap()
        }
    })
}

#[test]
fn a_row_is_chosen_alone_as_in_a_batch() {
    let some = Filters {
        top_k: 20,
        top_p: 0.9,
        ..ALL
    };
    let greedy = Wish::Pick(Pick {
        columns: 300,
        draw: None,
    });
    let wishes = [
        greedy,
        draw(333, some, 0.3),
        Wish::Logits,
        draw(333, ALL, 0.9),
        Wish::Logits,
        Wish::Logits,
        draw(200, some, 0.8),
    ];
    let lens = [40, 1, 17, 33, 5, 90, 2];
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let model = on_gpu(&odd(), dtype);
        let found = step(&model, &lens, &wishes, true);
        assert!(
            found == step(&model, &lens, &wishes, false),
            "recorded or not"
        );
        for (i, found) in found.iter().enumerate() {
            assert_eq!(found.is_err(), wishes[i] == Wish::Logits);
            let alone = step(&model, &lens[i..=i], &wishes[i..=i], true);
            assert!(alone[0] == *found, "row {i}");
        }
        // What was chosen fits the logits of the same row.
        let logits = step(&model, &lens, &[Wish::Logits; 7], true);
        for ((found, logits), wish) in found.iter().zip(&logits).zip(wishes) {
            if let (Ok(found), Err(logits)) = (found, logits) {
                let again = picks(logits, &[wish])[0];
                assert_eq!(*found, (again.id, again.logprob.to_bits()));
            }
        }
    }
}

/// Rows of a prompt can have wishes too, those of its last tokens.
#[test]
fn the_last_rows_of_a_span_get_what_is_wished() {
    let model = on_gpu(&odd(), Dtype::F32);
    let ids = some_ids(0..20);
    let forward = |wishes: &[Wish]| {
        let mut cache = model.cache(KvCache::BLOCK).unwrap();
        let mut lease = cache.lease();
        lease.grow(20).unwrap();
        let mut batch = Batch::new();
        batch.push_wishes(&ids, &lease, wishes).unwrap();
        outcome(model.forward(&batch, &mut cache).unwrap())
    };
    let all = forward(&[Wish::Logits; 20]);
    let greedy = Wish::Pick(Pick {
        columns: usize::MAX,
        draw: None,
    });
    let found = forward(&[greedy, Wish::Logits, greedy]);
    assert!(found[1] == all[18]);
    for (found, logits) in [(&found[0], &all[17]), (&found[2], &all[19])] {
        let logits = logits.as_ref().unwrap_err();
        let likeliest = (0..333).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
        assert_eq!(found.as_ref().unwrap().0 as usize, likeliest.unwrap());
    }
}
