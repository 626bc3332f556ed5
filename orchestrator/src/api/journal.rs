//! The journal, as people read it.

mod read;
mod words;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State as Extract};
use journal::log::medium::{Disk, RealDisk};
use journal::log::{Frame, Moved, Verification};
use journal::record::{
    BackupPlanned, CancelAsked, ExportPlanned, IntentAdopted, IntentSettled, JobEnded, JobPaused, JobRetried,
    JobStarted, PauseAsked,
};
use journal::replay::{Past, ReplayError, archivable};
use journal::{Effect, IntentId, JobId, Record, State, Time, VmId};
use serde::Deserialize;

use super::view::{PastView, RecordView};
use super::{Answer, Api, vm_named};
use crate::drive::{Refusal, Wanted};

pub(super) use read::Readers;
use words::summary;

/// Records in one answer, at most.
const PAGE: usize = 1000;

/// How long a follower waits for the next record.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

#[derive(Debug, Deserialize)]
pub(super) struct Page {
    #[serde(default)]
    after: u64,
    limit: Option<usize>,
    vm: Option<String>,
    since: Option<String>,
    until: Option<String>,
    #[serde(default)]
    wait: bool,
}

/// Records after a sequence number, oldest first. With a VM, only those that concern it; with times, only those written
/// between them. Their `seq` shows how far the reading came, and an empty answer means that there is nothing newer.
pub(super) async fn log(Extract(api): Extract<Api>, Query(page): Query<Page>) -> Answer<Vec<RecordView>> {
    let vm = match &page.vm {
        None => None,
        Some(name) => Some(vm_named(&*api.shared.state.read().await, name)?),
    };
    let mut wanted = Wanted {
        after: page.after,
        upto: 0,
        since: moment(page.since.as_deref())?.unwrap_or(Time(i64::MIN)),
        until: moment(page.until.as_deref())?.unwrap_or(Time(i64::MAX)),
        limit: page.limit.unwrap_or(PAGE).clamp(1, PAGE),
    };
    let deadline = tokio::time::Instant::now() + LONGEST_WAIT;
    let mut durable = api.shared.log.durable();
    loop {
        wanted.upto = durable.borrow_and_update().seq;
        let frames = read::page(&api, vm, wanted).await?;
        if !frames.is_empty() || !page.wait {
            let state = api.shared.state.read().await;
            return Ok(Json(frames.iter().map(|frame| view(Some(&state), frame)).collect()));
        }
        // All up to there was looked at.
        wanted.after = wanted.after.max(wanted.upto);
        let newer = durable.wait_for(|position| position.seq > wanted.after);
        if !matches!(tokio::time::timeout_at(deadline, newer).await, Ok(Ok(_))) {
            return Ok(Json(Vec::new()));
        }
    }
}

fn moment(given: Option<&str>) -> Result<Option<Time>, Refusal> {
    let parse = |text: &str| {
        let parsed = chrono::DateTime::parse_from_rfc3339(text);
        parsed.map(|at| Time::from(at.with_timezone(&chrono::Utc))).map_err(|_| {
            Refusal::usage(format!("`{text}` is not an RFC 3339 instant, such as 2026-03-29T02:30:00+01:00"))
        })
    };
    given.map(parse).transpose()
}

pub(super) async fn verify(Extract(api): Extract<Api>) -> Answer<Verification> {
    let folder = api.shared.journal.clone();
    let verified = tokio::task::spawn_blocking(move || journal::replay::verify(&folder)).await;
    let verified = verified.map_err(|error| Refusal::failed(error.to_string()))?;
    verified.map(Json).map_err(|error| Refusal::failed(error.to_string()))
}

#[derive(Debug, Deserialize)]
pub(super) struct At {
    at: Option<u64>,
}

/// The state as it was after one record.
pub(super) async fn show(Extract(api): Extract<Api>, Query(At { at }): Query<At>) -> Answer<PastView> {
    let folder = api.shared.journal.clone();
    // What was not yet acknowledged when this was asked is not shown.
    let durable = api.shared.log.durable().borrow().seq;
    let at = at.unwrap_or(durable);
    if at > durable {
        return Err(Refusal::not_found(format!(
            "there is no record {at} yet: the journal ends with {durable}"
        )));
    }
    let past = tokio::task::spawn_blocking(move || past(&folder, Some(at))).await;
    let past = past.map_err(|error| Refusal::failed(error.to_string()))?;
    past.map(Json).map_err(|error| Refusal::failed(error.to_string()))
}

/// The state as it was after a record of the journal in `folder`, or after the last.
///
/// # Errors
/// As [`journal::replay::state_at`].
pub fn past(folder: &Path, at: Option<u64>) -> Result<PastView, ReplayError> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::read_only(folder));
    let Past { seq, time, state } = journal::replay::state_at(&disk, at)?;
    Ok(PastView { seq, time: time.to_string(), state })
}

#[derive(Debug, Deserialize)]
pub(super) struct Which {
    before: Option<u64>,
    #[serde(default)]
    keep: usize,
}

/// Moves closed segments below the newest base into the archive.
pub(super) async fn archive(Extract(api): Extract<Api>, Query(which): Query<Which>) -> Answer<Moved> {
    let shared = Arc::clone(&api.shared);
    // One that rests in a segment would keep its room.
    api.readers.forget();
    let moved = tokio::task::spawn_blocking(move || {
        // So that as much as possible is below it; if it cannot be written, an older one serves.
        shared.bases.write_now(&shared.state.blocking_read());
        let disk = RealDisk::read_only(&shared.journal);
        let below = archivable(&disk).map_err(|error| Refusal::failed(error.to_string()))?;
        let before = which.before.unwrap_or(u64::MAX).min(below);
        shared.log.archive(before, which.keep).map_err(|error| Refusal::failed(error.to_string()))
    });
    moved.await.map_err(|error| Refusal::failed(error.to_string()))?.map(Json)
}

fn decode(frame: &Frame) -> Result<Record, journal::record::DecodeError> {
    Record::decode(frame.entry.kind, frame.entry.version, &frame.entry.body)
}

/// Passes the records that concern one VM, if it is shown all of them in order.
#[derive(Debug)]
pub struct Filter {
    vm: VmId,
    jobs: BTreeSet<JobId>,
    intents: BTreeSet<IntentId>,
}

impl Filter {
    /// For this VM.
    #[must_use]
    pub fn new(vm: VmId) -> Self {
        Self { vm, jobs: BTreeSet::new(), intents: BTreeSet::new() }
    }

    /// Whether a frame's record concerns the VM, by itself or by its job or intent.
    pub fn passes(&mut self, frame: &Frame) -> bool {
        let Ok(record) = decode(frame) else { return false };
        let by_itself = vm_of(&record) == Some(self.vm);
        match &record {
            Record::JobQueued(it) if by_itself => self.jobs.insert(it.job),
            Record::IntentOpened(it) => {
                let ours = by_itself || it.intent.job.is_some_and(|job| self.jobs.contains(&job));
                ours && self.intents.insert(it.intent.id)
            }
            Record::JobStarted(JobStarted { job })
            | Record::BackupPlanned(BackupPlanned { job, .. })
            | Record::ExportPlanned(ExportPlanned { job, .. })
            | Record::CancelAsked(CancelAsked { job, .. })
            | Record::JobRetried(JobRetried { job, .. })
            | Record::PauseAsked(PauseAsked { job, .. })
            | Record::JobPaused(JobPaused { job })
            | Record::JobEnded(JobEnded { job, .. }) => self.jobs.contains(job),
            Record::IntentAdopted(IntentAdopted { intent, .. })
            | Record::IntentSettled(IntentSettled { intent, .. }) => self.intents.contains(intent),
            _ => by_itself,
        }
    }
}

/// A frame as people read it. Without a state, VMs show by their UUID.
#[must_use]
pub fn view(state: Option<&State>, frame: &Frame) -> RecordView {
    let record = decode(frame);
    let name = |vm: VmId| {
        let known = state.and_then(|state| state.vms.get(&vm));
        known.map_or_else(|| vm.to_string(), |vm| vm.address.name.to_string())
    };
    let (kind, summary, body) = match &record {
        Ok(record) => {
            let body = serde_json::to_value(record).unwrap_or_default();
            (record.kind().1.to_owned(), summary(record), body)
        }
        Err(error) => (format!("{:#06x}", frame.entry.kind), error.to_string(), serde_json::Value::Null),
    };
    RecordView {
        seq: frame.seq,
        epoch: frame.entry.epoch,
        time: Time(frame.entry.time).to_string(),
        kind,
        vm: record.ok().as_ref().and_then(vm_of).map(name),
        summary,
        body,
    }
}

/// The VM that a record names.
pub(crate) fn vm_of(record: &Record) -> Option<VmId> {
    match record {
        Record::VmAdded(it) => Some(it.vm.id),
        Record::VmRemoved(it) => Some(it.vm),
        Record::VmHosted(it) => Some(it.vm),
        Record::ProcessSeen(it) => Some(it.vm),
        Record::TrackingLost(it) => Some(it.vm),
        Record::ViewLost(it) => Some(it.vm),
        Record::RunSkipped(it) => it.vm,
        Record::JobQueued(it) => it.work.vm(),
        Record::IntentOpened(it) => match &it.intent.effect {
            Effect::Offer(offer) => Some(offer.vm.id),
            effect => effect.vm(),
        },
        _ => None,
    }
}
