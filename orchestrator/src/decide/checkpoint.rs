//! Checkpoints by themselves: create one, delete one, and let go of all of a VM's.

use journal::effect::{AddCheckpoint, Clean, DeleteCheckpoint, Effect, Lasts, Mark, Predecessor, Unmark};
use journal::names::owner;
use journal::observation::{Machine, RepositorySeen};
use journal::record::{End, IntentSettled, VmRemoved, Witness};
use journal::state::{Job, Vm};
use journal::{CheckpointId, EffectKind, Failure, FailureClass, Outcome, Process, State, VmId};

use super::expire::needless;
use super::jobs::{Observed, observed};
use super::plan::{Ground, new_bitmaps, recording};
use super::{CheckStep, Decision, Live};

/// The next step of a job that creates a checkpoint.
pub fn create(state: &State, live: &Live, job: &Job, vm: VmId) -> Option<Decision> {
    finished(job, EffectKind::AddCheckpoint).or_else(|| {
        with_machine(state, live, job, vm, |vm, machine| {
            if let Some(room) = make_room(state, live, job, vm, machine) {
                return Some(room);
            }
            let nothing = RepositorySeen { name: "none".parse().ok()?, snapshots: Ok(Vec::new()) };
            let ground = Ground { state, vm, machine, repository: &nothing };
            let installation = state.installation?;
            let writable = machine.disks.iter().filter(|disk| !disk.read_only);
            let disks = writable.zip(new_bitmaps(state, installation)).map(|(disk, bitmap)| Mark {
                disk: disk.disk.clone(),
                node: disk.node.clone(),
                bitmap,
                backing: disk.backing.clone(),
                size_bytes: disk.size_bytes,
                lasts: if disk.stores_bitmaps { Lasts::Persistent } else { Lasts::WithProcess },
                disable: recording(ground, disk),
            });
            let add = AddCheckpoint {
                vm: vm.address.clone(),
                process: machine.process,
                installation,
                checkpoint: state.next.checkpoint,
                disks: disks.collect(),
            };
            if add.disks.is_empty() {
                return Some(Decision::fail(job.id, "the VM has no disk that can keep a bitmap"));
            }
            Some(Decision::effect(state, job.id, Effect::AddCheckpoint(add)))
        })
    })
}

/// What has to go before one more checkpoint may be added by hand. What a backup stands on stays: an operator who wants
/// one more rather than that says so by deleting it.
fn make_room(state: &State, live: &Live, job: &Job, vm: &Vm, machine: &Machine) -> Option<Decision> {
    let limit = live.limits.checkpoints;
    if vm.chain.checkpoints.len() < limit {
        return None;
    }
    let needless = needless(state, vm).into_iter().next();
    let failed = job.last(EffectKind::DeleteCheckpoint).and_then(|step| step.failure());
    let deletion = needless.filter(|_| failed.is_none()).and_then(|needless| {
        deletion(state, vm, machine, machine.process, needless, "no restore point needs it")
    });
    Some(match deletion {
        Some(effect) => Decision::effect(state, job.id, effect),
        None => Decision::fail(
            job.id,
            format!(
                "{name} has {limit} checkpoints, which is its limit; delete one (`backstay checkpoint list {name}` shows \
                 them), or raise `checkpoints` under [limits] in the configuration file",
                name = vm.address.name,
            ),
        ),
    })
}

/// The next step of a job that deletes one.
pub fn delete(state: &State, live: &Live, job: &Job, vm: VmId, checkpoint: CheckpointId) -> Option<Decision> {
    finished(job, EffectKind::DeleteCheckpoint).or_else(|| {
        with_machine(state, live, job, vm, |vm, machine| {
            Some(match deletion(state, vm, machine, machine.process, checkpoint, "by hand") {
                Some(effect) => Decision::effect(state, job.id, effect),
                // It may have gone while the job waited, with a bitmap that was lost: what was asked for is so.
                None => {
                    Decision::end(job.id, End::Done, Some(format!("checkpoint {checkpoint} is gone already")))
                }
            })
        })
    })
}

/// The effect that deletes a checkpoint: on each disk its bits merge into the predecessor's, which records from then on
/// if the newest is deleted.
#[must_use]
pub fn deletion(
    state: &State,
    vm: &Vm,
    machine: &Machine,
    process: Process,
    id: CheckpointId,
    reason: &str,
) -> Option<Effect> {
    let installation = state.installation?;
    let checkpoint = vm.chain.get(id)?;
    let disks =
        checkpoint.disks.iter().zip(new_bitmaps(state, installation)).map(|((disk, tracked), new)| {
            let predecessor = vm.chain.of_disk(disk).take_while(|(it, _)| *it < id).last().map(|(_, it)| it);
            let newest = vm.chain.of_disk(disk).next_back().is_some_and(|(it, _)| it == id);
            let node = machine.disks.iter().find(|seen| seen.disk == *disk).map(|seen| seen.node.clone());
            Unmark {
                disk: disk.clone(),
                node: node.unwrap_or_else(|| tracked.node.clone()),
                bitmap: tracked.bitmap.clone(),
                predecessor: predecessor.map(|it| Predecessor {
                    bitmap: it.bitmap.clone(),
                    becomes: new,
                    lasts: it.lasts,
                    records: newest,
                }),
            }
        });
    let disks = disks.collect();
    Some(Effect::DeleteCheckpoint(DeleteCheckpoint {
        vm: vm.address.clone(),
        process,
        checkpoint: id,
        reason: reason.to_owned(),
        disks,
    }))
}

/// The next step of a job that lets go of a VM: everything of ours leaves its QEMU, and then the VM leaves the journal.
pub fn remove_all(state: &State, live: &Live, job: &Job, id: VmId, force: bool) -> Option<Decision> {
    if job.cancel_asked && job.steps.is_empty() {
        return Some(Decision::end(job.id, End::Cancelled, None));
    }
    let Some(vm) = state.vms.get(&id) else { return Some(Decision::end(job.id, End::Done, None)) };
    if let Some(step) = job.last(EffectKind::Clean) {
        return Some(match step.failure() {
            Some(failure) if !force => Decision::fail_as(job.id, failure.class, failure.what.clone()),
            _ => remove(state, job, id),
        });
    }
    let machine = match observed(live, id) {
        Observed::NotYet => return Some(Decision::check(id, CheckStep::Want)),
        Observed::Machine(machine) => machine,
        Observed::Unreachable(_) if force => return Some(remove(state, job, id)),
        Observed::Unreachable(why) => {
            let advice = "its bitmaps would stay in its images; start it, or remove it with --force";
            return Some(Decision::fail_as(job.id, FailureClass::Unreachable, format!("{why}; {advice}")));
        }
    };
    let installation = state.installation?;
    let bitmaps = machine.disks.iter().flat_map(|disk| {
        let ours = disk.bitmaps.iter().filter(move |bitmap| {
            owner(&bitmap.name).is_some_and(|owner| owner.installation() == installation)
        });
        ours.map(|bitmap| (disk.node.clone(), bitmap.name.clone()))
    });
    let clean = Clean {
        vm: vm.address.clone(),
        process: machine.process,
        installation,
        exports: Vec::new(),
        jobs: Vec::new(),
        nodes: Vec::new(),
        bitmaps: bitmaps.collect(),
        files: Vec::new(),
    };
    Some(Decision::effect(state, job.id, Effect::Clean(clean)))
}

fn remove(state: &State, job: &Job, vm: VmId) -> Decision {
    let mut decision = Decision::default();
    for open in state.open_on(vm) {
        let outcome =
            Outcome::Failed(Failure::new(FailureClass::Invalid, "its VM was removed from management"));
        let by = Witness::Observation { row: "vm-removed".to_owned() };
        decision.records.push(IntentSettled { intent: open.intent.id, outcome, by }.into());
    }
    // A crash may keep a first part of a decision: a VM that is gone lets its job end, but not the other way round.
    decision.records.push(VmRemoved { vm }.into());
    decision.records.extend(Decision::end(job.id, End::Done, None).records);
    decision
}

/// The end of a job whose one effect is settled.
fn finished(job: &Job, kind: EffectKind) -> Option<Decision> {
    let step = job.last(kind)?;
    Some(match step.failure() {
        Some(failure) => Decision::fail_as(job.id, failure.class, failure.what.clone()),
        None => Decision::end(job.id, End::Done, None),
    })
}

fn with_machine(
    state: &State,
    live: &Live,
    job: &Job,
    vm: VmId,
    decide: impl FnOnce(&Vm, &Machine) -> Option<Decision>,
) -> Option<Decision> {
    if job.cancel_asked {
        return Some(Decision::end(job.id, End::Cancelled, None));
    }
    match observed(live, vm) {
        Observed::NotYet => Some(Decision::check(vm, CheckStep::Want)),
        Observed::Unreachable(why) => Some(Decision::fail_as(job.id, FailureClass::Unreachable, why)),
        Observed::Machine(machine) => decide(state.vms.get(&vm)?, machine),
    }
}
