//! Who is next: the rules one by one, and that the lanes give what a look at every job gives.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use journal::effect::{PruneTerms, RepositoryAddress, VmAddress};
use journal::record::{
    BackupWork, CancelAsked, ConsistencyAsked, Due, EpochBegan, ExportWork, Installed, IntentOpened,
    JobQueued, Mode, PauseAsked, PolicyApplied, RepositoryAdded, Terms, VmAdded, VmHosted, Work,
};
use journal::state::{JobState, Stamp};
use journal::{Epoch, Installation, Record, VmId};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

/// Half of them on each of two hosts.
const VMS: u128 = 6;

fn vm(number: u128) -> VmId {
    VmId(uuid::Uuid::from_u128(number))
}

fn host(name: &str) -> HostName {
    name.parse().unwrap()
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
    Work::PruneBy { repository: "main".parse().unwrap(), terms: PruneTerms::default() }
}

fn apply(state: &mut State, record: impl Into<Record>) {
    state.apply(Stamp { epoch: Epoch(1), time: Time(1) }, &record.into()).unwrap();
}

fn queued(works: &[Work]) -> State {
    let mut state = State::default();
    apply(&mut state, Installed { installation: Installation(1) });
    apply(&mut state, EpochBegan { pid: 1, version: "0".into() });
    for number in 1..=VMS {
        let name = format!("vm{number}").parse().unwrap();
        let vm = VmAddress { id: vm(number), name, qmp: "/qmp".into(), guest_agent: None };
        let host = Some(host(if number < 4 { "a" } else { "b" }));
        apply(&mut state, VmAdded { vm, disks: Vec::new(), labels: Vec::new(), host });
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
        apply(&mut state, JobQueued { job, work: work.clone(), due: None, terms: Terms::default() });
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

#[test]
fn a_dry_run_of_a_prune_goes_beside_backups() {
    let terms = PruneTerms { dry_run: true, ..PruneTerms::default() };
    let look = Work::PruneBy { repository: "main".parse().unwrap(), terms };
    let mut state = queued(&[backup(1), look, backup(2)]);
    let live = Live::default();
    assert_eq!([1, 2, 3].map(|_| next(&mut state, &live)), [Some(1), Some(2), Some(3)]);
}

#[test]
fn one_job_for_each_vm() {
    let mut state = queued(&[backup(1), backup(1), backup(2)]);
    let live = Live::default();
    assert_eq!(next(&mut state, &live), Some(1));
    assert_eq!(next(&mut state, &live), Some(3));
    assert_eq!(next(&mut state, &live), None);
}

#[test]
fn what_is_asked_for_by_hand_goes_first_and_who_waits_long_enough_goes_before_it() {
    let mut state = queued(&[backup(1), backup(2), backup(3)]);
    let early = state.jobs[&JobId(1)].not_before.0;
    let urgent = |job: u64, at: i64, priority: i8| JobQueued {
        job: JobId(job),
        work: backup(3),
        due: Some(due("p", at)),
        terms: Terms { priority, ..Terms::default() },
    };
    apply(&mut state, urgent(4, early + 2 * STEP, 3));
    apply(&mut state, urgent(5, early + 2 * STEP, 1));
    let now = Time(early + 2 * STEP);
    let live = Live::default();
    assert_eq!(first(&state, &live, now), Some(JobId(4)), "three steps outrank two of waiting");
    apply(&mut state, JobEnded { job: JobId(4), end: End::Cancelled, reason: None, class: None });
    assert_eq!(first(&state, &live, now), Some(JobId(1)), "and one step does not");
}

#[test]
fn policies_take_turns() {
    let mut state = queued(&[]);
    for (job, policy) in [(1, "a"), (2, "a"), (3, "b")] {
        let work = backup(u128::from(job));
        let due = Some(due(policy, 1));
        apply(&mut state, JobQueued { job: JobId(job), work, due, terms: Terms::default() });
    }
    let live = Live::default();
    assert_eq!(next(&mut state, &live), Some(1));
    assert_eq!(next(&mut state, &live), Some(3), "`a` has one that runs");
    assert_eq!(next(&mut state, &live), Some(2));
}

#[test]
fn limits_hold_and_a_deadline_ends_the_wait() {
    let mut state = queued(&[backup(1), backup(2), backup(3)]);
    let limits = super::super::Limits { jobs_per_repository: 2, ..super::super::Limits::default() };
    let live = Live::new(limits, BTreeSet::new());
    assert_eq!(next(&mut state, &live), Some(1));
    assert_eq!(next(&mut state, &live), Some(2));
    assert_eq!(next(&mut state, &live), None);
    let terms = Terms { deadline: Some(Time(50)), ..Terms::default() };
    apply(&mut state, JobQueued { job: JobId(4), work: backup(3), due: None, terms });
    assert_eq!(next_instant(&state, &live, Time(1)), Some(Time(50)));
    assert_eq!(admit(&state, &live, Time(49)), None);
    let decision = admit(&state, &live, Time(50)).unwrap();
    let [Record::JobEnded(ended)] = &decision.records[..] else { panic!("{decision:?}") };
    assert_eq!((ended.job, ended.end, ended.class), (JobId(4), End::Failed, Some(FailureClass::TooLate)));
}

/// Limits of one job on each host.
fn one_on_each_host() -> Live {
    let limits = super::super::Limits { jobs_per_host: 1, ..super::super::Limits::default() };
    Live::new(limits, BTreeSet::new())
}

#[test]
fn a_full_host_holds_back_its_own_jobs_alone() {
    let mut state = queued(&[backup(1), backup(2), backup(3), backup(4), backup(5)]);
    let live = one_on_each_host();
    // Whatever its priority, a job of a full host is in nobody's way.
    let urgent = Terms { priority: 5, ..Terms::default() };
    apply(&mut state, JobQueued { job: JobId(6), work: backup(3), due: None, terms: urgent });
    assert_eq!(next(&mut state, &live), Some(6));
    assert_eq!(next(&mut state, &live), Some(4));
    assert_eq!(next(&mut state, &live), None);
    apply(&mut state, JobEnded { job: JobId(6), end: End::Done, reason: None, class: None });
    assert_eq!(next(&mut state, &live), Some(1), "the one that has waited longest on this host");
    assert_eq!(next(&mut state, &live), None);
}

#[test]
fn a_vm_that_comes_to_another_host_waits_for_that_one() {
    let mut state = queued(&[backup(1), backup(2)]);
    let live = one_on_each_host();
    assert_eq!(next(&mut state, &live), Some(1));
    assert_eq!(next(&mut state, &live), None);
    apply(&mut state, VmHosted { vm: vm(2), host: host("c") });
    assert_eq!(next(&mut state, &live), Some(2));
    // And what runs counts where its VM is.
    apply(&mut state, VmHosted { vm: vm(1), host: host("b") });
    apply(&mut state, JobQueued { job: JobId(3), work: backup(4), due: None, terms: Terms::default() });
    apply(&mut state, JobQueued { job: JobId(4), work: backup(3), due: None, terms: Terms::default() });
    assert_eq!(next(&mut state, &live), Some(4));
    assert_eq!(next(&mut state, &live), None);
}

#[test]
fn what_is_only_offered_and_what_is_on_no_host_takes_no_place_on_one() {
    let check = Work::CheckRepository { repository: "main".parse().unwrap(), read_percent: 0 };
    let mut state = queued(&[export(1), check.clone(), check, backup(2), backup(3)]);
    let live = one_on_each_host();
    assert_eq!(next(&mut state, &live), Some(1));
    assert_eq!([(); 3].map(|()| next(&mut state, &live)), [Some(2), Some(3), None], "the export begins");
    offer(&mut state, 1, 1);
    assert_eq!([(); 2].map(|()| next(&mut state, &live)), [Some(4), None]);
}

#[test]
fn each_limit_says_what_it_is() {
    let mut state = queued(&[backup(1), backup(2), prune()]);
    let lane = |state: &State, job: u64| Lane::of(&state.jobs[&JobId(job)]);
    let limits = |jobs, jobs_per_repository, jobs_per_host| super::super::Limits {
        jobs,
        jobs_per_repository,
        jobs_per_host,
        ..super::super::Limits::default()
    };
    let narrow = limits(1, 1, 1);
    let room = Room::of(&state, narrow);
    assert_eq!(
        (room.at_all(), room.in_lane(&lane(&state, 3), None), room.on_host(Some(&host("a")))),
        (None, None, None)
    );
    let terms = Terms::default();
    apply(&mut state, JobQueued { job: JobId(4), work: backup(3), due: Some(due("p", 1)), terms });
    for job in [1, 4] {
        apply(&mut state, JobStarted { job: JobId(job) });
    }
    let room = Room::of(&state, narrow);
    let said = |obstacle: Option<room::Obstacle<'_>>| obstacle.unwrap().to_string();
    assert!(said(room.at_all()).starts_with("1 at work at once"));
    assert!(said(room.in_lane(&lane(&state, 2), None)).contains("1 at work in repository main"));
    assert!(said(room.in_lane(&lane(&state, 3), None)).contains("needs repository main for itself"));
    assert!(
        said(room.on_host(Some(&host("a"))))
            .contains("1 at work on host a, as many as `limits.jobs_per_host`")
    );
    assert_eq!((room.on_host(Some(&host("b"))), room.on_host(None)), (None, None));
    let wide = Room::of(&state, limits(9, 9, 9));
    assert_eq!((wide.at_all(), wide.on_host(Some(&host("a")))), (None, None));
    assert_eq!(wide.in_lane(&lane(&state, 4), Some(2)), None);
    assert!(said(wide.in_lane(&lane(&state, 4), Some(1))).contains("1 of policy p at work"));

    let mut state = queued(&[prune(), backup(1)]);
    apply(&mut state, JobStarted { job: JobId(1) });
    let room = Room::of(&state, limits(9, 9, 9));
    assert!(said(room.in_lane(&lane(&state, 2), None)).contains("a prune has repository main for itself"));
}

/// A policy that runs at 22 o'clock, from 20 to 6 only, and not at all on 2 January 1970; with jobs that are due.
fn by_night(state: &mut State, jobs: u64) -> Live {
    let text = "name = \"p\"\nrepositories = [\"main\"]\nselect.names = [\"*\"]\nblackout = \"1970-01-02\"\n\
                schedules = [{ cron = \"0 22 * * *\", window = \"20:00-06:00\" }]\n";
    apply(state, PolicyApplied { name: "p".parse().unwrap(), text: text.into() });
    let mut live = Live::default();
    assert!(live.refresh_policies(state).is_empty());
    for (number, job) in (1..=jobs).zip(state.next.job.0..) {
        let due = Due { schedule: "0 22 * * *".into(), ..due("p", -2 * HOUR) };
        let work = backup(u128::from(number));
        apply(state, JobQueued { job: JobId(job), work, due: Some(due), terms: Terms::default() });
    }
    live
}

const HOUR: i64 = 3_600_000_000;

#[test]
fn what_waited_past_the_end_of_its_window_starts_when_it_opens_again() {
    let mut state = queued(&[]);
    let live = by_night(&mut state, 1);
    let first = |hour: i64| first(&state, &live, Time(hour * HOUR));
    assert_eq!((first(-2), first(5)), (Some(JobId(1)), Some(JobId(1))));
    assert_eq!((first(6), first(19), first(20)), (None, None, Some(JobId(1))));
    assert_eq!(next_instant(&state, &live, Time(6 * HOUR)), Some(Time(20 * HOUR)));
    // The blackout is over in the middle of the night.
    assert_eq!((first(24), first(47), first(48)), (None, None, Some(JobId(1))));
    assert_eq!(next_instant(&state, &live, Time(24 * HOUR)), Some(Time(48 * HOUR)));
}

#[test]
fn a_closed_window_holds_back_its_own_jobs_alone_and_no_try_by_hand() {
    let mut state = queued(&[]);
    let live = by_night(&mut state, 1);
    let due = state.jobs[&JobId(1)].due.clone();
    let by_hand = Terms { priority: 5, retries: Some(JobId(1)), ..Terms::default() };
    apply(&mut state, JobQueued { job: JobId(2), work: backup(2), due: due.clone(), terms: by_hand });
    assert_eq!(first(&state, &live, Time(7 * HOUR)), Some(JobId(2)), "whoever tries again by hand means now");
    // A schedule that the policy has no more has no hours.
    let due = due.map(|due| Due { schedule: "0 23 * * *".into(), ..due });
    apply(&mut state, JobQueued { job: JobId(3), work: backup(3), due, terms: Terms::default() });
    assert_eq!(next_instant(&state, &live, Time(7 * HOUR)), Some(Time(20 * HOUR)));
    apply(&mut state, JobStarted { job: JobId(2) });
    assert_eq!(first(&state, &live, Time(7 * HOUR)), Some(JobId(3)));
}

#[test]
fn a_deadline_that_comes_before_the_window_opens_says_so() {
    let mut state = queued(&[]);
    let live = by_night(&mut state, 0);
    let terms = Terms { deadline: Some(Time(7 * HOUR)), ..Terms::default() };
    let due = Due { schedule: "0 22 * * *".into(), ..due("p", 0) };
    apply(&mut state, JobQueued { job: JobId(1), work: backup(1), due: Some(due), terms });
    assert_eq!(admit(&state, &live, Time(6 * HOUR)), None);
    assert_eq!(next_instant(&state, &live, Time(6 * HOUR)), Some(Time(7 * HOUR)));
    let decision = admit(&state, &live, Time(7 * HOUR)).unwrap();
    let [Record::JobEnded(ended)] = &decision.records[..] else { panic!("{decision:?}") };
    assert_eq!(ended.class, Some(FailureClass::TooLate));
    let reason = ended.reason.as_deref().unwrap();
    assert!(reason.ends_with("(outside the schedule's window)"), "{reason}");
}

#[test]
fn a_paused_job_does_not_start_and_one_that_began_keeps_its_vm() {
    let mut state = queued(&[backup(1), backup(1), backup(2)]);
    let live = Live::default();
    apply(&mut state, PauseAsked { job: JobId(3), paused: true });
    assert_eq!(next(&mut state, &live), Some(1));
    apply(&mut state, PauseAsked { job: JobId(1), paused: true });
    apply(&mut state, journal::record::JobPaused { job: JobId(1) });
    assert_eq!(next(&mut state, &live), None, "its VM is its own, and the other rests");
    apply(&mut state, PauseAsked { job: JobId(3), paused: false });
    assert_eq!(next(&mut state, &live), Some(3));
}

#[test]
fn what_comes_after_a_job_waits_for_its_end_and_holds_nobody_up() {
    let mut state = queued(&[backup(1), backup(2)]);
    let live = Live::default();
    let terms = || Terms { priority: 9, after: [JobId(1)].into(), ..Terms::default() };
    apply(&mut state, JobQueued { job: JobId(3), work: prune(), due: None, terms: terms() });
    apply(&mut state, JobQueued { job: JobId(4), work: backup(2), due: None, terms: terms() });
    // Neither its priority nor that it wants the repository for itself counts before its time.
    assert_eq!(next(&mut state, &live), Some(1));
    assert_eq!(next(&mut state, &live), Some(2));
    assert_eq!(next(&mut state, &live), None);
    apply(&mut state, JobEnded { job: JobId(1), end: End::Failed, reason: None, class: None });
    assert_eq!(next(&mut state, &live), None, "its VM and its repository are at work");
    apply(&mut state, JobEnded { job: JobId(2), end: End::Done, reason: None, class: None });
    assert_eq!(next(&mut state, &live), Some(3));
    apply(&mut state, JobEnded { job: JobId(3), end: End::Done, reason: None, class: None });
    assert_eq!(next(&mut state, &live), Some(4));
    // One that is cancelled is over at once, whatever it waits for.
    let after = [JobId(4)].into();
    let waiting =
        JobQueued { job: JobId(5), work: backup(1), due: None, terms: Terms { after, ..Terms::default() } };
    apply(&mut state, waiting);
    apply(&mut state, CancelAsked { job: JobId(5), why: None });
    let decision = admit(&state, &live, Time(9)).unwrap();
    assert!(
        matches!(&decision.records[..], [Record::JobEnded(it)] if it.job == JobId(5) && it.end == End::Cancelled)
    );
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

fn waits_for(state: &State, job: u64) -> Option<u64> {
    waits_for_export(state, &state.jobs[&JobId(job)]).map(|job| job.id.0)
}

#[test]
fn an_export_keeps_all_jobs_of_its_vm_waiting_but_a_look() {
    let mut state = queued(&[
        export(1),
        backup(1),
        Work::Reconcile { vm: vm(1) },
        backup(2),
        Work::Reconcile { vm: vm(1) },
    ]);
    let live = Live::default();
    assert_eq!(next(&mut state, &live), Some(1));
    // While it begins, nothing else is done there.
    assert_eq!(next(&mut state, &live), Some(4));
    assert_eq!(next(&mut state, &live), None);
    assert_eq!(waits_for(&state, 3), Some(1));
    offer(&mut state, 1, 1);
    assert_eq!(waits_for(&state, 3), None);
    assert_eq!(next(&mut state, &live), Some(3));
    // One look at a time.
    assert_eq!(next(&mut state, &live), None);
    assert_eq!(waits_for(&state, 2), Some(1));
    assert_eq!(waits_for(&state, 4), None);
    apply(&mut state, JobEnded { job: JobId(3), end: End::Done, reason: None, class: None });
    assert_eq!(next(&mut state, &live), Some(5));
    apply(&mut state, JobEnded { job: JobId(5), end: End::Done, reason: None, class: None });
    assert_eq!(next(&mut state, &live), None);
    apply(&mut state, JobEnded { job: JobId(1), end: End::Done, reason: None, class: None });
    assert_eq!(next(&mut state, &live), Some(2));
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
    for job in (4..).map(JobId).take(live.limits.jobs + 1) {
        apply(&mut state, JobQueued { job, work: check(), due: None, terms: Terms::default() });
    }
    let started: Vec<u64> = std::iter::from_fn(|| next(&mut state, &live)).collect();
    assert_eq!(started, (4..).take(live.limits.jobs).collect::<Vec<_>>());
}

fn due(policy: &str, at: i64) -> Due {
    Due { policy: policy.parse().unwrap(), schedule: "x".into(), at: Time(at), not_before: Time(at) }
}

/// The same answer, by a look at every job.
fn by_scan(state: &State, live: &Live, now: Time) -> Option<JobId> {
    let running: Vec<&Job> = state.jobs.values().filter(|job| job.state == JobState::Running).collect();
    let alone = |job: &Job| job.work.is_exclusive();
    let ranked = |job: &Job| (job.not_before.0 - i64::from(job.terms.priority) * STEP, job.id);
    let policy = |job: &Job| job.due.as_ref().map(|due| due.policy.clone());
    let ready = |job: &&Job| {
        let vm = job.work.vm();
        let held = |other: &Job| vm.is_some() && other.work.vm() == vm && other.has_begun();
        job.state == JobState::Queued
            && job.not_before <= now
            && !job.cancel_asked
            && job.terms.after.iter().all(|first| state.jobs[first].state.is_over())
            && vm.is_none_or(|vm| !live.checks.contains_key(&vm))
            && !state.jobs.values().any(held)
    };
    let may_run = |job: &&Job| {
        let same = |other: &&&Job| job.repository.is_some() && other.repository == job.repository;
        let beside = running.iter().filter(same).count();
        let most = if alone(job) { 1 } else { live.limits.jobs_per_repository };
        let parsed = policy(job).and_then(|name| live.policies.get(&name));
        let of_policy = running.iter().filter(|other| policy(other) == policy(job)).count();
        let waits = |other: &Job| {
            !other.state.is_over()
                && other.due.as_ref().is_some_and(|due| (due.not_before, other.id) < (job.not_before, job.id))
                && parsed.is_some_and(|parsed| policy(other).is_some_and(|it| parsed.after.contains(&it)))
        };
        let preceded = |other: &Job| {
            alone(other)
                && job.repository.is_some()
                && other.repository == job.repository
                && ready(&other)
                && ranked(other) < ranked(job)
        };
        let host = |job: &Job| job.work.vm().and_then(|vm| state.vms[&vm].host.clone());
        let on_host = running.iter().filter(|other| host(job).is_some() && host(other) == host(job)).count();
        beside < most
            && on_host < live.limits.jobs_per_host
            && !running.iter().filter(same).any(|other| alone(other))
            && parsed.and_then(|it| it.policy.concurrency).is_none_or(|most| of_policy < most as usize)
            && !state.jobs.values().any(|other| waits(other) || preceded(other))
            && (!live.full || job.work.frees_room())
    };
    let share = |job: &Job| running.iter().filter(|it| policy(it) == policy(job)).count() as i64 * SHARE;
    // Of one VM and lane only the first can be next.
    let candidates = state.jobs.values().filter(ready).filter(may_run);
    candidates.min_by_key(|job| (ranked(job).0 + share(job), job.id)).map(|job| job.id)
}

#[test]
fn the_lanes_give_what_a_scan_gives() {
    let mut found = 0;
    for seed in 0..300 {
        let mut dice = StdRng::seed_from_u64(seed);
        let mut state = queued(&[]);
        for (name, more) in [("a", "concurrency = 1\n"), ("b", "after = [\"a\"]\n"), ("c", "")] {
            let text =
                format!("name = \"{name}\"\nrepositories = [\"main\"]\nselect.names = [\"*\"]\n{more}");
            apply(&mut state, PolicyApplied { name: name.parse().unwrap(), text });
        }
        let jobs_per_host = [1, 2, usize::MAX][dice.random_range(0..3)];
        let limits =
            super::super::Limits { jobs_per_repository: 3, jobs_per_host, ..super::super::Limits::default() };
        let mut live = Live::new(limits, BTreeSet::new());
        assert!(live.refresh_policies(&state).is_empty());
        for _ in 0..60 {
            let job = JobId(dice.random_range(1..=state.next.job.0));
            let records: Record = match dice.random_range(0..12) {
                0..6 => {
                    let at = dice.random_range(0..4) * STEP;
                    let policy = ["a", "b", "c"][dice.random_range(0..3)];
                    let priority = dice.random_range(-1..2);
                    let after = (0..dice.random_range(0..8) / 5).map(|_| JobId(dice.random_range(1..20)));
                    let after = after.filter(|first| *first < state.next.job).collect();
                    let terms = Terms { priority, after, ..Terms::default() };
                    let work =
                        if dice.random_ratio(1, 8) { prune() } else { backup(dice.random_range(1..=VMS)) };
                    let due = dice.random_ratio(2, 3).then(|| due(policy, at));
                    JobQueued { job: state.next.job, work, due, terms }.into()
                }
                6 => PauseAsked { job, paused: dice.random() }.into(),
                7 if dice.random() => {
                    let on = host(["a", "b", "c"][dice.random_range(0..3)]);
                    VmHosted { vm: vm(dice.random_range(1..=VMS)), host: on }.into()
                }
                7 => CancelAsked { job, why: None }.into(),
                8 | 9 => JobEnded { job, end: End::Failed, reason: None, class: None }.into(),
                _ => {
                    live.full = dice.random_ratio(1, 6);
                    live.checks.clear();
                    if dice.random_ratio(1, 4) {
                        live.look_at_all(&state);
                        live.checks.retain(|_, _| dice.random());
                    }
                    let now = Time(dice.random_range(0..4) * STEP);
                    let next = first(&state, &live, now);
                    assert_eq!(next, by_scan(&state, &live, now), "seed {seed}");
                    let Some(next) = next else { continue };
                    found += 1;
                    JobStarted { job: next }.into()
                }
            };
            let _refused = state.apply(Stamp { epoch: Epoch(1), time: Time(1) }, &records);
        }
    }
    assert!(found > 500, "too few found anything: {found}");
}
