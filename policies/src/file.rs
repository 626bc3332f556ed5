//! Policy files: TOML in, policies out, and back. Knows the shape of the file, and which wishes are granted:
//! what the scheduler does not honour is an unknown key, never a key without effect.
//!
//! A file holds one policy, or several as `[[policy]]` tables:
//!
//! ```toml
//! [[policy]]
//! name = "nightly"
//! repositories = ["main"]
//! consistency = "filesystem"           # crash | filesystem | required
//! priority = 0                         # -9 to 9
//! concurrency = 2                      # so many at once
//! deadline = "6h"                      # no try begins later
//! after = ["databases"]                # whose earlier runs are over first
//! bandwidth = ["20M", "mon-fri 08:00-18:00=5M"]     # a second; the lowest that holds
//! retry = { attempts = 3, backoff = "1m", backoff_max = "30m" }
//! hooks = { before = "quiesce", after = "resume", limit = "1m" }
//!
//! [policy.select]                      # all that is given must agree; patterns with * and ?
//! names = ["web-*"]
//! labels = { env = "prod" }
//! exclude = ["web-test"]
//!
//! [[policy.schedules]]
//! cron = "30 2 * * *"
//! time_zone = "Europe/Berlin"          # UTC
//! mode = "incremental"                 # auto | incremental | differential | full
//! jitter = "15m"
//! window = ["22:00-06:00"]
//! missed = "once"                      # skip | once | all
//! overlap = "skip"                     # skip | queue | cancel-older
//!
//! [policy.keep]                        # or keep = "last=3,daily=7,within=30d"
//! last = 3
//! daily = 7
//! within = "30d"
//! ```

mod difference;
mod print;
mod read;
mod reader;
#[cfg(test)]
mod tests;

use std::fmt;

pub use difference::{Change, FieldChange, difference};
pub use print::{print, table};
pub use read::read;

/// One thing that is wrong with a policy file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What is wrong and what would be right.
    pub what: String,
}

/// All that is wrong with a policy file, in its order; nothing of the file was used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.what)
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.problems.iter().enumerate() {
            write!(f, "{}{problem}", if number == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for FileError {}
