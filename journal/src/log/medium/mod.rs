//! Where the log's bytes live: the seam below the log, and the seam below the segments.
//!
//! [`Medium`] is a place where frames are kept in order: it is opened for writing, which gives its one [`Tail`], read,
//! which gives [`Frames`], and verified. Segments on a disk are the one that is shipped; nothing above it knows of files,
//! so that a cluster's key-value store can be another. [`Disk`] is the few things that segments ask of a folder, so that
//! the same segments run on a real folder and on a simulated disk that loses what was not synced. Nothing here knows what
//! a body means.

mod direct;
mod real;
mod segment_tail;
mod segments;
mod simulated;
mod spare;

use std::io;
use std::ops::Range;
use std::sync::Arc;

pub use real::RealDisk;
pub(crate) use segment_tail::{SegmentInUse, SegmentTail, Sizes, first_segment};
pub use segments::Segments;
pub use simulated::{Crash, SimulatedDisk};
pub(crate) use spare::LEFTOVERS;

use super::archive::Moved;
use super::error::LogError;
use super::frame::{Frame, Position};
use super::recover::{Options, Recovered};
use super::verify::Verification;

/// Frames that go to the medium together, in one piece of memory.
#[derive(Default, Debug)]
pub struct Run {
    /// The frames' bytes, one after the other.
    pub bytes: Vec<u8>,
    /// For each frame its bytes within `bytes`, and where the log stands after it.
    pub frames: Vec<(Range<usize>, Position)>,
}

impl Run {
    /// Where the log stands after the last frame.
    #[must_use]
    pub fn end(&self) -> Option<Position> {
        self.frames.last().map(|(_, position)| *position)
    }
}

/// What is appended for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Something new is begun: refused when the disk is full.
    Work,
    /// What was begun is brought to its end: may use what is held in reserve for it.
    Recovery,
}

/// How much may still be appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Room {
    /// Whatever comes.
    Enough,
    /// The disk is full: what is left is for [`Purpose::Recovery`].
    Reserve,
}

/// Told from which sequence on frames are still needed in the medium itself.
pub type Release<'a> = &'a dyn Fn(u64) -> Result<(), LogError>;

/// A place where a log is kept.
pub trait Medium: Send + Sync {
    /// Opens it for writing, made if there is none: every frame after [`Options::from`] goes to `replay`, in order and
    /// checked against the one before it, and the tail stands after the last.
    ///
    /// What is replayed is as durable as what is acknowledged. There is one writer: as long as the tail lives, or until
    /// another is opened, whichever the medium can hold to. In the second case the older tail appends nothing more.
    ///
    /// # Errors
    /// [`LogError::Locked`], [`LogError::NotOnChain`], [`LogError::Damaged`], or what the storage answered.
    fn open(
        &self,
        options: &Options,
        replay: &mut dyn FnMut(&Frame),
    ) -> Result<(Box<dyn Tail>, Recovered), LogError>;

    /// The frames from `from` on, whether or not a writer is at work; 0 and 1 are the beginning.
    ///
    /// # Errors
    /// [`LogError::NotHere`], [`LogError::Damaged`], or what the storage answered.
    fn frames(&self, from: u64) -> Result<Box<dyn Frames>, LogError>;

    /// Everything that is wrong with it. Changes nothing, and goes on behind damage.
    ///
    /// # Errors
    /// When it cannot be read at all.
    fn verify(&self) -> Result<Verification, LogError>;

    /// Puts away frames before `before`, as far as it puts anything away; see [`super::Log::archive`]. A medium that
    /// keeps all it has in one place moves nothing.
    ///
    /// # Errors
    /// [`LogError::Damaged`], or what the storage answered.
    fn archive(&self, before: u64, keep: usize, release: Release<'_>) -> Result<Moved, LogError> {
        let _nothing_to_move = (before, keep, release);
        Ok(Moved::default())
    }

    /// A folder for what is made again from the log when it is lost: bases. Without one every start reads all frames.
    fn bases(&self) -> Option<Arc<dyn Disk>> {
        None
    }
}

/// Frames in order, every one checked against the one before it.
pub trait Frames: Send {
    /// The last frame shown, or passed on the way; before that, the one before the first.
    fn position(&self) -> Position;

    /// The next frame; `None` at the end, which may have moved on when asked again.
    ///
    /// `durable` is said by a writer of this process: frames up to it must be there, and later ones are not shown.
    /// Without it all that is there is shown.
    ///
    /// # Errors
    /// [`LogError::Damaged`] with the place, or what the storage answered.
    fn next(&mut self, durable: Option<u64>) -> Result<Option<Frame>, LogError>;
}

/// The end of a log that is open for writing: takes frames in order and makes them durable.
///
/// After any error the writer never calls it again: what a failed sync left behind is not known, and asking a
/// second time may be answered "done" for pages that were dropped (the Linux "fsyncgate" of 2018).
pub trait Tail: Send {
    /// Appends `run` right after `expected` and returns when it is durable.
    ///
    /// This is compare-and-append: a medium whose end is not `expected` writes nothing. A crash in the middle
    /// leaves some of the frames, and never harms what was there before.
    ///
    /// # Errors
    /// [`LogError::Moved`] when its end is elsewhere, [`LogError::Superseded`] when another writer has opened the log
    /// since: nothing was written. [`LogError::Full`]: nothing was written, and another run may be tried. Or what the
    /// storage answered.
    fn append(&mut self, expected: &Position, run: &Run, purpose: Purpose) -> Result<(), LogError>;

    /// Whether a run of ordinary work may come. Where it says [`Room::Reserve`], it looks for room again, now and then.
    fn room(&mut self) -> Room {
        Room::Enough
    }

    /// Makes sure that the next run, if it is of `bytes` at most, does not fail for want of room.
    ///
    /// # Errors
    /// [`LogError::Full`], or what the storage answered.
    fn make_room(&mut self, bytes: u64) -> Result<(), LogError> {
        let _there_is_room = bytes;
        Ok(())
    }

    /// Notes durably that frames before `first` are kept elsewhere and may be gone from here.
    ///
    /// # Errors
    /// What the storage answered.
    fn release(&mut self, first: u64) -> Result<(), LogError> {
        let _nothing_is_kept_elsewhere = first;
        Ok(())
    }

    /// Notes durably how far the log is known to be durable. Called when the writer is idle and when it ends,
    /// never between a commit and its acknowledgement. Does nothing where nothing is new.
    ///
    /// # Errors
    /// What the storage answered.
    fn settle(&mut self) -> Result<(), LogError> {
        Ok(())
    }
}

/// A folder of files, as little of it as segments need.
pub trait Disk: Send + Sync {
    /// The names in the folder, in any order.
    ///
    /// # Errors
    /// The system's.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Opens a file; `None` when there is none of that name.
    ///
    /// # Errors
    /// The system's.
    fn open(&self, name: &str) -> io::Result<Option<Box<dyn DiskFile>>>;

    /// Makes a file of `len` written zeros, in the place of one of that name. Not synced.
    ///
    /// # Errors
    /// The system's.
    fn create(&self, name: &str, len: u64) -> io::Result<Box<dyn DiskFile>>;

    /// Renames a file, replacing what has the name. Not durable before [`Disk::sync_names`].
    ///
    /// # Errors
    /// The system's.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Not durable before [`Disk::sync_names`].
    ///
    /// # Errors
    /// The system's.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes names durable.
    ///
    /// # Errors
    /// The system's.
    fn sync_names(&self) -> io::Result<()>;

    /// The folder `archive` in this one, which is made with the first file in it.
    fn archive(&self) -> Box<dyn Disk>;
}

/// One open file of a [`Disk`].
pub trait DiskFile: Send + Sync {
    /// Its length in bytes.
    ///
    /// # Errors
    /// The system's.
    fn size(&self) -> io::Result<u64>;

    /// Reads at `offset` until `buffer` is full or the file ends; how many bytes.
    ///
    /// # Errors
    /// The system's.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`, which is before or at the end. Not synced.
    ///
    /// # Errors
    /// The system's.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes the file's bytes and length durable.
    ///
    /// # Errors
    /// The system's. After an error nothing is known of what was written since the last success.
    fn sync(&self) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`, behind which the file has only zeros, and makes them durable; nothing is said
    /// of what else was written since the last sync.
    ///
    /// # Errors
    /// As [`DiskFile::sync`].
    fn append(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_at(bytes, offset)?;
        self.sync()
    }
}

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Writes `len` zeros from `offset`.
pub(crate) fn write_zeros(file: &dyn DiskFile, offset: u64, len: u64) -> io::Result<()> {
    let mut at = offset;
    let end = offset + len;
    while at < end {
        let step = usize::try_from(end - at).unwrap_or(usize::MAX).min(ZEROS.len());
        file.write_at(&ZEROS[..step], at)?;
        at += step as u64;
    }
    Ok(())
}
