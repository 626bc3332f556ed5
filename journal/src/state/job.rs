//! A job: a queued unit of work, and how far it is.
//!
//! ```text
//!   queued ──start──▶ running ──end──▶ done | failed | cancelled
//!    ▲ │ ▲ ◀──retry──── │  ▲
//!    │ │ └───────────┐  │  └──────────── resume, cancel ──┐
//!    │ └──pause──▶ paused (not begun) └──pause──▶ paused (begun)
//!    └── resume, cancel ┘
//!    queued ──end──▶ cancelled | failed
//! ```
//!
//! A pause of a running job is a wish first: it rests where nothing of it is under way that must not be left so, such as
//! a frozen guest. What a running job has done is the list of its intents with their outcomes; there is no other progress to fall out
//! of step with the journal.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Illegal, Stamp, State, unknown};
use crate::effect::{EffectKind, Intent};
use crate::ids::{IntentId, JobId, RepositoryName, Time, VmId};
use crate::outcome::{Done, Failure, FailureClass, Outcome};
use crate::record::{
    BackupPlanned, CancelAsked, Due, End, ExportPlanned, JobEnded, JobQueued, JobRetried, Terms, Work,
};

/// A queued unit of work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// What it is to do.
    pub work: Work,
    /// The policy that asked for it, if one did.
    pub due: Option<Due>,
    /// Where it stands.
    pub state: JobState,
    /// Why, where there is something to say.
    pub reason: Option<String>,
    /// When it was queued.
    pub created: Time,
    /// When it started.
    pub started: Option<Time>,
    /// When it ended.
    pub ended: Option<Time>,
    /// Whether it is to be cancelled.
    pub cancel_asked: bool,
    /// Whether it is to rest.
    pub pause_asked: bool,
    /// How it waits.
    pub terms: Terms,
    /// Those of the jobs that it comes after which are not over yet.
    pub waits_for: Box<[JobId]>,
    /// The repository that it works in: its own, or that of its restore point.
    pub repository: Option<RepositoryName>,
    /// The next try does not start before this.
    pub not_before: Time,
    /// What kind of failure ended it.
    pub class: Option<FailureClass>,
    /// The tries that failed before this one.
    pub tries: Vec<Try>,
    /// A backup's plan, once it is made.
    pub plan: Option<Box<BackupPlanned>>,
    /// An export's plan, once it is made.
    pub export: Option<Box<ExportPlanned>>,
    /// The intents of this try, in order.
    pub steps: Vec<Step>,
}

/// A try that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Try {
    /// When.
    pub ended: Time,
    /// Why.
    pub reason: String,
    /// What kind of failure it was.
    pub class: FailureClass,
}

/// One intent of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The intent.
    pub intent: IntentId,
    /// What kind of effect.
    pub kind: EffectKind,
    /// What became of it, once it is settled.
    pub outcome: Option<Outcome>,
}

impl Step {
    /// What the effect brought with it, if it is done.
    #[must_use]
    pub fn done(&self) -> Option<&Done> {
        match &self.outcome {
            Some(Outcome::Done(done)) => Some(done),
            _ => None,
        }
    }

    /// Why it failed, if it did.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        match &self.outcome {
            Some(Outcome::Failed(failure)) => Some(failure),
            _ => None,
        }
    }
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    /// It waits for its turn.
    Queued,
    /// It is being worked on.
    Running,
    /// It rests until an operator lets it go on. Where it has begun, what it has made stays, and its VM is its own.
    Paused,
    /// It did what it was to do.
    Done,
    /// It did not.
    Failed,
    /// It was cancelled, and has cleaned up.
    Cancelled,
}

impl JobState {
    /// Whether nothing more will happen to it.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, JobState::Done | JobState::Failed | JobState::Cancelled)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            JobState::Queued => "queued",
            JobState::Running => "running",
            JobState::Paused => "paused",
            JobState::Done => "done",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
        })
    }
}

impl Work {
    /// The name of the kind of work, as lists show it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Work::Backup(_) => "backup",
            Work::Restore(_) => "restore",
            Work::CreateCheckpoint { .. } => "checkpoint-create",
            Work::DeleteCheckpoint { .. } => "checkpoint-delete",
            Work::RemoveVm { .. } => "vm-remove",
            Work::Reconcile { .. } => "reconcile",
            Work::AddRepository { .. } => "repo-add",
            Work::CheckRepository { .. } => "repo-check",
            Work::PruneRepository { .. } | Work::PruneBy { .. } => "repo-prune",
            Work::Forget { .. } => "point-forget",
            Work::Export(_) => "export",
            Work::MeasureRepository { .. } => "repo-stats",
            Work::LimitRepository { .. } => "repo-limit",
            Work::Keys { .. } => "repo-key",
        }
    }

    /// The VM whose QEMU the work touches: at most one such job runs for each VM.
    #[must_use]
    pub fn vm(&self) -> Option<VmId> {
        match self {
            Work::Backup(backup) => Some(backup.vm),
            Work::Export(export) => Some(export.vm),
            Work::CreateCheckpoint { vm }
            | Work::DeleteCheckpoint { vm, .. }
            | Work::RemoveVm { vm, .. }
            | Work::Reconcile { vm } => Some(*vm),
            Work::Restore(_)
            | Work::AddRepository { .. }
            | Work::CheckRepository { .. }
            | Work::PruneRepository { .. }
            | Work::PruneBy { .. }
            | Work::Forget { .. }
            | Work::MeasureRepository { .. }
            | Work::LimitRepository { .. }
            | Work::Keys { .. } => None,
        }
    }

    /// The repository that the work names itself. Restores and forgets name a point instead.
    #[must_use]
    pub fn repository(&self) -> Option<&RepositoryName> {
        match self {
            Work::Backup(backup) => Some(&backup.repository),
            Work::AddRepository { repository, .. } => Some(&repository.name),
            Work::CheckRepository { repository, .. }
            | Work::PruneRepository { repository }
            | Work::PruneBy { repository, .. }
            | Work::MeasureRepository { repository }
            | Work::LimitRepository { repository, .. }
            | Work::Keys { repository, .. } => Some(repository),
            _ => None,
        }
    }
}

impl Job {
    /// Its newest step of a kind.
    #[must_use]
    pub fn last(&self, kind: EffectKind) -> Option<&Step> {
        self.steps.iter().rev().find(|step| step.kind == kind)
    }

    /// The step that is not settled yet; a job has at most one.
    #[must_use]
    pub fn open_step(&self) -> Option<&Step> {
        self.steps.last().filter(|step| step.outcome.is_none())
    }

    /// Whether it offers a view to readers outside, and waits for nothing else.
    #[must_use]
    pub fn is_offering(&self) -> bool {
        self.open_step().is_some_and(|step| step.kind == EffectKind::Offer)
    }

    pub(super) fn start(&mut self, now: Time) -> Result<(), Illegal> {
        self.expect(self.state == JobState::Queued && self.waits_for.is_empty())?;
        self.state = JobState::Running;
        self.reason = None;
        self.started = Some(now);
        Ok(())
    }

    /// Which try this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        u32::try_from(self.tries.len()).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// Whether the present try has begun and is not over: its VM is its own.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        !self.state.is_over() && self.started.is_some()
    }

    /// Another job is over. Whoever waited for it waits from now on for a turn.
    pub(super) fn outlive(&mut self, now: Time, other: JobId) {
        self.waits_for = self.waits_for.iter().copied().filter(|job| *job != other).collect();
        if self.waits_for.is_empty() {
            self.not_before = self.not_before.max(now);
        }
    }

    pub(super) fn ask_cancel(&mut self, it: &CancelAsked) -> Result<(), Illegal> {
        self.expect(!self.state.is_over())?;
        self.cancel_asked = true;
        self.reason.clone_from(&it.why);
        // To be cancelled is to clean up, which a job at rest does not.
        self.go_on();
        Ok(())
    }

    pub(super) fn ask_pause(&mut self, paused: bool) -> Result<(), Illegal> {
        self.expect(!self.state.is_over() && !self.cancel_asked)?;
        match (self.state, paused) {
            (JobState::Queued, true) => self.state = JobState::Paused,
            (_, true) => self.pause_asked = true,
            (_, false) => self.go_on(),
        }
        Ok(())
    }

    fn go_on(&mut self) {
        self.pause_asked = false;
        if self.state == JobState::Paused {
            self.state = if self.started.is_some() { JobState::Running } else { JobState::Queued };
        }
    }

    pub(super) fn pause(&mut self) -> Result<(), Illegal> {
        self.expect(self.state == JobState::Running && self.pause_asked && self.open_step().is_none())?;
        self.state = JobState::Paused;
        self.pause_asked = false;
        Ok(())
    }

    pub(super) fn retry(&mut self, now: Time, it: &JobRetried) -> Result<(), Illegal> {
        self.expect(self.state == JobState::Running && !self.cancel_asked)?;
        self.tries.push(Try { ended: now, reason: it.reason.clone(), class: it.class });
        self.reason = Some(it.reason.clone());
        self.not_before = it.not_before;
        self.started = None;
        self.plan = None;
        self.export = None;
        self.steps.clear();
        // Who asked for a rest gets it: before the next try.
        self.state = if self.pause_asked { JobState::Paused } else { JobState::Queued };
        self.pause_asked = false;
        Ok(())
    }

    pub(super) fn end(&mut self, now: Time, it: &JobEnded) -> Result<(), Illegal> {
        let end = it.end;
        let may = match self.state {
            JobState::Running => true,
            JobState::Queued => end != End::Done,
            _ => false,
        };
        self.expect(may)?;
        self.state = match end {
            End::Done => JobState::Done,
            End::Failed => JobState::Failed,
            End::Cancelled => JobState::Cancelled,
        };
        // A cancellation that says nothing itself was asked for with the reason that stands there.
        if it.reason.is_some() || end != End::Cancelled {
            self.reason.clone_from(&it.reason);
        }
        self.class = it.class;
        self.pause_asked = false;
        self.ended = Some(now);
        Ok(())
    }

    pub(super) fn push_step(&mut self, intent: &Intent) -> Result<(), Illegal> {
        self.expect(self.state == JobState::Running && self.open_step().is_none())?;
        self.steps.push(Step { intent: intent.id, kind: intent.effect.kind(), outcome: None });
        Ok(())
    }

    pub(super) fn settle_step(&mut self, intent: IntentId, outcome: &Outcome) {
        // A job that ended while its intent was open, because the VM went away, has nothing more to learn.
        if let Some(step) = self.steps.iter_mut().find(|step| step.intent == intent) {
            step.outcome = Some(outcome.clone());
        }
    }

    fn expect(&self, may: bool) -> Result<(), Illegal> {
        if may { Ok(()) } else { Err(Illegal::JobState { job: self.id, state: self.state }) }
    }
}

impl State {
    pub(super) fn queue_job(&mut self, at: Stamp, it: &JobQueued) -> Result<(), Illegal> {
        if it.job < self.next.job {
            return Err(Illegal::Reused(it.job.to_string()));
        }
        // They are older, so that no two ever wait for one another.
        if let Some(later) = it.terms.after.iter().find(|job| **job >= it.job) {
            return Err(unknown(later));
        }
        self.next.job = it.job.next();
        let under_way = |job: &&JobId| self.jobs.get(job).is_some_and(|job| !job.state.is_over());
        let waits_for = it.terms.after.iter().filter(under_way).copied().collect();
        let point = match &it.work {
            Work::Restore(work) => Some(work.point),
            Work::Forget { point } => Some(*point),
            _ => None,
        };
        let of_point = || self.points.get(&point?).map(|point| &point.repository);
        let repository = it.work.repository().or_else(of_point).cloned();
        let job = Job {
            id: it.job,
            work: it.work.clone(),
            due: it.due.clone(),
            state: JobState::Queued,
            reason: None,
            created: at.time,
            started: None,
            ended: None,
            cancel_asked: false,
            pause_asked: false,
            terms: it.terms.clone(),
            waits_for,
            repository,
            not_before: it.due.as_ref().map_or(at.time, |due| due.not_before),
            class: None,
            tries: Vec::new(),
            plan: None,
            export: None,
            steps: Vec::new(),
        };
        self.index.queue.put_in(&job);
        self.jobs.insert(it.job, job);
        Ok(())
    }

    pub(super) fn plan_backup(&mut self, it: &BackupPlanned) -> Result<(), Illegal> {
        if it.point < self.next.point {
            return Err(Illegal::Reused(it.point.to_string()));
        }
        if it.checkpoint < self.next.checkpoint {
            return Err(Illegal::Reused(it.checkpoint.to_string()));
        }
        let job = self.jobs.get_mut(&it.job).ok_or_else(|| unknown(it.job))?;
        job.expect(job.state == JobState::Running && job.plan.is_none())?;
        job.plan = Some(Box::new(it.clone()));
        self.next.point = it.point.next();
        self.next.checkpoint = it.checkpoint.next();
        Ok(())
    }

    pub(super) fn plan_export(&mut self, it: &ExportPlanned) -> Result<(), Illegal> {
        let job = self.jobs.get_mut(&it.job).ok_or_else(|| unknown(it.job))?;
        job.expect(job.state == JobState::Running && job.export.is_none())?;
        job.export = Some(Box::new(it.clone()));
        Ok(())
    }
}
