//! The plan of a backup: for every disk, whether what changed is known, from which parent, and if not, why not.

use journal::effect::{DiskMode, Lasts};
use journal::names;
use journal::observation::{DiskSeen, Machine, RepositorySeen};
use journal::record::{BackupPlanned, BackupWork, Mode, PlannedDisk};
use journal::state::{Point, Vm};
use journal::{BitmapId, CheckpointId, DiskName, Failure, FailureClass, Installation, JobId, State};

use super::way;

/// What a plan rests on.
#[derive(Debug, Clone, Copy)]
pub struct Ground<'a> {
    /// The journal's word.
    pub state: &'a State,
    /// The VM's part of it.
    pub vm: &'a Vm,
    /// What is there.
    pub machine: &'a Machine,
    /// What is in the target.
    pub repository: &'a RepositorySeen,
}

/// Plans a backup, or says why there can be none.
///
/// # Errors
/// The repository's failure where it cannot be opened; [`FailureClass::Invalid`] when no disk can be backed up, or the wish
/// cannot be granted.
pub fn plan(ground: Ground<'_>, job: JobId, work: &BackupWork) -> Result<BackupPlanned, Failure> {
    let invalid = |what: String| Failure::new(FailureClass::Invalid, what);
    let Ground { state, vm, machine, repository } = ground;
    if let Err(failure) = &repository.snapshots {
        return Err(failure.clone());
    }
    if machine.disks.is_empty() {
        return Err(invalid(no_disk(vm, machine, "backed up")));
    }
    if let Some(since) = work.since
        && vm.chain.get(since).is_none()
    {
        let what = format!("{} has no checkpoint {since}; `checkpoint list` shows them", vm.address.name);
        return Err(invalid(what));
    }
    Ok(BackupPlanned {
        job,
        point: state.next.point,
        checkpoint: state.next.checkpoint,
        way: way::to_store(machine),
        disks: machine.disks.iter().map(|disk| plan_disk(ground, work, disk)).collect(),
        left_out: machine.unusable.clone(),
    })
}

/// That a VM has no disk which a view could show, and why.
pub(super) fn no_disk(vm: &Vm, machine: &Machine, wish: &str) -> String {
    let what = machine.unusable.iter().map(|(disk, why)| format!("{disk}: {why}")).collect::<Vec<_>>();
    let what = if what.is_empty() { "QEMU shows none".to_owned() } else { what.join("; ") };
    format!("{} has no disk that can be {wish} ({what})", vm.address.name)
}

/// Names for new bitmaps, one for each disk, none of which was ever given before.
pub fn new_bitmaps(state: &State, installation: Installation) -> impl Iterator<Item = String> {
    (state.next.bitmap.0..).map(move |number| names::bitmap(installation, BitmapId(number)))
}

fn plan_disk(ground: Ground<'_>, work: &BackupWork, seen: &DiskSeen) -> PlannedDisk {
    let mode = match base(ground, work, seen) {
        Ok(parent) => DiskMode::Incremental {
            since: parent.checkpoint,
            parent: parent.id,
            snapshot: parent.snapshot.clone(),
        },
        Err(reason) => DiskMode::Full { reason },
    };
    let changed_since = match &mode {
        DiskMode::Incremental { since, .. } => bitmaps_since(ground.vm, &seen.disk, *since),
        DiskMode::Full { .. } => Vec::new(),
    };
    let granularities = changed_since.iter().filter_map(|name| seen.bitmap(name));
    let granularity_bytes = granularities.map(|bitmap| bitmap.granularity_bytes).max();
    let lasts = match (seen.read_only, seen.stores_bitmaps) {
        (true, _) => None,
        (false, true) => Some(Lasts::Persistent),
        (false, false) => Some(Lasts::WithProcess),
    };
    PlannedDisk {
        disk: seen.disk.clone(),
        node: seen.node.clone(),
        size_bytes: seen.size_bytes,
        lasts,
        disable: recording(ground, seen),
        changed_since,
        granularity_bytes,
        backing: seen.backing.clone(),
        mode,
    }
}

/// The parent of an incremental, or the reason why there is none: the newest restore point in the target from which
/// everything that changed is known.
fn base<'a>(ground: Ground<'a>, work: &BackupWork, seen: &DiskSeen) -> Result<&'a Point, String> {
    if work.mode == Mode::Full {
        return Err("a full backup was asked for".to_owned());
    }
    if seen.read_only {
        return Err("a read-only disk: QEMU keeps no bitmap on it".to_owned());
    }
    if seen.shared {
        return Err(
            "a shared disk (share-rw=on): what others write to it, no bitmap of this QEMU records".to_owned()
        );
    }
    let wanted = |point: &&Point| {
        point.repository == work.repository
            && point.disk(&seen.disk).is_some()
            && work.since.is_none_or(|since| point.checkpoint == since)
            && (work.mode != Mode::Differential || point.is_full())
    };
    let mut candidates = ground.state.points_of(ground.vm.address.id).filter(wanted).rev().peekable();
    let Some(newest) = candidates.peek().copied() else {
        return Err(match work.since {
            Some(since) => format!("no restore point of it in {} was taken at {since}", work.repository),
            None => format!("the first backup of this disk into {}", work.repository),
        });
    };
    candidates
        .find(|point| usable(ground, point, seen).is_ok())
        .ok_or_else(|| usable(ground, newest, seen).err().unwrap_or_default())
}

/// Whether a point can be the parent of this disk's next one, or why not.
fn usable(ground: Ground<'_>, point: &Point, seen: &DiskSeen) -> Result<(), String> {
    let present = ground.repository.snapshots.as_ref().is_ok_and(|all| all.contains(&point.snapshot));
    if !present {
        return Err(format!("restore point {} is no longer in {}", point.id, ground.repository.name));
    }
    let size = point.disk(&seen.disk).map_or(0, |disk| disk.size_bytes);
    if size != seen.size_bytes {
        // QEMU calls the new part of a grown disk clean, whatever the guest finds there.
        return Err(format!("the disk's size changed from {size} to {} bytes", seen.size_bytes));
    }
    let chain = &ground.vm.chain;
    if chain.covers(&seen.disk, point.checkpoint) {
        return Ok(());
    }
    Err(match chain.lost.get(&seen.disk) {
        Some(lost) if lost.through >= point.checkpoint => lost.reason.clone(),
        _ => format!("checkpoint {} of restore point {} is no longer tracked", point.checkpoint, point.id),
    })
}

/// The disk's bitmaps from a checkpoint to the newest: their union is what changed since.
pub(super) fn bitmaps_since(vm: &Vm, disk: &DiskName, since: CheckpointId) -> Vec<String> {
    let chain = vm.chain.of_disk(disk);
    chain.filter(|(id, _)| *id >= since).map(|(_, tracked)| tracked.bitmap.clone()).collect()
}

/// The chain's bitmaps that record now. One, as a rule; more after a deletion that was cut short.
pub fn recording(ground: Ground<'_>, seen: &DiskSeen) -> Vec<String> {
    bitmaps_since(ground.vm, &seen.disk, CheckpointId(0))
        .into_iter()
        .filter(|name| seen.bitmap(name).is_some_and(|bitmap| bitmap.recording))
        .collect()
}
