//! One walk over everything: what recovery and `verify` both need, and the only place that judges a fault.
//!
//! Owns the rule that tells a torn tail from damage. Repairs nothing, and knows nothing of bodies.
//!
//! The rule, for bytes in the newest segment that should be frame `s` and are not: if anything says that `s`
//! was durable, they are damage. The mark may say so, and so may any whole frame behind them whose `durable`
//! is `s` or higher. If nothing does, no append that reached `s` was ever acknowledged: they are the torn
//! tail of a commit that a crash interrupted, together with whole frames of that same commit that happen to
//! stand behind the tear, since a disk writes sectors in any order. A frame that is whole but in the wrong
//! place is damage always: no torn write makes one. In an older segment everything is damage, for a segment
//! is synced before the next one is made.

use std::io;
use std::ops::{ControlFlow, RangeInclusive};

use super::archive::{self, Held};
use super::error::{LogError, Problem};
use super::frame::{Fault, Frame, Position};
use super::mark::{self, MARK_NAME, Mark};
use super::medium::Disk;
use super::resync::{Sighting, Sightings};
use super::scan::{Cursor, Step};
use super::segment::{self, FRAMES_START, SegmentHeader};

const RESTORE: &str =
    "Nothing was changed. Restore this file from a copy of the journal, or see `journal verify`";
const STOP_LOSS: &str = "Nothing was changed. Restore this file from a copy of the journal; or, if that loss \
                         is known and accepted, start once with the loss allowed, then run `doctor`";

const UNARCHIVE: &str = "Nothing was changed. Bring these files back into the journal's folder `archive`: what \
                         follows is proven without them, what they hold is not";

/// What to do about acknowledged frames that are gone from the very end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AcknowledgedLoss {
    /// Refuse to open: the place is reported as damage.
    #[default]
    Refuse,
    /// Go on, and report which are gone, when the end was cut off: the file or what is written in it stops short of
    /// the first frame that is gone. A frame that is there in its full length and wrong was changed, not cut, and is
    /// refused.
    AcceptCut,
    /// Go on with what is left before them, and report which are gone. Only for a tail with no whole frame
    /// behind it; damage anywhere else is refused all the same.
    Accept,
}

/// Bytes at the end of the newest segment that are no frame and were never acknowledged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TailCut {
    /// File name of the segment.
    pub segment: String,
    /// Where the tail begins: the end of the last whole frame in the chain.
    pub offset: u64,
    /// How many bytes reach to the last one that is not zero.
    pub bytes: u64,
    /// The sequence that the first frame of the tail would have had.
    pub seq: u64,
    /// Why the first frame of the tail is none.
    pub what: String,
    /// Acknowledged sequences that are lost with it: only where [`AcknowledgedLoss`] allows it.
    pub lost: Option<RangeInclusive<u64>>,
}

/// Where the newest segment ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct End {
    pub header: SegmentHeader,
    pub offset: u64,
}

/// What the walk found.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    pub mark: Option<Mark>,
    /// The first sequence that is not in the archive.
    pub released: u64,
    pub segments: u64,
    pub frames: u64,
    pub first: Option<u64>,
    pub head: Position,
    pub end: Option<End>,
    pub tail: Option<TailCut>,
    /// The frame at [`Terms::from`] was met, and is the one that was meant.
    pub met: bool,
}

/// Who is told while the walk goes on.
pub(crate) trait Visitor {
    /// A whole frame, in order; after damage the next one that could be found.
    fn frame(&mut self, frame: &Frame);
    /// Damage: go on, or stop with it.
    fn problem(&mut self, problem: Problem) -> ControlFlow<Problem>;
}

/// How to walk.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Terms {
    /// A writer may be at work: an unfinished tail is its commit under way.
    pub live: bool,
    pub loss: AcknowledgedLoss,
    /// The caller knows all up to here: segments that end before it are not opened, and its frames are not shown.
    pub from: Position,
}

/// Walks over all segments of `disk`.
///
/// # Errors
/// [`LogError::Io`], or [`LogError::Damaged`] with the problem at which the visitor stopped.
pub(crate) fn survey(disk: &dyn Disk, terms: Terms, visitor: &mut dyn Visitor) -> Result<Survey, LogError> {
    // The mark is read first: what it says is true of all that is read after it, whatever a writer does.
    let mark = mark::read(disk).map_err(LogError::io("read", MARK_NAME))?;
    let live = segment_firsts(disk)?;
    let released = released(disk, mark, &live)?;
    let mut firsts: Vec<u64> = live.into_iter().filter(|first| *first >= released).collect();
    if terms.from.seq + 1 < released {
        firsts.extend(archive::firsts(disk)?.into_iter().filter(|first| *first < released));
    }
    firsts.sort_unstable();
    if let Some(begin) = firsts.iter().copied().filter(|first| *first <= terms.from.seq + 1).max() {
        firsts.retain(|first| *first >= begin);
    }
    let met = terms.from == Position::START;
    let found = Survey { mark, released, met, ..Survey::default() };
    let mut walk = Walk { disk, terms, visitor, found, sound: true, unread: false, sightings: None };
    walk.segments(&firsts)?;
    walk.against_mark(&firsts)?;
    Ok(walk.found)
}

/// The first sequence that is not in the archive: as the mark says, or without it as the files say.
pub(crate) fn released(disk: &dyn Disk, mark: Option<Mark>, live: &[u64]) -> Result<u64, LogError> {
    match mark {
        Some(mark) => Ok(mark.first),
        None if archive::firsts(disk)?.is_empty() => Ok(1),
        None => Ok(live.iter().copied().min().unwrap_or(1)),
    }
}

/// The first sequences that the names of the segments stand for, in any order; archived ones are not among them.
pub(crate) fn segment_firsts(disk: &dyn Disk) -> Result<Vec<u64>, LogError> {
    let names = disk.names().map_err(LogError::io("list", "its folder"))?;
    Ok(names.iter().filter_map(|name| segment::parse_name(name)).collect())
}

struct Walk<'a> {
    disk: &'a dyn Disk,
    terms: Terms,
    visitor: &'a mut dyn Visitor,
    found: Survey,
    /// No problem so far.
    sound: bool,
    /// The segment before the one at hand could not be unpacked: nothing is known of where it ended.
    unread: bool,
    /// The whole frames behind the first fault of the segment at hand.
    sightings: Option<Sightings>,
}

/// One segment under the walk.
struct Place {
    name: String,
    newest: bool,
    cursor: Cursor,
}

impl Place {
    fn io(&self, doing: &'static str) -> impl FnOnce(io::Error) -> LogError {
        LogError::io(doing, &self.name)
    }
}

impl Walk<'_> {
    fn report(
        &mut self,
        segment: &str,
        offset: u64,
        seq: u64,
        what: String,
        advice: &str,
    ) -> Result<(), LogError> {
        self.sound = false;
        let problem = Problem { segment: segment.to_owned(), offset, seq, what, advice: advice.to_owned() };
        match self.visitor.problem(problem) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(problem) => Err(problem.into()),
        }
    }

    fn segments(&mut self, firsts: &[u64]) -> Result<(), LogError> {
        for (index, first) in firsts.iter().enumerate() {
            let (name, file) = match archive::open_segment(self.disk, *first)? {
                Held::Nowhere => continue,
                Held::Here(file) => (segment::file_name(*first), file),
                Held::Archived(file) => (archive::file_name(*first), file),
                Held::Unreadable(what) => {
                    self.found.segments += 1;
                    self.report(&archive::file_name(*first), 0, *first, what, RESTORE)?;
                    self.unread = true;
                    continue;
                }
            };
            let newest = index + 1 == firsts.len();
            let mut place = Place { name, newest, cursor: Cursor::new(file) };
            self.found.segments += 1;
            self.sightings = None;
            let header = self.begin(&mut place, *first, index == 0)?;
            self.unread = false;
            self.frames(&mut place)?;
            if let (true, Some(header)) = (newest, header) {
                self.found.end = Some(End { header, offset: place.cursor.offset() });
            }
        }
        Ok(())
    }

    /// Checks the header against the name, the size and what came before; the chain goes on from it.
    fn begin(
        &mut self,
        place: &mut Place,
        named: u64,
        oldest: bool,
    ) -> Result<Option<SegmentHeader>, LogError> {
        let name = place.name.clone();
        let expected = match oldest {
            _ if self.unread => named,
            // Without a base all is wanted; with one, all from the frame after it.
            true => named.min(self.terms.from.seq + 1),
            false => self.found.head.seq + 1,
        };
        let header = match place.cursor.header().map_err(place.io("read"))? {
            Ok(header) => header,
            Err(fault) => {
                self.report(&name, 0, expected, fault.to_string(), RESTORE)?;
                return Ok(None);
            }
        };
        if header.first != named {
            let what = format!(
                "the file holds the segment that begins with sequence {}, its name says {named}: it was \
                 renamed, copied or swapped",
                header.first
            );
            self.report(&name, 0, expected, what, RESTORE)?;
        } else if header.first > expected {
            let (where_to, advice) = if expected < self.found.released {
                ("archived and not in the archive", UNARCHIVE)
            } else {
                ("missing", RESTORE)
            };
            let last = named - 1;
            let what =
                format!("sequences {expected} to {last} are {where_to}: their segment file is not here");
            self.report(&name, 0, expected, what, advice)?;
        } else if header.first < expected {
            let what =
                format!("the segment begins with sequence {named}, which an earlier file already holds");
            self.report(&name, 0, expected, what, RESTORE)?;
        } else if !oldest && !self.unread && header.previous != self.found.head.hash {
            let what = "the segment does not follow the one before it (hash chain broken)".to_owned();
            self.report(&name, 0, expected, what, RESTORE)?;
        }
        let size = place.cursor.file().size().map_err(place.io("read"))?;
        // The newest may be short: if only zeros are gone nothing is lost, if frames are the rule above
        // judges it.
        if size > header.size || (size < header.size && !place.newest) {
            let what = format!("the file has {size} bytes where {} were written", header.size);
            self.report(&name, size.min(header.size), expected, what, RESTORE)?;
        }
        self.found.head = header.before();
        self.meet();
        Ok(Some(header))
    }

    fn frames(&mut self, place: &mut Place) -> Result<(), LogError> {
        loop {
            let step = place.cursor.step(&self.found.head).map_err(place.io("read"))?;
            let fault = match step {
                Step::Frame(frame) => {
                    self.take(place, &frame)?;
                    continue;
                }
                Step::Blank => match place.cursor.last_written().map_err(place.io("read"))? {
                    None => return Ok(()),
                    Some(_) => Fault::Hole,
                },
                Step::Bad(fault) => fault,
            };
            if !self.bad(place, &fault)? {
                return Ok(());
            }
        }
    }

    /// Notes when the walk stands where the caller's own knowledge ends.
    fn meet(&mut self) {
        if self.terms.from.seq > 0 && self.found.head.seq == self.terms.from.seq {
            self.found.met = self.found.head.hash == self.terms.from.hash;
        }
    }

    fn take(&mut self, place: &Place, frame: &Frame) -> Result<(), LogError> {
        self.found.head = frame.position();
        self.meet();
        if frame.seq > self.terms.from.seq {
            self.found.first.get_or_insert(frame.seq);
            self.found.frames += 1;
            self.visitor.frame(frame);
        }
        match self.found.mark {
            Some(mark) if mark.durable.seq == frame.seq && mark.durable.hash != frame.hash => {
                let offset = place.cursor.offset() - frame.encoded_len() as u64;
                let what =
                    "the frame is not the one that was marked durable: the log was replaced or rewritten";
                self.report(&place.name, offset, frame.seq, what.to_owned(), RESTORE)
            }
            _ => Ok(()),
        }
    }

    /// Judges a fault. `true`: the cursor is at the next whole frame.
    fn bad(&mut self, place: &mut Place, fault: &Fault) -> Result<bool, LogError> {
        let offset = place.cursor.offset();
        let seq = self.found.head.seq + 1;
        let marked = self.found.mark.map_or(0, |mark| mark.durable.seq);
        if self.sightings.is_none() {
            self.sightings = Some(place.cursor.sightings().map_err(place.io("read"))?);
        }
        let (next, proof) =
            self.sightings.as_mut().map_or((None, 0), |sightings| sightings.behind(offset, seq));
        if self.terms.live && self.was_being_written(place)? {
            return Ok(true);
        }
        let acknowledged = marked.max(proof);
        let whole = fault.is_whole_frame();
        if place.newest && !whole && acknowledged < seq {
            if !self.terms.live {
                self.torn(place, fault, None)?;
            }
            return Ok(false);
        }
        let lost_tail = place.newest && next.is_none() && !whole && self.sound;
        if lost_tail && self.may_be_lost(place)? {
            self.torn(place, fault, Some(seq..=acknowledged))?;
            return Ok(false);
        }
        let what = format!("frame {seq} is damaged: {fault}{}", beyond(next.as_ref(), acknowledged.max(seq)));
        self.report(&place.name, offset, seq, what, if lost_tail { STOP_LOSS } else { RESTORE })?;
        let Some(next) = next else { return Ok(false) };
        self.found.head = next.before;
        place.cursor.seek(next.offset);
        Ok(true)
    }

    /// While a writer is at work, bytes may have been read in the middle of its write. Whatever says that
    /// they are durable was seen before this second look: if they are whole now they were only late, if not
    /// they are damage.
    fn was_being_written(&mut self, place: &mut Place) -> Result<bool, LogError> {
        let offset = place.cursor.offset();
        place.cursor.forget();
        let late = matches!(place.cursor.step(&self.found.head).map_err(place.io("read"))?, Step::Frame(_));
        place.cursor.seek(offset);
        Ok(late)
    }

    /// Whether acknowledged frames that are gone from the cursor on may be given up.
    fn may_be_lost(&mut self, place: &mut Place) -> Result<bool, LogError> {
        match self.terms.loss {
            AcknowledgedLoss::Refuse => Ok(false),
            AcknowledgedLoss::Accept => Ok(true),
            AcknowledgedLoss::AcceptCut => place.cursor.stops_short().map_err(place.io("read")),
        }
    }

    fn torn(
        &mut self,
        place: &mut Place,
        fault: &Fault,
        lost: Option<RangeInclusive<u64>>,
    ) -> Result<(), LogError> {
        let offset = place.cursor.offset();
        let written = place.cursor.last_written().map_err(place.io("read"))?.unwrap_or(offset);
        self.found.tail = Some(TailCut {
            segment: place.name.clone(),
            offset,
            bytes: written - offset,
            seq: self.found.head.seq + 1,
            what: fault.to_string(),
            lost,
        });
        Ok(())
    }

    /// What the mark says should be there, and is not.
    fn against_mark(&mut self, firsts: &[u64]) -> Result<(), LogError> {
        let Some(mark) = self.found.mark else { return Ok(()) };
        let newest = firsts.last().copied().unwrap_or(0);
        let seq = self.found.head.seq + 1;
        let settled = self.found.tail.as_ref().is_some_and(|tail| tail.lost.is_some());
        if mark.segment > newest {
            let name = segment::file_name(mark.segment);
            let what = format!("the newest segment, which begins with sequence {}, is missing", mark.segment);
            return self.report(&name, 0, seq.max(mark.segment), what, RESTORE);
        }
        if mark.durable.seq < seq || settled || !self.sound {
            return Ok(());
        }
        let name = segment::file_name(newest);
        let offset = self.found.end.as_ref().map_or(FRAMES_START, |end| end.offset);
        let lost = seq..=mark.durable.seq;
        let what = format!("sequences {} to {} were acknowledged and are gone", lost.start(), lost.end());
        if self.terms.loss != AcknowledgedLoss::Refuse {
            self.found.tail = Some(TailCut { segment: name, offset, bytes: 0, seq, what, lost: Some(lost) });
            return Ok(());
        }
        self.report(&name, offset, seq, what, STOP_LOSS)
    }
}

fn beyond(next: Option<&Sighting>, known: u64) -> String {
    match next {
        Some(Sighting { offset, seq, .. }) => {
            format!("; acknowledged up to {known}; the next whole frame is {seq} at byte {offset}")
        }
        None => format!("; acknowledged up to {known}; no whole frame follows in this file"),
    }
}
