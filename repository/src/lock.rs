//! restic's locks: who uses the repository, shared or alone.
//!
//! The protocol is restic's: look, write one's own lock, look again. A lock is refreshed every five minutes, and is
//! stale after thirty or when its process is gone from this host; stale ones are removed. Knows nothing of packs.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::backend::{BackendError, FileKind, FileName};
use crate::id::FileId;
use crate::machine;
use crate::store::{ReadError, Store};

/// How often a lock is renewed (restic: `refreshInterval`).
const REFRESH: Duration = Duration::from_secs(5 * 60);
/// How soon a renewal that failed is tried again.
const RETRY: Duration = Duration::from_secs(30);
/// After this others may take a lock for abandoned (restic: `staleLockTimeout`).
const STALE: TimeDelta = TimeDelta::minutes(30);
/// After this we no longer trust our own: the machine was suspended, or the storage did not answer.
const DISTRUST: TimeDelta = TimeDelta::minutes(25);

/// Shared with others, or alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// For reading and adding; any number at a time.
    Shared,
    /// For removing; nobody else at all.
    Exclusive,
}

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The host's name.
    pub host: String,
    /// The user's name.
    pub user: String,
    /// The process on that host.
    pub pid: u32,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} of {} on {}", self.pid, self.user, self.host)
    }
}

/// Why there is no lock.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LockError {
    /// Somebody else is there.
    #[error(
        "the repository is locked {} by {by} since {since}; try again when it is done, or, if that process is certainly \
         gone, run `restic unlock`",
        if *.exclusive { "exclusively" } else { "for use" }
    )]
    Locked {
        /// Who.
        by: Holder,
        /// Since when, or when last renewed.
        since: DateTime<Utc>,
        /// Whether that lock allows nobody else.
        exclusive: bool,
    },
    /// Our own lock was removed by somebody, or could not be renewed for too long: what was written since may be
    /// gone.
    #[error(
        "our lock was lost (removed by somebody, or not renewed in time); nothing is committed, start again"
    )]
    Lost,
    /// A lock file, or the folder of them, could not be read.
    #[error("cannot tell who uses the repository: {0}")]
    Read(#[from] ReadError),
    /// Our own could not be written.
    #[error("cannot lock the repository: {0}")]
    Write(#[from] BackendError),
}

/// A lock file, as restic writes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LockFile {
    pub(crate) time: DateTime<Utc>,
    pub(crate) exclusive: bool,
    #[serde(default)]
    pub(crate) hostname: String,
    #[serde(default)]
    pub(crate) username: String,
    #[serde(default)]
    pub(crate) pid: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) uid: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) gid: u32,
    /// Ours alone; restic passes over what it does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) backstay_process_start: Option<u64>,
}

// serde hands references to `skip_serializing_if`.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(id: &u32) -> bool {
    *id == 0
}

impl LockFile {
    fn ours(kind: LockKind) -> Self {
        Self {
            time: Utc::now(),
            exclusive: kind == LockKind::Exclusive,
            hostname: machine::host_name(),
            username: machine::user_name(),
            pid: std::process::id(),
            uid: machine::user_id(),
            gid: machine::group_id(),
            backstay_process_start: machine::process_start(std::process::id()),
        }
    }

    /// restic's rule (`Lock.Stale`), and one more: the process has another one's number.
    fn stale(&self, now: DateTime<Utc>) -> bool {
        let here = self.hostname == machine::host_name();
        now - self.time > STALE || (here && (!machine::process_runs(self.pid) || self.is_of_a_namesake()))
    }

    /// Whether the process that has the number now is not the one that wrote this: after a crash of the machine or the
    /// container the numbers are given again.
    fn is_of_a_namesake(&self) -> bool {
        let (then, now) = (self.backstay_process_start, machine::process_start(self.pid));
        then.is_some() && now.is_some() && then != now
    }
}

/// A lock that is held, and renewed in the background, until it is dropped.
#[derive(Debug)]
pub struct Lock {
    held: Arc<Held>,
    renewal: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Held {
    store: Arc<Store>,
    kind: LockKind,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug)]
struct State {
    file: FileId,
    renewed: DateTime<Utc>,
    lost: bool,
    released: bool,
}

impl Lock {
    /// Locks the repository, or says who is in the way.
    pub(crate) fn acquire(store: &Arc<Store>, kind: LockKind) -> Result<Self, LockError> {
        refuse_conflict(store, kind, None)?;
        let ours = LockFile::ours(kind);
        let file = store.write_json(FileKind::Lock, &ours)?;
        // Of two that wrote at the same time, at least the later one sees the other now.
        if let Err(conflict) = refuse_conflict(store, kind, Some(file)) {
            remove_lock(store, file);
            return Err(conflict);
        }
        let state = State { file, renewed: ours.time, lost: false, released: false };
        let held =
            Arc::new(Held { store: Arc::clone(store), kind, state: Mutex::new(state), wake: Condvar::new() });
        let renewed = Arc::clone(&held);
        let renewal =
            thread::Builder::new().name("repository-lock".to_owned()).spawn(move || renewed.keep_fresh());
        match renewal {
            Ok(renewal) => Ok(Self { held, renewal: Some(renewal) }),
            Err(error) => {
                remove_lock(store, file);
                Err(BackendError::from_io("thread", error).into())
            }
        }
    }

    /// Shared or exclusive.
    #[must_use]
    pub fn kind(&self) -> LockKind {
        self.held.kind
    }

    /// Makes sure that the lock still protects what was done under it: it is recent, and its file is there.
    ///
    /// # Errors
    /// [`LockError::Lost`] when it does not; [`LockError::Write`] when the storage cannot tell.
    pub fn verify(&self) -> Result<(), LockError> {
        let (file, trusted) = {
            let state = self.held.lock();
            (state.file, !state.lost && Utc::now() - state.renewed < DISTRUST)
        };
        if !trusted {
            return Err(LockError::Lost);
        }
        // Renewed between the two looks: the old file is gone because the new one is there.
        if self.held.store.backend.exists(&FileName::Of(FileKind::Lock, file))?
            || self.held.lock().file != file
        {
            return Ok(());
        }
        Err(LockError::Lost)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.held.lock().released = true;
        self.held.wake.notify_all();
        if let Some(renewal) = self.renewal.take() {
            let _ = renewal.join();
        }
        let file = self.held.lock().file;
        remove_lock(&self.held.store, file);
    }
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the lock's state")
    }

    /// Renews until released. A renewal is a new file, then the removal of the old one, as restic does it.
    fn keep_fresh(&self) {
        let mut wait = REFRESH;
        loop {
            let state = self.lock();
            let (state, _) = self
                .wake
                .wait_timeout_while(state, wait, |state| !state.released)
                .expect("nothing panics while it holds the lock's state");
            if state.released || state.lost {
                return;
            }
            let old = state.file;
            drop(state);
            wait = match self.renew(old) {
                Ok(()) => REFRESH,
                Err(error) => {
                    tracing::warn!(%error, "the repository's lock could not be renewed; trying again");
                    RETRY
                }
            };
        }
    }

    fn renew(&self, old: FileId) -> Result<(), BackendError> {
        let ours = LockFile::ours(self.kind);
        let new = self.store.write_json(FileKind::Lock, &ours)?;
        let removed = self.store.backend.remove(&FileName::Of(FileKind::Lock, old));
        let mut state = self.lock();
        state.file = new;
        state.renewed = ours.time;
        match removed {
            // Somebody took our lock away, and may have pruned since.
            Err(BackendError::NotFound { .. }) => state.lost = true,
            Err(error) => tracing::warn!(%error, "an old lock of ours stays until it is stale"),
            Ok(()) => {}
        }
        Ok(())
    }
}

fn remove_lock(store: &Store, file: FileId) {
    match store.backend.remove(&FileName::Of(FileKind::Lock, file)) {
        // Refused: somebody else's, in a repository that is append-only here. It is stale for others too.
        Ok(()) | Err(BackendError::NotFound { .. } | BackendError::Refused { .. }) => {}
        Err(error) => tracing::warn!(%error, "a lock could not be removed; it is stale in 30 minutes"),
    }
}

/// Looks at everybody else's locks: removes stale ones, and refuses when one conflicts with a lock of `kind`.
fn refuse_conflict(store: &Store, kind: LockKind, ours: Option<FileId>) -> Result<(), LockError> {
    let now = Utc::now();
    for listed in store.backend.list(FileKind::Lock).map_err(ReadError::from)? {
        if Some(listed.id) == ours {
            continue;
        }
        let other: LockFile = match store.read_json(FileKind::Lock, listed.id) {
            Ok(other) => other,
            Err(ReadError::Backend(BackendError::NotFound { .. })) => continue,
            Err(error) => return Err(error.into()),
        };
        let by = Holder { host: other.hostname.clone(), user: other.username.clone(), pid: other.pid };
        if other.stale(now) {
            tracing::warn!(%by, since = %other.time, "removing a stale lock of the repository");
            remove_lock(store, listed.id);
        } else if kind == LockKind::Exclusive || other.exclusive {
            return Err(LockError::Locked { by, since: other.time, exclusive: other.exclusive });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
