//! The proof that lies beside a restore point's disks: what was stored, from where, and what it cost.
//!
//! `backstay.json`, for people and for programs that know nothing of Backstay. It says only what is the same whoever
//! performs the intent again, so that a repeated store answers with the figures of the one that counted.

use chrono::{DateTime, Utc};
use journal::effect::{Consistency, DiskMode, Store, StoreDisk, Way};
use journal::outcome::{Stored, StoredDisk};
use journal::{CheckpointId, DiskName, IntentId, PointId, PolicyName, VmId, VmName};
use repository::{Content, Digest, Repository, Snapshot, SnapshotId};
use serde::{Deserialize, Serialize};

use super::copy::Copied;
use super::error::StoreError;

/// The proof's name in the root of the snapshot's tree.
pub(crate) const PROOF_FILE: &str = "backstay.json";

/// The version of this file's form; a reader refuses a higher one.
const FORMAT: u32 = 1;

/// What a restore point says of itself. Sizes and figures are bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Proof {
    /// The form of this file.
    pub(crate) format: u32,
    /// What wrote it.
    pub(crate) program: String,
    /// Whose point, as in the tags.
    pub(crate) installation: String,
    /// The VM.
    pub(crate) vm: Vm,
    /// The point's number.
    pub(crate) point: PointId,
    /// The intent that stored it.
    pub(crate) intent: IntentId,
    /// The instant that all disks show.
    pub(crate) instant: DateTime<Utc>,
    /// How the view kept what the guest overwrote while it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) way: Option<Way>,
    /// The version of the QEMU that served it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) qemu: String,
    /// What that instant is worth.
    pub(crate) consistency: Consistency,
    /// The policy that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) policy: Option<PolicyName>,
    /// The checkpoint of the instant.
    pub(crate) checkpoint: CheckpointId,
    /// The chain at the instant, oldest first.
    pub(crate) chain: Vec<CheckpointId>,
    /// The repository's chunk size.
    pub(crate) chunk_size: u32,
    /// The disks.
    pub(crate) disks: Vec<DiskProof>,
    /// What the point lacks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) left_out: Vec<LeftOut>,
}

/// The VM of a proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Vm {
    pub(crate) id: VmId,
    pub(crate) name: VmName,
}

/// One disk of a proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DiskProof {
    pub(crate) name: DiskName,
    /// The file, or the folder of parts, in the snapshot.
    pub(crate) file: String,
    pub(crate) size: u64,
    #[serde(flatten)]
    pub(crate) mode: Mode,
    /// The granularity of the bitmaps that said what changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) granularity: Option<u64>,
    /// Chunks that the bitmap called clean and that were compared with the parent's. What reading them took is not in
    /// the figures below: they are what the point itself cost.
    #[serde(default)]
    pub(crate) audited_chunks: u32,
    /// What was wrong with the bitmap, where the audit found something: the disk was to be incremental.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) distrust: Option<String>,
    pub(crate) changed_bytes: u64,
    pub(crate) read_bytes: u64,
    pub(crate) stored_bytes: u64,
    /// The sha256 of the chunks' sha256s, one after the other; of a disk in parts, that of its parts' fingerprints.
    pub(crate) fingerprint: Digest,
    /// The fingerprint of each part of a disk in parts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) parts: Vec<Digest>,
}

/// How a disk was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// Whole.
    Full { reason: String },
    /// What changed since the parent's checkpoint.
    Incremental { since: CheckpointId, parent: PointId, parent_snapshot: String },
}

/// A disk that the point lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeftOut {
    pub(crate) name: DiskName,
    pub(crate) reason: String,
}

impl From<&DiskMode> for Mode {
    fn from(mode: &DiskMode) -> Self {
        match mode {
            DiskMode::Full { reason } => Self::Full { reason: reason.clone() },
            DiskMode::Incremental { since, parent, snapshot } => {
                Self::Incremental { since: *since, parent: *parent, parent_snapshot: snapshot.clone() }
            }
        }
    }
}

impl DiskProof {
    /// What is to be said of a disk that was stored.
    pub(crate) fn new(disk: &StoreDisk, file: String, copied: &Copied, content: &Fingerprint) -> Self {
        let Copied { mode, figures, audit, .. } = copied;
        Self {
            name: disk.disk.clone(),
            file,
            size: disk.size_bytes,
            mode: Mode::from(mode),
            granularity: disk.granularity_bytes,
            audited_chunks: audit.chunks,
            distrust: audit.distrust.clone(),
            changed_bytes: figures.changed_bytes,
            read_bytes: figures.read_bytes,
            stored_bytes: figures.stored_bytes,
            fingerprint: content.whole,
            parts: content.parts.clone(),
        }
    }
}

/// By what a disk's content is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    pub(crate) whole: Digest,
    pub(crate) parts: Vec<Digest>,
}

/// The sha256 of digests, one after the other.
pub(crate) fn fingerprint(digests: &[Digest]) -> Digest {
    use sha2::Digest as _;
    let mut hasher = sha2::Sha256::new();
    digests.iter().for_each(|digest| hasher.update(digest.0));
    Digest(hasher.finalize().into())
}

impl Proof {
    /// What is to be said of a point.
    pub(crate) fn new(intent: IntentId, effect: &Store, chunk_size: u32, disks: Vec<DiskProof>) -> Self {
        let left_out = effect.left_out.iter().cloned().map(|(name, reason)| LeftOut { name, reason });
        Self {
            format: FORMAT,
            program: concat!("backstay ", env!("CARGO_PKG_VERSION")).to_owned(),
            installation: effect.installation.to_string(),
            vm: Vm { id: effect.vm.id, name: effect.vm.name.clone() },
            point: effect.point,
            intent,
            instant: effect.instant.to_utc(),
            way: Some(effect.way),
            qemu: effect.qemu.clone(),
            consistency: effect.consistency,
            policy: effect.policy.clone(),
            checkpoint: effect.checkpoint,
            chain: effect.chain.clone(),
            chunk_size,
            disks,
            left_out: left_out.collect(),
        }
    }

    /// As the file's bytes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(self).expect("texts and numbers always become JSON");
        json.push(b'\n');
        json
    }

    /// The proof in a snapshot.
    pub(crate) fn read(repository: &Repository, snapshot: &Snapshot) -> Result<Self, StoreError> {
        let node = repository.node_at(&snapshot.tree, PROOF_FILE)?;
        let Content::File { chunks, .. } = node.content else {
            return Err(StoreError::Proof(format!("{PROOF_FILE} is not a file")));
        };
        let mut json = Vec::new();
        for chunk in &chunks {
            json.extend(repository.load_blob(chunk)?);
        }
        let proof: Self =
            serde_json::from_slice(&json).map_err(|error| StoreError::Proof(error.to_string()))?;
        if proof.format > FORMAT {
            return Err(StoreError::Proof(format!(
                "it has form {}, we know {FORMAT}; update Backstay",
                proof.format
            )));
        }
        Ok(proof)
    }

    /// What an outcome says of the point.
    pub(crate) fn stored(self, snapshot: SnapshotId) -> Stored {
        let cost = |disk: DiskProof| StoredDisk {
            disk: disk.name,
            changed_bytes: disk.changed_bytes,
            read_bytes: disk.read_bytes,
            stored_bytes: disk.stored_bytes,
            audited_chunks: disk.audited_chunks,
            distrust: disk.distrust,
        };
        Stored {
            snapshot: snapshot.to_string(),
            consistency: self.consistency,
            disks: self.disks.into_iter().map(cost).collect(),
        }
    }
}
