//! Outcomes: what became of an intent, as an agent answers it or as reconcile read it off the world.
//!
//! An intent settles once. `Done` says that the effect is there in full; `Failed` says that it is not, so that it may
//! be repeated or given up. There is no third: while an effect's fate is unknown, its intent stays open.

use serde::{Deserialize, Serialize};

use crate::effect::Consistency;
use crate::ids::{DiskName, Time};

/// What became of an intent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The effect is there, in full.
    Done(Done),
    /// It is not.
    Failed(Failure),
}

/// What an effect brought with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Done {
    /// Nothing but itself.
    Plain,
    /// A view or a checkpoint began.
    Began {
        /// The instant, as near as the agent's clock knows it.
        instant: Time,
    },
    /// The guest is not frozen any more.
    Thawed {
        /// How many file systems this very thaw released. None: they were not frozen, or not any more.
        filesystems: u64,
    },
    /// A restore point is in its repository.
    Stored(Stored),
    /// An image is written.
    Restored {
        /// Bytes written to the image; holes are not written.
        written_bytes: u64,
        /// Whether the image was read back and every chunk's digest matched.
        verified: bool,
    },
    /// A repository was opened or created.
    Opened {
        /// Its own id, from its config.
        id: String,
        /// Whether it was created just now.
        created: bool,
        /// Its chunk size in bytes, fixed when it was created.
        chunk_bytes: u32,
    },
    /// A check ended.
    Checked {
        /// Each problem in a sentence; empty when the repository is sound.
        problems: Vec<String>,
    },
    /// A prune ended.
    Pruned {
        /// Bytes freed.
        freed_bytes: u64,
    },
    /// A repository was measured.
    Measured(Measured),
    /// A repository's keys, as they are now, oldest first.
    Keys {
        /// Each.
        keys: Vec<KeySeen>,
    },
    /// A prune on terms ended.
    PrunedBy(Pruned),
}

/// See [`Done::PrunedBy`]. With a dry run, what would have been.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// Whether nothing was really done.
    pub dry_run: bool,
    /// Bytes freed: what went away, less what was copied out of it.
    pub freed_bytes: u64,
    /// Bytes of packs that go away when their grace time is over.
    pub marked_bytes: u64,
    /// Bytes that were copied out of packs used in part.
    pub copied_bytes: u64,
    /// Unused bytes that stay in packs used in part.
    pub unused_bytes: u64,
    /// Packs that stay as they are.
    pub packs_kept: u64,
    /// Packs that went away.
    pub packs_removed: u64,
    /// Packs that wait for the end of their grace time.
    pub packs_marked: u64,
    /// Packs that were marked before and are needed again.
    pub packs_taken_back: u64,
    /// When the first grace time is over.
    pub first_due: Option<Time>,
}

/// See [`Done::Measured`]. All in bytes, unless they count something.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// Restore points, and snapshots that others made.
    pub points: u64,
    /// All packs, as stored.
    pub stored_bytes: u64,
    /// What points need of them.
    pub used_bytes: u64,
    /// The different chunks that points need, before compression.
    pub plain_bytes: u64,
    /// What it would take to restore every point, holes included.
    pub restore_bytes: u64,
    /// By VM, in the order of their names.
    pub vms: Vec<MeasuredVm>,
}

/// One VM's part of [`Measured`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeasuredVm {
    /// Its name, or the host's in a snapshot that another program made.
    pub vm: String,
    /// Its id; none for what another program made.
    pub id: Option<crate::ids::VmId>,
    /// Its points.
    pub points: u64,
    /// What it would take to restore them all, holes included.
    pub restore_bytes: u64,
    /// The chunks that they need, as stored; other VMs may need them too.
    pub used_bytes: u64,
    /// Of these, what no other VM needs.
    pub own_bytes: u64,
}

/// One key of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySeen {
    /// Its id.
    pub id: String,
    /// Whether it is the one that the repository's password file opens.
    pub current: bool,
    /// The host on which it was made.
    pub host: String,
    /// The user who made it.
    pub user: String,
    /// When it was made.
    pub created: Time,
}

/// See [`Done::Stored`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// The restic snapshot's id, hex.
    pub snapshot: String,
    /// The consistency reached.
    pub consistency: Consistency,
    /// What each disk cost.
    pub disks: Vec<StoredDisk>,
}

/// What one disk of a point cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredDisk {
    /// The disk.
    pub disk: DiskName,
    /// Bytes that the bitmap called changed; the disk's allocated bytes for a full reading.
    pub changed_bytes: u64,
    /// Bytes read from the view for the point; what the audit reads comes on top.
    pub read_bytes: u64,
    /// Bytes added to the repository for it, compressed and sealed.
    pub stored_bytes: u64,
    /// Chunks that the bitmap called clean, and that were compared with the parent's.
    pub audited_chunks: u32,
    /// Why the bitmap was not believed, where the audit found a difference: the disk was then read whole.
    pub distrust: Option<String>,
}

/// Why an effect is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{what}")]
pub struct Failure {
    /// What kind of failure, for decisions.
    pub class: FailureClass,
    /// What happened, where, and what to do, for people.
    pub what: String,
}

impl Failure {
    /// A failure of this class.
    #[must_use]
    pub fn new(class: FailureClass, what: impl Into<String>) -> Self {
        Self { class, what: what.into() }
    }
}

impl FailureClass {
    /// The name, in kebab case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FailureClass::ProcessGone => "process-gone",
            FailureClass::Unreachable => "unreachable",
            FailureClass::Refused => "refused",
            FailureClass::ViewLost => "view-lost",
            FailureClass::Repository => "repository",
            FailureClass::Full => "full",
            FailureClass::Damaged => "damaged",
            FailureClass::Cancelled => "cancelled",
            FailureClass::Invalid => "invalid",
            FailureClass::Fenced => "fenced",
            FailureClass::Host => "host",
            FailureClass::TooLate => "too-late",
        }
    }
}

/// Kinds of failure that decisions tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureClass {
    /// The QEMU process that it was meant for is gone.
    ProcessGone,
    /// QEMU, the guest agent or the repository could not be reached, or did not answer in time.
    Unreachable,
    /// QEMU or the guest refused, and said why.
    Refused,
    /// The view broke: it is not there, or can no longer be read.
    ViewLost,
    /// The repository could not be opened: not there, not one, or the wrong password.
    Repository,
    /// No space left.
    Full,
    /// Data did not match its digest.
    Damaged,
    /// The operator cancelled it.
    Cancelled,
    /// What was asked for cannot be done.
    Invalid,
    /// Decided in an epoch that is over.
    Fenced,
    /// Any other error of the host.
    Host,
    /// Its deadline came first.
    TooLate,
}
