//! The append-only log of raw frames: the journal's bytes, and nothing of what they mean.
//!
//! Owns framing, checksums, the hash chain, segments and their archive, group commit, durability, the single-writer
//! lock, recovery, reading and verifying. Knows nothing of records, of their kinds, or of the state folded from
//! them.
//!
//! ```text
//!   append(entries) ─┐                                      ┌─ Reader: one at a time, behind a writer or offline
//!   append(entries) ─┼─ desk ─ writer: frames, one durable  │  Follower: waits for what becomes durable
//!   append(entries) ─┘         write, then all answers      │  verify: everything, past damage
//!                                       │                   │
//!                                      Tail ── Medium ── Frames
//!                                                │
//!                                       segments on a Disk
//! ```
//!
//! # What an acknowledgement means
//!
//! `append` returns when its bytes are durable: written past the page cache and flushed by one call (`O_DIRECT` and
//! `RWF_DSYNC`), or, where a file system has no such call, written and `fdatasync`ed. An append of several entries is one
//! place in the order, but not a transaction: a crash before the acknowledgement may keep some of the first of them. An
//! error of a write or a sync poisons the log: nothing is tried a second time, every later append is refused with the
//! first error, readers go on. What had not been acknowledged then is known after a restart.
//!
//! # What can be proved, and what cannot
//!
//! Opening must cut what a crash tore and must not cut what was acknowledged. The two look alike in the last
//! bytes of the log, so every frame says up to which sequence the log was durable when it was written, and
//! the mark says the same at quiet moments. With `s` the first sequence whose bytes are bad:
//!
//! - A later frame or the mark says that `s` was durable: damage, refused with its place. This covers every
//!   commit but the last one, and the last one too from the moment the writer has been idle for
//!   [`Options::settle_after`], begun a segment, or been closed; also segments that are missing, at the end
//!   as well.
//! - Nothing says so: a torn tail, cut, zeroed, synced and reported. Whole frames of the same commit that
//!   stand behind the tear go with it.
//! - Not provable: damage to the last commit's own frames after a power loss that came before the next commit
//!   and before the mark. It is reported as a torn tail. A deleted mark makes the same of damage to the last
//!   commit, and is itself reported.
//!
//! The disk is taken to write a 512-byte sector whole or not at all, so that rewriting the sectors of the block in
//! which the last commit ended, with the bytes that they have, does them no harm (SQLite calls this powersafe
//! overwrite).
//!
//! # A full disk
//!
//! The next segment is made while the current one is half empty. When there is no room for it, ordinary appends are
//! refused ([`LogError::Full`]) with nothing written and nothing poisoned; those for [`Purpose::Recovery`] go on in what is
//! left and in the reserve. Room is looked for every second, and taken without a restart.
//!
//! # Files
//!
//! `lock`, `mark`, one `.log` file per segment, `spare`: the next segment, written full of zeros ahead of its use, removed
//! at open; `reserve`: a small segment that waits for a full disk; and `archive`, a folder of closed segments, compressed.
//! The first segment is small and each is twice the one before, up to a limit. Files of other names are left alone.

pub mod frame;
pub mod medium;
pub mod segment;

mod archive;
mod desk;
mod error;
mod handle;
mod lock;
mod mark;
mod reader;
mod recover;
mod resync;
mod scan;
mod survey;
mod trail;
mod verify;
mod writer;

pub use archive::Moved;
pub(crate) use archive::unpack;
pub use error::{LogError, Problem};
pub use frame::{BODY_LIMIT, Entry, Frame, HEADER_BYTES, Hash, Position};
pub use handle::Log;
pub use lock::Holder;
pub use medium::{Purpose, Room};
pub use reader::{Follower, Reader};
pub use recover::{Options, Recovered};
pub(crate) use resync::find_frames;
pub use survey::{AcknowledgedLoss, TailCut};
pub use verify::{Verification, verify, verify_disk};
