//! The checkpoints in tests/fixtures and what transformers computed for them.

use std::path::{Path, PathBuf};

use gpt2_engine::model::{
    Batch, Gpt2, Inspection, Inspector, KvCache, LoadOptions, LogitRows, Logits, ModelError,
    ModelFiles, NoRecorder, Recorder, Transformer, View,
};
use serde_json::Value;

pub fn root() -> PathBuf {
    // Tests may run where they were not built.
    let root = std::env::var_os("CARGO_MANIFEST_DIR");
    let root = root.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&root).join("tests/fixtures")
}

pub fn json(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

/// The variants that have expectations.
pub fn variants() -> Vec<String> {
    let manifest = json(&root().join("manifest.json"));
    let variants = manifest["variants"].as_object().unwrap();
    let expected = variants.iter().filter(|(_, v)| v["expected"] == true);
    expected.map(|(name, _)| name.clone()).collect()
}

pub struct Fixture {
    pub dir: PathBuf,
    pub expected: Value,
    pub model: Gpt2,
}

impl Fixture {
    pub fn load(name: &str) -> Self {
        let dir = root().join(name);
        let model = load(&dir).unwrap_or_else(|e| panic!("{name}: {e}"));
        Self {
            expected: json(&dir.join("expected.json")),
            model,
            dir,
        }
    }

    pub fn ids(&self, pointer: &str) -> Vec<u32> {
        let list = self.expected.pointer(pointer).unwrap().as_array().unwrap();
        list.iter().map(|v| v.as_u64().unwrap() as u32).collect()
    }

    /// A tensor of expected.safetensors, flattened.
    pub fn tensor(&self, name: &str) -> Vec<f32> {
        let path = self.dir.join("expected.safetensors");
        let tensors = candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap();
        tensors[name].flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Logits of all rows, computed in chunks of `chunk` tokens.
    pub fn logits(&self, ids: &[u32], chunk: usize) -> Vec<Vec<f32>> {
        self.recorded(ids, chunk, &mut NoRecorder)
    }

    pub fn recorded(
        &self,
        ids: &[u32],
        chunk: usize,
        recorder: &mut impl Recorder,
    ) -> Vec<Vec<f32>> {
        let mut rows = Vec::new();
        in_chunks(&self.model, ids, chunk, |_, batch, cache| {
            let logits = self.model.forward_recorded(batch, cache, recorder).unwrap();
            rows.extend((0..logits.rows()).map(|r| Logits::row(&logits, r).to_vec()));
        });
        rows
    }
}

/// Calls `forward` for each chunk of `ids`, with its length.
pub fn in_chunks(
    model: &dyn Transformer,
    ids: &[u32],
    chunk: usize,
    mut forward: impl FnMut(usize, &Batch, &mut KvCache),
) {
    let mut cache = model.cache(ids.len()).unwrap();
    let mut lease = cache.lease();
    for part in ids.chunks(chunk) {
        lease.grow(part.len()).unwrap();
        let mut batch = Batch::new();
        batch.push(part, &lease, LogitRows::All).unwrap();
        forward(part.len(), &batch, &mut cache);
        lease.commit(part.len());
    }
}

/// The header of a safetensors file, and where its data starts.
pub fn header(bytes: &[u8]) -> (Value, usize) {
    let data = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..data]).unwrap(), data)
}

/// A look at all that a model computes of a text, `chunk` tokens at a time.
pub fn inspect(model: &dyn Transformer, ids: &[u32], chunk: usize) -> Inspection {
    let config = model.config();
    let view = View {
        layers: (0..config.n_layer).collect(),
        heads: (0..config.n_head).collect(),
        positions: (0..ids.len()).collect(),
        streams: (0..ids.len()).collect(),
    };
    let mut inspection = Inspection::new(view, config).unwrap();
    in_chunks(model, ids, chunk, |rows, batch, cache| {
        let mut inspector = Inspector::default();
        inspector.look(0..rows, &mut inspection);
        let logits = model.forward_inspected(batch, cache, &mut inspector);
        logits.unwrap();
    });
    assert_eq!(inspection.seen(), ids.len());
    inspection
}

pub fn load(dir: &Path) -> Result<Gpt2, ModelError> {
    Gpt2::load(&ModelFiles::from_dir(dir)?, &LoadOptions::default())
}

pub fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&l| f64::from(l - highest).exp()).sum();
    logits
        .iter()
        .map(|&l| f64::from(l - highest) - sum.ln())
        .collect()
}

/// The largest difference of two slices of one length.
pub fn largest_difference(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let difference = |(x, y): (&f32, &f32)| f64::from((x - y).abs());
    a.iter().zip(b).map(difference).fold(0.0, f64::max)
}
