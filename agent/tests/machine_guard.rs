//! Views that grow too large: whoever watches them takes them down in time, and the writer never hears of it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod machine;

use std::path::Path;
use std::time::{Duration, Instant};

use journal::effect::{
    Consistency, DiskMode, OpenRepository, RepositoryAddress, Store, StoreDisk, ViewLimits, Way,
};
use journal::{CheckpointId, Effect, FailureClass, IntentId, PointId, Process, Time};
use machine::guest::Guest;
use machine::writer::Writer;
use machine::{Hands, MIB, QCOW2, Qemu, SIZE, UNLIMITED};

const VIEW: u64 = 5;

/// A storage daemon with two disks full of data, and whoever writes to them, at a pace that a file system of a few MiB
/// can be watched at.
async fn rig() -> (Qemu, Hands, tempfile::TempDir, Writer) {
    let qemu = Qemu::storage_daemon(&[QCOW2, QCOW2], true);
    qemu.connect().await.close().await;
    let disks: Vec<_> = (0..2).map(|n| qemu.path(&format!("fuse{n}"))).collect();
    for disk in &disks {
        // FUSE exports open for writing must not be truncated.
        let file = std::fs::File::options().write(true).open(disk).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &vec![255; usize::try_from(SIZE).unwrap()], 0)
            .unwrap();
    }
    let home = tempfile::tempdir().unwrap();
    let hands = Hands::new(home.path(), &qemu.path("qmp.sock"));
    (qemu, hands, home, Writer::paced(disks, vec![], Duration::from_millis(2)))
}

fn begin(hands: &Hands, process: Process, way: Way, limits: ViewLimits) -> Effect {
    hands.begin_by(way, limits, hands.checkpoint(process, 1, &[0, 1], None), &[0, 1], &[])
}

/// Waits until the view is gone; answers the most that its scratch files took on the way.
async fn until_given_up(hands: &mut Hands) -> u64 {
    let (mut most, deadline) = (0, Instant::now() + Duration::from_secs(60));
    loop {
        most = most.max(taken(&hands.folders.scratch_of(hands.vm.id)));
        let seen = hands.machine(2).await;
        if seen.nodes.is_empty() {
            assert!(seen.jobs.is_empty() && seen.exports.is_empty(), "{seen:?}");
            return most;
        }
        assert!(Instant::now() < deadline, "the view is still there: {seen:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn taken(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files
        .filter_map(|file| file.metadata().ok())
        .map(|it| std::os::unix::fs::MetadataExt::blocks(&it) * 512)
        .sum()
}

/// What the reader of a view is told that is there no more.
async fn why_lost(hands: &mut Hands, home: &Path, process: Process, way: Way) -> String {
    std::fs::write(home.join("password"), "correct horse").unwrap();
    let repository = RepositoryAddress {
        name: "vault".parse().unwrap(),
        path: home.join("vault").to_str().unwrap().to_owned(),
        password_file: home.join("password").to_str().unwrap().to_owned(),
        append_only: false,
        rates: Vec::new(),
    };
    let open = OpenRepository { repository: repository.clone(), chunk_bytes: 1 << 20 };
    hands.perform(80, Effect::OpenRepository(open)).await.done();
    let disk = |n: usize| StoreDisk {
        disk: format!("vd{n}").parse().unwrap(),
        size_bytes: SIZE,
        mode: DiskMode::Full { reason: "the first backup".into() },
        granularity_bytes: None,
    };
    let store = Store {
        vm: hands.vm.clone(),
        process,
        qemu: "10.0.2".into(),
        installation: machine::US,
        view: IntentId(VIEW),
        way,
        repository,
        point: PointId(1),
        instant: Time(1_790_000_000_000_000),
        checkpoint: CheckpointId(1),
        chain: vec![CheckpointId(1)],
        policy: None,
        consistency: Consistency::Crash,
        disks: vec![disk(0), disk(1)],
        left_out: vec![],
        audit_chunks: 0,
        bandwidth: None,
    };
    hands.perform(81, Effect::Store(Box::new(store))).await.failed(FailureClass::ViewLost)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_takes_more_than_it_may_is_given_up() {
    if !machine::fuse() {
        return;
    }
    let (_qemu, mut hands, home, writer) = rig().await;
    let process = hands.machine(2).await.process;
    let limits = ViewLimits { scratch_bytes: 12 * MIB, ..UNLIMITED };
    hands.perform(VIEW, begin(&hands, process, Way::BackupJob, limits)).await.done();
    let most = until_given_up(&mut hands).await;
    assert!(most > 2 * MIB && most < 20 * MIB, "{most}");
    writer.progress(200).await;
    let what = why_lost(&mut hands, home.path(), process, Way::BackupJob).await;
    assert!(what.contains("may take 12 MiB") && what.contains("`scratch` under `[limits]`"), "{what}");
    // The scratch space is free at once; only the reason waits for the end.
    assert_eq!(hands.machine(2).await.files.len(), 1);
    for _ in 0..2 {
        hands.perform(82, hands.end(process, VIEW, 2)).await.done();
        let seen = hands.assert_bare(2).await;
        assert_eq!(machine::bitmaps(&seen, 0), ["1+"], "the checkpoint stays");
    }
    writer.stop();
}

/// A full scratch file system fails the writes of a guest whose view is of the job's kind. So it never fills.
#[tokio::test(flavor = "multi_thread")]
async fn a_view_by_job_never_fills_its_file_system() {
    if !machine::fuse() {
        return;
    }
    let (_qemu, mut hands, home, writer) = rig().await;
    let Some(small) = machine::SmallStorage::mount(home.path(), "scratch", 24) else { return };
    let process = hands.machine(2).await.process;
    hands.perform(VIEW, begin(&hands, process, Way::BackupJob, UNLIMITED)).await.done();
    let mut least = small.free();
    while hands.folders.scratch_of(hands.vm.id).join(scratch_file(0)).exists() {
        least = least.min(small.free());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(least > MIB && least < 16 * MIB, "{least} bytes were free");
    until_given_up(&mut hands).await;
    writer.progress(200).await;
    let what = why_lost(&mut hands, home.path(), process, Way::BackupJob).await;
    assert!(what.contains("are left alone") && what.contains("a scratch folder with more room"), "{what}");
    // Had a write failed, this would tell.
    writer.stop();
    hands.perform(82, hands.end(process, VIEW, 2)).await.done();
}

fn scratch_file(disk: usize) -> String {
    journal::names::temporary(machine::US, IntentId(VIEW), disk, journal::names::Role::Scratch)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_agent_watches_on() {
    if !machine::fuse() {
        return;
    }
    let (qemu, mut hands, home, writer) = rig().await;
    let process = hands.machine(2).await.process;
    let limits = ViewLimits { scratch_bytes: 12 * MIB, ..UNLIMITED };
    // Nothing is written while the first agent is there.
    let log = writer.stop();
    hands.perform(VIEW, begin(&hands, process, Way::BackupJob, limits)).await.done();
    drop(hands);
    let disks = (0..2).map(|n| qemu.path(&format!("fuse{n}"))).collect();
    let writer = Writer::paced(disks, log, Duration::from_millis(2));
    let mut hands = Hands::new(home.path(), &qemu.path("qmp.sock"));
    until_given_up(&mut hands).await;
    writer.progress(100).await;
    let what = why_lost(&mut hands, home.path(), process, Way::BackupJob).await;
    assert!(what.contains("may take 12 MiB"), "{what}");
    writer.stop();
    hands.perform(82, hands.end(process, VIEW, 2)).await.done();
    hands.assert_bare(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filters_view_is_watched_as_well() {
    let Some(guest) = Guest::usual() else { return };
    guest.qemu.connect().await.close().await;
    let home = tempfile::tempdir().unwrap();
    let mut hands = Hands::new(home.path(), &guest.qemu.path("qmp.sock"));
    guest.progress(50).await;
    let process = hands.machine(2).await.process;
    let limits = ViewLimits { scratch_bytes: 4 * MIB, ..UNLIMITED };
    hands.perform(VIEW, begin(&hands, process, Way::CopyBeforeWrite, limits)).await.done();
    until_given_up(&mut hands).await;
    assert!(
        hands.machine(2).await.disks.iter().all(|disk| disk.no_filter.is_none()),
        "its disks are free again"
    );
    guest.progress(100).await;
    let what = why_lost(&mut hands, home.path(), process, Way::CopyBeforeWrite).await;
    assert!(what.contains("may take 4 MiB"), "{what}");
    hands.perform(82, hands.end(process, VIEW, 2)).await.done();
    hands.assert_bare(2).await;
    assert_eq!(guest.failed(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_does_not_begin_where_there_is_no_room() {
    let qemu = Qemu::storage_daemon(&[QCOW2, QCOW2], false);
    qemu.connect().await.close().await;
    let home = tempfile::tempdir().unwrap();
    let mut hands = Hands::new(home.path(), &qemu.path("qmp.sock"));
    let Some(small) = machine::SmallStorage::mount(home.path(), "scratch", 8) else { return };
    std::fs::write(home.path().join("scratch/others"), vec![1; 7 << 20]).unwrap();
    let process = hands.machine(2).await.process;
    let begin = begin(&hands, process, Way::BackupJob, UNLIMITED);
    let what = hands.perform(VIEW, begin).await.failed(FailureClass::Full);
    assert!(what.contains("1 MiB free") || what.contains("KiB free"), "{what}");
    assert!(machine::bitmaps(&hands.assert_bare(2).await, 0).is_empty());
    drop(small);
}

/// What nobody can guard a view by job from (decision 17): while its scratch storage hangs, so do writes, for longer than a
/// filter would let them; and they go on with it, none of them failed.
#[tokio::test(flavor = "multi_thread")]
async fn hung_scratch_storage_holds_up_whoever_writes_below_a_view_by_job() {
    if !machine::fuse() {
        return;
    }
    let Some(guest) = Guest::usual() else { return };
    guest.qemu.connect().await.close().await;
    let home = tempfile::tempdir().unwrap();
    let mut hands = Hands::new(home.path(), &guest.qemu.path("qmp.sock"));
    guest.progress(50).await;
    let process = hands.machine(2).await.process;
    let storage = machine::Stoppable::start(&guest.qemu, 2).await;
    let path = machine::path_to_slow_storage(&guest.qemu, home.path());
    let effect = begin(&hands, process, Way::BackupJob, UNLIMITED);
    machine::in_a_child(home.path(), &hands, &effect, None, &path).await;
    guest.progress(20).await;
    storage.stop();
    let (time, hangs) = (guest.time(), 3 * Duration::from_millis(UNLIMITED.stall_ms));
    tokio::time::sleep(hangs + Duration::from_secs(1)).await;
    let longest = time.stop();
    assert!(longest > hangs, "the longest wait was {longest:?}");
    storage.go_on();
    guest.progress(100).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    while !matches!(hands.look(&[]).await, journal::observation::VmSeen::Answering(_)) {
        assert!(Instant::now() < deadline);
    }
    hands.perform(82, hands.end(process, 50, 2)).await.done();
    hands.assert_bare(2).await;
    assert_eq!(guest.failed(), 0);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the agent that begins the view above and is gone; does nothing without it"]
async fn child() {
    machine::be_the_child().await;
}
