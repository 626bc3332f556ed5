//! The effect that counts what is in a repository, by VM.

use std::collections::BTreeMap;

use journal::effect::Measure;
use journal::outcome::{Measured, MeasuredVm};
use journal::{Done, Failure, IntentId, VmId};
use repository::{Snapshot, Stats, StatsError};

use super::perform::stopped;
use super::{Explain, watched};
use crate::task::{Answer, Task};

/// Performs [`journal::Effect::Measure`].
pub async fn measure(_intent: IntentId, effect: &Measure, task: &Task) -> Answer {
    let at = effect.repository.clone();
    let measured: Result<Done, Failure> = async {
        let repository = task.repositories.open(&effect.repository).await?;
        watched(task, "counting what is in the repository", move |watch| {
            match repository.stats(group, &|progress| watch.report(progress.done, progress.total)) {
                Ok(stats) => Ok(Done::Measured(figures(stats))),
                Err(StatsError::Cancelled(_)) => Err(stopped("the count")),
                Err(error) => Err(error.explain(&at)),
            }
        })
        .await
    }
    .await;
    measured.into()
}

/// Between a VM's id and its name, neither of which has one. A VM that was renamed is one group for each name.
const BETWEEN: char = ' ';

/// The VM of a snapshot: the id in its tag, where it has one, and the name.
fn group(snapshot: &Snapshot) -> String {
    let id = snapshot.tags.iter().find_map(|tag| tag.strip_prefix("vm=")).unwrap_or_default();
    format!("{id}{BETWEEN}{}", snapshot.hostname)
}

fn figures(stats: Stats) -> Measured {
    let mut vms = BTreeMap::new();
    for group in stats.groups {
        let (id, name) = group.name.split_once(BETWEEN).unwrap_or_default();
        let vm = MeasuredVm {
            vm: name.to_owned(),
            id: id.parse().ok().map(VmId),
            points: group.snapshots,
            restore_bytes: group.restore_bytes,
            used_bytes: group.used_bytes,
            own_bytes: group.own_bytes,
        };
        vms.insert((vm.vm.clone(), vm.id), vm);
    }
    Measured {
        points: stats.snapshots,
        stored_bytes: stats.stored_bytes,
        used_bytes: stats.used_bytes,
        plain_bytes: stats.plain_bytes,
        restore_bytes: stats.restore_bytes,
        vms: vms.into_values().collect(),
    }
}
