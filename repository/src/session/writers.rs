//! The threads that bring finished packs to the storage, and the index files that follow them.
//!
//! Knows nothing of how packs are filled.

use super::WriteError;
use super::lanes::{Shared, UNPOISONED};
use crate::backend::{FileKind, FileName};
use crate::index::{BLOBS_PER_FILE, IndexFile, IndexPack};
use crate::pack::FinishedPack;

/// Buffers that are kept for the next packs.
const SPARE: usize = 2;

/// The life of one writer: until the session is closed.
pub(super) fn write_packs(shared: &Shared) {
    while let Some(pack) = next(shared) {
        let writing = Writing(shared);
        if let Err(error) = write(shared, pack) {
            shared.fail(error);
        }
        drop(writing);
    }
}

fn next(shared: &Shared) -> Option<FinishedPack> {
    let mut state = shared.state();
    loop {
        if state.closed {
            return None;
        }
        if let Some(pack) = state.queue.pop_front() {
            state.writing += 1;
            drop(state);
            shared.changed.notify_all();
            return Some(pack);
        }
        shared.effort.storage_is_idle();
        state = shared.changed.wait(state).expect(UNPOISONED);
    }
}

/// Counts a write until it is over, a panic included.
struct Writing<'a>(&'a Shared);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(WriteError::Abandoned);
        }
        self.0.state().writing -= 1;
        self.0.changed.notify_all();
    }
}

fn write(shared: &Shared, pack: FinishedPack) -> Result<(), WriteError> {
    if shared.has_failed() {
        return Ok(());
    }
    let store = &shared.repository.inner.store;
    store.backend.write(&FileName::pack(pack.listing.id), pack.bytes())?;
    let (listing, buffer) = pack.into_parts();
    let mut state = shared.state();
    if state.spare.len() < SPARE {
        state.spare.push(buffer);
    }
    state.written.push(listing);
    let waiting = state.written.iter().map(|pack| pack.blobs.len()).sum::<usize>();
    if waiting < BLOBS_PER_FILE {
        return Ok(());
    }
    let full = std::mem::take(&mut state.written);
    drop(state);
    shared.write_index(full)
}

impl Shared {
    /// Lists durable packs in index files; from then on their blobs count as stored.
    pub(super) fn write_index(&self, packs: Vec<IndexPack>) -> Result<(), WriteError> {
        if packs.is_empty() {
            return Ok(());
        }
        // Without the lock somebody may have pruned packs that no index lists: ours.
        self.lock.verify()?;
        let inner = &self.repository.inner;
        for packs in split(packs) {
            let file = IndexFile::of(packs);
            let id = inner.store.write_json(FileKind::Index, &file)?;
            inner.index.add(id, &file);
            self.release(&file.packs);
        }
        Ok(())
    }
}

/// Index files of at most about [`BLOBS_PER_FILE`] blobs.
pub(crate) fn split(packs: Vec<IndexPack>) -> Vec<Vec<IndexPack>> {
    let mut files = Vec::<Vec<IndexPack>>::new();
    let mut blobs = usize::MAX;
    for pack in packs {
        if blobs.saturating_add(pack.blobs.len()) > BLOBS_PER_FILE {
            files.push(Vec::new());
            blobs = 0;
        }
        blobs += pack.blobs.len();
        if let Some(file) = files.last_mut() {
            file.push(pack);
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::{BlobEntry, BlobKind};
    use crate::id::{Digest, PackId};

    #[test]
    fn index_files_hold_whole_packs_up_to_the_limit() {
        let pack = |blobs| IndexPack {
            id: PackId([1; 32]),
            blobs: vec![
                BlobEntry {
                    id: Digest([2; 32]),
                    kind: BlobKind::Data,
                    offset: 0,
                    length: 1,
                    raw_length: 0
                };
                blobs
            ],
        };
        let sizes = |blobs: &[usize]| {
            let files = split(blobs.iter().map(|blobs| pack(*blobs)).collect());
            files
                .iter()
                .map(|file| file.iter().map(|pack| pack.blobs.len()).collect())
                .collect::<Vec<Vec<_>>>()
        };
        assert_eq!(sizes(&[]), [[0; 0]; 0]);
        assert_eq!(sizes(&[30_000, 20_000, 1]), [vec![30_000, 20_000], vec![1]]);
        assert_eq!(sizes(&[60_000, 5]), [[60_000], [5]]);
    }
}
