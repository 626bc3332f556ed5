//! Views that the journal says are up, and thaws that it says are owed.

use journal::effect::Way;
use journal::names::{Role, temporary};
use journal::state::View;
use journal::{DiskName, Effect, IntentId};

use super::super::jobs;
use super::{Finding, Row, Subject, Verdict};

pub(super) fn findings(subject: Subject<'_>) -> Vec<Finding> {
    let mut found: Vec<Finding> =
        subject.vm.views.iter().map(|(id, view)| view_finding(subject, *id, view)).collect();
    found.extend(thaw_finding(subject));
    found
}

fn view_finding(subject: Subject<'_>, id: IntentId, view: &View) -> Finding {
    let ending = subject
        .state
        .open_on(subject.id())
        .any(|open| matches!(&open.intent.effect, Effect::End(end) if end.view == id));
    let (row, verdict) = if view.process != subject.machine.process {
        (Row::ViewNewProcess, Verdict::DropView(id))
    } else if ending {
        // Half taken down is how a view looks while it ends; the open intent has its own row.
        (Row::ViewUp, Verdict::GoOn)
    } else if let Some(missing) = missing_part(subject, id, view) {
        return Finding {
            row: Row::ViewBroken,
            disk: None,
            what: format!("the view of {id} has lost {missing}"),
            verdict: Verdict::DropView(id),
        };
    } else if serves_a_job(subject, id, view) {
        (Row::ViewUp, Verdict::GoOn)
    } else {
        (Row::ViewWithoutJob, Verdict::EndView(id))
    };
    let what = match row {
        Row::ViewNewProcess => format!("the view of {id} was held by {}, which is gone", view.process),
        _ => format!("the view of {id} is up"),
    };
    Finding { row, disk: None, what, verdict }
}

/// A job at rest keeps its view; one that tries anew does not go on with the view of an earlier try.
fn serves_a_job(subject: Subject<'_>, id: IntentId, view: &View) -> bool {
    let job = view.job.and_then(|job| subject.state.jobs.get(&job));
    job.is_some_and(|job| job.has_begun() && job.steps.iter().any(|step| step.intent == id))
}

/// The first part of a view that is not there. The export is not one: it can be made again without another instant.
fn missing_part(subject: Subject<'_>, id: IntentId, view: &View) -> Option<String> {
    let name = |place, role| temporary(subject.installation, id, place, role);
    let running = |job: &str| subject.machine.jobs.iter().any(|it| it.id == job && it.error.is_none());
    (0..view.disks.len()).find_map(|place| {
        let (fleece, job, filter) =
            (name(place, Role::Fleece), name(place, Role::Job), name(place, Role::Filter));
        // A copy is whole when its job is concluded without an error. By then it is a file that QEMU has let go of.
        if view.way == Way::Push {
            return (!running(&job)).then(|| format!("the block job {job}"));
        }
        if !subject.machine.nodes.contains(&fleece) {
            return Some(format!("the node {fleece}"));
        }
        // A read-only disk is viewed as it stands: nothing has to be kept from being overwritten.
        let writable = is_writable(subject, view, &view.disks[place].0);
        if view.way == Way::CopyBeforeWrite {
            let there = !writable || subject.machine.nodes.contains(&filter);
            return (!there).then(|| format!("the filter {filter}"));
        }
        (writable && !running(&job)).then(|| format!("the block job {job}"))
    })
}

/// Whether a disk of a view may be written to: its checkpoint covers it or, where the view came without one, QEMU says so.
fn is_writable(subject: Subject<'_>, view: &View, disk: &DiskName) -> bool {
    let tracked = subject.vm.chain.get(view.checkpoint).is_some_and(|it| it.disks.contains_key(disk));
    tracked || subject.machine.disks.iter().any(|seen| seen.disk == *disk && !seen.read_only)
}

fn thaw_finding(subject: Subject<'_>) -> Option<Finding> {
    let freeze = subject.vm.thaw_owed?;
    if !subject.same_process() {
        return None;
    }
    // An open freeze has its own row; a running job thaws by itself as its next step.
    let open = subject
        .state
        .open_on(subject.id())
        .any(|open| matches!(open.intent.effect, Effect::Freeze(_) | Effect::Thaw(_)));
    let running = jobs::running(subject.state).any(|job| job.steps.iter().any(|step| step.intent == freeze));
    (!open && !running).then(|| Finding {
        row: Row::ThawOwed,
        disk: None,
        what: format!("no thaw is recorded after the freeze {freeze}"),
        verdict: Verdict::Thaw,
    })
}
