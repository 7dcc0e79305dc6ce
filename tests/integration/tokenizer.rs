//! Tokenisation against tiktoken's GPT-2 and against the fixtures.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use gpt2_engine::model::{ModelFiles, TokenizerFiles};
use gpt2_engine::tokenizer::Tokenizer;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::fixture;

/// GPT-2's vocab.json and merges.txt, rebuilt from the ranks that tiktoken-rs
/// ships: the merge that makes a token is the last one of its own encoding by
/// lower ranks.
fn gpt2(dir: &Path) -> Tokenizer {
    let tiktoken = tiktoken_rs::r50k_base().unwrap();
    let pieces: HashMap<Vec<u8>, u32> = (0..50_256)
        .map(|id| (tiktoken.decode_bytes(&[id]).unwrap(), id))
        .collect();
    let mut by_id: Vec<(&Vec<u8>, u32)> = pieces.iter().map(|(p, &id)| (p, id)).collect();
    by_id.sort_by_key(|(_, id)| *id);
    let mut merges = "#version: 0.2\n".to_owned();
    for (piece, id) in by_id.iter().filter(|(piece, _)| piece.len() > 1) {
        let (left, right) = last_merge(piece, *id, &pieces);
        merges += &format!("{} {}\n", spelled(&left), spelled(&right));
    }
    let mut vocab: serde_json::Map<String, serde_json::Value> = by_id
        .iter()
        .map(|(piece, id)| (spelled(piece), (*id).into()))
        .collect();
    vocab.insert("<|endoftext|>".to_owned(), 50_256.into());
    let files = [dir.join("vocab.json"), dir.join("merges.txt")];
    std::fs::write(&files[0], serde_json::to_vec(&vocab).unwrap()).unwrap();
    std::fs::write(&files[1], merges).unwrap();
    let [vocab, merges]: [PathBuf; 2] = files;
    Tokenizer::load(&TokenizerFiles::VocabMerges { vocab, merges }).unwrap()
}

fn last_merge(piece: &[u8], id: u32, ranks: &HashMap<Vec<u8>, u32>) -> (Vec<u8>, Vec<u8>) {
    let mut parts: Vec<Vec<u8>> = piece.iter().map(|&b| vec![b]).collect();
    while parts.len() > 2 {
        let joined = |i: usize| [&*parts[i], &*parts[i + 1]].concat();
        let best = (0..parts.len() - 1)
            .filter_map(|i| Some((*ranks.get(&joined(i)).filter(|&&r| r < id)?, i)))
            .min()
            .expect("a token is made of two");
        parts[best.1] = joined(best.1);
        parts.remove(best.1 + 1);
    }
    (parts[0].clone(), parts[1].clone())
}

/// A byte string in GPT-2's printable alphabet.
fn spelled(bytes: &[u8]) -> String {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let stand_in = |b: u8| {
        let hidden = (0..b).filter(|&o| !printable(o)).count() as u32;
        if printable(b) {
            char::from(b)
        } else {
            char::from_u32(0x100 + hidden).unwrap()
        }
    };
    bytes.iter().map(|&b| stand_in(b)).collect()
}

fn random_text(rng: &mut StdRng) -> String {
    let ranges = [
        0x20..0x7f,
        0x20..0x7f,
        0x20..0x7f,
        0x09..0x0e,
        0xa0..0x250,
        0x300..0x370,
        0x370..0x530,
        0x590..0x700,
        0x900..0xa00,
        0x2000..0x2070,
        0x3040..0x3100,
        0x4e00..0x9fff,
        0x1f300..0x1f700,
        0..0x11_0000,
    ];
    let words = [
        "'s",
        "'ll",
        " don't",
        "\n\n",
        "    ",
        "\t\t",
        "fn main() {",
        " 1234",
        "the ",
    ];
    (0..rng.random_range(0..24))
        .map(|_| match rng.random_range(0..5) {
            0 => words[rng.random_range(0..words.len())].to_owned(),
            1 => " ".repeat(rng.random_range(1..6)),
            _ => {
                let range = ranges[rng.random_range(0..ranges.len())].clone();
                char::from_u32(rng.random_range(range)).map_or_else(String::new, String::from)
            }
        })
        .collect()
}

#[test]
fn equals_tiktoken_on_random_unicode_and_code() {
    let dir = tempfile::tempdir().unwrap();
    let ours = gpt2(dir.path());
    let tiktoken = tiktoken_rs::r50k_base().unwrap();
    let hello = ours.encode("Hello, world!").unwrap();
    assert_eq!(hello, [15496, 11, 995, 0]);
    assert_eq!(ours.decode(&hello).unwrap(), "Hello, world!");
    let mut rng = StdRng::seed_from_u64(1);
    let mut texts: Vec<String> = (0..20_000).map(|_| random_text(&mut rng)).collect();
    for file in [
        "src/lib.rs",
        "src/model/gpt2.rs",
        "Cargo.toml",
        "tests/integration/tokenizer.rs",
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        texts.push(std::fs::read_to_string(path).unwrap());
    }
    for text in &texts {
        let ids = ours.encode(text).unwrap();
        assert_eq!(ids, tiktoken.encode_with_special_tokens(text), "{text:?}");
        assert_eq!(&ours.decode(&ids).unwrap(), text);
    }
    println!("{} texts, 0 differences", texts.len());
}

#[test]
fn every_form_of_tokenizer_equals_pythons() {
    for name in ["bpe-json", "bpe-vocab-merges", "wordpiece"] {
        let dir = fixture::root().join(name);
        let tokenizer = Tokenizer::load(&ModelFiles::from_dir(&dir).unwrap().tokenizer).unwrap();
        let expected = fixture::json(&dir.join("expected.json"));
        let cases = expected["tokenizer"].as_array().unwrap();
        assert!(!cases.is_empty());
        for case in cases {
            let text = case["text"].as_str().unwrap();
            let ids = tokenizer.encode(text).unwrap();
            assert_eq!(serde_json::json!(ids), case["ids"], "{name}: {text:?}");
            let decoded = tokenizer.decode(&ids).unwrap();
            assert_eq!(
                decoded,
                case["decoded"].as_str().unwrap(),
                "{name}: {text:?}"
            );
            let mut stream = tokenizer.incremental();
            let joined: String = ids.iter().map(|&id| stream.push(id)).collect();
            assert_eq!(joined + &stream.flush(), decoded, "{name}: {text:?}");
        }
    }
}
