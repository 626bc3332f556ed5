//! Figures of a repository: how much is in it, how much of that is needed, and by whom.
//!
//! Reads the index and every folder, no data. Snapshots are counted in groups that the caller names; knows nothing of
//! what they mean.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::backend::{BackendError, FileKind};
use crate::blob::BlobKind;
use crate::id::{Digest, IdMap};
use crate::lock::{LockError, LockKind};
use crate::progress::{Cancelled, Watch};
use crate::repository::Repository;
use crate::snapshot::Snapshot;
use crate::store::ReadError;
use crate::tree::Content;
use crate::walk::walk;

/// What is in a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// How many snapshots.
    pub snapshots: u64,
    /// Bytes of all packs, as stored.
    pub stored_bytes: u64,
    /// Of these, bytes of what snapshots need, folders included.
    pub used_bytes: u64,
    /// Bytes of the different chunks that snapshots need, before compression.
    pub plain_bytes: u64,
    /// Bytes that all files of all snapshots have, holes included: what it would take to restore everything.
    pub restore_bytes: u64,
    /// By group, in the order of their names.
    pub groups: Vec<Group>,
}

/// What one group of snapshots has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// How many snapshots.
    pub snapshots: u64,
    /// Bytes that all their files have, holes included.
    pub restore_bytes: u64,
    /// Bytes of the chunks that it needs, as stored; other groups may need them too.
    pub used_bytes: u64,
    /// Of these, bytes that no other group needs.
    pub own_bytes: u64,
}

/// Why there are no figures.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StatsError {
    /// Somebody prunes.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The storage does not list its files.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A snapshot, a folder or the index cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The watcher said stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// What a folder holds: bytes of its own files, and the folders in it.
type Summary = (u64, Vec<Digest>);

/// In whose hands a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needed {
    By(usize),
    BySeveral,
}

impl Repository {
    /// Counts what is there. `group` names the group of a snapshot. Takes a shared lock; backups may go on meanwhile.
    /// Memory: about 40 bytes for each different chunk in use, besides the index.
    ///
    /// # Errors
    /// [`StatsError::Read`] when something that a snapshot needs is damaged or missing: a check says what.
    pub fn stats(&self, group: impl Fn(&Snapshot) -> String, watch: Watch<'_>) -> Result<Stats, StatsError> {
        let _lock = self.lock(LockKind::Shared)?;
        let mut members = BTreeMap::<String, Vec<Digest>>::new();
        for (_, snapshot) in self.snapshots()? {
            members.entry(group(&snapshot)).or_default().push(snapshot.tree);
        }
        // After the snapshots: what they need is in it.
        self.refresh()?;
        let mut stats = Stats::default();
        let mut chunks = IdMap::<Digest, Needed>::default();
        let summaries = Mutex::new(IdMap::<Digest, Summary>::default());
        let mut trees = crate::id::IdSet::default();
        for (place, (name, roots)) in members.into_iter().enumerate() {
            let load = |digest: &Digest| {
                let tree = self.load_tree(digest)?;
                let mut summary = Summary::default();
                for node in &tree.nodes {
                    match &node.content {
                        Content::File { size, .. } => summary.0 += size,
                        Content::Folder { tree } => summary.1.push(*tree),
                        Content::Other { .. } => {}
                    }
                }
                summaries.lock().expect("filling a map does not panic").insert(*digest, summary);
                Ok::<_, StatsError>(Some(tree))
            };
            let used = walk(self.inner.store.workers(), roots.iter().copied(), load, watch)?;
            let mut summaries = summaries.lock().expect("reading a map does not panic");
            let restore_bytes = roots.iter().map(|root| total(root, &mut summaries)).sum();
            let mut group = Group { name, snapshots: roots.len() as u64, restore_bytes, ..Group::default() };
            for chunk in &used.data {
                group.used_bytes += self.lengths(BlobKind::Data, chunk).0;
                let needed = chunks.entry(*chunk).or_insert(Needed::By(place));
                if *needed != Needed::By(place) {
                    *needed = Needed::BySeveral;
                }
            }
            trees.extend(used.trees);
            stats.snapshots += group.snapshots;
            stats.restore_bytes += group.restore_bytes;
            stats.groups.push(group);
        }
        for (chunk, needed) in &chunks {
            let (stored, plain) = self.lengths(BlobKind::Data, chunk);
            stats.used_bytes += stored;
            stats.plain_bytes += plain;
            if let Needed::By(place) = needed {
                stats.groups[*place].own_bytes += stored;
            }
        }
        stats.used_bytes += trees.iter().map(|tree| self.lengths(BlobKind::Tree, tree).0).sum::<u64>();
        let packs = self.inner.store.backend.list(FileKind::Pack)?;
        stats.stored_bytes = packs.iter().map(|pack| pack.size).sum();
        Ok(stats)
    }

    /// Stored and plain bytes of a blob; nothing of one that is missing, which a check reports.
    fn lengths(&self, kind: BlobKind, digest: &Digest) -> (u64, u64) {
        let found = self.inner.index.find(kind, digest);
        found.map_or((0, 0), |(_, blob)| (u64::from(blob.length), blob.plain_length() as u64))
    }
}

/// Bytes of all files below a folder. Each is added up once: restore points share most of theirs.
fn total(tree: &Digest, summaries: &mut IdMap<Digest, Summary>) -> u64 {
    let Some((bytes, below)) = summaries.get_mut(tree).map(|(bytes, below)| (*bytes, std::mem::take(below)))
    else {
        return 0;
    };
    let all = bytes + below.iter().map(|folder| total(folder, summaries)).sum::<u64>();
    summaries.insert(*tree, (all, Vec::new()));
    all
}
