//! A writing session: chunks in, packs and index files out, then the snapshot.
//!
//! The order on the storage is packs, index, snapshot, each durable before the next; a session that is dropped
//! without a commit leaves packs that nothing refers to, and the next prune removes them.
//!
//! Memory: one open pack (17 MiB with chunks of up to 1 MiB) for each thread that saves at the same time and each kind of
//! blob, two packs in the queue, one at each writer, two spare buffers. With two saving threads and two writers that
//! is at most 10 x 17 MiB, of which only touched pages count; over a network four writers hold two packs each. Besides that about 40 bytes for each blob that is in no
//! index file yet. Knows nothing of what the chunks mean.

mod lanes;
mod writers;

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crate::backend::{BackendError, FileKind};
use crate::blob::BlobKind;
use crate::id::{Digest, SnapshotId};
use crate::lock::{Lock, LockError, LockKind};
use crate::pack::TooLarge;
use crate::repository::Repository;
use crate::snapshot::Snapshot;
use crate::store::ReadError;
use lanes::Shared;
pub(crate) use lanes::join_small;
pub(crate) use writers::split;

/// How a session writes.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// zstd's level, at least: 1 by default. While the storage is slower than the processors it rises, up to 5 above.
    pub compression_level: i32,
    /// Threads that write packs, at least; more where the storage says that they are worth it, up to
    /// [`SessionOptions::WRITERS_MAX`].
    pub writers: usize,
}

impl SessionOptions {
    /// The most writers: each holds a pack in memory.
    pub const WRITERS_MAX: usize = 4;
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self { compression_level: 1, writers: 2 }
    }
}

/// What became of bytes that were saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved {
    /// Their name.
    pub digest: Digest,
    /// Bytes that they take in a pack; 0 when they were there already.
    pub stored: u64,
}

/// Why a session cannot go on. The first failure ends it: every later call returns the same.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    /// The storage failed, or is full.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The index could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The repository is locked by somebody else, or our lock was lost.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A blob of gigabytes.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// zstd does not know this level.
    #[error("compression level {level} is not possible: {what}")]
    Level {
        /// What was asked for.
        level: i32,
        /// What zstd said.
        what: String,
    },
    /// A thread that was saving or writing panicked, so blobs are missing.
    #[error("a thread of this session panicked; nothing is committed, start again")]
    Abandoned,
    /// A snapshot was to be written over blobs that are not committed. The session can go on.
    #[error("{blobs} blobs are not committed yet; commit before the snapshot")]
    Uncommitted {
        /// How many.
        blobs: usize,
    },
    /// A snapshot was to be written over a tree that is not in the repository. The session can go on.
    #[error("the tree {tree} is not in the repository; save and commit it before the snapshot")]
    NoTree {
        /// Which.
        tree: Digest,
    },
}

/// A writing session with a shared lock. Use it from as many threads as there are cores.
///
/// Several commits are possible; a session should serve one flow of snapshots, since a snapshot is refused while any
/// blob of the session is not committed.
#[derive(Debug)]
pub struct Session {
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<()>>,
}

impl WriteError {
    /// Whether the storage is full: trying again helps only after something was forgotten and pruned.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::Backend(error) | Self::Lock(LockError::Write(error)) => {
                matches!(error, BackendError::Full { .. })
            }
            _ => false,
        }
    }
}

impl Repository {
    /// Begins to write: takes a shared lock, then reads the newest index (before the lock somebody may have pruned).
    ///
    /// # Errors
    /// [`WriteError::Lock`] when somebody prunes.
    pub fn session(&self, options: &SessionOptions) -> Result<Session, WriteError> {
        let lock = self.lock(LockKind::Shared)?;
        self.refresh()?;
        Session::start(self.clone(), lock, options)
    }
}

impl Session {
    /// Begins to write under a lock that is held already.
    pub(crate) fn start(
        repository: Repository,
        lock: Lock,
        options: &SessionOptions,
    ) -> Result<Self, WriteError> {
        let shared = Arc::new(Shared::new(repository, lock, options.compression_level)?);
        let mut session = Self { shared, writers: Vec::new() };
        let wanted = session.shared.repository.inner.store.backend.transfers();
        for number in 0..wanted.min(SessionOptions::WRITERS_MAX).max(options.writers).max(1) {
            let shared = Arc::clone(&session.shared);
            let writer = thread::Builder::new()
                .name(format!("pack-writer-{number}"))
                .spawn(move || writers::write_packs(&shared))
                .map_err(|error| BackendError::from_io("thread", error))?;
            session.writers.push(writer);
        }
        Ok(session)
    }

    /// The repository that is written.
    #[must_use]
    pub fn repository(&self) -> &Repository {
        &self.shared.repository
    }

    /// Whether a chunk is in the repository already, or on its way.
    #[must_use]
    pub fn knows(&self, digest: &Digest) -> bool {
        self.shared.knows(BlobKind::Data, digest)
    }

    /// Saves bytes, unless they are known. Blocks while the storage is slower than the callers.
    ///
    /// # Errors
    /// The first failure of this session, wherever it happened.
    pub fn save(&self, kind: BlobKind, bytes: &[u8]) -> Result<Saved, WriteError> {
        self.save_hashed(kind, Digest::of(bytes), bytes)
    }

    /// As [`Self::save`] with a digest that the caller has computed; it is not computed again.
    ///
    /// # Errors
    /// As [`Self::save`].
    pub fn save_hashed(&self, kind: BlobKind, digest: Digest, bytes: &[u8]) -> Result<Saved, WriteError> {
        let stored = match self.shared.claim(kind, digest)? {
            Some(lane) => lane.add(digest, bytes)?,
            None => 0,
        };
        Ok(Saved { digest, stored })
    }

    /// Makes everything that was saved durable and findable: packs first, then the index. Waits for calls to
    /// [`Self::save`] that are under way in other threads.
    ///
    /// # Errors
    /// The first failure of this session; then nothing that was saved since the last commit counts.
    pub fn commit(&self) -> Result<(), WriteError> {
        self.shared.commit()
    }

    /// Writes a snapshot over committed blobs; durable on return.
    ///
    /// # Errors
    /// [`WriteError::Uncommitted`] and [`WriteError::NoTree`] when the snapshot would not be complete, and
    /// [`LockError::Lost`] when that cannot be excluded.
    pub fn save_snapshot(&self, snapshot: Snapshot) -> Result<SnapshotId, WriteError> {
        let Shared { repository, lock, .. } = &*self.shared;
        match self.shared.uncommitted()? {
            0 => {}
            blobs => return Err(WriteError::Uncommitted { blobs }),
        }
        let inner = &repository.inner;
        if !inner.index.contains(BlobKind::Tree, &snapshot.tree) {
            return Err(WriteError::NoTree { tree: snapshot.tree });
        }
        lock.verify()?;
        let id = SnapshotId(inner.store.write_json(FileKind::Snapshot, &snapshot)?.0);
        inner.remember(id, snapshot);
        Ok(id)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.close();
        for writer in self.writers.drain(..) {
            // A panic of a writer was recorded as the session's failure.
            let _ = writer.join();
        }
    }
}
