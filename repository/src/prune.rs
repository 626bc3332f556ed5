//! Pruning: giving back the space of what no snapshot needs.
//!
//! Needs the repository alone. The order makes every step safe to be the last: new packs, new index, then the old
//! index goes, then the old packs. With a grace time the last step is left to a later prune: until then the new index lists
//! those packs as marked, and whichever turns out to be needed after all is taken back. Knows nothing of why a snapshot was
//! forgotten.

mod plan;
mod report;

use std::sync::Mutex;

use chrono::{TimeDelta, Utc};

use crate::backend::{BackendError, FileKind, FileName};
use crate::blob::BlobKind;
use crate::direct::Aligned;
use crate::id::{Digest, FileId};
use crate::index::{BLOBS_PER_FILE, IndexFile, IndexPack, MarkedPack, for_each_file};
use crate::lock::{Lock, LockError, LockKind};
use crate::pack::{PackBuilder, TooLarge};
use crate::parallel;
use crate::progress::{Cancelled, Counter, Stage, Watch};
use crate::repository::Repository;
use crate::session::{join_small, split};
use crate::store::{ReadError, unseal_blob};
use crate::walk::walk;
use plan::{Plan, Repack, Survey};
pub use report::PruneReport;

/// Marked packs in one index file: with their blobs about as large as any other.
const MARKS_PER_FILE: usize = 500;

/// Index files beyond what the blobs need, before they are joined even though nothing else is to be done.
const SPARE_INDEX_FILES: usize = 16;

/// What to prune.
#[derive(Debug, Clone)]
pub struct PruneOptions {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Unused bytes may stay in packs that are partly used, up to this share of the used ones; restic's default is 5.
    /// 0 repacks everything that has a hole.
    pub max_unused_percent: u8,
    /// How long a pack stays after it was found to be of no use, marked as such in the index. None at all: the exclusive lock
    /// is what protects others, and it is enough where everybody honours it. Counted anew by every prune from when the pack
    /// was marked.
    pub grace: TimeDelta,
}

impl Default for PruneOptions {
    fn default() -> Self {
        Self { dry_run: false, max_unused_percent: 5, grace: TimeDelta::zero() }
    }
}

/// Why nothing was pruned, or not all.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PruneError {
    /// Something that a snapshot needs is not there: pruning now could remove what a repair needs.
    #[error(
        "{count} blobs that snapshots need are missing (the first: {kind} {first}); nothing was removed; run a check"
    )]
    Missing {
        /// How many.
        count: usize,
        /// The kind of the first.
        kind: BlobKind,
        /// One of them.
        first: Digest,
    },
    /// A pack in use has another size than the index says.
    #[error("pack {pack} has {found} bytes instead of {expected}; nothing was removed; run a check")]
    DamagedPack {
        /// Which.
        pack: crate::id::PackId,
        /// Bytes, as the index has it.
        expected: u64,
        /// Bytes, as the storage has it.
        found: u64,
    },
    /// Somebody else uses the repository, or our lock was lost.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// An index file, a snapshot or a blob in use cannot be read. Nothing was removed.
    #[error("{0}; nothing was removed")]
    Read(#[from] ReadError),
    /// The storage failed; what is there is complete, and the next prune goes on.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A blob that fits in no pack.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// The watcher said stop; what is there is complete, and the next prune goes on.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl Repository {
    /// Removes packs that nothing uses, repacks those that are used too little, and clears what dead sessions left.
    /// Takes an exclusive lock (a dry run a shared one). Packs that have been of no use for less than
    /// [`PruneOptions::grace`] are marked, and go with a later prune.
    ///
    /// # Errors
    /// [`PruneError::Missing`] when the repository is damaged. Whatever the error, every snapshot is as readable as
    /// before.
    pub fn prune(&self, options: &PruneOptions, watch: Watch<'_>) -> Result<PruneReport, PruneError> {
        if !options.dry_run {
            self.inner.store.backend.may_remove()?;
        }
        let lock = self.lock(if options.dry_run { LockKind::Shared } else { LockKind::Exclusive })?;
        let (survey, old_index) = self.survey(watch)?;
        let plan = Plan::make(survey, options, Utc::now())?;
        let mut report = plan.report();
        if options.dry_run {
            return Ok(report);
        }
        let blobs = plan.keep.iter().map(|pack| pack.blobs.len()).sum::<usize>();
        let crowded = old_index.len() > SPARE_INDEX_FILES + 2 * (blobs / BLOBS_PER_FILE);
        if plan.index_changes || crowded {
            let mut packs = self.repack(&plan.repack, watch)?;
            packs.extend(plan.keep);
            self.replace_index(packs, &plan.marked, &old_index, &lock)?;
        }
        self.remove_packs(&plan.remove, &lock, watch)?;
        report.leftovers = self.inner.store.backend.sweep()?;
        self.refresh()?;
        Ok(report)
    }

    /// Reads what there is and what is needed.
    fn survey(&self, watch: Watch<'_>) -> Result<(Survey, Vec<FileId>), PruneError> {
        let backend = &self.inner.store.backend;
        let files = backend.list(FileKind::Index)?.into_iter().map(|file| file.id).collect::<Vec<_>>();
        let mut survey = Survey { stored: backend.list(FileKind::Pack)?, ..Survey::default() };
        // Told file by file: over a slow line this alone takes long, and what shows nothing counts as hung.
        let counter = Counter::new(watch, Stage::Index, files.len());
        let mut stopped = Ok(());
        for_each_file(&self.inner.store, &files, |_, file| {
            survey.indexed.extend(file.packs);
            survey.marked.extend(file.packs_to_delete);
            stopped = stopped.and_then(|()| counter.one_more());
        })?;
        stopped?;
        self.refresh()?;
        let roots = self.snapshots()?.into_iter().map(|(_, snapshot)| snapshot.tree).collect::<Vec<_>>();
        let missing = Mutex::new(None);
        survey.used = walk(
            self.inner.store.workers(),
            roots,
            |digest| match self.inner.load_tree(digest) {
                Ok(tree) => Ok(Some(tree)),
                Err(ReadError::MissingBlob { kind, digest }) => {
                    *missing.lock().expect("setting a value does not panic") = Some((kind, digest));
                    Ok(None)
                }
                Err(error) => Err(PruneError::Read(error)),
            },
            watch,
        )?;
        match missing.into_inner().expect("setting a value does not panic") {
            Some((kind, first)) => Err(PruneError::Missing { count: 1, kind, first }),
            None => Ok((survey, files)),
        }
    }

    /// Copies used blobs, sealed as they are but proved, into new packs.
    fn repack(&self, repack: &[Repack], watch: Watch<'_>) -> Result<Vec<IndexPack>, PruneError> {
        let store = &self.inner.store;
        let counter = Counter::new(watch, Stage::Repack, repack.len());
        let written = Mutex::new(Vec::new());
        let write = |pack: PackBuilder| -> Result<Aligned, PruneError> {
            let pack = pack.finish(&store.key);
            store.backend.write(&FileName::pack(pack.listing.id), pack.bytes())?;
            let (listing, buffer) = pack.into_parts();
            written.lock().expect("pushing to a list does not panic").push(listing);
            Ok(buffer)
        };
        let open = || [PackBuilder::new(Aligned::default()), PackBuilder::new(Aligned::default())];
        let rest = parallel::each_with(store.workers(), repack, open, |[data, trees], pack| {
            let (mut sealed, mut opened, mut plain) = (Vec::new(), Vec::new(), Vec::new());
            for blob in &pack.used {
                sealed.resize(blob.length as usize, 0);
                let name = FileName::pack(pack.id);
                store
                    .backend
                    .read_range(&name, u64::from(blob.offset), &mut sealed)
                    .map_err(ReadError::from)?;
                opened.clone_from(&sealed);
                plain.resize(blob.plain_length(), 0);
                unseal_blob(&store.key, blob, &mut opened, &mut plain).map_err(|damage| {
                    ReadError::DamagedBlob { kind: blob.kind, digest: blob.id, pack: pack.id, damage }
                })?;
                let target = if blob.kind == BlobKind::Data { &mut *data } else { &mut *trees };
                target.add_sealed(blob, &sealed)?;
                if target.is_full() {
                    let full = std::mem::replace(target, PackBuilder::new(Aligned::default()));
                    *target = PackBuilder::new(write(full)?);
                }
            }
            counter.one_more().map_err(PruneError::from)
        })?;
        let (data, trees): (Vec<_>, Vec<_>) = rest.into_iter().map(|[data, trees]| (data, trees)).unzip();
        for packs in [data, trees] {
            for pack in join_small(packs.into_iter())? {
                write(pack)?;
            }
        }
        Ok(written.into_inner().expect("pushing to a list does not panic"))
    }

    /// The new index is complete and durable before the first file of the old one goes.
    fn replace_index(
        &self,
        packs: Vec<IndexPack>,
        marked: &[MarkedPack],
        old: &[FileId],
        lock: &Lock,
    ) -> Result<(), PruneError> {
        let store = &self.inner.store;
        lock.verify()?;
        for packs in split(packs) {
            store.write_json(FileKind::Index, &IndexFile::of(packs))?;
        }
        for marked in marked.chunks(MARKS_PER_FILE) {
            let file = IndexFile { packs: Vec::new(), packs_to_delete: marked.to_vec() };
            store.write_json(FileKind::Index, &file)?;
        }
        lock.verify()?;
        parallel::each(store.workers(), old, |id| remove(self, &FileName::Of(FileKind::Index, *id)))
    }

    fn remove_packs(&self, packs: &[FileId], lock: &Lock, watch: Watch<'_>) -> Result<(), PruneError> {
        lock.verify()?;
        let counter = Counter::new(watch, Stage::Remove, packs.len());
        parallel::each(self.inner.store.workers(), packs, |id| {
            remove(self, &FileName::Of(FileKind::Pack, *id))?;
            counter.one_more().map_err(PruneError::from)
        })
    }
}

fn remove(repository: &Repository, name: &FileName) -> Result<(), PruneError> {
    match repository.inner.store.backend.remove(name) {
        Ok(()) | Err(BackendError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
