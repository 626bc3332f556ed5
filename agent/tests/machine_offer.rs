//! Views that are offered to readers outside: without a checkpoint, until their time is over, and no longer than they are there.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod machine;

use std::os::unix::fs::FileExt;
use std::time::Duration;

use journal::effect::{Offer, ViewLimits, Way};
use journal::wire::ToAgent;
use journal::{Done, Effect, FailureClass, IntentId, Process, Time};
use machine::writer::Writer;
use machine::{Hands, MIB, QCOW2, Qemu, SIZE, UNLIMITED, bitmaps};
use serde_json::json;

const VIEW: u64 = 5;

async fn rig(files: bool) -> (Qemu, Hands, tempfile::TempDir) {
    let qemu = Qemu::storage_daemon(&[QCOW2], files);
    qemu.connect().await.close().await;
    let home = tempfile::tempdir().unwrap();
    let hands = Hands::new(home.path(), &qemu.path("qmp.sock"));
    (qemu, hands, home)
}

/// A view without a checkpoint, of the one disk.
async fn begin(hands: &mut Hands, limits: ViewLimits) -> Process {
    let process = hands.machine(1).await.process;
    let none = hands.checkpoint(process, 1, &[], None);
    let begin = hands.begin_by(Way::BackupJob, limits, none, &[0], &[]);
    // Twice: the second time it is there already.
    for _ in 0..2 {
        hands.perform(VIEW, begin.clone()).await.done();
    }
    assert!(bitmaps(&hands.machine(1).await, 0).is_empty(), "no checkpoint is made");
    process
}

fn offer(hands: &Hands, process: Process, lasts: Duration) -> Effect {
    let until = chrono::Utc::now() + lasts;
    let (vm, installation, view) = (hands.vm.clone(), machine::US, IntentId(VIEW));
    Effect::Offer(Offer { vm, process, installation, view, until: until.into() })
}

const LONG: Duration = Duration::from_secs(600);

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_is_done_when_its_time_is_over() {
    let (_qemu, mut hands, home) = rig(false).await;
    let process = begin(&mut hands, UNLIMITED).await;
    let brief = offer(&hands, process, Duration::from_millis(300));
    let Effect::Offer(Offer { until, .. }) = brief else { panic!() };
    assert_eq!(hands.perform(6, brief).await.done(), Done::Plain);
    assert!(Time::from(chrono::Utc::now()) >= until);
    // And taken up by another agent, when it was over before that came.
    let mut other = Hands::new(home.path(), std::path::Path::new(&hands.vm.qmp));
    let over = offer(&other, process, Duration::ZERO);
    assert_eq!(other.perform(7, over).await.done(), Done::Plain);
    let end = hands.end(process, VIEW, 1);
    hands.perform(8, end).await.done();
    hands.assert_bare(1).await;
    // Nothing is offered that is not there.
    let gone = offer(&hands, process, LONG);
    hands.perform(9, gone).await.failed(FailureClass::ViewLost);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_is_in_nobody_s_way_and_ends_when_it_is_cancelled() {
    let (_qemu, mut hands, home) = rig(false).await;
    let process = begin(&mut hands, UNLIMITED).await;
    hands.send(6, offer(&hands, process, LONG)).await;
    // The VM's lane is free.
    hands.perform(7, Effect::AddCheckpoint(hands.checkpoint(process, 2, &[0], None))).await.done();
    assert_eq!(hands.read(VIEW, 0, &home.path().join("read")).await.len() as u64, SIZE);
    hands.sender.send(ToAgent::Cancel { intent: IntentId(6) }).await.unwrap();
    hands.answer(6).await.failed(FailureClass::Cancelled);
    hands.perform(8, hands.end(process, VIEW, 1)).await.done();
    hands.assert_bare(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_ends_with_its_qemu() {
    let (mut qemu, mut hands, home) = rig(false).await;
    let process = begin(&mut hands, UNLIMITED).await;
    hands.send(6, offer(&hands, process, LONG)).await;
    qemu.kill();
    let what = hands.answer(6).await.failed(FailureClass::ProcessGone);
    assert!(what.contains("QEMU ended"), "{what}");
    // And for an agent that comes later.
    let mut other = Hands::new(home.path(), std::path::Path::new(&hands.vm.qmp));
    let late = offer(&other, process, LONG);
    other.perform(7, late).await.failed(FailureClass::ProcessGone);
    hands.perform(8, hands.end(process, VIEW, 1)).await.done();
    assert!(!hands.folders.scratch_of(hands.vm.id).exists(), "scratch files are left");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_says_why_its_view_was_given_up() {
    if !machine::fuse() {
        return;
    }
    let (qemu, mut hands, _home) = rig(true).await;
    // Of blank areas nothing has to be kept.
    let disk = std::fs::File::options().write(true).open(qemu.path("fuse0")).unwrap();
    disk.write_all_at(&vec![255; usize::try_from(SIZE).unwrap()], 0).unwrap();
    let process = begin(&mut hands, ViewLimits { scratch_bytes: 4 * MIB, stall_ms: 1_000 }).await;
    hands.send(6, offer(&hands, process, LONG)).await;
    let writer = Writer::paced(vec![qemu.path("fuse0")], vec![], Duration::from_millis(2));
    let what = hands.answer(6).await.failed(FailureClass::ViewLost);
    assert!(what.contains("`scratch` under `[limits]`"), "{what}");
    drop(writer.stop());
    hands.perform(7, hands.end(process, VIEW, 1)).await.done();
    hands.assert_bare(1).await;
}

/// A bitmap that was stopped lacks changes, and a union that ends with it would too.
#[tokio::test(flavor = "multi_thread")]
async fn no_map_is_made_of_bitmaps_that_lack_something() {
    let (qemu, mut hands, _home) = rig(false).await;
    let process = hands.machine(1).await.process;
    hands.perform(1, Effect::AddCheckpoint(hands.checkpoint(process, 1, &[0], None))).await.done();
    let name = machine::bitmap(1);
    let qmp = qemu.connect().await;
    let stop = json!({"node": "disk0", "name": name});
    qmp.execute("block-dirty-bitmap-disable", stop).await.unwrap();
    qmp.close().await;
    let none = hands.checkpoint(process, 2, &[], None);
    let what = hands.perform(2, hands.begin(none, &[0], &[1])).await.failed(FailureClass::Refused);
    assert!(what.contains(&name) && what.contains("removed or stopped"), "{what}");
    assert_eq!(bitmaps(&hands.assert_bare(1).await, 0), ["1-"]);
}
