//! What takes more than cargo: Python's huggingface_hub and we use one cache,
//! so that what one fetched the other uses, and each waits for the other's
//! locks; and a disk that becomes full.
//!
//! Run by tests/e2e/hub.sh, which installs requirements.txt and names its
//! Python in GPT2_E2E_PYTHON; `cargo test` alone needs no Python.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../integration/fake_hub/mod.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod fake_hub;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use fake_hub::{FakeHub, Fault, files_of};

struct Machine {
    hub: FakeHub,
    folder: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/demo");
        Self {
            hub: FakeHub::of(files_of(&demo)),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("hub")
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .env("HF_HOME", self.folder.path())
            .env("HF_ENDPOINT", self.hub.url())
            .env("HF_HUB_DISABLE_UPDATE_CHECK", "1")
            .env_remove("HF_HUB_CACHE")
            .env_remove("HF_TOKEN")
            .env("NO_PROXY", "127.0.0.1")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn gpt2(&self, args: &[&str]) -> String {
        fine(
            self.command(env!("CARGO_BIN_EXE_gpt2"), args)
                .output()
                .unwrap(),
        )
    }

    fn python_command(&self, code: &str) -> Command {
        self.command(python(), &["-c", code])
    }

    fn python(&self, code: &str) -> String {
        fine(self.python_command(code).output().unwrap())
    }

    /// How often the weights were fetched.
    fn fetched(&self) -> usize {
        self.hub.gets("/lfs/").len()
    }
}

/// The Python that hub.sh has prepared.
fn python() -> String {
    std::env::var("GPT2_E2E_PYTHON").expect("GPT2_E2E_PYTHON is set; see tests/e2e/hub.sh")
}

#[track_caller]
fn fine(output: Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

const GENERATE: [&str; 4] = ["generate", "Once upon a time", "--max-tokens", "8"];
const OURS: [&str; 3] = ["--model", "me/model", "--offline"];

#[test]
fn what_python_fetched_we_use() {
    let machine = Machine::new();
    machine.python("import huggingface_hub as h; h.snapshot_download('me/model')");
    let requests = machine.hub.seen().len();
    let text = machine.gpt2(&[&GENERATE[..], &OURS].concat());
    assert_eq!(text, machine.gpt2(&GENERATE));
    assert_eq!(machine.hub.seen().len(), requests);
    machine.gpt2(&["pull", "me/model"]);
    assert_eq!(machine.fetched(), 1, "fetched again");
    assert!(machine.gpt2(&["models"]).contains("me/model"));
}

#[test]
fn what_python_began_we_complete() {
    let machine = Machine::new();
    machine.python("import huggingface_hub as h; h.hf_hub_download('me/model', 'config.json')");
    let text = machine.gpt2(&[&GENERATE[..], &OURS[..2]].concat());
    assert_eq!(text, machine.gpt2(&GENERATE));
    let configs = machine.hub.gets("config.json");
    let contents = configs
        .iter()
        .filter(|seen| seen.path.contains("resolve-cache"));
    assert_eq!(contents.count(), 1, "config.json was fetched again");
}

#[test]
fn what_we_fetched_python_uses() {
    let machine = Machine::new();
    machine.gpt2(&["pull", "me/model"]);
    let said = machine.python(
        "import huggingface_hub as h, os
folder = h.snapshot_download('me/model', local_files_only=True)
assert folder.endswith(open(os.path.join(folder, '../../refs/main')).read()), folder
for name in ['config.json', 'model.safetensors', 'tokenizer.json']:
    path = h.hf_hub_download('me/model', name, local_files_only=True)
    assert path == os.path.join(folder, name), path
    assert h.try_to_load_from_cache('me/model', name) == path
cache = h.scan_cache_dir()
assert not cache.warnings, cache.warnings
[repo] = cache.repos
[revision] = repo.revisions
assert revision.refs == {'main'} and len(revision.files) == 3, revision
print(repo.repo_id, repo.size_on_disk)
",
    );
    assert_eq!(said.trim(), "me/model 4574167");
    machine.python("import huggingface_hub as h; h.snapshot_download('me/model')");
    assert_eq!(machine.fetched(), 1, "fetched again");
    // Python removes it, notes and all.
    machine.python(
        "import huggingface_hub as h
[repo] = h.scan_cache_dir().repos
[revision] = repo.revisions
h.scan_cache_dir().delete_revisions(revision.commit_hash).execute()",
    );
    assert!(!machine.cache().join("models--me--model").exists());
}

#[test]
fn both_at_once_share_one_download() {
    let machine = Machine::new();
    machine
        .hub
        .rule("GET", "/lfs/", 9, Fault::Slowly(1_000_000));
    let python = machine
        .python_command("import huggingface_hub as h; h.snapshot_download('me/model')")
        .spawn()
        .unwrap();
    let start = Instant::now();
    while machine.fetched() == 0 {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "Python fetches nothing"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    machine.gpt2(&["pull", "me/model"]);
    fine(python.wait_with_output().unwrap());
    assert_eq!(machine.fetched(), 1);
}

#[test]
fn a_lock_that_python_holds_for_half_a_minute() {
    let machine = Machine::new();
    let etag = files_of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/demo"));
    let etag = &etag["model.safetensors"].etag;
    let lock = machine
        .cache()
        .join(format!(".locks/models--me--model/{etag}.lock"));
    std::fs::create_dir_all(lock.parent().unwrap()).unwrap();
    let code = format!(
        "import filelock, time
with filelock.FileLock({lock:?}):
    print('held', flush=True)
    time.sleep(30)"
    );
    let start = Instant::now();
    let mut holder = machine.python_command(&code).spawn().unwrap();
    let mut word = [0; 4];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut word).unwrap();
    machine.gpt2(&["pull", "me/model"]);
    assert!(
        start.elapsed() > Duration::from_secs(28),
        "{:?}",
        start.elapsed()
    );
    assert!(holder.wait().unwrap().success());
    assert_eq!(machine.fetched(), 1);
}

/// A TLS server before the hub, whose certificate is valid between two days
/// from today.
struct Tls {
    server: Child,
    url: String,
    certificate: PathBuf,
}

impl Tls {
    fn new(machine: &Machine, first_day: &str, last_day: &str) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/tls.py");
        let certificate = machine.folder.path().join("certificate.pem");
        let url = machine.hub.url();
        let port = url.rsplit(':').next().unwrap();
        let args = [script.to_str().unwrap(), port, first_day, last_day];
        let mut server = machine
            .command(python(), &args)
            .arg(&certificate)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(server.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        let url = format!("https://127.0.0.1:{}", line.trim());
        Self {
            server,
            url,
            certificate,
        }
    }

    /// Pulls through it; what was said.
    fn pull(&self, machine: &Machine, trusted: bool) -> Output {
        let mut pull = machine.command(env!("CARGO_BIN_EXE_gpt2"), &["pull", "me/model"]);
        pull.env("HF_ENDPOINT", &self.url)
            .env_remove("SSL_CERT_FILE");
        if trusted {
            pull.env("SSL_CERT_FILE", &self.certificate);
        }
        pull.output().unwrap()
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[test]
fn certificates_are_checked_and_clocks_suspected() {
    let machine = Machine::new();
    for (days, trusted, reason) in [
        (["-20", "-10"], true, "is this machine's clock right?"),
        (["10", "20"], true, "is this machine's clock right?"),
        (["-10", "10"], false, "SSL_CERT_FILE"),
    ] {
        let output = Tls::new(&machine, days[0], days[1]).pull(&machine, trusted);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && said.contains("no safe connection to"),
            "{said}"
        );
        assert!(said.contains(reason), "{days:?}: no {reason} in {said}");
        assert_eq!(machine.hub.seen().len(), 0);
    }
    // All small files come; the large one is redirected to plain http.
    let output = Tls::new(&machine, "-10", "10").pull(&machine, true);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("config.json: verified"), "{said}");
    assert!(
        said.contains("less safe than where it came from: not followed"),
        "{said}"
    );
    assert_eq!(machine.fetched(), 0);
}

/// In a mount namespace of its own, a tmpfs of 8 MB: enough for the model
/// until something else fills it.
#[test]
fn a_disk_that_becomes_full() {
    if std::env::var_os("GPT2_E2E_NO_NAMESPACES").is_some() {
        // hub.sh has said so.
        return;
    }
    let machine = Machine::new();
    machine
        .hub
        .rule("GET", "/lfs/", 1, Fault::Slowly(1_000_000));
    // Once some of the weights are there, while others are to come.
    let script = r#"
        set -e
        said=$(mktemp)
        mount -t tmpfs -o size=8m tmpfs "$HF_HOME"
        "$GPT2" pull me/model 2>"$said" &
        for _ in $(seq 1000); do
            [ -z "$(find "$HF_HOME" -name '*.incomplete' -size +200k)" ] || break
            sleep 0.01
        done
        head -c 20M /dev/zero >"$HF_HOME/filler" 2>/dev/null || true
        if wait $!; then echo "pulled onto a full disk"; exit 1; fi
        cat "$said"
        rm "$said"
        ls "$HF_HOME/hub/models--me--model/blobs"
        rm "$HF_HOME/filler"
        "$GPT2" pull me/model 2>&1
        "$GPT2" generate "Once upon a time" --max-tokens 8 --model me/model --offline"#;
    let mut command = machine.command("unshare", &["-rm", "bash", "-c", script]);
    command.env("GPT2", env!("CARGO_BIN_EXE_gpt2"));
    let said = fine(command.output().unwrap());
    assert!(said.contains("error: not enough room in"), "{said}");
    assert!(said.contains(".incomplete"), "{said}");
    assert!(said.contains("going on after"), "{said}");
    assert!(said.ends_with(&machine.gpt2(&GENERATE)), "{said}");
}
