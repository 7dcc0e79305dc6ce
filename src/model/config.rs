//! `config.json` → [`Config`], checked once.

use serde_json::{Map, Value};

use super::ModelError;

/// The activation between the two layers of the MLP, under the names that
/// transformers gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `gelu`: x·Φ(x) with the exact error function.
    Gelu,
    /// `gelu_new`, `gelu_fast`, `gelu_pytorch_tanh`: the tanh approximation,
    /// x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³))).
    GeluTanh,
    /// `quick_gelu`: x·σ(1.702·x).
    QuickGelu,
    /// `relu`.
    Relu,
    /// `silu` or `swish`: x·σ(x).
    Silu,
    /// `tanh`.
    Tanh,
    /// `sigmoid`.
    Sigmoid,
    /// `linear`: none.
    Linear,
}

impl Activation {
    /// By transformers' names.
    const NAMED: [(&str, Self); 14] = [
        ("gelu_new", Self::GeluTanh),
        ("gelu", Self::Gelu),
        ("gelu_python", Self::Gelu),
        ("gelu_fast", Self::GeluTanh),
        ("gelu_pytorch_tanh", Self::GeluTanh),
        ("gelu_python_tanh", Self::GeluTanh),
        ("gelu_accurate", Self::GeluTanh),
        ("quick_gelu", Self::QuickGelu),
        ("relu", Self::Relu),
        ("silu", Self::Silu),
        ("swish", Self::Silu),
        ("tanh", Self::Tanh),
        ("sigmoid", Self::Sigmoid),
        ("linear", Self::Linear),
    ];

    fn from_name(name: &str) -> Option<Self> {
        let named = Self::NAMED.iter().find(|(known, _)| *known == name);
        named.map(|&(_, activation)| activation)
    }
}

/// The shape and the choices of a GPT-2, as transformers' `GPT2Config` means
/// them. A value of this type has been checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Rows of `wte`: the width of the logits.
    pub vocab_size: usize,
    /// Rows of `wpe`: the context length in tokens.
    pub n_positions: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Number of transformer blocks.
    pub n_layer: usize,
    /// Attention heads in a block; divides `n_embd`.
    pub n_head: usize,
    /// Width of the MLP's hidden layer.
    pub n_inner: usize,
    /// The MLP's activation.
    pub activation: Activation,
    /// Added to the variance in every LayerNorm.
    pub layer_norm_epsilon: f32,
    /// Divide attention scores by √head_dim.
    pub scale_attn_weights: bool,
    /// Divide the scores of block `i` by `i + 1` besides.
    pub scale_attn_by_inverse_layer_idx: bool,
    /// Use `wte` as the output head.
    pub tie_word_embeddings: bool,
    /// The tokens that end a text.
    pub eos_token_ids: Vec<u32>,
}

/// Upper bounds that no GPT-2 comes near: they keep an absurd configuration
/// from being believed before the first tensor is looked at.
const MAX_LAYERS: usize = 4096;
const MAX_WIDTH: usize = 1 << 20;
const MAX_POSITIONS: usize = 1 << 24;
const MAX_VOCAB: usize = 1 << 26;

impl Config {
    /// Reads `config.json`. `file` is the name that errors show.
    ///
    /// # Errors
    /// [`ModelError::Config`] with the key that is missing or out of range.
    pub fn from_json(bytes: &[u8], file: &str) -> Result<Self, ModelError> {
        let fields = Fields::parse(bytes, file)?;
        fields.check_model_type()?;
        let n_embd = fields.size(&["n_embd", "hidden_size"], Some(768), MAX_WIDTH)?;
        let n_head = fields.size(&["n_head", "num_attention_heads"], Some(12), MAX_WIDTH)?;
        if n_embd % n_head != 0 {
            let reason = format!("{n_embd} is not divisible by n_head = {n_head}");
            return Err(fields.error("n_embd", reason));
        }
        let n_inner = match fields.get(&["n_inner"]) {
            None => 4 * n_embd,
            Some(_) => fields.size(&["n_inner"], None, 8 * MAX_WIDTH)?,
        };
        Ok(Self {
            vocab_size: fields.size(&["vocab_size"], Some(50257), MAX_VOCAB)?,
            n_positions: fields.size(
                &["n_positions", "max_position_embeddings"],
                Some(1024),
                MAX_POSITIONS,
            )?,
            n_embd,
            n_layer: fields.size(&["n_layer", "num_hidden_layers"], Some(12), MAX_LAYERS)?,
            n_head,
            n_inner,
            activation: fields.activation()?,
            layer_norm_epsilon: fields.epsilon()?,
            scale_attn_weights: fields.flag("scale_attn_weights", true)?,
            scale_attn_by_inverse_layer_idx: fields
                .flag("scale_attn_by_inverse_layer_idx", false)?,
            tie_word_embeddings: fields.flag("tie_word_embeddings", true)?,
            eos_token_ids: fields.eos_token_ids()?.unwrap_or_else(|| vec![50256]),
        })
    }

    /// The `eos_token_id` of `generation_config.json`, where it is given.
    ///
    /// # Errors
    /// [`ModelError::Config`] when the file or the field is malformed.
    pub fn eos_from_generation_config(
        bytes: &[u8],
        file: &str,
    ) -> Result<Option<Vec<u32>>, ModelError> {
        Fields::parse(bytes, file)?.eos_token_ids()
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.n_embd / self.n_head
    }

    /// What attention scores of block `layer` are multiplied by.
    pub fn attention_scale(&self, layer: usize) -> f32 {
        let mut scale = 1.0;
        if self.scale_attn_weights {
            scale /= (self.head_dim() as f32).sqrt();
        }
        if self.scale_attn_by_inverse_layer_idx {
            scale /= (layer + 1) as f32;
        }
        scale
    }
}

/// The keys of a configuration file; a `null` counts as absent.
struct Fields<'a> {
    file: &'a str,
    map: Map<String, Value>,
}

impl<'a> Fields<'a> {
    fn parse(bytes: &[u8], file: &'a str) -> Result<Self, ModelError> {
        let malformed = |reason: String| ModelError::Checkpoint {
            file: file.to_owned(),
            reason,
        };
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(map)) => Ok(Self { file, map }),
            Ok(_) => Err(malformed("expected a JSON object".to_owned())),
            Err(e) => Err(malformed(format!("not JSON: {e}"))),
        }
    }

    fn error(&self, field: &str, reason: impl Into<String>) -> ModelError {
        ModelError::Config {
            file: self.file.to_owned(),
            field: field.to_owned(),
            reason: reason.into(),
        }
    }

    /// The first of `names` (a key and its aliases) that is given.
    fn get<'n>(&self, names: &[&'n str]) -> Option<(&'n str, &Value)> {
        names
            .iter()
            .filter_map(|&name| Some((name, self.map.get(name)?)))
            .find(|(_, value)| !value.is_null())
    }

    fn size(
        &self,
        names: &[&str],
        default: Option<usize>,
        max: usize,
    ) -> Result<usize, ModelError> {
        let Some((name, value)) = self.get(names) else {
            return default.ok_or_else(|| self.error(names[0], "missing"));
        };
        value
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| (1..=max).contains(n))
            .ok_or_else(|| {
                let reason = format!("{value} is not a whole number from 1 to {max}");
                self.error(name, reason)
            })
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool, ModelError> {
        match self.get(&[name]) {
            None => Ok(default),
            Some((_, Value::Bool(value))) => Ok(*value),
            Some((_, value)) => Err(self.error(name, format!("{value} is not true or false"))),
        }
    }

    fn check_model_type(&self) -> Result<(), ModelError> {
        match self.get(&["model_type"]) {
            None => Ok(()),
            Some((_, Value::String(kind))) if kind == "gpt2" => Ok(()),
            Some((name, value)) => {
                Err(self.error(name, format!("{value} is not \"gpt2\", the only one here")))
            }
        }
    }

    fn activation(&self) -> Result<Activation, ModelError> {
        let Some((name, value)) = self.get(&["activation_function", "hidden_act"]) else {
            return Ok(Activation::GeluTanh);
        };
        value
            .as_str()
            .and_then(Activation::from_name)
            .ok_or_else(|| {
                let names = Activation::NAMED.map(|(name, _)| name).join(", ");
                let reason = format!("{value} is not one of {names}");
                self.error(name, reason)
            })
    }

    fn epsilon(&self) -> Result<f32, ModelError> {
        let Some((name, value)) = self.get(&["layer_norm_epsilon", "layer_norm_eps"]) else {
            return Ok(1e-5);
        };
        value
            .as_f64()
            .map(|e| e as f32)
            .filter(|e| e.is_finite() && *e >= 0.0)
            .ok_or_else(|| self.error(name, format!("{value} is not a number ≥ 0")))
    }

    fn eos_token_ids(&self) -> Result<Option<Vec<u32>>, ModelError> {
        let Some((name, value)) = self.get(&["eos_token_id"]) else {
            return Ok(None);
        };
        let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        match value {
            Value::Array(list) => list.iter().map(id).collect(),
            single => id(single).map(|id| vec![id]),
        }
        .map(Some)
        .ok_or_else(|| self.error(name, format!("{value} is not a token id or a list of them")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Config, ModelError> {
        Config::from_json(json.as_bytes(), "config.json")
    }

    fn field_of(json: &str) -> String {
        match parse(json) {
            Err(ModelError::Config { field, .. }) => field,
            other => panic!("expected a config error, got {other:?}"),
        }
    }

    #[test]
    fn defaults_are_those_of_gpt2_small() {
        let config = parse("{}").unwrap();
        assert_eq!(
            (config.n_embd, config.n_layer, config.n_head),
            (768, 12, 12)
        );
        assert_eq!((config.vocab_size, config.n_positions), (50257, 1024));
        assert_eq!((config.n_inner, config.eos_token_ids), (3072, vec![50256]));
    }

    #[test]
    fn aliases_null_and_lists() {
        let config = parse(
            r#"{"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
                "max_position_embeddings": 16, "n_inner": null, "eos_token_id": [1, 5]}"#,
        )
        .unwrap();
        assert_eq!(
            (config.n_embd, config.n_layer, config.n_positions),
            (8, 2, 16)
        );
        assert_eq!((config.n_inner, config.eos_token_ids), (32, vec![1, 5]));
    }

    #[test]
    fn bad_fields_are_named() {
        assert_eq!(field_of(r#"{"n_head": 0}"#), "n_head");
        assert_eq!(field_of(r#"{"n_embd": 10, "n_head": 3}"#), "n_embd");
        assert_eq!(field_of(r#"{"n_layer": 1000000000}"#), "n_layer");
        assert_eq!(field_of(r#"{"n_positions": 1e300}"#), "n_positions");
        assert_eq!(
            field_of(r#"{"layer_norm_epsilon": -1e-5}"#),
            "layer_norm_epsilon"
        );
        assert_eq!(
            field_of(r#"{"activation_function": "nope"}"#),
            "activation_function"
        );
        assert_eq!(field_of(r#"{"model_type": "llama"}"#), "model_type");
        assert!(matches!(parse("{"), Err(ModelError::Checkpoint { .. })));
    }

    #[test]
    fn scales_follow_the_flags() {
        let json = r#"{"n_embd": 8, "n_head": 2, "scale_attn_by_inverse_layer_idx": true}"#;
        assert_eq!(parse(json).unwrap().attention_scale(1), 0.25);
        let json = r#"{"n_embd": 8, "n_head": 2, "scale_attn_weights": false}"#;
        assert_eq!(parse(json).unwrap().attention_scale(1), 1.0);
    }
}
