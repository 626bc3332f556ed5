//! A notice as a request: JSON to a URL, which any answer of 2xx takes.

use std::path::Path;
use std::time::Duration;

use journal::state::Notice;
use reqwest::redirect::Policy;
use rustls::RootCertStore;
use serde_json::json;

use super::{Said, cause, trust};
use crate::http;

/// How long a receiver may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A URL to post to.
#[derive(Debug, Clone)]
pub struct Webhook(reqwest::Url);

impl Webhook {
    /// Of a URL.
    ///
    /// # Errors
    /// When it is none, or of another kind.
    pub fn new(url: &str) -> Result<Self, String> {
        let parsed = reqwest::Url::parse(url).map_err(|error| format!("`{url}` is not a URL: {error}"))?;
        match parsed.scheme() {
            "http" | "https" => Ok(Self(parsed)),
            other => Err(format!("a webhook begins with https:// or http://, not {other}://")),
        }
    }

    pub(super) fn patience(&self) -> Duration {
        PATIENCE
    }

    pub(super) async fn deliver(&self, id: String, notice: &Notice, ca: Option<&Path>) -> Said {
        let raised = &notice.raised;
        let body = json!({
            "id": id,
            "kind": raised.kind.name(),
            "subject": raised.subject.name(),
            "vm": raised.vm,
            "text": raised.text,
            "raised": notice.at.to_string(),
        });
        let client = self.client(ca).await?;
        let sent = client.post(self.0.clone()).header("Idempotency-Key", id).json(&body).send().await;
        // A URL is often the only secret that a receiver has: it stays out of the log.
        let status = sent.map_err(|error| cause(&error.without_url()))?.status();
        match status {
            taken if taken.is_success() => Ok(taken.to_string()),
            moved if moved.is_redirection() => {
                Err(format!("the receiver answered {moved}: name the address that it points to"))
            }
            refused => Err(format!("the receiver answered {refused}")),
        }
    }

    /// One that follows nobody elsewhere: there, a POST may become a GET, which says nothing.
    async fn client(&self, ca: Option<&Path>) -> Result<reqwest::Client, String> {
        let mut roots = RootCertStore::empty();
        if self.0.scheme() == "https" {
            roots.add_parsable_certificates(trust::certificates(ca).await?);
        }
        let client = http::trusting(roots).redirect(Policy::none()).build();
        client.map_err(|error| format!("no request can be made: {}", cause(&error)))
    }
}
