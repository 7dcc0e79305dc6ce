//! The page at `/`: static files that are part of the binary.
//!
//! The page may load nothing from elsewhere and run nothing but its own
//! files; its policy says so to the browser, which also refuses to make
//! markup of a string. Paths are relative, so that a proxy may serve all of
//! it below a folder.

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::error::ApiError;

/// The routes of the page, which ask for no key.
pub const ROUTES: [&str; 2] = ["/", "/web/{file}"];

const INDEX: File = file("index.html", include_bytes!("web/index.html"));

/// Stands for each file below `/web/`.
macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(file($name, include_bytes!(concat!("web/", $name)))),*]
    };
}

const FILES: &[File] = files![
    "alternatives.js",
    "api.js",
    "attention.js",
    "banner.js",
    "base.css",
    "dom.js",
    "draft.js",
    "format.js",
    "icon.svg",
    "inside.js",
    "key.js",
    "layers.js",
    "main.js",
    "maps.js",
    "model.js",
    "parameters.js",
    "token-view.js",
    "probabilities.js",
    "share.js",
    "snippets.js",
    "surprise.js",
    "tabs.js",
    "theme.js",
    "tokens.js",
    "views.css",
    "write.js",
    "writing.js",
];

/// What a browser is to keep to, on every answer of the page.
const HEADERS: [(HeaderName, &str); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    // It may be kept, but not used without asking whether it is still the same.
    (header::CACHE_CONTROL, "no-cache"),
];

/// A file of the page.
#[derive(Debug, Clone, Copy)]
struct File {
    name: &'static str,
    bytes: &'static [u8],
}

const fn file(name: &'static str, bytes: &'static [u8]) -> File {
    File { name, bytes }
}

/// The routes of the page.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let [index, files] = ROUTES;
    Router::new()
        .route(
            index,
            get(|headers: HeaderMap| async move { INDEX.answer(&headers) }),
        )
        .route(files, get(below_web))
}

async fn below_web(Path(name): Path<String>, headers: HeaderMap) -> Response {
    match FILES.iter().find(|file| file.name == name) {
        Some(file) => file.answer(&headers),
        None => ApiError::status(StatusCode::NOT_FOUND, "no such path").into_response(),
    }
}

impl File {
    /// The file, or that the client has it already.
    fn answer(&self, request: &HeaderMap) -> Response {
        let tag = self.tag();
        let known = request.get_all(header::IF_NONE_MATCH).iter();
        let is_known = known.filter_map(|value| value.to_str().ok()).any(|tags| {
            let mut tags = tags.split(',').map(|t| t.trim().trim_start_matches("W/"));
            tags.any(|t| t == "*" || t == tag)
        });
        let mut response = if is_known {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            let kind = (header::CONTENT_TYPE, self.content_type());
            ([kind], self.bytes).into_response()
        };
        let headers = response.headers_mut();
        for (name, value) in HEADERS {
            headers.insert(name, HeaderValue::from_static(value));
        }
        // Hexadecimal digits between quotes are a header's value.
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            headers.insert(header::ETAG, tag);
        }
        response
    }

    /// Other bytes have another tag.
    fn tag(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.bytes.hash(&mut hasher);
        format!("\"{:016x}\"", hasher.finish())
    }

    fn content_type(&self) -> &'static str {
        match self.name.rsplit_once('.') {
            Some((_, "html")) => "text/html; charset=utf-8",
            Some((_, "css")) => "text/css; charset=utf-8",
            Some((_, "js")) => "text/javascript; charset=utf-8",
            Some((_, "svg")) => "image/svg+xml",
            _ => "application/octet-stream",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// What the page may weigh in all.
    const MAX_BYTES: usize = 150_000;

    fn folder() -> BTreeSet<String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/server/web");
        let entries = std::fs::read_dir(folder).unwrap();
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
        entries
            .map(|entry| name(entry).into_string().unwrap())
            .collect()
    }

    #[test]
    fn every_file_is_served_and_they_are_small() {
        let served = FILES.iter().chain([&INDEX]);
        let names: BTreeSet<String> = served.clone().map(|f| f.name.to_owned()).collect();
        assert_eq!(names, folder());
        let bytes: usize = served.clone().map(|f| f.bytes.len()).sum();
        assert!(bytes < MAX_BYTES, "{bytes} bytes");
        for file in served {
            assert_ne!(
                file.content_type(),
                "application/octet-stream",
                "{}",
                file.name
            );
        }
    }

    #[test]
    fn the_page_needs_nothing_that_its_policy_forbids() {
        let text = |file: &File| str::from_utf8(file.bytes).unwrap().to_owned();
        let forbidden = [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "http://",
            "https://",
        ];
        for file in FILES.iter().chain([&INDEX]) {
            let text = text(file).replace("http://www.w3.org/", "");
            for word in forbidden {
                assert!(!text.contains(word), "{} has {word}", file.name);
            }
        }
        let index = text(&INDEX);
        for inline in [" style=", "<style", "onclick=", "onload=", "<script>"] {
            assert!(!index.contains(inline), "index.html has {inline}");
        }
    }

    #[test]
    fn a_file_that_is_known_is_not_sent_again() {
        let ask = |tag: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(tag) = tag {
                headers.insert(header::IF_NONE_MATCH, HeaderValue::from_str(tag).unwrap());
            }
            INDEX.answer(&headers)
        };
        let fresh = ask(None);
        assert_eq!(fresh.status(), StatusCode::OK);
        let tag = fresh.headers()[header::ETAG].to_str().unwrap().to_owned();
        for known in [
            tag.clone(),
            format!("W/{tag}"),
            format!("\"x\", {tag}"),
            "*".into(),
        ] {
            let answer = ask(Some(&known));
            assert_eq!(answer.status(), StatusCode::NOT_MODIFIED, "{known}");
            assert!(
                answer
                    .headers()
                    .contains_key(header::CONTENT_SECURITY_POLICY)
            );
        }
        assert_eq!(ask(Some("\"another\"")).status(), StatusCode::OK);
        let other = &FILES[0];
        assert_ne!(other.tag(), INDEX.tag());
    }
}
