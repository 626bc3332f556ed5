//! The journal beside its peers and beside the least that its disk must do, in one run on one file system.
//!
//! Owns the measuring and the table. Durable appends are measured in short slices that alternate between the engines,
//! since a disk that others use too is not the same disk a second later; what touches no disk is criterion's.
//!
//! The folder is `$JOURNAL_BENCH_DIR`, or the system's for temporary files. `JOURNAL_BENCH_ROUNDS` slices of each engine
//! are run, 15 without it; `JOURNAL_BENCH_ENGINES` names those whose names have one of its words, separated by commas.
//! With `JOURNAL_BENCH_APPENDS_ONLY` nothing else is measured.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use journal::base::{self, Base};
use journal::effect::{Freeze, Thaw, VmAddress};
use journal::log::medium::{Frames, Medium, Purpose, RealDisk, Run, Tail};
use journal::log::{
    Entry, Frame, HEADER_BYTES, Log, LogError, Options, Position, Reader, Recovered, Verification, frame,
};
use journal::outcome::{Done, Outcome};
use journal::record::{
    End, EpochBegan, Installed, IntentOpened, IntentSettled, JobEnded, JobQueued, JobStarted, Terms, VmAdded,
    Witness, Work,
};
use journal::state::Stamp;
use journal::{Effect, Epoch, Installation, Intent, IntentId, JobId, Record, State, Time, VmId, replay};
use sha2::{Digest, Sha256};

const BODY: usize = 256;
const SLICE: Duration = Duration::from_millis(250);
const RECORDS: u64 = 1_000_000;
const TAIL: u64 = 10_000;

fn main() {
    // Cargo runs benches in tests too, then without `--bench`: nothing is measured there.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let base = std::env::var_os("JOURNAL_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::tempdir_in(&base).expect("a folder to measure in");
    for per_commit in [1, 64] {
        appends(dir.path(), per_commit);
        parts(per_commit);
    }
    if std::env::var_os("JOURNAL_BENCH_APPENDS_ONLY").is_none() {
        starts(&mut Criterion::default().sample_size(10), dir.path());
    }
}

/// Makes one commit durable, and says how long that took; what it makes the records from is not its work.
type Commit = Box<dyn FnMut() -> Duration>;

/// Times the commit that a closure makes.
fn timed<T>(commit: impl FnOnce() -> T) -> Duration {
    let begun = Instant::now();
    let _done = commit();
    begun.elapsed()
}

/// One way of making records durable.
struct Engine {
    name: &'static str,
    commit: Commit,
    rates: Vec<f64>,
    /// What each commit took.
    spent: Vec<Duration>,
    folder: std::path::PathBuf,
    records: u64,
}

impl Engine {
    fn new(name: &'static str, dir: &Path, per_commit: usize, make: fn(&Path, usize) -> Commit) -> Engine {
        let folder = dir.join(format!("{name}-{per_commit}").replace(' ', "-"));
        std::fs::create_dir(&folder).expect("a folder for the engine");
        Engine {
            name,
            commit: make(&folder, per_commit),
            rates: Vec::new(),
            spent: Vec::new(),
            folder,
            records: 0,
        }
    }

    /// Commits for one slice of time: records per second.
    fn slice(&mut self, per_commit: usize) {
        let mut spent = Duration::ZERO;
        let mut commits = 0u32;
        while spent < SLICE {
            let one = (self.commit)();
            self.spent.push(one);
            spent += one;
            commits += 1;
        }
        let records = f64::from(commits) * per_commit as f64;
        self.records += u64::from(commits) * per_commit as u64;
        self.rates.push(records / spent.as_secs_f64());
    }

    fn median(&self) -> f64 {
        let mut rates = self.rates.clone();
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    }

    /// What the commits take that nothing else on the machine gets in the way of: the fastest tenth is faster. µs.
    fn undisturbed(&self) -> f64 {
        let mut spent = self.spent.clone();
        let tenth = spent.len() / 10;
        spent.select_nth_unstable(tenth).1.as_secs_f64() * 1e6
    }

    fn disk_per_payload(&self) -> f64 {
        size(&self.folder) as f64 / (self.records as f64 * BODY as f64)
    }
}

fn size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).expect("the engine's folder").flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

fn appends(dir: &Path, per_commit: usize) {
    type Make = fn(&Path, usize) -> Commit;
    let makes: &[(&str, Make)] = &[
        ("plain pre-zeroed append", plain),
        ("plain, zeroing included", plain_zeroing),
        ("journal", journal),
        ("journal, from a task", journal_async),
        #[cfg(feature = "sqlite")]
        ("SQLite WAL FULL", sqlite),
        ("redb", redb),
        ("sled and fdatasync", sled),
    ];
    let wanted = std::env::var("JOURNAL_BENCH_ENGINES").unwrap_or_default();
    let is_wanted = |name: &str| wanted.split(',').any(|word| name.contains(word));
    let mut engines: Vec<Engine> = makes
        .iter()
        .filter(|(name, _)| is_wanted(name))
        .map(|(name, make)| Engine::new(name, dir, per_commit, *make))
        .collect();
    let rounds = std::env::var("JOURNAL_BENCH_ROUNDS").ok().and_then(|it| it.parse().ok()).unwrap_or(15);
    for _ in 0..rounds {
        engines.iter_mut().for_each(|engine| engine.slice(per_commit));
    }
    println!(
        "\n{BODY}-byte records, {per_commit} per commit, median of {rounds} slices of {} ms",
        SLICE.as_millis()
    );
    let (floor, fastest) = (engines[0].median(), engines[0].undisturbed());
    for engine in &engines {
        let per_payload = match engine.name {
            name if name.starts_with("journal") => journal_per_payload(&engine.folder),
            _ => engine.disk_per_payload(),
        };
        // The plain files are written over and over.
        let per_payload = match engine.name {
            name if name.starts_with("plain") => "    -".to_owned(),
            _ => format!("{per_payload:>5.2}"),
        };
        println!(
            "  {:<24} {:>10.0} records/s {:>5.2} of the floor  undisturbed {:>7.1} µs a commit {:>5.2} of the floor  \
             {per_payload} bytes on disk per byte",
            engine.name,
            engine.median(),
            engine.median() / floor,
            engine.undisturbed(),
            fastest / engine.undisturbed(),
        );
    }
}

/// Of the segments that are full; the one that is being filled is not yet.
fn journal_per_payload(folder: &Path) -> f64 {
    let mut files: Vec<_> = std::fs::read_dir(folder).expect("the journal's folder").flatten().collect();
    files.retain(|file| file.path().extension().is_some_and(|it| it == "log"));
    files.sort_by_key(std::fs::DirEntry::file_name);
    let last = files.pop().expect("a segment");
    if files.is_empty() {
        return f64::NAN;
    }
    let records: u64 = last.file_name().to_string_lossy()[..20].parse::<u64>().expect("a segment's name") - 1;
    let bytes: u64 = files.iter().map(|file| file.metadata().map_or(0, |it| it.len())).sum();
    bytes as f64 / (records as f64 * BODY as f64)
}

/// A medium that keeps nothing: what is left of an append is what the log does before and after the disk.
struct Nowhere;

impl Medium for Nowhere {
    fn open(&self, _: &Options, _: &mut dyn FnMut(&Frame)) -> Result<(Box<dyn Tail>, Recovered), LogError> {
        let recovered = Recovered { frames_replayed: 0, tail_cut: None, last: None, mark_rebuilt: false };
        Ok((Box::new(Nowhere), recovered))
    }

    fn frames(&self, from: u64) -> Result<Box<dyn Frames>, LogError> {
        Err(LogError::NotHere { seq: from, first: u64::MAX })
    }

    fn verify(&self) -> Result<Verification, LogError> {
        Err(LogError::Closed)
    }
}

impl Tail for Nowhere {
    fn append(&mut self, _: &Position, run: &Run, _: Purpose) -> Result<(), LogError> {
        black_box(run);
        Ok(())
    }
}

/// What of a commit is not the disk's: the fastest of many, so that what else runs here counts least.
fn parts(per_commit: usize) {
    const TRIES: usize = 20_000;
    let fastest = |part: &mut dyn FnMut() -> Duration| (0..TRIES).map(|_| part()).min().expect("some tries");
    let entry = entry();
    let mut bytes = Vec::new();
    let encode = |bytes: &mut Vec<u8>| {
        bytes.clear();
        let end = (0..per_commit).fold(Position::START, |after, _| frame::encode(bytes, &entry, &after, 0));
        black_box(end);
    };
    encode(&mut bytes);
    let framed = bytes.clone();
    let hash =
        || framed.chunks(HEADER_BYTES + BODY).map(Sha256::digest).fold((), |(), hash| _ = black_box(hash));
    let encoded = fastest(&mut || timed(|| encode(&mut bytes)));
    let hashed = fastest(&mut || timed(hash));
    let (log, _) = Log::open_in(Arc::new(Nowhere), &Options::default(), |_| {}).expect("a log");
    let appended = fastest(&mut || {
        let records = vec![entry.clone(); per_commit];
        timed(|| log.append_blocking(records).expect("an append"))
    });
    let us = |part: Duration| part.as_secs_f64() * 1e6;
    println!(
        "  of the journal's commit: {:.1} µs without a disk, of which {:.1} encoding, of which {:.1} SHA-256",
        us(appended),
        us(encoded),
        us(hashed)
    );
}

fn body() -> Vec<u8> {
    (0..BODY).map(|at| (at * 31 % 251) as u8).collect()
}

/// The same into ever new files of 8 MiB, the next of which is filled with zeros on another thread meanwhile: what every
/// log of pre-zeroed segments has to do in the long run.
fn plain_zeroing(folder: &Path, per_commit: usize) -> Commit {
    const SEGMENT: u64 = 8 << 20;
    let zeroed = |path: std::path::PathBuf| {
        let file = File::create(path).expect("a file");
        (0..SEGMENT >> 16).for_each(|at| file.write_all_at(&[0; 1 << 16], at << 16).expect("room"));
        rustix::fs::fdatasync(&file).expect("a sync");
        file
    };
    let (one, other) = (folder.join("one"), folder.join("other"));
    let mut file = zeroed(one.clone());
    let mut paths = [other, one].into_iter().cycle();
    let mut next = None;
    let bytes = vec![0xA5; per_commit * (HEADER_BYTES + BODY)];
    let mut offset = 0;
    Box::new(move || {
        let begun = Instant::now();
        let len = bytes.len() as u64;
        if next.is_none() && offset >= SEGMENT / 2 {
            let path = paths.next().expect("a cycle");
            // A new file, as a new segment is one.
            let _was_not_there = std::fs::remove_file(&path);
            next = Some(std::thread::spawn(move || zeroed(path)));
        }
        if offset + len > SEGMENT {
            file = next.take().expect("begun at half").join().expect("a file of zeros");
            offset = 0;
        }
        file.write_all_at(&bytes, offset).expect("a write");
        rustix::fs::fdatasync(&file).expect("a sync");
        offset += len;
        begun.elapsed()
    })
}

/// One `pwrite` and one `fdatasync` for each commit, round and round in a file that was written before.
fn plain(folder: &Path, per_commit: usize) -> Commit {
    const MIB: u64 = 64;
    let file = File::create(folder.join("raw")).expect("a file");
    (0..MIB).for_each(|mib| file.write_all_at(&vec![0; 1 << 20], mib << 20).expect("room"));
    file.sync_all().expect("a sync");
    let bytes = vec![0xA5; per_commit * (HEADER_BYTES + BODY)];
    let mut offset = 0;
    Box::new(move || {
        let spent = timed(|| {
            file.write_all_at(&bytes, offset).expect("a write");
            rustix::fs::fdatasync(&file).expect("a sync");
        });
        let len = bytes.len() as u64;
        offset = (offset + len) % ((MIB << 20) - len);
        spent
    })
}

fn journal(folder: &Path, per_commit: usize) -> Commit {
    let (log, _) = Log::open(folder, &Options::default()).expect("a log");
    Box::new(move || {
        let records = vec![entry(); per_commit];
        timed(|| log.append_blocking(records).expect("an append"))
    })
}

/// The same from a task of an async runtime, as Backstay itself appends: through the writer's own thread.
fn journal_async(folder: &Path, per_commit: usize) -> Commit {
    let (log, _) = Log::open(folder, &Options::default()).expect("a log");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
    Box::new(move || {
        let records = vec![entry(); per_commit];
        timed(|| runtime.block_on(log.append(records)).expect("an append"))
    })
}

fn entry() -> Entry {
    Entry { kind: 7, version: 1, epoch: 3, time: 1_700_000_000_000_000, body: body() }
}

#[cfg(feature = "sqlite")]
fn sqlite(folder: &Path, per_commit: usize) -> Commit {
    let mut db = rusqlite::Connection::open(folder.join("db")).expect("a database");
    db.execute_batch(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE log (seq INTEGER PRIMARY KEY, body BLOB);",
    )
    .expect("a table");
    let body = body();
    Box::new(move || {
        timed(|| {
            let transaction = db.transaction().expect("a transaction");
            {
                let mut insert =
                    transaction.prepare_cached("INSERT INTO log (body) VALUES (?1)").expect("a statement");
                (0..per_commit).for_each(|_| {
                    insert.execute([&body]).expect("an insert");
                });
            }
            transaction.commit().expect("a commit");
        })
    })
}

fn redb(folder: &Path, per_commit: usize) -> Commit {
    const LOG: redb::TableDefinition<'_, u64, &[u8]> = redb::TableDefinition::new("log");
    let db = redb::Database::create(folder.join("db")).expect("a database");
    let body = body();
    let mut seq = 0;
    Box::new(move || {
        timed(|| {
            let transaction = db.begin_write().expect("a transaction");
            {
                let mut table = transaction.open_table(LOG).expect("a table");
                for _ in 0..per_commit {
                    seq += 1;
                    table.insert(seq, body.as_slice()).expect("an insert");
                }
            }
            transaction.commit().expect("a commit");
        })
    })
}

/// sled's flush is no barrier (sled #1452), so that its file is synced after it.
fn sled(folder: &Path, per_commit: usize) -> Commit {
    let db = sled::Config::default().path(folder).flush_every_ms(None).open().expect("a database");
    let file = File::open(folder.join("db")).expect("sled's file");
    let body = body();
    let mut seq: u64 = 0;
    Box::new(move || {
        let mut batch = sled::Batch::default();
        for _ in 0..per_commit {
            seq += 1;
            batch.insert(&seq.to_be_bytes(), body.as_slice());
        }
        timed(|| {
            db.apply_batch(batch).expect("a batch");
            db.flush().expect("a flush");
            rustix::fs::fdatasync(&file).expect("a sync");
        })
    })
}

/// What is so, and the records that make it so: ten VMs, one job after the other.
struct Historian {
    state: State,
    queue: Vec<Record>,
}

impl Historian {
    fn new() -> Historian {
        let mut queue: Vec<Record> = vec![
            Installed { installation: Installation(7) }.into(),
            EpochBegan { pid: 1, version: "0.1.0".into() }.into(),
        ];
        queue.extend(
            (0..10).map(|vm| VmAdded { vm: address(vm), disks: Vec::new(), labels: Vec::new(), host: None }.into()),
        );
        queue.reverse();
        Historian { state: State::default(), queue }
    }

    fn next(&mut self) -> Entry {
        if self.queue.is_empty() {
            let job = self.state.next.job;
            self.queue = a_job(job, self.state.next.intent, job.0 % 10);
            self.queue.reverse();
        }
        let record = self.queue.pop().expect("a job has records");
        let time = 1_700_000_000_000_000;
        self.state.apply(Stamp { epoch: Epoch(1), time: Time(time) }, &record).expect("a legal history");
        let encoded = record.encode().expect("a record");
        Entry { kind: encoded.kind, version: encoded.version, epoch: 1, time, body: encoded.body }
    }
}

fn address(vm: u64) -> VmAddress {
    let id = VmId(uuid::Uuid::from_u128(u128::from(vm) + 1));
    let name = format!("vm-{vm}").parse().expect("a name");
    VmAddress { id, name, qmp: format!("/run/libvirt/qemu/vm-{vm}.qmp"), guest_agent: None }
}

fn a_job(job: JobId, intent: IntentId, vm: u64) -> Vec<Record> {
    let vm = address(vm);
    let settled =
        |intent| IntentSettled { intent, outcome: Outcome::Done(Done::Plain), by: Witness::Agent }.into();
    let opened = |id, effect| IntentOpened { intent: Intent { id, job: Some(job), effect } }.into();
    vec![
        JobQueued { job, work: Work::Reconcile { vm: vm.id }, due: None, terms: Terms::default() }.into(),
        JobStarted { job }.into(),
        opened(intent, Effect::Freeze(Freeze { vm: vm.clone(), limit_ms: 10_000 })),
        settled(intent),
        opened(intent.next(), Effect::Thaw(Thaw { vm })),
        settled(intent.next()),
        JobEnded { job, end: End::Done, reason: None, class: None }.into(),
    ]
}

/// Reading and folding a million records, and a start from a base with a tail.
fn starts(criterion: &mut Criterion, dir: &Path) {
    let folder = dir.join("million");
    let mut historian = Historian::new();
    let (log, _) = Log::open(&folder, &Options::default()).expect("a log");
    let mut base = None;
    let mut done = 0;
    while done < RECORDS {
        log.append_blocking((0..1000).map(|_| historian.next()).collect()).expect("an append");
        done += 1000;
        if done == RECORDS - TAIL {
            base = Some(Base { at: *log.durable().borrow(), state: historian.state.clone() });
        }
    }
    drop(log);
    let disk = RealDisk::read_only(&folder);
    let open = || replay::open(&folder, &Options::default(), u64::MAX, |_, _, _| {}).expect("a journal");
    let mut group = criterion.benchmark_group("a million records");
    group.throughput(Throughput::Elements(RECORDS));
    group.bench_function("read: frames, checksums, hash chain", |bench| {
        bench.iter(|| {
            let mut reader = Reader::open(&folder, 1).expect("a reader");
            while reader.next().expect("a frame").is_some() {}
        });
    });
    group.bench_function("start without a base: read, decode, fold", |bench| bench.iter(|| drop(open())));
    group.finish();
    base::write(&RealDisk::create(&folder).expect("the folder"), &base.expect("a base")).expect("a base");
    assert_eq!(base::list(&disk).expect("bases"), [RECORDS - TAIL]);
    let mut group = criterion.benchmark_group("start from a base");
    group.bench_function("with a tail of 10,000 records", |bench| bench.iter(|| drop(open())));
    group.finish();
    let opened = open();
    assert!(opened.base == RECORDS - TAIL && opened.state == historian.state, "the same state by either way");
}
