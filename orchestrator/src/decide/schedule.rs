//! Runs that are due become jobs; runs that do not happen become records that say why.

use journal::effect::Hooks;
use journal::record::{
    BackupWork, CancelAsked, ConsistencyAsked, Due, JobQueued, Mode, RunSkipped, ScheduleAdvanced, Terms,
    Work,
};
use journal::state::{Job, Policy};
use journal::{HostName, JobId, PolicyName, RepositoryName, State, Time, VmId};
use policies::due::{self, Activity};
use policies::select;

use super::{Decision, Live, queue};

/// What the policies ask for up to now. A cursor moves only when something came of it, so that an idle installation
/// writes nothing; the instants in between are looked at again at no cost.
#[must_use]
pub fn due(state: &State, live: &Live, now: Time) -> Option<Decision> {
    let due = live.policies.iter().filter(|(_, parsed)| parsed.next.is_some_and(|next| next <= now));
    let mut due = due.peekable();
    due.peek()?;
    let vms = candidates(state);
    due.find_map(|(name, parsed)| {
        let policy = state.policies.get(name)?;
        due_of(state, &vms, name, policy, &parsed.policy, now)
    })
}

/// The VMs as a policy selects among them.
#[must_use]
pub fn candidates(state: &State) -> Vec<select::Vm<'_>> {
    let vms = state.vms.values().map(|vm| select::Vm {
        name: vm.address.name.as_str(),
        labels: &vm.labels,
        host: vm.host.as_ref().map(HostName::as_str),
    });
    vms.collect()
}

fn due_of(
    state: &State,
    vms: &[select::Vm<'_>],
    name: &PolicyName,
    policy: &Policy,
    parsed: &policies::Policy,
    now: Time,
) -> Option<Decision> {
    let cursor = |key: &str| Some(policy.cursor(key).to_utc());
    let activity = |vm: &str| vm_named(state, vm).map(|vm| activity(state, name, vm)).unwrap_or_default();
    let answer = due::due(parsed, vms, cursor, activity, now.to_utc());
    if answer.runs.is_empty() && answer.not_run.is_empty() {
        return None;
    }
    let mut decision = Decision::default();
    let mut next = state.next.job;
    for run in &answer.runs {
        let Some(vm) = vm_named(state, run.vm) else { continue };
        if run.cancels_older {
            decision.records.extend(cancelled(state, name, vm, run.scheduled.into()));
        }
        for repository in &parsed.repositories {
            let Ok(repository) = repository.parse::<RepositoryName>() else { continue };
            if !state.repositories.contains_key(&repository) {
                let reason = format!("there is no repository {repository}");
                decision.records.push(skipped(name, run.schedule, Some(vm), run.scheduled, reason));
                continue;
            }
            let due = Due {
                policy: name.clone(),
                schedule: run.schedule.to_owned(),
                at: run.scheduled.into(),
                not_before: run.at.into(),
            };
            // Its start is not compared: what is made up for starts when that is decided, which is later the second time.
            let same = |other: &Due| {
                (&other.policy, &other.schedule, other.at) == (&due.policy, &due.schedule, due.at)
            };
            let there =
                |job: &Job| job.due.as_ref().is_some_and(same) && job.work.repository() == Some(&repository);
            if of_vm(state, vm).any(there) {
                continue;
            }
            decision.records.push(queued(next, vm, repository, parsed, run.mode, due));
            next = next.next();
        }
    }
    for it in &answer.not_run {
        let vm = it.vm.and_then(|vm| vm_named(state, vm));
        decision.records.push(skipped(name, it.schedule, vm, it.at, it.reason.to_string()));
    }
    decision.records.extend(answer.cursors.iter().map(|(schedule, through)| {
        let (policy, schedule) = (name.clone(), (*schedule).to_owned());
        ScheduleAdvanced { policy, schedule, through: (*through).into() }.into()
    }));
    Some(decision)
}

fn skipped(
    policy: &PolicyName,
    schedule: &str,
    vm: Option<VmId>,
    at: chrono::DateTime<chrono::Utc>,
    reason: String,
) -> journal::Record {
    RunSkipped { policy: policy.clone(), schedule: schedule.to_owned(), vm, at: at.into(), reason }.into()
}

fn queued(
    job: JobId,
    vm: VmId,
    repository: RepositoryName,
    policy: &policies::Policy,
    mode: policies::Mode,
    due: Due,
) -> journal::Record {
    let mode = match mode {
        policies::Mode::Auto => Mode::Auto,
        policies::Mode::Incremental => Mode::Incremental,
        policies::Mode::Differential => Mode::Differential,
        policies::Mode::Full => Mode::Full,
    };
    let consistency = match policy.consistency {
        policies::Consistency::Crash => ConsistencyAsked::Crash,
        policies::Consistency::Filesystem => ConsistencyAsked::Filesystem,
        policies::Consistency::Required => ConsistencyAsked::Required,
    };
    let work = Work::Backup(BackupWork { vm, repository, mode, since: None, consistency });
    let deadline = policy.deadline.and_then(|after| after.num_microseconds());
    let deadline = deadline.map(|after| Time(due.at.0.saturating_add(after)));
    let terms =
        Terms { priority: policy.priority, deadline, hooks: hooks(&policy.hooks), ..Terms::default() };
    JobQueued { job, work, due: Some(due), terms }.into()
}

/// A policy's hooks, as a job keeps them.
fn hooks(asked: &policies::Hooks) -> Option<Box<Hooks>> {
    let name = |name: &Option<String>| name.as_ref().and_then(|name| name.parse().ok());
    let limit_ms = asked.limit.num_milliseconds().unsigned_abs();
    let hooks = Hooks { before: name(&asked.before), after: name(&asked.after), limit_ms };
    (!asked.is_empty()).then(|| Box::new(hooks))
}

fn vm_named(state: &State, name: &str) -> Option<VmId> {
    state.vm_named(&name.parse().ok()?).map(|(id, _)| id)
}

/// Whether a VM's runs under a policy are under way.
fn activity(state: &State, policy: &PolicyName, vm: VmId) -> Activity {
    let mut activity = Activity::default();
    for job in under_way(state, policy, vm) {
        activity.running |= job.has_begun();
        activity.queued |= !job.has_begun();
    }
    activity
}

/// A VM's earlier jobs under a policy that are not over.
///
/// A crash may keep the first jobs of a decision and not the cursors behind them. What is then queued beyond its schedule's
/// cursor is part of the very runs that are decided again, and stands in nobody's way.
fn under_way<'a>(state: &'a State, name: &'a PolicyName, vm: VmId) -> impl Iterator<Item = &'a Job> {
    let answered = |due: &Due| state.policies.get(name).is_none_or(|it| due.at <= it.cursor(&due.schedule));
    let jobs = state.queue().of_vm(vm).filter_map(|job| state.jobs.get(&job));
    jobs.filter(move |job| job.due.as_ref().is_some_and(|due| due.policy == *name && answered(due)))
}

/// A VM's jobs that are not over, and those that are and still at hand.
fn of_vm(state: &State, vm: VmId) -> impl Iterator<Item = &Job> {
    let open = state.queue().of_vm(vm).filter_map(|job| state.jobs.get(&job));
    open.chain(state.finished().filter(move |job| job.work.vm() == Some(vm)))
}

/// What is under way of a VM gives way to its next run.
fn cancelled(state: &State, policy: &PolicyName, vm: VmId, at: Time) -> Vec<journal::Record> {
    let why = format!("the run of {at} took its place (overlap = \"cancel-older\")");
    let older = under_way(state, policy, vm).filter(|job| !job.cancel_asked);
    older.map(|job| CancelAsked { job: job.id, why: Some(why.clone()) }.into()).collect()
}

/// The next instant at which something may become due: a schedule's, or a waiting job's.
#[must_use]
pub fn next_instant(state: &State, live: &Live, now: Time) -> Option<Time> {
    // A paused policy's too: what it does not run is answered for while it is paused, and not made up for afterwards.
    let runs = live.policies.values().filter_map(|parsed| parsed.next).filter(|next| *next > now);
    runs.chain(queue::next_instant(state, live, now)).min()
}

#[cfg(test)]
mod tests;
