//! The QEMU Machine Protocol: one client for QEMU and for qemu-storage-daemon, over their unix socket.
//!
//! Owns the connection (greeting, commands, answers, events), who the process at the other end is, what it
//! can do ([`Schema`]), and the typed commands that a backup needs. Knows nothing about virtual machines,
//! chains or intents: it says what QEMU said. The guest agent, which speaks the same lines, is in [`guest`].
//!
//! Two rules shape the interface. Every command has a time limit. And every error tells, by
//! [`QmpError::fate`], whether the command may have run: a command whose client vanished runs anyway about
//! half the time, so "I did not get an answer" must never be read as "it did not happen".

mod block;
mod connection;
mod error;
mod event;
pub mod guest;
mod line;
mod process;
mod query;
mod schema;

pub use block::{
    Action, Backup, BackupSync, BitmapAdd, BitmapMerge, BitmapName, BitmapSource, NbdExport, RemoveMode,
    Snapshot,
};
pub use error::{Fate, QmpError};
pub use event::{Event, Events};
pub use process::{Peer, Process, alive};
pub use query::{Bitmap, BlockDevice, BlockExport, BlockJob, BlockNode, Image, ImageFormat, Job, Status};
pub use schema::Schema;

use connection::Connection;
use line::{LineReader, Message};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::OnceCell;

/// How long and how much a connection waits for and takes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From connecting to the end of the handshake.
    pub greeting: Duration,
    /// From a command to its answer, where the call names no limit of its own.
    pub command: Duration,
    /// The longest line in bytes that is taken from the other side.
    pub line: usize,
    /// How many events a subscriber may be behind before the oldest are lost to it (and it is told so).
    pub events: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            greeting: Duration::from_secs(5),
            command: Duration::from_secs(30),
            line: 64 << 20,
            events: 1024,
        }
    }
}

/// The version that QEMU gives of itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 10 in 10.0.2.
    pub major: u32,
    /// 0 in 10.0.2.
    pub minor: u32,
    /// 2 in 10.0.2.
    pub micro: u32,
    /// The distribution's name for its build, often empty.
    pub package: String,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// A connection to one QMP socket. QEMU serves one client at a time; commands run in the order they are given.
///
/// All methods take `&self`. Dropping an unanswered call's future withdraws a command that was not yet
/// written, and otherwise leaves it to run: its answer is then thrown away.
#[derive(Debug)]
pub struct Qmp {
    connection: Connection,
    version: Version,
    peer: Peer,
    limits: Limits,
    schema: OnceCell<Schema>,
}

impl Qmp {
    /// Connects, reads the greeting and leaves the negotiation mode, all within `limits.greeting`.
    ///
    /// # Errors
    /// [`QmpError::NotThere`], [`QmpError::Refused`], and [`QmpError::NoGreeting`] where the socket accepts
    /// but says nothing, which is what a second client sees.
    pub async fn connect(path: impl AsRef<Path>, limits: Limits) -> Result<Self, QmpError> {
        let path = path.as_ref();
        let handshake = Self::handshake(path, limits);
        match tokio::time::timeout(limits.greeting, handshake).await {
            Ok(connected) => connected,
            Err(_) => Err(QmpError::NoGreeting { path: path.into(), after: limits.greeting }),
        }
    }

    async fn handshake(path: &Path, limits: Limits) -> Result<Self, QmpError> {
        let stream = dial(path).await?;
        let credentials = stream.peer_cred();
        let (reader, writer) = stream.into_split();
        let mut lines = LineReader::new(reader, limits.line);
        let greeting =
            match lines.next().await.map_err(|end| end.error(path, "the greeting", Fate::NotSent))? {
                Message::Greeting(greeting) => greeting,
                other => {
                    let what = format!("a greeting was expected, {} came", other.kind());
                    return Err(QmpError::Protocol { path: path.into(), what });
                }
            };
        let version = serde_json::from_value::<Greeting>(greeting)
            .map_err(|error| QmpError::Protocol {
                path: path.into(),
                what: format!("the greeting: {error}"),
            })?
            .version
            .into();
        // The start time is read before the last word of the handshake: whoever answers that still holds the
        // socket, so its pid cannot have passed to another process in between.
        let peer = Peer::from_credentials(path, credentials)?;
        let connection = Connection::start(path, lines, writer, limits.events);
        connection.ask("qmp_capabilities", Value::Null, limits.greeting).await?;
        Ok(Self { connection, version, peer, limits, schema: OnceCell::new() })
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        self.connection.path()
    }

    /// What QEMU is.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// The process at the other end: the one that listens on the socket.
    pub fn process(&self) -> Process {
        self.peer.process
    }

    /// The process at the other end, and whose it is.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// Runs one command within `limits.command`. `arguments` is an object, or null for none.
    ///
    /// # Errors
    /// See [`QmpError`]; [`QmpError::fate`] says whether the command may have run.
    pub async fn execute(&self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        self.execute_within(command, arguments, self.limits.command).await
    }

    /// Runs one command within a limit of its own.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn execute_within(
        &self,
        command: &str,
        arguments: Value,
        limit: Duration,
    ) -> Result<Value, QmpError> {
        seam();
        let answer = self.connection.ask(command, arguments, limit).await;
        seam();
        answer
    }

    /// Runs a command and reads its answer as a `T`.
    ///
    /// # Errors
    /// As [`Qmp::execute`], and [`QmpError::Protocol`] if the answer is not a `T`.
    pub async fn ask<T: DeserializeOwned>(&self, command: &str, arguments: Value) -> Result<T, QmpError> {
        let answer = self.execute(command, arguments).await?;
        T::deserialize(answer).map_err(|error| QmpError::Protocol {
            path: self.path().into(),
            what: format!("the answer to `{command}` is not what QEMU documents: {error}"),
        })
    }

    /// Subscribes to events. Whatever arrives after this call is seen, so: subscribe first, then run the
    /// command that causes the event, then [`Events::wait`].
    pub fn events(&self) -> Events {
        self.connection.events()
    }

    /// What this QEMU can do; asked once for each connection.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn schema(&self) -> Result<&Schema, QmpError> {
        self.schema
            .get_or_try_init(|| async { Ok(Schema::new(self.ask("query-qmp-schema", Value::Null).await?)) })
            .await
    }

    /// Closes the connection and returns when the socket is closed at this end, so that the next client is
    /// served. Dropping does the same without waiting.
    pub async fn close(self) {
        self.connection.close().await;
    }
}

/// The place where a test kills the process: before each command is sent, and after its answer was read. Commands
/// to the guest agent count with the others. In production it does nothing.
pub(crate) fn seam() {
    journal::fault::point("qmp");
}

/// How often a full queue of a listening socket is tried again; no system call waits for it to empty.
const QUEUE_RETRY: Duration = Duration::from_millis(10);

/// Opens the socket, and says what it means when that fails. The queue of a socket that another client holds
/// fills with those who wait and those who gave up, and empties when it is let go: so a full one is tried
/// again for as long as the caller's limit lasts.
async fn dial(path: &Path) -> Result<UnixStream, QmpError> {
    use std::io::ErrorKind::{ConnectionRefused, NotFound, WouldBlock};
    loop {
        let source = match UnixStream::connect(path).await {
            Ok(stream) => return Ok(stream),
            Err(source) => source,
        };
        let path = PathBuf::from(path);
        match source.kind() {
            WouldBlock => tokio::time::sleep(QUEUE_RETRY).await,
            NotFound => return Err(QmpError::NotThere { path }),
            ConnectionRefused => return Err(QmpError::Refused { path }),
            _ => return Err(QmpError::Unreachable { path, source }),
        }
    }
}

#[derive(Deserialize)]
struct Greeting {
    version: GreetingVersion,
}

#[derive(Deserialize)]
struct GreetingVersion {
    qemu: VersionTriple,
    #[serde(default)]
    package: String,
}

#[derive(Deserialize)]
struct VersionTriple {
    major: u32,
    minor: u32,
    micro: u32,
}

impl From<GreetingVersion> for Version {
    fn from(greeting: GreetingVersion) -> Self {
        let GreetingVersion { qemu: VersionTriple { major, minor, micro }, package } = greeting;
        Self { major, minor, micro, package }
    }
}
