//! Coming to the right QEMU: one at a time on a socket, and only if it is the process that was meant.

use std::ops::Deref;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use journal::Process;
use journal::effect::VmAddress;
use journal::outcome::{Failure, FailureClass};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::scratch;
use super::turns::{Turn, Turns};
use crate::qmp::{self, Limits, Qmp, QmpError};
use crate::task::Folders;

/// How long one part of the agent waits until another one has left a socket.
const TURN: Duration = Duration::from_secs(60);

/// Who is on which socket. QEMU serves one client at a time and leaves a second one without a greeting, so an
/// observation and an effect on the same VM take turns. The sockets are the host's, hence one table for the process.
static SOCKETS: Turns = Turns::new();

/// A QMP connection and the turn on its socket.
#[derive(Debug)]
pub(crate) struct Line {
    // Dropped before the turn is: the next one must not find the socket taken.
    qmp: Qmp,
    _turn: Turn,
}

impl Deref for Line {
    type Target = Qmp;

    fn deref(&self) -> &Qmp {
        &self.qmp
    }
}

/// Connects to whatever listens on a QMP socket, once nobody else in this process is on it.
pub(crate) async fn connect(path: &Path) -> Result<Line, QmpError> {
    let Some(turn) = SOCKETS.take(path, TURN).await else {
        return Err(QmpError::NoGreeting { path: path.into(), after: TURN });
    };
    Ok(Line { qmp: Qmp::connect(path, Limits::default()).await?, _turn: turn })
}

/// The boot of this host, which the kernel draws anew each time. Where it tells none, all boots are one, and pid and start
/// time have to do.
static BOOT: LazyLock<uuid::Uuid> = LazyLock::new(|| {
    let told = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    told.ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default()
});

/// The process, in the journal's words.
pub(crate) fn identity(process: qmp::Process) -> Process {
    Process { pid: process.pid, started_ticks: process.start_time, boot: *BOOT }
}

/// Whether it is proven that the process can no longer act.
pub(super) fn gone(process: Process) -> bool {
    process.boot != *BOOT || !qmp::alive(qmp::Process { pid: process.pid, start_time: process.started_ticks })
}

/// Waits for the process to end, but no longer than `limit`.
pub(super) async fn gone_within(process: Process, limit: Duration) -> bool {
    let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
    // Opened before the look at the start time: afterwards the descriptor stands for the process that was looked at.
    let descriptor = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    if gone(process) {
        return true;
    }
    let (Some(descriptor), Ok(limit)) = (descriptor, Timespec::try_from(limit)) else { return false };
    // It becomes readable when the process ends (pidfd_open(2)).
    let wait = move || poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&limit));
    matches!(tokio::task::spawn_blocking(wait).await, Ok(Ok(1..))) && gone(process)
}

/// What an effect finds where its QEMU should be.
#[derive(Debug)]
pub(super) enum Found {
    /// The process that was meant.
    It(Box<Line>),
    /// Not that process: it is proven to be gone.
    Gone(String),
    /// Another process answers on its socket, and it is still there somewhere.
    Another(String),
    /// It is there, as far as anybody can tell, and does not answer.
    Silent(String),
}

/// Comes to the QEMU that an effect was decided for. While the storage of a view's scratch files hangs, it is silent:
/// asking it would make it, and its guest, hang too.
pub(super) async fn find(vm: &VmAddress, process: Process, folders: &Folders) -> Found {
    let name = &vm.name;
    if let Err(failure) = scratch::answers(&folders.scratch_of(vm.id)).await
        && !gone(process)
    {
        return Found::Silent(format!("{name}: {}", failure.what));
    }
    match connect(Path::new(&vm.qmp)).await {
        Ok(line) if identity(line.process()) == process => Found::It(Box::new(line)),
        Ok(line) => {
            let here = identity(line.process());
            let why = format!("{name}: {} belongs to {here}, not to {process}", vm.qmp);
            if gone(process) { Found::Gone(why) } else { Found::Another(why) }
        }
        Err(error) if gone(process) => {
            Found::Gone(format!("{name}: the QEMU process {process} is gone ({error})"))
        }
        Err(error) => Found::Silent(format!("{name}: {error}")),
    }
}

/// As [`find`], for an effect that can do nothing without its process.
pub(super) async fn reach(vm: &VmAddress, process: Process, folders: &Folders) -> Result<Line, Failure> {
    match find(vm, process, folders).await {
        Found::It(line) => Ok(*line),
        Found::Gone(why) | Found::Another(why) => Err(Failure::new(FailureClass::ProcessGone, why)),
        Found::Silent(why) => Err(Failure::new(FailureClass::Unreachable, why)),
    }
}
