//! The language of Backstay and the log that it is written in.
//!
//! Ids, effects, intents, outcomes, observations and records are the words that every other crate speaks; the fold
//! turns records into the state; the log keeps frames of bytes durable and in order; bases make the way from the log to
//! the state short. Knows nothing about QEMU's
//! protocols, repositories' formats, schedules or decisions.

pub mod base;
pub mod effect;
pub mod fault;
pub mod ids;
pub mod log;
pub mod names;
pub mod notice;
pub mod observation;
pub mod outcome;
pub mod probe;
pub mod record;
pub mod replay;
pub mod state;
pub mod wire;

pub use effect::{Effect, EffectKind, Intent};
pub use ids::*;
pub use outcome::{Done, Failure, FailureClass, Outcome};
pub use record::Record;
pub use state::State;
