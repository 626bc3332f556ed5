//! The API's sockets: a unix socket in the data folder, and a loopback address where one is asked for.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use axum::Router;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;

use super::StartError;
use crate::Settings;

/// Linux's limit on the path of a unix socket, in bytes (`sun_path`, less its final zero).
const SOCKET_PATH_MAX: usize = 107;

/// The servers that run.
pub(super) struct Servers {
    tasks: Vec<JoinHandle<std::io::Result<()>>>,
    socket: std::path::PathBuf,
}

impl Servers {
    /// Stops accepting, and takes the socket away.
    pub(super) async fn stop(self) {
        for task in self.tasks {
            task.abort();
            let _aborted = task.await;
        }
        if let Err(error) = std::fs::remove_file(&self.socket) {
            tracing::warn!(socket = %self.socket.display(), %error, "the API's socket could not be removed");
        }
    }
}

/// Starts serving. The journal's lock is held already, so that a socket that is there is a dead one's.
pub(super) async fn start(settings: &Settings, router: Router) -> Result<Servers, StartError> {
    let socket = crate::api_socket(&settings.data);
    let failed = |place: &dyn std::fmt::Display| {
        let place = place.to_string();
        move |source| StartError::Serve { place, source }
    };
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(failed(&socket.display())(error));
        }
        _ => {}
    }
    let listener = bind(&socket).map_err(failed(&socket.display()))?;
    // Whoever may connect may restore every disk: the owner alone, until there are users and roles.
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600))
        .map_err(failed(&socket.display()))?;
    let mut tasks = vec![tokio::spawn(axum::serve(listener, router.clone()).into_future())];
    if let Some(address) = settings.listen {
        let listener = TcpListener::bind(address).await.map_err(failed(&address))?;
        tasks.push(tokio::spawn(axum::serve(listener, router).into_future()));
    }
    Ok(Servers { tasks, socket })
}

/// Binds a socket whose path may be longer than `sun_path` takes, by way of its folder's descriptor.
fn bind(socket: &Path) -> std::io::Result<UnixListener> {
    if socket.as_os_str().len() <= SOCKET_PATH_MAX {
        return UnixListener::bind(socket);
    }
    let (Some(folder), Some(name)) = (socket.parent(), socket.file_name()) else {
        return UnixListener::bind(socket);
    };
    let folder = std::fs::File::open(folder)?;
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&folder);
    UnixListener::bind(Path::new("/proc/self/fd").join(descriptor.to_string()).join(name))
}
