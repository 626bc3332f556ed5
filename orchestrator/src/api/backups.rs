//! Backups by hand.

use axum::Json;
use axum::extract::State as Extract;
use journal::record::{BackupWork, ConsistencyAsked, Mode, Work};
use journal::{CheckpointId, RepositoryName, State};

use super::view::{StartBackup, Submitted};
use super::{Answer, Api, jobs, repositories, vm_named, word};
use crate::drive::Refusal;

pub(super) async fn start(Extract(api): Extract<Api>, Json(start): Json<StartBackup>) -> Answer<Submitted> {
    let mode: Mode = word("mode", &start.mode, "auto, full, incremental or differential")?;
    let consistency: ConsistencyAsked =
        word("consistency", &start.consistency, "crash, filesystem or required")?;
    let since: Option<CheckpointId> = start
        .since
        .as_deref()
        .map(|text| text.parse().map_err(|error| Refusal::usage(format!("{error}"))))
        .transpose()?;
    let after = jobs::named(&api.shared, &start.after).await?;
    api.submit_after(after.into(), move |state| {
        if start.vms.is_empty() {
            return Err(Refusal::usage("no VM was named"));
        }
        let repositories = targets(state, &start.repositories)?;
        let mut work = Vec::new();
        for name in &start.vms {
            let vm = vm_named(state, name)?;
            if let Some(since) = since
                && state.vms.get(&vm).is_none_or(|vm| vm.chain.get(since).is_none())
            {
                let what = format!("{name} has no checkpoint {since}; `checkpoint list {name}` shows them");
                return Err(Refusal::not_found(what));
            }
            work.extend(repositories.iter().map(|repository| {
                Work::Backup(BackupWork { vm, repository: repository.clone(), mode, since, consistency })
            }));
        }
        Ok(work)
    })
    .await
}

fn targets(state: &State, names: &[String]) -> Result<Vec<RepositoryName>, Refusal> {
    if !names.is_empty() {
        return names.iter().map(|name| repositories::named(state, name)).collect();
    }
    let mut all = state.repositories.keys();
    match (all.next(), all.next()) {
        (Some(only), None) => Ok(vec![only.clone()]),
        (None, _) => Err(Refusal::usage("there is no repository yet; `repo add` makes one")),
        _ => Err(Refusal::usage("there are several repositories; say which with --repo")),
    }
}
