//! What the threads of a session share: which blobs are claimed, open packs, finished packs, the first failure.
//!
//! A *lane* is an open pack that one thread at a time works on, so that compressing and sealing need no lock. Knows
//! nothing of how packs reach the storage.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};

use super::WriteError;
use crate::blob::BlobKind;
use crate::compression::{self, Compression, Effort};
use crate::direct::Aligned;
use crate::id::{Digest, IdSet};
use crate::index::IndexPack;
use crate::lock::Lock;
use crate::pack::{FinishedPack, PackBuilder, TARGET_SIZE, TooLarge};
use crate::repository::Repository;

/// Finished packs that wait for a writer; whoever finishes one more waits.
const QUEUE: usize = 2;
/// Room for the header of a pack of chunks.
const HEADER_ROOM: usize = 64 << 10;
pub(super) const UNPOISONED: &str = "nothing panics while it holds the session's state";

pub(super) struct Shared {
    pub(super) repository: Repository,
    pub(super) lock: Lock,
    pub(super) effort: Effort,
    state: Mutex<State>,
    /// Woken at every change that somebody may wait for.
    pub(super) changed: Condvar,
    /// Whether there is a failure: looked at without the mutex.
    failed: AtomicBool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("repository", &self.repository)
            .field("lock", &self.lock)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
pub(super) struct State {
    /// Saved, and in no index file yet.
    claimed_data: IdSet<Digest>,
    claimed_trees: IdSet<Digest>,
    idle: Vec<Lane>,
    /// Lanes that threads work on now.
    out: usize,
    /// No new work is taken on.
    committing: bool,
    pub(super) closed: bool,
    pub(super) queue: VecDeque<FinishedPack>,
    /// Packs and index files being written now.
    pub(super) writing: usize,
    /// Buffers to be used again.
    pub(super) spare: Vec<Aligned>,
    /// Durable packs that no index file lists yet.
    pub(super) written: Vec<IndexPack>,
    pub(super) failure: Option<WriteError>,
}

impl State {
    fn claimed(&mut self, kind: BlobKind) -> &mut IdSet<Digest> {
        match kind {
            BlobKind::Data => &mut self.claimed_data,
            BlobKind::Tree => &mut self.claimed_trees,
        }
    }
}

struct Lane {
    kind: BlobKind,
    pack: PackBuilder,
    compression: Compression,
}

/// A lane in the hands of one thread. If that thread panics, the session has failed.
pub(super) struct Working<'a> {
    shared: &'a Shared,
    lane: Option<Lane>,
    done: bool,
}

impl Shared {
    pub(super) fn new(repository: Repository, lock: Lock, level: i32) -> Result<Self, WriteError> {
        let effort = Effort::new(level);
        Compression::new(&effort)?;
        let (state, changed, failed) = (Mutex::default(), Condvar::new(), AtomicBool::new(false));
        Ok(Self { repository, lock, effort, state, changed, failed })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect(UNPOISONED)
    }

    pub(super) fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).expect(UNPOISONED)
    }

    /// Keeps the first failure and wakes everybody.
    pub(super) fn fail(&self, error: WriteError) {
        let mut state = self.state();
        state.failure.get_or_insert(error);
        // Under the mutex, or somebody could look, miss it, and wait for ever.
        self.failed.store(true, Ordering::Release);
        drop(state);
        self.changed.notify_all();
    }

    fn failure(&self) -> Result<(), WriteError> {
        if !self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        self.state().failure.clone().map_or(Ok(()), Err)
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    pub(super) fn knows(&self, kind: BlobKind, digest: &Digest) -> bool {
        // The set first: a blob enters the index before it leaves the set.
        self.state().claimed(kind).contains(digest) || self.repository.inner.index.contains(kind, digest)
    }

    /// How many blobs are in no index file yet.
    pub(super) fn uncommitted(&self) -> Result<usize, WriteError> {
        self.failure()?;
        let state = self.state();
        Ok(state.claimed_data.len() + state.claimed_trees.len())
    }

    /// Takes a blob on, with a lane to put it in; `None` when it is known, or another thread has taken it on.
    pub(super) fn claim(&self, kind: BlobKind, digest: Digest) -> Result<Option<Working<'_>>, WriteError> {
        self.failure()?;
        if self.repository.inner.index.contains(kind, &digest) {
            return Ok(None);
        }
        let mut state = self.state();
        while state.committing && !self.has_failed() {
            state = self.wait(state);
        }
        // Asked again: since the first look it may have moved from the set to the index.
        if self.repository.inner.index.contains(kind, &digest) || !state.claimed(kind).insert(digest) {
            return Ok(None);
        }
        state.out += 1;
        let idle =
            state.idle.iter().rposition(|lane| lane.kind == kind).map(|place| state.idle.swap_remove(place));
        let buffer = if idle.is_none() { state.spare.pop() } else { None };
        drop(state);
        let mut working = Working { shared: self, lane: idle, done: false };
        if working.lane.is_none() {
            let pack = PackBuilder::new(buffer.unwrap_or_else(|| self.new_buffer()));
            working.lane = Some(Lane { kind, pack, compression: Compression::new(&self.effort)? });
        }
        Ok(Some(working))
    }

    /// Fresh zeroed pages: the system gives them when they are first touched.
    fn new_buffer(&self) -> Aligned {
        let largest = compression::room_for(self.repository.chunk_size() as usize);
        Aligned::zeroed(TARGET_SIZE + largest + HEADER_ROOM)
    }

    /// Hands a finished pack to the writers; waits for room.
    fn enqueue(&self, pack: FinishedPack) -> Result<(), WriteError> {
        let mut state = self.state();
        if state.queue.len() >= QUEUE {
            self.effort.storage_is_behind();
        }
        while state.queue.len() >= QUEUE && state.failure.is_none() {
            state = self.wait(state);
        }
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        state.queue.push_back(pack);
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    /// Packs, then index: see [`super::Session::commit`].
    pub(super) fn commit(&self) -> Result<(), WriteError> {
        let mut state = self.state();
        while state.committing && !self.has_failed() {
            state = self.wait(state);
        }
        state.committing = true;
        while state.out > 0 && !self.has_failed() {
            state = self.wait(state);
        }
        let lanes = std::mem::take(&mut state.idle);
        drop(state);
        let done = self.failure().and_then(|()| self.flush(lanes));
        if let Err(error) = &done {
            self.fail(error.clone());
        }
        self.state().committing = false;
        self.changed.notify_all();
        done
    }

    fn flush(&self, lanes: Vec<Lane>) -> Result<(), WriteError> {
        let key = &self.repository.inner.store.key;
        let (data, trees) = lanes.into_iter().partition::<Vec<_>, _>(|lane| lane.kind == BlobKind::Data);
        for lanes in [data, trees] {
            for pack in join_small(lanes.into_iter().map(|lane| lane.pack))? {
                self.enqueue(pack.finish(key))?;
            }
        }
        let mut state = self.state();
        while (!state.queue.is_empty() || state.writing > 0) && state.failure.is_none() {
            state = self.wait(state);
        }
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        let written = std::mem::take(&mut state.written);
        drop(state);
        self.write_index(written)
    }

    /// What an index file lists is committed: it moves from the set to the index.
    pub(super) fn release(&self, packs: &[IndexPack]) {
        let mut state = self.state();
        for blob in packs.iter().flat_map(|pack| &pack.blobs) {
            state.claimed(blob.kind).remove(&blob.id);
        }
    }

    /// Ends the session; finished packs that no writer has begun are dropped.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.queue.clear();
        drop(state);
        self.changed.notify_all();
    }
}

/// Joins open packs that fit into one, so that a small commit is one pack however many threads saved.
pub(crate) fn join_small(packs: impl Iterator<Item = PackBuilder>) -> Result<Vec<PackBuilder>, TooLarge> {
    let mut joined = Vec::<PackBuilder>::new();
    for pack in packs.filter(|pack| !pack.is_empty()) {
        match joined.last_mut() {
            Some(last) if last.len() + pack.len() <= TARGET_SIZE => {
                last.absorb(pack)?;
            }
            _ => joined.push(pack),
        }
    }
    Ok(joined)
}

impl Working<'_> {
    /// Compresses, seals and appends, and gives the lane back; returns the bytes in the pack.
    pub(super) fn add(self, digest: Digest, plain: &[u8]) -> Result<u64, WriteError> {
        let effort = &self.shared.effort;
        self.work(|lane, key| {
            let compression = lane.compression.with(effort)?;
            Ok(lane.pack.add(key, compression, (lane.kind, digest), plain)?)
        })
    }

    fn work(
        mut self,
        append: impl FnOnce(&mut Lane, &crate::crypto::Key) -> Result<u64, WriteError>,
    ) -> Result<u64, WriteError> {
        let shared = self.shared;
        let key = &shared.repository.inner.store.key;
        let lane = self.lane.as_mut().ok_or(WriteError::Abandoned)?;
        let stored = append(lane, key).inspect_err(|error| shared.fail(error.clone()))?;
        if lane.pack.is_full() {
            let buffer = shared.state().spare.pop().unwrap_or_else(|| shared.new_buffer());
            let full = std::mem::replace(&mut lane.pack, PackBuilder::new(buffer));
            shared.enqueue(full.finish(key))?;
        }
        if let Some(lane) = self.lane.take() {
            shared.state().idle.push(lane);
        }
        self.done = true;
        Ok(stored)
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.out -= 1;
        let waiting = state.committing;
        drop(state);
        if !self.done {
            // A panic, or a failure that is recorded already and stays the first.
            self.shared.fail(WriteError::Abandoned);
        } else if waiting {
            self.shared.changed.notify_all();
        }
    }
}
