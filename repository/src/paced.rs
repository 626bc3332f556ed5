//! A folder to and from which bytes go no faster than they may.
//!
//! For what stands on a network and looks like a folder. A file waits its turn, then goes at once: what is limited is how
//! much there is in a minute, not in a moment. Knows nothing of what the files contain.

use std::thread::sleep;

use crate::backend::{Backend, BackendError, FileKind, FileName, Listed, Stamp};
use crate::local::Local;
use crate::pace::Pace;

/// What enters the line at once.
const SLICE: usize = 256 << 10;

/// A folder and a pace.
#[derive(Debug)]
pub(crate) struct Paced {
    folder: Local,
    pace: Pace,
}

impl Paced {
    pub(crate) fn new(folder: Local, pace: Pace) -> Self {
        Self { folder, pace }
    }

    /// In slices, so that a small file need not wait for a whole pack.
    fn wait(&self, bytes: usize) {
        for begin in (0..bytes).step_by(SLICE) {
            sleep(self.pace.enter(SLICE.min(bytes - begin)).begins);
        }
    }
}

impl Backend for Paced {
    fn location(&self) -> String {
        self.folder.location()
    }

    fn foreign(&self) -> Result<Option<String>, BackendError> {
        self.folder.foreign()
    }

    fn prepare(&self) -> Result<(), BackendError> {
        self.folder.prepare()
    }

    fn list(&self, kind: FileKind) -> Result<Vec<Listed>, BackendError> {
        self.folder.list(kind)
    }

    fn read(&self, name: &FileName) -> Result<Vec<u8>, BackendError> {
        let bytes = self.folder.read(name)?;
        self.wait(bytes.len());
        Ok(bytes)
    }

    fn read_range(&self, name: &FileName, offset: u64, buffer: &mut [u8]) -> Result<(), BackendError> {
        self.wait(buffer.len());
        self.folder.read_range(name, offset, buffer)
    }

    fn write(&self, name: &FileName, bytes: &[u8]) -> Result<(), BackendError> {
        self.wait(bytes.len());
        self.folder.write(name, bytes)
    }

    fn create(&self, name: &FileName, bytes: &[u8]) -> Result<bool, BackendError> {
        self.wait(bytes.len());
        self.folder.create(name, bytes)
    }

    fn remove(&self, name: &FileName) -> Result<(), BackendError> {
        self.folder.remove(name)
    }

    fn stamp(&self, name: &FileName) -> Result<Stamp, BackendError> {
        self.folder.stamp(name)
    }

    fn sweep(&self) -> Result<u64, BackendError> {
        self.folder.sweep()
    }
}
