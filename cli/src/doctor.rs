//! `backstay doctor`: what the journal, QEMU and the repositories disagree on, and what is to be done about it.

use clap::Args;
use orchestrator::api::view::{Doctor, FindingView, PlannedView, SideView};
use serde::Serialize;

use crate::client::Client;
use crate::exit::{Ending, Failure, Status};
use crate::follow;
use crate::session::Session;
use crate::table::{Table, or_dash};

/// Whom to look at.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Only this VM
    vm: Option<String>,
    /// Heal what can be healed
    #[arg(long)]
    apply: bool,
}

/// What was found, and what is left of it after healing.
#[derive(Debug, Serialize)]
struct Healed {
    /// Whether nothing is amiss any more.
    ok: bool,
    findings: Vec<FindingView>,
    /// What each side said before.
    sides: Vec<SideView>,
    /// What was to be done about it.
    plan: Vec<PlannedView>,
    jobs: Vec<String>,
    left: Vec<FindingView>,
    /// Whether nothing was amiss before.
    #[serde(skip)]
    was_ok: bool,
}

/// Runs it.
///
/// # Errors
/// As the server refuses it. Findings are no error: the status is 1.
pub async fn run(arguments: Arguments, session: &Session) -> Ending {
    let client = session.client()?;
    let query: Vec<(&str, &str)> = arguments.vm.iter().map(|vm| ("vm", vm.as_str())).collect();
    if !arguments.apply {
        let found: Doctor = client.patient().get(&["doctor"], &query).await?;
        session.output.show(&found, || {
            format!("{}\n{}{}", sides(&found.sides), table(&found.findings, found.ok), plan(&found.plan))
        })?;
        if !found.ok {
            session.output.remark("`backstay doctor --apply` does it");
        }
        return Ok(Status::of(found.ok));
    }
    let healed = heal(&client, &query, session).await?;
    session.output.show(&healed, || text(&healed))?;
    Ok(Status::of(healed.ok))
}

async fn heal(client: &Client, query: &[(&str, &str)], session: &Session) -> Result<Healed, Failure> {
    let found: Doctor = client.patient().post(&["doctor"], query).await?;
    follow::follow(client, &found.jobs, &mut session.progress()).await?;
    let now: Doctor = client.patient().get(&["doctor"], query).await?;
    Ok(Healed {
        ok: now.ok,
        was_ok: found.ok,
        findings: found.findings,
        sides: found.sides,
        plan: found.plan,
        jobs: found.jobs,
        left: now.findings,
    })
}

/// What each side says, for those who want to see for themselves.
fn sides(sides: &[SideView]) -> String {
    let mut table = Table::new(&["vm", "disk", "thing", "journal", "qemu", "repository", "files"]);
    for side in sides {
        table.row([
            side.vm.clone(),
            or_dash(side.disk.as_ref()),
            side.thing.clone(),
            or_dash(side.journal.as_ref()),
            or_dash(side.qemu.as_ref()),
            or_dash(side.repository.as_ref()),
            or_dash(side.files.as_ref()),
        ]);
    }
    table.render("no VM is managed")
}

fn plan(plan: &[PlannedView]) -> String {
    let step =
        |planned: &PlannedView| format!("  {}: {} ({})\n", planned.vm, planned.step, planned.rows.join(", "));
    let steps: String = plan.iter().map(step).collect();
    if steps.is_empty() { steps } else { format!("\nto be done:\n{steps}") }
}

fn table(findings: &[FindingView], ok: bool) -> String {
    let mut table = Table::new(&["vm", "disk", "row", "what", "verdict", "why"]);
    for finding in findings {
        table.row([
            finding.vm.clone(),
            or_dash(finding.disk.as_ref()),
            finding.row.clone(),
            finding.what.clone(),
            finding.verdict.clone(),
            finding.why.clone(),
        ]);
    }
    table.render(if ok { "all is well" } else { "something is amiss, and nothing more is known of it" })
}

fn text(healed: &Healed) -> String {
    let left = table(&healed.left, healed.ok);
    if healed.was_ok && healed.ok {
        return left;
    }
    let by = if healed.jobs.is_empty() { "nobody's doing".to_owned() } else { healed.jobs.join(", ") };
    format!("{}\nafter {by}:\n{left}", table(&healed.findings, healed.was_ok))
}
