//! Where a model computes.

use std::fmt;
use std::str::FromStr;

use super::ModelError;

/// A device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// The NVIDIA GPU of this number, in builds with the feature `cuda`.
    Cuda(usize),
}

impl FromStr for Device {
    type Err = ModelError;

    fn from_str(name: &str) -> Result<Self, ModelError> {
        let unsupported = |message: String| Err(ModelError::Unsupported(message));
        if name == "cpu" {
            return Ok(Self::Cpu);
        }
        let number = match name.strip_prefix("cuda") {
            Some("") => Some(0),
            Some(rest) => rest.strip_prefix(':').and_then(|n| n.parse().ok()),
            None => None,
        };
        match number {
            None => unsupported(format!(
                "no such device: {name} (there are cpu, cuda and cuda:N)"
            )),
            Some(_) if !cfg!(feature = "cuda") => unsupported(
                "this build has no CUDA; use cpu, or build with --features cuda".to_owned(),
            ),
            Some(number) => Ok(Self::Cuda(number)),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_by_name() {
        let device = |name: &str| name.parse::<Device>();
        assert_eq!(device("cpu").unwrap(), Device::Cpu);
        for name in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda0"] {
            let error = device(name).unwrap_err().to_string();
            assert!(error.contains("no such device"), "{error}");
        }
        for (name, number) in [("cuda", 0), ("cuda:0", 0), ("cuda:3", 3)] {
            match device(name) {
                Ok(device) => assert_eq!(device, Device::Cuda(number)),
                Err(error) => assert!(error.to_string().contains("no CUDA"), "{error}"),
            }
        }
    }
}
