//! A storage daemon of our own: QEMU's, for one image, over a socket that nobody else reaches.
//!
//! The listening socket is made here and handed over as the daemon's standard input, so a connection can be made at
//! once and is served as soon as the daemon is up: there is nothing to wait for and nothing to poll. Stopped by its
//! process id; it ends with us in any case.

use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, ChildStderr, Command};

use super::RestoreError;
use crate::nbd::{ALLOCATION, Limits, Nbd};

/// How long one request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// How long the daemon may take to open the image: longer than a handshake, since it opens it before it listens.
const OPEN_LIMIT: Duration = Duration::from_secs(30);
/// How long it may take to write out what it holds, and to end.
const END_LIMIT: Duration = Duration::from_secs(120);
/// How long `qemu-img` may take to make an image.
const CREATE_LIMIT: Duration = Duration::from_secs(60);
/// How much of what a tool says is kept.
const WORDS: u64 = 4096;

/// Whether the image may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    ReadOnly,
    ReadWrite,
}

/// A running daemon.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
    words: ChildStderr,
    socket: PathBuf,
}

impl Daemon {
    /// Starts a daemon for a qcow2 image and connects to it. `folder` is for its socket alone.
    pub(super) async fn serve(
        image: &Path,
        access: Access,
        folder: &Path,
    ) -> Result<(Self, Nbd), RestoreError> {
        let socket = folder.join("nbd");
        let listener = listen(folder, &socket).map_err(|source| RestoreError::socket(&socket, source))?;
        let mut child = command(image, access)
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .spawn()
            .map_err(|error| RestoreError::tool("qemu-storage-daemon", &error))?;
        let words = child.stderr.take().expect("it was asked for");
        let mut daemon = Self { child, words, socket };
        let limits = Limits { handshake: OPEN_LIMIT, request: REQUEST_LIMIT, ..Limits::default() };
        match Nbd::connect(&daemon.socket, "image", &[ALLOCATION], limits).await {
            Ok(connection) => Ok((daemon, connection)),
            Err(error) => {
                let said = daemon.last_words().await;
                let why = if said.is_empty() { error.to_string() } else { said };
                Err(RestoreError::Daemon { image: image.to_owned(), why })
            }
        }
    }

    /// Ends the daemon, which writes out what it holds: the image is complete only after this.
    pub(super) async fn stop(mut self, image: &Path) -> Result<(), RestoreError> {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(id) = id {
            // It may have ended by itself; its exit tells.
            let _ = kill_process(id, Signal::TERM);
        }
        let ended = tokio::time::timeout(END_LIMIT, self.child.wait()).await;
        let why = match ended {
            Ok(Ok(status)) if ExitStatus::success(&status) => return Ok(()),
            Ok(Ok(status)) => format!("{status}: {}", self.last_words().await),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("it did not end within {} s", END_LIMIT.as_secs()),
        };
        Err(RestoreError::Daemon { image: image.to_owned(), why })
    }

    /// What it said before it ended. It is ended if it has not.
    async fn last_words(&mut self) -> String {
        let mut said = String::new();
        let limit = Duration::from_secs(2);
        let mut words = (&mut self.words).take(WORDS);
        // A daemon that still lives says nothing and does not close; then there are no words.
        let _ = tokio::time::timeout(limit, words.read_to_string(&mut said)).await;
        let _ = self.child.start_kill();
        said.trim().to_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The folder goes with it; a leftover is taken over by the next.
        let _ = std::fs::remove_file(&self.socket);
        if let Some(folder) = self.socket.parent() {
            let _ = std::fs::remove_dir(folder);
        }
    }
}

fn listen(folder: &Path, socket: &Path) -> std::io::Result<UnixListener> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(socket)
}

fn command(image: &Path, access: Access) -> Command {
    let image = image.to_string_lossy();
    let read_only = access == Access::ReadOnly;
    let blockdev = serde_json::json!({
        "driver": "qcow2", "node-name": "image", "read-only": read_only, "discard": "unmap",
        "file": { "driver": "file", "filename": image, "read-only": read_only, "discard": "unmap" },
    });
    let export = serde_json::json!({
        "type": "nbd", "id": "image", "node-name": "image", "name": "image", "writable": !read_only,
    });
    let mut command = Command::new("qemu-storage-daemon");
    command
        .arg("--blockdev")
        .arg(blockdev.to_string())
        .args(["--nbd-server", "addr.type=fd,addr.str=0"])
        .arg("--export")
        .arg(export.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Makes an empty qcow2 image.
pub(super) async fn create_qcow2(image: &Path, size: u64) -> Result<(), RestoreError> {
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2"]).arg(image).arg(size.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let why = match tokio::time::timeout(CREATE_LIMIT, command.output()).await {
        Ok(Ok(output)) if output.status.success() => return Ok(()),
        Ok(Ok(output)) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Ok(Err(error)) => return Err(RestoreError::tool("qemu-img", &error)),
        Err(_) => format!("it did not end within {} s", CREATE_LIMIT.as_secs()),
    };
    Err(RestoreError::Daemon { image: image.to_owned(), why })
}
