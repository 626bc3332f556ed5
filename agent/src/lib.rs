//! The hands on a host: everything that touches QEMU, guests, disks and repositories.
//!
//! An agent performs effects that were decided elsewhere and answers what became of them. Every effect is idempotent:
//! it looks first and acts on what is missing. The agent decides nothing and keeps nothing but the highest epoch that
//! it has seen. Knows nothing about schedules, retention or the journal's files.

pub mod nbd;
pub mod qmp;

mod fence;
mod hooks;
mod machine;
mod observe;
mod perform;
mod pipeline;
mod repositories;
mod restore;
mod runtime;
mod store;
mod task;

pub use fence::FenceError;
pub use runtime::{Agent, AgentError};
pub use task::Folders;
