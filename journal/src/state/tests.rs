//! The fold, tried on what must be refused. Whole histories are tried in the orchestrator's and the system's tests.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::record::{
    CancelAsked, End, EpochBegan, Installed, JobEnded, JobQueued, JobStarted, PauseAsked, Terms, VmAdded,
    Work,
};

fn stamp(epoch: u64) -> Stamp {
    Stamp { epoch: Epoch(epoch), time: Time(1_000_000) }
}

fn vm_added(name: &str) -> VmAdded {
    VmAdded {
        vm: VmAddress {
            id: VmId(uuid::Uuid::from_u128(7)),
            name: name.parse().unwrap(),
            qmp: "/run/qmp".into(),
            guest_agent: None,
        },
        disks: Vec::new(),
        labels: Vec::new(),
        host: None,
    }
}

fn started() -> State {
    let mut state = State::default();
    state.apply(stamp(1), &Installed { installation: Installation(1) }.into()).unwrap();
    state.apply(stamp(1), &EpochBegan { pid: 1, version: "0".into() }.into()).unwrap();
    state.apply(stamp(1), &vm_added("web").into()).unwrap();
    state
}

fn job(number: u64) -> Record {
    let vm = VmId(uuid::Uuid::from_u128(7));
    JobQueued { job: JobId(number), work: Work::Reconcile { vm }, due: None, terms: Terms::default() }.into()
}

#[test]
fn a_refused_record_changes_nothing() {
    let mut state = started();
    state.apply(stamp(1), &job(1)).unwrap();
    let before = state.clone();
    let refused: [Record; 6] = [
        Installed { installation: Installation(2) }.into(),
        EpochBegan { pid: 1, version: "0".into() }.into(),
        vm_added("web").into(),
        job(1),
        JobStarted { job: JobId(9) }.into(),
        JobEnded { job: JobId(1), end: End::Done, reason: None, class: None }.into(),
    ];
    for record in refused {
        assert!(state.apply(stamp(1), &record).is_err(), "{record:?}");
        assert_eq!(state, before, "{record:?}");
    }
}

/// Found by `journal_power`: the thaw was owed although the freeze was refused.
#[test]
fn a_refused_freeze_owes_no_thaw() {
    let mut state = started();
    state.apply(stamp(1), &job(1)).unwrap();
    let before = state.clone();
    let vm = state.vms.values().next().unwrap().address.clone();
    let effect = Effect::Freeze(crate::effect::Freeze { vm, limit_ms: 1 });
    let intent = Intent { id: IntentId(1), job: Some(JobId(1)), effect };
    assert!(
        state.apply(stamp(1), &crate::record::IntentOpened { intent }.into()).is_err(),
        "it does not run"
    );
    assert_eq!(state, before);
}

#[test]
fn a_job_goes_from_state_to_state_and_never_back() {
    let mut state = started();
    state.apply(stamp(1), &job(1)).unwrap();
    state.apply(stamp(1), &JobStarted { job: JobId(1) }.into()).unwrap();
    assert!(state.apply(stamp(1), &JobStarted { job: JobId(1) }.into()).is_err());
    state.apply(stamp(1), &CancelAsked { job: JobId(1), why: None }.into()).unwrap();
    let ended = JobEnded { job: JobId(1), end: End::Cancelled, reason: None, class: None }.into();
    state.apply(stamp(1), &ended).unwrap();
    assert_eq!(state.jobs[&JobId(1)].state, JobState::Cancelled);
    assert!(state.apply(stamp(1), &ended).is_err());
}

fn after(number: u64, after: &[u64]) -> Record {
    let terms = Terms { after: after.iter().copied().map(JobId).collect(), ..Terms::default() };
    let work = Work::Reconcile { vm: VmId(uuid::Uuid::from_u128(7)) };
    JobQueued { job: JobId(number), work, due: None, terms }.into()
}

fn at(time: i64) -> Stamp {
    Stamp { epoch: Epoch(1), time: Time(time) }
}

#[test]
fn what_comes_after_a_job_has_its_place_once_that_is_over_however_it_ends() {
    let mut state = started();
    let places = |state: &State| -> Vec<(JobId, Time)> {
        let fronts =
            state.queue().fronts().flat_map(|(_, front)| front.hosts()).flat_map(|(_, places)| places);
        fronts.map(|place| (place.job, place.not_before)).collect()
    };
    let ended = |job, end| JobEnded { job: JobId(job), end, reason: None, class: None };
    state.apply(at(1), &job(1)).unwrap();
    state.apply(at(1), &job(2)).unwrap();
    state.apply(at(1), &ended(1, End::Failed).into()).unwrap();
    // One that is over is not waited for, and of the others each is.
    state.apply(at(2), &after(3, &[1, 2])).unwrap();
    state.apply(at(2), &after(4, &[2, 3, 3])).unwrap();
    assert_eq!(
        (&state.jobs[&JobId(3)].waits_for[..], places(&state)),
        (&[JobId(2)][..], vec![(JobId(2), Time(1))])
    );
    assert!(state.apply(at(3), &JobStarted { job: JobId(3) }.into()).is_err(), "it is not its turn");
    state.apply(at(3), &JobStarted { job: JobId(2) }.into()).unwrap();
    assert_eq!(places(&state), []);
    state.apply(at(5), &ended(2, End::Failed).into()).unwrap();
    assert_eq!(places(&state), [(JobId(3), Time(5))], "it waits for its turn from then on");
    // One at rest has heard of the end when it goes on.
    state.apply(at(6), &PauseAsked { job: JobId(4), paused: true }.into()).unwrap();
    state.apply(at(7), &ended(3, End::Cancelled).into()).unwrap();
    assert_eq!(places(&state), []);
    state.apply(at(8), &PauseAsked { job: JobId(4), paused: false }.into()).unwrap();
    assert_eq!(places(&state), [(JobId(4), Time(7))]);
    assert_eq!(state.queue().waiting().map(|(_, waiting)| waiting).sum::<usize>(), 1);
}

#[test]
fn nothing_waits_for_itself_or_for_what_comes_later() {
    let mut state = started();
    let before = state.clone();
    for later in [1, 2] {
        assert!(state.apply(stamp(1), &after(1, &[later])).is_err());
        assert_eq!(state, before);
    }
}

#[test]
fn finished_jobs_do_not_pile_up() {
    let mut state = started();
    for number in 1..=(FINISHED_JOBS_KEPT as u64 + 50) {
        state.apply(stamp(1), &job(number)).unwrap();
        let ended = JobEnded { job: JobId(number), end: End::Cancelled, reason: None, class: None };
        state.apply(stamp(1), &ended.into()).unwrap();
    }
    assert_eq!(state.jobs.len(), FINISHED_JOBS_KEPT);
    assert_eq!(state.next.job, JobId(FINISHED_JOBS_KEPT as u64 + 51));
}

#[test]
fn losing_a_disk_takes_it_from_the_older_checkpoints_only() {
    let mut chain = Chain::default();
    let tracked = || Tracked {
        bitmap: "backstay.00000001.1".into(),
        node: "n".into(),
        lasts: crate::effect::Lasts::Persistent,
        backing: String::new(),
        size_bytes: 1 << 20,
    };
    let (a, b): (DiskName, DiskName) = ("a".parse().unwrap(), "b".parse().unwrap());
    for id in 1..=3 {
        let disks = [(a.clone(), tracked()), (b.clone(), tracked())].into();
        chain.checkpoints.push(Checkpoint { id: CheckpointId(id), created: Time(0), by_hand: false, disks });
    }
    chain.lose(&a, CheckpointId(2), "gone");
    assert!(!chain.covers(&a, CheckpointId(2)) && chain.covers(&a, CheckpointId(3)));
    assert!(chain.covers(&b, CheckpointId(1)));
    chain.lose(&b, CheckpointId(3), "gone");
    assert_eq!(chain.checkpoints.len(), 1, "a checkpoint that covers nothing is none");
}
