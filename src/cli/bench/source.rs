//! Where the weights to measure come from.

use serde_json::json;

use crate::model::{Config, Dtype, Gpt2, LoadOptions, ModelError, ModelFiles};

/// Weights that exist, or random ones of a shape.
pub enum Source {
    Files(ModelFiles),
    Random(Config),
}

impl Source {
    /// The model in this precision.
    pub fn load(&self, dtype: Dtype) -> Result<Gpt2, ModelError> {
        match self {
            Self::Files(files) => Gpt2::load(files, &LoadOptions { dtype }),
            Self::Random(config) => Gpt2::random(config.clone(), dtype, 0),
        }
    }
}

/// The configuration of a published model, by its name.
pub fn parse_shape(name: &str) -> Result<Config, String> {
    let (n_layer, n_embd, n_head) = match name {
        "distilgpt2" => (6, 768, 12),
        "gpt2" => (12, 768, 12),
        "gpt2-medium" => (24, 1024, 16),
        "gpt2-large" => (36, 1280, 20),
        "gpt2-xl" => (48, 1600, 25),
        _ => {
            return Err("expected distilgpt2, gpt2, gpt2-medium, gpt2-large or gpt2-xl".to_owned());
        }
    };
    let config = json!({"n_layer": n_layer, "n_embd": n_embd, "n_head": n_head});
    Config::from_json(config.to_string().as_bytes(), name).map_err(|e| e.to_string())
}
