//! What the tests of the log share: small logs, their files, and seeds.

#![allow(dead_code, clippy::unwrap_used, reason = "each test binary takes what it needs")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use journal::log::{Entry, Frame, Log, LogError, Options, Recovered};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Options under which nothing happens behind a test's back.
pub fn quiet() -> Options {
    Options {
        first_segment_bytes: 4096,
        segment_bytes: 4096,
        settle_after: Duration::from_secs(3600),
        prepare_ahead: false,
        reserve_bytes: 0,
        ..Options::default()
    }
}

pub fn entry(number: u64, len: usize) -> Entry {
    let body = (0..len as u64).map(|at| (number.wrapping_mul(31).wrapping_add(at) % 251) as u8).collect();
    Entry { kind: 7, version: 1, epoch: 3, time: 1_700_000_000_000_000 + number as i64, body }
}

/// Opens the log in `dir` and collects what is replayed.
pub fn open(dir: &Path, options: &Options) -> Result<(Log, Recovered, Vec<Frame>), LogError> {
    let mut frames = Vec::new();
    let (log, recovered) = Log::open_replaying(dir, options, |frame| frames.push(frame.clone()))?;
    Ok((log, recovered, frames))
}

/// A folder as a crash leaves it: copied while the log is open, so that the mark knows nothing of the last
/// commits.
pub fn crash_copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.path().join(file.file_name())).unwrap();
    }
    to
}

/// Writes `count` entries of `len` bytes, one commit each, and returns the folder as a crash leaves it then.
pub fn crashed_log(count: u64, len: usize, options: &Options) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(dir.path(), options).unwrap();
    for number in 1..=count {
        assert_eq!(log.append_blocking(vec![entry(number, len)]).unwrap(), number..number + 1);
    }
    crash_copy(dir.path())
}

/// The segment files in order.
pub fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "log"))
        .collect();
    files.sort();
    files
}

pub fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// Random numbers from [`seed`].
pub fn dice(test: &str) -> (u64, StdRng) {
    let seed = seed(test);
    (seed, StdRng::seed_from_u64(seed))
}

/// The seed of a run, printed: `BACKSTAY_SEED`; without it the same one in every CI run, whose verdict shall depend
/// on the change alone, and a new one elsewhere.
pub fn seed(test: &str) -> u64 {
    let seed = match std::env::var("BACKSTAY_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) if std::env::var_os("CI").is_some() => 1,
        Err(_) => rand::rng().random(),
    };
    println!("{test}: replay with BACKSTAY_SEED={seed}");
    seed
}
