//! Reading frames in order, wherever the log lives; and following a writer of this process.
//!
//! Owns the bound of a reader beside a writer, what is durable by then, and the batches of a follower. How frames are found
//! and checked is the medium's.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

use super::error::LogError;
use super::frame::{Frame, Position};
use super::medium::{Disk, Frames, Medium, Segments};

/// Frames one at a time, every one checked against the one before it.
pub struct Reader {
    frames: Box<dyn Frames>,
    bound: Option<watch::Receiver<Position>>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("position", &self.position()).finish_non_exhaustive()
    }
}

impl Reader {
    /// A reader over the log in the folder `dir`, from the frame `from` on; 0 and 1 are the beginning.
    ///
    /// A writer may be at work there. Its frames are seen when they are written, which is before they are
    /// durable; within the writer's own process take [`super::Log::reader`], which waits for that.
    ///
    /// # Errors
    /// [`LogError::NotHere`], [`LogError::Damaged`], [`LogError::Io`].
    pub fn open(dir: &Path, from: u64) -> Result<Reader, LogError> {
        Reader::of(&Segments::read_only(dir), from)
    }

    /// The same over any [`Disk`].
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn on(disk: Arc<dyn Disk>, from: u64) -> Result<Reader, LogError> {
        Reader::of(&Segments::on(disk), from)
    }

    /// The same over any [`Medium`].
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn of(medium: &dyn Medium, from: u64) -> Result<Reader, LogError> {
        Ok(Reader { frames: medium.frames(from)?, bound: None })
    }

    pub(crate) fn bounded(self, bound: watch::Receiver<Position>) -> Reader {
        Reader { bound: Some(bound), ..self }
    }

    /// The last frame read, or the one before the first to be read.
    #[must_use]
    pub fn position(&self) -> Position {
        self.frames.position()
    }

    /// The next frame; `None` at the end, which may have moved on when asked again.
    ///
    /// # Errors
    /// [`LogError::Damaged`] with the place, [`LogError::Io`].
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator that says None is finished; this one is not"
    )]
    pub fn next(&mut self) -> Result<Option<Frame>, LogError> {
        let durable = self.bound.as_ref().map(|bound| bound.borrow().seq);
        self.frames.next(durable)
    }
}

/// Frames of a log that is open for writing in this process, as they become durable.
pub struct Follower {
    medium: Arc<dyn Medium>,
    /// The sequence that the next answer begins with.
    next: u64,
    /// Lent to a thread while that reads; made anew when it did not come back.
    reader: Option<Reader>,
    durable: watch::Receiver<Position>,
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower").field("next", &self.next).finish_non_exhaustive()
    }
}

/// Frames that a follower hands over at once, at most.
const BATCH: usize = 256;
/// Bytes of bodies after which it takes no further frame.
const BATCH_BYTES: usize = 1 << 20;

impl Follower {
    pub(crate) fn new(
        medium: Arc<dyn Medium>,
        from: u64,
        durable: watch::Receiver<Position>,
    ) -> Result<Follower, LogError> {
        let reader = Reader::of(medium.as_ref(), from)?.bounded(durable.clone());
        Ok(Follower { medium, next: from.max(1), reader: Some(reader), durable })
    }

    /// The next frames, at least one; waits for them. `None` when the log was closed and all is read.
    ///
    /// May be dropped while it waits: the next call goes on where the last answer ended.
    ///
    /// # Errors
    /// As [`Reader::next`].
    pub async fn next(&mut self) -> Result<Option<Vec<Frame>>, LogError> {
        let next = self.next;
        if self.durable.wait_for(|durable| durable.seq >= next).await.is_err() {
            return Ok(None);
        }
        let reader = self.reader.take();
        let (medium, durable) = (Arc::clone(&self.medium), self.durable.clone());
        let work = move || -> Result<(Reader, Vec<Frame>), LogError> {
            let mut reader = match reader {
                Some(reader) => reader,
                None => Reader::of(medium.as_ref(), next)?.bounded(durable),
            };
            let frames = batch(&mut reader)?;
            Ok((reader, frames))
        };
        let (reader, frames) = tokio::task::spawn_blocking(work).await.map_err(|_| LogError::Closed)??;
        self.next = frames.last().map_or(next, |frame| frame.seq + 1);
        self.reader = Some(reader);
        Ok(Some(frames))
    }
}

fn batch(reader: &mut Reader) -> Result<Vec<Frame>, LogError> {
    let mut frames = Vec::new();
    let mut bytes = 0;
    while frames.len() < BATCH
        && bytes < BATCH_BYTES
        && let Some(frame) = reader.next()?
    {
        bytes += frame.entry.body.len();
        frames.push(frame);
    }
    Ok(frames)
}
