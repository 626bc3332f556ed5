//! A VM's chain: its checkpoints in order, and which disks each of them still covers.
//!
//! Only a disk's newest bitmap records, so the changes since a checkpoint K are the union of the disk's bitmaps from K
//! to the newest. A disk may be absent from some checkpoints: it was not there then, or what was tracked is lost.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::effect::{AddCheckpoint, DeleteCheckpoint, Lasts, Mark};
use crate::ids::{CheckpointId, DiskName, Time};

/// The ordered checkpoints of one VM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Oldest first; numbers ascend.
    pub checkpoints: Vec<Checkpoint>,
    /// For each disk, the last thing that ended its tracking.
    pub lost: BTreeMap<DiskName, Lost>,
}

/// The instant from which a VM's changes are tracked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Its number.
    pub id: CheckpointId,
    /// Its instant.
    pub created: Time,
    /// Whether an operator asked for it: then only an operator deletes it.
    pub by_hand: bool,
    /// The disks that it covers.
    pub disks: BTreeMap<DiskName, Tracked>,
}

/// One disk's bitmap of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracked {
    /// Its name.
    pub bitmap: String,
    /// The node that it was made on.
    pub node: String,
    /// How long it lasts.
    pub lasts: Lasts,
    /// What lay below the image then.
    pub backing: String,
    /// The disk's size then, in bytes.
    pub size_bytes: u64,
}

impl From<&Mark> for Tracked {
    fn from(mark: &Mark) -> Self {
        let Mark { bitmap, node, lasts, backing, size_bytes, .. } = mark.clone();
        Self { bitmap, node, lasts, backing, size_bytes }
    }
}

/// Why a disk's earlier checkpoints do not cover it any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Of the lost ones, the newest.
    pub through: CheckpointId,
    /// Why.
    pub reason: String,
}

impl Chain {
    /// The checkpoint of this number.
    #[must_use]
    pub fn get(&self, id: CheckpointId) -> Option<&Checkpoint> {
        self.checkpoints.iter().find(|checkpoint| checkpoint.id == id)
    }

    /// The checkpoints that cover a disk, oldest first.
    pub fn of_disk<'a>(
        &'a self,
        disk: &'a DiskName,
    ) -> impl DoubleEndedIterator<Item = (CheckpointId, &'a Tracked)> {
        self.checkpoints.iter().filter_map(move |it| it.disks.get(disk).map(|tracked| (it.id, tracked)))
    }

    /// The disks that at least one checkpoint covers.
    #[must_use]
    pub fn disks(&self) -> std::collections::BTreeSet<&DiskName> {
        self.checkpoints.iter().flat_map(|checkpoint| checkpoint.disks.keys()).collect()
    }

    /// Whether a bitmap of this name is one of a disk's.
    #[must_use]
    pub fn tracks(&self, disk: &DiskName, bitmap: &str) -> bool {
        self.of_disk(disk).any(|(_, tracked)| tracked.bitmap == bitmap)
    }

    /// Whether a disk's changes since a checkpoint are all known.
    #[must_use]
    pub fn covers(&self, disk: &DiskName, since: CheckpointId) -> bool {
        self.get(since).is_some_and(|checkpoint| checkpoint.disks.contains_key(disk))
    }

    pub(super) fn add(&mut self, effect: &AddCheckpoint, created: Time, by_hand: bool) {
        let disks: BTreeMap<_, _> =
            effect.disks.iter().map(|mark| (mark.disk.clone(), Tracked::from(mark))).collect();
        if !disks.is_empty() {
            self.checkpoints.push(Checkpoint { id: effect.checkpoint, created, by_hand, disks });
        }
    }

    pub(super) fn delete(&mut self, effect: &DeleteCheckpoint) {
        let (id, why) = (effect.checkpoint, &effect.reason);
        let Some(gone) = self.get(id).cloned() else { return };
        self.checkpoints.retain(|checkpoint| checkpoint.id != id);
        for unmark in &effect.disks {
            let Some(predecessor) = &unmark.predecessor else { continue };
            let of_disk = self.checkpoints.iter_mut().filter_map(|it| it.disks.get_mut(&unmark.disk));
            for tracked in of_disk.filter(|tracked| tracked.bitmap == predecessor.bitmap) {
                tracked.bitmap.clone_from(&predecessor.becomes);
            }
        }
        for disk in gone.disks.into_keys() {
            // Earlier checkpoints keep their meaning: the bits were merged into the predecessor. Only the oldest
            // loses something, and it is itself what is lost.
            let reason = format!("checkpoint {id} was deleted: {why}");
            self.lost.insert(disk, Lost { through: id, reason });
        }
    }

    pub(super) fn lose(&mut self, disk: &DiskName, through: CheckpointId, reason: &str) {
        for checkpoint in self.checkpoints.iter_mut().take_while(|checkpoint| checkpoint.id <= through) {
            checkpoint.disks.remove(disk);
        }
        self.checkpoints.retain(|checkpoint| !checkpoint.disks.is_empty());
        self.lost.insert(disk.clone(), Lost { through, reason: reason.to_owned() });
    }
}
