//! What every effect is given beside itself: the agent's folders, its open repositories, and the two lines to the
//! orchestrator, one for "stop" and one for "this far". Knows no effect.

use std::path::PathBuf;
use std::sync::Arc;

use journal::VmId;
use journal::outcome::{Done, Failure, Outcome};
use journal::wire::Progress;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::machine::Guards;
use crate::repositories::Repositories;
use crate::store::Lines;

/// Where an agent keeps things.
#[derive(Debug, Clone)]
pub struct Folders {
    /// The highest epoch seen, and nothing else that matters.
    pub state: PathBuf,
    /// Scratch files of views, one folder for each VM.
    pub scratch: PathBuf,
    /// Unix sockets that QEMU listens on for us, one folder for each VM. A socket's path has at most 107 bytes.
    pub sockets: PathBuf,
    /// Programs that policies may name as hooks, put there by the host's operator; none where no hook is run.
    pub hooks: Option<PathBuf>,
}

impl Folders {
    /// The folder of a VM's scratch files.
    #[must_use]
    pub fn scratch_of(&self, vm: VmId) -> PathBuf {
        self.scratch.join(vm.0.simple().to_string())
    }

    /// The socket that a VM's QEMU serves its views on.
    #[must_use]
    pub fn nbd_socket_of(&self, vm: VmId) -> PathBuf {
        self.sockets.join(vm.0.simple().to_string()).join("nbd")
    }
}

/// What an effect runs with.
#[derive(Debug, Clone)]
pub struct Task {
    /// Where things are.
    pub folders: Arc<Folders>,
    /// The repositories that are open.
    pub repositories: Arc<Repositories>,
    /// The lines that the stores of policies stand in.
    pub(crate) lines: Arc<Lines>,
    /// The views that are watched.
    pub(crate) guards: Arc<Guards>,
    /// Set when the effect is to stop.
    pub cancelled: CancellationToken,
    /// How far it is; the newest value counts.
    pub progress: watch::Sender<Progress>,
}

/// What an effect's performer answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// What became of it, for certain.
    Settled(Outcome),
    /// It may or may not have happened; says what hid it.
    Unknown(String),
}

impl From<Result<Done, Failure>> for Answer {
    fn from(result: Result<Done, Failure>) -> Self {
        Answer::Settled(match result {
            Ok(done) => Outcome::Done(done),
            Err(failure) => Outcome::Failed(failure),
        })
    }
}
