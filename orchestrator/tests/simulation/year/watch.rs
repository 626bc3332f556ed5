//! What must hold after every record, and what is counted on the way: read off the records and the state that they make,
//! without asking the decisions.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use journal::record::{End, JobEnded, Work};
use journal::state::Job;
use journal::{Effect, HostName, JobId, PointId, Record, RepositoryName, State, VmId};
use orchestrator::decide::Limits;

use super::site::{Asked, POLICIES, number_of};
use super::{HOUR, MINUTE};
use crate::hooks::Hooks;

/// No job waits longer than this for its turn, from the instant at which it might start: whatever its priority, and the time
/// during which nobody was there, and that during which its window was closed, left out.
pub const LONGEST_WAIT: i64 = 24 * HOUR;

#[derive(Default)]
pub struct Watch {
    /// Where the VMs are.
    hosts: HashMap<VmId, HostName>,
    running: BTreeMap<JobId, Job>,
    holders: HashMap<VmId, JobId>,
    /// Jobs that were queued and have not come to an end.
    open: BTreeSet<JobId>,
    /// Times during which nobody was there.
    pub down: Vec<(i64, i64)>,
    pub waits: Vec<i64>,
    /// Tries that waited for a window to open again.
    pub held_back: u64,
    pub hooks: Hooks,
    /// Backups by how they ended, tries by why there was another.
    pub ended: BTreeMap<String, u64>,
    pub retried: BTreeMap<String, u64>,
    pub forgotten: u64,
    pub most_at_once: usize,
    /// On one host.
    pub most_on_a_host: usize,
}

/// How a job ended, and of what kind of failure.
fn how(it: &JobEnded) -> String {
    match (it.end, it.class) {
        (End::Failed, Some(class)) => class.name().to_owned(),
        (end, _) => format!("{end:?}").to_lowercase(),
    }
}

impl Watch {
    /// Looks at a record that was folded in.
    pub fn see(&mut self, record: &Record, state: &State, limits: &Limits, now: i64) {
        self.hooks.see(record);
        match record {
            Record::VmAdded(it) => {
                self.hosts.insert(it.vm.id, it.host.clone().unwrap());
            }
            Record::JobQueued(it) => {
                assert!(self.open.insert(it.job), "{} is queued twice", it.job);
            }
            Record::JobStarted(it) => self.started(&state.jobs[&it.job], limits, now),
            Record::JobRetried(it) => {
                *self.retried.entry(it.class.name().to_owned()).or_default() += 1;
                self.stopped(it.job);
            }
            Record::JobEnded(it) => {
                assert!(self.open.remove(&it.job), "{} ends twice, or never began", it.job);
                if matches!(state.jobs[&it.job].work, Work::Backup(_)) {
                    *self.ended.entry(how(it)).or_default() += 1;
                }
                self.stopped(it.job);
            }
            Record::IntentOpened(it) => {
                if let Effect::Forget(forget) = &it.intent.effect {
                    self.forgotten += 1;
                    not_the_last_good(state, forget.point);
                }
            }
            _ => {}
        }
    }

    fn started(&mut self, job: &Job, limits: &Limits, now: i64) {
        if let Some(vm) = job.work.vm() {
            let other = self.holders.insert(vm, job.id);
            assert!(other.is_none(), "{} and {} have the same VM", job.id, other.unwrap());
        }
        self.running.insert(job.id, job.clone());
        self.most_at_once = self.most_at_once.max(self.running.len());
        assert!(self.running.len() <= limits.jobs, "{} jobs run at once", self.running.len());
        if let Some(repository) = &job.repository {
            self.in_repository(repository, limits);
        }
        if let Some(vm) = job.work.vm() {
            self.on_host(vm, limits);
        }
        let policy =
            job.due.as_ref().map(|due| &POLICIES[due.policy.as_str()[7..].parse::<usize>().unwrap()]);
        if let (Some(due), Some(policy)) = (&job.due, policy) {
            assert!(policy.is_open(now), "{} starts outside the window of {}", job.id, due.policy);
            let same = |other: &&Job| other.due.as_ref().is_some_and(|it| it.policy == due.policy);
            let running = self.running.values().filter(same).count();
            let most = policy.concurrency.map_or(usize::MAX, |most| most as usize);
            assert!(running <= most, "{running} jobs of {} run at once", due.policy);
        }
        let wait = self.waited(policy.filter(|policy| policy.window.is_some()), job.not_before.0, now);
        assert!(wait <= LONGEST_WAIT, "{} waited {} h for its turn: {job:?}", job.id, wait / HOUR);
        self.waits.push(wait);
    }

    fn on_host(&mut self, vm: VmId, limits: &Limits) {
        let host = &self.hosts[&vm];
        let there =
            self.running.values().filter_map(|job| job.work.vm()).filter(|vm| self.hosts[vm] == *host);
        let there = there.count();
        assert!(there <= limits.jobs_per_host, "{there} jobs on host {host}");
        self.most_on_a_host = self.most_on_a_host.max(there);
    }

    fn in_repository(&self, repository: &RepositoryName, limits: &Limits) {
        let there = self.running.values().filter(|job| job.repository.as_ref() == Some(repository));
        let there: Vec<&Job> = there.collect();
        let alone = there.iter().any(|job| job.work.is_exclusive());
        let most = if alone { 1 } else { limits.jobs_per_repository };
        assert!(there.len() <= most, "{} jobs in repository {}", there.len(), number_of(repository));
    }

    fn stopped(&mut self, job: JobId) {
        if let Some(vm) = self.running.remove(&job).and_then(|job| job.work.vm()) {
            self.holders.remove(&vm);
        }
    }

    /// How long somebody was there from an instant on who might have started it.
    fn waited(&mut self, within: Option<&Asked>, since: i64, now: i64) -> i64 {
        let Some(asked) = within else { return now - since - self.down_since(since) };
        let minutes = || (since..now).step_by(usize::try_from(MINUTE).unwrap());
        self.held_back += u64::from(minutes().any(|at| !asked.is_open(at)));
        let there = |at: &i64| !self.down.iter().rev().any(|(from, to)| (*from..*to).contains(at));
        i64::try_from(minutes().filter(|at| asked.is_open(*at)).filter(there).count()).unwrap() * MINUTE
    }

    fn down_since(&self, since: i64) -> i64 {
        let overlap = |(from, to): &(i64, i64)| (to - (*from).max(since)).max(0);
        self.down.iter().rev().take_while(|(_, to)| *to > since).map(overlap).sum()
    }

    /// At the end everything has come to an end.
    pub fn check(&self) {
        assert!(self.open.is_empty(), "never came to an end: {:?}", self.open);
    }
}

/// What is forgotten leaves its VM a newer good point in the same repository.
fn not_the_last_good(state: &State, point: PointId) {
    let going = &state.points[&point];
    let newer = state.points_of(going.vm).rev().take_while(|it| it.id > point);
    let good = newer.filter(|it| it.repository == going.repository).any(|it| it.suspect.is_none());
    assert!(good, "{point} is the last good point of {}, and it is to be forgotten", going.vm_name);
}
