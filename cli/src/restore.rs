//! `backstay restore`: write a restore point to images. Writes nothing itself.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use journal::Done;
use orchestrator::api::view::{JobView, PointView, StartRestore, Submitted};
use serde::Serialize;

use crate::exit::{Ending, Failure, Status};
use crate::follow;
use crate::named::named;
use crate::paths::absolute;
use crate::session::Session;
use crate::size;

/// What to restore, and where to.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The restore point, such as p12
    #[arg(value_parser = named)]
    point: String,
    /// Only this disk of it
    #[arg(long, value_name = "NAME")]
    disk: Option<String>,
    /// The image; with several disks a folder for one image each
    #[arg(long, value_name = "PATH")]
    to: PathBuf,
    /// The images' format
    #[arg(long, value_enum, default_value_t = Format::Raw)]
    format: Format,
    /// Write into the image that is there, and only what differs. No VM may be using it
    #[arg(long)]
    in_place: bool,
    /// Wait for the end and show progress. Without it the restore is queued, and goes on by itself
    #[arg(long)]
    wait: bool,
}

/// Formats of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// The disk's bytes, holes where there are zeros.
    Raw,
    /// QEMU's.
    Qcow2,
}

impl Format {
    fn word(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
        }
    }
}

/// The answer, once it is done.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Restored {
    point: String,
    /// Null when there are several.
    disk: Option<String>,
    /// What `--to` named.
    path: String,
    written_bytes: u64,
    verified: bool,
    disks: Vec<RestoredDisk>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct RestoredDisk {
    disk: String,
    written_bytes: u64,
    verified: bool,
}

/// Runs it.
///
/// # Errors
/// As the server refuses it, or its job fails.
pub async fn run(arguments: Arguments, session: &Session) -> Ending {
    let client = session.client()?;
    let to = absolute(&arguments.to)?;
    let request = StartRestore {
        point: arguments.point,
        disk: arguments.disk,
        to,
        format: arguments.format.word().to_owned(),
        in_place: arguments.in_place,
    };
    let submitted: Submitted = client.submit(&["restores"], &request).await?;
    if !arguments.wait {
        session.output.show(&submitted, || {
            let jobs = submitted.jobs.join(" ");
            format!("queued as {jobs}; follow with `backstay job watch {jobs}`\n")
        })?;
        return Ok(Status::Done);
    }
    let point: PointView = client.get(&["points", &request.point], &[]).await?;
    let job = session.insist(&client, &submitted).await?;
    let restored = Restored::of(&request, &point, &job)?;
    session.output.show(&restored, || text(&restored))?;
    Ok(Status::Done)
}

impl Restored {
    /// One step of the job is one disk, in the order of the point.
    fn of(request: &StartRestore, point: &PointView, job: &JobView) -> Result<Restored, Failure> {
        let disks = point.disks.iter().map(|disk| &disk.name);
        let disks = disks.filter(|name| request.disk.as_ref().is_none_or(|only| only == *name));
        let written = follow::brought(job, "restore").into_iter().filter_map(|done| match done {
            Done::Restored { written_bytes, verified } => Some((written_bytes, verified)),
            _ => None,
        });
        let disks: Vec<RestoredDisk> = disks
            .zip(written)
            .map(|(disk, (written_bytes, verified))| RestoredDisk {
                disk: disk.clone(),
                written_bytes,
                verified,
            })
            .collect();
        if disks.is_empty() {
            return Err(Failure::failed(format!("job {} is done and says nothing of any disk", job.id)));
        }
        let only = if let [only] = disks.as_slice() { Some(only.disk.clone()) } else { None };
        Ok(Restored {
            point: point.id.clone(),
            disk: only,
            path: request.to.clone(),
            written_bytes: disks.iter().map(|disk| disk.written_bytes).sum(),
            verified: disks.iter().all(|disk| disk.verified),
            disks,
        })
    }
}

fn text(restored: &Restored) -> String {
    let disks = restored.disks.iter().map(|disk| {
        let proof = if disk.verified { "read back and verified" } else { "not read back" };
        format!("{} of {}: {} written, {proof}\n", disk.disk, restored.point, size::show(disk.written_bytes))
    });
    format!("{}restored to {}\n", disks.collect::<String>(), restored.path)
}
