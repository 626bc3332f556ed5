//! Views by the way of copy-before-write, on a real machine whose guest writes all the while: one instant over its disks,
//! killed at every command, full scratch storage, hung scratch storage. The guest never notices.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod machine;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use journal::effect::{Lasts, Offer, ViewLimits, Way};
use journal::observation::{Machine, VmSeen};
use journal::{Done, Effect, FailureClass, IntentId, Process};
use machine::guest::{self, Guest};
use machine::{Hands, Qemu, SIZE, UNLIMITED, bitmap, bitmaps, in_a_child};

async fn rig(guest: &Guest) -> (Hands, tempfile::TempDir) {
    guest.qemu.connect().await.close().await;
    let home = tempfile::tempdir().unwrap();
    let hands = Hands::new(home.path(), &guest.qemu.path("qmp.sock"));
    guest.progress(50).await;
    (hands, home)
}

/// A view of both disks, whose bitmaps have names of their own on each.
fn begin(hands: &Hands, process: Process, number: u64, since: &[u64], limits: ViewLimits) -> Effect {
    let mut checkpoint = hands.checkpoint(process, number, &[0, 1], since.last().copied());
    let mut disks = Vec::new();
    for (place, mark) in checkpoint.disks.iter_mut().enumerate() {
        let its =
            |numbers: &[u64]| numbers.iter().map(|it| bitmap(it * 10 + place as u64)).collect::<Vec<_>>();
        mark.bitmap = its(&[number]).remove(0);
        mark.lasts = Lasts::Persistent;
        mark.disable = its(&since[since.len().saturating_sub(1)..]);
        disks.push(its(since));
    }
    let mut effect = hands.begin_by(Way::CopyBeforeWrite, limits, checkpoint, &[0, 1], &[]);
    if let Effect::Begin(begin) = &mut effect {
        for (disk, since) in begin.disks.iter_mut().zip(disks) {
            disk.changed_since = since;
        }
    }
    effect
}

/// The nodes that the devices of the two disks are on.
async fn drives(qemu: &Qemu) -> Vec<String> {
    let qmp = qemu.connect().await;
    let devices = qmp.query_block().await.unwrap();
    qmp.close().await;
    let of = |n: usize| {
        let its = |qdev: &str| qdev.split('/').any(|part| part == format!("dev{n}"));
        let device = devices.iter().find(|device| device.qdev.as_deref().is_some_and(its)).unwrap();
        device.inserted.as_ref().unwrap().node_name.clone().unwrap()
    };
    vec![of(0), of(1)]
}

async fn assert_restored(guest: &Guest, hands: &mut Hands) -> Machine {
    let seen = hands.assert_bare(2).await;
    assert_eq!(drives(&guest.qemu).await, ["disk0", "disk1"]);
    assert!(seen.disks.iter().all(|disk| disk.no_filter.is_none()), "{seen:?}");
    seen
}

async fn read(hands: &Hands, view: u64, home: &Path) -> Vec<Vec<u8>> {
    let image = home.join("read");
    vec![hands.read(view, 0, &image).await, hands.read(view, 1, &image).await]
}

/// What a view shows is what both disks held after some write and before the next.
#[track_caller]
fn assert_one_instant(images: &[Vec<u8>]) -> usize {
    let n = guest::newest(images);
    assert!(guest::images(n) == images, "the view is not what {n} writes make");
    n
}

async fn one_instant(guest: Guest) {
    let (mut hands, home) = rig(&guest).await;
    let seen = hands.machine(2).await;
    let process = seen.process;
    assert!(seen.disks.iter().all(|disk| disk.no_filter.is_none() && disk.backing.is_empty()), "{seen:?}");

    // Full, with checkpoint 1. Each effect twice: the second time nothing changes.
    let first = begin(&hands, process, 1, &[], UNLIMITED);
    let Done::Began { instant } = hands.perform(10, first.clone()).await.done() else { panic!() };
    let Done::Began { instant: again } = hands.perform(10, first).await.done() else { panic!() };
    assert!(again.0 <= instant.0 && instant.0 - again.0 < 1_000_000, "{again} is {instant} once more");
    guest.progress(300).await;
    let full = read(&hands, 10, home.path()).await;
    guest.progress(100).await;
    assert!(full == read(&hands, 10, home.path()).await, "a view does not move");

    // The disks are seen through it.
    let under = hands.machine(2).await;
    assert_eq!((under.jobs.len(), under.exports.len(), under.nodes.len()), (0, 2, 10), "{under:?}");
    for (was, is) in seen.disks.iter().zip(&under.disks) {
        assert_eq!((&was.node, was.size_bytes, &was.format), (&is.node, is.size_bytes, &is.format));
        assert!(is.no_filter.is_some(), "one view of this kind at a time");
    }
    assert_eq!((bitmaps(&under, 0), bitmaps(&under, 1)), (vec!["10+".into()], vec!["11+".into()]));
    assert_eq!(under.files.len(), 3, "{under:?}");
    for _ in 0..2 {
        hands.perform(11, hands.end(process, 10, 2)).await.done();
        assert_restored(&guest, &mut hands).await;
    }

    // Incremental, since checkpoint 1.
    hands.perform(12, begin(&hands, process, 2, &[1], UNLIMITED)).await.done();
    guest.progress(200).await;
    let later = read(&hands, 12, home.path()).await;
    let changed = [hands.changed(12, 0), hands.changed(12, 1)];
    assert_eq!(bitmaps(&hands.machine(2).await, 1), ["11-", "21+"]);
    hands.perform(13, hands.end(process, 12, 2)).await.done();
    assert_restored(&guest, &mut hands).await;

    let (first, second) = (assert_one_instant(&full), assert_one_instant(&later));
    assert!(first < second, "{first} {second}");
    for disk in 0..2 {
        // A point that is put together from the first and what is called changed is the second, bit by bit.
        let mut built = full[disk].clone();
        for (start, length) in &changed[disk] {
            let range = usize::try_from(*start).unwrap()..usize::try_from(start + length).unwrap();
            built[range.clone()].copy_from_slice(&later[disk][range]);
        }
        assert!(built == later[disk], "disk {disk} changed where its bitmap is clean");
        // A quick guest has written everywhere by then.
        let all = changed[disk].iter().map(|(_, length)| length).sum::<u64>() == SIZE;
        assert!(
            !all || second - first > 600,
            "everything is called changed after {first} to {second} writes"
        );
    }
    assert_eq!(guest.failed(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_is_one_instant_over_scsi_and_ahci() {
    let Some(guest) = Guest::usual() else { return };
    one_instant(guest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_is_one_instant_over_virtio() {
    let Some(guest) = Guest::start(["virtio-blk-pci", "virtio-blk-pci,share-rw=on"]) else { return };
    one_instant(guest).await;
}

/// Devices on an iothread each; nothing where this QEMU survives no filter there, which is said.
async fn on_iothreads(devices: [&str; 2]) -> Option<Guest> {
    let guest = Guest::start(devices)?;
    guest.qemu.connect().await.close().await;
    let home = tempfile::tempdir().unwrap();
    let seen = Hands::new(home.path(), &guest.qemu.path("qmp.sock")).machine(2).await;
    if seen.version.split('.').next().unwrap().parse::<u32>().unwrap() >= 10 {
        return Some(guest);
    }
    let says = |why: &String| why.contains("iothread io") && why.contains("10.0 does");
    assert!(seen.disks.iter().all(|disk| disk.no_filter.as_ref().is_some_and(says)), "{seen:?}");
    None
}

const IOTHREADS: [&str; 2] = ["virtio-blk-pci,iothread=io0", "virtio-blk-pci,iothread=io1"];

#[tokio::test(flavor = "multi_thread")]
async fn a_view_is_one_instant_over_iothreads() {
    let Some(guest) = on_iothreads(IOTHREADS).await else { return };
    one_instant(guest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_is_one_instant_over_a_shared_iothread_and_none() {
    let Some(guest) = on_iothreads([IOTHREADS[0], IOTHREADS[0]]).await else { return };
    one_instant(guest).await;
    let Some(guest) = Guest::start([IOTHREADS[1], "scsi-hd"]) else { return };
    one_instant(guest).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the agent that is killed in the tests below; does nothing without them"]
async fn child() {
    machine::be_the_child().await;
}

/// How a begun view that nobody answers for goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// The same effect is given once more.
    Repeated,
    /// Its view is ended.
    Ended,
    /// What an observation calls ours is removed, but for the filters, which it does not have to know of.
    Cleaned,
}

/// The agent dies at every second passage from `first` on, while it begins a view.
async fn killed_while_beginning(after: After, first: u64) {
    let Some(guest) = Guest::usual() else { return };
    let (mut hands, home) = rig(&guest).await;
    let process = hands.machine(2).await.process;
    let path = std::env::var("PATH").unwrap();
    for passage in (first..=1000).step_by(2) {
        let Effect::Begin(older) = begin(&hands, process, 1, &[], UNLIMITED) else { panic!() };
        hands.perform(1, Effect::AddCheckpoint(older.checkpoint)).await.done();
        // One more may have been on its way when the checkpoint came.
        let since = guest.written() + 1;
        let effect = begin(&hands, process, 2, &[1], UNLIMITED);
        let killed = in_a_child(home.path(), &hands, &effect, Some(passage), &path).await;
        match after {
            After::Repeated => {
                hands.perform(50, effect).await.done();
                let seen = hands.machine(2).await;
                assert_eq!(bitmaps(&seen, 0), ["10-", "20+"], "killed at passage {passage}");
                assert_eq!((seen.nodes.len(), seen.exports.len()), (10, 2), "killed at passage {passage}");
                let until = assert_one_instant(&read(&hands, 50, home.path()).await);
                let changed = [hands.changed(50, 0), hands.changed(50, 1)];
                for (disk, at) in guest::writes(until).skip(since) {
                    let called =
                        changed[disk].iter().any(|(start, length)| (*start..start + length).contains(&at));
                    assert!(called, "killed at passage {passage}: disk {disk} changed at {at}");
                }
                hands.perform(51, hands.end(process, 50, 2)).await.done();
            }
            After::Ended => {
                hands.perform(51, hands.end(process, 50, 2)).await.done();
            }
            After::Cleaned => {
                let seen = hands.machine(2).await;
                let mut clean = hands.clean(&seen);
                clean.nodes.retain(|name| !name.ends_with('c'));
                hands.perform(51, Effect::Clean(clean)).await.done();
            }
        }
        let seen = assert_restored(&guest, &mut hands).await;
        let marked = [["10+"].as_slice(), &["10-", "20+"]]
            .contains(&bitmaps(&seen, 0).iter().map(String::as_str).collect::<Vec<_>>().as_slice());
        assert!(marked, "killed at passage {passage}: {seen:?}");
        let mut clean = hands.clean(&seen);
        let all = seen
            .disks
            .iter()
            .flat_map(|disk| disk.bitmaps.iter().map(|it| (disk.node.clone(), it.name.clone())));
        clean.bitmaps = all.collect();
        hands.perform(52, Effect::Clean(clean)).await.done();
        if !killed {
            assert!(passage > 40, "there were {passage} passages only");
            break;
        }
    }
    guest.progress(10).await;
    assert_eq!(guest.failed(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beginning_killed_before_a_command_is_repeated() {
    killed_while_beginning(After::Repeated, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beginning_killed_after_a_command_is_repeated() {
    killed_while_beginning(After::Repeated, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beginning_killed_before_a_command_is_ended() {
    killed_while_beginning(After::Ended, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beginning_killed_after_a_command_is_ended() {
    killed_while_beginning(After::Ended, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beginning_killed_before_a_command_is_cleaned() {
    killed_while_beginning(After::Cleaned, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beginning_killed_after_a_command_is_cleaned() {
    killed_while_beginning(After::Cleaned, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_end_is_repeated() {
    let Some(guest) = Guest::usual() else { return };
    let (mut hands, home) = rig(&guest).await;
    let process = hands.machine(2).await.process;
    let path = std::env::var("PATH").unwrap();
    for passage in 1..=1000 {
        hands.perform(1, begin(&hands, process, passage, &[], UNLIMITED)).await.done();
        let end = hands.end(process, 1, 2);
        let killed = in_a_child(home.path(), &hands, &end, Some(passage), &path).await;
        hands.perform(2, end).await.done();
        assert_restored(&guest, &mut hands).await;
        if !killed {
            assert!(passage > 20, "there were {passage} passages only");
            break;
        }
    }
    assert_eq!(guest.failed(), 0);
}

/// The filter's own view breaks when its scratch storage is full, and nobody is there to watch it: the guest goes on.
#[tokio::test(flavor = "multi_thread")]
async fn full_scratch_storage_breaks_the_view_and_not_the_guest() {
    let Some(guest) = Guest::usual() else { return };
    let (hands, home) = rig(&guest).await;
    let Some(small) = machine::SmallStorage::mount(home.path(), "scratch", 4) else { return };
    let process = { machine::identity(&guest.qemu).await };
    let effect = begin(&hands, process, 1, &[], UNLIMITED);
    // Its agent is gone as soon as it is done: only QEMU is left to protect the guest.
    in_a_child(home.path(), &hands, &effect, None, &std::env::var("PATH").unwrap()).await;
    drop(hands);
    let time = guest.time();
    let deadline = Instant::now() + Duration::from_secs(60);
    while small.free() > 0 && Instant::now() < deadline {
        guest.progress(10).await;
    }
    guest.progress(100).await;
    assert!(time.stop() < Duration::from_secs(2));
    assert_eq!((guest.failed(), small.free()), (0, 0));
    let mut hands = Hands::new(home.path(), &guest.qemu.path("qmp.sock"));
    let uri = hands.uri(50, 0);
    let copied = Command::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", "raw", &uri, home.path().join("read").to_str().unwrap()])
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(!copied.success(), "a broken view shows nothing");
    hands.perform(51, hands.end(process, 50, 2)).await.done();
    guest.progress(10).await;
    assert_eq!((guest.failed(), drives(&guest.qemu).await), (0, vec!["disk0".into(), "disk1".into()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn hung_scratch_storage_stalls_the_guest_no_longer_than_allowed() {
    if !machine::fuse() {
        return;
    }
    let Some(guest) = Guest::usual() else { return };
    hung_scratch_storage(guest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hung_scratch_storage_stalls_a_guest_on_iothreads_no_longer_than_allowed() {
    if !machine::fuse() {
        return;
    }
    let Some(guest) = on_iothreads(IOTHREADS).await else { return };
    hung_scratch_storage(guest).await;
    let Some(guest) = on_iothreads([IOTHREADS[0], IOTHREADS[0]]).await else { return };
    hung_scratch_storage(guest).await;
}

/// Scratch storage that hangs costs the guest one wait of the configured length; and while it hangs, nobody touches QEMU.
async fn hung_scratch_storage(guest: Guest) {
    let (mut hands, home) = rig(&guest).await;
    let process = hands.machine(2).await.process;
    let storage = machine::Stoppable::start(&guest.qemu, 2).await;
    let path = machine::path_to_slow_storage(&guest.qemu, home.path());
    let effect = begin(&hands, process, 1, &[], ViewLimits { stall_ms: 1_500, ..UNLIMITED });
    in_a_child(home.path(), &hands, &effect, None, &path).await;
    guest.progress(20).await;
    storage.stop();
    let time = guest.time();
    guest.progress(300).await;
    let longest = time.stop();
    assert!(longest > Duration::from_millis(1_500) && longest < Duration::from_secs(4), "{longest:?}");
    let time = guest.time();
    let asked = hands.look(&[("vd0", "disk0")]).await;
    assert!(matches!(&asked, VmSeen::Silent { why } if why.contains("does not answer")), "{asked:?}");
    let what = hands.perform(51, hands.end(process, 50, 2)).await.failed(FailureClass::Unreachable);
    assert!(what.contains("QEMU is left alone"), "{what}");
    assert!(time.stop() < Duration::from_secs(1), "the guest was held up by whoever looked");
    storage.go_on();
    // The looks that hung come back with it.
    let deadline = Instant::now() + Duration::from_secs(30);
    while !matches!(hands.look(&[]).await, VmSeen::Answering(_)) {
        assert!(Instant::now() < deadline);
    }
    // Nobody gave the view up: who offers it finds out by reading.
    let until = (chrono::Utc::now() + Duration::from_secs(600)).into();
    let (vm, installation, view) = (hands.vm.clone(), machine::US, IntentId(50));
    let offer = Effect::Offer(Offer { vm, process, installation, view, until });
    let what = hands.perform(53, offer).await.failed(FailureClass::ViewLost);
    assert!(what.contains("breaks by itself") && what.contains("`stall`"), "{what}");
    hands.perform(52, hands.end(process, 50, 2)).await.done();
    assert_restored(&guest, &mut hands).await;
    assert_eq!(guest.failed(), 0);
}

/// Two views of one machine at a time: the second is of the other kind, above the first's filters or below them.
#[tokio::test(flavor = "multi_thread")]
async fn a_view_ends_under_another_ones_job() {
    let Some(guest) = Guest::usual() else { return };
    let (mut hands, home) = rig(&guest).await;
    let process = hands.machine(2).await.process;
    hands.perform(1, begin(&hands, process, 1, &[], UNLIMITED)).await.done();
    let what =
        hands.perform(2, begin(&hands, process, 2, &[1], UNLIMITED)).await.failed(FailureClass::Refused);
    assert!(what.contains("no copy-before-write filter"), "{what}");
    assert_eq!(bitmaps(&hands.machine(2).await, 0), ["10+"]);
    let other = hands.begin(hands.checkpoint(process, 7, &[0, 1], None), &[0, 1], &[]);
    let seen = hands.machine(2).await;
    if seen.version.split('.').next().unwrap().parse::<u32>().unwrap() < 10 {
        let what = hands.perform(3, other).await.failed(FailureClass::Refused);
        assert!(what.contains("another view of it is up"), "{what}");
        return;
    }
    hands.perform(3, other).await.done();
    guest.progress(100).await;
    assert_one_instant(&read(&hands, 1, home.path()).await);
    hands.perform(4, hands.end(process, 1, 2)).await.done();
    guest.progress(100).await;
    assert_one_instant(&read(&hands, 3, home.path()).await);
    hands.perform(5, hands.end(process, 3, 2)).await.done();
    assert_restored(&guest, &mut hands).await;
    assert_eq!(guest.failed(), 0);
}

/// A read-only disk needs no filter: it is shown as it stands, beside the others and alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_disk_is_shown_as_it_stands() {
    let Some(guest) = Guest::usual() else { return };
    let (mut hands, home) = rig(&guest).await;
    let VmSeen::Answering(seen) = hands.look(&[("boot", "boot")]).await else { panic!() };
    let boot = seen.disks[0].clone();
    assert!(boot.read_only);
    let view = journal::effect::ViewDisk {
        disk: boot.disk,
        node: boot.node,
        size_bytes: boot.size_bytes,
        changed_since: vec![],
    };
    let sector = std::fs::read(guest.qemu.path("boot")).unwrap();

    let Effect::Begin(mut beside) = begin(&hands, seen.process, 1, &[], UNLIMITED) else { panic!() };
    beside.disks.push(view.clone());
    let mut alone = beside.clone();
    for _ in 0..2 {
        hands.perform(1, Effect::Begin(beside.clone())).await.done();
    }
    assert!(hands.read(1, 2, &home.path().join("read")).await == sector);
    assert_one_instant(&read(&hands, 1, home.path()).await);
    hands.perform(2, hands.end(seen.process, 1, 3)).await.done();
    assert_restored(&guest, &mut hands).await;

    (alone.checkpoint.disks, alone.disks) = (vec![], vec![view]);
    for _ in 0..2 {
        hands.perform(3, Effect::Begin(alone.clone())).await.done();
    }
    assert!(hands.read(3, 0, &home.path().join("read")).await == sector);
    hands.perform(4, hands.end(seen.process, 3, 1)).await.done();
    assert_restored(&guest, &mut hands).await;
    assert_eq!(guest.failed(), 0);
}
