//! What goes after a backup: restore points that the policy's rule does not keep, then checkpoints that no target needs.
//!
//! A failure here does not fail the backup: the next one tries again.

use std::collections::BTreeSet;

use journal::record::{End, Work};
use journal::state::{Job, Point, Vm};
use journal::{CheckpointId, EffectKind, RepositoryName, State, Time, VmId};
use policies::keep::{self, Item};

use super::backup::Backup;
use super::jobs::{Observed, observed};
use super::repository::forgetting;
use super::{Decision, Live, checkpoint};

/// The next step of a backup whose point is made and whose view is down.
pub(super) fn next(backup: Backup<'_>) -> Decision {
    let Backup { state, live, job, work, vm, .. } = backup;
    if !job.cancel_asked
        && let Some(decision) = forget_next(backup)
    {
        return decision;
    }
    let failed = |kind| job.last(kind).and_then(|step| step.failure());
    if failed(EffectKind::DeleteCheckpoint).is_none()
        && let Observed::Machine(machine) = observed(live, work.vm)
        && let Some((process, _)) = &vm.process
        && let Some((surplus, reason)) = surplus(state, vm, live.limits.checkpoints)
        && let Some(effect) = checkpoint::deletion(state, vm, machine, *process, surplus, &reason)
    {
        return Decision::effect(state, job.id, effect);
    }
    let remarks: Vec<String> = [remark(job), staying(backup)].into_iter().flatten().collect();
    Decision::end(job.id, End::Done, (!remarks.is_empty()).then(|| remarks.join("; ")))
}

/// What the policy would forget, were the repository not append-only.
fn staying(backup: Backup<'_>) -> Option<String> {
    let Backup { state, live, job, work, now, .. } = backup;
    if !is_append_only(state, &work.repository) {
        return None;
    }
    let policy = &job.due.as_ref()?.policy;
    let staying = expired(state, live, policy, work.vm, &work.repository, now).len();
    let why = || format!("repository {} is append-only", work.repository);
    (staying > 0).then(|| format!("{staying} restore points that the policy does not keep stay: {}", why()))
}

fn is_append_only(state: &State, name: &RepositoryName) -> bool {
    state.repositories.get(name).is_some_and(|repository| repository.address.append_only)
}

/// What the operator should know of a backup that is done.
fn remark(job: &Job) -> Option<String> {
    let mut remarks: Vec<String> = job
        .plan
        .iter()
        .flat_map(|plan| &plan.left_out)
        .map(|(disk, reason)| format!("{disk} left out: {reason}"))
        .collect();
    for kind in [EffectKind::Freeze, EffectKind::Thaw, EffectKind::Forget, EffectKind::DeleteCheckpoint] {
        if let Some(failure) = job.last(kind).and_then(|step| step.failure()) {
            remarks.push(format!("{kind} failed: {}", failure.what));
        }
    }
    (!remarks.is_empty()).then(|| remarks.join("; "))
}

fn forget_next(backup: Backup<'_>) -> Option<Decision> {
    let Backup { state, live, job, work, now, .. } = backup;
    if is_append_only(state, &work.repository) {
        return None;
    }
    if job.last(EffectKind::Forget).is_some_and(|step| step.failure().is_some()) {
        return None;
    }
    let policy = &job.due.as_ref()?.policy;
    let (point, reasons) = expired(state, live, policy, work.vm, &work.repository, now).into_iter().next()?;
    let reason = format!("policy {policy}: {}", reasons.join(", "));
    Some(Decision::effect(state, job.id, forgetting(state, point, &reason)?))
}

/// The points of one VM in one repository that their policy does not keep, with the reasons. The rule concerns the
/// points that the policy itself made; what an operator made by hand, an operator forgets.
#[must_use]
pub fn expired<'a>(
    state: &'a State,
    live: &Live,
    policy: &journal::PolicyName,
    vm: VmId,
    repository: &RepositoryName,
    now: Time,
) -> Vec<(&'a Point, Vec<String>)> {
    let Some(rule) = live.policies.get(policy).and_then(|parsed| parsed.policy.keep.as_ref()) else {
        return Vec::new();
    };
    let in_repository = |point: &&Point| point.repository == *repository;
    // One whose data is in doubt is no good point.
    let good = |point: &&Point| in_repository(point) && point.suspect.is_none();
    let last_good = state.points_of(vm).rfind(good).map(|point| point.id);
    let points: Vec<&Point> = state
        .points_of(vm)
        .filter(in_repository)
        .filter(|point| point.policy.as_ref() == Some(policy))
        .collect();
    let items: Vec<Item<'_>> = points
        .iter()
        .map(|point| Item {
            held: point.held,
            last_good: last_good == Some(point.id),
            ..Item::at(point.created.to_utc())
        })
        .collect();
    let decisions = keep::decide(rule, &items, now.to_utc());
    let mut going: Vec<_> = points
        .into_iter()
        .zip(decisions)
        .filter(|(_, decision)| !decision.keep)
        .map(|(point, decision)| (point, decision.reasons))
        .collect();
    if !going.is_empty() {
        let needed = parents_in_use(state);
        going.retain(|(point, _)| !needed.contains(&point.id));
    }
    going
}

/// Points that an open job reads: as a parent, or to restore.
#[must_use]
pub fn parents_in_use(state: &State) -> BTreeSet<journal::PointId> {
    let mut used: BTreeSet<_> = state.queue().read_points().collect();
    for job in state.queue().holders().filter_map(|(_, job)| state.jobs.get(&job)) {
        // A plan whose point is made needs its parent no more: every point is complete in itself.
        let stored = job.last(EffectKind::Store).is_some_and(|step| step.done().is_some());
        for disk in job.plan.iter().filter(|_| !stored).flat_map(|plan| &plan.disks) {
            if let journal::effect::DiskMode::Incremental { parent, .. } = &disk.mode {
                used.insert(*parent);
            }
        }
    }
    used
}

/// The next checkpoint that is to go, and why: one that nobody needs, or, above the limit, the one whose loss costs least:
/// the start of a differential first, then the base of the target that was backed up longest ago, whose next backup will be
/// full. The newest stays, and so does what an operator made.
fn surplus(state: &State, vm: &Vm, limit: usize) -> Option<(CheckpointId, String)> {
    if let Some(needless) = needless(state, vm).into_iter().next() {
        return Some((needless, "no restore point needs it".to_owned()));
    }
    let chain = &vm.chain.checkpoints;
    if chain.len() <= limit {
        return None;
    }
    let id = vm.address.id;
    let bases: BTreeSet<CheckpointId> = state
        .repositories
        .keys()
        .filter_map(|repository| state.points_of(id).rfind(|point| point.repository == *repository))
        .map(|point| point.checkpoint)
        .collect();
    let newest = chain.last().map(|checkpoint| checkpoint.id);
    let candidates = chain.iter().filter(|it| !it.by_hand && Some(it.id) != newest).map(|it| it.id);
    let cheapest = candidates.min_by_key(|id| (bases.contains(id), *id))?;
    Some((cheapest, format!("the VM had more than its limit of {limit} checkpoints")))
}

/// The checkpoints that nobody needs: not the newest point's of any target, not its newest full point's (the start of
/// a differential), not one that an operator made, and not one that a waiting job names.
#[must_use]
pub fn needless(state: &State, vm: &Vm) -> Vec<CheckpointId> {
    let id = vm.address.id;
    let mut needed: BTreeSet<CheckpointId> = BTreeSet::new();
    let (disks, newest_first): (_, Vec<&Point>) = (vm.chain.disks(), state.points_of(id).rev().collect());
    let targets: BTreeSet<&RepositoryName> = newest_first.iter().map(|point| &point.repository).collect();
    for repository in targets {
        let points = || newest_first.iter().filter(|point| point.repository == *repository);
        // Each disk on its own: the newest point may lack one.
        for disk in &disks {
            needed.extend(points().find(|point| point.disk(disk).is_some()).map(|point| point.checkpoint));
        }
        needed.extend(points().next().map(|point| point.checkpoint));
        needed.extend(points().find(|point| point.is_full()).map(|point| point.checkpoint));
    }
    for job in state.queue().of_vm(id).filter_map(|job| state.jobs.get(&job)) {
        match &job.work {
            Work::Backup(work) => needed.extend(work.since),
            Work::Export(work) => needed.extend(work.since),
            _ => {}
        }
    }
    let chain = vm.chain.checkpoints.iter();
    chain.filter(|it| !it.by_hand && !needed.contains(&it.id)).map(|it| it.id).collect()
}
