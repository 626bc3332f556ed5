//! The HTTP API: how the command line, pages and programs ask. Axum over the drive's channel.
//!
//! One module for each noun. Reading goes to the shared state; writing is a proposal: a function from the state to
//! records, which the drive appends. Knows no agent and no QEMU.

mod backups;
mod checkpoints;
mod doctor;
mod exports;
mod jobs;
pub mod journal;
mod metrics;
mod notices;
mod points;
pub mod policies;
mod repositories;
mod restores;
mod retries;
pub mod view;
mod vms;

use std::sync::Arc;

use ::journal::observation::{LookAt, RepositorySeen, VmSeen};
use ::journal::record::{JobQueued, Terms, Work};
use ::journal::{JobId, Record, State, Time, VmId};
use axum::extract::State as Extract;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use tokio::sync::{mpsc, oneshot};
use view::{ErrorCode, ErrorView, Health, JournalHealth, Submitted};

use crate::drive::{Call, Examined, Refusal, Shared};

/// The priority of what is asked for by hand: somebody waits for it.
const BY_HAND: i8 = 5;

/// What every handler is given.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    shared: Arc<Shared>,
    calls: mpsc::Sender<Call>,
    readers: Arc<journal::Readers>,
}

/// The routes.
pub(crate) fn router(shared: Arc<Shared>, calls: mpsc::Sender<Call>) -> Router {
    let v1 = Router::new()
        .route("/health", get(health))
        .route("/vms", get(vms::list).post(vms::add))
        .route("/vms/{name}", get(vms::show).delete(vms::remove))
        .route("/vms/{name}/checkpoints", get(checkpoints::list).post(checkpoints::create))
        .route("/vms/{name}/checkpoints/{checkpoint}", delete(checkpoints::delete))
        .route("/repositories", get(repositories::list).post(repositories::add))
        .route("/repositories/{name}/check", post(repositories::check))
        .route("/repositories/{name}/prune", post(repositories::prune))
        .route("/repositories/{name}/stats", post(repositories::stats))
        .route("/repositories/{name}/limits", post(repositories::limit))
        .route("/repositories/{name}/keys", post(repositories::keys))
        .route("/backups", post(backups::start))
        .route("/points", get(points::list))
        .route("/points/{id}", get(points::show).delete(points::forget))
        .route("/points/{id}/hold", post(points::hold))
        .route("/points/{id}/release", post(points::release))
        .route("/restores", post(restores::start))
        .route("/exports", get(exports::list).post(exports::create))
        .route("/exports/{id}", get(exports::show).delete(exports::remove))
        .route("/policies", get(policies::list).post(policies::apply))
        .route("/policies/preview", get(policies::preview))
        .route("/policies/{name}", get(policies::show).delete(policies::remove))
        .route("/policies/{name}/pause", post(policies::pause))
        .route("/policies/{name}/resume", post(policies::resume))
        .route("/jobs", get(jobs::list))
        .route("/jobs/{id}", get(jobs::show))
        .route("/jobs/{id}/cancel", post(jobs::cancel))
        .route("/jobs/{id}/pause", post(jobs::pause))
        .route("/jobs/{id}/resume", post(jobs::resume))
        .route("/jobs/{id}/retry", post(retries::start))
        .route("/notices", get(notices::list))
        .route("/notices/test", post(notices::test))
        .route("/journal", get(journal::log))
        .route("/journal/verify", get(journal::verify))
        .route("/journal/state", get(journal::show))
        .route("/journal/archive", post(journal::archive))
        .route("/doctor", get(doctor::examine).post(doctor::apply));
    Router::new().nest("/v1", v1).route("/metrics", get(metrics::show)).fallback(no_route).with_state(Api {
        shared,
        calls,
        readers: Arc::default(),
    })
}

async fn health(Extract(api): Extract<Api>) -> Json<Health> {
    let state = api.shared.state.read().await;
    Json(Health {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        installation: state.installation.map(|it| it.to_string()).unwrap_or_default(),
        epoch: state.epoch.map_or(0, |epoch| epoch.0),
        seq: api.shared.log.durable().borrow().seq,
        journal: match api.shared.trouble() {
            None => JournalHealth { state: "ok".to_owned(), what: None, advice: None },
            Some(trouble) => JournalHealth {
                state: trouble.state.to_owned(),
                what: Some(trouble.what),
                advice: Some(trouble.advice),
            },
        },
    })
}

async fn no_route() -> Refusal {
    Refusal::not_found("there is no such address in this version's API")
}

impl Refusal {
    /// Something named is not there.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self { code: ErrorCode::NotFound, message: message.into() }
    }

    /// The request makes no sense.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { code: ErrorCode::Usage, message: message.into() }
    }

    /// Something would be lost.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self { code: ErrorCode::Refused, message: message.into() }
    }

    /// It was tried and failed.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self { code: ErrorCode::Failed, message: message.into() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self.code {
            ErrorCode::Failed => StatusCode::INTERNAL_SERVER_ERROR,
            ErrorCode::Usage => StatusCode::BAD_REQUEST,
            ErrorCode::NotFound => StatusCode::NOT_FOUND,
            ErrorCode::Refused => StatusCode::CONFLICT,
        };
        (status, Json(ErrorView { code: self.code, message: self.message })).into_response()
    }
}

/// What a handler returns.
type Answer<T> = Result<Json<T>, Refusal>;

impl Api {
    /// Appends what `proposal` makes of the state, and returns when it is durable. What it answers beside the records
    /// comes back to the caller.
    async fn propose<T: Send + 'static>(
        &self,
        proposal: impl FnOnce(&State, Time) -> Result<(Vec<Record>, T), Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (reply, granted) = oneshot::channel();
        let (keep, kept) = oneshot::channel();
        let proposal = Box::new(move |state: &State, now: Time| {
            let (records, answer) = proposal(state, now)?;
            let _gone = keep.send(answer);
            Ok(records)
        });
        self.call(Call::Propose(proposal, reply)).await?;
        granted.await.map_err(|_| stopping())??;
        kept.await.map_err(|_| stopping())
    }

    /// Queues work.
    async fn submit(
        &self,
        work: impl FnOnce(&State) -> Result<Vec<Work>, Refusal> + Send + 'static,
    ) -> Answer<Submitted> {
        self.submit_after(Box::default(), work).await
    }

    /// Queues work that starts once these jobs are over.
    async fn submit_after(
        &self,
        after: Box<[JobId]>,
        work: impl FnOnce(&State) -> Result<Vec<Work>, Refusal> + Send + 'static,
    ) -> Answer<Submitted> {
        let jobs = self
            .propose(move |state, _| {
                let mut job = state.next.job;
                let mut records = Vec::new();
                let mut jobs = Vec::new();
                let all = work(state)?;
                let request = (all.len() > 1).then_some(job);
                for work in all {
                    let terms =
                        Terms { priority: BY_HAND, request, after: after.clone(), ..Terms::default() };
                    records.push(JobQueued { job, work, due: None, terms }.into());
                    jobs.push(job.to_string());
                    job = job.next();
                }
                Ok((records, jobs))
            })
            .await?;
        Ok(Json(Submitted { jobs }))
    }

    /// Has an agent look, and changes nothing.
    async fn look(&self, vm: LookAt) -> Result<VmSeen, Refusal> {
        let (reply, seen) = oneshot::channel();
        self.call(Call::Look(Some(vm), Vec::new(), reply)).await?;
        let (vm, _): (Option<VmSeen>, Vec<RepositorySeen>) = seen.await.map_err(|_| stopping())?;
        vm.ok_or_else(|| Refusal::failed("the agent did not look at the VM"))
    }

    /// Has an agent look, and compares with the journal.
    async fn examine(&self, vm: VmId) -> Result<Examined, Refusal> {
        let (reply, examined) = oneshot::channel();
        self.call(Call::Examine(vm, reply)).await?;
        examined.await.map_err(|_| stopping())
    }

    async fn call(&self, call: Call) -> Result<(), Refusal> {
        self.calls.send(call).await.map_err(|_| stopping())
    }
}

fn stopping() -> Refusal {
    Refusal::failed("the orchestrator is stopping; its log says why")
}

/// A VM by its name.
fn vm_named(state: &State, name: &str) -> Result<VmId, Refusal> {
    let found = name.parse().ok().and_then(|name| state.vm_named(&name));
    found.map(|(id, _)| id).ok_or_else(|| Refusal::not_found(format!("no VM `{name}`; `vm list` shows them")))
}

/// A word of a fixed set, as serde spells it.
fn word<T: serde::de::DeserializeOwned>(what: &str, given: &str, all: &str) -> Result<T, Refusal> {
    serde_json::from_value(serde_json::Value::String(given.to_owned()))
        .map_err(|_| Refusal::usage(format!("`{given}` is not a {what}: {all}")))
}
