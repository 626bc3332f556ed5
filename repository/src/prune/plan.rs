//! Deciding what a prune does, from what there is and what is needed. Pure: touches nothing.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use super::{PruneError, PruneOptions, PruneReport};
use crate::backend::Listed;
use crate::blob::{BlobEntry, BlobKind};
use crate::id::{FileId, IdMap, PackId};
use crate::index::{IndexPack, MarkedPack};
use crate::pack;
use crate::walk::Used;

/// What there is, and what is needed.
#[derive(Default)]
pub(super) struct Survey {
    pub(super) stored: Vec<Listed>,
    /// What all index files list; a pack may be listed twice.
    pub(super) indexed: Vec<IndexPack>,
    /// What earlier prunes marked.
    pub(super) marked: Vec<MarkedPack>,
    pub(super) used: Used,
}

/// A pack that goes, and the blobs of it that stay.
pub(super) struct Repack {
    pub(super) id: PackId,
    pub(super) used: Vec<BlobEntry>,
}

/// What to do.
pub(super) struct Plan {
    /// Packs that stay, as the new index lists them.
    pub(super) keep: Vec<IndexPack>,
    pub(super) repack: Vec<Repack>,
    /// Packs that stay for a while, as the new index lists them: unused, repacked and unlisted ones.
    pub(super) marked: Vec<MarkedPack>,
    /// The same whose time is over: to remove once the new index is there.
    pub(super) remove: Vec<FileId>,
    /// Whether the index must be written anew.
    pub(super) index_changes: bool,
    report: PruneReport,
    grace: TimeDelta,
    now: DateTime<Utc>,
}

/// What the index says of a pack. In this order blobs are looked for: nothing is taken back that is elsewhere too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Listed,
    /// Of no use since then, as an earlier prune found.
    Marked(DateTime<Utc>),
    /// Nothing.
    Unlisted,
}

/// A pack with what is used of it.
struct Weighed {
    pack: IndexPack,
    standing: Standing,
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
    pub(super) fn make(
        survey: Survey,
        options: &PruneOptions,
        now: DateTime<Utc>,
    ) -> Result<Self, PruneError> {
        let Survey { stored, indexed, marked, used } = survey;
        let blobs_used = used.trees.len() + used.data.len();
        let mut plan = Self {
            keep: Vec::new(),
            repack: Vec::new(),
            marked: Vec::new(),
            remove: Vec::new(),
            index_changes: false,
            report: PruneReport { dry_run: options.dry_run, blobs_used, ..PruneReport::default() },
            grace: options.grace,
            now,
        };
        let mut unlisted =
            stored.into_iter().map(|file| (file.id, file.size)).collect::<IdMap<FileId, u64>>();
        let weighed = weigh(standing(indexed, marked, now), &mut unlisted, used)?;
        plan.sort_out(weighed, options.max_unused_percent);
        plan.report.packs_unlisted = unlisted.len();
        for (id, size) in unlisted {
            plan.give_up(IndexPack { id: PackId(id.0), blobs: Vec::new() }, size, Standing::Listed);
        }
        Ok(plan)
    }

    /// Decides of each pack whether it stays.
    fn sort_out(&mut self, weighed: Vec<Weighed>, max_unused_percent: u8) {
        let used_bytes = weighed.iter().map(|pack| pack.used_bytes).sum::<u64>();
        let allowed = used_bytes / 100 * u64::from(max_unused_percent);
        let mut partly = Vec::new();
        for pack in weighed {
            if pack.used.is_empty() {
                self.drop_pack(pack);
                continue;
            }
            if let Standing::Marked(_) = pack.standing {
                self.index_changes = true;
                self.report.packs_taken_back += 1;
            }
            if pack.unused_bytes == 0 {
                self.keep_pack(pack);
            } else {
                partly.push(pack);
            }
        }
        // The most wasteful last, so that those below the allowance are the first to be reached.
        partly.sort_by_key(Weighed::waste);
        for pack in partly {
            if self.report.bytes_unused + pack.unused_bytes <= allowed {
                self.keep_pack(pack);
            } else {
                self.repack_pack(pack);
            }
        }
    }

    fn keep_pack(&mut self, pack: Weighed) {
        self.report.packs_kept += 1;
        self.report.bytes_unused += pack.unused_bytes;
        self.keep.push(pack.pack);
    }

    fn drop_pack(&mut self, pack: Weighed) {
        match pack.size {
            // Only listed, the file is gone already: the listing goes too.
            None => self.index_changes = true,
            Some(size) => {
                self.report.packs_unused += 1;
                self.give_up(pack.pack, size, pack.standing);
            }
        }
    }

    fn repack_pack(&mut self, pack: Weighed) {
        self.report.packs_repacked += 1;
        self.report.bytes_repacked += pack.used_bytes;
        self.repack.push(Repack { id: pack.pack.id, used: pack.used });
        // Needed up to now, whatever it was marked as.
        self.give_up(pack.pack, pack.size.unwrap_or_default(), Standing::Listed);
    }

    /// Removes a pack of no use, or marks it until its time is over.
    fn give_up(&mut self, pack: IndexPack, size: u64, standing: Standing) {
        let since = match standing {
            Standing::Listed | Standing::Unlisted => self.now,
            // The clock of the host that marked it may be ahead of ours.
            Standing::Marked(since) => since.min(self.now),
        };
        if self.now - since >= self.grace {
            self.index_changes |= standing != Standing::Unlisted;
            self.report.packs_removed += 1;
            self.report.bytes_removed += size;
            self.remove.push(pack.id.into());
        } else {
            self.index_changes |= !matches!(standing, Standing::Marked(_));
            self.report.packs_marked += 1;
            self.report.bytes_marked += size;
            let due = since.checked_add_signed(self.grace).unwrap_or(DateTime::<Utc>::MAX_UTC);
            self.report.first_due = Some(self.report.first_due.map_or(due, |first| first.min(due)));
            let IndexPack { id, blobs } = pack;
            self.marked.push(MarkedPack { id, blobs, time: Some(since), size: Some(size) });
        }
    }
}

/// Every pack of the index once. One that is listed and marked is listed: a prune died in between, or somebody who knew of
/// no lock listed it.
fn standing(
    indexed: Vec<IndexPack>,
    marked: Vec<MarkedPack>,
    now: DateTime<Utc>,
) -> BTreeMap<PackId, (IndexPack, Standing)> {
    let mut packs = BTreeMap::new();
    for pack in indexed {
        packs.entry(pack.id).or_insert((pack, Standing::Listed));
    }
    for MarkedPack { id, blobs, time, .. } in marked {
        let since = Standing::Marked(time.unwrap_or(now));
        packs.entry(id).or_insert((IndexPack { id, blobs }, since));
    }
    packs
}

/// Finds out what is used of each pack; of a blob in several packs one copy counts as used, where least is wasted.
/// Takes packs that the index has out of `unlisted`.
fn weigh(
    packs: BTreeMap<PackId, (IndexPack, Standing)>,
    unlisted: &mut IdMap<FileId, u64>,
    mut used: Used,
) -> Result<Vec<Weighed>, PruneError> {
    let mut weighed = packs
        .into_values()
        .map(|(pack, standing)| {
            let size = unlisted.remove(&FileId::from(pack.id));
            let (mut used_bytes, mut unused_bytes) = (0, 0);
            for blob in &pack.blobs {
                let needed = match blob.kind {
                    BlobKind::Data => used.data.contains(&blob.id),
                    BlobKind::Tree => used.trees.contains(&blob.id),
                };
                *(if needed { &mut used_bytes } else { &mut unused_bytes }) += u64::from(blob.length);
            }
            Weighed { pack, standing, size, used: Vec::new(), used_bytes, unused_bytes }
        })
        .collect::<Vec<_>>();
    weighed.sort_by_key(|pack| (pack.standing, pack.waste(), Reverse(pack.used_bytes)));
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
mod tests;
