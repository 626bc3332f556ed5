//! How fast the log is beside the least that its disk must do: `cargo test --release -p journal --test
//! log_speed -- --ignored --nocapture`.

#![allow(clippy::unwrap_used)]

mod log_support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use journal::log::segment::parse_name;
use journal::log::{HEADER_BYTES, Log, Options, Reader};
use log_support::{entry, name, segments};

const BODY: usize = 256;
const SLICE: Duration = Duration::from_millis(250);
const ROUNDS: usize = 15;

/// Runs `commit`, which makes `per_commit` records durable, for a slice of time: records per second.
fn slice(per_commit: usize, mut commit: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut commits = 0u32;
    while start.elapsed() < SLICE {
        commit();
        commits += 1;
    }
    f64::from(commits) * per_commit as f64 / start.elapsed().as_secs_f64()
}

/// A pre-zeroed file that takes one `pwrite` and one `fdatasync` for each commit, round and round.
struct Raw {
    file: File,
    bytes: Vec<u8>,
    offset: u64,
}

impl Raw {
    const MIB: u64 = 64;

    fn new(dir: &Path, per_commit: usize) -> Raw {
        let file = File::create(dir.join("raw")).unwrap();
        (0..Raw::MIB).for_each(|mib| file.write_all_at(&vec![0; 1 << 20], mib << 20).unwrap());
        file.sync_all().unwrap();
        Raw { file, bytes: vec![0xA5; per_commit * (HEADER_BYTES + BODY)], offset: 0 }
    }

    fn commit(&mut self) {
        self.file.write_all_at(&self.bytes, self.offset).unwrap();
        self.file.sync_data().unwrap();
        let len = self.bytes.len() as u64;
        self.offset = (self.offset + len) % ((Raw::MIB << 20) - len);
    }
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// Bytes of the filled segments for each byte of body in them.
fn disk_per_payload(dir: &Path) -> f64 {
    let files = segments(dir);
    let (last, filled) = files.split_last().unwrap();
    let records = parse_name(&name(last)).unwrap() - 1;
    let bytes: u64 = filled.iter().map(|file| file.metadata().unwrap().len()).sum();
    bytes as f64 / (records as f64 * BODY as f64)
}

fn read_back(dir: &Path) -> f64 {
    let start = Instant::now();
    let mut reader = Reader::open(dir, 1).unwrap();
    while reader.next().unwrap().is_some() {}
    reader.position().seq as f64 / start.elapsed().as_secs_f64()
}

/// In slices that alternate, since a disk that others use too is not the same disk a second later.
#[test]
#[ignore = "measures; wants a release build"]
fn records_per_second() {
    for per_commit in [1, 64] {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("log");
        let (log, _) = Log::open(&folder, &Options::default()).unwrap();
        let mut raw = Raw::new(dir.path(), per_commit);
        let (mut raws, mut logs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            raws.push(slice(per_commit, || raw.commit()));
            logs.push(slice(per_commit, || {
                log.append_blocking(vec![entry(1, BODY); per_commit]).unwrap();
            }));
        }
        drop(log);
        let (ours, theirs) = (median(logs), median(raws));
        println!(
            "{per_commit:>3} per commit: log {ours:.0} records/s, raw {theirs:.0}, ratio {:.2}",
            ours / theirs
        );
        println!("    read back {:.0} records/s", read_back(&folder));
        println!("    disk per payload {:.3}", disk_per_payload(&folder));
    }
}
