//! Segments that were closed and put away: compressed, in the folder `archive`, and still read and proven.
//!
//! Owns an archived segment's name and bytes: `<first>.log.zst`, one zstd frame that unpacks to exactly the segment's
//! file, so that `zstd -d` alone restores it. Which segments may go is the caller's to say. Knows nothing of bodies.
//!
//! The order of things, so that a crash between any two leaves every frame in one place at least: the packed file is
//! written, synced, named, and its name synced; it is read back and compared; the mark says that the live log begins
//! behind it; the live file is removed.

use std::io::{self, Read};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::LogError;
use super::mark::{self, MARK_NAME};
use super::medium::{Disk, DiskFile, Frames, Release};
use super::segment::{self, LONGEST_SEGMENT};
use super::survey::{released, segment_firsts};
use super::trail::Trail;

const SUFFIX: &str = ".zst";
/// What an archived file is called until it is whole.
const FRESH_SUFFIX: &str = ".new";
/// Fast, and half of what a journal is made of compresses well at any level.
const LEVEL: i32 = 6;
/// The largest window that is unpacked, as a power of two: the first above the longest segment.
const WINDOW_LOG: u32 = 25;

/// The name of the archived segment whose first frame is `first`, as problems show it.
#[must_use]
pub fn file_name(first: u64) -> String {
    format!("archive/{}", stored_name(first))
}

fn stored_name(first: u64) -> String {
    segment::file_name(first) + SUFFIX
}

/// What was moved into the archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Moved {
    /// How many segments.
    pub segments: u64,
    /// The first sequence in them.
    pub first: Option<u64>,
    /// The last.
    pub last: Option<u64>,
    /// Bytes that they take now.
    pub packed_bytes: u64,
}

/// Where a segment is.
pub(crate) enum Held {
    /// In the journal's folder.
    Here(Box<dyn DiskFile>),
    /// In the archive; unpacked into memory.
    Archived(Box<dyn DiskFile>),
    /// In the archive, and it does not unpack.
    Unreadable(String),
    /// In neither.
    Nowhere,
}

/// Opens the segment whose first frame is `first`.
pub(crate) fn open_segment(disk: &dyn Disk, first: u64) -> Result<Held, LogError> {
    let name = segment::file_name(first);
    if let Some(file) = disk.open(&name).map_err(LogError::io("open", &name))? {
        return Ok(Held::Here(file));
    }
    let name = file_name(first);
    match disk.archive().open(&stored_name(first)).map_err(LogError::io("open", &name))? {
        None => Ok(Held::Nowhere),
        Some(file) => {
            let packed = read_whole(file.as_ref()).map_err(LogError::io("read", &name))?;
            Ok(match unpack(&packed) {
                Ok(bytes) => Held::Archived(Box::new(Unpacked(bytes))),
                Err(error) => Held::Unreadable(format!("the archived segment does not unpack: {error}")),
            })
        }
    }
}

/// The first sequences of the archived segments, in any order.
pub(crate) fn firsts(disk: &dyn Disk) -> Result<Vec<u64>, LogError> {
    let names = disk.archive().names().map_err(LogError::io("list", "archive"))?;
    Ok(names.iter().filter_map(|name| segment::parse_name(name.strip_suffix(SUFFIX)?)).collect())
}

/// Puts a copy of the segment whose first frame is `first` into the archive, durable and compared; its size in bytes there.
pub(crate) fn put(disk: &dyn Disk, first: u64) -> Result<u64, LogError> {
    let (name, stored) = (file_name(first), stored_name(first));
    let live = segment::file_name(first);
    let gone = || io::Error::new(io::ErrorKind::NotFound, "it was there a moment ago");
    let bytes = disk
        .open(&live)
        .and_then(|file| read_whole(file.ok_or_else(gone)?.as_ref()))
        .map_err(LogError::io("read", &live))?;
    let archive = disk.archive();
    let written = || -> io::Result<u64> {
        let packed = pack(&bytes)?;
        let fresh = stored.clone() + FRESH_SUFFIX;
        let file = archive.create(&fresh, packed.len() as u64)?;
        file.write_at(&packed, 0)?;
        file.sync()?;
        archive.rename(&fresh, &stored)?;
        archive.sync_names()?;
        let back = archive.open(&stored)?.ok_or_else(gone)?;
        if unpack(&read_whole(back.as_ref())?)? != bytes {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it reads back otherwise than it was written",
            ));
        }
        Ok(packed.len() as u64)
    };
    written().map_err(LogError::io("write", &name))
}

/// Moves closed segments that end before `before`, except the newest `keep` of all closed ones. `release` is told each
/// time from which sequence on the live log begins.
pub(crate) fn move_closed(
    disk: &Arc<dyn Disk>,
    before: u64,
    keep: usize,
    release: Release<'_>,
) -> Result<Moved, LogError> {
    let mut live = segment_firsts(disk.as_ref())?;
    live.sort_unstable();
    let mark = mark::read(disk.as_ref()).map_err(LogError::io("read", MARK_NAME))?;
    let released = released(disk.as_ref(), mark, &live)?;
    let mut moved = Moved::default();
    let closed = live.len().saturating_sub(1 + keep);
    for pair in live.windows(2).take(closed) {
        let (first, next) = (pair[0], pair[1]);
        if next > before {
            break;
        }
        // One that is released already was in the archive when a crash came before its removal.
        if first >= released {
            prove(disk, first, next)?;
            moved.packed_bytes += put(disk.as_ref(), first)?;
            release(next)?;
        }
        let name = segment::file_name(first);
        disk.remove(&name).map_err(LogError::io("remove", &name))?;
        moved.first.get_or_insert(first);
        moved.last = Some(next - 1);
        moved.segments += 1;
    }
    disk.sync_names().map_err(LogError::io("sync", "its folder"))?;
    Ok(moved)
}

/// Reads the frames from `first` to before `next`, every one checked: what is damaged is not put away.
fn prove(disk: &Arc<dyn Disk>, first: u64, next: u64) -> Result<(), LogError> {
    let mut trail = Trail::on(Arc::clone(disk), first)?;
    while trail.position().seq + 1 < next {
        if trail.next(None)?.is_none() {
            return Err(LogError::NotOnChain { seq: next - 1 });
        }
    }
    Ok(())
}

fn pack(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut packer = zstd::bulk::Compressor::new(LEVEL)?;
    packer.include_checksum(true)?;
    packer.compress(bytes)
}

/// The segment's bytes; never more than a segment can have.
///
/// # Errors
/// When they are not a whole zstd frame, or unpack to more than [`LONGEST_SEGMENT`].
pub fn unpack(packed: &[u8]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut unpacker = zstd::stream::read::Decoder::with_buffer(packed)?;
    unpacker.window_log_max(WINDOW_LOG)?;
    // One byte beyond the limit tells a bomb from the longest segment.
    unpacker.take(LONGEST_SEGMENT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST_SEGMENT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is longer than any segment"));
    }
    Ok(bytes)
}

fn read_whole(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let size = file.size()?.min(LONGEST_SEGMENT + 1);
    let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// An archived segment in memory.
struct Unpacked(Vec<u8>);

impl DiskFile for Unpacked {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let there = usize::try_from(offset).ok().and_then(|offset| self.0.get(offset..)).unwrap_or_default();
        let len = there.len().min(buffer.len());
        buffer[..len].copy_from_slice(&there[..len]);
        Ok(len)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
