//! Checking: is everything that the snapshots need there, and is it what it should be.
//!
//! Finds and names problems; repairs nothing. Trusts nothing that is in memory: index files and snapshots are read
//! again.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::backend::{BackendError, FileKind, FileName};
use crate::blob::{BlobEntry, BlobKind};
use crate::id::{Digest, FileId, IdMap, IdSet, PackId, SnapshotId};
use crate::index::{Index, IndexFile, IndexPack};
use crate::lock::{LockError, LockKind};
use crate::pack;
use crate::parallel;
use crate::progress::{Cancelled, Counter, Stage, Watch};
use crate::repository::{Inner, Repository};
use crate::snapshot::Snapshot;
use crate::store::{Damage, ReadError, unseal_blob};
use crate::tree::{Content, Tree};
use crate::walk::walk;

/// Something that is not as it should be.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Problem {
    /// An index file or a snapshot cannot be read.
    #[error("{file} cannot be read: {error}")]
    Unreadable {
        /// Which.
        file: FileName,
        /// Why.
        error: ReadError,
    },
    /// A pack that an index file lists is gone.
    #[error("pack {pack} is gone; the index lists {blobs} blobs in it")]
    PackGone {
        /// Which.
        pack: PackId,
        /// How many.
        blobs: usize,
    },
    /// A pack is shorter or longer than its blobs.
    #[error("pack {pack} has {found} bytes instead of {expected}")]
    PackSize {
        /// Which.
        pack: PackId,
        /// Bytes, as the index has it.
        expected: u64,
        /// Bytes, as the storage has it.
        found: u64,
    },
    /// A pack's bytes are not what its name, its header or the index say.
    #[error("pack {pack} is damaged: {damage}")]
    PackDamaged {
        /// Which.
        pack: PackId,
        /// What is wrong.
        damage: Damage,
    },
    /// A blob in a pack is damaged.
    #[error("{kind} blob {digest} in pack {pack} is damaged: {damage}")]
    BlobDamaged {
        /// The kind of the blob.
        kind: BlobKind,
        /// Which.
        digest: Digest,
        /// Where.
        pack: PackId,
        /// What is wrong.
        damage: Damage,
    },
    /// A blob that something needs is in no index file.
    #[error("{kind} blob {digest} is missing; {needed_by} needs it")]
    BlobMissing {
        /// The kind of the blob.
        kind: BlobKind,
        /// Which.
        digest: Digest,
        /// A snapshot, or a file in a tree.
        needed_by: String,
    },
    /// A blob that something needs is only in a pack that a prune has marked: somebody who honoured no lock referred to it
    /// while it was of no use.
    #[error(
        "{kind} blob {digest} is only in pack {pack}, which is to be deleted; {needed_by} needs it: prune now, which takes \
         the pack back"
    )]
    BlobMarked {
        /// The kind of the blob.
        kind: BlobKind,
        /// Which.
        digest: Digest,
        /// Where.
        pack: PackId,
        /// A snapshot, or a file in a tree.
        needed_by: String,
    },
    /// A file's chunks do not add up to its size.
    #[error("the file {name:?} in the tree {tree} has chunks of {found} bytes instead of {expected}")]
    FileSize {
        /// The folder.
        tree: Digest,
        /// The file.
        name: String,
        /// Its size: bytes.
        expected: u64,
        /// The sum of its chunks: bytes.
        found: u64,
    },
    /// A tree cannot be read.
    #[error("the tree {tree} cannot be read: {error}")]
    Tree {
        /// Which.
        tree: Digest,
        /// Why.
        error: ReadError,
    },
}

/// What a check found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Everything that is wrong; empty when all is well.
    pub problems: Vec<Problem>,
    /// The snapshots that cannot be restored whole.
    pub affected: Vec<SnapshotId>,
    /// How many snapshots there are.
    pub snapshots: usize,
    /// Different trees in use.
    pub trees: usize,
    /// Different data blobs in use.
    pub blobs: usize,
    /// Packs that the index lists.
    pub packs: usize,
    /// Packs that no index file lists: of sessions that are running, or that died. The next prune removes those.
    pub unlisted_packs: usize,
    /// Packs that a prune marked: a later one removes them.
    pub marked_packs: usize,
    /// Bytes of packs that were read and proved; 0 unless asked for.
    pub read_bytes: u64,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.problems.is_empty()
    }
}

/// How much of the data a check reads and proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadData {
    /// None: the sizes of packs only.
    None,
    /// Every pack.
    All,
    /// A share of the packs, at least one; another seed draws others.
    Share {
        /// 1 to 100.
        percent: u8,
        /// The same seed draws the same packs.
        seed: u64,
    },
}

impl ReadData {
    /// The packs that are to be read.
    fn draw(self, mut packs: Vec<IndexPack>) -> Vec<IndexPack> {
        match self {
            Self::None => Vec::new(),
            Self::All => packs,
            Self::Share { percent, seed } => {
                let wanted = (packs.len() * usize::from(percent.min(100))).div_ceil(100);
                // By a digest of both: the ids alone would draw the same ones for ever.
                packs.sort_by_cached_key(|pack| Digest::of(&[&seed.to_le_bytes()[..], &pack.id.0].concat()));
                packs.truncate(wanted);
                packs
            }
        }
    }
}

/// Why there is no result.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CheckError {
    /// Somebody prunes.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The storage does not even list its files.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The watcher said stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl Repository {
    /// Checks that every snapshot's trees and blobs are in the index and in packs of the right size; of those that
    /// `read` draws also proves every MAC and digest. Takes a shared lock; backups may go on meanwhile.
    ///
    /// # Errors
    /// Only when it could not be carried out; what it finds is in the report.
    pub fn check(&self, read: ReadData, watch: Watch<'_>) -> Result<Report, CheckError> {
        let _lock = self.lock(LockKind::Shared)?;
        let checker = Checker { inner: &self.inner, index: Index::default(), problems: Mutex::default() };
        checker.run(read, watch)
    }
}

struct Checker<'a> {
    inner: &'a Inner,
    index: Index,
    problems: Mutex<Vec<Problem>>,
}

/// What is broken, to find out which snapshots it hits.
#[derive(Default)]
struct Broken {
    blobs: IdSet<Digest>,
    packs: IdSet<PackId>,
    trees: IdSet<Digest>,
}

impl Checker<'_> {
    fn report(&self, problem: Problem) {
        self.problems.lock().expect("pushing to a list does not panic").push(problem);
    }

    /// Snapshots first, then index, then packs: what a backup adds meanwhile it adds in the opposite order, so
    /// whatever a snapshot that we see needs is in what we read after it.
    fn run(mut self, read: ReadData, watch: Watch<'_>) -> Result<Report, CheckError> {
        let snapshots = self.read_snapshots()?;
        let (packs, marked) = self.read_index(watch)?;
        let (unlisted_packs, marked_packs) = self.compare_packs(&packs, &marked)?;
        for (id, snapshot) in &snapshots {
            self.demand(BlobKind::Tree, &snapshot.tree, || format!("snapshot {id}"));
        }
        let roots = snapshots.iter().map(|(_, snapshot)| snapshot.tree);
        let used = walk(
            self.inner.store.workers(),
            roots,
            |digest| Ok::<_, Cancelled>(self.check_tree(digest)),
            watch,
        )?;
        let listed_packs = packs.len();
        let read_bytes = self.read_packs(&read.draw(packs), watch)?;
        let problems = std::mem::take(&mut *self.problems.lock().expect("pushing to a list does not panic"));
        let affected = if problems.is_empty() { Vec::new() } else { self.affected(&snapshots, &problems) };
        let (snapshots, trees, blobs, packs) =
            (snapshots.len(), used.trees.len(), used.data.len(), listed_packs);
        Ok(Report {
            problems,
            affected,
            snapshots,
            trees,
            blobs,
            packs,
            unlisted_packs,
            marked_packs,
            read_bytes,
        })
    }

    fn read_snapshots(&self) -> Result<Vec<(SnapshotId, Snapshot)>, CheckError> {
        let listed = self.inner.store.backend.list(FileKind::Snapshot)?;
        let read = Mutex::new(Vec::new());
        parallel::each(self.inner.store.workers(), &listed, |listed| {
            match self.inner.store.read_json(FileKind::Snapshot, listed.id) {
                Ok(snapshot) => read
                    .lock()
                    .expect("pushing to a list does not panic")
                    .push((SnapshotId(listed.id.0), snapshot)),
                Err(ReadError::Backend(BackendError::NotFound { .. })) => {}
                Err(error) => self.report(unreadable(FileKind::Snapshot, listed.id, error)),
            }
            Ok::<_, CheckError>(())
        })?;
        let mut snapshots = read.into_inner().expect("pushing to a list does not panic");
        snapshots.sort_by_key(|(id, _)| *id);
        Ok(snapshots)
    }

    /// The packs that index files list, and those that they mark.
    fn read_index(&mut self, watch: Watch<'_>) -> Result<(Vec<IndexPack>, IdSet<PackId>), CheckError> {
        let files = self.inner.store.backend.list(FileKind::Index)?;
        let counter = Counter::new(watch, Stage::Index, files.len());
        let packs = (BTreeMap::<PackId, Vec<BlobEntry>>::new(), IdSet::default());
        let read = Mutex::new((Index::default(), packs));
        parallel::each(self.inner.store.workers(), &files, |listed| {
            match self.inner.store.read_json::<IndexFile>(FileKind::Index, listed.id) {
                Ok(file) => {
                    let (index, (packs, marked)) = &mut *read.lock().expect("filling maps does not panic");
                    index.add(listed.id, &file);
                    marked.extend(file.packs_to_delete.iter().map(|pack| pack.id));
                    for pack in file.packs {
                        packs.entry(pack.id).or_insert(pack.blobs);
                    }
                }
                Err(error) => self.report(unreadable(FileKind::Index, listed.id, error)),
            }
            counter.one_more()
        })?;
        let (index, (packs, marked)) = read.into_inner().expect("filling maps does not panic");
        self.index = index;
        self.index.settle();
        Ok((packs.into_iter().map(|(id, blobs)| IndexPack { id, blobs }).collect(), marked))
    }

    /// Compares the index with what is stored; returns how many packs no index file lists, and how many are marked.
    fn compare_packs(
        &self,
        packs: &[IndexPack],
        marked: &IdSet<PackId>,
    ) -> Result<(usize, usize), CheckError> {
        let listed = self.inner.store.backend.list(FileKind::Pack)?;
        let mut stored = listed.iter().map(|file| (file.id, file.size)).collect::<IdMap<FileId, u64>>();
        for IndexPack { id: pack, blobs } in packs {
            let expected = pack::expected_size(blobs);
            match stored.remove(&FileId::from(*pack)) {
                None => self.report(Problem::PackGone { pack: *pack, blobs: blobs.len() }),
                Some(found) if found != expected => {
                    self.report(Problem::PackSize { pack: *pack, expected, found });
                }
                Some(_) => {}
            }
        }
        let waiting = marked.iter().filter(|pack| stored.remove(&FileId::from(**pack)).is_some()).count();
        Ok((stored.len(), waiting))
    }

    /// Where a blob is that something needs. Reports one that is nowhere, or not where it stays.
    fn demand(
        &self,
        kind: BlobKind,
        digest: &Digest,
        needed_by: impl FnOnce() -> String,
    ) -> Option<BlobEntry> {
        if let Some((_, blob)) = self.index.find_listed(kind, digest) {
            return Some(blob);
        }
        let (found, digest, needed_by) = (self.index.find(kind, digest), *digest, needed_by());
        self.report(match found {
            Some((pack, _)) => Problem::BlobMarked { kind, digest, pack, needed_by },
            None => Problem::BlobMissing { kind, digest, needed_by },
        });
        found.map(|(_, blob)| blob)
    }

    fn load_tree(&self, digest: &Digest) -> Option<Result<Tree, ReadError>> {
        let (pack, blob) = self.index.find(BlobKind::Tree, digest)?;
        let mut json = vec![0; blob.plain_length()];
        let tree = self.inner.store.read_blob(pack, &blob, &mut json).and_then(|()| {
            serde_json::from_slice(&json).map_err(|error| {
                let damage = Damage::malformed(&error);
                ReadError::DamagedBlob { kind: BlobKind::Tree, digest: *digest, pack, damage }
            })
        });
        Some(tree)
    }

    /// Loads a tree and checks its nodes. One that is missing was reported where it is needed.
    fn check_tree(&self, digest: &Digest) -> Option<Tree> {
        let tree = match self.load_tree(digest)? {
            Ok(tree) => tree,
            Err(error) => {
                self.report(Problem::Tree { tree: *digest, error });
                return None;
            }
        };
        for node in &tree.nodes {
            let needed_by = || format!("{:?} in the tree {digest}", node.name);
            match &node.content {
                Content::File { size, chunks } => {
                    let mut found = 0;
                    for chunk in chunks {
                        let Some(blob) = self.demand(BlobKind::Data, chunk, needed_by) else {
                            found = *size;
                            break;
                        };
                        found += blob.plain_length() as u64;
                    }
                    if found != *size {
                        let (name, expected) = (node.name.clone(), *size);
                        self.report(Problem::FileSize { tree: *digest, name, expected, found });
                    }
                }
                Content::Folder { tree } => {
                    self.demand(BlobKind::Tree, tree, needed_by);
                }
                Content::Other { .. } => {}
            }
        }
        Some(tree)
    }

    /// Reads and proves every pack; returns how many bytes that were.
    fn read_packs(&self, packs: &[IndexPack], watch: Watch<'_>) -> Result<u64, CheckError> {
        let counter = Counter::new(watch, Stage::Packs, packs.len());
        let read = parallel::each_with(
            self.inner.store.workers(),
            packs,
            || 0,
            |bytes, pack| {
                *bytes += self.read_pack(pack);
                counter.one_more()
            },
        )?;
        Ok(read.into_iter().sum())
    }

    fn read_pack(&self, listing: &IndexPack) -> u64 {
        let pack = listing.id;
        let damaged = |damage| self.report(Problem::PackDamaged { pack, damage });
        let mut bytes = match self.inner.store.backend.read(&FileName::pack(pack)) {
            Ok(bytes) => bytes,
            Err(BackendError::NotFound { .. }) => return 0,
            Err(error) => {
                self.report(Problem::Unreadable { file: FileName::pack(pack), error: error.into() });
                return 0;
            }
        };
        let found = PackId::of(&bytes);
        if found != pack {
            damaged(Damage::WrongDigest { found: found.to_string() });
        }
        let mut expected = listing.blobs.clone();
        expected.sort_by_key(|blob| blob.offset);
        match pack::parse(&self.inner.store.key, &bytes) {
            Ok(header) if header == expected => {}
            Ok(_) => damaged(Damage::malformed("its header lists other blobs than the index")),
            Err(damage) => damaged(damage),
        }
        let mut plain = Vec::new();
        for blob in &expected {
            let start = blob.offset as usize;
            plain.resize(blob.plain_length(), 0);
            let proved = match bytes.get_mut(start..start + blob.length as usize) {
                Some(sealed) => unseal_blob(&self.inner.store.key, blob, sealed, &mut plain),
                None => Err(Damage::CutOff),
            };
            if let Err(damage) = proved {
                self.report(Problem::BlobDamaged { kind: blob.kind, digest: blob.id, pack, damage });
            }
        }
        bytes.len() as u64
    }

    /// The snapshots that need something broken.
    fn affected(&self, snapshots: &[(SnapshotId, Snapshot)], problems: &[Problem]) -> Vec<SnapshotId> {
        let mut broken = Broken::default();
        let mut affected = Vec::new();
        for problem in problems {
            match problem {
                Problem::Unreadable { file: FileName::Of(FileKind::Snapshot, id), .. } => {
                    affected.push(SnapshotId(id.0));
                }
                Problem::PackGone { pack, .. } => {
                    broken.packs.insert(*pack);
                }
                Problem::BlobDamaged { digest, .. } | Problem::BlobMissing { digest, .. } => {
                    broken.blobs.insert(*digest);
                }
                Problem::FileSize { tree, .. } | Problem::Tree { tree, .. } => {
                    broken.trees.insert(*tree);
                }
                // A pack of a wrong size or digest may still hold good blobs: only reading them tells. One that is marked
                // is still there.
                Problem::Unreadable { .. }
                | Problem::PackSize { .. }
                | Problem::PackDamaged { .. }
                | Problem::BlobMarked { .. } => {}
            }
        }
        let mut known = IdMap::default();
        affected.extend(
            snapshots
                .iter()
                .filter(|(_, snapshot)| self.is_hit(&snapshot.tree, &broken, &mut known))
                .map(|(id, _)| *id),
        );
        affected
    }

    fn is_hit(&self, tree: &Digest, broken: &Broken, known: &mut IdMap<Digest, bool>) -> bool {
        if let Some(hit) = known.get(tree) {
            return *hit;
        }
        let lost = |kind, digest: &Digest| {
            let place = self.index.find(kind, digest);
            broken.blobs.contains(digest) || place.is_none_or(|(pack, _)| broken.packs.contains(&pack))
        };
        let hit = lost(BlobKind::Tree, tree)
            || broken.trees.contains(tree)
            || match self.load_tree(tree) {
                Some(Ok(listing)) => listing.nodes.iter().any(|node| match &node.content {
                    Content::File { chunks, .. } => chunks.iter().any(|chunk| lost(BlobKind::Data, chunk)),
                    Content::Folder { tree } => self.is_hit(tree, broken, known),
                    Content::Other { .. } => false,
                }),
                _ => true,
            };
        known.insert(*tree, hit);
        hit
    }
}

fn unreadable(kind: FileKind, id: FileId, error: ReadError) -> Problem {
    Problem::Unreadable { file: FileName::Of(kind, id), error }
}
