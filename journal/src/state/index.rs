//! What the state holds, by other keys: a VM's restore points, the VM of a name, the VMs by the age of
//! their newest good point, the queue.
//!
//! Follows from the rest of the state and says nothing of its own: it is not written, and [`Index::of`] makes it anew.
//! The fold keeps it in step, so that no question costs more the longer Backstay has run.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use super::{Alarm, Job, Point, Queue, Vm};
use crate::ids::{JobId, PointId, Time, VmId, VmName};
use crate::notice::Subject;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Index {
    pub(super) queue: Queue,
    points: BTreeMap<VmId, BTreeSet<PointId>>,
    names: BTreeMap<VmName, VmId>,
    freshness: BTreeMap<VmId, Freshness>,
    by_freshness: BTreeSet<(Freshness, VmId)>,
}

/// How good a VM's backups are to those who want to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Freshness {
    /// Whether they were told that it has no good point that is young enough.
    pub(super) told: bool,
    /// The instant of its newest good point, or when it was added.
    pub(super) since: Time,
}

impl Index {
    /// The index of a state.
    pub(super) fn of(
        vms: &BTreeMap<VmId, Vm>,
        jobs: &BTreeMap<JobId, Job>,
        points: &BTreeMap<PointId, Point>,
        alarms: &BTreeMap<Subject, Alarm>,
    ) -> Index {
        let mut index = Index::default();
        for (id, vm) in vms {
            index.know_name(&vm.address.name, *id);
            index.queue.know_host(*id, vm.host.as_ref());
        }
        points.values().for_each(|point| index.know_point(point));
        for (id, vm) in vms {
            let good = |point: &PointId| points.get(point).filter(|point| point.suspect.is_none());
            let newest = index.points_of(*id).rev().find_map(|point| good(&point));
            let since = newest.map_or(vm.added, |point| point.created);
            let told = alarms.contains_key(&Subject::GoodPoint { vm: *id });
            index.know_freshness(*id, Some(Freshness { told, since }));
        }
        jobs.values().for_each(|job| index.queue.put_in(job));
        index
    }

    pub(super) fn vm_named(&self, name: &VmName) -> Option<VmId> {
        self.names.get(name).copied()
    }

    pub(super) fn know_name(&mut self, name: &VmName, vm: VmId) {
        self.names.insert(name.clone(), vm);
    }

    pub(super) fn forget_name(&mut self, name: &VmName) {
        self.names.remove(name);
    }

    pub(super) fn know_freshness(&mut self, vm: VmId, now: Option<Freshness>) {
        let known = match now {
            Some(now) => self.freshness.insert(vm, now),
            None => self.freshness.remove(&vm),
        };
        if known != now {
            known.map(|known| self.by_freshness.remove(&(known, vm)));
            self.by_freshness.extend(now.map(|now| (now, vm)));
        }
    }

    /// Oldest first.
    pub(super) fn by_freshness(&self, told: bool) -> impl DoubleEndedIterator<Item = (Time, VmId)> {
        let first = (Freshness { told, since: Time(i64::MIN) }, VmId(uuid::Uuid::nil()));
        let last = (Freshness { told, since: Time(i64::MAX) }, VmId(uuid::Uuid::max()));
        self.by_freshness.range(first..=last).map(|(freshness, vm)| (freshness.since, *vm))
    }

    /// Oldest first.
    pub(super) fn points_of(&self, vm: VmId) -> impl DoubleEndedIterator<Item = PointId> {
        self.points.get(&vm).into_iter().flatten().copied()
    }

    pub(super) fn know_point(&mut self, point: &Point) {
        self.points.entry(point.vm).or_default().insert(point.id);
    }

    pub(super) fn forget_point(&mut self, point: &Point) {
        if let Some(points) = self.points.get_mut(&point.vm) {
            points.remove(&point.id);
            if points.is_empty() {
                self.points.remove(&point.vm);
            }
        }
    }
}
