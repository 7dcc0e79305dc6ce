//! A Hugging Face hub on 127.0.0.1, as far as a client that downloads sees
//! it: one port for the hub, another for the store of large files that it
//! redirects to; and all that can go wrong with either.

mod serve;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// A file's content, and how the hub keeps it.
#[derive(Clone)]
pub struct Content {
    pub bytes: Arc<Vec<u8>>,
    pub etag: String,
    pub large: bool,
}

impl Content {
    /// Weights go to the store for large files (LFS), as on the real hub.
    pub fn new(name: &str, bytes: Vec<u8>) -> Self {
        let large = name.ends_with(".safetensors") || name.ends_with(".bin");
        let etag = if large {
            hex(&Sha256::digest(&bytes))
        } else {
            let sha1 = Sha1::new_with_prefix(format!("blob {}\0", bytes.len()));
            hex(&sha1.chain_update(&bytes).finalize())
        };
        let bytes = Arc::new(bytes);
        Self { bytes, etag, large }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub type Files = BTreeMap<String, Content>;

/// The files of a folder that a model needs.
pub fn files_of(folder: &Path) -> Files {
    let entries = std::fs::read_dir(folder).unwrap();
    let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
    let wanted = names.filter(|n| !n.starts_with("expected") && !n.ends_with(".md"));
    let file = |name: String| {
        let bytes = std::fs::read(folder.join(&name)).unwrap();
        (name.clone(), Content::new(&name, bytes))
    };
    wanted.map(file).collect()
}

#[derive(Clone, Default)]
pub struct Repo {
    pub commits: BTreeMap<String, Files>,
    pub branches: BTreeMap<String, String>,
    /// Found only with the token.
    pub private: bool,
    /// Listed for all, read only with the token.
    pub gated: bool,
}

impl Repo {
    /// One commit on `main`.
    pub fn new(files: Files) -> Self {
        let mut repo = Self::default();
        repo.commit("main", files);
        repo
    }

    /// A new commit on a branch.
    pub fn commit(&mut self, branch: &str, files: Files) -> String {
        let id = hex(&Sha1::digest(format!("{branch} {}", self.commits.len())));
        self.commits.insert(id.clone(), files);
        self.branches.insert(branch.to_owned(), id.clone());
        id
    }
}

/// What happens instead of the right answer.
#[derive(Clone)]
pub enum Fault {
    /// This status, these headers (`Name: value` lines) and a page of HTML.
    Refuse(u16, String),
    /// The status line and headers of the content, and then only so many bytes.
    CutAfter(usize),
    /// The first so many bytes as a well-formed chunked body.
    ShortChunked(usize),
    /// The content with one bit flipped at this byte.
    FlipBit(usize),
    /// A redirect to this location.
    Redirect(String),
    /// So many bytes, then silence for this long.
    StallAfter(usize, Duration),
    /// Replaces a header of the answer to HEAD.
    Header(&'static str, String),
    /// The content at this rate, in bytes per second.
    Slowly(u64),
    /// The whole content, whatever range was asked for.
    NoRanges,
}

/// A fault, and when it strikes.
#[derive(Clone)]
pub struct Rule {
    pub method: &'static str,
    /// A part of the path.
    pub path: String,
    /// How many times.
    pub times: usize,
    pub fault: Fault,
}

/// A request that came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub to_store: bool,
    pub authorization: Option<String>,
    pub range: Option<String>,
}

/// What the server's threads share.
#[derive(Default)]
pub struct State {
    pub repos: Mutex<BTreeMap<String, Repo>>,
    pub rules: Mutex<Vec<Rule>>,
    pub seen: Mutex<Vec<Seen>>,
    /// Runs before each request is answered.
    pub hook: Mutex<Option<Hook>>,
    /// Contents that are being sent, and the most there were at a time.
    sending: AtomicUsize,
    most_sending: AtomicUsize,
    stopped: AtomicBool,
}

pub type Hook = Box<dyn FnMut(&Seen, &mut BTreeMap<String, Repo>) + Send>;

/// The token that opens private and gated repositories.
pub const TOKEN: &str = "hf_secret";

/// A running hub; it stops when dropped.
pub struct FakeHub {
    pub state: Arc<State>,
    hub: SocketAddr,
    store: SocketAddr,
}

impl FakeHub {
    pub fn new(repos: impl IntoIterator<Item = (&'static str, Repo)>) -> Self {
        let state = Arc::new(State::default());
        let repos = repos.into_iter().map(|(id, repo)| (id.to_owned(), repo));
        *state.repos.lock().unwrap() = repos.collect();
        let hub = TcpListener::bind("127.0.0.1:0").unwrap();
        let store = TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = (hub.local_addr().unwrap(), store.local_addr().unwrap());
        for (listener, is_store) in [(hub, false), (store, true)] {
            let state = Arc::clone(&state);
            std::thread::spawn(move || serve::listen(&listener, &state, addresses.1, is_store));
        }
        Self {
            state,
            hub: addresses.0,
            store: addresses.1,
        }
    }

    /// One model under `me/model`.
    pub fn of(files: Files) -> Self {
        Self::new([("me/model", Repo::new(files))])
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.hub)
    }

    pub fn rule(&self, method: &'static str, path: &str, times: usize, fault: Fault) {
        let path = path.to_owned();
        let rule = Rule {
            method,
            path,
            times,
            fault,
        };
        self.state.rules.lock().unwrap().push(rule);
    }

    /// Says once that the weights have this many bytes, whatever they have.
    pub fn announce(&self, bytes: &str) {
        let header = Fault::Header("X-Linked-Size", bytes.to_owned());
        self.rule("HEAD", "/model.safetensors", 1, header);
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    /// Requests for a content whose path has this part.
    pub fn gets(&self, part: &str) -> Vec<Seen> {
        let mut seen = self.seen();
        seen.retain(|s| s.method == "GET" && s.path.contains(part));
        seen
    }

    /// The most contents that were sent at a time.
    pub fn most_at_a_time(&self) -> usize {
        self.state.most_sending.load(Ordering::SeqCst)
    }

    pub fn edit(&self, change: impl FnOnce(&mut BTreeMap<String, Repo>)) {
        change(&mut self.state.repos.lock().unwrap());
    }

    /// The commit of `me/model`'s branch.
    pub fn commit(&self, branch: &str) -> String {
        self.state.repos.lock().unwrap()["me/model"].branches[branch].clone()
    }

    /// Answers nobody any more.
    pub fn stop(&self) {
        if self.state.stopped.swap(true, Ordering::SeqCst) {
            // The addresses may be somebody else's by now.
            return;
        }
        for address in [self.hub, self.store] {
            // Wakes the thread that waits for a connection.
            let _ = std::net::TcpStream::connect(address);
        }
    }
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        self.stop();
    }
}
