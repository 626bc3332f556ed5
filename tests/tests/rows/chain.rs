//! The chain's bitmaps, and what somebody, or QEMU's end, did to them.

use serde_json::json;
use tests::lab::{Lab, PATIENCE, tool};
use tests::process::run;
use tests::site::Site;

use crate::devices::{Devices, fill, modes, names};
use crate::scene::{SIZE, must_be_found, next_backup_finds, ours, site};

pub fn tracked() {
    must_be_found(&site().backstay, "tracked");
}

/// Somebody enables a bitmap that had stopped.
pub fn tracked_twice() {
    let mut site = site();
    site.backstay.ok(&["checkpoint", "create", "vm"]);
    let mut qmp = site.qsd.look();
    let (_, older) = ours(&mut qmp, "disk0");
    qmp.ok("block-dirty-bitmap-enable", json!({ "node": "disk0", "name": older[0] }));
    drop(qmp);
    must_be_found(&site.backstay, "tracked-twice");
    site.next_must_be_incremental();
}

/// QEMU stored its bitmaps, was started again, and killed.
pub fn inconsistent() {
    let mut site = site();
    site.restart_qemu();
    site.kill_qemu();
    site.revive_qemu();
    must_be_found(&site.backstay, "inconsistent");
    full_once(&mut site, "inconsistent");
}

pub fn not_recording() {
    let mut site = site();
    let mut qmp = site.qsd.look();
    let (newest, _) = ours(&mut qmp, "disk0");
    qmp.ok("block-dirty-bitmap-disable", json!({ "node": "disk0", "name": newest }));
    drop(qmp);
    full_once(&mut site, "not-recording");
}

pub fn missing_same_process() {
    let mut site = site();
    let mut qmp = site.qsd.look();
    let (newest, _) = ours(&mut qmp, "disk0");
    qmp.remove_bitmap("disk0", &newest);
    drop(qmp);
    full_once(&mut site, "missing-same-process");
}

/// QEMU was killed, and had never stored them.
pub fn missing_new_process() {
    let mut site = site();
    site.kill_qemu();
    site.revive_qemu();
    full_once(&mut site, "missing-new-process");
}

/// The next backup finds the row; the one after it is incremental again, and right.
#[track_caller]
fn full_once(site: &mut Site, row: &str) {
    next_backup_finds(&site.backstay, row);
    site.must_hold();
    site.next_must_be_incremental();
}

/// Somebody takes an external snapshot.
pub fn outside_snapshot() {
    let lab = Lab::new();
    let disk = lab.qcow2("disk.qcow2", SIZE);
    fill(&disk, 1);
    let devices = Devices::start(lab, &[("disk", disk)]);
    let overlay = devices.lab.qcow2("overlay.qcow2", SIZE);
    let mut qmp = devices.idle.look();
    qmp.ok(
        "blockdev-add",
        json!({ "driver": "qcow2", "node-name": "overlay", "backing": null,
                "file": { "driver": "file", "filename": overlay } }),
    );
    qmp.ok("blockdev-snapshot", json!({ "node": "disk", "overlay": "overlay" }));
    drop(qmp);
    must_be_found(&devices.backstay, "outside-snapshot");
    next_backup_finds(&devices.backstay, "outside-snapshot");
    let point = devices.back_up();
    assert_eq!(modes(&point), ["incremental"], "{point}");
    devices.must_hold(&point, &[(&names(&point)[0], 1)]);
}

/// Two disks' images are exchanged while QEMU is off.
pub fn image_moved() {
    let lab = Lab::new();
    let [one, two] = ["one.qcow2", "two.qcow2"].map(|name| lab.qcow2(name, SIZE));
    fill(&one, 1);
    fill(&two, 2);
    let mut devices = Devices::start(lab, &[("first", one.clone()), ("second", two.clone())]);
    devices.idle.restart();
    devices.idle.plug("first", &two);
    devices.idle.plug("second", &one);
    must_be_found(&devices.backstay, "image-moved");
    next_backup_finds(&devices.backstay, "image-moved");
    let point = devices.back_up();
    assert_eq!(modes(&point), ["incremental", "incremental"], "{point}");
    let names = names(&point);
    devices.must_hold(&point, &[(&names[0], 2), (&names[1], 1)]);
}

/// What lies below an image is written while QEMU is off.
pub fn backing_changed() {
    let lab = Lab::new();
    let base = lab.qcow2("base.qcow2", SIZE);
    fill(&base, 1);
    let disk = lab.path("disk.qcow2");
    run(
        tool("qemu-img").args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]).arg(&base).arg(&disk),
        PATIENCE,
    );
    let mut devices = Devices::start(lab, &[("disk", disk.clone())]);
    devices.idle.restart();
    fill(&base, 2);
    devices.idle.plug("disk", &disk);
    must_be_found(&devices.backstay, "backing-changed");
    next_backup_finds(&devices.backstay, "backing-changed");
    let point = devices.back_up();
    assert_eq!(modes(&point), ["incremental"], "{point}");
    devices.must_hold(&point, &[(&names(&point)[0], 2)]);
}

/// A disk is taken out, and its bitmaps with it; back again, it goes on where it was.
pub fn disk_away() {
    let lab = Lab::new();
    let [one, two] = ["one.qcow2", "two.qcow2"].map(|name| lab.qcow2(name, SIZE));
    let devices = Devices::start(lab, &[("first", one), ("second", two.clone())]);
    devices.idle.unplug("second");
    must_be_found(&devices.backstay, "disk-away");
    assert_eq!(modes(&devices.back_up()), ["incremental"]);
    devices.idle.plug("second", &two);
    assert_eq!(modes(&devices.back_up()).len(), 2);
    assert_eq!(modes(&devices.back_up()), ["incremental", "incremental"]);
}
