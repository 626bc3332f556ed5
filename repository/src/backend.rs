//! The contract with whatever keeps the files: a folder here, an object store elsewhere.
//!
//! Owns the names of files and the errors of storing. Knows nothing of what the files contain.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::id::FileId;

/// The families of files in a repository (restic's design document, "Repository Layout").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FileKind {
    /// `keys/`: the master key, sealed by a password; the only files that are not sealed whole.
    Key,
    /// `locks/`: who uses the repository.
    Lock,
    /// `snapshots/`: one file for each snapshot.
    Snapshot,
    /// `index/`: which blob lies where in which pack.
    Index,
    /// `data/xx/`: sealed blobs.
    Pack,
}

impl FileKind {
    /// Every family.
    pub const ALL: [Self; 5] = [Self::Key, Self::Lock, Self::Snapshot, Self::Index, Self::Pack];

    /// The folder, relative to the root of the repository.
    #[must_use]
    pub fn folder(self) -> &'static str {
        match self {
            Self::Key => "keys",
            Self::Lock => "locks",
            Self::Snapshot => "snapshots",
            Self::Index => "index",
            Self::Pack => "data",
        }
    }
}

/// One file of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileName {
    /// `config`: the only file with a fixed name.
    Config,
    /// Any other: its family and the sha256 of its bytes.
    Of(FileKind, FileId),
}

impl FileName {
    /// A pack.
    pub fn pack(id: impl Into<FileId>) -> Self {
        Self::Of(FileKind::Pack, id.into())
    }

    /// Whether a repository has something of this name directly in its root, an unfinished `config` included.
    #[must_use]
    pub fn is_top_level(name: &str) -> bool {
        name == "config"
            || name.starts_with("config-tmp-")
            || FileKind::ALL.iter().any(|kind| kind.folder() == name)
    }

    /// The path relative to the root, with `/`. Packs are spread over 256 folders.
    #[must_use]
    pub fn path(&self) -> String {
        match self {
            Self::Config => "config".to_owned(),
            Self::Of(FileKind::Pack, id) => format!("data/{:02x}/{id}", id.0[0]),
            Self::Of(kind, id) => format!("{}/{id}", kind.folder()),
        }
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path())
    }
}

/// A file and its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub id: FileId,
    /// Bytes.
    pub size: u64,
}

/// Why the storage did not do as asked. Cheap to clone, so that one failure can be told to many threads.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BackendError {
    /// There is no such file.
    #[error("{} does not exist", path.display())]
    NotFound {
        /// The file.
        path: PathBuf,
    },
    /// The storage is full, or the quota is used up. What was stored before is untouched.
    #[error("no space left to write {}; free some, or forget points and prune", path.display())]
    Full {
        /// The file that was being written.
        path: PathBuf,
    },
    /// The storage says no: the credentials, the permissions, a bucket that is not there.
    #[error("{}: {what}", path.display())]
    Refused {
        /// The file, or the place of all of them.
        path: PathBuf,
        /// What it said, and what to do. Never a secret.
        what: String,
    },
    /// The storage cannot be reached or does not answer, and went on doing so while it was tried again.
    #[error("{}: {what}", path.display())]
    Unreachable {
        /// The file.
        path: PathBuf,
        /// What happened instead.
        what: String,
    },
    /// Anything else.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
}

impl BackendError {
    /// Sorts an error of the system into its cases.
    pub fn from_io(path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::NotFound { path },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path },
            _ => Self::Io { path, source: Arc::new(source) },
        }
    }
}

/// Tells one file from every other that was ever under its name: two stamps that are equal are of the same file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp(pub(crate) String);

/// Storage of whole, immutable files.
///
/// A listing must show every file whose `write` returned before the listing began: the lock protocol rests on it.
pub trait Backend: Send + Sync + fmt::Debug {
    /// Where this is, for people.
    fn location(&self) -> String;

    /// How many transfers at the same time are worth it: more hide the latency of storage that is far away.
    fn transfers(&self) -> usize {
        2
    }

    /// Why this is no place for a new repository, if it is none: it holds something that no repository has.
    ///
    /// # Errors
    /// When that cannot be told.
    fn foreign(&self) -> Result<Option<String>, BackendError>;

    /// Makes what a new repository needs (folders, say). Repeating it does no harm.
    ///
    /// # Errors
    /// When it cannot be made.
    fn prepare(&self) -> Result<(), BackendError>;

    /// The files of one family, in no particular order; unfinished and foreign files are left out.
    ///
    /// # Errors
    /// When the listing cannot be read whole: a partial listing is never returned.
    fn list(&self, kind: FileKind) -> Result<Vec<Listed>, BackendError>;

    /// A whole file.
    ///
    /// # Errors
    /// [`BackendError::NotFound`] when there is none.
    fn read(&self, name: &FileName) -> Result<Vec<u8>, BackendError>;

    /// Fills `buffer` from `offset` (bytes).
    ///
    /// # Errors
    /// [`BackendError::Io`] with `UnexpectedEof` when the file is too short.
    fn read_range(&self, name: &FileName, offset: u64, buffer: &mut [u8]) -> Result<(), BackendError>;

    /// Writes a whole file: afterwards it is there, complete and durable, or it is not there at all. One that is there
    /// already is replaced: names are digests, so it is the same one.
    ///
    /// # Errors
    /// When it was not written; nothing incomplete remains under its name.
    fn write(&self, name: &FileName, bytes: &[u8]) -> Result<(), BackendError>;

    /// As [`Self::write`], unless the file is there: of several that try at once, one writes. Answers whether this one did.
    ///
    /// # Errors
    /// As [`Self::write`].
    fn create(&self, name: &FileName, bytes: &[u8]) -> Result<bool, BackendError>;

    /// Whether anything can be removed here but locks: asked before work that would be for nothing otherwise.
    ///
    /// # Errors
    /// [`BackendError::Refused`] where the repository is only added to.
    fn may_remove(&self) -> Result<(), BackendError> {
        Ok(())
    }

    /// Removes a file.
    ///
    /// # Errors
    /// [`BackendError::NotFound`] when there is none.
    fn remove(&self, name: &FileName) -> Result<(), BackendError>;

    /// What tells this file from others; it is not read.
    ///
    /// # Errors
    /// [`BackendError::NotFound`] when there is none.
    fn stamp(&self, name: &FileName) -> Result<Stamp, BackendError>;

    /// Whether the file is there.
    ///
    /// # Errors
    /// When that cannot be told.
    fn exists(&self, name: &FileName) -> Result<bool, BackendError> {
        match self.stamp(name) {
            Ok(_) => Ok(true),
            Err(BackendError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes what interrupted writes left behind and returns how many files that were. Only under an exclusive lock:
    /// a write in progress looks the same.
    ///
    /// # Errors
    /// When something could not be removed.
    fn sweep(&self) -> Result<u64, BackendError>;
}
