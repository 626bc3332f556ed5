//! Trying again by hand: a new job for what an old one did not finish, and for nothing else of it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State as Extract};
use journal::record::{JobQueued, Terms, Work};
use journal::state::{Job, JobState};
use journal::{JobId, State};

use super::view::{JobView, RetryJob};
use super::{Answer, Api, BY_HAND, jobs};
use crate::drive::{Refusal, Shared};

pub(super) async fn start(
    Extract(api): Extract<Api>,
    Path(id): Path<String>,
    Json(RetryJob { request }): Json<RetryJob>,
) -> Answer<Vec<JobView>> {
    let missing = || Refusal::not_found(format!("no job `{id}`; `job list` shows them"));
    let parsed: JobId = id.parse().map_err(|_| missing())?;
    let asked = found(&api.shared, parsed).await.ok_or_else(missing)?;
    let olds = if request { whole_request(&api.shared, asked).await } else { vec![asked] };
    // The newest finished jobs may have moved from the state to the history meanwhile: what is over stays what it is.
    let queued = api
        .propose(move |state, _| {
            let taken_up = taken_up(state);
            let wanted = |job: &&Job| !request || may_be_retried(job, &taken_up).is_ok();
            let mut records = Vec::new();
            let mut queued: Vec<JobId> = Vec::new();
            for old in olds.iter().filter(wanted) {
                let old = state.jobs.get(&old.id).unwrap_or(old);
                may_be_retried(old, &taken_up)?;
                let job = JobId(state.next.job.0 + records.len() as u64);
                let first = queued.first().copied().unwrap_or(job);
                let terms = Terms {
                    priority: BY_HAND,
                    deadline: None,
                    request: (olds.len() > 1).then_some(first),
                    retries: Some(old.id),
                    hooks: old.terms.hooks.clone(),
                    // It is wanted now, whatever it was to wait for.
                    after: Box::default(),
                };
                // Due at once: the instant stays the one that the policy's run stands for.
                let due = old.due.clone();
                records.push(JobQueued { job, work: unfinished(old), due, terms }.into());
                queued.push(job);
            }
            if queued.is_empty() {
                return Err(Refusal::usage("nothing of this request is left to be tried again"));
            }
            Ok((records, queued))
        })
        .await?;
    let mut views = Vec::with_capacity(queued.len());
    for job in queued {
        views.push(jobs::find(&api.shared, &job.to_string()).await?);
    }
    Ok(Json(views))
}

/// A job, live or finished.
async fn found(shared: &Shared, id: JobId) -> Option<Job> {
    jobs::known(shared, &*shared.state.read().await, id).map(Cow::into_owned)
}

/// All jobs of a job's request: they have consecutive numbers from the first.
async fn whole_request(shared: &Shared, asked: Job) -> Vec<Job> {
    let Some(first) = asked.terms.request else { return vec![asked] };
    let mut all = Vec::new();
    let mut id = first;
    while let Some(job) = found(shared, id).await.filter(|job| job.terms.request == Some(first)) {
        all.push(job);
        id = id.next();
    }
    all
}

/// The jobs that were tried again, by which.
fn taken_up(state: &State) -> BTreeMap<JobId, JobId> {
    let retries =
        state.jobs.values().filter(|job| !matches!(job.state, JobState::Failed | JobState::Cancelled));
    retries.filter_map(|job| Some((job.terms.retries?, job.id))).collect()
}

fn may_be_retried(job: &Job, taken_up: &BTreeMap<JobId, JobId>) -> Result<(), Refusal> {
    if let Some(by) = taken_up.get(&job.id) {
        return Err(Refusal::usage(format!("{} was tried again already, as {by}", job.id)));
    }
    match job.state {
        JobState::Failed | JobState::Cancelled => Ok(()),
        JobState::Done => Err(Refusal::usage(format!("{} is done: nothing of it is left", job.id))),
        state => Err(Refusal::usage(format!("{} is not over, it is {state}", job.id))),
    }
}

/// What a job did not finish: of a restore, the images that are not written.
fn unfinished(job: &Job) -> Work {
    let mut work = job.work.clone();
    if let Work::Restore(restore) = &mut work {
        let written = job.steps.iter().filter(|step| step.done().is_some()).count();
        restore.disks.drain(..written.min(restore.disks.len()));
    }
    work
}
