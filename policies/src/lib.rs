//! What should be: when a backup is due, of which machines, and which restore points are worth keeping.
//!
//! Everything here is a function of its arguments. `now` is one of them, and so is the answer: each run that
//! will not happen and each restore point that expires comes back with its reason. This crate knows no
//! journal, job, agent or repository, and touches no file, socket, clock or source of randomness.
//!
//! - [`schedule`] turns five cron fields and a time zone into instants; [`window`], [`blackout`] and [`jitter`] refine
//!   them.
//! - [`bandwidth`] says how fast backups may go, by the hour.
//! - [`select`] says which machines a policy speaks of.
//! - [`keep`] says which restore points stay; [`simulate`] tries a rule on a list of instants.
//! - [`file`] reads, prints and compares policy files.
//! - [`retry`] says how long a failed backup waits for its next try.
//! - [`due`] says what must be queued now; [`preview`] says the same of any range of dates.

pub mod bandwidth;
pub mod blackout;
pub mod due;
pub mod duration;
pub mod file;
pub mod jitter;
pub mod keep;
mod occurrence;
mod opening;
pub mod policy;
pub mod preview;
pub mod retry;
pub mod schedule;
pub mod select;
pub mod simulate;
pub mod size;
mod suggest;
pub mod window;

pub use policy::{Consistency, Hooks, Missed, Mode, Overlap, Policy, Timing};
pub use retry::Retry;
