//! The plan's invariants, checked before anything of it is done. A flaw is a bug of ours: the job fails, nothing is
//! touched, and the text says which rule was broken.

use std::collections::BTreeSet;

use journal::effect::DiskMode;
use journal::names::{NODE_NAME_MAX, Role, temporary};
use journal::observation::Machine;
use journal::record::BackupPlanned;
use journal::state::Vm;
use journal::{DiskName, State};

use super::plan::new_bitmaps;

/// A broken invariant of a plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// A plan without disks.
    #[error("it has no disk")]
    NoDisk,
    /// The same disk or node twice.
    #[error("disk {0} is in it twice")]
    Twice(DiskName),
    /// A bitmap that is to be merged is not there, or cannot be read.
    #[error("bitmap {bitmap} of disk {disk} is not there, or inconsistent")]
    NoBitmap {
        /// The disk.
        disk: DiskName,
        /// The bitmap.
        bitmap: String,
    },
    /// An incremental without bitmaps, or a full reading with.
    #[error("disk {0} is incremental without changes, or full with")]
    ModeMismatch(DiskName),
    /// A checkpoint of the chain between the parent's and the newest is left out of the union.
    #[error("the changes of disk {0} leave a checkpoint out")]
    Gap(DiskName),
    /// A number that was used before, or a bitmap that has the new name already.
    #[error("checkpoint {0} was used before")]
    Reused(journal::CheckpointId),
    /// A name that QEMU would not take.
    #[error("the name {0} is too long for a node")]
    NameTooLong(String),
}

/// Every flaw of a plan; none, as a rule.
#[must_use]
pub fn flaws(state: &State, vm: &Vm, machine: &Machine, plan: &BackupPlanned) -> Vec<Flaw> {
    let Some(installation) = state.installation else { return vec![Flaw::Reused(plan.checkpoint)] };
    let mut flaws = Vec::new();
    if plan.disks.is_empty() {
        flaws.push(Flaw::NoDisk);
    }
    let newest = vm.chain.checkpoints.last().map(|checkpoint| checkpoint.id);
    let names = new_bitmaps(state, installation).take(plan.disks.len());
    let taken = names.into_iter().any(|name| machine.disks.iter().any(|disk| disk.bitmap(&name).is_some()));
    if taken || newest.is_some_and(|newest| newest >= plan.checkpoint) {
        flaws.push(Flaw::Reused(plan.checkpoint));
    }
    let mut seen = BTreeSet::new();
    for (place, disk) in plan.disks.iter().enumerate() {
        if !seen.insert(&disk.disk) || !seen_node(plan, place) {
            flaws.push(Flaw::Twice(disk.disk.clone()));
        }
        let name = temporary(installation, state.next.intent, place, Role::Fleece);
        if name.len() > NODE_NAME_MAX {
            flaws.push(Flaw::NameTooLong(name));
        }
        let there = machine.disks.iter().find(|it| it.disk == disk.disk);
        flaws.extend(disk.changed_since.iter().filter_map(|bitmap| {
            let good = there.and_then(|it| it.bitmap(bitmap)).is_some_and(|it| !it.inconsistent);
            (!good).then(|| Flaw::NoBitmap { disk: disk.disk.clone(), bitmap: bitmap.clone() })
        }));
        match &disk.mode {
            DiskMode::Full { .. } if disk.changed_since.is_empty() => {}
            DiskMode::Incremental { since, .. } if !disk.changed_since.is_empty() => {
                let union = vm.chain.of_disk(&disk.disk).filter(|(id, _)| id >= since).count();
                if union != disk.changed_since.len() {
                    flaws.push(Flaw::Gap(disk.disk.clone()));
                }
            }
            _ => flaws.push(Flaw::ModeMismatch(disk.disk.clone())),
        }
    }
    flaws
}

fn seen_node(plan: &BackupPlanned, place: usize) -> bool {
    plan.disks[..place].iter().all(|earlier| earlier.node != plan.disks[place].node)
}
