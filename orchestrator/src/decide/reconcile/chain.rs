//! The chain's bitmaps: which of them still tell the truth.
//!
//! A bad bitmap makes every checkpoint up to its own worthless for that disk, since their changes are unions that
//! include it. Later checkpoints, and other disks, are not concerned.

use journal::effect::{AddCheckpoint, Begin, DeleteCheckpoint};
use journal::observation::{BitmapSeen, DiskSeen};
use journal::state::Tracked;
use journal::{CheckpointId, DiskName, Effect};

use super::open::{was_added, was_deleted};
use super::{Finding, Row, Subject, Verdict};

pub(super) fn findings(subject: Subject<'_>) -> Vec<Finding> {
    subject.vm.chain.disks().into_iter().flat_map(|disk| of_disk(subject, disk)).collect()
}

fn of_disk(subject: Subject<'_>, disk: &DiskName) -> Vec<Finding> {
    let Some(seen) = subject.machine.disks.iter().find(|seen| seen.disk == *disk) else {
        return vec![Finding {
            row: Row::DiskAway,
            disk: Some(disk.clone()),
            what: format!("disk {disk} is not in this QEMU now"),
            verdict: Verdict::GoOn,
        }];
    };
    let chain: Vec<(CheckpointId, &Tracked)> = subject.vm.chain.of_disk(disk).collect();
    let newest = chain.last().map(|(id, _)| *id);
    // From the newest back: the first bad one settles the fate of all the older.
    let mut found = Vec::new();
    for (id, tracked) in chain.into_iter().rev() {
        // An open deletion may have taken its bitmap away already; its own row speaks for it.
        if is_being_changed(subject, id, tracked) {
            continue;
        }
        let newest = newest == Some(id) && !is_succeeded(subject, tracked);
        let finding = of_bitmap(subject, seen, id, tracked, newest);
        let bad = matches!(finding.verdict, Verdict::Lose(..));
        found.push(finding);
        if bad {
            break;
        }
    }
    found
}

/// Whether an open intent is about to change this bitmap, or whether it records.
fn is_being_changed(subject: Subject<'_>, id: CheckpointId, tracked: &Tracked) -> bool {
    let name = &tracked.bitmap;
    let disables = |add: &AddCheckpoint| {
        add.process == subject.machine.process && add.disks.iter().any(|mark| mark.disable.contains(name))
    };
    let touches = |delete: &DeleteCheckpoint| {
        let mut predecessors = delete.disks.iter().filter_map(|it| it.predecessor.as_ref());
        delete.checkpoint == id || predecessors.any(|it| it.bitmap == *name)
    };
    subject.state.open_on(subject.id()).any(|open| match &open.intent.effect {
        Effect::DeleteCheckpoint(delete) if delete.process == subject.machine.process => touches(delete),
        // QEMU ended in order after the deletion, whose answer never came: its own row settles it.
        Effect::DeleteCheckpoint(delete) => touches(delete) && was_deleted(delete, subject.machine),
        Effect::AddCheckpoint(add) => disables(add),
        Effect::Begin(begin) => disables(&begin.checkpoint),
        _ => false,
    })
}

/// Whether an open intent has made a checkpoint that took the recording over from this bitmap: its transaction ran, and
/// QEMU ended in order before its answer came.
fn is_succeeded(subject: Subject<'_>, tracked: &Tracked) -> bool {
    subject.state.open_on(subject.id()).any(|open| match &open.intent.effect {
        Effect::AddCheckpoint(add) | Effect::Begin(Begin { checkpoint: add, .. }) => {
            let disables = add.disks.iter().any(|mark| mark.disable.contains(&tracked.bitmap));
            disables && was_added(add, subject.machine)
        }
        _ => false,
    })
}

fn of_bitmap(
    subject: Subject<'_>,
    seen: &DiskSeen,
    id: CheckpointId,
    tracked: &Tracked,
    newest: bool,
) -> Finding {
    let name = &tracked.bitmap;
    let row = row(&Bitmap {
        there: seen.bitmap(name),
        newest,
        same_process: subject.same_process(),
        below: seen.below.contains(name),
        elsewhere: elsewhere(subject, seen, name).is_some(),
        same_backing: seen.backing == tracked.backing,
    });
    let what = match row {
        Row::Tracked => format!("bitmap {name} is as it should be"),
        Row::TrackedTwice => format!("bitmap {name} of the older checkpoint {id} records too"),
        Row::Inconsistent => format!("bitmap {name} is inconsistent: QEMU was killed or crashed"),
        Row::NotRecording => format!("bitmap {name} has stopped recording"),
        Row::MissingSameProcess => format!("bitmap {name} was removed from the running QEMU"),
        Row::OutsideSnapshot => {
            format!("bitmap {name} is on an image below: somebody took an external snapshot of the disk")
        }
        Row::ImageMoved => {
            let other = elsewhere(subject, seen, name).map_or_else(String::new, ToString::to_string);
            format!("bitmap {name} is on disk {other} now: the images were exchanged")
        }
        Row::BackingChanged => {
            let (was, is) = (&tracked.backing, &seen.backing);
            format!(
                "what lies below the image has changed since checkpoint {id}: it was [{was}], it is [{is}]"
            )
        }
        _ => format!("bitmap {name} is missing: QEMU was restarted and had not stored it"),
    };
    let verdict = match row {
        Row::Tracked | Row::TrackedTwice => Verdict::GoOn,
        _ => Verdict::Lose(seen.disk.clone(), id),
    };
    Finding { row, disk: Some(seen.disk.clone()), what, verdict }
}

/// The other disk of this VM that a bitmap is on.
fn elsewhere<'a>(subject: Subject<'a>, seen: &DiskSeen, name: &str) -> Option<&'a DiskName> {
    let others = subject.machine.disks.iter().filter(|other| other.disk != seen.disk);
    others.filter(|other| other.bitmap(name).is_some()).map(|other| &other.disk).next()
}

/// All that the row of one bitmap of a chain depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bitmap<'a> {
    /// The bitmap, where it is on its disk.
    pub(super) there: Option<&'a BitmapSeen>,
    /// Whether it is the one that has to record.
    pub(super) newest: bool,
    /// Whether QEMU is the process that the journal saw last.
    pub(super) same_process: bool,
    /// Whether it is on an image below the disk's.
    pub(super) below: bool,
    /// Whether it is on another disk.
    pub(super) elsewhere: bool,
    /// Whether what lies below the image is what lay there when the bitmap was made.
    pub(super) same_backing: bool,
}

/// The row for one bitmap of a chain.
pub(super) fn row(of: &Bitmap<'_>) -> Row {
    match of.there {
        None if of.below => Row::OutsideSnapshot,
        None if of.elsewhere => Row::ImageMoved,
        None if of.same_process => Row::MissingSameProcess,
        None => Row::MissingNewProcess,
        Some(bitmap) if bitmap.inconsistent => Row::Inconsistent,
        Some(_) if !of.same_backing => Row::BackingChanged,
        Some(bitmap) if of.newest && !bitmap.recording => Row::NotRecording,
        Some(bitmap) if !of.newest && bitmap.recording => Row::TrackedTwice,
        Some(_) => Row::Tracked,
    }
}
