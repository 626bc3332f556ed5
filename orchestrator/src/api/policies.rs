//! Policies.

use axum::Json;
use axum::extract::{Path, Query, State as Extract};
use chrono::{DateTime, TimeDelta, Utc};
use journal::record::{PolicyApplied, PolicyPaused, PolicyRemoved};
use journal::state::Policy as Recorded;
use journal::{PolicyName, Record, RepositoryName, State, Time};
use policies::Policy;
use policies::file::{self, Change};
use policies::preview::preview as ask;
use serde::Deserialize;
use serde_json::{Value, json};

use super::view::{ApplyPolicies, PolicyChange, PolicyView};
use super::{Answer, Api};
use crate::decide::schedule::candidates;
use crate::drive::{self, Refusal};

/// How far a preview looks when no end is given.
const PREVIEW: TimeDelta = TimeDelta::days(7);

pub(super) async fn apply(
    Extract(api): Extract<Api>,
    Json(apply): Json<ApplyPolicies>,
) -> Answer<Vec<PolicyChange>> {
    let policies = file::read(&apply.text).map_err(|error| Refusal::usage(error.to_string()))?;
    let changes = api
        .propose(move |state, _| {
            let mut records = Vec::new();
            let mut changes = Vec::new();
            for policy in &policies {
                let (record, change) = change(state, policy)?;
                records.extend(record);
                changes.push(change);
            }
            Ok((if apply.dry_run { Vec::new() } else { records }, changes))
        })
        .await?;
    Ok(Json(changes))
}

fn change(state: &State, policy: &Policy) -> Result<(Option<Record>, PolicyChange), Refusal> {
    let name: PolicyName = policy.name.parse().map_err(|error| Refusal::usage(format!("{error}")))?;
    for repository in &policy.repositories {
        let known = repository.parse::<RepositoryName>().is_ok_and(|it| state.repositories.contains_key(&it));
        if !known {
            let what = format!("policy {name}: there is no repository `{repository}`; `repo add` makes one");
            return Err(Refusal::usage(what));
        }
    }
    let old = state.policies.get(&name).and_then(|recorded| parsed(recorded));
    let differences = file::difference(old.as_slice(), std::slice::from_ref(policy));
    let (change, details) = match differences.into_iter().next() {
        None => ("unchanged", Vec::new()),
        Some(Change::Added { .. }) => ("added", Vec::new()),
        Some(Change::Removed { .. }) => ("removed", Vec::new()),
        Some(Change::Changed { fields, .. }) => {
            let word = |value: Option<String>| value.unwrap_or_else(|| "nothing".to_owned());
            let lines =
                fields.into_iter().map(|it| format!("{}: {} -> {}", it.field, word(it.from), word(it.to)));
            ("changed", lines.collect())
        }
    };
    let text = file::print(std::slice::from_ref(policy));
    let record = (change != "unchanged").then(|| PolicyApplied { name, text }.into());
    Ok((record, PolicyChange { policy: policy.name.clone(), change: change.to_owned(), details }))
}

/// A recorded policy, read again.
pub(super) fn parsed(recorded: &Recorded) -> Option<Policy> {
    let mut policy = file::read(&recorded.text).ok()?.into_iter().next()?;
    policy.paused |= recorded.paused;
    Some(policy)
}

pub(super) async fn list(Extract(api): Extract<Api>) -> Json<Vec<PolicyView>> {
    let state = api.shared.state.read().await;
    Json(state.policies.iter().map(|(name, recorded)| view(&state, name, recorded)).collect())
}

pub(super) async fn show(Extract(api): Extract<Api>, Path(name): Path<String>) -> Answer<PolicyView> {
    let state = api.shared.state.read().await;
    let (name, recorded) = find(&state, &name)?;
    Ok(Json(view(&state, name, recorded)))
}

pub(super) async fn remove(Extract(api): Extract<Api>, Path(name): Path<String>) -> Answer<Value> {
    api.propose(move |state, _| {
        let (name, _) = find(state, &name)?;
        Ok((vec![PolicyRemoved { name: name.clone() }.into()], Json(json!({ "removed": name }))))
    })
    .await
}

pub(super) async fn pause(Extract(api): Extract<Api>, Path(name): Path<String>) -> Answer<PolicyView> {
    set_paused(&api, name, true).await
}

pub(super) async fn resume(Extract(api): Extract<Api>, Path(name): Path<String>) -> Answer<PolicyView> {
    set_paused(&api, name, false).await
}

async fn set_paused(api: &Api, name: String, paused: bool) -> Answer<PolicyView> {
    api.propose(move |state, _| {
        let (name, recorded) = find(state, &name)?;
        let record = PolicyPaused { name: name.clone(), paused };
        let records = if recorded.paused == paused { Vec::new() } else { vec![record.into()] };
        Ok((records, Json(view(state, name, &Recorded { paused, ..recorded.clone() }))))
    })
    .await
}

#[derive(Debug, Deserialize)]
pub(super) struct Range {
    name: Option<String>,
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
}

/// Every run in a range of dates, and every run that would not be, from the policies and VMs as they are now.
pub(super) async fn preview(Extract(api): Extract<Api>, Query(range): Query<Range>) -> Answer<Value> {
    let from = range.from.unwrap_or_else(|| drive::now().to_utc());
    let to = range.to.unwrap_or(from + PREVIEW);
    let state = api.shared.state.read().await;
    if let Some(name) = &range.name {
        find(&state, name)?;
    }
    let wanted = |name: &PolicyName| range.name.as_ref().is_none_or(|wanted| name.as_str() == wanted);
    let policies: Vec<Policy> =
        state.policies.iter().filter(|(name, _)| wanted(name)).filter_map(|(_, it)| parsed(it)).collect();
    let machines = candidates(&state);
    let preview = ask(&policies, &machines, from, to).map_err(|error| Refusal::usage(error.to_string()))?;
    serde_json::to_value(&preview).map(Json).map_err(|error| Refusal::failed(error.to_string()))
}

fn find<'a>(state: &'a State, name: &str) -> Result<(&'a PolicyName, &'a Recorded), Refusal> {
    let found = name.parse::<PolicyName>().ok().and_then(|name| state.policies.get_key_value(&name));
    let found = found.map(|(name, recorded)| (name, recorded.as_ref()));
    found.ok_or_else(|| Refusal::not_found(format!("no policy `{name}`; `policy list` shows them")))
}

fn view(state: &State, name: &PolicyName, recorded: &Recorded) -> PolicyView {
    let machines = candidates(state);
    let policy = parsed(recorded);
    let now = drive::now().to_utc();
    let next_run = policy.as_ref().filter(|policy| !policy.paused).and_then(|policy| {
        policy.schedules.iter().filter_map(|timing| timing.schedule.next_after(now)).min()
    });
    PolicyView {
        name: name.to_string(),
        applied: recorded.applied.to_string(),
        paused: policy.as_ref().map_or(recorded.paused, |policy| policy.paused),
        vms: policy.iter().flat_map(|it| it.selected(&machines)).map(str::to_owned).collect(),
        next_run: next_run.map(|at| Time::from(at).to_string()),
        text: recorded.text.clone(),
    }
}
