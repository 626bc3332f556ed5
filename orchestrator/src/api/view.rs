//! The API's words: what goes over the wire as JSON, in both directions. The command line reads and writes the same
//! types, so that the two cannot drift apart. Ids are text as people see them (`p12`, `c7`), times RFC 3339, sizes bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `GET /v1/health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Backstay's version.
    pub version: String,
    /// The installation's mark.
    pub installation: String,
    /// The epoch.
    pub epoch: u64,
    /// The newest record.
    pub seq: u64,
    /// Whether the journal takes what is to come.
    pub journal: JournalHealth,
}

/// Whether the journal takes what is to come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalHealth {
    /// `ok`; `full` when it takes nothing new, since its disk is full; `stopped` when it takes nothing at all.
    pub state: String,
    /// What happened, and where; null when all is well.
    pub what: Option<String>,
    /// What to do.
    pub advice: Option<String>,
}

/// Every refusal and failure, with the HTTP status that fits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorView {
    /// What kind.
    pub code: ErrorCode,
    /// What happened, where, and what to do.
    pub message: String,
}

/// Kinds of refusal; each is one exit status of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// It was tried and failed (500; exit 1).
    Failed,
    /// The request makes no sense (400; exit 2).
    Usage,
    /// What was named is not there (404; exit 3).
    NotFound,
    /// Something would be lost (409; exit 4).
    Refused,
}

/// `POST /v1/vms`; and each of `GET /v1/vms`, with more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddVm {
    /// Its name.
    pub name: String,
    /// The QMP socket's absolute path.
    pub qmp: String,
    /// The guest agent's socket.
    pub guest_agent: Option<String>,
    /// Disks by name and node; empty to find them.
    #[serde(default)]
    pub disks: Vec<NamedDisk>,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// A disk as the operator names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedDisk {
    /// Its name.
    pub name: String,
    /// Its node, device id or qdev id in QEMU.
    pub node: String,
}

/// A VM. `GET /v1/vms` shows what the journal knows; `GET /v1/vms/{name}` looks at QEMU too and fills `live`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmView {
    /// Its UUID.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The QMP socket.
    pub qmp: String,
    /// The guest agent's socket.
    pub guest_agent: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The host that it is on; null while no record says.
    pub host: Option<String>,
    /// When it was added.
    pub added: String,
    /// Restore points, in all repositories.
    pub points: usize,
    /// When the newest was taken.
    pub last_point: Option<String>,
    /// Checkpoints in the chain.
    pub checkpoints: usize,
    /// The disks: as named, or as last seen.
    pub disks: Vec<VmDiskView>,
    /// What QEMU says now: `running`, or why there is no answer. Null in the list.
    pub live: Option<String>,
    /// What its views cannot guard the guest from, and why. Null where there is nothing, and where QEMU was not asked.
    pub unprotected: Option<String>,
}

/// A disk of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmDiskView {
    /// Its name.
    pub name: String,
    /// Its node.
    pub node: String,
    /// Its size in bytes, when seen.
    pub size: Option<u64>,
    /// Its image format, when seen.
    pub format: Option<String>,
    /// What an operator should know of it: read-only, no persistent bitmaps, not there.
    pub note: Option<String>,
}

/// `POST /v1/repositories`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddRepository {
    /// Its name.
    pub name: String,
    /// The folder's absolute path, or `s3:http[s]://HOST[:PORT]/BUCKET[/PREFIX]`, or `s3://BUCKET[/PREFIX]`.
    pub path: String,
    /// The password file's absolute path.
    pub password_file: String,
    /// The chunk size for a new one, bytes; 256 KiB by default.
    pub chunk_size: Option<u32>,
    /// Whether nothing is to be removed from it, ever.
    #[serde(default)]
    pub append_only: bool,
    /// How fast bytes may go to and from it.
    #[serde(default)]
    pub limits: Vec<RateView>,
}

/// A limit of bandwidth. `POST /v1/repositories/{name}/limits` takes a list of them, which replaces the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateView {
    /// The minute of the day from which it holds, 0 to 1439, in the agent's local time.
    pub from_minute: u16,
    /// The minute of the day up to which it holds; the same for the whole day.
    pub to_minute: u16,
    /// How many bytes in a second, 256 KiB at least.
    pub bytes_per_second: u64,
}

/// `POST /v1/repositories/{name}/keys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum ChangeKeys {
    /// Shows them.
    List,
    /// Adds one.
    Add {
        /// The absolute path of the file with its password.
        password_file: String,
    },
    /// Removes one.
    Remove {
        /// Its id, or the beginning of it.
        key: String,
    },
    /// Replaces the one in use.
    Change {
        /// The absolute path of the file with the new password, which the repository is opened with from then on.
        password_file: String,
    },
}

/// A repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryView {
    /// Its name.
    pub name: String,
    /// Its folder, or `s3:` and its URL.
    pub path: String,
    /// Its own id.
    pub id: String,
    /// Its chunk size in bytes.
    pub chunk_size: u32,
    /// When it was added.
    pub added: String,
    /// Restore points in it.
    pub points: usize,
    /// Whether nothing is removed from it.
    pub append_only: bool,
    /// How fast bytes may go to and from it.
    pub limits: Vec<RateView>,
}

/// `POST /v1/backups`: one job for each VM and repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartBackup {
    /// VM names.
    pub vms: Vec<String>,
    /// `auto`, `full`, `incremental` or `differential`.
    pub mode: String,
    /// A checkpoint to start from.
    pub since: Option<String>,
    /// Repository names; empty when there is only one repository.
    #[serde(default)]
    pub repositories: Vec<String>,
    /// `crash`, `filesystem` or `required`.
    pub consistency: String,
    /// The jobs that are over before it starts, however they end.
    #[serde(default)]
    pub after: Vec<String>,
}

/// What was queued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submitted {
    /// The jobs, in the order of the request.
    pub jobs: Vec<String>,
}

/// A restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointView {
    /// Its id.
    pub id: String,
    /// The VM's name.
    pub vm: String,
    /// Its instant.
    pub created: String,
    /// Where it is.
    pub repository: String,
    /// The point that its unchanged data came from.
    pub parent: Option<String>,
    /// The consistency reached.
    pub consistency: String,
    /// Its restic snapshot.
    pub snapshot: String,
    /// The checkpoint of its instant.
    pub checkpoint: String,
    /// The policy that asked for it.
    pub policy: Option<String>,
    /// Whether it is held.
    pub held: bool,
    /// How its view kept what the guest overwrote: `copy-before-write`, `backup-job` or `push`.
    pub way: String,
    /// Why its data is in doubt; null as a rule.
    pub suspect: Option<String>,
    /// Its disks.
    pub disks: Vec<PointDiskView>,
    /// Disks that it lacks, with the reason.
    pub left_out: Vec<LeftOut>,
    /// When and why it went. Not there for a point that can be restored; `GET /v1/points?all=true` shows the others too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone: Option<GoneView>,
}

/// When and why a restore point went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoneView {
    /// When that was recorded.
    pub at: String,
    /// `forgotten`, or `missing` in its repository.
    pub how: String,
    /// Why, in a sentence.
    pub why: String,
    /// The record that says so.
    pub seq: u64,
}

/// One disk of a restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointDiskView {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// `full` or `incremental`.
    pub mode: String,
    /// Why it was full; null for an incremental.
    pub reason: Option<String>,
    /// Bytes that the bitmap called changed.
    pub changed_bytes: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes added to the repository.
    pub stored_bytes: u64,
    /// Chunks that were compared with the parent's although the bitmap called them clean.
    pub audited_chunks: u32,
}

/// A disk that a point lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Its name.
    pub disk: String,
    /// Why.
    pub reason: String,
}

/// `POST /v1/restores`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartRestore {
    /// The point.
    pub point: String,
    /// One disk of it; all when null.
    pub disk: Option<String>,
    /// The image's absolute path; a folder when several disks are restored.
    pub to: String,
    /// `raw` or `qcow2`.
    pub format: String,
    /// Whether to write into the image that is there.
    #[serde(default)]
    pub in_place: bool,
}

/// `POST /v1/exports`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartExport {
    /// The VM's name.
    pub vm: String,
    /// The checkpoint, or one of its bitmaps, from which on changes are to be shown.
    pub since: Option<String>,
    /// How long it is offered, in seconds from its instant; an hour when null.
    pub ttl_seconds: Option<u64>,
}

/// An export. `GET /v1/exports` shows those that are not over, and those that ended a day ago or less.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportView {
    /// Its id, which is its job's.
    pub id: String,
    /// The VM's name.
    pub vm: String,
    /// `queued`, `beginning`, `open`, `ending` or `ended`.
    pub state: String,
    /// The instant that it shows, once it has begun.
    pub instant: Option<String>,
    /// When it ends by itself, once it has begun.
    pub expires: Option<String>,
    /// The checkpoint from which on changes are shown.
    pub since: Option<String>,
    /// How its view keeps what the guest overwrites: `copy-before-write` or `backup-job`.
    pub way: Option<String>,
    /// Its disks, once they are known.
    pub disks: Vec<ExportDiskView>,
    /// Disks of the VM that it lacks, with the reason.
    pub left_out: Vec<LeftOut>,
    /// What it waits for, or why it ended.
    pub reason: Option<String>,
    /// When it ended.
    pub ended: Option<String>,
}

/// One disk of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportDiskView {
    /// Its name.
    pub disk: String,
    /// Its size in bytes.
    pub size: u64,
    /// Where it is read; null unless the export is open.
    pub uri: Option<String>,
    /// The metadata context of what changed; null where there is none.
    pub bitmap: Option<String>,
    /// Why there is none although one was asked for.
    pub reason: Option<String>,
}

/// A checkpoint, as `GET /v1/vms/{name}/checkpoints` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointView {
    /// Its name.
    pub name: String,
    /// Its instant.
    pub created: String,
    /// Whether an operator asked for it.
    pub by_hand: bool,
    /// Its disks.
    pub disks: Vec<CheckpointDiskView>,
}

/// One disk of a checkpoint. What only QEMU knows is null while QEMU does not answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointDiskView {
    /// Its name.
    pub disk: String,
    /// The bitmap's name.
    pub bitmap: String,
    /// Whether it records.
    pub recording: Option<bool>,
    /// Its granularity in bytes.
    pub granularity: Option<u64>,
    /// The bytes that it calls dirty.
    pub dirty_bytes: Option<u64>,
    /// The most that it takes of QEMU's memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// The most that it takes of the image once it is stored, in bytes.
    pub image_bytes: Option<u64>,
}

/// `POST /v1/policies`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyPolicies {
    /// The file's text, TOML.
    pub text: String,
    /// Only show what would change.
    #[serde(default)]
    pub dry_run: bool,
}

/// What applying a file changes, or would change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyChange {
    /// The policy.
    pub policy: String,
    /// `added`, `changed` or `unchanged`.
    pub change: String,
    /// The differences, each a line.
    pub details: Vec<String>,
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyView {
    /// Its name.
    pub name: String,
    /// When this text was applied.
    pub applied: String,
    /// Whether it is paused.
    pub paused: bool,
    /// The VMs that it selects now.
    pub vms: Vec<String>,
    /// Its next run.
    pub next_run: Option<String>,
    /// Its file, in canonical form.
    pub text: String,
}

/// A job. `GET /v1/jobs/{id}?after=REVISION` waits until the revision is another one, up to 10 s.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobView {
    /// Its id.
    pub id: String,
    /// What kind of work.
    pub kind: String,
    /// The VM's name.
    pub vm: Option<String>,
    /// `queued`, `running`, `paused`, `done`, `failed` or `cancelled`.
    pub state: String,
    /// The policy that asked for it.
    pub policy: Option<String>,
    /// Which try this is, from 1.
    pub attempt: u32,
    /// Why, where there is something to say; what it waits for, while it waits.
    pub reason: Option<String>,
    /// What to do about its failure.
    pub advice: Option<String>,
    /// The tries that failed before this one.
    pub tries: Vec<TryView>,
    /// The job whose unfinished work it takes up.
    pub retries: Option<String>,
    /// The first job of the request that it is a part of.
    pub request: Option<String>,
    /// The jobs that are over before it starts.
    #[serde(default)]
    pub after: Vec<String>,
    /// Its priority.
    pub priority: i8,
    /// When it was queued.
    pub created: String,
    /// When it started.
    pub started: Option<String>,
    /// When it ended.
    pub ended: Option<String>,
    /// The repository, where it concerns one.
    pub repository: Option<String>,
    /// The restore point that it made or reads.
    pub point: Option<String>,
    /// Its steps so far: the intents.
    pub steps: Vec<StepView>,
    /// How far the present step is.
    pub progress: Option<ProgressView>,
    /// Changes whenever anything above does.
    pub revision: u64,
}

/// A try of a job that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TryView {
    /// When.
    pub ended: String,
    /// Why.
    pub reason: String,
}

/// A notice that is not delivered yet, `GET /v1/notices`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoticeView {
    /// Its id.
    pub id: String,
    /// `alarm`, `recovery` or `test`.
    pub kind: String,
    /// `backup`, `good-point` or `test`.
    pub subject: String,
    /// The VM's name.
    pub vm: Option<String>,
    /// What it says.
    pub text: String,
    /// Since when it is owed.
    pub raised: String,
    /// The receivers that do not have it yet.
    pub owed: Vec<String>,
}

/// `POST /v1/notices/test`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoticeTested {
    /// The notice.
    pub id: String,
    /// Whether every receiver took it in time.
    pub delivered: bool,
    /// What each of them said.
    pub receivers: Vec<ReceiverTested>,
}

/// What one receiver said to a test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiverTested {
    /// Which.
    pub name: String,
    /// Whether it took it.
    pub delivered: bool,
    /// What it said, or why it said nothing.
    pub answer: String,
}

/// `POST /v1/jobs/{id}/retry`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryJob {
    /// Everything of the same request that was not finished.
    #[serde(default)]
    pub request: bool,
}

/// One intent of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepView {
    /// The intent.
    pub intent: String,
    /// The effect's kind: `begin`, `store`, …
    pub effect: String,
    /// Null while it is open; otherwise the outcome as [`journal::Outcome`] serialises it.
    pub outcome: Option<Value>,
}

/// How far a long step is, in bytes; a total of 0 is not known yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressView {
    /// Dealt with.
    pub done: u64,
    /// In all.
    pub total: u64,
}

/// A record of the journal, `GET /v1/journal?after=SEQ&limit=N&vm=NAME&wait=true`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordView {
    /// Its sequence number.
    pub seq: u64,
    /// The epoch that wrote it.
    pub epoch: u64,
    /// The wall clock then.
    pub time: String,
    /// What kind of record.
    pub kind: String,
    /// The VM that it concerns, where it is one.
    pub vm: Option<String>,
    /// In one line, for people.
    pub summary: String,
    /// The record itself.
    pub body: Value,
}

/// What was so after one record, `GET /v1/journal/state?at=SEQ`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastView {
    /// The record's sequence number.
    pub seq: u64,
    /// When it was written.
    pub time: String,
    /// Everything that its journal then said.
    pub state: ::journal::State,
}

/// `GET /v1/doctor?vm=NAME`, and `POST` to apply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doctor {
    /// Whether nothing is amiss.
    pub ok: bool,
    /// What was found.
    pub findings: Vec<FindingView>,
    /// What each side says, thing by thing.
    #[serde(default)]
    pub sides: Vec<SideView>,
    /// What applying would do, in order.
    #[serde(default)]
    pub plan: Vec<PlannedView>,
    /// The jobs that heal it, when applying.
    #[serde(default)]
    pub jobs: Vec<String>,
}

/// What each side says of one thing; null where it has nothing to say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SideView {
    /// The VM.
    pub vm: String,
    /// The disk, where it is of one.
    pub disk: Option<String>,
    /// The thing: `process`, a bitmap, an intent with its objects, a restore point.
    pub thing: String,
    /// The journal.
    pub journal: Option<String>,
    /// QEMU.
    pub qemu: Option<String>,
    /// The repository.
    pub repository: Option<String>,
    /// The scratch folder.
    pub files: Option<String>,
}

/// One step that applying would take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedView {
    /// The VM.
    pub vm: String,
    /// What is recorded or done.
    pub step: String,
    /// The rows that call for it.
    pub rows: Vec<String>,
}

/// One row of the reconcile table, as it stands for one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingView {
    /// The VM.
    pub vm: String,
    /// The disk, where it is one.
    pub disk: Option<String>,
    /// The row's label.
    pub row: String,
    /// What was found.
    pub what: String,
    /// What is to be done.
    pub verdict: String,
    /// Why that is right.
    pub why: String,
}
