//! `backstay backup`: back VMs up now. Decides nothing: which disks are full, and why, is the server's word.

use clap::Args;
use clap::builder::PossibleValuesParser;
use orchestrator::api::view::{JobView, PointView, StartBackup, Submitted};
use policies::{Consistency, Mode};
use serde::Serialize;

use crate::client::{Client, ClientError};
use crate::exit::{Ending, Failure, Status};
use crate::follow;
use crate::session::Session;
use crate::table::{Table, or_dash};

/// What to back up.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The VMs
    #[arg(value_name = "VM", required = true)]
    vms: Vec<String>,
    /// What is read. A disk that cannot be incremental is read whole, and the reason is shown
    #[arg(long, default_value_t = Mode::default().to_string(), value_parser = PossibleValuesParser::new(Mode::WORDS))]
    mode: String,
    /// Start from this checkpoint instead of the newest that the repository has
    #[arg(long, value_name = "CHECKPOINT")]
    since: Option<String>,
    /// Into which repositories; may be left out when there is only one
    #[arg(long = "repo", value_name = "NAME")]
    repositories: Vec<String>,
    /// As after a power cut; with frozen file systems where the guest agent answers; or frozen or not at all
    #[arg(
        long,
        default_value_t = Consistency::default().to_string(),
        value_parser = PossibleValuesParser::new(Consistency::WORDS)
    )]
    consistency: String,
    /// Start once this job is over, however it ends; may be given several times
    #[arg(long, value_name = "JOB")]
    after: Vec<String>,
    /// Wait for the end and show progress. Without it the backups are queued, and go on by themselves
    #[arg(long)]
    wait: bool,
}

/// The answer.
#[derive(Debug, Serialize)]
struct Backups {
    jobs: Vec<Backup>,
}

/// One job of it.
#[derive(Debug, Serialize)]
struct Backup {
    id: String,
    vm: Option<String>,
    state: String,
    point: Option<String>,
    /// Why it is not done, or why disks of it were read whole.
    reason: Option<String>,
    /// `full`, `incremental`, or `mixed`; once done.
    #[serde(skip)]
    mode: Option<&'static str>,
}

/// Runs it.
///
/// # Errors
/// As the server refuses it. A job that fails is no error here: it is shown, and the status is 1.
pub async fn run(arguments: Arguments, session: &Session) -> Ending {
    let client = session.client()?;
    let request = StartBackup {
        vms: arguments.vms,
        mode: arguments.mode,
        since: arguments.since,
        repositories: arguments.repositories,
        consistency: arguments.consistency,
        after: arguments.after,
    };
    let submitted: Submitted = client.submit(&["backups"], &request).await?;
    let views = match arguments.wait {
        true => follow::follow(&client, &submitted.jobs, &mut session.progress()).await?,
        false => now(&client, &submitted.jobs).await?,
    };
    let mut jobs = Vec::with_capacity(views.len());
    for view in views {
        jobs.push(Backup::of(&client, view).await?);
    }
    let all_done = jobs.iter().all(|job| job.state == "done");
    let answer = Backups { jobs };
    session.output.show(&answer, || table(&answer.jobs))?;
    if !arguments.wait {
        session.output.remark("queued; follow with `backstay job watch JOB`");
    }
    Ok(Status::of(all_done || !arguments.wait))
}

async fn now(client: &Client, jobs: &[String]) -> Result<Vec<JobView>, Failure> {
    let mut views = Vec::with_capacity(jobs.len());
    for job in jobs {
        views.push(client.get(&["jobs", job], &[]).await?);
    }
    Ok(views)
}

impl Backup {
    async fn of(client: &Client, job: JobView) -> Result<Backup, Failure> {
        let point = match &job.point {
            Some(id) if job.state == "done" => point(client, id).await?,
            _ => None,
        };
        let whole = point.as_ref().map(reasons).unwrap_or_default();
        let said: Vec<String> = job.reason.into_iter().chain(whole).collect();
        Ok(Backup {
            id: job.id,
            vm: job.vm,
            state: job.state,
            point: job.point,
            reason: (!said.is_empty()).then(|| said.join("; ")),
            mode: point.as_ref().and_then(mode),
        })
    }
}

/// The point, unless retention was quicker than we are.
async fn point(client: &Client, id: &str) -> Result<Option<PointView>, Failure> {
    match client.get(&["points", id], &[]).await {
        Ok(point) => Ok(Some(point)),
        Err(ClientError::Refused(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Why each disk that was read whole was, and why each disk that is missing is.
fn reasons(point: &PointView) -> Vec<String> {
    let whole =
        point.disks.iter().filter_map(|disk| Some(format!("{}: {}", disk.name, disk.reason.as_ref()?)));
    let missing = point.left_out.iter().map(|left| format!("{} left out: {}", left.disk, left.reason));
    whole.chain(missing).collect()
}

fn mode(point: &PointView) -> Option<&'static str> {
    let full = point.disks.iter().filter(|disk| disk.mode == "full").count();
    match (point.disks.len(), full) {
        (0, _) => None,
        (_, 0) => Some("incremental"),
        (all, full) if all == full => Some("full"),
        _ => Some("mixed"),
    }
}

fn table(jobs: &[Backup]) -> String {
    let mut table = Table::new(&["job", "vm", "state", "point", "mode/reason"]);
    for job in jobs {
        let words: Vec<&str> = job.mode.into_iter().chain(job.reason.as_deref()).collect();
        table.row([
            job.id.clone(),
            or_dash(job.vm.as_ref()),
            job.state.clone(),
            or_dash(job.point.as_ref()),
            words.join(": "),
        ]);
    }
    table.render("nothing to back up")
}

#[cfg(test)]
mod tests {
    use orchestrator::api::view::{LeftOut, PointDiskView};

    use super::*;

    fn disk(name: &str, reason: Option<&str>) -> PointDiskView {
        PointDiskView {
            name: name.into(),
            size: 1,
            mode: if reason.is_some() { "full" } else { "incremental" }.into(),
            reason: reason.map(str::to_owned),
            changed_bytes: 0,
            read_bytes: 0,
            stored_bytes: 0,
            audited_chunks: 0,
        }
    }

    fn of(disks: Vec<PointDiskView>) -> PointView {
        PointView {
            id: "p1".into(),
            vm: "web".into(),
            created: String::new(),
            repository: "main".into(),
            parent: None,
            consistency: "crash".into(),
            snapshot: String::new(),
            checkpoint: "c1".into(),
            policy: None,
            held: false,
            way: "backup-job".into(),
            suspect: None,
            disks,
            left_out: vec![LeftOut { disk: "cd0".into(), reason: "read-only".into() }],
            gone: None,
        }
    }

    #[test]
    fn every_disk_that_was_read_whole_says_why() {
        let point = of(vec![disk("vda", Some("first backup")), disk("vdb", None)]);
        assert_eq!(reasons(&point), ["vda: first backup", "cd0 left out: read-only"]);
        assert_eq!(mode(&point), Some("mixed"));
        assert_eq!(mode(&of(vec![disk("vda", None)])), Some("incremental"));
        assert_eq!(mode(&of(vec![disk("vda", Some("asked for"))])), Some("full"));
        assert_eq!(mode(&of(vec![])), None);
    }

    #[test]
    fn a_row_says_how_it_ended_and_why() {
        let job = |state: &str, mode: Option<&'static str>, reason: Option<&str>| Backup {
            id: "j1".into(),
            vm: Some("web".into()),
            state: state.into(),
            point: mode.map(|_| "p1".into()),
            reason: reason.map(str::to_owned),
            mode,
        };
        let rows = [
            job("done", Some("full"), Some("vda: first backup")),
            job("done", Some("incremental"), None),
            job("failed", None, Some("no space left")),
        ];
        assert_eq!(
            table(&rows),
            "JOB  VM   STATE   POINT  MODE/REASON\n\
             j1   web  done    p1     full: vda: first backup\n\
             j1   web  done    p1     incremental\n\
             j1   web  failed  -      no space left\n"
        );
    }
}
