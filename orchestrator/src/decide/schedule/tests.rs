//! A decision that a crash has cut in two is decided again, and comes to the same.
#![allow(clippy::unwrap_used)]

use journal::effect::{RepositoryAddress, VmAddress};
use journal::record::{EpochBegan, Installed, PolicyApplied, RepositoryAdded, VmAdded};
use journal::state::Stamp;
use journal::{Epoch, Installation, Record};

use super::*;

const HOUR: i64 = 3_600_000_000;

fn fold(state: &mut State, at: i64, record: impl Into<Record>) {
    state.apply(Stamp { epoch: Epoch(1), time: Time(at) }, &record.into()).unwrap();
}

/// Three VMs, a policy into two repositories.
fn site(timing: &str) -> State {
    let mut state = State::default();
    fold(&mut state, 0, Installed { installation: Installation(1) });
    fold(&mut state, 0, EpochBegan { pid: 1, version: "0".into() });
    for number in 0..3 {
        let id = VmId(uuid::Uuid::from_u128(number + 1));
        let name = format!("vm-{number}").parse().unwrap();
        let vm = VmAddress { id, name, qmp: "/q".into(), guest_agent: None };
        fold(&mut state, 0, VmAdded { vm, disks: Vec::new(), labels: Vec::new(), host: None });
    }
    for name in ["main", "other"] {
        let (name, path, password_file) = (name.parse().unwrap(), "/r".into(), "/k".into());
        let repository =
            RepositoryAddress { name, path, password_file, append_only: false, rates: Vec::new() };
        fold(&mut state, 0, RepositoryAdded { repository, id: "r".into(), chunk_bytes: 1 << 20 });
    }
    let text = format!(
        "name = \"p\"\nrepositories = [\"main\", \"other\"]\nselect.names = [\"*\"]\n[[schedules]]\ncron = \"0 1 * * *\"\n{timing}\n"
    );
    fold(&mut state, 0, PolicyApplied { name: "p".parse().unwrap(), text });
    state
}

fn decided(state: &State, now: i64) -> Option<Vec<Record>> {
    let mut live = Live::default();
    assert!(live.refresh_policies(state).is_empty());
    due(state, &live, Time(now)).map(|decision| decision.records)
}

/// The runs of the two times together: each VM's into each repository, with what was cancelled or skipped beside them.
fn over_a_cut(timing: &str, first: i64, kept: usize, second: i64) -> (Vec<(VmId, String)>, usize) {
    let mut state = site(timing);
    let records = decided(&state, first).unwrap();
    assert_eq!(records.len(), 3 * 2 + 1, "six jobs and a cursor");
    let mut all = Vec::new();
    for record in records.into_iter().take(kept).inspect(|record| all.push(record.clone())) {
        fold(&mut state, first, record);
    }
    let again = decided(&state, second).unwrap();
    for record in again {
        all.push(record.clone());
        fold(&mut state, second, record);
    }
    assert_eq!(decided(&state, second), None, "it is answered for");
    let mut others = 0;
    let mut jobs = Vec::new();
    for record in &all {
        match record {
            Record::JobQueued(it) => {
                let repository = it.work.repository().unwrap().to_string();
                jobs.push((it.work.vm().unwrap(), repository));
            }
            Record::ScheduleAdvanced(_) => {}
            _ => others += 1,
        }
    }
    jobs.sort();
    (jobs, others)
}

#[test]
fn what_a_crash_cut_in_two_becomes_one_job_for_each_run() {
    for timing in ["", "overlap = \"queue\"", "overlap = \"cancel-older\"", "missed = \"all\""] {
        // On time both times; and late both times, so that the start of what is made up for moves.
        for (first, second) in [(HOUR, HOUR + 1_000_000), (5 * HOUR, 6 * HOUR)] {
            for kept in 0..=6 {
                let (jobs, others) = over_a_cut(timing, first, kept, second);
                let mut distinct = jobs.clone();
                distinct.dedup();
                assert_eq!((jobs.len(), distinct.len()), (6, 6), "{timing} cut after {kept}: {jobs:?}");
                assert_eq!(others, 0, "{timing} cut after {kept}: something was skipped or cancelled");
            }
        }
    }
}
