//! From the journal to the state: at a start, at any record of the past, and as a proof of the bases.
//!
//! Owns which base is taken and the folding of frames. Every base is only a shorter way to what the records say: whatever
//! is wrong with one is told, and the next older one, or all records, are taken instead.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::base::{self, Base, BaseFault};
use crate::ids::{Epoch, Time};
use crate::log::medium::{Disk, Medium, Segments};
use crate::log::{Frame, Log, LogError, Options, Position, Problem, Reader, Recovered, Verification};
use crate::record::{DecodeError, Record};
use crate::state::{Illegal, Stamp, State};

/// Why there is no state.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The log cannot be opened or read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A record cannot be read.
    #[error("record {seq} of the journal cannot be read: {source}")]
    Record {
        /// Its sequence number.
        seq: u64,
        /// Why.
        source: DecodeError,
    },
    /// A record cannot follow the ones before it.
    #[error(
        "record {seq} of the journal cannot follow the ones before it: {source}; nothing was changed, report this with the journal"
    )]
    Illegal {
        /// Its sequence number.
        seq: u64,
        /// Why.
        source: Illegal,
    },
    /// A record of the future was asked for.
    #[error("there is no record {asked} yet: the journal ends with {last}")]
    NotYet {
        /// The one asked for.
        asked: u64,
        /// The last there is.
        last: u64,
    },
}

/// A journal that was opened.
#[derive(Debug)]
pub struct Opened {
    /// For appending.
    pub log: Log,
    /// What the records make so.
    pub state: State,
    /// What was found in the log.
    pub recovered: Recovered,
    /// The base that was taken; 0 for none.
    pub base: u64,
    /// Bases that were not, newest first, and why.
    pub set_aside: Vec<(u64, String)>,
}

/// Opens the journal in the folder `dir`, makes it if there is none, and folds it: from the newest good base, and of those
/// up to `upto` only. `each` is shown every record that is folded after it, with its sequence and the state then.
///
/// # Errors
/// [`ReplayError::Log`] as [`Log::open_replaying`]; [`ReplayError::Record`] and [`ReplayError::Illegal`] when all records,
/// without a base, do not fold.
pub fn open(
    dir: &Path,
    options: &Options,
    upto: u64,
    each: impl FnMut(u64, &State, &Record),
) -> Result<Opened, ReplayError> {
    open_in(&(Arc::new(Segments::create(dir)?) as Arc<dyn Medium>), options, upto, each)
}

/// The same on any [`Disk`], without a lock: for a simulated one.
///
/// # Errors
/// As [`open`].
pub fn open_on(
    disk: &Arc<dyn Disk>,
    options: &Options,
    upto: u64,
    each: impl FnMut(u64, &State, &Record),
) -> Result<Opened, ReplayError> {
    open_in(&(Arc::new(Segments::on(Arc::clone(disk))) as Arc<dyn Medium>), options, upto, each)
}

/// The same in any [`Medium`].
///
/// # Errors
/// As [`open`].
pub fn open_in(
    medium: &Arc<dyn Medium>,
    options: &Options,
    upto: u64,
    mut each: impl FnMut(u64, &State, &Record),
) -> Result<Opened, ReplayError> {
    let mut set_aside = Vec::new();
    for kept in bases(medium.as_ref())?.into_iter().filter(|kept| kept.seq <= upto) {
        let seq = kept.seq;
        let tried = kept.read().and_then(|base| from_base(base, options, &mut each, medium));
        match tried {
            Ok(Ok((log, state, recovered))) => {
                return Ok(Opened { log, state, recovered, base: seq, set_aside });
            }
            Ok(Err(error)) => return Err(error),
            Err(fault) => {
                tracing::warn!(
                    base = seq, %fault,
                    "a base of the journal is not taken; an older one is, or all records are folded"
                );
                set_aside.push((seq, fault.to_string()));
            }
        }
    }
    let (log, state, recovered) = fold_all(State::default(), options, &mut each, medium)?;
    Ok(Opened { log, state, recovered, base: 0, set_aside })
}

/// A base where it is kept.
struct Kept {
    folder: Arc<dyn Disk>,
    seq: u64,
}

impl Kept {
    fn read(&self) -> Result<Base, BaseFault> {
        base::read(self.folder.as_ref(), self.seq)
    }
}

/// The bases that a medium has, newest first.
fn bases(medium: &dyn Medium) -> Result<Vec<Kept>, LogError> {
    let Some(folder) = medium.bases() else { return Ok(Vec::new()) };
    let seqs = base::list(folder.as_ref()).map_err(LogError::io("list", "its bases"))?;
    Ok(seqs.into_iter().map(|seq| Kept { folder: Arc::clone(&folder), seq }).collect())
}

type Folded = (Log, State, Recovered);

/// The outer error is the base's fault, the inner one the log's.
fn from_base(
    base: Base,
    options: &Options,
    each: &mut dyn FnMut(u64, &State, &Record),
    medium: &Arc<dyn Medium>,
) -> Result<Result<Folded, ReplayError>, BaseFault> {
    let options = Options { from: base.at, ..options.clone() };
    match fold_all(base.state, &options, each, medium) {
        Err(ReplayError::Log(LogError::NotOnChain { .. })) => Err(BaseFault::Elsewhere),
        Err(error @ ReplayError::Illegal { .. }) => Err(BaseFault::Unlikely(error.to_string())),
        other => Ok(other),
    }
}

fn fold_all(
    mut state: State,
    options: &Options,
    each: &mut dyn FnMut(u64, &State, &Record),
    medium: &Arc<dyn Medium>,
) -> Result<Folded, ReplayError> {
    let mut failed = None;
    let (log, recovered) = Log::open_in(Arc::clone(medium), options, |frame| {
        if failed.is_none() {
            match fold(&mut state, frame) {
                Ok(record) => each(frame.seq, &state, &record),
                Err(error) => failed = Some(error),
            }
        }
    })?;
    match failed {
        Some(error) => Err(error),
        None => Ok((log, state, recovered)),
    }
}

/// Folds a frame in, and returns its record.
///
/// # Errors
/// [`ReplayError::Record`], [`ReplayError::Illegal`]; the state is then as it was.
pub fn fold(state: &mut State, frame: &Frame) -> Result<Record, ReplayError> {
    let (seq, entry) = (frame.seq, &frame.entry);
    let record = Record::decode(entry.kind, entry.version, &entry.body)
        .map_err(|source| ReplayError::Record { seq, source })?;
    let stamp = Stamp { epoch: Epoch(entry.epoch), time: Time(entry.time) };
    state.apply(stamp, &record).map_err(|source| ReplayError::Illegal { seq, source })?;
    Ok(record)
}

/// The state as it was right after one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    /// The record's sequence.
    pub seq: u64,
    /// When it was written.
    pub time: Time,
    /// What was so.
    pub state: State,
}

/// The state after record `at`, or after the last one there is. Archived records count.
///
/// # Errors
/// [`ReplayError::NotYet`]; [`ReplayError::Log`] when records on the way are damaged or not here.
pub fn state_at(disk: &Arc<dyn Disk>, at: Option<u64>) -> Result<Past, ReplayError> {
    state_in(&Segments::on(Arc::clone(disk)), at)
}

/// The same in any [`Medium`].
///
/// # Errors
/// As [`state_at`].
pub fn state_in(medium: &dyn Medium, at: Option<u64>) -> Result<Past, ReplayError> {
    let upto = at.unwrap_or(u64::MAX);
    for kept in bases(medium).unwrap_or_default().into_iter().filter(|kept| kept.seq <= upto) {
        let seq = kept.seq;
        if let Ok(base) = kept.read()
            && let Some((mut reader, time)) = standing_on(medium, base.at)?
            && let Ok(past) = go_on(&mut reader, Past { seq, time, state: base.state }, at)
        {
            return Ok(past);
        }
    }
    let start = Past { seq: 0, time: Time::default(), state: State::default() };
    go_on(&mut Reader::of(medium, 1)?, start, at)
}

/// A reader that has read the very frame `at`, and its time; `None` when the journal has another one there, or none.
fn standing_on(medium: &dyn Medium, at: Position) -> Result<Option<(Reader, Time)>, LogError> {
    let mut reader = match Reader::of(medium, at.seq) {
        Err(LogError::NotHere { .. }) => return Ok(None),
        reader => reader?,
    };
    let frame = reader.next()?.filter(|frame| frame.position() == at);
    Ok(frame.map(|frame| (reader, Time(frame.entry.time))))
}

fn go_on(reader: &mut Reader, from: Past, at: Option<u64>) -> Result<Past, ReplayError> {
    let Past { mut seq, mut time, mut state } = from;
    while at.is_none_or(|at| seq < at)
        && let Some(frame) = reader.next()?
    {
        fold(&mut state, &frame)?;
        seq = frame.seq;
        time = Time(frame.entry.time);
    }
    match at {
        Some(asked) if seq < asked => Err(ReplayError::NotYet { asked, last: seq }),
        _ => Ok(Past { seq, time, state }),
    }
}

/// Verifies the journal in the folder `dir`: the log with its archive, and where that is whole, that every base says what
/// the records say.
///
/// # Errors
/// [`LogError::Io`] when something cannot be read at all.
pub fn verify(dir: &Path) -> Result<Verification, LogError> {
    verify_in(&Segments::read_only(dir))
}

/// The same in any [`Medium`].
///
/// # Errors
/// As [`verify`].
pub fn verify_in(medium: &dyn Medium) -> Result<Verification, LogError> {
    let mut found = medium.verify()?;
    if found.ok {
        found.problems = untrue_bases(medium, found.last.unwrap_or(0))?;
        found.ok = found.problems.is_empty();
    }
    Ok(found)
}

/// What is wrong with the bases up to `last` of a journal that is whole. One that another fold made is not wrong.
///
/// # Errors
/// [`LogError::Io`], and damage that came meanwhile.
pub fn untrue_bases(medium: &dyn Medium, last: u64) -> Result<Vec<Problem>, LogError> {
    let mut problems = Vec::new();
    let mut sound = Vec::new();
    for kept in bases(medium)? {
        let seq = kept.seq;
        match kept.read() {
            Ok(base) if seq <= last => sound.push(base),
            Ok(_) | Err(BaseFault::Fold { .. }) => {}
            Err(BaseFault::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(fault) => problems.push(problem(seq, &fault)),
        }
    }
    if sound.is_empty() {
        return Ok(problems);
    }
    let mut reader = Reader::of(medium, 1)?;
    let mut state = State::default();
    while let Some(next) = sound.pop() {
        let frame = loop {
            match reader.next()? {
                Some(frame) if fold(&mut state, &frame).is_err() => return Ok(problems),
                Some(frame) if frame.seq == next.at.seq => break Some(frame),
                Some(_) => {}
                None => break None,
            }
        };
        match frame {
            Some(frame) if frame.position() == next.at && state == next.state => {}
            Some(frame) if frame.position() == next.at => {
                problems.push(problem(next.at.seq, &BaseFault::Untrue));
            }
            _ => problems.push(problem(next.at.seq, &BaseFault::Elsewhere)),
        }
    }
    Ok(problems)
}

fn problem(seq: u64, fault: &BaseFault) -> Problem {
    Problem {
        segment: base::file_name(seq),
        offset: 0,
        seq,
        what: format!("the base is not what it should be: {fault}"),
        advice: "No record is concerned: remove this file, and the next start takes an older base or folds all records"
            .to_owned(),
    }
}

/// Before which record segments may be archived: what the newest good base on `disk` does not need; 0 without one.
///
/// # Errors
/// The system's.
pub fn archivable(disk: &dyn Disk) -> io::Result<u64> {
    let bases = base::list(disk)?;
    Ok(bases.into_iter().find(|seq| base::read(disk, *seq).is_ok()).map_or(0, |seq| seq + 1))
}
