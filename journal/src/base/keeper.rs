//! When a base is due, and the thread that writes it while records go on.
//!
//! Owns the pace. The caller's thread only copies the state. A base that cannot be written is told and tried again at the
//! next occasion: nothing rests on it but the time of the next start.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::{Base, BaseFault, files};
use crate::log::medium::Disk;
use crate::log::{Log, Position};
use crate::state::State;

/// How much may come after a base before the next is due.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Records.
    pub records: u64,
    /// Bytes of frames.
    pub bytes: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { records: 10_000, bytes: 32 << 20 }
    }
}

/// Brings something that is rebuilt from the journal, and that a start from a base relies on, durably up to a sequence.
pub type Follow = Box<dyn Fn(u64) -> std::io::Result<()> + Send>;

/// Writes bases as they are due, and one at the end.
#[derive(Debug)]
pub struct Keeper {
    pace: Pace,
    since: Mutex<Since>,
    thread: Mutex<Option<Thread>>,
}

#[derive(Debug)]
struct Since {
    /// Where the newest base stands.
    base: u64,
    /// What was appended after it.
    bytes: u64,
    /// Where the state stands; `None` while it is being changed.
    state: Option<Position>,
}

#[derive(Debug)]
struct Thread {
    bases: SyncSender<Due>,
    handle: JoinHandle<()>,
}

struct Due {
    base: Base,
    /// Told when it is written, or not.
    written: Option<SyncSender<bool>>,
}

impl Keeper {
    /// For a log that was just opened, with its newest base at `newest`; 0 when it has none. `follow` is called before
    /// each base, on the keeper's thread: while it fails, no base is written.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(log: &Log, newest: u64, pace: Pace, follow: Follow) -> std::io::Result<Keeper> {
        let (bases, due) = sync_channel::<Due>(1);
        let folder = log.medium().bases();
        let work = move || {
            for Due { base, written } in due {
                let done = folder.as_ref().is_some_and(|folder| keep(folder.as_ref(), &base, &follow));
                if let Some(written) = written {
                    let _nobody_waits = written.send(done);
                }
            }
        };
        let handle = std::thread::Builder::new().name("journal-base".to_owned()).spawn(work)?;
        let since = Since { base: newest, bytes: 0, state: Some(*log.durable().borrow()) };
        let thread = Mutex::new(Some(Thread { bases, handle }));
        Ok(Keeper { pace, since: Mutex::new(since), thread })
    }

    /// The state is about to change: until [`Keeper::consider`] it may be ahead of what is durable.
    pub fn changing(&self) {
        self.since().state = None;
    }

    /// `state` is what is so at `at`, durably; `bytes` were appended since the last call.
    pub fn consider(&self, at: Position, state: &State, bytes: u64) {
        let mut since = self.since();
        since.state = Some(at);
        since.bytes += bytes;
        if at.seq.saturating_sub(since.base) < self.pace.records && since.bytes < self.pace.bytes {
            return;
        }
        let thread = self.thread();
        let Some(thread) = thread.as_ref() else { return };
        // While the one before is still being written, this one is not needed: the next call asks again.
        let due = Due { base: Base { at, state: state.clone() }, written: None };
        if thread.bases.try_send(due).is_ok() {
            (since.base, since.bytes) = (at.seq, 0);
        }
    }

    /// Writes `state`, unless a base says it already, and waits for that: whether a base says it now.
    ///
    /// `state` is the one that [`Keeper::consider`] was told of last.
    pub fn write_now(&self, state: &State) -> bool {
        let mut since = self.since();
        let Some(at) = since.state else { return false };
        if since.base == at.seq {
            return true;
        }
        let (written, wait) = sync_channel(1);
        let sent = match self.thread().as_ref() {
            None => false,
            Some(thread) => {
                let due = Due { base: Base { at, state: state.clone() }, written: Some(written) };
                thread.bases.send(due).is_ok()
            }
        };
        let done = sent && wait.recv().unwrap_or(false);
        if done {
            (since.base, since.bytes) = (at.seq, 0);
        }
        done
    }

    /// The orderly end: [`Keeper::write_now`], and no more.
    pub fn finish(&self, state: &State) {
        self.write_now(state);
        self.end();
    }

    fn end(&self) {
        if let Some(thread) = self.thread().take() {
            drop(thread.bases);
            // If it panicked, it has said so.
            let _ended = thread.handle.join();
        }
    }

    fn since(&self) -> MutexGuard<'_, Since> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn thread(&self) -> MutexGuard<'_, Option<Thread>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whether it is written.
fn keep(disk: &dyn Disk, base: &Base, follow: &Follow) -> bool {
    let written = follow(base.at.seq).map_err(BaseFault::from).and_then(|()| files::write(disk, base));
    match written {
        Ok(bytes) => {
            tracing::info!(seq = base.at.seq, bytes, "a base is written");
            true
        }
        Err(error) => {
            let seq = base.at.seq;
            tracing::warn!(seq, %error, "a base was not written: the next start takes longer, and nothing is lost");
            false
        }
    }
}
