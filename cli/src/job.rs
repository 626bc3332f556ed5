//! `backstay job`: queued work.

use clap::Subcommand;
use journal::JobId;
use orchestrator::api::view::{JobView, RetryJob};

use crate::exit::{Ending, Status};
use crate::follow;
use crate::moment;
use crate::named::named;
use crate::session::Session;
use crate::size;
use crate::table::{Table, fields, or_dash};

/// What to do with jobs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List the jobs, newest first
    List {
        /// Only those of this VM
        #[arg(long, value_name = "NAME", value_parser = named)]
        vm: Option<String>,
        /// So many at most; without it the newest 500 or so that are over, and all that are not
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
        limit: Option<u16>,
    },
    /// Show one with its steps
    Show {
        /// The job, such as j12
        #[arg(value_parser = named)]
        job: String,
    },
    /// Follow one to its end; the status is 0 only if it is done
    Watch {
        /// The job
        #[arg(value_parser = named)]
        job: String,
    },
    /// Cancel one: it stops, cleans up, and is over
    Cancel {
        /// The job
        #[arg(value_parser = named)]
        job: String,
    },
    /// Have one rest: its transfer stops, and what it has made so far stays
    Pause {
        /// The job
        #[arg(value_parser = named)]
        job: String,
    },
    /// Have it go on
    Resume {
        /// The job
        #[arg(value_parser = named)]
        job: String,
    },
    /// Try again what one that failed or was cancelled did not finish
    Retry {
        /// The job
        #[arg(value_parser = named)]
        job: String,
        /// And everything else of the same request that was not finished
        #[arg(long)]
        request: bool,
    },
}

/// Runs it.
///
/// # Errors
/// As the server refuses it.
pub async fn run(verb: Verb, session: &Session) -> Ending {
    let client = session.client()?;
    match verb {
        Verb::List { vm, limit } => {
            let query = [("vm", vm), ("limit", limit.map(|limit| limit.to_string()))];
            let query: Vec<_> =
                query.iter().filter_map(|(name, it)| it.as_deref().map(|it| (*name, it))).collect();
            let mut jobs: Vec<JobView> = client.get(&["jobs"], &query).await?;
            jobs.sort_by_key(|job| std::cmp::Reverse(job.id.parse::<JobId>().ok()));
            session.output.show(&jobs, || list(&jobs))?;
        }
        Verb::Show { job } => {
            let job: JobView = client.get(&["jobs", &job], &[]).await?;
            session.output.show(&job, || show(&job))?;
        }
        Verb::Watch { job } => {
            let over = follow::follow(&client, &[job], &mut session.progress()).await?;
            for job in &over {
                session.output.show(job, || show(job))?;
            }
            return Ok(Status::of(over.iter().all(|job| job.state == "done")));
        }
        Verb::Cancel { job } => {
            let job: JobView = client.post(&["jobs", &job, "cancel"], &[]).await?;
            session.output.show(&job, || match follow::is_over(&job) {
                true => format!("{} is {}\n", job.id, job.state),
                false => format!("{} stops and cleans up; it is {} until then\n", job.id, job.state),
            })?;
        }
        Verb::Pause { job } => {
            let job: JobView = client.post(&["jobs", &job, "pause"], &[]).await?;
            session.output.show(&job, || match job.state.as_str() {
                "paused" => format!("{} is paused; `job resume {}` lets it go on\n", job.id, job.id),
                state => format!("{} is {state}, and comes to rest\n", job.id),
            })?;
        }
        Verb::Resume { job } => {
            let job: JobView = client.post(&["jobs", &job, "resume"], &[]).await?;
            session.output.show(&job, || format!("{} is {}\n", job.id, job.state))?;
        }
        Verb::Retry { job, request } => {
            let jobs: Vec<JobView> = client.submit(&["jobs", &job, "retry"], &RetryJob { request }).await?;
            session.output.show(&jobs, || list(&jobs))?;
        }
    }
    Ok(Status::Done)
}

fn list(jobs: &[JobView]) -> String {
    let mut table =
        Table::new(&["job", "kind", "vm", "state", "policy", ">try", "created", ">took", "reason"]);
    for job in jobs {
        table.row([
            job.id.clone(),
            job.kind.clone(),
            or_dash(job.vm.as_ref()),
            state(job),
            or_dash(job.policy.as_ref()),
            job.attempt.to_string(),
            moment::show(&job.created),
            moment::between(job.started.as_ref(), job.ended.as_ref()),
            job.reason.clone().unwrap_or_default(),
        ]);
    }
    table.render("no jobs")
}

/// The state, with how far it is.
fn state(job: &JobView) -> String {
    match job.progress.filter(|progress| progress.total > 0 && job.state == "running") {
        Some(progress) => format!("{} {} %", job.state, progress.done.saturating_mul(100) / progress.total),
        None => job.state.clone(),
    }
}

fn show(job: &JobView) -> String {
    let progress = job.progress.filter(|progress| progress.total > 0 && !follow::is_over(job));
    let about = fields(&[
        ("job", job.id.clone()),
        ("kind", job.kind.clone()),
        ("vm", job.vm.clone().unwrap_or_default()),
        ("state", state(job)),
        ("reason", job.reason.clone().unwrap_or_default()),
        ("advice", job.advice.clone().unwrap_or_default()),
        ("attempt", job.attempt.to_string()),
        ("retries", job.retries.clone().unwrap_or_default()),
        ("after", job.after.join(", ")),
        ("policy", job.policy.clone().unwrap_or_default()),
        ("repository", job.repository.clone().unwrap_or_default()),
        ("point", job.point.clone().unwrap_or_default()),
        ("created", moment::show(&job.created)),
        ("started", job.started.as_deref().map(moment::show).unwrap_or_default()),
        ("ended", job.ended.as_deref().map(moment::show).unwrap_or_default()),
        (
            "progress",
            progress
                .map(|progress| format!("{} of {}", size::show(progress.done), size::show(progress.total)))
                .unwrap_or_default(),
        ),
    ]);
    let mut steps = Table::new(&["intent", "effect", "outcome"]);
    for step in &job.steps {
        let outcome = step.outcome.as_ref().map_or_else(|| "open".to_owned(), ToString::to_string);
        steps.row([step.intent.clone(), step.effect.clone(), outcome]);
    }
    let mut tries = Table::new(&["try ended", "because"]);
    for it in &job.tries {
        tries.row([moment::show(&it.ended), it.reason.clone()]);
    }
    let tries = if job.tries.is_empty() { String::new() } else { format!("{}\n", tries.render("")) };
    format!("{about}\n{tries}{}", steps.render("no steps yet"))
}
