//! A measurement, not a test: how fast real files become packs. Run it by hand in release:
//! `cargo test --release -p repository --test speed -- --ignored --nocapture`.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use repository::{BlobKind, Digest, Local, ReadData, Repository, SessionOptions, unwatched};
use support::*;

const CHUNK: usize = 1 << 20;

/// Fills chunks with the files below a folder, one after the other, as they would lie on a disk.
fn collect(folder: &Path, limit: usize, chunks: &mut Vec<Vec<u8>>) {
    let mut entries =
        fs::read_dir(folder).map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
    entries.sort_by_key(fs::DirEntry::path);
    for entry in entries {
        if chunks.len() >= limit {
            return;
        }
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            collect(&entry.path(), limit, chunks);
        } else if let (true, Ok(mut file)) = (kind.is_file(), fs::File::open(entry.path())) {
            loop {
                if chunks.last().is_none_or(|chunk| chunk.len() >= CHUNK) {
                    chunks.push(Vec::with_capacity(CHUNK));
                }
                let chunk = chunks.last_mut().unwrap();
                let room = (CHUNK - chunk.len()) as u64;
                if file.by_ref().take(room).read_to_end(chunk).unwrap_or(0) == 0 {
                    break;
                }
            }
        }
    }
}

fn rate(bytes: u64, since: Instant) -> f64 {
    rate_of(bytes, since.elapsed().as_secs_f64())
}

fn rate_of(bytes: u64, seconds: f64) -> f64 {
    #[allow(clippy::cast_precision_loss)]
    let bytes = bytes as f64;
    bytes / 1e6 / seconds
}

/// Processor seconds of this process so far: what counts on a machine that others use too.
fn processor_seconds() -> f64 {
    let text = fs::read_to_string("/proc/self/stat").unwrap();
    let fields = text.rsplit(')').next().unwrap().split_whitespace().collect::<Vec<_>>();
    // utime and stime, in hundredths of a second.
    fields[11..13].iter().map(|field| field.parse::<f64>().unwrap() / 100.0).sum()
}

#[test]
#[ignore = "a measurement: minutes in a debug build"]
fn save_and_load_real_files() {
    let mut chunks = Vec::new();
    collect(Path::new("/usr"), 3000, &mut chunks);
    let total = chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
    let threads = std::thread::available_parallelism().unwrap().get();
    println!("{} MB of files, {threads} threads", total / 1_000_000);
    for parent in [std::env::temp_dir(), "/dev/shm".into()] {
        for level in [1, 3] {
            let folder = tempfile::tempdir_in(&parent).unwrap();
            let repository =
                Repository::init(std::sync::Arc::new(Local::new(folder.path())), PASSWORD, &options())
                    .unwrap();
            let options = SessionOptions { compression_level: level, ..SessionOptions::default() };
            let (start, busy) = (Instant::now(), processor_seconds());
            let session = repository.session(&options).unwrap();
            let (next, stored) = (AtomicUsize::new(0), AtomicU64::new(0));
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| {
                        while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
                            stored.fetch_add(
                                session.save(BlobKind::Data, chunk).unwrap().stored,
                                Ordering::Relaxed,
                            );
                        }
                    });
                }
            });
            session.commit().unwrap();
            let saved = rate(total, start);
            let busy = rate_of(total, processor_seconds() - busy);
            let start = Instant::now();
            for chunk in &chunks {
                session.save(BlobKind::Data, chunk).unwrap();
            }
            let known = rate(total, start);
            let start = Instant::now();
            let next = AtomicUsize::new(0);
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| {
                        let mut plain = Vec::new();
                        while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
                            repository.load_blob_into(&Digest::of(chunk), &mut plain).unwrap();
                        }
                    });
                }
            });
            let loaded = rate(total, start);
            let start = Instant::now();
            let read = repository.check(ReadData::All, &unwatched).unwrap().read_bytes;
            let (stored, checked) = (stored.into_inner(), rate(total, start));
            println!(
                "{}: level {level}: save {saved:.0} MB/s ({busy:.0} MB for a processor second), stored {} %, known (1 thread) {known:.0} MB/s, load \
                 (hashed twice) {loaded:.0} MB/s, check {checked:.0} MB/s over {} MB",
                parent.display(),
                stored * 100 / total,
                read / 1_000_000
            );
        }
    }
}
