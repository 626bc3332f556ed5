//! What becomes of policies and of their schedules, in records. Knows nothing of what a policy says.
//!
//! These types are part of the journal's format: see [`super`] for how they may change.

use serde::{Deserialize, Serialize};

use crate::ids::{PolicyName, Time, VmId};

/// See [`Record::PolicyApplied`](super::Record::PolicyApplied).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyApplied {
    /// Its name.
    pub name: PolicyName,
    /// The policy, in the canonical form of its file.
    pub text: String,
}

/// See [`Record::PolicyRemoved`](super::Record::PolicyRemoved).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRemoved {
    /// Its name.
    pub name: PolicyName,
}

/// See [`Record::PolicyPaused`](super::Record::PolicyPaused).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyPaused {
    /// Its name.
    pub name: PolicyName,
    /// Whether it is paused from now on.
    pub paused: bool,
}

/// See [`Record::ScheduleAdvanced`](super::Record::ScheduleAdvanced).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleAdvanced {
    /// The policy.
    pub policy: PolicyName,
    /// The schedule's key in it.
    pub schedule: String,
    /// Every run of it up to here has become a job or a `RunSkipped`.
    pub through: Time,
}

/// See [`Record::RunSkipped`](super::Record::RunSkipped).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSkipped {
    /// The policy.
    pub policy: PolicyName,
    /// The schedule's key in it.
    pub schedule: String,
    /// The VM, where the reason concerns one.
    pub vm: Option<VmId>,
    /// When it would have been.
    pub at: Time,
    /// Why it was not.
    pub reason: String,
}
