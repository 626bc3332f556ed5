//! `backstay repo`: where restore points are kept; keys, limits, pruning and figures are in modules of their own. Knows
//! nothing of a repository's format, and never reads its password.

mod key;
mod limit;
mod prune;
mod stats;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use journal::{Done, RepositoryName};
use orchestrator::api::view::{AddRepository, RateView, RepositoryView, Submitted};
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
        #[command(flatten)]
        place: Place,
        /// A file with its password, which the server reads each time it opens the repository
        #[arg(long, value_name = "FILE")]
        password_file: PathBuf,
        /// The size of the stored unit, for a new repository only; 256K by default
        #[arg(long, value_name = "SIZE", value_parser = size::parse_chunk)]
        chunk_size: Option<u32>,
        /// Only ever add to it: nothing is removed but the server's own locks, and forgetting and pruning are refused
        #[arg(long)]
        append_only: bool,
        /// How fast bytes may go to and from it, such as 10M a second, or 08:00-18:00=2M for some hours of each day
        #[arg(long, value_name = "[FROM-TO=]RATE", value_parser = limit::parse)]
        limit: Vec<RateView>,
    },
    /// List the repositories
    List,
    /// Check a repository
    Check {
        /// Its name
        #[arg(value_parser = named)]
        name: String,
        /// Read and verify all data, not only the structure
        #[arg(long, conflicts_with = "read_data_subset")]
        read_data: bool,
        /// Read and verify a share of the data, such as 5%: another one each time
        #[arg(long, value_name = "N%", value_parser = percent)]
        read_data_subset: Option<u8>,
    },
    /// Free the space that no restore point needs
    Prune(prune::Arguments),
    /// Count what is in a repository, by VM
    Stats {
        /// Its name
        #[arg(value_parser = named)]
        name: String,
    },
    /// Set how fast bytes may go to and from a repository
    Limit {
        /// Its name
        #[arg(value_parser = named)]
        name: String,
        /// Such as 10M a second, or 08:00-18:00=2M for some hours of each day, local time of the server; none for no limit
        #[arg(value_name = "[FROM-TO=]RATE", value_parser = limit::parse)]
        limits: Vec<RateView>,
    },
    /// The keys of a repository: each opens it with a password of its own
    #[command(subcommand)]
    Key(key::Verb),
}

/// `5%`, or `5`.
fn percent(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse::<u8>().ok();
    number.filter(|number| (1..=100).contains(number)).ok_or_else(|| "write 1% to 100%".to_owned())
}

/// Where a repository is.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Place {
    /// Its folder, on the server's machine
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// Its place in an object store: http[s]://HOST[:PORT]/BUCKET[/PREFIX], or s3://BUCKET[/PREFIX]; the credentials are
    /// those of the server's environment (AWS_ACCESS_KEY_ID, AWS_PROFILE, …) or of ~/.aws/credentials
    #[arg(long, value_name = "URL")]
    s3: Option<String>,
}

impl Place {
    /// As the server takes it: an absolute path, or `s3:` and a URL.
    fn location(self) -> Result<String, Failure> {
        match (self.path, self.s3) {
            (Some(path), _) => absolute(&path),
            // As restic shows it, with `s3:` in front, it is taken too.
            (None, Some(url)) => Ok(format!("s3:{}", url.strip_prefix("s3:").unwrap_or(&url))),
            (None, None) => Err(Failure::usage("--path DIR or --s3 URL is needed")),
        }
    }
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
        Verb::Add { name, place, password_file, chunk_size, append_only, limit } => {
            let request = AddRepository {
                name: name.to_string(),
                path: place.location()?,
                password_file: absolute(&password_file)?,
                chunk_size,
                append_only,
                limits: limit,
            };
            add(&request, session).await
        }
        Verb::List => {
            let repositories: Vec<RepositoryView> = session.client()?.get(&["repositories"], &[]).await?;
            session.output.show(&repositories, || list(&repositories))?;
            Ok(Status::Done)
        }
        Verb::Check { name, read_data, read_data_subset } => {
            let whole = if read_data { 100 } else { 0 };
            check(&name, read_data_subset.unwrap_or(whole), session).await
        }
        Verb::Prune(arguments) => prune::run(&arguments, session).await,
        Verb::Stats { name } => stats::run(&name, session).await,
        Verb::Limit { name, limits } => limit::run(&name, &limits, session).await,
        Verb::Key(verb) => key::run(verb, session).await,
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

async fn check(name: &str, read_percent: u8, session: &Session) -> Ending {
    let client = session.client()?;
    let read_percent = read_percent.to_string();
    let path = ["repositories", name, "check"];
    let submitted: Submitted = client.post(&path, &[("read_percent", &read_percent)]).await?;
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

fn list(repositories: &[RepositoryView]) -> String {
    let mut table = Table::new(&["name", ">points", ">chunk", "added", "id", "path"]);
    for repository in repositories {
        table.row([
            repository.name.clone(),
            repository.points.to_string(),
            size::show(u64::from(repository.chunk_size)),
            moment::show(&repository.added),
            repository.id.chars().take(12).collect(),
            format!("{}{}", repository.path, if repository.append_only { " (append-only)" } else { "" }),
        ]);
    }
    table.render(
        "no repositories; add one with `backstay repo add NAME (--path DIR | --s3 URL) --password-file FILE`",
    )
}
