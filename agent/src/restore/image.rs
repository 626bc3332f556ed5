//! What can be written and read back: bytes of a file or block device, or of whatever format QEMU serves over NBD.
//!
//! All calls block, and come from several threads. Knows nothing of what is written.

use std::io;
use std::sync::{Mutex, MutexGuard};

use repository::Direct;
use rustix::fs::{Advice, FallocateFlags, SeekFrom, fadvise, fallocate, seek};
use tokio::runtime::Handle;

use crate::nbd::{Extent, Nbd, NbdError};

/// An image of which any part can be written and read.
pub(super) trait Image: Sync {
    /// Fills the buffer from `offset`.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`.
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Says that all of an extent will be written soon. Nothing but time may depend on it.
    fn expect(&self, _extent: Extent) -> io::Result<()> {
        Ok(())
    }

    /// Makes an extent read as zeros, giving its space back where that is possible.
    fn zero(&self, extent: Extent) -> io::Result<()>;

    /// Whether an extent is known to read as zeros without reading it. `false` promises nothing.
    fn is_hole(&self, extent: Extent) -> io::Result<bool>;

    /// Returns once everything is on stable storage; what is read after that comes from there, as far as that can be
    /// had.
    fn sync(&self) -> io::Result<()>;
}

/// A raw image file or a block device.
#[derive(Debug)]
pub(super) struct RawImage {
    pub(super) file: Direct,
    /// Whether holes can be asked for: not of a block device.
    pub(super) is_file: bool,
}

impl Image for RawImage {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    /// Into room that is there already several threads may write, and read, at a time; ext4 for one locks the whole file
    /// while it makes room for a block.
    fn expect(&self, extent: Extent) -> io::Result<()> {
        let made = fallocate(self.file.file(), FallocateFlags::empty(), extent.offset, extent.length);
        match made {
            Err(error @ (rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT)) => Err(error.into()),
            // Not every file system can, and no block device.
            _ => Ok(()),
        }
    }

    fn zero(&self, extent: Extent) -> io::Result<()> {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(self.file.file(), hole, extent.offset, extent.length) {
            Ok(()) => Ok(()),
            // Not every filesystem and device can.
            Err(_) => {
                let zeros = vec![0; usize::try_from(extent.length).map_err(io::Error::other)?];
                self.write(extent.offset, &zeros)
            }
        }
    }

    fn is_hole(&self, extent: Extent) -> io::Result<bool> {
        if !self.is_file {
            return Ok(false);
        }
        // All reads and writes name their offset, so the file's position is nobody's.
        match seek(self.file.file(), SeekFrom::Data(extent.offset)) {
            Ok(data) => Ok(data >= extent.end()),
            Err(rustix::io::Errno::NXIO) => Ok(true),
            Err(_) => Ok(false),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.file.file().sync_all()?;
        // For what went through the page cache after all. An advice: where it is not taken, reading back proves the
        // page cache only.
        let _ = fadvise(self.file.file(), 0, None, Advice::DontNeed);
        Ok(())
    }
}

/// An image that a storage daemon serves. Used from threads that are not the runtime's.
#[derive(Debug)]
pub(super) struct NbdImage {
    pub(super) runtime: Handle,
    pub(super) connection: Nbd,
    /// Buffers of the threads that read, to be used again.
    spare: Mutex<Vec<Vec<u8>>>,
}

impl NbdImage {
    pub(super) fn new(runtime: Handle, connection: Nbd) -> Self {
        Self { runtime, connection, spare: Mutex::default() }
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.spare.lock().expect("taking from a list and adding to it do not panic")
    }

    fn wait<T>(&self, request: impl Future<Output = Result<T, NbdError>>) -> io::Result<T> {
        self.runtime.block_on(request).map_err(|error| {
            let full =
                matches!(&error, NbdError::Server { errno, .. } if *errno == crate::nbd::Errno::ENOSPC);
            io::Error::new(if full { io::ErrorKind::StorageFull } else { io::ErrorKind::Other }, error)
        })
    }
}

impl Image for NbdImage {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut bytes = self.spare().pop().unwrap_or_default();
        bytes.resize(buffer.len(), 0);
        let bytes = self.wait(self.connection.read(offset, bytes))?;
        buffer.copy_from_slice(&bytes);
        self.spare().push(bytes);
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.wait(self.connection.write(offset, bytes))
    }

    fn zero(&self, extent: Extent) -> io::Result<()> {
        self.wait(self.connection.write_zeroes(extent, false))
    }

    fn is_hole(&self, extent: Extent) -> io::Result<bool> {
        let runs = self.wait(self.connection.block_status(extent))?;
        let Some(first) = runs.first().and_then(|runs| runs.first()) else { return Ok(false) };
        Ok(first.is_zero() && first.extent.end() >= extent.end())
    }

    fn sync(&self) -> io::Result<()> {
        self.wait(self.connection.flush())
    }
}
