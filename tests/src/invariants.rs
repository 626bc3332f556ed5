//! What holds whenever Backstay rests, whatever happened before: one function, for every test that harms something.
//! Looks at QEMU with the laboratory's own eyes; knows nothing of how it came to this.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::backstay::Backstay;
use crate::lab::{PATIENCE, until};
use crate::qmp::{Bitmap, Look, Qmp};

/// How every bitmap of every installation of Backstay begins.
const OURS: &str = "backstay.";

/// Waits until no job is queued, running or paused.
#[track_caller]
pub fn until_rest(backstay: &Backstay) {
    until("all jobs are over", 2 * PATIENCE, || rests(backstay).then_some(()));
}

/// Whether no job is queued, running or paused.
#[track_caller]
pub fn rests(backstay: &Backstay) -> bool {
    let jobs = backstay.ok(&["job", "list"]);
    let over = |job: &Value| matches!(job["state"].as_str(), Some("done" | "failed" | "cancelled"));
    jobs.as_array().expect("a list of jobs").iter().all(over)
}

/// Checks, while Backstay rests, that nothing of a backup is left anywhere, that QEMU's bitmaps are the journal's
/// checkpoints, and that journal and doctor say so too. `bare` is what was in this QEMU before Backstay came.
///
/// Disks are to be named as their nodes.
#[track_caller]
pub fn hold(backstay: &Backstay, vm: &str, qemu: &mut Qmp, bare: &Look) {
    bitmaps_are_checkpoints(&backstay.ok(&["checkpoint", "list", vm]), &qemu.bitmaps());
    rest(backstay, qemu, bare);
}

/// The same of a QEMU whose VM is in nobody's care any more: no bitmap of ours is left.
#[track_caller]
pub fn hold_without(backstay: &Backstay, qemu: &mut Qmp, bare: &Look) {
    bitmaps_are_checkpoints(&Value::Array(Vec::new()), &qemu.bitmaps());
    rest(backstay, qemu, bare);
}

/// What holds whether or not there are checkpoints.
#[track_caller]
fn rest(backstay: &Backstay, qemu: &mut Qmp, bare: &Look) {
    nothing_is_left(backstay, qemu, bare);
    let verified = backstay.ok(&["journal", "verify"]);
    assert!(verified["ok"] == true, "the journal does not verify: {verified}");
    let doctor = backstay.ok(&["doctor"]);
    assert!(doctor["ok"] == true, "the doctor finds: {doctor}");
}

/// Nodes, jobs and exports as before Backstay; no NBD server; no scratch file and no socket.
#[track_caller]
fn nothing_is_left(backstay: &Backstay, qemu: &mut Qmp, bare: &Look) {
    let now = qemu.look();
    assert!(now.nodes == bare.nodes, "nodes {:?}, before {:?}", now.nodes, bare.nodes);
    assert!(now.jobs == bare.jobs, "jobs {:?}, before {:?}", now.jobs, bare.jobs);
    assert!(now.exports == bare.exports, "exports {:?}, before {:?}", now.exports, bare.exports);
    // No command tells whether a server listens; one that does not cannot be stopped.
    let stopped = qemu.execute("nbd-server-stop", json!({}));
    assert!(stopped.is_err(), "an NBD server was left running");
    no_file_is_left(backstay);
}

/// No scratch file and no socket.
///
/// # Panics
/// With those that are there.
#[track_caller]
pub fn no_file_is_left(backstay: &Backstay) {
    for folder in ["scratch", "run"] {
        let left = files_below(&backstay.data().join(folder));
        assert!(left.is_empty(), "left in {folder}: {left:?}");
    }
}

/// On each disk one bitmap for each checkpoint and none besides, all whole and free, the newest alone recording.
#[track_caller]
fn bitmaps_are_checkpoints(checkpoints: &Value, bitmaps: &[Bitmap]) {
    let mut expected: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for checkpoint in checkpoints.as_array().expect("a list of checkpoints") {
        for disk in checkpoint["disks"].as_array().expect("a list of disks") {
            let (disk, bitmap) = (disk["disk"].as_str(), disk["bitmap"].as_str());
            let (disk, bitmap) = (disk.expect("a disk's name"), bitmap.expect("a bitmap's name"));
            expected.entry(disk).or_default().push(bitmap);
        }
    }
    let mut found: BTreeMap<&str, Vec<&Bitmap>> = BTreeMap::new();
    for bitmap in bitmaps.iter().filter(|bitmap| bitmap.name.starts_with(OURS)) {
        found.entry(&bitmap.node).or_default().push(bitmap);
    }
    let disks = |names: Vec<&str>| names.join(" ");
    assert!(
        expected.keys().eq(found.keys()),
        "checkpoints on {}, bitmaps on {}",
        disks(expected.keys().copied().collect()),
        disks(found.keys().copied().collect())
    );
    for (disk, names) in expected {
        let there = &found[disk];
        let newest = names.last().copied();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        let mut named: Vec<&str> = there.iter().map(|bitmap| bitmap.name.as_str()).collect();
        named.sort_unstable();
        assert!(sorted == named, "{disk}: checkpoints {sorted:?}, bitmaps {named:?}");
        for bitmap in there {
            let as_it_should = bitmap.recording == (newest == Some(bitmap.name.as_str()))
                && !bitmap.busy
                && !bitmap.inconsistent;
            assert!(as_it_should, "newest is {newest:?}: {bitmap:?}");
        }
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}
