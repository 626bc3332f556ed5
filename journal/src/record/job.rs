//! What becomes of a job after it has started, in records: it is tried again, rests, ends, or is asked to. Knows nothing of
//! what jobs do.
//!
//! These types are part of the journal's format: see [`super`] for how they may change.

use serde::{Deserialize, Serialize};

use crate::ids::{JobId, Time};
use crate::outcome::FailureClass;

/// See [`Record::CancelAsked`](super::Record::CancelAsked).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelAsked {
    /// Which.
    pub job: JobId,
    /// Why, where it was not an operator's wish.
    pub why: Option<String>,
}

/// See [`Record::JobEnded`](super::Record::JobEnded).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobEnded {
    /// Which.
    pub job: JobId,
    /// How.
    pub end: End,
    /// Why, where there is something to say.
    pub reason: Option<String>,
    /// What kind of failure ended it.
    pub class: Option<FailureClass>,
}

/// See [`Record::JobRetried`](super::Record::JobRetried).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRetried {
    /// Which.
    pub job: JobId,
    /// Why the try failed.
    pub reason: String,
    /// What kind of failure that was.
    pub class: FailureClass,
    /// The next try does not start before this.
    pub not_before: Time,
}

/// See [`Record::PauseAsked`](super::Record::PauseAsked).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseAsked {
    /// Which.
    pub job: JobId,
    /// Whether it is to rest from now on.
    pub paused: bool,
}

/// See [`Record::JobPaused`](super::Record::JobPaused). Nothing of it is under way; what it has made so far stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobPaused {
    /// Which.
    pub job: JobId,
}

/// How a job ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// It did what it was to do.
    Done,
    /// It did not.
    Failed,
    /// It was cancelled, and has cleaned up.
    Cancelled,
}
