//! The effect that frees what no restore point needs. Knows nothing of why a point was forgotten.

use journal::effect::{Prune, PruneBy, PruneTerms, RepositoryAddress};
use journal::outcome::Pruned;
use journal::{Done, Failure, IntentId, Time};
use repository::{PruneError, PruneOptions, PruneReport};

use super::perform::stopped;
use super::{Explain, watched};
use crate::task::{Answer, Task};

/// Performs [`journal::Effect::Prune`].
pub async fn prune(_intent: IntentId, effect: &Prune, task: &Task) -> Answer {
    let pruned = carry_out(&effect.repository, PruneTerms::default(), task).await;
    pruned.map(|report| Done::Pruned { freed_bytes: freed(&report) }).into()
}

/// Performs [`journal::Effect::PruneBy`].
pub async fn prune_by(_intent: IntentId, effect: &PruneBy, task: &Task) -> Answer {
    let pruned = carry_out(&effect.repository, effect.terms, task).await;
    pruned.map(|report| Done::PrunedBy(figures(&report))).into()
}

async fn carry_out(
    address: &RepositoryAddress,
    terms: PruneTerms,
    task: &Task,
) -> Result<PruneReport, Failure> {
    let at = address.clone();
    // The longest that there is stands for whatever is longer still.
    let grace = i64::try_from(terms.grace_seconds).ok().and_then(chrono::TimeDelta::try_seconds);
    let options = PruneOptions {
        dry_run: terms.dry_run,
        max_unused_percent: terms.max_unused_percent,
        grace: grace.unwrap_or(chrono::TimeDelta::MAX),
    };
    let repository = task.repositories.open(address).await?;
    watched(task, "pruning the repository", move |watch| {
        let pruned = repository.prune(&options, &|progress| watch.report(progress.done, progress.total));
        pruned.map_err(|error| match error {
            PruneError::Cancelled(_) => stopped("the prune"),
            error => error.explain(&at),
        })
    })
    .await
}

fn freed(report: &PruneReport) -> u64 {
    report.bytes_removed.saturating_sub(report.bytes_repacked)
}

fn figures(report: &PruneReport) -> Pruned {
    let count = |packs: usize| packs as u64;
    Pruned {
        dry_run: report.dry_run,
        freed_bytes: freed(report),
        marked_bytes: report.bytes_marked,
        copied_bytes: report.bytes_repacked,
        unused_bytes: report.bytes_unused,
        packs_kept: count(report.packs_kept),
        packs_removed: count(report.packs_removed),
        packs_marked: count(report.packs_marked),
        packs_taken_back: count(report.packs_taken_back),
        first_due: report.first_due.map(|due| Time(due.timestamp_micros())),
    }
}
