//! The drive: one loop that turns decisions into records and actions, and answers back into records.
//!
//! ```text
//!   due, called, answered ──▶ decide::next ──▶ append, wait until durable ──▶ fold ──▶ send ──┐
//!            ▲                                                                               │
//!            └──────────────── agent: outcome, unknown, observed, progress ◀──────────────────┘
//! ```
//!
//! Nothing is sent before its intent is durable, and readers see no state that is not. Decides nothing itself.

mod counters;
mod engine;
mod history;
pub(crate) mod notify;
mod serve;
mod start;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use journal::base::Keeper;
use journal::effect::RepositoryAddress;
use journal::log::{Log, LogError, Room};
use journal::observation::LookAt;
use journal::replay::ReplayError;
use journal::wire::{FromAgent, Progress, ToAgent};
use journal::{HostName, IntentId, ReceiverName, Record, State, Time, VmId};
use tokio::sync::{RwLock, broadcast, mpsc, oneshot, watch};

use crate::Settings;
use crate::decide::Limits;
use crate::decide::live::Seen;
use crate::decide::notify::Delivery;
use crate::decide::reconcile::Finding;
use crate::decide::way::Unprotected;

pub use counters::{Counters, Histogram};
pub(crate) use engine::look_at;
#[cfg(test)]
pub(crate) use history::story::{self, Site};
pub use history::{Gone, History, How, Kept, Listed, Wanted};

/// Why an orchestrator does not start, or has to end.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The journal cannot be opened, or can no longer be written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Its records do not fold.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// A record cannot be written.
    #[error(transparent)]
    Encode(#[from] journal::record::EncodeError),
    /// The API cannot be served.
    #[error("cannot serve the API on {place}: {source}")]
    Serve {
        /// Where.
        place: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file of the data folder.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The agent is gone.
    #[error("the agent has ended")]
    AgentGone,
}

/// What readers share with the drive.
#[derive(Debug)]
pub struct Shared {
    /// What is so, and durable.
    pub state: RwLock<State>,
    /// How far the long effects are.
    pub progress: std::sync::RwLock<BTreeMap<IntentId, Progress>>,
    /// Goes up with every record and every progress.
    pub changed: watch::Sender<u64>,
    /// The journal.
    pub log: Log,
    /// Its bases.
    pub bases: Keeper,
    /// Its folder.
    pub journal: PathBuf,
    /// What is over, and where the journal speaks of a VM.
    pub history: History,
    /// What happened in this life of the process.
    pub counters: std::sync::Mutex<Counters>,
    /// The host of the agent: every VM is on it.
    pub host: HostName,
    /// The operator's limits.
    pub limits: Limits,
    /// Who is told of notices.
    pub receivers: BTreeSet<ReceiverName>,
    /// What each of them says to each try, for whoever listens.
    pub(crate) tries: broadcast::Sender<(Delivery, notify::Said)>,
}

/// What keeps the journal from taking what is to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// In a word: `full` or `stopped`.
    pub state: &'static str,
    /// What, and where.
    pub what: String,
    /// What is to be done about it.
    pub advice: String,
}

impl Shared {
    /// How far an effect is.
    #[must_use]
    pub fn progress_of(&self, intent: IntentId) -> Option<Progress> {
        self.progress.read().unwrap_or_else(PoisonError::into_inner).get(&intent).copied()
    }

    /// What keeps the journal from taking new work, or any record at all.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        let journal = self.journal.display();
        if let Some(why) = self.log.stopped().borrow().as_ref() {
            return Some(Trouble {
                state: "stopped",
                what: format!("the journal in {journal} takes no more records: {why}"),
                advice: "look at its disk (`dmesg`), mend it, and start Backstay again: the start reads what is there"
                    .to_owned(),
            });
        }
        (*self.log.room().borrow() == Room::Reserve).then(|| Trouble {
            state: "full",
            what: format!(
                "the disk of the journal in {journal} is full: nothing new is begun, and what is under way goes on in a \
                 reserve"
            ),
            advice: "free some room on it (`df` shows it; `point forget` and `repo prune` are still taken); work is taken \
                     again within seconds, without a restart"
                .to_owned(),
        })
    }

    /// Tells of a record that the journal did not take, though it had to.
    fn stop(&self, error: StartError) -> StartError {
        if let StartError::Log(why) = &error {
            tracing::error!(
                journal = %self.journal.display(), %why,
                "the journal takes no more records, and Backstay ends: look at its disk, mend it, and start again"
            );
            self.changed.send_modify(|changed| *changed += 1);
        }
        error
    }
}

/// Why a call is not granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What kind.
    pub code: crate::api::view::ErrorCode,
    /// What happened, where, and what to do.
    pub message: String,
}

/// What a caller wants to become so, given what is so.
pub type Proposal = Box<dyn FnOnce(&State, Time) -> Result<Vec<Record>, Refusal> + Send>;

/// What the API asks of the drive.
pub enum Call {
    /// Append what the proposal makes of the state.
    Propose(Proposal, oneshot::Sender<Result<(), Refusal>>),
    /// Look at a VM and at repositories, and change nothing.
    Look(
        Option<LookAt>,
        Vec<RepositoryAddress>,
        oneshot::Sender<(Option<journal::observation::VmSeen>, Vec<journal::observation::RepositorySeen>)>,
    ),
    /// Look at a VM and say what is amiss.
    Examine(VmId, oneshot::Sender<Examined>),
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Call::Propose(..) => "Propose",
            Call::Look(..) => "Look",
            Call::Examine(..) => "Examine",
        })
    }
}

/// What was found of a VM.
#[derive(Debug, Clone)]
pub struct Examined {
    /// What was seen.
    pub seen: Seen,
    /// What is amiss, and what is not.
    pub findings: Vec<Finding>,
    /// What becomes of its views where they cannot be guarded from scratch storage that hangs.
    pub unprotected: Unprotected,
}

/// Runs an orchestrator until `shutdown` resolves, or until it can no longer keep its promise.
///
/// # Errors
/// Why it could not start, or had to end. After an error of the journal nothing more is appended or sent.
pub async fn run(
    settings: Settings,
    to_agent: mpsc::Sender<ToAgent>,
    from_agent: mpsc::Receiver<FromAgent>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), StartError> {
    let (shared, epoch) = start::open(&settings).await?;
    let (calls, called) = mpsc::channel(64);
    let installation = shared.state.read().await.installation.map(|it| it.to_string()).unwrap_or_default();
    let (carriers, told) = notify::Carriers::start(settings.receivers.clone(), &installation, &shared.tries);
    let mut engine = engine::Engine::new(Arc::clone(&shared), epoch, to_agent, carriers);
    let server = serve::start(&settings, crate::api::router(Arc::clone(&shared), calls)).await?;
    tracing::info!(socket = %crate::api_socket(&settings.data).display(), epoch = epoch.0, "ready");
    let ended = tokio::select! {
        ended = engine.run(called, from_agent, told) => ended,
        () = shutdown => Ok(()),
    };
    server.stop().await;
    if ended.is_ok() {
        let shared = Arc::clone(&shared);
        let kept = tokio::task::spawn_blocking(move || shared.bases.finish(&shared.state.blocking_read()));
        if let Err(error) = kept.await {
            tracing::warn!(%error, "the last base was not written: the next start takes longer");
        }
    }
    ended
}

/// The wall clock.
pub(crate) fn now() -> Time {
    chrono::Utc::now().into()
}
