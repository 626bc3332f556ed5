//! Storing a restore point: a view is read through the pipeline, and its disks, with their proof, become a snapshot.
//!
//! The repository is the truth: first it is asked whether this intent's snapshot is there already; last, packs, index
//! and snapshot become durable in this order. Until the snapshot is there nothing is, and what a failure leaves are
//! packs that the next prune removes. Knows nothing of how the view was made, nor of who decides what is read.

mod audit;
mod bandwidth;
mod copy;
mod error;
mod ledger;
mod parent;
mod proof;

pub(crate) use bandwidth::Lines;
pub(crate) use ledger::{PART_FILE, parts_folder, whole_file};

use std::sync::Arc;
use std::time::Duration;

use journal::effect::{DiskMode, Store};
use journal::outcome::Stored;
use journal::{Done, Failure, FailureClass, Installation, IntentId, Outcome};
use repository::{
    BlobKind, Repository, Session, SessionOptions, Snapshot, SnapshotId, TreeBuilder, WriteError,
};
use tokio_util::sync::CancellationToken;

use crate::machine;
use crate::repositories::{Explain, blocking};
use crate::task::{Answer, Task};
use copy::{Copied, copy};
use error::StoreError;
use ledger::file_of;
use proof::{DiskProof, PROOF_FILE, Proof};

/// How long it may take to look for the point, to lock the repository and to read its index.
const BEGIN_LIMIT: Duration = Duration::from_secs(600);
/// How long the last packs, the index and the snapshot may take to become durable.
const COMMIT_LIMIT: Duration = Duration::from_secs(600);
/// How long a store that has ended waits for its threads, so that its lock is gone when it answers.
const DISMISS_LIMIT: Duration = Duration::from_secs(10);

/// Performs [`journal::Effect::Store`].
pub async fn store(intent: IntentId, effect: &Store, task: &Task) -> Answer {
    let at = &effect.repository;
    let pace = match bandwidth::pace(effect, &task.lines) {
        Ok(pace) => pace,
        Err(failure) => return Err(failure).into(),
    };
    let begun = async {
        let repository = task.repositories.open(at).await?;
        match probe(&repository, intent, effect).await? {
            Some(stored) => Ok(Begun::Already(stored)),
            None => {
                // Before the repository is locked: QEMU may take hours.
                machine::until_readable(effect, task).await?;
                begin(repository, effect).await.map(Begun::Now)
            }
        }
    };
    let session = match until_cancelled(&task.cancelled, begun).await {
        Ok(Begun::Now(session)) => session,
        Ok(Begun::Already(stored)) => return done(stored),
        Err(failure) => return Err(failure).into(),
    };
    let disks = match copy(intent, effect, task, &session, &pace).await {
        Ok(disks) => disks,
        Err(error) => {
            if matches!(error, StoreError::Cancelled) {
                keep(&session).await;
            }
            dismiss(session).await;
            return Err(error.failure(at)).into();
        }
    };
    commit(intent, effect, task, session, disks).await
}

fn done(stored: Stored) -> Answer {
    Answer::Settled(Outcome::Done(Done::Stored(stored)))
}

enum Begun {
    Already(Stored),
    Now(Arc<Session>),
}

async fn until_cancelled<T>(
    cancelled: &CancellationToken,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let stop = || Failure::new(FailureClass::Cancelled, StoreError::Cancelled.to_string());
    cancelled.run_until_cancelled(work).await.unwrap_or_else(|| Err(stop()))
}

/// The tag that says which intent made a snapshot.
fn intent_tag(installation: Installation, intent: IntentId) -> String {
    format!("intent={installation}.{}", intent.0)
}

/// What this intent stored, if it was performed before.
async fn probe(repository: &Repository, intent: IntentId, effect: &Store) -> Result<Option<Stored>, Failure> {
    let (repository, at) = (repository.clone(), effect.repository.clone());
    let tag = intent_tag(effect.installation, intent);
    blocking(BEGIN_LIMIT, "looking for the restore point in the repository", move || {
        let find = || -> Result<Option<Stored>, StoreError> {
            let Some((id, snapshot)) = repository.snapshots_with_tag(&tag)?.into_iter().next() else {
                return Ok(None);
            };
            Ok(Some(Proof::read(&repository, &snapshot)?.stored(id)))
        };
        find().map_err(|error| error.failure(&at))
    })
    .await
}

async fn begin(repository: Repository, effect: &Store) -> Result<Arc<Session>, Failure> {
    let at = effect.repository.clone();
    blocking(BEGIN_LIMIT, "locking the repository and reading its index", move || {
        repository.session(&SessionOptions::default()).map(Arc::new).map_err(|error| error.explain(&at))
    })
    .await
}

/// Makes durable and findable what was saved before the operator's wish: who only rests does not save it again, and what
/// nobody takes up goes with the next prune. Not waited for if its storage hangs.
async fn keep(session: &Arc<Session>) {
    let session = Arc::clone(session);
    let kept = blocking(DISMISS_LIMIT, "keeping what is stored", move || {
        // A failure here is the store's own, which is over in any case.
        Ok(session.commit().is_ok())
    });
    if let Err(failure) = kept.await {
        tracing::warn!(%failure, "what was stored before the cancellation may be stored again");
    }
}

/// Lets go of a session without a commit: its threads end and its lock goes. Not waited for if its storage hangs.
async fn dismiss(session: Arc<Session>) {
    let dropped = blocking(DISMISS_LIMIT, "ending the session", move || {
        drop(session);
        Ok(())
    });
    if let Err(failure) = dropped.await {
        tracing::warn!(%failure, "a session is left to end by itself");
    }
}

/// Makes the point durable. Its fate is unknown if the storage does not answer any more.
async fn commit(
    intent: IntentId,
    effect: &Store,
    task: &Task,
    session: Arc<Session>,
    disks: Vec<Copied>,
) -> Answer {
    let (effect, cancelled) = (effect.clone(), task.cancelled.clone());
    let at = effect.repository.clone();
    let work =
        tokio::task::spawn_blocking(move || write_point(intent, &effect, &session, &disks, &cancelled));
    match tokio::time::timeout(COMMIT_LIMIT, work).await {
        Ok(Ok(Ok(stored))) => done(stored),
        Ok(Ok(Err(error))) => Err(error.failure(&at)).into(),
        Ok(Err(panic)) => Answer::Unknown(format!("writing the restore point ended in a panic: {panic}")),
        Err(_) => Answer::Unknown(format!(
            "the repository {} did not take the restore point within {} s: it may still; see whether its storage answers",
            at.path,
            COMMIT_LIMIT.as_secs()
        )),
    }
}

/// Tree and proof, packs, index, snapshot: in this order. The session ends with it.
fn write_point(
    intent: IntentId,
    effect: &Store,
    session: &Arc<Session>,
    disks: &[Copied],
    cancelled: &CancellationToken,
) -> Result<Stored, StoreError> {
    let mut tree = TreeBuilder::new(effect.instant.to_utc());
    let mut proofs = Vec::with_capacity(disks.len());
    for (disk, copied) in effect.disks.iter().zip(disks) {
        let content = copied.ledger.enter(disk.disk.as_str(), &mut tree)?;
        let file = file_of(disk.disk.as_str(), copied.ledger.layout());
        proofs.push(DiskProof::new(disk, file, copied, &content));
    }
    let paths = proofs.iter().map(|proof| format!("/{}", proof.file)).collect();
    let chunk_size = session.repository().chunk_size();
    let proof = Proof::new(intent, effect, chunk_size, proofs);
    let json = proof.to_bytes();
    let chunks =
        json.chunks(chunk_size as usize).map(|chunk| Ok(session.save(BlobKind::Data, chunk)?.digest));
    let chunks = chunks.collect::<Result<_, WriteError>>()?;
    tree.file(PROOF_FILE, json.len() as u64, chunks)?;
    let root = tree.save(session)?;
    session.commit()?;
    journal::fault::point("store.committed");
    if cancelled.is_cancelled() {
        return Err(StoreError::Cancelled);
    }
    let snapshot = Snapshot {
        parent: parent_snapshot(disks),
        hostname: effect.vm.name.to_string(),
        tags: tags(intent, effect),
        program_version: Some(proof.program.clone()),
        ..Snapshot::new(root, effect.instant.to_utc(), paths)
    };
    let id = session.save_snapshot(snapshot)?;
    journal::fault::point("store.snapshot");
    Ok(proof.stored(id))
}

/// The parent of the first disk that was read from one: restic knows one parent for a snapshot, and takes it for a hint.
fn parent_snapshot(disks: &[Copied]) -> Option<SnapshotId> {
    disks.iter().find_map(|disk| match &disk.mode {
        DiskMode::Incremental { snapshot, .. } => snapshot.parse().ok(),
        DiskMode::Full { .. } => None,
    })
}

fn tags(intent: IntentId, effect: &Store) -> Vec<String> {
    let Store { installation, vm, point, .. } = effect;
    vec![
        "backstay".to_owned(),
        format!("vm={}", vm.id),
        format!("point={installation}.{}", point.0),
        intent_tag(*installation, intent),
    ]
}
