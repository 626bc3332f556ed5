//! Repositories.

use axum::Json;
use axum::extract::{Path, Query, State as Extract};
use journal::effect::{KeyChange, PruneTerms, Rate, RepositoryAddress};
use journal::record::Work;
use journal::{RepositoryName, State};
use policies::bandwidth::Limit;
use serde::Deserialize;

use super::view::{AddRepository, ChangeKeys, RateView, RepositoryView, Submitted};
use super::{Answer, Api};
use crate::drive::Refusal;

/// The chunk size when none is asked for.
const CHUNK_BYTES: u32 = 256 << 10;
/// Minutes of a day.
const DAY: u16 = 24 * 60;
/// The longest grace time of a prune, in seconds: a year.
const GRACE_MAX: u64 = 366 * 24 * 60 * 60;

pub(super) async fn list(Extract(api): Extract<Api>) -> Json<Vec<RepositoryView>> {
    let state = api.shared.state.read().await;
    let views = state.repositories.iter().map(|(name, repository)| RepositoryView {
        name: name.to_string(),
        path: repository.address.path.clone(),
        id: repository.id.clone(),
        chunk_size: repository.chunk_bytes,
        added: repository.added.to_string(),
        points: state.points.values().filter(|point| point.repository == *name).count(),
        append_only: repository.address.append_only,
        limits: repository.address.rates.iter().map(shown).collect(),
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
    let path = location(&add.path)?;
    let rates = rates(&add.limits)?;
    api.submit(move |state| {
        if state.repositories.contains_key(&name) {
            return Err(Refusal::refused(format!("there is a repository `{name}` already")));
        }
        if let Some((other, _)) = state.repositories.iter().find(|(_, it)| it.address.path == path) {
            return Err(Refusal::refused(format!("{path} is repository `{other}` already")));
        }
        let AddRepository { password_file, append_only, .. } = add;
        let repository = RepositoryAddress { name, path, password_file, append_only, rates };
        Ok(vec![Work::AddRepository { repository, chunk_bytes }])
    })
    .await
}

/// A repository's place as it is recorded: one spelling for each.
fn location(asked: &str) -> Result<String, Refusal> {
    let shortened = asked.trim_end_matches('/');
    match asked.strip_prefix("s3:") {
        // The whole URL goes into the journal and into messages. Not repeated here either: it may be a secret.
        Some(url) if url.contains('@') => Err(Refusal::usage(
            "credentials do not belong into a URL, which is shown and recorded: put them into the agent's environment \
             or into ~/.aws/credentials",
        )),
        Some(url) if ["http://", "https://", "//"].iter().any(|scheme| url.starts_with(scheme)) => {
            Ok(shortened.to_owned())
        }
        Some(url) => Err(Refusal::usage(format!(
            "{url}: not the URL of a bucket; write http://HOST:PORT/BUCKET/PREFIX, https://HOST/BUCKET/PREFIX, or \
             s3://BUCKET/PREFIX"
        ))),
        None if asked.starts_with('/') => Ok(if shortened.is_empty() { asked } else { shortened }.to_owned()),
        None => Err(Refusal::usage(format!("{asked}: not an absolute path"))),
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Depth {
    /// How many packs are read, in percent.
    #[serde(default)]
    read_percent: u8,
}

pub(super) async fn check(
    Extract(api): Extract<Api>,
    Path(name): Path<String>,
    Query(depth): Query<Depth>,
) -> Answer<Submitted> {
    let Depth { read_percent } = depth;
    if read_percent > 100 {
        return Err(Refusal::usage(format!("{read_percent} % of the data: there are no more than 100")));
    }
    api.submit(move |state| {
        Ok(vec![Work::CheckRepository { repository: named(state, &name)?, read_percent }])
    })
    .await
}

/// What may be asked of a prune; what is not asked is as [`PruneTerms::default`] has it.
#[derive(Debug, Deserialize)]
pub(super) struct Terms {
    #[serde(default)]
    dry_run: bool,
    grace_seconds: Option<u64>,
    max_unused_percent: Option<u8>,
}

pub(super) async fn prune(
    Extract(api): Extract<Api>,
    Path(name): Path<String>,
    Query(asked): Query<Terms>,
) -> Answer<Submitted> {
    let usual = PruneTerms::default();
    let terms = PruneTerms {
        dry_run: asked.dry_run,
        grace_seconds: asked.grace_seconds.unwrap_or(usual.grace_seconds),
        max_unused_percent: asked.max_unused_percent.unwrap_or(usual.max_unused_percent),
    };
    if terms.grace_seconds > GRACE_MAX {
        return Err(Refusal::usage(format!(
            "a grace time of {} seconds: at most a year",
            terms.grace_seconds
        )));
    }
    if terms.max_unused_percent > 100 {
        let what = format!("{} % of the used bytes: there are no more than 100", terms.max_unused_percent);
        return Err(Refusal::usage(what));
    }
    api.submit(move |state| {
        let repository = named(state, &name)?;
        if !terms.dry_run {
            may_remove(state, &repository, "a prune")?;
        }
        Ok(vec![Work::PruneBy { repository, terms }])
    })
    .await
}

pub(super) async fn stats(Extract(api): Extract<Api>, Path(name): Path<String>) -> Answer<Submitted> {
    api.submit(move |state| Ok(vec![Work::MeasureRepository { repository: named(state, &name)? }])).await
}

pub(super) async fn keys(
    Extract(api): Extract<Api>,
    Path(name): Path<String>,
    Json(change): Json<ChangeKeys>,
) -> Answer<Submitted> {
    api.submit(move |state| {
        let repository = named(state, &name)?;
        let change = match change {
            ChangeKeys::List => KeyChange::None,
            ChangeKeys::Add { password_file } => KeyChange::Add { password_file },
            ChangeKeys::Remove { key } => KeyChange::Remove { key },
            ChangeKeys::Change { password_file } => KeyChange::Change { password_file },
        };
        let current = state.repositories.get(&repository).map(|it| it.address.password_file.clone());
        if let KeyChange::Change { password_file } = &change
            && Some(password_file) == current.as_ref()
        {
            let what = format!("{password_file} is the password file of {repository} now; name another one");
            return Err(Refusal::usage(what));
        }
        if matches!(change, KeyChange::Remove { .. } | KeyChange::Change { .. }) {
            may_remove(state, &repository, "to remove a key")?;
        }
        Ok(vec![Work::Keys { repository, change }])
    })
    .await
}

pub(super) async fn limit(
    Extract(api): Extract<Api>,
    Path(name): Path<String>,
    Json(limits): Json<Vec<RateView>>,
) -> Answer<Submitted> {
    let rates = rates(&limits)?;
    api.submit(move |state| Ok(vec![Work::LimitRepository { repository: named(state, &name)?, rates }])).await
}

fn shown(rate: &Rate) -> RateView {
    let Rate { from_minute, to_minute, bytes_per_second } = *rate;
    RateView { from_minute, to_minute, bytes_per_second }
}

fn rates(limits: &[RateView]) -> Result<Vec<Rate>, Refusal> {
    let rate = |limit: &RateView| {
        let RateView { from_minute, to_minute, bytes_per_second } = *limit;
        if from_minute >= DAY || to_minute > DAY {
            return Err(Refusal::usage(format!("minutes {from_minute} to {to_minute}: a day has {DAY}")));
        }
        if bytes_per_second < Limit::LEAST {
            let least = Limit::LEAST;
            let what = format!(
                "{bytes_per_second} bytes a second: at least {least}, or a backup would seem to hang"
            );
            return Err(Refusal::usage(what));
        }
        Ok(Rate { from_minute, to_minute: to_minute % DAY, bytes_per_second })
    };
    limits.iter().map(rate).collect()
}

/// Refuses `what`, which removes something, where nothing may be removed.
pub(super) fn may_remove(state: &State, name: &RepositoryName, what: &str) -> Result<(), Refusal> {
    match state.repositories.get(name) {
        Some(repository) if repository.address.append_only => Err(Refusal::refused(format!(
            "{what} is not possible: repository {name} is append-only, so that nothing that is in it can be lost; do it \
             with restic, where you have the right to"
        ))),
        _ => Ok(()),
    }
}

/// A repository by its name.
pub(super) fn named(state: &State, name: &str) -> Result<RepositoryName, Refusal> {
    let parsed = name.parse::<RepositoryName>().ok().filter(|name| state.repositories.contains_key(name));
    parsed.ok_or_else(|| Refusal::not_found(format!("no repository `{name}`; `repo list` shows them")))
}
