//! The API's client: one request, one answer, one time limit.
//!
//! Owns how the server is reached and what each way of not reaching it means. Knows the API's error document and no
//! other of its words.

use std::error::Error as _;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use orchestrator::api::view::{ErrorCode, ErrorView};
use reqwest::{Method, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::address::Server;
use crate::exit::Failure;

/// For what the server knows by itself, and for a long poll, which it holds for 10 s at most.
const PROMPT: Duration = Duration::from_secs(30);
/// For what it has to ask a QEMU for, each of whose answers has a time limit of its own.
const PATIENT: Duration = Duration::from_secs(120);
const CONNECT: Duration = Duration::from_secs(5);
/// The longest path of a unix socket: `sun_path` less its final zero (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is nobody, or nobody answers.
    #[error("{0}")]
    Unreachable(String),
    /// The server said no.
    #[error("{}", .0.message)]
    Refused(ErrorView),
    /// The answer is none of the API's: another program, or another version.
    #[error("the server at {server} answered {what}; is it of another version than this program, {}?", env!("CARGO_PKG_VERSION"))]
    Foreign {
        /// The server.
        server: String,
        /// What it answered.
        what: String,
    },
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        match error {
            ClientError::Unreachable(message) => Failure::unreachable(message),
            ClientError::Refused(view) => view.into(),
            ClientError::Foreign { .. } => Failure::failed(error.to_string()),
        }
    }
}

/// A client of one server. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    server: Server,
    limit: Duration,
    /// Keeps `/proc/self/fd/N` alive, where the socket is reached through it.
    _folder: Option<Arc<OwnedFd>>,
}

impl Client {
    /// A client; connects with the first request.
    ///
    /// # Errors
    /// When the folder of a socket with a long path cannot be opened.
    pub fn new(server: &Server) -> Result<Client, ClientError> {
        let unreachable = |what: String| ClientError::Unreachable(format!("{server}: {what}"));
        let mut builder = orchestrator::http::plain().no_proxy().connect_timeout(CONNECT);
        let mut folder = None;
        let base = match server {
            Server::Unix(path) => {
                let (short, kept) =
                    socket_address(path).map_err(|error| unreachable_socket(server, error.kind(), ""))?;
                folder = kept.map(Arc::new);
                builder = builder.unix_socket(short);
                "http://backstay/".to_owned()
            }
            Server::Loopback(authority) => format!("http://{authority}/"),
        };
        let base = Url::parse(&base).map_err(|error| unreachable(error.to_string()))?;
        let http = builder.build().map_err(|error| unreachable(chain(&error)))?;
        Ok(Client { http, base, server: server.clone(), limit: PROMPT, _folder: folder })
    }

    /// The same server, with the time for what it has to look at a QEMU for.
    #[must_use]
    pub fn patient(&self) -> Client {
        Client { limit: PATIENT, ..self.clone() }
    }

    /// `GET /v1/PATH?QUERY`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<T, ClientError> {
        self.send(Method::GET, path, query, None::<&()>).await
    }

    /// `POST /v1/PATH?QUERY` with nothing to say.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<T, ClientError> {
        self.send(Method::POST, path, query, None::<&()>).await
    }

    /// `POST /v1/PATH` with a document.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn submit<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &[&str],
        body: &B,
    ) -> Result<T, ClientError> {
        self.send(Method::POST, path, &[], Some(body)).await
    }

    /// `DELETE /v1/PATH?QUERY`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn delete<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<T, ClientError> {
        self.send(Method::DELETE, path, query, None::<&()>).await
    }

    async fn send<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&B>,
    ) -> Result<T, ClientError> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.clear().push("v1").extend(path);
        }
        let mut request = self.http.request(method.clone(), url).query(query).timeout(self.limit);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|error| self.unreachable(&method, &error))?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(|error| self.unreachable(&method, &error))?;
        if status.is_success() {
            // An answer without a body is `null` to whoever expects nothing.
            let bytes: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
            return serde_json::from_slice(bytes).map_err(|error| ClientError::Foreign {
                server: self.server.to_string(),
                what: format!("something else than expected ({error})"),
            });
        }
        Err(self.refusal(status, &bytes))
    }

    fn refusal(&self, status: StatusCode, body: &[u8]) -> ClientError {
        if let Ok(view) = serde_json::from_slice::<ErrorView>(body) {
            return ClientError::Refused(view);
        }
        let text = String::from_utf8_lossy(body);
        let text: String = text.trim().chars().take(500).collect();
        match status {
            // A request that its parser refuses: the message is the parser's own.
            StatusCode::BAD_REQUEST => {
                ClientError::Refused(ErrorView { code: ErrorCode::Usage, message: text })
            }
            _ => ClientError::Foreign { server: self.server.to_string(), what: format!("{status} {text}") },
        }
    }

    fn unreachable(&self, method: &Method, error: &reqwest::Error) -> ClientError {
        let server = &self.server;
        // Once connected, a change may have been made although its answer was lost.
        let unknown = if *method == Method::GET || error.is_connect() {
            ""
        } else {
            ". Whether the request was carried out is not known: look before you repeat it"
        };
        if error.is_timeout() {
            let seconds = if error.is_connect() { CONNECT } else { self.limit }.as_secs();
            return ClientError::Unreachable(format!(
                "the server at {server} gave no answer within {seconds} s; see its log{unknown}"
            ));
        }
        let mut source = error.source();
        while let Some(inner) = source {
            if let Some(io) = inner.downcast_ref::<std::io::Error>() {
                return unreachable_socket(server, io.kind(), unknown);
            }
            source = inner.source();
        }
        ClientError::Unreachable(format!("the connection to {server} broke: {}{unknown}", chain(error)))
    }
}

fn unreachable_socket(server: &Server, kind: ErrorKind, unknown: &str) -> ClientError {
    let elsewhere = "or say where it is with --server or BACKSTAY_SERVER";
    ClientError::Unreachable(match kind {
        ErrorKind::NotFound => {
            format!(
                "no server at {server}: there is no such socket. Start one with `backstay up`, {elsewhere}"
            )
        }
        ErrorKind::ConnectionRefused => {
            format!(
                "no server at {server}: nobody listens there any more. Start it with `backstay up`, {elsewhere}"
            )
        }
        ErrorKind::PermissionDenied => format!(
            "the server's socket {server} is not yours to open: run this as the user whom `backstay up` runs as"
        ),
        kind => format!("the connection to {server} broke ({kind}); see the server's log{unknown}"),
    })
}

/// A path to a socket that fits into an address: its own, or one through its folder's descriptor, which is to be kept
/// as long as the path is used.
///
/// # Errors
/// When the folder cannot be opened.
pub fn socket_address(path: &Path) -> Result<(PathBuf, Option<OwnedFd>), std::io::Error> {
    use rustix::fs::{Mode, OFlags, open};
    if path.as_os_str().as_bytes().len() <= SOCKET_PATH_MAX {
        return Ok((path.to_owned(), None));
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok((path.to_owned(), None));
    };
    let folder = open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    Ok((short, Some(folder)))
}

/// An error with its causes: reqwest keeps them apart.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests;
