//! One disk of a view, over NBD: surveying it and reading it, over as many connections as the server allows.
//!
//! Every request has its time limit, and any error is the end of the view: what was read before it proves nothing.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::crew::cores;
use super::plan::Survey;
use crate::nbd::{ALLOCATION, Extent, Limits, Nbd, NbdError, Run, dirty_context};

/// How long the server may take for one request.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);

/// Reads on their way at a time: enough to hide their latency, and so few that together they meet the limit of each
/// even where the storage gives half a megabyte in a second.
const READS: usize = 8;

/// Connections to one export, where it allows several: one socket keeps about one core busy.
const CONNECTIONS: usize = 2;

/// The connections to one export.
#[derive(Debug)]
pub(crate) struct View {
    connections: Vec<Nbd>,
    next: AtomicUsize,
    /// Taken before a read is begun: waiting for it does not count against the read's limit.
    reads: Semaphore,
    has_changes: bool,
}

impl View {
    /// Connects to `export`; with `changes` the bitmap of that name must be offered with it.
    pub(crate) async fn connect(
        socket: &Path,
        export: &str,
        changes: Option<&str>,
    ) -> Result<Self, NbdError> {
        let limits = Limits { request: REQUEST_LIMIT, in_flight: READS + 1, ..Limits::default() };
        let changes = changes.map(dirty_context);
        let contexts = [Some(ALLOCATION), changes.as_deref()].into_iter().flatten().collect::<Vec<_>>();
        let first = Nbd::connect(socket, export, &contexts, limits).await?;
        let wanted = if first.export().allows_multiple_connections() { CONNECTIONS.min(cores()) } else { 1 };
        let mut connections = vec![first];
        while connections.len() < wanted {
            connections.push(Nbd::connect(socket, export, &[], limits).await?);
        }
        Ok(Self {
            connections,
            next: AtomicUsize::new(0),
            reads: Semaphore::new(READS),
            has_changes: changes.is_some(),
        })
    }

    /// The disk's size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.connections[0].export().size
    }

    /// What is in a stretch of the disk, and what of it changed.
    pub(crate) async fn survey(&self, stretch: Extent) -> Result<Survey, NbdError> {
        let mut survey = Survey { data: Vec::new(), changed: self.has_changes.then(Vec::new) };
        let mut walk = self.connections[0].walk(stretch);
        while let Some(contexts) = walk.next().await? {
            let mut contexts = contexts.into_iter();
            // A hole that does not promise zeros is read.
            note(&mut survey.data, contexts.next(), |run| !run.is_zero());
            if let Some(changed) = &mut survey.changed {
                note(changed, contexts.next(), Run::is_dirty);
            }
        }
        Ok(survey)
    }

    /// From here on everything counts as changed.
    pub(crate) fn disregard_changes(&mut self) {
        self.has_changes = false;
    }

    /// Whether nothing of `extent` changed.
    pub(crate) async fn is_clean(&self, extent: Extent) -> Result<bool, NbdError> {
        Ok(self.survey(extent).await?.changed.is_some_and(|changed| changed.is_empty()))
    }

    /// Reads a range into `buffer`, whose length it takes.
    pub(crate) async fn read(&self, range: Extent, mut buffer: Vec<u8>) -> Result<Vec<u8>, NbdError> {
        let length = usize::try_from(range.length).expect("a range fits in memory");
        buffer.resize(length, 0);
        let _turn = self.reads.acquire().await.expect("it is never closed");
        let place = self.next.fetch_add(1, Ordering::Relaxed) % self.connections.len();
        self.connections[place].read(range.offset, buffer).await
    }
}

/// Appends the runs that are wanted, neighbours joined.
fn note(extents: &mut Vec<Extent>, runs: Option<Vec<Run>>, wanted: impl Fn(&Run) -> bool) {
    for run in runs.unwrap_or_default().into_iter().filter(wanted) {
        match extents.last_mut() {
            Some(last) if last.end() == run.extent.offset => last.length += run.extent.length,
            _ => extents.push(run.extent),
        }
    }
}
