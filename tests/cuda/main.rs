//! `CudaGpt2` against `Gpt2`, which is itself compared with transformers.
//! Needs a GPU, or the driver that `run.sh` builds.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "the other tests use the rest")]
#[path = "../integration/fixture.rs"]
mod fixture;
mod inspection;
mod sampling;
mod size;
mod stories;

use std::ops::Range;

use candle_core::Tensor;
use fixture::{Fixture, in_chunks, largest_difference, log_softmax};
use gpt2_engine::cuda;
use gpt2_engine::model::{
    Batch, Config, CudaGpt2, Dtype, Gpt2, KvCache, LogitRows, Logits, ModelError, ModelFiles,
    NoRecorder, Recorder,
};

const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::Bf16, Dtype::F16];

fn on_gpu(model: &Gpt2, dtype: Dtype) -> CudaGpt2 {
    // So that a device is opened once in all.
    sampling::device();
    CudaGpt2::from_host(model, dtype, &cuda::Device::open(0).unwrap()).unwrap()
}

/// Logits of all rows, computed in chunks of `chunk` tokens.
fn logits(model: &CudaGpt2, ids: &[u32], chunk: usize, to: &mut impl Recorder) -> Vec<Vec<f32>> {
    let mut rows = Vec::new();
    in_chunks(model, ids, chunk, |_, batch, cache| {
        let logits = model.forward_recorded(batch, cache, to).unwrap();
        rows.extend((0..logits.rows()).map(|r| Logits::row(&logits, r).to_vec()));
    });
    rows
}

fn whole(model: &CudaGpt2, ids: &[u32]) -> Vec<Vec<f32>> {
    logits(model, ids, ids.len(), &mut NoRecorder)
}

/// The same, of all at once, on the processor.
fn on_cpu(model: &Gpt2, ids: &[u32]) -> Vec<Vec<f32>> {
    let mut rows = Vec::new();
    in_chunks(model, ids, ids.len(), |_, batch, cache| {
        let logits = model.forward(batch, cache).unwrap();
        rows.extend((0..logits.rows()).map(|row| logits.row(row).to_vec()));
    });
    rows
}

#[derive(Default)]
struct Layers(Vec<Vec<f32>>);

impl Recorder for Layers {
    fn hidden(&mut self, _layer: usize, x: &Tensor) -> Result<(), ModelError> {
        self.0.push(x.flatten_all()?.to_vec1()?);
        Ok(())
    }
}

#[test]
fn f32_is_what_the_cpu_computes() {
    let (mut worst_layer, mut worst_logprob) = (0.0_f64, 0.0_f64);
    for name in fixture::variants() {
        let fixture = Fixture::load(&name);
        let ids = fixture.ids("/input_ids");
        let (mut theirs, mut ours) = (Layers::default(), Layers::default());
        let expected = fixture.recorded(&ids, ids.len(), &mut theirs);
        let model = on_gpu(&fixture.model, Dtype::F32);
        let found = logits(&model, &ids, ids.len(), &mut ours);
        assert_eq!(theirs.0.len(), ours.0.len());
        for (theirs, ours) in theirs.0.iter().zip(&ours.0) {
            let size = theirs.iter().fold(1.0_f32, |size, x| size.max(x.abs()));
            let off = largest_difference(theirs, ours) / f64::from(size);
            worst_layer = worst_layer.max(off);
        }
        for (expected, found) in expected.iter().zip(&found) {
            let pairs = log_softmax(expected).into_iter().zip(log_softmax(found));
            let off = pairs.map(|(e, f)| (e - f).abs()).fold(0.0, f64::max);
            assert!(off < 1e-4, "{name}: {off}");
            worst_logprob = worst_logprob.max(off);
        }
    }
    println!("f32: layers {worst_layer:.1e} of their size, log probabilities {worst_logprob:.1e}");
    assert!(worst_layer < 1e-4);
}

/// Mean absolute difference of log probabilities.
fn mean_difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    let rows = a.iter().zip(b);
    let differences = rows.flat_map(|(a, b)| {
        let pairs = log_softmax(a).into_iter().zip(log_softmax(b));
        pairs.map(|(a, b)| (a - b).abs())
    });
    let all: Vec<f64> = differences.collect();
    all.iter().sum::<f64>() / all.len() as f64
}

#[test]
fn bf16_and_f16_are_as_near_as_their_precision() {
    for name in ["long", "small-vocab"] {
        let fixture = Fixture::load(name);
        let ids = fixture.ids("/input_ids");
        let exact = fixture.logits(&ids, ids.len());
        let cpu = fixture.model.repacked(Dtype::Bf16, |_| {}).unwrap();
        let cpu = Fixture {
            model: cpu,
            ..fixture
        };
        let bf16_on_cpu = mean_difference(&exact, &cpu.logits(&ids, ids.len()));
        let exact_model = fixture::load(&cpu.dir).unwrap();
        let off = |dtype| mean_difference(&exact, &whole(&on_gpu(&exact_model, dtype), &ids));
        let (bf16, f16) = (off(Dtype::Bf16), off(Dtype::F16));
        println!("{name}: bf16 {bf16:.1e}, f16 {f16:.1e}; bf16 on the CPU {bf16_on_cpu:.1e}");
        assert!(bf16 < 2.0 * bf16_on_cpu, "{name}: {bf16}");
        assert!(f16 < bf16_on_cpu / 2.0, "{name}: {f16}");
    }
}

/// A shape for which nothing is a multiple of anything, and more than a chunk
/// of inputs.
fn odd() -> Gpt2 {
    let config = br#"{"n_layer": 2, "n_embd": 84, "n_head": 6, "n_inner": 601,
        "vocab_size": 333, "n_positions": 200}"#;
    Gpt2::random(Config::from_json(config, "odd").unwrap(), Dtype::F32, 7).unwrap()
}

fn some_ids(range: Range<u32>) -> Vec<u32> {
    range.map(|i| (i * i * 31 + i * 7) % 333).collect()
}

#[test]
fn chunks_give_the_same_bits() {
    let host = odd();
    // More rows than the kernel for few takes, and fewer.
    let ids = some_ids(0..140);
    for dtype in DTYPES {
        let model = on_gpu(&host, dtype);
        let expected = whole(&model, &ids);
        for chunk in [1, 33, 64, 65] {
            let found = logits(&model, &ids, chunk, &mut NoRecorder);
            assert!(found == expected, "{}, chunks of {chunk}", dtype.as_str());
        }
    }
}

/// Heads of 64 and of more numbers than are summed at a time; more positions
/// than the warps of a row have at a time. As many rows as fit a tile, a few,
/// and steps.
#[test]
fn long_contexts_and_wide_heads_are_the_cpus_and_have_the_same_bits() {
    for (n_embd, n_head) in [(64, 1), (144, 2), (99, 1)] {
        let config = format!(
            r#"{{"n_layer": 1, "n_embd": {n_embd}, "n_head": {n_head}, "n_inner": 32,
                "vocab_size": 333, "n_positions": 900, "initializer_range": 0.2}}"#
        );
        let config = Config::from_json(config.as_bytes(), "long").unwrap();
        let host = Gpt2::random(config, Dtype::F32, 7).unwrap();
        let ids = some_ids(0..890);
        let on_host = on_cpu(&host, &ids);
        for (dtype, most) in [(Dtype::F32, 1e-6), (Dtype::Bf16, 2e-3), (Dtype::F16, 2e-4)] {
            let name = format!("{}, heads of {}", dtype.as_str(), n_embd / n_head);
            let model = on_gpu(&host, dtype);
            let expected = whole(&model, &ids);
            let off = mean_difference(&on_host, &expected);
            println!("{name}: {off:.1e}");
            assert!(off < most, "{name}: {off}");

            let mut cache = model.cache(ids.len()).unwrap();
            let mut lease = cache.lease();
            let mut rest = &ids[..];
            for rows in [860, 19, 7, 1, 1, 2] {
                let (part, others) = rest.split_at(rows);
                rest = others;
                lease.grow(rows).unwrap();
                let mut batch = Batch::new();
                batch.push(part, &lease, LogitRows::Last).unwrap();
                let found = model.forward(&batch, &mut cache).unwrap();
                lease.commit(rows);
                let last = lease.len() - 1;
                assert!(found.row(0) == &*expected[last], "{name}, position {last}");
            }
        }
    }
}

/// More inputs than the warps of a block take at a time, as those of the last
/// layer in the blocks of gpt2-xl.
#[test]
fn wide_layers_are_the_cpus_and_have_the_same_bits() {
    let config = br#"{"n_layer": 1, "n_embd": 40, "n_head": 2, "n_inner": 4200,
        "vocab_size": 333, "n_positions": 160, "initializer_range": 0.2}"#;
    let config = Config::from_json(config, "wide").unwrap();
    let host = Gpt2::random(config, Dtype::F32, 7).unwrap();
    // As many as the kernel for many rows takes, and fewer.
    let ids = some_ids(0..130);
    let on_host = on_cpu(&host, &ids);
    for (dtype, most) in [(Dtype::F32, 1e-6), (Dtype::Bf16, 2e-3), (Dtype::F16, 2e-4)] {
        let name = dtype.as_str();
        let model = on_gpu(&host, dtype);
        let expected = whole(&model, &ids);
        let off = mean_difference(&on_host, &expected);
        println!("wide, {name}: {off:.1e}");
        assert!(off < most, "{name}: {off}");
        // Steps, the kernel for few rows, and the one for some.
        for (chunk, count) in [(1, 3), (19, 38), (65, 65)] {
            let found = logits(&model, &ids[..count], chunk, &mut NoRecorder);
            assert!(found == expected[..count], "{name}, chunks of {chunk}");
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_in_a_batch() {
    let host = odd();
    let ids = some_ids(0..92);
    for dtype in DTYPES {
        let model = on_gpu(&host, dtype);
        let alone = whole(&model, &ids);
        let mut cache = model.cache(8 * 96).unwrap();
        let lens = [40, 1, 17, 33, 5, 90];
        let mut leases: Vec<_> = lens.iter().map(|_| cache.lease()).collect();
        // The prompts, then steps of some of the sequences and of all.
        for (count, first) in [(6, true), (3, false), (6, false)] {
            let mut batch = Batch::new();
            for (lease, len) in leases[..count].iter_mut().zip(lens) {
                let start = lease.len();
                let end = if first { len } else { start + 1 };
                lease.grow(end - start).unwrap();
                let rows = LogitRows::Last;
                batch.push(&ids[start..end], lease, rows).unwrap();
            }
            let logits = model.forward(&batch, &mut cache).unwrap();
            for (row, lease) in leases[..count].iter_mut().enumerate() {
                let len = if first { lens[row] } else { lease.len() + 1 };
                lease.commit(len - lease.len());
                let (dtype, expected) = (dtype.as_str(), &*alone[len - 1]);
                assert!(logits.row(row) == expected, "{dtype}, after {len} tokens");
            }
        }
    }
}

/// Nothing waits for a pass of which nothing is wanted; the inputs of those
/// after it must not come in its place.
#[test]
fn passes_that_nobody_waits_for_keep_their_inputs() {
    let host = odd();
    let ids = some_ids(0..80);
    let model = on_gpu(&host, Dtype::F32);
    let mut cache = model.cache(96).unwrap();
    let mut lease = cache.lease();
    let mut found = None;
    for (i, chunk) in ids.chunks(8).enumerate() {
        lease.grow(chunk.len()).unwrap();
        let last = (i + 1) * 8 == ids.len();
        let rows = if last {
            LogitRows::Last
        } else {
            LogitRows::None
        };
        let mut batch = Batch::new();
        batch.push(chunk, &lease, rows).unwrap();
        found = Some(model.forward(&batch, &mut cache).unwrap());
        lease.commit(chunk.len());
    }
    let expected = whole(&model, &ids);
    assert!(found.unwrap().row(0) == expected.last().unwrap());
}

/// A pass that nobody finishes is computed all the same.
#[test]
fn passes_under_way_together_change_no_bit() {
    let model = on_gpu(&odd(), Dtype::Bf16);
    let mut cache = model.cache(3 * 32).unwrap();
    let mut leases: Vec<_> = (0..3).map(|_| cache.lease()).collect();
    for tokens in [[5, 6, 7], [15, 16, 17]] {
        let mut passes = Vec::new();
        for (lease, token) in leases.iter_mut().zip(tokens) {
            lease.grow(1).unwrap();
            let mut batch = Batch::new();
            batch.push(&[token], lease, LogitRows::Last).unwrap();
            passes.push(model.begin(&batch, &mut cache).unwrap());
            lease.commit(1);
        }
        if tokens[0] == 5 {
            continue;
        }
        for (pass, first) in passes.into_iter().zip([5, 6, 7]) {
            let found = model.finish(pass).unwrap();
            let expected = whole(&model, &[first, first + 10]);
            assert!(found.row(0) == &*expected[1], "after {first}");
        }
    }
}

/// Each thread records steps for its cache while others compute.
#[test]
fn threads_that_share_a_model_change_no_bit() {
    let model = on_gpu(&odd(), Dtype::Bf16);
    let ids = some_ids(0..6);
    let expected = whole(&model, &ids);
    std::thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                for chunk in [1, 2] {
                    let found = logits(&model, &ids, chunk, &mut NoRecorder);
                    assert!(found == expected, "chunks of {chunk}");
                }
                let mut cache = model.cache(8 * 32).unwrap();
                let mut leases: Vec<_> = (0..8).map(|_| cache.lease()).collect();
                for count in 1..=8 {
                    let mut batch = Batch::new();
                    for lease in &mut leases[..count] {
                        lease.grow(1).unwrap();
                        batch.push(&ids[..1], lease, LogitRows::Last).unwrap();
                    }
                    let found = model.forward(&batch, &mut cache).unwrap();
                    assert!((0..count).all(|row| found.row(row) == &*expected[0]));
                }
            });
        }
    });
}

/// What was recorded for a cache goes when another's is recorded after it.
#[test]
fn steps_of_caches_that_are_gone_are_given_back() {
    let model = on_gpu(&odd(), Dtype::Bf16);
    let steps = |model: &CudaGpt2| format!("{model:?}").matches("Step(").count();
    let step = |cache: &mut KvCache| {
        let mut lease = cache.lease();
        lease.grow(1).unwrap();
        let mut batch = Batch::new();
        batch.push(&[1], &lease, LogitRows::Last).unwrap();
        let logits = model.forward(&batch, cache).unwrap();
        logits.row(0).to_vec()
    };
    let mut kept = model.cache(32).unwrap();
    let expected = step(&mut kept);
    // Unless `GPT2_CUDA_GRAPHS=0`.
    let recorded = steps(&model);
    assert_eq!(
        recorded,
        usize::from(std::env::var_os("GPT2_CUDA_GRAPHS").is_none())
    );
    for _ in 0..3 {
        assert!(step(&mut model.cache(32).unwrap()) == expected);
        // The kept one's, and the last that is gone.
        assert!(steps(&model) <= 2 * recorded);
        assert!(step(&mut kept) == expected);
    }
}

/// Values that f16 doesn't hold: an infinity would be NaN where it meets the
/// weight of 0 that a row has for the tokens after it.
#[test]
fn what_is_too_large_for_f16_is_its_largest_number() {
    const BIAS: &str = "transformer.h.0.attn.c_attn.bias";
    let dir = tempfile::tempdir().unwrap();
    let path = |name| fixture::root().join("base-prefixed").join(name);
    let config = std::fs::read(path("config.json")).unwrap();
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    let mut bytes = std::fs::read(path("model.safetensors")).unwrap();
    let (header, data) = fixture::header(&bytes);
    let offset = |i: usize| header[BIAS]["data_offsets"][i].as_u64().unwrap() as usize;
    // Queries, keys, values.
    let values = offset(0) + (offset(1) - offset(0)) / 3 * 2..offset(1);
    for bias in bytes[data..][values].chunks_exact_mut(4) {
        bias.copy_from_slice(&1e6f32.to_le_bytes());
    }
    std::fs::write(dir.path().join("model.safetensors"), bytes).unwrap();

    let host = fixture::load(dir.path()).unwrap();
    let ids: Vec<u32> = (1..24).collect();
    for dtype in [Dtype::Bf16, Dtype::F16] {
        let model = on_gpu(&host, dtype);
        let expected = whole(&model, &ids);
        assert!(expected.iter().flatten().all(|logit| logit.is_finite()));
        let found = logits(&model, &ids, 1, &mut NoRecorder);
        assert!(found == expected, "{}", dtype.as_str());
    }
}

/// The comparison can fail: another context, other bits.
#[test]
fn other_tokens_give_other_bits() {
    let model = on_gpu(&odd(), Dtype::Bf16);
    let ids = some_ids(0..20);
    let mut changed = ids.clone();
    changed[3] += 1;
    assert!(whole(&model, &ids)[19] != whole(&model, &changed)[19]);
}

#[test]
fn what_is_not_there_is_said() {
    let files = ModelFiles::demo();
    let refused = |dtype, ordinal| CudaGpt2::load(&files, dtype, ordinal).unwrap_err();
    let said = refused(Dtype::Q8, 0).to_string();
    assert!(said.contains("q8 is for CPUs only"), "{said}");
    let said = refused(Dtype::F32, 99).to_string();
    assert!(said.contains("device 99"), "{said}");

    // A cache of one kind is no use to the other.
    let (host, batch) = (odd(), &mut Batch::new());
    let gpu = on_gpu(&host, Dtype::F32);
    let mut cache = gpu.cache(32).unwrap();
    let mut lease = cache.lease();
    lease.grow(1).unwrap();
    batch.push(&[1], &lease, LogitRows::Last).unwrap();
    assert!(host.forward(batch, &mut cache).is_err());
    assert!(gpu.forward(batch, &mut cache).is_ok());
}
