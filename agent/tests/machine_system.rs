//! Looking at, and viewing, the disks of a real qemu-system-x86_64 whose processors never start: device names,
//! iothreads, drives without a medium, and the filter that a view puts on top.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod machine;

use std::process::{Command, Stdio};

use journal::effect::{AddCheckpoint, Begin, Lasts, Mark, ViewDisk, Way};
use journal::observation::{DiskSeen, Machine, VmSeen};
use journal::{CheckpointId, Effect};
use machine::{Hands, Qemu, SIZE, US};

const UUID: &str = "6d5a3c1e-0000-4000-8000-00000000beef";

fn start() -> Option<Qemu> {
    if !machine::which("qemu-system-x86_64") {
        let message = "SKIPPED: qemu-system-x86_64 is not installed (Debian: qemu-system-x86)";
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{message}; under CI it must be");
        eprintln!("{message}");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = |name: &str, format: &str| {
        let path = folder.path().join(name).to_str().unwrap().to_owned();
        machine::run("qemu-img", &["create", "-q", "-f", format, &path, &SIZE.to_string()]);
        path
    };
    let old = folder.path().join("old").to_str().unwrap().to_owned();
    machine::run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", "compat=0.10", &old, &SIZE.to_string()]);
    let blockdev = |node: &str, format: &str, more: &str| {
        format!(
            "driver={format},node-name={node},file.driver=file,file.filename={}{more}",
            image(node, format)
        )
    };
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args("-S -display none -nodefaults -machine q35,accel=tcg -m 64 -object iothread,id=io0".split(' '));
    command.args(["-uuid", UUID, "-qmp"]);
    command.arg(format!("unix:{},server=on,wait=off", folder.path().join("qmp.sock").display()));
    command.args(["-drive", &format!("if=none,id=drv0,file={},format=qcow2", image("d0", "qcow2"))]);
    command.args(["-device", "virtio-blk-pci,drive=drv0,id=virtio0,iothread=io0"]);
    command.args(["-blockdev", &blockdev("plain", "raw", ""), "-device", "virtio-blk-pci,drive=plain"]);
    command.args(["-device", "virtio-scsi-pci,id=scsi0,iothread=io0"]);
    command.args([
        "-blockdev",
        &blockdev("ro", "qcow2", ",read-only=on"),
        "-device",
        "scsi-hd,drive=ro,id=sd0",
    ]);
    command.args(["-device", "scsi-cd,id=cd0"]);
    command.args(["-drive", &format!("if=virtio,file={old},format=qcow2")]);
    let child = command.stdin(Stdio::null()).spawn().unwrap();
    Some(Qemu { child, folder })
}

async fn look(hands: &mut Hands, disks: &[(&str, &str)]) -> Machine {
    match hands.look(disks).await {
        VmSeen::Answering(machine) => *machine,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_are_found_by_themselves_and_under_a_view_too() {
    let Some(qemu) = start() else { return };
    qemu.connect().await.close().await;
    let home = tempfile::tempdir().unwrap();
    let mut hands = Hands::new(home.path(), &qemu.path("qmp.sock"));
    let seen = look(&mut hands, &[]).await;
    assert_eq!(seen.uuid, Some(UUID.parse().unwrap()));
    assert_eq!(seen.process.pid, qemu.child.id());
    assert!(seen.version.split('.').count() == 3, "{}", seen.version);
    let facts: Vec<_> = seen
        .disks
        .iter()
        .map(|d| (d.disk.as_str(), d.format.as_str(), d.stores_bitmaps, d.read_only, d.iothread.as_deref()))
        .collect();
    // The empty CD drive is none of them; a disk without an id goes by its drive's or its node's name.
    assert_eq!(
        facts,
        [
            ("virtio0", "qcow2", true, false, Some("io0")),
            ("plain", "raw", false, false, None),
            ("sd0", "qcow2", false, true, Some("io0")),
        ],
        "the anonymous drive is called virtio0 too: {:?}",
        seen.unusable
    );
    assert_eq!(seen.unusable.len(), 1);

    let own = seen.disks.clone();

    // A node, a drive's id, a device's id; and what cannot be.
    let named = [("a", "plain"), ("b", "drv0"), ("c", "sd0"), ("d", "nowhere"), ("e", "cd0")];
    let seen = look(&mut hands, &named).await;
    let nodes: Vec<_> = seen.disks.iter().map(|d| (d.disk.as_str(), d.node.as_str())).collect();
    assert_eq!((nodes[0], nodes[2]), (("a", "plain"), ("c", "ro")));
    assert!(nodes[1].1.starts_with("#block"), "{nodes:?}");
    assert_eq!(seen.unusable.len(), 2, "{:?}", seen.unusable);

    // A view of all of them, named by QEMU itself where need be. Older QEMUs abort when an iothread is in it.
    let iothreads_are_safe = seen.version.split('.').next().unwrap().parse::<u32>().unwrap() >= 10;
    let readers = |disk: &DiskSeen| disk.takes_reader == (iothreads_are_safe || disk.iothread.is_none());
    assert!(seen.disks.iter().all(readers), "{seen:?}");
    // Filters are put in there as well.
    let says = |disk: &DiskSeen| disk.no_filter.as_ref().is_none_or(|why| why.contains("iothread io0"));
    let filters = |disk: &DiskSeen| disk.takes_reader == disk.no_filter.is_none() && says(disk);
    assert!(own.iter().all(filters), "{own:?}");
    let mut viewed = seen.disks.clone();
    if !iothreads_are_safe {
        let what =
            hands.perform(1, begin(&hands, &seen, &viewed)).await.failed(journal::FailureClass::Refused);
        assert!(what.contains("io0") && what.contains("10.0"), "{what}");
        viewed.retain(|disk| disk.iothread.is_none());
    }
    hands.perform(1, begin(&hands, &seen, &viewed)).await.done();
    let under = look(&mut hands, &named).await;
    for (was, is) in seen.disks.iter().zip(&under.disks) {
        assert_eq!((&was.node, was.read_only, &was.iothread), (&is.node, is.read_only, &is.iothread));
    }
    let found = look(&mut hands, &[]).await;
    assert!(found.disks.iter().any(|disk| disk.node == "plain"), "seen through the filter: {found:?}");
    for disk in 0..viewed.len() {
        assert_eq!(hands.read(1, disk, &home.path().join("read")).await.len() as u64, SIZE);
    }
    hands.perform(2, hands.end(seen.process, 1, viewed.len())).await.done();
    let after = look(&mut hands, &named).await;
    assert!(
        after.jobs.is_empty() && after.exports.is_empty() && after.nodes.is_empty() && after.files.is_empty()
    );
    assert_eq!(after.disks[0].bitmaps.len(), 1);
    assert!(!hands.nbd_socket().exists());
}

/// A view of these disks, with a checkpoint of those that can have one.
fn begin(hands: &Hands, seen: &Machine, disks: &[DiskSeen]) -> Effect {
    let marks = disks.iter().filter(|disk| !disk.read_only).map(|disk| Mark {
        disk: disk.disk.clone(),
        node: disk.node.clone(),
        bitmap: machine::bitmap(1),
        backing: disk.backing.clone(),
        size_bytes: disk.size_bytes,
        lasts: if disk.stores_bitmaps { Lasts::Persistent } else { Lasts::WithProcess },
        disable: vec![],
    });
    let checkpoint = AddCheckpoint {
        vm: hands.vm.clone(),
        process: seen.process,
        installation: US,
        checkpoint: CheckpointId(1),
        disks: marks.collect(),
    };
    let views = disks.iter().map(|disk| ViewDisk {
        disk: disk.disk.clone(),
        node: disk.node.clone(),
        size_bytes: disk.size_bytes,
        changed_since: vec![],
    });
    Effect::Begin(Begin {
        checkpoint,
        disks: views.collect(),
        way: Way::BackupJob,
        limits: machine::UNLIMITED,
        unit_bytes: Some(machine::UNIT),
    })
}

/// What lies below an image is told, with what would change with it; and a bitmap that an outside snapshot has left there.
#[tokio::test(flavor = "multi_thread")]
async fn what_lies_below_a_disk_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    machine::run("qemu-img", &["create", "-q", "-f", "raw", &at("ground"), &SIZE.to_string()]);
    machine::run("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "raw", "-b", &at("ground"), &at("base")]);
    let data = format!("data_file={},data_file_raw=on", at("data"));
    machine::run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &data, &at("plain"), &SIZE.to_string()]);
    machine::run("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &at("base"), &at("top")]);
    let mut command = Command::new("qemu-storage-daemon");
    for name in ["top", "plain"] {
        let blockdev = format!("driver=qcow2,node-name={name},file.driver=file,file.filename={}", at(name));
        command.args(["--blockdev", &blockdev]);
    }
    command.args(["--chardev", &format!("socket,id=m,path={},server=on,wait=off", at("qmp.sock"))]);
    command.args(["--monitor", "chardev=m"]);
    let qemu = Qemu { child: command.stdin(Stdio::null()).spawn().unwrap(), folder };
    let qmp = qemu.connect().await;
    let add = agent::qmp::BitmapAdd { node: "top".into(), name: machine::bitmap(3), ..Default::default() };
    qmp.apply(&agent::qmp::Action::BitmapAdd(add)).await.unwrap();
    qmp.close().await;
    let home = tempfile::tempdir().unwrap();
    let mut hands = Hands::new(home.path(), &qemu.path("qmp.sock"));
    let disks = [("a", "top"), ("b", "plain")];
    let seen = look(&mut hands, &disks).await;
    let backing: Vec<&str> = seen.disks[0].backing.lines().collect();
    let path = |name: &str| qemu.path(name).to_str().unwrap().to_owned();
    assert!(backing.len() == 2 && backing[0].starts_with(&path("base")), "{backing:?}");
    assert!(backing[1].starts_with(&path("ground")) && backing[1].contains("16777216 bytes"), "{backing:?}");
    assert_eq!(seen.disks[1].backing, "", "its data file is written");
    assert!(seen.disks.iter().all(|disk| disk.no_filter.is_some() && disk.below.is_empty()));
    assert_eq!(look(&mut hands, &disks).await.disks[0].backing, seen.disks[0].backing, "it does not move");

    // Somebody writes below it.
    std::fs::write(qemu.path("ground"), vec![1; usize::try_from(SIZE).unwrap()]).unwrap();
    let changed = look(&mut hands, &disks).await;
    let lines: Vec<&str> = changed.disks[0].backing.lines().collect();
    assert!(lines[0] == backing[0] && lines[1] != backing[1], "{lines:?}");

    // Somebody puts a new image on top.
    let overlay = path("overlay");
    machine::run("qemu-img", &["create", "-q", "-f", "qcow2", &overlay, &SIZE.to_string()]);
    let qmp = qemu.connect().await;
    let add = serde_json::json!({"driver": "qcow2", "node-name": "overlay", "backing": null,
        "file": {"driver": "file", "filename": overlay}});
    qmp.blockdev_add(add).await.unwrap();
    let snapshot = agent::qmp::Snapshot { node: "top".into(), overlay: "overlay".into() };
    qmp.apply(&agent::qmp::Action::Snapshot(snapshot)).await.unwrap();
    qmp.close().await;
    let seen = look(&mut hands, &[("a", "overlay")]).await;
    assert_eq!(seen.disks[0].below, [machine::bitmap(3)]);
    assert_eq!(seen.disks[0].backing.lines().count(), 3, "{}", seen.disks[0].backing);
}
