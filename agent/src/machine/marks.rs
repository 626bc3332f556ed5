//! A checkpoint's bitmaps: whether they are there, and the actions that make and unmake them. Knows nothing about views.

use journal::DiskName;
use journal::effect::{AddCheckpoint, Lasts, Mark};
use journal::outcome::FailureClass;

use super::Stop;
use crate::qmp::{Action, BitmapAdd, BitmapMerge, BitmapName, BitmapSource, BlockNode};

/// Whether any of a checkpoint's bitmaps is there.
pub(super) fn has_mark(checkpoint: &AddCheckpoint, nodes: &[BlockNode]) -> bool {
    let marked = |mark: &Mark| {
        let node = nodes.iter().find(|node| node.node_name.as_deref() == Some(&mark.node));
        node.is_some_and(|node| node.bitmap(&mark.bitmap).is_some())
    };
    checkpoint.disks.iter().any(marked)
}

/// Refuses a checkpoint that would look as if nothing were missing. A bitmap that is to stop at its instant has to have
/// recorded up to it. And its node has to be what the guest writes to: QEMU takes a new bitmap on one that it only reads, and
/// loses it when it ends (7.2 and 10.0).
pub(super) fn check_marks(checkpoint: &AddCheckpoint, nodes: &[BlockNode]) -> Result<(), Stop> {
    for mark in &checkpoint.disks {
        let node = nodes.iter().find(|node| node.node_name.as_deref() == Some(&mark.node));
        if node.is_some_and(|node| node.ro) {
            let what = format!(
                "disk {}: QEMU only reads node {} now, as it does when somebody takes an external snapshot; the next look at \
                 the VM finds where the disk goes on, and its next backup is full",
                mark.disk, mark.node
            );
            return Err(Stop::failed(FailureClass::Refused, what));
        }
        for old in &mark.disable {
            let bitmap = node.and_then(|node| node.bitmap(old));
            if !bitmap.is_some_and(|bitmap| bitmap.recording) {
                return Err(stopped(&mark.disk, old));
            }
        }
    }
    Ok(())
}

/// The refusal of a map of changes that lacks some.
pub(super) fn stopped(disk: &DiskName, bitmap: &str) -> Stop {
    let what = format!(
        "disk {disk}: bitmap {bitmap} was removed or stopped since the plan was made; the next look at the VM finds it, \
         and its next backup is full"
    );
    Stop::failed(FailureClass::Refused, what)
}

/// The actions that make a checkpoint: from here on the new bitmaps record, and the old ones do not.
pub(super) fn mark_actions(checkpoint: &AddCheckpoint) -> Vec<Action> {
    let mut actions = Vec::new();
    for mark in &checkpoint.disks {
        let (node, persistent) = (mark.node.clone(), mark.lasts == Lasts::Persistent);
        actions.push(Action::BitmapAdd(BitmapAdd {
            node,
            name: mark.bitmap.clone(),
            persistent,
            ..Default::default()
        }));
        for old in &mark.disable {
            actions.push(Action::BitmapDisable(BitmapName { node: mark.node.clone(), name: old.clone() }));
        }
    }
    actions
}

/// The actions that take a checkpoint back: the old bitmaps learn what the new ones saw, and record again.
pub(super) fn unmark_actions(checkpoint: &AddCheckpoint) -> Vec<Action> {
    let mut actions = Vec::new();
    for mark in &checkpoint.disks {
        let name = &mark.bitmap;
        for old in &mark.disable {
            actions.push(Action::BitmapEnable(BitmapName { node: mark.node.clone(), name: old.clone() }));
            actions.push(Action::BitmapMerge(BitmapMerge {
                node: mark.node.clone(),
                target: old.clone(),
                bitmaps: vec![BitmapSource::Here(name.clone())],
            }));
        }
        actions.push(Action::BitmapRemove(BitmapName { node: mark.node.clone(), name: name.clone() }));
    }
    actions
}
