//! The fold: what is so, as a function of the records alone.
//!
//! [`State::apply`] is total: each record either changes the state or is refused as [`Illegal`] and changes nothing.
//! Time comes from the frames. Knows nothing about how records are stored, and decides nothing.

mod chain;
mod index;
mod job;
mod notice;
mod queue;
mod settle;
mod shared;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use chain::{Chain, Checkpoint, Lost, Tracked};
pub use job::{Job, JobState, Step, Try};
pub use notice::{Alarm, Notice};
pub use queue::{Front, Lane, LaneClass, Place, Queue};

use crate::effect::{Consistency, DiskMode, Effect, EffectKind, Intent, RepositoryAddress, VmAddress, Way};
use crate::ids::{
    BitmapId, CheckpointId, DiskName, Epoch, HostName, Installation, IntentId, JobId, NoticeId, PointId,
    PolicyName, Process, RepositoryName, Time, VmId, VmName,
};
use crate::notice::Subject;
use crate::record::{JobEnded, Record};

/// How many finished jobs the state keeps; older ones are found in the history index.
pub const FINISHED_JOBS_KEPT: usize = 200;

/// How many disks a checkpoint may have.
pub const DISKS_MAX: u64 = 256;

/// When a record was written: what the fold takes from its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The epoch that wrote it.
    pub epoch: Epoch,
    /// The wall clock then.
    pub time: Time,
}

/// Everything that is so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Our mark, from the first record on.
    pub installation: Option<Installation>,
    /// The newest epoch.
    pub epoch: Option<Epoch>,
    /// The next number of each kind.
    pub next: Next,
    /// The VMs under management.
    pub vms: BTreeMap<VmId, Vm>,
    /// The repositories.
    pub repositories: BTreeMap<RepositoryName, Repository>,
    /// The policies; shared, because before each decision whoever has parsed them compares them.
    #[serde(with = "shared")]
    pub policies: BTreeMap<PolicyName, Arc<Policy>>,
    /// The jobs that are not over, and the newest [`FINISHED_JOBS_KEPT`] that are.
    pub jobs: BTreeMap<JobId, Job>,
    /// The finished ones among them, in the order in which they ended.
    finished: VecDeque<JobId>,
    /// The open intents.
    pub open: BTreeMap<IntentId, Open>,
    /// The restore points.
    pub points: BTreeMap<PointId, Point>,
    /// What the operator is to be told and was not yet.
    pub notices: BTreeMap<NoticeId, Notice>,
    /// What the operator was told to be amiss, and not yet to be well again.
    pub alarms: BTreeMap<Subject, Alarm>,
    /// The same by other keys. Not written into bases: it follows from the rest.
    #[serde(skip)]
    index: index::Index,
}

/// The next number of each kind. Never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Next {
    /// The next intent.
    pub intent: IntentId,
    /// The next job.
    pub job: JobId,
    /// The next restore point.
    pub point: PointId,
    /// The next checkpoint.
    pub checkpoint: CheckpointId,
    /// The next bitmap.
    pub bitmap: BitmapId,
    /// The next notice.
    pub notice: NoticeId,
}

impl Default for Next {
    fn default() -> Self {
        Self {
            intent: IntentId(1),
            job: JobId(1),
            point: PointId(1),
            checkpoint: CheckpointId(1),
            bitmap: BitmapId(1),
            notice: NoticeId(1),
        }
    }
}

/// A VM under management.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vm {
    /// Where it is reached.
    pub address: VmAddress,
    /// Its disks, as the operator named them; empty to find them each time.
    pub disks: Vec<(DiskName, String)>,
    /// Its labels.
    pub labels: Vec<(String, String)>,
    /// The host whose agent looks after it; none while no record says, as before hosts had names.
    pub host: Option<HostName>,
    /// When it was added.
    pub added: Time,
    /// The QEMU process seen last, and its version.
    pub process: Option<(Process, String)>,
    /// Its checkpoints.
    pub chain: Chain,
    /// The views that are up, by the `Begin` that made them.
    pub views: BTreeMap<IntentId, View>,
    /// The freeze after which no thaw is recorded yet.
    pub thaw_owed: Option<IntentId>,
}

/// A view that is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// The process that holds it.
    pub process: Process,
    /// Its instant.
    pub instant: Time,
    /// The checkpoint of that instant.
    pub checkpoint: CheckpointId,
    /// Its disks in order, and whether each has a map of changes.
    pub disks: Vec<(DiskName, bool)>,
    /// The job that it serves.
    pub job: Option<JobId>,
    /// Its way.
    pub way: Way,
}

/// A repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    /// Where it is.
    pub address: RepositoryAddress,
    /// Its own id.
    pub id: String,
    /// Its chunk size in bytes.
    pub chunk_bytes: u32,
    /// When it was added.
    pub added: Time,
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Its file, in canonical form.
    pub text: String,
    /// When this text was applied.
    pub applied: Time,
    /// Whether it is paused.
    pub paused: bool,
    /// For each schedule, by its key: up to where its runs are accounted for. One that is not here begins at `applied`.
    pub cursors: BTreeMap<String, Time>,
}

impl Policy {
    /// Up to where a schedule's runs are accounted for.
    #[must_use]
    pub fn cursor(&self, schedule: &str) -> Time {
        self.cursors.get(schedule).copied().unwrap_or(self.applied)
    }
}

/// An open intent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// The intent.
    pub intent: Intent,
    /// The epoch that owns it.
    pub owner: Epoch,
    /// When it was opened.
    pub opened: Time,
}

/// A restore point: the disks of one VM at one instant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// Its id.
    pub id: PointId,
    /// Of which VM.
    pub vm: VmId,
    /// The VM's name then.
    pub vm_name: VmName,
    /// Where it is.
    pub repository: RepositoryName,
    /// Its restic snapshot, hex.
    pub snapshot: String,
    /// Its instant.
    pub created: Time,
    /// The checkpoint of its instant.
    pub checkpoint: CheckpointId,
    /// The point that its unchanged data came from; none when every disk was read whole.
    pub parent: Option<PointId>,
    /// What it promises.
    pub consistency: Consistency,
    /// How its view kept what the guest overwrote.
    pub way: Way,
    /// Why its data is in doubt, where a later audit found that a bitmap of its chain had missed a change.
    pub suspect: Option<String>,
    /// The policy that asked for it.
    pub policy: Option<PolicyName>,
    /// The job that made it.
    pub job: Option<JobId>,
    /// Whether it must not be forgotten.
    pub held: bool,
    /// Its disks.
    pub disks: Vec<PointDisk>,
    /// Disks of the VM that it lacks, each with the reason.
    pub left_out: Vec<(DiskName, String)>,
}

impl Point {
    /// The disk of this name.
    #[must_use]
    pub fn disk(&self, name: &DiskName) -> Option<&PointDisk> {
        self.disks.iter().find(|disk| disk.disk == *name)
    }

    /// Whether every disk was read whole.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.disks.iter().all(|disk| matches!(disk.mode, DiskMode::Full { .. }))
    }
}

/// One disk of a restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointDisk {
    /// The disk.
    pub disk: DiskName,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// How it was read, and why.
    pub mode: DiskMode,
    /// Bytes that the bitmap called changed.
    pub changed_bytes: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes added to the repository.
    pub stored_bytes: u64,
    /// Chunks that were compared with the parent's although the bitmap called them clean.
    pub audited_chunks: u32,
}

/// A record that cannot follow the ones before it: damage that every checksum missed, or a bug. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Illegal {
    /// The first record of a journal says which installation it is of, and no other record does.
    #[error("the installation is recorded where it should not be, or not where it should")]
    Installation,
    /// An epoch that is not newer than the last.
    #[error("epoch {given} does not come after {newest}")]
    Epoch {
        /// The frame's.
        given: Epoch,
        /// The newest before it.
        newest: Epoch,
    },
    /// A number that was used before.
    #[error("{0} was used before")]
    Reused(String),
    /// Something that is not there.
    #[error("{0} is not there")]
    Unknown(String),
    /// Something that is there already.
    #[error("{0} is there already")]
    Present(String),
    /// A job that is in another state.
    #[error("{job} is {state}, so that this cannot happen to it")]
    JobState {
        /// The job.
        job: JobId,
        /// Its state.
        state: JobState,
    },
    /// An outcome that its effect cannot have.
    #[error("{intent} is settled with an outcome of another effect")]
    WrongOutcome {
        /// The intent.
        intent: IntentId,
    },
}

fn unknown<T: std::fmt::Display>(what: T) -> Illegal {
    Illegal::Unknown(what.to_string())
}

impl State {
    /// Folds one record in.
    ///
    /// # Errors
    /// When the record cannot follow the ones before it; the state is then as it was.
    pub fn apply(&mut self, at: Stamp, record: &Record) -> Result<(), Illegal> {
        if self.installation.is_none() != matches!(record, Record::Installed(_)) {
            return Err(Illegal::Installation);
        }
        match record {
            Record::Installed(it) => self.installation = Some(it.installation),
            Record::EpochBegan(_) => self.begin_epoch(at.epoch)?,
            Record::RecordsLost(it) => self.skip_numbers(it.last.saturating_sub(it.first) + 1),
            Record::VmAdded(it) => self.add_vm(at, it)?,
            Record::VmRemoved(it) => {
                let vm = self.vms.remove(&it.vm).ok_or_else(|| unknown(it.vm))?;
                self.index.forget_name(&vm.address.name);
                self.index.queue.know_host(it.vm, None);
                self.index.know_freshness(it.vm, None);
                self.alarms.retain(|subject, _| subject.vm() != Some(it.vm));
            }
            Record::VmHosted(it) => {
                self.vm_mut(it.vm)?.host = Some(it.host.clone());
                self.index.queue.know_host(it.vm, Some(&it.host));
            }
            Record::ProcessSeen(it) => {
                let vm = self.vm_mut(it.vm)?;
                // Another process is another guest memory: no filesystem of it is frozen by us.
                vm.thaw_owed = None;
                vm.process = Some((it.process, it.version.clone()));
            }
            Record::TrackingLost(it) => {
                self.vm_mut(it.vm)?.chain.lose(&it.disk, it.through, &it.reason);
            }
            Record::ViewLost(it) => {
                self.vm_mut(it.vm)?.views.remove(&it.view).ok_or_else(|| unknown(it.view))?;
            }
            Record::RepositoryAdded(it) => self.add_repository(at, it)?,
            Record::PolicyApplied(it) => self.apply_policy(at, it),
            Record::PolicyRemoved(it) => {
                self.policies.remove(&it.name).ok_or_else(|| unknown(&it.name))?;
            }
            Record::PolicyPaused(it) => self.policy_mut(&it.name)?.paused = it.paused,
            Record::ScheduleAdvanced(it) => {
                let policy = self.policy_mut(&it.policy)?;
                let cursor = policy.cursors.entry(it.schedule.clone()).or_insert(it.through);
                *cursor = it.through.max(*cursor);
            }
            Record::RunSkipped(_) => {}
            Record::JobQueued(it) => self.queue_job(at, it)?,
            Record::JobStarted(it) => self.change_job(it.job, |job| job.start(at.time))?,
            Record::BackupPlanned(it) => self.plan_backup(it)?,
            Record::ExportPlanned(it) => self.plan_export(it)?,
            Record::CancelAsked(it) => self.change_job(it.job, |job| job.ask_cancel(it))?,
            Record::JobEnded(it) => self.end_job(at, it)?,
            Record::JobRetried(it) => self.change_job(it.job, |job| job.retry(at.time, it))?,
            Record::PauseAsked(it) => self.change_job(it.job, |job| job.ask_pause(it.paused))?,
            Record::JobPaused(it) => self.change_job(it.job, Job::pause)?,
            Record::IntentOpened(it) => self.open_intent(at, &it.intent)?,
            Record::IntentAdopted(it) => {
                self.open.get_mut(&it.intent).ok_or_else(|| unknown(it.intent))?.owner = at.epoch;
            }
            Record::IntentSettled(it) => self.settle(it)?,
            Record::NoticeRaised(it) => self.raise(at, it)?,
            Record::NoticeAnswered(it) => self.answer_notice(it)?,
            Record::NoticeSettled(it) => self.settle_notice(it)?,
            Record::PointHeld(it) => {
                self.points.get_mut(&it.point).ok_or_else(|| unknown(it.point))?.held = it.held;
            }
            Record::PointGone(it) => {
                self.remove_point(it.point).ok_or_else(|| unknown(it.point))?;
            }
        }
        Ok(())
    }

    /// The VM of this name.
    #[must_use]
    pub fn vm_named(&self, name: &VmName) -> Option<(VmId, &Vm)> {
        let id = self.index.vm_named(name)?;
        self.vms.get(&id).map(|vm| (id, vm))
    }

    /// The restore points of a VM, oldest first.
    pub fn points_of(&self, vm: VmId) -> impl DoubleEndedIterator<Item = &Point> {
        self.index.points_of(vm).filter_map(move |point| self.points.get(&point))
    }

    /// A VM's newest restore point whose data is not in doubt, in whatever repository.
    #[must_use]
    pub fn good_point(&self, vm: VmId) -> Option<&Point> {
        self.points_of(vm).rfind(|point| point.suspect.is_none())
    }

    /// The VMs of which the operator was told that they have no good restore point that is young enough, or all others,
    /// each with the instant of its newest good point, the oldest first; one that has none with the moment at which it was
    /// added.
    pub fn by_good_point(&self, told: bool) -> impl DoubleEndedIterator<Item = (Time, VmId)> {
        self.index.by_freshness(told)
    }

    /// The finished jobs that are kept, in the order in which they ended.
    pub fn finished(&self) -> impl Iterator<Item = &Job> {
        self.finished.iter().filter_map(|job| self.jobs.get(job))
    }

    /// The jobs by what they wait for and hold.
    #[must_use]
    pub fn queue(&self) -> &Queue {
        &self.index.queue
    }

    /// The same state with what follows from it, which is not written: for whoever reads one.
    #[must_use]
    pub fn indexed(mut self) -> State {
        self.index = index::Index::of(&self.vms, &self.jobs, &self.points, &self.alarms);
        self
    }

    /// The open intents that touch a VM's QEMU.
    pub fn open_on(&self, vm: VmId) -> impl Iterator<Item = &Open> {
        self.open.values().filter(move |open| open.intent.effect.vm() == Some(vm))
    }

    fn begin_epoch(&mut self, given: Epoch) -> Result<(), Illegal> {
        if let Some(newest) = self.epoch.filter(|newest| given <= *newest) {
            return Err(Illegal::Epoch { given, newest });
        }
        self.epoch = Some(given);
        Ok(())
    }

    /// A record uses at most one number of each kind, and of bitmaps one for each disk.
    fn skip_numbers(&mut self, lost: u64) {
        let Next { intent, job, point, checkpoint, bitmap, notice } = &mut self.next;
        bitmap.0 += lost * DISKS_MAX;
        for number in [&mut intent.0, &mut job.0, &mut point.0, &mut checkpoint.0, &mut notice.0] {
            *number += lost;
        }
        if let Some(epoch) = &mut self.epoch {
            epoch.0 += lost;
        }
    }

    fn add_vm(&mut self, at: Stamp, it: &crate::record::VmAdded) -> Result<(), Illegal> {
        let id = it.vm.id;
        if self.vms.contains_key(&id) || self.vm_named(&it.vm.name).is_some() {
            return Err(Illegal::Present(it.vm.name.to_string()));
        }
        self.index.know_name(&it.vm.name, id);
        self.index.queue.know_host(id, it.host.as_ref());
        self.vms.insert(
            id,
            Vm {
                address: it.vm.clone(),
                disks: it.disks.clone(),
                labels: it.labels.clone(),
                host: it.host.clone(),
                added: at.time,
                process: None,
                chain: Chain::default(),
                views: BTreeMap::new(),
                thaw_owed: None,
            },
        );
        self.refresh(id);
        Ok(())
    }

    fn add_repository(&mut self, at: Stamp, it: &crate::record::RepositoryAdded) -> Result<(), Illegal> {
        let name = it.repository.name.clone();
        if self.repositories.contains_key(&name) {
            return Err(Illegal::Present(name.to_string()));
        }
        self.repositories.insert(
            name,
            Repository {
                address: it.repository.clone(),
                id: it.id.clone(),
                chunk_bytes: it.chunk_bytes,
                added: at.time,
            },
        );
        Ok(())
    }

    fn apply_policy(&mut self, at: Stamp, it: &crate::record::PolicyApplied) {
        let before = self.policies.get(&it.name);
        // A schedule that is in both texts goes on from where it was; a new one has no run before this moment.
        let paused = before.is_some_and(|policy| policy.paused);
        let cursors = before.map(|policy| policy.cursors.clone()).unwrap_or_default();
        let policy = Policy { text: it.text.clone(), applied: at.time, paused, cursors };
        self.policies.insert(it.name.clone(), Arc::new(policy));
    }

    fn open_intent(&mut self, at: Stamp, intent: &Intent) -> Result<(), Illegal> {
        if intent.id < self.next.intent {
            return Err(Illegal::Reused(intent.id.to_string()));
        }
        // All that may be refused comes before the first change.
        if let Some(vm) = intent.effect.vm() {
            self.vm_mut(vm)?;
        }
        if let Some(job) = intent.job {
            let offers = intent.effect.kind() == EffectKind::Offer;
            self.change_steps(job, offers, |job| job.push_step(intent))?;
        }
        if let Effect::Freeze(freeze) = &intent.effect {
            self.vm_mut(freeze.vm.id)?.thaw_owed = Some(intent.id);
        }
        if let Effect::AddCheckpoint(add) | Effect::Begin(crate::effect::Begin { checkpoint: add, .. }) =
            &intent.effect
        {
            self.next.checkpoint = self.next.checkpoint.max(add.checkpoint.next());
        }
        self.next.bitmap = self.next.bitmap.max(intent.effect.bitmaps_used());
        self.next.intent = intent.id.next();
        self.open.insert(intent.id, Open { intent: intent.clone(), owner: at.epoch, opened: at.time });
        Ok(())
    }

    fn vm_mut(&mut self, vm: VmId) -> Result<&mut Vm, Illegal> {
        self.vms.get_mut(&vm).ok_or_else(|| unknown(vm))
    }

    fn policy_mut(&mut self, name: &PolicyName) -> Result<&mut Policy, Illegal> {
        self.policies.get_mut(name).map(Arc::make_mut).ok_or_else(|| unknown(name))
    }

    /// Every change of what the queue is made of goes this way.
    fn change_job(
        &mut self,
        job: JobId,
        change: impl FnOnce(&mut Job) -> Result<(), Illegal>,
    ) -> Result<(), Illegal> {
        let job = self.jobs.get_mut(&job).ok_or_else(|| unknown(job))?;
        self.index.queue.take_out(job);
        let changed = change(job);
        self.index.queue.put_in(job);
        changed
    }

    /// A change of a job's steps. The queue is made of them only as far as the job begins or ends to offer a view.
    fn change_steps(
        &mut self,
        job: JobId,
        offers: bool,
        change: impl FnOnce(&mut Job) -> Result<(), Illegal>,
    ) -> Result<(), Illegal> {
        if offers {
            return self.change_job(job, change);
        }
        change(self.jobs.get_mut(&job).ok_or_else(|| unknown(job))?)
    }

    fn remove_point(&mut self, point: PointId) -> Option<Point> {
        let point = self.points.remove(&point)?;
        self.index.forget_point(&point);
        self.refresh(point.vm);
        Some(point)
    }

    /// A VM's newest good point may be another one now, or the operator was told of it.
    fn refresh(&mut self, vm: VmId) {
        let Some(added) = self.vms.get(&vm).map(|vm| vm.added) else { return };
        let since = self.good_point(vm).map_or(added, |point| point.created);
        let told = self.alarms.contains_key(&Subject::GoodPoint { vm });
        self.index.know_freshness(vm, Some(index::Freshness { told, since }));
    }

    fn end_job(&mut self, at: Stamp, it: &JobEnded) -> Result<(), Illegal> {
        self.change_job(it.job, |job| job.end(at.time, it))?;
        for follower in self.index.queue.followers(it.job) {
            self.change_job(follower, |job| {
                job.outlive(at.time, it.job);
                Ok(())
            })?;
        }
        self.finished.push_back(it.job);
        if self.finished.len() > FINISHED_JOBS_KEPT
            && let Some(oldest) = self.finished.pop_front()
        {
            self.jobs.remove(&oldest);
        }
        Ok(())
    }
}
