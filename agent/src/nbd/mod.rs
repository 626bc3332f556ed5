//! The Network Block Device protocol, the client's side: fixed newstyle negotiation, structured replies and
//! metadata contexts (github.com/NetworkBlockDevice/nbd, doc/proto.md).
//!
//! Owns reading and writing an export, several requests at a time, and reading its maps: what is allocated
//! (`base:allocation`) and what has changed (`qemu:dirty-bitmap:NAME`). Knows nothing about QEMU, backups or
//! chunks. Whatever the server says is checked and bounded before it is believed.
//!
//! A request's journey: a slot is taken, the request is entered in the table under a cookie and written; the
//! reader task finds it again by the cookie of the reply, and receives data straight into the buffer that came
//! with it.

mod connection;
mod error;
mod extent;
mod map;
mod negotiate;
mod protocol;
mod reply;

pub use connection::Nbd;
pub use error::{Errno, NbdError};
pub use extent::{Extent, Run};
pub use map::Walk;
pub use negotiate::{BlockSizes, Context, Export, greet, list_contexts, list_exports};

use std::time::Duration;

/// The context that tells holes and zeros: [`Run::is_zero`], [`Run::is_hole`].
pub const ALLOCATION: &str = "base:allocation";

/// The longest read or write that is sent in one request: QEMU and most other servers refuse more.
pub const MAX_REQUEST: u32 = 32 << 20;

/// The name of the context that tells what a QEMU bitmap marks: [`Run::is_dirty`].
pub fn dirty_context(bitmap: &str) -> String {
    format!("qemu:dirty-bitmap:{bitmap}")
}

/// How long and how much a connection waits for and takes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From connecting to the end of the negotiation.
    pub handshake: Duration,
    /// From a call to its answer; waiting for a free slot counts.
    pub request: Duration,
    /// Requests on their way at a time. One that was given up keeps its slot until the server answers it.
    pub in_flight: usize,
    /// Runs that [`Nbd::maps`] collects before it refuses; each takes 24 bytes.
    pub runs: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(5),
            request: Duration::from_secs(30),
            in_flight: 16,
            runs: 16 << 20,
        }
    }
}
