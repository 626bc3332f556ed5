//! Past the page cache: memory and files for transfers that the device does by itself.
//!
//! Gigabytes that are written once, and read back once to see whether they are there, gain nothing from the page cache:
//! the way through it takes a second of processor for each of them, and what is read back out of it proves nothing
//! about the storage. `O_DIRECT` (open(2)) wants memory, offsets and lengths in whole blocks; a file system that has no
//! such transfers gets the ordinary ones, which need no permission of the caller's. Knows nothing of what is in the files.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

/// What offsets, lengths and memory are multiples of, in bytes: the largest that a device in use asks for.
const BLOCK: usize = 4096;

/// Bytes of which the first lies at a block's border in memory.
#[derive(Debug, Default)]
pub struct Aligned {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    /// This many zeros. The system gives their pages when they are first touched.
    #[must_use]
    pub fn zeroed(length: usize) -> Self {
        let memory = vec![0; length + BLOCK];
        let start = memory.as_ptr().align_offset(BLOCK);
        Self { memory, start, length }
    }

    /// Has this length from now on, and keeps what it holds up to there; what is behind it is anything.
    pub fn resize(&mut self, length: usize) {
        if self.start + length > self.memory.len() {
            // More than is asked for, so that growing by little copies little.
            let mut larger = Self::zeroed(length.max(2 * self.length));
            larger[..self.length].copy_from_slice(self);
            *self = larger;
        }
        self.length = length;
    }
}

impl Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

/// Writes `bytes` to the start of an empty file: whole blocks past the page cache where both sides allow it. Not durable
/// before a sync, as any write.
pub(crate) fn write_new(file: &File, bytes: &[u8]) -> io::Result<()> {
    let cached = fcntl_getfl(file)?;
    let whole = whole_blocks(bytes, 0);
    let mut written = 0;
    if whole > 0 && fcntl_setfl(file, cached | OFlags::DIRECT).is_ok() {
        let past = write_blocks(file, &bytes[..whole], 0);
        fcntl_setfl(file, cached)?;
        written = past?;
    }
    file.write_all_at(&bytes[written..], written as u64)
}

/// A file or block device that is written and read past the page cache, as far as it allows that. Usable by several
/// threads at a time.
#[derive(Debug)]
pub struct Direct {
    file: File,
    /// The same file, opened once more; closed only with `file`, since closing either ends this process's locks on both.
    past: Option<File>,
    refused: AtomicBool,
}

impl Direct {
    /// Takes a file that is open for reading and writing.
    #[must_use]
    pub fn new(file: File) -> Self {
        // By its descriptor, since its name may be another by now.
        let again = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = OFlags::DIRECT.bits().cast_signed();
        let past = OpenOptions::new().read(true).write(true).custom_flags(flags).open(again).ok();
        Self { file, past, refused: AtomicBool::new(false) }
    }

    /// The file, for everything that is not reading or writing.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// The system's.
    pub fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut written = 0;
        if let Some(past) = self.past(bytes, offset) {
            written = write_blocks(past, &bytes[..whole_blocks(bytes, offset)], offset)?;
            self.note(written);
        }
        self.file.write_all_at(&bytes[written..], offset + written as u64)
    }

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// The system's; `UnexpectedEof` behind the end of the file.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut read = 0;
        if let Some(past) = self.past(buffer, offset) {
            let whole = whole_blocks(buffer, offset);
            while read < whole {
                match past.read_at(&mut buffer[read..whole], offset + read as u64) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    // Less than a block is left of the file, and the next transfer would not begin at a border.
                    Ok(some) if some % BLOCK != 0 => {
                        read += some;
                        break;
                    }
                    Ok(some) => read += some,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if is_refusal(&error) => break,
                    Err(error) => return Err(error),
                }
            }
            self.note(read);
        }
        self.file.read_exact_at(&mut buffer[read..], offset + read as u64)
    }

    /// The way past the cache, where it is open and `bytes` are such that they can take it.
    fn past(&self, bytes: &[u8], offset: u64) -> Option<&File> {
        let open = whole_blocks(bytes, offset) > 0 && !self.refused.load(Ordering::Relaxed);
        self.past.as_ref().filter(|_| open)
    }

    /// Some file systems open such a file and only then say that they cannot transfer.
    fn note(&self, transferred: usize) {
        if transferred == 0 {
            self.refused.store(true, Ordering::Relaxed);
        }
    }
}

/// How many of the bytes, which belong at `offset`, can pass by the cache.
fn whole_blocks(bytes: &[u8], offset: u64) -> usize {
    let aligned = bytes.as_ptr().align_offset(BLOCK) == 0 && offset.is_multiple_of(BLOCK as u64);
    if aligned { bytes.len() / BLOCK * BLOCK } else { 0 }
}

/// Writes whole blocks; how many bytes of them were taken this way.
fn write_blocks(file: &File, blocks: &[u8], offset: u64) -> io::Result<usize> {
    let mut written = 0;
    while written < blocks.len() {
        match file.write_at(&blocks[written..], offset + written as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(some) => written += some,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_refusal(&error) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}

/// Whether the file system takes no such transfers, or not this one: the ordinary way is open.
fn is_refusal(error: &io::Error) -> bool {
    let refusals = [Errno::INVAL, Errno::OPNOTSUPP, Errno::NOSYS];
    refusals.iter().any(|refusal| error.raw_os_error() == Some(refusal.raw_os_error()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn pattern(length: usize) -> Aligned {
        let mut bytes = Aligned::zeroed(length);
        bytes.iter_mut().enumerate().for_each(|(place, byte)| *byte = u8::try_from(place % 251).unwrap());
        bytes
    }

    /// On a disk, and in memory, where some systems have no such transfers.
    fn folders() -> Vec<tempfile::TempDir> {
        let here = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        [Some(here), tempfile::tempdir_in("/dev/shm").ok()].into_iter().flatten().collect()
    }

    #[test]
    fn memory_keeps_what_it_holds_and_its_border() {
        let mut bytes = pattern(5000);
        for length in [5000, 100, 4096, 5000, 70_000, 3] {
            let kept = bytes.len().min(length).min(3);
            bytes.resize(length);
            assert_eq!((bytes.len(), bytes.as_ptr().align_offset(BLOCK)), (length, 0));
            assert!(bytes[..kept] == [0, 1, 2][..kept]);
        }
    }

    #[test]
    fn a_new_file_holds_what_was_written_whatever_its_length() {
        for folder in folders() {
            for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 5 * BLOCK + 700] {
                let (bytes, path) = (pattern(length), folder.path().join(format!("{length}")));
                for unaligned in [0, 1.min(length)] {
                    let file =
                        OpenOptions::new().create(true).truncate(true).write(true).open(&path).unwrap();
                    write_new(&file, &bytes[unaligned..]).unwrap();
                    assert!(std::fs::read(&path).unwrap() == bytes[unaligned..], "{length} from {unaligned}");
                }
            }
        }
    }

    #[test]
    fn any_range_is_written_and_read() {
        for folder in folders() {
            let path = folder.path().join("file");
            let mut expected = vec![0; 10 * BLOCK + 100];
            std::fs::write(&path, &expected).unwrap();
            let file = Direct::new(OpenOptions::new().read(true).write(true).open(&path).unwrap());
            let end = expected.len();
            for (offset, length) in [
                (0, 2 * BLOCK),
                (BLOCK, 700),
                (3 * BLOCK + 5, BLOCK),
                (8 * BLOCK, 2 * BLOCK + 100),
                (end - 1, 1),
            ] {
                let bytes = pattern(length);
                file.write_all_at(&bytes, offset as u64).unwrap();
                expected[offset..offset + length].copy_from_slice(&bytes);
                let mut read = Aligned::zeroed(length);
                file.read_exact_at(&mut read, offset as u64).unwrap();
                assert!(*read == *bytes, "{length} from {offset}");
                assert!(std::fs::read(&path).unwrap() == expected, "{length} at {offset}");
            }
            let mut beyond = Aligned::zeroed(4 * BLOCK);
            for offset in [8 * BLOCK, 20 * BLOCK] {
                let error = file.read_exact_at(&mut beyond, offset as u64).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "from {offset}");
            }
        }
    }
}
