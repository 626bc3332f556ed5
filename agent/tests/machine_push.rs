//! Disks that QEMU copies while a guest writes through iothreads: every restore point is one instant over both of them, and
//! the guest hears of nothing. `BACKSTAY_QEMU` names another QEMU to do it with.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod machine;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use agent::qmp::{BitmapAdd, Qmp};
use journal::effect::{
    Consistency, DiskMode, ImageFormat, OpenRepository, RepositoryAddress, Restore, RestoreTarget, Store,
    StoreDisk, ViewLimits, Way,
};
use journal::names::{Role, temporary};
use journal::outcome::Stored;
use journal::wire::FromAgent;
use journal::{CheckpointId, Done, Effect, FailureClass, IntentId, PointId, Process, Time};
use machine::guest::{self, Guest};
use machine::{Hands, MIB, QCOW2, Qemu, SIZE, SmallStorage, UNIT, UNLIMITED};
use serde_json::json;

const DEVICES: [&str; 2] = ["virtio-blk-pci,iothread=io0", "virtio-blk-pci,iothread=io1"];

/// A machine, an agent, and a repository with chunks of this size.
struct Rig {
    hands: Hands,
    process: Process,
    repository: RepositoryAddress,
    home: tempfile::TempDir,
}

impl Rig {
    async fn new(qmp: &Path, chunk_bytes: u32) -> Self {
        machine::connect(qmp).await.close().await;
        let home = tempfile::tempdir().unwrap();
        let mut hands = Hands::new(home.path(), qmp);
        let process = hands.machine(2).await.process;
        std::fs::write(home.path().join("password"), "correct horse").unwrap();
        let at = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
        let repository = RepositoryAddress {
            name: "vault".parse().unwrap(),
            path: at("vault"),
            password_file: at("password"),
            append_only: false,
            rates: Vec::new(),
        };
        let open = OpenRepository { repository: repository.clone(), chunk_bytes };
        hands.perform(1, Effect::OpenRepository(open)).await.done();
        Self { hands, process, repository, home }
    }

    /// A view of both disks and checkpoint `number`, with what changed since `since`.
    fn begin(&self, number: u64, since: &[u64], limits: ViewLimits) -> Effect {
        let checkpoint = self.hands.checkpoint(self.process, number, &[0, 1], since.last().copied());
        self.hands.begin_by(Way::Push, limits, checkpoint, &[0, 1], since)
    }

    fn store(&self, view: u64, point: u64, parent: Option<&Stored>) -> Effect {
        let mode = match parent {
            None => DiskMode::Full { reason: "the first backup".into() },
            Some(parent) => DiskMode::Incremental {
                since: CheckpointId(point - 1),
                parent: PointId(point - 1),
                snapshot: parent.snapshot.clone(),
            },
        };
        let disk = |n: usize| StoreDisk {
            disk: format!("vd{n}").parse().unwrap(),
            size_bytes: SIZE,
            mode: mode.clone(),
            granularity_bytes: None,
        };
        Effect::Store(Box::new(Store {
            vm: self.hands.vm.clone(),
            process: self.process,
            qemu: "10.0.2".into(),
            installation: machine::US,
            view: IntentId(view),
            way: Way::Push,
            repository: self.repository.clone(),
            point: PointId(point),
            instant: Time(1_790_000_000_000_000),
            checkpoint: CheckpointId(point),
            chain: (1..=point).map(CheckpointId).collect(),
            policy: None,
            consistency: Consistency::Crash,
            disks: vec![disk(0), disk(1)],
            left_out: vec![],
            audit_chunks: 8,
            bandwidth: None,
        }))
    }

    /// The bytes of both disks of a point.
    async fn restored(&mut self, stored: &Stored, intent: u64) -> Vec<Vec<u8>> {
        let mut images = Vec::new();
        for n in 0..2 {
            let to = self.home.path().join(format!("restored.{intent}.{n}"));
            let restore = Restore {
                repository: self.repository.clone(),
                point: PointId(1),
                snapshot: stored.snapshot.clone(),
                disk: format!("vd{n}").parse().unwrap(),
                size_bytes: SIZE,
                path: to.to_str().unwrap().to_owned(),
                format: ImageFormat::Raw,
                target: RestoreTarget::New,
            };
            self.hands.perform(intent + n, Effect::Restore(restore)).await.done();
            images.push(std::fs::read(to).unwrap());
        }
        images
    }

    fn scratch(&self, view: u64, disk: usize) -> PathBuf {
        let name = temporary(machine::US, IntentId(view), disk, Role::Scratch);
        self.hands.folders.scratch_of(self.hands.vm.id).join(name)
    }
}

fn stored(done: Done) -> Stored {
    match done {
        Done::Stored(stored) => stored,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_point_is_one_instant_of_a_guest_that_writes() {
    let Some(guest) = Guest::start(DEVICES) else { return };
    let mut rig = Rig::new(&guest.qemu.path("qmp.sock"), UNIT).await;
    guest.progress(200).await;
    let (mut parent, mut clean, watch) = (None, 0, guest.time());
    for point in 1..=4_u64 {
        let before = guest.written();
        let view = 10 * point;
        let since: Vec<u64> = (point > 1).then(|| point - 1).into_iter().collect();
        rig.hands.perform(view, rig.begin(point, &since, UNLIMITED)).await.done();
        // All the room was there before the guest's first write had to wait for a copy.
        for disk in 0..2 {
            let file = std::fs::metadata(rig.scratch(view, disk)).unwrap();
            assert!(file.len() <= file.blocks() * 512, "{} of {}", file.blocks() * 512, file.len());
        }
        guest.progress(20).await;
        let seen = rig.hands.machine(2).await;
        assert!(seen.exports.is_empty() && seen.jobs.len() == 2, "{seen:?}");
        let point_stored =
            stored(rig.hands.perform(view + 1, rig.store(view, point, parent.as_ref())).await.done());
        // A repeat finds it, although nothing of the view but its jobs is left.
        let again = stored(rig.hands.perform(view + 1, rig.store(view, point, parent.as_ref())).await.done());
        assert_eq!(again, point_stored);
        rig.hands.perform(view + 2, rig.hands.end(rig.process, view, 2)).await.done();
        rig.hands.assert_bare(2).await;
        let images = rig.restored(&point_stored, 100 * point).await;
        let newest = guest::newest(&images);
        // One write may have been on its way, unanswered.
        assert!(newest + 1 >= before, "point {point} shows {newest} writes, {before} were answered");
        assert!(images == guest::images(newest), "point {point} is not what the guest had written");
        let part = point_stored.disks.iter().filter(|disk| disk.read_bytes < SIZE);
        clean += part.count();
        parent = Some(point_stored);
        assert_eq!(guest.failed(), 0, "a write failed");
    }
    eprintln!(
        "{clean} of 6 incremental disks were not read whole; the guest's longest wait: {:?}",
        watch.stop()
    );
    guest.progress(20).await;
}

/// Like every other leftover, a copy that nobody waits for is removed: by who knows its view, and by who only sees it.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_under_way_can_be_ended() {
    let Some(guest) = Guest::start(DEVICES) else { return };
    let mut rig = Rig::new(&guest.qemu.path("qmp.sock"), UNIT).await;
    guest.progress(20).await;
    rig.hands.perform(10, rig.begin(1, &[], UNLIMITED)).await.done();
    rig.hands.perform(11, rig.hands.end(rig.process, 10, 2)).await.done();
    let seen = rig.hands.assert_bare(2).await;
    assert_eq!(machine::bitmaps(&seen, 0), ["1+"], "the checkpoint stays");

    rig.hands.perform(20, rig.begin(2, &[1], UNLIMITED)).await.done();
    let seen = rig.hands.machine(2).await;
    let mut clean = rig.hands.clean(&seen);
    let union = temporary(machine::US, IntentId(20), 0, Role::Changes);
    assert!(seen.disks[0].bitmap(&union).is_some(), "{seen:?}");
    clean.bitmaps = (0..2)
        .map(|n| (format!("disk{n}"), temporary(machine::US, IntentId(20), n, Role::Changes)))
        .collect();
    rig.hands.perform(21, Effect::Clean(clean)).await.done();
    let seen = rig.hands.assert_bare(2).await;
    assert_eq!(machine::bitmaps(&seen, 0), ["1-", "2+"]);

    // Somebody else takes a copy away before it is read.
    rig.hands.perform(30, rig.begin(3, &[2], UNLIMITED)).await.done();
    let job = temporary(machine::US, IntentId(30), 1, Role::Job);
    let front = machine::connect(&guest.qemu.path("front.sock")).await;
    until_concluded(&front, &job).await;
    front.job_dismiss(&job).await.unwrap();
    front.close().await;
    let what = rig.hands.perform(31, rig.store(30, 1, None)).await.failed(FailureClass::ViewLost);
    assert!(what.contains("vd1") && what.contains("is gone"), "{what}");
    rig.hands.perform(32, rig.hands.end(rig.process, 30, 2)).await.done();
    rig.hands.assert_bare(2).await;
    guest.progress(20).await;
    assert_eq!(guest.failed(), 0, "a write failed");
}

async fn until_concluded(qmp: &Qmp, job: &str) {
    while !qmp.query_jobs().await.unwrap().iter().any(|it| it.id == job && it.status == "concluded") {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_nothing_begins() {
    let qemu = Qemu::storage_daemon(&[QCOW2, QCOW2], false);
    let mut rig = Rig::new(&qemu.path("qmp.sock"), UNIT).await;
    // Both disks, their tables, and a little.
    let limits = ViewLimits { scratch_bytes: 32 * MIB, ..UNLIMITED };
    let what = rig.hands.perform(10, rig.begin(1, &[], limits)).await.failed(FailureClass::Full);
    assert!(what.contains("may take 32 MiB; raise `scratch`") && what.contains("34 MiB there"), "{what}");
    let seen = rig.hands.assert_bare(2).await;
    assert!(machine::bitmaps(&seen, 0).is_empty(), "{seen:?}");

    let scratch = rig.hands.folders.scratch.parent().unwrap().to_owned();
    let Some(small) = SmallStorage::mount(&scratch, "scratch", 40) else { return };
    let what = rig.hands.perform(11, rig.begin(1, &[], UNLIMITED)).await.failed(FailureClass::Full);
    assert!(what.contains("40 MiB free, of which 10 MiB are left alone"), "{what}");
    let seen = rig.hands.assert_bare(2).await;
    assert!(machine::bitmaps(&seen, 0).is_empty() && small.free() == 40 * MIB, "{seen:?}");
}

/// Where QEMU copied smaller pieces than the chunks that are stored, a chunk is never made of what is not there.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_was_copied_in_part_is_not_stored() {
    let qemu = Qemu::storage_daemon(&[QCOW2, QCOW2], true);
    if !machine::fuse() {
        return;
    }
    let mut rig = Rig::new(&qemu.path("qmp.sock"), 4 * UNIT).await;
    rig.hands.perform(10, rig.begin(1, &[], UNLIMITED)).await.done();
    let first = stored(rig.hands.perform(11, rig.store(10, 1, None)).await.done());
    rig.hands.perform(12, rig.hands.end(rig.process, 10, 2)).await.done();
    let disk = std::fs::File::options().write(true).open(qemu.path("fuse1")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&disk, &[7; 512], 5 * u64::from(UNIT)).unwrap();
    rig.hands.perform(20, rig.begin(2, &[1], UNLIMITED)).await.done();
    let what = rig.hands.perform(21, rig.store(20, 2, Some(&first))).await.failed(FailureClass::ViewLost);
    assert!(what.contains("vd1") && what.contains("262144 bytes at 1310720"), "{what}");
    rig.hands.perform(22, rig.hands.end(rig.process, 20, 2)).await.done();
    rig.hands.assert_bare(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bitmap_that_is_gone_is_found_before_anything_begins() {
    let qemu = Qemu::storage_daemon(&[QCOW2, QCOW2], false);
    let mut rig = Rig::new(&qemu.path("qmp.sock"), UNIT).await;
    let qmp = machine::connect(&qemu.path("front.sock")).await;
    let add = BitmapAdd { node: "disk0".into(), name: machine::bitmap(1), ..Default::default() };
    qmp.apply(&agent::qmp::Action::BitmapAdd(add)).await.unwrap();
    qmp.close().await;
    rig.hands.perform(10, rig.begin(2, &[1], UNLIMITED)).await.failed(FailureClass::Refused);
    let seen = rig.hands.assert_bare(2).await;
    assert_eq!(machine::bitmaps(&seen, 0), ["1+"], "as it was");
}

/// A storage daemon whose disks, full of these bytes, are read at 4 MiB in a second, so that a copy of both takes eight.
fn slow(bytes: [u8; 2]) -> Qemu {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let mut command = Command::new("qemu-storage-daemon");
    command.args(["--object", "throttle-group,id=slow,limits.bps-total=4194304"]);
    for (n, byte) in bytes.into_iter().enumerate() {
        let image = at(&format!("disk{n}"));
        machine::run("qemu-img", &["create", "-q", "-f", "qcow2", &image, &SIZE.to_string()]);
        machine::run("qemu-io", &["-f", "qcow2", "-c", &format!("write -q -P {byte} 0 {SIZE}"), &image]);
        let file = json!({"driver": "file", "filename": image});
        let file = json!({"driver": "throttle", "throttle-group": "slow", "file": file});
        let disk = json!({"driver": "qcow2", "node-name": format!("disk{n}"), "file": file});
        command.args(["--blockdev", &disk.to_string()]);
    }
    command.args(["--chardev", &format!("socket,id=m,path={},server=on,wait=off", at("qmp.sock"))]);
    command.args(["--monitor", "chardev=m"]);
    Qemu { child: command.stdin(Stdio::null()).spawn().unwrap(), folder }
}

#[tokio::test]
#[ignore = "a part of the next one"]
async fn child() {
    machine::be_the_child().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_dies_while_qemu_copies_leaves_nothing() {
    let mut qemu = slow([5, 7]);
    let mut rig = Rig::new(&qemu.path("qmp.sock"), UNIT).await;
    // The agent, while it waits. QEMU copies on, and the next agent reads what it has copied.
    rig.hands.perform(10, rig.begin(1, &[], UNLIMITED)).await.done();
    let path = std::env::var("PATH").unwrap();
    let store = rig.store(10, 1, None);
    assert!(machine::in_a_child(rig.home.path(), &rig.hands, &store, Some(3), &path).await, "it did not die");
    rig.must_be_copying().await;
    let first = stored(rig.hands.perform(50, store).await.done());
    rig.hands.perform(51, rig.hands.end(rig.process, 10, 2)).await.done();
    rig.hands.assert_bare(2).await;
    let size = usize::try_from(SIZE).unwrap();
    assert!(rig.restored(&first, 52).await == [vec![5; size], vec![7; size]], "other bytes");

    // Nobody, but the copy is not wanted any more.
    rig.hands.perform(20, rig.begin(2, &[], UNLIMITED)).await.done();
    rig.must_be_copying().await;
    rig.hands.perform(21, rig.hands.end(rig.process, 20, 2)).await.done();
    rig.hands.assert_bare(2).await;

    // QEMU.
    rig.hands.perform(30, rig.begin(3, &[], UNLIMITED)).await.done();
    rig.hands.send(31, rig.store(30, 2, None)).await;
    rig.until_progress(31).await;
    qemu.child.kill().unwrap();
    qemu.child.wait().unwrap();
    let what = rig.hands.answer(31).await.failed(FailureClass::ProcessGone);
    assert!(what.contains("web-01"), "{what}");
    rig.hands.perform(32, rig.hands.end(rig.process, 30, 2)).await.done();
    assert!(!rig.hands.folders.scratch_of(rig.hands.vm.id).exists(), "the scratch folder is left");
}

impl Rig {
    async fn must_be_copying(&mut self) {
        let jobs = self.hands.machine(2).await.jobs;
        assert!(jobs.len() == 2 && jobs.iter().all(|job| job.status == "running"), "{jobs:?}");
    }

    /// Waits until some bytes of an intent are dealt with.
    async fn until_progress(&mut self, awaited: u64) {
        let told = async {
            loop {
                match self.hands.receiver.recv().await.expect("the agent runs") {
                    FromAgent::Progress { intent, progress } if intent == IntentId(awaited) => {
                        assert_eq!(progress.total_bytes, 4 * SIZE, "copied, and stored");
                        if progress.done_bytes > 0 {
                            return;
                        }
                    }
                    other => panic!("it ended early: {other:?}"),
                }
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), told).await.expect("progress in time");
    }
}
