//! Work on a repository: one effect, and what its outcome means.

use journal::effect::{
    Check, Effect, Forget, KeyChange, Keys, Measure, OpenRepository, PruneBy, PruneTerms, Rate,
    RepositoryAddress,
};
use journal::outcome::{Done, Pruned};
use journal::record::{End, RepositoryAdded};
use journal::state::Job;
use journal::{FailureClass, PointId, RepositoryName, State};

use super::Decision;
use super::jobs::was_stopped;

/// Creates or opens a repository; it is one of ours once it has opened.
pub fn add(state: &State, job: &Job, repository: &RepositoryAddress, chunk_bytes: u32) -> Decision {
    let effect = || Effect::OpenRepository(OpenRepository { repository: repository.clone(), chunk_bytes });
    single(state, job, effect, |done| {
        // One that was there already keeps the chunk size that it was created with.
        let Done::Opened { id, created, chunk_bytes } = done else {
            return Decision::end(job.id, End::Done, None);
        };
        let what = if *created { "created" } else { "opened: there was a repository already" };
        let mut decision = Decision::end(job.id, End::Done, Some(what.to_owned()));
        if !state.repositories.contains_key(&repository.name) {
            let (repository, chunk_bytes) = (repository.clone(), *chunk_bytes);
            let added = RepositoryAdded { repository, id: id.clone(), chunk_bytes };
            decision.records.insert(0, added.into());
        }
        decision
    })
}

/// Checks a repository. Problems found are a failed job: somebody has to look.
pub fn check(state: &State, job: &Job, name: &RepositoryName, read_percent: u8) -> Decision {
    let Some(repository) = state.repositories.get(name) else { return gone(job, name) };
    let effect = || Effect::Check(Check { repository: repository.address.clone(), read_percent });
    single(state, job, effect, |done| match done {
        Done::Checked { problems } if !problems.is_empty() => {
            let what = format!("{} problems, the first: {}", problems.len(), problems[0]);
            Decision::fail_as(job.id, FailureClass::Damaged, what)
        }
        _ => Decision::end(job.id, End::Done, None),
    })
}

/// Frees what no restore point needs.
pub fn prune(state: &State, job: &Job, name: &RepositoryName, terms: PruneTerms) -> Decision {
    let Some(repository) = state.repositories.get(name) else { return gone(job, name) };
    let effect = || Effect::PruneBy(PruneBy { repository: repository.address.clone(), terms });
    single(state, job, effect, |done| {
        let freed = match done {
            // Of an effect that was decided before there were terms.
            Done::Pruned { freed_bytes } => Some(format!("freed {freed_bytes} bytes")),
            Done::PrunedBy(pruned) => Some(told(pruned)),
            _ => None,
        };
        Decision::end(job.id, End::Done, freed)
    })
}

fn told(pruned: &Pruned) -> String {
    let Pruned { dry_run, freed_bytes, marked_bytes, .. } = pruned;
    let mut text = format!("{} {freed_bytes} bytes", if *dry_run { "would free" } else { "freed" });
    if *marked_bytes > 0 {
        text += &format!(", {marked_bytes} are marked");
    }
    text
}

/// Counts what is in a repository.
pub fn measure(state: &State, job: &Job, name: &RepositoryName) -> Decision {
    let Some(repository) = state.repositories.get(name) else { return gone(job, name) };
    let effect = || Effect::Measure(Measure { repository: repository.address.clone() });
    single(state, job, effect, |_| Decision::end(job.id, End::Done, None))
}

/// Opens a repository with other limits of bandwidth. That they hold comes with settling the effect.
pub fn limit(state: &State, job: &Job, name: &RepositoryName, rates: &[Rate]) -> Decision {
    let Some(repository) = state.repositories.get(name) else { return gone(job, name) };
    let effect = || {
        let address = RepositoryAddress { rates: rates.to_vec(), ..repository.address.clone() };
        Effect::OpenRepository(OpenRepository { repository: address, chunk_bytes: repository.chunk_bytes })
    };
    single(state, job, effect, |_| Decision::end(job.id, End::Done, None))
}

/// Looks at a repository's keys, or changes them. That its password is in another file then comes with settling the effect.
pub fn keys(state: &State, job: &Job, name: &RepositoryName, change: &KeyChange) -> Decision {
    let Some(repository) = state.repositories.get(name) else { return gone(job, name) };
    let effect = || Effect::Keys(Keys { repository: repository.address.clone(), change: change.clone() });
    single(state, job, effect, |_| Decision::end(job.id, End::Done, None))
}

/// Forgets one restore point.
pub fn forget(state: &State, job: &Job, point: PointId) -> Decision {
    // Settling the effect takes the point out of the state: then it is done.
    let effect = state.points.get(&point).and_then(|it| forgetting(state, it, "an operator asked for it"));
    match (effect, job.steps.is_empty()) {
        (Some(effect), _) => {
            single(state, job, || effect.clone(), |_| Decision::end(job.id, End::Done, None))
        }
        (None, true) => Decision::fail(job.id, format!("restore point {point} is no longer there")),
        (None, false) => Decision::end(job.id, End::Done, None),
    }
}

/// The effect that forgets a point.
pub fn forgetting(state: &State, point: &journal::state::Point, reason: &str) -> Option<Effect> {
    let repository = state.repositories.get(&point.repository)?;
    Some(Effect::Forget(Forget {
        repository: repository.address.clone(),
        point: point.id,
        snapshot: point.snapshot.clone(),
        reason: reason.to_owned(),
    }))
}

fn gone(job: &Job, name: &RepositoryName) -> Decision {
    Decision::fail(job.id, format!("repository {name} is no longer there"))
}

/// A job of one effect: open it, or end with what became of it.
fn single(
    state: &State,
    job: &Job,
    effect: impl FnOnce() -> Effect,
    done: impl FnOnce(&Done) -> Decision,
) -> Decision {
    let Some(step) = job.steps.last().filter(|step| !was_stopped(job, step)) else {
        if job.cancel_asked {
            return Decision::end(job.id, End::Cancelled, None);
        }
        if job.pause_asked {
            return Decision::pause(job.id);
        }
        return Decision::effect(state, job.id, effect());
    };
    match (step.done(), step.failure()) {
        (Some(outcome), _) => done(outcome),
        (_, Some(failure)) => Decision::fail_with(job, failure),
        (None, None) => Decision::fail(job.id, "its effect has no outcome"),
    }
}
