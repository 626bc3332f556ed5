//! The journal of a stopped installation, read from its folder. Changes nothing there, and takes no lock.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use journal::Record;
use journal::base::{self, Base};
use journal::log::medium::RealDisk;
use journal::log::{Frame, LogError, Moved, Options, Reader};
use journal::record::VmAdded;
use journal::replay::{self, ReplayError};
use orchestrator::api::journal::Filter;
use orchestrator::api::view::{PastView, RecordView};

use super::{Problem, Verified, Which, line};
use crate::exit::{Ending, Failure, Status};
use crate::session::Session;

/// Verifies.
///
/// # Errors
/// When there is no journal, or it cannot be read at all.
pub fn verify(data: &Path) -> Result<Verified, Failure> {
    let found = replay::verify(&folder(data)?).map_err(|error| failure(&error))?;
    let problems = found.problems.into_iter().map(|problem| Problem {
        segment: problem.segment,
        offset: problem.offset,
        seq: problem.seq,
        what: problem.what,
        advice: problem.advice,
    });
    Ok(Verified { ok: found.ok, first: found.first, last: found.last, problems: problems.collect() })
}

/// Prints the records.
///
/// # Errors
/// At the first damaged place, after all that stands before it.
pub fn log(data: &Path, which: &Which, session: &Session) -> Ending {
    let vm = which.vm.as_deref();
    let folder = folder(data)?;
    let mut reader = match Reader::open(&folder, 1) {
        // What was archived and taken away is not here; what is left is still worth printing.
        Err(LogError::NotHere { first, .. }) => Reader::open(&folder, first),
        other => other,
    }
    .map_err(|error| failure(&error))?;
    let mut pieces = session.output.pieces(false);
    let mut names = HashMap::new();
    let mut filter = None;
    while let Some(frame) = reader.next().map_err(|error| failure(&error))? {
        let record = view(&frame, &mut names);
        if let Some(id) = added(&frame).filter(|added| vm == Some(added.vm.name.as_str())).map(|it| it.vm.id)
        {
            filter.get_or_insert_with(|| Filter::new(id));
        }
        let wanted = vm.is_none() || filter.as_mut().is_some_and(|filter| filter.passes(&frame));
        if wanted && which.was_then(frame.entry.time) {
            pieces.add(&[record], line)?;
        }
    }
    pieces.end()?;
    Ok(Status::Done)
}

/// What was so after a record.
///
/// # Errors
/// When there is no such record, or the way to it is damaged or taken away.
pub fn past(data: &Path, at: Option<u64>) -> Result<PastView, Failure> {
    orchestrator::api::journal::past(&folder(data)?, at).map_err(|error| match error {
        ReplayError::NotYet { .. } => Failure::not_found(error.to_string()),
        error => Failure::failed(error.to_string()),
    })
}

/// Archives, under the journal's lock.
///
/// # Errors
/// When a server runs on the folder, a segment is damaged, or the disk refuses.
pub fn archive(data: &Path, before: Option<u64>, keep: usize) -> Result<Moved, Failure> {
    let folder = folder(data)?;
    let opened = replay::open(&folder, &Options::default(), u64::MAX, |_, _, _| {})
        .map_err(|error| Failure::failed(error.to_string()))?;
    let at = *opened.log.durable().borrow();
    if opened.base < at.seq {
        let disk = RealDisk::create(&folder).map_err(|error| Failure::failed(error.to_string()))?;
        let base = Base { at, state: opened.state };
        base::write(&disk, &base).map_err(|error| Failure::failed(error.to_string()))?;
    }
    let below = replay::archivable(&RealDisk::read_only(&folder));
    let below = below.map_err(|error| Failure::failed(error.to_string()))?;
    let before = before.unwrap_or(u64::MAX).min(below);
    opened.log.archive(before, keep).map_err(|error| failure(&error))
}

fn folder(data: &Path) -> Result<PathBuf, Failure> {
    let folder = orchestrator::journal_folder(data);
    match std::fs::metadata(&folder) {
        Ok(_) => Ok(folder),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Failure::not_found(format!(
            "there is no journal in {}: name the data folder of an installation with --data",
            data.display()
        ))),
        Err(error) => Err(Failure::failed(format!("{}: {error}", folder.display()))),
    }
}

fn failure(error: &LogError) -> Failure {
    Failure::failed(error.to_string())
}

/// The VM that a frame adds, if it adds one.
fn added(frame: &Frame) -> Option<VmAdded> {
    match Record::decode(frame.entry.kind, frame.entry.version, &frame.entry.body) {
        Ok(Record::VmAdded(added)) => Some(added),
        _ => None,
    }
}

/// A frame as the API shows it, with the name that its VM has now or had last.
fn view(frame: &Frame, names: &mut HashMap<String, String>) -> RecordView {
    let mut record = orchestrator::api::journal::view(None, frame);
    if let Some(added) = added(frame) {
        names.insert(added.vm.id.to_string(), added.vm.name.to_string());
    }
    record.vm = record.vm.map(|id| names.get(&id).cloned().unwrap_or(id));
    record
}

#[cfg(test)]
mod tests;
