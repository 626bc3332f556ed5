//! An export, step by step: begin, offer, end. A backup without a store, and without a checkpoint: the chain stays as it is.
//!
//! Which step comes next is read off the job's intents and the VM's views, so that an export whose QEMU still holds the
//! view goes on after a restart, until it is removed or its time is over.

use journal::effect::{AddCheckpoint, Begin, Effect, End as EndView, Offer, ViewDisk};
use journal::observation::{DiskSeen, Machine};
use journal::record::{End, ExportPlanned, ExportWork, ExportedDisk};
use journal::state::{Job, View, Vm};
use journal::{CheckpointId, EffectKind, FailureClass, IntentId, Process, State, Time};

use super::jobs::{Observed, observed};
use super::plan::{bitmaps_since, no_disk};
use super::{CheckStep, Decision, Live, way};

/// The next step of an export.
pub fn next(state: &State, live: &Live, job: &Job, work: &ExportWork) -> Decision {
    let Some(vm) = state.vms.get(&work.vm) else {
        return Decision::fail(job.id, "the VM is no longer managed");
    };
    let view = vm.views.iter().find(|(_, view)| view.job == Some(job.id));
    match view {
        Some((id, view)) => with_view(state, job, work, vm, *id, view),
        None => without_view(state, live, job, work, vm),
    }
}

/// Before the view is up, or after it is down.
fn without_view(state: &State, live: &Live, job: &Job, work: &ExportWork, vm: &Vm) -> Decision {
    if let Some(offered) = job.last(EffectKind::Offer) {
        return match offered.failure() {
            None => Decision::end(job.id, End::Done, Some("its time is over".to_owned())),
            Some(failure) if failure.class == FailureClass::Cancelled && job.cancel_asked => {
                Decision::end(job.id, End::Done, Some(failure.what.clone()))
            }
            Some(failure) => Decision::fail_with(job, failure),
        };
    }
    match job.last(EffectKind::Begin).map(|begun| begun.failure()) {
        _ if job.cancel_asked => Decision::end(job.id, End::Cancelled, None),
        None => begin(state, live, job, work, vm),
        Some(Some(failure)) => Decision::fail_with(job, failure),
        Some(None) => {
            let why = "the view was lost before it was offered: QEMU ended, or its view broke";
            Decision::fail_as(job.id, FailureClass::ViewLost, why)
        }
    }
}

fn begin(state: &State, live: &Live, job: &Job, work: &ExportWork, vm: &Vm) -> Decision {
    let machine = match observed(live, work.vm) {
        Observed::NotYet => return Decision::check(work.vm, CheckStep::Want),
        Observed::Unreachable(why) => return Decision::fail_as(job.id, FailureClass::Unreachable, why),
        Observed::Machine(machine) => machine,
    };
    let Some(plan) = &job.export else {
        if let Err(refusal) = way::permit(live.limits.unprotected, &vm.address.name, machine) {
            return Decision::fail_with(job, &refusal);
        }
        return match plan(vm, machine, job, work) {
            Ok(plan) => Decision { records: vec![plan.into()], ..Decision::default() },
            Err(reason) => Decision::fail(job.id, reason),
        };
    };
    match view(state, live, vm, machine.process, plan) {
        Some(effect) => Decision::effect(state, job.id, effect),
        None => Decision::fail(job.id, "the journal has no installation record"),
    }
}

fn plan(vm: &Vm, machine: &Machine, job: &Job, work: &ExportWork) -> Result<ExportPlanned, String> {
    if machine.disks.is_empty() {
        return Err(no_disk(vm, machine, "exported"));
    }
    if let Some(since) = work.since
        && vm.chain.get(since).is_none()
    {
        return Err(format!("{} has no checkpoint {since} any more", vm.address.name));
    }
    let disks = machine.disks.iter().map(|seen| {
        let (changed_since, reason) = match work.since.map(|since| changes(vm, seen, since)) {
            None => (Vec::new(), None),
            Some(Ok(bitmaps)) => (bitmaps, None),
            Some(Err(reason)) => (Vec::new(), Some(reason)),
        };
        let (disk, node, size_bytes) = (seen.disk.clone(), seen.node.clone(), seen.size_bytes);
        ExportedDisk { disk, node, size_bytes, changed_since, reason }
    });
    Ok(ExportPlanned {
        job: job.id,
        way: way::to_read(machine),
        socket: machine.socket.clone(),
        disks: disks.collect(),
        left_out: machine.unusable.clone(),
    })
}

/// The bitmaps whose union is what changed on a disk since a checkpoint, or why that is not known.
fn changes(vm: &Vm, seen: &DiskSeen, since: CheckpointId) -> Result<Vec<String>, String> {
    if seen.read_only {
        return Err("a read-only disk: QEMU keeps no bitmap on it".to_owned());
    }
    if seen.shared {
        return Err(
            "a shared disk (share-rw=on): what others write to it, no bitmap of this QEMU records".to_owned()
        );
    }
    let chain = &vm.chain;
    if !chain.covers(&seen.disk, since) {
        return Err(match chain.lost.get(&seen.disk) {
            Some(lost) if lost.through >= since => lost.reason.clone(),
            _ => format!("checkpoint {since} does not cover it"),
        });
    }
    // QEMU calls the new part of a grown disk clean, whatever the guest finds there.
    let mut sizes =
        chain.of_disk(&seen.disk).filter(|(id, _)| *id >= since).map(|(_, tracked)| tracked.size_bytes);
    if let Some(other) = sizes.find(|size| *size != seen.size_bytes) {
        return Err(format!("the disk's size changed from {other} to {} bytes", seen.size_bytes));
    }
    let bitmaps = bitmaps_since(vm, &seen.disk, since);
    let usable = |name: &String| seen.bitmap(name).is_some_and(|bitmap| !bitmap.inconsistent);
    match bitmaps.iter().find(|name| !usable(name)) {
        Some(missing) => Err(format!("bitmap {missing} is not there, or inconsistent")),
        None => Ok(bitmaps),
    }
}

/// The view, without a checkpoint: its number is used up, and stands for nothing.
fn view(state: &State, live: &Live, vm: &Vm, process: Process, plan: &ExportPlanned) -> Option<Effect> {
    let checkpoint = AddCheckpoint {
        vm: vm.address.clone(),
        process,
        installation: state.installation?,
        checkpoint: state.next.checkpoint,
        disks: Vec::new(),
    };
    let disks = plan.disks.iter().map(|disk| ViewDisk {
        disk: disk.disk.clone(),
        node: disk.node.clone(),
        size_bytes: disk.size_bytes,
        changed_since: disk.changed_since.clone(),
    });
    let (disks, way, limits) = (disks.collect(), plan.way, live.limits.view);
    Some(Effect::Begin(Begin { checkpoint, disks, way, limits, unit_bytes: None }))
}

/// While the view is up.
fn with_view(state: &State, job: &Job, work: &ExportWork, vm: &Vm, id: IntentId, view: &View) -> Decision {
    if let Some(failure) = job.last(EffectKind::End).and_then(|step| step.failure()) {
        // The view outlives the job, and reconcile takes it down when QEMU answers again.
        let what = format!("the view could not be taken down yet: {}", failure.what);
        return Decision::fail_as(job.id, failure.class, what);
    }
    let Some(installation) = state.installation else {
        return Decision::fail(job.id, "the journal has no installation record");
    };
    let (address, process) = (vm.address.clone(), view.process);
    if job.cancel_asked || job.last(EffectKind::Offer).is_some() {
        let end = EndView { vm: address, process, installation, view: id, disks: view.disks.len() };
        return Decision::effect(state, job.id, Effect::End(end));
    }
    let offer = Offer { vm: address, process, installation, view: id, until: expires(view.instant, work) };
    Decision::effect(state, job.id, Effect::Offer(offer))
}

/// When an export whose view shows this instant ends by itself.
#[must_use]
pub fn expires(instant: Time, work: &ExportWork) -> Time {
    let micros = i64::try_from(work.ttl_seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000);
    Time(instant.0.saturating_add(micros))
}
