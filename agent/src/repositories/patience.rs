//! Work on storage, off the control path: on a blocking thread, for as long as anything comes of it.
//!
//! A thread that hangs in the kernel cannot be ended; it is left behind, and the agent goes on.

use std::ops::ControlFlow;
use std::time::Duration;

use journal::wire::Progress;
use journal::{Failure, FailureClass};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::task::Task;

/// How long work may show no progress before its storage counts as hung.
const STALL_LIMIT: Duration = Duration::from_secs(300);

/// How long work that is to stop may take to do so.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Runs work on a blocking thread, and waits for it at most `limit`. `what` names the work.
///
/// # Errors
/// What the work answers; [`FailureClass::Unreachable`] when it takes longer, and then it goes on unattended.
pub(crate) async fn blocking<T: Send + 'static>(
    limit: Duration,
    what: &str,
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::time::timeout(limit, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(panic)) => Err(panicked(what, &panic)),
        Err(_) => Err(hung(what, limit)),
    }
}

/// By what work under [`watched`] tells how far it is, and learns whether to go on.
#[derive(Debug, Clone)]
pub(crate) struct Watch {
    progress: watch::Sender<Progress>,
    cancelled: CancellationToken,
}

impl Watch {
    /// Tells how far the work is; `Break` when it is to stop.
    pub(crate) fn report(&self, done: u64, total: u64) -> ControlFlow<()> {
        self.progress.send_replace(Progress { done_bytes: done, total_bytes: total });
        if self.cancelled.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Runs long work on a blocking thread, and waits for it as long as it reports progress. The work itself looks at the
/// watch to learn that it is cancelled.
///
/// # Errors
/// What the work answers; [`FailureClass::Unreachable`] when nothing moves for too long, and
/// [`FailureClass::Cancelled`] when it was told to stop and did not. In both cases its thread goes on unattended.
pub(crate) async fn watched<T: Send + 'static>(
    task: &Task,
    what: &str,
    work: impl FnOnce(Watch) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let watch = Watch { progress: task.progress.clone(), cancelled: task.cancelled.clone() };
    let mut progress = task.progress.subscribe();
    let mut work = tokio::task::spawn_blocking(move || work(watch));
    loop {
        let moved = tokio::time::timeout(STALL_LIMIT, progress.changed());
        tokio::select! {
            biased;
            ended = &mut work => return ended.unwrap_or_else(|panic| Err(panicked(what, &panic))),
            () = task.cancelled.cancelled() => {
                let stop = || Failure::new(FailureClass::Cancelled, format!("{what} was cancelled, and does not stop"));
                return match tokio::time::timeout(STOP_LIMIT, work).await {
                    Ok(ended) => ended.unwrap_or_else(|panic| Err(panicked(what, &panic))),
                    Err(_) => Err(stop()),
                };
            }
            moved = moved => match moved {
                Ok(Ok(())) => {}
                // The sender is the task's, which is here; so this is the limit.
                Ok(Err(_)) | Err(_) => return Err(hung(what, STALL_LIMIT)),
            },
        }
    }
}

fn panicked(what: &str, panic: &tokio::task::JoinError) -> Failure {
    Failure::new(FailureClass::Host, format!("{what} ended in a panic ({panic}): a bug"))
}

fn hung(what: &str, limit: Duration) -> Failure {
    let what =
        format!("{what}: nothing came of it for {} s; see whether its storage answers", limit.as_secs());
    Failure::new(FailureClass::Unreachable, what)
}
