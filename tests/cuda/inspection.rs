//! What a look inside shows on the GPU, beside what it shows on the CPU.

use gpt2_engine::engine::{Engine, InspectRequest, Inspected};
use gpt2_engine::model::{Device, Dtype, Inspection, Transformer};

use crate::fixture::{self, Fixture, largest_difference, log_softmax};
use crate::{odd, on_gpu, some_ids};

/// The largest differences of attention, of streams by their size, of norms by
/// theirs, and of the log probabilities of the lens.
fn differences(a: (&dyn Transformer, &Inspection), b: (&dyn Transformer, &Inspection)) -> [f64; 4] {
    let (of_a, of_b) = (a.1, b.1);
    let mut worst = [0.0_f64; 4];
    let mut note = |kind: usize, a: &[f32], b: &[f32], by_size: bool| {
        let size = a.iter().fold(1.0_f32, |size, x| size.max(x.abs()));
        let size = if by_size { f64::from(size) } else { 1.0 };
        worst[kind] = worst[kind].max(largest_difference(a, b) / size);
    };
    let attention = of_a.attention().iter().flatten().flatten();
    let pairs = attention.zip(of_b.attention().iter().flatten().flatten());
    pairs.for_each(|(a, b)| note(0, a, b, false));
    let streams = of_a.streams().iter().zip(of_b.streams());
    streams.for_each(|(a, b)| note(1, a, b, true));
    let norms = |inspection: &Inspection| {
        let norms = inspection.norms();
        [&norms.residual[..], &norms.attention, &norms.mlp].concat()
    };
    let pairs = norms(of_a).into_iter().zip(norms(of_b));
    pairs.for_each(|(a, b)| note(2, &a, &b, true));
    for position in [0, of_a.seen() - 1] {
        let lens = |(model, inspection): (&dyn Transformer, &Inspection)| {
            model.logit_lens(inspection, position).unwrap()
        };
        let (a, b) = (lens(a), lens(b));
        assert_eq!((a.rows(), b.rows()), (of_a.streams().len(), a.rows()));
        for row in 0..a.rows() {
            let pairs = log_softmax(a.row(row))
                .into_iter()
                .zip(log_softmax(b.row(row)));
            worst[3] = pairs.fold(worst[3], |worst, (a, b)| worst.max((a - b).abs()));
        }
    }
    worst
}

#[test]
fn a_look_inside_shows_what_the_cpu_shows() {
    let mut worst = [0.0_f64; 4];
    for name in fixture::variants() {
        let fixture = Fixture::load(&name);
        let ids = fixture.ids("/input_ids");
        let host = &fixture.model;
        let gpu = on_gpu(host, Dtype::F32);
        let on_host = fixture::inspect(host, &ids, ids.len());
        let on_gpu = fixture::inspect(&gpu, &ids, 7);
        let off = differences((host, &on_host), (&gpu, &on_gpu));
        assert!(off.iter().all(|&off| off < 1e-4), "{name}: {off:?}");
        worst = std::array::from_fn(|i| worst[i].max(off[i]));
    }
    let [attention, streams, norms, lens] = worst;
    println!(
        "looking: attention {attention:.1e}, streams {streams:.1e}, norms {norms:.1e}, lens {lens:.1e}"
    );
}

#[test]
fn in_half_precision_attention_is_near_and_chunks_change_no_bit() {
    let host = odd();
    let ids = some_ids(0..70);
    let exact = fixture::inspect(&host, &ids, ids.len());
    for dtype in [Dtype::Bf16, Dtype::F16] {
        let gpu = on_gpu(&host, dtype);
        let look = |chunk| fixture::inspect(&gpu, &ids, chunk);
        let (whole, pieces) = (look(ids.len()), look(3));
        assert!(whole.attention() == pieces.attention());
        assert!(whole.streams() == pieces.streams());
        assert!(whole.norms() == pieces.norms());
        let [attention, ..] = differences((&host, &exact), (&gpu, &whole));
        println!("looking in {}: attention {attention:.1e}", dtype.as_str());
        assert!(attention < 1e-3);
    }
}

#[test]
fn the_engine_looks_inside_on_the_gpu() {
    let look = |device| -> Inspected {
        let engine = Engine::builder().device(device).build().unwrap();
        let ids = engine.tokenizer().unwrap().encode("Once upon a time");
        let request = InspectRequest {
            ids: ids.unwrap(),
            attention: true,
            lens: 3,
            ..Default::default()
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(engine.inspect(request)).unwrap()
    };
    let (cpu, gpu) = (look(Device::Cpu), look(Device::Cuda(0)));
    for (cpu, gpu) in cpu.lens.iter().flatten().zip(gpu.lens.iter().flatten()) {
        let ids = |lens: &[gpt2_engine::engine::Alternative]| {
            lens.iter().map(|a| a.token_id).collect::<Vec<_>>()
        };
        assert_eq!((cpu.len(), ids(cpu)), (3, ids(gpu)));
    }
    let first = |seen: &Inspected| seen.inspection.attention()[0][0][3].clone();
    assert!(largest_difference(&first(&cpu), &first(&gpu)) < 1e-5);
}
