//! One open repository: reading blobs, trees and snapshots, and forgetting.
//!
//! Knows nothing of how a repository is found and unlocked (`open`), written (`session`), or cleaned (`prune`).

use std::sync::{Arc, Mutex};

use crate::backend::{BackendError, FileKind, FileName};
use crate::blob::{BlobEntry, BlobKind};
use crate::config::Config;
use crate::id::{Digest, FileId, IdMap, PackId, SnapshotId};
use crate::index::SharedIndex;
use crate::lock::{Lock, LockError, LockKind};
use crate::parallel;
use crate::snapshot::Snapshot;
use crate::store::{Damage, ReadError, Room, Store, wrong_length};
use crate::tree::{Content, Node, Tree};

/// An open repository. Cloning is cheap, and all clones share one index; every method may be called from many
/// threads at the same time.
///
/// Reading takes no lock by itself: whoever reads over a longer time holds a [`Lock`], or somebody may prune in
/// between.
#[derive(Debug, Clone)]
pub struct Repository {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) store: Arc<Store>,
    pub(crate) config: Config,
    pub(crate) index: SharedIndex,
    /// Snapshot files never change, so each is read once.
    snapshots: Mutex<IdMap<SnapshotId, Arc<Snapshot>>>,
}

impl Repository {
    pub(crate) fn new(store: Store, config: Config) -> Self {
        let (index, snapshots) = (SharedIndex::default(), Mutex::default());
        Self { inner: Arc::new(Inner { store: Arc::new(store), config, index, snapshots }) }
    }

    /// The repository's identity, fixed when it was made.
    #[must_use]
    pub fn id(&self) -> FileId {
        self.inner.config.id
    }

    /// Where it is, for people.
    #[must_use]
    pub fn location(&self) -> String {
        self.inner.store.backend.location()
    }

    /// Bytes of a chunk, fixed when the repository was made; 1 MiB when restic made it.
    #[must_use]
    pub fn chunk_size(&self) -> u32 {
        self.inner.config.fixed_chunk_size
    }

    /// How many blobs the index holds in memory, as of the last refresh.
    #[must_use]
    pub fn blob_count(&self) -> usize {
        self.inner.index.len()
    }

    /// Locks the repository for as long as the result lives. A session has its own.
    ///
    /// # Errors
    /// [`LockError::Locked`] says who is in the way.
    pub fn lock(&self, kind: LockKind) -> Result<Lock, LockError> {
        Lock::acquire(&self.inner.store, kind)
    }

    /// Reads index files that others wrote since the last time; everything again when somebody pruned.
    ///
    /// # Errors
    /// When the index cannot be read whole; the old one stays in use.
    pub fn refresh(&self) -> Result<(), ReadError> {
        self.inner.index.refresh(&self.inner.store)
    }

    /// A data blob's plain bytes, proved by MAC and digest.
    ///
    /// # Errors
    /// [`ReadError::DamagedBlob`] names the pack; [`ReadError::MissingBlob`] comes after one refresh of the index.
    pub fn load_blob(&self, digest: &Digest) -> Result<Vec<u8>, ReadError> {
        let mut plain = Vec::new();
        self.load_blob_into(digest, &mut plain)?;
        Ok(plain)
    }

    /// As [`Self::load_blob`], into a buffer that is used again; what it held is replaced.
    ///
    /// # Errors
    /// As [`Self::load_blob`]; the content of the buffer is then undefined.
    pub fn load_blob_into(&self, digest: &Digest, plain: &mut impl Room) -> Result<(), ReadError> {
        self.inner.load(BlobKind::Data, digest, plain, Store::read_blob)
    }

    /// As [`Self::load_blob_into`], proved by MAC only: somebody with the key wrote these bytes as this blob. For whoever
    /// puts them somewhere, and computes the digest of what is there then.
    ///
    /// # Errors
    /// As [`Self::load_blob_into`].
    pub fn load_authentic_blob_into(&self, digest: &Digest, plain: &mut impl Room) -> Result<(), ReadError> {
        self.inner.load(BlobKind::Data, digest, plain, Store::read_authentic_blob)
    }

    /// How many plain bytes a data blob has, without reading it; `None` when no index lists it.
    #[must_use]
    pub fn blob_length(&self, digest: &Digest) -> Option<usize> {
        self.inner.index.find(BlobKind::Data, digest).map(|(_, blob)| blob.plain_length())
    }

    /// A folder.
    ///
    /// # Errors
    /// As [`Self::load_blob`].
    pub fn load_tree(&self, digest: &Digest) -> Result<Tree, ReadError> {
        self.inner.load_tree(digest)
    }

    /// The node at `path` (separated by `/`) below `tree`.
    ///
    /// # Errors
    /// [`ReadError::NoSuchPath`] when there is none, or when what stands on the way is not a folder.
    pub fn node_at(&self, tree: &Digest, path: &str) -> Result<Node, ReadError> {
        let missing = || ReadError::NoSuchPath { path: path.to_owned(), tree: *tree };
        let mut folder = *tree;
        let mut names = path.split('/').filter(|name| !name.is_empty()).peekable();
        while let Some(name) = names.next() {
            let node = self
                .load_tree(&folder)?
                .nodes
                .into_iter()
                .find(|node| node.name == name)
                .ok_or_else(missing)?;
            match node.content {
                _ if names.peek().is_none() => return Ok(node),
                Content::Folder { tree } => folder = tree,
                _ => return Err(missing()),
            }
        }
        Err(missing())
    }

    /// The names of all snapshots: one listing, nothing is read.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn snapshot_ids(&self) -> Result<Vec<SnapshotId>, BackendError> {
        let listed = self.inner.store.backend.list(FileKind::Snapshot)?;
        Ok(listed.into_iter().map(|file| SnapshotId(file.id.0)).collect())
    }

    /// All snapshots, oldest first. Each is read once in the life of this value.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn snapshots(&self) -> Result<Vec<(SnapshotId, Arc<Snapshot>)>, ReadError> {
        let loaded = Mutex::new(Vec::new());
        parallel::each(self.inner.store.workers(), &self.snapshot_ids()?, |id| {
            match self.load_snapshot(*id) {
                Ok(snapshot) => {
                    loaded.lock().expect("pushing to a list does not panic").push((*id, snapshot));
                    Ok(())
                }
                // Forgotten since the listing.
                Err(ReadError::NoSnapshot { .. }) => Ok(()),
                Err(error) => Err(error),
            }
        })?;
        let mut all = loaded.into_inner().expect("pushing to a list does not panic");
        all.sort_by_key(|(id, snapshot)| (snapshot.time, *id));
        Ok(all)
    }

    /// The snapshots that carry `tag`, oldest first.
    ///
    /// # Errors
    /// As [`Self::snapshots`].
    pub fn snapshots_with_tag(&self, tag: &str) -> Result<Vec<(SnapshotId, Arc<Snapshot>)>, ReadError> {
        let mut tagged = self.snapshots()?;
        tagged.retain(|(_, snapshot)| snapshot.tags.iter().any(|mark| mark == tag));
        Ok(tagged)
    }

    /// One snapshot, from memory where it was read before: it may have been forgotten since.
    ///
    /// # Errors
    /// [`ReadError::NoSnapshot`] when there is none.
    pub fn load_snapshot(&self, id: SnapshotId) -> Result<Arc<Snapshot>, ReadError> {
        if let Some(known) = self.inner.snapshots().get(&id) {
            return Ok(Arc::clone(known));
        }
        let snapshot = match self.inner.store.read_json::<Snapshot>(FileKind::Snapshot, id.into()) {
            Err(ReadError::Backend(BackendError::NotFound { .. })) => {
                return Err(ReadError::NoSnapshot { id });
            }
            other => Arc::new(other?),
        };
        self.inner.snapshots().insert(id, Arc::clone(&snapshot));
        Ok(snapshot)
    }

    /// Whether the snapshot is there now; asks the storage.
    ///
    /// # Errors
    /// When the storage cannot tell.
    pub fn snapshot_exists(&self, id: SnapshotId) -> Result<bool, BackendError> {
        self.inner.store.backend.exists(&FileName::Of(FileKind::Snapshot, id.into()))
    }

    /// Removes a snapshot; its blobs stay until the next prune. Takes a shared lock meanwhile: nobody may be pruning.
    ///
    /// # Errors
    /// [`ForgetError::NoSnapshot`] when it is gone already, which a repetition takes for success.
    pub fn forget(&self, id: SnapshotId) -> Result<(), ForgetError> {
        self.inner.store.backend.may_remove().map_err(ForgetError::Backend)?;
        let _lock = self.lock(LockKind::Shared)?;
        let removed = self.inner.store.backend.remove(&FileName::Of(FileKind::Snapshot, id.into()));
        self.inner.snapshots().remove(&id);
        removed.map_err(|error| match error {
            BackendError::NotFound { .. } => ForgetError::NoSnapshot { id },
            other => ForgetError::Backend(other),
        })
    }
}

/// Why a snapshot was not forgotten.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ForgetError {
    /// It is not there.
    #[error("there is no snapshot {id}; nothing to forget")]
    NoSnapshot {
        /// Which.
        id: SnapshotId,
    },
    /// Somebody else holds the repository.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The storage failed.
    #[error(transparent)]
    Backend(BackendError),
}

impl Inner {
    fn snapshots(&self) -> std::sync::MutexGuard<'_, IdMap<SnapshotId, Arc<Snapshot>>> {
        self.snapshots.lock().expect("nothing panics while it holds the snapshots")
    }

    /// Remembers a snapshot that this process has just written.
    pub(crate) fn remember(&self, id: SnapshotId, snapshot: Snapshot) {
        self.snapshots().insert(id, Arc::new(snapshot));
    }

    pub(crate) fn load_tree(&self, digest: &Digest) -> Result<Tree, ReadError> {
        let mut json = Vec::new();
        self.load(BlobKind::Tree, digest, &mut json, Store::read_blob)?;
        serde_json::from_slice(&json).map_err(|error| {
            let pack = self.index.find(BlobKind::Tree, digest).map(|(pack, _)| pack);
            let damage = Damage::malformed(&error);
            match pack {
                Some(pack) => ReadError::DamagedBlob { kind: BlobKind::Tree, digest: *digest, pack, damage },
                None => ReadError::MissingBlob { kind: BlobKind::Tree, digest: *digest },
            }
        })
    }

    /// Reads a blob; looks for a newer index once when the blob, or the pack it should be in, is not there.
    fn load(
        &self,
        kind: BlobKind,
        digest: &Digest,
        plain: &mut impl Room,
        read: impl Fn(&Store, PackId, &BlobEntry, &mut [u8]) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        let mut load = || {
            let (pack, blob) =
                self.index.find(kind, digest).ok_or(ReadError::MissingBlob { kind, digest: *digest })?;
            let room = plain.make(blob.plain_length()).ok_or_else(|| wrong_length(pack, &blob))?;
            read(&self.store, pack, &blob, room)
        };
        let generation = self.index.generation();
        match load() {
            Err(ReadError::MissingBlob { .. } | ReadError::Backend(BackendError::NotFound { .. })) => {
                self.index.refresh_since(&self.store, generation)?;
                load()
            }
            done => done,
        }
    }
}
