//! `backstay export`: views of running VMs that other programs read over NBD, for a while.

use std::time::Duration;

use clap::Subcommand;
use orchestrator::api::view::{ExportView, StartExport, Submitted};

use crate::client::Client;
use crate::exit::{Ending, Failure, Status};
use crate::follow;
use crate::moment;
use crate::named::named;
use crate::session::Session;
use crate::size;
use crate::table::{Table, fields, or_dash};

/// What to do with exports.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Offer all disks of a running VM, at one instant, as NBD URIs
    Create {
        /// The VM
        #[arg(value_parser = named)]
        vm: String,
        /// Show what changed since this checkpoint, such as c7, too; without it only the data
        #[arg(long, value_name = "CHECKPOINT")]
        since: Option<String>,
        /// How long it is offered, such as 90s, 15m or 2h; a week at most. Other jobs on the VM wait meanwhile
        #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = lifetime)]
        ttl: Duration,
    },
    /// List the exports, newest first: those that are not over, and those that ended a day ago or less
    List,
    /// End one; who reads it loses it
    Remove {
        /// The export, such as j12
        #[arg(value_parser = named)]
        export: String,
    },
}

/// Runs it.
///
/// # Errors
/// As the server refuses it, or its job fails.
pub async fn run(verb: Verb, session: &Session) -> Ending {
    let client = session.client()?;
    match verb {
        Verb::Create { vm, since, ttl } => create(&client, vm, since, ttl, session).await?,
        Verb::List => {
            let exports: Vec<ExportView> = client.get(&["exports"], &[]).await?;
            session.output.show(&exports, || list(&exports))?;
        }
        Verb::Remove { export } => {
            let submitted: Submitted = client.delete(&["exports", &export], &[]).await?;
            let over = follow::follow(&client, &submitted.jobs, &mut session.progress()).await?;
            let ended = find(&client, &export).await?;
            session.output.show(&ended, || show(&ended))?;
            return Ok(Status::of(over.iter().all(|job| job.state != "failed")));
        }
    }
    Ok(Status::Done)
}

/// Waits until it is open. Whoever stops waiting leaves it behind: `export list` shows it.
async fn create(
    client: &Client,
    vm: String,
    since: Option<String>,
    ttl: Duration,
    session: &Session,
) -> Result<(), Failure> {
    let start = StartExport { vm, since, ttl_seconds: Some(ttl.as_secs()) };
    let submitted: Submitted = client.submit(&["exports"], &start).await?;
    let job = submitted.jobs.first().ok_or_else(|| Failure::failed("the server queued no job"))?;
    follow::until_at(client, job, "offer", &mut session.progress()).await?;
    let export = find(client, job).await?;
    if export.state != "open" {
        session.insist(client, &submitted).await?;
        return Err(Failure::failed(format!("export {job} of {} ended before it could be read", export.vm)));
    }
    session.output.show(&export, || show(&export))
}

async fn find(client: &Client, export: &str) -> Result<ExportView, Failure> {
    Ok(client.get(&["exports", export], &[]).await?)
}

fn lifetime(text: &str) -> Result<Duration, String> {
    let length = policies::duration::parse(text).map_err(|error| error.to_string())?;
    length.to_std().map_err(|error| error.to_string())
}

fn list(exports: &[ExportView]) -> String {
    let mut table = Table::new(&["export", "vm", "state", "instant", "expires", "since", "disks", "reason"]);
    for export in exports {
        table.row([
            export.id.clone(),
            export.vm.clone(),
            export.state.clone(),
            moment::show_or_dash(export.instant.as_ref()),
            moment::show_or_dash(export.expires.as_ref()),
            or_dash(export.since.as_ref()),
            export.disks.iter().map(|disk| disk.disk.as_str()).collect::<Vec<_>>().join(","),
            export.reason.clone().unwrap_or_default(),
        ]);
    }
    table.render("no exports")
}

fn show(export: &ExportView) -> String {
    let about = fields(&[
        ("export", export.id.clone()),
        ("vm", export.vm.clone()),
        ("state", export.state.clone()),
        ("reason", export.reason.clone().unwrap_or_default()),
        ("instant", export.instant.as_deref().map(moment::show).unwrap_or_default()),
        ("expires", export.expires.as_deref().map(moment::show).unwrap_or_default()),
        ("since", export.since.clone().unwrap_or_default()),
    ]);
    let mut disks = Table::new(&["disk", ">size", "uri", "changes"]);
    for disk in &export.disks {
        let none = || disk.reason.as_ref().map_or_else(|| "-".to_owned(), |why| format!("unknown: {why}"));
        disks.row([
            disk.disk.clone(),
            size::show(disk.size),
            or_dash(disk.uri.as_ref()),
            disk.bitmap.clone().unwrap_or_else(none),
        ]);
    }
    for left in &export.left_out {
        disks.row([left.disk.clone(), "-".to_owned(), "-".to_owned(), format!("left out: {}", left.reason)]);
    }
    format!("{about}\n{}", disks.render("no disks"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use orchestrator::api::view::ExportDiskView;

    use super::*;

    #[test]
    fn a_lifetime_is_read_as_policies_write_them() {
        assert_eq!(lifetime("1h30m").unwrap(), Duration::from_secs(5400));
        for text in ["", "15", "-5m", "soon"] {
            assert!(lifetime(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_disk_without_a_map_says_why() {
        let disk = |name: &str, bitmap: Option<&str>, reason: Option<&str>| ExportDiskView {
            disk: name.into(),
            size: 1 << 30,
            uri: Some(format!("nbd+unix:///{name}?socket=/s")),
            bitmap: bitmap.map(str::to_owned),
            reason: reason.map(str::to_owned),
        };
        let export = ExportView {
            id: "j1".into(),
            vm: "web".into(),
            state: "open".into(),
            instant: Some("2026-01-01T00:00:00.5Z".into()),
            expires: Some("2026-01-01T01:00:00.5Z".into()),
            since: Some("c7".into()),
            way: Some("backup-job".into()),
            disks: vec![
                disk("vda", Some("qemu:dirty-bitmap:m"), None),
                disk("vdb", None, Some("its size changed")),
            ],
            left_out: Vec::new(),
            reason: None,
            ended: None,
        };
        let shown = show(&export);
        assert!(shown.contains("vda   1 GiB  nbd+unix:///vda?socket=/s  qemu:dirty-bitmap:m\n"), "{shown}");
        assert!(
            shown.contains("vdb   1 GiB  nbd+unix:///vdb?socket=/s  unknown: its size changed\n"),
            "{shown}"
        );
        let listed = list(&[export]);
        assert!(
            listed.contains("j1      web  open   2026-01-01T00:00:00Z  2026-01-01T01:00:00Z  c7"),
            "{listed}"
        );
    }
}
