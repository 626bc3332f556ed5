//! Frames in order over the segments of a disk: behind a writer of this process, behind one of another, or offline.
//!
//! Owns the way from segment to segment, archived ones first. Changes nothing on the disk, takes no lock, repairs nothing, and
//! knows nothing of bodies. Memory is one read window, or one frame where that is larger.

use std::sync::Arc;

use super::archive::{self, Held};
use super::error::{LogError, Problem};
use super::frame::{Fault, Frame, Position};
use super::mark::{self, MARK_NAME};
use super::medium::{Disk, Frames};
use super::scan::{Cursor, Step};
use super::segment::{self, SegmentHeader};
use super::survey::{released, segment_firsts};

const VERIFY: &str = "Run `journal verify` to see what else is provable, and restore this file from a copy";

/// Frames one at a time, every one checked against the one before it.
pub(crate) struct Trail {
    disk: Arc<dyn Disk>,
    from: u64,
    /// The last frame that was read, or skipped on the way to `from`.
    chain: Position,
    segment: Option<(u64, Cursor)>,
}

/// What comes where no frame is.
enum End {
    /// The frame, which a writer had not finished at the first look.
    Late(Frame),
    /// Another segment, entered by now.
    Entered,
    /// Nothing yet.
    Here,
}

/// What is known to be durable.
struct Known {
    /// Frames up to this one.
    durable: u64,
    /// The name of the segment that begins with this one.
    segment: u64,
}

impl Trail {
    /// From the frame `from` on; 0 and 1 are the beginning.
    ///
    /// # Errors
    /// [`LogError::NotHere`], [`LogError::Damaged`], [`LogError::Io`].
    pub fn on(disk: Arc<dyn Disk>, from: u64) -> Result<Trail, LogError> {
        let from = from.max(1);
        let mark = mark::read(disk.as_ref()).map_err(LogError::io("read", MARK_NAME))?;
        let mut firsts = segment_firsts(disk.as_ref())?;
        let first = released(disk.as_ref(), mark, &firsts)?;
        if from < first {
            firsts = archive::firsts(disk.as_ref())?;
            let oldest = firsts.iter().copied().min().unwrap_or(first);
            if from < oldest {
                return Err(LogError::NotHere { seq: from, first: oldest });
            }
        }
        let begin = firsts.iter().copied().filter(|first| *first <= from).max().unwrap_or(first);
        let mut trail =
            Trail { disk, from, chain: Position { seq: begin - 1, ..Position::START }, segment: None };
        if let Some(mut cursor) = trail.open_segment(begin)? {
            trail.chain = trail.header(&mut cursor, begin)?.before();
            trail.segment = Some((begin, cursor));
        }
        Ok(trail)
    }

    fn advance(&mut self, durable: Option<u64>) -> Result<Option<Frame>, LogError> {
        loop {
            if durable.is_some_and(|durable| durable <= self.chain.seq) {
                return Ok(None);
            }
            for anew in [false, true] {
                if let Some(Step::Frame(frame)) = self.look(anew)? {
                    return Ok(Some(frame));
                }
            }
            if self.enter()? {
                continue;
            }
            match self.end(durable.unwrap_or(0))? {
                End::Late(frame) => return Ok(Some(frame)),
                End::Entered => {}
                End::Here => return Ok(None),
            }
        }
    }

    /// What stands at the cursor; anew from the disk, or as far as it was read already.
    fn look(&mut self, anew: bool) -> Result<Option<Step>, LogError> {
        let Some((first, cursor)) = &mut self.segment else { return Ok(None) };
        if anew {
            cursor.forget();
        }
        cursor.step(&self.chain).map(Some).map_err(LogError::io("read", &segment::file_name(*first)))
    }

    /// No frame, and no segment that begins with it: the end of the log, or damage.
    ///
    /// Proof that the frame was durable is gathered first and the disk is read once more after that: what was
    /// only being written until then is whole by now.
    fn end(&mut self, bound: u64) -> Result<End, LogError> {
        let seq = self.chain.seq + 1;
        let Known { mut durable, segment } = self.known(seq, bound)?;
        let mut next = None;
        if let Some((first, cursor)) = &mut self.segment {
            let name = segment::file_name(*first);
            let offset = cursor.offset();
            let written = cursor.last_written().map_err(LogError::io("read", &name))?;
            if written.is_some() {
                let proof;
                (next, proof) = cursor.sightings().map_err(LogError::io("read", &name))?.behind(offset, seq);
                durable = durable.max(proof);
            }
        }
        let fault = match self.look(true)? {
            Some(Step::Frame(frame)) => return Ok(End::Late(frame)),
            Some(Step::Bad(fault)) => Some(fault),
            Some(Step::Blank) | None => None,
        };
        if self.enter()? {
            return Ok(End::Entered);
        }
        let missing = segment == seq && self.segment.as_ref().is_none_or(|(first, _)| *first != seq);
        let whole = fault.as_ref().is_some_and(Fault::is_whole_frame);
        if durable < seq && !missing && !whole {
            return Ok(End::Here);
        }
        let (first, offset) = match &self.segment {
            Some((first, cursor)) if !missing => (*first, cursor.offset()),
            _ => (seq, 0),
        };
        let what = match (fault, next) {
            _ if offset == 0 => {
                format!("the segment that begins with sequence {seq} is missing")
            }
            (Some(fault), _) => format!("frame {seq} is damaged: {fault}"),
            (None, Some(next)) => {
                format!("frame {seq} is gone; frame {} is at byte {}", next.seq, next.offset)
            }
            (None, None) => format!("sequences {seq} to {durable} were acknowledged and are gone"),
        };
        Err(damaged(&segment::file_name(first), offset, seq, what).into())
    }

    /// What something other than the segment at hand says was durable.
    fn known(&self, seq: u64, bound: u64) -> Result<Known, LogError> {
        let mark = mark::read(self.disk.as_ref()).map_err(LogError::io("read", MARK_NAME))?;
        let (marked, segment) = mark.map_or((0, 0), |mark| (mark.durable.seq, mark.segment));
        let later = segment_firsts(self.disk.as_ref())?.into_iter().filter(|first| *first > seq).min();
        let older = later.unwrap_or(0).max(segment).saturating_sub(1);
        Ok(Known { durable: bound.max(marked).max(older), segment })
    }

    /// Goes on into the segment that begins with the next frame, if it is there.
    fn enter(&mut self) -> Result<bool, LogError> {
        let first = self.chain.seq + 1;
        if self.segment.as_ref().is_some_and(|(at, _)| *at == first) {
            return Ok(false);
        }
        let Some(mut cursor) = self.open_segment(first)? else { return Ok(false) };
        let before = self.header(&mut cursor, first)?.before();
        if before != self.chain {
            let what = "the segment does not follow the one before it (hash chain broken)".to_owned();
            return Err(damaged(&segment::file_name(first), 0, first, what).into());
        }
        self.segment = Some((first, cursor));
        Ok(true)
    }

    fn open_segment(&self, first: u64) -> Result<Option<Cursor>, LogError> {
        match archive::open_segment(self.disk.as_ref(), first)? {
            Held::Here(file) | Held::Archived(file) => Ok(Some(Cursor::new(file))),
            Held::Nowhere => Ok(None),
            Held::Unreadable(what) => Err(damaged(&archive::file_name(first), 0, first, what).into()),
        }
    }

    fn header(&self, cursor: &mut Cursor, first: u64) -> Result<SegmentHeader, LogError> {
        let name = segment::file_name(first);
        let what = match cursor.header().map_err(LogError::io("read", &name))? {
            Ok(header) if header.first == first => return Ok(header),
            Ok(header) => format!("the file holds the segment that begins with sequence {}", header.first),
            Err(fault) => fault.to_string(),
        };
        Err(damaged(&name, 0, first, what).into())
    }
}

impl Frames for Trail {
    fn position(&self) -> Position {
        self.chain
    }

    fn next(&mut self, durable: Option<u64>) -> Result<Option<Frame>, LogError> {
        loop {
            let Some(frame) = self.advance(durable)? else { return Ok(None) };
            self.chain = frame.position();
            if frame.seq >= self.from {
                return Ok(Some(frame));
            }
        }
    }
}

fn damaged(segment: &str, offset: u64, seq: u64, what: String) -> Problem {
    Problem { segment: segment.to_owned(), offset, seq, what, advice: VERIFY.to_owned() }
}
