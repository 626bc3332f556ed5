//! Hooks: programs of a host's own that run before a try of a backup and after it. Here is what one is told; which program a
//! name stands for, only the host says.
//!
//! These types are part of the journal's format: see [`record`](crate::record) for how they may change.

use serde::{Deserialize, Serialize};

use super::VmAddress;
use crate::ids::{HookName, JobId, PolicyName, RepositoryName};
use crate::record::Mode;

/// The hooks of a job, as its policy had them when it was queued: what is owed does not change with the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// Runs before a try begins anything; where it fails, so does the try.
    pub before: Option<HookName>,
    /// Runs before the end of a try that has come so far that `before` ran, or would have.
    pub after: Option<HookName>,
    /// How long each of them may run, in milliseconds.
    pub limit_ms: u64,
}

/// See [`Effect::Hook`](super::Effect::Hook). What it does is not ours to look at: it may run again after a crash, told the
/// same job, try and side, by which it knows what it has done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Whose backup.
    pub vm: VmAddress,
    /// Which program.
    pub name: HookName,
    /// How long it may run, in milliseconds.
    pub limit_ms: u64,
    /// The backup.
    pub job: JobId,
    /// Its try, from 1.
    pub attempt: u32,
    /// The policy that names the hook.
    pub policy: PolicyName,
    /// Where the backup goes to.
    pub repository: RepositoryName,
    /// What kind of backup was asked for.
    pub mode: Mode,
    /// On which side of the try, and what has become of it.
    pub side: HookSide,
}

/// On which side of a try a hook runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HookSide {
    /// Before it begins anything.
    Before,
    /// Before its end.
    After {
        /// How it ends.
        end: TryEnd,
        /// Why, where there is something to say.
        reason: Option<String>,
    },
}

/// How a try ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TryEnd {
    /// The restore point is made.
    Done,
    /// It is not, and there is no further try.
    Failed,
    /// It is not, and there will be another try.
    Retried,
    /// It was cancelled.
    Cancelled,
}

impl HookSide {
    /// Its name, in policies and in what a hook is told.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            HookSide::Before => "before",
            HookSide::After { .. } => "after",
        }
    }
}

impl TryEnd {
    /// Its name, in what a hook is told.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            TryEnd::Done => "done",
            TryEnd::Failed => "failed",
            TryEnd::Retried => "retried",
            TryEnd::Cancelled => "cancelled",
        }
    }
}
