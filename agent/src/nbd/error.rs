//! What can go wrong between us and an NBD server.

use super::extent::Extent;
use std::fmt;
use std::time::Duration;

/// The error number in a server's reply; NBD fixes the numbers (proto.md, "Error values").
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub u32);

impl Errno {
    /// Not permitted, such as a write to a read-only export.
    pub const EPERM: Self = Self(1);
    /// The disk below failed.
    pub const EIO: Self = Self(5);
    /// Misaligned, out of range, or outside what the view covers.
    pub const EINVAL: Self = Self(22);
    /// No space left.
    pub const ENOSPC: Self = Self(28);
    /// The server shuts down.
    pub const ESHUTDOWN: Self = Self(108);

    /// Its name, where NBD names it.
    pub fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            1 => "EPERM",
            5 => "EIO",
            12 => "ENOMEM",
            22 => "EINVAL",
            28 => "ENOSPC",
            75 => "EOVERFLOW",
            95 => "ENOTSUP",
            108 => "ESHUTDOWN",
            _ => return None,
        })
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "error {}", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A failure between us and an NBD server. `server` names the socket or address.
#[derive(Debug, thiserror::Error)]
pub enum NbdError {
    /// No such socket.
    #[error("{server}: there is no such socket; the export was taken down, or its process ended")]
    NotThere {
        /// The server.
        server: String,
    },
    /// Nobody listens.
    #[error("{server}: nobody listens; the process that served it has ended")]
    Refused {
        /// The server.
        server: String,
    },
    /// Any other failure to connect.
    #[error("{server}: cannot connect ({source}); check the socket's owner and mode")]
    Unreachable {
        /// The server.
        server: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The server does not offer this export.
    #[error("{server}: there is no export `{export}` ({said}); it was taken down")]
    ExportNotFound {
        /// The server.
        server: String,
        /// The name that was asked for.
        export: String,
        /// The server's words.
        said: String,
    },
    /// The export lacks a map that is needed.
    #[error("{server}: export `{export}` offers no context `{context}`; export it with that bitmap")]
    ContextNotAgreed {
        /// The server.
        server: String,
        /// The export.
        export: String,
        /// The context that was asked for.
        context: String,
    },
    /// The server will not negotiate what we need.
    #[error(
        "{server}: it refused {option} ({reason}: {said}); a server as of QEMU 7.2 on a local socket is needed"
    )]
    Rejected {
        /// The server.
        server: String,
        /// What was asked for.
        option: &'static str,
        /// NBD's name for the refusal.
        reason: String,
        /// The server's words.
        said: String,
    },
    /// The server answered a request with an error.
    #[error("{server}: {command} of {extent} failed with {errno} ({said})")]
    Server {
        /// The server.
        server: String,
        /// The request.
        command: &'static str,
        /// Its range.
        extent: Extent,
        /// The server's number.
        errno: Errno,
        /// The server's words, often none.
        said: String,
    },
    /// The connection ended.
    #[error("{server}: the connection closed during {during} ({why}); connect again")]
    Closed {
        /// The server.
        server: String,
        /// What was going on.
        during: String,
        /// How it ended.
        why: String,
    },
    /// No answer in time. A write may have happened, or may still.
    #[error("{server}: no answer to {during} within {after:?}; its storage may hang: connect again")]
    Timeout {
        /// The server.
        server: String,
        /// What was going on.
        during: String,
        /// The limit.
        after: Duration,
    },
    /// The server broke the protocol; the connection is over.
    #[error("{server}: this is not NBD as documented: {what}; the connection was dropped")]
    Protocol {
        /// The server.
        server: String,
        /// What was wrong.
        what: String,
    },
    /// A request that must not be sent.
    #[error("{server}: {command} of {extent} cannot be asked for: {why}")]
    Misfit {
        /// The server.
        server: String,
        /// The request.
        command: &'static str,
        /// Its range.
        extent: Extent,
        /// The rule that it breaks.
        why: String,
    },
    /// A map with more runs than the limit.
    #[error("{server}: the map has more than {limit} runs; walk it in parts")]
    TooFragmented {
        /// The server.
        server: String,
        /// The limit.
        limit: usize,
    },
}

impl NbdError {
    /// Whether a new connection to the same export may succeed where this one failed.
    pub fn wants_new_connection(&self) -> bool {
        matches!(self, Self::Closed { .. } | Self::Timeout { .. } | Self::Protocol { .. })
    }
}

/// Why a connection is over; each one that waits is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// End of file, or a failed read or write.
    Closed(String),
    /// The server broke the protocol.
    Protocol(String),
}

impl End {
    pub(super) fn error(self, server: &str, during: &str) -> NbdError {
        let server = server.to_owned();
        match self {
            Self::Closed(why) => NbdError::Closed { server, during: during.into(), why },
            Self::Protocol(what) => NbdError::Protocol { server, what },
        }
    }
}

impl From<std::io::Error> for End {
    fn from(error: std::io::Error) -> Self {
        Self::Closed(error.to_string())
    }
}
