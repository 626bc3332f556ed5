//! Seeded journals for tests: legal records of two VMs and a repository, without a world behind them.

use std::path::Path;

use journal::effect::{Check, Consistency, Effect, Forget, Intent, RepositoryAddress, Store, VmAddress, Way};
use journal::log::Log;
use journal::outcome::{Done, Failure, FailureClass, Outcome, Stored};
use journal::record::{
    BackupWork, CancelAsked, ConsistencyAsked, End, EpochBegan, Installed, IntentAdopted, IntentOpened,
    IntentSettled, JobEnded, JobQueued, JobStarted, Mode, PointGone, PointHeld, RepositoryAdded, Terms,
    VmAdded, Witness, Work,
};
use journal::state::{JobState, Stamp};
use journal::{Epoch, Installation, PointId, Process, Record, State, Time, VmId};
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};

use super::History;
use crate::drive::start::{append, fold};

/// An installation's folder, and what it holds while it is open.
pub struct Site {
    pub log: Log,
    pub history: History,
    pub state: State,
}

impl Site {
    pub fn open(data: &Path) -> Site {
        let (opened, index) = fold(data).expect("what a test needs");
        assert_eq!(index.broken, None);
        let history = History::start(index).expect("what a test needs");
        Site { log: opened.log, history, state: opened.state }
    }

    pub async fn live(&mut self, groups: &[Vec<Record>]) {
        for group in groups {
            append(&self.log, &self.history, &mut self.state, Epoch(1), group)
                .await
                .expect("what a test needs");
        }
    }

    pub fn last(&self) -> u64 {
        self.log.durable().borrow().seq
    }

    /// All keys and values, once it has all that is durable.
    pub async fn all(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        assert!(self.history.caught_up(self.last()).await);
        let entries = self.history.inner.db.iter().map(|entry| entry.expect("what was read"));
        entries.map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
    }
}

/// The seed of a run: fixed, or as an operator asks for it.
pub fn seed() -> u64 {
    std::env::var("BACKSTAY_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7)
}

pub fn vm(number: u128) -> VmId {
    VmId(uuid::Uuid::from_u128(number))
}

fn address(number: u128) -> VmAddress {
    let name = format!("vm{number}").parse().expect("a name");
    VmAddress { id: vm(number), name, qmp: "/qmp".into(), guest_agent: None }
}

fn repository() -> RepositoryAddress {
    RepositoryAddress {
        name: "main".parse().expect("a name"),
        path: "/repository".into(),
        password_file: "/key".into(),
        append_only: false,
        rates: Vec::new(),
    }
}

/// Groups of records that are appended together, `groups` of them after the ones that set the scene.
pub fn story(seed: u64, groups: usize) -> Vec<Vec<Record>> {
    let mut teller = Teller {
        state: State::default(),
        rng: StdRng::seed_from_u64(seed),
        told: Vec::new(),
        points: 0,
        checkpoints: 0,
    };
    let scene: Vec<Record> = vec![
        Installed { installation: Installation(7) }.into(),
        EpochBegan { pid: 1, version: "0".into() }.into(),
        VmAdded { vm: address(1), disks: Vec::new(), labels: Vec::new(), host: None }.into(),
        VmAdded { vm: address(2), disks: Vec::new(), labels: Vec::new(), host: None }.into(),
        RepositoryAdded { repository: repository(), id: "r".into(), chunk_bytes: 1 << 20 }.into(),
    ];
    scene.into_iter().for_each(|record| teller.tell(record));
    let mut told = vec![std::mem::take(&mut teller.told)];
    for _ in 0..groups {
        for _ in 0..teller.rng.random_range(1..4) {
            teller.event();
        }
        told.push(std::mem::take(&mut teller.told));
    }
    told.retain(|group| !group.is_empty());
    told
}

struct Teller {
    state: State,
    rng: StdRng,
    told: Vec<Record>,
    points: u64,
    checkpoints: u64,
}

impl Teller {
    fn tell(&mut self, record: impl Into<Record>) {
        let record = record.into();
        let stamp = Stamp { epoch: Epoch(1), time: Time(0) };
        self.state.apply(stamp, &record).unwrap_or_else(|illegal| panic!("{illegal}: {record:?}"));
        self.told.push(record);
    }

    fn point(&mut self) -> Option<PointId> {
        self.state.points.keys().copied().choose(&mut self.rng)
    }

    fn event(&mut self) {
        match self.rng.random_range(0..20) {
            0..4 => self.queue(),
            4..7 => self.start(),
            7..11 => self.open(),
            11..16 => self.settle(),
            16..18 => self.end(),
            18 => {
                let held = self.rng.random();
                if let Some(point) = self.point() {
                    self.tell(PointHeld { point, held });
                }
            }
            _ if self.rng.random_ratio(1, 4) => {
                if let Some(point) = self.point() {
                    self.tell(PointGone { point, why: "not in main".into() });
                }
            }
            _ => {
                let open = self.state.open.keys().copied().choose(&mut self.rng);
                if let Some(intent) = open {
                    self.tell(IntentAdopted { intent, row: "absent".into(), why: "it is repeated".into() });
                }
            }
        }
    }

    fn queue(&mut self) {
        let name = repository().name;
        let number = self.rng.random_range(1..3);
        let work = match (self.rng.random_range(0..6), self.point()) {
            (0..3, _) => Work::Backup(BackupWork {
                vm: vm(number),
                repository: name,
                mode: Mode::Auto,
                since: None,
                consistency: ConsistencyAsked::Crash,
            }),
            (3, Some(point)) => Work::Forget { point },
            (4, _) => Work::CheckRepository { repository: name, read_percent: 0 },
            _ => Work::Reconcile { vm: vm(number) },
        };
        self.tell(JobQueued { job: self.state.next.job, work, due: None, terms: Terms::default() });
    }

    fn job(&mut self, wanted: impl Fn(&journal::state::Job) -> bool) -> Option<journal::state::Job> {
        self.state.jobs.values().filter(|job| wanted(job)).choose(&mut self.rng).cloned()
    }

    fn start(&mut self) {
        if let Some(job) = self.job(|job| job.state == JobState::Queued) {
            self.tell(JobStarted { job: job.id });
        }
    }

    fn open(&mut self) {
        let free = |job: &journal::state::Job| job.state == JobState::Running && job.open_step().is_none();
        let Some(job) = self.job(free) else { return };
        let effect = match &job.work {
            Work::Backup(work) => self.store(if work.vm == vm(1) { 1 } else { 2 }),
            Work::Forget { point } => Effect::Forget(Forget {
                repository: repository(),
                point: *point,
                snapshot: "s".into(),
                reason: "asked for".into(),
            }),
            _ => Effect::Check(Check { repository: repository(), read_percent: 0 }),
        };
        self.tell(IntentOpened { intent: Intent { id: self.state.next.intent, job: Some(job.id), effect } });
    }

    fn store(&mut self, number: u128) -> Effect {
        self.points += 1;
        self.checkpoints += 1;
        let store = Store {
            vm: address(number),
            process: Process { pid: 1, started_ticks: 1, boot: uuid::Uuid::from_u128(1) },
            qemu: "10.0.2".into(),
            installation: Installation(7),
            view: journal::IntentId(1),
            way: Way::BackupJob,
            repository: repository(),
            point: PointId(self.points),
            // The wall clock goes back now and then.
            instant: Time(self.rng.random_range(0..1_000_000)),
            checkpoint: journal::CheckpointId(self.checkpoints),
            chain: Vec::new(),
            policy: None,
            consistency: Consistency::Crash,
            disks: Vec::new(),
            left_out: Vec::new(),
            audit_chunks: 0,
            bandwidth: None,
        };
        Effect::Store(store.into())
    }

    fn settle(&mut self) {
        let Some(open) = self.state.open.values().choose(&mut self.rng).cloned() else { return };
        let intent = open.intent.id;
        let outcome = match open.intent.effect {
            _ if self.rng.random_ratio(1, 8) => Outcome::Failed(Failure::new(FailureClass::Host, "no")),
            Effect::Store(_) => Outcome::Done(Done::Stored(Stored {
                snapshot: format!("{intent}"),
                consistency: Consistency::Crash,
                disks: Vec::new(),
            })),
            Effect::Check(_) => Outcome::Done(Done::Checked { problems: Vec::new() }),
            Effect::Thaw(_) => Outcome::Done(Done::Thawed { filesystems: 1 }),
            _ => Outcome::Done(Done::Plain),
        };
        self.tell(IntentSettled { intent, outcome, by: Witness::Agent });
    }

    fn end(&mut self) {
        let Some(job) = self.job(|job| !job.state.is_over()) else { return };
        if job.state == JobState::Queued {
            self.tell(CancelAsked { job: job.id, why: None });
        }
        // Now and then before its intent is settled, as when a VM is removed.
        if job.open_step().is_none() || self.rng.random_ratio(1, 4) {
            let end = if job.state == JobState::Running { End::Done } else { End::Cancelled };
            self.tell(JobEnded { job: job.id, end, reason: None, class: None });
        }
    }
}
