//! Deciding what a prune does, from what there is and what is needed. Pure: touches nothing.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::{PruneError, PruneReport};
use crate::backend::Listed;
use crate::blob::{BlobEntry, BlobKind};
use crate::id::{FileId, IdMap, PackId};
use crate::index::IndexPack;
use crate::pack;
use crate::walk::Used;

/// What there is, and what is needed.
#[derive(Default)]
pub(super) struct Survey {
    pub(super) stored: Vec<Listed>,
    /// What all index files list; a pack may be listed twice.
    pub(super) indexed: Vec<IndexPack>,
    pub(super) used: Used,
}

/// A pack that goes, and the blobs of it that stay.
pub(super) struct Repack {
    pub(super) id: PackId,
    pub(super) used: Vec<BlobEntry>,
}

/// What to do.
#[derive(Default)]
pub(super) struct Plan {
    /// Packs that stay, as the new index lists them.
    pub(super) keep: Vec<IndexPack>,
    pub(super) repack: Vec<Repack>,
    /// Packs to remove once the new index is there: unused, repacked and unlisted ones.
    pub(super) remove: Vec<FileId>,
    /// Whether the index must be written anew.
    pub(super) index_changes: bool,
    report: PruneReport,
}

/// A pack with what is used of it.
struct Weighed {
    pack: IndexPack,
    /// Bytes of the file; `None` when it is gone.
    size: Option<u64>,
    used: Vec<BlobEntry>,
    used_bytes: u64,
    unused_bytes: u64,
}

impl Weighed {
    /// Unused bytes in 10,000 of all.
    fn waste(&self) -> u64 {
        self.unused_bytes * 10_000 / (self.unused_bytes + self.used_bytes).max(1)
    }
}

impl Plan {
    pub(super) fn report(&self) -> PruneReport {
        self.report.clone()
    }

    /// Refuses when a needed blob is in no pack that is there.
    pub(super) fn make(survey: Survey, max_unused_percent: u8) -> Result<Self, PruneError> {
        let Survey { stored, indexed, used } = survey;
        let mut plan = Self::default();
        plan.report.blobs_used = used.trees.len() + used.data.len();
        let mut unlisted =
            stored.into_iter().map(|file| (file.id, file.size)).collect::<IdMap<FileId, u64>>();
        let weighed = weigh(indexed, &mut unlisted, used)?;
        let used_bytes = weighed.iter().map(|pack| pack.used_bytes).sum::<u64>();
        let allowed = used_bytes / 100 * u64::from(max_unused_percent);
        // The most wasteful last, so that those below the allowance are the first to be reached.
        let mut partly = Vec::new();
        for pack in weighed {
            if pack.used.is_empty() {
                plan.drop_pack(&pack);
            } else if pack.unused_bytes == 0 {
                plan.keep_pack(pack);
            } else {
                partly.push(pack);
            }
        }
        partly.sort_by_key(Weighed::waste);
        for pack in partly {
            if plan.report.bytes_unused + pack.unused_bytes <= allowed {
                plan.keep_pack(pack);
            } else {
                plan.repack_pack(pack);
            }
        }
        plan.report.packs_unlisted = unlisted.len();
        plan.report.bytes_removed += unlisted.values().sum::<u64>();
        plan.remove.extend(unlisted.into_keys());
        Ok(plan)
    }

    fn keep_pack(&mut self, pack: Weighed) {
        self.report.packs_kept += 1;
        self.report.bytes_unused += pack.unused_bytes;
        self.keep.push(pack.pack);
    }

    fn drop_pack(&mut self, pack: &Weighed) {
        self.index_changes = true;
        // Only listed, the file is gone already: the listing goes too.
        if let Some(size) = pack.size {
            self.report.packs_removed += 1;
            self.report.bytes_removed += size;
            self.remove.push(pack.pack.id.into());
        }
    }

    fn repack_pack(&mut self, pack: Weighed) {
        self.index_changes = true;
        self.report.packs_repacked += 1;
        self.report.bytes_removed += pack.size.unwrap_or_default();
        self.report.bytes_repacked += pack.used_bytes;
        self.remove.push(pack.pack.id.into());
        self.repack.push(Repack { id: pack.pack.id, used: pack.used });
    }
}

/// Finds out what is used of each pack; of a blob in several packs one copy counts as used, where least is wasted.
/// Takes listed packs out of `unlisted`.
fn weigh(
    indexed: Vec<IndexPack>,
    unlisted: &mut IdMap<FileId, u64>,
    mut used: Used,
) -> Result<Vec<Weighed>, PruneError> {
    let mut packs = BTreeMap::<PackId, IndexPack>::new();
    for pack in indexed {
        packs.entry(pack.id).or_insert(pack);
    }
    let mut weighed = packs
        .into_values()
        .map(|pack| {
            let size = unlisted.remove(&FileId::from(pack.id));
            let (mut used_bytes, mut unused_bytes) = (0, 0);
            for blob in &pack.blobs {
                let needed = match blob.kind {
                    BlobKind::Data => used.data.contains(&blob.id),
                    BlobKind::Tree => used.trees.contains(&blob.id),
                };
                *(if needed { &mut used_bytes } else { &mut unused_bytes }) += u64::from(blob.length);
            }
            Weighed { pack, size, used: Vec::new(), used_bytes, unused_bytes }
        })
        .collect::<Vec<_>>();
    weighed.sort_by_key(|pack| (pack.waste(), Reverse(pack.used_bytes)));
    for pack in weighed.iter_mut().filter(|pack| pack.size.is_some()) {
        for blob in &pack.pack.blobs {
            let first = match blob.kind {
                BlobKind::Data => used.data.remove(&blob.id),
                BlobKind::Tree => used.trees.remove(&blob.id),
            };
            if first {
                pack.used.push(*blob);
            }
        }
        pack.used_bytes = pack.used.iter().map(|blob| u64::from(blob.length)).sum();
        let all = pack.pack.blobs.iter().map(|blob| u64::from(blob.length)).sum::<u64>();
        pack.unused_bytes = all - pack.used_bytes;
        let (expected, found) = (pack::expected_size(&pack.pack.blobs), pack.size.unwrap_or_default());
        if !pack.used.is_empty() && expected != found {
            return Err(PruneError::DamagedPack { pack: pack.pack.id, expected, found });
        }
    }
    refuse_missing(&used)?;
    Ok(weighed)
}

/// Whatever was found in no pack is missing.
fn refuse_missing(left: &Used) -> Result<(), PruneError> {
    let count = left.trees.len() + left.data.len();
    let tree = left.trees.iter().next().map(|first| (BlobKind::Tree, *first));
    let data = left.data.iter().next().map(|first| (BlobKind::Data, *first));
    match tree.or(data) {
        Some((kind, first)) => Err(PruneError::Missing { count, kind, first }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::id::Digest;

    fn blob(number: u8, length: u32) -> BlobEntry {
        BlobEntry { id: Digest([number; 32]), kind: BlobKind::Data, offset: 0, length, raw_length: 0 }
    }

    fn survey(packs: &[(u8, &[BlobEntry])], used: &[u8]) -> Survey {
        let indexed = packs
            .iter()
            .map(|(id, blobs)| IndexPack { id: PackId([*id; 32]), blobs: blobs.to_vec() })
            .collect::<Vec<_>>();
        let stored = indexed
            .iter()
            .map(|pack| Listed { id: pack.id.into(), size: pack::expected_size(&pack.blobs) })
            .collect();
        let data = used.iter().map(|number| Digest([*number; 32])).collect();
        Survey { stored, indexed, used: Used { data, ..Used::default() } }
    }

    #[test]
    fn drops_unused_keeps_full_and_repacks_what_wastes_most() {
        let packs: &[(u8, &[BlobEntry])] = &[
            (1, &[blob(1, 1000), blob(2, 1000)]),
            (2, &[blob(3, 9900), blob(4, 100)]),
            (3, &[blob(5, 100), blob(6, 900)]),
            (4, &[blob(7, 500)]),
        ];
        let plan = Plan::make(survey(packs, &[1, 2, 3, 5]), 5).unwrap();
        assert_eq!(plan.keep.len(), 2, "the full one, and the one that wastes 1 %");
        assert_eq!(plan.repack.len(), 1);
        assert_eq!(plan.repack[0].id, PackId([3; 32]));
        assert_eq!(plan.report.packs_removed, 1);
        assert_eq!(plan.report.bytes_unused, 100);
        let strict = Plan::make(survey(packs, &[1, 2, 3, 5]), 0).unwrap();
        assert_eq!(strict.repack.len(), 2);
    }

    #[test]
    fn of_a_blob_in_two_packs_one_copy_stays() {
        let packs: &[(u8, &[BlobEntry])] = &[(1, &[blob(1, 50), blob(2, 50)]), (2, &[blob(1, 50)])];
        let plan = Plan::make(survey(packs, &[1]), 0).unwrap();
        assert_eq!(plan.keep.len(), 1);
        assert_eq!(plan.keep[0].id, PackId([2; 32]));
        assert_eq!(plan.report.packs_removed, 1);
    }

    #[test]
    fn refuses_when_something_is_missing() {
        let packs: &[(u8, &[BlobEntry])] = &[(1, &[blob(1, 50)])];
        assert!(matches!(Plan::make(survey(packs, &[1, 9]), 5), Err(PruneError::Missing { count: 1, .. })));
        let mut gone = survey(packs, &[1]);
        gone.stored.clear();
        assert!(matches!(Plan::make(gone, 5), Err(PruneError::Missing { count: 1, .. })));
        let mut short = survey(packs, &[1]);
        short.stored[0].size -= 1;
        assert!(matches!(Plan::make(short, 5), Err(PruneError::DamagedPack { .. })));
    }

    #[test]
    fn unlisted_packs_and_listed_ghosts_go() {
        let packs: &[(u8, &[BlobEntry])] = &[(1, &[blob(1, 50)]), (2, &[blob(2, 50)])];
        let mut state = survey(packs, &[1]);
        state.stored.retain(|file| file.id != FileId([2; 32]));
        state.stored.push(Listed { id: FileId([8; 32]), size: 77 });
        let plan = Plan::make(state, 5).unwrap();
        assert!(plan.index_changes);
        assert_eq!(plan.remove, [FileId([8; 32])]);
        assert_eq!(plan.report.bytes_removed, 77);
    }
}
