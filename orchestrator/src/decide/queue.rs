//! The queue: which job may run now.
//!
//! One job for each VM at a time; nothing beside a prune in one repository; a limit on all that do something. Within these,
//! the oldest job that may run does.

use journal::record::{End, JobStarted, Work};
use journal::state::{Job, JobState};
use journal::{RepositoryName, State, Time};

use super::{CheckStep, Decision, Live, jobs};

/// How many jobs run at once, those not counted that only offer a view to others.
pub const RUNNING_MAX: usize = 4;

/// Starts the next job, or ends one that was cancelled before it started.
#[must_use]
pub fn admit(state: &State, live: &Live, now: Time) -> Option<Decision> {
    let mut queued = state.jobs.values().filter(|job| job.state == JobState::Queued);
    if let Some(job) = queued.clone().find(|job| job.cancel_asked) {
        return Some(Decision::end(job.id, End::Cancelled, Some("cancelled before it started".to_owned())));
    }
    if jobs::running(state).filter(|job| !job.is_offering()).count() >= RUNNING_MAX {
        return None;
    }
    let may_begin = |job: &Job| !live.full || job.work.frees_room();
    let job = queued.find(|job| may_begin(job) && is_due(job, now) && may_run(state, live, job, now))?;
    let mut decision = Decision { records: vec![JobStarted { job: job.id }.into()], ..Decision::default() };
    // A job's plan rests on what is there when it starts: look first, and heal what is to be healed.
    decision.checks.extend(job.work.vm().map(|vm| (vm, CheckStep::Want)));
    Some(decision)
}

fn is_due(job: &Job, now: Time) -> bool {
    job.due.as_ref().is_none_or(|due| due.not_before <= now)
}

fn may_run(state: &State, live: &Live, job: &Job, now: Time) -> bool {
    let vm_is_free = job.work.vm().is_none_or(|vm| !live.checks.contains_key(&vm))
        && jobs::running(state).all(|other| !keeps_waiting(other, job));
    let repository = repository(state, job);
    let repository_is_free = jobs::running(state).all(|other| {
        let shared = repository.is_some() && repository == self::repository(state, other);
        !(shared && (is_exclusive(job) || is_exclusive(other)))
    });
    vm_is_free && repository_is_free && !is_preceded(state, job, now)
}

/// Whether a running job keeps another one from its VM. Whoever only looks at a VM may do so while a view of it is offered.
fn keeps_waiting(running: &Job, waiting: &Job) -> bool {
    let looks_only = matches!(waiting.work, Work::Reconcile { .. });
    running.work.vm().is_some()
        && running.work.vm() == waiting.work.vm()
        && !(looks_only && running.is_offering())
}

/// The export that a queued job waits for, if it does.
#[must_use]
pub fn waits_for_export<'a>(state: &'a State, job: &Job) -> Option<&'a Job> {
    let is_export = |other: &&Job| matches!(other.work, Work::Export(_));
    jobs::running(state).filter(is_export).find(|other| keeps_waiting(other, job))
}

/// Whether an older job waits to have the repository for itself: were later ones let in before it, its turn might never
/// come.
fn is_preceded(state: &State, job: &Job, now: Time) -> bool {
    let Some(repository) = repository(state, job) else { return false };
    state.jobs.range(..job.id).any(|(_, older)| {
        older.state == JobState::Queued
            && is_exclusive(older)
            && is_due(older, now)
            && self::repository(state, older) == Some(repository)
    })
}

/// Whether nothing else may happen in the repository meanwhile: restic's exclusive lock.
fn is_exclusive(job: &Job) -> bool {
    matches!(job.work, Work::PruneRepository { .. })
}

/// The repository that a job works in.
#[must_use]
pub fn repository<'a>(state: &'a State, job: &'a Job) -> Option<&'a RepositoryName> {
    let of_point = |point| state.points.get(point).map(|point| &point.repository);
    match &job.work {
        Work::Restore(work) => of_point(&work.point),
        Work::Forget { point } => of_point(point),
        work => work.repository(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use journal::effect::{RepositoryAddress, VmAddress};
    use journal::record::{
        BackupWork, ConsistencyAsked, EpochBegan, ExportWork, Installed, IntentOpened, JobQueued, Mode,
        RepositoryAdded, VmAdded,
    };
    use journal::state::Stamp;
    use journal::{Epoch, Installation, JobId, Record, VmId};

    use super::*;

    fn vm(number: u128) -> VmId {
        VmId(uuid::Uuid::from_u128(number))
    }

    fn backup(number: u128) -> Work {
        let (mode, consistency) = (Mode::Auto, ConsistencyAsked::Crash);
        Work::Backup(BackupWork {
            vm: vm(number),
            repository: "main".parse().unwrap(),
            mode,
            since: None,
            consistency,
        })
    }

    fn prune() -> Work {
        Work::PruneRepository { repository: "main".parse().unwrap() }
    }

    fn apply(state: &mut State, record: impl Into<Record>) {
        state.apply(Stamp { epoch: Epoch(1), time: Time(1) }, &record.into()).unwrap();
    }

    fn queued(works: &[Work]) -> State {
        let mut state = State::default();
        apply(&mut state, Installed { installation: Installation(1) });
        apply(&mut state, EpochBegan { pid: 1, version: "0".into() });
        for number in 1..4 {
            let name = format!("vm{number}").parse().unwrap();
            let vm = VmAddress { id: vm(number), name, qmp: "/qmp".into(), guest_agent: None };
            apply(&mut state, VmAdded { vm, disks: Vec::new(), labels: Vec::new() });
        }
        let repository = RepositoryAddress {
            name: "main".parse().unwrap(),
            path: "/repository".into(),
            password_file: "/key".into(),
            append_only: false,
            rates: Vec::new(),
        };
        apply(&mut state, RepositoryAdded { repository, id: "r".into(), chunk_bytes: 1 << 20 });
        for (job, work) in (1..).map(JobId).zip(works) {
            apply(&mut state, JobQueued { job, work: work.clone(), due: None });
        }
        state
    }

    /// The job that is admitted next, and is running from then on.
    fn next(state: &mut State, live: &Live) -> Option<u64> {
        let decision = admit(state, live, Time(1))?;
        let [Record::JobStarted(started)] = &decision.records[..] else { panic!("{decision:?}") };
        let job = started.job.0;
        decision.records.into_iter().for_each(|record| apply(state, record));
        Some(job)
    }

    #[test]
    fn what_frees_room_goes_first_where_there_is_none() {
        let mut state = queued(&[backup(1), prune()]);
        assert_eq!(next(&mut state, &Live { full: true, ..Live::default() }), Some(2));
    }

    #[test]
    fn a_prune_is_not_overtaken_for_ever() {
        let mut state = queued(&[backup(1), prune(), backup(2)]);
        let live = Live::default();
        assert_eq!(next(&mut state, &live), Some(1));
        // The prune waits for the first backup, and the second backup for the prune.
        assert_eq!(next(&mut state, &live), None);
    }

    /// An export whose view is up and offered.
    fn offer(state: &mut State, job: u64, number: u128) {
        let vm = state.vms[&vm(number)].address.clone();
        let process = journal::Process { pid: 1, started_ticks: 1, boot: uuid::Uuid::nil() };
        let (id, installation) = (state.next.intent, Installation(1));
        let offer = journal::effect::Offer { vm, process, installation, view: id, until: Time(9) };
        let effect = journal::Effect::Offer(offer);
        apply(state, IntentOpened { intent: journal::Intent { id, job: Some(JobId(job)), effect } });
    }

    fn export(number: u128) -> Work {
        Work::Export(ExportWork { vm: vm(number), since: None, ttl_seconds: 60 })
    }

    #[test]
    fn an_export_keeps_all_jobs_of_its_vm_waiting_but_a_look() {
        let mut state = queued(&[export(1), backup(1), Work::Reconcile { vm: vm(1) }, backup(2)]);
        let live = Live::default();
        assert_eq!(next(&mut state, &live), Some(1));
        // While it begins, nothing else is done there.
        assert_eq!(next(&mut state, &live), Some(4));
        offer(&mut state, 1, 1);
        assert_eq!(next(&mut state, &live), Some(3));
        assert_eq!(next(&mut state, &live), None);
        assert_eq!(waits_for_export(&state, &state.jobs[&JobId(2)]).map(|job| job.id), Some(JobId(1)));
        assert_eq!(waits_for_export(&state, &state.jobs[&JobId(4)]), None);
    }

    #[test]
    fn what_is_only_offered_takes_nobody_s_place() {
        let mut state = queued(&[export(1), export(2), export(3)]);
        let live = Live::default();
        for number in 1..=3 {
            assert_eq!(next(&mut state, &live), Some(number));
            offer(&mut state, number, u128::from(number));
        }
        let check = || Work::CheckRepository { repository: "main".parse().unwrap(), read_percent: 0 };
        for job in (4..).map(JobId).take(RUNNING_MAX + 1) {
            apply(&mut state, JobQueued { job, work: check(), due: None });
        }
        let started: Vec<u64> = std::iter::from_fn(|| next(&mut state, &live)).collect();
        assert_eq!(started, (4..).take(RUNNING_MAX).collect::<Vec<_>>());
    }

    #[test]
    fn one_job_for_each_vm() {
        let mut state = queued(&[backup(1), backup(1), backup(2)]);
        let live = Live::default();
        assert_eq!(next(&mut state, &live), Some(1));
        assert_eq!(next(&mut state, &live), Some(3));
        assert_eq!(next(&mut state, &live), None);
    }
}
