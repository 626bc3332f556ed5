//! Whole histories of records under power loss: the log, the fold, the bases and the archive together.
//!
//! Each history is lived on a simulated disk until power goes in the middle of one operation, for every operation there
//! is; then the disk keeps all, nothing, or a random part of what was not synced. What was acknowledged must be there,
//! what was not wholly or not at all (each record; a commit of several may keep some of its first), the chain must hold,
//! and the state must be the one that those records make, from whichever base.
//!
//! ```text
//!   JOURNAL_HISTORIES=2000 cargo test --release -p journal --test journal_power       thousands
//!   BACKSTAY_SEED=7 JOURNAL_HISTORIES=1 cargo test -p journal --test journal_power      one again
//! ```

#![allow(clippy::unwrap_used)]

mod history_support;
mod log_support;

use std::sync::Arc;

use history_support::{Historian, folded, histories};
use journal::base::{self, Base};
use journal::log::medium::{Crash, Disk, Segments, SimulatedDisk};
use journal::log::{Entry, HEADER_BYTES, Options, Position, verify_disk};
use journal::replay::{self, Opened};
use log_support::{quiet, seed};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Small segments, so that a short history fills and archives several.
fn options() -> Options {
    Options { first_segment_bytes: 2048, segment_bytes: 4096, ..quiet() }
}

fn open(disk: &SimulatedDisk) -> Opened {
    try_open(disk).unwrap()
}

fn try_open(disk: &SimulatedDisk) -> Result<Opened, replay::ReplayError> {
    replay::open_on(&shared(disk), &options(), u64::MAX, |_, _, _| {})
}

fn shared(disk: &SimulatedDisk) -> Arc<dyn Disk> {
    Arc::new(disk.clone())
}

/// What is being tried: said when it fails.
struct Case(String);

impl Drop for Case {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("it failed with {}", self.0);
        }
    }
}

/// A history, and what became of it on a disk.
struct Life {
    /// All that was asked for, in order.
    asked: Vec<Entry>,
    acknowledged: usize,
}

impl Life {
    /// Commits of one to five records, now and then a base, now and then the archive, until power goes.
    fn live(disk: &SimulatedDisk, seed: u64) -> Life {
        let mut life = Life { asked: Vec::new(), acknowledged: 0 };
        let mut historian = Historian::new(seed);
        let Ok(Opened { log, .. }) = try_open(disk) else { return life };
        for _ in 0..historian.dice.random_range(4..14) {
            let count = historian.dice.random_range(1..=5);
            let commit = historian.take(count);
            life.asked.extend(commit.iter().cloned());
            if log.append_blocking(commit).is_err() {
                break;
            }
            life.acknowledged = life.asked.len();
            if historian.dice.random_ratio(1, 4) {
                let at = *log.durable().borrow();
                // Whether it is written makes no difference to anything but time.
                let _written = base::write(disk, &Base { at, state: historian.state.clone() });
            }
            if historian.dice.random_ratio(1, 6) {
                let _moved = log.archive(replay::archivable(disk).unwrap_or(0), 0);
            }
        }
        life
    }

    /// Checks what a crash left, and that the journal goes on from there.
    fn check(&self, after: &SimulatedDisk) {
        let disk = shared(after);
        let verified = verify_disk(after).unwrap();
        let harmless = |what: &str, segment: &str| what.starts_with("tail: ") || segment == "mark";
        assert!(verified.problems.iter().all(|it| harmless(&it.what, &it.segment)), "{verified:#?}");
        let Opened { log, state, .. } = open(after);
        let there = usize::try_from(log.durable().borrow().seq).unwrap();
        assert!(there >= self.acknowledged, "{} were acknowledged, {there} are there", self.acknowledged);
        assert!(there <= self.asked.len());
        assert_eq!(state, folded(&self.asked, there), "what {there} records make so");
        self.check_past(&disk, there);
        log.append_blocking(vec![Entry { epoch: 1 << 40, ..epoch_began() }]).unwrap();
        drop(log);
        let verified = verify_disk(after).unwrap();
        assert!(verified.ok, "{verified:#?}");
        assert_eq!(replay::untrue_bases(&Segments::on(disk), u64::MAX).unwrap(), []);
    }

    /// Time travel says what the records say, archived or not.
    fn check_past(&self, disk: &Arc<dyn Disk>, there: usize) {
        for at in [1, there / 2, there] {
            if at > 0 && at <= there {
                let past = replay::state_at(disk, Some(at as u64)).unwrap();
                assert_eq!(past.state, folded(&self.asked, at), "at record {at}");
                assert_eq!(past.time.0, self.asked[at - 1].time);
            }
        }
    }
}

fn epoch_began() -> Entry {
    let record = journal::Record::from(journal::record::EpochBegan { pid: 1, version: "1".into() });
    let encoded = record.encode().unwrap();
    Entry { kind: encoded.kind, version: encoded.version, epoch: 0, time: 1, body: encoded.body }
}

fn crashes(dice: &mut StdRng) -> [Crash; 4] {
    [Crash::Process, Crash::LoseAll, Crash::LoseSome(dice.random()), Crash::LoseSome(dice.random())]
}

#[test]
fn power_lost_at_every_operation_of_any_history() {
    let first = seed("histories");
    let (mut cases, mut archived, mut based) = (0u64, 0, 0);
    for history in 0..histories(25) {
        let seed = first.wrapping_add(history);
        let mut dice = StdRng::seed_from_u64(seed);
        for nth in 1.. {
            let disk = SimulatedDisk::new();
            disk.power_off(nth);
            let life = Life::live(&disk, seed);
            for crash in crashes(&mut dice) {
                let _case = Case(format!("BACKSTAY_SEED={seed}: power off at operation {nth}, {crash:?}"));
                life.check(&disk.crashed(crash));
                cases += 1;
            }
            if disk.operations() < nth {
                archived += disk.archive().names().unwrap().len();
                based += base::list(&disk).unwrap().len();
                break;
            }
        }
    }
    println!("{cases} crashes; {archived} segments archived, {based} bases at the ends");
    assert!(histories(25) < 20 || (archived > 0 && based > 0), "the histories are too poor to mean anything");
}

/// The last frame, torn after each of its bytes: the state is then the one before it.
#[test]
fn the_last_frame_torn_at_every_byte() {
    let first = seed("torn");
    for history in 0..histories(40) {
        let seed = first.wrapping_add(history);
        let disk = SimulatedDisk::new();
        let mut historian = Historian::new(seed);
        let count = historian.dice.random_range(2..30);
        let entries = historian.take(count);
        let log = open(&disk).log;
        log.append_blocking(entries[..count - 1].to_vec()).unwrap();
        log.append_blocking(entries[count - 1..].to_vec()).unwrap();
        // Before the writer is idle: the mark says nothing of the last commit.
        let sound = disk.crashed(Crash::Process);
        let before = folded(&entries, count - 1);
        let (name, end) = end_of(&sound);
        let len = HEADER_BYTES + entries[count - 1].body.len();
        for cut in 0..len {
            let _case = Case(format!("BACKSTAY_SEED={seed}: {cut} of {len} bytes of the last frame"));
            let torn = sound.crashed(Crash::Process);
            let zeros = vec![0; len - cut];
            torn.open(&name).unwrap().unwrap().write_at(&zeros, end - zeros.len() as u64).unwrap();
            let Opened { log, state, .. } = open(&torn);
            let there = log.durable().borrow().seq;
            // Zeros at the end of a body may be what was there before.
            if there == count as u64 {
                assert_eq!(state, folded(&entries, count));
            } else {
                assert_eq!((there, &state), (count as u64 - 1, &before));
            }
        }
    }
}

/// The newest segment, and where what is written in it ends.
fn end_of(disk: &SimulatedDisk) -> (String, u64) {
    let names = disk.names().unwrap();
    let name = names.into_iter().filter(|name| name.ends_with(".log")).max().unwrap();
    let file = disk.open(&name).unwrap().unwrap();
    let mut at = journal::log::segment::SEGMENT_HEADER_BYTES as u64;
    loop {
        let mut header = [0; HEADER_BYTES];
        file.read_at(&mut header, at).unwrap();
        match journal::log::frame::peek_len(&header) {
            Ok(len) => at += len as u64,
            Err(_) => return (name, at),
        }
    }
}

/// Whatever happens to a base, or to all: the state is what the records make, and the harm is told.
#[test]
fn a_harmed_base_is_set_aside() {
    let first = seed("bases");
    for history in 0..histories(60) {
        let seed = first.wrapping_add(history);
        let _case = Case(format!("BACKSTAY_SEED={seed}"));
        let disk = SimulatedDisk::new();
        let mut historian = Historian::new(seed);
        let log = open(&disk).log;
        let mut entries = Vec::new();
        for _ in 0..3 {
            let count = historian.dice.random_range(1..20);
            let commit = historian.take(count);
            entries.extend(commit.iter().cloned());
            log.append_blocking(commit).unwrap();
            let at = *log.durable().borrow();
            base::write(&disk, &Base { at, state: historian.state.clone() }).unwrap();
        }
        drop(log);
        let [newest, older]: [u64; 2] = base::list(&disk).unwrap().try_into().unwrap();
        let sound = open(&disk);
        assert_eq!((sound.base, &sound.state), (newest, &historian.state));
        drop(sound);
        harm(&disk, newest, &mut historian.dice);
        let opened = open(&disk);
        assert_eq!(opened.state, historian.state);
        assert_eq!((opened.base, opened.set_aside.len()), (older, 1), "{:?}", opened.set_aside);
        drop(opened);
        assert_eq!(replay::untrue_bases(&Segments::on(shared(&disk)), u64::MAX).unwrap().len(), 1);
        harm(&disk, older, &mut historian.dice);
        let opened = open(&disk);
        assert_eq!((opened.state, opened.base), (historian.state.clone(), 0));
    }
}

/// Flips a bit, or puts another whole base in its place: of another journal, or an untrue one.
fn harm(disk: &SimulatedDisk, seq: u64, dice: &mut StdRng) {
    let file = disk.open(&base::file_name(seq)).unwrap().unwrap();
    let size = file.size().unwrap();
    match dice.random_range(0..2) {
        0 => {
            let at = dice.random_range(0..size);
            let mut byte = [0];
            file.read_at(&mut byte, at).unwrap();
            file.write_at(&[byte[0] ^ (1 << dice.random_range(0..8))], at).unwrap();
        }
        _ => {
            let elsewhere = Position { seq, hash: journal::log::Hash(dice.random()) };
            let bytes = Base { at: elsewhere, state: Default::default() }.encode().unwrap();
            disk.remove(&base::file_name(seq)).unwrap();
            let file = disk.create(&base::file_name(seq), bytes.len() as u64).unwrap();
            file.write_at(&bytes, 0).unwrap();
        }
    }
}
