//! What is so in this life of the orchestrator and in no other: which intents an agent has in hand, what was seen.
//!
//! Nothing here is recorded, because nothing here outlives the process: after a restart every intent is out of hand and
//! every VM unseen, which is exactly what reconcile starts from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use journal::observation::{RepositorySeen, VmSeen};
use journal::state::Policy as Recorded;
use journal::{IntentId, PolicyName, ReceiverName, State, Time, VmId};
use policies::{Policy, due};

use super::notify::Delivery;
use super::{CheckStep, Limits};

/// How many times an intent whose fate stays unknown is looked into before its VM is left alone for a while.
pub const UNKNOWN_LIMIT: u32 = 3;

/// What is in hand.
#[derive(Debug, Default)]
pub struct Live {
    /// Intents that an agent has, in this epoch.
    pub in_hand: BTreeSet<IntentId>,
    /// Of those, the ones that it was asked to stop.
    pub cancelling: BTreeSet<IntentId>,
    /// How often an agent could not tell what became of an intent.
    pub unknown: BTreeMap<IntentId, u32>,
    /// VMs that are being looked at. Their jobs wait.
    pub checks: BTreeMap<VmId, (Check, u32)>,
    /// Those of them that nobody is asked about: after a start every VM is under check, and of all but a few there is only
    /// an answer to wait for.
    pub(super) turns: BTreeSet<VmId>,
    /// What was seen last of the VMs that were looked at, and accepted.
    pub seen: BTreeMap<VmId, Seen>,
    /// Whom notices are for.
    pub receivers: BTreeSet<ReceiverName>,
    /// Notices that are on their way.
    pub telling: BTreeSet<Delivery>,
    /// The policies, parsed.
    pub policies: BTreeMap<PolicyName, Parsed>,
    /// The operator's limits.
    pub limits: Limits,
    /// Whether the journal's disk has no room for new work: then only what frees room begins.
    pub full: bool,
}

/// A policy, and what it was parsed from.
#[derive(Debug, Clone)]
pub struct Parsed {
    recorded: Arc<Recorded>,
    /// The policy.
    pub policy: Policy,
    /// The policies whose earlier runs are over before one of this policy starts.
    pub after: Vec<PolicyName>,
    /// The first instant of its schedules that is not answered for yet.
    pub next: Option<Time>,
}

impl Parsed {
    /// The policy, if the one that is recorded now reads the same: as a rule only its cursors are others.
    fn unless_other(&self, recorded: &Recorded) -> Option<Policy> {
        let same = self.recorded.text == recorded.text && self.recorded.paused == recorded.paused;
        same.then(|| self.policy.clone())
    }
}

fn read(recorded: &Recorded) -> Option<Policy> {
    let mut policy = policies::file::read(&recorded.text).ok()?.into_iter().next()?;
    policy.paused |= recorded.paused;
    Some(policy)
}

/// How far the look at a VM is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// It is to be looked at.
    Wanted,
    /// An agent was asked.
    Asked,
    /// It answered.
    Seen(Seen),
    /// Leftovers are being removed.
    Cleaning,
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Of the VM.
    pub vm: VmSeen,
    /// Of the repositories that its points are in, and that its jobs name.
    pub repositories: Vec<RepositorySeen>,
}

impl Live {
    /// The beginning of a life under these limits, with these to be notified.
    #[must_use]
    pub fn new(limits: Limits, receivers: BTreeSet<ReceiverName>) -> Self {
        Self { limits, receivers, ..Self::default() }
    }

    /// Keeps the parsed policies in step with the journal's. A text that no longer parses, written by another version,
    /// is left out; returns the names of those.
    pub fn refresh_policies(&mut self, state: &State) -> Vec<PolicyName> {
        // As a rule there is nothing to do, and this is asked before each decision: what is shared is the same.
        type Known<'a> = (&'a PolicyName, &'a Parsed);
        type Told<'a> = (&'a PolicyName, &'a Arc<Recorded>);
        let same = |((known, parsed), (name, recorded)): (Known<'_>, Told<'_>)| {
            parsed.recorded == *recorded && known == name
        };
        if self.policies.len() == state.policies.len() && self.policies.iter().zip(&state.policies).all(same)
        {
            return Vec::new();
        }
        self.policies.retain(|name, _| state.policies.contains_key(name));
        let mut unreadable = Vec::new();
        for (name, recorded) in &state.policies {
            let known = self.policies.get(name);
            if known.is_some_and(|known| known.recorded == *recorded) {
                continue;
            }
            let Some(policy) =
                known.and_then(|known| known.unless_other(recorded)).or_else(|| read(recorded))
            else {
                self.policies.remove(name);
                unreadable.push(name.clone());
                continue;
            };
            let cursor = |key: &str| Some(recorded.cursor(key).to_utc());
            let next = due::next(&policy, cursor).map(Time::from);
            let after = policy.after.iter().filter_map(|name| name.parse().ok()).collect();
            let recorded = Arc::clone(recorded);
            self.policies.insert(name.clone(), Parsed { recorded, policy, after, next });
        }
        unreadable
    }

    /// Takes an intent as sent.
    pub fn take_up(&mut self, intent: IntentId) {
        self.in_hand.insert(intent);
    }

    /// An agent is done with an intent.
    pub fn put_down(&mut self, intent: IntentId) {
        self.in_hand.remove(&intent);
        self.cancelling.remove(&intent);
    }

    /// An agent cannot tell what became of an intent: its VM is looked at, unless that did not help several times.
    pub fn lose_sight(&mut self, intent: IntentId, vm: VmId) {
        self.put_down(intent);
        let times = self.unknown.entry(intent).or_insert(0);
        *times += 1;
        if *times < UNKNOWN_LIMIT {
            self.step(vm, CheckStep::Want);
        }
    }

    /// Takes a VM's check one step on.
    pub fn step(&mut self, vm: VmId, step: CheckStep) {
        let round = self.checks.get(&vm).map_or(0, |(_, round)| *round);
        match step {
            CheckStep::Want | CheckStep::Clean => self.turns.insert(vm),
            CheckStep::Ask | CheckStep::Accept => self.turns.remove(&vm),
        };
        match step {
            CheckStep::Want => self.checks.insert(vm, (Check::Wanted, round)),
            CheckStep::Ask => self.checks.insert(vm, (Check::Asked, round)),
            CheckStep::Clean => self.checks.insert(vm, (Check::Cleaning, round + 1)),
            CheckStep::Accept => {
                let accepted = self.checks.remove(&vm);
                if let Some((Check::Seen(seen), _)) = accepted {
                    self.seen.insert(vm, seen);
                }
                None
            }
        };
    }

    /// An agent has looked at a VM.
    pub fn saw(&mut self, vm: VmId, seen: Seen) {
        if let Some((check @ Check::Asked, _)) = self.checks.get_mut(&vm) {
            *check = Check::Seen(seen);
            self.turns.insert(vm);
        }
    }

    /// The VMs under check that nobody is asked about.
    pub fn turns(&self) -> impl Iterator<Item = VmId> {
        self.turns.iter().copied()
    }

    /// Wants a look at every VM: what happened while nobody was there is in no journal.
    pub fn look_at_all(&mut self, state: &State) {
        state.vms.keys().for_each(|vm| self.want(*vm));
    }

    /// Wants a look at a VM, as if there had been none.
    fn want(&mut self, vm: VmId) {
        self.checks.insert(vm, (Check::Wanted, 0));
        self.turns.insert(vm);
    }

    /// Wants a look at every VM that has something unexplained.
    pub fn look_at_unexplained(&mut self, state: &State) {
        for vm in self.unexplained(state) {
            self.unknown.clear();
            self.want(vm);
        }
    }

    /// Every VM for which the journal leaves something to be looked at: after a start, or now and then.
    fn unexplained(&self, state: &State) -> BTreeSet<VmId> {
        let open = state.open.values().filter(|open| !self.in_hand.contains(&open.intent.id));
        let orphaned = open.filter_map(|open| open.intent.effect.vm());
        let owed = state.vms.iter().filter(|(_, vm)| vm.thaw_owed.is_some() || !vm.views.is_empty());
        let owed = owed.map(|(id, _)| *id).filter(|vm| state.queue().holder(*vm).is_none());
        let unexplained = orphaned.chain(owed);
        unexplained.filter(|vm| state.vms.contains_key(vm) && !self.checks.contains_key(vm)).collect()
    }
}
