//! The way of the backup job: each disk's fleece is an overlay on it, which a job fills with what the guest is about to
//! overwrite. Checkpoint, merge and start of the jobs are one transaction.
//!
//! When the overlay cannot take what the job copies, QEMU fails the guest's write; so [`super::guard`] takes the view down
//! before.

use journal::names::Role;
use serde_json::json;

use super::Stop;
use super::marks::{has_mark, mark_actions};
use super::view::{View, no_flush};
use crate::qmp::{Action, Backup, BackupSync, BlockNode, Job, Qmp};

impl View<'_> {
    /// Whether the transaction has run: it runs whole or not at all, so one thing that it made is proof enough.
    pub(super) fn has_job(&self, nodes: &[BlockNode], jobs: &[Job]) -> bool {
        let ours = |id: &str| self.disks().any(|(disk, _)| self.name(disk, Role::Job) == id);
        jobs.iter().any(|job| ours(&job.id)) || has_mark(&self.begin.checkpoint, nodes)
    }

    /// Adds each disk's scratch file and, on top of the disk, the overlay that will show it.
    pub(super) async fn prepare_jobs(&self, qmp: &Qmp) -> Result<(), Stop> {
        for (place, disk) in self.disks() {
            self.add_scratch(qmp, place).await?;
            let (scratch, fleece) = (self.name(place, Role::Scratch), self.name(place, Role::Fleece));
            qmp.blockdev_add(json!({
                "driver": "qcow2", "node-name": fleece, "file": scratch, "backing": disk.node, "cache": no_flush(),
            }))
            .await?;
        }
        Ok(())
    }

    /// The instant: checkpoint and view over all disks at once.
    pub(super) fn job_actions(&self) -> Vec<Action> {
        let mut actions = mark_actions(&self.begin.checkpoint);
        for (place, disk) in self.disks() {
            actions.extend(self.changes(place, disk, None));
            actions.push(Action::Backup(Backup {
                job_id: self.name(place, Role::Job),
                device: disk.node.clone(),
                target: self.name(place, Role::Fleece),
                sync: BackupSync::None,
                bitmap: None,
                filter_node_name: Some(self.name(place, Role::Filter)),
                speed: None,
            }));
        }
        actions
    }
}
