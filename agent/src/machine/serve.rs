//! QEMU's one NBD server, on our socket. Started when a view begins, stopped when nothing is exported any more.
//!
//! No command tells whether or where a server listens. But a socket tells who listens on it: if that is the QEMU that
//! we talk to, the server is ours.

use std::io;
use std::path::Path;
use std::time::Duration;

use journal::outcome::FailureClass;
use tokio::net::UnixStream;

use super::Stop;
use super::scratch::{self, Access};
use crate::nbd::{Limits, greet};
use crate::qmp::{Qmp, QmpError};

/// How long a listening socket may take to take us.
const LIMIT: Duration = Duration::from_secs(5);

/// How long it may take to greet us, and to see us off.
const GREETING_LIMIT: Duration = Duration::from_secs(1);

/// The longest path of a unix socket, in bytes: `sun_path` less its closing zero (unix(7)).
const PATH_MAX: usize = 107;

/// Makes sure that QEMU serves NBD on `socket`.
pub(super) async fn start(qmp: &Qmp, socket: &Path) -> Result<(), Stop> {
    if is_ours(qmp, socket).await {
        return Ok(());
    }
    if socket.as_os_str().len() > PATH_MAX {
        let what = format!("{} is longer than a socket's path can be ({PATH_MAX} bytes)", socket.display());
        return Err(Stop::failed(
            FailureClass::Invalid,
            format!("{what}; give the agent a shorter data folder"),
        ));
    }
    if let Some(folder) = socket.parent() {
        scratch::make_folder(folder, qmp.peer(), Access::MakesFiles).await?;
    }
    match qmp.nbd_server_start(socket).await {
        Ok(()) => Ok(()),
        Err(QmpError::Refusal { desc, .. }) if desc.contains("already running") => {
            let exports = nbd_exports(qmp).await?;
            let what = format!(
                "{}: this QEMU already runs an NBD server that is not on our socket {}, and it can run one only \
                 (its exports: {}); end the other tool's backup, or stop its server (nbd-server-stop)",
                qmp.path().display(),
                socket.display(),
                if exports.is_empty() { "none".to_owned() } else { exports.join(", ") },
            );
            Err(Stop::failed(FailureClass::Refused, what))
        }
        Err(error) => Err(error.into()),
    }
}

/// Stops our server if nothing at all is exported any more, and removes its socket.
pub(super) async fn stop_if_idle(qmp: &Qmp, socket: &Path) -> Result<(), Stop> {
    if nbd_exports(qmp).await?.is_empty() && is_ours(qmp, socket).await {
        match qmp.nbd_server_stop().await {
            Ok(()) | Err(QmpError::Refusal { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    remove_if_dead(socket).await;
    Ok(())
}

/// Whether the socket is there and nobody listens on it.
pub(crate) async fn is_dead(socket: &Path) -> bool {
    listener(socket).await.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Removes the socket if nobody listens on it, and its folder once it is empty. One that stays is no failure: QEMU
/// replaces it.
pub(super) async fn remove_if_dead(socket: &Path) {
    let Some(folder) = socket.parent() else { return };
    let name = socket.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    let dead = if is_dead(socket).await { name } else { None };
    if let Err(failure) = scratch::remove(folder, dead.into_iter().collect()).await {
        tracing::warn!(socket = %socket.display(), %failure, "a dead NBD socket could not be removed");
    }
}

/// Whatever is exported over NBD, by anybody. Exports of other kinds need no server.
async fn nbd_exports(qmp: &Qmp) -> Result<Vec<String>, QmpError> {
    let exports = qmp.query_exports().await?.into_iter();
    Ok(exports.filter(|export| export.kind == "nbd").map(|export| export.id).collect())
}

async fn is_ours(qmp: &Qmp, socket: &Path) -> bool {
    listener(socket).await.is_ok_and(|pid| pid == Some(qmp.process().pid))
}

/// The process that listens on a socket.
async fn listener(socket: &Path) -> io::Result<Option<u32>> {
    let mut stream = tokio::time::timeout(LIMIT, UnixStream::connect(socket)).await??;
    let process = stream.peer_cred()?.pid().and_then(|pid| u32::try_from(pid).ok());
    // Only so that QEMU neither counts us as a client when it stops the server, nor has a line in its log for each look. Who
    // listens is known.
    let limits = Limits { handshake: GREETING_LIMIT, ..Limits::default() };
    let _ = greet(&mut stream, &socket.display().to_string(), limits).await;
    Ok(process)
}
