//! Requests: redirects that keep the token at home, and what failed.

use std::error::Error as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use ureq::http::{Method, Request, Response, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, Proxy};

use super::HubError;
use super::settings::{Proxies, Settings};

const MAX_REDIRECTS: usize = 10;
/// What the connection reads at once.
const INPUT_BUFFER: usize = 1 << 18;

/// Talks to the hub, and to where the hub sends it.
pub(super) struct Client {
    http: Agent,
    https: Agent,
    endpoint: Uri,
    token: Option<String>,
    timeout: Duration,
    proxies: Proxies,
}

/// How far redirects are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Follow {
    /// To the content.
    All,
    /// To the answer that says what the content is: the hub says it in the
    /// very redirect that leads away from it.
    UntilLinked,
}

/// An answer that is a success, or a redirect that was not to be followed.
pub(super) struct Answer {
    pub(super) url: String,
    pub(super) response: Response<Body>,
}

impl Answer {
    pub(super) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// A header that is a number.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.header(name)?.trim().parse().ok()
    }
}

/// A request that failed.
pub(super) struct Failure {
    pub(super) error: Box<HubError>,
    /// The hub's own name for what is wrong: `X-Error-Code`.
    pub(super) code: Option<String>,
    pub(super) retry: Retry,
}

/// Whether a request is worth repeating.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    /// It would fail again.
    No,
    /// Not even a connection came about.
    Unconnected,
    /// After a while, or after as long as the server says.
    Later(Option<Duration>),
}

impl Failure {
    pub(super) fn new(error: HubError, retry: Retry) -> Self {
        Self {
            error: Box::new(error),
            code: None,
            retry,
        }
    }

    pub(super) fn last(error: HubError) -> Self {
        Self::new(error, Retry::No)
    }

    pub(super) fn passing(error: HubError) -> Self {
        Self::new(error, Retry::Later(None))
    }

    /// The answer's status, where there was an answer.
    pub(super) fn status(&self) -> Option<u16> {
        match *self.error {
            HubError::Status { status, .. } => Some(status),
            _ => None,
        }
    }
}

impl Client {
    pub(super) fn new(settings: &Settings) -> Result<Self, HubError> {
        let endpoint: Uri = settings.endpoint.parse().map_err(|_| {
            let reason = format!("{:?} is not an address", settings.endpoint);
            HubError::setting("HF_ENDPOINT", reason)
        })?;
        let roots = match &settings.certificates {
            Some(file) => read_certificates(file)?,
            None => RootCerts::WebPki,
        };
        let tls = TlsConfig::builder().root_certs(roots).build();
        let agent = |proxy: Option<&String>| {
            let proxy = proxy.map(|url| parse_proxy(url, &settings.proxies.except));
            let config = Agent::config_builder()
                .http_status_as_error(false)
                .max_redirects(0)
                .max_redirects_will_error(false)
                .user_agent(concat!("gpt2-engine/", env!("CARGO_PKG_VERSION")))
                .accept_encoding("identity")
                .timeout_connect(Some(settings.timeout))
                .timeout_per_read(Some(settings.timeout))
                .timeout_per_write(Some(settings.timeout))
                .input_buffer_size(INPUT_BUFFER)
                .tls_config(tls.clone())
                .proxy(proxy.transpose()?)
                .build();
            Ok::<_, HubError>(Agent::new_with_config(config))
        };
        Ok(Self {
            http: agent(settings.proxies.http.as_ref())?,
            https: agent(settings.proxies.https.as_ref())?,
            endpoint,
            token: settings.token.clone(),
            timeout: settings.timeout,
            proxies: settings.proxies.clone(),
        })
    }

    /// Whether requests to the endpoint carry a token.
    pub(super) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// One request, for a `range` of bytes where it is given.
    pub(super) fn send(
        &self,
        method: &Method,
        url: &str,
        range: Option<&str>,
        follow: Follow,
    ) -> Result<Answer, Failure> {
        let parse = |url: &str| {
            let parsed: Result<Uri, _> = url.parse();
            parsed.map_err(|e| Failure::last(HubError::protocol(url, e.to_string())))
        };
        let mut uri = parse(url)?;
        for _ in 0..MAX_REDIRECTS {
            let answer = self.send_once(method, &uri, range)?;
            let linked = answer.header("x-linked-etag").is_some();
            if !answer.response.status().is_redirection()
                || (follow == Follow::UntilLinked && linked)
            {
                return Ok(answer);
            }
            let location = answer.header("location").unwrap_or_default();
            let next = join(&uri, location);
            let next = next.map_err(|reason| {
                let reason = format!("redirects to {location:?}, {reason}");
                Failure::last(HubError::protocol(&answer.url, reason))
            })?;
            uri = parse(&next)?;
        }
        let reason = format!("more than {MAX_REDIRECTS} redirects");
        Err(Failure::last(HubError::protocol(url, reason)))
    }

    fn send_once(
        &self,
        method: &Method,
        uri: &Uri,
        range: Option<&str>,
    ) -> Result<Answer, Failure> {
        let url = uri.to_string();
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(range) = range {
            request = request.header("range", range);
        }
        if let (Some(token), true) = (&self.token, same_origin(uri, &self.endpoint)) {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(());
        let request =
            request.map_err(|e| Failure::last(HubError::protocol(&url, e.to_string())))?;
        let https = uri.scheme_str() == Some("https");
        let agent = if https { &self.https } else { &self.http };
        let response = agent
            .run(request)
            .map_err(|e| self.broken(&url, https, &e))?;
        let answer = Answer { url, response };
        let status = answer.response.status();
        if status.is_success() || status.is_redirection() {
            return Ok(answer);
        }
        Err(refused(answer))
    }

    /// A request without an answer.
    fn broken(&self, url: &str, https: bool, error: &ureq::Error) -> Failure {
        let url = without_query(url);
        let proxy = if https {
            &self.proxies.https
        } else {
            &self.proxies.http
        };
        let proxy = proxy.as_deref().map(without_password);
        let unreachable = |reason: String| HubError::Unreachable {
            url: url.clone(),
            reason: match &proxy {
                Some(proxy) => format!("{reason} (through the proxy {proxy})"),
                None => reason,
            },
        };
        match error {
            ureq::Error::Timeout(_) => {
                let seconds = self.timeout.as_secs_f64();
                Failure::passing(unreachable(format!("no answer within {seconds} s")))
            }
            ureq::Error::ConnectProxyFailed(reason) => Failure::last(HubError::Proxy {
                proxy: proxy.unwrap_or_default(),
                url,
                reason: reason.clone(),
            }),
            ureq::Error::HostNotFound => {
                let reason = "the host's name is not known here (no network?)";
                Failure::new(unreachable(reason.to_owned()), Retry::Unconnected)
            }
            _ => match tls_reason(error) {
                Some(reason) => Failure::last(HubError::Tls {
                    url,
                    advice: tls_advice(&reason),
                    reason,
                }),
                None if is_unconnected(error) => {
                    Failure::new(unreachable(error.to_string()), Retry::Unconnected)
                }
                None => Failure::passing(unreachable(error.to_string())),
            },
        }
    }
}

/// An answer that is an error.
fn refused(answer: Answer) -> Failure {
    let status = answer.status();
    let message = answer.header("x-error-message").map(|m| format!(": {m}"));
    let wait = answer.header("retry-after").and_then(retry_after);
    Failure {
        retry: match status {
            408 | 429 | 500..=599 => Retry::Later(wait),
            _ => Retry::No,
        },
        code: answer.header("x-error-code").map(str::to_owned),
        error: Box::new(HubError::Status {
            url: without_query(&answer.url),
            status,
            message: message.unwrap_or_default(),
        }),
    }
}

/// `Retry-After`: seconds, or a date.
fn retry_after(value: &str) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

/// Where a redirect leads; why it is not followed.
fn join(base: &Uri, location: &str) -> Result<String, &'static str> {
    let scheme = base.scheme_str().unwrap_or("https");
    let authority = base.authority().map_or("", |a| a.as_str());
    if location.is_empty() {
        return Err("which is nowhere");
    }
    let next = if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.contains(':') {
        location.to_owned()
    } else {
        let folder = base
            .path()
            .rsplit_once('/')
            .map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    match next.split_once("://") {
        Some((to, _)) if to.eq_ignore_ascii_case("https") => Ok(next),
        Some((to, _)) if to.eq_ignore_ascii_case("http") && scheme == "http" => Ok(next),
        Some((to, _)) if to.eq_ignore_ascii_case("http") => {
            Err("which is less safe than where it came from: not followed")
        }
        _ => Err("which is neither https nor http: not followed"),
    }
}

fn same_origin(a: &Uri, b: &Uri) -> bool {
    let port = |uri: &Uri| {
        let default = if uri.scheme_str() == Some("https") {
            443
        } else {
            80
        };
        uri.port_u16().unwrap_or(default)
    };
    a.scheme_str() == b.scheme_str() && a.host() == b.host() && port(a) == port(b)
}

/// Signed addresses carry a key in their query.
fn without_query(url: &str) -> String {
    url.split('?').next().unwrap_or(url).to_owned()
}

fn without_password(proxy: &str) -> String {
    match (proxy.split_once("://"), proxy.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        (None, Some((_, host))) => host.to_owned(),
        _ => proxy.to_owned(),
    }
}

fn parse_proxy(url: &str, except: &str) -> Result<Proxy, HubError> {
    let fail = |_| {
        let reason = format!("{:?} is not the address of a proxy", without_password(url));
        HubError::setting("HTTPS_PROXY, HTTP_PROXY or ALL_PROXY", reason)
    };
    let parsed = Proxy::new(url).map_err(fail)?;
    let mut proxy = Proxy::builder(parsed.protocol())
        .host(parsed.host())
        .port(parsed.port())
        .resolve_target(parsed.resolve_target());
    if let Some(name) = parsed.username() {
        proxy = proxy.username(name);
    }
    if let Some(password) = parsed.password() {
        proxy = proxy.password(password);
    }
    for host in except.split(',').map(str::trim).filter(|h| !h.is_empty()) {
        proxy = proxy.no_proxy(host);
        // Everyone but ureq takes a domain to mean what is below it, too.
        if !host.starts_with(['.', '*']) {
            proxy = proxy.no_proxy(&format!(".{host}"));
        } else if let Some(host) = host.strip_prefix('.') {
            proxy = proxy.no_proxy(host);
        }
    }
    proxy.build().map_err(fail)
}

fn read_certificates(file: &Path) -> Result<RootCerts, HubError> {
    let pem = std::fs::read(file).map_err(|e| HubError::io(file, &e))?;
    let certificates: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        let reason = format!("{} holds no certificate in PEM form", file.display());
        return Err(HubError::setting("SSL_CERT_FILE", reason));
    }
    Ok(RootCerts::new_with_certs(&certificates))
}

/// What the TLS library said, if it was that.
fn tls_reason(error: &ureq::Error) -> Option<String> {
    match error {
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) | ureq::Error::Pem(_) => {
            Some(error.to_string())
        }
        ureq::Error::Io(io) if io.kind() == std::io::ErrorKind::InvalidData => {
            let inner = io.get_ref().map(ToString::to_string);
            Some(inner.unwrap_or_else(|| io.to_string()))
        }
        _ => None,
    }
}

/// What to do about what the TLS library said, in rustls's words.
fn tls_advice(reason: &str) -> &'static str {
    if reason.contains("not valid yet") || reason.contains("expired") {
        "; is this machine's clock right?"
    } else if reason.contains("UnknownIssuer") || reason.contains("unknown issuer") {
        "; if a proxy signs in the server's place, name its certificate in SSL_CERT_FILE"
    } else if reason.contains("corrupt message") {
        "; what answers there speaks no TLS: a proxy, or a login page of the network?"
    } else {
        ""
    }
}

/// Whether a body's reader waited for too long.
pub(super) fn is_timeout(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|e| e.downcast_ref());
    error.kind() == std::io::ErrorKind::TimedOut || matches!(inner, Some(ureq::Error::Timeout(_)))
}

fn is_unconnected(error: &ureq::Error) -> bool {
    use std::io::ErrorKind::{
        AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkUnreachable,
    };
    let kinds = [
        AddrNotAvailable,
        ConnectionRefused,
        HostUnreachable,
        NetworkUnreachable,
    ];
    match error {
        ureq::Error::Io(io) => kinds.contains(&io.kind()),
        ureq::Error::ConnectionFailed => true,
        _ => error.source().is_some_and(|e| e.is::<std::io::Error>()),
    }
}
