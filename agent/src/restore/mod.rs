//! Restoring one disk of a restore point: a new image, or what differs in an image that is there; read back either way.
//!
//! Every chunk comes out of the repository proven by MAC and sha256, several at a time on all cores, and zeros are
//! not written. A new image has its name only when it is durable and read back. Raw images and block devices are
//! written here, qcow2 through a storage daemon of QEMU. Knows nothing of VMs: whether one uses the image is found
//! out by QEMU's own locks.

mod daemon;
mod image;
mod source;
mod target;
mod work;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use journal::effect::{ImageFormat, RepositoryAddress, Restore, RestoreTarget};
use journal::{Done, Failure, FailureClass, IntentId};
use repository::{Lock, LockError, LockKind, ReadError};

use crate::nbd::{Extent, NbdError};
use crate::repositories::{Explain, blocking, watched};
use crate::task::{Answer, Task};
use daemon::{Access, Daemon};
use image::NbdImage;
use source::Source;
use target::PartFile;
use work::{Before, Pace};

/// How long it may take to lock the repository, to read its index and to find the disk.
const OPEN_LIMIT: Duration = Duration::from_secs(600);
/// How long a file may take to be made or renamed.
const FILE_LIMIT: Duration = Duration::from_secs(120);

/// Why a disk was not restored.
#[derive(Debug, thiserror::Error)]
enum RestoreError {
    /// Reading the repository.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Locking it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// What cannot be done.
    #[error("{0}")]
    Asked(String),
    /// Something has the image's name.
    #[error(
        "{} exists and was left alone: choose another path, remove it, or restore in place to write only what differs",
        path.display()
    )]
    Exists { path: PathBuf },
    /// Nothing that can be written in place.
    #[error("{} cannot be restored in place: {why}", path.display())]
    Unfit { path: PathBuf, why: String },
    /// A file.
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    /// Writing or reading the image.
    #[error("the image cannot be written or read: {0}")]
    Image(io::Error),
    /// A daemon or a tool.
    #[error("QEMU's tools cannot serve {}: {why}", image.display())]
    Daemon { image: PathBuf, why: String },
    /// A tool is missing.
    #[error("{tool} cannot be started ({why}): install qemu-utils")]
    Tool { tool: &'static str, why: String },
    /// What was read back is something else.
    #[error(
        "{0} were read back with another digest than written: the storage below the image is not to be trusted"
    )]
    NotAsWritten(Extent),
    /// The operator's wish.
    #[error("the restore was cancelled")]
    Cancelled,
    /// An image in place was written in part.
    #[error("{0}; the image is written in part by now: restore again before it is used")]
    Halfway(Box<RestoreError>),
    /// Work that ended otherwise: out of time, or in a panic.
    #[error("{0}")]
    Work(Failure),
}

impl RestoreError {
    fn file(path: &Path, source: io::Error) -> Self {
        Self::File { path: path.to_owned(), source }
    }

    fn socket(path: &Path, source: io::Error) -> Self {
        Self::file(path, source)
    }

    fn tool(tool: &'static str, error: &io::Error) -> Self {
        Self::Tool { tool, why: error.to_string() }
    }

    fn size(path: &Path, found: u64, wanted: u64) -> Self {
        let why =
            format!("it has {found} bytes, the disk {wanted}: give it that size, or restore to a new image");
        Self::Unfit { path: path.to_owned(), why }
    }

    fn class(&self) -> FailureClass {
        match self {
            Self::Read(error) => error.class(),
            Self::Lock(error) => error.class(),
            Self::Asked(_) | Self::Exists { .. } | Self::Unfit { .. } => FailureClass::Invalid,
            Self::File { source, .. } | Self::Image(source) => io_class(source),
            Self::Daemon { .. } | Self::Tool { .. } => FailureClass::Host,
            Self::NotAsWritten(_) => FailureClass::Damaged,
            Self::Cancelled => FailureClass::Cancelled,
            Self::Halfway(error) => error.class(),
            Self::Work(failure) => failure.class,
        }
    }

    fn failure(self, at: &RepositoryAddress) -> Failure {
        match self {
            Self::Read(error) => error.explain(at),
            Self::Lock(error) => error.explain(at),
            Self::Work(failure) => failure,
            error => Failure::new(error.class(), error.to_string()),
        }
    }
}

fn io_class(error: &io::Error) -> FailureClass {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            FailureClass::Full
        }
        _ => match error.get_ref().and_then(|inner| inner.downcast_ref::<NbdError>()) {
            Some(NbdError::Timeout { .. }) => FailureClass::Unreachable,
            _ => FailureClass::Host,
        },
    }
}

/// What is restored: the disk, under a lock that keeps its chunks where they are.
struct Opened {
    source: Source,
    _lock: Lock,
}

/// Performs [`journal::Effect::Restore`].
pub async fn restore(intent: IntentId, effect: &Restore, task: &Task) -> Answer {
    let restored: Result<Done, Failure> = async {
        if let Some(written_bytes) = already(intent, effect).await? {
            return Ok(Done::Restored { written_bytes, verified: true });
        }
        let opened = Arc::new(open(effect, task).await?);
        let written = match (effect.target, effect.format) {
            (RestoreTarget::New, ImageFormat::Raw) => new_raw(intent, effect, task, opened).await,
            (RestoreTarget::New, ImageFormat::Qcow2) => new_qcow2(intent, effect, task, opened).await,
            (RestoreTarget::InPlace, ImageFormat::Raw) => raw_in_place(effect, task, opened).await,
            (RestoreTarget::InPlace, ImageFormat::Qcow2) => {
                qcow2_in_place(intent, effect, task, opened).await
            }
        };
        let written_bytes = written.map_err(|error| error.failure(&effect.repository))?;
        Ok(Done::Restored { written_bytes, verified: true })
    }
    .await;
    restored.into()
}

/// What this intent wrote when it was performed before.
async fn already(intent: IntentId, effect: &Restore) -> Result<Option<u64>, Failure> {
    if effect.target == RestoreTarget::InPlace {
        return Ok(None);
    }
    let effect = effect.clone();
    blocking(FILE_LIMIT, "looking at the image", move || {
        // Refused before anything is read, too.
        let found = target::finished(intent, &effect);
        if found.is_none() && std::fs::symlink_metadata(&effect.path).is_ok() {
            let path = PathBuf::from(&effect.path);
            return Err(RestoreError::Exists { path }.failure(&effect.repository));
        }
        Ok(found)
    })
    .await
}

async fn open(effect: &Restore, task: &Task) -> Result<Opened, Failure> {
    let repository = task.repositories.open(&effect.repository).await?;
    let effect = effect.clone();
    let open = blocking(OPEN_LIMIT, "reading what the restore point consists of", move || {
        let open = || {
            let lock = repository.lock(LockKind::Shared)?;
            let source = Source::open(repository, &effect.snapshot, effect.disk.as_str(), effect.size_bytes)?;
            Ok(Opened { source, _lock: lock })
        };
        open().map_err(|error: RestoreError| error.failure(&effect.repository))
    });
    let stop = || Failure::new(FailureClass::Cancelled, RestoreError::Cancelled.to_string());
    task.cancelled.run_until_cancelled(open).await.unwrap_or_else(|| Err(stop()))
}

/// Runs the part of a restore that takes long, on blocking threads.
async fn work<T: Send + 'static>(
    task: &Task,
    opened: Arc<Opened>,
    work: impl FnOnce(&Source, &Pace<'_>) -> Result<T, RestoreError> + Send + 'static,
) -> Result<T, RestoreError> {
    let done = watched(task, "restoring a disk", move |watch| {
        let pace = Pace::new(&watch, &opened.source);
        // An error of its own travels as an answer: only what ends the work from outside is a failure here.
        Ok(work(&opened.source, &pace))
    });
    done.await.unwrap_or_else(|failure| Err(RestoreError::Work(failure)))
}

async fn new_raw(
    intent: IntentId,
    effect: &Restore,
    task: &Task,
    opened: Arc<Opened>,
) -> Result<u64, RestoreError> {
    let effect = effect.clone();
    work(task, opened, move |source, pace| {
        let part = PartFile::prepare(intent, Path::new(&effect.path))?;
        let image = part.create_raw(source.size)?;
        let written = work::write_and_verify(source, &image, Before::Zeros, pace)?;
        part.publish(intent, &effect, written)?;
        Ok(written)
    })
    .await
}

async fn raw_in_place(effect: &Restore, task: &Task, opened: Arc<Opened>) -> Result<u64, RestoreError> {
    let path = PathBuf::from(&effect.path);
    work(task, opened, move |source, pace| {
        let image = target::open_in_place(&path, source.size)?;
        work::write_and_verify(source, &image, Before::Something, pace).map_err(halfway)
    })
    .await
}

async fn new_qcow2(
    intent: IntentId,
    effect: &Restore,
    task: &Task,
    opened: Arc<Opened>,
) -> Result<u64, RestoreError> {
    let target = PathBuf::from(&effect.path);
    let part = file_work(move || PartFile::prepare(intent, &target)).await?;
    daemon::create_qcow2(&part.path, effect.size_bytes).await?;
    let written = through_daemon(intent, &part.path, task, opened, Before::Zeros).await?;
    let effect = effect.clone();
    file_work(move || part.publish(intent, &effect, written)).await?;
    Ok(written)
}

async fn qcow2_in_place(
    intent: IntentId,
    effect: &Restore,
    task: &Task,
    opened: Arc<Opened>,
) -> Result<u64, RestoreError> {
    let path = Path::new(&effect.path);
    through_daemon(intent, path, task, opened, Before::Something).await.map_err(|error| match error {
        RestoreError::Daemon { image, why } => RestoreError::Unfit { path: image, why },
        other => other,
    })
}

/// Writes a qcow2 image through one daemon, and reads it back through another: what is proven is the closed file.
async fn through_daemon(
    intent: IntentId,
    path: &Path,
    task: &Task,
    opened: Arc<Opened>,
    before: Before,
) -> Result<u64, RestoreError> {
    let folder = task.folders.sockets.join(format!("restore-{intent}"));
    let at_fault = move |error| if before == Before::Something { halfway(error) } else { error };
    let image = path.to_owned();
    let (daemon, connection) = Daemon::serve(path, Access::ReadWrite, &folder).await?;
    let writer = NbdImage::new(tokio::runtime::Handle::current(), connection);
    let written = work(task, Arc::clone(&opened), move |source, pace| {
        fits(&writer, &image, source)?;
        work::write(source, &writer, before, pace).map_err(at_fault)
    })
    .await;
    if written.is_err() && before == Before::Zeros {
        // What it holds goes with the file.
        return written;
    }
    let stopped = daemon.stop(path).await.map_err(at_fault);
    let written = written?;
    stopped?;
    let (daemon, connection) = Daemon::serve(path, Access::ReadOnly, &folder).await.map_err(at_fault)?;
    let reader = NbdImage::new(tokio::runtime::Handle::current(), connection);
    let verify = work(task, opened, move |source, pace| {
        pace.second_half(source);
        work::verify(source, &reader, pace)
    });
    verify.await.map_err(at_fault)?;
    daemon.stop(path).await.map_err(at_fault)?;
    Ok(written)
}

fn fits(image: &NbdImage, path: &Path, source: &Source) -> Result<(), RestoreError> {
    match image.connection.export().size {
        size if size == source.size => Ok(()),
        size => Err(RestoreError::size(path, size, source.size)),
    }
}

/// Says that an image in place is neither the old nor the new one. Not of errors from before the first write.
fn halfway(error: RestoreError) -> RestoreError {
    match error {
        error @ (RestoreError::Unfit { .. } | RestoreError::Halfway(_)) => error,
        error => RestoreError::Halfway(Box::new(error)),
    }
}

async fn file_work<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RestoreError> + Send + 'static,
) -> Result<T, RestoreError> {
    let done = blocking(FILE_LIMIT, "making the image's file", move || Ok(work()));
    done.await.unwrap_or_else(|failure| Err(RestoreError::Work(failure)))
}
