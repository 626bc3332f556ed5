//! The way of copy-before-write: a filter of our own between each device and its disk. If the scratch storage is full or
//! too slow, the filter breaks the view; the guest's write goes on.
//!
//! ```text
//!   device            device            device            device
//!     |                 |                 |                 |
//!     |                top               top               top     fleece, exported
//!     |                 |                 |                 |     /
//!     |                 |   filter        |            filter ----- kept - scratch
//!     |                 |  /      \       |                 |
//!   disk              disk      kept    (transaction)     disk
//!
//!   before            prepared          marked            in: ONE blockdev-reopen of every top
//! ```
//!
//! No command exchanges the drives of several devices at once, and none of those that put a filter in may stand in a
//! transaction (all QEMUs up to 10.0). But one `blockdev-reopen` takes many nodes and moves them at one instant. So a raw
//! node that changes nothing comes first, device by device, and the filters come in below these, all at once.
//!
//! The checkpoint comes before the instant of the view. Its bitmap records what is written between the two, so what it
//! calls changed later is at worst too much; and the view's own map of changes takes it along.

use journal::effect::ViewDisk;
use journal::names::Role;
use journal::outcome::FailureClass;
use serde_json::json;

use super::Stop;
use super::devices::{Devices, NO_DEVICE};
use super::graph::Graph;
use super::view::{View, find, no_flush};
use crate::qmp::{BlockNode, Qmp};

impl View<'_> {
    /// The disks that need a filter, by place. A read-only disk is shown as it stands.
    fn filtered<'b>(&self, nodes: &'b [BlockNode]) -> impl Iterator<Item = (usize, &ViewDisk)> + use<'_, 'b> {
        let written = |disk: &ViewDisk| find(nodes, &disk.node).is_none_or(|node| !node.ro);
        self.disks().filter(move |(_, disk)| written(disk))
    }

    /// Whether the filters are in. They come in together or not at all, so one is proof enough; where no disk needs
    /// one, the fleeces are what there is.
    pub(super) fn is_in(&self, nodes: &[BlockNode], graph: &Graph) -> bool {
        match self.filtered(nodes).next() {
            Some((place, _)) => {
                let filter = self.name(place, Role::Filter);
                graph.child(&self.name(place, Role::Top), "file") == Some(filter.as_str())
            }
            None => self.disks().all(|(place, _)| find(nodes, &self.name(place, Role::Fleece)).is_some()),
        }
    }

    /// Makes the filters, and puts each device on a node that they can come in below. No data is touched.
    pub(super) async fn prepare_filters(&self, qmp: &Qmp, nodes: &[BlockNode]) -> Result<(), Stop> {
        let (devices, graph) = (Devices::query(qmp).await?, Graph::query(qmp).await?);
        // QEMU counts whole seconds, and 0 is no limit at all.
        let seconds = self.begin.limits.stall_ms.div_ceil(1000).clamp(1, u64::from(u32::MAX));
        for (place, disk) in self.filtered(nodes) {
            let device = devices.find(&disk.node).filter(|device| device.node.as_ref() == Some(&disk.node));
            let found = match device {
                Some(device) => device.filter_place(qmp, &graph).await?,
                None => Err(NO_DEVICE.to_owned()),
            };
            let qdev = found.map_err(|why| refusal(disk, &why))?;
            self.add_scratch(qmp, place).await?;
            let name = |role| self.name(place, role);
            let (scratch, kept, top) = (name(Role::Scratch), name(Role::Kept), name(Role::Top));
            qmp.blockdev_add(
                json!({"driver": "qcow2", "node-name": kept, "file": scratch, "cache": no_flush()}),
            )
            .await?;
            qmp.blockdev_add(json!({"driver": "raw", "node-name": top, "file": disk.node})).await?;
            qmp.blockdev_add(json!({
                "driver": "copy-before-write", "node-name": name(Role::Filter), "file": disk.node, "target": kept,
                "on-cbw-error": "break-snapshot", "cbw-timeout": seconds,
            }))
            .await?;
            qmp.qom_set(qdev, "drive", top.into()).await?;
        }
        Ok(())
    }

    /// The instant: all filters come in.
    pub(super) async fn insert_filters(&self, qmp: &Qmp, nodes: &[BlockNode]) -> Result<(), Stop> {
        let stand =
            |(place, _): (usize, &ViewDisk)| (self.name(place, Role::Top), self.name(place, Role::Filter));
        let moves: Vec<(String, String)> = self.filtered(nodes).map(stand).collect();
        Ok(stand_on(qmp, &moves).await?)
    }

    /// Adds what of the view's face is missing: the nodes that show the instant, and the maps of changes.
    pub(super) async fn show(&self, qmp: &Qmp) -> Result<(), Stop> {
        let nodes = qmp.query_nodes().await?;
        for (place, disk) in self.disks() {
            let fleece = self.name(place, Role::Fleece);
            let there = find(&nodes, &fleece);
            if there.is_none() {
                let filtered = self.filtered(&nodes).any(|(other, _)| other == place);
                let (driver, file) = if filtered {
                    ("snapshot-access", self.name(place, Role::Filter))
                } else {
                    ("raw", disk.node.clone())
                };
                let options = json!({
                    "driver": driver, "node-name": fleece, "file": file, "read-only": true,
                });
                qmp.blockdev_add(options).await?;
            }
            let changes = self.name(place, Role::Changes);
            if there.and_then(|node| node.bitmap(&changes)).is_none() {
                let actions = self.changes(place, disk, self.new_bitmap(disk));
                if !actions.is_empty() {
                    qmp.transaction(&actions).await?;
                }
            }
        }
        Ok(())
    }

    /// The bitmap of the view's own checkpoint: what was written between that and the instant of the view.
    fn new_bitmap(&self, disk: &ViewDisk) -> Option<&String> {
        let marks = self.begin.checkpoint.disks.iter();
        marks.clone().find(|mark| mark.node == disk.node).map(|mark| &mark.bitmap)
    }
}

/// Puts our top nodes on other nodes, each pair of them, at one instant.
pub(super) async fn stand_on(qmp: &Qmp, moves: &[(String, String)]) -> Result<(), crate::qmp::QmpError> {
    if moves.is_empty() {
        return Ok(());
    }
    let option = |(top, below): &(String, String)| json!({"driver": "raw", "node-name": top, "file": below});
    let options: Vec<serde_json::Value> = moves.iter().map(option).collect();
    qmp.execute("blockdev-reopen", json!({"options": options})).await.map(drop)
}

fn refusal(disk: &ViewDisk, why: &str) -> Stop {
    let what = format!(
        "disk {}: no copy-before-write filter can be put between its device and its node {} any more ({why}); observe the \
         VM again",
        disk.disk, disk.node
    );
    Stop::failed(FailureClass::Refused, what)
}
