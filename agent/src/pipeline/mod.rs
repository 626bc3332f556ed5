//! The block pipeline: from the extents of a view to digests, and chunks in a session of the repository.
//!
//! `extents -> read -> chunk + digest -> known? -> compress -> seal -> pack`. A disk is surveyed in stretches of 1 GiB
//! ([`layout`]), each is planned ([`plan`]) into ranges of a few chunks, and a crew of threads, one for each core, takes them
//! up: each reads several at a time ([`view`]), hashes what it read and hands what is new to the session, which compresses
//! and seals it on the same thread ([`crew`], [`hash`]). A range keeps its place until what it stored may go, under the limits
//! of bandwidth. What binds the stages is [`disk`].
//!
//! Memory, whatever the disk's size: [`RANGES_BYTES`] at most between the socket and the session, 40 MiB of them with
//! two cores and chunks of 256 KiB; the session's own packs (see `repository`); and 32 bytes for each chunk of the part in
//! hand: 8 MiB for a disk of 64 GiB in chunks of 256 KiB, 32 KiB for each part of a larger one, of which few are open at a time.
//!
//! Knows nothing of restore points, proofs, QMP or the journal.

pub(crate) mod crew;
pub(crate) mod disk;
pub(crate) mod hash;
pub(crate) mod image;
pub(crate) mod layout;
pub(crate) mod plan;
pub(crate) mod view;

/// Bytes of all ranges on their way together, unless single chunks are too large for that.
pub(crate) const RANGES_BYTES: usize = 192 << 20;

/// Bytes of a request, unless one chunk is larger: both are powers of two. QEMU takes memory for each and gives it back,
/// which costs it half as much again where requests are four times as long.
pub(crate) const REQUEST_BYTES: u32 = 1 << 20;
