//! Prunes with a grace time: what is marked, what restic makes of it, what is taken back, and every step as the last.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use repository::{
    BackendError, Problem, PruneError, PruneOptions, PruneReport, ReadData, Repository, unwatched,
};
use support::failing::{Failing, Fault};
use support::*;

/// Strict, so that something is repacked too.
fn prune(repository: &Repository, grace: TimeDelta) -> Result<PruneReport, PruneError> {
    let options = PruneOptions { max_unused_percent: 0, grace, ..PruneOptions::default() };
    repository.prune(&options, &unwatched)
}

const DAY: TimeDelta = TimeDelta::days(1);
const NONE: TimeDelta = TimeDelta::zero();

/// A repository in which one snapshot stays, and packs are used wholly, in part and not at all.
struct Holed {
    place: Place,
    stays: repository::SnapshotId,
    kept: Vec<u8>,
    gone: Vec<u8>,
}

impl Holed {
    fn new() -> Self {
        let place = Place::new();
        let kept = bytes(1, 20 << 20);
        let mut other = kept.clone();
        other[3 << 20..6 << 20].copy_from_slice(&bytes(2, 3 << 20));
        let gone = bytes(9, 2 << 20);
        let first = backup(&place.repository, "vda", &other, "goes");
        let stays = backup(&place.repository, "vda", &kept, "stays");
        let third = backup(&place.repository, "vdb", &gone, "goes");
        place.repository.forget(first).unwrap();
        place.repository.forget(third).unwrap();
        Self { place, stays, kept, gone }
    }

    fn stored(&self) -> u64 {
        self.place.packs().iter().map(|pack| pack.metadata().unwrap().len()).sum()
    }

    #[track_caller]
    fn assert_whole(&self, when: &str) {
        let reopened = self.place.reopened();
        let report = reopened.check(ReadData::All, &unwatched).unwrap();
        assert!(report.is_healthy(), "{when}: {:?}", report.problems);
        assert!(read_file(&reopened, self.stays, "disks/vda") == self.kept, "{when}");
    }
}

#[test]
fn what_is_of_no_use_is_marked_and_goes_when_its_time_is_over() {
    let holed = Holed::new();
    let before = holed.stored();
    let options = PruneOptions { max_unused_percent: 0, grace: DAY, dry_run: true };
    let planned = holed.place.repository.prune(&options, &unwatched).unwrap();
    let first = prune(&holed.place.repository, DAY).unwrap();
    assert_eq!(
        (planned.packs_marked, planned.bytes_marked, planned.packs_repacked),
        (first.packs_marked, first.bytes_marked, first.packs_repacked)
    );
    assert!(first.packs_marked > 1 && first.packs_repacked > 0, "{first:?}");
    assert_eq!((first.packs_removed, first.bytes_removed), (0, 0));
    assert!(first.first_due.unwrap() > now());
    assert!(holed.stored() >= before);
    holed.assert_whole("marked");
    let report = assert_healthy(&holed.place.reopened());
    assert_eq!((report.marked_packs, report.unlisted_packs), (first.packs_marked, 0));

    // Nothing is referred to that is marked: the same bytes are stored again.
    let again = backup(&holed.place.repository, "vdb", &holed.gone, "again");
    let waiting = prune(&holed.place.repository, DAY).unwrap();
    assert_eq!((waiting.packs_removed, waiting.packs_taken_back), (0, 0), "{waiting:?}");
    assert_eq!(waiting.packs_marked, first.packs_marked);

    let last = prune(&holed.place.repository, NONE).unwrap();
    assert_eq!((last.packs_removed, last.bytes_removed), (first.packs_marked, first.bytes_marked));
    assert_eq!((last.packs_marked, last.packs_taken_back), (0, 0));
    holed.assert_whole("ended");
    assert_eq!(read_file(&holed.place.reopened(), again, "disks/vdb"), holed.gone);
    assert_eq!(assert_healthy(&holed.place.reopened()).marked_packs, 0);
}

#[test]
fn both_phases_may_die_at_every_step_and_be_repeated() {
    for fault in [Fault::Full, Fault::Io, Fault::AnswerLost] {
        let holed = Holed::new();
        for grace in [DAY, NONE] {
            let mut steps = 0;
            while let Err(error) = prune(&Failing::after(steps, fault).open(&holed.place), grace) {
                assert!(matches!(error, PruneError::Backend(_)), "{error}");
                holed.assert_whole(&format!("{fault:?} after {steps} steps"));
                // What restic sees is as good: it judges the first of the three.
                if matches!(fault, Fault::Full) && restic_is_there() {
                    restic(&holed.place.path(), &["check"]);
                }
                steps += 1;
                assert!(steps < 100, "it never ends");
            }
            assert!(steps >= 2, "{fault:?}: {steps} steps are too few for a prune");
            holed.assert_whole("at the end");
        }
        let report = assert_healthy(&holed.place.reopened());
        assert_eq!((report.unlisted_packs, report.marked_packs), (0, 0), "{fault:?}");
        let again = prune(&holed.place.repository, NONE).unwrap();
        assert_eq!((again.packs_removed, again.bytes_unused), (0, 0), "{fault:?}");
    }
}

#[test]
fn restic_is_content_between_the_phases_and_may_prune_itself() {
    if !restic_is_there() {
        return;
    }
    let holed = Holed::new();
    let path = holed.place.path();
    let stray = path.join("data/aa").join("aa".repeat(32));
    std::fs::write(&stray, "of somebody who knows of no lock").unwrap();
    let marked = prune(&holed.place.repository, DAY).unwrap();
    assert!(stray.exists(), "a pack without a listing has its grace time too");
    restic(&path, &["check", "--read-data"]);
    let dumped = restic(&path, &["dump", &holed.stays.to_string(), "/disks/vda"]);
    assert!(dumped == holed.kept);
    // It stores what it wants, into the index that it reads so.
    let source = holed.place.folder.path().join("source");
    std::fs::write(&source, &holed.gone).unwrap();
    restic(&path, &["backup", source.to_str().unwrap()]);
    restic(&path, &["check", "--read-data"]);
    holed.assert_whole("restic wrote");
    // For its own prune what we marked are files that no index lists.
    assert!(marked.bytes_marked > 2 << 20, "{marked:?}");
    restic(&path, &["prune", "--max-unused", "0"]);
    let report = assert_healthy(&holed.place.reopened());
    assert_eq!((report.unlisted_packs, report.marked_packs, stray.exists()), (0, 0, false));
    restic(&path, &["check", "--read-data"]);
    holed.assert_whole("restic pruned");
    let ended = prune(&holed.place.repository, NONE).unwrap();
    assert_eq!((ended.packs_removed, ended.packs_taken_back), (0, 0), "{ended:?}");
    restic(&path, &["check", "--read-data"]);
}

/// The one who still needs what was marked: a backup whose lock was taken away from it.
#[test]
fn what_somebody_without_a_lock_came_to_need_is_taken_back() {
    if !restic_is_there() {
        return;
    }
    let place = Place::new();
    let path = place.path();
    let content = bytes(7, 12 << 20);
    let run = |arguments: &[&str]| {
        let mut command = restic_command(&path, PASSWORD, arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut first = run(&["backup", "--stdin", "--tag", "first"]);
    first.stdin.take().unwrap().write_all(&content).unwrap();
    assert!(first.wait().unwrap().success());
    let known = place.repository.snapshots_with_tag("first").unwrap()[0].0;
    place.repository.forget(known).unwrap();

    // Nothing refers to these bytes now, but the index has them, and a backup that begins now refers to them.
    let mut second = run(&["backup", "--stdin", "--tag", "second"]);
    let mut pipe = second.stdin.take().unwrap();
    // It reads after it has loaded the index; the pipe holds less than this.
    pipe.write_all(&content[..8 << 20]).unwrap();
    restic(&path, &["unlock", "--remove-all"]);
    let marked = prune(&place.repository, DAY).unwrap();
    assert!(marked.bytes_marked > 6 << 20, "{marked:?}");
    pipe.write_all(&content[8 << 20..]).unwrap();
    drop(pipe);
    let start = Instant::now();
    let snapshot = loop {
        if let [(found, _), ..] = place.repository.snapshots_with_tag("second").unwrap()[..] {
            break found;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "restic writes no snapshot");
        std::thread::sleep(Duration::from_millis(20));
    };
    // Its snapshot is there; now it tries for a quarter of an hour to remove the lock that is gone.
    second.kill().unwrap();
    second.wait().unwrap();

    assert!(!restic_try(&path, &["check"]).status.success(), "for restic it is broken until the next prune");
    let report = place.reopened().check(ReadData::None, &unwatched).unwrap();
    assert!(
        !report.problems.is_empty()
            && report.problems.iter().all(|problem| matches!(problem, Problem::BlobMarked { .. })),
        "{:?}",
        report.problems
    );
    assert_eq!(report.affected, [], "what is marked is still there");
    assert!(read_file(&place.reopened(), snapshot, "stdin") == content);

    let taken_back = prune(&place.repository, DAY).unwrap();
    assert!(taken_back.packs_taken_back > 0 && taken_back.packs_removed == 0, "{taken_back:?}");
    restic(&path, &["check", "--read-data"]);
    assert!(restic(&path, &["dump", &snapshot.to_string(), "/stdin"]) == content);
    assert_healthy(&place.reopened());
}

#[test]
fn a_failed_storage_is_named() {
    let holed = Holed::new();
    let failed = prune(&Failing::after(0, Fault::Io).open(&holed.place), DAY).unwrap_err();
    assert!(
        matches!(&failed, PruneError::Backend(BackendError::Io { path, .. }) if path.starts_with("data"))
    );
}
