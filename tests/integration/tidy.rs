//! Rules of the house that a compiler doesn't hold: the floors, where `unsafe`
//! may stand, and how long a file may grow.

use std::path::{Path, PathBuf};

/// What each floor may import from the crate.
const FLOORS: &[(&str, &[&str])] = &[
    ("kernels", &["kernels"]),
    ("model", &["model", "kernels"]),
    ("tokenizer", &["tokenizer", "model"]),
    ("engine", &["engine", "tokenizer", "model", "kernels"]),
    ("hub", &["hub", "model"]),
    ("server", &["server", "engine", "tokenizer"]),
    (
        "cli",
        &[
            "cli",
            "server",
            "hub",
            "engine",
            "tokenizer",
            "model",
            "kernels",
        ],
    ),
];

/// Where `unsafe` may stand.
const UNSAFE_FLOORS: &[&str] = &["kernels", "cuda"];

const MAX_LINES: usize = 500;

/// The floor of a path below src: its first part.
fn floor(path: &str) -> &str {
    path.split('/').next().unwrap().trim_end_matches(".rs")
}

fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line));
    lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn wrong_imports(path: &str, text: &str) -> Vec<String> {
    let Some((_, allowed)) = FLOORS.iter().find(|(name, _)| *name == floor(path)) else {
        return vec![format!("{path}: a floor without a row in the table")];
    };
    let mut found = Vec::new();
    for (number, line) in code_lines(text) {
        for rest in line.split("crate::").skip(1) {
            let name: String = rest
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            if !allowed.contains(&&*name) {
                found.push(format!("{path}:{number}: imports {name:?}"));
            }
        }
    }
    found
}

fn wrong_unsafe(path: &str, text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (number, line) in code_lines(text) {
        let Some(at) = line.find("unsafe ") else {
            continue;
        };
        if line[..at].ends_with('"') || line[..at].contains("//") {
            continue;
        }
        if !UNSAFE_FLOORS.contains(&floor(path)) {
            found.push(format!("{path}:{number}: unsafe outside {UNSAFE_FLOORS:?}"));
        }
        // What an unsafe function asks of its callers is in its docs or its
        // trait's, which clippy looks after.
        if line[at..].starts_with("unsafe fn") || line[at..].starts_with("unsafe trait") {
            continue;
        }
        // The reason stands in the comment right above, attributes between.
        let reason = lines[..number - 1]
            .iter()
            .rev()
            .map(|l| l.trim_start())
            .take_while(|l| l.starts_with("//") || l.starts_with("#[") || is_opening(l))
            .any(|l| l.contains("SAFETY:") || l.contains("# Safety"));
        if !reason {
            found.push(format!("{path}:{number}: unsafe without a reason"));
        }
    }
    found
}

/// A line that only opens the expression in which `unsafe` stands.
fn is_opening(line: &str) -> bool {
    line.ends_with('=') || line.ends_with("=> {")
}

fn too_long(path: &str, text: &str) -> Vec<String> {
    let lines = text.lines().count();
    let message = format!("{path}: {lines} lines, at most {MAX_LINES}: split it by subject");
    if lines > MAX_LINES {
        vec![message]
    } else {
        Vec::new()
    }
}

fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders: Vec<PathBuf> = vec![root.clone()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path
                    .strip_prefix(&root)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                files.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    files
}

#[test]
fn the_house_is_tidy() {
    let files = sources();
    assert!(files.len() > 20);
    let mut found = Vec::new();
    for (path, text) in &files {
        if !matches!(&**path, "lib.rs" | "main.rs") {
            found.extend(wrong_imports(path, text));
        }
        found.extend(wrong_unsafe(path, text));
        found.extend(too_long(path, text));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn each_rule_can_fail() {
    assert!(!wrong_imports("model/a.rs", "use crate::engine::Engine;").is_empty());
    assert!(!wrong_imports("attic/a.rs", "").is_empty());
    assert!(wrong_imports("model/a.rs", "// crate::engine\nuse crate::kernels::Isa;").is_empty());
    assert!(!wrong_unsafe("model/a.rs", "// SAFETY: fine\nunsafe { f() }").is_empty());
    assert!(!wrong_unsafe("kernels/a.rs", "let a = 1;\nunsafe { f() }").is_empty());
    assert!(wrong_unsafe("kernels/a.rs", "// SAFETY: fine\n#[inline]\nunsafe { f() }").is_empty());
    assert!(!too_long("a.rs", &"\n".repeat(MAX_LINES + 1)).is_empty());
}
