//! A guest's stand-in: it writes to the disks of a storage daemon through FUSE exports, and remembers in which order.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use super::SIZE;

pub const BLOCK: u64 = 4096;

/// One write: which disk, which block. Its place in the log, from 1, is what every eight bytes of the block say.
type Write = (usize, u64);

/// Writes until it is stopped, one block after another, never two at a time.
pub struct Writer {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    thread: Option<JoinHandle<Vec<Write>>>,
}

impl Writer {
    /// Goes on after `log`, over the whole of these disks.
    pub fn start(disks: Vec<PathBuf>, log: Vec<Write>) -> Self {
        Self::paced(disks, log, std::time::Duration::ZERO)
    }

    /// As [`Writer::start`], with a pause after each write.
    pub fn paced(disks: Vec<PathBuf>, mut log: Vec<Write>, pause: std::time::Duration) -> Self {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(log.len() as u64)));
        let (stopped, count) = (stop.clone(), written.clone());
        let thread = std::thread::spawn(move || {
            let open = |path| File::options().write(true).open(path).unwrap();
            let files: Vec<File> = disks.iter().map(open).collect();
            let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ log.len() as u64;
            while !stopped.load(Ordering::Relaxed) {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let disk = log.len() % files.len();
                let block = (state >> 33) % (SIZE / BLOCK);
                log.push((disk, block));
                let number = (log.len() as u64).to_le_bytes();
                files[disk].write_all_at(&number.repeat(512), block * BLOCK).unwrap();
                count.store(log.len() as u64, Ordering::Relaxed);
                std::thread::sleep(pause);
            }
            log
        });
        Self { stop, written, thread: Some(thread) }
    }

    /// Waits until this many more writes are done.
    pub async fn progress(&self, more: u64) {
        let goal = self.written.load(Ordering::Relaxed) + more;
        while self.written.load(Ordering::Relaxed) < goal {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }

    /// Stops it; answers everything that it wrote.
    pub fn stop(mut self) -> Vec<Write> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What the disks hold after the first `n` writes.
pub fn replay(log: &[Write], n: usize, disks: usize) -> Vec<Vec<u8>> {
    let mut images = vec![vec![0; usize::try_from(SIZE).unwrap()]; disks];
    for (number, (disk, block)) in log[..n].iter().enumerate() {
        let at = usize::try_from(block * BLOCK).unwrap();
        images[*disk][at..at + 4096].copy_from_slice(&(number as u64 + 1).to_le_bytes().repeat(512));
    }
    images
}

/// The number of the last write that these images hold.
pub fn newest(images: &[Vec<u8>]) -> usize {
    let numbers = images.iter().flat_map(|image| image.chunks(4096));
    let newest = numbers.map(|block| u64::from_le_bytes(block[..8].try_into().unwrap())).max().unwrap();
    usize::try_from(newest).unwrap()
}
