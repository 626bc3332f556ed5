//! Turns: who uses a thing that only one may use at a time, by its path. Knows nothing about what the thing is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

/// A turn; it is over when this is dropped.
pub(super) type Turn = OwnedMutexGuard<()>;

/// One table of turns.
#[derive(Debug)]
pub(super) struct Turns(Mutex<BTreeMap<PathBuf, Weak<tokio::sync::Mutex<()>>>>);

impl Turns {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// Waits for the turn at `path`, no longer than `limit`.
    pub(super) async fn take(&self, path: &Path, limit: Duration) -> Option<Turn> {
        tokio::time::timeout(limit, self.at(path).lock_owned()).await.ok()
    }

    fn at(&self, path: &Path) -> Arc<tokio::sync::Mutex<()>> {
        // The table is only ever changed whole, so a panic elsewhere cannot have left it half done.
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(path).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        turns.insert(path.into(), Arc::downgrade(&turn));
        turn
    }
}
