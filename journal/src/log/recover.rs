//! Opening a log for writing: replay, cut the torn tail, begin where it ends.
//!
//! Owns the repairs, all of which are of bytes that were never acknowledged. What is torn and what is damaged
//! is decided in `survey`; what the frames mean is the caller's.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use super::error::{LogError, Problem};
use super::frame::{Frame, HEADER_BYTES, Position};
use super::mark::{self, MARK_NAME, Mark, MarkFile};
use super::medium::{
    Disk, DiskFile, LEFTOVERS, SegmentInUse, SegmentTail, Sizes, first_segment, write_zeros,
};
use super::segment::{FRAMES_START, LONGEST_SEGMENT, file_name};
use super::survey::{AcknowledgedLoss, End, Survey, TailCut, Terms, Visitor, survey};

/// Bytes that are written again at once.
const REWRITE_BYTES: usize = 256 << 10;

/// How to open a log for writing.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of the first segment in bytes; each is twice the one before.
    pub first_segment_bytes: u64,
    /// Size that segments grow to, in bytes. One frame that is larger gets a segment of its own.
    pub segment_bytes: u64,
    /// How long the writer has been idle when it notes the end of the log in the mark.
    pub settle_after: Duration,
    /// Prepare the next segment on a thread of its own, before it is needed.
    pub prepare_ahead: bool,
    /// What to do about acknowledged frames that are gone from the end.
    pub acknowledged_loss: AcknowledgedLoss,
    /// Bytes held in reserve, so that recovery can append when the disk is full; 0 for none.
    pub reserve_bytes: u64,
    /// Where to go on from: frames up to here are not handed to the caller, who knows what they led to.
    pub from: Position,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            first_segment_bytes: 256 << 10,
            segment_bytes: 8 << 20,
            settle_after: Duration::from_millis(200),
            prepare_ahead: true,
            acknowledged_loss: AcknowledgedLoss::Refuse,
            reserve_bytes: 1 << 20,
            from: Position::START,
        }
    }
}

/// What was found when the log was opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// How many frames were handed to the caller.
    pub frames_replayed: u64,
    /// The torn tail that was cut, if there was one.
    pub tail_cut: Option<TailCut>,
    /// The last frame; `None` in an empty log.
    pub last: Option<Position>,
    /// The mark was missing or unreadable and was made anew. Damage to the very last commit could not have
    /// been told from a torn tail this time.
    pub mark_rebuilt: bool,
}

/// Opens the segments on `disk`: every frame goes to `replay`, in order, and the medium stands at the end.
pub(crate) fn recover(
    disk: Arc<dyn Disk>,
    options: &Options,
    replay: &mut dyn FnMut(&Frame),
) -> Result<(SegmentTail, Recovered), LogError> {
    remove_leftovers(disk.as_ref())?;
    let terms = Terms { live: false, loss: options.acknowledged_loss, from: options.from };
    let found = survey(disk.as_ref(), terms, &mut Strict(replay))?;
    if !found.met {
        return Err(LogError::NotOnChain { seq: options.from.seq });
    }
    let sizes = sizes(options);
    let (mut mark, mark_rebuilt) = open_mark(disk.as_ref(), &found)?;
    let current = match &found.end {
        Some(end) => mend(disk.as_ref(), end, &found)?,
        None => first_segment(&disk, sizes.first)?,
    };
    if !mark.says(current.first, &found.head) {
        mark.write(current.first, found.head).map_err(LogError::io("write", MARK_NAME))?;
    }
    let recovered = Recovered {
        frames_replayed: found.frames,
        tail_cut: found.tail,
        last: Some(found.head).filter(|head| head.seq > 0),
        mark_rebuilt,
    };
    tell(&recovered);
    Ok((SegmentTail::new(disk, sizes, current, found.head, mark)?, recovered))
}

fn tell(recovered: &Recovered) {
    if let Some(TailCut { segment, offset, bytes, seq, what, lost }) = &recovered.tail_cut {
        match lost {
            None => {
                tracing::info!(%segment, offset, bytes, seq, %what, "cut the torn tail of the journal");
            }
            Some(lost) => {
                tracing::error!(%segment, offset, bytes, ?lost, %what, "acknowledged records given up");
            }
        }
    }
    if recovered.mark_rebuilt {
        tracing::warn!("the journal's mark was missing or unreadable and was made anew");
    }
}

/// The first problem ends the walk.
struct Strict<'a>(&'a mut dyn FnMut(&Frame));

impl Visitor for Strict<'_> {
    fn frame(&mut self, frame: &Frame) {
        (self.0)(frame);
    }

    fn problem(&mut self, problem: Problem) -> ControlFlow<Problem> {
        ControlFlow::Break(problem)
    }
}

fn sizes(options: &Options) -> Sizes {
    let floor = FRAMES_START + HEADER_BYTES as u64;
    let limit = options.segment_bytes.clamp(floor, LONGEST_SEGMENT);
    let first = options.first_segment_bytes.clamp(floor, limit);
    let reserve = options.reserve_bytes.min(LONGEST_SEGMENT);
    Sizes { first, limit, ahead: options.prepare_ahead, reserve }
}

fn remove_leftovers(disk: &dyn Disk) -> Result<(), LogError> {
    for name in disk.names().map_err(LogError::io("list", "its folder"))? {
        if LEFTOVERS.contains(&name.as_str()) || name == mark::FRESH_NAME {
            disk.remove(&name).map_err(LogError::io("remove", &name))?;
        }
    }
    Ok(())
}

fn open_mark(disk: &dyn Disk, found: &Survey) -> Result<(MarkFile, bool), LogError> {
    let failed = || LogError::io("write", MARK_NAME);
    if let Some(mark) = found.mark {
        return Ok((MarkFile::open(disk, mark).map_err(failed())?, false));
    }
    Ok((
        mark::create(disk, &Mark { first: found.released, ..Mark::FRESH }).map_err(failed())?,
        found.segments > 0,
    ))
}

/// Makes the newest segment ready to take the next frame, and all of it durable.
///
/// What was replayed must be as durable as what was acknowledged. After the death of a process alone, its
/// last writes may be in memory only. Worse, after a sync that failed they may be in memory, be called clean,
/// and never reach the disk: so unless the mark vouches for the end, the segment's frames are written once
/// more and then synced.
fn mend(disk: &dyn Disk, end: &End, found: &Survey) -> Result<SegmentInUse, LogError> {
    let first = end.header.first;
    let name = file_name(first);
    let missing = || io::Error::new(io::ErrorKind::NotFound, "it was there a moment ago");
    let file =
        disk.open(&name).and_then(|file| file.ok_or_else(missing)).map_err(LogError::io("open", &name))?;
    let vouched = found.mark.is_some_and(|mark| mark.segment == first && mark.durable == found.head);
    let repair = |file: &dyn DiskFile| -> io::Result<()> {
        let size = file.size()?;
        if size < end.header.size {
            write_zeros(file, size, end.header.size - size)?;
        }
        if let Some(tail) = &found.tail {
            write_zeros(file, tail.offset, tail.bytes)?;
        }
        if !vouched {
            write_again(file, end.offset)?;
        }
        file.sync()?;
        disk.sync_names()
    };
    repair(file.as_ref()).map_err(LogError::io("mend", &name))?;
    Ok(SegmentInUse { file, first, size: end.header.size, offset: end.offset })
}

fn write_again(file: &dyn DiskFile, end: u64) -> io::Result<()> {
    let mut piece = vec![0; REWRITE_BYTES];
    let mut at = FRAMES_START;
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(piece.len());
        let read = file.read_at(&mut piece[..want], at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        file.write_at(&piece[..read], at)?;
        at += read as u64;
    }
    Ok(())
}
