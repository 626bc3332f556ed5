//! A backup, step by step: hook, freeze, begin, thaw, store, end, expire, hook.
//!
//! Which step comes next is read off the job's intents, the VM's views and the thaw that it owes, so that a backup
//! goes on after a restart from exactly where the journal says it is.

use journal::effect::{
    AddCheckpoint, Bandwidth, Begin, Consistency, Effect, End as EndView, Freeze, Limit, Mark, Rate, Store,
    StoreDisk, Thaw, ViewDisk,
};
use journal::outcome::Done;
use journal::record::{BackupPlanned, BackupWork, ConsistencyAsked, End};
use journal::state::{Job, View, Vm};
use journal::{EffectKind, FailureClass, IntentId, Process, State, Time};

use super::jobs::{Observed, observed, was_stopped};
use super::plan::{Ground, new_bitmaps, plan};
use super::{CheckStep, Decision, Live, expire, hooks, lint, way};

/// How long a freeze may take, in milliseconds, before it is given up and undone.
const FREEZE_LIMIT_MS: u64 = 10_000;

/// A backup that has its plan, and all that its next step is read off.
#[derive(Clone, Copy)]
pub(super) struct Backup<'a> {
    pub(super) state: &'a State,
    pub(super) live: &'a Live,
    pub(super) job: &'a Job,
    pub(super) work: &'a BackupWork,
    pub(super) vm: &'a Vm,
    plan: &'a BackupPlanned,
    pub(super) now: Time,
}

/// The next step of a backup.
pub fn next(state: &State, live: &Live, job: &Job, work: &BackupWork, now: Time) -> Option<Decision> {
    let Some(vm) = state.vms.get(&work.vm) else {
        return Some(Decision::fail(job.id, "the VM is no longer managed"));
    };
    let Some(plan) = &job.plan else { return Some(make_plan(state, live, job, work, vm)) };
    let backup = Backup { state, live, job, work, vm, plan, now };
    // Of this try: one that an earlier try left behind is taken down by reconcile.
    let ours = |view: &IntentId| job.steps.iter().any(|step| step.intent == *view);
    let view = vm.views.iter().find(|(id, view)| view.job == Some(job.id) && ours(id));
    Some(match view {
        Some((id, view)) => with_view(backup, *id, view),
        None => without_view(backup),
    })
}

fn make_plan(state: &State, live: &Live, job: &Job, work: &BackupWork, vm: &Vm) -> Decision {
    if job.cancel_asked {
        return Decision::end(job.id, End::Cancelled, None);
    }
    let machine = match observed(live, work.vm) {
        Observed::NotYet => return Decision::check(work.vm, CheckStep::Want),
        Observed::Unreachable(why) => return Decision::fail_as(job.id, FailureClass::Unreachable, why),
        Observed::Machine(machine) => machine,
    };
    let repositories = live.seen.get(&work.vm).map(|seen| &seen.repositories);
    let repository = repositories.and_then(|all| all.iter().find(|seen| seen.name == work.repository));
    let Some(repository) = repository else {
        return Decision::fail(job.id, format!("repository {} is not known", work.repository));
    };
    let permitted = || way::permit(live.limits.unprotected, &vm.address.name, machine);
    let planned = plan(Ground { state, vm, machine, repository }, job.id, work);
    let plan = match planned.and_then(|plan| permitted().map(|()| plan)) {
        Ok(plan) => plan,
        Err(failure) => return Decision::fail_with(job, &failure),
    };
    let flaws = lint::flaws(state, vm, machine, &plan);
    if !flaws.is_empty() {
        let flaws: Vec<String> = flaws.iter().map(ToString::to_string).collect();
        return Decision::fail(
            job.id,
            format!("the plan is flawed (a bug of Backstay): {}", flaws.join("; ")),
        );
    }
    Decision { records: vec![plan.into()], ..Decision::default() }
}

/// Before the view is up, or after it is down.
fn without_view(backup: Backup<'_>) -> Decision {
    let job = backup.job;
    if let Some(stored) = job.last(EffectKind::Store) {
        return match stored.failure() {
            None => expire::next(backup),
            Some(failure) => Decision::fail_with(job, failure),
        };
    }
    let Some(begun) = job.last(EffectKind::Begin) else {
        return before_view(backup);
    };
    if let Some(thaw) = thaw(backup) {
        return thaw;
    }
    match begun.failure() {
        Some(failure) => Decision::fail_with(job, failure),
        None if job.cancel_asked => Decision::end(job.id, End::Cancelled, None),
        None if backup.work.consistency == ConsistencyAsked::Required && !was_frozen(job) => {
            Decision::fail_as(
                job.id,
                FailureClass::Refused,
                "the guest was not frozen any more when its view began, and that is required: it was thawed by somebody, or \
             restarted",
            )
        }
        None => {
            let why = "the view was lost before it was read: QEMU ended, or its view broke";
            Decision::fail_as(job.id, FailureClass::ViewLost, why)
        }
    }
}

fn before_view(backup: Backup<'_>) -> Decision {
    let Backup { state, live, job, work, vm, .. } = backup;
    let frozen = job.last(EffectKind::Freeze);
    if job.cancel_asked {
        return thaw(backup).unwrap_or_else(|| Decision::end(job.id, End::Cancelled, None));
    }
    if let Some(decision) = hooks::before(state, job, work) {
        return decision;
    }
    if work.consistency == ConsistencyAsked::Required
        && let Some(failure) = frozen.and_then(|step| step.failure())
    {
        return Decision::fail_as(
            job.id,
            failure.class,
            format!("the guest was not frozen, and that is required: {}", failure.what),
        );
    }
    if job.last(EffectKind::HookAfter).is_some() {
        // The end was decided, and its hook has run: what came back since begins nothing any more.
        let why = "QEMU did not answer when the view was to begin; it does again";
        return Decision::fail_as(job.id, FailureClass::Unreachable, why);
    }
    let wants_freeze = match work.consistency {
        ConsistencyAsked::Crash => false,
        // Without an agent there is nobody to ask, and the point says `crash`.
        ConsistencyAsked::Filesystem => vm.address.guest_agent.is_some(),
        ConsistencyAsked::Required => true,
    };
    if wants_freeze && frozen.is_none() {
        let freeze = Freeze { vm: vm.address.clone(), limit_ms: FREEZE_LIMIT_MS };
        return Decision::effect(state, job.id, Effect::Freeze(freeze));
    }
    // The process that the plan rests on: the one that was seen when it was made.
    let process = match observed(live, work.vm) {
        Observed::Machine(machine) => machine.process,
        Observed::NotYet => return Decision::check(work.vm, CheckStep::Want),
        Observed::Unreachable(why) => {
            let failed = || Decision::fail_as(job.id, FailureClass::Unreachable, why);
            return thaw(backup).unwrap_or_else(failed);
        }
    };
    match begin(backup, process) {
        Some(effect) => Decision::effect(state, job.id, effect),
        None => Decision::fail(
            job.id,
            format!("the journal has no installation record, or no repository {}", work.repository),
        ),
    }
}

fn begin(backup: Backup<'_>, process: Process) -> Option<Effect> {
    let Backup { state, live, work, vm, plan, .. } = backup;
    let (installation, repository) = (state.installation?, state.repositories.get(&work.repository)?);
    let marks = plan.disks.iter().zip(new_bitmaps(state, installation)).filter_map(|(disk, bitmap)| {
        Some(Mark {
            disk: disk.disk.clone(),
            node: disk.node.clone(),
            bitmap,
            lasts: disk.lasts?,
            backing: disk.backing.clone(),
            size_bytes: disk.size_bytes,
            disable: disk.disable.clone(),
        })
    });
    let views = plan.disks.iter().map(|disk| ViewDisk {
        disk: disk.disk.clone(),
        node: disk.node.clone(),
        size_bytes: disk.size_bytes,
        changed_since: disk.changed_since.clone(),
    });
    let checkpoint = AddCheckpoint {
        vm: vm.address.clone(),
        process,
        installation,
        checkpoint: plan.checkpoint,
        disks: marks.collect(),
    };
    Some(Effect::Begin(Begin {
        checkpoint,
        disks: views.collect(),
        way: plan.way,
        limits: live.limits.view,
        unit_bytes: Some(repository.chunk_bytes),
    }))
}

/// The thaw that is owed, tried once by the job itself; what fails is tried again by reconcile until it is done.
fn thaw(backup: Backup<'_>) -> Option<Decision> {
    let Backup { state, job, vm, .. } = backup;
    vm.thaw_owed?;
    if job.last(EffectKind::Thaw).is_some() {
        return None;
    }
    Some(Decision::effect(state, job.id, Effect::Thaw(Thaw { vm: vm.address.clone() })))
}

/// Whether the guest was frozen at the instant of the view: it was frozen before, and there was something to thaw after. A
/// guest that was restarted, or thawed by somebody else, in between has nothing to thaw.
fn was_frozen(job: &Job) -> bool {
    let froze = job.last(EffectKind::Freeze).and_then(|step| step.done()).is_some();
    let thawed = job.last(EffectKind::Thaw).and_then(|step| step.done());
    froze && matches!(thawed, Some(Done::Thawed { filesystems }) if *filesystems > 0)
}

/// While the view is up.
fn with_view(backup: Backup<'_>, id: IntentId, view: &View) -> Decision {
    let Backup { state, live, job, work, vm, plan, .. } = backup;
    if let Some(thaw) = thaw(backup) {
        return thaw;
    }
    if let Some(failure) = job.last(EffectKind::End).and_then(|step| step.failure()) {
        // The view outlives the job, and reconcile takes it down when QEMU answers again.
        let what = format!("the view could not be taken down yet: {}", failure.what);
        let store = job.last(EffectKind::Store);
        if store.is_some_and(|step| step.done().is_some()) {
            return Decision::end(job.id, End::Done, Some(what));
        }
        // What kept the point from being made counts, and the view was only to be taken down after that.
        let class = store.and_then(|step| step.failure()).map_or(failure.class, |failure| failure.class);
        return Decision::fail_as(job.id, class, what);
    }
    let (Some(installation), Some(repository)) =
        (state.installation, state.repositories.get(&work.repository))
    else {
        return Decision::fail(job.id, format!("repository {} is not known", work.repository));
    };
    let worthless = work.consistency == ConsistencyAsked::Required && !was_frozen(job);
    // The one place where a backup rests: the guest is thawed, the view stays, and what is stored is not stored again.
    let stored = job.last(EffectKind::Store).filter(|step| !was_stopped(job, step));
    if job.pause_asked && stored.is_none() && !worthless {
        return Decision::pause(job.id);
    }
    if stored.is_some() || job.cancel_asked || worthless {
        let end = EndView {
            vm: vm.address.clone(),
            process: view.process,
            installation,
            view: id,
            disks: view.disks.len(),
        };
        return Decision::effect(state, job.id, Effect::End(end));
    }
    let frozen = was_frozen(job);
    let disks = plan.disks.iter().map(|disk| StoreDisk {
        disk: disk.disk.clone(),
        size_bytes: disk.size_bytes,
        mode: disk.mode.clone(),
        granularity_bytes: disk.granularity_bytes,
    });
    let store = Store {
        vm: vm.address.clone(),
        process: view.process,
        qemu: vm.process.as_ref().map(|(_, version)| version.clone()).unwrap_or_default(),
        installation,
        view: id,
        way: view.way,
        repository: repository.address.clone(),
        point: plan.point,
        instant: view.instant,
        checkpoint: plan.checkpoint,
        chain: vm.chain.checkpoints.iter().map(|checkpoint| checkpoint.id).collect(),
        policy: job.due.as_ref().map(|due| due.policy.clone()),
        consistency: if frozen { Consistency::Filesystem } else { Consistency::Crash },
        disks: disks.collect(),
        left_out: plan.left_out.clone(),
        audit_chunks: live.limits.audit_chunks,
        bandwidth: bandwidth(live, job),
    };
    Decision::effect(state, job.id, Effect::Store(Box::new(store)))
}

/// The limits of a job's policy as they are now: a policy that is applied anew counts for every transfer that begins later,
/// the rest of one that was paused included.
fn bandwidth(live: &Live, job: &Job) -> Option<Bandwidth> {
    let due = job.due.as_ref()?;
    let policy = &live.policies.get(&due.policy)?.policy;
    let limits = policy.bandwidth.iter().map(|limit| Limit {
        days: limit.days,
        rate: Rate {
            from_minute: limit.from_minute,
            to_minute: limit.to_minute,
            bytes_per_second: limit.bytes_per_second,
        },
    });
    let limits: Vec<Limit> = limits.collect();
    let time_zone = || policy.zone(&due.schedule).name().to_owned();
    (!limits.is_empty()).then(|| Bandwidth { time_zone: time_zone(), limits })
}

#[cfg(test)]
mod tests;
