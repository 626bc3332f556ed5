//! Hooks: a program of the host's own before a try of a backup begins anything, and one before the try ends, however it ends.
//!
//! What is owed is read off the job, whose hooks were fixed when it was queued: `after` runs where `before` was begun, and
//! where there is no `before`, once the try had a plan. The end itself is decided again when `after` has run, so that it is
//! the same end; where it was given up because nobody can tell what became of an effect, `after` goes on by itself.

use journal::effect::{Effect, Hook, HookSide, Hooks, TryEnd};
use journal::record::{BackupWork, End, Work};
use journal::state::Job;
use journal::{EffectKind, HookName, Record, State};

use super::Decision;

/// The hook before a try: to be run, or failed and with it the try; none where there is none or it is done.
pub(super) fn before(state: &State, job: &Job, work: &BackupWork) -> Option<Decision> {
    let hooks = job.terms.hooks.as_deref()?;
    let name = hooks.before.as_ref()?;
    let Some(run) = job.last(EffectKind::HookBefore) else {
        let effect = hook(state, job, work, hooks, name, HookSide::Before)?;
        return Some(Decision::effect(state, job.id, effect));
    };
    let failure = run.failure()?;
    let mut failed = failure.clone();
    failed.what = format!("nothing was begun: {}", failure.what);
    Some(Decision::fail_with(job, &failed))
}

/// The same decision, unless it ends a try whose `after` is owed: that comes first.
#[must_use]
pub fn first(mut decision: Decision, state: &State, job: &Job) -> Decision {
    let Some(end) = decision.records.iter().find_map(|record| ending(record, job)) else { return decision };
    if let Some(failure) = job.last(EffectKind::HookAfter).and_then(|run| run.failure()) {
        decision.records.iter_mut().for_each(|record| remark(record, &failure.what));
        return decision;
    }
    let Some(after) = after(state, job, end) else { return decision };
    if job.open_step().is_none() {
        return Decision::effect(state, job.id, after);
    }
    // Before the end, so that a crash between the two leaves a job that is given up once more, and not a hook that is forgotten.
    let mut given_up = Decision::default();
    given_up.open(state, None, after);
    given_up.records.append(&mut decision.records);
    Decision { records: given_up.records, send: given_up.send, ..decision }
}

/// How a record ends a try of a job.
fn ending(record: &Record, job: &Job) -> Option<HookSide> {
    match record {
        Record::JobEnded(it) if it.job == job.id => {
            let end = match it.end {
                End::Done => TryEnd::Done,
                End::Failed => TryEnd::Failed,
                End::Cancelled => TryEnd::Cancelled,
            };
            Some(HookSide::After { end, reason: it.reason.clone() })
        }
        Record::JobRetried(it) if it.job == job.id => {
            Some(HookSide::After { end: TryEnd::Retried, reason: Some(it.reason.clone()) })
        }
        _ => None,
    }
}

/// The hook that is owed to a try which is about to end.
fn after(state: &State, job: &Job, side: HookSide) -> Option<Effect> {
    let (hooks, Work::Backup(work)) = (job.terms.hooks.as_deref()?, &job.work) else { return None };
    let name = hooks.after.as_ref()?;
    let came_so_far = match hooks.before {
        Some(_) => job.last(EffectKind::HookBefore).is_some(),
        None => job.plan.is_some(),
    };
    let on_its_way = |effect: &Effect| {
        let of_this_try = |hook: &Hook| hook.job == job.id && hook.attempt == job.attempt();
        effect.kind() == EffectKind::HookAfter && matches!(effect, Effect::Hook(hook) if of_this_try(hook))
    };
    let has_run = job.last(EffectKind::HookAfter).is_some()
        || state.open.values().any(|open| on_its_way(&open.intent.effect));
    if !came_so_far || has_run {
        return None;
    }
    hook(state, job, work, hooks, name, side)
}

fn hook(
    state: &State,
    job: &Job,
    work: &BackupWork,
    hooks: &Hooks,
    name: &HookName,
    side: HookSide,
) -> Option<Effect> {
    Some(Effect::Hook(Box::new(Hook {
        vm: state.vms.get(&work.vm)?.address.clone(),
        name: name.clone(),
        limit_ms: hooks.limit_ms,
        job: job.id,
        attempt: job.attempt(),
        policy: job.due.as_ref()?.policy.clone(),
        repository: work.repository.clone(),
        mode: work.mode,
        side,
    })))
}

/// An end that says what became of `after`. It fails no backup: the restore point is what it is.
fn remark(record: &mut Record, failed: &str) {
    let remark =
        |reason: &str| if reason.is_empty() { failed.to_owned() } else { format!("{reason}; {failed}") };
    match record {
        Record::JobEnded(it) => it.reason = Some(remark(it.reason.as_deref().unwrap_or_default())),
        Record::JobRetried(it) => it.reason = remark(&it.reason),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
