//! What to do next, and who is told.
//!
//! `decide` is pure: from what the records make so and what was seen, to the next records and actions. `drive` appends,
//! sends and receives. `api` is how people and programs ask. This crate holds no data key and moves no block.

pub mod api;
pub mod decide;
pub mod drive;
pub mod http;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub use drive::notify::{Login, Mail, Receiver, Security, Way, Webhook};
pub use drive::{StartError, run};

/// How an orchestrator is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The data folder.
    pub data: PathBuf,
    /// The host of the agent.
    pub host: journal::HostName,
    /// A loopback address to serve the API on as well, without TLS.
    pub listen: Option<SocketAddr>,
    /// The operator's limits.
    pub limits: decide::Limits,
    /// Who is told of notices; no two have the same name.
    pub receivers: Vec<Receiver>,
}

/// The folder of the journal's segments in a data folder.
#[must_use]
pub fn journal_folder(data: &Path) -> PathBuf {
    data.join("journal")
}

/// The API's socket in a data folder.
#[must_use]
pub fn api_socket(data: &Path) -> PathBuf {
    data.join("backstay.sock")
}
