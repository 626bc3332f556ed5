//! Fuzzing with a stable compiler: real journals, mutated, through every way in which bytes come in.
//!
//! The same functions as the targets in `fuzz`. `JOURNAL_ROUNDS` says how many mutations of each are tried; without it a
//! few. A run with an allocation limit shows that no bytes make the journal ask for memory beyond what its formats allow.

#![allow(clippy::unwrap_used)]

mod history_support;
mod log_support;

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use history_support::Historian;
use journal::base::{self, Base};
use journal::log::medium::{Crash, Disk, SimulatedDisk};
use journal::log::{Log, Options};
use journal::{probe, replay};
use log_support::{quiet, seed};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

fn rounds(few: u64) -> u64 {
    std::env::var("JOURNAL_ROUNDS").map_or(few, |many| many.parse().unwrap())
}

/// A journal with everything in it: several segments, an archive, bases.
fn real(seed: u64) -> SimulatedDisk {
    let disk = SimulatedDisk::new();
    let options = Options { first_segment_bytes: 2048, segment_bytes: 4096, ..quiet() };
    let (log, _) = Log::open_on(Arc::new(disk.clone()), &options, |_| {}).unwrap();
    let mut historian = Historian::new(seed);
    for _ in 0..12 {
        log.append_blocking(historian.take(4)).unwrap();
        if historian.dice.random_ratio(1, 3) {
            let at = *log.durable().borrow();
            base::write(&disk, &Base { at, state: historian.state.clone() }).unwrap();
            log.archive(replay::archivable(&disk).unwrap(), 1).unwrap();
        }
    }
    disk
}

/// Every file of a journal: its folder, its name, its bytes.
fn files(disk: &SimulatedDisk) -> Vec<(Box<dyn Disk>, String, Vec<u8>)> {
    let mut found = Vec::new();
    let itself = |disk: &SimulatedDisk| Box::new(disk.clone()) as Box<dyn Disk>;
    for folder in [itself, |disk: &SimulatedDisk| disk.archive()] {
        for name in folder(disk).names().unwrap() {
            let file = folder(disk).open(&name).unwrap().unwrap();
            let mut bytes = vec![0; usize::try_from(file.size().unwrap()).unwrap()];
            file.read_at(&mut bytes, 0).unwrap();
            found.push((folder(disk), name, bytes));
        }
    }
    found
}

/// Values at which arithmetic goes wrong, if it does.
const EDGES: [u64; 8] = [0, 1, 0x7f, 0xff, u32::MAX as u64, 1 << 24, i64::MAX as u64, u64::MAX];

fn mutate(bytes: &mut Vec<u8>, dice: &mut StdRng) {
    for _ in 0..dice.random_range(1..=4) {
        let len = bytes.len();
        if len < 9 {
            bytes.extend([0; 16]);
            continue;
        }
        let at = dice.random_range(0..len - 8);
        let span = dice.random_range(1..=(len - at).min(300));
        match dice.random_range(0..8) {
            0 => bytes[at] ^= 1 << dice.random_range(0..8),
            1 => dice.fill(&mut bytes[at..at + span]),
            2 => bytes[at..at + span].fill(0),
            3 => {
                let edge = EDGES[dice.random_range(0..EDGES.len())].to_le_bytes();
                let width = [1, 2, 4, 8][dice.random_range(0..4)];
                bytes[at..at + width].copy_from_slice(&edge[..width]);
            }
            4 => {
                let from = dice.random_range(0..=len - span);
                bytes.copy_within(from..from + span, at);
            }
            5 => drop(bytes.drain(at..at + span)),
            6 => {
                let piece = bytes[at..at + span].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => bytes.truncate(at),
        }
    }
}

/// Runs `round` for each seed, and fails when one takes long.
fn each(what: &str, few: u64, mut round: impl FnMut(&mut StdRng)) {
    let first = seed(what);
    for number in 0..rounds(few) {
        let seed = first.wrapping_add(number);
        let begun = Instant::now();
        let run = std::panic::AssertUnwindSafe(|| round(&mut StdRng::seed_from_u64(seed)));
        if let Err(panic) = std::panic::catch_unwind(run) {
            println!("BACKSTAY_SEED={seed} JOURNAL_ROUNDS=1 replays it");
            std::panic::resume_unwind(panic);
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "BACKSTAY_SEED={seed}: {:?}", begun.elapsed());
    }
}

#[test]
fn a_mutated_journal_opens_whole_or_is_refused() {
    let sound = real(1);
    each("journal", 300, |dice| {
        let disk = sound.crashed(Crash::Process);
        let mut files = files(&disk);
        for _ in 0..dice.random_range(1..=2) {
            let at = dice.random_range(0..files.len());
            let (folder, name, bytes) = &mut files[at];
            mutate(bytes, dice);
            folder.remove(name).unwrap();
            folder.create(name, bytes.len() as u64).unwrap().write_at(bytes, 0).unwrap();
        }
        probe::journal(&disk);
    });
}

#[test]
fn mutated_frames_records_bases_and_archives_are_read_or_refused() {
    let files = files(&real(2));
    each("pieces", 2000, |dice| {
        let (_, name, bytes) = &files[dice.random_range(0..files.len())];
        let mut bytes = bytes.clone();
        mutate(&mut bytes, dice);
        match name {
            name if name.ends_with(".base") => probe::base(&bytes),
            name if name.ends_with(".zst") => probe::archive(&bytes),
            _ => probe::frame(&bytes),
        }
        let mut entry = Historian::new(dice.random()).take(12).pop().unwrap();
        mutate(&mut entry.body, dice);
        let place = journal::Record::KINDS.iter().position(|(kind, _)| *kind == entry.kind).unwrap();
        probe::record(&[&[u8::try_from(place).unwrap(), 0, 0], entry.body.as_slice()].concat());
    });
}

/// The same in a process that may not have more memory than the largest segment needs a few times over.
#[test]
fn no_bytes_make_it_ask_for_much_memory() {
    const LIMITED: &str = "JOURNAL_TEST_LIMITED";
    if std::env::var_os(LIMITED).is_some() {
        return;
    }
    let run = Command::new("prlimit")
        .arg("--data=201326592")
        .arg(std::env::current_exe().unwrap())
        .args(["--test-threads=1", "mutated"])
        .env(LIMITED, "1")
        .output();
    match run {
        Ok(run) => assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stdout)),
        Err(error) => println!("SKIPPED: prlimit is not here ({error}): no limit was tried"),
    }
}
