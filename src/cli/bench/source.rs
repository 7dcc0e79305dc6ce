//! Where the weights to measure come from.

use serde_json::json;

use super::machine::Machine;
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::engine::{Engine, EngineBuilder, EngineError};
#[cfg(feature = "cuda")]
use crate::model::CudaGpt2;
use crate::model::{Config, Dtype, Gpt2, LoadOptions, ModelError, ModelFiles, Transformer};

/// Weights that exist, or random ones of a shape.
pub enum Source {
    Files(ModelFiles),
    /// Of the shape of this name.
    Random(Shape),
}

/// The shape of a published model.
#[derive(Debug, Clone)]
pub struct Shape {
    name: String,
    config: Config,
}

impl Source {
    /// What it is, for people.
    pub fn name(&self) -> String {
        match self {
            Self::Files(files) => files.name.clone(),
            Self::Random(shape) => format!("random weights in the shape of {}", shape.name),
        }
    }

    /// The model in this precision, on what is to be measured.
    pub fn load(
        &self,
        dtype: Dtype,
        machine: &Machine,
    ) -> Result<Box<dyn Transformer>, ModelError> {
        match machine {
            Machine::Cpu => Ok(Box::new(self.load_on_cpu(dtype)?)),
            #[cfg(feature = "cuda")]
            Machine::Cuda(device) => Ok(Box::new(self.load_on_gpu(dtype, device)?)),
        }
    }

    /// An engine on the model in this precision, otherwise as `builder` says.
    /// Random weights have no tokenizer; the demo model's stands in, so that
    /// there is text to be made, and only its tokens are chosen.
    pub fn start(
        &self,
        builder: EngineBuilder,
        dtype: Dtype,
        machine: &Machine,
    ) -> Result<Engine, EngineError> {
        let builder = match self {
            Self::Files(files) => builder.model(files.clone()),
            Self::Random(_) => builder,
        };
        match machine {
            Machine::Cpu => builder.start(self.load_on_cpu(dtype)?),
            #[cfg(feature = "cuda")]
            Machine::Cuda(device) => builder.start_on_gpu(self.load_on_gpu(dtype, device)?),
        }
    }

    #[cfg(feature = "cuda")]
    fn load_on_gpu(&self, dtype: Dtype, device: &cuda::Device) -> Result<CudaGpt2, ModelError> {
        CudaGpt2::from_host(&self.load_on_cpu(Dtype::F32)?, dtype, device)
    }

    /// The model in this precision, on the processor.
    pub fn load_on_cpu(&self, dtype: Dtype) -> Result<Gpt2, ModelError> {
        match self {
            Self::Files(files) => Gpt2::load(files, &LoadOptions { dtype }),
            Self::Random(shape) => Gpt2::random(shape.config.clone(), dtype, 0),
        }
    }
}

/// The shape of a published model, by its name.
pub fn parse_shape(name: &str) -> Result<Shape, String> {
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
    let config = Config::from_json(config.to_string().as_bytes(), name);
    Ok(Shape {
        name: name.to_owned(),
        config: config.map_err(|e| e.to_string())?,
    })
}
