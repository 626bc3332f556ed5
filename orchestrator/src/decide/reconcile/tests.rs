//! The table, walked: every combination of what can be seen of a bitmap finds exactly one row, and every row is
//! documented.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use journal::effect::{
    AddCheckpoint, Begin, Consistency, DeleteCheckpoint, Forget, Lasts, Mark, Predecessor, RepositoryAddress,
    Unmark, ViewDisk, ViewLimits, VmAddress, Way,
};
use journal::names;
use journal::observation::{BitmapSeen, DiskSeen, JobSeen, Machine, RepositorySeen};
use journal::outcome::Done;
use journal::record::{EpochBegan, Installed, IntentOpened, IntentSettled, ProcessSeen, VmAdded, Witness};
use journal::state::{Point, Stamp};
use journal::{
    BitmapId, CheckpointId, Effect, Epoch, Installation, Intent, IntentId, Outcome, PointId, Process, Record,
    State, Time, VmId,
};

use super::chain::{Bitmap, row};
use super::{Finding, Row, Subject, Verdict, findings, point_findings};

fn bitmap(recording: bool, inconsistent: bool) -> BitmapSeen {
    BitmapSeen {
        name: "backstay.00000001.1".into(),
        recording,
        persistent: true,
        busy: false,
        inconsistent,
        granularity_bytes: 65536,
        dirty_bytes: 0,
    }
}

/// The predicates of each row, as the table in `docs/recovery.md` states them.
fn rows_that_match(of: &Bitmap<'_>) -> Vec<Row> {
    let Bitmap { there: seen, newest, same_process, below, elsewhere, same_backing } = *of;
    let there = seen.is_some();
    let inconsistent = seen.is_some_and(|it| it.inconsistent);
    let recording = seen.is_some_and(|it| it.recording);
    let whole = there && !inconsistent && same_backing;
    let nowhere = !there && !below && !elsewhere;
    let table = [
        (Row::OutsideSnapshot, !there && below),
        (Row::ImageMoved, !there && !below && elsewhere),
        (Row::MissingSameProcess, nowhere && same_process),
        (Row::MissingNewProcess, nowhere && !same_process),
        (Row::Inconsistent, there && inconsistent),
        (Row::BackingChanged, there && !inconsistent && !same_backing),
        (Row::NotRecording, whole && newest && !recording),
        (Row::TrackedTwice, whole && !newest && recording),
        (Row::Tracked, whole && newest == recording),
    ];
    table.into_iter().filter(|(_, matches)| *matches).map(|(row, _)| row).collect()
}

#[test]
fn every_bitmap_finds_exactly_one_row() {
    let mut reached = BTreeSet::new();
    let states = [(false, false), (false, true), (true, false), (true, true)];
    let bitmaps = states.map(|(recording, inconsistent)| Some(bitmap(recording, inconsistent)));
    for seen in bitmaps.iter().chain([&None]) {
        for predicates in 0..1 << 5 {
            let holds = |place: u32| predicates & (1 << place) != 0;
            let of = Bitmap {
                there: seen.as_ref(),
                newest: holds(0),
                same_process: holds(1),
                below: holds(2),
                elsewhere: holds(3),
                same_backing: holds(4),
            };
            let expected = rows_that_match(&of);
            assert_eq!(expected.len(), 1, "{of:?}");
            assert_eq!(row(&of), expected[0], "{of:?}");
            reached.insert(expected[0]);
        }
    }
    assert_eq!(reached.len(), 9);
}

#[test]
fn every_row_is_documented_and_its_label_is_its_own() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/recovery.md")).unwrap();
    let labels: BTreeSet<&str> = Row::ALL.iter().map(|row| row.label()).collect();
    assert_eq!(labels.len(), Row::ALL.len());
    for row in Row::ALL {
        assert!(page.contains(&format!("| `{}` |", row.label())), "docs/recovery.md lacks `{}`", row.label());
    }
}

const US: Installation = Installation(1);
const BEFORE: Process = Process { pid: 1, started_ticks: 1, boot: uuid::Uuid::nil() };

fn vm() -> VmAddress {
    let id = VmId(uuid::Uuid::from_u128(7));
    VmAddress { id, name: "web".parse().unwrap(), qmp: "/run/qmp".into(), guest_agent: None }
}

/// A checkpoint on the one disk, which takes the recording over from `disable`.
fn add(id: u64, disable: &[u64]) -> Effect {
    let disable = disable.iter().map(|old| names::bitmap(US, BitmapId(*old))).collect();
    let mark = Mark {
        disk: "vda".parse().unwrap(),
        node: "vda".into(),
        bitmap: names::bitmap(US, BitmapId(id)),
        lasts: Lasts::Persistent,
        backing: String::new(),
        size_bytes: 1 << 20,
        disable,
    };
    let checkpoint = CheckpointId(id);
    let add = AddCheckpoint { vm: vm(), process: BEFORE, installation: US, checkpoint, disks: vec![mark] };
    Effect::AddCheckpoint(add)
}

/// The deletion of the newest checkpoint.
fn delete(id: u64, predecessor: u64) -> Effect {
    let unmark = Unmark {
        disk: "vda".parse().unwrap(),
        node: "vda".into(),
        bitmap: names::bitmap(US, BitmapId(id)),
        predecessor: Some(Predecessor {
            bitmap: names::bitmap(US, BitmapId(predecessor)),
            becomes: names::bitmap(US, BitmapId(id + 1)),
            lasts: Lasts::Persistent,
            records: true,
        }),
    };
    let checkpoint = CheckpointId(id);
    let reason = "by hand".to_owned();
    let disks = vec![unmark];
    Effect::DeleteCheckpoint(DeleteCheckpoint { vm: vm(), process: BEFORE, checkpoint, reason, disks })
}

/// A history of checkpoints that were made, and one effect whose answer never came.
fn history(made: &[Effect], open: Effect) -> State {
    let added = VmAdded { vm: vm(), disks: Vec::new(), labels: Vec::new(), host: None };
    let mut records: Vec<Record> = vec![
        Installed { installation: US }.into(),
        EpochBegan { pid: 1, version: "0".into() }.into(),
        added.into(),
        ProcessSeen { vm: vm().id, process: BEFORE, version: "10.0.2".into() }.into(),
    ];
    for (number, effect) in (1..).zip(made) {
        let id = IntentId(number);
        let outcome = Outcome::Done(Done::Began { instant: Time(1) });
        records.push(IntentOpened { intent: Intent { id, job: None, effect: effect.clone() } }.into());
        records.push(IntentSettled { intent: id, outcome, by: Witness::Agent }.into());
    }
    let id = IntentId(made.len() as u64 + 1);
    records.push(IntentOpened { intent: Intent { id, job: None, effect: open } }.into());
    let mut state = State::default();
    for record in records {
        state.apply(Stamp { epoch: Epoch(1), time: Time(1) }, &record).unwrap();
    }
    state
}

/// A QEMU that shows these bitmaps: (checkpoint, recording).
fn machine(process: Process, bitmaps: &[(u64, bool)]) -> Machine {
    let named = |(id, recording): &(u64, bool)| BitmapSeen {
        name: names::bitmap(US, BitmapId(*id)),
        ..bitmap(*recording, false)
    };
    let disk = DiskSeen {
        disk: "vda".parse().unwrap(),
        node: "vda".into(),
        size_bytes: 1 << 20,
        format: "qcow2".into(),
        stores_bitmaps: true,
        read_only: false,
        backing: String::new(),
        iothread: None,
        shared: false,
        no_filter: Some("a test".into()),
        takes_reader: true,
        bitmaps: bitmaps.iter().map(named).collect(),
        below: Vec::new(),
    };
    Machine {
        process,
        version: "10.0.2".into(),
        uuid: None,
        disks: vec![disk],
        unusable: Vec::new(),
        jobs: Vec::new(),
        exports: Vec::new(),
        nodes: Vec::new(),
        files: Vec::new(),
        socket: String::new(),
        socket_is_dead: false,
    }
}

fn found_in(state: &State, machine: &Machine) -> Vec<Finding> {
    let vm = &state.vms[&vm().id];
    findings(Subject { state, in_hand: &BTreeSet::new(), installation: US, vm, machine })
}

/// What is found when another QEMU process shows these bitmaps.
fn found_in_a_new_process(state: &State, bitmaps: &[(u64, bool)]) -> Vec<Finding> {
    found_in(state, &machine(Process { pid: 2, started_ticks: 2, ..BEFORE }, bitmaps))
}

fn settles_as_done(found: &[Finding]) -> bool {
    found.iter().any(|it| matches!(it.verdict, Verdict::Settle(_, Outcome::Done(_))))
}

fn loses(found: &[Finding]) -> bool {
    found.iter().any(|it| matches!(it.verdict, Verdict::Lose(..)))
}

#[test]
fn a_checkpoint_whose_answer_was_lost_costs_nothing_when_qemu_ended_in_order() {
    let state = history(&[add(1, &[])], add(2, &[1]));
    let found = found_in_a_new_process(&state, &[(1, false), (2, true)]);
    assert!(settles_as_done(&found) && !loses(&found), "{found:#?}");
    // Killed: nothing was stored, and what was tracked is lost.
    let found = found_in_a_new_process(&state, &[]);
    assert!(!settles_as_done(&found) && loses(&found), "{found:#?}");
}

/// Beside a raw disk, whose bitmap ends with the process, the qcow2 disk keeps what QEMU stored of it.
#[test]
fn a_raw_disk_costs_the_others_nothing() {
    let Effect::AddCheckpoint(mut checkpoint) = add(2, &[1]) else { panic!() };
    checkpoint.disks.push(Mark {
        disk: "raw".parse().unwrap(),
        node: "raw".into(),
        bitmap: names::bitmap(US, BitmapId(3)),
        lasts: Lasts::WithProcess,
        backing: String::new(),
        size_bytes: 1 << 20,
        disable: Vec::new(),
    });
    let state = history(&[add(1, &[])], Effect::AddCheckpoint(checkpoint));
    let found = found_in_a_new_process(&state, &[(1, false), (2, true)]);
    assert!(settles_as_done(&found) && !loses(&found), "{found:#?}");
}

/// Once a copy is whole, its job is all that is in QEMU of it.
#[test]
fn a_push_is_up_as_long_as_its_job_has_no_error() {
    let Effect::AddCheckpoint(checkpoint) = add(1, &[]) else { panic!() };
    let view = ViewDisk {
        disk: "vda".parse().unwrap(),
        node: "vda".into(),
        size_bytes: 1 << 20,
        changed_since: Vec::new(),
    };
    let limits = ViewLimits { scratch_bytes: u64::MAX, stall_ms: 1 };
    let begin = Begin { checkpoint, disks: vec![view], way: Way::Push, limits, unit_bytes: Some(1 << 20) };
    let state = history(&[Effect::Begin(begin)], add(2, &[1]));
    let broken = |error: &[Option<&str>]| {
        let job = |error: &Option<&str>| JobSeen {
            id: names::temporary(US, IntentId(1), 0, names::Role::Job),
            status: "concluded".into(),
            error: error.map(str::to_owned),
        };
        let machine = Machine { jobs: error.iter().map(job).collect(), ..machine(BEFORE, &[(1, true)]) };
        found_in(&state, &machine).iter().any(|it| it.row == Row::ViewBroken)
    };
    assert!(!broken(&[None]) && broken(&[Some("Input/output error")]) && broken(&[]));
}

#[test]
fn a_deletion_whose_answer_was_lost_costs_nothing_when_qemu_ended_in_order() {
    let state = history(&[add(1, &[]), add(2, &[1])], delete(2, 1));
    let found = found_in_a_new_process(&state, &[(3, true)]);
    assert!(settles_as_done(&found) && !loses(&found), "{found:#?}");
    // Killed, or somebody removed the bitmaps, with what they held.
    for left in [&[][..], &[(1, true)]] {
        let found = found_in_a_new_process(&state, left);
        assert!(!settles_as_done(&found) && loses(&found), "{found:#?}");
    }
    // It did not run.
    let found = found_in_a_new_process(&state, &[(1, false), (2, true)]);
    assert!(!settles_as_done(&found) && !loses(&found), "{found:#?}");
}

#[test]
fn a_point_that_is_being_forgotten_is_not_missed() {
    let repository = RepositoryAddress {
        name: "main".parse().unwrap(),
        path: "/repository".into(),
        password_file: "/key".into(),
        append_only: false,
        rates: Vec::new(),
    };
    let forget = Effect::Forget(Forget {
        repository: repository.clone(),
        point: PointId(1),
        snapshot: "ab".into(),
        reason: "by hand".into(),
    });
    let mut state = history(&[], forget);
    state.points.insert(PointId(1), point());
    state = state.indexed();
    let nothing = [RepositorySeen { name: repository.name, snapshots: Ok(Vec::new()) }];
    assert_eq!(point_findings(&state, vm().id, &nothing), Vec::new());
    state.open.clear();
    let found = point_findings(&state, vm().id, &nothing);
    assert!(matches!(&found[..], [Finding { row: Row::PointGone, .. }]), "{found:#?}");
}

fn point() -> Point {
    Point {
        id: PointId(1),
        vm: vm().id,
        vm_name: vm().name,
        repository: "main".parse().unwrap(),
        snapshot: "ab".into(),
        created: Time(1),
        checkpoint: CheckpointId(1),
        parent: None,
        consistency: Consistency::Crash,
        way: Way::BackupJob,
        suspect: None,
        policy: None,
        job: None,
        held: false,
        disks: Vec::new(),
        left_out: Vec::new(),
    }
}
