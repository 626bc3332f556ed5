//! Repositories.

use axum::Json;
use axum::extract::{Path, Query, State as Extract};
use journal::effect::RepositoryAddress;
use journal::record::Work;
use journal::{RepositoryName, State};
use serde::Deserialize;

use super::view::{AddRepository, RepositoryView, Submitted};
use super::{Answer, Api};
use crate::drive::Refusal;

/// The chunk size when none is asked for: 1 MiB.
const CHUNK_BYTES: u32 = 1 << 20;

pub(super) async fn list(Extract(api): Extract<Api>) -> Json<Vec<RepositoryView>> {
    let state = api.shared.state.read().await;
    let views = state.repositories.iter().map(|(name, repository)| RepositoryView {
        name: name.to_string(),
        path: repository.address.path.clone(),
        id: repository.id.clone(),
        chunk_size: repository.chunk_bytes,
        added: repository.added.to_string(),
        points: state.points.values().filter(|point| point.repository == *name).count(),
    });
    Json(views.collect())
}

pub(super) async fn add(Extract(api): Extract<Api>, Json(add): Json<AddRepository>) -> Answer<Submitted> {
    let name: RepositoryName = add.name.parse().map_err(|error| Refusal::usage(format!("{error}")))?;
    let chunk_bytes = add.chunk_size.unwrap_or(CHUNK_BYTES);
    if !chunk_bytes.is_power_of_two() || !((64 << 10)..=(8 << 20)).contains(&chunk_bytes) {
        let what =
            format!("a chunk size of {chunk_bytes} bytes: it has to be a power of two from 64 KiB to 8 MiB");
        return Err(Refusal::usage(what));
    }
    api.submit(move |state| {
        if state.repositories.contains_key(&name) {
            return Err(Refusal::refused(format!("there is a repository `{name}` already")));
        }
        if let Some((other, _)) = state.repositories.iter().find(|(_, it)| it.address.path == add.path) {
            return Err(Refusal::refused(format!("{} is repository `{other}` already", add.path)));
        }
        let repository = RepositoryAddress { name, path: add.path, password_file: add.password_file };
        Ok(vec![Work::AddRepository { repository, chunk_bytes }])
    })
    .await
}

#[derive(Debug, Deserialize)]
pub(super) struct Depth {
    #[serde(default)]
    read_data: bool,
}

pub(super) async fn check(
    Extract(api): Extract<Api>,
    Path(name): Path<String>,
    Query(depth): Query<Depth>,
) -> Answer<Submitted> {
    api.submit(move |state| {
        let repository = named(state, &name)?;
        Ok(vec![Work::CheckRepository { repository, read_data: depth.read_data }])
    })
    .await
}

pub(super) async fn prune(Extract(api): Extract<Api>, Path(name): Path<String>) -> Answer<Submitted> {
    api.submit(move |state| Ok(vec![Work::PruneRepository { repository: named(state, &name)? }])).await
}

/// A repository by its name.
pub(super) fn named(state: &State, name: &str) -> Result<RepositoryName, Refusal> {
    let parsed = name.parse::<RepositoryName>().ok().filter(|name| state.repositories.contains_key(name));
    parsed.ok_or_else(|| Refusal::not_found(format!("no repository `{name}`; `repo list` shows them")))
}
