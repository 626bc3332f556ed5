//! `AddCheckpoint` and `DeleteCheckpoint`: one transaction each, over all the disks.

use journal::IntentId;
use journal::effect::{AddCheckpoint, DeleteCheckpoint, Lasts, Unmark};
use journal::outcome::{Done, FailureClass};

use super::marks::{check_marks, has_mark, mark_actions};
use super::{Stop, conclude, now, reach};
use crate::qmp::{Action, BitmapAdd, BitmapMerge, BitmapName, BitmapSource, BlockNode};
use crate::task::{Answer, Task};

pub(crate) async fn add_checkpoint(_: IntentId, effect: &AddCheckpoint, task: &Task) -> Answer {
    conclude(effect.process, add(effect, task).await).await
}

async fn add(effect: &AddCheckpoint, task: &Task) -> Result<Done, Stop> {
    let line = reach::reach(&effect.vm, effect.process, &task.folders).await?;
    let nodes = line.query_nodes().await?;
    if !has_mark(effect, &nodes) {
        if task.cancelled.is_cancelled() {
            return Err(Stop::failed(FailureClass::Cancelled, "cancelled before the checkpoint was made"));
        }
        check_marks(effect, &nodes)?;
        line.transaction(&mark_actions(effect)).await?;
    }
    // After a lost answer this is later than the truth by as long as the repeat took. Nothing was read at that
    // instant, so the only thing that it dates is the list.
    Ok(Done::Began { instant: now() })
}

pub(crate) async fn delete_checkpoint(_: IntentId, effect: &DeleteCheckpoint, task: &Task) -> Answer {
    conclude(effect.process, delete(effect, task).await).await
}

async fn delete(effect: &DeleteCheckpoint, task: &Task) -> Result<Done, Stop> {
    let line = reach::reach(&effect.vm, effect.process, &task.folders).await?;
    let actions = delete_actions(effect, &line.query_nodes().await?)?;
    if !actions.is_empty() {
        line.transaction(&actions).await?;
    }
    Ok(Done::Plain)
}

/// What is still to do. The deletion is one transaction: where a bitmap that it makes is there, it ran. A first checkpoint
/// leaves nothing behind; that it is gone is all that was wanted, whoever did it.
fn delete_actions(effect: &DeleteCheckpoint, nodes: &[BlockNode]) -> Result<Vec<Action>, Stop> {
    let mut disks: Vec<(&Unmark, &BlockNode)> = Vec::new();
    for disk in &effect.disks {
        // A disk that is away keeps its bitmaps as they are; when it is back they are not what the chain names.
        let node = nodes.iter().find(|node| node.node_name.as_deref() == Some(&disk.node));
        disks.extend(node.map(|node| (disk, node)));
    }
    let has = |node: &BlockNode, name: &str| node.bitmap(name).is_some();
    let successor = |(disk, node): &(&Unmark, &BlockNode)| {
        disk.predecessor.as_ref().is_some_and(|predecessor| has(node, &predecessor.becomes))
    };
    let nothing_left =
        || disks.iter().all(|(disk, node)| disk.predecessor.is_none() && !has(node, &disk.bitmap));
    if disks.iter().any(successor) || nothing_left() {
        return Ok(Vec::new());
    }
    for (disk, node) in &disks {
        let predecessor = disk.predecessor.as_ref().map(|predecessor| &predecessor.bitmap);
        if let Some(lacking) = predecessor.into_iter().chain([&disk.bitmap]).find(|name| !has(node, name)) {
            let what = format!("disk {}: somebody removed bitmap {lacking} from it", disk.disk);
            return Err(Stop::failed(FailureClass::Refused, what));
        }
    }
    Ok(disks.into_iter().flat_map(|(disk, node)| unmark(disk, node)).collect())
}

/// The new bitmap is there, and records if it is to, before the old ones go, so that no write falls between.
fn unmark(disk: &Unmark, node: &BlockNode) -> Vec<Action> {
    let on = |name: &String| BitmapName { node: disk.node.clone(), name: name.clone() };
    let mut actions = Vec::new();
    if let Some(predecessor) = &disk.predecessor {
        actions.push(Action::BitmapAdd(BitmapAdd {
            node: disk.node.clone(),
            name: predecessor.becomes.clone(),
            granularity: node.bitmap(&predecessor.bitmap).map(|bitmap| bitmap.granularity),
            persistent: predecessor.lasts == Lasts::Persistent,
            disabled: !predecessor.records,
        }));
        let here = |name: &String| BitmapSource::Here(name.clone());
        actions.push(Action::BitmapMerge(BitmapMerge {
            node: disk.node.clone(),
            target: predecessor.becomes.clone(),
            bitmaps: vec![here(&predecessor.bitmap), here(&disk.bitmap)],
        }));
        actions.push(Action::BitmapRemove(on(&predecessor.bitmap)));
    }
    actions.push(Action::BitmapRemove(on(&disk.bitmap)));
    actions
}
