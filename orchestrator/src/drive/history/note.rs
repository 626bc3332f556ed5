//! What each record changes in the index: a pure function of the record, the state right after it, and the intents that
//! are open.
//!
//! Knows no key and no file.

use std::collections::BTreeMap;

use journal::effect::Effect;
use journal::outcome::{Done, Outcome};
use journal::record::{
    BackupPlanned, CancelAsked, ExportPlanned, IntentAdopted, IntentSettled, JobEnded, JobPaused, JobRetried,
    JobStarted, PauseAsked,
};
use journal::state::{Job, Point};
use journal::{IntentId, PointId, Record, State, Time, VmId};
use serde::{Deserialize, Serialize};

use crate::api::journal::vm_of;

/// What one record changes.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::drive) struct Note {
    /// The record.
    pub seq: u64,
    /// Its kind.
    pub kind: u16,
    /// When it was written.
    pub time: Time,
    /// The VMs that it concerns.
    pub vms: Vec<VmId>,
    /// An intent that it opened, or (`None`) settled.
    pub intent: Option<(IntentId, Option<Subject>)>,
    /// A job that it ended.
    pub job: Option<Box<Job>>,
    /// What it did to restore points.
    pub points: Vec<PointNote>,
}

/// What a record did to a restore point.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::drive) enum PointNote {
    /// It was made or changed.
    Is(Box<Point>),
    /// It went.
    Went(PointId, Gone),
}

/// When and why a restore point went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// When that was recorded.
    pub at: Time,
    /// How.
    pub how: How,
    /// Why, in a sentence.
    pub why: String,
    /// The record that says so.
    pub seq: u64,
}

/// How a restore point went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// Backstay forgot it: a policy or an operator wanted that.
    Forgotten,
    /// It was no longer in its repository.
    Missing,
}

/// What an open intent is about: its settlement names it only by number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::drive) struct Subject {
    /// The VMs that it concerns.
    vms: Vec<VmId>,
    /// The point that is there once it is done.
    makes: Option<PointId>,
    /// The point that is gone then, and why.
    forgets: Option<(PointId, String)>,
}

impl Subject {
    /// Of an intent whose VMs are known.
    fn of(effect: &Effect, vms: Vec<VmId>) -> Subject {
        let (makes, forgets) = match effect {
            Effect::Store(store) => (Some(store.point), None),
            Effect::Forget(forget) => (None, Some((forget.point, forget.reason.clone()))),
            _ => (None, None),
        };
        Subject { vms, makes, forgets }
    }

    /// What it does to restore points once it is done.
    fn done(self, done: &Done, state: &State, gone: impl FnOnce(String) -> Gone) -> Vec<PointNote> {
        if let Some((point, why)) = self.forgets {
            return vec![PointNote::Went(point, gone(why))];
        }
        let mut points: Vec<_> = self.makes.into_iter().flat_map(|point| is(state, point)).collect();
        // A bitmap that missed a change puts older points in doubt.
        if let Done::Stored(stored) = done
            && stored.disks.iter().any(|disk| disk.distrust.is_some())
        {
            let doubted = |point: &&Point| self.vms.contains(&point.vm) && point.suspect.is_some();
            points.extend(state.points.values().filter(doubted).flat_map(|point| is(state, point.id)));
        }
        points
    }
}

/// Makes notes of records that it is shown in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::drive) struct Notes {
    intents: BTreeMap<IntentId, Subject>,
}

impl Notes {
    /// Goes on where these intents are open.
    pub fn going_on(intents: BTreeMap<IntentId, Subject>) -> Notes {
        Notes { intents }
    }

    /// The subjects of what is open in a state, where the records before it cannot be read.
    pub fn open_in(state: &State) -> BTreeMap<IntentId, Subject> {
        let subject = |open: &journal::state::Open| {
            let intent = &open.intent;
            let job = intent.job.and_then(|job| state.jobs.get(&job)).and_then(|job| job.work.vm());
            Subject::of(&intent.effect, distinct(intent.effect.vm(), job))
        };
        state.open.iter().map(|(id, open)| (*id, subject(open))).collect()
    }

    /// The note of a record; `state` is as it is right after it.
    pub fn take(&mut self, seq: u64, time: Time, state: &State, record: &Record) -> Note {
        let mut note = Note {
            seq,
            kind: record.kind().0,
            time,
            vms: self.concerned(state, record),
            intent: None,
            job: None,
            points: Vec::new(),
        };
        match record {
            Record::IntentOpened(it) => {
                let subject = Subject::of(&it.intent.effect, note.vms.clone());
                self.intents.insert(it.intent.id, subject.clone());
                note.intent = Some((it.intent.id, Some(subject)));
            }
            Record::IntentSettled(it) => {
                note.intent = Some((it.intent, None));
                let subject = self.intents.remove(&it.intent).unwrap_or_default();
                if let Outcome::Done(done) = &it.outcome {
                    let gone = |why| Gone { at: time, how: How::Forgotten, why, seq };
                    note.points = subject.done(done, state, gone);
                }
            }
            Record::JobEnded(it) => note.job = state.jobs.get(&it.job).cloned().map(Box::new),
            Record::PointHeld(it) => note.points = is(state, it.point),
            Record::PointGone(it) => {
                let gone = Gone { at: time, how: How::Missing, why: it.why.clone(), seq };
                note.points = vec![PointNote::Went(it.point, gone)];
            }
            _ => {}
        }
        note
    }

    /// The VMs that a record concerns, by itself or by its job or intent: as [`crate::api::journal::Filter`] says one VM
    /// at a time.
    fn concerned(&self, state: &State, record: &Record) -> Vec<VmId> {
        let of_job = |job| state.jobs.get(job).and_then(|job| job.work.vm());
        match record {
            Record::IntentOpened(it) => distinct(vm_of(record), it.intent.job.as_ref().and_then(of_job)),
            Record::JobStarted(JobStarted { job })
            | Record::BackupPlanned(BackupPlanned { job, .. })
            | Record::ExportPlanned(ExportPlanned { job, .. })
            | Record::CancelAsked(CancelAsked { job, .. })
            | Record::JobRetried(JobRetried { job, .. })
            | Record::PauseAsked(PauseAsked { job, .. })
            | Record::JobPaused(JobPaused { job })
            | Record::JobEnded(JobEnded { job, .. }) => of_job(job).into_iter().collect(),
            Record::IntentAdopted(IntentAdopted { intent, .. })
            | Record::IntentSettled(IntentSettled { intent, .. }) => {
                self.intents.get(intent).map(|subject| subject.vms.clone()).unwrap_or_default()
            }
            record => vm_of(record).into_iter().collect(),
        }
    }
}

fn is(state: &State, point: PointId) -> Vec<PointNote> {
    state.points.get(&point).map(|point| PointNote::Is(Box::new(point.clone()))).into_iter().collect()
}

fn distinct(one: Option<VmId>, other: Option<VmId>) -> Vec<VmId> {
    one.into_iter().chain(other.filter(|other| Some(*other) != one)).collect()
}
