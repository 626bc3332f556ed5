//! `backstay vm`: which VMs are managed. Knows nothing of QEMU; the server looks.

use std::path::PathBuf;

use clap::Subcommand;
use journal::VmName;
use orchestrator::api::view::{AddVm, NamedDisk, Submitted, VmView};
use serde_json::json;

use crate::exit::{Ending, Failure, Status};
use crate::moment;
use crate::named::named;
use crate::paths::absolute;
use crate::session::Session;
use crate::size;
use crate::table::{Table, fields, or_dash};

/// What to do with VMs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Bring a running VM under management
    Add {
        /// What to call it
        name: VmName,
        /// Its QMP socket; Backstay needs it for itself, as QEMU serves one client per socket
        #[arg(long, value_name = "SOCKET")]
        qmp: PathBuf,
        /// Its guest agent's socket, for backups with frozen file systems
        #[arg(long, value_name = "SOCKET")]
        guest_agent: Option<PathBuf>,
        /// A disk and its node, device id or qdev id in QEMU; without any, all disks are found anew each time
        #[arg(long = "disk", value_name = "NAME=NODE", value_parser = pair)]
        disks: Vec<(String, String)>,
        /// A label for policies to select by
        #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
        labels: Vec<(String, String)>,
    },
    /// List the VMs
    List,
    /// Show one VM, and what its QEMU says now
    Show {
        /// Its name
        #[arg(value_parser = named)]
        name: String,
    },
    /// Let go of a VM: remove all that Backstay made in its QEMU
    Remove {
        /// Its name
        #[arg(value_parser = named)]
        name: String,
        /// Also when its QEMU does not answer; what Backstay made in its images then stays there
        #[arg(long)]
        force: bool,
    },
}

/// `left=right`, neither of them empty.
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((left, right)) if !left.is_empty() && !right.is_empty() => {
            Ok((left.to_owned(), right.to_owned()))
        }
        _ => Err("two words with `=` between them are expected".to_owned()),
    }
}

/// Runs it.
///
/// # Errors
/// As the server refuses it.
pub async fn run(verb: Verb, session: &Session) -> Ending {
    match verb {
        Verb::Add { name, qmp, guest_agent, disks, labels } => {
            let disks = disks.into_iter().map(|(name, node)| NamedDisk { name, node }).collect();
            let vm = AddVm {
                name: name.to_string(),
                qmp: absolute(&qmp)?,
                guest_agent: guest_agent.map(|path| absolute(&path)).transpose()?,
                disks,
                labels: labels.into_iter().collect(),
            };
            let added: VmView = session.client()?.patient().submit(&["vms"], &vm).await?;
            session
                .output
                .show(&added, || format!("{} is added ({})\n{}", added.name, added.id, disks_of(&added)))?;
        }
        Verb::List => {
            let vms: Vec<VmView> = session.client()?.get(&["vms"], &[]).await?;
            session.output.show(&vms, || list(&vms))?;
        }
        Verb::Show { name } => {
            let vm: VmView = session.client()?.patient().get(&["vms", &name], &[]).await?;
            session.output.show(&vm, || show(&vm))?;
        }
        Verb::Remove { name, force } => remove(&name, force, session).await?,
    }
    Ok(Status::Done)
}

async fn remove(name: &str, force: bool, session: &Session) -> Result<(), Failure> {
    let client = session.client()?;
    let force = if force { "true" } else { "false" };
    let submitted: Submitted = client.patient().delete(&["vms", name], &[("force", force)]).await?;
    let job = session.insist(&client, &submitted).await?;
    session.output.show(&json!({ "vm": name, "job": job.id }), || {
        format!("{name} is removed; its restore points stay in their repositories\n")
    })
}

fn list(vms: &[VmView]) -> String {
    let mut table = Table::new(&["name", "host", ">points", "last point", ">checkpoints", "labels", "qmp"]);
    for vm in vms {
        table.row([
            vm.name.clone(),
            or_dash(vm.host.as_ref()),
            vm.points.to_string(),
            moment::show_or_dash(vm.last_point.as_ref()),
            vm.checkpoints.to_string(),
            labels(vm),
            vm.qmp.clone(),
        ]);
    }
    table.render("no VMs; add one with `backstay vm add NAME --qmp SOCKET`")
}

fn labels(vm: &VmView) -> String {
    vm.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

fn show(vm: &VmView) -> String {
    let about = fields(&[
        ("name", vm.name.clone()),
        ("id", vm.id.clone()),
        ("host", vm.host.clone().unwrap_or_default()),
        ("now", vm.live.clone().unwrap_or_default()),
        ("qmp", vm.qmp.clone()),
        ("guest agent", vm.guest_agent.clone().unwrap_or_default()),
        ("labels", labels(vm)),
        ("added", moment::show(&vm.added)),
        ("restore points", vm.points.to_string()),
        ("last point", moment::show_or_dash(vm.last_point.as_ref())),
        ("checkpoints", vm.checkpoints.to_string()),
        ("unprotected", vm.unprotected.clone().unwrap_or_default()),
    ]);
    format!("{about}\n{}", disks_of(vm))
}

fn disks_of(vm: &VmView) -> String {
    let mut table = Table::new(&["disk", "node", ">size", "format", "note"]);
    for disk in &vm.disks {
        table.row([
            disk.name.clone(),
            disk.node.clone(),
            disk.size.map_or_else(|| "-".to_owned(), size::show),
            or_dash(disk.format.as_ref()),
            disk.note.clone().unwrap_or_default(),
        ]);
    }
    table.render("no disks seen yet")
}

#[cfg(test)]
mod tests {
    use super::pair;

    #[test]
    fn a_pair_has_two_sides() {
        assert_eq!(pair("vda=#block123"), Ok(("vda".to_owned(), "#block123".to_owned())));
        assert_eq!(pair("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        for bad in ["vda", "=x", "x=", ""] {
            assert!(pair(bad).is_err(), "{bad}");
        }
    }
}
