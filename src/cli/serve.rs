//! `gpt2 serve`: the HTTP server.

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::common::GenerationArgs;
use super::scheduling::SchedulingArgs;
use crate::server::{AppState, serve};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address to listen on; 0.0.0.0 for all
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Port to listen on; 0 lets the system choose
    #[arg(long, default_value_t = 3000)]
    port: u16,
    #[command(flatten)]
    generation: GenerationArgs,
    #[command(flatten)]
    scheduling: SchedulingArgs,
}

/// Runs the command until SIGINT or SIGTERM.
pub fn run(args: Args) -> Result<()> {
    if args.generation.model.is_default() {
        tracing::warn!("serving the demo model, which tells small stories; --model names another");
    }
    let files = args.generation.model.files()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async move {
        let address = (args.host.as_str(), args.port);
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {}:{}", args.host, args.port))?;
        tracing::info!("listening on http://{}", listener.local_addr()?);
        let state = AppState::loading(&*files.name);
        let loading = state.clone();
        // It listens at once and answers 503 until the model is there.
        let builder = args.scheduling.apply(args.generation.builder(files));
        let load = tokio::task::spawn_blocking(move || match builder.build() {
            Ok(engine) => {
                tracing::info!("{} is loaded", engine.model_name());
                loading.set_engine(engine);
                Ok(())
            }
            Err(error) => {
                loading.set_failed();
                Err(anyhow::Error::from(error))
            }
        });
        let stop = stop_signal()?;
        let (failed, failure) = tokio::sync::oneshot::channel();
        let watch = tokio::spawn(async move {
            let result = load.await;
            if matches!(result, Ok(Ok(()))) {
                // Kept open: only a failure is to end the server.
                std::future::pending::<()>().await;
            }
            let _ = failed.send(());
            result
        });
        let shutdown = async move {
            tokio::select! {
                () = stop => tracing::info!("stopping"),
                _ = failure => {}
            }
        };
        serve(listener, state, shutdown).await?;
        if watch.is_finished() {
            watch.await???;
        }
        Ok(())
    })
}

/// Ready at the first SIGINT or SIGTERM.
fn stop_signal() -> Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
