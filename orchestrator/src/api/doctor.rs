//! The doctor: journal, QEMU and repositories side by side, with a verdict and its reason for every row.

mod sides;

use axum::Json;
use axum::extract::{Query, State as Extract};
use journal::observation::VmSeen;
use journal::record::Work;
use journal::{State, VmId};
use serde::Deserialize;

use super::view::{Doctor, FindingView, PlannedView, SideView};
use super::{Answer, Api, vm_named};
use crate::decide::reconcile::Finding;
use crate::decide::way::{self, Unprotected};
use crate::drive::{Examined, Refusal, Trouble};

#[derive(Debug, Deserialize)]
pub(super) struct Subject {
    vm: Option<String>,
}

pub(super) async fn examine(Extract(api): Extract<Api>, Query(subject): Query<Subject>) -> Answer<Doctor> {
    let mut findings: Vec<_> = api.shared.trouble().map(of_journal).into_iter().collect();
    // A `for` would hold the lock in its head through every look, and the drive could append nothing meanwhile.
    let subjects = subjects(&*api.shared.state.read().await, &subject)?;
    let (mut sides, mut plan): (Vec<SideView>, Vec<PlannedView>) = (Vec::new(), Vec::new());
    for (id, name) in subjects {
        let examined = api.examine(id).await?;
        findings.extend(rows(&name, &examined));
        plan.extend(steps(&name, &examined.findings));
        let state = api.shared.state.read().await;
        findings.extend(suspects(&state, id, &name));
        sides.extend(
            state.vms.get(&id).map(|vm| sides::sides(&state, vm, &examined.seen)).unwrap_or_default(),
        );
    }
    let ok = findings.iter().all(|(amiss, _)| !amiss);
    let findings = findings.into_iter().map(|(_, view)| view).collect();
    Ok(Json(Doctor { ok, findings, sides, plan, jobs: Vec::new() }))
}

/// What applying would do about the findings, each thing once.
fn steps(name: &str, findings: &[Finding]) -> Vec<PlannedView> {
    let mut plan: Vec<PlannedView> = Vec::new();
    for finding in findings {
        let Some(step) = finding.verdict.step() else { continue };
        let row = finding.row.label().to_owned();
        match plan.iter_mut().find(|planned| planned.step == step) {
            Some(planned) => planned.rows.push(row),
            None => plan.push(PlannedView { vm: name.to_owned(), step, rows: vec![row] }),
        }
    }
    plan
}

/// Restore points in doubt. One that a later good point in the same repository has taken the place of calls for nothing.
fn suspects(state: &State, vm: VmId, name: &str) -> Vec<(bool, FindingView)> {
    let of = |point: &journal::state::Point| {
        let why = point.suspect.clone()?;
        let later = |it: &journal::state::Point| {
            it.id > point.id && it.repository == point.repository && it.suspect.is_none()
        };
        let replaced = state.points_of(vm).any(later);
        let row = FindingView {
            vm: name.to_owned(),
            disk: None,
            row: "point-suspect".to_owned(),
            what: format!("restore point {} is in doubt: {why}", point.id),
            verdict: if replaced { "restore another" } else { "back up" }.to_owned(),
            why: "an audit found a change that no bitmap had recorded, and when it was missed is unknown"
                .to_owned(),
        };
        Some((!replaced, row))
    };
    state.points_of(vm).filter_map(of).collect()
}

/// Queues the look at each VM that heals it; its jobs say how it went.
pub(super) async fn apply(Extract(api): Extract<Api>, Query(subject): Query<Subject>) -> Answer<Doctor> {
    let Json(before) = examine(Extract(api.clone()), Query(Subject { vm: subject.vm.clone() })).await?;
    let submitted = api
        .submit(move |state| {
            let vms = subjects(state, &subject)?;
            Ok(vms.into_iter().map(|(vm, _)| Work::Reconcile { vm }).collect())
        })
        .await?;
    Ok(Json(Doctor { jobs: submitted.0.jobs, ..before }))
}

fn subjects(state: &State, subject: &Subject) -> Result<Vec<(VmId, String)>, Refusal> {
    if let Some(name) = &subject.vm {
        return Ok(vec![(vm_named(state, name)?, name.clone())]);
    }
    Ok(state.vms.iter().map(|(id, vm)| (*id, vm.address.name.to_string())).collect())
}

/// The rows of one VM, each with whether something is amiss.
fn rows(name: &str, examined: &Examined) -> Vec<(bool, FindingView)> {
    let mut rows: Vec<(bool, FindingView)> =
        examined.findings.iter().map(|finding| (!finding.verdict.is_rest(), row(name, finding))).collect();
    if let VmSeen::NotRunning { why } | VmSeen::Silent { why } = &examined.seen.vm {
        let unreachable = FindingView {
            vm: name.to_owned(),
            disk: None,
            row: "unreachable".to_owned(),
            what: why.clone(),
            verdict: "wait".to_owned(),
            why: "without its QEMU nothing can be said of its bitmaps; it is looked at when it answers"
                .to_owned(),
        };
        rows.push((true, unreachable));
    }
    rows.extend(unprotected(name, examined));
    for repository in &examined.seen.repositories {
        if let Err(failure) = &repository.snapshots {
            let closed = FindingView {
                vm: name.to_owned(),
                disk: None,
                row: "repository-closed".to_owned(),
                what: format!("repository {}: {}", repository.name, failure.what),
                verdict: "wait".to_owned(),
                why: "backups into it fail until it opens; nothing in it was changed".to_owned(),
            };
            rows.push((true, closed));
        }
    }
    rows
}

/// The row of a VM whose views cannot be guarded from everything. Amiss where it is not backed up for that reason.
fn unprotected(name: &str, examined: &Examined) -> Option<(bool, FindingView)> {
    let VmSeen::Answering(machine) = &examined.seen.vm else { return None };
    let refused = examined.unprotected == Unprotected::Refuse;
    let row = FindingView {
        vm: name.to_owned(),
        disk: None,
        row: "unprotected".to_owned(),
        what: way::exposure(machine)?,
        verdict: if refused { "refuse backups" } else { "go on" }.to_owned(),
        why: "`unprotected` under `[limits]` in the configuration says whether such a view is taken"
            .to_owned(),
    };
    Some((refused, row))
}

/// The row of a journal that does not take what is to come: of no VM, and of all.
fn of_journal(trouble: Trouble) -> (bool, FindingView) {
    let row = FindingView {
        vm: "-".to_owned(),
        disk: None,
        row: format!("journal-{}", trouble.state),
        what: trouble.what,
        verdict: "wait".to_owned(),
        why: trouble.advice,
    };
    (true, row)
}

fn row(vm: &str, finding: &Finding) -> FindingView {
    FindingView {
        vm: vm.to_owned(),
        disk: finding.disk.as_ref().map(ToString::to_string),
        row: finding.row.label().to_owned(),
        what: finding.what.clone(),
        verdict: finding.verdict.name().to_owned(),
        why: finding.row.why().to_owned(),
    }
}
