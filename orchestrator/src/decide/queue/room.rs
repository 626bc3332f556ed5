//! Room: what the limits leave for one more job, and which of them is in its way.
//!
//! Counts what runs now; what only offers a view to others counts towards nothing. Knows no order, no hours and no VM's
//! turn.

use std::collections::BTreeMap;
use std::fmt;

use journal::state::{Lane, LaneClass};
use journal::{HostName, PolicyName, RepositoryName, State};

use crate::decide::{Limits, jobs};

/// What runs, beside what may.
#[derive(Debug)]
pub struct Room<'a> {
    limits: Limits,
    working: usize,
    repositories: BTreeMap<&'a RepositoryName, usize>,
    /// Those that a job has for itself.
    alone: Vec<&'a RepositoryName>,
    policies: BTreeMap<Option<&'a PolicyName>, u32>,
    hosts: BTreeMap<&'a HostName, usize>,
}

/// The limit that a job waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle<'a> {
    /// As many jobs run as may.
    Jobs(usize),
    /// As many jobs run in its repository as may.
    Repository(&'a RepositoryName, usize),
    /// A job has its repository for itself.
    Alone(&'a RepositoryName),
    /// It has to have its repository for itself, and others are at work there.
    NotAlone(&'a RepositoryName),
    /// As many jobs of its policy run as may.
    Policy(&'a PolicyName, u32),
    /// As many jobs run on its VM's host as may.
    Host(&'a HostName, usize),
}

/// A sentence, as lists show it.
impl fmt::Display for Obstacle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::Jobs(most) => write!(f, "{most} at work at once, as many as `limits.jobs` allows"),
            Obstacle::Repository(name, most) => {
                write!(
                    f,
                    "{most} at work in repository {name}, as many as `limits.jobs_per_repository` allows"
                )
            }
            Obstacle::Alone(name) => write!(f, "a prune has repository {name} for itself"),
            Obstacle::NotAlone(name) => {
                write!(f, "it needs repository {name} for itself, and others are at work there")
            }
            Obstacle::Policy(name, most) => {
                write!(f, "{most} of policy {name} at work, as many as its `concurrency` allows")
            }
            Obstacle::Host(name, most) => {
                write!(f, "{most} at work on host {name}, as many as `limits.jobs_per_host` allows")
            }
        }
    }
}

impl<'a> Room<'a> {
    /// What runs in a state, under these limits.
    #[must_use]
    pub fn of(state: &'a State, limits: Limits) -> Self {
        let mut room = Self {
            limits,
            working: state.queue().working(),
            repositories: BTreeMap::new(),
            alone: Vec::new(),
            policies: BTreeMap::new(),
            hosts: BTreeMap::new(),
        };
        for job in jobs::running(state).filter(|job| !job.is_offering()) {
            if let Some(repository) = &job.repository {
                *room.repositories.entry(repository).or_default() += 1;
                if LaneClass::of(&job.work) == LaneClass::Exclusive {
                    room.alone.push(repository);
                }
            }
            let host = job.work.vm().and_then(|vm| state.vms.get(&vm)?.host.as_ref());
            if let Some(host) = host {
                *room.hosts.entry(host).or_default() += 1;
            }
            *room.policies.entry(job.due.as_ref().map(|due| &due.policy)).or_default() += 1;
        }
        room
    }

    /// How many jobs of a policy run; or of none.
    #[must_use]
    pub fn of_policy(&self, policy: Option<&PolicyName>) -> u32 {
        self.policies.get(&policy).copied().unwrap_or(0)
    }

    /// What keeps any job from starting.
    #[must_use]
    pub fn at_all(&self) -> Option<Obstacle<'static>> {
        let most = self.limits.jobs;
        (self.working >= most).then_some(Obstacle::Jobs(most))
    }

    /// What keeps the jobs of a lane from starting, wherever their VMs are; with the `concurrency` of its policy.
    #[must_use]
    pub fn in_lane<'b>(&self, lane: &'b Lane, concurrency: Option<u32>) -> Option<Obstacle<'b>> {
        let in_repository = lane.repository.as_ref().and_then(|name| self.in_repository(name, lane.class));
        in_repository.or_else(|| {
            let (name, most) = (lane.policy.as_ref()?, concurrency?);
            (self.of_policy(Some(name)) >= most).then_some(Obstacle::Policy(name, most))
        })
    }

    fn in_repository<'b>(&self, name: &'b RepositoryName, class: LaneClass) -> Option<Obstacle<'b>> {
        let running = self.repositories.get(name).copied().unwrap_or(0);
        let most = self.limits.jobs_per_repository;
        if self.alone.contains(&name) {
            return Some(Obstacle::Alone(name));
        }
        if class == LaneClass::Exclusive {
            return (running > 0).then_some(Obstacle::NotAlone(name));
        }
        (running >= most).then_some(Obstacle::Repository(name, most))
    }

    /// What keeps jobs from starting whose VM is on this host. What is on none is not counted.
    #[must_use]
    pub fn on_host<'b>(&self, host: Option<&'b HostName>) -> Option<Obstacle<'b>> {
        let (host, most) = (host?, self.limits.jobs_per_host);
        let running = self.hosts.get(host).copied().unwrap_or(0);
        (running >= most).then_some(Obstacle::Host(host, most))
    }
}
