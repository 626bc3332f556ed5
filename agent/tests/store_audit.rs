//! The audit: changes that the map of changes lacks, planted where it is read, and what a store makes of them.
#![allow(clippy::unwrap_used)]

mod store_support;

use journal::effect::Forget;
use journal::outcome::{Stored, StoredDisk};
use journal::{Done, Effect, IntentId, Outcome, PointId};
use store_support::{Disk, GIB, KIB, MIB, World, installed};

const CHUNK: u32 = 64 << 10;

fn proof(world: &World) -> serde_json::Value {
    serde_json::from_str(&world.dump("/backstay.json")).unwrap()
}

/// A disk of 4 MiB of noise and as much of nothing, and its full point.
async fn begun(world: &mut World) -> (Disk, Stored) {
    let disk = Disk::new(world, 0, "vda", "qcow2", 8 * MIB + 512);
    disk.write_noise(1, 0, 4 * MIB);
    let _view = world.serve(&[&disk]);
    let full = world.stored(1, vec![disk.full()]).await;
    (disk, full)
}

/// The point after it: what `unseen` does is not recorded, a change of one chunk is.
async fn continued(world: &mut World, disk: &mut Disk, full: &Stored, unseen: &[&str]) -> StoredDisk {
    disk.io(unseen);
    disk.record_changes(64 * KIB);
    disk.io(&["write -P 9 1M 4k"]);
    disk.freeze_changes();
    let _view = world.serve(&[disk]);
    world.stored(2, vec![disk.since(1, full)]).await.disks.remove(0)
}

/// Whether this disk was read whole because of what was planted, and is what it should be.
fn assert_distrusted(world: &World, disk: &Disk, stored: &StoredDisk, why: &str) {
    assert_eq!(stored.distrust.as_deref(), Some(why));
    assert!(stored.read_bytes > 3 * MIB, "it is read whole: {stored:?}");
    let proof = proof(world);
    assert_eq!(proof["disks"][0]["mode"], "full");
    assert_eq!(proof["disks"][0]["reason"], why);
    assert_eq!(proof["disks"][0]["distrust"], why);
    assert_eq!(proof["disks"][0].get("parent_snapshot"), None);
    assert_eq!(proof["disks"][0]["audited_chunks"], stored.audited_chunks);
    let snapshots: serde_json::Value =
        serde_json::from_str(&world.restic(&["snapshots", "--json", "latest"])).unwrap();
    assert_eq!(snapshots[0].get("parent"), None, "restic's hint would be wrong");
    world.assert_dump_is("/vda.img", &disk.raw());
    world.restic(&["check", "--read-data"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bitmap_that_is_right_is_believed() {
    if !installed() {
        return;
    }
    let mut world = World::new(CHUNK).await;
    world.audit_chunks = 16;
    let (mut disk, full) = begun(&mut world).await;
    assert_eq!((full.disks[0].audited_chunks, &full.disks[0].distrust), (0, &None));
    let stored = continued(&mut world, &mut disk, &full, &[]).await;
    assert_eq!((stored.audited_chunks, &stored.distrust), (16, &None));
    assert_eq!((stored.changed_bytes, stored.read_bytes), (64 * KIB, 64 * KIB), "the point's own cost");
    let proof = proof(&world);
    assert_eq!(proof["disks"][0]["mode"], "incremental");
    assert_eq!(proof["disks"][0]["audited_chunks"], 16);
    assert_eq!(proof["disks"][0]["granularity"], 64 * KIB);
    assert_eq!(proof["disks"][0].get("distrust"), None);
    assert_eq!((&proof["way"], &proof["qemu"]), (&"copy-before-write".into(), &"10.0.2".into()));
    world.assert_dump_is("/vda.img", &disk.raw());
    world.restic(&["check", "--read-data"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_the_bitmap_missed_makes_the_disk_full() {
    if !installed() {
        return;
    }
    let mut world = World::new(CHUNK).await;
    // More than there are: all 128 clean chunks of 129 are looked at, even the last one of one sector.
    world.audit_chunks = 1000;
    let (mut disk, full) = begun(&mut world).await;
    let unseen = ["write -P 3 3M 512", "write -P 3 2M 512"];
    let stored = continued(&mut world, &mut disk, &full, &unseen).await;
    assert_eq!(stored.audited_chunks, 128);
    let why = "the 65536 bytes at 2097152 differ from p1 although the bitmap calls them clean \
               (differing: 2 of 128 sampled chunks)";
    assert_distrusted(&world, &disk, &stored, why);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_that_got_data_and_data_that_became_a_hole_are_found() {
    if !installed() {
        return;
    }
    let missed = [
        ("write -P 3 8M 512", "the 512 bytes at 8388608"),
        ("write -P 3 6M 64k", "the 65536 bytes at 6291456"),
        ("write -z 2M 64k", "the 65536 bytes at 2097152"),
        // What is gone reads as zeros: the same as the zeros that are written below.
        ("discard 2M 64k", "the 65536 bytes at 2097152"),
    ];
    for (unseen, place) in missed {
        let mut world = World::new(CHUNK).await;
        world.audit_chunks = 1000;
        let (mut disk, full) = begun(&mut world).await;
        // Written zeros are as good as a hole, in either direction.
        let stored = continued(&mut world, &mut disk, &full, &["write -P 0 5M 128k", unseen]).await;
        let why = format!(
            "{place} differ from p1 although the bitmap calls them clean (differing: 1 of 128 sampled chunks)"
        );
        assert_distrusted(&world, &disk, &stored, &why);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_audit_nothing_is_looked_at() {
    if !installed() {
        return;
    }
    let mut world = World::new(CHUNK).await;
    let (mut disk, full) = begun(&mut world).await;
    let stored = continued(&mut world, &mut disk, &full, &["write -P 3 2M 512"]).await;
    assert_eq!((stored.audited_chunks, stored.distrust), (0, None));
    assert_eq!(proof(&world)["disks"][0]["mode"], "incremental");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_store_samples_the_same_and_answers_the_same() {
    if !installed() {
        return;
    }
    let mut world = World::new(CHUNK).await;
    world.audit_chunks = 4;
    let (mut disk, full) = begun(&mut world).await;
    // Everything that was there is another: whatever is sampled of the data differs, so its place shows the sample.
    disk.write_noise(2, 0, 4 * MIB);
    disk.record_changes(64 * KIB);
    disk.freeze_changes();
    let mut view = Some(world.serve(&[&disk]));
    let effect = world.store(2, vec![disk.since(1, &full)]);
    let mut answers = Vec::new();
    for intent in [500, 500, 501] {
        world.send_as(IntentId(intent), effect.clone()).await;
        let Outcome::Done(Done::Stored(stored)) = world.outcome(IntentId(intent)).await else { panic!() };
        assert_eq!(stored.disks[0].audited_chunks, 4);
        if intent == 501 {
            // Committed already: the view is gone, and is not needed.
            drop(view.take());
            world.send_as(IntentId(intent), effect.clone()).await;
            let again = world.outcome(IntentId(intent)).await;
            assert_eq!(again, Outcome::Done(Done::Stored(stored.clone())));
        } else {
            // Whoever repeats it after this finds nothing and does it all again.
            let (repository, snapshot) = (world.repository.clone(), stored.snapshot.clone());
            let (point, reason) = (PointId(2), "test".to_owned());
            world.done(Effect::Forget(Forget { repository, point, snapshot, reason })).await;
        }
        answers.push(stored.disks[0].distrust.clone().unwrap());
    }
    assert!(answers[0].ends_with("(differing: 3 of 4 sampled chunks)"), "{answers:?}");
    assert_eq!(answers[0], answers[1], "one intent, one sample");
    assert_ne!(answers[0], answers[2], "another intent, another sample");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_disk_that_is_wrong_becomes_full() {
    if !installed() {
        return;
    }
    let mut world = World::new(CHUNK).await;
    world.audit_chunks = 1000;
    let mut disks = ["vda", "vdb"].map(|name| {
        let place = usize::from(name == "vdb");
        let disk = Disk::new(&world, place, name, "qcow2", 2 * MIB);
        disk.write_noise(1, 0, MIB);
        disk
    });
    let view = world.serve(&[&disks[0], &disks[1]]);
    let full = world.stored(1, disks.iter().map(Disk::full).collect()).await;
    drop(view);
    disks[0].io(&["write -P 3 512k 512"]);
    for disk in &mut disks {
        disk.record_changes(64 * KIB);
        disk.freeze_changes();
    }
    let view = world.serve(&[&disks[0], &disks[1]]);
    let stored = world.stored(2, disks.iter().map(|disk| disk.since(1, &full)).collect()).await;
    drop(view);
    let distrusted = stored.disks.iter().map(|disk| disk.distrust.is_some()).collect::<Vec<_>>();
    assert_eq!(distrusted, [true, false]);
    let snapshots: serde_json::Value =
        serde_json::from_str(&world.restic(&["snapshots", "--json", "latest"])).unwrap();
    assert_eq!(snapshots[0]["parent"], full.snapshot.as_str(), "the other disk still has it");
    let proof = proof(&world);
    assert_eq!(
        (&proof["disks"][0]["mode"], &proof["disks"][1]["mode"]),
        (&"full".into(), &"incremental".into())
    );
    for disk in &disks {
        world.assert_dump_is(&format!("/{}.img", disk.name), &disk.raw());
    }
    world.restic(&["check", "--read-data"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_few_data_of_a_large_disk_in_parts_are_found() {
    if !installed() {
        return;
    }
    let mut world = World::new(1 << 20).await;
    world.audit_chunks = 64;
    let mut disk = Disk::new(&world, 0, "big", "qcow2", 65 * GIB + 4096);
    disk.write_noise(1, 0, MIB);
    disk.write_noise(2, 64 * GIB + 5 * MIB, 2 * MIB);
    disk.io(&[&format!("write -P 5 {} 4096", 65 * GIB)]);
    let view = world.serve(&[&disk]);
    let full = world.stored(1, vec![disk.full()]).await;
    drop(view);

    disk.record_changes(64 * KIB);
    disk.freeze_changes();
    let view = world.serve(&[&disk]);
    let sound = world.stored(2, vec![disk.since(1, &full)]).await.disks.remove(0);
    drop(view);
    assert_eq!((sound.audited_chunks, sound.distrust), (64, None));

    disk.io(&[&format!("write -P 6 {} 512", 65 * GIB)]);
    disk.record_changes(64 * KIB);
    disk.freeze_changes();
    let view = world.serve(&[&disk]);
    let wrong = world.stored(3, vec![disk.since(1, &full)]).await.disks.remove(0);
    drop(view);
    let why = "the 4096 bytes at 69793218560 differ from p1 although the bitmap calls them clean \
               (differing: 1 of 64 sampled chunks)";
    assert_eq!(wrong.distrust.as_deref(), Some(why));
    assert_eq!(proof(&world)["disks"][0]["mode"], "full");
    world.restic(&["check", "--read-data"]);
}
