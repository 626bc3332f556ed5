//! The index: which blob lies where. Its files, and the compact map of all of them in memory.
//!
//! Costs 48 bytes of memory for each blob, and up to an eighth more of room to grow: a terabyte of different chunks of 256 KiB
//! is 200 MB. Knows nothing of trees.

mod shelves;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::backend::{BackendError, FileKind};
use crate::blob::{BlobEntry, BlobKind};
use crate::id::{Digest, FileId, IdSet, PackId};
use crate::parallel;
use crate::store::{ReadError, Store};
use shelves::Shelves;

/// An index file is written when this many blobs wait for one: restic's own limit.
pub(crate) const BLOBS_PER_FILE: usize = 50_000;

/// One pack as an index file lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IndexPack {
    pub(crate) id: PackId,
    pub(crate) blobs: Vec<BlobEntry>,
}

/// A pack of no use that a prune left for a while: who knew of it, and of no lock, may still need it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MarkedPack {
    pub(crate) id: PackId,
    /// None of one that no index file listed.
    pub(crate) blobs: Vec<BlobEntry>,
    /// Since when it is of no use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) time: Option<DateTime<Utc>>,
    /// Bytes of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) size: Option<u64>,
}

/// An index file.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct IndexFile {
    pub(crate) packs: Vec<IndexPack>,
    /// rustic's extension of the format (`rustic_core`, `repofile/indexfile.rs`), which restic passes over: for restic these
    /// are files that no index lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) packs_to_delete: Vec<MarkedPack>,
}

impl IndexFile {
    /// One that lists packs in use.
    pub(crate) fn of(packs: Vec<IndexPack>) -> Self {
        Self { packs, packs_to_delete: Vec::new() }
    }
}

/// Where a blob lies: 16 bytes.
#[derive(Debug, Clone, Copy)]
struct Place {
    pack: u32,
    offset: u32,
    length: u32,
    raw_length: u32,
}

/// Blobs by their kind.
#[derive(Debug, Default)]
struct Kinds {
    data: Shelves,
    trees: Shelves,
}

impl Kinds {
    fn of(&self, kind: BlobKind) -> &Shelves {
        match kind {
            BlobKind::Data => &self.data,
            BlobKind::Tree => &self.trees,
        }
    }

    fn put(&mut self, pack: u32, blobs: &[BlobEntry]) {
        for blob in blobs {
            let BlobEntry { offset, length, raw_length, .. } = *blob;
            let place = Place { pack, offset, length, raw_length };
            match blob.kind {
                BlobKind::Data => self.data.put(blob.id, place),
                BlobKind::Tree => self.trees.put(blob.id, place),
            }
        }
    }

    fn take_over(&mut self, other: Self, moved: impl Fn(Place) -> Place) {
        self.data.take_over(other.data, &moved);
        self.trees.take_over(other.trees, moved);
    }

    fn settle(&mut self) {
        self.data.settle();
        self.trees.settle();
    }
}

/// Every blob that the index files list.
#[derive(Debug, Default)]
pub(crate) struct Index {
    packs: Vec<PackId>,
    listed: Kinds,
    /// What lies in packs that are to be deleted: still read where it is nowhere else, never referred to anew.
    marked: Kinds,
    /// The files that this map was made of.
    files: IdSet<FileId>,
}

impl Index {
    /// Whether a snapshot may refer to it.
    pub(crate) fn contains(&self, kind: BlobKind, digest: &Digest) -> bool {
        self.listed.of(kind).find(digest).is_some()
    }

    /// How many blobs there are that a snapshot may refer to.
    pub(crate) fn len(&self) -> usize {
        self.listed.data.len() + self.listed.trees.len()
    }

    /// Where it can be read, if need be in a pack that is to be deleted.
    pub(crate) fn find(&self, kind: BlobKind, digest: &Digest) -> Option<(PackId, BlobEntry)> {
        self.find_listed(kind, digest)
            .or_else(|| self.entry(kind, digest, self.marked.of(kind).find(digest)?))
    }

    /// Where it is, in a pack that stays.
    pub(crate) fn find_listed(&self, kind: BlobKind, digest: &Digest) -> Option<(PackId, BlobEntry)> {
        self.entry(kind, digest, self.listed.of(kind).find(digest)?)
    }

    fn entry(&self, kind: BlobKind, digest: &Digest, place: &Place) -> Option<(PackId, BlobEntry)> {
        let pack = self.packs.get(usize::try_from(place.pack).ok()?)?;
        let Place { offset, length, raw_length, .. } = *place;
        Some((*pack, BlobEntry { id: *digest, kind, offset, length, raw_length }))
    }

    /// Adds what one index file lists; it is found after [`Self::settle`]. Of a blob in several packs the first place is
    /// kept.
    pub(crate) fn add(&mut self, file: FileId, listing: &IndexFile) {
        if !self.files.insert(file) {
            return;
        }
        for pack in &listing.packs {
            let number = self.number(pack.id);
            self.listed.put(number, &pack.blobs);
        }
        for pack in &listing.packs_to_delete {
            let number = self.number(pack.id);
            self.marked.put(number, &pack.blobs);
        }
    }

    /// Gives a pack the next number.
    fn number(&mut self, pack: PackId) -> u32 {
        let number = number_of(&self.packs);
        self.packs.push(pack);
        number
    }

    /// Adds what another index holds, settled or not, of other files. Takes as long as there are blobs on the shelves to which
    /// some come.
    fn take_over(&mut self, other: Self) {
        if self.packs.is_empty() {
            // Not copied: both together would be twice the size.
            let files = std::mem::take(&mut self.files);
            *self = other;
            self.files.extend(files);
            return self.settle();
        }
        let before = number_of(&self.packs);
        let moved = |place: Place| Place { pack: before + place.pack, ..place };
        self.packs.extend(other.packs);
        self.files.extend(other.files);
        self.listed.take_over(other.listed, moved);
        self.marked.take_over(other.marked, moved);
        self.settle();
    }

    /// Makes everything that was added findable.
    pub(crate) fn settle(&mut self) {
        self.listed.settle();
        self.marked.settle();
    }
}

/// The number that the next pack gets.
fn number_of(packs: &[PackId]) -> u32 {
    u32::try_from(packs.len()).expect("4 billion packs of 16 MiB are 64 PiB")
}

/// The index that the threads of one process share.
#[derive(Debug, Default)]
pub(crate) struct SharedIndex {
    map: RwLock<Index>,
    /// Held during a refresh; counts them, so that threads that miss together refresh once.
    refreshes: Mutex<u64>,
    /// The same count, readable while a refresh runs.
    generation: AtomicU64,
}

const UNPOISONED: &str = "nothing panics while it holds the index";

impl SharedIndex {
    pub(crate) fn contains(&self, kind: BlobKind, digest: &Digest) -> bool {
        self.map.read().expect(UNPOISONED).contains(kind, digest)
    }

    pub(crate) fn find(&self, kind: BlobKind, digest: &Digest) -> Option<(PackId, BlobEntry)> {
        self.map.read().expect(UNPOISONED).find(kind, digest)
    }

    /// How many blobs there are.
    pub(crate) fn len(&self) -> usize {
        self.map.read().expect(UNPOISONED).len()
    }

    /// Adds an index file that this process has just written.
    pub(crate) fn add(&self, file: FileId, listing: &IndexFile) {
        let mut fresh = Index::default();
        fresh.add(file, listing);
        self.map.write().expect(UNPOISONED).take_over(fresh);
    }

    /// Counts refreshes: see [`Self::refresh_since`].
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Follows the index files: adds new ones, and starts again when one that was read is gone (somebody pruned).
    pub(crate) fn refresh(&self, store: &Store) -> Result<(), ReadError> {
        self.refresh_since(store, u64::MAX)
    }

    /// Refreshes, unless another thread has done so since `generation` was seen.
    pub(crate) fn refresh_since(&self, store: &Store, generation: u64) -> Result<(), ReadError> {
        let mut refreshes = self.refreshes.lock().expect(UNPOISONED);
        if *refreshes > generation {
            return Ok(());
        }
        let listed: IdSet<FileId> = store.backend.list(FileKind::Index)?.iter().map(|file| file.id).collect();
        let (gone, new) = {
            let map = self.map.read().expect(UNPOISONED);
            let new = listed.iter().copied().filter(|id| !map.files.contains(id)).collect::<Vec<_>>();
            (!map.files.is_subset(&listed), new)
        };
        let wanted = if gone { listed.into_iter().collect() } else { new };
        let mut fresh = Index::default();
        for_each_file(store, &wanted, |id, file| fresh.add(id, &file))?;
        let mut map = self.map.write().expect(UNPOISONED);
        if gone {
            *map = Index::default();
        }
        if !wanted.is_empty() {
            map.take_over(fresh);
        }
        drop(map);
        *refreshes += 1;
        self.generation.store(*refreshes, Ordering::Release);
        Ok(())
    }
}

/// Reads index files on all cores and hands each to `take`, in no particular order.
///
/// A file that vanished since the listing is left out: its successor is complete before it is removed, and
/// whoever misses a blob refreshes again.
pub(crate) fn for_each_file(
    store: &Store,
    files: &[FileId],
    take: impl FnMut(FileId, IndexFile) + Send,
) -> Result<(), ReadError> {
    let take = Mutex::new(take);
    parallel::each(store.workers(), files, |id| {
        match store.read_json(FileKind::Index, *id) {
            Ok(file) => (take.lock().expect(UNPOISONED))(*id, file),
            Err(ReadError::Backend(BackendError::NotFound { .. })) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    })
}

#[cfg(test)]
mod measure;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn entry(kind: BlobKind, byte: u8, offset: u32) -> BlobEntry {
        BlobEntry { id: Digest([byte; 32]), kind, offset, length: 40, raw_length: 100 }
    }

    #[test]
    fn kinds_do_not_mix_and_the_first_place_stays() {
        let mut index = Index::default();
        let pack = |byte, blobs| IndexPack { id: PackId([byte; 32]), blobs };
        let file = IndexFile::of;
        index.add(FileId([1; 32]), &file(vec![pack(1, vec![entry(BlobKind::Data, 7, 0)])]));
        index.add(
            FileId([2; 32]),
            &file(vec![pack(2, vec![entry(BlobKind::Data, 7, 5), entry(BlobKind::Tree, 8, 45)])]),
        );
        index.settle();
        assert_eq!(index.len(), 2);
        assert!(!index.contains(BlobKind::Tree, &Digest([7; 32])));
        let (pack, blob) = index.find(BlobKind::Data, &Digest([7; 32])).unwrap();
        assert_eq!((pack, blob.offset), (PackId([1; 32]), 0));
    }

    #[test]
    fn reads_what_restic_writes() {
        let text = r#"{"supersedes":["2f9b417d3a0bbf50018b320b3ea33c876d01bc6ed727bbbab15b8e4bb01bf944"],"packs":[
            {"id":"0c43a079416c2ff4af7e435575b79b767e8d19a2345af670bacc6308d7a9b09e","blobs":[
            {"id":"51a30b7a2e90d41f072b26969f53a97496503dbf6dbe6b342f78392527923d49","type":"data","offset":0,"length":38},
            {"id":"dbf95829d0e82c4cbf3d652a7586934933f7c14e6d7a7055ca7f2be4763a4dc9","type":"tree","offset":38,
             "length":666293,"uncompressed_length":1154995}]}]}"#;
        let file: IndexFile = serde_json::from_str(text).unwrap();
        assert_eq!(file.packs[0].blobs[0].plain_length(), 6);
        assert_eq!(file.packs[0].blobs[1].plain_length(), 1_154_995);
        assert!(!serde_json::to_string(&file.packs[0].blobs[0]).unwrap().contains("uncompressed"));
        assert!(!serde_json::to_string(&file).unwrap().contains("packs_to_delete"));
    }

    #[test]
    fn reads_and_writes_what_rustic_marks() {
        let id = "0c43a079416c2ff4af7e435575b79b767e8d19a2345af670bacc6308d7a9b09e";
        let text = format!(
            r#"{{"packs":[],"packs_to_delete":[{{"id":"{id}","blobs":[],"time":"2024-02-03T04:05:06.7+01:00","size":77}}]}}"#
        );
        let file: IndexFile = serde_json::from_str(&text).unwrap();
        let marked = &file.packs_to_delete[0];
        assert_eq!((marked.size, marked.time), (Some(77), "2024-02-03T03:05:06.7Z".parse().ok()));
        let written = serde_json::to_string(&file).unwrap();
        assert_eq!(written, text.replace("04:05:06.7+01:00", "03:05:06.700Z"));
    }

    #[test]
    fn what_is_marked_is_read_but_not_referred_to_anew() {
        let blob = |offset| entry(BlobKind::Data, 7, offset);
        let marked = |byte, offset| MarkedPack {
            id: PackId([byte; 32]),
            blobs: vec![blob(offset)],
            time: None,
            size: None,
        };
        let mut index = Index::default();
        index
            .add(FileId([1; 32]), &IndexFile { packs_to_delete: vec![marked(1, 5)], ..IndexFile::default() });
        index.settle();
        let digest = Digest([7; 32]);
        assert!(!index.contains(BlobKind::Data, &digest));
        assert_eq!(index.find(BlobKind::Data, &digest), Some((PackId([1; 32]), blob(5))));
        let listed = IndexPack { id: PackId([2; 32]), blobs: vec![blob(9)] };
        index.add(FileId([2; 32]), &IndexFile::of(vec![listed]));
        index.settle();
        assert_eq!(index.find(BlobKind::Data, &digest), Some((PackId([2; 32]), blob(9))));
    }
}
