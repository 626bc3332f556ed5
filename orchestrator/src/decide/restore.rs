//! A restore, step by step: one image after another.

use journal::effect::{Effect, Restore};
use journal::record::{End, RestoreWork};
use journal::state::Job;
use journal::{FailureClass, State};

use super::Decision;

/// The next step of a restore.
pub fn next(state: &State, job: &Job, work: &RestoreWork) -> Option<Decision> {
    if let Some(failure) = job.steps.last().and_then(|step| step.failure()) {
        let end = if failure.class == FailureClass::Cancelled { End::Cancelled } else { End::Failed };
        return Some(Decision::end(job.id, end, Some(failure.what.clone())));
    }
    if job.cancel_asked {
        return Some(Decision::end(job.id, End::Cancelled, None));
    }
    let Some((disk, path)) = work.disks.get(job.steps.len()) else {
        return Some(Decision::end(job.id, End::Done, None));
    };
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
