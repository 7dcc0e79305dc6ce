//! The fake hub's HTTP: one request a connection.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Content, Fault, Repo, Seen, State, TOKEN};

pub fn listen(listener: &TcpListener, state: &Arc<State>, store: SocketAddr, is_store: bool) {
    for stream in listener.incoming() {
        if state.stopped.load(Ordering::SeqCst) {
            return;
        }
        let state = Arc::clone(state);
        std::thread::spawn(move || {
            // A client that goes away is what some tests are about.
            let _ = answer(&stream.unwrap(), &state, store, is_store);
        });
    }
}

/// What is to be sent.
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Body,
}

enum Body {
    Page(String),
    Content(Content),
}

impl Answer {
    fn page(status: u16, text: impl Into<String>) -> Self {
        let body = Body::Page(text.into());
        Self {
            status,
            headers: Vec::new(),
            body,
        }
    }

    fn error(status: u16, code: &str, message: &str) -> Self {
        Self::page(status, format!("<html>{message}</html>"))
            .header("X-Error-Code", code)
            .header("X-Error-Message", message)
    }

    fn redirect(status: u16, location: &str) -> Self {
        Self::page(status, "moved").header("Location", location)
    }

    fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

fn answer(
    stream: &TcpStream,
    state: &State,
    store: SocketAddr,
    is_store: bool,
) -> std::io::Result<()> {
    let Ok(Some(seen)) = read_request(stream, is_store) else {
        let mut stream = stream;
        return stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    };
    state.seen.lock().unwrap().push(seen.clone());
    if let Some(hook) = state.hook.lock().unwrap().as_mut() {
        hook(&seen, &mut state.repos.lock().unwrap());
    }
    let fault = take_fault(state, &seen);
    let mut answer = match &fault {
        Some(Fault::Refuse(status, headers)) => {
            let mut answer = Answer::page(*status, "<html>go away</html>");
            for (name, value) in headers.lines().filter_map(|line| line.split_once(": ")) {
                answer = answer.header(name, value);
            }
            answer
        }
        Some(Fault::Redirect(location)) => Answer::redirect(302, location),
        _ if is_store => stored(state, &seen),
        _ => hub(state, &seen, store),
    };
    if let Some(Fault::Header(name, value)) = &fault {
        answer
            .headers
            .retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        answer = answer.header(name, value);
    }
    let is_content = matches!(answer.body, Body::Content(_)) && seen.method == "GET";
    if is_content {
        let sending = state.sending.fetch_add(1, Ordering::SeqCst) + 1;
        state.most_sending.fetch_max(sending, Ordering::SeqCst);
    }
    let sent = send(stream, &seen, answer, fault.as_ref());
    if is_content {
        state.sending.fetch_sub(1, Ordering::SeqCst);
    }
    sent
}

fn read_request(stream: &TcpStream, to_store: bool) -> std::io::Result<Option<Seen>> {
    let mut lines = BufReader::new(stream).lines();
    let Some(first) = lines.next() else {
        return Ok(None);
    };
    let first = first?;
    let mut words = first.split(' ').map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return Ok(None);
    };
    let mut seen = Seen {
        method,
        path,
        to_store,
        authorization: None,
        range: None,
    };
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        let value = Some(value.trim().to_owned());
        match name.to_ascii_lowercase().as_str() {
            "authorization" => seen.authorization = value,
            "range" => seen.range = value,
            _ => {}
        }
    }
    Ok(Some(seen))
}

fn take_fault(state: &State, seen: &Seen) -> Option<Fault> {
    let mut rules = state.rules.lock().unwrap();
    let rule = rules.iter_mut().find(|rule| {
        rule.times > 0 && rule.method == seen.method && seen.path.contains(&rule.path)
    })?;
    rule.times -= 1;
    Some(rule.fault.clone())
}

// ---- what the hub says ----

/// `/api/models/ID/revision/REV`, `/api/models/ID/tree/REV` (which only Python
/// asks for) and `/ID/resolve/REV/FILE`.
fn hub(state: &State, seen: &Seen, store: SocketAddr) -> Answer {
    let path = seen.path.split('?').next().unwrap_or_default();
    let repos = state.repos.lock().unwrap();
    let not_found = || Answer::error(404, "RepoNotFound", "Repository not found");
    if let Some(rest) = path.strip_prefix("/api/models/") {
        let about = |(id, revision): (&str, &str), answer: fn(&str, &Repo, &str) -> Answer| {
            let repo = repos.get(id).filter(|repo| may_see(repo, seen));
            repo.map_or_else(not_found, |repo| {
                answer(id, repo, &revision.replace("%2F", "/"))
            })
        };
        return match rest.split_once("/tree/") {
            Some(tree_of) => about(tree_of, tree),
            None => about(
                rest.split_once("/revision/").unwrap_or((rest, "main")),
                info,
            ),
        };
    }
    if let Some(rest) = path.strip_prefix("/api/resolve-cache/models/") {
        let mut parts = rest.splitn(4, '/');
        let mut part = || parts.next().unwrap_or_default();
        let (id, commit, file) = (format!("{}/{}", part(), part()), part(), part());
        let content = repos
            .get(&id)
            .and_then(|r| r.commits.get(commit)?.get(file));
        return content.map_or_else(not_found, |content| {
            let body = Body::Content(content.clone());
            let answer = Answer {
                status: 200,
                headers: Vec::new(),
                body,
            };
            let etag = format!("\"{}\"", content.etag);
            answer.header("ETag", etag).header("X-Repo-Commit", commit)
        });
    }
    let Some((id, rest)) = path.trim_start_matches('/').split_once("/resolve/") else {
        return Answer::page(404, "no such page");
    };
    let Some(repo) = repos.get(id).filter(|repo| may_see(repo, seen)) else {
        return not_found();
    };
    if repo.gated && !has_token(seen) {
        return Answer::error(401, "GatedRepo", "Access to this model is restricted");
    }
    let (revision, file) = rest.split_once('/').unwrap_or((rest, ""));
    resolve(id, repo, &revision.replace("%2F", "/"), file, store)
}

fn info(id: &str, repo: &Repo, revision: &str) -> Answer {
    let Some((commit, files)) = commit_of(repo, revision) else {
        return Answer::error(404, "RevisionNotFound", "Invalid rev id");
    };
    let siblings: Vec<Value> = files
        .keys()
        .map(|name| json!({"rfilename": name}))
        .collect();
    let info = json!({
        "_id": "0", "id": id, "modelId": id, "sha": commit, "private": repo.private,
        "gated": repo.gated, "siblings": siblings, "tags": [], "downloads": 0, "likes": 0,
    });
    Answer::page(200, info.to_string()).header("Content-Type", "application/json")
}

fn tree(_id: &str, repo: &Repo, revision: &str) -> Answer {
    let Some((_, files)) = commit_of(repo, revision) else {
        return Answer::error(404, "RevisionNotFound", "Invalid rev id");
    };
    let entry = |(path, content): (&String, &Content)| {
        let size = content.bytes.len();
        let mut entry = json!({"type": "file", "path": path, "size": size, "oid": content.etag});
        if content.large {
            // The object in git is a small text that names the content.
            entry["oid"] = json!(content.etag[..40]);
            entry["lfs"] = json!({"oid": content.etag, "size": size, "pointerSize": 134});
        }
        entry
    };
    let entries: Vec<Value> = files.iter().map(entry).collect();
    let text = Value::from(entries).to_string();
    Answer::page(200, text).header("Content-Type", "application/json")
}

/// Large files are redirected to the store, small ones to another address of
/// the hub, as the hub has done since 2025.
fn resolve(id: &str, repo: &Repo, revision: &str, file: &str, store: SocketAddr) -> Answer {
    let Some((commit, files)) = commit_of(repo, revision) else {
        return Answer::error(404, "RevisionNotFound", "Invalid rev id");
    };
    let Some(content) = files.get(file) else {
        return Answer::error(404, "EntryNotFound", "Entry not found")
            .header("X-Repo-Commit", commit);
    };
    let etag = format!("\"{}\"", content.etag);
    let answer = if content.large {
        let location = format!("http://{store}/lfs/{}?X-Signature=abc", content.etag);
        Answer::redirect(302, &location)
            .header("X-Linked-Etag", etag)
            .header("X-Linked-Size", content.bytes.len().to_string())
            .header("ETag", "\"another\"")
    } else {
        Answer::redirect(
            307,
            &format!("/api/resolve-cache/models/{id}/{commit}/{file}"),
        )
    };
    answer.header("X-Repo-Commit", commit)
}

fn commit_of<'a>(repo: &'a Repo, revision: &str) -> Option<(&'a str, &'a super::Files)> {
    let id = repo.branches.get(revision).map_or(revision, String::as_str);
    let (id, files) = repo.commits.get_key_value(id)?;
    Some((id, files))
}

fn has_token(seen: &Seen) -> bool {
    seen.authorization.as_deref() == Some(&format!("Bearer {TOKEN}"))
}

fn may_see(repo: &Repo, seen: &Seen) -> bool {
    !repo.private || has_token(seen)
}

/// `/lfs/SHA256`; like a store with signed addresses it refuses requests that
/// carry a token besides.
fn stored(state: &State, seen: &Seen) -> Answer {
    if seen.authorization.is_some() {
        return Answer::page(400, "Only one auth mechanism allowed");
    }
    let etag = seen
        .path
        .trim_start_matches("/lfs/")
        .split('?')
        .next()
        .unwrap_or_default();
    let repos = state.repos.lock().unwrap();
    let mut contents = repos
        .values()
        .flat_map(|repo| repo.commits.values())
        .flat_map(|files| files.values());
    match contents.find(|content| content.etag == etag) {
        Some(content) => {
            let body = Body::Content(content.clone());
            Answer {
                status: 200,
                headers: Vec::new(),
                body,
            }
            .header("ETag", "\"md5-of-something\"")
        }
        None => Answer::page(404, "no such object"),
    }
}

// ---- sending it ----

fn send(
    stream: &TcpStream,
    seen: &Seen,
    answer: Answer,
    fault: Option<&Fault>,
) -> std::io::Result<()> {
    let Answer {
        mut status,
        mut headers,
        body,
    } = answer;
    let mut bytes: &[u8] = match &body {
        Body::Page(text) => text.as_bytes(),
        Body::Content(content) => &content.bytes,
    };
    let is_content = matches!(body, Body::Content(_));
    let ranged = is_content && !matches!(fault, Some(Fault::NoRanges));
    if let Some((start, end)) = range(seen, bytes.len()).filter(|_| ranged) {
        if start >= bytes.len() {
            status = 416;
            bytes = b"";
        } else {
            let span = format!("bytes {start}-{}/{}", end - 1, bytes.len());
            headers.push(("Content-Range".into(), span));
            status = 206;
            bytes = &bytes[start..end];
        }
    }
    let mut flipped;
    if let (Some(Fault::FlipBit(at)), true) = (fault, is_content) {
        flipped = bytes.to_vec();
        flipped[*at] ^= 1;
        bytes = &flipped;
    }
    if let Some(Fault::ShortChunked(length)) = fault {
        headers.push(("Transfer-Encoding".into(), "chunked".into()));
        bytes = &bytes[..*length];
    } else {
        headers.push(("Content-Length".into(), bytes.len().to_string()));
    }
    let mut head = format!("HTTP/1.1 {status} x\r\nConnection: close\r\n");
    for (name, value) in &headers {
        head += &format!("{name}: {value}\r\n");
    }
    let mut stream = stream;
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if seen.method == "HEAD" {
        return Ok(());
    }
    match fault {
        Some(Fault::CutAfter(length)) => stream.write_all(&bytes[..*length]),
        Some(Fault::ShortChunked(_)) => {
            write!(stream, "{:x}\r\n", bytes.len())?;
            stream.write_all(bytes)?;
            stream.write_all(b"\r\n0\r\n\r\n")
        }
        Some(Fault::StallAfter(length, time)) => {
            stream.write_all(&bytes[..*length])?;
            std::thread::sleep(*time);
            Ok(())
        }
        Some(Fault::Slowly(rate)) => send_slowly(stream, bytes, *rate),
        _ => stream.write_all(bytes),
    }
}

fn send_slowly(mut stream: &TcpStream, bytes: &[u8], rate: u64) -> std::io::Result<()> {
    let start = Instant::now();
    let mut sent = 0;
    for part in bytes.chunks(16 << 10) {
        stream.write_all(part)?;
        sent += part.len();
        let due = Duration::from_secs_f64(sent as f64 / rate as f64);
        std::thread::sleep(due.saturating_sub(start.elapsed()));
    }
    Ok(())
}

/// First byte and the byte after the last.
fn range(seen: &Seen, size: usize) -> Option<(usize, usize)> {
    let (first, last) = seen
        .range
        .as_ref()?
        .strip_prefix("bytes=")?
        .split_once('-')?;
    let end = last
        .parse::<usize>()
        .map_or(size, |last| size.min(last + 1));
    Some((first.parse().ok()?, end))
}
