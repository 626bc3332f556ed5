//! Effects: everything that Backstay ever changes outside of itself, each with every name in it fixed.
//!
//! An effect is decided by the orchestrator, recorded as an [`Intent`], and performed by an agent, which answers with
//! an [`Outcome`](crate::outcome::Outcome). Every effect is idempotent: the agent looks first and acts on what is
//! missing, so an effect whose fate is unknown may be repeated. Knows nothing about how an effect is performed.
//!
//! These types are part of the journal's format: see `record` for how they may change.

mod bandwidth;
mod hook;
mod repository;

use serde::{Deserialize, Serialize};

pub use bandwidth::{Bandwidth, Limit};
pub use hook::{Hook, HookSide, Hooks, TryEnd};
pub use repository::{Check, Forget, KeyChange, Keys, Measure, OpenRepository, Prune, PruneBy, PruneTerms};

use crate::ids::{
    BitmapId, CheckpointId, DiskName, Installation, IntentId, JobId, PointId, PolicyName, Process,
    RepositoryName, Time, VmId, VmName,
};
use crate::names::{self, Owner};

/// An effect that was decided: recorded, durably, before anyone performs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Its number; never used twice.
    pub id: IntentId,
    /// The job on whose behalf it was decided; none for what reconcile decides.
    pub job: Option<JobId>,
    /// What is to be done.
    pub effect: Effect,
}

/// One change of the world outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// Freeze the guest's filesystems.
    Freeze(Freeze),
    /// Thaw them.
    Thaw(Thaw),
    /// Begin a view of some disks, and a checkpoint at the same instant.
    Begin(Begin),
    /// Read a view into a repository and commit the restore point.
    Store(Box<Store>),
    /// Take a view down.
    End(End),
    /// Add a checkpoint without a view.
    AddCheckpoint(AddCheckpoint),
    /// Delete a checkpoint; its bits merge into the predecessor.
    DeleteCheckpoint(DeleteCheckpoint),
    /// Remove leftovers of ours from QEMU and from the scratch folder.
    Clean(Clean),
    /// Create a repository, or prove that an existing one opens.
    OpenRepository(OpenRepository),
    /// Forget a restore point in its repository.
    Forget(Forget),
    /// Check a repository.
    Check(Check),
    /// Free what no restore point needs.
    Prune(Prune),
    /// Write one disk of a restore point to an image.
    Restore(Restore),
    /// Offer a view to readers outside, until a time.
    Offer(Offer),
    /// Count what is in a repository.
    Measure(Measure),
    /// Look at a repository's keys, and add, remove or change one.
    Keys(Keys),
    /// Run a program of the host's own, before a try of a backup or after it.
    Hook(Box<Hook>),
    /// Free what no point needs, on terms.
    PruneBy(PruneBy),
}

/// The kinds of [`Effect`], by the name that journals, tests and crash points use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum EffectKind {
    Freeze,
    Thaw,
    Begin,
    Store,
    End,
    AddCheckpoint,
    DeleteCheckpoint,
    Clean,
    OpenRepository,
    Forget,
    Check,
    Prune,
    Restore,
    Offer,
    Measure,
    Keys,
    HookBefore,
    HookAfter,
}

impl EffectKind {
    /// The name, in kebab case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            EffectKind::Freeze => "freeze",
            EffectKind::Thaw => "thaw",
            EffectKind::Begin => "begin",
            EffectKind::Store => "store",
            EffectKind::End => "end",
            EffectKind::AddCheckpoint => "add-checkpoint",
            EffectKind::DeleteCheckpoint => "delete-checkpoint",
            EffectKind::Clean => "clean",
            EffectKind::OpenRepository => "open-repository",
            EffectKind::Forget => "forget",
            EffectKind::Check => "check",
            EffectKind::Prune => "prune",
            EffectKind::Restore => "restore",
            EffectKind::Offer => "offer",
            EffectKind::Measure => "measure",
            EffectKind::Keys => "keys",
            EffectKind::HookBefore => "hook-before",
            EffectKind::HookAfter => "hook-after",
        }
    }
}

impl std::fmt::Display for EffectKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl Effect {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> EffectKind {
        match self {
            Effect::Freeze(_) => EffectKind::Freeze,
            Effect::Thaw(_) => EffectKind::Thaw,
            Effect::Begin(_) => EffectKind::Begin,
            Effect::Store(_) => EffectKind::Store,
            Effect::End(_) => EffectKind::End,
            Effect::AddCheckpoint(_) => EffectKind::AddCheckpoint,
            Effect::DeleteCheckpoint(_) => EffectKind::DeleteCheckpoint,
            Effect::Clean(_) => EffectKind::Clean,
            Effect::OpenRepository(_) => EffectKind::OpenRepository,
            Effect::Forget(_) => EffectKind::Forget,
            Effect::Check(_) => EffectKind::Check,
            Effect::Prune(_) | Effect::PruneBy(_) => EffectKind::Prune,
            Effect::Restore(_) => EffectKind::Restore,
            Effect::Offer(_) => EffectKind::Offer,
            Effect::Measure(_) => EffectKind::Measure,
            Effect::Keys(_) => EffectKind::Keys,
            Effect::Hook(hook) => match hook.side {
                HookSide::Before => EffectKind::HookBefore,
                HookSide::After { .. } => EffectKind::HookAfter,
            },
        }
    }

    /// The first number that no new bitmap of the effect has.
    #[must_use]
    pub fn bitmaps_used(&self) -> BitmapId {
        let (marks, unmarks) = match self {
            Effect::AddCheckpoint(add) | Effect::Begin(Begin { checkpoint: add, .. }) => {
                (add.disks.as_slice(), [].as_slice())
            }
            Effect::DeleteCheckpoint(delete) => ([].as_slice(), delete.disks.as_slice()),
            _ => return BitmapId(0),
        };
        let becomes = unmarks.iter().filter_map(|it| it.predecessor.as_ref()).map(|it| &it.becomes);
        let new = marks.iter().map(|mark| &mark.bitmap).chain(becomes);
        let number = |name: &String| match names::owner(name) {
            Some(Owner::Bitmap(_, number)) => Some(number.next()),
            _ => None,
        };
        new.filter_map(number).max().unwrap_or(BitmapId(0))
    }

    /// The VM whose QEMU the effect touches. Restores, repository work and hooks touch none; nor does an offer, which looks on.
    #[must_use]
    pub fn vm(&self) -> Option<VmId> {
        match self {
            Effect::Offer(_) | Effect::Hook(_) => None,
            effect => effect.about().map(|vm| vm.id),
        }
    }

    /// The VM that the effect is about, whether it touches its QEMU or not.
    #[must_use]
    pub fn about(&self) -> Option<&VmAddress> {
        match self {
            Effect::Freeze(e) => Some(&e.vm),
            Effect::Thaw(e) => Some(&e.vm),
            Effect::Begin(e) => Some(&e.checkpoint.vm),
            Effect::Store(e) => Some(&e.vm),
            Effect::End(e) => Some(&e.vm),
            Effect::AddCheckpoint(e) => Some(&e.vm),
            Effect::DeleteCheckpoint(e) => Some(&e.vm),
            Effect::Clean(e) => Some(&e.vm),
            Effect::Offer(e) => Some(&e.vm),
            Effect::Hook(e) => Some(&e.vm),
            Effect::OpenRepository(_)
            | Effect::Forget(_)
            | Effect::Check(_)
            | Effect::Prune(_)
            | Effect::PruneBy(_)
            | Effect::Restore(_)
            | Effect::Measure(_)
            | Effect::Keys(_) => None,
        }
    }
}

/// Where a VM is reached on its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmAddress {
    /// The VM.
    pub id: VmId,
    /// Its name, for messages and for the restic snapshot's host.
    pub name: VmName,
    /// The QMP socket's path.
    pub qmp: String,
    /// The guest agent's socket, where there is one.
    pub guest_agent: Option<String>,
}

/// Where a repository is, and where its key is found. The key itself never enters the journal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RepositoryAddress {
    /// Its name.
    pub name: RepositoryName,
    /// The folder's absolute path, or `s3:` and a URL, as restic's `-r` takes both.
    pub path: String,
    /// The file whose first line is the password.
    pub password_file: String,
    /// Whether nothing is ever removed from it but our own locks.
    pub append_only: bool,
    /// How fast bytes may go to and from it; no limit where none holds.
    pub rates: Vec<Rate>,
}

/// A limit of bandwidth for some hours of each day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rate {
    /// The minute of the day from which it holds; of a repository's rate in the agent's local time.
    pub from_minute: u16,
    /// The minute of the day up to which it holds; up to one of the next day when it is before `from_minute`, and all day
    /// when they are the same.
    pub to_minute: u16,
    /// How many bytes in a second.
    pub bytes_per_second: u64,
}

/// See [`Effect::Freeze`]. From the moment it is recorded, a thaw is owed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// Whose filesystems.
    pub vm: VmAddress,
    /// How long the freeze itself may take, in milliseconds.
    pub limit_ms: u64,
}

/// See [`Effect::Thaw`]. Always allowed, never conditional.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thaw {
    /// Whose filesystems.
    pub vm: VmAddress,
}

/// See [`Effect::AddCheckpoint`]: one QMP transaction over all the disks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddCheckpoint {
    /// The VM.
    pub vm: VmAddress,
    /// The QEMU process that was observed; another one refuses.
    pub process: Process,
    /// Whose bitmaps they are.
    pub installation: Installation,
    /// The new checkpoint.
    pub checkpoint: CheckpointId,
    /// The disks that get a bitmap.
    pub disks: Vec<Mark>,
}

/// One disk's part of a new checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The disk.
    pub disk: DiskName,
    /// Its node in QEMU.
    pub node: String,
    /// The new bitmap's name.
    pub bitmap: String,
    /// How long it lasts.
    pub lasts: Lasts,
    /// What lies below the image, as observed: see `DiskSeen::backing`.
    pub backing: String,
    /// The disk's size in bytes, as observed.
    pub size_bytes: u64,
    /// Bitmaps of earlier checkpoints that record, and stop at this instant.
    pub disable: Vec<String>,
}

/// How long a bitmap lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lasts {
    /// Stored in the qcow2 when QEMU closes it.
    Persistent,
    /// As long as the process: raw images and qcow2 of compatibility level 0.10 can store none.
    WithProcess,
}

/// See [`Effect::Begin`]: the view is one instant over all of its disks, and the checkpoint is the same instant. A
/// checkpoint without disks is none: then the chain stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// The checkpoint made in the same transaction; it may cover fewer disks than the view (a read-only one has none).
    pub checkpoint: AddCheckpoint,
    /// The disks that are viewed. Their places here are the places in the names of their temporary objects.
    pub disks: Vec<ViewDisk>,
    /// How what the guest overwrites is kept.
    pub way: Way,
    /// What that may cost.
    pub limits: ViewLimits,
    /// The pieces in which QEMU copies what changed, in bytes, a power of two: a chunk of the repository that it is for,
    /// since a chunk is only ever read whole. None for a view that is not stored. Matters to [`Way::Push`] alone.
    pub unit_bytes: Option<u32>,
}

/// How a view keeps what the guest overwrites until it is read. One way for all of its disks, since only then is the
/// instant one.
///
/// The journal knows a way by its place here: new ones come last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// A copy-before-write filter between device and disk, put in for the view: a scratch file that is full or too slow
    /// breaks the view, never the guest.
    CopyBeforeWrite,
    /// A backup job's own filter, where no other can be put in. When the scratch file of such a job is full, QEMU fails
    /// the guest's write; so it is watched, and the view is given up before.
    BackupJob,
    /// A backup job copies all that is to be read into scratch files, and nobody reads before it is done: where a reader
    /// of a view can abort QEMU. The room is reserved before the job starts. The view has no export.
    Push,
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Way::CopyBeforeWrite => "copy-before-write",
            Way::BackupJob => "backup-job",
            Way::Push => "push",
        })
    }
}

/// What a view may cost the host and the guest before it is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewLimits {
    /// The most bytes that its scratch files may take, together.
    pub scratch_bytes: u64,
    /// The longest that one write of the guest may wait for its old data to be copied, in milliseconds. QEMU counts
    /// whole seconds (`cbw-timeout`).
    pub stall_ms: u64,
}

/// One disk's part of a view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewDisk {
    /// The disk.
    pub disk: DiskName,
    /// Its node in QEMU.
    pub node: String,
    /// Its size in bytes, as observed.
    pub size_bytes: u64,
    /// The bitmaps whose union is what changed; empty for a full reading.
    pub changed_since: Vec<String>,
}

/// See [`Effect::End`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The VM.
    pub vm: VmAddress,
    /// The process that holds the view. When it is gone, so is the view, and only the scratch files are left to remove.
    pub process: Process,
    /// Whose view.
    pub installation: Installation,
    /// The `Begin` that made it.
    pub view: IntentId,
    /// How many disks it has.
    pub disks: usize,
}

/// See [`Effect::Offer`]. It is done when its time is over, and fails as soon as the view is. It changes nothing: who reads
/// comes to QEMU directly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The VM.
    pub vm: VmAddress,
    /// The process that holds the view.
    pub process: Process,
    /// Whose view.
    pub installation: Installation,
    /// The `Begin` that made it.
    pub view: IntentId,
    /// Until when it is offered.
    pub until: Time,
}

/// See [`Effect::Store`]. The repository is the truth for whether the point exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Store {
    /// The VM.
    pub vm: VmAddress,
    /// The process that holds the view.
    pub process: Process,
    /// That process's QEMU version, for the proof.
    pub qemu: String,
    /// Whose view.
    pub installation: Installation,
    /// The `Begin` that made the view.
    pub view: IntentId,
    /// The way of that view.
    pub way: Way,
    /// Where to.
    pub repository: RepositoryAddress,
    /// The restore point that is made.
    pub point: PointId,
    /// The instant of the view.
    pub instant: Time,
    /// The checkpoint of that instant.
    pub checkpoint: CheckpointId,
    /// The chain at that instant, oldest first, the new checkpoint last.
    pub chain: Vec<CheckpointId>,
    /// The policy that asked for it.
    pub policy: Option<PolicyName>,
    /// What consistency was reached.
    pub consistency: Consistency,
    /// The disks, in the view's order.
    pub disks: Vec<StoreDisk>,
    /// Disks of the VM that the point lacks, each with the reason.
    pub left_out: Vec<(DiskName, String)>,
    /// How many chunks of each incremental disk that the bitmap calls clean are read and compared with the parent's
    /// nevertheless. A difference makes the disk a full one.
    pub audit_chunks: u32,
    /// How fast it may add to the repository; none where only the repository's own limits hold.
    pub bandwidth: Option<Bandwidth>,
}

/// One disk's part of a restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreDisk {
    /// The disk.
    pub disk: DiskName,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Whether it is read whole.
    pub mode: DiskMode,
    /// The granularity of the bitmaps that say what changed, in bytes, for the proof.
    pub granularity_bytes: Option<u64>,
}

/// How a disk is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskMode {
    /// Everything allocated is read; what the repository knows already is stored once.
    Full {
        /// Why, in a sentence for people.
        reason: String,
    },
    /// Only what changed is read; the rest is taken from the parent.
    Incremental {
        /// The checkpoint that the parent was taken at.
        since: CheckpointId,
        /// The parent.
        parent: PointId,
        /// The parent's restic snapshot.
        snapshot: String,
    },
}

/// What a restore point promises about the state of the guest's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// As after a power cut at one instant over all disks.
    Crash,
    /// The guest's filesystems were frozen at the instant.
    Filesystem,
}

impl std::fmt::Display for Consistency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Consistency::Crash => "crash",
            Consistency::Filesystem => "filesystem",
        })
    }
}

/// See [`Effect::DeleteCheckpoint`]: one QMP transaction over all the disks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteCheckpoint {
    /// The VM.
    pub vm: VmAddress,
    /// The process that was observed.
    pub process: Process,
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// Why it goes, for people.
    pub reason: String,
    /// What becomes of each disk's bitmap.
    pub disks: Vec<Unmark>,
}

/// One disk's part of a deletion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unmark {
    /// The disk.
    pub disk: DiskName,
    /// Its node in QEMU.
    pub node: String,
    /// The bitmap that goes.
    pub bitmap: String,
    /// The predecessor's, which takes over the bits; none for the first of the chain.
    pub predecessor: Option<Predecessor>,
}

/// What becomes of the predecessor's bitmap: a new one with the bits of both. That it is there is the proof that the
/// transaction ran; a bitmap that is merely gone may have been removed by anybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Predecessor {
    /// Its bitmap, which goes too.
    pub bitmap: String,
    /// The one that takes its place.
    pub becomes: String,
    /// How long that one lasts.
    pub lasts: Lasts,
    /// Whether it records: when the newest checkpoint goes.
    pub records: bool,
}

/// See [`Effect::Clean`]. Only objects that carry our installation's mark may be named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clean {
    /// The VM.
    pub vm: VmAddress,
    /// The process that was observed.
    pub process: Process,
    /// Whose leftovers.
    pub installation: Installation,
    /// NBD exports, removed first.
    pub exports: Vec<String>,
    /// Block jobs, cancelled and dismissed.
    pub jobs: Vec<String>,
    /// Nodes, in the order in which they can be removed.
    pub nodes: Vec<String>,
    /// Bitmaps, as (node, name).
    pub bitmaps: Vec<(String, String)>,
    /// Scratch files, by name.
    pub files: Vec<String>,
}

/// See [`Effect::Restore`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restore {
    /// From where.
    pub repository: RepositoryAddress,
    /// The point.
    pub point: PointId,
    /// Its restic snapshot.
    pub snapshot: String,
    /// The disk.
    pub disk: DiskName,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// The image to write.
    pub path: String,
    /// Its format.
    pub format: ImageFormat,
    /// Whether there may be an image already.
    pub target: RestoreTarget,
}

/// A disk image's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageFormat {
    /// Bytes, sparse where they are zero.
    Raw,
    /// QEMU's own.
    Qcow2,
}

/// What a restore finds at its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestoreTarget {
    /// Nothing: a new image appears there only when it is complete.
    New,
    /// An image or block device of the right size, of which only what differs is written.
    InPlace,
}
