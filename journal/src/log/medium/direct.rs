//! Durable appends past the page cache: one system call, which the device has done when it returns.
//!
//! Owns the whole blocks that such a write must be made of, and what a file system that takes none is answered with.
//! Knows nothing of what is in the file.
//!
//! `O_DIRECT` with `RWF_DSYNC` spares a commit the way into the page cache and back out of it, a sixth of what it takes.
//! What others read through the page cache meanwhile is right: the kernel drops its pages of what is written.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use rustix::fs::OFlags;
use rustix::io::{Errno, ReadWriteFlags, pwritev2, retry_on_intr};

/// What offsets, lengths and memory are multiples of, in bytes: the largest that a device in use asks for.
const BLOCK: usize = 4096;
/// The longest append that is copied into blocks, in bytes. Beyond that, one copy more is what such a write would spare.
const LONGEST: usize = 1 << 20;

/// The end of a file, open for durable appends.
pub(super) struct Direct {
    file: File,
    /// Up to where blocks may be written, in bytes: the file's size, which no append changes, or 0 when it takes none.
    blocks_end: u64,
    /// Whole blocks, from the first aligned byte of it on; those before `end` are as they are in the file.
    memory: Vec<u8>,
    /// Where the last append ended: the block around it is the first in memory. `None`: it is not known.
    end: Option<u64>,
}

impl Direct {
    /// Opens once more what `file` is; `None` where the file system has no such writes, or the way to it is not there.
    pub fn open(file: &File) -> Option<Direct> {
        let flags = OFlags::DIRECT.bits();
        // By its descriptor, since its name may be another by now.
        let again = format!("/proc/self/fd/{}", file.as_raw_fd());
        let direct = OpenOptions::new().write(true).custom_flags(flags.cast_signed()).open(again).ok()?;
        let size = direct.metadata().ok()?.len();
        Some(Direct { file: direct, blocks_end: size, memory: Vec::new(), end: None })
    }

    /// Appends `bytes` at `offset`, behind which there are only zeros, and returns when they are durable; `false` when
    /// nothing was written, since they have to take the other way. `through_cache` is the same file.
    ///
    /// # Errors
    /// The system's. It is not known then what was written.
    pub fn append(&mut self, bytes: &[u8], offset: u64, through_cache: &File) -> io::Result<bool> {
        let block = BLOCK as u64;
        let start = offset / block * block;
        let before = usize::try_from(offset - start).map_err(io::Error::other)?;
        let whole = (before + bytes.len()).next_multiple_of(BLOCK);
        let known = self.end.take() == Some(offset);
        if bytes.len() > LONGEST || start + whole as u64 > self.blocks_end {
            return Ok(false);
        }
        let blocks = blocks(&mut self.memory, whole, before);
        if !known {
            through_cache.read_exact_at(&mut blocks[..before], start)?;
        }
        let written = before + bytes.len();
        blocks[before..written].copy_from_slice(bytes);
        blocks[written..].fill(0);
        let write = || pwritev2(&self.file, &[IoSlice::new(blocks)], start, ReadWriteFlags::DSYNC);
        match retry_on_intr(write) {
            Ok(all) if all == whole => {}
            Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
            // Some file systems open such a file and only then say that they cannot write it.
            Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                self.blocks_end = 0;
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        }
        blocks.copy_within(written / BLOCK * BLOCK.., 0);
        self.end = Some(offset + bytes.len() as u64);
        Ok(true)
    }
}

/// The first `whole` bytes of the aligned part of `memory`, which is made larger if need be and keeps its first `kept`.
fn blocks(memory: &mut Vec<u8>, whole: usize, kept: usize) -> &mut [u8] {
    let skip = memory.as_ptr().align_offset(BLOCK);
    if memory.len() < skip + whole {
        let mut larger = vec![0; whole.next_power_of_two() + BLOCK];
        let into = larger.as_ptr().align_offset(BLOCK);
        // Before the first append there is nothing to keep.
        if let Some(first) = memory.get(skip..skip + kept) {
            larger[into..into + kept].copy_from_slice(first);
        }
        *memory = larger;
    }
    let skip = memory.as_ptr().align_offset(BLOCK);
    &mut memory[skip..skip + whole]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::{Disk, RealDisk};
    use super::LONGEST;

    /// Appends of all lengths, also those that take the other way, leave what they said and zeros behind it.
    #[test]
    fn what_is_appended_is_what_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::create(dir.path()).unwrap();
        let lengths = [1, 80, 4095, 4096, 4097, 511, 8192, 1, LONGEST, LONGEST + 1, 3, 12_288, 700];
        for beginning in [0, 1, 512, 4096] {
            // With a last block that is not whole, in which nothing can be written past the cache.
            let size = beginning + lengths.iter().sum::<usize>() + 5000;
            let file = disk.create("log", size as u64).unwrap();
            let mut expected = vec![7; beginning];
            file.write_at(&expected, 0).unwrap();
            file.sync().unwrap();
            for (count, length) in lengths.into_iter().chain([4000]).enumerate() {
                let bytes = vec![u8::try_from(count).unwrap() + 1; length];
                file.append(&bytes, expected.len() as u64).unwrap();
                expected.extend(bytes);
                let mut there = vec![0; size];
                assert_eq!(disk.open("log").unwrap().unwrap().read_at(&mut there, 0).unwrap(), size);
                assert!(
                    there[..expected.len()] == expected,
                    "{length} bytes, the {count}th, from {beginning}"
                );
                assert!(there[expected.len()..].iter().all(|byte| *byte == 0), "zeros behind it");
            }
            assert_eq!(file.size().unwrap(), size as u64, "no append makes it longer");
        }
    }
}
