//! The medium that is shipped: segments in a folder of a disk, real or simulated.
//!
//! Owns nothing but the way to its parts: recovery, reading, verifying, archiving and the single-writer lock.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Disk, Frames, Medium, RealDisk, Release, Tail};
use crate::log::archive::{self, Moved};
use crate::log::error::LogError;
use crate::log::frame::Frame;
use crate::log::lock::Lock;
use crate::log::recover::{Options, Recovered, recover};
use crate::log::trail::Trail;
use crate::log::verify::{Verification, verify_segments};

/// A log as segments on a [`Disk`].
#[derive(Clone)]
pub struct Segments {
    disk: Arc<dyn Disk>,
    /// The folder whose lock a writer takes; none on a simulated disk.
    dir: Option<PathBuf>,
}

impl std::fmt::Debug for Segments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Segments").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Segments {
    /// In the folder `dir`, which is made if it is not there.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn create(dir: &Path) -> Result<Segments, LogError> {
        let disk = RealDisk::create(dir).map_err(LogError::io("make", &dir.display().to_string()))?;
        Ok(Segments { disk: Arc::new(disk), dir: Some(dir.to_owned()) })
    }

    /// In the folder `dir`, which is not written to.
    #[must_use]
    pub fn read_only(dir: &Path) -> Segments {
        Segments { disk: Arc::new(RealDisk::read_only(dir)), dir: Some(dir.to_owned()) }
    }

    /// On any disk, without a lock: for a simulated one.
    #[must_use]
    pub fn on(disk: Arc<dyn Disk>) -> Segments {
        Segments { disk, dir: None }
    }
}

impl Medium for Segments {
    fn open(
        &self,
        options: &Options,
        replay: &mut dyn FnMut(&Frame),
    ) -> Result<(Box<dyn Tail>, Recovered), LogError> {
        let lock = self.dir.as_deref().map(Lock::take).transpose()?;
        let (tail, recovered) = recover(Arc::clone(&self.disk), options, replay)?;
        Ok((Box::new(tail.locked(lock)), recovered))
    }

    fn frames(&self, from: u64) -> Result<Box<dyn Frames>, LogError> {
        Ok(Box::new(Trail::on(Arc::clone(&self.disk), from)?))
    }

    fn verify(&self) -> Result<Verification, LogError> {
        let holder = self.dir.as_deref().map(Lock::holder).transpose()?;
        verify_segments(self.disk.as_ref(), holder.flatten())
    }

    fn archive(&self, before: u64, keep: usize, release: Release<'_>) -> Result<Moved, LogError> {
        archive::move_closed(&self.disk, before, keep, release)
    }

    fn bases(&self) -> Option<Arc<dyn Disk>> {
        Some(Arc::clone(&self.disk))
    }
}
