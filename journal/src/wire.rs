//! What orchestrator and agent say to one another. The same messages travel in one process and over a network.

use serde::{Deserialize, Serialize};

use crate::effect::{Intent, RepositoryAddress};
use crate::ids::{Epoch, IntentId};
use crate::observation::{LookAt, RepositorySeen, VmSeen};
use crate::outcome::Outcome;

/// From the orchestrator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToAgent {
    /// Perform a durable intent. Refused when `epoch` is older than the highest that this agent has seen.
    Perform {
        /// The epoch that sends it.
        epoch: Epoch,
        /// What to do.
        intent: Box<Intent>,
    },
    /// Stop working on an intent and answer that it was cancelled, unless it is done already.
    Cancel {
        /// Which.
        intent: IntentId,
    },
    /// Look, and change nothing.
    Observe {
        /// Returned with the answer.
        request: u64,
        /// A VM.
        vm: Option<LookAt>,
        /// Repositories.
        repositories: Vec<RepositoryAddress>,
    },
}

/// From an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromAgent {
    /// An intent's outcome.
    Settled {
        /// Which.
        intent: IntentId,
        /// What became of it.
        outcome: Outcome,
    },
    /// It may or may not have happened: only an observation can tell.
    Unknown {
        /// Which.
        intent: IntentId,
        /// What hid it.
        why: String,
    },
    /// How far a long effect is.
    Progress {
        /// Which.
        intent: IntentId,
        /// How far.
        progress: Progress,
    },
    /// The answer to [`ToAgent::Observe`].
    Observed {
        /// The request.
        request: u64,
        /// What was seen of the VM, if one was named.
        vm: Option<VmSeen>,
        /// What was seen of the repositories, in the order asked.
        repositories: Vec<RepositorySeen>,
    },
}

/// How far a long effect is. Shown, never recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes dealt with.
    pub done_bytes: u64,
    /// Bytes in all, once known.
    pub total_bytes: u64,
}
