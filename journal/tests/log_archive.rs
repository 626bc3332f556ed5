//! Segments that are put away: still read, still proven, and missed when they are gone.

#![allow(clippy::unwrap_used)]

mod log_support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use journal::log::medium::{Crash, SimulatedDisk};
use journal::log::{Log, LogError, Options, Reader, verify, verify_disk};
use log_support::{crash_copy, dice, entry, name, open, quiet, segments};
use rand::Rng;

/// A log of 100 records in many segments, of which those before record `before` are archived.
fn archived(before: u64, keep: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(dir.path(), &quiet()).unwrap();
    for number in 1..=100 {
        log.append_blocking(vec![entry(number, 200)]).unwrap();
    }
    log.archive(before, keep).unwrap();
    drop(log);
    dir
}

fn packed(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(dir.join("archive")).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

fn copy(from: &Path) -> tempfile::TempDir {
    let archive = from.join("archive");
    let aside = tempfile::tempdir().unwrap();
    let to = {
        let hidden = aside.path().join("archive");
        fs::rename(&archive, &hidden).unwrap();
        let to = crash_copy(from);
        fs::rename(&hidden, &archive).unwrap();
        to
    };
    fs::create_dir(to.path().join("archive")).unwrap();
    packed(from).iter().for_each(|file| {
        fs::copy(file, to.path().join("archive").join(file.file_name().unwrap())).unwrap();
    });
    to
}

fn last_read(dir: &Path, from: u64) -> Result<u64, LogError> {
    let mut reader = Reader::open(dir, from)?;
    while reader.next()?.is_some() {}
    Ok(reader.position().seq)
}

#[test]
fn what_is_archived_is_read_and_proven_as_before() {
    let dir = archived(u64::MAX, 0);
    assert_eq!(segments(dir.path()).len(), 1, "only the one that is being filled is left");
    let verified = verify(dir.path()).unwrap();
    assert!(verified.ok, "{verified:#?}");
    assert_eq!((verified.first, verified.last, verified.frames), (Some(1), Some(100), 100));
    assert_eq!(last_read(dir.path(), 1).unwrap(), 100);
    let (log, _, frames) = open(dir.path(), &quiet()).unwrap();
    assert!(frames.iter().map(|frame| frame.entry.clone()).eq((1..=100).map(|number| entry(number, 200))));
    assert_eq!(log.append_blocking(vec![entry(101, 200)]).unwrap(), 101..102);
    drop(log);
    assert!(verify(dir.path()).unwrap().ok);
}

#[test]
fn only_what_was_asked_for_is_moved() {
    let all = archived(0, 0);
    assert!(!all.path().join("archive").exists());
    let files = segments(all.path()).len();
    let dir = archived(50, 0);
    let first = name(&segments(dir.path())[0]);
    assert!(journal::log::segment::parse_name(&first).unwrap() <= 50, "{first}");
    assert!(!packed(dir.path()).is_empty());
    assert_eq!(segments(archived(u64::MAX, 3).path()).len(), 4);
    assert_eq!(packed(archived(u64::MAX, 3).path()).len(), files - 4);
}

#[test]
fn zstd_alone_restores_a_segment() {
    let dir = archived(u64::MAX, 0);
    let files = packed(dir.path());
    for file in &files {
        let bytes = zstd::stream::decode_all(fs::File::open(file).unwrap()).unwrap();
        assert_eq!(bytes.len(), 4096);
    }
    if let Ok(status) = Command::new("zstd").args(["-q", "-t"]).args(&files).status() {
        assert!(status.success());
    }
}

#[test]
fn a_mark_that_is_lost_does_not_hide_the_archive() {
    let dir = archived(50, 0);
    fs::remove_file(dir.path().join("mark")).unwrap();
    assert_eq!(open(dir.path(), &quiet()).unwrap().2.len(), 100);
    assert!(verify(dir.path()).unwrap().ok);
    assert_eq!(last_read(dir.path(), 1).unwrap(), 100);
}

#[test]
fn an_archive_that_was_taken_away_is_missed_and_the_rest_is_proven() {
    let dir = archived(50, 0);
    let here = journal::log::segment::parse_name(&name(&segments(dir.path())[0])).unwrap();
    fs::remove_dir_all(dir.path().join("archive")).unwrap();
    let verified = verify(dir.path()).unwrap();
    assert_eq!((verified.first, verified.last, verified.problems.len()), (Some(here), Some(100), 1));
    let what = &verified.problems[0].what;
    assert!(what.contains(&format!("sequences 1 to {} are archived", here - 1)), "{what}");
    assert!(matches!(Reader::open(dir.path(), 1), Err(LogError::NotHere { first, .. }) if first == here));
    assert!(open(dir.path(), &quiet()).is_err(), "without a base a start needs every record");
    assert_eq!(last_read(dir.path(), here).unwrap(), 100);
}

#[test]
fn harm_to_the_archive_is_found_and_located() {
    let (seed, mut dice) = dice("archive");
    let sound = archived(u64::MAX, 0);
    for round in 0..60 {
        let dir = copy(sound.path());
        let files = packed(dir.path());
        let at = dice.random_range(0..files.len());
        let bytes = fs::read(&files[at]).unwrap();
        match dice.random_range(0..5) {
            0 => fs::remove_file(&files[at]).unwrap(),
            1 => fs::write(&files[at], &bytes[..dice.random_range(0..bytes.len())]).unwrap(),
            2 => fs::write(&files[at], fs::read(&files[(at + 1) % files.len()]).unwrap()).unwrap(),
            _ => {
                let mut bytes = bytes;
                let place = dice.random_range(0..bytes.len());
                bytes[place] ^= 1 << dice.random_range(0..8);
                fs::write(&files[at], bytes).unwrap();
            }
        }
        let verified = verify(dir.path()).unwrap();
        // A bit that zstd does not use may be flipped: what unpacks to the same bytes is whole.
        if verified.ok {
            assert_eq!(last_read(dir.path(), 1).unwrap(), 100, "round {round} of BACKSTAY_SEED={seed}");
            continue;
        }
        let named = name(&files[at]);
        let next =
            files.get(at + 1).map_or_else(|| name(segments(dir.path()).last().unwrap()), |next| name(next));
        let located =
            |it: &journal::log::Problem| it.segment.ends_with(&named) || it.segment.ends_with(&next);
        assert!(
            verified.problems.iter().any(located),
            "round {round} of BACKSTAY_SEED={seed}: {verified:#?}"
        );
        assert_eq!(verified.last, Some(100), "what stands behind it is proven");
        assert!(last_read(dir.path(), 1).is_err());
        assert!(open(dir.path(), &quiet()).is_err());
    }
}

/// Power is lost at every operation of archiving: every frame is in one place at least, and the next try finishes.
#[test]
fn power_lost_while_archiving_loses_nothing() {
    let (_, mut dice) = dice("archiving");
    for nth in 1.. {
        let disk = SimulatedDisk::new();
        let options = Options { first_segment_bytes: 1024, segment_bytes: 1024, ..quiet() };
        let (log, _) = Log::open_on(Arc::new(disk.clone()), &options, |_| {}).unwrap();
        for number in 1..=6 {
            log.append_blocking(vec![entry(number, 300)]).unwrap();
        }
        let before = disk.operations();
        disk.power_off(nth);
        let done = log.archive(u64::MAX, 0).is_ok();
        let survived = disk.operations() - before < nth;
        for crash in [Crash::Process, Crash::LoseAll, Crash::LoseSome(dice.random())] {
            let after = disk.crashed(crash);
            let mut count = 0;
            let (log, _) = Log::open_on(Arc::new(after.clone()), &options, |_| count += 1).unwrap();
            assert_eq!(count, 6, "power off at operation {nth}, {crash:?}");
            log.archive(u64::MAX, 0).unwrap();
            drop(log);
            let verified = verify_disk(&after).unwrap();
            assert!(verified.ok && verified.frames == 6, "{verified:#?}");
        }
        if survived {
            assert!(done && nth > 10);
            return;
        }
    }
}
