//! Which failures are tried again, when, and how often.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use journal::record::{Due, EpochBegan, Installed, JobQueued, JobStarted, PolicyApplied, Terms, Work};
use journal::state::{JobState, Stamp};
use journal::{Epoch, Installation, JobId, State};

use super::*;

const CLASSES: [FailureClass; 12] = [
    FailureClass::ProcessGone,
    FailureClass::Unreachable,
    FailureClass::Refused,
    FailureClass::ViewLost,
    FailureClass::Repository,
    FailureClass::Full,
    FailureClass::Damaged,
    FailureClass::Cancelled,
    FailureClass::Invalid,
    FailureClass::Fenced,
    FailureClass::Host,
    FailureClass::TooLate,
];

fn apply(state: &mut State, at: i64, record: impl Into<Record>) {
    state.apply(Stamp { epoch: Epoch(1), time: Time(at) }, &record.into()).unwrap();
}

/// A running job of a policy with these settings, in minutes.
fn scene(retry: &str, deadline: Option<i64>) -> (State, Live) {
    let mut state = State::default();
    apply(&mut state, 0, Installed { installation: Installation(1) });
    apply(&mut state, 0, EpochBegan { pid: 1, version: "0".into() });
    let text = format!("name = \"p\"\nrepositories = [\"r\"]\nselect.names = [\"*\"]\n{retry}");
    apply(&mut state, 0, PolicyApplied { name: "p".parse().unwrap(), text });
    let due = Due { policy: "p".parse().unwrap(), schedule: "x".into(), at: Time(0), not_before: Time(0) };
    let work = Work::CheckRepository { repository: "r".parse().unwrap(), read_percent: 0 };
    let terms = Terms { deadline: deadline.map(minutes), ..Terms::default() };
    apply(&mut state, 0, JobQueued { job: JobId(1), work, due: Some(due), terms });
    apply(&mut state, 0, JobStarted { job: JobId(1) });
    let mut live = Live::default();
    assert!(live.refresh_policies(&state).is_empty());
    (state, live)
}

fn minutes(minutes: i64) -> Time {
    Time(minutes * 60_000_000)
}

fn failed(state: &State, live: &Live, class: FailureClass, at: Time) -> Record {
    let job = &state.jobs[&JobId(1)];
    let decision = instead(Decision::fail_as(job.id, class, "so"), live, job, at);
    assert_eq!(decision.records.len(), 1);
    decision.records.into_iter().next().unwrap()
}

#[test]
fn only_what_time_heals_is_tried_again_and_all_else_ends_with_advice() {
    let (state, live) = scene("", None);
    for class in CLASSES {
        let again = matches!(failed(&state, &live, class, Time(0)), Record::JobRetried(_));
        assert_eq!(again, healing(class) != Healing::Never, "{class:?}");
        assert!(!advice(class).is_empty());
    }
    let advices: BTreeSet<_> = CLASSES.map(advice).into();
    assert!(advices.len() > 8, "advice fits the failure");
}

#[test]
fn tries_are_counted_wait_longer_and_longer_and_come_to_an_end() {
    let (mut state, live) = scene("retry = { attempts = 4, backoff = \"2m\", backoff_max = \"5m\" }", None);
    let mut now = 0;
    for (tries, whole) in [(1, 2), (2, 4), (3, 5)] {
        let Record::JobRetried(retried) = failed(&state, &live, FailureClass::Unreachable, minutes(now))
        else {
            panic!("no try after {tries}");
        };
        let wait = retried.not_before.0 - minutes(now).0;
        assert!((minutes(whole).0 / 2..=minutes(whole).0).contains(&wait), "{tries}: {wait}");
        now += whole;
        apply(&mut state, minutes(now).0, retried);
        let job = &state.jobs[&JobId(1)];
        assert_eq!((job.state, job.attempt()), (JobState::Queued, tries + 1));
        apply(&mut state, minutes(now).0, JobStarted { job: JobId(1) });
    }
    let Record::JobEnded(ended) = failed(&state, &live, FailureClass::Unreachable, minutes(now)) else {
        panic!("a fifth try");
    };
    assert_eq!(ended.reason.as_deref(), Some("so (try 4 of 4)"));
}

#[test]
fn a_full_disk_is_waited_for_longer_than_a_lost_connection() {
    let (state, live) = scene("", None);
    let wait = |class| match failed(&state, &live, class, Time(0)) {
        Record::JobRetried(retried) => retried.not_before.0,
        other => panic!("{other:?}"),
    };
    assert_eq!(wait(FailureClass::Full), 4 * wait(FailureClass::Unreachable));
}

#[test]
fn no_try_begins_after_the_deadline_and_by_hand_there_is_one() {
    let (state, live) = scene("retry = { backoff = \"10m\" }", Some(60));
    let again = |at| matches!(failed(&state, &live, FailureClass::Host, minutes(at)), Record::JobRetried(_));
    assert!(again(0) && !again(56));
    let by_hand = Job { due: None, ..state.jobs[&JobId(1)].clone() };
    let decision = instead(Decision::fail_as(by_hand.id, FailureClass::Host, "so"), &live, &by_hand, Time(0));
    assert!(matches!(decision.records[..], [Record::JobEnded(_)]));
}
