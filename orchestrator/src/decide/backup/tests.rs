//! Which limits of bandwidth a store is given.
#![allow(clippy::unwrap_used)]

use journal::record::{
    Due, EpochBegan, Installed, JobQueued, Mode, PolicyApplied, PolicyRemoved, Terms, Work,
};
use journal::state::Stamp;
use journal::{Epoch, Installation, JobId, Record, VmId};

use super::*;

fn apply(state: &mut State, record: impl Into<Record>) {
    state.apply(Stamp { epoch: Epoch(1), time: Time(1) }, &record.into()).unwrap();
}

/// A policy with schedules in two zones, and these other lines.
fn policy(state: &mut State, lines: &str) {
    let text = format!(
        "name = \"p\"\nrepositories = [\"main\"]\nselect.names = [\"*\"]\n{lines}\n\
         [[schedules]]\ncron = \"0 2 * * *\"\ntime_zone = \"Europe/Berlin\"\n[[schedules]]\ncron = \"@hourly\"\n"
    );
    apply(state, PolicyApplied { name: "p".parse().unwrap(), text });
}

fn queue(state: &mut State, schedule: Option<&str>) -> JobId {
    let job = state.next.job;
    let work = BackupWork {
        vm: VmId(uuid::Uuid::from_u128(1)),
        repository: "main".parse().unwrap(),
        mode: Mode::Auto,
        since: None,
        consistency: ConsistencyAsked::Crash,
    };
    let due = schedule.map(|schedule| Due {
        policy: "p".parse().unwrap(),
        schedule: schedule.into(),
        at: Time(1),
        not_before: Time(1),
    });
    apply(state, JobQueued { job, work: Work::Backup(work), due, terms: Terms::default() });
    job
}

/// A limit: days, from, to, MiB a second.
type Limits = Vec<(u8, u16, u16, u64)>;

/// The zone and the limits.
fn given(state: &State, job: JobId) -> Option<(String, Limits)> {
    let mut live = Live::default();
    assert!(live.refresh_policies(state).is_empty());
    let Bandwidth { time_zone, limits } = bandwidth(&live, &state.jobs[&job])?;
    let limit =
        |Limit { days, rate }: &Limit| (*days, rate.from_minute, rate.to_minute, rate.bytes_per_second >> 20);
    Some((time_zone, limits.iter().map(limit).collect()))
}

#[test]
fn a_store_has_the_limits_that_its_policy_has_by_then_by_the_clock_of_its_schedule() {
    let mut state = State::default();
    apply(&mut state, Installed { installation: Installation(1) });
    apply(&mut state, EpochBegan { pid: 1, version: "0".into() });
    policy(&mut state, "");
    let nightly = queue(&mut state, Some("0 2 * * * Europe/Berlin"));
    let hourly = queue(&mut state, Some("@hourly"));
    let gone = queue(&mut state, Some("@daily"));
    let by_hand = queue(&mut state, None);
    assert_eq!(given(&state, nightly), None);
    policy(&mut state, "bandwidth = [\"20M\", \"mon-fri 08:00-18:00=5M\"]");
    let limits = vec![(0b111_1111, 0, 0, 20), (0b011_1110, 480, 1080, 5)];
    assert_eq!(
        given(&state, nightly),
        Some(("Europe/Berlin".into(), limits.clone())),
        "applied after it was queued"
    );
    assert_eq!(given(&state, hourly), Some(("UTC".into(), limits.clone())));
    assert_eq!(given(&state, gone), Some(("Europe/Berlin".into(), limits)), "the first schedule's");
    assert_eq!(given(&state, by_hand), None);
    apply(&mut state, PolicyRemoved { name: "p".parse().unwrap() });
    assert_eq!(given(&state, nightly), None);
}
