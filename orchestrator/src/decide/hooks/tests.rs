//! What is owed around a try, however it ends.
#![allow(clippy::unwrap_used)]

use journal::effect::{RepositoryAddress, VmAddress};
use journal::outcome::{Done, Failure, Outcome};
use journal::record::{
    BackupPlanned, ConsistencyAsked, Due, EpochBegan, Installed, IntentSettled, JobQueued, JobRetried,
    JobStarted, Mode, RepositoryAdded, Terms, VmAdded, Witness,
};
use journal::state::Stamp;
use journal::{
    CheckpointId, Epoch, FailureClass, Installation, Intent, IntentId, JobId, PointId, Time, VmId,
};

use super::*;

const JOB: JobId = JobId(1);

fn apply(state: &mut State, record: impl Into<Record>) {
    state.apply(Stamp { epoch: Epoch(1), time: Time(1) }, &record.into()).unwrap();
}

/// A running backup that has its plan, with these hooks.
fn scene(before: Option<&str>, after: Option<&str>) -> State {
    let mut state = State::default();
    let id = VmId(uuid::Uuid::from_u128(1));
    let vm = VmAddress { id, name: "vm".parse().unwrap(), qmp: "/q".into(), guest_agent: None };
    let (name, path, password_file) = ("main".parse().unwrap(), "/r".into(), "/k".into());
    let repository = RepositoryAddress { name, path, password_file, append_only: false, rates: Vec::new() };
    apply(&mut state, Installed { installation: Installation(1) });
    apply(&mut state, EpochBegan { pid: 1, version: "0".into() });
    apply(&mut state, VmAdded { vm, disks: Vec::new(), labels: Vec::new(), host: None });
    apply(&mut state, RepositoryAdded { repository, id: "r".into(), chunk_bytes: 1 << 20 });
    let name = |name: Option<&str>| name.map(|name| name.parse().unwrap());
    let hooks = Some(Box::new(Hooks { before: name(before), after: name(after), limit_ms: 1000 }));
    let work = BackupWork {
        vm: id,
        repository: "main".parse().unwrap(),
        mode: Mode::Auto,
        since: None,
        consistency: ConsistencyAsked::Crash,
    };
    let due = Due { policy: "p".parse().unwrap(), schedule: "x".into(), at: Time(1), not_before: Time(1) };
    let terms = Terms { hooks, ..Terms::default() };
    apply(&mut state, JobQueued { job: JOB, work: Work::Backup(work), due: Some(due), terms });
    apply(&mut state, JobStarted { job: JOB });
    state
}

fn plan(state: &mut State) {
    let (point, checkpoint) = (PointId(1), CheckpointId(1));
    let way = journal::effect::Way::CopyBeforeWrite;
    let (disks, left_out) = (Vec::new(), Vec::new());
    apply(state, BackupPlanned { job: JOB, point, checkpoint, way, disks, left_out });
}

/// Takes the hook that a decision opens as opened, and answers it.
fn run(state: &mut State, decision: Decision, failed: Option<&str>) -> HookSide {
    let [Record::IntentOpened(opened)] = &decision.records[..] else { panic!("{decision:?}") };
    let Effect::Hook(hook) = &opened.intent.effect else { panic!("{decision:?}") };
    let (intent, side) = (opened.intent.id, hook.side.clone());
    assert_eq!((opened.intent.job, &decision.send[..]), (Some(JOB), &[intent][..]));
    decision.records.into_iter().for_each(|record| apply(state, record));
    let failed = failed.map(|what| Outcome::Failed(Failure::new(FailureClass::Refused, what)));
    let outcome = failed.unwrap_or(Outcome::Done(Done::Plain));
    apply(state, IntentSettled { intent, outcome, by: Witness::Agent });
    side
}

fn run_before(state: &mut State, failed: Option<&str>) -> Option<Decision> {
    let before = |state: &State| {
        let Work::Backup(work) = &state.jobs[&JOB].work else { panic!("a backup") };
        before(state, &state.jobs[&JOB], work)
    };
    let decision = before(state).expect("it is to be run");
    assert_eq!(run(state, decision, failed), HookSide::Before);
    before(state)
}

fn ended(end: End) -> Decision {
    Decision::end(JOB, end, Some("so".into()))
}

fn last(state: &State, end: Decision) -> Decision {
    first(end, state, &state.jobs[&JOB])
}

#[test]
fn however_a_try_ends_what_comes_after_it_runs_first_and_knows_how() {
    let retried =
        JobRetried { job: JOB, reason: "so".into(), class: FailureClass::Full, not_before: Time(9) };
    let retried = Decision { records: vec![retried.into()], ..Decision::default() };
    for (decision, end) in [
        (ended(End::Done), TryEnd::Done),
        (ended(End::Failed), TryEnd::Failed),
        (ended(End::Cancelled), TryEnd::Cancelled),
        (retried, TryEnd::Retried),
    ] {
        let mut state = scene(Some("a"), Some("b"));
        plan(&mut state);
        assert_eq!(last(&state, decision.clone()), decision, "nothing ran before it");
        assert_eq!(run_before(&mut state, None), None);
        let after = last(&state, decision.clone());
        let side = run(&mut state, after, None);
        assert_eq!(side, HookSide::After { end, reason: Some("so".into()) });
        assert_eq!(last(&state, decision.clone()), decision, "once");
    }
}

#[test]
fn a_failure_before_fails_the_try_and_what_comes_after_still_runs() {
    let mut state = scene(Some("a"), Some("b"));
    plan(&mut state);
    let failed = run_before(&mut state, Some("exit status 3")).unwrap();
    let [Record::JobEnded(it)] = &failed.records[..] else { panic!("{failed:?}") };
    assert_eq!((it.end, it.class), (End::Failed, Some(FailureClass::Refused)));
    assert_eq!(it.reason.as_deref(), Some("nothing was begun: exit status 3"));
    let after = last(&state, failed.clone());
    assert!(matches!(run(&mut state, after, None), HookSide::After { end: TryEnd::Failed, .. }));
    assert_eq!(last(&state, failed.clone()), failed);
}

#[test]
fn a_failure_after_is_told_and_fails_nothing() {
    let mut state = scene(None, Some("b"));
    assert_eq!(last(&state, ended(End::Failed)), ended(End::Failed), "it had no plan");
    plan(&mut state);
    let after = last(&state, Decision::end(JOB, End::Done, None));
    run(&mut state, after, Some("exit status 4"));
    let told = last(&state, ended(End::Done));
    assert_eq!(told, Decision::end(JOB, End::Done, Some("so; exit status 4".into())));
    let told = last(&state, Decision::end(JOB, End::Done, None));
    assert_eq!(told, Decision::end(JOB, End::Done, Some("exit status 4".into())));
}

#[test]
fn a_job_that_is_given_up_leaves_its_hook_to_go_on_by_itself() {
    let mut state = scene(Some("a"), Some("b"));
    plan(&mut state);
    assert_eq!(run_before(&mut state, None), None);
    let vm = state.vms.values().next().unwrap().address.clone();
    let thaw = Effect::Thaw(journal::effect::Thaw { vm });
    let opened = Intent { id: state.next.intent, job: Some(JOB), effect: thaw };
    apply(&mut state, journal::record::IntentOpened { intent: opened });
    let decision = last(&state, ended(End::Failed));
    let [Record::IntentOpened(hook), Record::JobEnded(_)] = &decision.records[..] else {
        panic!("{decision:?}")
    };
    assert_eq!((hook.intent.job, &decision.send[..]), (None, &[IntentId(3)][..]));
    // A crash keeps the first of the two: the end is decided again, and the hook is not.
    apply(&mut state, decision.records[0].clone());
    assert_eq!(last(&state, ended(End::Failed)), ended(End::Failed));
}
