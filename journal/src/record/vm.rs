//! VMs, in records: they come under management, are on a host, run as a process of QEMU, and leave. Knows nothing of their
//! checkpoints and views.
//!
//! These types are part of the journal's format: see [`super`] for how they may change.

use serde::{Deserialize, Serialize};

use crate::effect::VmAddress;
use crate::ids::{DiskName, HostName, Process, VmId};

/// See [`Record::VmAdded`](super::Record::VmAdded).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmAdded {
    /// Where it is reached.
    pub vm: VmAddress,
    /// The disks as the operator named them, by name and node; empty to find them each time.
    pub disks: Vec<(DiskName, String)>,
    /// Labels for policies to select by.
    pub labels: Vec<(String, String)>,
    /// The host whose agent looks after it; none in what was recorded before hosts had names.
    pub host: Option<HostName>,
}

/// See [`Record::VmHosted`](super::Record::VmHosted).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmHosted {
    /// Which.
    pub vm: VmId,
    /// The host whose agent looks after it from then on.
    pub host: HostName,
}

/// See [`Record::VmRemoved`](super::Record::VmRemoved).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRemoved {
    /// Which.
    pub vm: VmId,
}

/// See [`Record::ProcessSeen`](super::Record::ProcessSeen).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSeen {
    /// Whose.
    pub vm: VmId,
    /// The process that runs now.
    pub process: Process,
    /// QEMU's version.
    pub version: String,
}
