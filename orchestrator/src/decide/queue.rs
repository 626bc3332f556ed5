//! The queue: which job may run now, and which comes first of those that may.
//!
//! One job for each VM at a time; nothing beside a prune in one repository; limits on all, on each repository, on each
//! host and on each policy ([`room`]); no run of a schedule while its window is closed or its policy's blackout lasts.
//! Within these, the one that has waited longest goes first: a step of priority counts as [`STEP`] of waiting, and
//! each job of the same policy that runs already as [`SHARE`] less. Both are fixed amounts and waiting is not, so
//! everybody's turn comes.
//!
//! Asks the state's [`Queue`](journal::state::Queue), so that the cost follows the number of lanes, and in each that of the
//! hosts at their limit, and not the number of jobs.

pub mod room;

use std::collections::BTreeMap;

use journal::record::{End, JobEnded, JobStarted, Work};
use journal::state::{Front, Job, Lane, LaneClass, Place};
use journal::{FailureClass, HostName, JobId, PolicyName, RepositoryName, State, Time};
use policies::due::Why;

use self::room::Room;
use super::{CheckStep, Decision, Live};

/// What one step of priority is worth, in microseconds of waiting: 10 minutes.
pub const STEP: i64 = 600_000_000;

/// What a running job takes from the others of its policy, in microseconds of waiting: 10 minutes.
pub const SHARE: i64 = 600_000_000;

/// Starts the next job, or ends one that will not start any more.
#[must_use]
pub fn admit(state: &State, live: &Live, now: Time) -> Option<Decision> {
    let queue = state.queue();
    if let Some(job) = queue.cancelled().next() {
        return Some(Decision::end(job, End::Cancelled, cancelled_why(state, job)));
    }
    if let Some((deadline, job)) = queue.next_deadline().filter(|(deadline, _)| *deadline <= now) {
        return Some(too_late(state, live, job, deadline));
    }
    if queue.working() >= live.limits.jobs {
        return None;
    }
    let job = state.jobs.get(&first(state, live, now)?)?;
    let mut decision = Decision { records: vec![JobStarted { job: job.id }.into()], ..Decision::default() };
    // A job's plan rests on what is there when it starts: look first, and heal what is to be healed.
    decision.checks.extend(job.work.vm().map(|vm| (vm, CheckStep::Want)));
    Some(decision)
}

fn cancelled_why(state: &State, job: JobId) -> Option<String> {
    let said = state.jobs.get(&job).and_then(|job| job.reason.clone());
    Some(said.unwrap_or_else(|| "cancelled before it started".to_owned()))
}

fn too_late(state: &State, live: &Live, job: JobId, deadline: Time) -> Decision {
    let waiting = state.jobs.get(&job);
    let last = waiting.and_then(|job| job.tries.last());
    let (class, reason) = match last {
        None => {
            let closed = waiting.and_then(|job| closed(live, &Lane::of(job), deadline));
            let closed = closed.map(|why| format!(" ({why})")).unwrap_or_default();
            let reason = format!("it was still waiting for its turn at its deadline, {deadline}{closed}");
            (FailureClass::TooLate, reason)
        }
        Some(last) => {
            (last.class, format!("{}; its deadline, {deadline}, came before the next try", last.reason))
        }
    };
    let ended = JobEnded { job, end: End::Failed, reason: Some(reason), class: Some(class) };
    Decision { records: vec![ended.into()], ..Decision::default() }
}

/// The job that is next.
fn first(state: &State, live: &Live, now: Time) -> Option<JobId> {
    // As a rule nothing is due, and this is asked before each wait.
    state.queue().first_start().filter(|start| *start <= now)?;
    let room = Room::of(state, live.limits);
    let alone = waiting_alone(state, live, now);
    let mut best: Option<(i64, JobId)> = None;
    for (lane, front) in state.queue().fronts() {
        if (live.full && !lane.class.frees_room())
            || room.in_lane(lane, concurrency(live, lane)).is_some()
            || closed(live, lane, now).is_some()
        {
            continue;
        }
        let Some(place) = first_due(state, live, front, now, |host| room.on_host(host).is_none()) else {
            continue;
        };
        let precedes = |first: &(i64, JobId)| *first < rank(lane, &place);
        let repository = lane.repository.as_ref();
        if repository.is_some_and(|repository| alone.get(repository).is_some_and(precedes))
            || waits_for_another(state, live, lane, &place)
        {
            continue;
        }
        let (waited, job) = rank(lane, &place);
        let shared = i64::from(room.of_policy(lane.policy.as_ref())).saturating_mul(SHARE);
        let rank = (waited.saturating_add(shared), job);
        if best.is_none_or(|best| rank < best) {
            best = Some(rank);
        }
    }
    best.map(|(_, job)| job)
}

fn concurrency(live: &Live, lane: &Lane) -> Option<u32> {
    live.policies.get(lane.policy.as_ref()?)?.policy.concurrency
}

/// The first place of a lane that is due, on a host that has room, and whose VM is not looked at.
fn first_due(
    state: &State,
    live: &Live,
    front: &Front,
    now: Time,
    has_room: impl Fn(Option<&HostName>) -> bool,
) -> Option<Place> {
    let mut first: Option<Place> = None;
    for (host, places) in front.hosts() {
        // Behind a host whose places all come later there is none whose places come before.
        let head =
            places.first().filter(|head| head.not_before <= now && first.is_none_or(|first| **head < first));
        if head.is_none() {
            break;
        }
        if has_room(host) {
            let due = places.iter().take_while(|place| place.not_before <= now);
            let found = due.copied().find(|place| !is_under_check(state, live, place.job));
            first = first.into_iter().chain(found).min();
        }
    }
    first
}

/// For each repository, the first job that waits to have it for itself: were later ones let in before it, its turn might
/// never come.
fn waiting_alone<'a>(state: &'a State, live: &Live, now: Time) -> BTreeMap<&'a RepositoryName, (i64, JobId)> {
    let mut alone = BTreeMap::new();
    for (lane, front) in state.queue().fronts().filter(|(lane, _)| lane.class == LaneClass::Exclusive) {
        let first = first_due(state, live, front, now, |_| true);
        if let (Some(repository), Some(first)) = (&lane.repository, first) {
            let rank = rank(lane, &first);
            let known = alone.entry(repository).or_insert(rank);
            *known = rank.min(*known);
        }
    }
    alone
}

/// Since when it has waited, its priority counted in: the lower, the sooner.
fn rank(lane: &Lane, place: &Place) -> (i64, JobId) {
    (place.not_before.0.saturating_sub(i64::from(lane.priority) * STEP), place.job)
}

fn is_under_check(state: &State, live: &Live, job: JobId) -> bool {
    let vm = state.jobs.get(&job).and_then(|job| job.work.vm());
    vm.is_some_and(|vm| live.checks.contains_key(&vm))
}

/// Why nothing of a lane starts at an instant: what waited past the end of its window starts when that opens again.
fn closed<'a>(live: &'a Live, lane: &Lane, at: Time) -> Option<Why<'a>> {
    let (policy, schedule) = (lane.policy.as_ref()?, lane.schedule.as_ref()?);
    live.policies.get(policy)?.policy.closed(schedule, at.to_utc())
}

/// When a lane that is closed now opens.
fn opens(live: &Live, lane: &Lane, now: Time) -> Option<Time> {
    closed(live, lane, now)?;
    let (policy, schedule) = (lane.policy.as_ref()?, lane.schedule.as_ref()?);
    live.policies.get(policy)?.policy.opens(schedule, now.to_utc()).map(Time::from)
}

/// Whether an earlier run of a policy that this one comes after is not over.
fn waits_for_another(state: &State, live: &Live, lane: &Lane, place: &Place) -> bool {
    let parsed = lane.policy.as_ref().and_then(|name| live.policies.get(name));
    parsed.is_some_and(|parsed| {
        let earlier =
            |other: &PolicyName| state.queue().earliest_of(other).is_some_and(|first| first < *place);
        parsed.after.iter().any(earlier)
    })
}

/// The export that a queued job waits for, if it does.
#[must_use]
pub fn waits_for_export<'a>(state: &'a State, job: &Job) -> Option<&'a Job> {
    let mut holders = state.queue().holders_of(job.work.vm()?).filter_map(|holder| state.jobs.get(&holder));
    let looks = LaneClass::of(&job.work) == LaneClass::Looks;
    holders.find(|holder| matches!(holder.work, Work::Export(_)) && !(looks && holder.is_offering()))
}

/// When something may become due by itself: a waiting job's start, the opening of its window, or its deadline.
#[must_use]
pub fn next_instant(state: &State, live: &Live, now: Time) -> Option<Time> {
    let queue = state.queue();
    // One that is due and does not start waits for something that a record will say.
    let start = queue.next_start(now);
    let openings = queue.fronts().filter_map(|(lane, _)| opens(live, lane, now));
    openings.chain(start).chain(queue.next_deadline().map(|(deadline, _)| deadline)).min()
}

#[cfg(test)]
mod tests;
