//! What QEMU says unasked, and waiting for it without losing it.

use super::error::{Fate, QmpError};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::{self, error::RecvError};

/// Something that happened in QEMU, at QEMU's wall clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// As documented by QEMU: `BLOCK_EXPORT_DELETED`, `JOB_STATUS_CHANGE`, …
    pub name: String,
    /// Its members; null where there are none.
    pub data: Value,
    /// Seconds since 1970.
    pub seconds: i64,
    /// Microseconds within the second.
    pub microseconds: i64,
}

impl Event {
    /// Whether this is `name` with the string `value` as its member `key`.
    pub fn is(&self, name: &str, key: &str, value: &str) -> bool {
        self.name == name && self.data.get(key).and_then(Value::as_str) == Some(value)
    }
}

/// A subscription: sees every event from its creation on, also those that come while nobody waits.
#[derive(Debug)]
pub struct Events {
    path: PathBuf,
    receiver: broadcast::Receiver<Arc<Event>>,
}

impl Events {
    pub(super) fn new(path: PathBuf, receiver: broadcast::Receiver<Arc<Event>>) -> Self {
        Self { path, receiver }
    }

    /// Waits for the first event that `wanted` accepts; earlier ones are consumed. `awaited` names it in errors.
    ///
    /// # Errors
    /// [`QmpError::Timeout`], [`QmpError::Closed`], and [`QmpError::EventsLost`] when so many came since the
    /// last wait that the wanted one may be among those that were dropped: query the state then.
    pub async fn wait(
        &mut self,
        awaited: &str,
        limit: Duration,
        mut wanted: impl FnMut(&Event) -> bool,
    ) -> Result<Arc<Event>, QmpError> {
        let search = async {
            loop {
                match self.receiver.recv().await {
                    Ok(event) if wanted(&event) => return Ok(event),
                    Ok(_) => {}
                    Err(end) => return Err(end),
                }
            }
        };
        let found = tokio::time::timeout(limit, search).await;
        let (path, fate) = (self.path.clone(), Fate::Unknown);
        match found {
            Ok(Ok(event)) => Ok(event),
            Ok(Err(RecvError::Lagged(count))) => {
                Err(QmpError::EventsLost { path, awaited: awaited.into(), count })
            }
            Ok(Err(RecvError::Closed)) => {
                Err(QmpError::Closed { path, during: awaited.into(), why: "no more events".into(), fate })
            }
            Err(_) => Err(QmpError::Timeout { path, command: awaited.into(), after: limit, fate }),
        }
    }

    /// Waits until the job reaches `status` (`ready`, `pending`, `concluded`, …).
    ///
    /// # Errors
    /// As [`Events::wait`].
    pub async fn job_status(
        &mut self,
        job: &str,
        status: &str,
        limit: Duration,
    ) -> Result<Arc<Event>, QmpError> {
        let awaited = format!("job {job} to be {status}");
        self.wait(&awaited, limit, |event| {
            event.is("JOB_STATUS_CHANGE", "id", job) && event.is("JOB_STATUS_CHANGE", "status", status)
        })
        .await
    }
}
