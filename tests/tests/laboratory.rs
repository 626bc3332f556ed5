//! The laboratory proves itself: a test that leans on it should not have to doubt it. No Backstay here.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use tests::guest::{DISKS, Guest, Options};
use tests::lab::{Lab, PATIENCE, require, require_qemu, tool};
use tests::process::run;
use tests::qsd::{self, Qsd};
use tests::restic::Restic;
use tests::sequence::{Sequence, examine, examine_pair};
use tests::writer::{BLOCK, Cut, Write, Writer, cut};

/// The disks of a daemon with two.
const DAEMON_DISKS: [&str; 2] = ["disk0", "disk1"];

#[test]
fn a_killed_guest_leaves_both_disks_at_one_instant() {
    if !require_qemu() {
        return;
    }
    let lab = Lab::new();
    let start = Instant::now();
    let mut guest = Guest::start(&lab, Options::new("vm"));
    eprintln!("first number after {:?}", start.elapsed());
    let start = Instant::now();
    guest.until_sequence(20);
    eprintln!("19 numbers more in {:?}", start.elapsed());

    guest.kill();
    let said = guest.sequence();
    let (a, b) = examine_pair(&lab, guest.image("a"), guest.image("b"), "qcow2");
    assert!(a.recovered && b.recovered, "a mounted file system's image needs its journal");
    assert!(b.last >= said, "the guest said {said}, disk b has {}", b.last);

    // It goes on where it was, on the same disks.
    guest.restart();
    guest.until_sequence(b.last + 3);
    guest.quit();
    let (after, _) = examine_pair(&lab, guest.image("a"), guest.image("b"), "qcow2");
    assert!(after.last > a.last);
}

#[test]
fn a_silent_guest_writes_nothing() {
    if !require_qemu() {
        return;
    }
    let lab = Lab::new();
    let mut guest = Guest::start(&lab, Options { writer: false, iothread: true, ..Options::new("vm") });
    assert_eq!(guest.sequence(), 0);
    assert!(guest.look().look().nodes.is_superset(&["a", "b"].map(str::to_owned).into()));
    guest.kill();
    assert_eq!(examine(&lab, guest.image("a"), "qcow2").last, 0);
}

#[test]
fn the_checker_sees_what_is_wrong() {
    if !require_qemu() {
        return;
    }
    let lab = Lab::new();
    let last = |name: &str, harm: &dyn Fn(&Path)| {
        let files = lab.folder(name);
        for number in 1..=5 {
            fs::write(files.join(number.to_string()), format!("{number}\n").repeat(1024))
                .expect("a new folder");
        }
        harm(&files);
        let image = lab.path(format!("{name}.raw"));
        run(tool("mkfs.ext4").args(["-q", "-d"]).arg(&files).arg(&image).arg("16M"), PATIENCE);
        std::panic::catch_unwind(|| examine(&lab, &image, "raw")).ok()
    };
    assert_eq!(last("whole", &|_| ()), Some(Sequence { last: 5, recovered: false }));
    assert_eq!(last("missing", &|files| fs::remove_file(files.join("3")).expect("it is there")), None);
    assert_eq!(last("damaged", &|files| fs::write(files.join("5"), "5\n4\n").expect("it is there")), None);

    // And a file system that no journal explains.
    let image = lab.path("whole.raw");
    let file = fs::File::options().write(true).open(&image).expect("made above");
    file.write_all_at(&[0xff; 4096], 4 * 4096).expect("a file takes a write");
    assert!(std::panic::catch_unwind(|| examine(&lab, &image, "raw")).is_err());
}

#[test]
fn a_frozen_guest_needs_no_recovery() {
    if !require_qemu() {
        return;
    }
    let lab = Lab::new();
    let mut guest = Guest::start(&lab, Options::new("vm"));
    assert_eq!(guest.agent("guest-fsfreeze-freeze"), 2);
    assert_eq!(guest.agent("guest-fsfreeze-status"), "frozen");
    for disk in DISKS {
        fs::copy(guest.image(disk), lab.path(disk)).expect("the lab's folder takes a copy");
    }
    assert_eq!(guest.agent("guest-fsfreeze-thaw"), 2);
    guest.until_progress();
    let (a, b) = examine_pair(&lab, &lab.path("a"), &lab.path("b"), "qcow2");
    assert!(!a.recovered && !b.recovered);
}

#[test]
fn a_daemon_disk_is_written_as_a_file_and_shows_one_instant() {
    if !require_qemu() {
        return;
    }
    let lab = Lab::new();
    let mut qsd = Qsd::start(&lab, qsd::Options::new("qsd", 2, 16 << 20));
    let writer = Writer::start(1, &qsd.files(), 1, Duration::from_micros(500));
    let start = Instant::now();
    writer.until_progress(200);
    eprintln!("200 writes in {:?}", start.elapsed());

    // A fleece of both disks in one transaction, read over NBD while the writer writes.
    let mut qmp = qsd.look();
    let before = qmp.look();
    let socket = lab.path("nbd.sock");
    let address = json!({ "type": "unix", "data": { "path": socket } });
    let action = |disk: &str| {
        json!({ "type": "blockdev-backup", "data": { "job-id": disk, "device": disk, "sync": "none",
            "target": format!("{disk}-fleece"), "auto-dismiss": false } })
    };
    for disk in DAEMON_DISKS {
        let scratch = lab.qcow2(&format!("{disk}.fleece"), 16 << 20);
        qmp.ok(
            "blockdev-add",
            json!({ "driver": "qcow2", "node-name": format!("{disk}-fleece"), "backing": disk,
                "file": { "driver": "file", "filename": scratch } }),
        );
    }
    qmp.ok("transaction", json!({ "actions": DAEMON_DISKS.map(action) }));
    writer.until_progress(100);
    qmp.ok("nbd-server-start", json!({ "addr": address }));
    let views = DAEMON_DISKS.map(|disk| {
        let node = format!("{disk}-fleece");
        qmp.ok("block-export-add", json!({ "type": "nbd", "id": node, "node-name": node, "name": disk }));
        let (view, uri) =
            (lab.path(format!("{disk}.raw")), format!("nbd+unix:///{disk}?socket={}", socket.display()));
        run(tool("nbdcopy").arg(uri).arg(&view), PATIENCE);
        view
    });
    writer.until_progress(100);
    for disk in DAEMON_DISKS {
        qmp.ok("block-export-del", json!({ "id": format!("{disk}-fleece") }));
        qmp.event("BLOCK_EXPORT_DELETED");
        qmp.ok("job-cancel", json!({ "id": disk }));
        qmp.event("BLOCK_JOB_CANCELLED");
        qmp.ok("job-dismiss", json!({ "id": disk }));
        qmp.ok("blockdev-del", json!({ "node-name": format!("{disk}-fleece") }));
    }
    qmp.until_tidy(&before, Duration::from_secs(10));
    drop(qmp);
    let log = writer.stop();

    let view = cut(&log, &views);
    assert!(view.last >= 200 && view.last < log.len() as u64, "{view:?} of {}", log.len());

    qsd.quit();
    let disks = DAEMON_DISKS.map(|disk| lab.raw_copy(&qsd.image(disk), "qcow2", &format!("{disk}.end")));
    assert_eq!(cut(&log, &disks), Cut { last: log.len() as u64, torn: false });
}

#[test]
fn a_kill_makes_stored_bitmaps_inconsistent() {
    if !require_qemu() {
        return;
    }
    let lab = Lab::new();
    let mut qsd = Qsd::start(&lab, qsd::Options { files: false, ..qsd::Options::new("qsd", 1, 1 << 20) });
    qsd.look().add_bitmap("disk0", "foreign", true);
    qsd.quit();
    qsd.restart();
    assert!(qsd.look().bitmaps()[0].recording);
    qsd.kill();
    qsd.restart();
    let mut qmp = qsd.look();
    assert!(qmp.bitmaps()[0].inconsistent);
    assert!(qmp.execute("block-dirty-bitmap-enable", json!({ "node": "disk0", "name": "foreign" })).is_err());
    qmp.remove_bitmap("disk0", "foreign");
    assert!(qmp.look().bitmaps.is_empty());
}

#[test]
fn a_cut_is_refused_where_a_later_write_is_there_without_an_earlier_one() {
    let lab = Lab::new();
    let images = ["0", "1"].map(|name| lab.path(name));
    for image in &images {
        fs::File::create(image).and_then(|file| file.set_len(8 << 20)).expect("a sparse file");
    }
    let writer = Writer::start(7, &images, 1, Duration::ZERO);
    writer.until_progress(50);
    let log = writer.stop();
    assert_eq!(cut(&log, &images), Cut { last: log.len() as u64, torn: false });

    // Undo the first write that no later one covers, and see that it is missed.
    let covers = |late: &Write, early: &Write| {
        late.disk == early.disk
            && late.block < early.block + early.blocks
            && early.block < late.block + late.blocks
    };
    let alone = log
        .iter()
        .find(|early| !log.iter().any(|late| late.number != early.number && covers(late, early)))
        .expect("few writes, much room");
    let file = fs::File::options().write(true).open(&images[alone.disk]).expect("the image");
    file.write_all_at(&[0; BLOCK], alone.block * BLOCK as u64).expect("a file takes a write");
    assert!(std::panic::catch_unwind(|| cut(&log, &images)).is_err());
}

#[test]
fn restic_judges_a_repository() {
    if !require(&["restic"]) {
        return;
    }
    let lab = Lab::new();
    let restic = Restic::new(&lab, "repo");
    restic.init();
    fs::write(lab.path("file"), "content").expect("the lab's folder takes a file");
    let file = lab.path("file");
    restic.ok(&["backup", &file.to_string_lossy()]);
    restic.check();
    assert_eq!(restic.snapshots().len(), 1);
    assert!(restic.list("latest").iter().any(|path| path.ends_with("/file")));
    restic.dump("latest", &file.to_string_lossy(), &lab.path("again"));
    assert_eq!(fs::read(lab.path("again")).expect("restic wrote it"), b"content");
}
