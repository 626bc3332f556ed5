//! Taking temporary objects out of QEMU, in the only order that works: exports, then jobs (their filters go with
//! them), then fleeces (their bitmaps go with them), then each device back onto what its view's nodes stand on, then
//! those nodes, then bitmaps that stand on a disk.
//!
//! Everything is looked for before it is touched, so what is gone already costs nothing and is no error.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use journal::names::{self, Owner, Role};
use journal::outcome::FailureClass;
use journal::{Installation, IntentId};
use serde_json::json;

use super::Stop;
use super::devices::Devices;
use super::filter::stand_on;
use super::graph::{Graph, is_top};
use crate::qmp::{Action, BitmapName, BlockNode, Qmp, QmpError, RemoveMode};

/// How long an export may take to drop its clients, or a job to end.
const LIMIT: Duration = Duration::from_secs(30);

/// From this major version on a filter of ours may be taken out while the filter of a backup job stands below it. Before
/// it, QEMU aborts or its guest hangs (measured: 7.2.22 does, 10.0.2 does not; between them nobody knows).
pub(super) const STACKS_SAFE_FROM: u32 = 10;

/// Objects in QEMU, by name.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Objects {
    pub(super) exports: Vec<String>,
    pub(super) jobs: Vec<String>,
    pub(super) nodes: Vec<String>,
    /// On nodes that stay: (node, name).
    pub(super) bitmaps: Vec<(String, String)>,
}

impl Objects {
    /// What there is of one view.
    pub(super) async fn of(qmp: &Qmp, installation: Installation, view: IntentId) -> Result<Self, QmpError> {
        let its = |name: &String| temporary(name).is_some_and(|(of, _)| of == (installation, view));
        let all = qmp.query_nodes().await?;
        // Those on the view's own nodes go with them.
        let stay = all.iter().filter(|node| !node.node_name.as_ref().is_some_and(its));
        let on = |node: &BlockNode| {
            let bitmaps: Vec<String> = node.dirty_bitmaps.iter().filter_map(|it| it.name.clone()).collect();
            let place = node.node_name.clone().unwrap_or_default();
            bitmaps.into_iter().filter(its).map(move |name| (place.clone(), name)).collect::<Vec<_>>()
        };
        let bitmaps = stay.flat_map(on).collect();
        let nodes = all.into_iter().filter_map(|node| node.node_name);
        Ok(Self {
            exports: qmp.query_exports().await?.into_iter().map(|export| export.id).filter(its).collect(),
            jobs: qmp.query_jobs().await?.into_iter().map(|job| job.id).filter(its).collect(),
            nodes: nodes.filter(its).collect(),
            bitmaps,
        })
    }

    /// These, and the nodes that stand between a device and its disk for the same views. Whoever names a view's nodes
    /// does not have to know of those, and without them the others cannot be removed.
    pub(super) async fn with_filters(mut self, qmp: &Qmp) -> Result<Self, QmpError> {
        let views: BTreeSet<_> =
            self.nodes.iter().filter_map(|name| temporary(name)).map(|(of, _)| of).collect();
        let between = |name: &String| {
            temporary(name)
                .is_some_and(|(of, role)| views.contains(&of) && matches!(role, Role::Top | Role::Filter))
        };
        let nodes = qmp.query_nodes().await?.into_iter().filter_map(|node| node.node_name);
        let more: Vec<String> = nodes.filter(|name| between(name) && !self.nodes.contains(name)).collect();
        self.nodes.extend(more);
        Ok(self)
    }

    /// The ones of these that are there.
    pub(super) async fn present(&self, qmp: &Qmp) -> Result<Self, QmpError> {
        let nodes = qmp.query_nodes().await?;
        let exports = qmp.query_exports().await?;
        let jobs = qmp.query_jobs().await?;
        let node = |name: &str| nodes.iter().find(|node| node.node_name.as_deref() == Some(name));
        let keep = |names: &[String], there: &dyn Fn(&str) -> bool| {
            names.iter().filter(|name| there(name)).cloned().collect::<Vec<String>>()
        };
        let stands =
            |(on, name): &&(String, String)| node(on).is_some_and(|node| node.bitmap(name).is_some());
        Ok(Self {
            exports: keep(&self.exports, &|id| exports.iter().any(|export| export.id == id)),
            jobs: keep(&self.jobs, &|id| jobs.iter().any(|job| job.id == id)),
            nodes: keep(&self.nodes, &|name| node(name).is_some()),
            bitmaps: self.bitmaps.iter().filter(stands).cloned().collect(),
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.exports.is_empty() && self.jobs.is_empty() && self.nodes.is_empty() && self.bitmaps.is_empty()
    }

    /// Removes them all. On success none is left, by QEMU's own lists.
    pub(super) async fn remove(&self, qmp: &Qmp) -> Result<(), Stop> {
        if self.is_empty() {
            return Ok(());
        }
        for export in &self.exports {
            remove_export(qmp, export).await?;
        }
        for job in &self.jobs {
            finish_job(qmp, job).await?;
        }
        // Looked at again: with the jobs went their filters.
        let mut nodes = self.present(qmp).await?.nodes;
        nodes.sort_by_key(|name| depth(name));
        let fleeces = nodes.iter().take_while(|name| depth(name) == 0).count();
        let below = nodes.split_off(fleeces);
        remove_nodes(qmp, nodes).await?;
        lift(qmp, &below).await?;
        remove_nodes(qmp, below).await?;
        for (node, name) in &self.bitmaps {
            remove_bitmap(qmp, node, name).await?;
        }
        let left = self.present(qmp).await?;
        if left.is_empty() {
            return Ok(());
        }
        let what = format!("QEMU took the removal of these, and still lists them: {left:?}");
        Err(Stop::failed(FailureClass::Refused, what))
    }
}

/// Whose a temporary object is, and what.
fn temporary(name: &str) -> Option<((Installation, IntentId), Role)> {
    match names::owner(name)? {
        Owner::Temporary(installation, intent, _, role) => Some(((installation, intent), role)),
        Owner::Bitmap(..) => None,
    }
}

/// Where a node stands in its view, from the top. A fleece of a filter keeps the filter from being taken out, so fleeces
/// go by themselves first.
fn depth(name: &str) -> u8 {
    match temporary(name) {
        Some((_, Role::Fleece)) | None => 0,
        Some((_, Role::Top)) => 1,
        Some((_, Role::Filter)) => 2,
        Some((_, Role::Kept)) => 3,
        Some(_) => 4,
    }
}

/// Takes the filters below these top nodes out, all at one instant, and gives each device back what its top node then
/// stands on: the disk, or what another view or an outside snapshot has put on the disk meanwhile.
async fn lift(qmp: &Qmp, nodes: &[String]) -> Result<(), Stop> {
    let tops: Vec<&String> = nodes.iter().filter(|name| is_top(name)).collect();
    if tops.is_empty() {
        return Ok(());
    }
    let graph = Graph::query(qmp).await?;
    let (mut moves, mut stands) = (Vec::new(), BTreeMap::new());
    for top in tops {
        let Some(below) = graph.child(top, "file") else { continue };
        let filter = temporary(below).is_some_and(|(of, role)| {
            role == Role::Filter && temporary(top).is_some_and(|(its, _)| its == of)
        });
        let disk = if filter { graph.child(below, "file").unwrap_or(below) } else { below };
        if filter && qmp.version().major < STACKS_SAFE_FROM && graph.child(disk, "target").is_some() {
            let what = format!(
                "{disk}: another backup's job stands below this view's filter, and a QEMU {} aborts, guest and all, when \
                 the filter is taken out above it; the guest goes on, and the view ends when that job has ended",
                qmp.version()
            );
            return Err(Stop::failed(FailureClass::Refused, what));
        }
        if filter {
            moves.push((top.clone(), disk.to_owned()));
        }
        stands.insert(top.as_str(), disk.to_owned());
    }
    stand_on(qmp, &moves).await?;
    for device in Devices::query(qmp).await?.0 {
        let disk = device.top.as_deref().and_then(|top| stands.get(top));
        if let (Some(qdev), Some(disk)) = (&device.qdev, disk) {
            qmp.qom_set(qdev, "drive", disk.as_str().into()).await?;
        }
    }
    Ok(())
}

/// Drops the clients too: whoever reads a view that is taken down has lost it already.
async fn remove_export(qmp: &Qmp, id: &str) -> Result<(), Stop> {
    loop {
        let mut events = qmp.events();
        let Some(export) = qmp.query_exports().await?.into_iter().find(|export| export.id == id) else {
            return Ok(());
        };
        if !export.shutting_down {
            qmp.execute("block-export-del", json!({"id": id, "mode": RemoveMode::Hard})).await?;
        }
        let awaited = format!("export {id} to be deleted");
        over(events.wait(&awaited, LIMIT, |event| event.is("BLOCK_EXPORT_DELETED", "id", id)).await)?;
    }
}

/// Cancels a job that runs, waits until it is concluded, and dismisses it.
async fn finish_job(qmp: &Qmp, id: &str) -> Result<(), Stop> {
    let mut cancelled = false;
    loop {
        let mut events = qmp.events();
        let Some(job) = qmp.query_jobs().await?.into_iter().find(|job| job.id == id) else { return Ok(()) };
        if job.status == "concluded" {
            qmp.job_dismiss(id).await?;
            return Ok(());
        }
        if !cancelled && job.status != "aborting" {
            match qmp.job_cancel(id).await {
                // It may have come to its own end since it was looked at.
                Ok(()) | Err(QmpError::Refusal { .. }) => cancelled = true,
                Err(error) => return Err(error.into()),
            }
            // And may have ended before the subscription is asked: then the list says so.
            let jobs = qmp.query_jobs().await?;
            if jobs.iter().all(|job| job.id != id || job.status == "concluded") {
                continue;
            }
        }
        over(events.job_status(id, "concluded", LIMIT).await)?;
    }
}

/// The end of a wait for an event. Lost events are no error: the caller looks again in any case.
fn over<T>(awaited: Result<T, QmpError>) -> Result<(), QmpError> {
    match awaited {
        Ok(_) | Err(QmpError::EventsLost { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes nodes in the order given, and those that others stood on in the next round, as long as a round helps.
async fn remove_nodes(qmp: &Qmp, mut nodes: Vec<String>) -> Result<(), Stop> {
    while !nodes.is_empty() {
        let mut kept = Vec::new();
        let mut refusal = None;
        let before = nodes.len();
        for node in nodes {
            match qmp.blockdev_del(&node).await {
                Ok(()) => {}
                Err(error @ QmpError::Refusal { .. }) => {
                    refusal = Some(error);
                    kept.push(node);
                }
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(refusal) = refusal.filter(|_| kept.len() == before) {
            return Err(refusal.into());
        }
        nodes = kept;
    }
    Ok(())
}

async fn remove_bitmap(qmp: &Qmp, node: &str, name: &str) -> Result<(), Stop> {
    let nodes = qmp.query_nodes().await?;
    let on = nodes.iter().find(|it| it.node_name.as_deref() == Some(node));
    let Some(bitmap) = on.and_then(|node| node.bitmap(name)) else { return Ok(()) };
    if bitmap.busy {
        let what =
            format!("bitmap {name} on {node} is in use; end what uses it (an export or a job) and repeat");
        return Err(Stop::failed(FailureClass::Refused, what));
    }
    qmp.apply(&Action::BitmapRemove(BitmapName { node: node.into(), name: name.into() })).await?;
    Ok(())
}
