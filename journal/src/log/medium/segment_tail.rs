//! The end of a log of segments: runs of frames into pre-zeroed files of a [`Disk`].
//!
//! Owns appending, rolling over to the next segment, and keeping the mark. Where the next segment comes from is
//! `spare`'s. Knows nothing of what was there before it was opened (recovery tells it where the end is), nor of
//! bodies.

use std::sync::Arc;

use super::spare::{Ahead, Spare, is_full};
use super::{Disk, DiskFile, Purpose, Room, Run, Tail};
use crate::log::error::LogError;
use crate::log::frame::Position;
use crate::log::lock::Lock;
use crate::log::mark::{MARK_NAME, MarkFile};
use crate::log::segment::{FRAMES_START, LONGEST_SEGMENT, SegmentHeader, file_name};

/// How large segments are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub first: u64,
    pub limit: u64,
    /// Prepare the next segment on a thread of its own while the current one fills.
    pub ahead: bool,
    pub reserve: u64,
}

/// The segment that is being filled.
pub(crate) struct SegmentInUse {
    pub file: Box<dyn DiskFile>,
    pub first: u64,
    pub size: u64,
    /// Where the next frame goes.
    pub offset: u64,
}

/// Bytes that the current segment has no room for.
struct Beyond {
    /// Of the first such frame.
    frame: u64,
    /// Of it and all that follow in the run.
    run: u64,
}

/// Segments on a disk, open for appending.
pub(crate) struct SegmentTail {
    disk: Arc<dyn Disk>,
    sizes: Sizes,
    current: SegmentInUse,
    head: Position,
    mark: MarkFile,
    ahead: Ahead,
    /// The last to go: nothing is written any more when another may open the folder.
    _lock: Option<Lock>,
}

impl SegmentTail {
    pub fn new(
        disk: Arc<dyn Disk>,
        sizes: Sizes,
        current: SegmentInUse,
        head: Position,
        mark: MarkFile,
    ) -> Result<SegmentTail, LogError> {
        let ahead =
            Ahead::new(Arc::clone(&disk), sizes.reserve).map_err(LogError::io("make", "its reserve"))?;
        Ok(SegmentTail { disk, sizes, current, head, mark, ahead, _lock: None })
    }

    /// Holds a lock for as long as it lives.
    pub fn locked(self, lock: Option<Lock>) -> SegmentTail {
        SegmentTail { _lock: lock, ..self }
    }

    /// Makes as many of the run's frames from `from` on durable as fit, and says how many of the run are so then.
    fn fill(&mut self, run: &Run, from: usize) -> Result<usize, LogError> {
        let start = run.frames[from].0.start;
        let room = self.current.size - self.current.offset;
        let fits = |(bytes, _): &&(std::ops::Range<usize>, Position)| (bytes.end - start) as u64 <= room;
        let upto = from + run.frames[from..].iter().take_while(fits).count();
        if upto > from {
            let bytes = &run.bytes[start..run.frames[upto - 1].0.end];
            let SegmentInUse { file, first, offset, .. } = &self.current;
            file.append(bytes, *offset)
                .map_err(|error| LogError::io("write and sync", &file_name(*first))(error))?;
            self.current.offset += bytes.len() as u64;
            self.head = run.frames[upto - 1].1;
        }
        Ok(upto)
    }

    /// A file for the next segment, large enough for what is needed as far as one segment may be. Nothing was written
    /// when it fails.
    fn next_file(&mut self, Beyond { frame, run }: Beyond, purpose: Purpose) -> Result<Spare, LogError> {
        let needed =
            (FRAMES_START + frame.max(run.min(self.sizes.limit - FRAMES_START))).min(LONGEST_SEGMENT);
        let size = self.next_size().max(needed);
        let refused = match self.ahead.take(size) {
            Err(error) if is_full(&error) => error,
            other => return other.map_err(LogError::io("make", "its next segment")),
        };
        let reserve = match purpose {
            Purpose::Work => None,
            Purpose::Recovery => {
                self.ahead.take_reserve(needed).map_err(LogError::io("open", "its reserve"))?
            }
        };
        reserve.ok_or(LogError::Full { needed: size, source: Arc::new(refused) })
    }

    fn next_size(&self) -> u64 {
        (self.current.size * 2).min(self.sizes.limit)
    }

    /// Begins the next segment in `file`. The current one is synced already, so that whatever is found in an older
    /// segment later was durable.
    fn roll(&mut self, file: Spare) -> Result<(), LogError> {
        self.current = begin(self.disk.as_ref(), &self.head, file)?;
        self.mark.write(self.current.first, self.head).map_err(LogError::io("write", MARK_NAME))
    }

    /// What of the run, from its frame `from` on, does not fit into the current segment.
    fn beyond(&self, run: &Run, from: usize) -> Option<Beyond> {
        let start = run.frames[from].0.start;
        let room = self.current.size - self.current.offset;
        let (frame, _) = run.frames[from..].iter().find(|(bytes, _)| (bytes.end - start) as u64 > room)?;
        Some(Beyond { frame: frame.len() as u64, run: (run.bytes.len() - frame.start) as u64 })
    }

    /// Starts on the next segment when the current one is half full.
    fn prepare(&mut self) {
        if self.sizes.ahead && self.ahead.idle() && self.current.offset >= self.current.size / 2 {
            self.ahead.begin(self.next_size());
        }
    }
}

impl Tail for SegmentTail {
    fn append(&mut self, expected: &Position, run: &Run, purpose: Purpose) -> Result<(), LogError> {
        if self.head != *expected {
            return Err(LogError::Moved { expected: *expected, found: self.head });
        }
        let mut done = 0;
        while done < run.frames.len() {
            // The room for what does not fit is there before anything is written: a run that is refused for want of
            // it left nothing behind.
            let next = match self.beyond(run, done) {
                None => None,
                Some(beyond) => Some(self.next_file(beyond, purpose).map_err(|error| partly(error, done))?),
            };
            done = self.fill(run, done)?;
            if let Some(next) = next {
                self.roll(next)?;
            }
        }
        self.prepare();
        Ok(())
    }

    fn room(&mut self) -> Room {
        self.ahead.room(self.next_size())
    }

    fn make_room(&mut self, bytes: u64) -> Result<(), LogError> {
        if self.room() == Room::Reserve {
            let source = Arc::new(std::io::ErrorKind::StorageFull.into());
            return Err(LogError::Full { needed: self.next_size(), source });
        }
        if self.current.size - self.current.offset >= bytes {
            return Ok(());
        }
        let file = self.next_file(Beyond { frame: bytes, run: bytes }, Purpose::Work)?;
        self.ahead.keep(file);
        Ok(())
    }

    fn release(&mut self, first: u64) -> Result<(), LogError> {
        self.mark.release(first).map_err(LogError::io("write", MARK_NAME))
    }

    fn settle(&mut self) -> Result<(), LogError> {
        if self.mark.says(self.current.first, &self.head) {
            return Ok(());
        }
        self.mark.write(self.current.first, self.head).map_err(LogError::io("write", MARK_NAME))
    }
}

/// Of a run so long that a part of it is in a segment already, it can no longer be said that nothing was written.
fn partly(error: LogError, done: usize) -> LogError {
    match error {
        LogError::Full { source, .. } if done > 0 => {
            LogError::Io { doing: "make", name: "its next segment".to_owned(), source }
        }
        other => other,
    }
}

/// Makes the first segment of a log and gives it its name; all of it is durable afterwards.
pub(crate) fn first_segment(disk: &Arc<dyn Disk>, size: u64) -> Result<SegmentInUse, LogError> {
    let made = Ahead::new(Arc::clone(disk), 0).and_then(|mut ahead| ahead.take(size));
    begin(disk.as_ref(), &Position::START, made.map_err(LogError::io("make", "its first segment"))?)
}

/// Gives a file of zeros its header and its name; all of it is durable afterwards.
fn begin(disk: &dyn Disk, before: &Position, spare: Spare) -> Result<SegmentInUse, LogError> {
    let first = before.seq + 1;
    let name = file_name(first);
    let failed = || LogError::io("make", &name);
    let Spare { file, size, name: made_as } = spare;
    let created = chrono::Utc::now().timestamp_micros();
    let header = SegmentHeader { first, size, created, previous: before.hash };
    file.write_at(&header.encode(), 0).map_err(failed())?;
    file.sync().map_err(failed())?;
    disk.rename(made_as, &name).map_err(failed())?;
    disk.sync_names().map_err(failed())?;
    Ok(SegmentInUse { file, first, size, offset: FRAMES_START })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::log::frame::{Entry, encode};
    use crate::log::medium::SimulatedDisk;
    use crate::log::recover::{Options, recover};

    fn run(after: &Position) -> Run {
        let mut run = Run::default();
        let end = encode(&mut run.bytes, &Entry::default(), after, after.seq);
        run.frames.push((0..run.bytes.len(), end));
        run
    }

    #[test]
    fn an_append_that_expects_another_end_writes_nothing() {
        let disk = SimulatedDisk::new();
        let options = Options { prepare_ahead: false, ..Options::default() };
        let (mut medium, _) = recover(Arc::new(disk.clone()), &options, &mut |_| {}).unwrap();
        let first = run(&Position::START);
        medium.append(&Position::START, &first, Purpose::Work).unwrap();
        let operations = disk.operations();
        let error = medium.append(&Position::START, &first, Purpose::Work).unwrap_err();
        assert!(matches!(error, LogError::Moved { found, .. } if Some(found) == first.end()), "{error}");
        let forged = Position { seq: 1, ..Position::START };
        medium.append(&forged, &run(&forged), Purpose::Work).unwrap_err();
        assert_eq!(disk.operations(), operations);
        let end = first.end().unwrap();
        medium.append(&end, &run(&end), Purpose::Work).unwrap();
    }
}
