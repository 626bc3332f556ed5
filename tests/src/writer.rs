//! Seeded random writes to several disks in one global order, and the proof that images of them show one
//! instant of that order. Knows files only: what stands behind them is the test's business.
//!
//! Writes are numbered from 1. Every 4 KiB block carries the number of the write that made it, and the rest
//! of the block follows from number and place, so that a block tells who wrote it and whether it is whole.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::lab::{PATIENCE, until};

/// The unit of writing, in bytes.
pub const BLOCK: usize = 4096;

/// One write that was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Write {
    /// Its place in the global order, from 1.
    pub number: u64,
    /// Index of the disk.
    pub disk: usize,
    /// First block.
    pub block: u64,
    /// How many blocks.
    pub blocks: u64,
}

/// A thread that writes until it is stopped.
#[derive(Debug)]
pub struct Writer {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    log: Arc<Mutex<Vec<Write>>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// Where a set of images stands in the order of writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// The last write that the images show.
    pub last: u64,
    /// Whether they show only a part of that write: it was under way at that instant.
    pub torn: bool,
}

impl Writer {
    /// Starts writing 1 to 16 blocks at a time to random places of random disks, `pause` between two writes.
    /// `first` is the number of the first write: one more than the last of an earlier log of these disks.
    pub fn start(seed: u64, files: &[PathBuf], first: u64, pause: Duration) -> Writer {
        eprintln!("writer: seed {seed}");
        let files: Vec<_> = files.iter().map(|path| open(path)).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(first - 1));
        let log = Arc::default();
        let thread = thread::spawn({
            let (stop, done, log) = (Arc::clone(&stop), Arc::clone(&done), Arc::clone(&log));
            move || write_until(&stop, &done, &log, seed, &files, first, pause)
        });
        Writer { stop, done, log, thread: Some(thread) }
    }

    /// The number of the last write that was acknowledged.
    pub fn last(&self) -> u64 {
        self.done.load(Ordering::Acquire)
    }

    /// Waits until `more` writes more than now are done: the disks take writes.
    #[track_caller]
    pub fn until_progress(&self, more: u64) {
        let wanted = self.last() + more;
        until(&format!("write {wanted} is done"), PATIENCE, || {
            let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            assert!(!ended, "a write failed: the disk gave its guest an error");
            (self.last() >= wanted).then_some(())
        });
    }

    /// The log of all writes so far. Nothing is written for as long as it is held: no write is under way then.
    #[track_caller]
    pub fn pause(&self) -> MutexGuard<'_, Vec<Write>> {
        self.log.lock().expect("the writer does not panic")
    }

    /// Stops after the write that is under way; the log of all writes.
    #[track_caller]
    pub fn stop(mut self) -> Vec<Write> {
        self.stop.store(true, Ordering::Release);
        let thread = self.thread.take().expect("only stop takes the thread");
        let ended = thread.join().expect("the writer does not panic");
        ended.unwrap_or_else(|error| panic!("a write failed: the disk gave its guest an error: {error}"));
        self.pause().clone()
    }
}

impl Writer {
    /// Waits for the end of a writer whose disks are gone; the log of all writes, the last of which may be there in part.
    #[track_caller]
    pub fn bereave(mut self) -> Vec<Write> {
        self.stop.store(true, Ordering::Release);
        let thread = self.thread.take().expect("only its end takes the thread");
        until("the writer notices that its disks are gone", PATIENCE, || thread.is_finished().then_some(()));
        // How it ended says nothing: it may have been between two writes.
        let _ = thread.join().expect("the writer does not panic");
        self.pause().clone()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Not joined: a write to a daemon that hangs would hang the test's end too.
        self.stop.store(true, Ordering::Release);
    }
}

fn open(path: &Path) -> File {
    File::options().write(true).open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn write_until(
    stop: &AtomicBool,
    done: &AtomicU64,
    log: &Mutex<Vec<Write>>,
    seed: u64,
    files: &[File],
    first: u64,
    pause: Duration,
) -> io::Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    for number in first.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        let disk = random.random_range(0..files.len());
        let size = files[disk].metadata()?.len() / BLOCK as u64;
        let blocks = random.random_range(1..=16.min(size));
        let write = Write { number, disk, block: random.random_range(0..=size - blocks), blocks };
        let bytes: Vec<u8> =
            (write.block..write.block + blocks).flat_map(|block| content(number, block)).collect();
        // Held over the write, so that whoever reads the log sees no write that is half done.
        let mut log = log.lock().expect("who reads the log does not panic");
        let written = files[disk].write_all_at(&bytes, write.block * BLOCK as u64);
        // One that failed may have got there in part, and is the last.
        log.push(write);
        drop(log);
        written?;
        done.store(number, Ordering::Release);
        thread::sleep(pause);
    }
    Ok(())
}

/// What write `number` puts into block `block`.
fn content(number: u64, block: u64) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ block;
    let mut bytes = number.to_le_bytes().to_vec();
    while bytes.len() < BLOCK {
        // splitmix64 (Steele, Lea, Flood 2014)
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bytes.extend_from_slice(&(mixed ^ (mixed >> 27)).to_le_bytes());
    }
    bytes
}

/// Finds the instant that raw images of all the disks show.
///
/// # Panics
/// When there is none: a block is not whole, a later write is there and an earlier one is not, or a block
/// that was never written is not zero.
#[track_caller]
pub fn cut(log: &[Write], images: &[PathBuf]) -> Cut {
    // Who wrote each block, in order.
    let mut history: BTreeMap<(usize, u64), Vec<u64>> = BTreeMap::new();
    for write in log {
        for block in write.block..write.block + write.blocks {
            history.entry((write.disk, block)).or_default().push(write.number);
        }
    }
    let shown: Vec<_> = images.iter().enumerate().flat_map(|(disk, image)| numbers(disk, image)).collect();
    let last = shown.iter().map(|(_, number)| *number).max().unwrap_or(0);
    let mut torn = false;
    for (place, number) in shown {
        let writers = history.get(&place).map_or(&[][..], Vec::as_slice);
        assert!(
            number == 0 || writers.contains(&number),
            "{place:?} shows write {number}, which never went there"
        );
        if let Some(next) = writers.iter().find(|writer| **writer > number) {
            assert!(
                *next >= last,
                "not one instant: write {last} is there, {next} is not (disk, block {place:?})"
            );
            torn |= *next == last;
        }
    }
    Cut { last, torn }
}

/// The write that each block of an image shows, 0 where it was never written.
#[track_caller]
fn numbers(disk: usize, image: &Path) -> Vec<((usize, u64), u64)> {
    let file = File::open(image).unwrap_or_else(|error| panic!("{}: {error}", image.display()));
    let size = file.metadata().expect("an open file has a size").len();
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut bytes = [0; BLOCK];
    (0..size / BLOCK as u64)
        .map(|block| {
            reader.read_exact(&mut bytes).unwrap_or_else(|error| panic!("{}: {error}", image.display()));
            let (head, _) = bytes.split_first_chunk().expect("a block is longer than a number");
            let number = u64::from_le_bytes(*head);
            let whole =
                if number == 0 { bytes == [0; BLOCK] } else { bytes[..] == content(number, block)[..] };
            assert!(whole, "{}: block {block} of write {number} is damaged", image.display());
            ((disk, block), number)
        })
        .collect()
}
