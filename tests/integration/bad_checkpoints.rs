//! Broken checkpoints: each an error, soon, that names file and tensor or field.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use gpt2_engine::model::{Dtype, Gpt2, LoadOptions, ModelFiles};
use serde_json::{Value, json};

use crate::fixture::{self, header};

/// Copies a fixture, breaks it, and checks what the error says.
fn refused(from: &str, break_it: impl FnOnce(&Path), says: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture::root().join(from)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    fixture::load(dir.path()).expect("whole before it is broken");
    break_it(dir.path());
    let started = Instant::now();
    let error = fixture::load(dir.path()).expect_err("broken").to_string();
    // What it announces, if that was believed, takes minutes.
    assert!(started.elapsed() < Duration::from_secs(10));
    for part in says {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

fn edit_config(key: &'static str, value: Value) -> impl FnOnce(&Path) {
    move |dir| {
        let path = dir.join("config.json");
        let mut config = fixture::json(&path);
        config[key] = value;
        fs::write(path, config.to_string()).unwrap();
    }
}

/// Rewrites the header of model.safetensors, the data left as it is.
fn edit_header(edit: impl FnOnce(&mut Value)) -> impl FnOnce(&Path) {
    |dir| {
        let path = dir.join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        let (mut header, data) = header(&bytes);
        edit(&mut header);
        let header = header.to_string();
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header.as_bytes());
        file.extend_from_slice(&bytes[data..]);
        fs::write(path, file).unwrap();
    }
}

fn edit_bytes(edit: impl FnOnce(&mut Vec<u8>)) -> impl FnOnce(&Path) {
    |dir| {
        let path = dir.join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        edit(&mut bytes);
        fs::write(path, bytes).unwrap();
    }
}

const BASE: &str = "base-prefixed";
const C_FC: &str = "transformer.h.0.mlp.c_fc.weight";

#[test]
fn configurations() {
    let bad = |key, value| refused(BASE, edit_config(key, value), &["config.json", key]);
    bad("n_head", json!(0));
    bad("n_embd", json!(21));
    bad("n_layer", json!(1_000_000_000));
    bad("n_positions", json!(1_000_000_000_000u64));
    bad("layer_norm_epsilon", json!(-1e-5));
    bad("vocab_size", json!("many"));
    bad("model_type", json!("gpt_bigcode"));
    let garbage = |dir: &Path| fs::write(dir.join("config.json"), "{not json").unwrap();
    refused(BASE, garbage, &["config.json", "not JSON"]);
    // Believable, but not what the tensors are.
    refused(
        BASE,
        edit_config("n_layer", json!(3)),
        &["h.2.attn.c_attn.weight", "missing"],
    );
    let says = ["transformer.wpe.weight", "[64, 20]", "[4096, 20]"];
    refused(BASE, edit_config("n_positions", json!(4096)), &says);
}

#[test]
fn tensors() {
    let rename = edit_header(|h| {
        let tensor = h.as_object_mut().unwrap().remove(C_FC).unwrap();
        h["stray"] = tensor;
    });
    refused(BASE, rename, &["model.safetensors", C_FC, "missing"]);
    let transpose = edit_header(|h| h[C_FC]["shape"] = json!([80, 20]));
    refused(
        BASE,
        transpose,
        &["model.safetensors", C_FC, "[80, 20]", "[20, 80]"],
    );
    let integers = edit_header(|h| h[C_FC]["dtype"] = json!("I32"));
    refused(BASE, integers, &[C_FC, "I32", "F32, F16 or BF16"]);
    let nan = edit_bytes(|bytes| {
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    refused(BASE, nan, &["model.safetensors", "transformer.", "NaN"]);
}

/// A weight that floats hold, and blocks of 8 or 4 bits do not.
#[test]
fn weights_beyond_what_a_dtype_holds() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(fixture::root().join(BASE).join(file), dir.path().join(file)).unwrap();
    }
    edit_bytes(|bytes| {
        let (header, data) = header(bytes);
        let start = header[C_FC]["data_offsets"][0].as_u64().unwrap() as usize;
        bytes[data + start..][..4].copy_from_slice(&1e7f32.to_le_bytes());
    })(dir.path());
    let load = |dtype| {
        let files = ModelFiles::from_dir(dir.path()).unwrap();
        Gpt2::load(&files, &LoadOptions { dtype })
    };
    for dtype in [Dtype::F32, Dtype::Bf16] {
        load(dtype).expect("floats hold it");
    }
    for dtype in [Dtype::Q8, Dtype::Q4] {
        let error = load(dtype).expect_err("too large").to_string();
        for part in ["model.safetensors", C_FC, "10000000"] {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
    }
}

#[test]
fn files() {
    refused(
        BASE,
        edit_bytes(|b| b.truncate(b.len() - 100)),
        &["model.safetensors", "truncated"],
    );
    refused(
        BASE,
        edit_bytes(|b| b.truncate(5)),
        &["model.safetensors", "5 bytes"],
    );
    let long_header = edit_bytes(|b| b[..8].copy_from_slice(&(1u64 << 26).to_le_bytes()));
    refused(BASE, long_header, &["model.safetensors", "header"]);
    let huge_header = edit_bytes(|b| b[..8].copy_from_slice(&u64::MAX.to_le_bytes()));
    refused(BASE, huge_header, &["model.safetensors", "header"]);
    let shift = |by: i64| {
        edit_header(move |h| {
            for end in 0..2 {
                let offset = &mut h[C_FC]["data_offsets"][end];
                *offset = json!(offset.as_i64().unwrap() + by);
            }
        })
    };
    refused(BASE, shift(-4), &["model.safetensors", "overlap"]);
    refused(BASE, shift(4), &["model.safetensors", "hole"]);
    refused(
        BASE,
        edit_bytes(|b| b.push(0)),
        &["model.safetensors", "1 bytes follow"],
    );
}

#[test]
fn index_paths_stay_in_the_folder() {
    for path in [
        "../model.safetensors",
        "/etc/hostname",
        "a/b.safetensors",
        "..",
        "",
    ] {
        let edit = |dir: &Path| {
            let file = dir.join("model.safetensors.index.json");
            let mut index = fixture::json(&file);
            let map = index["weight_map"].as_object_mut().unwrap();
            *map.values_mut().next().unwrap() = json!(path);
            fs::write(file, index.to_string()).unwrap();
        };
        refused("sharded", edit, &["index.json", "weight_map"]);
    }
}

#[test]
fn the_legacy_pickle_says_what_to_do() {
    let error = fixture::load(&fixture::root().join("pytorch-legacy"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("pytorch_model.bin") && error.contains("safe_serialization"),
        "{error}"
    );
}
