//! The drive, step by step and without a clock: what `drive::engine` does, under the test's control of every instant
//! at which something can go wrong.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use journal::effect::{self, DiskMode, RepositoryAddress, VmAddress, Way};
use journal::names::{Owner, owner};
use journal::notice::{Answer, NoticeAnswered, Subject};
use journal::record::{
    BackupWork, CancelAsked, ConsistencyAsked, Due, End, EpochBegan, ExportWork, Installed, IntentSettled,
    JobQueued, Mode, PauseAsked, PolicyApplied, RepositoryAdded, Terms, VmAdded, Witness, Work,
};
use journal::state::{JobState, Stamp};
use journal::{
    Effect, Epoch, Failure, FailureClass, Installation, Outcome, PolicyName, ReceiverName, Record,
    RepositoryName, State, Time, VmId,
};
use orchestrator::decide::notify::Delivery;
use orchestrator::decide::schedule::next_instant;
use orchestrator::decide::{CheckStep, Limits, Live, Seen, next};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::hooks::Hooks;
use crate::world::{FAILS, World};

enum Message {
    Perform(Box<journal::Intent>),
    Observe(VmId),
    Tell(Delivery),
}

pub struct Driver {
    pub world: World,
    state: State,
    records: Vec<(Stamp, Record)>,
    live: Live,
    inbox: VecDeque<Message>,
    epoch: Epoch,
    clock: i64,
    rng: StdRng,
    /// The notices that their receivers have had.
    told: BTreeSet<Delivery>,
    pub retries: usize,
    pub rests: usize,
    mapped: usize,
    pub hooks: Hooks,
}

/// How often the policy's backups are tried.
const ATTEMPTS: u32 = 3;

/// The beginning of a life in which two are to be notified.
fn life() -> Live {
    Live::new(Limits::default(), receivers())
}

fn receivers() -> BTreeSet<ReceiverName> {
    ["mail", "webhook"].map(|name| name.parse().unwrap()).into()
}

fn policy() -> PolicyName {
    "p".parse().unwrap()
}

fn repository() -> RepositoryName {
    "main".parse().unwrap()
}

fn vm() -> VmId {
    VmId(uuid::Uuid::from_u128(1))
}

impl Driver {
    pub fn new(seed: u64) -> Self {
        let mut driver = Self {
            world: World::new(3, [Way::CopyBeforeWrite, Way::BackupJob, Way::Push][(seed % 3) as usize]),
            state: State::default(),
            records: Vec::new(),
            live: life(),
            told: BTreeSet::new(),
            inbox: VecDeque::new(),
            epoch: Epoch(1),
            clock: 1,
            rng: StdRng::seed_from_u64(seed),
            retries: 0,
            rests: 0,
            mapped: 0,
            hooks: Hooks::default(),
        };
        let installation = Installation(7);
        driver.world.installation = Some(installation);
        let address =
            VmAddress { id: vm(), name: "vm".parse().unwrap(), qmp: "/qmp".into(), guest_agent: None };
        let target = RepositoryAddress {
            name: repository(),
            path: "/repository".into(),
            password_file: "/key".into(),
            append_only: false,
            rates: Vec::new(),
        };
        driver.append(Installed { installation }.into());
        driver.append(EpochBegan { pid: 1, version: "0".into() }.into());
        driver.append(VmAdded { vm: address, disks: Vec::new(), labels: Vec::new(), host: None }.into());
        driver.append(RepositoryAdded { repository: target, id: "r".into(), chunk_bytes: 1 << 20 }.into());
        let text = format!(
            "name = \"p\"\nrepositories = [\"main\"]\nselect.names = [\"*\"]\nretry = {{ attempts = {ATTEMPTS} }}\n"
        );
        driver.append(PolicyApplied { name: policy(), text }.into());
        driver
    }

    fn append(&mut self, record: Record) {
        self.clock += 1;
        let stamp = Stamp { epoch: self.epoch, time: Time(self.clock) };
        // What is written is what is read: a record that does not survive its own bytes would be found here.
        let encoded = record.encode().unwrap();
        let read = Record::decode(encoded.kind, encoded.version, &encoded.body).unwrap();
        assert_eq!(read, record);
        self.state.apply(stamp, &record).unwrap_or_else(|illegal| panic!("{illegal}: {record:?}"));
        self.hooks.see(&record);
        self.retries += usize::from(matches!(record, Record::JobRetried(_)));
        self.rests += usize::from(matches!(record, Record::JobPaused(_)));
        if std::env::var_os("BACKSTAY_TRACE").is_some() {
            println!("{} {record:?}", stamp.epoch);
        }
        self.records.push((stamp, record));
    }

    /// One thing happens: a decision, or the agent's next message.
    pub fn advance(&mut self) {
        if !self.decide() {
            self.deliver();
        }
    }

    fn decide(&mut self) -> bool {
        assert!(self.live.refresh_policies(&self.state).is_empty());
        let Some(decision) = next(&self.state, &self.live, Time(self.clock)) else { return false };
        assert!(!decision.is_empty(), "a decision that changes nothing would be taken for ever");
        let records = decision.records.len();
        for (written, record) in decision.records.into_iter().enumerate() {
            // A crash may keep any first part of what was appended together.
            if written > 0 && written < records && self.rng.random_ratio(1, 200) {
                return self.restart();
            }
            self.append(record);
        }
        for intent in decision.send {
            let open = self.state.open[&intent].intent.clone();
            self.live.take_up(intent);
            self.inbox.push_back(Message::Perform(Box::new(open)));
        }
        for intent in decision.cancel {
            self.live.cancelling.insert(intent);
        }
        for (vm, step) in decision.checks {
            self.live.step(vm, step);
            if step == CheckStep::Ask {
                self.inbox.push_back(Message::Observe(vm));
            }
        }
        for delivery in decision.tell {
            self.live.telling.insert(delivery.clone());
            self.inbox.push_back(Message::Tell(delivery));
        }
        true
    }

    fn deliver(&mut self) -> bool {
        match self.inbox.pop_front() {
            None => return false,
            Some(Message::Observe(vm)) => {
                let (seen, repositories) = self.world.observe(&repository());
                self.live.saw(vm, Seen { vm: seen, repositories });
            }
            Some(Message::Tell(delivery)) => {
                self.told.insert(delivery.clone());
                self.live.telling.remove(&delivery);
                let Delivery { notice, receiver } = delivery;
                let answer = Answer::Taken("thanks".to_owned());
                self.append(NoticeAnswered { notice, receiver, answer }.into());
            }
            Some(Message::Perform(intent)) => {
                self.check_export(&intent);
                // What is asked to stop may have been done before.
                let long = intent.effect.kind() == journal::EffectKind::Store;
                let stopped = long && self.live.cancelling.contains(&intent.id) && self.rng.random();
                let outcome = match stopped {
                    true => Outcome::Failed(Failure::new(FailureClass::Cancelled, "stopped")),
                    false => self.world.perform(&intent, Time(self.clock)),
                };
                self.live.put_down(intent.id);
                self.append(IntentSettled { intent: intent.id, outcome, by: Witness::Agent }.into());
            }
        }
        true
    }

    /// The orchestrator and its agent die; the agent may have done what it was told and not said so.
    pub fn crash(&mut self) {
        let done_unsaid = self.rng.random_range(0..=self.inbox.len());
        for message in self.inbox.drain(..done_unsaid) {
            match message {
                Message::Perform(intent) => {
                    self.world.perform(&intent, Time(self.clock));
                }
                Message::Tell(delivery) => {
                    self.told.insert(delivery);
                }
                Message::Observe(_) => {}
            }
        }
        self.restart();
    }

    fn restart(&mut self) -> bool {
        self.inbox.clear();
        self.live = life();
        // Replay: the state is a function of the records alone.
        let mut replayed = State::default();
        for (stamp, record) in &self.records {
            replayed.apply(*stamp, record).unwrap();
        }
        assert_eq!(replayed, self.state);
        self.epoch = self.epoch.next();
        self.append(EpochBegan { pid: 1, version: "0".into() }.into());
        self.live.look_at_all(&self.state);
        true
    }

    /// The agent loses its connection in the middle of an effect, done or not.
    pub fn lose_answer(&mut self) {
        match self.inbox.pop_front() {
            Some(Message::Perform(intent)) => {
                if self.rng.random() {
                    self.world.perform(&intent, Time(self.clock));
                }
                match intent.effect.vm() {
                    Some(vm) => self.live.lose_sight(intent.id, vm),
                    None => {
                        self.live.put_down(intent.id);
                        let failure = Failure::new(FailureClass::Host, "the answer was lost");
                        let outcome = Outcome::Failed(failure);
                        self.append(IntentSettled { intent: intent.id, outcome, by: Witness::Agent }.into());
                    }
                }
            }
            Some(other) => self.inbox.push_front(other),
            None => {}
        }
    }

    fn queue(&mut self, work: Work) {
        let job = self.state.next.job;
        self.append(JobQueued { job, work, due: None, terms: Terms::default() }.into());
    }

    pub fn backup(&mut self) {
        let mode = match self.rng.random_range(0..10) {
            0 => Mode::Full,
            1 => Mode::Differential,
            _ => Mode::Auto,
        };
        // The last backups of a history are the ones that show healing: they ask for nothing special.
        let usual = self.inbox.is_empty() && self.live.checks.is_empty();
        let mode = if usual { Mode::Auto } else { mode };
        let consistency = ConsistencyAsked::Crash;
        let (vm, repository) = (vm(), repository());
        let work = Work::Backup(BackupWork { vm, repository, mode, since: None, consistency });
        let (job, at) = (self.state.next.job, Time(self.clock));
        let due = || Due { policy: policy(), schedule: "x".into(), at, not_before: at };
        let due = self.rng.random::<bool>().then(due);
        let hooks = due.as_ref().and_then(|_| self.hooks_of_a_run(usual)).map(Box::new);
        self.append(JobQueued { job, work, due, terms: Terms { hooks, ..Terms::default() } }.into());
    }

    /// What runs around a policy's run, if anything: on each side a hook, which now and then fails.
    fn hooks_of_a_run(&mut self, usual: bool) -> Option<effect::Hooks> {
        let mut hook = || {
            let name = if !usual && self.rng.random_ratio(1, 10) { FAILS } else { "works" };
            self.rng.random::<bool>().then(|| name.parse().unwrap())
        };
        let (before, after) = (hook(), hook());
        // What comes before alone owes nothing.
        let after = after.or_else(|| before.clone());
        after.is_some().then_some(effect::Hooks { before, after, limit_ms: 1000 })
    }

    /// Some job is to rest, or to go on.
    pub fn pause(&mut self) {
        let rests = |job: &&journal::state::Job| !job.cancel_asked && !matches!(job.work, Work::Export(_));
        let open = self.state.jobs.values().filter(|job| !job.state.is_over()).filter(rests);
        let open: Vec<_> = open.map(|job| job.id).collect();
        if !open.is_empty() {
            let job = open[self.rng.random_range(0..open.len())];
            let paused = self.rng.random();
            self.append(PauseAsked { job, paused }.into());
        }
    }

    /// Everybody goes on.
    fn resume_all(&mut self) {
        let rests = |job: &&journal::state::Job| job.pause_asked || job.state == JobState::Paused;
        let rest: Vec<_> = self.state.jobs.values().filter(rests).map(|job| job.id).collect();
        for job in rest {
            self.append(PauseAsked { job, paused: false }.into());
        }
    }

    /// Up to two minutes, in microseconds.
    pub fn let_time_pass(&mut self) {
        self.clock += self.rng.random_range(0..120_000_000);
    }

    /// The clock goes on to what comes next by itself, if anything does.
    fn wait(&mut self) -> bool {
        let next = next_instant(&self.state, &self.live, Time(self.clock));
        self.clock = next.map_or(self.clock, |next| next.0.max(self.clock));
        next.is_some()
    }

    pub fn export(&mut self) {
        let chain = &self.state.vms[&vm()].chain.checkpoints;
        let choice = self.rng.random_range(0..=chain.len());
        let since = chain.get(choice).map(|checkpoint| checkpoint.id);
        self.queue(Work::Export(ExportWork { vm: vm(), since, ttl_seconds: 1 }));
    }

    /// What an export calls changed since a checkpoint is all that has.
    fn check_export(&mut self, intent: &journal::Intent) {
        let Effect::Offer(offer) = &intent.effect else { return };
        let job = &self.state.jobs[&intent.job.unwrap()];
        let Work::Export(ExportWork { since: Some(since), .. }) = job.work else { return };
        let unnamed = self.world.unnamed_changes(offer.view, since);
        assert!(unnamed.is_empty() || self.world.tampered, "{}: not called changed: {unnamed:?}", job.id);
        let mapped =
            job.export.iter().flat_map(|plan| &plan.disks).filter(|disk| !disk.changed_since.is_empty());
        self.mapped += mapped.count();
    }

    /// How many disks were exported with a map of changes.
    pub fn mapped_disks(&self) -> usize {
        self.mapped
    }

    pub fn create_checkpoint(&mut self) {
        self.queue(Work::CreateCheckpoint { vm: vm() });
    }

    pub fn delete_checkpoint(&mut self) {
        let chain = &self.state.vms[&vm()].chain.checkpoints;
        if !chain.is_empty() {
            let checkpoint = chain[self.rng.random_range(0..chain.len())].id;
            self.queue(Work::DeleteCheckpoint { vm: vm(), checkpoint });
        }
    }

    pub fn forget_point(&mut self) {
        let points: Vec<_> = self.state.points.keys().copied().collect();
        if !points.is_empty() {
            let point = points[self.rng.random_range(0..points.len())];
            self.queue(Work::Forget { point });
        }
    }

    pub fn remove_bitmap(&mut self) {
        let disk = self.rng.random_range(0..3);
        let bitmaps = &mut self.world.disks[disk].bitmaps;
        let names: Vec<_> = bitmaps.keys().cloned().collect();
        if !names.is_empty() {
            bitmaps.remove(&names[self.rng.random_range(0..names.len())]);
        }
    }

    pub fn clear_bitmap(&mut self) {
        let (disk, nth) = (self.rng.random_range(0..3), self.rng.random_range(0..4));
        self.world.clear_bitmap(disk, nth);
    }

    pub fn cancel(&mut self) {
        let job =
            self.state.jobs.values().find(|job| !job.state.is_over() && !job.cancel_asked).map(|job| job.id);
        if let Some(job) = job {
            self.append(CancelAsked { job, why: None }.into());
        }
    }

    /// Everything that is on its way comes to its end.
    pub fn settle(&mut self) {
        self.world.start();
        self.world.full = false;
        self.resume_all();
        for _ in 0..3 {
            let mut steps = 0;
            while self.decide() || self.deliver() || self.wait() {
                steps += 1;
                assert!(steps < 10_000, "it never comes to rest: {:?}", self.state.jobs);
            }
            // What the clock does every now and then.
            self.live.look_at_unexplained(&self.state);
        }
    }

    /// The invariants at rest.
    pub fn check(&self) {
        for job in self.state.jobs.values() {
            assert!(job.state.is_over(), "{} is {}: {:?}", job.id, job.state, job.steps);
            let most = if job.due.is_some() { ATTEMPTS } else { 1 };
            assert!(job.attempt() <= most, "{} had {} tries", job.id, job.attempt());
            let failed = (job.state == JobState::Failed).then_some(job.class.is_some());
            assert_ne!(failed, Some(false), "{} failed of nothing: {:?}", job.id, job.reason);
        }
        self.check_notices();
        assert!(self.state.open.is_empty(), "{:?}", self.state.open);
        assert_eq!(self.world.leftovers(), Vec::<String>::new());
        let chain = &self.state.vms[&vm()].chain;
        for (place, disk) in self.world.disks.iter().enumerate() {
            let name = format!("d{place}").parse().unwrap();
            for bitmap in disk.bitmaps.keys() {
                assert!(matches!(owner(bitmap), Some(Owner::Bitmap(..))), "{bitmap} is left");
                // What is left over is removed at the latest by the next look at the VM.
                let explained = chain.tracks(&name, bitmap);
                let next_look =
                    self.state.jobs.values().next_back().is_some_and(|job| job.state != JobState::Done);
                assert!(explained || next_look, "{bitmap} of d{place} is left");
            }
        }
        for point in self.state.points.values() {
            let content = &self.world.snapshots[&point.snapshot];
            assert_eq!(
                content, &self.world.truth[&point.checkpoint.0],
                "{} is not what its view showed",
                point.id
            );
            assert!(point.suspect.is_none() || self.world.tampered, "{}: {:?}", point.id, point.suspect);
        }
    }

    /// Whatever was raised was told, and what is amiss was raised.
    fn check_notices(&self) {
        assert!(self.state.notices.is_empty(), "{:?}", self.state.notices);
        let mut amiss = false;
        let mut of_policy = BTreeMap::new();
        for (_, record) in &self.records {
            match record {
                Record::NoticeRaised(it) => {
                    for receiver in receivers() {
                        let delivery = Delivery { notice: it.notice, receiver };
                        assert!(self.told.contains(&delivery), "{delivery:?} was not told");
                    }
                }
                Record::JobQueued(it) if matches!(it.work, Work::Backup(_)) => {
                    of_policy.insert(it.job, it.due.is_some());
                }
                Record::JobEnded(it) => match (of_policy.get(&it.job), it.end) {
                    (Some(_), End::Done) => amiss = false,
                    (Some(true), End::Failed) => amiss = true,
                    _ => {}
                },
                _ => {}
            }
        }
        let subject = Subject::Backup { vm: vm(), repository: repository() };
        assert_eq!(self.state.alarms.contains_key(&subject), amiss);
    }

    fn disks(&self) -> impl Iterator<Item = &DiskMode> {
        self.state.points.values().flat_map(|point| point.disks.iter().map(|disk| &disk.mode))
    }

    pub fn incremental_disks(&self) -> usize {
        self.disks().filter(|mode| matches!(mode, DiskMode::Incremental { .. })).count()
    }

    pub fn full_disks(&self) -> usize {
        self.disks().filter(|mode| matches!(mode, DiskMode::Full { .. })).count()
    }
}
