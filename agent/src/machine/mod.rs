//! Effects on a running QEMU: views, checkpoints, leftovers, freezing; and looking at what is there.
//!
//! Every performer looks first and acts on what is missing, so that any of them may be repeated after its answer was
//! lost. What it may name is fixed in its effect; it decides nothing. Knows nothing about repositories, points or
//! policies, and reads no block: how a view is read is the pipeline's matter.
//!
//! A performer ends in one of three ways, and the difference is what recovery stands on: the effect is there, it
//! certainly is not, or nobody can tell ([`Stop::Lost`]) because a command was sent whose answer never came.

pub(crate) mod backing;
mod begin;
mod checkpoint;
mod clean;
mod devices;
mod end;
mod filter;
mod freeze;
mod graph;
mod guard;
mod job;
mod marks;
mod note;
mod offer;
mod push;
mod reach;
mod scratch;
mod serve;
mod takedown;
mod turns;
mod view;

pub(crate) use begin::begin;
pub(crate) use checkpoint::{add_checkpoint, delete_checkpoint};
pub(crate) use clean::clean;
pub(crate) use devices::{Device, Devices, NO_DEVICE, takes_reader};
pub(crate) use end::end;
pub(crate) use freeze::{freeze, thaw};
pub(crate) use graph::Graph;
pub(crate) use guard::{Guards, explain};
pub(crate) use offer::offer;
pub(crate) use push::until_readable;
pub(crate) use reach::{connect, identity};
pub(crate) use scratch::{answers as scratch_answers, list as scratch_files};
pub(crate) use serve::is_dead as socket_is_dead;

use std::time::Duration;

use journal::outcome::{Done, Failure, FailureClass};
use journal::{Process, Time};

use crate::qmp::{Fate, QmpError};
use crate::task::Answer;

/// How long a QEMU that broke off the connection is given to be seen as dead. The kernel closes a dying process's
/// sockets after it has freed its memory, so what is left to wait for is little.
const DYING: Duration = Duration::from_millis(250);

/// Why a performer does not go on.
#[derive(Debug)]
enum Stop {
    /// The effect is not there.
    Failed(Failure),
    /// It may be there, in part or in full.
    Lost(String),
}

impl Stop {
    fn failed(class: FailureClass, what: impl Into<String>) -> Self {
        Self::Failed(Failure::new(class, what))
    }

    fn why(self) -> String {
        match self {
            Stop::Failed(failure) => failure.what,
            Stop::Lost(why) => why,
        }
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// A refusal is certain. Any other end of a conversation leaves what was done before it, so it is not, even where the
/// command itself was not sent.
impl From<QmpError> for Stop {
    fn from(error: QmpError) -> Self {
        match error.fate() {
            Fate::Refused => Self::failed(FailureClass::Refused, error.to_string()),
            Fate::NotSent | Fate::Unknown => Self::Lost(error.to_string()),
        }
    }
}

/// The answer to a performer's end.
fn answer(end: Result<Done, Stop>) -> Answer {
    match end {
        Ok(done) => Ok(done).into(),
        Err(Stop::Failed(failure)) => Err(failure).into(),
        Err(Stop::Lost(why)) => Answer::Unknown(why),
    }
}

/// The answer of an effect that is nothing without its process: whatever became of the last command, it is over once
/// the process is.
async fn conclude(process: Process, end: Result<Done, Stop>) -> Answer {
    match end {
        Err(Stop::Lost(why)) if reach::gone_within(process, DYING).await => {
            let what = format!("the QEMU process {process} ended while it was being worked on: {why}");
            Err(Failure::new(FailureClass::ProcessGone, what)).into()
        }
        end => answer(end),
    }
}

fn now() -> Time {
    chrono::Utc::now().into()
}
