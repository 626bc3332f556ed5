//! `backstay point`: what can be restored.

use clap::Subcommand;
use orchestrator::api::view::{PointView, Submitted};
use serde_json::json;

use crate::exit::{Ending, Failure, Status};
use crate::moment;
use crate::named::named;
use crate::session::Session;
use crate::size;
use crate::table::{Table, fields, or_dash};

/// What to do with restore points.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List the restore points, of all VMs or of one
    List {
        /// The VM
        #[arg(value_parser = named)]
        vm: Option<String>,
        /// Also those that are gone, with when and why
        #[arg(long)]
        all: bool,
    },
    /// Show one
    Show {
        /// The restore point, such as p12
        #[arg(value_parser = named)]
        point: String,
    },
    /// Keep one, whatever retention says, until it is released
    Hold {
        /// The restore point
        #[arg(value_parser = named)]
        point: String,
    },
    /// Leave one to retention again
    Release {
        /// The restore point
        #[arg(value_parser = named)]
        point: String,
    },
    /// Forget one now; `repo prune` frees its space
    Forget {
        /// The restore point
        #[arg(value_parser = named)]
        point: String,
        /// Also when it is the VM's last. One that is held has to be released first
        #[arg(long)]
        force: bool,
    },
}

/// Runs it.
///
/// # Errors
/// As the server refuses it.
pub async fn run(verb: Verb, session: &Session) -> Ending {
    let client = session.client()?;
    match verb {
        Verb::List { vm, all } => {
            let mut query: Vec<(&str, &str)> = vm.iter().map(|vm| ("vm", vm.as_str())).collect();
            query.extend(all.then_some(("all", "true")));
            let points: Vec<PointView> = client.get(&["points"], &query).await?;
            session.output.show(&points, || list(&points))?;
        }
        Verb::Show { point } => {
            let point: PointView = client.get(&["points", &point], &[]).await?;
            session.output.show(&point, || show(&point))?;
        }
        Verb::Hold { point } => set_held(&point, "hold", session).await?,
        Verb::Release { point } => set_held(&point, "release", session).await?,
        Verb::Forget { point, force } => {
            let force = if force { "true" } else { "false" };
            let path = ["points", &point];
            let submitted: Submitted = client.delete(&path, &[("force", force)]).await?;
            let job = session.insist(&client, &submitted).await?;
            let document = json!({ "point": point, "job": job.id });
            session.output.show(&document, || {
                format!("{point} is forgotten; `backstay repo prune` frees its space\n")
            })?;
        }
    }
    Ok(Status::Done)
}

async fn set_held(point: &str, verb: &str, session: &Session) -> Result<(), Failure> {
    let point: PointView = session.client()?.post(&["points", point, verb], &[]).await?;
    session.output.show(&point, || match point.held {
        true => format!("{} is held: retention keeps it until it is released\n", point.id),
        false => format!("{} is no longer held\n", point.id),
    })
}

fn list(points: &[PointView]) -> String {
    let mut table = Table::new(&[
        "point",
        "vm",
        "created",
        "repository",
        "consistency",
        ">size",
        ">read",
        ">stored",
        "disks",
    ]);
    for point in points {
        let sum = |what: fn(&orchestrator::api::view::PointDiskView) -> u64| {
            size::show(point.disks.iter().map(what).fold(0, u64::saturating_add))
        };
        let disks = point.disks.iter().map(|disk| format!("{} {}", disk.name, disk.mode));
        let mut disks = disks.collect::<Vec<_>>().join(", ");
        if point.held {
            disks.push_str(" (held)");
        }
        if point.suspect.is_some() {
            disks.push_str(" (IN DOUBT: `point show` says why)");
        }
        if let Some(gone) = gone(point) {
            disks.push_str(&format!(" ({gone})"));
        }
        table.row([
            point.id.clone(),
            point.vm.clone(),
            moment::show(&point.created),
            point.repository.clone(),
            point.consistency.clone(),
            sum(|disk| disk.size),
            sum(|disk| disk.read_bytes),
            sum(|disk| disk.stored_bytes),
            disks,
        ]);
    }
    table.render("no restore points")
}

/// When, how and why a point went.
fn gone(point: &PointView) -> Option<String> {
    let gone = point.gone.as_ref()?;
    Some(format!("{} {}: {}", gone.how, moment::show(&gone.at), gone.why))
}

fn show(point: &PointView) -> String {
    let about = fields(&[
        ("point", point.id.clone()),
        ("vm", point.vm.clone()),
        ("created", moment::show(&point.created)),
        ("repository", point.repository.clone()),
        ("snapshot", point.snapshot.clone()),
        ("consistency", point.consistency.clone()),
        ("checkpoint", point.checkpoint.clone()),
        ("parent", or_dash(point.parent.as_ref())),
        ("policy", or_dash(point.policy.as_ref())),
        ("held", if point.held { "yes" } else { "no" }.to_owned()),
        ("view", point.way.clone()),
        ("in doubt", point.suspect.clone().unwrap_or_default()),
        ("gone", gone(point).unwrap_or_default()),
    ]);
    let mut table =
        Table::new(&["disk", ">size", "mode", ">changed", ">read", ">stored", ">audited", "reason"]);
    for disk in &point.disks {
        table.row([
            disk.name.clone(),
            size::show(disk.size),
            disk.mode.clone(),
            size::show(disk.changed_bytes),
            size::show(disk.read_bytes),
            size::show(disk.stored_bytes),
            format!("{} chunks", disk.audited_chunks),
            disk.reason.clone().unwrap_or_default(),
        ]);
    }
    let left_out = point.left_out.iter().map(|left| format!("left out: {}: {}\n", left.disk, left.reason));
    format!("{about}\n{}{}", table.render("no disks"), left_out.collect::<String>())
}
