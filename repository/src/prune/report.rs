//! The figures of a prune. Knows nothing of how they come about.

use chrono::{DateTime, Utc};

/// What was done, or with a dry run would be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// Whether nothing was really done.
    pub dry_run: bool,
    /// Packs that stay as they are.
    pub packs_kept: usize,
    /// Packs without a used blob, removed now or marked.
    pub packs_unused: usize,
    /// Packs whose used blobs went to new ones.
    pub packs_repacked: usize,
    /// Packs that no index file lists, of sessions that died.
    pub packs_unlisted: usize,
    /// Packs that an earlier prune marked and that are needed again.
    pub packs_taken_back: usize,
    /// Packs that go away now.
    pub packs_removed: usize,
    /// Packs that are of no use and stay until their grace time is over, those of earlier prunes included.
    pub packs_marked: usize,
    /// Files of interrupted writes; not counted by a dry run.
    pub leftovers: u64,
    /// Bytes of all packs that go away now.
    pub bytes_removed: u64,
    /// Bytes of the packs that are marked.
    pub bytes_marked: u64,
    /// Bytes of used blobs in packs that are repacked: they come back in new packs.
    pub bytes_repacked: u64,
    /// Unused bytes that stay in packs partly used.
    pub bytes_unused: u64,
    /// Blobs that snapshots need.
    pub blobs_used: usize,
    /// When the grace time of the first marked pack is over.
    pub first_due: Option<DateTime<Utc>>,
}
