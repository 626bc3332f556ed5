//! The next step of a running job: what all kinds of work have in common.

use journal::effect::PruneTerms;
use journal::observation::{Machine, VmSeen};
use journal::record::{End, Work};
use journal::state::{Job, Step};
use journal::{EffectKind, FailureClass, State, Time, VmId};

use super::{CheckStep, Decision, Live, backup, checkpoint, export, hooks, repository, restore, retry};

/// The jobs that are running.
pub fn running(state: &State) -> impl Iterator<Item = &Job> {
    state.queue().running().filter_map(|job| state.jobs.get(&job))
}

/// The next step of a job, or `None` until something happens.
#[must_use]
pub fn next(state: &State, live: &Live, job: &Job, now: Time) -> Option<Decision> {
    let decision = step(state, live, job, now)?;
    Some(hooks::first(retry::instead(decision, live, job, now), state, job))
}

fn step(state: &State, live: &Live, job: &Job, now: Time) -> Option<Decision> {
    if job.work.vm().is_some_and(|vm| live.checks.contains_key(&vm)) {
        return None;
    }
    if let Some(step) = job.open_step() {
        return wait(live, job, step);
    }
    match &job.work {
        Work::Backup(work) => backup::next(state, live, job, work, now),
        Work::Export(work) => Some(export::next(state, live, job, work)),
        Work::Restore(work) => restore::next(state, job, work),
        Work::CreateCheckpoint { vm } => checkpoint::create(state, live, job, *vm),
        Work::DeleteCheckpoint { vm, checkpoint } => checkpoint::delete(state, live, job, *vm, *checkpoint),
        Work::RemoveVm { vm, force } => checkpoint::remove_all(state, live, job, *vm, *force),
        Work::Reconcile { vm } => Some(match observed(live, *vm) {
            Observed::Machine(_) => Decision::end(job.id, End::Done, None),
            Observed::Unreachable(why) => Decision::fail_as(job.id, FailureClass::Unreachable, why),
            Observed::NotYet => Decision::check(*vm, CheckStep::Want),
        }),
        Work::AddRepository { repository, chunk_bytes } => {
            Some(repository::add(state, job, repository, *chunk_bytes))
        }
        Work::CheckRepository { repository, read_percent } => {
            Some(repository::check(state, job, repository, *read_percent))
        }
        Work::PruneRepository { repository } => {
            Some(repository::prune(state, job, repository, PruneTerms::default()))
        }
        Work::PruneBy { repository, terms } => Some(repository::prune(state, job, repository, *terms)),
        Work::Forget { point } => Some(repository::forget(state, job, *point)),
        Work::MeasureRepository { repository } => Some(repository::measure(state, job, repository)),
        Work::LimitRepository { repository, rates } => Some(repository::limit(state, job, repository, rates)),
        Work::Keys { repository, change } => Some(repository::keys(state, job, repository, change)),
    }
}

/// A job whose effect is on its way waits for it, passes a cancellation or a pause on, and gives up when nobody can tell what
/// became of the effect: the intent stays open, and reconcile settles it when its QEMU answers again.
fn wait(live: &Live, job: &Job, step: &Step) -> Option<Decision> {
    if !live.in_hand.contains(&step.intent) {
        let vm = job.work.vm()?;
        let why = match observed(live, vm) {
            Observed::NotYet => return Some(Decision::check(vm, CheckStep::Want)),
            Observed::Unreachable(why) => why,
            Observed::Machine(_) => "its outcome stays unknown".to_owned(),
        };
        let reason =
            format!("{} `{}`: {why}; it is looked into again when QEMU answers", step.intent, step.kind);
        return Some(Decision::fail_as(job.id, FailureClass::Unreachable, reason));
    }
    // What is only offered to others has nothing that could rest, nor has a hook.
    let rests = !matches!(step.kind, EffectKind::Offer | EffectKind::HookBefore);
    let asked = job.cancel_asked || (job.pause_asked && rests);
    let stop = asked && can_be_stopped(step.kind) && !live.cancelling.contains(&step.intent);
    stop.then(|| Decision { cancel: vec![step.intent], ..Decision::default() })
}

/// Effects that take long. The others are over sooner than a cancellation could stop them.
fn can_be_stopped(kind: EffectKind) -> bool {
    matches!(
        kind,
        EffectKind::Store
            | EffectKind::Restore
            | EffectKind::Check
            | EffectKind::Prune
            | EffectKind::Offer
            | EffectKind::HookBefore
    )
}

/// Whether a long effect was stopped, and not because its job is to be cancelled: for a rest, after which it is begun
/// again.
#[must_use]
pub fn was_stopped(job: &Job, step: &Step) -> bool {
    !job.cancel_asked && step.failure().is_some_and(|failure| failure.class == FailureClass::Cancelled)
}

/// What is known of a VM that a job is about to touch.
pub enum Observed<'a> {
    /// It was not looked at since the job began.
    NotYet,
    /// It does not answer.
    Unreachable(String),
    /// It answers.
    Machine(&'a Machine),
}

/// What was seen of a VM.
#[must_use]
pub fn observed(live: &Live, vm: VmId) -> Observed<'_> {
    match live.seen.get(&vm).map(|seen| &seen.vm) {
        None => Observed::NotYet,
        Some(VmSeen::Answering(machine)) => Observed::Machine(machine),
        Some(VmSeen::NotRunning { why }) => Observed::Unreachable(format!("QEMU is not running: {why}")),
        Some(VmSeen::Silent { why }) => Observed::Unreachable(format!("QEMU does not answer: {why}")),
    }
}
