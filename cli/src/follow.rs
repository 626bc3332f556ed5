//! Following jobs to their end by long polls, several at a time, over a restart of the server.
//!
//! Owns when a job is over and how long a server may be away. Shows nothing itself.

use std::time::{Duration, Instant};

use journal::{Done, Outcome};
use orchestrator::api::view::{JobView, Submitted};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::client::{Client, ClientError};
use crate::exit::Failure;
use crate::progress::Progress;

/// How long the server may be away, as over a restart, before following ends. The jobs themselves go on with it.
const AWAY: Duration = Duration::from_secs(60);
/// The least time between two polls of a job whose progress never rests.
const PACE: Duration = Duration::from_millis(10);
/// Between two tries at a server that is away.
const RETRY: Duration = Duration::from_millis(100);

/// Whether nothing more will happen to the job.
#[must_use]
pub fn is_over(job: &JobView) -> bool {
    matches!(job.state.as_str(), "done" | "failed" | "cancelled")
}

/// Waits until all jobs are over, and tells `progress` meanwhile. The answer is in the order of `jobs`.
///
/// # Errors
/// When a job is not there, or the server is away for longer than a restart takes.
pub async fn follow(
    client: &Client,
    jobs: &[String],
    progress: &mut Progress,
) -> Result<Vec<JobView>, Failure> {
    let (news, mut seen) = mpsc::channel(16);
    let mut watchers = JoinSet::new();
    for (place, job) in jobs.iter().enumerate() {
        let (client, job, news) = (client.clone(), job.clone(), news.clone());
        watchers.spawn(async move { watch(&client, &job, &news, is_over).await.map(|view| (place, view)) });
    }
    drop(news);
    while let Some(view) = seen.recv().await {
        progress.saw(&view);
    }
    let mut views = Vec::with_capacity(jobs.len());
    while let Some(watched) = watchers.join_next().await {
        let watched = watched.map_err(|error| Failure::failed(format!("following a job ended: {error}")))?;
        views.push(watched.map_err(|error| still_running(error, jobs))?);
    }
    views.sort_by_key(|(place, _)| *place);
    Ok(views.into_iter().map(|(_, view)| view).collect())
}

fn still_running(error: ClientError, jobs: &[String]) -> Failure {
    match error {
        ClientError::Unreachable(what) => Failure::unreachable(format!(
            "{what}. What was queued goes on with the server: `backstay job show {}` tells what became of it",
            jobs.first().map_or("JOB", String::as_str)
        )),
        other => other.into(),
    }
}

/// Waits until a job is at a step of this kind of effect, or over, and tells `progress` meanwhile.
///
/// # Errors
/// As [`follow`].
pub async fn until_at(
    client: &Client,
    job: &str,
    effect: &str,
    progress: &mut Progress,
) -> Result<JobView, Failure> {
    let (news, mut seen) = mpsc::channel(16);
    let enough = |view: &JobView| is_over(view) || view.steps.iter().any(|step| step.effect == effect);
    let told = async {
        while let Some(view) = seen.recv().await {
            progress.saw(&view);
        }
    };
    let watched = async {
        let news = news;
        watch(client, job, &news, enough).await
    };
    let (watched, ()) = tokio::join!(watched, told);
    watched.map_err(|error| still_running(error, &[job.to_owned()]))
}

/// One job, until that is enough.
async fn watch(
    client: &Client,
    job: &str,
    news: &mpsc::Sender<JobView>,
    enough: impl Fn(&JobView) -> bool,
) -> Result<JobView, ClientError> {
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut revision = None;
    loop {
        pace.tick().await;
        let view = ask(client, job, revision).await?;
        revision = Some(view.revision);
        let over = enough(&view);
        // Nobody to tell is no reason to stop waiting.
        let _nobody_looks = news.send(view.clone()).await;
        if over {
            return Ok(view);
        }
    }
}

/// The next view of a job; a server that was there before may be away for a while.
async fn ask(client: &Client, job: &str, revision: Option<u64>) -> Result<JobView, ClientError> {
    let since = Instant::now();
    let after = revision.map(|revision| revision.to_string());
    let query: Vec<(&str, &str)> = after.iter().map(|after| ("after", after.as_str())).collect();
    loop {
        match client.get(&["jobs", job], &query).await {
            Err(ClientError::Unreachable(_)) if revision.is_some() && since.elapsed() < AWAY => {
                // There is no news of a server's return to wait for.
                tokio::time::sleep(RETRY).await;
            }
            answer => return answer,
        }
    }
}

/// Waits for the one job of a submission, and insists that it is done.
///
/// # Errors
/// As [`follow`]; and when the job failed or was cancelled, with its reason.
pub async fn insist(
    client: &Client,
    submitted: &Submitted,
    progress: &mut Progress,
) -> Result<JobView, Failure> {
    let views = follow(client, &submitted.jobs, progress).await?;
    let view = views.into_iter().next();
    let view = view.ok_or_else(|| Failure::failed("the server queued no job and said nothing"))?;
    match failed(&view) {
        Some(failure) => Err(failure),
        None => Ok(view),
    }
}

/// What is to be said of a job that is over and not done.
#[must_use]
pub fn failed(job: &JobView) -> Option<Failure> {
    let why = job.reason.as_deref().unwrap_or("no reason was given");
    match job.state.as_str() {
        "done" => None,
        "cancelled" => Some(Failure::failed(format!("job {} was cancelled: {why}", job.id))),
        _ => Some(Failure::failed(format!("job {} failed: {why}", job.id))),
    }
}

/// What the job's steps of one kind of effect brought, in their order. Steps that are open or failed brought nothing.
#[must_use]
pub fn brought(job: &JobView, effect: &str) -> Vec<Done> {
    let steps = job.steps.iter().filter(|step| step.effect == effect);
    let outcomes = steps.filter_map(|step| serde_json::from_value(step.outcome.clone()?).ok());
    let done = outcomes.filter_map(|outcome| match outcome {
        Outcome::Done(done) => Some(done),
        Outcome::Failed(_) => None,
    });
    done.collect()
}
