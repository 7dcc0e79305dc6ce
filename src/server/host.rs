//! The `Host` header. A page of a foreign site can make a browser call a
//! server on this machine by letting its own name point here (DNS rebinding);
//! the name then stands in `Host`.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::AppState;
use super::error::ApiError;

/// Names of this machine, as seen from itself.
const LOOPBACK: &[&str] = &["localhost", "127.0.0.1", "[::1]"];

/// The hosts that are answered, whatever their port.
#[derive(Debug, Clone, Default)]
pub enum AllowedHosts {
    /// Every host.
    #[default]
    Any,
    /// These, in lower case.
    Only(Vec<String>),
}

impl AllowedHosts {
    /// For a server bound to `address`: on a loopback address only this
    /// machine's names and `named`; elsewhere `named`, or any where there are
    /// none.
    pub fn for_address(address: IpAddr, named: &[String]) -> Self {
        let named = named.iter().map(|host| host.to_ascii_lowercase());
        let mut hosts: Vec<String> = named.collect();
        if address.is_loopback() {
            hosts.extend(LOOPBACK.iter().map(|&host| host.to_owned()));
            // Any of 127.0.0.0/8.
            hosts.push(match address {
                IpAddr::V4(v4) => v4.to_string(),
                IpAddr::V6(v6) => format!("[{v6}]"),
            });
        }
        if hosts.is_empty() {
            Self::Any
        } else {
            Self::Only(hosts)
        }
    }

    fn allow(&self, authority: &str) -> bool {
        let Self::Only(hosts) = self else {
            return true;
        };
        host_of(authority).is_some_and(|host| hosts.contains(&host.to_ascii_lowercase()))
    }
}

/// The host of `host` or `host:port`; anything else, such as `user@host`, has
/// no place in a request.
fn host_of(authority: &str) -> Option<&str> {
    let host = authority.parse::<Authority>().ok()?.host().len();
    let (host, port) = authority.split_at_checked(host)?;
    let is_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
    (port.is_empty() || port.strip_prefix(':').is_some_and(is_port)).then_some(host)
}

/// Refuses requests to foreign hosts.
pub async fn check_host(State(state): State<AppState>, request: Request, next: Next) -> Response {
    match refusal(&state.config().hosts, &request) {
        Some(error) => error.into_response(),
        None => next.run(request).await,
    }
}

fn refusal(allowed: &AllowedHosts, request: &Request) -> Option<ApiError> {
    let bad = |message| Some(ApiError::status(StatusCode::BAD_REQUEST, message));
    let mut headers = request.headers().get_all(header::HOST).iter();
    let host = match (headers.next(), headers.next()) {
        (Some(_), Some(_)) => return bad("more than one `Host` header"),
        // RFC 9112, section 3.2. An older client is no browser.
        (None, _) if request.version() == Version::HTTP_11 => return bad("no `Host` header"),
        (host, _) => host,
    };
    let host = match host.map(|host| host.to_str()) {
        Some(Err(_)) => return bad("the `Host` header is not a host"),
        Some(Ok(host)) => Some(host),
        None => None,
    };
    let in_target = request.uri().authority().map(Authority::as_str);
    let all_allowed = host.into_iter().chain(in_target).all(|h| allowed.allow(h));
    (!all_allowed).then(|| {
        let message = "this server doesn't answer to that `Host`; start it with --allowed-host";
        ApiError::status(StatusCode::FORBIDDEN, message).with_code("host_not_allowed")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loopback_server_answers_to_this_machines_names_only() {
        let named = ["Proxy.example".to_owned()];
        let hosts = AllowedHosts::for_address("127.0.0.5".parse().unwrap(), &named);
        for fine in [
            "localhost",
            "LOCALHOST:3000",
            "127.0.0.1:1",
            "127.0.0.5",
            "[::1]:3000",
            "proxy.example:443",
        ] {
            assert!(hosts.allow(fine), "{fine}");
        }
        for foreign in [
            "evil.example",
            "localhost.evil.example",
            "localhost@evil.example",
            "evil@localhost",
            "localhost:80:80",
            "localhost:x",
            "127.0.0.1.evil.example",
            "",
            "127.1",
            "localhost ",
        ] {
            assert!(!hosts.allow(foreign), "{foreign}");
        }
    }

    #[test]
    fn an_open_server_answers_to_all_unless_told() {
        let open = AllowedHosts::for_address("0.0.0.0".parse().unwrap(), &[]);
        assert!(open.allow("anything.example"));
        let named = ["a.example".to_owned()];
        let named = AllowedHosts::for_address("0.0.0.0".parse().unwrap(), &named);
        assert!(named.allow("a.example") && !named.allow("localhost"));
    }
}
