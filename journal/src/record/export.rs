//! What an export is, in records: what was asked for, and its plan. Knows nothing of how a view is offered.
//!
//! These types are part of the journal's format: see [`super`] for how they may change.

use serde::{Deserialize, Serialize};

use crate::effect::Way;
use crate::ids::{CheckpointId, DiskName, JobId, VmId};

/// See [`Work::Export`](super::Work::Export).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportWork {
    /// Of which VM.
    pub vm: VmId,
    /// The checkpoint from which on changes are to be shown.
    pub since: Option<CheckpointId>,
    /// How long the view is offered, in seconds from its instant.
    pub ttl_seconds: u64,
}

/// See [`Record::ExportPlanned`](super::Record::ExportPlanned).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportPlanned {
    /// The job.
    pub job: JobId,
    /// How its view keeps what the guest overwrites.
    pub way: Way,
    /// Where QEMU will serve it over NBD: a unix socket's path on its host.
    pub socket: String,
    /// Its disks, in the order of the view.
    pub disks: Vec<ExportedDisk>,
    /// Disks of the VM that it will lack, each with the reason.
    pub left_out: Vec<(DiskName, String)>,
}

/// One disk of an export's plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedDisk {
    /// The disk.
    pub disk: DiskName,
    /// Its node.
    pub node: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// The bitmaps whose union is what changed; empty where no map is shown.
    pub changed_since: Vec<String>,
    /// Why no map is shown although one was asked for.
    pub reason: Option<String>,
}
