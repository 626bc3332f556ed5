//! The block pipeline: from the extents of a view to digests, and chunks in a session of the repository.
//!
//! `extents -> read -> chunk + digest -> known? -> compress -> seal -> pack`. A disk is surveyed in stretches of 1 GiB
//! ([`layout`]), each is planned ([`plan`]) into ranges of a few chunks, the ranges are read several at a time
//! ([`view`]), and a crew of threads, one for each core, hashes what was read and hands what is new to the session,
//! which compresses and seals it on the same thread ([`crew`], [`hash`]). What binds the stages is [`disk`].
//!
//! Memory, whatever the disk's size: at most [`BUFFER_BYTES`] of ranges between the socket and the session, the
//! session's own packs (see `repository`), and 32 bytes for each chunk of the part in hand: 2 MiB for a disk of 64 GiB
//! in chunks of 1 MiB, 32 KiB for each part of a larger one, of which few are open at a time.
//!
//! Knows nothing of restore points, proofs, QMP or the journal.

pub(crate) mod crew;
pub(crate) mod disk;
pub(crate) mod hash;
pub(crate) mod image;
pub(crate) mod layout;
pub(crate) mod plan;
pub(crate) mod view;

/// Bytes of the ranges that are on their way at a time.
pub(crate) const BUFFER_BYTES: usize = 64 << 20;

/// Bytes of a range, unless one chunk is larger. Far enough to hide a round trip, short enough to balance the cores.
pub(crate) const RANGE_BYTES: usize = 4 << 20;
