//! What is in QEMU, or is not in the repository, and the journal does not say so.

use std::fs;
use std::os::unix::net::UnixListener;

use serde_json::json;
use tests::invariants;
use tests::lab::Lab;
use tests::point::Point;
use tests::qmp::Qmp;
use tests::site::Site;

use crate::devices::{Devices, modes};
use crate::scene::{SIZE, found, must_be_found, ours, site};

/// A bitmap's name with our installation's mark that no checkpoint has.
fn unknown_of_ours(qmp: &mut Qmp, disk: &str) -> String {
    let (newest, _) = ours(qmp, disk);
    let (mark, _) = newest.rsplit_once('.').expect("mark and number");
    format!("{mark}.999999")
}

pub fn leftover() {
    let mut site = site();
    let mut qmp = site.qsd.look();
    let name = unknown_of_ours(&mut qmp, "disk0");
    qmp.add_bitmap("disk0", &name, true);
    drop(qmp);
    must_be_found(&site.backstay, "leftover");
    // It is removed before the next backup, without a hand.
    site.next_must_be_incremental();
    socket_that_nobody_listens_on(&site);
}

/// QEMU ended with a view up that no record knew of: nothing but its NBD server's socket is there of it.
fn socket_that_nobody_listens_on(site: &Site) {
    let vm = site.backstay.ok(&["vm", "show", "vm"])["id"].as_str().expect("an id").replace('-', "");
    let folder = site.backstay.data().join("run").join(vm);
    fs::create_dir_all(&folder).expect("the server's folder takes a folder");
    drop(UnixListener::bind(folder.join("nbd")).expect("the folder takes a socket"));
    must_be_found(&site.backstay, "leftover");
    site.backstay.ok(&["doctor", "vm", "--apply"]);
    invariants::no_file_is_left(&site.backstay);
}

/// One that an export uses cannot be removed: it is left until it can.
pub fn stuck() {
    let lab = Lab::new();
    let disk = lab.qcow2("disk.qcow2", SIZE);
    let devices = Devices::start(lab, &[("disk", disk)]);
    let mut qmp = devices.idle.look();
    let name = unknown_of_ours(&mut qmp, "disk");
    qmp.ok("block-dirty-bitmap-add", json!({ "node": "disk", "name": name, "disabled": true }));
    let address = json!({ "type": "unix", "data": { "path": devices.lab.path("nbd.sock") } });
    qmp.ok("nbd-server-start", json!({ "addr": address }));
    qmp.ok(
        "block-export-add",
        json!({ "type": "nbd", "id": "theirs", "node-name": "disk", "name": "theirs", "bitmaps": [name] }),
    );
    drop(qmp);
    must_be_found(&devices.backstay, "leftover-stuck");
    let mut qmp = devices.idle.look();
    qmp.ok("nbd-server-stop", json!({}));
    qmp.event("BLOCK_EXPORT_DELETED");
    drop(qmp);
    must_be_found(&devices.backstay, "leftover");
    assert_eq!(modes(&devices.back_up()), ["incremental"]);
    assert!(devices.idle.look().bitmaps().iter().all(|bitmap| bitmap.name != name), "it is still there");
}

pub fn foreign() {
    let mut site = site();
    site.qsd.look().add_bitmap("disk0", "libvirt-1", true);
    must_be_found(&site.backstay, "foreign");
    site.back_up(&[]).point.must_be_incremental();
    let there = site.qsd.look().bitmaps().iter().any(|bitmap| bitmap.name == "libvirt-1" && bitmap.recording);
    assert!(there, "what is not ours was touched");
}

/// Somebody forgets the newest point with restic.
pub fn point_gone() {
    let mut site = site();
    site.backstay.expect_log("restore point gone");
    let newest = Point::list(&site.backstay).pop().expect("there are two");
    site.restic.ok(&["forget", &newest.snapshot]);
    must_be_found(&site.backstay, "point-gone");
    // The one before it is the base again, where its checkpoint is still there; in any case the next one is right.
    let taken = site.back_up(&[]);
    taken.must_show(site.prove(&taken.point, &site.log()));
    assert!(found(&site.backstay, "point-gone").is_empty(), "the point is struck off");
    assert!(Point::list(&site.backstay).iter().all(|point| point.id != newest.id));
    site.next_must_be_incremental();
}
