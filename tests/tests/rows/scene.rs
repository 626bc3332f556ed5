//! Where the scenarios play, and how a row is seen. Knows no row.

use serde_json::Value;
use tests::backstay::Backstay;
use tests::guest;
use tests::lab::{PATIENCE, until};
use tests::machine::Machine;
use tests::matrix::cell::{self, HEALING, Ledger};
use tests::matrix::operation::{Commands, commands};
use tests::matrix::{Victim, rows, strike};
use tests::point::Point;
use tests::qmp::Qmp;
use tests::qsd::Options;
use tests::site::Site;
use tests::stage::Stage;

/// Bytes of each disk.
pub const SIZE: u64 = 4 << 20;

/// Two disks in a qemu-storage-daemon, somebody who writes to them, and two points.
pub fn site() -> Site {
    let mut site = Site::start(Options::new("qsd", 2, SIZE), 1);
    cell::make_ready(&mut site, &mut Ledger::default());
    site
}

/// A guest that is frozen for each backup.
pub fn machine() -> Machine {
    let mut machine = Machine::start(guest::Options::new("guest"), true);
    for text in HEALING {
        machine.backstay.expect_log(text);
    }
    // The agent comes up after the writer.
    until("the guest is frozen for a backup", PATIENCE, || {
        let point = Point::back_up(&machine.backstay, &[]);
        (machine.backstay.ok(&["point", "show", &point.id])["consistency"] == "filesystem").then_some(())
    });
    machine
}

/// `backup vm --wait`.
pub fn backup() -> Commands {
    commands(&[&["backup", "vm", "--wait"]])
}

/// `checkpoint create vm`.
pub fn checkpoint() -> Commands {
    commands(&[&["checkpoint", "create", "vm"]])
}

/// Strikes, and checks that the journal shows the row afterwards.
#[track_caller]
pub fn strikes(stage: &mut dyn Stage, at: &str, victim: Victim, commands: Commands, row: &str) {
    let seq = rows::last(stage.server());
    let struck = strike::strike(stage, at, victim, commands);
    struck.client.hear();
    assert!(struck.reached, "{at} was not reached");
    must_be_journaled(stage.server(), seq, row);
}

/// Waits until the journal shows the row after `seq`.
#[track_caller]
pub fn must_be_journaled(backstay: &Backstay, seq: u64, row: &str) {
    until(&format!("the journal shows {row}"), PATIENCE, || {
        rows::since(backstay, seq).contains(row).then_some(())
    });
}

/// Backs up, and checks that the look before it journaled the row.
#[track_caller]
pub fn next_backup_finds(backstay: &Backstay, row: &str) {
    let seq = rows::last(backstay);
    backstay.ok(&["backup", "vm", "--wait"]);
    must_be_journaled(backstay, seq, row);
}

/// What `doctor` finds of a row.
#[track_caller]
pub fn found(backstay: &Backstay, row: &str) -> Vec<Value> {
    let doctor = backstay.run(&["doctor", "vm"]).json;
    let findings = doctor["findings"].as_array().unwrap_or_else(|| panic!("no findings: {doctor}"));
    findings.iter().filter(|finding| finding["row"] == row).cloned().collect()
}

/// Checks that `doctor` shows the row.
#[track_caller]
pub fn must_be_found(backstay: &Backstay, row: &str) {
    let doctor = backstay.run(&["doctor", "vm"]).json;
    assert!(!found(backstay, row).is_empty(), "the doctor does not show {row}: {doctor}");
}

/// The bitmaps of ours on a disk: the one that records, and the others.
#[track_caller]
pub fn ours(qmp: &mut Qmp, disk: &str) -> (String, Vec<String>) {
    let bitmaps = qmp.bitmaps();
    let ours = bitmaps.iter().filter(|bitmap| bitmap.node == disk && bitmap.name.starts_with("backstay."));
    let (recording, others): (Vec<_>, Vec<_>) = ours.partition(|bitmap| bitmap.recording);
    let [recording] = &recording[..] else { panic!("not one that records: {recording:?}") };
    (recording.name.clone(), others.iter().map(|bitmap| bitmap.name.clone()).collect())
}
