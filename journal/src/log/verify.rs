//! `journal verify`: everything that is wrong with a log, and what is still provable.
//!
//! Owns the report. Reads only, takes no lock, goes on behind damage, and knows nothing of bodies.

use std::ops::ControlFlow;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::{LogError, Problem};
use super::frame::Frame;
use super::lock::Holder;
use super::mark::MARK_NAME;
use super::medium::{Disk, Medium, Segments};
use super::survey::{Survey, TailCut, Terms, Visitor, survey};

/// What `verify` found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Verification {
    /// No problem.
    pub ok: bool,
    /// The first sequence that was read.
    pub first: Option<u64>,
    /// The highest sequence that was read.
    pub last: Option<u64>,
    /// How many whole frames there are; `last - first + 1` when nothing is missing between.
    pub frames: u64,
    /// How many segment files there are.
    pub segments: u64,
    /// The process that was writing meanwhile. Its commit under way is not reported as a torn tail.
    pub writer: Option<String>,
    /// All that is wrong, in the order of the log.
    pub problems: Vec<Problem>,
}

/// Verifies the log in the folder `dir`, whether or not a writer is at work there.
///
/// # Errors
/// [`LogError::Io`] when something cannot be read at all. Damage is no error here, but a [`Problem`].
pub fn verify(dir: &Path) -> Result<Verification, LogError> {
    Segments::read_only(dir).verify()
}

/// The same for a log on any [`Disk`] on which nobody is writing.
///
/// # Errors
/// As [`verify`].
pub fn verify_disk(disk: &dyn Disk) -> Result<Verification, LogError> {
    verify_segments(disk, None)
}

pub(crate) fn verify_segments(disk: &dyn Disk, holder: Option<Holder>) -> Result<Verification, LogError> {
    let mut seen = Collector::default();
    let terms = Terms { live: holder.is_some(), ..Terms::default() };
    let found = survey(disk, terms, &mut seen)?;
    let Collector { last, mut problems } = seen;
    problems.extend(no_mark(&found));
    problems.extend(found.tail.as_ref().map(tail_problem));
    Ok(Verification {
        ok: problems.is_empty(),
        first: found.first,
        last,
        frames: found.frames,
        segments: found.segments,
        writer: holder.map(|holder| holder.to_string()),
        problems,
    })
}

#[derive(Default)]
struct Collector {
    last: Option<u64>,
    problems: Vec<Problem>,
}

impl Visitor for Collector {
    fn frame(&mut self, frame: &Frame) {
        self.last = self.last.max(Some(frame.seq));
    }

    fn problem(&mut self, problem: Problem) -> ControlFlow<Problem> {
        self.problems.push(problem);
        ControlFlow::Continue(())
    }
}

fn no_mark(found: &Survey) -> Option<Problem> {
    (found.mark.is_none() && found.segments > 0).then(|| Problem {
        segment: MARK_NAME.to_owned(),
        offset: 0,
        seq: found.head.seq,
        what: "the mark is missing or unreadable: frames gone from the end could not be noticed".to_owned(),
        advice: "Compare `last` with what you know; the next start makes the mark anew".to_owned(),
    })
}

fn tail_problem(tail: &TailCut) -> Problem {
    let TailCut { segment, offset, bytes, seq, what, .. } = tail;
    Problem {
        segment: segment.clone(),
        offset: *offset,
        seq: *seq,
        what: format!("tail: {bytes} bytes are not a frame ({what}) and are cut at the next start"),
        advice:
            "Nothing says that they were acknowledged: a crash tore them while they were written. Start, \
                 and they are gone"
                .to_owned(),
    }
}
