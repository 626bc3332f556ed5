//! Histories: random sequences of records, each of which may follow the ones before it. The same seed, the same history.

#![allow(dead_code, clippy::unwrap_used, reason = "each test binary takes what it needs")]

use journal::effect::{Freeze, Thaw, VmAddress};
use journal::log::Entry;
use journal::outcome::{Done, Failure, FailureClass, Outcome};
use journal::record::*;
use journal::state::{JobState, Stamp};
use journal::{
    Effect, Epoch, Installation, Intent, IntentId, JobId, PolicyName, Process, Record, State, Time, VmId,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// How many histories a test runs: few with the other tests, as many as `JOURNAL_HISTORIES` says on their own.
pub fn histories(few: u64) -> u64 {
    std::env::var("JOURNAL_HISTORIES").map_or(few, |many| many.parse().unwrap())
}

/// Grows a history.
pub struct Historian {
    pub state: State,
    pub dice: StdRng,
    time: i64,
    epoch: u64,
    vms: u128,
}

impl Historian {
    pub fn new(seed: u64) -> Historian {
        Historian { state: State::default(), dice: StdRng::seed_from_u64(seed), time: 0, epoch: 0, vms: 0 }
    }

    /// The next record as an entry of the log; the state is what it makes so.
    pub fn next(&mut self) -> Entry {
        loop {
            let record = self.draw();
            if matches!(record, Record::EpochBegan(_)) {
                self.epoch += 1;
            }
            self.time += 1 + i64::from(self.dice.random_range(0..1_000_000));
            let stamp = Stamp { epoch: Epoch(self.epoch), time: Time(self.time) };
            let before = self.state.clone();
            let applied = self.state.apply(stamp, &record);
            assert!(
                applied.is_ok() || self.state == before,
                "refused, and yet it changed something: {record:?}"
            );
            if applied.is_ok() {
                let encoded = record.encode().unwrap();
                return Entry {
                    kind: encoded.kind,
                    version: encoded.version,
                    epoch: self.epoch,
                    time: self.time,
                    body: encoded.body,
                };
            }
        }
    }

    pub fn take(&mut self, count: usize) -> Vec<Entry> {
        (0..count).map(|_| self.next()).collect()
    }

    fn some_vm(&mut self) -> Option<VmId> {
        let at = self.dice.random_range(0..self.state.vms.len().max(1));
        self.state.vms.keys().nth(at).copied()
    }

    /// A job that is in this state.
    fn some_job(&mut self, wanted: JobState) -> Option<JobId> {
        let of: Vec<JobId> =
            self.state.jobs.values().filter(|job| job.state == wanted).map(|job| job.id).collect();
        (!of.is_empty()).then(|| of[self.dice.random_range(0..of.len())])
    }

    fn draw(&mut self) -> Record {
        if self.state.installation.is_none() {
            return Installed { installation: Installation(0x0a1b_2c3d) }.into();
        }
        if self.epoch == 0 || self.dice.random_ratio(1, 40) {
            return EpochBegan { pid: self.dice.random(), version: "0.1.0".into() }.into();
        }
        if self.state.vms.is_empty() || self.dice.random_ratio(1, 30) {
            return self.vm_added();
        }
        if self.dice.random_ratio(1, 30) {
            let vm = self.some_vm().unwrap();
            return VmHosted { vm, host: "kvm-2".parse().unwrap() }.into();
        }
        self.draw_of_jobs().unwrap_or_else(|| self.draw_of_policies())
    }

    fn vm_added(&mut self) -> Record {
        self.vms += 1;
        let id = VmId(uuid::Uuid::from_u128(self.vms));
        let (qmp, guest_agent) = (format!("/run/{}.qmp", self.vms), None);
        let vm = VmAddress { id, name: format!("vm-{}", self.vms).parse().unwrap(), qmp, guest_agent };
        let host = self.dice.random::<bool>().then(|| "kvm-1".parse().unwrap());
        VmAdded { vm, disks: Vec::new(), labels: vec![("n".into(), self.vms.to_string())], host }.into()
    }

    fn draw_of_jobs(&mut self) -> Option<Record> {
        let next = self.state.next;
        let vm = self.some_vm()?;
        Some(match self.dice.random_range(0..12) {
            0..3 => {
                JobQueued { job: next.job, work: Work::Reconcile { vm }, due: None, terms: Terms::default() }
                    .into()
            }
            3..5 => JobStarted { job: self.some_job(JobState::Queued)? }.into(),
            5..7 => {
                let (job, vm) = (self.some_job(JobState::Running)?, self.state.vms[&vm].address.clone());
                let effect = match self.dice.random() {
                    true => Effect::Freeze(Freeze { vm, limit_ms: 10_000 }),
                    false => Effect::Thaw(Thaw { vm }),
                };
                IntentOpened { intent: Intent { id: next.intent, job: Some(job), effect } }.into()
            }
            7..10 => self.settled()?,
            10 if self.dice.random() => {
                let job = self.some_job(JobState::Running)?;
                let asked = PauseAsked { job, paused: self.dice.random() };
                (!self.state.jobs[&job].cancel_asked).then_some(asked)?.into()
            }
            10 => CancelAsked { job: self.some_job(JobState::Running)?, why: None }.into(),
            _ => {
                let job = self.some_job(JobState::Running)?;
                JobEnded {
                    job,
                    end: End::Done,
                    reason: self.dice.random::<bool>().then(|| "so".into()),
                    class: None,
                }
                .into()
            }
        })
    }

    fn settled(&mut self) -> Option<Record> {
        let intent: IntentId = *self.state.open.keys().next()?;
        let thaws = matches!(self.state.open[&intent].intent.effect, Effect::Thaw(_));
        let outcome = match self.dice.random() {
            true if thaws => Outcome::Done(Done::Thawed { filesystems: 1 }),
            true => Outcome::Done(Done::Plain),
            false => Outcome::Failed(Failure::new(FailureClass::Unreachable, "it did not answer in time")),
        };
        Some(IntentSettled { intent, outcome, by: Witness::Agent }.into())
    }

    fn draw_of_policies(&mut self) -> Record {
        let name: PolicyName = format!("policy-{}", self.dice.random_range(0..4)).parse().unwrap();
        match self.dice.random_range(0..5) {
            0 => PolicyApplied { name, text: "x".repeat(self.dice.random_range(0..700)) }.into(),
            1 => PolicyRemoved { name }.into(),
            2 => PolicyPaused { name, paused: self.dice.random() }.into(),
            3 => ScheduleAdvanced { policy: name, schedule: "0 2 * * *".into(), through: Time(self.time) }
                .into(),
            _ => {
                let vm = *self.state.vms.keys().next().unwrap();
                let process =
                    Process { pid: self.dice.random_range(1..99), started_ticks: 7, boot: uuid::Uuid::nil() };
                ProcessSeen { vm, process, version: "10.0.2".into() }.into()
            }
        }
    }
}

/// What the first `count` of these entries make so.
pub fn folded(entries: &[Entry], count: usize) -> State {
    let mut state = State::default();
    for entry in &entries[..count] {
        let record = Record::decode(entry.kind, entry.version, &entry.body).unwrap();
        state.apply(Stamp { epoch: Epoch(entry.epoch), time: Time(entry.time) }, &record).unwrap();
    }
    state
}
