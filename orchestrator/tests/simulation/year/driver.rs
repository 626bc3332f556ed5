//! What `drive::engine` does, over virtual time: decides until there is nothing to decide, and goes on to the next instant at
//! which something happens. Owns the clock, the agents' answers and the orchestrator's deaths.

use std::collections::{BTreeMap, BTreeSet};

use journal::effect::{DiskMode, PruneTerms, Way};
use journal::notice::{Answer, NoticeAnswered};
use journal::observation::{RepositorySeen, VmSeen};
use journal::outcome::{Done, Outcome, Pruned};
use journal::record::{
    BackupWork, ConsistencyAsked, EpochBegan, Installed, IntentSettled, JobQueued, Mode, PolicyApplied,
    PolicyPaused, RepositoryAdded, Terms, VmAdded, Witness, Work,
};
use journal::state::Stamp;
use journal::{
    Effect, EffectKind, Epoch, Failure, FailureClass, Installation, Intent, IntentId, PolicyName, Record,
    State, Time, VmId,
};
use orchestrator::decide::notify::Delivery;
use orchestrator::decide::schedule::next_instant;
use orchestrator::decide::{CheckStep, Limits, Live, Seen, next};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::books::Books;
use super::mishaps::{Mishap, Weather};
use super::oracle::Oracle;
use super::report::Report;
use super::site::{self, POLICIES, REPOSITORIES, policy_name};
use super::watch::Watch;
use super::{BEGIN, DAY, HOUR, MINUTE, SECOND, Size};
use crate::world::{BLOCKS, World};

/// How often VMs with something unexplained are looked at again.
const LOOK_AGAIN: i64 = 5 * MINUTE;
/// How long an agent waits for a QEMU that does not answer.
const PATIENCE: i64 = 30 * SECOND;
/// After the last day nothing new is asked for, and within this time all comes to its end.
const AFTERMATH: i64 = 3 * DAY;

enum Event {
    /// The agent is done with an intent, or has stopped working on it.
    Answer {
        intent: IntentId,
        stopped: bool,
    },
    /// The agent has looked at a VM.
    Looked(VmId),
    Told(Delivery),
    LookAgain,
    Mishap(Mishap),
}

pub struct Year {
    pub size: Size,
    pub books: Books,
    pub watch: Watch,
    pub report: Report,
    pub decisions: u64,
    oracle: Oracle,
    worlds: Vec<World>,
    /// Which do not answer, have no room, cannot be opened.
    hung: BTreeSet<usize>,
    full: BTreeSet<usize>,
    away: BTreeSet<usize>,
    state: State,
    live: Live,
    epoch: Epoch,
    now: i64,
    agenda: BTreeMap<(i64, u64), Event>,
    events: u64,
    /// Nobody is there until then.
    down: Option<i64>,
    dice: StdRng,
}

fn limits() -> Limits {
    Limits {
        jobs: 24,
        jobs_per_repository: 6,
        jobs_per_host: 2,
        good_point_within: Some(50 * HOUR),
        ..Limits::default()
    }
}

/// One life of the orchestrator.
fn life() -> Live {
    Live::new(limits(), ["hook", "post"].map(|name| name.parse().unwrap()).into())
}

impl Year {
    pub fn new(seed: u64, size: Size) -> Year {
        let ways = [Way::CopyBeforeWrite, Way::BackupJob, Way::Push];
        let world = |vm: usize| World::new(1 + vm % 2, ways[vm % 3]);
        let seconds = BEGIN / SECOND;
        let mut year = Year {
            size,
            books: Books::new(size.whole),
            watch: Watch::default(),
            report: Report::default(),
            decisions: 0,
            oracle: Oracle::new(size.vms, size.hosts, seconds, seconds + size.days * DAY / SECOND),
            worlds: (0..size.vms).map(world).collect(),
            hung: BTreeSet::new(),
            full: BTreeSet::new(),
            away: BTreeSet::new(),
            state: State::default(),
            live: life(),
            epoch: Epoch(1),
            now: BEGIN,
            agenda: BTreeMap::new(),
            events: 0,
            down: None,
            dice: StdRng::seed_from_u64(seed),
        };
        year.set_up();
        let weather =
            Weather { dice: &mut year.dice, from: BEGIN, days: size.days, vms: size.vms, hosts: size.hosts };
        for (at, mishap) in weather.year() {
            year.at(at, Event::Mishap(mishap));
        }
        year.at(BEGIN, Event::LookAgain);
        year
    }

    fn set_up(&mut self) {
        let installation = Installation(7);
        self.append(&Installed { installation }.into());
        self.append(&EpochBegan { pid: 1, version: "0".into() }.into());
        for number in 0..REPOSITORIES {
            let repository = site::repository_address(number);
            self.append(&RepositoryAdded { repository, id: "r".into(), chunk_bytes: 1 << 20 }.into());
        }
        for vm in 0..self.size.vms {
            self.worlds[vm].installation = Some(installation);
            let labels = vec![("group".to_owned(), format!("g{}", site::group_of(vm, self.size.vms)))];
            let host = Some(site::host(site::host_of(vm, self.size.hosts)));
            self.append(&VmAdded { vm: site::vm_address(vm), disks: Vec::new(), labels, host }.into());
        }
        for (number, policy) in POLICIES.iter().enumerate() {
            let name = policy_name(number).parse().unwrap();
            self.append(&PolicyApplied { name, text: policy.text(number) }.into());
        }
        assert!(self.live.refresh_policies(&self.state).is_empty(), "the policies are read");
    }

    pub fn due(&self) -> usize {
        self.oracle.runs()
    }

    pub fn starts(&self) -> u64 {
        self.epoch.0
    }

    fn end(&self) -> i64 {
        BEGIN + self.size.days * DAY
    }

    fn at(&mut self, at: i64, event: Event) {
        self.events += 1;
        self.agenda.insert((at, self.events), event);
    }

    /// The whole time, and what is under way at its end.
    pub fn run(&mut self) {
        while self.now < self.end() {
            self.turn(self.end());
        }
        self.report.end(self.now);
        while self.decide() {}
        for policy in 0..POLICIES.len() {
            let name = policy_name(policy).parse().unwrap();
            self.append(&PolicyPaused { name, paused: true }.into());
        }
        let limit = self.end() + AFTERMATH;
        while self.now < limit {
            self.turn(limit);
        }
    }

    /// Decides, and lets time pass until the next thing happens.
    fn turn(&mut self, end: i64) {
        while self.down.is_none() && self.decide() {}
        self.books.consider(&self.state);
        let event = self.agenda.keys().next().map(|(at, _)| *at);
        let due = match self.down {
            Some(until) => Some(until),
            None => next_instant(&self.state, &self.live, Time(self.now)).map(|due| due.0),
        };
        let next = event.into_iter().chain(due).min().unwrap_or(end);
        self.now = next.clamp(self.now, end);
        if self.down.is_some_and(|until| until <= self.now) {
            self.start();
        }
        while let Some(first) = self.agenda.first_entry().filter(|first| first.key().0 <= self.now) {
            let event = first.remove();
            self.happen(event);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Mishap(mishap) => self.suffer(mishap),
            Event::LookAgain => {
                self.live.look_at_unexplained(&self.state);
                self.at(self.now + LOOK_AGAIN, Event::LookAgain);
            }
            Event::Looked(vm) => self.looked(vm),
            Event::Answer { intent, stopped } if self.live.in_hand.contains(&intent) => {
                self.answer(intent, stopped);
            }
            Event::Told(delivery) if self.live.telling.remove(&delivery) => {
                let Delivery { notice, receiver } = delivery;
                let answer = Answer::Taken("thanks".to_owned());
                self.append(&NoticeAnswered { notice, receiver, answer }.into());
            }
            Event::Answer { .. } | Event::Told(_) => {}
        }
    }

    fn append(&mut self, record: &Record) {
        let stamp = Stamp { epoch: self.epoch, time: Time(self.now) };
        self.books.write(stamp, record);
        self.state.apply(stamp, record).unwrap_or_else(|illegal| panic!("{illegal}: {record:?}"));
        self.watch.see(record, &self.state, &self.live.limits, self.now);
        match record {
            Record::JobQueued(JobQueued { due: Some(due), work: Work::Backup(work), .. }) => {
                let policy: usize = due.policy.as_str()[7..].parse().unwrap();
                let repository = site::number_of(&work.repository);
                let place = POLICIES[policy].repositories.iter().position(|it| *it == repository).unwrap();
                self.oracle.job(due.policy.as_str(), &due.schedule, due.at.0, site::place(work.vm), place);
            }
            Record::RunSkipped(_) => self.account(record, false),
            _ => {}
        }
    }

    fn account(&mut self, record: &Record, back: bool) {
        if let Record::RunSkipped(it) = record {
            self.oracle.skip(it.policy.as_str(), &it.schedule, it.at.0, it.vm.map(site::place), back);
        }
    }

    fn decide(&mut self) -> bool {
        assert!(self.live.refresh_policies(&self.state).is_empty());
        let Some(decision) = next(&self.state, &self.live, Time(self.now)) else { return false };
        assert!(!decision.is_empty(), "a decision that changes nothing would be taken for ever");
        self.decisions += 1;
        // A crash may keep any first part of what was appended together. What is long is cut more often.
        let chance = if decision.records.len() > 8 { self.size.cuts } else { 20_000 };
        let cut = decision.records.len() > 1 && self.dice.random_ratio(1, chance);
        let kept =
            if cut { self.dice.random_range(1..decision.records.len()) } else { decision.records.len() };
        decision.records[..kept].iter().for_each(|record| self.append(record));
        if cut {
            self.cut(&decision.records[..kept]);
            return true;
        }
        for intent in decision.send {
            self.live.take_up(intent);
            let takes = duration(
                &self.state.open[&intent].intent.effect,
                &self.hung,
                self.size.hosts,
                &mut self.dice,
            );
            self.at(self.now + takes, Event::Answer { intent, stopped: false });
        }
        for intent in decision.cancel {
            self.live.cancelling.insert(intent);
            self.at(self.now + 5 * SECOND, Event::Answer { intent, stopped: true });
        }
        for (vm, step) in decision.checks {
            self.live.step(vm, step);
            if step == CheckStep::Ask {
                let takes = if self.is_hung(vm) { PATIENCE } else { SECOND };
                self.at(self.now + takes, Event::Looked(vm));
            }
        }
        for delivery in decision.tell {
            self.live.telling.insert(delivery.clone());
            self.at(self.now + SECOND, Event::Told(delivery));
        }
        true
    }

    /// The orchestrator dies in the middle of an append.
    fn cut(&mut self, kept: &[Record]) {
        for record in kept {
            self.account(record, true);
            if let Record::JobQueued(JobQueued { due: Some(due), .. }) = record {
                self.oracle.cut(due.policy.as_str(), &due.schedule, due.at.0);
            }
        }
        self.crash(10 * SECOND);
    }

    /// The orchestrator dies with its agents; what they were told may have been done and not said.
    fn crash(&mut self, down: i64) {
        if self.down.is_some() {
            return;
        }
        for intent in std::mem::take(&mut self.live.in_hand) {
            if self.dice.random() {
                let _unsaid = self.perform(intent);
            }
        }
        self.live = life();
        self.agenda.retain(|_, event| matches!(event, Event::Mishap(_) | Event::LookAgain));
        self.watch.down.push((self.now, self.now + down));
        self.down = Some(self.now + down);
    }

    /// It is started again: the state is a function of the records alone.
    fn start(&mut self) {
        self.down = None;
        let read = self.books.read();
        assert!(read == self.state, "the records make another state than the one that was lost");
        self.state = read;
        self.epoch = self.epoch.next();
        self.append(&EpochBegan { pid: 1, version: "0".into() }.into());
        self.live.look_at_all(&self.state);
    }

    fn suffer(&mut self, mishap: Mishap) {
        fn set<T: Ord>(all: &mut BTreeSet<T>, one: T, there: bool) {
            if there {
                all.insert(one)
            } else {
                all.remove(&one)
            };
        }
        let up = self.down.is_none();
        match mishap {
            Mishap::Host { host, hangs } => set(&mut self.hung, host, hangs),
            Mishap::Full { repository, full } => set(&mut self.full, repository, full),
            Mishap::Away { repository, away } => set(&mut self.away, repository, away),
            Mishap::Killed { vm } => self.worlds[vm].kill(),
            Mishap::Quits { vm } => self.worlds[vm].quit(),
            Mishap::Starts { vm } => self.worlds[vm].start(),
            Mishap::BitmapLies { vm } => self.worlds[vm].clear_bitmap(0, 0),
            Mishap::Crash { down } => self.crash(down),
            Mishap::Prune { repository } if up => {
                let repository = site::repository(repository);
                self.queue(Work::PruneBy { repository, terms: PruneTerms::default() });
            }
            Mishap::ByHand { vm } if up => {
                let repository =
                    site::repository(POLICIES[site::group_of(vm, self.size.vms)].repositories[0]);
                let (vm, mode, consistency) = (site::vm_id(vm), Mode::Auto, ConsistencyAsked::Filesystem);
                self.queue(Work::Backup(BackupWork { vm, repository, mode, since: None, consistency }));
            }
            Mishap::Pause { policy, paused } if up => {
                let name: PolicyName = policy_name(policy).parse().unwrap();
                self.append(&PolicyPaused { name, paused }.into());
            }
            // Nobody is there to be asked; a policy that was paused is let go on later.
            Mishap::Pause { .. } => self.at(self.now + MINUTE, Event::Mishap(mishap)),
            Mishap::Prune { .. } | Mishap::ByHand { .. } => {}
        }
    }

    fn queue(&mut self, work: Work) {
        let job = self.state.next.job;
        let terms = Terms { priority: 5, ..Terms::default() };
        self.append(&JobQueued { job, work, due: None, terms }.into());
    }

    fn is_hung(&self, vm: VmId) -> bool {
        self.hung.contains(&site::host_of(site::place(vm), self.size.hosts))
    }

    fn looked(&mut self, vm: VmId) {
        let mut names: BTreeSet<_> = self.state.points_of(vm).map(|point| point.repository.clone()).collect();
        let jobs = self.state.queue().of_vm(vm).filter_map(|job| self.state.jobs.get(&job));
        names.extend(jobs.filter_map(|job| job.repository.clone()));
        let (seen, there) = self.worlds[site::place(vm)].observe(&site::repository(0));
        let snapshots = &there[0].snapshots;
        let repositories = names.into_iter().map(|name| {
            let away = self.away.contains(&site::number_of(&name));
            let cannot = || Failure::new(FailureClass::Repository, format!("{name} cannot be opened"));
            let snapshots = if away { Err(cannot()) } else { snapshots.clone() };
            RepositorySeen { name, snapshots }
        });
        let repositories = repositories.collect();
        let vm_seen = match self.is_hung(vm) {
            true => VmSeen::Silent { why: format!("no answer in {} s", PATIENCE / SECOND) },
            false => seen,
        };
        self.live.saw(vm, Seen { vm: vm_seen, repositories });
    }

    /// An agent comes back with an outcome, or without one.
    fn answer(&mut self, intent: IntentId, stopped: bool) {
        let vm = self.state.open[&intent].intent.effect.vm();
        if let Some(vm) = vm.filter(|vm| self.is_hung(*vm)) {
            if self.dice.random() {
                let _unsaid = self.perform(intent);
            }
            return self.live.lose_sight(intent, vm);
        }
        let outcome = match stopped {
            true => Outcome::Failed(Failure::new(FailureClass::Cancelled, "stopped")),
            false => self.perform(intent),
        };
        self.live.put_down(intent);
        self.append(&IntentSettled { intent, outcome, by: Witness::Agent }.into());
    }

    fn perform(&mut self, intent: IntentId) -> Outcome {
        let intent: Intent = self.state.open[&intent].intent.clone();
        if let Some(failure) = self.obstacle(&intent.effect) {
            return Outcome::Failed(failure);
        }
        let vm = match &intent.effect {
            Effect::PruneBy(_) => {
                let pruned = Pruned { freed_bytes: 1 << 30, ..Pruned::default() };
                return Outcome::Done(Done::PrunedBy(pruned));
            }
            Effect::Forget(forget) => self.state.points.get(&forget.point).map(|point| point.vm),
            effect => effect.vm(),
        };
        let Some(vm) = vm.map(site::place) else { return Outcome::Done(Done::Plain) };
        if intent.effect.kind() == EffectKind::Begin {
            for disk in 0..self.worlds[vm].disks.len() {
                let block = self.dice.random_range(0..BLOCKS);
                self.worlds[vm].write(disk, block);
            }
        }
        let outcome = self.worlds[vm].perform(&intent, Time(self.now));
        if let (Effect::Store(store), Outcome::Done(Done::Stored(stored))) = (&intent.effect, &outcome) {
            self.worlds[vm].verify(&stored.snapshot, store.checkpoint);
            self.report.point(vm, store.instant.0);
        }
        outcome
    }

    /// What keeps an effect from being done: the repository, or any of what can go wrong on a host.
    fn obstacle(&mut self, effect: &Effect) -> Option<Failure> {
        let (kind, repository) = match effect {
            Effect::Store(store) => (EffectKind::Store, &store.repository.name),
            Effect::Forget(forget) => (EffectKind::Forget, &forget.repository.name),
            Effect::PruneBy(prune) => (EffectKind::Prune, &prune.repository.name),
            Effect::Hook(hook) if self.dice.random_ratio(1, 50) => {
                return Some(Failure::new(FailureClass::Refused, format!("hook `{}` failed", hook.name)));
            }
            Effect::Begin(_) | Effect::Freeze(_) | Effect::DeleteCheckpoint(_)
                if self.dice.random_ratio(1, 200) =>
            {
                return Some(Failure::new(FailureClass::Refused, "QEMU refused"));
            }
            _ => return None,
        };
        let number = site::number_of(repository);
        let cannot = |class, what: &str| Some(Failure::new(class, format!("{repository}: {what}")));
        if self.away.contains(&number) {
            return cannot(FailureClass::Repository, "it cannot be opened");
        }
        if self.full.contains(&number) && kind == EffectKind::Store {
            return cannot(FailureClass::Full, "no room");
        }
        if kind != EffectKind::Store || !self.dice.random_ratio(1, 40) {
            return None;
        }
        let classes = [
            FailureClass::Unreachable,
            FailureClass::Refused,
            FailureClass::ViewLost,
            FailureClass::Damaged,
            FailureClass::Cancelled,
            FailureClass::Invalid,
            FailureClass::Fenced,
            FailureClass::Host,
        ];
        cannot(classes[self.dice.random_range(0..classes.len())], "it failed")
    }

    /// What holds at the end.
    pub fn check(&self) {
        self.watch.check();
        self.oracle.check();
        assert!(self.state.open.is_empty(), "{:?}", self.state.open);
        assert!(self.state.notices.is_empty(), "{:?}", self.state.notices);
        for (vm, world) in self.worlds.iter().enumerate() {
            assert_eq!(world.leftovers(), Vec::<String>::new(), "of VM {vm}");
        }
        // What is backed up once a month may not have been, after a few days.
        assert!(self.size.days < 90 || self.report.vms() == self.size.vms, "a VM was never backed up");
        assert!(self.books.read() == self.state);
    }
}

/// How long an effect takes.
fn duration(effect: &Effect, hung: &BTreeSet<usize>, hosts: usize, dice: &mut StdRng) -> i64 {
    match effect {
        Effect::Store(store) => {
            let full = store.disks.iter().any(|disk| matches!(disk.mode, DiskMode::Full { .. }));
            let (shortest, longest) =
                if full { (5 * MINUTE, 40 * MINUTE) } else { (20 * SECOND, 6 * MINUTE) };
            dice.random_range(shortest..longest)
        }
        Effect::PruneBy(_) => dice.random_range(5 * MINUTE..30 * MINUTE),
        Effect::Hook(_) => dice.random_range(SECOND..MINUTE),
        effect if effect.vm().is_some_and(|vm| hung.contains(&site::host_of(site::place(vm), hosts))) => {
            PATIENCE
        }
        _ => dice.random_range(SECOND / 10..2 * SECOND),
    }
}
