//! What the fuzz targets try: any bytes are accepted or refused, and nothing
//! panics. `cargo fuzz` runs them under its own guidance, and the tests over
//! mutated seeds.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use gpt2_engine::engine::Engine;
use gpt2_engine::model::{Config, Gpt2, LoadOptions, ModelFiles, Source, TokenizerFiles};
use gpt2_engine::server::{AppState, ChatTemplate, ServerConfig, fuzz};
use gpt2_engine::tokenizer::Tokenizer;
use tokio::runtime::Runtime;

/// Request JSON → checked sampling parameters.
pub fn request(data: &[u8]) -> bool {
    static SERVER: OnceLock<(Runtime, AppState)> = OnceLock::new();
    let (runtime, state) = SERVER.get_or_init(|| {
        let template = ChatTemplate::new("{% for m in messages %}{{ m.content }}{% endfor %}");
        let state = AppState::with_config(
            "demo",
            ServerConfig {
                chat_template: Some(template.unwrap()),
                ..ServerConfig::default()
            },
        );
        state.set_engine(Engine::builder().build().unwrap());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        (runtime.unwrap(), state)
    });
    runtime.block_on(fuzz::request(state, data)) > 0
}

/// A text in a server-sent event is one line that gives the text back.
pub fn sse(data: &[u8]) -> bool {
    let text = String::from_utf8_lossy(data);
    let event = fuzz::event(&text);
    let line = event.strip_prefix("data: ").unwrap();
    let line = line.strip_suffix("\n\n").unwrap();
    assert!(!line.contains(['\r', '\n']), "{event:?}");
    let back: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(back["token"], *text);
    true
}

/// config.json.
pub fn config(data: &[u8]) -> bool {
    Config::from_json(data, "config.json").is_ok()
}

/// safetensors → model, for a small configuration.
pub fn checkpoint(data: &[u8]) -> bool {
    let folder = scratch();
    let config = fixture().join("config.json");
    std::fs::copy(config, folder.join("config.json")).unwrap();
    std::fs::write(folder.join("model.safetensors"), data).unwrap();
    let files = ModelFiles::from_dir(folder).unwrap();
    Gpt2::load(&files, &LoadOptions::default()).is_ok()
}

/// tokenizer.json; what it accepts, it can use.
pub fn tokenizer(data: &[u8]) -> bool {
    let file = scratch().join("tokenizer.json");
    std::fs::write(&file, data).unwrap();
    let Ok(tokenizer) = Tokenizer::load(&TokenizerFiles::Json(Source::File(file))) else {
        return false;
    };
    if let Ok(ids) = tokenizer.encode("Once upon é 🦊\n  <|endoftext|>") {
        let _ = tokenizer.decode(&ids);
        let mut decoder = tokenizer.incremental();
        ids.iter().for_each(|&id| drop(decoder.push(id)));
        decoder.flush();
    }
    true
}

/// The checkpoint whose weights are the seed.
pub fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|folder| folder.join("tests/fixtures/small-vocab"))
        .find(|folder| folder.is_dir())
        .expect("the fixtures")
}

/// A folder for the files of this process.
fn scratch() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER.get_or_init(|| tempfile::tempdir().unwrap()).path()
}
