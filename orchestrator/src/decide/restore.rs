//! A restore, step by step: one image after another.

use journal::State;
use journal::effect::{Effect, Restore};
use journal::record::{End, RestoreWork};
use journal::state::Job;

use super::Decision;
use super::jobs::was_stopped;

/// The next step of a restore.
pub fn next(state: &State, job: &Job, work: &RestoreWork) -> Option<Decision> {
    let failed = job.steps.last().filter(|step| !was_stopped(job, step)).and_then(|step| step.failure());
    if let Some(failure) = failed {
        return Some(Decision::fail_with(job, failure));
    }
    if job.cancel_asked {
        return Some(Decision::end(job.id, End::Cancelled, None));
    }
    let written = job.steps.iter().filter(|step| step.done().is_some()).count();
    let Some((disk, path)) = work.disks.get(written) else {
        return Some(Decision::end(job.id, End::Done, None));
    };
    if job.pause_asked {
        return Some(Decision::pause(job.id));
    }
    let Some(point) = state.points.get(&work.point) else {
        return Some(Decision::fail(job.id, format!("restore point {} is no longer there", work.point)));
    };
    let (Some(seen), Some(repository)) = (point.disk(disk), state.repositories.get(&point.repository)) else {
        return Some(Decision::fail(job.id, format!("restore point {} has no disk {disk}", point.id)));
    };
    let effect = Restore {
        repository: repository.address.clone(),
        point: point.id,
        snapshot: point.snapshot.clone(),
        disk: disk.clone(),
        size_bytes: seen.size_bytes,
        path: path.clone(),
        format: work.format,
        target: work.target,
    };
    Some(Decision::effect(state, job.id, Effect::Restore(effect)))
}
