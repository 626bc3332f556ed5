//! Checkpoints: the chain as the journal has it, with what only QEMU knows beside it.

use axum::Json;
use axum::extract::{Path, State as Extract};
use journal::CheckpointId;
use journal::observation::{Machine, VmSeen};
use journal::record::Work;
use journal::state::{Chain, Checkpoint};

use super::view::{CheckpointDiskView, CheckpointView, Submitted};
use super::{Answer, Api, vm_named};
use crate::drive::{Refusal, look_at};

pub(super) async fn list(
    Extract(api): Extract<Api>,
    Path(name): Path<String>,
) -> Answer<Vec<CheckpointView>> {
    let target = {
        let state = api.shared.state.read().await;
        let id = vm_named(&state, &name)?;
        state.vms.get(&id).map(look_at)
    };
    let target = target.ok_or_else(|| Refusal::not_found(format!("no VM `{name}`")))?;
    let seen = api.look(target).await?;
    let machine = match &seen {
        VmSeen::Answering(machine) => Some(machine.as_ref()),
        _ => None,
    };
    let state = api.shared.state.read().await;
    let id = vm_named(&state, &name)?;
    let chain = state.vms.get(&id).into_iter().flat_map(|vm| &vm.chain.checkpoints);
    Ok(Json(chain.map(|checkpoint| view(checkpoint, machine)).collect()))
}

fn view(checkpoint: &Checkpoint, machine: Option<&Machine>) -> CheckpointView {
    let disks = checkpoint.disks.iter().map(|(disk, tracked)| {
        let seen = machine.and_then(|machine| machine.disks.iter().find(|seen| seen.disk == *disk));
        let size = seen.map(|seen| seen.size_bytes);
        let seen = seen.and_then(|seen| seen.bitmap(&tracked.bitmap));
        let cost = size.zip(seen).map(|(size, bitmap)| cost(size, bitmap.granularity_bytes));
        CheckpointDiskView {
            disk: disk.to_string(),
            bitmap: tracked.bitmap.clone(),
            recording: seen.map(|bitmap| bitmap.recording),
            granularity: seen.map(|bitmap| bitmap.granularity_bytes),
            dirty_bytes: seen.map(|bitmap| bitmap.dirty_bytes),
            memory_bytes: cost.map(|(memory, _)| memory),
            image_bytes: cost.map(|(_, image)| image),
        }
    });
    CheckpointView {
        name: checkpoint.id.to_string(),
        created: checkpoint.created.to_string(),
        by_hand: checkpoint.by_hand,
        disks: disks.collect(),
    }
}

/// The most that a bitmap costs: in QEMU's memory (`util/hbitmap.c`: a bit for each granule, and above it levels that are
/// 64 times smaller each), and in the image (the qcow2 specification's bitmap table: whole clusters of bits, 8 bytes in
/// the table for each; with clusters of 64 KiB). Parts without a bit cost less.
fn cost(size_bytes: u64, granularity_bytes: u64) -> (u64, u64) {
    const CLUSTER: u64 = 65_536;
    let words = |bits: u64| bits.div_ceil(64);
    let granules = size_bytes.div_ceil(granularity_bytes.max(1));
    let mut level = words(granules);
    let mut memory = level;
    while level > 1 {
        level = words(level);
        memory += level;
    }
    let clusters = granules.div_ceil(8).div_ceil(CLUSTER);
    let table = (clusters * 8).div_ceil(CLUSTER);
    (memory * 8, (clusters + table) * CLUSTER)
}

pub(super) async fn create(Extract(api): Extract<Api>, Path(name): Path<String>) -> Answer<Submitted> {
    api.submit(move |state| Ok(vec![Work::CreateCheckpoint { vm: vm_named(state, &name)? }])).await
}

/// Deleting a checkpoint loses no restore point: at worst the next backup is full, and says why.
pub(super) async fn delete(
    Extract(api): Extract<Api>,
    Path((name, checkpoint)): Path<(String, String)>,
) -> Answer<Submitted> {
    api.submit(move |state| {
        let vm = vm_named(state, &name)?;
        let found = state.vms.get(&vm).and_then(|vm| checkpoint_id(&vm.chain, &checkpoint));
        let missing = || {
            let what =
                format!("{name} has no checkpoint `{checkpoint}`; `checkpoint list {name}` shows them");
            Refusal::not_found(what)
        };
        Ok(vec![Work::DeleteCheckpoint { vm, checkpoint: found.ok_or_else(missing)? }])
    })
    .await
}

/// A checkpoint by its name, or by that of one of its bitmaps.
pub(super) fn checkpoint_id(chain: &Chain, text: &str) -> Option<CheckpointId> {
    let named = text.parse().ok().and_then(|id| chain.get(id));
    let has_bitmap = |it: &&Checkpoint| it.disks.values().any(|tracked| tracked.bitmap == text);
    named.or_else(|| chain.checkpoints.iter().find(has_bitmap)).map(|checkpoint| checkpoint.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bitmap_of_a_terabyte_costs_two_megabytes() {
        let (memory, image) = cost(1 << 40, 65_536);
        assert_eq!(memory, 8 * (262_144 + 4_096 + 64 + 1));
        assert_eq!(image, (32 + 1) * 65_536);
        assert_eq!(cost(1, 65_536), (8, 2 * 65_536));
    }
}
