//! The accept loop: connections in bounded number and time, from the first
//! byte to the orderly end.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower::ServiceExt;

use super::config::ConnectionLimits;
use super::guarded::{Guard, guarded};
use super::lifecycle::Phase;
use super::timed_io::{Activity, Answering, TimedIo};
use super::{AppState, router};

/// After an answer was cut short: for its last bytes to be sent.
const ABORT_GRACE: Duration = Duration::from_secs(2);
/// How long a client may go on sending what nobody reads any more, and how
/// much. Closing at once would reset the connection, and the client would
/// lose the answer.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 8 << 20;
/// Out of file descriptors: wait for some connection to end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

const TOO_MANY: &str = "HTTP/1.1 503 Service Unavailable\r\n\
    content-type: application/json\r\nretry-after: 1\r\nconnection: close\r\n\
    content-length: 109\r\n\r\n\
    {\"error\":{\"message\":\"too many connections\",\"type\":\"server_error\",\"param\":null,\
    \"code\":\"too_many_connections\"}}";

/// Serves until `shutdown` is ready. Then new work is refused at once, with an
/// answer; what runs has until the drain timeout to end, and is cut short with
/// an error that says so.
///
/// # Errors
/// What the operating system says of the listener.
pub async fn serve(
    listener: TcpListener,
    state: AppState,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let most = state.config().connections.connections;
    let door = Door {
        listener,
        slots: Arc::new(Semaphore::new(most)),
        routes: router(state.clone()),
        state,
    };
    let mut connections = JoinSet::new();
    tokio::select! {
        () = shutdown => {}
        never = door.let_in(&mut connections) => match never {},
    }
    door.drain(connections).await;
    Ok(())
}

/// Where connections come in.
struct Door {
    listener: TcpListener,
    slots: Arc<Semaphore>,
    routes: Router,
    state: AppState,
}

impl Door {
    /// Accepts connections for ever.
    async fn let_in(&self, connections: &mut JoinSet<()>) -> Infallible {
        loop {
            let accepted = tokio::select! {
                Some(_) = connections.join_next() => continue,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => match Arc::clone(&self.slots).try_acquire_owned() {
                    Ok(slot) => {
                        let connection = Connection {
                            routes: self.routes.clone(),
                            open: Open::new(self.state.clone(), slot),
                        };
                        connections.spawn(connection.run(stream));
                    }
                    Err(_) => refuse(&stream, &self.state),
                },
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Waits for running answers, first for their own end, then for the cut.
    /// Whoever comes meanwhile hears that the server stops, and is not waited
    /// for.
    async fn drain(self, mut connections: JoinSet<()>) {
        let lifecycle = self.state.lifecycle();
        lifecycle.advance(Phase::Draining);
        let mut late = JoinSet::new();
        let most = self.state.config().connections.drain_timeout;
        let ended = tokio::select! {
            ended = timeout(most, all_ended(&mut connections)) => ended,
            never = self.let_in(&mut late) => match never {},
        };
        drop(self.listener);
        if ended.is_err() {
            tracing::warn!("{} connections are cut short", connections.len());
        }
        lifecycle.advance(Phase::Aborting);
        // Whoever takes nothing of the last bytes either is dropped.
        let last = async {
            all_ended(&mut connections).await;
            all_ended(&mut late).await;
        };
        let _ = timeout(ABORT_GRACE, last).await;
    }
}

async fn all_ended(connections: &mut JoinSet<()>) {
    while connections.join_next().await.is_some() {}
}

/// Tells one connection too many so, as far as that takes no time.
fn refuse(stream: &TcpStream, state: &AppState) {
    state.metrics().connection_refused();
    if state.config().tls.is_none() {
        let _ = stream.try_write(TOO_MANY.as_bytes());
    }
}

/// Errors of `accept` that say nothing about the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}

/// An accepted connection.
struct Connection {
    routes: Router,
    open: Open,
}

/// The place of a connection, returned on Drop.
struct Open {
    state: AppState,
    _slot: OwnedSemaphorePermit,
}

impl Open {
    fn new(state: AppState, slot: OwnedSemaphorePermit) -> Self {
        state.metrics().connected();
        Self { state, _slot: slot }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.state.metrics().disconnected();
    }
}

impl Connection {
    async fn run(self, stream: TcpStream) {
        // Tokens are small and are to arrive one by one.
        let _ = stream.set_nodelay(true);
        let limits = self.open.state.config().connections;
        match self.open.state.config().tls.clone() {
            None => self.answer(stream, &limits).await,
            Some(tls) => match timeout(limits.header_timeout, tls.0.accept(stream)).await {
                Ok(Ok(stream)) => self.answer(stream, &limits).await,
                Ok(Err(error)) => tracing::debug!("TLS: {error}"),
                Err(_) => tracing::debug!("TLS: the handshake takes too long"),
            },
        }
    }

    /// Answers the requests of one connection, one after another.
    async fn answer<I>(self, io: I, limits: &ConnectionLimits)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let activity = Arc::new(Activity::default());
        let io = TimedIo::new(
            io,
            Arc::clone(&activity),
            limits.header_timeout,
            limits.write_timeout,
        );
        let routes = self.routes;
        let service = service_fn(move |request| answer_one(&routes, &activity, request));
        let lifecycle = self.open.state.lifecycle();
        // A connection that comes late still gets an answer: from one that has
        // not begun, hyper's graceful shutdown takes that.
        let late = lifecycle.phase() >= Phase::Draining;
        let (last_phase, idle) = match late {
            true => (Phase::Aborting, limits.header_timeout),
            false => (Phase::Draining, limits.idle_timeout),
        };
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .keep_alive(!late)
            // hyper's clock runs while a connection is idle; the time of a
            // head is TimedIo's.
            .header_read_timeout(idle)
            .max_buf_size(limits.header_bytes)
            .serve_connection(TokioIo::new(io), service);
        let mut last = std::pin::pin!(lifecycle.reached(last_phase));
        let mut told = false;
        let result = std::future::poll_fn(|cx| {
            if !told && last.as_mut().poll(cx).is_ready() {
                told = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            connection.poll_without_shutdown(cx)
        })
        .await;
        match result {
            Ok(()) => linger(connection.into_parts().io.into_inner()).await,
            Err(error) => tracing::debug!("a connection ended: {error}"),
        }
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

fn answer_one(routes: &Router, activity: &Arc<Activity>, request: Request<Incoming>) -> Answer {
    let answering = activity.answer();
    let answer = routes.clone().oneshot(request);
    Box::pin(async move { answer.await.map(|response| guarded(response, answering)) })
}

impl Guard for Answering {}

/// Ends a connection so that the last answer reaches a client that is still
/// sending.
async fn linger(mut io: impl AsyncRead + AsyncWrite + Unpin) {
    let rest = async {
        io.shutdown().await?;
        tokio::io::copy(&mut io.take(LINGER_BYTES), &mut tokio::io::sink()).await
    };
    let _ = timeout(LINGER, rest).await;
}

#[cfg(test)]
mod tests {
    use super::TOO_MANY;

    #[test]
    fn the_refusal_is_a_whole_answer() {
        let (head, body) = TOO_MANY.split_once("\r\n\r\n").unwrap();
        assert!(
            head.ends_with(&format!("content-length: {}", body.len())),
            "{}",
            body.len()
        );
        serde_json::from_str::<serde_json::Value>(body).unwrap();
    }
}
