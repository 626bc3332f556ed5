//! Scratch files: where old data goes that the guest overwrites while a view of it is read. One folder for each VM,
//! open to its QEMU alone. Knows nothing about QMP.
//!
//! A hung filesystem under the folder must not hang the agent: every call here runs aside and has a time limit.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use journal::names::{self, Owner};
use journal::outcome::{Failure, FailureClass};
use journal::{Installation, IntentId};
use rustix::fs::{AtFlags, CWD, FallocateFlags, StatxFlags, fallocate, statvfs, statx};
use rustix::io::Errno;
use tokio::process::Command;

use super::turns::Turns;
use crate::qmp::Peer;

/// The longest that a call on the folder, or the creation of an image, may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Bytes that are reserved by one call.
const RESERVED_AT_A_TIME: usize = 64 << 30;

/// The longest that the storage under a folder may take to say that it is there.
const ANSWER: Duration = Duration::from_secs(5);

/// The longest that it may take while QEMU is touched. What answers later has hung, and copies into it that nobody waits for
/// any more come to their end now: a QEMU 10.0 with iothreads that changes its nodes at that very moment can hang (decision
/// 17).
const PROMPT: Duration = Duration::from_secs(2);

/// Who looks at a folder now. A look that hangs keeps its turn, so that a hung storage costs one thread and no more.
static LOOKS: Turns = Turns::new();

/// The names in the folder; none where there is no folder.
pub(crate) async fn list(folder: &Path) -> Result<Vec<String>, Failure> {
    let it = folder.to_path_buf();
    within(folder, move || {
        let entries = match std::fs::read_dir(it) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut files = Vec::new();
        for entry in entries {
            // What is not UTF-8 was not named by us.
            files.extend(entry?.file_name().into_string());
        }
        files.sort();
        Ok(files)
    })
    .await
}

/// Asks the storage below each scratch file in a folder whether it is there. QEMU looks at its files too whenever it is
/// asked about its nodes, and waits for copies under way before it changes them, and its guest waits with it: so while
/// this fails, QEMU is left alone.
pub(crate) async fn answers(folder: &Path) -> Result<(), Failure> {
    let (it, began) = (folder.to_path_buf(), Instant::now());
    look(folder, move || {
        for entry in std::fs::read_dir(&it).into_iter().flatten().flatten() {
            // What the kernel remembers of a file is no answer: a network or FUSE file system is asked anew. An error
            // is an answer, which QEMU gets as well.
            let _ = statx(CWD, entry.path(), AtFlags::STATX_FORCE_SYNC, StatxFlags::BASIC_STATS);
        }
        Ok(())
    })
    .await?;
    let took = began.elapsed();
    if took <= PROMPT {
        return Ok(());
    }
    let what = format!(
        "{}: the storage under the scratch files took {took:.1?} to answer; QEMU is left alone until it answers at once",
        folder.display()
    );
    Err(Failure::new(FailureClass::Unreachable, what))
}

/// What there is below a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    /// Bytes that the files take which were asked for.
    pub(super) used: u64,
    /// Bytes that are free to QEMU's user on their file system.
    pub(super) free: u64,
    /// Bytes of that file system.
    pub(super) total: u64,
}

/// How much room these files of a folder take, and how much there is.
pub(super) async fn room(folder: &Path, files: Vec<String>) -> Result<Room, Failure> {
    let it = folder.to_path_buf();
    look(folder, move || measure(&it, &files)).await
}

/// As [`room`]; nothing once the folder has no file `note` any more.
pub(super) async fn room_of(
    folder: &Path,
    note: String,
    files: Vec<String>,
) -> Result<Option<Room>, Failure> {
    let it = folder.to_path_buf();
    look(folder, move || if it.join(note).try_exists()? { measure(&it, &files).map(Some) } else { Ok(None) })
        .await
}

fn measure(folder: &Path, files: &[String]) -> io::Result<Room> {
    let mut used = 0;
    for file in files {
        match std::fs::metadata(folder.join(file)) {
            // In units of 512 bytes on every file system (stat(2)).
            Ok(found) => used += found.blocks() * 512,
            Err(error) => absent_is_fine(Err(error))?,
        }
    }
    let system = statvfs(folder)?;
    let (free, total) = (system.f_bavail * system.f_frsize, system.f_blocks * system.f_frsize);
    Ok(Room { used, free, total })
}

/// A look at a folder: one at a time, within [`ANSWER`].
async fn look<T: Send + 'static>(
    folder: &Path,
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    let silent = || {
        let what = format!(
            "{}: the storage under the scratch files does not answer within {ANSWER:?}; QEMU is left alone until it \
             does, since it would wait for it too, and its guest with it. The guest itself goes on where its view is \
             of the copy-before-write kind",
            folder.display()
        );
        Failure::new(FailureClass::Unreachable, what)
    };
    let Some(turn) = LOOKS.take(folder, ANSWER).await else { return Err(silent()) };
    let looked = tokio::task::spawn_blocking(move || {
        let found = call();
        drop(turn);
        found
    });
    match tokio::time::timeout(ANSWER, looked).await {
        Ok(looked) => told(folder, looked),
        Err(_) => Err(silent()),
    }
}

/// What QEMU may do in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Open the files that it is told of. The folder stays ours, so that nobody who took over a QEMU can put a link
    /// where the agent, which may be root, is about to write.
    OpensFiles,
    /// Make files, as it must for a socket.
    MakesFiles,
}

/// Makes a VM's folder, for its QEMU's user and nobody else. Folders above it are made passable.
pub(super) async fn make_folder(folder: &Path, qemu: Peer, access: Access) -> Result<(), Failure> {
    let it = folder.to_path_buf();
    within(folder, move || {
        if let Some(above) = it.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o711).create(above)?;
        }
        match std::fs::DirBuilder::new().mode(0o700).create(&it) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
        if rustix::process::geteuid().as_raw() == qemu.uid {
            return Ok(());
        }
        let (owner, mode) = match access {
            Access::OpensFiles => (None, 0o710),
            Access::MakesFiles => (Some(qemu.uid), 0o700),
        };
        chown(&it, owner, Some(qemu.gid))?;
        std::fs::set_permissions(&it, std::fs::Permissions::from_mode(mode))
    })
    .await
}

/// An empty qcow2 of a disk's size, which QEMU may write.
pub(super) async fn create_image(path: &Path, size_bytes: u64, qemu: Peer) -> Result<(), Failure> {
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2"]).arg(path).arg(size_bytes.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = match tokio::time::timeout(LIMIT, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => {
            let what = format!("qemu-img cannot be run ({error}); install qemu-utils on this host");
            return Err(Failure::new(FailureClass::Host, what));
        }
        Err(_) => return Err(too_slow(path)),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let class = if said.contains("No space left") { FailureClass::Full } else { FailureClass::Host };
        return Err(Failure::new(class, format!("qemu-img create {}: {}", path.display(), said.trim())));
    }
    let it = path.to_path_buf();
    within(path, move || {
        std::fs::set_permissions(&it, std::fs::Permissions::from_mode(0o600))?;
        // An agent that is not root can serve only QEMUs of its own user.
        if rustix::process::geteuid().as_raw() == qemu.uid {
            return Ok(());
        }
        chown(&it, Some(qemu.uid), Some(qemu.gid))
    })
    .await
}

/// Reserves room for the first `bytes` of a file, however long it is yet. What QEMU writes there later cannot find the
/// file system full.
pub(super) async fn reserve(path: &Path, bytes: u64) -> Result<(), Failure> {
    for from in (0..bytes).step_by(RESERVED_AT_A_TIME) {
        let (it, length) = (path.to_path_buf(), (bytes - from).min(RESERVED_AT_A_TIME as u64));
        let reserved = within(path, move || {
            let file = std::fs::File::options().write(true).open(it)?;
            match fallocate(&file, FallocateFlags::KEEP_SIZE, from, length) {
                Err(Errno::OPNOTSUPP) => Ok(false),
                done => Ok(done.map(|()| true)?),
            }
        });
        if !reserved.await? {
            let what = format!(
                "{}: the file system of the scratch folder cannot reserve room (fallocate), and a disk that QEMU copies \
                 there needs it: if the room ran out, the guest's writes would fail; give the agent a scratch folder on \
                 another one, such as ext4 or XFS",
                path.display()
            );
            return Err(Failure::new(FailureClass::Host, what));
        }
    }
    Ok(())
}

/// Removes the files of one view, whatever there is of them, and the folder once it is empty.
pub(super) async fn remove_view(
    folder: &Path,
    installation: Installation,
    view: IntentId,
) -> Result<(), Failure> {
    let mut files = list(folder).await?;
    files.retain(|name| {
        matches!(names::owner(name), Some(Owner::Temporary(whose, intent, ..)) if (whose, intent) == (installation, view))
    });
    remove(folder, files).await
}

/// Removes files by name, whichever of them are there, and the folder once it is empty.
pub(super) async fn remove(folder: &Path, files: Vec<String>) -> Result<(), Failure> {
    let it = folder.to_path_buf();
    within(folder, move || {
        for file in files {
            absent_is_fine(std::fs::remove_file(it.join(file)))?;
        }
        match std::fs::remove_dir(&it) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            removed => absent_is_fine(removed),
        }
    })
    .await
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

pub(super) async fn within<T: Send + 'static>(
    place: &Path,
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::time::timeout(LIMIT, tokio::task::spawn_blocking(call)).await {
        Ok(called) => told(place, called),
        Err(_) => Err(too_slow(place)),
    }
}

fn told<T>(place: &Path, called: Result<io::Result<T>, tokio::task::JoinError>) -> Result<T, Failure> {
    match called {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            let full = error.kind() == io::ErrorKind::StorageFull;
            let class = if full { FailureClass::Full } else { FailureClass::Host };
            Err(Failure::new(class, format!("{}: {error}", place.display())))
        }
        Err(panic) => Err(Failure::new(FailureClass::Host, format!("{}: {panic}", place.display()))),
    }
}

fn too_slow(place: &Path) -> Failure {
    let what = format!("{}: no answer within {LIMIT:?}; is its filesystem hung?", place.display());
    Failure::new(FailureClass::Host, what)
}
