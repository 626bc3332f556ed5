//! `journal show`: what was so after a record, as a table or as the state itself.
//!
//! Knows nothing of how the state was found.

use journal::State;
use orchestrator::api::view::PastView;

use crate::exit::{Ending, Status};
use crate::moment;
use crate::session::Session;
use crate::table::Table;

/// Shows it.
///
/// # Errors
/// When standard output takes no more.
pub fn show(past: &PastView, session: &Session) -> Ending {
    session.output.show(past, || {
        let PastView { seq, time, state } = past;
        format!("after record {seq}, written {}\n{}", moment::show(time), table(state))
    })?;
    Ok(Status::Done)
}

fn table(state: &State) -> String {
    let mut table = Table::new(&["what", "which", "how it stood"]);
    let mut row = |what: &str, which: String, how: String| table.row([what.to_owned(), which, how]);
    if let (Some(installation), Some(epoch)) = (state.installation, state.epoch) {
        row("installation", installation.to_string(), epoch.to_string());
    }
    for vm in state.vms.values() {
        let how = format!("{} checkpoints, {} views", vm.chain.checkpoints.len(), vm.views.len());
        row("vm", vm.address.name.to_string(), how);
    }
    for (name, repository) in &state.repositories {
        row("repository", name.to_string(), repository.address.path.clone());
    }
    for (name, policy) in &state.policies {
        row("policy", name.to_string(), if policy.paused { "paused" } else { "active" }.to_owned());
    }
    for job in state.jobs.values().filter(|job| !job.state.is_over()) {
        row("job", job.id.to_string(), format!("{} {}", job.work.kind(), job.state));
    }
    for (id, open) in &state.open {
        row("open intent", id.to_string(), format!("{} of {}", open.intent.effect.kind(), open.owner));
    }
    for point in state.points.values() {
        let held = if point.held { ", held" } else { "" };
        row("point", point.id.to_string(), format!("{} in {}{held}", point.vm_name, point.repository));
    }
    table.render("nothing")
}
