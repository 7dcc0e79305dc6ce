//! Models from a hub, with the real binary against the fake one.

mod broken;
mod hostile;
mod local;
mod pull;
mod refused;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::fake_hub::{Content, FakeHub, Files, files_of};

/// A machine of its own: a home, a cache, and what else lies in the folder.
pub struct Machine {
    folder: tempfile::TempDir,
    variables: BTreeMap<String, String>,
}

impl Machine {
    pub fn new(hub: &FakeHub) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut machine = Self {
            folder,
            variables: BTreeMap::new(),
        };
        let home = machine.path("home");
        std::fs::create_dir_all(&home).unwrap();
        machine.set("HOME", home.to_str().unwrap());
        machine.set(
            "HF_HOME",
            machine.path("hf").to_str().unwrap().to_owned().as_str(),
        );
        machine.set("HF_ENDPOINT", &hub.url());
        machine
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.variables.insert(name.to_owned(), value.to_owned());
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join(relative)
    }

    /// The cached repository `me/model`.
    pub fn repo(&self) -> PathBuf {
        self.path("hf/hub/models--me--model")
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gpt2"));
        command
            .args(args)
            .env_clear()
            .envs(&self.variables)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub fn start(&self, args: &[&str]) -> Child {
        self.command(args).spawn().unwrap()
    }

    /// Runs to the end; what it printed.
    pub fn run(&self, args: &[&str]) -> Done {
        Done::of(self.command(args).output().unwrap())
    }

    /// All files below the folder, with the blobs' names.
    pub fn listing(&self) -> Vec<String> {
        let mut found = Vec::new();
        list(self.folder.path(), self.folder.path(), &mut found);
        found.sort();
        found
    }

    /// No byte outside the cache.
    pub fn assert_only_the_cache(&self) {
        let outside = |file: &&String| !file.starts_with("hf/hub/");
        let listing = self.listing();
        let outside: Vec<_> = listing.iter().filter(outside).collect();
        assert!(outside.is_empty(), "outside the cache: {outside:?}");
    }

    /// The names in the repository's `blobs`.
    pub fn blobs(&self) -> Vec<String> {
        names(&self.repo().join("blobs"))
    }
}

fn list(root: &Path, folder: &Path, found: &mut Vec<String>) {
    for name in names(folder) {
        let path = folder.join(name);
        if path.is_dir() && !path.is_symlink() {
            list(root, &path, found);
        } else {
            let relative = path.strip_prefix(root).unwrap();
            found.push(relative.to_str().unwrap().to_owned());
        }
    }
}

pub fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut names: Vec<_> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A command that ended.
pub struct Done {
    pub code: Option<i32>,
    pub out: String,
    pub said: String,
}

impl Done {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            said: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// It worked.
    #[track_caller]
    pub fn fine(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.said);
        self
    }

    /// It failed, and said all of this.
    #[track_caller]
    pub fn failed(self, parts: &[&str]) -> Self {
        assert_eq!(self.code, Some(1), "{} {}", self.out, self.said);
        for part in parts {
            assert!(self.said.contains(part), "no {part:?} in {}", self.said);
        }
        self
    }
}

/// The demo model's files: a model that speaks.
pub fn demo() -> Files {
    files_of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/demo"))
}

/// A small model without a tokenizer, and its fixture's folder.
pub fn fixture(name: &str) -> Files {
    files_of(&crate::fixture::root().join(name))
}

/// Files whose weights are so many bytes of noise: enough to be fetched.
pub fn noise(size: usize) -> Files {
    let mut files = fixture("small-vocab");
    let mut state = 1u64;
    let bytes = (0..size).map(|_| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 56) as u8
    });
    let bytes = bytes.collect();
    files.insert(
        "model.safetensors".into(),
        Content::new("model.safetensors", bytes),
    );
    files
}
