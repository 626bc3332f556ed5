//! Whatever the records, the index is what one made anew of the state would be.
#![allow(clippy::unwrap_used)]

use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};

use super::*;
use crate::effect::{
    Consistency, Effect, Forget, ImageFormat, Intent, Offer, RepositoryAddress, RestoreTarget, Store,
    VmAddress, Way,
};
use crate::notice::{NoticeKind, NoticeRaised};
use crate::outcome::{Done, FailureClass, Outcome, Stored};
use crate::record::*;
use crate::state::{Stamp, State};
use crate::{CheckpointId, Epoch, HostName, Installation, IntentId, Process, Record, RepositoryName, Time};

const HISTORIES: usize = 60;
const RECORDS: usize = 400;

struct Teller {
    state: State,
    dice: StdRng,
    time: i64,
    folded: usize,
}

impl Teller {
    /// Folds it in, or is refused; either way the index follows from the state.
    fn tell(&mut self, record: impl Into<Record>) {
        let record = record.into();
        self.time += self.dice.random_range(-3..9);
        let stamp = Stamp { epoch: Epoch(1), time: Time(self.time) };
        self.folded += usize::from(self.state.apply(stamp, &record).is_ok());
        let anew = Index::of(&self.state.vms, &self.state.jobs, &self.state.points, &self.state.alarms);
        assert_eq!(self.state.index, anew, "after {record:?}");
    }

    fn vm(&mut self) -> VmId {
        VmId(uuid::Uuid::from_u128(self.dice.random_range(1..5)))
    }

    fn repository(&mut self) -> RepositoryName {
        ["main", "other"][self.dice.random_range(0..2)].parse().unwrap()
    }

    fn host(&mut self) -> HostName {
        ["kvm-1", "kvm-2"][self.dice.random_range(0..2)].parse().unwrap()
    }

    fn job(&mut self) -> JobId {
        JobId(self.dice.random_range(1..=self.state.next.job.0))
    }

    fn work(&mut self) -> Work {
        let (vm, repository) = (self.vm(), self.repository());
        let point = self.state.points.keys().copied().choose(&mut self.dice).unwrap_or(PointId(1));
        match self.dice.random_range(0..10) {
            0 => Work::PruneRepository { repository },
            1 => Work::Forget { point },
            2 => Work::Restore(RestoreWork {
                point,
                disks: Vec::new(),
                format: ImageFormat::Raw,
                target: RestoreTarget::New,
            }),
            3 => Work::Reconcile { vm },
            4 | 5 => Work::Export(ExportWork { vm, since: None, ttl_seconds: 60 }),
            _ => {
                let (mode, consistency) = (Mode::Auto, ConsistencyAsked::Crash);
                Work::Backup(BackupWork { vm, repository, mode, since: None, consistency })
            }
        }
    }

    fn queued(&mut self) -> JobQueued {
        let due = self.dice.random::<bool>().then(|| Due {
            policy: ["nightly", "often"][self.dice.random_range(0..2)].parse().unwrap(),
            schedule: "@daily".into(),
            at: Time(self.time),
            not_before: Time(self.time + self.dice.random_range(-9..30)),
        });
        let deadline = self.dice.random::<bool>().then_some(Time(self.time + 20));
        let after = (0..self.dice.random_range(0..3)).map(|_| self.job()).collect();
        let terms = Terms { priority: self.dice.random_range(-1..2), deadline, after, ..Terms::default() };
        JobQueued { job: self.state.next.job, work: self.work(), due, terms }
    }

    fn point(&mut self) {
        let intent = self.state.next.intent;
        let vm = self.vm();
        let store = Store {
            vm: address(vm),
            process: Process { pid: 1, started_ticks: 1, boot: uuid::Uuid::nil() },
            qemu: String::new(),
            installation: Installation(1),
            view: IntentId(1),
            way: Way::BackupJob,
            repository: target(self.repository()),
            point: PointId(self.dice.random_range(1..40)),
            instant: Time(self.time),
            checkpoint: CheckpointId(1),
            chain: Vec::new(),
            policy: None,
            consistency: Consistency::Crash,
            disks: Vec::new(),
            left_out: Vec::new(),
            audit_chunks: 0,
            bandwidth: None,
        };
        self.settled(
            intent,
            Effect::Store(Box::new(store)),
            Done::Stored(Stored {
                snapshot: "ab".into(),
                consistency: Consistency::Crash,
                disks: Vec::new(),
            }),
        );
    }

    fn forget(&mut self) {
        let Some(point) = self.state.points.keys().copied().choose(&mut self.dice) else { return };
        if self.dice.random() {
            return self.tell(PointGone { point, why: "not there".into() });
        }
        let repository = target(self.repository());
        let forget = Forget { repository, point, snapshot: "ab".into(), reason: "so".into() };
        self.settled(self.state.next.intent, Effect::Forget(forget), Done::Plain);
    }

    /// Somebody is told that a VM has no good point, or that it has one again.
    fn alarm(&mut self) {
        let (notice, vm) = (self.state.next.notice, self.vm());
        let kind = [NoticeKind::Alarm, NoticeKind::Recovery][self.dice.random_range(0..2)];
        let subject = Subject::GoodPoint { vm };
        self.tell(NoticeRaised { notice, kind, subject, vm: None, text: String::new() });
    }

    /// A job offers a view, and perhaps not any more.
    fn offer(&mut self, job: JobId) {
        let id = self.state.next.intent;
        let offer = Offer {
            vm: address(self.vm()),
            process: Process { pid: 1, started_ticks: 1, boot: uuid::Uuid::nil() },
            installation: Installation(1),
            view: id,
            until: Time(self.time),
        };
        self.tell(IntentOpened { intent: Intent { id, job: Some(job), effect: Effect::Offer(offer) } });
        if self.dice.random() {
            let outcome = Outcome::Done(Done::Plain);
            self.tell(IntentSettled { intent: id, outcome, by: Witness::Agent });
        }
    }

    fn settled(&mut self, id: IntentId, effect: Effect, done: Done) {
        self.tell(IntentOpened { intent: Intent { id, job: None, effect } });
        self.tell(IntentSettled { intent: id, outcome: Outcome::Done(done), by: Witness::Agent });
    }
}

fn address(id: VmId) -> VmAddress {
    let name = format!("vm-{}", id.0.as_u128()).parse().unwrap();
    VmAddress { id, name, qmp: "/qmp".into(), guest_agent: None }
}

fn target(name: RepositoryName) -> RepositoryAddress {
    RepositoryAddress {
        name,
        path: "/r".into(),
        password_file: "/k".into(),
        append_only: false,
        rates: Vec::new(),
    }
}

fn history(seed: u64) -> usize {
    let mut teller =
        Teller { state: State::default(), dice: StdRng::seed_from_u64(seed), time: 100, folded: 0 };
    teller.tell(Installed { installation: Installation(1) });
    teller.tell(EpochBegan { pid: 1, version: "0".into() });
    for _ in 0..RECORDS {
        let job = teller.job();
        match teller.dice.random_range(0..30) {
            0..6 => {
                let queued = teller.queued();
                teller.tell(queued);
            }
            6..11 => teller.tell(JobStarted { job }),
            11..14 => {
                let end = [End::Done, End::Failed, End::Cancelled][teller.dice.random_range(0..3)];
                teller.tell(JobEnded { job, end, reason: None, class: None });
            }
            14 => teller.tell(CancelAsked { job, why: None }),
            15 => {
                let paused = teller.dice.random();
                teller.tell(PauseAsked { job, paused });
            }
            16 => teller.tell(JobPaused { job }),
            17 => {
                let (class, not_before) = (FailureClass::Full, Time(teller.time + 50));
                teller.tell(JobRetried { job, reason: "full".into(), class, not_before });
            }
            18 => {
                let vm = teller.vm();
                let host = teller.dice.random::<bool>().then(|| teller.host());
                teller.tell(VmAdded { vm: address(vm), disks: Vec::new(), labels: Vec::new(), host });
            }
            19 => {
                let vm = teller.vm();
                teller.tell(VmRemoved { vm });
            }
            20 => {
                let (vm, host) = (teller.vm(), teller.host());
                teller.tell(VmHosted { vm, host });
            }
            21..23 => teller.point(),
            23..27 => teller.offer(job),
            27..29 => teller.alarm(),
            _ => teller.forget(),
        }
    }
    teller.folded
}

#[test]
fn the_index_is_what_a_scan_gives() {
    let folded: usize = (0..HISTORIES as u64).map(history).sum();
    assert!(folded > RECORDS * HISTORIES / 4, "most of it was refused: {folded}");
}
