//! Somebody who is told: by name, and by which way.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use journal::ReceiverName;
use journal::state::Notice;

use super::{Mail, Said, Webhook, trust};

/// Somebody who is told.
#[derive(Debug, Clone)]
pub struct Receiver {
    /// What the operator calls it.
    pub name: ReceiverName,
    /// How it is told.
    pub way: Way,
    /// A file of certificates, PEM, that vouch for it beside the system's.
    pub ca: Option<PathBuf>,
}

/// How somebody is told.
#[derive(Debug, Clone)]
pub enum Way {
    /// By a request.
    Webhook(Webhook),
    /// By mail.
    Mail(Mail),
}

impl Receiver {
    /// Looks whether the files that it names can be used, so that a slip is found at the start and not with the first alarm.
    ///
    /// # Errors
    /// Which file cannot be used, and why.
    pub fn check(&self) -> Result<(), String> {
        if let Some(ca) = &self.ca {
            trust::file(ca)?;
        }
        match &self.way {
            Way::Webhook(_) => Ok(()),
            Way::Mail(mail) => mail.check(),
        }
    }

    /// One try, within a time.
    pub(super) async fn deliver(&self, installation: &str, notice: &Notice) -> Said {
        let id = format!("{installation}.{}", notice.raised.notice);
        match &self.way {
            Way::Webhook(webhook) => {
                within(webhook.patience(), webhook.deliver(id, notice, self.ca.as_deref())).await
            }
            Way::Mail(mail) => within(mail.patience(), mail.deliver(&id, notice, self.ca.as_deref())).await,
        }
    }
}

async fn within(patience: Duration, delivered: impl Future<Output = Said>) -> Said {
    let said = tokio::time::timeout(patience, delivered).await;
    said.unwrap_or_else(|_| Err(format!("no answer within {} s", patience.as_secs())))
}
