//! Observations: what is there now, as an agent saw it. Never recorded; the verdicts drawn from them are.
//!
//! Holds no judgement: an observation lists everything that reconcile may want to know and says nothing about it.

use serde::{Deserialize, Serialize};

use crate::ids::{DiskName, Process, RepositoryName, VmId, VmName};

/// What an agent is asked to look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookAt {
    /// The VM, once it is one of ours: its scratch files are listed too.
    pub id: Option<VmId>,
    /// The VM's name, for messages.
    pub name: VmName,
    /// The QMP socket's path.
    pub qmp: String,
    /// The disks by name and node, as the operator named them; empty to find them by `query-block`.
    pub disks: Vec<(DiskName, String)>,
}

/// What was seen of one VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VmSeen {
    /// QEMU answered.
    Answering(Box<Machine>),
    /// No process listens: QEMU is not running.
    NotRunning {
        /// What was found instead.
        why: String,
    },
    /// Something is there and does not answer: a hung QEMU, or another client holds the socket.
    Silent {
        /// What was found instead.
        why: String,
    },
}

/// A QEMU that answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The process.
    pub process: Process,
    /// QEMU's version, `10.0.2`.
    pub version: String,
    /// The guest's UUID, where this is a machine that has one and it is not zero.
    pub uuid: Option<uuid::Uuid>,
    /// The disks that were asked for and found.
    pub disks: Vec<DiskSeen>,
    /// Disks that were asked for, or found, and cannot be backed up, each with the reason.
    pub unusable: Vec<(DiskName, String)>,
    /// Block jobs whose id carries a mark of Backstay, of any installation.
    pub jobs: Vec<JobSeen>,
    /// Block exports, likewise.
    pub exports: Vec<String>,
    /// Nodes, likewise.
    pub nodes: Vec<String>,
    /// Scratch files of this VM, by name.
    pub files: Vec<String>,
    /// Where its views are served over NBD, when there are any: a unix socket's path on its host. Empty for a VM that is
    /// none of ours yet.
    pub socket: String,
    /// Whether that socket is there with nobody behind it: whoever listened went without removing it.
    pub socket_is_dead: bool,
}

/// One disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSeen {
    /// Its name.
    pub disk: DiskName,
    /// The node on top.
    pub node: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// The image format: `qcow2`, `raw`, …
    pub format: String,
    /// Whether bitmaps can be stored in the image.
    pub stores_bitmaps: bool,
    /// Whether the node is read-only.
    pub read_only: bool,
    /// What lies below the image, files that QEMU only reads: each with its inode, size and time of change. Empty where
    /// there is nothing. A bitmap tells the truth only as long as none of it is changed.
    pub backing: String,
    /// The iothread that its device runs on.
    pub iothread: Option<String>,
    /// Whether its device lets other processes write to the image too (`share-rw`, and raw: below a qcow2 QEMU lets nobody
    /// in): what they write, no bitmap of this QEMU records.
    pub shared: bool,
    /// Why no copy-before-write filter can be put between its device and it while the guest runs; nothing where one can.
    pub no_filter: Option<String>,
    /// Whether a view of it may be read through its QEMU while the guest runs: not where an iothread works on it and this
    /// QEMU can abort, guest and all, when the reader leaves.
    pub takes_reader: bool,
    /// Every named bitmap on the node, whoever made it.
    pub bitmaps: Vec<BitmapSeen>,
    /// The names of bitmaps on the images below it that carry a mark of Backstay.
    pub below: Vec<String>,
}

impl DiskSeen {
    /// The bitmap of this name.
    #[must_use]
    pub fn bitmap(&self, name: &str) -> Option<&BitmapSeen> {
        self.bitmaps.iter().find(|bitmap| bitmap.name == name)
    }
}

/// One bitmap, as `query-named-block-nodes` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BitmapSeen {
    /// Its name.
    pub name: String,
    /// Whether it records.
    pub recording: bool,
    /// Whether it is stored on close.
    pub persistent: bool,
    /// Whether something uses it now.
    pub busy: bool,
    /// Whether it was in use when QEMU died: it can only be removed.
    pub inconsistent: bool,
    /// Its granularity in bytes.
    pub granularity_bytes: u64,
    /// The bytes that it calls dirty.
    pub dirty_bytes: u64,
}

/// One block job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSeen {
    /// Its id.
    pub id: String,
    /// Its status, in QEMU's words: `running`, `concluded`, …
    pub status: String,
    /// Its error, once it has failed.
    pub error: Option<String>,
}

/// What was seen of one repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositorySeen {
    /// Which.
    pub name: RepositoryName,
    /// The ids of the restic snapshots in it, or why it could not be opened.
    pub snapshots: Result<Vec<String>, crate::outcome::Failure>,
}
