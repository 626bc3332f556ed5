//! How long work tells how far it is, and is told to stop.
//!
//! Knows nothing of the work.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Index files are read.
    Index,
    /// Folders are read; the total grows while new ones are found.
    Trees,
    /// Packs are read and proved.
    Packs,
    /// What is used of packs is copied into new ones.
    Repack,
    /// Files are removed.
    Remove,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Index => "reading the index",
            Self::Trees => "reading folders",
            Self::Packs => "reading packs",
            Self::Repack => "repacking",
            Self::Remove => "removing",
        })
    }
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// Files or folders that are done.
    pub done: u64,
    /// Of so many.
    pub total: u64,
}

/// Called after each file or folder, from several threads; `Break` ends the work with [`Cancelled`].
pub type Watch<'a> = &'a (dyn Fn(Progress) -> ControlFlow<()> + Sync);

/// A [`Watch`] for those who do not care.
pub fn unwatched(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The watcher said stop. Nothing is half done: the repository is as good as before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cancelled")]
pub struct Cancelled;

/// Counts one stage.
pub(crate) struct Counter<'a> {
    watch: Watch<'a>,
    stage: Stage,
    done: AtomicU64,
    total: AtomicU64,
}

impl<'a> Counter<'a> {
    pub(crate) fn new(watch: Watch<'a>, stage: Stage, total: usize) -> Self {
        Self { watch, stage, done: AtomicU64::new(0), total: AtomicU64::new(total as u64) }
    }

    pub(crate) fn expect_more(&self, more: usize) {
        self.total.fetch_add(more as u64, Ordering::Relaxed);
    }

    pub(crate) fn one_more(&self) -> Result<(), Cancelled> {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        match (self.watch)(Progress { stage: self.stage, done, total: self.total.load(Ordering::Relaxed) }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Cancelled),
        }
    }
}
