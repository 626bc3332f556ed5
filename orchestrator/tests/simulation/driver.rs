//! The drive, step by step and without a clock: what `drive::engine` does, under the test's control of every instant
//! at which something can go wrong.

use std::collections::VecDeque;

use journal::effect::{DiskMode, RepositoryAddress, VmAddress, Way};
use journal::names::{Owner, owner};
use journal::record::{
    BackupWork, CancelAsked, ConsistencyAsked, EpochBegan, ExportWork, Installed, IntentSettled, JobQueued,
    Mode, RepositoryAdded, VmAdded, Witness, Work,
};
use journal::state::{JobState, Stamp};
use journal::{
    Effect, Epoch, FailureClass, Installation, Outcome, Record, RepositoryName, State, Time, VmId,
};
use orchestrator::decide::{CheckStep, Live, Seen, next};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::world::World;

enum Message {
    Perform(Box<journal::Intent>),
    Observe(VmId),
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
    mapped: usize,
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
            live: Live::default(),
            inbox: VecDeque::new(),
            epoch: Epoch(1),
            clock: 1,
            rng: StdRng::seed_from_u64(seed),
            mapped: 0,
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
        driver.append(VmAdded { vm: address, disks: Vec::new(), labels: Vec::new() }.into());
        driver.append(RepositoryAdded { repository: target, id: "r".into(), chunk_bytes: 1 << 20 }.into());
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
            // Every effect of this world is over at once: a cancellation comes too late.
            self.live.cancelling.insert(intent);
        }
        for (vm, step) in decision.checks {
            self.live.step(vm, step);
            if step == CheckStep::Ask {
                self.inbox.push_back(Message::Observe(vm));
            }
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
            Some(Message::Perform(intent)) => {
                self.check_export(&intent);
                let outcome = self.world.perform(&intent, Time(self.clock));
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
            if let Message::Perform(intent) = message {
                self.world.perform(&intent, Time(self.clock));
            }
        }
        self.restart();
    }

    fn restart(&mut self) -> bool {
        self.inbox.clear();
        self.live = Live::default();
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
                        let failure = journal::Failure::new(FailureClass::Host, "the answer was lost");
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
        self.append(JobQueued { job, work, due: None }.into());
    }

    pub fn backup(&mut self) {
        let mode = match self.rng.random_range(0..10) {
            0 => Mode::Full,
            1 => Mode::Differential,
            _ => Mode::Auto,
        };
        // The last backups of a history are the ones that show healing: they ask for nothing special.
        let mode = if self.inbox.is_empty() && self.live.checks.is_empty() { Mode::Auto } else { mode };
        let consistency = ConsistencyAsked::Crash;
        self.queue(Work::Backup(BackupWork {
            vm: vm(),
            repository: repository(),
            mode,
            since: None,
            consistency,
        }));
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
            self.append(CancelAsked { job }.into());
        }
    }

    /// Everything that is on its way comes to its end.
    pub fn settle(&mut self) {
        self.world.start();
        for _ in 0..3 {
            let mut steps = 0;
            while self.decide() || self.deliver() {
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
        }
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
