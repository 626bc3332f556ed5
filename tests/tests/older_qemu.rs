//! QEMU 7.2, which Debian 12 has, as well as the QEMU that is installed: a part of the crash matrix walked on it, and
//! guests on iothreads, whose disks this QEMU has to copy itself.

use std::path::Path;
use std::process::Command;

use serde_json::json;
use tests::backstay::binary;
use tests::guest;
use tests::lab::{Lab, PATIENCE, require_qemu};
use tests::machine::Machine;
use tests::matrix::cell::{self, Ledger};
use tests::matrix::{Cell, Operation, Victim};
use tests::older::older_qemu;
use tests::point::Point;
use tests::process::run;

#[test]
fn crashes_on_qemu_7_2_leave_nothing_behind() {
    if !require_qemu() {
        return;
    }
    let Some(folder) = older_qemu() else { return };
    let lab = Lab::new();
    let mut matrix = Command::new(env!("CARGO_BIN_EXE_crash-matrix"));
    matrix.env("BACKSTAY_QEMU_FOLDER", &folder).env("BACKSTAY_BIN", binary());
    for operation in ["multi-disk", "checkpoint", "delete-middle"] {
        matrix.args(["--operation", operation]);
    }
    matrix
        .args(["--point", "performed", "--passage", "1", "--no-page", "--results"])
        .arg(lab.path("results"));
    let walked = run(&mut matrix, 4 * PATIENCE);
    eprintln!("{walked}");
    assert!(walked.contains("QEMU 7.2") && walked.contains(" 15 of "), "it was not walked:\n{walked}");
}

/// A guest that writes to two disks, each on an iothread of its own, in a QEMU 7.2.
fn on_iothreads() -> Option<Machine> {
    let folder = older_qemu()?;
    let qemu = Path::new(&folder).join("qemu-system-x86_64");
    let options =
        guest::Options { iothread: true, disk_size: 64 << 20, qemu, ..guest::Options::new("guest") };
    Some(Machine::start(options, false))
}

#[test]
fn a_guest_on_iothreads_is_pushed() {
    if !require_qemu() {
        return;
    }
    let Some(mut machine) = on_iothreads() else { return };
    let way = |machine: &Machine, point: &Point| {
        let shown = machine.backstay.ok(&["point", "show", &point.id]);
        shown["way"].as_str().map(str::to_owned)
    };
    let first = machine.back_up();
    first.must_be_full(&["the first backup of this disk"]);
    assert_eq!(way(&machine, &first).as_deref(), Some("push"));
    for _ in 0..3 {
        let point = machine.back_up();
        point.must_be_incremental();
        assert_eq!(way(&machine, &point).as_deref(), Some("push"));
        // Whole chunks of what changed, and not the disk.
        assert!(point.disks.iter().all(|disk| disk.read_bytes < 32 << 20), "{point:?}");
    }

    // While the guest stands still, what changed and the whole are the same bytes.
    machine.guest.until_progress();
    machine.guest.look().ok("stop", json!({}));
    let changed = Point::back_up(&machine.backstay, &[]);
    let whole = Point::back_up(&machine.backstay, &["--mode", "full"]);
    changed.must_be_incremental();
    whole.must_be_full(&["a full backup was asked for"]);
    assert!(machine.restored(&changed) == machine.restored(&whole), "they differ");
    machine.guest.look().ok("cont", json!({}));
    machine.guest.until_progress();
    machine.must_hold();
    machine.restic.check();
}

#[test]
fn a_push_survives_whoever_dies() {
    if !require_qemu() {
        return;
    }
    let Some(mut machine) = on_iothreads() else { return };
    let mut ledger = Ledger::default();
    cell::make_ready(&mut machine, &mut ledger);
    // Of the effects begin, store, end, deletion: QEMU copies from the first on, and the second reads the copy.
    for (victim, point, passage) in [
        (Victim::Backstay, "performed", 1),
        (Victim::Backstay, "effect", 2),
        (Victim::BackstayAndQuit, "performed", 1),
        (Victim::Backstay, "store.committed", 1),
        (Victim::Qemu, "performed", 1),
        (Victim::Both, "effect", 2),
    ] {
        let cell = Cell::new(Operation::MultiDisk, victim, point, passage);
        assert!(cell::visit(&mut machine, &mut ledger, &cell).reached, "{cell} was not reached");
    }
}
