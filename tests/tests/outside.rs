//! External snapshots that somebody else takes, merges back, or throws away: whatever becomes of a disk's images, a restore
//! point is what the disk holds, and no incremental one is made of bitmaps that missed something (decision 18).

mod installation;

use std::path::Path;

use installation::{Installation, MIB, is_full, is_incremental, says, text, write};
use serde_json::{Value, json};
use tests::backstay::Backstay;
use tests::guest::{self, DISKS, Guest};
use tests::idle::Idle;
use tests::lab::{Lab, require_qemu};
use tests::matrix::cell::HEALING;
use tests::point::Point;
use tests::qmp::Qmp;
use tests::qsd::Qsd;
use tests::restic::Restic;
use tests::sequence::examine_pair;
use tests::site::add_repository;
use tests::stage::image;

/// Puts a new image on top of a node, as `virsh snapshot-create-as --disk-only` does.
#[track_caller]
fn snapshot(qmp: &mut Qmp, node: &str, overlay: &Path) {
    let file = overlay.to_str().expect("the lab's paths are ASCII");
    let name = overlay.file_stem().expect("a file's name");
    qmp.ok(
        "blockdev-snapshot-sync",
        json!({ "node-name": node, "snapshot-file": file, "snapshot-node-name": name.to_string_lossy() }),
    );
}

/// Merges everything above `base` into it, after which the disk is `base` again.
#[track_caller]
fn commit(qmp: &mut Qmp, top: &str, base: &str) {
    let job = format!("merge-{base}");
    qmp.ok("block-commit", json!({ "job-id": job, "device": top, "base-node": base, "auto-dismiss": true }));
    qmp.event("BLOCK_JOB_READY");
    qmp.ok("job-complete", json!({ "id": job }));
    let done = qmp.event("BLOCK_JOB_COMPLETED");
    assert!(done["data"]["error"].is_null(), "{done}");
}

/// A storage daemon with one disk, and a first point of it.
struct Daemon {
    qsd: Qsd,
    site: Installation,
    written: u8,
}

impl Daemon {
    #[track_caller]
    fn start() -> Daemon {
        let mut site = Installation::new();
        HEALING.iter().for_each(|text| site.backstay.expect_log(text));
        let qsd = site.vm("vm", 1, 4 * MIB);
        let mut daemon = Daemon { qsd, site, written: 0 };
        daemon.write();
        is_full(&daemon.point(), "disk0", "the first backup");
        daemon.write();
        is_incremental(&daemon.point(), "disk0");
        daemon
    }

    /// Writes what no write before held, each time beside what the last one wrote and over a part of it.
    #[track_caller]
    fn write(&mut self) {
        self.written += 1;
        let offset = u64::from(self.written % 12) * 256 * 1024;
        write(&self.qsd.file("disk0"), offset, 512 * 1024, self.written);
    }

    #[track_caller]
    fn snapshot(&mut self, node: &str, overlay: &str) {
        let file = self.site.lab.qcow2(&format!("{overlay}.qcow2"), 4 * MIB);
        let mut qmp = self.qsd.look();
        // Owned by whoever adds it, so that it stays while nobody else uses it.
        qmp.ok(
            "blockdev-add",
            json!({ "driver": "qcow2", "node-name": overlay, "backing": null, "discard": "unmap",
                    "file": { "driver": "file", "filename": file } }),
        );
        qmp.ok("blockdev-snapshot", json!({ "node": node, "overlay": overlay }));
    }

    /// Merges these, the uppermost first, into the disk's first image. QEMU commits under no file that it offers over FUSE.
    #[track_caller]
    fn merge(&mut self, overlays: &[&str]) {
        let mount = self.qsd.file("disk0");
        let mut qmp = self.qsd.look();
        qmp.ok("block-export-del", json!({ "id": "file-disk0" }));
        qmp.event("BLOCK_EXPORT_DELETED");
        commit(&mut qmp, overlays[0], "disk0");
        for overlay in overlays {
            qmp.ok("blockdev-del", json!({ "node-name": overlay }));
        }
        qmp.ok(
            "block-export-add",
            json!({ "type": "fuse", "id": "file-disk0", "node-name": "disk0", "mountpoint": mount, "writable": true }),
        );
    }

    /// A point that is the disk as it is now.
    #[track_caller]
    fn point(&mut self) -> Value {
        let point = self.site.backup("vm");
        self.site.proves(&point, "disk0", &self.qsd.file("disk0"));
        point
    }

    /// A full point for this reason, and an incremental one after it.
    #[track_caller]
    fn full_once(&mut self, because: &str) {
        is_full(&self.point(), "disk0", because);
        self.write();
        is_incremental(&self.point(), "disk0");
    }
}

/// The operator named the node that the disk was, and the disk goes on above it: the point is not the past.
#[test]
fn a_named_disk_goes_on_in_the_image_above_its_node() {
    if !require_qemu() {
        return;
    }
    let mut daemon = Daemon::start();
    for (node, overlay) in [("disk0", "one"), ("one", "two")] {
        daemon.write();
        daemon.snapshot(node, overlay);
        daemon.write();
        daemon.full_once("somebody took an external snapshot");
    }
    daemon.merge(&["two", "one"]);
    daemon.write();
    daemon.full_once("was removed from the running QEMU");
    // What lay below came back with the commit, belongs to nothing, and was removed.
    let bitmaps = daemon.qsd.look().bitmaps();
    let chain = daemon.site.backstay.ok(&["checkpoint", "list", "vm"]);
    assert_eq!(bitmaps.len(), chain.as_array().map_or(0, Vec::len), "{bitmaps:?} for {chain}");
    assert_eq!(daemon.site.backstay.ok(&["doctor"])["ok"], true);
}

/// A snapshot that is merged back before anybody looked: QEMU records the merge in the bitmaps below, so they say all.
#[test]
fn a_snapshot_that_was_merged_back_unseen_costs_nothing() {
    if !require_qemu() {
        return;
    }
    let mut daemon = Daemon::start();
    for overlays in [&["one"][..], &["three", "two"]] {
        daemon.write();
        let mut node = "disk0";
        for overlay in overlays.iter().rev() {
            daemon.snapshot(node, overlay);
            daemon.write();
            node = overlay;
        }
        daemon.merge(overlays);
        is_incremental(&daemon.point(), "disk0");
    }
}

/// The image on top is thrown away while QEMU is off, and the disk is again what it was: with a backup of that image in
/// between, and without.
#[test]
fn a_snapshot_that_was_thrown_away_is_forgotten() {
    if !require_qemu() {
        return;
    }
    let mut daemon = Daemon::start();
    daemon.write();
    daemon.snapshot("disk0", "unseen");
    daemon.write();
    daemon.qsd.quit();
    daemon.qsd.restart();
    // The bitmaps on the image below were stored when it became one, and nothing was written to it since.
    is_incremental(&daemon.point(), "disk0");

    daemon.write();
    daemon.snapshot("disk0", "seen");
    daemon.write();
    daemon.full_once("somebody took an external snapshot");
    daemon.qsd.quit();
    daemon.qsd.restart();
    daemon.full_once("QEMU was restarted and had not stored it");
}

/// A machine whose disk is found by its device, and restarted on the newest of its images, whole or killed.
#[test]
fn a_machine_is_restarted_on_its_snapshots() {
    if !require_qemu() {
        return;
    }
    const SIZE: usize = 4 << 20;
    let lab = Lab::new();
    let mut idle = Idle::start(&lab, "machine");
    let restic = Restic::new(&lab, "repo");
    let mut backstay = Backstay::start(&lab, "data");
    HEALING.iter().for_each(|text| backstay.expect_log(text));
    add_repository(&backstay, &restic);
    idle.plug("disk", &lab.qcow2("image0.qcow2", SIZE as u64));
    backstay.ok(&["vm", "add", "vm", "--qmp", &idle.qmp_socket().to_string_lossy()]);

    let (mut holds, mut written) = (vec![0_u8; SIZE], 0_u8);
    let mut change = |idle: &Idle, holds: &mut Vec<u8>| {
        written += 1;
        let at = usize::from(written % 12) * 256 * 1024;
        holds[at..at + 512 * 1024].fill(written);
        let line = format!("qemu-io -d dev-disk \"write -P {written} {at} 512k\"");
        let said = idle.look().ok("human-monitor-command", json!({ "command-line": line }));
        assert!(said.as_str().is_some_and(|said| !said.contains("rror")), "{said}");
    };
    let prove = |holds: &[u8]| -> Point {
        let point = Point::back_up(&backstay, &[]);
        let to = lab.path(format!("{}.img", point.id));
        let disk = &point.disks[0].name;
        backstay.ok(&["restore", &point.id, "--disk", disk, "--to", &to.to_string_lossy(), "--wait"]);
        let restored = std::fs::read(to).expect("it was restored");
        assert!(restored == holds, "{point:?} is not what the disk holds");
        point
    };
    change(&idle, &mut holds);
    prove(&holds).must_be_full(&["the first backup"]);
    for (round, seen) in [true, false, true].into_iter().enumerate() {
        change(&idle, &mut holds);
        let overlay = lab.path(format!("image{}.qcow2", round + 1));
        snapshot(&mut idle.look(), "disk", &overlay);
        change(&idle, &mut holds);
        if seen {
            prove(&holds).must_be_full(&["external snapshot"]);
            change(&idle, &mut holds);
            prove(&holds).must_be_incremental();
        }
        // In order, so that the bitmaps on every image are stored. Seen or not, the chain is on the wrong image then.
        idle.restart();
        idle.plug("disk", &overlay);
        change(&idle, &mut holds);
        let after = prove(&holds);
        if seen { after.must_be_incremental() } else { after.must_be_full(&["external snapshot"]) }
    }
}

/// The image below is merged upwards, and the node that the operator named is no disk any more: that is said, and no point of
/// the past is made.
#[test]
fn a_disk_that_was_streamed_away_has_to_be_named_anew() {
    if !require_qemu() {
        return;
    }
    let mut site = Installation::new();
    HEALING.iter().for_each(|text| site.backstay.expect_log(text));
    let idle = Idle::start(&site.lab, "machine");
    idle.plug("disk", &site.lab.qcow2("image.qcow2", 4 * MIB));
    let socket = text(&idle.qmp_socket());
    site.backstay.ok(&["vm", "add", "vm", "--qmp", &socket, "--disk", "disk=disk"]);
    is_full(&site.backup("vm"), "disk", "the first backup");

    let mut qmp = idle.look();
    snapshot(&mut qmp, "disk", &site.lab.path("top.qcow2"));
    qmp.ok("block-stream", json!({ "job-id": "stream", "device": "top" }));
    let done = qmp.event("BLOCK_JOB_COMPLETED");
    assert!(done["data"]["error"].is_null(), "{done}");
    drop(qmp);
    says(&site.failed_backup("vm"), &["disk: no device uses node disk any more", "name the node"]);
    // Named by its device it is found wherever it is.
    site.backstay.ok(&["vm", "remove", "vm"]);
    site.backstay.ok(&["vm", "add", "vm", "--qmp", &socket, "--disk", "disk=dev-disk"]);
    is_full(&site.backup("vm"), "disk", "");
    is_incremental(&site.backup("vm"), "disk");
}

/// A guest that writes to two disks while somebody takes snapshots of both at one instant, and merges them back.
#[test]
fn a_guest_writes_on_over_snapshots() {
    if !require_qemu() {
        return;
    }
    let lab = Lab::new();
    let mut guest = Guest::start(&lab, guest::Options::new("guest"));
    let restic = Restic::new(&lab, "repo");
    let mut backstay = Backstay::start(&lab, "data");
    HEALING.iter().for_each(|text| backstay.expect_log(text));
    add_repository(&backstay, &restic);
    let qmp = guest.qmp_socket();
    let mut words = vec!["vm", "add", "vm", "--qmp", qmp.to_str().expect("ASCII")];
    let disks = DISKS.map(|disk| format!("--disk={disk}={disk}"));
    words.extend(disks.iter().map(String::as_str));
    backstay.ok(&words);

    let prove = |guest: &mut Guest| -> Point {
        guest.until_progress();
        let (from, point) = (guest.sequence(), Point::back_up(&backstay, &[]));
        let folder = lab.folder(&point.id);
        backstay.ok(&["restore", &point.id, "--to", &folder.to_string_lossy(), "--wait"]);
        let [a, b] = DISKS.map(|disk| image(&folder, disk));
        let (_, on_b) = examine_pair(&lab, &a, &b, "raw");
        assert!(on_b.last >= from, "{} shows {}, the guest was at {from}", point.id, on_b.last);
        std::fs::remove_dir_all(folder).expect("a folder of ours");
        point
    };
    prove(&mut guest).must_be_full(&["the first backup"]);
    for round in 0..2 {
        let last = |disk: &str| if round == 0 { disk.to_owned() } else { format!("{disk}-1") };
        let actions: Vec<Value> = DISKS
            .iter()
            .map(|disk| {
                let (name, node) = (format!("{disk}-{}", round + 1), last(disk));
                let file = lab.path(format!("{name}.qcow2"));
                json!({ "type": "blockdev-snapshot-sync", "data": {
                    "node-name": node, "snapshot-file": file, "snapshot-node-name": name } })
            })
            .collect();
        guest.look().ok("transaction", json!({ "actions": actions }));
        prove(&mut guest).must_be_full(&["external snapshot"]);
        prove(&mut guest).must_be_incremental();
    }
    for disk in DISKS {
        commit(&mut guest.look(), &format!("{disk}-2"), disk);
    }
    prove(&mut guest).must_be_full(&["was removed from the running QEMU"]);
    prove(&mut guest).must_be_incremental();
}
