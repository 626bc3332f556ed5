//! What to do next: the pure half of the orchestrator.
//!
//! [`next`] looks at the state that the records make and at what is in hand now, and returns the next [`Decision`], or
//! none when there is nothing to do but wait. The drive half appends its records, folds them in, and then carries out
//! its actions; nothing here touches a file, a socket, a clock or a random number.

pub mod backup;
pub mod checkpoint;
pub mod expire;
pub mod export;
pub mod hooks;
pub mod host;
pub mod jobs;
pub mod limits;
pub mod lint;
pub mod live;
pub mod notify;
pub mod plan;
pub mod queue;
pub mod reconcile;
pub mod repository;
pub mod restore;
pub mod retry;
pub mod schedule;
pub mod watch;
pub mod way;

use journal::record::{End, IntentAdopted, IntentOpened, JobEnded, JobPaused};
use journal::state::Job;
use journal::{Effect, Failure, FailureClass, Intent, IntentId, JobId, Record, State, Time, VmId};

pub use limits::Limits;
pub use live::{Check, Live, Seen};

/// What was decided: records to append and, once they are durable, actions to carry out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// What becomes so.
    pub records: Vec<Record>,
    /// Intents to send to an agent; those among `records` included.
    pub send: Vec<IntentId>,
    /// Intents that an agent is to stop working on.
    pub cancel: Vec<IntentId>,
    /// What changes for the VMs under check.
    pub checks: Vec<(VmId, CheckStep)>,
    /// Notices to deliver.
    pub tell: Vec<notify::Delivery>,
}

/// A step of a VM's check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckStep {
    /// The VM is to be looked at, and nothing else is done to it before.
    Want,
    /// It is being looked at: ask an agent.
    Ask,
    /// Leftovers are being removed, after which it is looked at again.
    Clean,
    /// What was seen is accepted; jobs go on.
    Accept,
}

impl Decision {
    /// Opens the next intent in `state`, and sends it.
    pub fn open(&mut self, state: &State, job: Option<JobId>, effect: Effect) {
        let opened = self.records.iter().filter(|record| matches!(record, Record::IntentOpened(_))).count();
        let id = IntentId(state.next.intent.0 + opened as u64);
        self.records.push(IntentOpened { intent: Intent { id, job, effect } }.into());
        self.send.push(id);
    }

    /// One effect of a job.
    #[must_use]
    pub fn effect(state: &State, job: JobId, effect: Effect) -> Self {
        let mut decision = Self::default();
        decision.open(state, Some(job), effect);
        decision
    }

    /// The end of a job.
    #[must_use]
    pub fn end(job: JobId, end: End, reason: Option<String>) -> Self {
        Self { records: vec![JobEnded { job, end, reason, class: None }.into()], ..Self::default() }
    }

    /// A job's failure that no further try heals.
    #[must_use]
    pub fn fail(job: JobId, reason: impl Into<String>) -> Self {
        Self::fail_as(job, FailureClass::Invalid, reason)
    }

    /// A job's failure, of a kind that says whether another try may help.
    #[must_use]
    pub fn fail_as(job: JobId, class: FailureClass, reason: impl Into<String>) -> Self {
        let ended = JobEnded { job, end: End::Failed, reason: Some(reason.into()), class: Some(class) };
        Self { records: vec![ended.into()], ..Self::default() }
    }

    /// A job's end by a failure: a cancellation where one was asked for.
    #[must_use]
    pub fn fail_with(job: &Job, failure: &Failure) -> Self {
        if job.cancel_asked && failure.class == FailureClass::Cancelled {
            return Self::end(job.id, End::Cancelled, Some(failure.what.clone()));
        }
        Self::fail_as(job.id, failure.class, failure.what.clone())
    }

    /// A job comes to rest.
    #[must_use]
    pub fn pause(job: JobId) -> Self {
        Self { records: vec![JobPaused { job }.into()], ..Self::default() }
    }

    /// A step of a VM's check.
    #[must_use]
    pub fn check(vm: VmId, step: CheckStep) -> Self {
        Self { checks: vec![(vm, step)], ..Self::default() }
    }

    /// Whether it opens an intent.
    #[must_use]
    pub fn opens(&self) -> bool {
        self.records.iter().any(|record| matches!(record, Record::IntentOpened(_)))
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The next thing to do, or `None` until something happens.
#[must_use]
pub fn next(state: &State, live: &Live, now: Time) -> Option<Decision> {
    adopt(state, live)
        .or_else(|| live.turns().find_map(|vm| watch::next(state, live, vm)))
        .or_else(|| jobs::running(state).find_map(|job| jobs::next(state, live, job, now)))
        .or_else(|| queue::admit(state, live, now))
        .or_else(|| if live.full { None } else { schedule::due(state, live, now) })
        .map(|decision| notify::beside(decision, state, live))
        .or_else(|| notify::next(state, live, now))
}

/// Open intents that touch no QEMU and that nobody works on: they look before they act, so they are sent again.
fn adopt(state: &State, live: &Live) -> Option<Decision> {
    // As a rule all are in hand, which their ids say.
    let mut orphans = state.open.iter().filter(|(id, _)| !live.in_hand.contains(id));
    let (&intent, _) = orphans.find(|(_, open)| open.intent.effect.vm().is_none())?;
    let row = reconcile::Row::OpenElsewhere;
    let adopted = IntentAdopted { intent, row: row.label().to_owned(), why: row.why().to_owned() };
    Some(Decision { records: vec![adopted.into()], send: vec![intent], ..Decision::default() })
}
