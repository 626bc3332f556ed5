//! Views and checkpoints on a real qemu-storage-daemon: their whole life, twice each step, and what must not happen.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod machine;

use journal::observation::VmSeen;
use journal::{Done, Effect, FailureClass, Process};
use machine::writer::{self, Writer};
use machine::{Became, Hands, QCOW2, Qemu, RAW, READ_ONLY, bitmap, bitmaps};
use serde_json::json;

async fn rig(disks: &[machine::Disk]) -> (Qemu, Hands, tempfile::TempDir) {
    rig_with(Qemu::storage_daemon(disks, false)).await
}

async fn rig_with(qemu: Qemu) -> (Qemu, Hands, tempfile::TempDir) {
    qemu.connect().await.close().await;
    let home = tempfile::tempdir().unwrap();
    let hands = Hands::new(home.path(), &qemu.path("qmp.sock"));
    (qemu, hands, home)
}

fn disks(qemu: &Qemu, n: usize) -> Vec<std::path::PathBuf> {
    (0..n).map(|n| qemu.path(&format!("fuse{n}"))).collect()
}

/// The view of two disks is what both were at one instant, while a guest writes on; and a changed block is called so.
#[tokio::test(flavor = "multi_thread")]
async fn a_view_is_one_instant_over_its_disks() {
    if !machine::fuse() {
        return;
    }
    let (qemu, mut hands, home) = rig_with(Qemu::storage_daemon(&[QCOW2, RAW], true)).await;
    let writer = Writer::start(disks(&qemu, 2), vec![]);
    writer.progress(200).await;
    let process = hands.machine(2).await.process;

    // Full, with checkpoint 1. Each effect twice: the second time nothing changes.
    let first = hands.begin(hands.checkpoint(process, 1, &[0, 1], None), &[0, 1], &[]);
    let Done::Began { instant } = hands.perform(10, first.clone()).await.done() else { panic!() };
    let Done::Began { instant: again } = hands.perform(10, first).await.done() else { panic!() };
    assert!(
        again.0 <= instant.0 && instant.0 - again.0 < 1_000_000,
        "{again} is the instant {instant} once more"
    );
    writer.progress(500).await;
    let image = home.path().join("read");
    let full = [hands.read(10, 0, &image).await, hands.read(10, 1, &image).await];
    writer.progress(100).await;
    assert_eq!(full[0], hands.read(10, 0, &image).await, "a view does not move");
    for _ in 0..2 {
        let end = hands.end(process, 10, 2);
        assert_eq!(hands.perform(11, end).await, Became::Done(Done::Plain));
        hands.assert_bare(2).await;
    }

    // Incremental, since checkpoint 1.
    let second = hands.begin(hands.checkpoint(process, 2, &[0, 1], Some(1)), &[0, 1], &[1]);
    hands.perform(12, second).await.done();
    let seen = hands.machine(2).await;
    assert_eq!(bitmaps(&seen, 0), ["1-", "2+"]);
    assert_eq!(seen.disks[0].node, "disk0");
    assert_eq!((seen.jobs.len(), seen.exports.len(), seen.files.len()), (2, 2, 3), "{seen:?}");
    writer.progress(300).await;
    let later = [hands.read(12, 0, &image).await, hands.read(12, 1, &image).await];
    let changed = [hands.changed(12, 0), hands.changed(12, 1)];
    hands.perform(13, hands.end(process, 12, 2)).await.done();
    let log = writer.stop();

    for images in [&full, &later] {
        let n = writer::newest(images);
        assert!(writer::replay(&log, n, 2) == images.to_vec(), "the view is not what {n} writes make");
    }
    for disk in 0..2 {
        let called =
            |at: u64| changed[disk].iter().any(|(start, length)| (*start..start + length).contains(&at));
        for at in (0..machine::SIZE).step_by(4096) {
            let block = usize::try_from(at).unwrap()..usize::try_from(at).unwrap() + 4096;
            assert!(
                full[disk][block.clone()] == later[disk][block] || called(at),
                "disk {disk} changed at {at}"
            );
        }
        assert!(changed[disk].iter().map(|(_, length)| length).sum::<u64>() > 0);
    }

    // The middle of a chain goes, and then its newest.
    for _ in 0..2 {
        let add = Effect::AddCheckpoint(hands.checkpoint(process, 3, &[0, 1], Some(2)));
        hands.perform(14, add).await.done();
    }
    for _ in 0..2 {
        let middle = hands.delete(process, 2, &[0, 1], Some(1), false);
        hands.perform(15, middle).await.done();
        assert_eq!(bitmaps(&hands.machine(2).await, 1), ["102-", "3+"]);
    }
    for _ in 0..2 {
        let newest = hands.delete(process, 3, &[0, 1], Some(102), true);
        hands.perform(16, newest).await.done();
        assert_eq!(bitmaps(&hands.machine(2).await, 1), ["103+"]);
    }
    hands.assert_bare(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_disk_is_viewed_without_a_checkpoint() {
    let (_qemu, mut hands, home) = rig(&[QCOW2, READ_ONLY]).await;
    let seen = hands.machine(2).await;
    assert!(seen.disks[1].read_only && !seen.disks[1].stores_bitmaps && seen.disks[0].stores_bitmaps);
    let begin = hands.begin(hands.checkpoint(seen.process, 1, &[0], None), &[0, 1], &[]);
    hands.perform(1, begin).await.done();
    assert_eq!(hands.read(1, 1, &home.path().join("read")).await.len() as u64, machine::SIZE);
    let seen = hands.machine(2).await;
    assert!(seen.disks[1].read_only && bitmaps(&seen, 1).is_empty());
    hands.perform(2, hands.end(seen.process, 1, 2)).await.done();
    // And all alone, with no checkpoint at all.
    let alone = hands.begin(hands.checkpoint(seen.process, 2, &[], None), &[1], &[]);
    for _ in 0..2 {
        let alone = alone.clone();
        hands.perform(3, alone).await.done();
    }
    hands.perform(4, hands.end(seen.process, 3, 1)).await.done();
    hands.assert_bare(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_leaves_nothing() {
    let (_qemu, mut hands, _home) = rig(&[QCOW2, RAW]).await;
    let process = hands.machine(2).await.process;
    // A bitmap that is not there: the whole transaction is refused, in QEMU's words.
    let begin = hands.begin(hands.checkpoint(process, 1, &[0, 1], None), &[0, 1], &[99]);
    let what = hands.perform(1, begin).await.failed(FailureClass::Refused);
    assert!(what.contains("backstay.0a1b2c3d.99"), "{what}");
    // A disk that has grown since it was observed.
    let mut grown = hands.begin(hands.checkpoint(process, 1, &[0], None), &[0], &[]);
    if let Effect::Begin(begin) = &mut grown {
        begin.disks[0].size_bytes += 512;
    }
    hands.perform(2, grown).await.failed(FailureClass::Invalid);
    // A node that is not there.
    let gone = hands.begin(hands.checkpoint(process, 1, &[0], None), &[0, 5], &[]);
    hands.perform(3, gone).await.failed(FailureClass::Invalid);
    let gone = Effect::AddCheckpoint(hands.checkpoint(process, 1, &[0, 5], None));
    hands.perform(4, gone).await.failed(FailureClass::Refused);
    let seen = hands.assert_bare(2).await;
    assert!(bitmaps(&seen, 0).is_empty() && bitmaps(&seen, 1).is_empty());
}

/// What QEMU only reads, since somebody took a snapshot, is not the disk any more: it is followed, and nothing begins below.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_is_followed_to_the_image_that_somebody_puts_on_it() {
    if !machine::fuse() {
        return;
    }
    // Somebody has to use the disk: an image that nobody uses goes as soon as it has come.
    let (qemu, mut hands, _home) = rig_with(Qemu::storage_daemon(&[QCOW2], true)).await;
    let process = hands.machine(1).await.process;
    hands.perform(1, Effect::AddCheckpoint(hands.checkpoint(process, 1, &[0], None))).await.done();
    let qmp = machine::connect(&qemu.path("front.sock")).await;
    for (node, overlay) in [("disk0", "above"), ("above", "top")] {
        let file = qemu.path(overlay);
        let snapshot = json!({"node-name": node, "snapshot-file": file, "snapshot-node-name": overlay});
        qmp.execute("blockdev-snapshot-sync", snapshot).await.unwrap();
        let since = hands.begin(hands.checkpoint(process, 2, &[0], Some(1)), &[0], &[1]);
        let what = hands.perform(2, since).await.failed(FailureClass::Refused);
        assert!(what.contains("only reads node disk0"), "{what}");
        let add = Effect::AddCheckpoint(hands.checkpoint(process, 2, &[0], Some(1)));
        hands.perform(3, add).await.failed(FailureClass::Refused);
        let seen = hands.machine(1).await;
        let disk = &seen.disks[0];
        assert_eq!((disk.node.as_str(), disk.read_only, &disk.below), (overlay, false, &vec![bitmap(1)]));
    }
    // Above one image two: nobody can tell which of them is the disk. Unless both have names.
    let other = qemu.path("other");
    let (base, format) = (qemu.path("disk0.img"), ["-q", "-f", "qcow2", "-F", "qcow2", "-b"]);
    let options = [base.to_str().unwrap(), other.to_str().unwrap()];
    machine::run("qemu-img", &[&["create"][..], &format, &options].concat());
    let file = json!({"driver": "file", "filename": other});
    qmp.blockdev_add(json!({"driver": "qcow2", "node-name": "other", "file": file, "backing": "disk0"}))
        .await
        .unwrap();
    let VmSeen::Answering(seen) = hands.look(&[("vd0", "disk0")]).await else { panic!() };
    assert!(seen.disks.is_empty() && seen.unusable[0].1.contains("below several images"), "{seen:?}");
    let VmSeen::Answering(seen) = hands.look(&[("vd0", "top"), ("vd1", "other")]).await else { panic!() };
    assert_eq!((seen.disks.len(), seen.unusable.len()), (2, 0), "{seen:?}");
    qmp.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_nbd_server_is_found_before_the_checkpoint_is_made() {
    let (qemu, mut hands, _home) = rig(&[QCOW2]).await;
    let qmp = qemu.connect().await;
    qmp.nbd_server_start(&qemu.path("theirs")).await.unwrap();
    let export = agent::qmp::NbdExport {
        id: "theirs".into(),
        node_name: "disk0".into(),
        name: "theirs".into(),
        ..Default::default()
    };
    qmp.export_add(&export).await.unwrap();
    qmp.close().await;
    let process = hands.machine(1).await.process;
    let begin = hands.begin(hands.checkpoint(process, 1, &[0], None), &[0], &[]);
    let what = hands.perform(1, begin).await.failed(FailureClass::Refused);
    assert!(what.contains("its exports:") && what.contains("theirs"), "{what}");
    let seen = hands.assert_bare(1).await;
    assert!(bitmaps(&seen, 0).is_empty());
    // Theirs goes on.
    let qmp = qemu.connect().await;
    assert!(qmp.query_exports().await.unwrap().iter().any(|export| export.id == "theirs"));
    assert!(tokio::net::UnixStream::connect(qemu.path("theirs")).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_objects_are_never_touched() {
    let (qemu, mut hands, _home) = rig(&[QCOW2]).await;
    let process = hands.machine(1).await.process;
    let foreign = ["vnb.1", "backstay.ffffffff.1"];
    let qmp = qemu.connect().await;
    for name in foreign {
        let add = agent::qmp::BitmapAdd {
            node: "disk0".into(),
            name: name.into(),
            persistent: true,
            ..Default::default()
        };
        qmp.apply(&agent::qmp::Action::BitmapAdd(add)).await.unwrap();
    }
    qmp.close().await;
    let begin = hands.begin(hands.checkpoint(process, 1, &[0], None), &[0], &[]);
    hands.perform(1, begin).await.done();
    let seen = hands.machine(1).await;
    for wrong in ["vnb.1", "backstay.ffffffff.1", "backstay.ffffffff.t1.0f", "../etc", "disk0"] {
        let mut clean = hands.clean(&seen);
        clean.nodes.push(wrong.into());
        hands.perform(2, Effect::Clean(clean)).await.failed(FailureClass::Invalid);
        let mut clean = hands.clean(&seen);
        clean.bitmaps.push(("disk0".into(), wrong.into()));
        hands.perform(3, Effect::Clean(clean)).await.failed(FailureClass::Invalid);
        let mut clean = hands.clean(&seen);
        clean.files.push(wrong.into());
        hands.perform(4, Effect::Clean(clean)).await.failed(FailureClass::Invalid);
    }
    let after = hands.machine(1).await;
    assert_eq!((&after.nodes, &after.jobs, &after.files), (&seen.nodes, &seen.jobs, &seen.files));
    // What is ours goes in whatever order it is named, bitmaps too.
    for _ in 0..2 {
        let mut clean = hands.clean(&seen);
        clean.nodes.reverse();
        clean.bitmaps.push(("disk0".into(), bitmap(1)));
        hands.perform(5, Effect::Clean(clean)).await.done();
        let seen = hands.assert_bare(1).await;
        assert_eq!(bitmaps(&seen, 0), ["backstay.ffffffff.1+", "vnb.1+"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_qemu_takes_the_view_with_it_and_the_files_are_removed() {
    let (mut qemu, mut hands, _home) = rig(&[QCOW2]).await;
    let process = hands.machine(1).await.process;
    let begin = hands.begin(hands.checkpoint(process, 1, &[0], None), &[0], &[]);
    hands.perform(1, begin.clone()).await.done();
    assert!(hands.folders.scratch_of(hands.vm.id).exists() && hands.nbd_socket().exists());
    qemu.kill();
    assert!(matches!(hands.look(&[]).await, VmSeen::NotRunning { .. }));
    hands.perform(1, begin).await.failed(FailureClass::ProcessGone);
    for _ in 0..2 {
        let end = hands.end(process, 1, 1);
        hands.perform(2, end).await.done();
        assert!(!hands.folders.scratch_of(hands.vm.id).exists() && !hands.nbd_socket().exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_on_the_socket_is_not_the_one_that_was_meant() {
    let (_qemu, mut hands, _home) = rig(&[QCOW2]).await;
    let process = hands.machine(1).await.process;
    // Ours, one start time off: proven gone. And one that lives, elsewhere.
    let gone = Process { started_ticks: process.started_ticks + 1, ..process };
    let other = Qemu::storage_daemon(&[QCOW2], false);
    let mut others = Hands::new(&other.path("home"), &other.path("qmp.sock"));
    other.connect().await.close().await;
    let elsewhere = others.machine(1).await.process;
    for wrong in [gone, elsewhere] {
        let begin = hands.begin(hands.checkpoint(wrong, 1, &[0], None), &[0], &[]);
        hands.perform(1, begin).await.failed(FailureClass::ProcessGone);
        let add = Effect::AddCheckpoint(hands.checkpoint(wrong, 1, &[0], None));
        hands.perform(2, add).await.failed(FailureClass::ProcessGone);
    }
    hands.perform(3, hands.end(gone, 1, 1)).await.done();
    hands.perform(4, hands.end(elsewhere, 1, 1)).await.failed(FailureClass::Unreachable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_socket_is_silent_and_not_gone() {
    let (qemu, mut hands, _home) = rig(&[QCOW2]).await;
    let process = hands.machine(1).await.process;
    let holder = qemu.connect().await;
    let VmSeen::Silent { why } = hands.look(&[]).await else { panic!() };
    assert!(why.contains("another client"), "{why}");
    hands.perform(1, hands.end(process, 1, 1)).await.failed(FailureClass::Unreachable);
    holder.close().await;
    hands.perform(2, hands.end(process, 1, 1)).await.done();
}

/// Whoever still reads a view when it ends loses the connection, and the end does not wait for him.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_hangs_does_not_keep_a_view() {
    let (_qemu, mut hands, _home) = rig(&[QCOW2]).await;
    let process = hands.machine(1).await.process;
    let begin = hands.begin(hands.checkpoint(process, 1, &[0], None), &[0], &[]);
    hands.perform(1, begin).await.done();
    // It opens the view and then waits for more of its own input, for ever.
    let mut reader = std::process::Command::new("qemu-io")
        .args(["-r", "-f", "raw", &hands.uri(1, 0)])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut prompt = [0; 7];
    std::io::Read::read_exact(reader.stdout.as_mut().unwrap(), &mut prompt).unwrap();
    hands.perform(2, hands.end(process, 1, 1)).await.done();
    hands.assert_bare(1).await;
    reader.kill().unwrap();
    reader.wait().unwrap();
}

/// A view that cannot be offered takes its checkpoint back with it: the old one records again, and has missed nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_cannot_be_offered_is_undone() {
    use journal::IntentId;
    use journal::names::{Role, temporary};
    let (qemu, mut hands, _home) = rig(&[QCOW2, RAW]).await;
    let process = hands.machine(2).await.process;
    let first = hands.begin(hands.checkpoint(process, 1, &[0, 1], None), &[0, 1], &[]);
    hands.perform(1, first).await.done();
    // Somebody else takes the name that the next view's second disk is to be offered by.
    let qmp = qemu.connect().await;
    let name = temporary(machine::US, IntentId(2), 1, Role::Export);
    let export =
        agent::qmp::NbdExport { id: "theirs".into(), node_name: "disk0".into(), name, ..Default::default() };
    qmp.export_add(&export).await.unwrap();
    qmp.close().await;
    let before = hands.machine(2).await;
    let second = hands.begin(hands.checkpoint(process, 2, &[0, 1], Some(1)), &[0, 1], &[1]);
    let what = hands.perform(2, second).await.failed(FailureClass::Refused);
    assert!(what.contains("block-export-add"), "{what}");
    let after = hands.machine(2).await;
    assert_eq!((bitmaps(&after, 0), bitmaps(&after, 1)), (vec!["1+".into()], vec!["1+".into()]));
    assert_eq!((before.nodes, before.jobs, before.files), (after.nodes, after.jobs, after.files));
    // The first view, and their export, go on.
    assert!(tokio::net::UnixStream::connect(hands.nbd_socket()).await.is_ok());
    hands.perform(3, hands.end(process, 1, 2)).await.done();
    assert!(hands.nbd_socket().exists(), "their export still needs the server");
}
