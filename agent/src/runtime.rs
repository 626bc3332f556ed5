//! The agent's inside: it takes messages, starts one task for each effect, and answers. It decides nothing, and
//! nothing that it awaits itself can be held up by QEMU, a guest or a repository.
//!
//! Effects of one VM run one after another, in the order they came, but for its guest agent: a thaw never waits for
//! what else is done to its VM. Effects without a VM run side by side.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use journal::effect::RepositoryAddress;
use journal::observation::{LookAt, RepositorySeen};
use journal::outcome::{Failure, FailureClass, Outcome};
use journal::wire::{FromAgent, Progress, ToAgent};
use journal::{Effect, Epoch, Intent, IntentId, VmId, fault};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::field::display;
use tracing::{Instrument, Span};

use crate::fence::{Fence, FenceError};
use crate::machine::Guards;
use crate::observe::observe;
use crate::perform::perform;
use crate::repositories::Repositories;
use crate::store::Lines;
use crate::task::{Answer, Folders, Task};

/// Messages on the way in either direction. Progress is dropped rather than waited for.
const QUEUED: usize = 256;

/// The least time between two messages about the progress of one intent.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// How long an observation waits for one repository: a hung folder must not hide the others.
const REPOSITORY: Duration = Duration::from_secs(30);

/// An agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A folder of its own cannot be made.
    #[error("{path}: {source}; the agent needs this folder: check the owner and mode of the one above it")]
    Folder {
        /// The folder.
        path: std::path::PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The highest epoch is not to be had.
    #[error(transparent)]
    Fence(#[from] FenceError),
}

/// The hands on a host.
#[derive(Debug)]
pub struct Agent;

impl Agent {
    /// Starts an agent on the current tokio runtime; it ends when the sender is dropped, and then cancels what runs.
    ///
    /// # Errors
    /// [`AgentError`], before anything is started.
    pub fn start(folders: Folders) -> Result<(mpsc::Sender<ToAgent>, mpsc::Receiver<FromAgent>), AgentError> {
        make_folders(&folders)?;
        let fence = Fence::open(&folders.state)?;
        let (to_agent, inbox) = mpsc::channel(QUEUED);
        let (answers, from_agent) = mpsc::channel(QUEUED);
        let hands = Hands {
            folders: Arc::new(folders),
            repositories: Arc::default(),
            lines: Arc::default(),
            guards: Arc::default(),
            running: Arc::default(),
            lanes: Lanes::default(),
            answers,
        };
        tokio::spawn(hands.serve(fence, inbox));
        Ok((to_agent, from_agent))
    }
}

/// QEMU's user must pass through the two that hold files for it, and nobody else needs to see what is in them.
fn make_folders(folders: &Folders) -> Result<(), AgentError> {
    use std::os::unix::fs::DirBuilderExt;
    for (path, mode) in [(&folders.state, 0o700), (&folders.scratch, 0o711), (&folders.sockets, 0o711)] {
        let made = std::fs::DirBuilder::new().recursive(true).mode(mode).create(path);
        made.map_err(|source| AgentError::Folder { path: path.clone(), source })?;
    }
    Ok(())
}

/// What is being performed, with what stops it.
#[derive(Debug, Default)]
struct Running(Mutex<HashMap<IntentId, CancellationToken>>);

impl Running {
    fn table(&self) -> MutexGuard<'_, HashMap<IntentId, CancellationToken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What takes its turn: the VM, and whether it is the guest agent's turn or QEMU's.
type Lane = (VmId, bool);

/// Who is last in each lane. A token is cancelled when its effect is over, however it ended.
#[derive(Debug, Default)]
struct Lanes(HashMap<Lane, CancellationToken>);

impl Lanes {
    /// Puts an effect at the end of its lane; answers whom it waits for, and what its own end is told by.
    fn enter(&mut self, effect: &Effect) -> (Option<CancellationToken>, DropGuard) {
        let over = CancellationToken::new();
        let guest = matches!(effect, Effect::Freeze(_) | Effect::Thaw(_));
        self.0.retain(|_, last| !last.is_cancelled());
        let before = effect.vm().and_then(|vm| self.0.insert((vm, guest), over.clone()));
        (before, over.drop_guard())
    }
}

struct Hands {
    folders: Arc<Folders>,
    repositories: Arc<Repositories>,
    lines: Arc<Lines>,
    guards: Arc<Guards>,
    running: Arc<Running>,
    lanes: Lanes,
    answers: mpsc::Sender<FromAgent>,
}

impl Hands {
    async fn serve(mut self, mut fence: Fence, mut inbox: mpsc::Receiver<ToAgent>) {
        // Aside: the storage under the notes may be slow.
        let (guards, folders) = (Arc::clone(&self.guards), Arc::clone(&self.folders));
        let noted = tokio::spawn(async move { guards.arm_noted(&folders).await });
        while let Some(message) = inbox.recv().await {
            match message {
                ToAgent::Perform { epoch, intent } => {
                    let admitted;
                    (fence, admitted) = admit(fence, epoch).await;
                    match admitted {
                        Ok(()) => self.start(*intent),
                        Err(failure) => self.refuse(intent.id, failure),
                    }
                }
                ToAgent::Cancel { intent } => {
                    if let Some(cancel) = self.running.table().get(&intent) {
                        cancel.cancel();
                    }
                }
                ToAgent::Observe { request, vm, repositories } => self.observe(request, vm, repositories),
            }
        }
        // Nobody hears the answers any more. What is still open is found again by whoever comes next.
        self.running.table().values().for_each(CancellationToken::cancel);
        noted.abort();
        self.guards.disarm_all();
    }

    fn refuse(&self, intent: IntentId, failure: Failure) {
        let answers = self.answers.clone();
        tokio::spawn(async move {
            let outcome = Outcome::Failed(failure);
            // The receiver is gone when the orchestrator is.
            let _ = answers.send(FromAgent::Settled { intent, outcome }).await;
        });
    }

    /// Starts performing, unless it is being performed: then its answer will come.
    fn start(&mut self, intent: Intent) {
        let cancelled = CancellationToken::new();
        {
            let mut running = self.running.table();
            if running.contains_key(&intent.id) {
                return;
            }
            running.insert(intent.id, cancelled.clone());
        }
        let (progress, watched) = watch::channel(Progress::default());
        let (folders, repositories) = (Arc::clone(&self.folders), Arc::clone(&self.repositories));
        let (lines, guards) = (Arc::clone(&self.lines), Arc::clone(&self.guards));
        let task = Task { folders, repositories, lines, guards, cancelled, progress };
        let (before, over) = self.lanes.enter(&intent.effect);
        let (running, answers) = (Arc::clone(&self.running), self.answers.clone());
        let span = about(&intent);
        let inside = span.clone();
        let performer = async move {
            let id = intent.id;
            fault::point("effect");
            if let Some(before) = before {
                before.cancelled().await;
            }
            // In a task of its own, so that a panic comes back as an error.
            let performing = tokio::spawn(async move { perform(&intent, &task).await }.instrument(inside));
            let answer = tell_progress(id, watched, &answers, performing).await;
            fault::point("performed");
            // Before the answer: whoever reads it may give the same intent again at once.
            running.table().remove(&id);
            drop(over);
            let _ = answers.send(message(id, answer)).await;
        };
        tokio::spawn(performer.instrument(span));
    }

    fn observe(&self, request: u64, vm: Option<LookAt>, repositories: Vec<RepositoryAddress>) {
        let (folders, known, answers) =
            (Arc::clone(&self.folders), Arc::clone(&self.repositories), self.answers.clone());
        tokio::spawn(async move {
            let vm = async {
                match &vm {
                    Some(at) => Some(observe(at, &folders).await),
                    None => None,
                }
            };
            let repositories = join_all(repositories.iter().map(|address| look_into(&known, address)));
            let (vm, repositories) = tokio::join!(vm, repositories);
            let _ = answers.send(FromAgent::Observed { request, vm, repositories }).await;
        });
    }
}

/// What every line of the log says that comes of an effect: whose it is.
fn about(intent: &Intent) -> Span {
    let vm = intent.effect.about().map(|vm| display(&vm.name));
    let job = intent.job.map(display);
    tracing::info_span!("effect", job, vm, intent = %intent.id, effect = %intent.effect.kind())
}

/// Passes the fence; it is written aside, since the disk below it may be slow.
async fn admit(mut fence: Fence, epoch: Epoch) -> (Fence, Result<(), Failure>) {
    if epoch == fence.highest() {
        return (fence, Ok(()));
    }
    let moved = tokio::task::spawn_blocking(move || {
        let admitted = fence.admit(epoch);
        (fence, admitted)
    });
    let (fence, admitted) =
        moved.await.expect("the fence does not panic, and the runtime runs: we are on it");
    let admitted = match admitted {
        Ok(true) => Ok(()),
        Ok(false) => {
            let what = format!(
                "decided in epoch {epoch}; an orchestrator of epoch {} has come since",
                fence.highest()
            );
            Err(Failure::new(FailureClass::Fenced, what))
        }
        Err(error) => Err(Failure::new(FailureClass::Host, error.to_string())),
    };
    (fence, admitted)
}

/// Waits for the end of an effect, and passes on how far it is until then: never more often than the limit, never
/// after its answer, and never waiting for a reader.
async fn tell_progress(
    intent: IntentId,
    mut progress: watch::Receiver<Progress>,
    answers: &mpsc::Sender<FromAgent>,
    performing: tokio::task::JoinHandle<Answer>,
) -> Answer {
    let telling = async {
        while progress.changed().await.is_ok() {
            let progress = *progress.borrow_and_update();
            let _ = answers.try_send(FromAgent::Progress { intent, progress });
            tokio::time::sleep(PROGRESS_EVERY).await;
        }
        // The performer has let go of its end; its answer follows.
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        answer = performing => answer.unwrap_or_else(|end| {
            tracing::error!(%end, "an effect ended in a panic");
            Answer::Unknown(format!("the agent failed while it performed this ({end}); that is a bug of Backstay"))
        }),
        never = telling => match never {},
    }
}

fn message(intent: IntentId, answer: Answer) -> FromAgent {
    match answer {
        Answer::Settled(outcome) => FromAgent::Settled { intent, outcome },
        Answer::Unknown(why) => FromAgent::Unknown { intent, why },
    }
}

async fn look_into(known: &Repositories, address: &RepositoryAddress) -> RepositorySeen {
    match tokio::time::timeout(REPOSITORY, known.seen(address)).await {
        Ok(seen) => seen,
        Err(_) => {
            let what =
                format!("repository {} ({}): no answer within {REPOSITORY:?}", address.name, address.path);
            let failure = Failure::new(FailureClass::Unreachable, what);
            RepositorySeen { name: address.name.clone(), snapshots: Err(failure) }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const INTENT: IntentId = IntentId(7);

    #[tokio::test]
    async fn a_panic_is_answered_as_unknown() {
        let (answers, _heard) = mpsc::channel(8);
        let (_sender, watched) = watch::channel(Progress::default());
        let performing = tokio::spawn(async { panic!("on purpose") });
        let answer = tell_progress(INTENT, watched, &answers, performing).await;
        assert!(matches!(&answer, Answer::Unknown(why) if why.contains("on purpose")), "{answer:?}");
    }

    #[tokio::test]
    async fn progress_is_told_ten_times_a_second_at_most_and_the_newest_counts() {
        let (answers, mut heard) = mpsc::channel(64);
        let (sender, watched) = watch::channel(Progress::default());
        let performing = tokio::spawn(async move {
            for done_bytes in 1..=300 {
                sender.send_replace(Progress { done_bytes, total_bytes: 300 });
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            tokio::time::sleep(PROGRESS_EVERY * 2).await;
            Answer::Unknown(String::new())
        });
        let started = std::time::Instant::now();
        tell_progress(INTENT, watched, &answers, performing).await;
        let most = started.elapsed().as_millis() / PROGRESS_EVERY.as_millis() + 1;
        let mut told = Vec::new();
        while let Ok(FromAgent::Progress { progress, .. }) = heard.try_recv() {
            told.push(progress.done_bytes);
        }
        assert!(told.len() > 1 && told.len() as u128 <= most, "{told:?}");
        assert_eq!(told.last(), Some(&300));
    }

    #[test]
    fn a_lane_is_left_in_the_order_it_was_entered_and_a_thaw_has_its_own() {
        use journal::effect::{End, Thaw, VmAddress};
        let vm = VmAddress {
            id: VmId(uuid::Uuid::from_u128(1)),
            name: "web-01".parse().unwrap(),
            qmp: String::new(),
            guest_agent: None,
        };
        let process = journal::Process { pid: 1, started_ticks: 1, boot: uuid::Uuid::nil() };
        let installation = journal::Installation(1);
        let end = Effect::End(End { vm: vm.clone(), process, installation, view: INTENT, disks: 1 });
        let mut lanes = Lanes::default();
        let (before_first, first) = lanes.enter(&end);
        let (before_second, _second) = lanes.enter(&end);
        let (before_thaw, _thaw) = lanes.enter(&Effect::Thaw(Thaw { vm }));
        assert!(before_first.is_none() && before_thaw.is_none());
        let before_second = before_second.unwrap();
        assert!(!before_second.is_cancelled());
        drop(first);
        assert!(before_second.is_cancelled());
    }
}
