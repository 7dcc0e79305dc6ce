//! Where the cache is, which server is asked, and with what token: from the
//! environment variables that huggingface_hub reads too.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::HubError;

/// Everything the hub needs to know; plain data, so that a program can set
/// its own.
#[derive(Clone)]
pub struct Settings {
    /// The cache's folder; `models--owner--name` folders lie in it.
    pub cache: PathBuf,
    /// The server, without a slash at its end.
    pub endpoint: String,
    /// Sent to the endpoint, and to no other server.
    pub token: Option<String>,
    /// Use what is there and open no connection.
    pub offline: bool,
    /// How long a server may be silent.
    pub timeout: Duration,
    /// The wait before the first repetition of a failed request; it doubles.
    pub backoff: Duration,
    /// Certificates to trust in place of Mozilla's: a PEM file.
    pub certificates: Option<PathBuf>,
    /// Proxies.
    pub proxies: Proxies,
}

/// Proxy URLs by the scheme of what is asked for.
#[derive(Clone, Default)]
pub struct Proxies {
    /// For `http://`.
    pub http: Option<String>,
    /// For `https://`.
    pub https: Option<String>,
    /// Hosts that are asked directly, separated by commas.
    pub except: String,
}

impl Settings {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// [`HubError::Setting`] when a variable makes no sense, or when there is
    /// no home folder to put a cache into.
    pub fn from_env() -> Result<Self, HubError> {
        Self::from_variables(&|name| std::env::var(name).ok())
    }

    fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, HubError> {
        let get = |name: &str| variable(name).filter(|value| !value.is_empty());
        let first = |names: &[&str]| names.iter().find_map(|name| get(name));
        let home = get("HOME");
        let path = |value: String| expand_home(&value, home.as_deref());
        let hf_home = match (get("HF_HOME"), get("XDG_CACHE_HOME"), &home) {
            (Some(folder), _, _) => path(folder),
            (None, Some(folder), _) => path(folder).join("huggingface"),
            (None, None, Some(home)) => Path::new(home).join(".cache/huggingface"),
            (None, None, None) => {
                let reason = "none of HF_HOME, XDG_CACHE_HOME and HOME is set";
                return Err(HubError::setting("HF_HOME", reason));
            }
        };
        let cache = first(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"]);
        let endpoint = get("HF_ENDPOINT").unwrap_or("https://huggingface.co".to_owned());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            let reason = format!("{endpoint:?} is not an https:// or http:// address");
            return Err(HubError::setting("HF_ENDPOINT", reason));
        }
        let token_file = get("HF_TOKEN_PATH").map_or_else(|| hf_home.join("token"), path);
        let token = first(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]).or_else(|| {
            let ignored = is_true(get("HF_HUB_DISABLE_IMPLICIT_TOKEN"));
            let file = (!ignored).then(|| std::fs::read_to_string(token_file));
            file.and_then(Result::ok)
        });
        let timeout = seconds("HF_HUB_DOWNLOAD_TIMEOUT", get("HF_HUB_DOWNLOAD_TIMEOUT"))?;
        Ok(Self {
            cache: cache.map_or_else(|| hf_home.join("hub"), path),
            endpoint,
            token: checked_token(token)?,
            offline: is_true(first(&["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])),
            timeout: timeout.unwrap_or(Duration::from_secs(10)),
            backoff: Duration::from_secs(1),
            certificates: first(&["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
                .map(path),
            proxies: Proxies {
                http: first(&["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]),
                https: first(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
                except: first(&["no_proxy", "NO_PROXY"]).unwrap_or_default(),
            },
        })
    }
}

/// `~` and `~/x`, as shells and Python expand them.
fn expand_home(value: &str, home: Option<&str>) -> PathBuf {
    match (value.strip_prefix('~'), home) {
        (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => {
            PathBuf::from(format!("{home}{rest}"))
        }
        _ => PathBuf::from(value),
    }
}

/// What huggingface_hub takes for true.
fn is_true(value: Option<String>) -> bool {
    let value = value.unwrap_or_default().to_ascii_uppercase();
    matches!(value.as_str(), "1" | "ON" | "YES" | "TRUE")
}

fn seconds(name: &str, value: Option<String>) -> Result<Option<Duration>, HubError> {
    let Some(value) = value else { return Ok(None) };
    let seconds: Option<u64> = value.parse().ok().filter(|&s| (1..=86_400).contains(&s));
    let reason = || format!("{value:?} is not a number of seconds from 1 to 86400");
    let seconds = seconds.ok_or_else(|| HubError::setting(name, reason()))?;
    Ok(Some(Duration::from_secs(seconds)))
}

/// The token without the line break that files end with. What it is stays out
/// of every message.
fn checked_token(token: Option<String>) -> Result<Option<String>, HubError> {
    let token = token.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
    if token
        .iter()
        .any(|t| !t.bytes().all(|b| b.is_ascii_graphic()))
    {
        let reason = "the token has characters that no token has";
        return Err(HubError::setting("HF_TOKEN", reason));
    }
    Ok(token)
}

impl std::fmt::Debug for Settings {
    /// Leaves out the token, and proxies, which may hold passwords.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("cache", &self.cache)
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "***"))
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<Settings, HubError> {
        Settings::from_variables(&|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_cache_is_where_python_has_it() {
        let cache = |variables: &[_]| settings(variables).unwrap().cache.display().to_string();
        assert_eq!(cache(&[("HOME", "/h")]), "/h/.cache/huggingface/hub");
        let xdg = ("XDG_CACHE_HOME", "/x");
        assert_eq!(cache(&[xdg]), "/x/huggingface/hub");
        let home = ("HF_HOME", "~/hf");
        assert_eq!(cache(&[("HOME", "/h"), xdg, home]), "/h/hf/hub");
        let old = ("HUGGINGFACE_HUB_CACHE", "/old");
        assert_eq!(cache(&[home, old]), "/old");
        assert_eq!(cache(&[home, old, ("HF_HUB_CACHE", "/new")]), "/new");
        assert!(settings(&[]).is_err());
    }

    #[test]
    fn tokens_come_from_the_variable_or_a_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "hf_file\n").unwrap();
        let home = ("HF_HOME", dir.path().to_str().unwrap());
        let token = |variables: &[_]| settings(variables).unwrap().token;
        assert_eq!(token(&[home]).as_deref(), Some("hf_file"));
        assert_eq!(
            token(&[home, ("HF_TOKEN", "hf_var")]).as_deref(),
            Some("hf_var")
        );
        assert_eq!(token(&[home, ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        assert_eq!(token(&[home, ("HF_TOKEN_PATH", "/nowhere/token")]), None);
        assert!(settings(&[home, ("HF_TOKEN", "a\nb")]).is_err());
        let shown = format!("{:?}", settings(&[home]).unwrap());
        assert!(!shown.contains("hf_file"), "{shown}");
    }

    #[test]
    fn the_rest_of_the_environment() {
        let home = ("HOME", "/h");
        let plain = settings(&[home]).unwrap();
        assert!(!plain.offline && plain.endpoint == "https://huggingface.co");
        assert!(
            settings(&[home, ("HF_HUB_OFFLINE", "true")])
                .unwrap()
                .offline
        );
        assert!(!settings(&[home, ("HF_HUB_OFFLINE", "0")]).unwrap().offline);
        let mirror = settings(&[home, ("HF_ENDPOINT", "http://mirror/hf/")]).unwrap();
        assert_eq!(mirror.endpoint, "http://mirror/hf");
        assert!(settings(&[home, ("HF_ENDPOINT", "ftp://mirror")]).is_err());
        assert!(settings(&[home, ("HF_HUB_DOWNLOAD_TIMEOUT", "soon")]).is_err());
        let proxies = settings(&[home, ("ALL_PROXY", "http://a"), ("https_proxy", "http://b")]);
        let proxies = proxies.unwrap().proxies;
        assert_eq!(proxies.http.as_deref(), Some("http://a"));
        assert_eq!(proxies.https.as_deref(), Some("http://b"));
    }
}
