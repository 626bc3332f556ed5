//! `backstay repo`: where restore points are kept. Knows nothing of a repository's format, and never reads its password.

use std::path::PathBuf;

use clap::Subcommand;
use journal::{Done, RepositoryName};
use orchestrator::api::view::{AddRepository, RepositoryView, Submitted};
use serde::Serialize;
use serde_json::json;

use crate::exit::{Ending, Failure, Status};
use crate::follow;
use crate::moment;
use crate::named::named;
use crate::paths::absolute;
use crate::session::Session;
use crate::size;
use crate::table::{Table, clean};

/// What to do with repositories.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Create a repository, or open one that is there
    Add {
        /// What to call it
        name: RepositoryName,
        /// Its folder, on the server's machine
        #[arg(long, value_name = "DIR")]
        path: PathBuf,
        /// A file with its password, which the server reads each time it opens the repository
        #[arg(long, value_name = "FILE")]
        password_file: PathBuf,
        /// The size of the stored unit, for a new repository only; 1M by default
        #[arg(long, value_name = "SIZE", value_parser = size::parse_chunk)]
        chunk_size: Option<u32>,
    },
    /// List the repositories
    List,
    /// Check a repository
    Check {
        /// Its name
        #[arg(value_parser = named)]
        name: String,
        /// Read and verify all data, not only the structure
        #[arg(long)]
        read_data: bool,
    },
    /// Free the space that no restore point needs
    Prune {
        /// Its name
        #[arg(value_parser = named)]
        name: String,
    },
}

/// A repository, and whether it is a new one.
#[derive(Debug, Serialize)]
struct Added {
    #[serde(flatten)]
    repository: RepositoryView,
    created: bool,
}

/// Runs it.
///
/// # Errors
/// As the server refuses it, or its job fails.
pub async fn run(verb: Verb, session: &Session) -> Ending {
    match verb {
        Verb::Add { name, path, password_file, chunk_size } => {
            let request = AddRepository {
                name: name.into(),
                path: absolute(&path)?,
                password_file: absolute(&password_file)?,
                chunk_size,
            };
            add(&request, session).await
        }
        Verb::List => {
            let repositories: Vec<RepositoryView> = session.client()?.get(&["repositories"], &[]).await?;
            session.output.show(&repositories, || list(&repositories))?;
            Ok(Status::Done)
        }
        Verb::Check { name, read_data } => check(&name, read_data, session).await,
        Verb::Prune { name } => prune(&name, session).await,
    }
}

async fn add(request: &AddRepository, session: &Session) -> Ending {
    let client = session.client()?;
    let submitted: Submitted = client.submit(&["repositories"], request).await?;
    let job = session.insist(&client, &submitted).await?;
    let opened = follow::brought(&job, "open-repository");
    let created = opened.iter().any(|done| matches!(done, Done::Opened { created: true, .. }));
    let all: Vec<RepositoryView> = client.get(&["repositories"], &[]).await?;
    let repository = all.into_iter().find(|repository| repository.name == request.name);
    let repository = repository.ok_or_else(|| {
        Failure::failed(format!("{} was added by job {}, and is gone again", request.name, job.id))
    })?;
    let added = Added { repository, created };
    session.output.show(&added, || {
        let Added { repository, created } = &added;
        let how = if *created { "created" } else { "opened: it was there already" };
        let chunk = size::show(u64::from(repository.chunk_size));
        format!("{} is {how} (id {}, chunks of {chunk})\n", repository.name, repository.id)
    })?;
    Ok(Status::Done)
}

async fn check(name: &str, read_data: bool, session: &Session) -> Ending {
    let client = session.client()?;
    let read_data = if read_data { "true" } else { "false" };
    let path = ["repositories", name, "check"];
    let submitted: Submitted = client.post(&path, &[("read_data", read_data)]).await?;
    let jobs = follow::follow(&client, &submitted.jobs, &mut session.progress()).await?;
    let checked = jobs.first().map(|job| (job, follow::brought(job, "check")));
    // A check that found something may well end its job as failed: what it found is the answer all the same.
    let Some((problems, true)) = checked.as_ref().map(|(_, done)| problems(done)) else {
        let failure = checked.and_then(|(job, _)| follow::failed(job));
        return Err(
            failure.unwrap_or_else(|| Failure::failed("the check ended without saying what it found"))
        );
    };
    let ok = problems.is_empty();
    session.output.show(&json!({ "ok": ok, "problems": problems }), || match ok {
        true => format!("{name} is sound\n"),
        false => problems.iter().map(|problem| clean(problem) + "\n").collect(),
    })?;
    Ok(Status::of(ok))
}

/// The problems that a check found, and whether there was a check at all.
fn problems(done: &[Done]) -> (Vec<String>, bool) {
    let found: Vec<&Vec<String>> = done
        .iter()
        .filter_map(|done| match done {
            Done::Checked { problems } => Some(problems),
            _ => None,
        })
        .collect();
    let checked = !found.is_empty();
    (found.into_iter().flatten().cloned().collect(), checked)
}

async fn prune(name: &str, session: &Session) -> Ending {
    let client = session.client()?;
    let submitted: Submitted = client.post(&["repositories", name, "prune"], &[]).await?;
    let job = session.insist(&client, &submitted).await?;
    let freed = follow::brought(&job, "prune").into_iter().map(|done| match done {
        Done::Pruned { freed_bytes } => freed_bytes,
        _ => 0,
    });
    let freed: u64 = freed.sum();
    session.output.show(&json!({ "repository": name, "freed_bytes": freed, "job": job.id }), || {
        format!("{name}: {} freed\n", size::show(freed))
    })?;
    Ok(Status::Done)
}

fn list(repositories: &[RepositoryView]) -> String {
    let mut table = Table::new(&["name", ">points", ">chunk", "added", "id", "path"]);
    for repository in repositories {
        table.row([
            repository.name.clone(),
            repository.points.to_string(),
            size::show(u64::from(repository.chunk_size)),
            moment::show(&repository.added),
            repository.id.chars().take(12).collect(),
            repository.path.clone(),
        ]);
    }
    table.render("no repositories; add one with `backstay repo add NAME --path DIR --password-file FILE`")
}
