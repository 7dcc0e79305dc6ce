//! `gpt2 serve`: the HTTP server.

mod options;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, oneshot};

use super::common::GenerationArgs;
use super::scheduling::SchedulingArgs;
use crate::engine::EngineBuilder;
use crate::model::ModelFiles;
use crate::server::{AppState, serve};
pub use options::LogFormat;
use options::ServerArgs;

/// After the last answer: for what is left of loading a model.
const EXIT_GRACE: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    generation: GenerationArgs,
    // After it: what these have headings for would be listed under those.
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    scheduling: SchedulingArgs,
}

impl Args {
    /// The form of the log.
    pub fn log_format(&self) -> LogFormat {
        self.server.log_format
    }
}

/// Runs the command until SIGINT or SIGTERM.
pub fn run(args: Args) -> Result<()> {
    if args.generation.model.name().is_none() {
        tracing::warn!("serving the demo model, which tells small stories; --model names another");
    }
    let mut files = args.generation.model.files()?;
    if let Some(name) = &args.server.served_model_name {
        files.name.clone_from(name);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(io_threads())
        .enable_all()
        .build()?;
    let result = runtime.block_on(listen(args, files));
    // A model that is still being loaded is no reason to stay.
    runtime.shutdown_timeout(EXIT_GRACE);
    result
}

/// Threads that read and write. The threads that compute use every processor,
/// so these take turns with them, and what one hands to another waits for a
/// turn twice: few are faster.
fn io_threads() -> usize {
    let processors = std::thread::available_parallelism();
    (processors.map_or(1, usize::from) / 4).max(1)
}

async fn listen(args: Args, files: ModelFiles) -> Result<()> {
    let ServerArgs { host, port, .. } = &args.server;
    let listener = TcpListener::bind((host.as_str(), *port))
        .await
        .with_context(|| format!("cannot listen on {host}:{port}"))?;
    let address = listener.local_addr()?;
    let asked = args.generation.model.name();
    let config = args.server.config(address.ip(), &files, asked)?;
    let scheme = if config.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let state = AppState::with_config(&*files.name, config);
    let mut signals = Signals::new()?;
    tracing::info!("listening on {scheme}://{address}");

    let (failed, failure) = oneshot::channel();
    let mut load_error = None;
    let builder = args.scheduling.apply(args.generation.builder(files));
    tokio::task::spawn_blocking({
        let state = state.clone();
        move || load(builder, &state, failed)
    });
    let stop = Notify::new();
    let serving = serve(listener, state, async {
        tokio::select! {
            () = stop.notified() => tracing::info!("stopping; a second signal ends at once"),
            Ok(error) = failure => load_error = Some(error),
        }
    });
    let twice = async {
        signals.next().await;
        stop.notify_one();
        signals.next().await;
    };
    tokio::select! {
        served = serving => served?,
        () = twice => bail!("stopped at once, by a second signal"),
    }
    load_error.map_or(Ok(()), Err)
}

/// Loads the model while the server answers 503; a failure ends the server.
fn load(builder: EngineBuilder, state: &AppState, failed: oneshot::Sender<anyhow::Error>) {
    match builder.build() {
        Ok(engine) => {
            let name = engine.model_name().to_owned();
            state.set_engine(engine);
            tracing::info!("{name} is loaded");
        }
        Err(error) => {
            state.set_failed();
            // Nobody listens any more where the server was stopped meanwhile.
            let _ = failed.send(error.into());
        }
    }
}

/// SIGINT and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
