//! Which files of a repository make a model.

use std::collections::{BTreeMap, BTreeSet};

use super::HubError;
use super::name::{FileName, NameError, RepoId};

pub(super) const CONFIG: &str = "config.json";
pub(super) const INDEX: &str = "model.safetensors.index.json";
const SAFETENSORS: &str = "model.safetensors";
const PICKLE: &str = "pytorch_model.bin";
const TOKENIZER: &str = "tokenizer.json";
const VOCAB: [&str; 2] = ["vocab.json", "merges.txt"];
const EXTRAS: [&str; 4] = [
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
];

/// The names that a folder with a model may have files under, shards aside.
pub(super) fn known_files() -> impl Iterator<Item = FileName> {
    let weights = [CONFIG, SAFETENSORS, INDEX, PICKLE, TOKENIZER];
    let names = weights.into_iter().chain(VOCAB).chain(EXTRAS);
    names.map(FileName::known)
}

/// The files of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Files {
    /// The weights, or the index that lists their shards.
    pub(super) weights: FileName,
    /// Tokenizer, generation_config.json and the like.
    pub(super) others: Vec<FileName>,
}

impl Files {
    /// Chooses among the files that there are: of the forms in which weights
    /// and tokenizer are published, one each.
    ///
    /// # Errors
    /// [`HubError::NoWeights`].
    pub(super) fn choose(there: &BTreeSet<String>, repo: &RepoId) -> Result<Self, HubError> {
        let has = |name: &&str| there.contains(*name);
        let weights = [SAFETENSORS, INDEX, PICKLE].into_iter().find(has);
        let weights = weights.ok_or_else(|| HubError::NoWeights {
            repo: repo.clone(),
            found: what_else(there),
        })?;
        let tokenizer: &[&str] = if has(&TOKENIZER) {
            &[TOKENIZER]
        } else {
            &VOCAB
        };
        let others = tokenizer.iter().copied().chain(EXTRAS).filter(has);
        Ok(Self {
            weights: FileName::known(weights),
            others: others.map(FileName::known).collect(),
        })
    }

    /// Whether text can be turned into tokens with them.
    pub(super) fn has_tokenizer(&self) -> bool {
        let has = |name: &str| self.others.iter().any(|file| file.as_str() == name);
        has(TOKENIZER) || VOCAB.into_iter().all(has)
    }
}

/// The files that look like weights, for a message.
fn what_else(there: &BTreeSet<String>) -> String {
    let endings = [
        ".safetensors",
        ".bin",
        ".h5",
        ".gguf",
        ".onnx",
        ".msgpack",
        ".ot",
        ".pt",
    ];
    let weights = there
        .iter()
        .filter(|f| endings.iter().any(|e| f.ends_with(e)));
    let weights: Vec<&str> = weights.take(5).map(String::as_str).collect();
    if weights.is_empty() {
        "no weights at all".to_owned()
    } else {
        weights.join(", ")
    }
}

/// The shards that an index lists.
///
/// # Errors
/// What is wrong with the index; a shard that is not a file beside it.
pub(super) fn shards(index: &[u8]) -> Result<BTreeSet<FileName>, String> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index =
        serde_json::from_slice(index).map_err(|e| format!("not a safetensors index: {e}"))?;
    let shards = index
        .weight_map
        .values()
        .map(|shard| FileName::parse(shard));
    shards
        .collect::<Result<_, NameError>>()
        .map_err(|e| format!("field `weight_map`: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(names: &[&str]) -> Result<Files, HubError> {
        let there = names.iter().map(|n| (*n).to_owned()).collect();
        Files::choose(&there, &RepoId::parse("a/b").unwrap())
    }

    #[test]
    fn one_form_of_each_is_chosen() {
        let all = choose(&[
            "README.md",
            "config.json",
            "model.safetensors",
            "pytorch_model.bin",
            "tf_model.h5",
            "tokenizer.json",
            "vocab.json",
            "merges.txt",
            "generation_config.json",
        ])
        .unwrap();
        assert_eq!(all.weights.as_str(), "model.safetensors");
        let others: Vec<_> = all.others.iter().map(FileName::as_str).collect();
        assert_eq!(others, ["tokenizer.json", "generation_config.json"]);
        let old = choose(&["pytorch_model.bin", "vocab.json", "merges.txt"]).unwrap();
        assert_eq!(old.weights.as_str(), "pytorch_model.bin");
        assert!(old.has_tokenizer() && old.others.len() == 2);
        assert!(
            !choose(&["pytorch_model.bin", "vocab.json"])
                .unwrap()
                .has_tokenizer()
        );
        let message = choose(&["model.gguf", "a.txt"]).unwrap_err().to_string();
        assert!(message.contains("it has model.gguf"), "{message}");
    }

    #[test]
    fn shards_are_files_beside_the_index() {
        let index = br#"{"weight_map": {"a": "x-1.safetensors", "b": "x-2.safetensors", "c": "x-1.safetensors"}}"#;
        assert_eq!(shards(index).unwrap().len(), 2);
        for bad in ["../x", "/x", "a/x", "..", ""] {
            let index = format!(r#"{{"weight_map": {{"a": "{bad}"}}}}"#);
            let message = shards(index.as_bytes()).unwrap_err();
            assert!(message.contains("weight_map"), "{message}");
        }
        assert!(shards(b"{}").is_err());
    }
}
