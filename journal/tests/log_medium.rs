//! A medium that is no folder: the whole journal, from the append to the state, on compare-and-append in memory.
//!
//! It is what a cluster's key-value store can do: a key for each frame, one for who writes, and a transaction that
//! compares before it puts. Nothing is durable here; that a crash loses nothing is the tests of segments.

#![allow(clippy::unwrap_used)]

mod history_support;
mod log_support;

use std::sync::{Arc, Mutex};

use history_support::{Historian, folded};
use journal::log::medium::{Frames, Medium, Purpose, Run, Tail};
use journal::log::{
    Entry, Frame, HEADER_BYTES, Log, LogError, Options, Position, Problem, Recovered, Room, Verification,
    frame,
};
use journal::replay::{self, ReplayError};
use log_support::{entry, seed};

/// Clones are clients of the same store.
#[derive(Clone, Default)]
struct Store(Arc<Mutex<Keys>>);

#[derive(Default)]
struct Keys {
    /// The frames, by sequence.
    frames: Vec<Vec<u8>>,
    end: Position,
    /// The newest writer: each that opens the log is one more.
    writer: u64,
    /// What is left is for recovery.
    short: bool,
}

/// A writer's transaction: all of it, or nothing.
struct Client {
    store: Store,
    writer: u64,
}

/// Frames from a place on.
struct Reading {
    store: Store,
    from: u64,
    chain: Position,
}

impl Medium for Store {
    fn open(
        &self,
        options: &Options,
        replay: &mut dyn FnMut(&Frame),
    ) -> Result<(Box<dyn Tail>, Recovered), LogError> {
        // First the word that all earlier writers are over: what is read after it is all there is.
        let writer = {
            let mut keys = self.0.lock().unwrap();
            keys.writer += 1;
            keys.writer
        };
        let mut reading = Reading { store: self.clone(), from: 1, chain: Position::START };
        let mut met = options.from == Position::START;
        let mut frames_replayed = 0;
        while let Some(frame) = reading.next(None)? {
            met |= frame.position() == options.from;
            if frame.seq > options.from.seq {
                frames_replayed += 1;
                replay(&frame);
            }
        }
        if !met {
            return Err(LogError::NotOnChain { seq: options.from.seq });
        }
        let last = Some(reading.chain).filter(|last| last.seq > 0);
        let recovered = Recovered { frames_replayed, tail_cut: None, last, mark_rebuilt: false };
        Ok((Box::new(Client { store: self.clone(), writer }), recovered))
    }

    fn frames(&self, from: u64) -> Result<Box<dyn Frames>, LogError> {
        Ok(Box::new(Reading { store: self.clone(), from: from.max(1), chain: Position::START }))
    }

    fn verify(&self) -> Result<Verification, LogError> {
        let mut reading = Reading { store: self.clone(), from: 1, chain: Position::START };
        let problems = loop {
            match reading.next(None) {
                Ok(Some(_)) => {}
                Ok(None) => break Vec::new(),
                Err(LogError::Damaged(problem)) => break vec![*problem],
                Err(other) => return Err(other),
            }
        };
        let frames = reading.chain.seq;
        let there = Some(frames).filter(|frames| *frames > 0);
        let (ok, first) = (problems.is_empty(), there.map(|_| 1));
        Ok(Verification { ok, first, last: there, frames, segments: 0, writer: None, problems })
    }
}

impl Tail for Client {
    fn append(&mut self, expected: &Position, run: &Run, _: Purpose) -> Result<(), LogError> {
        let mut keys = self.store.0.lock().unwrap();
        if keys.writer != self.writer {
            return Err(LogError::Superseded);
        }
        if keys.end != *expected {
            return Err(LogError::Moved { expected: *expected, found: keys.end });
        }
        for (bytes, end) in &run.frames {
            keys.frames.push(run.bytes[bytes.clone()].to_vec());
            keys.end = *end;
        }
        Ok(())
    }

    fn room(&mut self) -> Room {
        if self.store.0.lock().unwrap().short { Room::Reserve } else { Room::Enough }
    }
}

impl Frames for Reading {
    fn position(&self) -> Position {
        self.chain
    }

    fn next(&mut self, durable: Option<u64>) -> Result<Option<Frame>, LogError> {
        let keys = self.store.0.lock().unwrap();
        while durable.is_none_or(|durable| self.chain.seq < durable) {
            let seq = self.chain.seq + 1;
            let Some(bytes) = keys.frames.get(usize::try_from(seq - 1).unwrap()) else { return Ok(None) };
            let checked = frame::decode(bytes).and_then(|it| frame::follows(&it, &self.chain).map(|()| it));
            let frame = checked.map_err(|fault| Problem {
                segment: "store".to_owned(),
                offset: 0,
                seq,
                what: fault.to_string(),
                advice: "Restore this key from a copy".to_owned(),
            })?;
            self.chain = frame.position();
            if seq >= self.from {
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }
}

fn medium(store: &Store) -> Arc<dyn Medium> {
    Arc::new(store.clone())
}

fn open(store: &Store) -> (Log, Recovered) {
    Log::open_in(medium(store), &Options::default(), |_| {}).unwrap()
}

fn entries(numbers: std::ops::Range<u64>) -> Vec<Entry> {
    numbers.map(|number| entry(number, 100)).collect()
}

#[tokio::test]
async fn what_was_appended_is_replayed_read_followed_and_verified() {
    let store = Store::default();
    let (log, recovered) = open(&store);
    assert_eq!(recovered.last, None);
    assert_eq!(log.append(entries(1..4)).await.unwrap(), 1..4);
    assert_eq!(log.append(entries(4..6)).await.unwrap(), 4..6);
    let mut reader = log.reader(3).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().entry, entry(3, 100));
    let mut follower = log.follow(5).unwrap();
    assert_eq!(follower.next().await.unwrap().unwrap()[0].entry, entry(5, 100));
    assert_eq!(log.archive(u64::MAX, 0).unwrap().segments, 0, "it keeps all it has in one place");
    let end = *log.durable().borrow();
    drop(log);
    let (log, recovered) = open(&store);
    assert_eq!((recovered.frames_replayed, recovered.last), (5, Some(end)));
    assert_eq!(log.append(entries(6..7)).await.unwrap(), 6..7);
    let verified = medium(&store).verify().unwrap();
    assert_eq!((verified.ok, verified.first, verified.last), (true, Some(1), Some(6)));
    store.0.lock().unwrap().frames[2][90] ^= 1;
    assert_eq!(medium(&store).verify().unwrap().problems[0].seq, 3);
    assert!(matches!(Log::open_in(medium(&store), &Options::default(), |_| {}), Err(LogError::Damaged(_))));
}

/// The older of two writers is refused, for good, from the moment the newer one has opened the log: also when that one
/// has not appended anything by then.
#[test]
fn an_older_writer_is_refused() {
    let store = Store::default();
    let (older, _) = open(&store);
    older.append_blocking(entries(1..3)).unwrap();
    let (newer, recovered) = open(&store);
    assert_eq!(recovered.last.unwrap().seq, 2);
    let refused = older.append_blocking(entries(3..4)).unwrap_err();
    assert!(matches!(refused, LogError::Superseded), "{refused}");
    assert_eq!(newer.append_blocking(entries(3..4)).unwrap(), 3..4);
    let refused = older.append_blocking(entries(4..5)).unwrap_err();
    assert!(
        matches!(&refused, LogError::Poisoned { first } if first.contains("another writer")),
        "{refused}"
    );
    assert_eq!(older.durable().borrow().seq, 2, "what was refused is not called durable");
    assert_eq!(store.0.lock().unwrap().end, *newer.durable().borrow());
}

/// Two that believe in different ends: nothing of the second is written.
#[test]
fn an_append_after_another_end_is_refused() {
    let store = Store::default();
    let (mut tail, _) = store.open(&Options::default(), &mut |_| {}).unwrap();
    let run = |after: &Position| {
        let mut run = Run::default();
        let end = frame::encode(&mut run.bytes, &entry(1, 10), after, after.seq);
        run.frames.push((0..run.bytes.len(), end));
        run
    };
    let first = run(&Position::START);
    tail.append(&Position::START, &first, Purpose::Work).unwrap();
    let refused = tail.append(&Position::START, &first, Purpose::Work).unwrap_err();
    assert!(matches!(refused, LogError::Moved { found, .. } if Some(found) == first.end()));
    assert_eq!(store.0.lock().unwrap().frames.len(), 1);
}

/// The fold, time travel and the whole verification know nothing of where the journal lies.
#[test]
fn the_state_is_what_the_records_say() {
    let store = Store::default();
    let mut historian = Historian::new(seed("medium"));
    let history = historian.take(60);
    let opened = replay::open_in(&medium(&store), &Options::default(), u64::MAX, |_, _, _| {}).unwrap();
    for commit in history.chunks(7) {
        opened.log.append_blocking(commit.to_vec()).unwrap();
    }
    drop(opened);
    let mut shown = 0;
    let opened =
        replay::open_in(&medium(&store), &Options::default(), u64::MAX, |_, _, _| shown += 1).unwrap();
    assert_eq!((opened.state, opened.base, shown), (folded(&history, 60), 0, 60));
    assert_eq!(replay::state_in(&store, Some(30)).unwrap().state, folded(&history, 30));
    assert!(matches!(replay::state_in(&store, Some(61)), Err(ReplayError::NotYet { last: 60, .. })));
    assert!(replay::verify_in(&store).unwrap().ok);
}

/// A writer that panics is gone with its log: whoever asks learns it, and nobody waits for ever.
/// The room may be gone between the promise and the append: on a disk, since the next segment could not be made by then.
#[tokio::test]
async fn the_room_that_was_promised_is_there() {
    let store = Store::default();
    let (log, _) = open(&store);
    let work = || vec![entry(1, 100)];
    let bytes = (HEADER_BYTES + 100) as u64;
    let short = |short| store.0.lock().unwrap().short = short;

    log.make_room(bytes).await.unwrap();
    short(true);
    assert_eq!(log.append(work()).await.unwrap(), 1..2);
    let refused = log.append(work()).await;
    assert!(matches!(refused, Err(LogError::Full { .. })), "it was promised once: {refused:?}");

    short(false);
    log.make_room(bytes - 1).await.unwrap();
    short(true);
    let refused = log.append(work()).await;
    assert!(matches!(refused, Err(LogError::Full { .. })), "less was promised: {refused:?}");
    log.append_for(Purpose::Recovery, work()).await.unwrap();
}

#[test]
fn a_writer_that_panics_leaves_nobody_waiting() {
    struct Broken;
    impl Tail for Broken {
        fn append(&mut self, _: &Position, _: &Run, _: Purpose) -> Result<(), LogError> {
            panic!("this medium has a bug");
        }
    }
    impl Medium for Broken {
        fn open(
            &self,
            _: &Options,
            _: &mut dyn FnMut(&Frame),
        ) -> Result<(Box<dyn Tail>, Recovered), LogError> {
            let recovered = Recovered { frames_replayed: 0, tail_cut: None, last: None, mark_rebuilt: false };
            Ok((Box::new(Broken), recovered))
        }
        fn frames(&self, seq: u64) -> Result<Box<dyn Frames>, LogError> {
            Err(LogError::NotHere { seq, first: seq + 1 })
        }
        fn verify(&self) -> Result<Verification, LogError> {
            Err(LogError::Closed)
        }
    }
    let (log, _) = Log::open_in(Arc::new(Broken), &Options::default(), |_| {}).unwrap();
    let theirs = log.clone();
    std::thread::spawn(move || theirs.append_blocking(entries(1..2))).join().unwrap_err();
    assert!(matches!(log.append_blocking(entries(1..2)), Err(LogError::Closed)));
    drop(log);
}
