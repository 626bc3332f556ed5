//! Storage that fails, or whose user dies, after a number of changes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use repository::{Backend, BackendError, FileKind, FileName, Listed, Local, Repository, Stamp};

use super::{PASSWORD, Place};

/// What happens at the step that fails, and at all after it.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// No space is left; nothing was written.
    Full,
    /// An error of the device; nothing was written.
    Io,
    /// The same, but what was asked for was done: only the answer is lost. Later steps are not done.
    AnswerLost,
    /// The thread panics.
    Panic,
}

/// A folder that fails.
#[derive(Debug)]
pub struct Failing {
    changes_left: AtomicI64,
    fault: Fault,
}

impl Failing {
    /// After so many changes.
    pub fn after(changes: i64, fault: Fault) -> Self {
        Self { changes_left: AtomicI64::new(changes), fault }
    }

    /// The repository on such a folder.
    pub fn open(self, place: &Place) -> Repository {
        let backend = FailingFolder { inner: Local::new(place.path()), failing: self };
        Repository::open(Arc::new(backend), PASSWORD).unwrap()
    }

    /// Makes a change, unless it is one that fails.
    fn change<T>(
        &self,
        name: &FileName,
        change: impl FnOnce() -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        // Locks come and go by the clock: they are no step of the work.
        if matches!(name, FileName::Of(FileKind::Lock, _)) {
            return change();
        }
        let left = self.changes_left.fetch_sub(1, Ordering::SeqCst);
        if left > 0 {
            return change();
        }
        let broken = || BackendError::from_io(name.path(), io::Error::from_raw_os_error(5));
        match self.fault {
            Fault::Full => Err(BackendError::Full { path: name.path().into() }),
            Fault::Io => Err(broken()),
            Fault::AnswerLost if left == 0 => change().and_then(|_| Err(broken())),
            Fault::AnswerLost => Err(broken()),
            Fault::Panic => panic!("a panic that the test asked for"),
        }
    }
}

#[derive(Debug)]
struct FailingFolder {
    inner: Local,
    failing: Failing,
}

impl Backend for FailingFolder {
    fn location(&self) -> String {
        self.inner.location()
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
    fn write(&self, name: &FileName, bytes: &[u8]) -> Result<(), BackendError> {
        self.failing.change(name, || self.inner.write(name, bytes))
    }
    fn remove(&self, name: &FileName) -> Result<(), BackendError> {
        self.failing.change(name, || self.inner.remove(name))
    }
    fn create(&self, name: &FileName, bytes: &[u8]) -> Result<bool, BackendError> {
        self.failing.change(name, || self.inner.create(name, bytes))
    }
    fn stamp(&self, name: &FileName) -> Result<Stamp, BackendError> {
        self.inner.stamp(name)
    }
    fn foreign(&self) -> Result<Option<String>, BackendError> {
        self.inner.foreign()
    }
    fn sweep(&self) -> Result<u64, BackendError> {
        self.inner.sweep()
    }
}
