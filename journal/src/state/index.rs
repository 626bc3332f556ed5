//! What the state holds, by other keys: a VM's restore points, the VM of a name, the queue.
//!
//! Follows from the rest of the state and says nothing of its own: it is not written, and [`Index::of`] makes it anew.
//! The fold keeps it in step, so that no question costs more the longer Backstay has run.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use super::{Job, Point, Queue, Vm};
use crate::ids::{JobId, PointId, VmId, VmName};

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Index {
    pub(super) queue: Queue,
    points: BTreeMap<VmId, BTreeSet<PointId>>,
    names: BTreeMap<VmName, VmId>,
}

impl Index {
    /// The index of a state.
    pub(super) fn of(
        vms: &BTreeMap<VmId, Vm>,
        jobs: &BTreeMap<JobId, Job>,
        points: &BTreeMap<PointId, Point>,
    ) -> Index {
        let mut index = Index::default();
        vms.iter().for_each(|(id, vm)| index.know_name(&vm.address.name, *id));
        points.values().for_each(|point| index.know_point(point));
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
