//! What every command runs with: where its answer goes, and which server it speaks to.
//!
//! Connects only when a command asks for it, since some need no server.

use orchestrator::api::view::{JobView, Submitted};

use crate::address::Server;
use crate::client::Client;
use crate::exit::Failure;
use crate::follow;
use crate::output::Output;
use crate::progress::Progress;

/// One run of the program.
#[derive(Debug)]
pub struct Session {
    /// Where the answer goes.
    pub output: Output,
    /// The server, as flags and environment name it.
    pub server: Server,
}

impl Session {
    /// A client of the server.
    ///
    /// # Errors
    /// When the server's socket cannot be named.
    pub fn client(&self) -> Result<Client, Failure> {
        Ok(Client::new(&self.server)?)
    }

    /// Where progress goes.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress::new(self.output.json())
    }

    /// Waits for a submission's one job to be done.
    ///
    /// # Errors
    /// When it is not, with its reason.
    pub async fn insist(&self, client: &Client, submitted: &Submitted) -> Result<JobView, Failure> {
        follow::insist(client, submitted, &mut self.progress()).await
    }
}
