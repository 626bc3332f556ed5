//! A point is complete and proven, or it is not there: what goes wrong on the way, and what is said of it.
#![allow(clippy::unwrap_used)]

mod store_support;

use std::time::{Duration, Instant};

use journal::effect::{Bandwidth, Check, Forget, Limit, Prune, Rate};
use journal::{Done, Effect, FailureClass, Outcome, PointId};
use store_support::{Disk, MIB, SmallDisk, World, installed};

const CHUNK: u32 = 64 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_is_gone_or_does_not_fit_is_refused_with_the_reason() {
    if !installed() {
        return;
    }
    let mut world = World::new(CHUNK).await;
    let mut disk = Disk::new(&world, 0, "vda", "qcow2", 4 * MIB);
    disk.write_noise(1, 0, MIB);
    disk.record_changes(65536);
    let view = world.serve(&[&disk]);
    let full = world.stored(1, vec![disk.full()]).await;
    drop(view);
    disk.io(&["write -P 1 1M 64k"]);
    disk.freeze_changes();
    let view = world.serve(&[&disk]);

    let mut other = disk.since(1, &full);
    other.disk = "vdb".parse().unwrap();
    let failure = world.failed(world.store(2, vec![other])).await;
    assert_eq!(failure.class, FailureClass::Repository);
    assert!(
        failure.what.contains("vdb cannot be read incrementally from p1: it has no vdb.img"),
        "{failure}"
    );

    let forget = |world: &World, point| {
        let (repository, snapshot, reason) =
            (world.repository.clone(), full.snapshot.clone(), "test".to_owned());
        Effect::Forget(Forget { repository, point: PointId(point), snapshot, reason })
    };
    let failure = world.failed(forget(&world, 2)).await;
    assert_eq!(failure.class, FailureClass::Invalid, "another point's snapshot: {failure}");
    for _ in 0..2 {
        assert_eq!(world.done(forget(&world, 1)).await, Done::Plain);
    }
    let failure = world.failed(world.store(2, vec![disk.since(1, &full)])).await;
    assert_eq!(failure.class, FailureClass::Repository);
    assert!(failure.what.contains("is no longer in the repository; back it up in full"), "{failure}");
    drop(view);
    assert_eq!(world.snapshots(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_by_a_clock_that_is_unknown_here_are_refused_and_others_hold_for_what_is_stored() {
    if !installed() {
        return;
    }
    let mut world = World::new(CHUNK).await;
    let disk = Disk::new(&world, 0, "vda", "qcow2", 4 * MIB);
    disk.write_noise(1, 0, MIB);
    let view = world.serve(&[&disk]);
    let rate = Rate { from_minute: 0, to_minute: 0, bytes_per_second: 512 << 10 };
    let by =
        |zone: &str| Bandwidth { time_zone: zone.into(), limits: vec![Limit { days: 0b111_1111, rate }] };
    world.bandwidth = Some(by("Mars/Olympus_Mons"));
    let failure = world.failed(world.store(1, vec![disk.full()])).await;
    assert_eq!(failure.class, FailureClass::Invalid);
    assert!(failure.what.contains("`Mars/Olympus_Mons` is not a time zone that is known here"), "{failure}");
    world.bandwidth = Some(by("Asia/Kathmandu"));
    let begun = Instant::now();
    let stored = world.stored(1, vec![disk.full()]).await;
    let bytes: u64 = stored.disks.iter().map(|disk| disk.stored_bytes).sum();
    assert!(bytes >= MIB, "noise does not compress: {bytes}");
    let least = Duration::from_secs_f64(bytes as f64 / rate.bytes_per_second as f64);
    assert!(begun.elapsed() >= least, "{bytes} bytes took {:?}, not {least:?}", begun.elapsed());
    // What is known already costs nothing: it would take as long again.
    let again = world.stored(2, vec![disk.full()]).await;
    assert_eq!(again.disks[0].stored_bytes, 0);
    drop(view);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_was_resized_is_refused() {
    if !installed() {
        return;
    }
    let mut world = World::new(CHUNK).await;
    let mut disk = Disk::new(&world, 0, "vda", "qcow2", 4 * MIB);
    disk.write_noise(1, 0, MIB);
    let view = world.serve(&[&disk]);
    let full = world.stored(1, vec![disk.full()]).await;
    disk.size = 5 * MIB;
    let failure = world.failed(world.store(2, vec![disk.full()])).await;
    assert_eq!(failure.class, FailureClass::Invalid, "{failure}");
    drop(view);

    disk.record_changes(65536);
    disk.freeze_changes();
    store_support::run("qemu-img", &["resize", "-q", disk.image.to_str().unwrap(), "5M"]);
    let _view = world.serve(&[&disk]);
    let failure = world.failed(world.store(2, vec![disk.since(1, &full)])).await;
    assert_eq!(failure.class, FailureClass::Repository);
    assert!(failure.what.contains("its disk has 4194304 bytes, this one 5242880"), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_is_lost_halfway_leaves_no_point() {
    if !installed() {
        return;
    }
    let mut world = World::new(CHUNK).await;
    let disk = Disk::new(&world, 0, "vda", "raw", 64 * MIB);
    disk.write_noise(1, 0, 64 * MIB);

    let failure = world.failed(world.store(1, vec![disk.full()])).await;
    assert_eq!(failure.class, FailureClass::ViewLost, "there is none: {failure}");

    let mut view = world.serve_slowly(&[&disk], 8 * MIB);
    let intent = world.send(world.store(1, vec![disk.full()])).await;
    world.progress(intent).await;
    view.kill();
    match world.outcome(intent).await {
        Outcome::Failed(failure) => assert_eq!(failure.class, FailureClass::ViewLost, "{failure}"),
        Outcome::Done(done) => panic!("{done:?}"),
    }
    let view = world.serve_with_a_bad_sector(&[&disk], 40 << 11);
    let failure = world.failed(world.store(1, vec![disk.full()])).await;
    // QEMU hangs up when a read fails in the middle of its answer, so the reason is in its log only.
    assert_eq!(failure.class, FailureClass::ViewLost);
    assert!(failure.what.contains("the view of vda cannot be read"), "{failure}");
    drop(view);
    assert_eq!(world.snapshots(), 0);

    // What is left of it is in nobody's way.
    let _view = world.serve(&[&disk]);
    world.stored(1, vec![disk.full()]).await;
    world.assert_dump_is("/vda.img", &disk.raw());
    let done = world.done(Effect::Prune(Prune { repository: world.repository.clone() })).await;
    assert!(matches!(done, Done::Pruned { .. }), "{done:?}");
    let done =
        world.done(Effect::Check(Check { repository: world.repository.clone(), read_percent: 100 })).await;
    assert_eq!(done, Done::Checked { problems: Vec::new() });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_store_stops_at_once_and_lets_go_of_the_repository() {
    if !installed() {
        return;
    }
    let mut world = World::new(CHUNK).await;
    let disk = Disk::new(&world, 0, "vda", "raw", 64 * MIB);
    disk.write_noise(1, 0, 64 * MIB);
    let _view = world.serve_slowly(&[&disk], 8 * MIB);
    let intent = world.send(world.store(1, vec![disk.full()])).await;
    world.progress(intent).await;
    let start = Instant::now();
    world.cancel(intent).await;
    match world.outcome(intent).await {
        Outcome::Failed(failure) => assert_eq!(failure.class, FailureClass::Cancelled, "{failure}"),
        Outcome::Done(done) => panic!("{done:?}"),
    }
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert_eq!(std::fs::read_dir(world.path("vault/locks")).unwrap().count(), 0, "no lock is left");
    assert_eq!(world.snapshots(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_repository_says_so_and_keeps_what_it_has() {
    if !installed() {
        return;
    }
    let mut world = World::empty();
    let Some(_small) = SmallDisk::mount(world.path("vault"), "24m") else { return };
    world.done(world.open_repository(CHUNK)).await;
    let disk = Disk::new(&world, 0, "vda", "raw", 64 * MIB);
    disk.write_noise(1, 0, 2 * MIB);
    let view = world.serve(&[&disk]);
    world.stored(1, vec![disk.full()]).await;
    drop(view);
    let before = disk.raw();
    let kept = world.path("kept");
    std::fs::rename(before, &kept).unwrap();

    disk.write_noise(2, 0, 64 * MIB);
    let _view = world.serve(&[&disk]);
    let failure = world.failed(world.store(2, vec![disk.full()])).await;
    assert_eq!(failure.class, FailureClass::Full, "{failure}");
    assert_eq!(world.snapshots(), 1);
    world.done(Effect::Prune(Prune { repository: world.repository.clone() })).await;
    world.assert_dump_is("/vda.img", &kept);
}

#[tokio::test(flavor = "multi_thread")]
async fn repositories_that_do_not_open_are_told_apart() {
    if !installed() {
        return;
    }
    let mut world = World::empty();
    let check =
        |world: &World| Effect::Check(Check { repository: world.repository.clone(), read_percent: 0 });
    let failure = world.failed(check(&world)).await;
    assert_eq!(failure.class, FailureClass::Repository);
    assert!(failure.what.contains("there is no repository at"), "{failure}");

    let vault = world.path("vault");
    std::fs::create_dir(&vault).unwrap();
    std::fs::write(vault.join("holiday.jpg"), "").unwrap();
    let failure = world.failed(world.open_repository(CHUNK)).await;
    assert_eq!(failure.class, FailureClass::Repository);
    assert!(failure.what.contains("it holds holiday.jpg"), "{failure}");
    std::fs::remove_file(vault.join("holiday.jpg")).unwrap();

    let failure = world.failed(world.open_repository(1000)).await;
    assert_eq!(failure.class, FailureClass::Invalid, "{failure}");
    let opened = world.done(world.open_repository(CHUNK)).await;
    let Done::Opened { id, created: true, chunk_bytes: CHUNK } = opened else { panic!("{opened:?}") };
    // One that is there keeps its chunk size, whatever is wished now.
    let again = world.done(world.open_repository(2 * CHUNK)).await;
    assert_eq!(again, Done::Opened { id, created: false, chunk_bytes: CHUNK });
    assert_eq!(world.done(check(&world)).await, Done::Checked { problems: Vec::new() });

    // Another password takes effect at once, although the repository is open.
    std::fs::write(world.path("password"), "wrong\n").unwrap();
    let failure = world.failed(check(&world)).await;
    assert_eq!(failure.class, FailureClass::Repository);
    assert!(failure.what.contains("wrong password"), "{failure}");
    std::fs::write(world.path("password"), "").unwrap();
    assert!(world.failed(check(&world)).await.what.contains("its first line is empty"));
    std::fs::write(world.path("password"), "correct horse\r\n").unwrap();
    world.done(check(&world)).await;

    // Another repository at the same place is another one.
    std::fs::remove_dir_all(&vault).unwrap();
    assert!(world.failed(check(&world)).await.what.contains("there is no repository at"));
    world.done(world.open_repository(CHUNK)).await;
    assert_eq!(world.snapshots(), 0);
}
