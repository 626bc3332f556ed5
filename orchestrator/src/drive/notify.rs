//! Notices on their way to their receiver: one webhook, one notice after the other, each until it is taken.
//!
//! What is owed and what was taken is in the journal; this task only carries. A notice whose delivery the journal does not
//! know of is sent again after a restart: at least once, and its id tells the receiver which it has had.

use std::time::Duration;

use journal::NoticeId;
use journal::state::Notice;
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::now;
use crate::plain;

/// How long a receiver may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The wait after the first failure, and the longest: it doubles in between.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// How long it is tried: after a long weekend, in microseconds.
const GIVE_UP: i64 = 3 * 24 * 3600 * 1_000_000;

/// What became of a notice: why it was given up, or nothing.
pub(super) type Told = (NoticeId, Option<String>);

/// Starts carrying to a webhook; without one nothing is carried.
pub(super) fn start(
    webhook: Option<String>,
    installation: String,
) -> (Option<UnboundedSender<Notice>>, UnboundedReceiver<Told>) {
    let (say, told) = unbounded_channel();
    let Some(webhook) = webhook else { return (None, told) };
    let (owe, mut owed) = unbounded_channel::<Notice>();
    tokio::spawn(async move {
        let client = plain::http().timeout(PATIENCE).build();
        while let Some(notice) = owed.recv().await {
            let given_up = match &client {
                Ok(client) => carry(client, &webhook, &installation, &notice).await,
                Err(error) => Some(format!("no request can be made: {error}")),
            };
            if say.send((notice.raised.notice, given_up)).is_err() {
                return;
            }
        }
    });
    (Some(owe), told)
}

/// Until it is taken, or for too long: then why.
async fn carry(
    client: &reqwest::Client,
    webhook: &str,
    installation: &str,
    notice: &Notice,
) -> Option<String> {
    let mut wait = BACKOFF.0;
    loop {
        let failed = match post(client, webhook, installation, notice).await {
            Ok(()) => return None,
            Err(failed) => failed,
        };
        let id = notice.raised.notice;
        tracing::warn!(notice = %id, webhook, failed, again_in = ?wait, "a notice was not delivered");
        if now().0.saturating_sub(notice.at.0) > GIVE_UP {
            return Some(failed);
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(BACKOFF.1);
    }
}

async fn post(
    client: &reqwest::Client,
    webhook: &str,
    installation: &str,
    notice: &Notice,
) -> Result<(), String> {
    let raised = &notice.raised;
    let id = format!("{installation}.{}", raised.notice);
    let body = json!({
        "id": id,
        "kind": raised.kind.name(),
        "subject": raised.subject.name(),
        "vm": raised.vm,
        "text": raised.text,
        "raised": notice.at.to_string(),
    });
    let sent = client.post(webhook).header("Idempotency-Key", id).json(&body).send().await;
    let status = sent.map_err(|error| error.to_string())?.status();
    if status.is_success() { Ok(()) } else { Err(format!("the receiver answered {status}")) }
}
