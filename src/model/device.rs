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
    /// The NVIDIA GPU of this number.
    #[cfg(feature = "cuda")]
    Cuda(usize),
}

impl FromStr for Device {
    type Err = ModelError;

    fn from_str(name: &str) -> Result<Self, ModelError> {
        let unsupported = |message: String| Err(ModelError::Unsupported(message));
        if name == "cpu" {
            return Ok(Self::Cpu);
        }
        let number: Option<usize> = match name.strip_prefix("cuda") {
            Some("") => Some(0),
            Some(rest) => rest.strip_prefix(':').and_then(|n| n.parse().ok()),
            None => None,
        };
        match number {
            None => unsupported(format!(
                "no such device: {name} (there are cpu, cuda and cuda:N)"
            )),
            #[cfg(feature = "cuda")]
            Some(number) => Ok(Self::Cuda(number)),
            #[cfg(not(feature = "cuda"))]
            Some(_) => unsupported(
                "this build has no CUDA; use cpu, or build with --features cuda".to_owned(),
            ),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            #[cfg(feature = "cuda")]
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
        for (name, whole) in [
            ("cuda", "cuda:0"),
            ("cuda:0", "cuda:0"),
            ("cuda:3", "cuda:3"),
        ] {
            match device(name) {
                Ok(device) => assert_eq!(device.to_string(), whole),
                Err(error) => assert!(error.to_string().contains("no CUDA"), "{error}"),
            }
        }
    }
}
