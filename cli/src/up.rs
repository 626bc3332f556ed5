//! `backstay up`: orchestrator and agent in one process, until a signal.
//!
//! Owns the process: its log, its runtime, its signals and its configuration. Decides and performs nothing.

mod config;
mod folders;

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::Args;
use orchestrator::Settings;
use serde_json::json;
use tokio::net::UnixStream;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use self::config::Config;
use crate::address::Server;
use crate::client::socket_address;
use crate::exit::{Ending, Failure, Status};
use crate::output::Output;

/// The environment variable with the log's filter, such as `info` or `orchestrator=debug`.
const LOG_VARIABLE: &str = "BACKSTAY_LOG";
/// The environment variable with glibc's threshold, and the threshold.
const TRIM_VARIABLE: &str = "MALLOC_TRIM_THRESHOLD_";
const TRIM_BYTES: &str = "131072";
/// Control needs little; hashing and compressing have threads of their own.
const WORKER_THREADS: usize = 2;
/// How long what still runs in threads may take after the end. Whatever it is, the journal knows of it.
const LINGER: Duration = Duration::from_secs(10);
/// Between two looks at whether the API listens yet: a socket tells nobody when it does.
const LOOK: Duration = Duration::from_millis(20);

/// How to run.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Serve the API on this address of this machine as well, such as 127.0.0.1:7070; without TLS or a password
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// A configuration file, TOML; flags count more
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs it.
///
/// # Errors
/// When it cannot start, or has to end: another process runs on this data folder, the journal is damaged, the disk
/// refuses.
pub fn run(arguments: &Arguments, data: &Path, output: Output) -> Ending {
    let config = match &arguments.config {
        Some(path) => Config::read(path)?,
        None => Config::default(),
    };
    let receivers = config.receivers()?;
    let host = config.host()?;
    let listen = arguments.listen.or(config.listen);
    if let Some(address) = listen.filter(|address| !address.ip().is_loopback()) {
        return Err(Failure::usage(format!(
            "{address}: the API has no TLS and no password yet, so it is served on loopback addresses only; take \
             127.0.0.1:{port} and reach it through ssh",
            port = address.port()
        )));
    }
    start_log()?;
    give_memory_back();
    let folders = folders::prepare(data, config.scratch, config.hooks)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("the runtime cannot start: {error}")))?;
    let mut limits = config.limits.or_usual();
    limits.good_point_within = config.notify.good_point_within();
    let settings = Settings { data: data.to_owned(), host, listen, limits, receivers };
    let ended = runtime.block_on(serve(settings, folders, output));
    runtime.shutdown_timeout(LINGER);
    ended.map(|()| Status::Done)
}

/// A server is idle most of its life, and glibc keeps what a backup's threads freed, unless this variable tells it to
/// give back what lies on top of each heap (mallopt(3), `M_TRIM_THRESHOLD`). It is read when a process starts: so this one
/// becomes itself once more, with the variable set.
fn give_memory_back() {
    if std::env::var_os(TRIM_VARIABLE).is_some() {
        return;
    }
    let again = std::env::current_exe().map(|program| {
        let mut command = Command::new(program);
        command.args(std::env::args_os().skip(1)).env(TRIM_VARIABLE, TRIM_BYTES).exec()
    });
    let error = again.unwrap_or_else(|error| error);
    tracing::warn!(%error, "memory is kept after backups: the program could not be started again from its file");
}

fn start_log() -> Result<(), Failure> {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .with_env_var(LOG_VARIABLE)
        .from_env()
        .map_err(|error| Failure::usage(format!("{LOG_VARIABLE}: {error}")))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init()
        .map_err(|error| Failure::failed(format!("the log cannot start: {error}")))
}

async fn serve(settings: Settings, folders: agent::Folders, output: Output) -> Result<(), Failure> {
    // From here on a signal is an orderly end, even one that comes while the journal is still being read.
    let shutdown = Shutdown::new()?;
    // `restic unlock` sends SIGHUP to the pid in each lock file to see whether it lives; heard, it does not end us.
    let _hangups = hear(SignalKind::hangup())?;
    let server = Server::in_folder(&settings.data);
    let started = agent::Agent::start(folders);
    let (to_agent, from_agent) = started.map_err(|error| Failure::failed(error.to_string()))?;
    let socket = orchestrator::api_socket(&settings.data);
    let run = orchestrator::run(settings, to_agent, from_agent, shutdown.asked());
    let mut run = std::pin::pin!(run);
    let ended = tokio::select! {
        ended = &mut run => ended,
        () = listening(&socket) => {
            let ready = output.show(&json!({ "ready": server.to_string() }), || format!("ready on {server}\n"));
            if let Err(error) = ready {
                // To serve is the task; to be read while saying so is not.
                tracing::warn!(%error, "nobody was told that the server is ready");
            }
            run.await
        }
    };
    ended.map_err(|error| Failure::failed(error.to_string()))
}

/// Returns when this very process listens on the API's socket. Another one may still be there, until our start fails
/// because of it.
async fn listening(socket: &Path) {
    let ours = i32::try_from(std::process::id()).ok();
    let mut look = tokio::time::interval(LOOK);
    loop {
        look.tick().await;
        let Ok((address, _folder)) = socket_address(socket) else { continue };
        let connected = UnixStream::connect(address).await.and_then(|stream| stream.peer_cred());
        if connected.is_ok_and(|peer| peer.pid() == ours) {
            return;
        }
    }
}

/// Hears a signal, which from then on no longer ends the process by itself.
fn hear(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::failed(format!("signals cannot be heard: {error}")))
}

/// SIGTERM and SIGINT.
struct Shutdown {
    terminate: Signal,
    interrupt: Signal,
}

impl Shutdown {
    fn new() -> Result<Shutdown, Failure> {
        Ok(Shutdown { terminate: hear(SignalKind::terminate())?, interrupt: hear(SignalKind::interrupt())? })
    }

    /// Returns at the first signal. The second ends the process there and then, which loses nothing that the journal
    /// does not know of.
    async fn asked(mut self) {
        self.next().await;
        tracing::info!("asked to stop; a second signal stops at once");
        tokio::spawn(async move {
            self.next().await;
            std::process::exit(i32::from(Status::Failed.code()));
        });
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
