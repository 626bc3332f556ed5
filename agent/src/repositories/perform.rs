//! The effects on a repository as a whole: open or create, forget, check.

use std::sync::Arc;
use std::time::Duration;

use journal::effect::{Check, Forget, OpenRepository};
use journal::{Done, Failure, FailureClass, IntentId, PointId};
use repository::{
    CheckError, ForgetError, InitOptions, OpenError, ReadData, Repository, Snapshot, SnapshotId,
};

use super::{Explain, Open, backend, blocking, watched};
use crate::task::{Answer, Task};

/// How long one snapshot may take to be removed.
const FORGET_LIMIT: Duration = Duration::from_secs(120);

/// Performs [`journal::Effect::OpenRepository`]: creates one where there is nothing, opens one where there is one. The
/// password is proven anew.
pub async fn open_repository(_intent: IntentId, effect: &OpenRepository, task: &Task) -> Answer {
    let options = InitOptions { chunk_size: effect.chunk_bytes, ..InitOptions::default() };
    let (tell, told) = std::sync::mpsc::channel();
    let opening = task.repositories.enter(&effect.repository, move |address, password, _| {
        let backend = backend(address)?;
        let created = match Repository::init(Arc::clone(&backend), password, &options) {
            Ok(_) => true,
            Err(OpenError::AlreadyInitialised { .. }) => false,
            Err(error) => return Err(error),
        };
        // Nobody is told any more if the limit has passed.
        let _ = tell.send(created);
        Open::now(backend, password)
    });
    let opened = opening.await.map(|repository| {
        let created = told.recv().unwrap_or(false);
        Done::Opened { id: repository.id().to_string(), created, chunk_bytes: repository.chunk_size() }
    });
    opened.into()
}

/// Performs [`journal::Effect::Forget`]. A snapshot that is gone already is forgotten.
pub async fn forget(_intent: IntentId, effect: &Forget, task: &Task) -> Answer {
    let forgotten: Result<Done, Failure> = async {
        let repository = task.repositories.open(&effect.repository).await?;
        let effect = effect.clone();
        blocking(FORGET_LIMIT, "forgetting a restore point", move || forget_snapshot(&repository, &effect))
            .await
    }
    .await;
    forgotten.into()
}

fn forget_snapshot(repository: &Repository, effect: &Forget) -> Result<Done, Failure> {
    let at = &effect.repository;
    let invalid = |why: String| Failure::new(FailureClass::Invalid, why);
    let id = effect.snapshot.parse::<SnapshotId>().map_err(|error| invalid(error.to_string()))?;
    if !repository.snapshot_exists(id).map_err(|error| error.explain(at))? {
        return Ok(Done::Plain);
    }
    let snapshot = repository.load_snapshot(id).map_err(|error| error.explain(at))?;
    if !is_point(&snapshot, effect.point) {
        return Err(invalid(format!(
            "snapshot {id} in {} is not restore point {}; left alone",
            at.path, effect.point
        )));
    }
    match repository.forget(id) {
        Ok(()) | Err(ForgetError::NoSnapshot { .. }) => Ok(Done::Plain),
        Err(error) => Err(error.explain(at)),
    }
}

/// Whether a snapshot carries the tag of this point, of whichever installation.
fn is_point(snapshot: &Snapshot, point: PointId) -> bool {
    let number = |tag: &str| tag.strip_prefix("point=")?.split_once('.')?.1.parse().ok();
    snapshot.tags.iter().any(|tag| number(tag) == Some(point.0))
}

/// Performs [`journal::Effect::Check`]. What it finds is no failure.
pub async fn check(intent: IntentId, effect: &Check, task: &Task) -> Answer {
    let at = effect.repository.clone();
    let read = match effect.read_percent {
        0 => ReadData::None,
        100.. => ReadData::All,
        percent => ReadData::Share { percent, seed: intent.0 },
    };
    let checked: Result<Done, Failure> = async {
        let repository = task.repositories.open(&effect.repository).await?;
        watched(task, "checking the repository", move |watch| {
            let report = repository.check(read, &|progress| watch.report(progress.done, progress.total));
            match report {
                Ok(report) => {
                    let problems = report.problems.iter().map(ToString::to_string).collect();
                    Ok(Done::Checked { problems })
                }
                Err(CheckError::Lock(error)) => Err(error.explain(&at)),
                Err(CheckError::Backend(error)) => Err(error.explain(&at)),
                Err(CheckError::Cancelled(_)) => Err(stopped("the check")),
            }
        })
        .await
    }
    .await;
    checked.into()
}

pub(super) fn stopped(what: &str) -> Failure {
    Failure::new(
        FailureClass::Cancelled,
        format!("{what} was cancelled; the repository is as good as before"),
    )
}
