//! The jobs that are not over, by what they wait for and what they hold: so that to find the next one costs the same
//! however many wait.
//!
//! ```text
//!   lane (repository, class, policy, schedule, priority) ──▶ its front, host by host: of each free VM the first place, and all
//!                                                            without a VM
//!   VM ──▶ what holds it: the job that has begun ──▶ while it does, none of its places is in a front
//!                         but those that only look, once the job only offers a view to others
//!   job ──▶ its followers: those that come after it ──▶ until it is over, none of them has a place
//! ```
//!
//! A function of the jobs and of where their VMs are: what [`Queue::put_in`] adds follows from the job as it is, and
//! [`Queue::take_out`] takes the same away before the job changes. Which place is next is not decided here.

mod front;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, LazyLock};

pub use front::Front;

use super::{Job, JobState};
use crate::ids::{HostName, JobId, PointId, PolicyName, RepositoryName, Time, VmId};
use crate::record::Work;

/// What jobs of one lane have in common: where one may begin, so may the next, but for its VM and its instant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lane {
    /// The repository that they work in.
    pub repository: Option<RepositoryName>,
    /// What they need of it.
    pub class: LaneClass,
    /// The policy that asked for them; none for what was asked for by hand.
    pub policy: Option<PolicyName>,
    /// The key of the schedule whose hours they keep to; none for what was asked for by hand, a policy's run that is tried
    /// again included.
    pub schedule: Option<String>,
    /// Their priority.
    pub priority: i8,
}

/// What jobs need, beside a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LaneClass {
    /// Room on the journal's disk.
    Usual,
    /// Nothing: they are there to free room.
    FreesRoom,
    /// Room too. They only look, and heal: they do so beside a view of their VM that is offered.
    Looks,
    /// The repository for themselves: restic's exclusive lock. They free room too.
    Exclusive,
}

/// A place in a lane. The order of places is the order of the lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The job does not start before this, and has waited since.
    pub not_before: Time,
    /// The job.
    pub job: JobId,
}

impl Place {
    const FIRST: Place = Place { not_before: Time(i64::MIN), job: JobId(0) };
    const LAST: Place = Place { not_before: Time(i64::MAX), job: JobId(u64::MAX) };
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Queue {
    /// How many wait in each lane, those behind a busy VM or another job included. The lanes are shared from here.
    lanes: BTreeMap<Arc<Lane>, usize>,
    /// Those that may be next in their lane.
    fronts: BTreeMap<Arc<Lane>, Front>,
    /// The same of all lanes together.
    starts: BTreeSet<Place>,
    /// Where the VMs are.
    hosts: BTreeMap<VmId, Arc<HostName>>,
    /// All that wait for a VM.
    lines: BTreeSet<(VmId, Arc<Lane>, Place)>,
    running: BTreeSet<JobId>,
    /// What VMs are held by.
    holders: BTreeSet<(VmId, JobId)>,
    /// Those of the running ones that only offer a view.
    offering: BTreeSet<JobId>,
    of_vms: BTreeSet<(VmId, JobId)>,
    /// By the first place that they had: a retry does not let others go before them.
    of_policies: BTreeMap<PolicyName, BTreeSet<Place>>,
    /// Those that wait and are to be cancelled: they are in no lane.
    cancelled: BTreeSet<JobId>,
    /// Jobs that are not over, each with a job that waits for its end.
    followers: BTreeSet<(JobId, JobId)>,
    deadlines: BTreeSet<(Time, JobId)>,
    /// Restores that are not over, by what they read.
    readers: BTreeSet<(PointId, JobId)>,
}

impl Queue {
    /// Adds what a job is.
    pub(super) fn put_in(&mut self, job: &Job) {
        if job.state.is_over() {
            return;
        }
        let vm = job.work.vm();
        self.of_vms.extend(vm.map(|vm| (vm, job.id)));
        if let Some(due) = &job.due {
            let first = Place { not_before: due.not_before, job: job.id };
            self.of_policies.entry(due.policy.clone()).or_default().insert(first);
        }
        if let Work::Restore(work) = &job.work {
            self.readers.insert((work.point, job.id));
        }
        self.followers.extend(job.waits_for.iter().map(|first| (*first, job.id)));
        if job.state == JobState::Running {
            self.running.insert(job.id);
        }
        if let (Some(vm), true) = (vm, job.has_begun()) {
            self.around(vm, |queue| {
                queue.offering.extend(job.is_offering().then_some(job.id));
                queue.holders.insert((vm, job.id))
            });
        }
        if job.state != JobState::Queued {
            return;
        }
        if job.cancel_asked {
            self.cancelled.insert(job.id);
            return;
        }
        self.deadlines.extend(job.terms.deadline.map(|deadline| (deadline, job.id)));
        let (lane, place) = (self.lane(job), place(job));
        *self.lanes.entry(Arc::clone(&lane)).or_default() += 1;
        match vm {
            _ if !job.waits_for.is_empty() => {}
            Some(vm) => self.around(vm, |queue| queue.lines.insert((vm, lane, place))),
            None => self.enter_front(lane, None, place),
        }
    }

    /// Takes away what a job was.
    pub(super) fn take_out(&mut self, job: &Job) {
        let vm = job.work.vm();
        if let Some(vm) = vm {
            self.of_vms.remove(&(vm, job.id));
        }
        if let Some(due) = &job.due
            && let Some(jobs) = self.of_policies.get_mut(&due.policy)
        {
            jobs.remove(&Place { not_before: due.not_before, job: job.id });
            if jobs.is_empty() {
                self.of_policies.remove(&due.policy);
            }
        }
        if let Work::Restore(work) = &job.work {
            self.readers.remove(&(work.point, job.id));
        }
        for first in &job.waits_for {
            self.followers.remove(&(*first, job.id));
        }
        self.running.remove(&job.id);
        if let Some(vm) = vm
            && self.holders.contains(&(vm, job.id))
        {
            self.around(vm, |queue| {
                queue.offering.remove(&job.id);
                queue.holders.remove(&(vm, job.id))
            });
        }
        if job.state != JobState::Queued || self.cancelled.remove(&job.id) {
            return;
        }
        if let Some(deadline) = job.terms.deadline {
            self.deadlines.remove(&(deadline, job.id));
        }
        let (lane, place) = (self.lane(job), place(job));
        match vm {
            _ if !job.waits_for.is_empty() => {}
            Some(vm) => self.around(vm, |queue| queue.lines.remove(&(vm, Arc::clone(&lane), place))),
            None => self.leave_front(&lane, None, place),
        }
        if let Some(waiting) = self.lanes.get_mut(&lane) {
            *waiting -= 1;
            if *waiting == 0 {
                self.lanes.remove(&lane);
            }
        }
    }

    /// A VM is on this host from now on; or on none, when it is gone.
    pub(super) fn know_host(&mut self, vm: VmId, host: Option<&HostName>) {
        self.around(vm, |queue| match host {
            Some(host) => queue.hosts.insert(vm, Arc::new(host.clone())),
            None => queue.hosts.remove(&vm),
        });
    }

    /// Changes something about a VM, and has its first places in the fronts afterwards if it is free.
    fn around<T>(&mut self, vm: VmId, change: impl FnOnce(&mut Self) -> T) {
        for (lane, place) in self.first_places(vm) {
            self.leave_front(&lane, Some(vm), place);
        }
        change(self);
        for (lane, place) in self.first_places(vm) {
            self.enter_front(lane, Some(vm), place);
        }
    }

    /// Of each lane in which a VM's jobs wait and may begin, the first of them.
    fn first_places(&self, vm: VmId) -> Vec<(Arc<Lane>, Place)> {
        let mut first = Vec::new();
        let held = self.holder(vm).is_some();
        if held && !self.holders_of(vm).all(|job| self.offering.contains(&job)) {
            return first;
        }
        let mut after = Bound::Included((vm, Arc::clone(&LOWEST), Place::FIRST));
        while let Some((_, lane, place)) =
            self.lines.range((after, Bound::Unbounded)).next().filter(|(of, ..)| *of == vm)
        {
            if !held || lane.class == LaneClass::Looks {
                first.push((Arc::clone(lane), *place));
            }
            after = Bound::Excluded((vm, Arc::clone(lane), Place::LAST));
        }
        first
    }

    fn enter_front(&mut self, lane: Arc<Lane>, vm: Option<VmId>, place: Place) {
        let host = self.host(vm);
        self.fronts.entry(lane).or_default().insert(&host, place);
        self.starts.insert(place);
    }

    fn leave_front(&mut self, lane: &Arc<Lane>, vm: Option<VmId>, place: Place) {
        self.starts.remove(&place);
        let host = self.host(vm);
        let Some(front) = self.fronts.get_mut(lane) else { return };
        front.remove(&host, place);
        if front.is_empty() {
            self.fronts.remove(lane);
        }
    }

    fn host(&self, vm: Option<VmId>) -> front::Host {
        self.hosts.get(&vm?).map(Arc::clone)
    }

    fn lane(&self, job: &Job) -> Arc<Lane> {
        let lane = Lane::of(job);
        self.lanes.get_key_value(&lane).map_or_else(|| Arc::new(lane), |(known, _)| Arc::clone(known))
    }

    /// The lanes in which something may be next, each with its front. A VM that is held by a job is in none, and of the
    /// others each lane has the first place only.
    pub fn fronts(&self) -> impl Iterator<Item = (&Lane, &Front)> {
        self.fronts.iter().map(|(lane, front)| (lane.as_ref(), front))
    }

    /// The first instant at which something in a front may start, or might have.
    #[must_use]
    pub fn first_start(&self) -> Option<Time> {
        self.starts.first().map(|place| place.not_before)
    }

    /// The next instant at which something in a front may start.
    #[must_use]
    pub fn next_start(&self, after: Time) -> Option<Time> {
        let after = Bound::Excluded(Place { not_before: after, ..Place::LAST });
        self.starts.range((after, Bound::Unbounded)).next().map(|place| place.not_before)
    }

    /// How many jobs wait in each lane.
    pub fn waiting(&self) -> impl Iterator<Item = (&Lane, usize)> {
        self.lanes.iter().map(|(lane, waiting)| (lane.as_ref(), *waiting))
    }

    /// The running jobs, oldest first.
    pub fn running(&self) -> impl ExactSizeIterator<Item = JobId> {
        self.running.iter().copied()
    }

    /// How many of the running jobs do something, and do not only offer a view to others.
    #[must_use]
    pub fn working(&self) -> usize {
        self.running.len() - self.offering.len()
    }

    /// The jobs that have begun and hold their VM: the running ones, and those at rest.
    pub fn holders(&self) -> impl Iterator<Item = (VmId, JobId)> {
        self.holders.iter().copied()
    }

    /// The jobs that a VM is held by: at most one, and beside one that offers a view another that only looks.
    pub fn holders_of(&self, vm: VmId) -> impl Iterator<Item = JobId> {
        self.holders.range((vm, JobId(0))..=(vm, JobId(u64::MAX))).map(|(_, job)| *job)
    }

    /// The first of the jobs that a VM is held by.
    #[must_use]
    pub fn holder(&self, vm: VmId) -> Option<JobId> {
        self.holders_of(vm).next()
    }

    /// The jobs of a VM that are not over.
    pub fn of_vm(&self, vm: VmId) -> impl Iterator<Item = JobId> {
        self.of_vms.range((vm, JobId(0))..=(vm, JobId(u64::MAX))).map(|(_, job)| *job)
    }

    /// The first place of a policy's jobs that are not over, whether they wait or run.
    #[must_use]
    pub fn earliest_of(&self, policy: &PolicyName) -> Option<Place> {
        self.of_policies.get(policy)?.first().copied()
    }

    /// Those that wait and are to be cancelled.
    pub fn cancelled(&self) -> impl Iterator<Item = JobId> {
        self.cancelled.iter().copied()
    }

    /// The jobs that wait for the end of a job.
    #[must_use]
    pub fn followers(&self, job: JobId) -> Vec<JobId> {
        let followers = self.followers.range((job, JobId(0))..=(job, JobId(u64::MAX)));
        followers.map(|(_, follower)| *follower).collect()
    }

    /// The waiting job whose deadline is the next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<(Time, JobId)> {
        self.deadlines.first().copied()
    }

    /// The restore points that restores which are not over read.
    pub fn read_points(&self) -> impl Iterator<Item = PointId> {
        self.readers.iter().map(|(point, _)| *point)
    }
}

impl LaneClass {
    /// What work needs.
    #[must_use]
    pub fn of(work: &Work) -> LaneClass {
        match work {
            work if work.is_exclusive() => LaneClass::Exclusive,
            Work::Reconcile { .. } => LaneClass::Looks,
            work if work.frees_room() => LaneClass::FreesRoom,
            _ => LaneClass::Usual,
        }
    }

    /// Whether it is there to free room, and so begins where there is none.
    #[must_use]
    pub fn frees_room(self) -> bool {
        matches!(self, LaneClass::FreesRoom | LaneClass::Exclusive)
    }
}

impl Lane {
    /// The lane that a job waits in.
    #[must_use]
    pub fn of(job: &Job) -> Lane {
        Lane {
            repository: job.repository.clone(),
            class: LaneClass::of(&job.work),
            policy: job.due.as_ref().map(|due| due.policy.clone()),
            schedule: job
                .due
                .as_ref()
                .filter(|_| job.terms.retries.is_none())
                .map(|due| due.schedule.clone()),
            priority: job.terms.priority,
        }
    }
}

/// No lane comes before it.
static LOWEST: LazyLock<Arc<Lane>> = LazyLock::new(|| {
    Arc::new(Lane {
        repository: None,
        class: LaneClass::Usual,
        policy: None,
        schedule: None,
        priority: i8::MIN,
    })
});

fn place(job: &Job) -> Place {
    Place { not_before: job.not_before, job: job.id }
}
