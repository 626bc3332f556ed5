//! What is done to a repository: made and opened, checked, pruned, measured; a restore point forgotten; keys changed.
//!
//! These types are part of the journal's format: see [`record`](crate::record) for how they may change.

use serde::{Deserialize, Serialize};

use super::RepositoryAddress;
use crate::ids::PointId;

/// See [`Effect::OpenRepository`](super::Effect::OpenRepository).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRepository {
    /// Which.
    pub repository: RepositoryAddress,
    /// The chunk size for a new one, in bytes.
    pub chunk_bytes: u32,
}

/// See [`Effect::Forget`](super::Effect::Forget).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forget {
    /// Where.
    pub repository: RepositoryAddress,
    /// The point.
    pub point: PointId,
    /// Its restic snapshot.
    pub snapshot: String,
    /// Why it goes, for the journal's reader.
    pub reason: String,
}

/// See [`Effect::Check`](super::Effect::Check).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Which.
    pub repository: RepositoryAddress,
    /// How many of its packs are read and proven, in percent; which ones, the intent's number draws.
    pub read_percent: u8,
}

/// See [`Effect::Prune`](super::Effect::Prune).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prune {
    /// Which.
    pub repository: RepositoryAddress,
}

/// See [`Effect::PruneBy`](super::Effect::PruneBy).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneBy {
    /// Which.
    pub repository: RepositoryAddress,
    /// How.
    pub terms: PruneTerms,
}

/// How a repository is pruned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneTerms {
    /// Only say what would be done.
    pub dry_run: bool,
    /// How long what is of no use stays, marked, before a later prune removes it; 0 removes at once.
    pub grace_seconds: u64,
    /// Unused bytes may stay in packs that are partly used, up to this share of the used ones.
    pub max_unused_percent: u8,
}

impl Default for PruneTerms {
    /// At once, and as sparing as restic is.
    fn default() -> Self {
        Self { dry_run: false, grace_seconds: 0, max_unused_percent: 5 }
    }
}

/// See [`Effect::Measure`](super::Effect::Measure).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measure {
    /// Which.
    pub repository: RepositoryAddress,
}

/// See [`Effect::Keys`](super::Effect::Keys).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    /// Of which repository.
    pub repository: RepositoryAddress,
    /// What becomes of them.
    pub change: KeyChange,
}

/// What becomes of a repository's keys. Passwords are named by their files; they never enter the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyChange {
    /// Nothing: they are listed.
    None,
    /// One more.
    Add {
        /// The file whose first line is its password.
        password_file: String,
    },
    /// One less.
    Remove {
        /// Its id, or the beginning of it.
        key: String,
    },
    /// The one that is in use is replaced, and the repository's password is in another file from then on.
    Change {
        /// That file.
        password_file: String,
    },
}
