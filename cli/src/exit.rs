//! How the program ends: the six exit statuses of the contract, and failures that carry one.
//!
//! Owns which failure ends with which status. Knows nothing of what was tried.

use std::process::ExitCode;

use orchestrator::api::view::{ErrorCode, ErrorView};

/// The exit statuses. Scripts rely on the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// 0: it is done.
    Done,
    /// 1: it was tried and failed, or what was looked at is not as it should be.
    Failed,
    /// 2: the command line, or a file that it names, makes no sense.
    Usage,
    /// 3: what was named is not there.
    NotFound,
    /// 4: refused, because something would be lost.
    Refused,
    /// 5: the server cannot be reached.
    Unreachable,
}

impl Status {
    /// The number.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Status::Done => 0,
            Status::Failed => 1,
            Status::Usage => 2,
            Status::NotFound => 3,
            Status::Refused => 4,
            Status::Unreachable => 5,
        }
    }

    /// The word for it in JSON, the API's words and `unreachable`, which the API has no use for.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Status::Done => "done",
            Status::Failed => "failed",
            Status::Usage => "usage",
            Status::NotFound => "not-found",
            Status::Refused => "refused",
            Status::Unreachable => "unreachable",
        }
    }

    /// `Done` when something is as it should be, otherwise `Failed`.
    #[must_use]
    pub fn of(ok: bool) -> Status {
        if ok { Status::Done } else { Status::Failed }
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> ExitCode {
        ExitCode::from(status.code())
    }
}

impl From<ErrorCode> for Status {
    fn from(code: ErrorCode) -> Status {
        match code {
            ErrorCode::Failed => Status::Failed,
            ErrorCode::Usage => Status::Usage,
            ErrorCode::NotFound => Status::NotFound,
            ErrorCode::Refused => Status::Refused,
        }
    }
}

/// Why a command has no answer to show.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// What happened, where, and what to do.
    #[error("{message}")]
    Because {
        /// How the program ends.
        status: Status,
        /// For people, and for JSON.
        message: String,
    },
    /// Whoever read standard output has gone (`| head`): nothing to say, and nobody to say it to.
    #[error("nobody reads the output any more")]
    NobodyReads,
}

impl Failure {
    /// It was tried and failed.
    pub fn failed(message: impl Into<String>) -> Failure {
        Failure::Because { status: Status::Failed, message: message.into() }
    }

    /// It makes no sense.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::Because { status: Status::Usage, message: message.into() }
    }

    /// It is not there.
    pub fn not_found(message: impl Into<String>) -> Failure {
        Failure::Because { status: Status::NotFound, message: message.into() }
    }

    /// The server cannot be reached.
    pub fn unreachable(message: impl Into<String>) -> Failure {
        Failure::Because { status: Status::Unreachable, message: message.into() }
    }

    /// How the program ends.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Failure::Because { status, .. } => *status,
            // As a filter that is no longer needed: that is no failure of ours.
            Failure::NobodyReads => Status::Done,
        }
    }

    /// The same, with its place before it: a file's name, a disk.
    #[must_use]
    pub fn within(self, place: &str) -> Failure {
        match self {
            Failure::Because { status, message } => {
                Failure::Because { status, message: format!("{place}: {message}") }
            }
            Failure::NobodyReads => Failure::NobodyReads,
        }
    }
}

impl From<ErrorView> for Failure {
    fn from(error: ErrorView) -> Failure {
        Failure::Because { status: error.code.into(), message: error.message }
    }
}

/// What every command returns. `Ok(Failed)` is an answer that was shown and says no: a check that found something.
pub type Ending = Result<Status, Failure>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_contract() {
        let all = [
            Status::Done,
            Status::Failed,
            Status::Usage,
            Status::NotFound,
            Status::Refused,
            Status::Unreachable,
        ];
        assert_eq!(all.map(Status::code), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn the_server_s_refusals_keep_their_meaning() {
        for (code, status) in [
            (ErrorCode::Failed, Status::Failed),
            (ErrorCode::Usage, Status::Usage),
            (ErrorCode::NotFound, Status::NotFound),
            (ErrorCode::Refused, Status::Refused),
        ] {
            let failure = Failure::from(ErrorView { code, message: "x".to_owned() });
            assert_eq!(failure.status(), status);
            // The same word as the API writes, so that a script reads one language.
            assert_eq!(serde_json::to_value(code).ok(), Some(status.word().into()));
        }
    }

    #[test]
    fn a_place_goes_before_the_message_and_leaves_the_status() {
        let failure = Failure::usage("line 3: no").within("a.toml");
        assert_eq!((failure.to_string().as_str(), failure.status()), ("a.toml: line 3: no", Status::Usage));
        assert_eq!(Failure::NobodyReads.within("x").status(), Status::Done);
    }
}
