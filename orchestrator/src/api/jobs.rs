//! Jobs: the live ones from the state, the others from the history index.

use std::borrow::Cow;
use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State as Extract};
use journal::record::{CancelAsked, PauseAsked, Work};
use journal::state::{Job, JobState, Lane, Try};
use journal::{JobId, PolicyName, State, Time, VmId};
use policies::Policy;
use serde::Deserialize;

use super::view::{JobView, ProgressView, StepView, TryView};
use super::{Answer, Api};
use crate::decide::queue::room::Room;
use crate::decide::{queue, retry};
use crate::drive::{self, Refusal, Shared};

/// How many jobs a list shows, beside those that are not over.
const LISTED: usize = 500;

/// How long a caller waits for a change.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// How many it shows when more are asked for.
const LISTED_AT_MOST: usize = 10_000;

#[derive(Debug, Deserialize)]
pub(super) struct Filter {
    vm: Option<String>,
    limit: Option<usize>,
}

/// Newest first. What the state no longer keeps is in the history index.
pub(super) async fn list(Extract(api): Extract<Api>, Query(filter): Query<Filter>) -> Answer<Vec<JobView>> {
    let limit = filter.limit.map_or(LISTED, |limit| limit.min(LISTED_AT_MOST));
    let vm = match &filter.vm {
        None => None,
        Some(name) => Some(super::points::vm_of_name(&api, name).await?),
    };
    let history = api.shared.history.clone();
    let older = tokio::task::spawn_blocking(move || history.newest(vm, limit)).await;
    let older = older.map_err(|error| Refusal::failed(error.to_string()))?;
    let state = api.shared.state.read().await;
    let wanted = |job: &&Job| vm.is_none_or(|vm| vm_of(&api.shared, &state, job) == Some(vm));
    let older = older.iter().filter(|job| !state.jobs.contains_key(&job.id));
    let mut jobs: Vec<&Job> = state.jobs.values().filter(wanted).chain(older).collect();
    jobs.sort_by_key(|job| std::cmp::Reverse(job.id));
    jobs.truncate(filter.limit.unwrap_or(jobs.len()));
    let sight = Sight::new(&api.shared, &state);
    Ok(Json(jobs.into_iter().map(|job| view(&sight, job)).collect()))
}

/// The VM that a job is about: its own, or its restore point's.
fn vm_of(shared: &Shared, state: &State, job: &Job) -> Option<VmId> {
    let point = match &job.work {
        Work::Restore(work) => work.point,
        Work::Forget { point } => *point,
        work => return work.vm(),
    };
    let gone = || shared.history.point(point).map(|kept| kept.point.vm);
    state.points.get(&point).map(|point| point.vm).or_else(gone)
}

#[derive(Debug, Deserialize)]
pub(super) struct After {
    after: Option<u64>,
}

/// Shows a job; with `after`, once its revision is another one, or after a while.
pub(super) async fn show(
    Extract(api): Extract<Api>,
    Path(id): Path<String>,
    Query(After { after }): Query<After>,
) -> Answer<JobView> {
    let deadline = tokio::time::Instant::now() + LONGEST_WAIT;
    let mut changed = api.shared.changed.subscribe();
    loop {
        changed.mark_unchanged();
        let view = find(&api.shared, &id).await?;
        if after != Some(view.revision) {
            return Ok(Json(view));
        }
        if tokio::time::timeout_at(deadline, changed.changed()).await.is_err() {
            return Ok(Json(view));
        }
    }
}

pub(super) async fn find(shared: &Shared, id: &str) -> Result<JobView, Refusal> {
    let parsed: JobId = id.parse().map_err(|_| missing(id))?;
    let state = shared.state.read().await;
    known(shared, &state, parsed)
        .map(|job| view(&Sight::new(shared, &state), &job))
        .ok_or_else(|| missing(id))
}

/// A job, live or finished.
pub(super) fn known<'a>(shared: &Shared, state: &'a State, id: JobId) -> Option<Cow<'a, Job>> {
    let live = state.jobs.get(&id).map(Cow::Borrowed);
    live.or_else(|| shared.history.job(id).map(Cow::Owned))
}

/// The jobs of these names, live or finished, each once.
pub(super) async fn named(shared: &Shared, names: &[String]) -> Result<Vec<JobId>, Refusal> {
    let state = shared.state.read().await;
    let mut jobs = Vec::with_capacity(names.len());
    for name in names {
        let id = name.parse().ok().filter(|id| known(shared, &state, *id).is_some());
        jobs.push(id.ok_or_else(|| missing(name))?);
    }
    jobs.sort_unstable();
    jobs.dedup();
    Ok(jobs)
}

fn missing(id: &str) -> Refusal {
    Refusal::not_found(format!("no job `{id}`; `job list` shows them"))
}

fn not_over<'a>(state: &'a State, named: &str) -> Result<&'a Job, Refusal> {
    let missing = || Refusal::not_found(format!("no job `{named}` that is not over; `job list` shows them"));
    let job = named.parse().ok().and_then(|id: JobId| state.jobs.get(&id)).ok_or_else(missing)?;
    if job.state.is_over() {
        return Err(Refusal::usage(format!("{named} is {} already", job.state)));
    }
    Ok(job)
}

pub(super) async fn cancel(Extract(api): Extract<Api>, Path(id): Path<String>) -> Answer<JobView> {
    let named = id.clone();
    api.propose(move |state, _| {
        let job = not_over(state, &named)?;
        let asked = CancelAsked { job: job.id, why: None };
        Ok((if job.cancel_asked { Vec::new() } else { vec![asked.into()] }, ()))
    })
    .await?;
    find(&api.shared, &id).await.map(Json)
}

pub(super) async fn pause(Extract(api): Extract<Api>, Path(id): Path<String>) -> Answer<JobView> {
    set_paused(&api, id, true).await
}

pub(super) async fn resume(Extract(api): Extract<Api>, Path(id): Path<String>) -> Answer<JobView> {
    set_paused(&api, id, false).await
}

async fn set_paused(api: &Api, id: String, paused: bool) -> Answer<JobView> {
    let named = id.clone();
    api.propose(move |state, _| {
        let job = not_over(state, &named)?;
        if job.cancel_asked {
            return Err(Refusal::usage(format!("{named} is being cancelled")));
        }
        if paused && matches!(job.work, Work::Export(_)) {
            return Err(Refusal::usage(format!(
                "{named} is an export, which does nothing that could rest; `export remove {named}` ends it"
            )));
        }
        let rests = job.pause_asked || job.state == JobState::Paused;
        let asked = PauseAsked { job: job.id, paused };
        Ok((if rests == paused { Vec::new() } else { vec![asked.into()] }, ()))
    })
    .await?;
    find(&api.shared, &id).await.map(Json)
}

fn view(sight: &Sight<'_>, job: &Job) -> JobView {
    let Sight { shared, state, .. } = *sight;
    let progress = job.open_step().and_then(|step| shared.progress_of(step.intent));
    let point = match &job.work {
        Work::Restore(work) => Some(work.point),
        Work::Forget { point } => Some(*point),
        _ => {
            let made = |plan: &journal::record::BackupPlanned| {
                let stored = job.last(journal::EffectKind::Store).is_some_and(|step| step.done().is_some());
                stored.then_some(plan.point)
            };
            job.plan.as_deref().and_then(made)
        }
    };
    let vm_of_point = || {
        let point = point?;
        let gone = || shared.history.point(point).map(|kept| kept.point.vm_name.to_string());
        state.points.get(&point).map(|point| point.vm_name.to_string()).or_else(gone)
    };
    let vm = job.work.vm().map(|id| vm_name(state, id));
    let mut view = JobView {
        id: job.id.to_string(),
        kind: job.work.kind().to_owned(),
        vm: vm.or_else(vm_of_point),
        state: job.state.to_string(),
        policy: job.due.as_ref().map(|due| due.policy.to_string()),
        attempt: job.attempt(),
        reason: sight.waits(job).or_else(|| job.reason.clone()),
        advice: job
            .class
            .filter(|_| job.state == JobState::Failed)
            .map(|class| retry::advice(class).to_owned()),
        tries: job.tries.iter().map(try_view).collect(),
        retries: job.terms.retries.map(|job| job.to_string()),
        request: job.terms.request.map(|job| job.to_string()),
        after: job.terms.after.iter().map(ToString::to_string).collect(),
        priority: job.terms.priority,
        created: job.created.to_string(),
        started: job.started.map(|at| at.to_string()),
        ended: job.ended.map(|at| at.to_string()),
        repository: job.repository.as_ref().map(ToString::to_string),
        point: point.map(|point| point.to_string()),
        steps: job.steps.iter().map(step_view).collect(),
        progress: progress.map(|it| ProgressView { done: it.done_bytes, total: it.total_bytes }),
        revision: 0,
    };
    view.revision = revision(&view);
    view
}

/// What jobs are shown from: each policy is read once, however many of its jobs wait.
pub(super) struct Sight<'a> {
    shared: &'a Shared,
    state: &'a State,
    policies: RefCell<BTreeMap<PolicyName, Option<Policy>>>,
    room: OnceCell<Room<'a>>,
}

impl<'a> Sight<'a> {
    pub(super) fn new(shared: &'a Shared, state: &'a State) -> Self {
        Self { shared, state, policies: RefCell::default(), room: OnceCell::new() }
    }

    /// What a policy says, as it is now.
    fn policy<T>(&self, name: &PolicyName, says: impl FnOnce(&Policy) -> Option<T>) -> Option<T> {
        let recorded = self.state.policies.get(name)?;
        let mut policies = self.policies.borrow_mut();
        let policy = policies.entry(name.clone()).or_insert_with(|| super::policies::parsed(recorded));
        says(policy.as_ref()?)
    }

    /// Why a job whose time has come does not start at this hour, and when it may.
    pub(super) fn out_of_hours(&self, job: &Job) -> Option<String> {
        let Lane { policy: Some(name), schedule: Some(schedule), .. } = Lane::of(job) else { return None };
        let now = drive::now().to_utc();
        let (why, opens) = self.policy(&name, |policy| {
            Some((policy.closed(&schedule, now)?.to_string(), policy.opens(&schedule, now)))
        })?;
        let opens = opens.map(|opens| format!("; not before {}", Time::from(opens)));
        Some(format!("{why}{}", opens.unwrap_or_default()))
    }

    /// The limit that keeps a job whose turn it might be from starting.
    fn limited(&self, job: &Job) -> Option<String> {
        let room = self.room.get_or_init(|| Room::of(self.state, self.shared.limits));
        let lane = Lane::of(job);
        let concurrency =
            lane.policy.as_ref().and_then(|name| self.policy(name, |policy| policy.concurrency));
        let host = || job.work.vm().and_then(|vm| self.state.vms.get(&vm)?.host.as_ref());
        let obstacle =
            room.at_all().or_else(|| room.in_lane(&lane, concurrency)).or_else(|| room.on_host(host()));
        obstacle.map(|obstacle| obstacle.to_string())
    }

    /// What a job waits for that an operator should know of, or do something about.
    pub(super) fn waits(&self, job: &Job) -> Option<String> {
        let Sight { shared, state, .. } = *self;
        if job.pause_asked {
            return Some("it comes to rest where nothing of it must be left as it is".to_owned());
        }
        if job.state != JobState::Queued {
            return None;
        }
        if let Some(trouble) = shared.trouble().filter(|_| !job.work.frees_room()) {
            return Some(format!("{}; {}", trouble.what, trouble.advice));
        }
        if !job.waits_for.is_empty() {
            let first: Vec<String> = job.waits_for.iter().map(ToString::to_string).collect();
            return Some(format!("it waits for the end of {}", first.join(", ")));
        }
        if job.not_before > drive::now() {
            let last =
                job.tries.last().map(|last| format!("; the last try: {}", last.reason)).unwrap_or_default();
            return Some(format!("not before {}{last}", job.not_before));
        }
        if let Some(why) = self.out_of_hours(job) {
            return Some(why);
        }
        if let Some(export) = queue::waits_for_export(state, job) {
            let until = super::exports::expires(export).map(|at| format!(" until {at}"));
            return Some(format!(
                "an export of the VM, {id}, is open{until}; `export remove {id}` ends it",
                id = export.id,
                until = until.unwrap_or_default()
            ));
        }
        let looks = matches!(job.work, Work::Reconcile { .. });
        let beside = |holder: &JobId| looks && state.jobs.get(holder).is_some_and(Job::is_offering);
        let holder = job.work.vm().and_then(|vm| state.queue().holders_of(vm).find(|holder| !beside(holder)));
        holder.map(|holder| format!("{holder} is at work on this VM")).or_else(|| self.limited(job))
    }
}

fn try_view(it: &Try) -> TryView {
    TryView { ended: it.ended.to_string(), reason: it.reason.clone() }
}

/// A VM that is no longer managed has the name that its restore points carry.
pub(super) fn vm_name(state: &State, id: VmId) -> String {
    let managed = state.vms.get(&id).map(|vm| vm.address.name.to_string());
    let before = || state.points_of(id).next_back().map(|point| point.vm_name.to_string());
    managed.or_else(before).unwrap_or_else(|| id.to_string())
}

fn step_view(step: &journal::state::Step) -> StepView {
    StepView {
        intent: step.intent.to_string(),
        effect: step.kind.name().to_owned(),
        outcome: step.outcome.as_ref().and_then(|outcome| serde_json::to_value(outcome).ok()),
    }
}

/// Changes whenever what is shown does. Stays below 2^53, so that every JSON reader keeps it whole.
fn revision(view: &JobView) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&view.state, &view.reason, view.attempt, view.steps.len()).hash(&mut hasher);
    view.steps.last().map(|step| step.outcome.is_some()).hash(&mut hasher);
    view.progress.map(|progress| (progress.done, progress.total)).hash(&mut hasher);
    hasher.finish() >> 11
}
