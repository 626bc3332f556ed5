//! A writer that is killed at any instant leaves whole files or none: no part of one, under whatever name. A prune that is
//! killed at any instant leaves every snapshot whole.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use repository::{BlobKind, PruneOptions, Repository, SessionOptions, SnapshotId, unwatched};
use support::*;

/// Where the child writes.
const PLACE: &str = "BACKSTAY_KILLED_WRITER";

#[test]
#[ignore = "the writer that is killed in the test below; does nothing without it"]
fn child() {
    let Some(place) = std::env::var_os(PLACE) else { return };
    let repository = Repository::open(local(Path::new(&place)), PASSWORD).unwrap();
    for seed in 0.. {
        let session = repository.session(&SessionOptions::default()).unwrap();
        session.save(BlobKind::Data, &bytes(seed ^ u64::from(std::process::id()), 1 << 20)).unwrap();
        session.commit().unwrap();
    }
}

#[test]
fn a_killed_writer_leaves_no_part_of_a_file() {
    let place = Place::new();
    let nameless = has_nameless_files(&place.path());
    for round in 1..=20_u32 {
        let before = place.packs().len();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored"])
            .env(PLACE, place.path())
            .stdout(Stdio::null())
            .spawn();
        let mut child = child.unwrap();
        let start = Instant::now();
        while place.packs().len() == before {
            assert!(start.elapsed() < Duration::from_secs(60), "the child does not write");
        }
        // Somewhere in its next writes.
        std::thread::sleep(Duration::from_micros(u64::from(round) * 700));
        child.kill().unwrap();
        child.wait().unwrap();
        let parts: Vec<PathBuf> = files(&place.path())
            .into_iter()
            .filter(|path| path.to_string_lossy().contains("-tmp-"))
            .collect();
        assert!(parts.is_empty() || !nameless, "round {round} left {parts:?}");
        assert_healthy(&place.reopened());
    }
}

/// Where the child prunes.
const PRUNED: &str = "BACKSTAY_KILLED_PRUNE";

#[test]
#[ignore = "the prune that is killed in the test below; does nothing without it"]
fn pruning_child() {
    let Some(place) = std::env::var_os(PRUNED) else { return };
    let repository = Repository::open(local(Path::new(&place)), PASSWORD).unwrap();
    // Marks, then removes what is marked, as often as there is time.
    for grace in [TimeDelta::days(1), TimeDelta::zero()].into_iter().cycle() {
        let options = PruneOptions { max_unused_percent: 0, grace, ..PruneOptions::default() };
        repository.prune(&options, &unwatched).unwrap();
    }
}

#[test]
fn a_killed_prune_leaves_every_snapshot_whole() {
    let place = Place::new();
    let mut content = bytes(1, 12 << 20);
    let mut there: Vec<SnapshotId> = Vec::new();
    for round in 0..16_u32 {
        // Something to copy and something to drop: part of the last content changes, and an earlier snapshot goes.
        let hole = (round as usize % 11) << 20;
        content[hole..hole + (1 << 20)].copy_from_slice(&bytes(u64::from(round) + 100, 1 << 20));
        let repository = place.reopened();
        there.push(backup(&repository, "vda", &content, "round"));
        if there.len() > 2 {
            repository.forget(there.remove(0)).unwrap();
        }
        drop(repository);
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "pruning_child", "--ignored"])
            .env(PRUNED, place.path())
            .stdout(Stdio::null())
            .spawn();
        let mut child = child.unwrap();
        let start = Instant::now();
        while files(&place.path().join("locks")).is_empty() {
            assert!(start.elapsed() < Duration::from_secs(60), "the child does not prune");
        }
        std::thread::sleep(Duration::from_millis(u64::from(round) * 7));
        child.kill().unwrap();
        child.wait().unwrap();
        let reopened = place.reopened();
        assert_healthy(&reopened);
        let newest = there.last().unwrap();
        assert!(read_file(&reopened, *newest, "disks/vda") == content, "round {round}");
    }
    // The locks of the dead are in nobody's way.
    let options = PruneOptions { max_unused_percent: 0, ..PruneOptions::default() };
    let last = place.reopened().prune(&options, &unwatched).unwrap();
    assert_eq!((last.packs_marked, last.bytes_unused), (0, 0), "{last:?}");
    let report = assert_healthy(&place.reopened());
    assert_eq!((report.snapshots, report.unlisted_packs, report.marked_packs), (2, 0, 0));
    if restic_is_there() {
        restic(&place.path(), &["check", "--read-data"]);
    }
}

/// Whether the file system has files without a name; where it has none, the next prune sweeps what is left.
fn has_nameless_files(folder: &Path) -> bool {
    use rustix::fs::{Mode, OFlags, open};
    open(folder, OFlags::TMPFILE | OFlags::WRONLY, Mode::from_raw_mode(0o400)).is_ok()
}
