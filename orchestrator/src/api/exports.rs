//! Exports: views of running VMs that others read over NBD, for a while. An export is a job, and its id is the job's.

use axum::Json;
use axum::extract::{Path, State as Extract};
use journal::names::{Role, temporary};
use journal::outcome::Done;
use journal::record::{CancelAsked, ExportWork, Work};
use journal::state::{Job, JobState};
use journal::{EffectKind, JobId, State, Time, VmId};

use super::checkpoints::checkpoint_id;
use super::view::{ExportDiskView, ExportView, LeftOut, StartExport, Submitted};
use super::{Answer, Api, jobs, vm_named};
use crate::decide::export;
use crate::drive::{Refusal, Shared, now};

/// How long an export is offered when nobody says, in seconds: an hour.
const USUAL_TTL: u64 = 3600;

/// The longest that one may be asked for, in seconds: a week. It costs scratch space, and keeps the VM's backups waiting.
const LONGEST_TTL: u64 = 7 * 24 * 3600;

/// How long the list shows one that ended, in microseconds: a day.
const SHOWN: i64 = 24 * 3600 * 1_000_000;

pub(super) async fn create(Extract(api): Extract<Api>, Json(start): Json<StartExport>) -> Answer<Submitted> {
    let ttl_seconds = start.ttl_seconds.unwrap_or(USUAL_TTL);
    if !(1..=LONGEST_TTL).contains(&ttl_seconds) {
        let what =
            format!("an export may be offered for 1 to {LONGEST_TTL} seconds, a week, not {ttl_seconds}");
        return Err(Refusal::usage(what));
    }
    api.submit(move |state| {
        let name = &start.vm;
        let vm = vm_named(state, name)?;
        let since = match &start.since {
            None => None,
            Some(text) => {
                let found = state.vms.get(&vm).and_then(|vm| checkpoint_id(&vm.chain, text));
                let missing = || {
                    let what =
                        format!("{name} has no checkpoint `{text}`; `checkpoint list {name}` shows them");
                    Refusal::not_found(what)
                };
                Some(found.ok_or_else(missing)?)
            }
        };
        Ok(vec![Work::Export(ExportWork { vm, since, ttl_seconds })])
    })
    .await
}

/// Newest first.
pub(super) async fn list(Extract(api): Extract<Api>) -> Json<Vec<ExportView>> {
    let state = api.shared.state.read().await;
    let since = Time(now().0 - SHOWN);
    let shown = |job: &&Job| job.ended.is_none_or(|ended| ended > since);
    let exports = state.jobs.values().rev().filter(shown);
    Json(exports.filter_map(|job| Some(view(&api.shared, &state, job, work(job)?))).collect())
}

pub(super) async fn show(Extract(api): Extract<Api>, Path(id): Path<String>) -> Answer<ExportView> {
    let state = api.shared.state.read().await;
    let known = id.parse().ok().and_then(|id| jobs::known(&api.shared, &state, id));
    let job = known.ok_or_else(|| missing(&id))?;
    let work = work(&job).ok_or_else(|| missing(&id))?;
    Ok(Json(view(&api.shared, &state, &job, work)))
}

/// Asks for its end. Its job takes the view down.
pub(super) async fn remove(Extract(api): Extract<Api>, Path(id): Path<String>) -> Answer<Submitted> {
    let job = api
        .propose(move |state, _| {
            let job =
                id.parse().ok().and_then(|id: JobId| state.jobs.get(&id)).filter(|job| work(job).is_some());
            let job = job.ok_or_else(|| missing(&id))?;
            if job.state.is_over() {
                let why = job.reason.as_deref().unwrap_or("no reason was given");
                return Err(Refusal::not_found(format!("export {id} has ended already: {why}")));
            }
            let asked = CancelAsked { job: job.id, why: None };
            Ok((if job.cancel_asked { Vec::new() } else { vec![asked.into()] }, job.id))
        })
        .await?;
    Ok(Json(Submitted { jobs: vec![job.to_string()] }))
}

fn missing(id: &str) -> Refusal {
    Refusal::not_found(format!("no export `{id}`; `export list` shows them"))
}

/// The exports of a VM that are not over.
pub(super) fn not_over(state: &State, vm: VmId) -> impl Iterator<Item = &Job> {
    state.queue().of_vm(vm).filter_map(|job| state.jobs.get(&job)).filter(|job| work(job).is_some())
}

fn work(job: &Job) -> Option<&ExportWork> {
    match &job.work {
        Work::Export(work) => Some(work),
        _ => None,
    }
}

/// The instant of an export, once it has begun.
fn instant(job: &Job) -> Option<Time> {
    match job.last(EffectKind::Begin)?.done()? {
        Done::Began { instant } => Some(*instant),
        _ => None,
    }
}

/// When an export ends by itself, once it has begun.
pub(super) fn expires(job: &Job) -> Option<Time> {
    Some(export::expires(instant(job)?, work(job)?))
}

fn view(shared: &Shared, state: &State, job: &Job, work: &ExportWork) -> ExportView {
    let open = job.is_offering() && !job.cancel_asked;
    let begun = job.last(EffectKind::Begin).filter(|begun| begun.done().is_some()).map(|begun| begun.intent);
    let plan = job.export.as_ref();
    let disks = plan.into_iter().flat_map(|plan| plan.disks.iter().enumerate().map(move |at| (plan, at)));
    let disks = disks.map(|(plan, (place, disk))| {
        let name = |role| Some(temporary(state.installation?, begun?, place, role));
        ExportDiskView {
            disk: disk.disk.to_string(),
            size: disk.size_bytes,
            uri: name(Role::Export).filter(|_| open).map(|name| uri(&name, &plan.socket)),
            bitmap: name(Role::Changes)
                .filter(|_| !disk.changed_since.is_empty())
                .map(|name| format!("qemu:dirty-bitmap:{name}")),
            reason: disk.reason.clone(),
        }
    });
    let left_out = plan.into_iter().flat_map(|plan| &plan.left_out);
    let left_out = left_out.map(|(disk, reason)| LeftOut { disk: disk.to_string(), reason: reason.clone() });
    ExportView {
        id: job.id.to_string(),
        vm: jobs::vm_name(state, work.vm),
        state: stage(job, open).to_owned(),
        instant: instant(job).map(|at| at.to_string()),
        expires: expires(job).map(|at| at.to_string()),
        since: work.since.map(|since| since.to_string()),
        way: plan.map(|plan| plan.way.to_string()),
        disks: disks.collect(),
        left_out: left_out.collect(),
        reason: job.reason.clone().or_else(|| jobs::Sight::new(shared, state).waits(job)),
        ended: job.ended.map(|at| at.to_string()),
    }
}

fn stage(job: &Job, open: bool) -> &'static str {
    match job.state {
        // Exports are not paused.
        JobState::Queued | JobState::Paused => "queued",
        JobState::Running if open => "open",
        JobState::Running if job.cancel_asked || job.last(EffectKind::Offer).is_some() => "ending",
        JobState::Running => "beginning",
        JobState::Done | JobState::Failed | JobState::Cancelled => "ended",
    }
}

/// An NBD URI (the NBD project's `doc/uri.md`): the export's name as its path, the socket's path percent-encoded.
fn uri(export: &str, socket: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    let socket = socket.bytes().map(|byte| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    format!("nbd+unix:///{export}?socket={}", socket.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_s_path_may_hold_anything() {
        assert_eq!(
            uri("backstay.0a1b2c3d.t5.0x", "/run/back stay/ü&1/nbd"),
            "nbd+unix:///backstay.0a1b2c3d.t5.0x?socket=/run/back%20stay/%C3%BC%261/nbd"
        );
    }
}
