//! Restore points.

use axum::Json;
use axum::extract::{Path, Query, State as Extract};
use journal::effect::DiskMode;
use journal::record::{PointHeld, Work};
use journal::state::{Point, PointDisk};
use journal::{PointId, State, VmId};
use serde::Deserialize;

use super::repositories::may_remove;
use super::view::{GoneView, LeftOut, PointDiskView, PointView, Submitted};
use super::{Answer, Api};
use crate::decide::expire::parents_in_use;
use crate::drive::{How, Kept, Refusal};

#[derive(Debug, Deserialize)]
pub(super) struct Filter {
    vm: Option<String>,
    #[serde(default)]
    all: bool,
}

/// A VM that is no longer managed still has its points, so that the filter is by the name that they carry. With `all`,
/// also those that are gone, with when and why.
pub(super) async fn list(Extract(api): Extract<Api>, Query(filter): Query<Filter>) -> Answer<Vec<PointView>> {
    let gone = if filter.all { gone(&api).await? } else { Vec::new() };
    let state = api.shared.state.read().await;
    let wanted = |point: &&Point| filter.vm.as_ref().is_none_or(|vm| point.vm_name.as_str() == vm);
    // The state is asked last: what is in it is there, whatever the index says.
    let gone = gone.iter().filter(|kept| wanted(&&kept.point) && !state.points.contains_key(&kept.point.id));
    let mut points: Vec<(PointId, PointView)> = gone.map(|kept| (kept.point.id, view_kept(kept))).collect();
    points.extend(state.points.values().filter(wanted).map(|point| (point.id, view(point))));
    points.sort_by_key(|(id, _)| *id);
    if let Some(vm) = filter.vm.as_ref().filter(|_| points.is_empty()) {
        super::vm_named(&state, vm)?;
    }
    Ok(Json(points.into_iter().map(|(_, view)| view).collect()))
}

/// The restore points that are gone, once the index has all that is durable.
async fn gone(api: &Api) -> Result<Vec<Kept>, Refusal> {
    let durable = api.shared.log.durable().borrow().seq;
    if !api.shared.history.caught_up(durable).await {
        let what = "the history index is behind the journal, so that what is gone is not known; start Backstay again, and \
                    it is made good";
        return Err(Refusal::failed(what));
    }
    let history = api.shared.history.clone();
    let gone = tokio::task::spawn_blocking(move || history.gone(None)).await;
    gone.map_err(|error| Refusal::failed(error.to_string()))
}

/// A VM by its name, managed or only named by its restore points.
pub(super) async fn vm_of_name(api: &Api, name: &str) -> Result<VmId, Refusal> {
    let missing = {
        let state = api.shared.state.read().await;
        let of_points =
            || state.points.values().rev().find(|point| point.vm_name.as_str() == name).map(|point| point.vm);
        match super::vm_named(&state, name) {
            Ok(vm) => return Ok(vm),
            Err(missing) => match of_points() {
                Some(vm) => return Ok(vm),
                None => missing,
            },
        }
    };
    let gone = gone(api).await.unwrap_or_default();
    let named = gone.iter().rev().find(|kept| kept.point.vm_name.as_str() == name);
    named.map(|kept| kept.point.vm).ok_or(missing)
}

pub(super) async fn show(Extract(api): Extract<Api>, Path(id): Path<String>) -> Answer<PointView> {
    let state = api.shared.state.read().await;
    match find(&state, &id) {
        Ok(point) => Ok(Json(view(point))),
        Err(missing) => {
            let kept = id.parse().ok().and_then(|id| api.shared.history.point(id));
            kept.filter(|kept| kept.gone.is_some()).map(|kept| Json(view_kept(&kept))).ok_or(missing)
        }
    }
}

pub(super) async fn hold(Extract(api): Extract<Api>, Path(id): Path<String>) -> Answer<PointView> {
    set_held(&api, id, true).await
}

pub(super) async fn release(Extract(api): Extract<Api>, Path(id): Path<String>) -> Answer<PointView> {
    set_held(&api, id, false).await
}

async fn set_held(api: &Api, id: String, held: bool) -> Answer<PointView> {
    let view = api
        .propose(move |state, _| {
            let point = find(state, &id)?;
            let records = if point.held == held {
                Vec::new()
            } else {
                vec![PointHeld { point: point.id, held }.into()]
            };
            Ok((records, PointView { held, ..view(point) }))
        })
        .await?;
    Ok(Json(view))
}

#[derive(Debug, Deserialize)]
pub(super) struct Force {
    #[serde(default)]
    force: bool,
}

pub(super) async fn forget(
    Extract(api): Extract<Api>,
    Path(id): Path<String>,
    Query(Force { force }): Query<Force>,
) -> Answer<Submitted> {
    api.submit(move |state| {
        let point = find(state, &id)?;
        may_forget(state, point, force)?;
        may_remove(state, &point.repository, "to forget a restore point")?;
        Ok(vec![Work::Forget { point: point.id }])
    })
    .await
}

fn may_forget(state: &State, point: &Point, force: bool) -> Result<(), Refusal> {
    let id = point.id;
    if point.held {
        return Err(Refusal::refused(format!("{id} is held; `point release {id}` first")));
    }
    if parents_in_use(state).contains(&id) {
        return Err(Refusal::refused(format!("{id} is being read by a job; wait for it, or cancel it")));
    }
    let last = state.points_of(point.vm).count() == 1;
    if last && !force {
        let what =
            format!("{id} is the last restore point of {}; --force forgets it all the same", point.vm_name);
        return Err(Refusal::refused(what));
    }
    Ok(())
}

/// A point by its id.
pub(super) fn find<'a>(state: &'a State, id: &str) -> Result<&'a Point, Refusal> {
    let parsed: Option<PointId> = id.parse().ok();
    let point = parsed.and_then(|id| state.points.get(&id));
    point.ok_or_else(|| Refusal::not_found(format!("no restore point `{id}`; `point list` shows them")))
}

fn view_kept(kept: &Kept) -> PointView {
    let gone = kept.gone.as_ref().map(|gone| GoneView {
        at: gone.at.to_string(),
        how: match gone.how {
            How::Forgotten => "forgotten".to_owned(),
            How::Missing => "missing".to_owned(),
        },
        why: gone.why.clone(),
        seq: gone.seq,
    });
    PointView { gone, ..view(&kept.point) }
}

fn view(point: &Point) -> PointView {
    PointView {
        id: point.id.to_string(),
        vm: point.vm_name.to_string(),
        created: point.created.to_string(),
        repository: point.repository.to_string(),
        parent: point.parent.map(|parent| parent.to_string()),
        consistency: point.consistency.to_string(),
        snapshot: point.snapshot.clone(),
        checkpoint: point.checkpoint.to_string(),
        policy: point.policy.as_ref().map(ToString::to_string),
        held: point.held,
        way: point.way.to_string(),
        suspect: point.suspect.clone(),
        disks: point.disks.iter().map(disk_view).collect(),
        left_out: point
            .left_out
            .iter()
            .map(|(disk, reason)| LeftOut { disk: disk.to_string(), reason: reason.clone() })
            .collect(),
        gone: None,
    }
}

fn disk_view(disk: &PointDisk) -> PointDiskView {
    let (mode, reason) = match &disk.mode {
        DiskMode::Full { reason } => ("full", Some(reason.clone())),
        DiskMode::Incremental { .. } => ("incremental", None),
    };
    PointDiskView {
        name: disk.disk.to_string(),
        size: disk.size_bytes,
        mode: mode.to_owned(),
        reason,
        changed_bytes: disk.changed_bytes,
        read_bytes: disk.read_bytes,
        stored_bytes: disk.stored_bytes,
        audited_chunks: disk.audited_chunks,
    }
}
