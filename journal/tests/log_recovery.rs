//! Opening after a crash, and after damage: what is cut, what is refused, and with which place.

#![allow(clippy::unwrap_used)]

mod log_support;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use journal::log::{AcknowledgedLoss, HEADER_BYTES, LogError, Options, Problem, Reader, verify};
use log_support::{crash_copy, crashed_log, dice, entry, name, open, quiet, segments};
use rand::Rng;
use rand::rngs::StdRng;

/// Frames begin here in a segment.
const START: u64 = 512;

fn write_at(path: &Path, bytes: &[u8], offset: u64) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

fn flip(path: &Path, offset: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

fn refused(dir: &Path) -> Problem {
    match open(dir, &quiet()) {
        Err(LogError::Damaged(problem)) => *problem,
        other => panic!("expected a refusal with a place, got {other:?}"),
    }
}

/// Opens, appends one more, closes, and reads all of it back.
fn goes_on(dir: &Path, kept: u64) {
    let (log, recovered, frames) = open(dir, &quiet()).unwrap();
    assert_eq!(recovered.frames_replayed, kept);
    assert_eq!(frames.len() as u64, kept);
    assert_eq!(log.append_blocking(vec![entry(kept + 1, 33)]).unwrap(), kept + 1..kept + 2);
    drop(log);
    let mut reader = Reader::open(dir, 1).unwrap();
    let mut seen = 0;
    while let Some(frame) = reader.next().unwrap() {
        seen += 1;
        assert_eq!(frame.seq, seen);
    }
    assert_eq!(seen, kept + 1);
    let verification = verify(dir).unwrap();
    assert!(verification.ok, "{verification:?}");
    assert_eq!((verification.first, verification.last), (Some(1), Some(kept + 1)));
}

#[test]
fn what_was_written_is_read_over_many_segments() {
    let dir = tempfile::tempdir().unwrap();
    let (log, recovered, _) = open(dir.path(), &quiet()).unwrap();
    assert_eq!((recovered.last, recovered.tail_cut), (None, None));
    let lens = [0, 1, 100, 1000, 3504, 5000, 20_000, 7];
    let entries: Vec<_> = lens.iter().zip(1..).map(|(len, number)| entry(number, *len)).collect();
    assert_eq!(log.append_blocking(entries.clone()).unwrap(), 1..9);
    drop(log);
    assert!(segments(dir.path()).len() >= 4);
    let (_log, recovered, frames) = open(dir.path(), &quiet()).unwrap();
    assert_eq!(recovered.last, Some(frames[7].position()));
    assert!(frames.iter().map(|frame| &frame.entry).eq(&entries));
    let mut reader = Reader::open(dir.path(), 6).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().seq, 6);
}

#[test]
fn a_torn_last_frame_is_cut_wherever_it_was_torn() {
    let crashed = crashed_log(5, 40, &quiet());
    let frame = HEADER_BYTES as u64 + 40;
    let start = START + 4 * frame;
    for keep in 0..frame {
        for truncate in [false, true] {
            let dir = crash_copy(crashed.path());
            let file = segments(dir.path())[0].clone();
            let zeros = usize::try_from(frame - keep).unwrap();
            write_at(&file, &vec![0; zeros], start + keep);
            if truncate {
                File::options().write(true).open(&file).unwrap().set_len(start + keep).unwrap();
            }
            // The body's own last bytes may be zeros: then nothing is torn, and nothing is lost.
            let whole = fs::read(&file).unwrap()[..] == fs::read(&segments(crashed.path())[0]).unwrap()[..];
            let reported = verify(dir.path()).unwrap();
            assert_eq!(reported.ok, keep == 0 || whole, "{keep}: {reported:?}");
            if !reported.ok {
                assert!(reported.problems[0].what.starts_with("tail: "), "{reported:?}");
                assert_eq!((reported.problems[0].offset, reported.problems[0].seq), (start, 5));
            }
            let (log, recovered, _) = open(dir.path(), &quiet()).unwrap();
            assert_eq!(recovered.tail_cut.is_some(), !reported.ok);
            drop(log);
            goes_on(dir.path(), if whole { 5 } else { 4 });
        }
    }
}

#[test]
fn every_flipped_byte_of_a_middle_frame_is_located() {
    let crashed = crashed_log(5, 120, &quiet());
    let frame = HEADER_BYTES as u64 + 120;
    let offset = START + 2 * frame;
    for at in 0..frame {
        let dir = crash_copy(crashed.path());
        let file = segments(dir.path())[0].clone();
        flip(&file, offset + at);
        let problem = refused(dir.path());
        assert_eq!(
            (problem.segment.as_str(), problem.offset, problem.seq),
            (name(&file).as_str(), offset, 3)
        );
        let verification = verify(dir.path()).unwrap();
        assert_eq!(verification.problems.len(), 1, "{verification:?}");
        assert_eq!(
            (verification.frames, verification.last),
            (4, Some(5)),
            "the frames behind it are provable"
        );
        let mut reader = Reader::open(dir.path(), 1).unwrap();
        assert_eq!(reader.next().unwrap().unwrap().seq, 1);
        assert_eq!(reader.next().unwrap().unwrap().seq, 2);
        assert!(matches!(reader.next(), Err(LogError::Damaged(place)) if place.offset == offset));
    }
}

#[test]
fn all_problems_are_listed() {
    let dir = crashed_log(40, 200, &quiet());
    let files = segments(dir.path());
    assert!(files.len() > 3);
    flip(&files[0], START + 300);
    flip(&files[1], START + 300);
    flip(&files[2], 20);
    let verification = verify(dir.path()).unwrap();
    let places: Vec<_> = verification.problems.iter().map(|p| (p.segment.clone(), p.offset)).collect();
    assert!(places.contains(&(name(&files[0]), START + 280)), "{places:?}");
    assert!(places.contains(&(name(&files[1]), START + 280)), "{places:?}");
    assert!(places.contains(&(name(&files[2]), 0)), "{places:?}");
    assert_eq!(verification.last, Some(40));
}

/// Without the mark the last commit's own frame cannot be told from a torn one; with it, it can.
#[test]
fn a_flip_in_the_last_acknowledged_frame_is_damage_once_the_mark_knows_it() {
    let dir = tempfile::tempdir().unwrap();
    let (log, ..) = open(dir.path(), &quiet()).unwrap();
    for number in 1..=3 {
        log.append_blocking(vec![entry(number, 100)]).unwrap();
    }
    let before_the_mark = crash_copy(dir.path());
    drop(log);
    let last = START + 2 * (HEADER_BYTES as u64 + 100);

    flip(&segments(before_the_mark.path())[0], last + 90);
    goes_on(before_the_mark.path(), 2);

    flip(&segments(dir.path())[0], last + 90);
    let problem = refused(dir.path());
    assert_eq!((problem.offset, problem.seq), (last, 3));
    let known_loss = Options { acknowledged_loss: AcknowledgedLoss::Accept, ..quiet() };
    let (log, recovered, _) = open(dir.path(), &known_loss).unwrap();
    assert_eq!(recovered.tail_cut.unwrap().lost, Some(3..=3));
    drop(log);
    goes_on(dir.path(), 2);
}

#[test]
fn acknowledged_frames_that_vanished_from_the_end_are_missed() {
    let dir = crashed_log(6, 100, &quiet());
    drop(open(dir.path(), &quiet()).unwrap());
    let file = segments(dir.path())[0].clone();
    let offset = START + 4 * (HEADER_BYTES as u64 + 100);
    write_at(&file, &[0; 2 * (HEADER_BYTES + 100)], offset);
    let problem = refused(dir.path());
    assert_eq!((problem.offset, problem.seq), (offset, 5));
    assert!(problem.what.contains("sequences 5 to 6"), "{}", problem.what);
    assert!(!verify(dir.path()).unwrap().ok);
    let known_loss = Options { acknowledged_loss: AcknowledgedLoss::Accept, ..quiet() };
    let (log, recovered, _) = open(dir.path(), &known_loss).unwrap();
    assert_eq!(recovered.tail_cut.unwrap().lost, Some(5..=6));
    drop(log);
    goes_on(dir.path(), 4);
}

#[test]
fn an_end_that_was_cut_off_may_be_given_up_and_one_that_was_changed_may_not() {
    let cut_allowed = Options { acknowledged_loss: AcknowledgedLoss::AcceptCut, ..quiet() };
    let last = START + 5 * (HEADER_BYTES as u64 + 300);
    for left in [0, 1, HEADER_BYTES as u64 - 1, HEADER_BYTES as u64, 200, 379] {
        let dir = crashed_log(6, 300, &quiet());
        drop(open(dir.path(), &quiet()).unwrap());
        let file = segments(dir.path())[0].clone();
        OpenOptions::new().write(true).open(&file).unwrap().set_len(last + left).unwrap();
        assert!(!verify(dir.path()).unwrap().ok, "{left} bytes left");
        let (log, recovered, _) = open(dir.path(), &cut_allowed).unwrap();
        assert_eq!(recovered.tail_cut.unwrap().lost, Some(6..=6), "{left} bytes left");
        drop(log);
        goes_on(dir.path(), 5);
    }
    let dir = crashed_log(6, 300, &quiet());
    drop(open(dir.path(), &quiet()).unwrap());
    flip(&segments(dir.path())[0], last + 90);
    assert!(open(dir.path(), &cut_allowed).is_err());
}

/// A disk writes the sectors of one commit in any order: whole frames behind a torn one of the same commit
/// prove nothing.
#[test]
fn whole_frames_of_the_same_commit_behind_the_tear_go_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let (log, ..) = open(dir.path(), &quiet()).unwrap();
    log.append_blocking(vec![entry(1, 100)]).unwrap();
    log.append_blocking((2..=6).map(|number| entry(number, 400)).collect()).unwrap();
    let dir = crash_copy(dir.path());
    write_at(&segments(dir.path())[0], &[0; 512], 1024);
    let reported = verify(dir.path()).unwrap();
    assert!(reported.problems[0].what.starts_with("tail: "), "{reported:?}");
    goes_on(dir.path(), 1);
}

/// The same bytes, but a later commit says that the first was durable.
#[test]
fn a_tear_before_a_later_commit_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (log, ..) = open(dir.path(), &quiet()).unwrap();
    log.append_blocking((1..=3).map(|number| entry(number, 400)).collect()).unwrap();
    log.append_blocking(vec![entry(4, 100)]).unwrap();
    let dir = crash_copy(dir.path());
    write_at(&segments(dir.path())[0], &[0; 512], 512);
    let problem = refused(dir.path());
    assert_eq!((problem.offset, problem.seq), (512, 1));
}

/// A harm to the segment files, in whose file it is reported, how, and whether a mere reader must stumble
/// over it.
struct Harm {
    what: &'static str,
    at: usize,
    done: fn(&[PathBuf]),
    stops_a_reader: bool,
}

const HARMS: [Harm; 8] = [
    Harm { what: "sequences", at: 2, done: |files| remove(&files[1]), stops_a_reader: true },
    Harm { what: "their segment", at: 1, done: |files| remove(&files[0]), stops_a_reader: true },
    Harm { what: "is missing", at: LAST, done: |files| remove(files.last().unwrap()), stops_a_reader: true },
    Harm { what: "swapped", at: 1, done: |files| swap(&files[1], &files[2]), stops_a_reader: true },
    Harm { what: "copied", at: 2, done: |files| copy(&files[1], &files[2]), stops_a_reader: true },
    Harm { what: "damaged: it needs", at: 1, done: |files| set_len(&files[1], 700), stops_a_reader: true },
    // Only zeros are gone, or added: no frame is touched, and yet somebody was there.
    Harm { what: "bytes where 4096", at: 1, done: |files| set_len(&files[1], 4095), stops_a_reader: false },
    Harm { what: "bytes where 4096", at: 1, done: |files| set_len(&files[1], 5000), stops_a_reader: false },
];

const LAST: usize = usize::MAX;

#[test]
fn segments_missing_swapped_doubled_truncated_are_found() {
    let sound = crashed_log(60, 200, &quiet());
    for (index, Harm { what, at, done, stops_a_reader }) in HARMS.iter().enumerate() {
        let dir = crash_copy(sound.path());
        let files = segments(dir.path());
        assert!(files.len() >= 5);
        done(&files);
        let place = name(files.get(*at).unwrap_or(files.last().unwrap()));
        let problem = refused(dir.path());
        assert_eq!(problem.segment, place, "harm {index}: {problem}");
        let problems = verify(dir.path()).unwrap().problems;
        let named = problems.iter().any(|problem| problem.what.contains(what) && problem.segment == place);
        assert!(named, "harm {index}: {problems:#?}");
        assert_eq!(read_to_the_end(dir.path()).is_err(), *stops_a_reader, "harm {index}");
    }
}

fn remove(path: &Path) {
    fs::remove_file(path).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::copy(from, to).unwrap();
}

fn read_to_the_end(dir: &Path) -> Result<u64, LogError> {
    let mut reader = Reader::open(dir, 1)?;
    while reader.next()?.is_some() {}
    Ok(reader.position().seq)
}

fn swap(a: &Path, b: &Path) {
    let aside = a.with_extension("aside");
    fs::rename(a, &aside).unwrap();
    fs::rename(b, a).unwrap();
    fs::rename(&aside, b).unwrap();
}

fn set_len(path: &Path, len: u64) {
    File::options().write(true).open(path).unwrap().set_len(len).unwrap();
}

#[test]
fn a_log_whose_end_was_replaced_by_another_is_noticed() {
    let ours = crashed_log(3, 100, &quiet());
    drop(open(ours.path(), &quiet()).unwrap());
    let theirs = crashed_log(4, 101, &quiet());
    fs::copy(&segments(theirs.path())[0], &segments(ours.path())[0]).unwrap();
    assert!(refused(ours.path()).what.contains("marked durable"));
}

#[test]
fn a_lost_mark_is_reported_and_made_anew() {
    let dir = crashed_log(3, 100, &quiet());
    fs::remove_file(dir.path().join("mark")).unwrap();
    assert_eq!(verify(dir.path()).unwrap().problems[0].segment, "mark");
    let (_log, recovered, frames) = open(dir.path(), &quiet()).unwrap();
    assert!(recovered.mark_rebuilt);
    assert_eq!(frames.len(), 3);
    assert!(verify(dir.path()).unwrap().ok);
}

#[test]
fn half_a_mark_is_enough() {
    let dir = crashed_log(3, 100, &quiet());
    drop(open(dir.path(), &quiet()).unwrap());
    for slot in [0, 512] {
        let dir = crash_copy(dir.path());
        flip(&dir.path().join("mark"), slot + 33);
        assert!(verify(dir.path()).unwrap().ok);
        assert!(!open(dir.path(), &quiet()).unwrap().1.mark_rebuilt);
    }
}

/// Writes noise, zeros, or another part of the file somewhere or everywhere, or cuts the end off.
fn random_harm(file: &Path, dice: &mut StdRng) {
    let mut bytes = fs::read(file).unwrap();
    if bytes.is_empty() {
        return; // An earlier harm left nothing of it.
    }
    let at = dice.random_range(0..bytes.len());
    let len = dice.random_range(1..=(bytes.len() - at).min(700));
    match dice.random_range(0..6) {
        0 => bytes[at] ^= 1 << dice.random_range(0..8),
        1 => bytes[at..at + len].fill(0),
        2 => dice.fill(&mut bytes[at..at + len]),
        3 => {
            let from = dice.random_range(0..=bytes.len() - len);
            bytes.copy_within(from..from + len, at);
        }
        4 => dice.fill(&mut bytes[..]),
        _ => bytes.truncate(at),
    }
    fs::write(file, bytes).unwrap();
}

/// Whatever happens to the segments of a log that was closed: it opens with every frame, or not at all.
#[test]
fn no_harm_to_a_closed_log_loses_a_frame_in_silence() {
    let (seed, mut dice) = dice("harm");
    let closed = crashed_log(30, 150, &quiet());
    let (log, _, sound) = open(closed.path(), &quiet()).unwrap();
    drop(log);
    let mut refusals = 0;
    for round in 0..300 {
        let dir = crash_copy(closed.path());
        let files = segments(dir.path());
        for _ in 0..dice.random_range(1..=3) {
            random_harm(&files[dice.random_range(0..files.len())], &mut dice);
        }
        let verified = verify(dir.path()).unwrap();
        let read = read_to_the_end(dir.path());
        match open(dir.path(), &quiet()) {
            Ok((_, _, frames)) => {
                assert!(
                    frames == sound,
                    "round {round} of BACKSTAY_SEED={seed}: a frame is gone: {verified:#?}"
                );
                assert!(verified.ok || verified.problems[0].what.starts_with("tail: "), "{verified:#?}");
                assert_eq!(read.unwrap(), 30);
            }
            Err(LogError::Damaged(_)) => {
                assert!(!verified.ok, "round {round} of BACKSTAY_SEED={seed}");
                refusals += 1;
            }
            Err(other) => panic!("round {round} of BACKSTAY_SEED={seed}: {other}"),
        }
    }
    assert!(refusals > 100, "{refusals}");
}
