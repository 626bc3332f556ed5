//! What can go wrong on a QMP or guest agent socket, and whether the command may have run.

use std::path::PathBuf;
use std::time::Duration;

/// What became of a command that did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Not one byte of it left: it did not run and may be repeated.
    NotSent,
    /// It was answered with an error: it did not take effect. A repeat gets the same answer until something changes.
    Refused,
    /// It was sent, or partly, and no answer came: it may have run, or may still. Look before repeating.
    Unknown,
}

/// A failure on a QMP or guest agent socket.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// No such file.
    #[error("{path}: there is no such socket; start the VM, or correct the path")]
    NotThere {
        /// The socket.
        path: PathBuf,
    },
    /// The file is there and nobody listens: the process that made it is gone.
    #[error("{path}: nobody listens on this socket, so its process is gone; start the VM again")]
    Refused {
        /// The socket.
        path: PathBuf,
    },
    /// Any other failure to open it, most often permissions.
    #[error("{path}: the socket cannot be opened ({source}); check its owner and mode")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The connection was taken but nothing was said.
    #[error(
        "{path}: no greeting within {after:?}; another client probably holds the socket (QEMU serves one at a \
         time), or QEMU is stopped: disconnect the other client, or give this one a socket of its own"
    )]
    NoGreeting {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        after: Duration,
    },
    /// The guest agent's socket was opened but nobody in the guest answers.
    #[error(
        "{path}: no guest agent answers within {after:?}; install and start qemu-guest-agent in the guest, and see \
         that no other client holds the socket"
    )]
    NoAgent {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        after: Duration,
    },
    /// The process that listens could not be named.
    #[error(
        "{path}: the process that listens cannot be identified ({why}); the agent must share its PID namespace"
    )]
    NotIdentified {
        /// The socket.
        path: PathBuf,
        /// What was missing.
        why: String,
    },
    /// No answer in time.
    #[error("{path}: no answer to `{command}` within {after:?}; {}", advice(.fate))]
    Timeout {
        /// The socket.
        path: PathBuf,
        /// The command, or what was awaited.
        command: String,
        /// The limit.
        after: Duration,
        /// Whether it was sent.
        fate: Fate,
    },
    /// The connection ended.
    #[error("{path}: the connection closed during `{during}` ({why}); {}", advice(.fate))]
    Closed {
        /// The socket.
        path: PathBuf,
        /// The command, or what was awaited.
        during: String,
        /// How it ended.
        why: String,
        /// Whether the command was sent.
        fate: Fate,
    },
    /// The other side answered with an error.
    #[error("{path}: `{command}` was refused: {desc} ({class})")]
    Refusal {
        /// The socket.
        path: PathBuf,
        /// The command.
        command: String,
        /// QEMU's class of the error, nearly always `GenericError`.
        class: String,
        /// QEMU's words.
        desc: String,
    },
    /// The other side does not know the command: too old, or qemu-storage-daemon.
    #[error(
        "{path}: `{command}` does not exist here; this QEMU is too old for it, or is qemu-storage-daemon"
    )]
    CommandNotFound {
        /// The socket.
        path: PathBuf,
        /// The command.
        command: String,
    },
    /// The other side said something that is not QMP.
    #[error("{path}: this is not QMP as documented: {what}; check that the path is a QMP socket")]
    Protocol {
        /// The socket.
        path: PathBuf,
        /// What was wrong.
        what: String,
    },
    /// A line longer than [`super::Limits::line`].
    #[error("{path}: a line of more than {limit} bytes came during `{during}`; the connection was dropped")]
    TooLong {
        /// The socket.
        path: PathBuf,
        /// The command, or what was awaited.
        during: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// A subscriber did not keep up with the events.
    #[error("{path}: {count} events were lost while waiting for {awaited}; query the state instead")]
    EventsLost {
        /// The socket.
        path: PathBuf,
        /// What was awaited.
        awaited: String,
        /// How many.
        count: u64,
    },
}

impl QmpError {
    /// Whether the command may have run.
    pub fn fate(&self) -> Fate {
        match self {
            Self::NotThere { .. }
            | Self::Refused { .. }
            | Self::Unreachable { .. }
            | Self::NoGreeting { .. }
            | Self::NoAgent { .. }
            | Self::NotIdentified { .. } => Fate::NotSent,
            Self::Timeout { fate, .. } | Self::Closed { fate, .. } => *fate,
            Self::Refusal { .. } | Self::CommandNotFound { .. } => Fate::Refused,
            Self::Protocol { .. } | Self::TooLong { .. } | Self::EventsLost { .. } => Fate::Unknown,
        }
    }

    /// Whether the process behind the socket is no longer there to be asked.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::NotThere { .. } | Self::Refused { .. } | Self::Closed { .. })
    }
}

fn advice(fate: &Fate) -> &'static str {
    match fate {
        Fate::NotSent => "it was not sent: repeat it",
        Fate::Refused => "it did not run",
        Fate::Unknown => "it may have run: look at the state before repeating it",
    }
}
