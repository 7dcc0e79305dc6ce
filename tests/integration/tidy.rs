//! The floors, the place and the reasons of `unsafe`, and the length of files,
//! held by a test that reads the sources.
//!
//! Each rule is a function from a file's path and text to what is wrong with
//! it, and has a test that shows it failing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// One floor: what it may import from this crate, and what it must not from
/// other crates.
struct Floor {
    name: &'static str,
    imports: &'static [&'static str],
    banned: &'static [&'static str],
}

/// What the floors must not know that compute on slices alone.
const ARITHMETIC: &[&str] = &[
    "candle_core",
    "candle_nn",
    "tokenizers",
    "tokio",
    "axum",
    "clap",
    "anyhow",
    "ureq",
];

/// The floors, lowest first. A module of `src/` that isn't here is an error,
/// so that a new one is given its place.
const FLOORS: &[Floor] = &[
    Floor {
        name: "metrics",
        imports: &[],
        banned: &[
            "candle_core",
            "tokenizers",
            "tokio",
            "axum",
            "clap",
            "anyhow",
        ],
    },
    Floor {
        name: "kernels",
        imports: &[],
        banned: ARITHMETIC,
    },
    Floor {
        name: "cuda",
        // The threads that convert weights.
        imports: &["kernels"],
        banned: ARITHMETIC,
    },
    Floor {
        name: "model",
        imports: &["kernels", "cuda"],
        banned: &["tokenizers", "tokio", "axum", "clap", "anyhow", "ureq"],
    },
    Floor {
        name: "tokenizer",
        imports: &["model"],
        banned: &[
            "candle_core",
            "candle_nn",
            "tokio",
            "axum",
            "clap",
            "anyhow",
            "ureq",
        ],
    },
    Floor {
        name: "engine",
        // The sampler's softmax over the vocabulary is a kernel.
        imports: &["model", "tokenizer", "kernels", "metrics"],
        banned: &["axum", "clap", "anyhow", "ureq"],
    },
    Floor {
        name: "scoring",
        imports: &["engine", "tokenizer"],
        banned: &["candle_core", "candle_nn", "axum", "clap", "anyhow", "ureq"],
    },
    // The only one that opens outgoing connections.
    Floor {
        name: "hub",
        imports: &["model"],
        banned: &[
            "candle_core",
            "candle_nn",
            "tokio",
            "axum",
            "clap",
            "anyhow",
        ],
    },
    Floor {
        name: "server",
        imports: &["scoring", "engine", "tokenizer", "model", "metrics"],
        banned: &["candle_core", "candle_nn", "clap", "anyhow", "ureq"],
    },
    Floor {
        name: "cli",
        imports: &[
            "server",
            "hub",
            "scoring",
            "engine",
            "tokenizer",
            "model",
            "kernels",
            // Its limits, for the benchmark.
            "cuda",
        ],
        banned: &["axum", "ureq"],
    },
    Floor {
        name: "main",
        imports: &["cli"],
        banned: &[
            "candle_core",
            "candle_nn",
            "tokenizers",
            "tokio",
            "axum",
            "ureq",
        ],
    },
];

/// The folders in which `unsafe` is allowed.
const UNSAFE_FOLDERS: &[&str] = &["src/kernels/", "src/cuda/"];

const MAX_LINES: usize = 500;

#[test]
fn the_sources_are_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = rust_files(&root.join("src"));
    assert!(
        files.len() > 15,
        "only {} files found under src",
        files.len()
    );
    let mut problems = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a source file is UTF-8");
        let path = file.strip_prefix(root).expect("below the root");
        let path = path.to_string_lossy().replace('\\', "/");
        for rule in [floors, unsafe_place, unsafe_reasons, length] {
            let found = rule(&path, &text);
            problems.extend(
                found
                    .into_iter()
                    .map(|problem| format!("{path}: {problem}")),
            );
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("a folder entry").path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

// ---- the rules ----

/// A floor imports only those below it.
fn floors(path: &str, text: &str) -> Vec<String> {
    let module = path
        .trim_start_matches("src/")
        .split('/')
        .next()
        .unwrap_or(path);
    let module = module.trim_end_matches(".rs");
    if module == "lib" {
        return Vec::new();
    }
    let Some(floor) = FLOORS.iter().find(|floor| floor.name == module) else {
        return vec![format!("`{module}` has no place in the table of floors")];
    };
    let code = code_of(text).join("\n");
    let mut wrong = Vec::new();
    for name in internal_imports(&code, module == "main") {
        if name != floor.name && !floor.imports.contains(&name.as_str()) {
            wrong.push(format!("`{}` must not know `{name}`", floor.name));
        }
    }
    for banned in floor.banned {
        if !paths_after(&code, &format!("{banned}::")).is_empty() {
            wrong.push(format!("`{}` must not know the crate {banned}", floor.name));
        }
    }
    wrong
}

/// `unsafe` stays in the folders that are made for it.
fn unsafe_place(path: &str, text: &str) -> Vec<String> {
    if UNSAFE_FOLDERS.iter().any(|folder| path.starts_with(folder)) {
        return Vec::new();
    }
    let code = code_of(text);
    let found = code.iter().enumerate().filter(|(_, line)| has_unsafe(line));
    found
        .map(|(i, _)| format!("line {}: `unsafe` outside {UNSAFE_FOLDERS:?}", i + 1))
        .collect()
}

/// Every `unsafe` block and impl has a `// SAFETY:` comment before it; an
/// unsafe fn or trait may state its contract as `# Safety` instead.
fn unsafe_reasons(_path: &str, text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let code = code_of(text);
    (0..lines.len())
        .filter(|&i| has_unsafe(&code[i]) && !has_reason(&lines, &code, i))
        .map(|i| format!("line {}: `unsafe` without a SAFETY comment", i + 1))
        .collect()
}

/// A file is one noun, and short.
fn length(_path: &str, text: &str) -> Vec<String> {
    let lines = text.lines().count();
    if lines > MAX_LINES {
        vec![format!("{lines} lines, more than {MAX_LINES}")]
    } else {
        Vec::new()
    }
}

// ---- what the rules read ----

/// The text's lines with comments and the contents of literals left out.
fn code_of(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let starts = |at: usize, what: &str| {
        what.chars()
            .enumerate()
            .all(|(i, c)| chars.get(at + i) == Some(&c))
    };
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    while i < chars.len() {
        let end = if starts(i, "//") {
            (i..chars.len())
                .find(|&j| chars[j] == '\n')
                .unwrap_or(chars.len())
        } else if starts(i, "/*") {
            let mut depth = 1;
            let mut j = i + 2;
            while j < chars.len() && depth > 0 {
                if starts(j, "/*") || starts(j, "*/") {
                    depth = if starts(j, "/*") {
                        depth + 1
                    } else {
                        depth - 1
                    };
                    j += 1;
                }
                j += 1;
            }
            j.min(chars.len())
        } else if let Some(hashes) = raw_string_hashes(&chars, i) {
            let close = format!("\"{}", "#".repeat(hashes));
            let open = i + 2 + hashes;
            let close_at = (open..chars.len()).find(|&j| starts(j, &close));
            close_at.map_or(chars.len(), |j| j + 1 + hashes)
        } else if chars[i] == '"' {
            quoted_end(&chars, i, '"')
        } else if chars[i] == '\'' && (starts(i + 1, "\\") || chars.get(i + 2) == Some(&'\'')) {
            quoted_end(&chars, i, '\'')
        } else {
            out.push(chars[i]);
            i += 1;
            continue;
        };
        out.extend(chars[i..end].iter().filter(|&&c| c == '\n'));
        i = end;
    }
    let mut lines: Vec<String> = out.lines().map(str::to_owned).collect();
    lines.resize(text.lines().count(), String::new());
    lines
}

fn raw_string_hashes(chars: &[char], at: usize) -> Option<usize> {
    let follows_word = at > 0 && is_word(chars[at - 1]) && chars[at - 1] != 'b';
    if chars[at] != 'r' || follows_word {
        return None;
    }
    let hashes = chars[at + 1..].iter().take_while(|&&c| c == '#').count();
    (chars.get(at + 1 + hashes) == Some(&'"')).then_some(hashes)
}

fn quoted_end(chars: &[char], open: usize, quote: char) -> usize {
    let mut i = open + 1;
    while i < chars.len() && chars[i] != quote {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(chars.len())
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// What follows each occurrence of `prefix` as a whole path segment.
fn paths_after<'a>(code: &'a str, prefix: &str) -> Vec<&'a str> {
    let at_border = |&(at, _): &(usize, &str)| !code[..at].chars().next_back().is_some_and(is_word);
    let found = code.match_indices(prefix).filter(at_border);
    found.map(|(at, _)| &code[at + prefix.len()..]).collect()
}

/// The modules of this crate that `code` names: after `crate::`, or after
/// `super::` where it is the name of a floor.
fn internal_imports(code: &str, from_main: bool) -> BTreeSet<String> {
    let root = if from_main {
        "gpt2_engine::"
    } else {
        "crate::"
    };
    let mut names: BTreeSet<String> = BTreeSet::new();
    for rest in paths_after(code, root) {
        names.extend(first_segments(rest));
    }
    let is_floor = |name: &String| FLOORS.iter().any(|floor| floor.name == name);
    for rest in paths_after(code, "super::") {
        names.extend(first_segments(rest).into_iter().filter(is_floor));
    }
    names
}

/// `a::b` → a; `{a, b::{c, d}}` → a, b.
fn first_segments(rest: &str) -> Vec<String> {
    let word = |text: &str| {
        text.trim_start()
            .chars()
            .take_while(|&c| is_word(c))
            .collect::<String>()
    };
    let Some(group) = rest.strip_prefix('{') else {
        return vec![word(rest)];
    };
    let mut depth = 0;
    let mut found = vec![word(group)];
    for (i, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => found.push(word(&group[i + 1..])),
            _ => {}
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

/// Whether a line of code has the keyword; the type `unsafe fn(…)` needs no
/// reason.
fn has_unsafe(code: &str) -> bool {
    code.match_indices("unsafe").any(|(at, word)| {
        let rest = &code[at + word.len()..];
        let whole = !code[..at].ends_with(is_word) && !rest.starts_with(is_word);
        let is_type = rest.trim_start().starts_with("fn(");
        whole && !is_type
    })
}

/// Whether the statement or item that line `at` belongs to is preceded by a
/// reason. Methods of an `unsafe impl` fall under that impl's reason and the
/// trait's contract.
fn has_reason(lines: &[&str], code: &[String], at: usize) -> bool {
    let first = first_line_of(code, at);
    let comment: Vec<&str> = lines[..first]
        .iter()
        .rev()
        .map(|line| line.trim())
        .take_while(|line| line.starts_with("//") || line.starts_with("#["))
        .collect();
    let says = |what: &str| comment.iter().any(|line| line.contains(what));
    let is_fn = code[at].contains("unsafe fn ") || code[at].contains("unsafe extern");
    let is_trait = code[at].contains("unsafe trait ");
    says("// SAFETY:")
        || ((is_fn || is_trait) && says("/// # Safety"))
        || (is_fn && header_of(lines, at).starts_with("unsafe impl"))
}

/// The first line of the statement that reaches line `at`.
fn first_line_of(code: &[String], at: usize) -> usize {
    let mut first = at;
    while first > 0 {
        let above = code[first - 1].trim();
        let ends_there =
            above.is_empty() || above.starts_with("#[") || above.ends_with([';', '{', '}', ',']);
        if ends_there {
            break;
        }
        first -= 1;
    }
    first
}

/// The line that opens the block around line `at`, by its indentation.
fn header_of<'a>(lines: &[&'a str], at: usize) -> &'a str {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let outer = |line: &&&str| !line.trim().is_empty() && indent(line) < indent(lines[at]);
    lines[..at]
        .iter()
        .rev()
        .find(outer)
        .map_or("", |line| line.trim())
}

// ---- the rules can fail ----

#[test]
fn a_floor_that_looks_up_is_found() {
    let fails = |path: &str, text: &str| !floors(path, text).is_empty();
    assert!(fails("src/kernels/linear.rs", "use crate::model::Config;"));
    assert!(fails(
        "src/model/gpt2.rs",
        "fn f() { crate::engine::Engine::builder(); }"
    ));
    assert!(fails(
        "src/tokenizer.rs",
        "use crate::{\n    model::Source,\n    engine::Engine,\n};"
    ));
    assert!(fails("src/engine/mod.rs", "use super::server;"));
    assert!(fails("src/kernels/linear.rs", "use candle_core::Tensor;"));
    assert!(fails(
        "src/engine/worker.rs",
        "fn f() -> axum::Router { todo() }"
    ));
    assert!(fails("src/cli/pull.rs", "fn f() { ureq::get(\"x\"); }"));
    assert!(fails("src/main.rs", "use gpt2_engine::engine::Engine;"));
    assert!(fails("src/attic/mod.rs", ""));
}

#[test]
fn a_floor_that_looks_down_is_fine() {
    let fails = |path: &str, text: &str| !floors(path, text).is_empty();
    assert!(!fails(
        "src/model/ops.rs",
        "use crate::kernels::{linear, layer_norm::{self}};"
    ));
    assert!(!fails(
        "src/server/native.rs",
        "use crate::engine::Engine; use super::error::ApiError;"
    ));
    assert!(!fails(
        "src/kernels/mod.rs",
        "// crate::engine\nlet s = \"crate::engine\"; pub(crate) fn f() {}"
    ));
    assert!(!fails(
        "src/kernels/isa.rs",
        "macro_rules! m { () => { $crate::kernels::Isa } }"
    ));
    assert!(!fails(
        "src/main.rs",
        "fn main() { gpt2_engine::cli::run() }"
    ));
    assert!(!fails("src/lib.rs", "pub use engine::Engine;"));
}

#[test]
fn unsafe_in_the_wrong_folder_is_found() {
    let text = "fn f() {\n    // SAFETY: no reason is good enough here.\n    unsafe { g() }\n}";
    assert_eq!(unsafe_place("src/engine/worker.rs", text).len(), 1);
    assert!(unsafe_place("src/kernels/linear.rs", text).is_empty());
    assert!(
        unsafe_place(
            "src/engine/worker.rs",
            "// unsafe\nlet s = \"unsafe\"; let unsafe_n = 1;"
        )
        .is_empty()
    );
}

#[test]
fn unsafe_without_a_reason_is_found() {
    let bare = |text: &str| unsafe_reasons("src/kernels/x.rs", text).len();
    assert_eq!(bare("fn f() {\n    unsafe { g() }\n}"), 1);
    assert_eq!(
        bare("fn f() {\n    // SAFETY: for h.\n    h();\n    unsafe { g() }\n}"),
        1
    );
    assert_eq!(bare("/// Does it.\nunsafe fn f() {}"), 1);
    assert_eq!(bare("unsafe impl Send for A {}"), 1);
    assert_eq!(bare("impl A {\n    unsafe fn f() {}\n}"), 1);
    assert_eq!(
        bare("/// # Safety\n/// None.\nfn f() {\n    unsafe { g() }\n}"),
        1
    );
}

#[test]
fn unsafe_with_a_reason_is_fine() {
    let bare = |text: &str| unsafe_reasons("src/kernels/x.rs", text).len();
    assert_eq!(
        bare("fn f() {\n    // SAFETY: all is well.\n    unsafe { g() }\n}"),
        0
    );
    assert_eq!(
        bare("    // SAFETY: well.\n    let y =\n        unsafe { g() };"),
        0
    );
    assert_eq!(
        bare("/// # Safety\n/// Do well.\n#[inline(always)]\nunsafe fn f() {}"),
        0
    );
    assert_eq!(
        bare("// SAFETY: well.\nunsafe impl V for A {\n    fn a() {}\n\n    unsafe fn f() {}\n}"),
        0
    );
    assert_eq!(bare("type F = unsafe fn(u32) -> u32;"), 0);
}

#[test]
fn a_long_file_is_found() {
    assert_eq!(length("src/x.rs", &"\n".repeat(MAX_LINES + 1)).len(), 1);
    assert!(length("src/x.rs", &"\n".repeat(MAX_LINES)).is_empty());
}

#[test]
fn literals_and_comments_are_not_code() {
    let text = "let a = r#\"un\"safe\"#; /* b /* c */ d */ let c = '\"'; fn f<'a>() {} // e\nlet x = \"\\\"y\";";
    assert_eq!(
        code_of(text),
        ["let a = ;  let c = ; fn f<'a>() {} ", "let x = ;"]
    );
}
