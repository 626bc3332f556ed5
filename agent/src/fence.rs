//! The fence: an agent obeys the youngest orchestrator that it has ever heard of. The one number that it must not
//! forget is on disk before it is acted on. Knows nothing about effects.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use journal::Epoch;

/// The file, or what it holds, is not as this agent left it.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// It cannot be read or written.
    #[error(
        "{path}: {source}; the agent must keep the highest epoch there: check the folder's owner, mode and space"
    )]
    Storage {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It holds something else.
    #[error(
        "{path}: `{found}` is not an epoch; write the orchestrator's epoch into it (`backstay journal show`)"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: String,
    },
}

/// The highest epoch seen.
#[derive(Debug)]
pub(crate) struct Fence {
    path: PathBuf,
    highest: Epoch,
}

impl Fence {
    /// Reads the epoch in this folder; none is the lowest.
    pub(crate) fn open(folder: &Path) -> Result<Self, FenceError> {
        let path = folder.join("epoch");
        let highest = match fs::read_to_string(&path) {
            Ok(text) => match text.trim_end().parse() {
                Ok(number) => Epoch(number),
                Err(_) => return Err(FenceError::Damaged { path, found: text.trim_end().to_owned() }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Epoch(0),
            Err(source) => return Err(FenceError::Storage { path, source }),
        };
        Ok(Self { path, highest })
    }

    /// The highest epoch seen.
    pub(crate) fn highest(&self) -> Epoch {
        self.highest
    }

    /// Whether this epoch may give orders. A higher one is the highest from now on, durably, before this returns.
    pub(crate) fn admit(&mut self, epoch: Epoch) -> Result<bool, FenceError> {
        if epoch > self.highest {
            self.keep(epoch).map_err(|source| FenceError::Storage { path: self.path.clone(), source })?;
            self.highest = epoch;
        }
        Ok(epoch == self.highest)
    }

    /// Old or new, never half: the name moves to a file that is complete, and the folder remembers it.
    fn keep(&self, epoch: Epoch) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        writeln!(file, "{}", epoch.0)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        match self.path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_older_epoch_is_refused_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut fence = Fence::open(folder.path()).unwrap();
        assert!(fence.admit(Epoch(3)).unwrap());
        assert!(fence.admit(Epoch(3)).unwrap());
        assert!(!fence.admit(Epoch(2)).unwrap());
        let mut fence = Fence::open(folder.path()).unwrap();
        assert!(!fence.admit(Epoch(2)).unwrap());
        assert!(fence.admit(Epoch(4)).unwrap());
    }

    #[test]
    fn a_damaged_epoch_is_an_error_and_not_the_lowest() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("epoch"), "seven").unwrap();
        assert!(Fence::open(folder.path()).unwrap_err().to_string().contains("`seven` is not an epoch"));
    }

    #[test]
    fn what_cannot_be_kept_is_not_admitted() {
        let folder = tempfile::tempdir().unwrap();
        let mut fence = Fence::open(folder.path()).unwrap();
        drop(folder);
        assert!(fence.admit(Epoch(1)).is_err());
        assert_eq!(fence.highest(), Epoch(0));
    }
}
