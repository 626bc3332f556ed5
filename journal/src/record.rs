//! Records: everything that is ever written to the journal, and the bytes of it.
//!
//! A record's body is bincode in its legacy configuration, under a kind (what it says) and a version (how it is
//! written). The rule for change: a type reachable from here is frozen once released. To change one, keep a copy of
//! the old type with the old version number in `decode`, give the new one the next version, and convert. Where all that is
//! new is a variant at the end of an enum, the new type reads the old bytes as they are: the version tells an older
//! program that it must not try. Golden bytes under `tests/formats` hold us to it. Knows nothing about frames, files or the
//! fold.

mod export;
mod job;
mod older;
mod policy;
mod vm;

use bincode::config;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use export::{ExportPlanned, ExportWork, ExportedDisk};
pub use job::{CancelAsked, End, JobEnded, JobPaused, JobRetried, PauseAsked};
use older::{IntentOpenedV2, JobQueuedV1, JobQueuedV2, VmAddedV1};
pub use policy::{PolicyApplied, PolicyPaused, PolicyRemoved, RunSkipped, ScheduleAdvanced};
pub use vm::{ProcessSeen, VmAdded, VmHosted, VmRemoved};

use crate::effect::{
    DiskMode, Hooks, ImageFormat, Intent, KeyChange, Lasts, PruneTerms, Rate, RepositoryAddress,
    RestoreTarget, Way,
};
use crate::ids::{
    CheckpointId, DiskName, Installation, IntentId, JobId, PointId, PolicyName, RepositoryName, Time, VmId,
};
use crate::notice::{NoticeAnswered, NoticeRaised, NoticeSettled};
use crate::outcome::Outcome;

/// The largest body that is written or decoded, in bytes.
pub const BODY_MAX: usize = 16 << 20;

/// A body that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Written by a newer Backstay.
    #[error(
        "record kind {kind} version {version} is not known to this Backstay: it was written by a newer one; start that one, or a newer"
    )]
    Unknown {
        /// The kind.
        kind: u16,
        /// The version.
        version: u16,
    },
    /// The bytes are not a record of that kind.
    #[error("record kind {kind} version {version} does not decode: {source}")]
    Malformed {
        /// The kind.
        kind: u16,
        /// The version.
        version: u16,
        /// What bincode found.
        source: bincode::error::DecodeError,
    },
    /// There are bytes left over.
    #[error("record kind {kind} version {version} has {extra} bytes too many")]
    TrailingBytes {
        /// The kind.
        kind: u16,
        /// The version.
        version: u16,
        /// How many.
        extra: usize,
    },
}

/// A body that cannot be written: a bug, or a record that is too large.
#[derive(Debug, thiserror::Error)]
#[error("a record of kind {kind} cannot be written: {what}")]
pub struct EncodeError {
    kind: u16,
    what: String,
}

/// A record's bytes and how to read them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// What it says.
    pub kind: u16,
    /// How it is written.
    pub version: u16,
    /// The bytes.
    pub body: Vec<u8>,
}

macro_rules! records {
    ($($(#[$doc:meta])* $kind:literal $name:ident $newest:literal $(, $version:literal $older:ty)*;)*) => {
        /// One thing that happened.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(tag = "record", content = "body", rename_all = "kebab-case")]
        pub enum Record {
            $($(#[$doc])* $name($name),)*
        }

        impl Record {
            /// The kind number, and for people the kind's name.
            #[must_use]
            pub fn kind(&self) -> (u16, &'static str) {
                match self { $(Record::$name(_) => ($kind, stringify!($name)),)* }
            }

            /// Every kind that there is.
            pub const KINDS: &'static [(u16, &'static str)] = &[$(($kind, stringify!($name)),)*];

            /// The record's bytes, in the newest version of its kind.
            ///
            /// # Errors
            /// When the body would be larger than [`BODY_MAX`].
            pub fn encode(&self) -> Result<Encoded, EncodeError> {
                match self { $(Record::$name(body) => encode_body($kind, $newest, body),)* }
            }

            /// The record that these bytes are.
            ///
            /// # Errors
            /// When the kind or version is newer than this program, or the bytes are not what they say.
            pub fn decode(kind: u16, version: u16, body: &[u8]) -> Result<Record, DecodeError> {
                match (kind, version) {
                    $(
                        ($kind, $newest) => decode_body(kind, version, body).map(Record::$name),
                        $(($kind, $version) => decode_body(kind, version, body)
                            .map(|older: $older| Record::$name(older.into())),)*
                    )*
                    _ => Err(DecodeError::Unknown { kind, version }),
                }
            }
        }

        $(impl From<$name> for Record {
            fn from(body: $name) -> Record { Record::$name(body) }
        })*
    };
}

// The number of a kind, its newest version, and each older version with the type that it was written as. One that only could
// not say all that the newest can is read as the newest.
records! {
    /// The first record of every journal.
    0x0001 Installed 1;
    /// An orchestrator started.
    0x0002 EpochBegan 1;
    /// The end of the journal was cut off by something outside, and acknowledged records are gone.
    0x0003 RecordsLost 1;
    /// A VM came under management.
    0x0010 VmAdded 2, 1 VmAddedV1;
    /// A VM left it.
    0x0011 VmRemoved 1;
    /// QEMU runs as another process than before.
    0x0012 ProcessSeen 1;
    /// A disk's changes are no longer tracked since some checkpoints.
    0x0013 TrackingLost 1;
    /// A view is over, without having been taken down.
    0x0014 ViewLost 1;
    /// A VM is on another host than before, or its host has another name.
    0x0015 VmHosted 1;
    /// A repository was added.
    0x0018 RepositoryAdded 1;
    /// A policy was added or changed.
    0x0020 PolicyApplied 1;
    /// A policy was removed.
    0x0021 PolicyRemoved 1;
    /// A policy was paused or resumed.
    0x0022 PolicyPaused 1;
    /// A schedule was considered up to an instant.
    0x0023 ScheduleAdvanced 1;
    /// A scheduled run did not happen.
    0x0024 RunSkipped 1;
    /// A job was queued.
    0x0030 JobQueued 3, 2 JobQueuedV2, 1 JobQueuedV1;
    /// A job runs.
    0x0031 JobStarted 1;
    /// A backup's plan was made.
    0x0032 BackupPlanned 1;
    /// A job is to be cancelled.
    0x0033 CancelAsked 1;
    /// A job is over.
    0x0034 JobEnded 1;
    /// An export's plan was made.
    0x0036 ExportPlanned 1;
    /// A try of a job failed, and it waits for the next one.
    0x0035 JobRetried 1;
    /// A job is to rest, or to go on.
    0x0038 PauseAsked 1;
    /// A job rests.
    0x0039 JobPaused 1;
    /// An effect was decided.
    0x0040 IntentOpened 3, 2 IntentOpenedV2, 1 IntentOpenedV2;
    /// An open intent has a new owner.
    0x0041 IntentAdopted 1;
    /// An intent is settled.
    0x0042 IntentSettled 2, 1 IntentSettled;
    /// A restore point is held, or no longer.
    0x0050 PointHeld 1;
    /// A restore point is no longer in its repository, by someone else's doing.
    0x0051 PointGone 1;
    /// The operator is to be told something.
    0x0058 NoticeRaised 2, 1 NoticeRaised;
    /// The operator was told, or it was given up.
    0x0059 NoticeSettled 1;
    /// A receiver took a notice, or it was given up with that receiver.
    0x005a NoticeAnswered 1;
}

impl Record {
    /// Whether it begins something that could as well be begun later. On a full disk such records are refused, and what
    /// is held in reserve is for those that bring to an end what was begun, and for what frees room.
    #[must_use]
    pub fn is_new_work(&self) -> bool {
        match self {
            Record::JobQueued(it) => !it.work.frees_room(),
            Record::VmAdded(_)
            | Record::VmHosted(_)
            | Record::PolicyApplied(_)
            | Record::PolicyRemoved(_)
            | Record::PolicyPaused(_)
            | Record::ScheduleAdvanced(_)
            | Record::RunSkipped(_)
            | Record::JobStarted(_)
            | Record::PointHeld(_) => true,
            Record::Installed(_)
            | Record::EpochBegan(_)
            | Record::RecordsLost(_)
            | Record::VmRemoved(_)
            | Record::ProcessSeen(_)
            | Record::TrackingLost(_)
            | Record::ViewLost(_)
            | Record::RepositoryAdded(_)
            | Record::BackupPlanned(_)
            | Record::ExportPlanned(_)
            | Record::CancelAsked(_)
            | Record::JobEnded(_)
            | Record::JobRetried(_)
            | Record::PauseAsked(_)
            | Record::JobPaused(_)
            | Record::IntentOpened(_)
            | Record::IntentAdopted(_)
            | Record::IntentSettled(_)
            | Record::PointGone(_)
            | Record::NoticeRaised(_)
            | Record::NoticeSettled(_)
            | Record::NoticeAnswered(_) => false,
        }
    }
}

impl Work {
    /// Whether the work is there to free room, perhaps on the very disk that is full.
    #[must_use]
    pub fn frees_room(&self) -> bool {
        matches!(self, Work::Forget { .. }) || self.is_exclusive()
    }

    /// Whether nothing else may go on in its repository meanwhile.
    #[must_use]
    pub fn is_exclusive(&self) -> bool {
        match self {
            Work::PruneRepository { .. } => true,
            Work::PruneBy { terms, .. } => !terms.dry_run,
            _ => false,
        }
    }
}

/// As long as most bodies at the most, in bytes: room that is asked for at once.
const BODY_USUAL: usize = 512;

fn encode_body<T: Serialize>(kind: u16, version: u16, record: &T) -> Result<Encoded, EncodeError> {
    let mut body = Vec::with_capacity(BODY_USUAL);
    bincode::serde::encode_into_std_write(record, &mut body, config::legacy())
        .map_err(|error| EncodeError { kind, what: error.to_string() })?;
    if body.len() > BODY_MAX {
        return Err(EncodeError {
            kind,
            what: format!("{} bytes are more than the limit of {BODY_MAX}", body.len()),
        });
    }
    Ok(Encoded { kind, version, body })
}

fn decode_body<T: DeserializeOwned>(kind: u16, version: u16, body: &[u8]) -> Result<T, DecodeError> {
    let limited = config::legacy().with_limit::<BODY_MAX>();
    let (value, used) = bincode::serde::decode_from_slice(body, limited)
        .map_err(|source| DecodeError::Malformed { kind, version, source })?;
    // Trailing bytes would be a field that this program does not know: never drop one in silence.
    if used != body.len() {
        return Err(DecodeError::TrailingBytes { kind, version, extra: body.len() - used });
    }
    Ok(value)
}

/// See [`Record::Installed`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// The mark in every name that this installation gives.
    pub installation: Installation,
}

/// See [`Record::EpochBegan`]. The epoch itself is in the frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochBegan {
    /// The orchestrator's process.
    pub pid: u32,
    /// Backstay's version.
    pub version: String,
}

/// See [`Record::RecordsLost`]. No number that a lost record may have used is used again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordsLost {
    /// The first that is gone.
    pub first: u64,
    /// The last that is known to be gone.
    pub last: u64,
    /// How that was found.
    pub what: String,
}

/// See [`Record::TrackingLost`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackingLost {
    /// Whose.
    pub vm: VmId,
    /// Which disk. The VM's other disks are not concerned.
    pub disk: DiskName,
    /// This checkpoint and every earlier one no longer cover the disk.
    pub through: CheckpointId,
    /// The row of the reconcile table.
    pub row: String,
    /// Why, in a sentence: the reason of the disk's next full backup.
    pub reason: String,
}

/// See [`Record::ViewLost`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewLost {
    /// Whose.
    pub vm: VmId,
    /// The `Begin` that made it.
    pub view: IntentId,
    /// The row of the reconcile table.
    pub row: String,
    /// Why.
    pub reason: String,
}

/// See [`Record::RepositoryAdded`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryAdded {
    /// Where it is.
    pub repository: RepositoryAddress,
    /// Its own id.
    pub id: String,
    /// Its chunk size in bytes, fixed for ever.
    pub chunk_bytes: u32,
}

/// See [`Record::JobQueued`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobQueued {
    /// The job.
    pub job: JobId,
    /// What is to be done.
    pub work: Work,
    /// The policy that asked for it, if one did.
    pub due: Option<Due>,
    /// How it waits.
    pub terms: Terms,
}

/// How a job waits for its turn, and what it belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// One step outranks a fixed time of waiting, so that nobody waits for ever; 0 is usual.
    pub priority: i8,
    /// No try of it begins after this.
    pub deadline: Option<Time>,
    /// The first job of the request that it is a part of, where the request has several.
    pub request: Option<JobId>,
    /// The job whose unfinished work this one takes up.
    pub retries: Option<JobId>,
    /// What runs before and after each of its tries. Few jobs have any, and many may wait: so it is kept aside.
    pub hooks: Option<Box<Hooks>>,
    /// The jobs, queued before it, that are over before it starts, however they end.
    pub after: Box<[JobId]>,
}

/// Which run of a policy a job is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Due {
    /// The policy.
    pub policy: PolicyName,
    /// The schedule's key in it.
    pub schedule: String,
    /// The instant of the schedule.
    pub at: Time,
    /// The job does not start before this: the instant, spread by the jitter.
    pub not_before: Time,
}

/// What a job is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Back a VM up.
    Backup(BackupWork),
    /// Restore disks of a point.
    Restore(RestoreWork),
    /// Create a checkpoint.
    CreateCheckpoint {
        /// Of which VM.
        vm: VmId,
    },
    /// Delete one.
    DeleteCheckpoint {
        /// Of which VM.
        vm: VmId,
        /// Which.
        checkpoint: CheckpointId,
    },
    /// Let go of a VM: remove everything of ours from it.
    RemoveVm {
        /// Which.
        vm: VmId,
        /// Whether to let go of it although its QEMU does not answer, which leaves our bitmaps in its images.
        force: bool,
    },
    /// Look at a VM and heal what can be healed.
    Reconcile {
        /// Which.
        vm: VmId,
    },
    /// Create or open a repository.
    AddRepository {
        /// Where.
        repository: RepositoryAddress,
        /// The chunk size for a new one.
        chunk_bytes: u32,
    },
    /// Check a repository.
    CheckRepository {
        /// Which.
        repository: RepositoryName,
        /// How many of its packs are read, in percent.
        read_percent: u8,
    },
    /// Free what no point needs, at once; as it was recorded before there were [terms](Work::PruneBy).
    PruneRepository {
        /// Which.
        repository: RepositoryName,
    },
    /// Forget a restore point.
    Forget {
        /// Which.
        point: PointId,
    },
    /// Offer a view of a VM to readers outside, for a while.
    Export(ExportWork),
    /// Count what is in a repository.
    MeasureRepository {
        /// Which.
        repository: RepositoryName,
    },
    /// Set how fast bytes may go to and from a repository.
    LimitRepository {
        /// Which.
        repository: RepositoryName,
        /// From then on; none for no limit.
        rates: Vec<Rate>,
    },
    /// Look at a repository's keys, or change them.
    Keys {
        /// Which.
        repository: RepositoryName,
        /// What becomes of them.
        change: KeyChange,
    },
    /// Free what no point needs, or say what that would be.
    PruneBy {
        /// In which repository.
        repository: RepositoryName,
        /// How.
        terms: PruneTerms,
    },
}

/// See [`Work::Backup`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupWork {
    /// Of which VM.
    pub vm: VmId,
    /// Into which repository.
    pub repository: RepositoryName,
    /// What was asked for.
    pub mode: Mode,
    /// The checkpoint to start from, where one was named.
    pub since: Option<CheckpointId>,
    /// What consistency was asked for.
    pub consistency: ConsistencyAsked,
}

/// What kind of backup was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Incremental where it can be right, full where not.
    Auto,
    /// Read everything.
    Full,
    /// As `Auto`; a disk that has to be full still is, with the reason.
    Incremental,
    /// What changed since the newest full point.
    Differential,
}

/// What consistency was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConsistencyAsked {
    /// No freeze.
    Crash,
    /// A freeze; where it fails, the backup goes on as `Crash` and says so.
    Filesystem,
    /// A freeze, or no backup.
    Required,
}

/// See [`Work::Restore`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreWork {
    /// From which point.
    pub point: PointId,
    /// Which disks, each to which image.
    pub disks: Vec<(DiskName, String)>,
    /// In which format.
    pub format: ImageFormat,
    /// What is there already.
    pub target: RestoreTarget,
}

/// See [`Record::JobStarted`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStarted {
    /// Which.
    pub job: JobId,
}

/// See [`Record::BackupPlanned`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupPlanned {
    /// The job.
    pub job: JobId,
    /// The point that it will make.
    pub point: PointId,
    /// The checkpoint that it will make.
    pub checkpoint: CheckpointId,
    /// How its view keeps what the guest overwrites.
    pub way: Way,
    /// Its disks, in the order of the view.
    pub disks: Vec<PlannedDisk>,
    /// Disks of the VM that the point will lack, each with the reason.
    pub left_out: Vec<(DiskName, String)>,
}

/// One disk of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedDisk {
    /// The disk.
    pub disk: DiskName,
    /// Its node.
    pub node: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Its new bitmap, unless none can be kept.
    pub lasts: Option<Lasts>,
    /// Bitmaps that stop recording.
    pub disable: Vec<String>,
    /// Bitmaps whose union is what changed.
    pub changed_since: Vec<String>,
    /// Their granularity in bytes; the coarsest, where they differ.
    pub granularity_bytes: Option<u64>,
    /// What lies below the image, as observed.
    pub backing: String,
    /// Whether it is read whole.
    pub mode: DiskMode,
}

/// See [`Record::IntentOpened`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntentOpened {
    /// The intent.
    pub intent: Intent,
}

/// See [`Record::IntentAdopted`]. The new owner is the frame's epoch; it sends the intent again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntentAdopted {
    /// Which.
    pub intent: IntentId,
    /// The row of the reconcile table.
    pub row: String,
    /// Why repeating it is right.
    pub why: String,
}

/// See [`Record::IntentSettled`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntentSettled {
    /// Which.
    pub intent: IntentId,
    /// What became of it.
    pub outcome: Outcome,
    /// Who says so.
    pub by: Witness,
}

/// Who says what became of an intent. Never a clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Witness {
    /// The agent that performed it.
    Agent,
    /// An observation, by this row of the reconcile table.
    Observation {
        /// The row.
        row: String,
    },
}

/// See [`Record::PointHeld`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointHeld {
    /// Which.
    pub point: PointId,
    /// Whether it is held from now on.
    pub held: bool,
}

/// See [`Record::PointGone`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointGone {
    /// Which.
    pub point: PointId,
    /// Why it is known to be gone.
    pub why: String,
}
