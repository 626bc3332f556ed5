//! Appending together: shared syncs, limits, the lock, and readers beside a writer.

#![allow(clippy::unwrap_used)]

mod log_support;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use journal::log::medium::{Disk, DiskFile, SimulatedDisk};
use journal::log::{BODY_LIMIT, Log, LogError, Options, Reader, verify};
use log_support::{entry, open, quiet};

/// A disk that stops in a sync until it is let go on.
struct Gated {
    disk: SimulatedDisk,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    /// Whether the gate is shut, and how many syncs came to it.
    state: Mutex<(bool, u64)>,
    changed: Condvar,
    /// Whose sync came last.
    last: Mutex<Option<std::thread::ThreadId>>,
}

impl Gate {
    fn shut(&self, shut: bool) {
        self.state.lock().unwrap().0 = shut;
        self.changed.notify_all();
    }

    fn pass(&self) {
        *self.last.lock().unwrap() = Some(std::thread::current().id());
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        self.changed.notify_all();
        drop(self.changed.wait_while(state, |state| state.0).unwrap());
    }

    fn wait_for(&self, syncs: u64) {
        let state = self.state.lock().unwrap();
        let (_state, late) =
            self.changed.wait_timeout_while(state, Duration::from_secs(10), |state| state.1 < syncs).unwrap();
        assert!(!late.timed_out(), "no sync came");
    }

    fn syncs(&self) -> u64 {
        self.state.lock().unwrap().1
    }
}

struct GatedFile(Box<dyn DiskFile>, Arc<Gate>);

impl DiskFile for GatedFile {
    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(bytes, offset)
    }
    fn sync(&self) -> io::Result<()> {
        self.1.pass();
        self.0.sync()
    }
}

impl Disk for Gated {
    fn names(&self) -> io::Result<Vec<String>> {
        self.disk.names()
    }
    fn open(&self, name: &str) -> io::Result<Option<Box<dyn DiskFile>>> {
        let file = self.disk.open(name)?;
        Ok(file.map(|file| Box::new(GatedFile(file, Arc::clone(&self.gate))) as Box<dyn DiskFile>))
    }
    fn create(&self, name: &str, len: u64) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(GatedFile(self.disk.create(name, len)?, Arc::clone(&self.gate))))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn sync_names(&self) -> io::Result<()> {
        self.disk.sync_names()
    }
    fn archive(&self) -> Box<dyn Disk> {
        self.disk.archive()
    }
}

/// A log on a disk whose syncs wait at a gate, with room for all that a test appends.
fn gated() -> (Log, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let disk = Gated { disk: SimulatedDisk::new(), gate: Arc::clone(&gate) };
    let options = Options { first_segment_bytes: 1 << 20, segment_bytes: 1 << 20, ..quiet() };
    let (log, _) = Log::open_on(Arc::new(disk), &options, |_| {}).unwrap();
    (log, gate)
}

#[tokio::test]
async fn all_that_is_asked_for_during_a_sync_shares_the_next_one() {
    let (log, gate) = gated();
    let before = gate.syncs();
    gate.shut(true);
    let mut appends = tokio::task::JoinSet::new();
    let append = |number| {
        let log = log.clone();
        async move { log.append(vec![entry(number, 64)]).await.unwrap().start }
    };
    appends.spawn(append(1));
    tokio::task::yield_now().await;
    gate.wait_for(before + 1);
    (2..=64).for_each(|number| drop(appends.spawn(append(number))));
    // One thread runs these tasks in their order: after this one all requests are queued.
    appends.spawn(std::future::ready(0));
    while appends.join_next().await.unwrap().unwrap() != 0 {}
    assert_eq!(log.durable().borrow().seq, 0, "nothing is acknowledged before its sync is done");
    gate.shut(false);
    let mut acknowledged = appends.join_all().await;
    acknowledged.sort_unstable();
    assert!(acknowledged.into_iter().eq(1..=64));
    assert_eq!(gate.syncs() - before, 2);
}

/// A lone blocking append is its own thread's work; what others ask for meanwhile is not, and is nobody's to wait for.
#[tokio::test]
async fn a_blocking_append_does_its_own_commit_and_no_other() {
    let (log, gate) = gated();
    let before = gate.syncs();
    gate.shut(true);
    let own = log.clone();
    let own = std::thread::spawn(move || {
        (own.append_blocking(vec![entry(1, 64)]).unwrap(), std::thread::current().id())
    });
    gate.wait_for(before + 1);
    let mut queued = tokio::task::JoinSet::new();
    (2..=9).for_each(|number| {
        let log = log.clone();
        drop(queued.spawn(async move { log.append(vec![entry(number, 64)]).await.unwrap().start }));
    });
    tokio::task::yield_now().await;
    let syncing = gate.last.lock().unwrap().unwrap();
    gate.shut(false);
    let (range, thread) = own.join().unwrap();
    assert_eq!((range, syncing), (1..2, thread));
    let mut acknowledged = queued.join_all().await;
    acknowledged.sort_unstable();
    assert!(acknowledged.into_iter().eq(2..=9));
    assert_eq!(gate.syncs() - before, 2, "they shared one sync");
    assert_ne!(gate.last.lock().unwrap().unwrap(), thread);
}

/// Blocking and async appends at once: the writer goes from hand to hand, and no request is left lying.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_writer_goes_from_hand_to_hand() {
    const EACH: u64 = 500;
    let disk = SimulatedDisk::new();
    let options = Options { first_segment_bytes: 1 << 20, segment_bytes: 1 << 20, ..quiet() };
    let (log, _) = Log::open_on(Arc::new(disk), &options, |_| {}).unwrap();
    let mut blocking = Vec::new();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let (one, other) = (log.clone(), log.clone());
        blocking.push(std::thread::spawn(move || {
            for number in 0..EACH {
                one.append_blocking(vec![entry(number, 10)]).unwrap();
            }
        }));
        tasks.spawn(async move {
            for number in 0..EACH {
                other.append(vec![entry(number, 10)]).await.unwrap();
                other.make_room(10).await.unwrap();
            }
        });
    }
    let all = async { while tasks.join_next().await.is_some_and(|done| done.is_ok()) {} };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("a request was left lying");
    blocking.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(log.durable().borrow().seq, 6 * EACH);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_appends_keep_their_order() {
    const WRITERS: u64 = 32;
    const EACH: u64 = 20;
    let dir = tempfile::tempdir().unwrap();
    let (log, ..) = open(dir.path(), &Options::default()).unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let log = log.clone();
        writers.spawn(async move {
            let mut last = 0;
            for number in 0..EACH {
                let range = log.append(vec![entry(writer * EACH + number, 64); 2]).await.unwrap();
                assert_eq!(range.end - range.start, 2, "the entries of one append stand together");
                assert!(range.start > last, "one after the other");
                last = range.start;
                assert!(log.durable().borrow().seq > range.start, "acknowledged after it was durable");
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    assert_eq!(log.durable().borrow().seq, WRITERS * EACH * 2);
    drop(log);
    assert_eq!(open(dir.path(), &quiet()).unwrap().1.frames_replayed, WRITERS * EACH * 2);
}

#[test]
fn one_append_at_a_time_costs_one_sync_each() {
    let disk = SimulatedDisk::new();
    let options = Options { first_segment_bytes: 1 << 20, segment_bytes: 1 << 20, ..quiet() };
    let (log, _) = Log::open_on(Arc::new(disk.clone()), &options, |_| {}).unwrap();
    let before = disk.syncs();
    for number in 1..=100 {
        log.append_blocking(vec![entry(number, 256)]).unwrap();
    }
    assert_eq!(disk.syncs() - before, 100);
}

#[test]
fn what_is_too_large_or_nothing_is_refused_and_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (log, ..) = open(dir.path(), &quiet()).unwrap();
    let error = log.append_blocking(vec![entry(1, 1), entry(2, BODY_LIMIT + 1)]).unwrap_err();
    assert!(matches!(error, LogError::TooLarge { bytes } if bytes == BODY_LIMIT + 1));
    assert!(matches!(log.append_blocking(Vec::new()).unwrap_err(), LogError::Empty));
    assert_eq!(log.append_blocking(vec![entry(1, BODY_LIMIT)]).unwrap(), 1..2);
    drop(log);
    assert!(verify(dir.path()).unwrap().ok);
    assert_eq!(Reader::open(dir.path(), 1).unwrap().next().unwrap().unwrap().entry.body.len(), BODY_LIMIT);
}

#[test]
fn a_second_writer_is_refused_and_told_who_holds_the_lock() {
    let dir = tempfile::tempdir().unwrap();
    let (log, ..) = open(dir.path(), &quiet()).unwrap();
    match open(dir.path(), &quiet()) {
        Err(LogError::Locked { holder, .. }) => {
            assert_eq!(holder.pid, Some(std::process::id()));
            assert!(holder.started.is_some() && holder.since.is_some());
        }
        other => panic!("expected a refusal, got {other:?}"),
    }
    assert!(verify(dir.path()).unwrap().writer.is_some());
    drop(log);
    assert!(verify(dir.path()).unwrap().writer.is_none());
    open(dir.path(), &quiet()).unwrap();
}

/// Asking who writes is done under a shared lock; a writer that starts in that instant is not refused for it.
#[test]
fn askers_do_not_keep_a_writer_out() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), &quiet()).unwrap());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                verify(dir.path()).unwrap();
            }
        });
        for _ in 0..100 {
            let opened = open(dir.path(), &quiet());
            done.store(opened.is_err(), Ordering::Relaxed);
            opened.unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// Readers of another process see a log that grows under them, over many segments, and never call it damaged.
#[test]
fn readers_beside_a_writer_see_every_frame_once_and_no_damage() {
    const FRAMES: u64 = 3000;
    let dir = tempfile::tempdir().unwrap();
    let options = Options { settle_after: Duration::from_millis(1), prepare_ahead: true, ..quiet() };
    let (log, ..) = open(dir.path(), &options).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for number in (1..=FRAMES).step_by(3) {
                let commit = (number..number + 3).map(|number| entry(number, 150)).collect();
                log.append_blocking(commit).unwrap();
            }
        });
        scope.spawn(|| {
            let mut reader = Reader::open(dir.path(), 1).unwrap();
            for seq in 1..=FRAMES {
                let frame = loop {
                    match reader.next().unwrap() {
                        Some(frame) => break frame,
                        None => std::thread::yield_now(),
                    }
                };
                assert_eq!((frame.seq, frame.entry), (seq, entry(seq, 150)));
            }
        });
        scope.spawn(|| {
            loop {
                let verification = verify(dir.path()).unwrap();
                assert!(verification.ok, "{verification:#?}");
                if verification.last == Some(FRAMES) {
                    break;
                }
            }
        });
    });
}

#[tokio::test]
async fn a_follower_waits_for_what_becomes_durable() {
    let dir = tempfile::tempdir().unwrap();
    let (log, ..) = open(dir.path(), &quiet()).unwrap();
    log.append((1..=600).map(|number| entry(number, 50)).collect()).await.unwrap();
    let mut follower = log.follow(10).unwrap();
    let mut next = 10;
    while next <= 600 {
        for frame in follower.next().await.unwrap().unwrap() {
            assert_eq!(frame.seq, next);
            next += 1;
        }
    }
    // Dropped while it waits: nothing is lost by that.
    tokio::select! {
        biased;
        more = follower.next() => panic!("nothing was appended, and yet: {more:?}"),
        () = tokio::task::yield_now() => {}
    }
    let (appended, frames) = tokio::join!(log.append(vec![entry(601, 50)]), follower.next());
    assert_eq!(appended.unwrap(), 601..602);
    assert_eq!(frames.unwrap().unwrap()[0].seq, 601);
    drop(log);
    assert!(follower.next().await.unwrap().is_none());
}

/// An idle writer notes the end of the log; nobody has to close it.
#[test]
fn an_idle_writer_settles() {
    let disk = SimulatedDisk::new();
    let options = Options { settle_after: Duration::from_millis(1), ..quiet() };
    let (log, _) = Log::open_on(Arc::new(disk.clone()), &options, |_| {}).unwrap();
    let before = disk.syncs();
    log.append_blocking(vec![entry(1, 10)]).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while disk.syncs() < before + 2 {
        assert!(std::time::Instant::now() < deadline, "the mark was not written");
        std::thread::yield_now();
    }
}
