//! A model's name → its files: the demo model or a local folder.

use std::path::Path;

use crate::model::{ModelError, ModelFiles};

/// Why a name is no model.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HubError {
    /// The folder is there but incomplete.
    #[error(transparent)]
    Folder(#[from] ModelError),
    /// There is nothing of that name.
    #[error(
        "no model {name:?}: it is not `demo`, and there is no folder of that name (looked for \
         {looked_for} with config.json, model.safetensors or pytorch_model.bin, and \
         tokenizer.json or vocab.json + merges.txt). Downloading from Hugging Face is not built \
         yet: put a model's files into a folder and name it"
    )]
    NotFound {
        /// The name as given.
        name: String,
        /// The folder that would have been used.
        looked_for: String,
    },
}

/// Finds the files of `demo` or of a folder.
///
/// # Errors
/// [`HubError`], saying what was looked for.
pub fn resolve(name: &str) -> Result<ModelFiles, HubError> {
    let path = Path::new(name);
    if path.is_dir() {
        return Ok(ModelFiles::from_dir(path)?);
    }
    if name == "demo" {
        return Ok(ModelFiles::demo());
    }
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    Err(HubError::NotFound {
        name: name.to_owned(),
        looked_for: absolute.display().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_folder_says_what_was_looked_for() {
        let message = resolve("./no-such-model").unwrap_err().to_string();
        assert!(
            message.contains("no-such-model with config.json"),
            "{message}"
        );
        assert_eq!(resolve("demo").unwrap().name, "demo");
    }
}
