//! Images that come back: new ones and those in place, raw and qcow2, and everything that is refused.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod store_support;

use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::process::{Command, Stdio};

use journal::effect::{ImageFormat, RestoreTarget};
use journal::outcome::Stored;
use journal::{Done, Effect, FailureClass, Outcome};
use store_support::{Disk, GIB, KIB, MIB, SmallDisk, World, assert_same, installed, run};

const CHUNK: u32 = 64 << 10;

/// A world with one point of a disk of 20 MiB and a bit, of which 5 MiB are other than zero.
async fn world_with_a_point() -> (World, Disk, Stored) {
    let mut world = World::new(CHUNK).await;
    let disk = Disk::new(&world, 0, "vda", "qcow2", 20 * MIB + 512);
    disk.write_noise(1, 2 * MIB, 4 * MIB);
    disk.io(&["write -P 7 12M 1M", "write -P 0 14M 1M"]);
    let _view = world.serve(&[&disk]);
    let stored = world.stored(1, vec![disk.full()]).await;
    (world, disk, stored)
}

fn restored(done: &Done) -> u64 {
    match done {
        Done::Restored { written_bytes, verified: true } => *written_bytes,
        other => panic!("{other:?}"),
    }
}

/// The files beside the images that a test has made itself: a restore must leave none.
fn leftovers(world: &World) -> Vec<String> {
    let names = std::fs::read_dir(world.folder.path()).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains(".part")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_raw_image_is_sparse_and_the_same() {
    if !installed() {
        return;
    }
    let (mut world, disk, stored) = world_with_a_point().await;
    let path = world.path("new.raw");
    let restore = world.restore(&stored, "vda", disk.size, &path, ImageFormat::Raw);
    let intent = world.send(Effect::Restore(restore.clone())).await;
    let Outcome::Done(done) = world.outcome(intent).await else { panic!() };
    assert_eq!(restored(&done), 5 * MIB);
    assert_same(&path, &disk.raw());
    let allocated = std::fs::metadata(&path).unwrap().blocks() * 512;
    assert!(allocated < 6 * MIB, "{allocated} bytes are allocated");
    assert_eq!(leftovers(&world), [""; 0]);

    // The same intent finds its own work; any other finds a file in the way.
    world.send_as(intent, Effect::Restore(restore.clone())).await;
    assert_eq!(world.outcome(intent).await, Outcome::Done(done));
    let failure = world.failed(Effect::Restore(restore)).await;
    assert_eq!(failure.class, FailureClass::Invalid);
    assert!(failure.what.contains("exists and was left alone"), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_qcow2_image_is_sound_and_the_same() {
    if !installed() {
        return;
    }
    let (mut world, disk, stored) = world_with_a_point().await;
    // A name that QEMU's option syntax would take apart.
    let path = world.path("a,b=c:d.qcow2");
    let restore = world.restore(&stored, "vda", disk.size, &path, ImageFormat::Qcow2);
    assert_eq!(restored(&world.done(Effect::Restore(restore)).await), 5 * MIB);
    let image = path.to_str().unwrap();
    run("qemu-img", &["check", "-q", "-f", "qcow2", image]);
    run("qemu-img", &["compare", "-q", "-f", "qcow2", "-F", "qcow2", image, disk.image.to_str().unwrap()]);
    assert_eq!(leftovers(&world), [""; 0]);
    assert!(
        !std::fs::read_dir(world.path("run"))
            .unwrap()
            .any(|entry| { entry.unwrap().file_name().to_string_lossy().starts_with("restore") })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn in_place_only_what_differs_is_written() {
    if !installed() {
        return;
    }
    let (mut world, disk, stored) = world_with_a_point().await;
    let in_place = |world: &World, path: &Path, format| {
        let restore = world.restore(&stored, "vda", disk.size, path, format);
        Effect::Restore(journal::effect::Restore { target: RestoreTarget::InPlace, ..restore })
    };
    let raw = world.path("old.raw");
    std::fs::copy(disk.raw(), &raw).unwrap();
    let file = std::fs::File::options().write(true).open(&raw).unwrap();
    file.write_all_at(b"another", 3 * MIB + 100).unwrap();
    file.write_all_at(&[1], 18 * MIB).unwrap();
    file.write_all_at(&[1], disk.size - 1).unwrap();
    drop(file);
    let effect = in_place(&world, &raw, ImageFormat::Raw);
    assert_eq!(restored(&world.done(effect.clone()).await), 2 * u64::from(CHUNK) + 512);
    assert_same(&raw, &disk.raw());
    assert_eq!(restored(&world.done(effect).await), 0);

    let expected = disk.raw();
    let qcow2 = world.path("old.qcow2");
    std::fs::copy(&disk.image, &qcow2).unwrap();
    run("qemu-io", &["-c", "write -P 3 3M 4k", "-c", "write -P 3 18M 4k", qcow2.to_str().unwrap()]);
    let effect = in_place(&world, &qcow2, ImageFormat::Qcow2);
    assert_eq!(restored(&world.done(effect.clone()).await), 2 * u64::from(CHUNK));
    let (image, expected) = (qcow2.to_str().unwrap(), expected.to_str().unwrap());
    run("qemu-img", &["compare", "-q", "-f", "qcow2", "-F", "raw", image, expected]);

    // Of another size.
    for (path, format) in [(&raw, ImageFormat::Raw), (&qcow2, ImageFormat::Qcow2)] {
        let wrong = journal::effect::Restore {
            target: RestoreTarget::InPlace,
            ..world.restore(&stored, "vda", disk.size, path, format)
        };
        run("qemu-img", &["resize", "-q", "-f", name_of(format), path.to_str().unwrap(), "21M"]);
        let failure = world.failed(Effect::Restore(wrong)).await;
        assert_eq!(failure.class, FailureClass::Invalid, "{failure}");
        assert!(failure.what.contains("it has 22020096 bytes, the disk 20972032"), "{failure}");
    }
}

fn name_of(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Raw => "raw",
        ImageFormat::Qcow2 => "qcow2",
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_in_use_is_left_alone() {
    if !installed() {
        return;
    }
    let (mut world, disk, stored) = world_with_a_point().await;
    let raw = disk.raw();
    for (path, format) in [(&raw, ImageFormat::Raw), (&disk.image, ImageFormat::Qcow2)] {
        // qemu-io holds the image as a VM would, until its input ends.
        let mut user = Command::new("qemu-io")
            .args(["-f", name_of(format)])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut prompt = [0; 8];
        std::io::Read::read_exact(user.stdout.as_mut().unwrap(), &mut prompt).unwrap();
        let restore = world.restore(&stored, "vda", disk.size, path, format);
        let restore = journal::effect::Restore { target: RestoreTarget::InPlace, ..restore };
        let failure = world.failed(Effect::Restore(restore)).await;
        assert_eq!(failure.class, FailureClass::Invalid, "{failure}");
        assert!(failure.what.contains("cannot be restored in place"), "{failure}");
        drop(user.stdin.take());
        user.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_in_parts_comes_back_after_restic_has_pruned() {
    if !installed() {
        return;
    }
    let mut world = World::new(1 << 20).await;
    let disk = Disk::new(&world, 0, "big", "qcow2", 65 * GIB);
    disk.write_noise(1, 0, MIB);
    disk.write_noise(2, 64 * GIB + 5 * MIB, 2 * MIB);
    let view = world.serve(&[&disk]);
    let first = world.stored(1, vec![disk.full()]).await;
    drop(view);
    disk.write_noise(3, 0, MIB);
    let view = world.serve(&[&disk]);
    let second = world.stored(2, vec![disk.full()]).await;
    drop(view);
    world.restic(&["forget", &first.snapshot]);
    world.restic(&["prune", "--max-unused", "0"]);
    world.restic(&["tag", "--add", "touched", "latest"]);
    let listed: serde_json::Value = serde_json::from_str(&world.restic(&["snapshots", "--json"])).unwrap();
    let touched = Stored { snapshot: listed[0]["id"].as_str().unwrap().to_owned(), ..second.clone() };

    let path = world.path("big.qcow2.new");
    let restore = world.restore(&touched, "big", disk.size, &path, ImageFormat::Qcow2);
    assert_eq!(restored(&world.done(Effect::Restore(restore)).await), 3 * MIB);
    let (image, expected) = (path.to_str().unwrap(), disk.image.to_str().unwrap());
    run("qemu-img", &["compare", "-q", "-f", "qcow2", "-F", "qcow2", image, expected]);
    let raw = world.path("big.raw");
    let restore = world.restore(&touched, "big", disk.size, &raw, ImageFormat::Raw);
    assert_eq!(restored(&world.done(Effect::Restore(restore)).await), 3 * MIB);
    run("qemu-img", &["compare", "-q", "-f", "raw", "-F", "qcow2", raw.to_str().unwrap(), expected]);

    let restore = world.restore(&second, "big", disk.size, &world.path("gone"), ImageFormat::Raw);
    let failure = world.failed(Effect::Restore(restore)).await;
    assert_eq!(failure.class, FailureClass::Repository, "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_restored_leaves_nothing_behind() {
    if !installed() {
        return;
    }
    let (mut world, disk, stored) = world_with_a_point().await;
    let path = world.path("new.img");
    for format in [ImageFormat::Raw, ImageFormat::Qcow2] {
        let restore = world.restore(&stored, "vda", disk.size, &path, format);
        let intent = world.send(Effect::Restore(restore)).await;
        world.cancel(intent).await;
        match world.outcome(intent).await {
            Outcome::Failed(failure) => assert_eq!(failure.class, FailureClass::Cancelled, "{failure}"),
            Outcome::Done(done) => panic!("{done:?}"),
        }
        assert!(!path.exists() && leftovers(&world).is_empty(), "{:?}", leftovers(&world));
    }
    for (disk_name, size, what) in [("vdb", disk.size, "no disk vdb"), ("vda", MIB, "expected 1048576")] {
        let restore = world.restore(&stored, disk_name, size, &path, ImageFormat::Raw);
        let failure = world.failed(Effect::Restore(restore)).await;
        assert_eq!(failure.class, FailureClass::Invalid);
        assert!(failure.what.contains(what), "{failure}");
    }

    // One flipped bit in the largest pack.
    let mut packs = Vec::new();
    for folder in std::fs::read_dir(world.path("vault/data")).unwrap() {
        packs.extend(std::fs::read_dir(folder.unwrap().path()).unwrap().map(|entry| entry.unwrap().path()));
    }
    packs.sort_by_key(|pack| std::fs::metadata(pack).unwrap().len());
    let pack = packs.pop().unwrap();
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[200 * KIB as usize] ^= 1;
    std::fs::remove_file(&pack).unwrap();
    std::fs::write(&pack, bytes).unwrap();
    for format in [ImageFormat::Raw, ImageFormat::Qcow2] {
        let restore = world.restore(&stored, "vda", disk.size, &path, format);
        let failure = world.failed(Effect::Restore(restore)).await;
        assert_eq!(failure.class, FailureClass::Damaged, "{failure}");
        assert!(!path.exists() && leftovers(&world).is_empty(), "{:?}", leftovers(&world));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_too_small_says_so() {
    if !installed() {
        return;
    }
    let (mut world, disk, stored) = world_with_a_point().await;
    let Some(_small) = SmallDisk::mount(world.path("small"), "2m") else { return };
    for format in [ImageFormat::Raw, ImageFormat::Qcow2] {
        let restore = world.restore(&stored, "vda", disk.size, &world.path("small/image"), format);
        let failure = world.failed(Effect::Restore(restore)).await;
        assert_eq!(failure.class, FailureClass::Full, "{failure}");
        assert_eq!(std::fs::read_dir(world.path("small")).unwrap().count(), 0);
    }
}
