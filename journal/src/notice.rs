//! Notices: what an operator is told without having asked. One is an obligation from its record on until another record says
//! that it was delivered, or why it was given up. Of receivers it knows the names.

use serde::{Deserialize, Serialize};

use crate::ids::{NoticeId, ReceiverName, RepositoryName, VmId};

/// What a notice is about: of each, the operator is told once that it is amiss, and once that it is well again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Subject {
    /// A VM's backups into a repository.
    Backup {
        /// The VM.
        vm: VmId,
        /// The repository.
        repository: RepositoryName,
    },
    /// Whether a VM has a good restore point that is not too old.
    GoodPoint {
        /// The VM.
        vm: VmId,
    },
    /// Nothing: an operator tries whether notices arrive.
    Test,
    /// The hook that runs after a VM's backups into a repository.
    Hook {
        /// The VM.
        vm: VmId,
        /// The repository.
        repository: RepositoryName,
    },
}

impl Subject {
    /// The VM that it is about.
    #[must_use]
    pub fn vm(&self) -> Option<VmId> {
        match self {
            Subject::Backup { vm, .. } | Subject::GoodPoint { vm } | Subject::Hook { vm, .. } => Some(*vm),
            Subject::Test => None,
        }
    }

    /// Its name in a notice.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Subject::Backup { .. } => "backup",
            Subject::GoodPoint { .. } => "good-point",
            Subject::Test => "test",
            Subject::Hook { .. } => "hook",
        }
    }
}

/// What a notice says of its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoticeKind {
    /// It is amiss.
    Alarm,
    /// It is well again.
    Recovery,
    /// It is a test.
    Test,
}

impl NoticeKind {
    /// Its name in a notice.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            NoticeKind::Alarm => "alarm",
            NoticeKind::Recovery => "recovery",
            NoticeKind::Test => "test",
        }
    }
}

/// See [`Record::NoticeRaised`](crate::Record::NoticeRaised).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoticeRaised {
    /// Its number; by it a receiver drops what it was told twice.
    pub notice: NoticeId,
    /// What it says.
    pub kind: NoticeKind,
    /// About what.
    pub subject: Subject,
    /// The VM's name then.
    pub vm: Option<String>,
    /// In a sentence, for people.
    pub text: String,
}

/// What became of a notice with one receiver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It was taken; what the receiver said to it.
    Taken(String),
    /// It was given up; why.
    GivenUp(String),
}

/// See [`Record::NoticeAnswered`](crate::Record::NoticeAnswered).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoticeAnswered {
    /// Which.
    pub notice: NoticeId,
    /// Whose answer; what others do not have is still owed to them.
    pub receiver: ReceiverName,
    /// What it is.
    pub answer: Answer,
}

/// See [`Record::NoticeSettled`](crate::Record::NoticeSettled).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoticeSettled {
    /// Which.
    pub notice: NoticeId,
    /// With whom it was given up, and why; none when every receiver took it.
    pub given_up: Option<String>,
}
