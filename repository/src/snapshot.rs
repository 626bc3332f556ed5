//! Snapshots as restic stores them: a tree, and who made it when, from what.
//!
//! Owns the JSON of restic's `Snapshot`. Knows nothing of what the tags mean.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize};

use crate::id::{Digest, SnapshotId};
use crate::machine;

/// One snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When: the instant that it shows.
    pub time: DateTime<Utc>,
    /// The snapshot that this one builds on; only a hint, every snapshot is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<SnapshotId>,
    /// The tree blob of its root.
    pub tree: Digest,
    /// What was saved; restic groups by it.
    #[serde(deserialize_with = "list_or_null")]
    pub paths: Vec<String>,
    /// The host that it belongs to; restic groups by it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// Who saved it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// The number of that user.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub uid: u32,
    /// The number of that group.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gid: u32,
    /// Free marks.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list_or_null")]
    pub tags: Vec<String>,
    /// What made it, as in "restic 0.17.0"; restic since 0.17 writes and shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program_version: Option<String>,
}

// serde hands references to `skip_serializing_if`.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(id: &u32) -> bool {
    *id == 0
}

fn list_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Snapshot {
    /// A snapshot of `tree` at `time`, by this user on this host; the rest is to be filled in.
    #[must_use]
    pub fn new(tree: Digest, time: DateTime<Utc>, paths: Vec<String>) -> Self {
        Self {
            time,
            parent: None,
            tree,
            paths,
            hostname: machine::host_name(),
            username: machine::user_name(),
            uid: machine::user_id(),
            gid: machine::group_id(),
            tags: Vec::new(),
            program_version: None,
        }
    }
}
