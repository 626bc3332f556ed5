//! Storage that is only added to: whoever has no more than this cannot destroy what is there.
//!
//! Nothing is removed but our own locks, and nothing is replaced. The promise is this process's own; where the storage
//! can hold it too, against whoever has the credentials, it should. Knows nothing of what the files contain.

use std::sync::{Arc, Mutex, PoisonError};

use crate::backend::{Backend, BackendError, FileKind, FileName, Listed, Stamp};
use crate::id::{FileId, IdSet};

/// Another storage, less removing and replacing.
#[derive(Debug)]
pub struct AppendOnly {
    inner: Arc<dyn Backend>,
    /// The locks that were written here.
    locks: Mutex<IdSet<FileId>>,
}

impl AppendOnly {
    /// The same storage, only added to.
    #[must_use]
    pub fn new(inner: Arc<dyn Backend>) -> Self {
        Self { inner, locks: Mutex::default() }
    }

    fn refused(path: &str) -> BackendError {
        let what = "nothing is removed: the repository is append-only here".to_owned();
        BackendError::Refused { path: path.into(), what }
    }

    fn locks(&self) -> std::sync::MutexGuard<'_, IdSet<FileId>> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for AppendOnly {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn transfers(&self) -> usize {
        self.inner.transfers()
    }

    fn foreign(&self) -> Result<Option<String>, BackendError> {
        self.inner.foreign()
    }

    fn prepare(&self) -> Result<(), BackendError> {
        self.inner.prepare()
    }

    fn list(&self, kind: FileKind) -> Result<Vec<Listed>, BackendError> {
        self.inner.list(kind)
    }

    fn read(&self, name: &FileName) -> Result<Vec<u8>, BackendError> {
        self.inner.read(name)
    }

    fn read_range(&self, name: &FileName, offset: u64, buffer: &mut [u8]) -> Result<(), BackendError> {
        self.inner.read_range(name, offset, buffer)
    }

    /// Names are digests: one that is taken is the same file.
    fn write(&self, name: &FileName, bytes: &[u8]) -> Result<(), BackendError> {
        self.create(name, bytes).map(drop)
    }

    fn create(&self, name: &FileName, bytes: &[u8]) -> Result<bool, BackendError> {
        if let FileName::Of(FileKind::Lock, id) = name {
            self.locks().insert(*id);
        }
        self.inner.create(name, bytes)
    }

    fn may_remove(&self) -> Result<(), BackendError> {
        Err(Self::refused(&self.location()))
    }

    fn remove(&self, name: &FileName) -> Result<(), BackendError> {
        match name {
            FileName::Of(FileKind::Lock, id) if self.locks().contains(id) => {
                self.inner.remove(name)?;
                self.locks().remove(id);
                Ok(())
            }
            _ => Err(Self::refused(&format!("{}/{name}", self.location()))),
        }
    }

    fn stamp(&self, name: &FileName) -> Result<Stamp, BackendError> {
        self.inner.stamp(name)
    }

    fn sweep(&self) -> Result<u64, BackendError> {
        Ok(0)
    }
}
