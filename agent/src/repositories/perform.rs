//! The effects on a repository as a whole: open or create, forget, check, prune.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use journal::effect::{Check, Forget, OpenRepository, Prune, RepositoryAddress};
use journal::{Done, Failure, FailureClass, IntentId, PointId};
use repository::{
    BackendError, CheckError, ForgetError, InitOptions, Local, OpenError, PruneError, PruneOptions,
    Repository, Snapshot, SnapshotId,
};

use super::{Explain, Open, blocking, watched};
use crate::task::{Answer, Task};

/// How long one snapshot may take to be removed.
const FORGET_LIMIT: Duration = Duration::from_secs(120);

/// What may lie in a folder that becomes a repository: what an interrupted attempt left, and what a new filesystem has.
const AS_GOOD_AS_EMPTY: [&str; 6] = ["data", "index", "keys", "locks", "snapshots", "lost+found"];

/// Performs [`journal::Effect::OpenRepository`]: creates one where there is nothing, opens one where there is one. The
/// password is proven anew.
pub async fn open_repository(_intent: IntentId, effect: &OpenRepository, task: &Task) -> Answer {
    let options = InitOptions { chunk_size: effect.chunk_bytes, ..InitOptions::default() };
    let (tell, told) = std::sync::mpsc::channel();
    let opening = task.repositories.enter(&effect.repository, move |address, password, _| {
        let created = create_where_nothing_is(address, password, &options)?;
        // Nobody is told any more if the limit has passed.
        let _ = tell.send(created);
        Open::now(address, password)
    });
    let opened = opening.await.map(|repository| {
        let created = told.recv().unwrap_or(false);
        Done::Opened { id: repository.id().to_string(), created, chunk_bytes: repository.chunk_size() }
    });
    opened.into()
}

/// Whether a repository was created just now.
fn create_where_nothing_is(
    address: &RepositoryAddress,
    password: &str,
    options: &InitOptions,
) -> Result<bool, Failure> {
    let root = Path::new(&address.path);
    let failed = |error| BackendError::from_io(root, error).explain(address);
    match std::fs::read_dir(root) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            return Err(foreign(address, "it is not a folder"));
        }
        Err(error) => return Err(failed(error)),
        Ok(entries) => {
            for entry in entries {
                let name = entry.map_err(failed)?.file_name();
                if name == "config" {
                    return Ok(false);
                }
                if !AS_GOOD_AS_EMPTY.iter().any(|known| name == *known) {
                    // It may still be a repository with other things in it: the listing goes on.
                    if !root.join("config").exists() {
                        return Err(foreign(address, &format!("it holds {}", name.display())));
                    }
                    return Ok(false);
                }
            }
        }
    }
    match Repository::init(Arc::new(Local::new(root)), password, options) {
        Ok(_) => Ok(true),
        Err(OpenError::AlreadyInitialised { .. }) => Ok(false),
        Err(error) => Err(error.explain(address)),
    }
}

fn foreign(address: &RepositoryAddress, why: &str) -> Failure {
    let what = format!(
        "{} is neither a repository nor an empty folder ({why}); nothing was changed: name another folder",
        address.path
    );
    Failure::new(FailureClass::Repository, what)
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
pub async fn check(_intent: IntentId, effect: &Check, task: &Task) -> Answer {
    let (at, read_data) = (effect.repository.clone(), effect.read_data);
    let checked: Result<Done, Failure> = async {
        let repository = task.repositories.open(&effect.repository).await?;
        watched(task, "checking the repository", move |watch| {
            let report = repository.check(read_data, &|progress| watch.report(progress.done, progress.total));
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

/// Performs [`journal::Effect::Prune`].
pub async fn prune(_intent: IntentId, effect: &Prune, task: &Task) -> Answer {
    let at = effect.repository.clone();
    let pruned: Result<Done, Failure> = async {
        let repository = task.repositories.open(&effect.repository).await?;
        watched(task, "pruning the repository", move |watch| {
            let options = PruneOptions::default();
            match repository.prune(&options, &|progress| watch.report(progress.done, progress.total)) {
                Ok(report) => {
                    let freed_bytes = report.bytes_removed.saturating_sub(report.bytes_repacked);
                    Ok(Done::Pruned { freed_bytes })
                }
                Err(PruneError::Cancelled(_)) => Err(stopped("the prune")),
                Err(error) => Err(error.explain(&at)),
            }
        })
        .await
    }
    .await;
    pruned.into()
}

fn stopped(what: &str) -> Failure {
    Failure::new(
        FailureClass::Cancelled,
        format!("{what} was cancelled; the repository is as good as before"),
    )
}
