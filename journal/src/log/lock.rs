//! The single-writer lock, which dies with its holder.
//!
//! Owns the file `lock` in the journal's folder: an advisory `flock` on it, and inside it who holds it. Knows
//! nothing of what the lock protects. The kernel releases the lock when the process ends, however it ends, so
//! there is never a stale lock to remove; what the file says is for people only.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::error::LogError;

const LOCK_NAME: &str = "lock";
/// How often a writer tries again while only askers are in its way.
const TRIES: u32 = 10_000;

/// Who holds a lock, as far as its file tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holder {
    /// Process id.
    pub pid: Option<u32>,
    /// The process's start time in clock ticks since boot (`/proc/PID/stat`, field 22): with the pid, unique.
    pub started: Option<u64>,
    /// When it took the lock, RFC 3339.
    pub since: Option<String>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "process {pid}")?,
            None => write!(f, "a process that has not yet said which")?,
        }
        match &self.since {
            Some(since) => write!(f, " since {since}"),
            None => Ok(()),
        }
    }
}

/// The lock, held until dropped or until the process ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of the journal in `dir`.
    ///
    /// # Errors
    /// [`LogError::Locked`] with the holder, or [`LogError::Io`].
    pub fn take(dir: &Path) -> Result<Lock, LogError> {
        let io_error = |doing| LogError::io(doing, LOCK_NAME);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join(LOCK_NAME))
            .map_err(io_error("open"))?;
        for _ in 0..TRIES {
            if try_flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(io_error("lock"))? {
                write_holder(&mut file).map_err(io_error("write"))?;
                return Ok(Lock { _file: file });
            }
            if !try_flock(&file, FlockOperation::NonBlockingLockShared).map_err(io_error("lock"))? {
                break;
            }
            // Not a writer, then: somebody is asking who the writer is, and has the answer in an instant.
            flock(&file, FlockOperation::Unlock).map_err(|errno| io_error("unlock")(errno.into()))?;
            std::thread::yield_now();
        }
        Err(LogError::Locked { dir: dir.to_owned(), holder: read_holder(&mut file) })
    }

    /// Who writes the journal in `dir` now; `None` when nobody does.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn holder(dir: &Path) -> Result<Option<Holder>, LogError> {
        let mut file = match File::open(dir.join(LOCK_NAME)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(LogError::io("open", LOCK_NAME)(error)),
        };
        // A shared lock, held for an instant, which a writer that starts in this instant knows how to take.
        let free = try_flock(&file, FlockOperation::NonBlockingLockShared)
            .map_err(LogError::io("lock", LOCK_NAME))?;
        Ok(if free { None } else { Some(read_holder(&mut file)) })
    }
}

/// Whether the lock was got; `false` when another has it.
fn try_flock(file: &File, operation: FlockOperation) -> io::Result<bool> {
    match flock(file, operation) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn write_holder(file: &mut File) -> io::Result<()> {
    let pid = std::process::id();
    let started = started(pid).map_or_else(|| "-".to_owned(), |ticks| ticks.to_string());
    let since = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(format!("{pid} {started} {since}\n").as_bytes())
}

fn read_holder(file: &mut File) -> Holder {
    let mut text = String::new();
    // What the file says is a courtesy: if it cannot be read, the refusal stands without it.
    let _unreadable = file.take(256).read_to_string(&mut text);
    let mut words = text.split_whitespace();
    let pid = words.next().and_then(|word| word.parse().ok());
    let started = words.next().and_then(|word| word.parse().ok());
    Holder { pid, started, since: words.next().map(str::to_owned) }
}

/// Field 22 of `/proc/PID/stat`, counted after the command name, which may hold spaces and brackets.
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}
