//! One frame: the bytes of one record on the medium, their checksum and their link to the frame before.
//!
//! Owns the layout, encoding and decoding. Knows nothing of files, of syncing, or of what a body means.
//!
//! All numbers are little endian. The checksum covers every byte of the frame but its own four.
//!
//! ```text
//!   0  magic     4   B5 'k' 'F' 1A
//!   4  length    4   of the body, at most BODY_LIMIT
//!   8  crc32c    4
//!  12  kind      2   what the body is        } the log carries these three
//!  14  version   2   of the body's layout    } and never looks at them
//!  16  epoch     8   of whoever wrote it     }
//!  24  sequence  8   from 1, no gaps
//!  32  time      8   wall clock, microseconds since 1970, signed; for people, never for order
//!  40  durable   8   the last sequence known to be synced when this frame was written
//!  48  previous 32   SHA-256 of the whole frame before; zeros in frame 1
//!  80  body
//! ```
//!
//! `durable` is what makes damage provable: see the module page of [`super`].

use std::fmt;

use sha2::{Digest, Sha256};

/// Bytes before the body.
pub const HEADER_BYTES: usize = 80;
/// The longest body, in bytes.
pub const BODY_LIMIT: usize = 16 << 20;
/// First bytes of every frame; the first and the last are no text, so that a body of JSON never looks like a
/// frame.
pub(crate) const MAGIC: [u8; 4] = [0xB5, b'k', b'F', 0x1A];

/// SHA-256 of a whole frame.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Hash(pub [u8; 32]);

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A place in the log: a frame's sequence and its hash, which stands for everything up to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Position {
    /// The frame's sequence; 0 before the first.
    pub seq: u64,
    /// The frame's hash; zeros before the first.
    pub hash: Hash,
}

impl Position {
    /// Before the first frame of a log.
    pub const START: Position = Position { seq: 0, hash: Hash([0; 32]) };
}

/// What a caller appends; the log adds sequence, link and checksum.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Entry {
    /// What the body is.
    pub kind: u16,
    /// Which layout the body has.
    pub version: u16,
    /// The epoch of the writer.
    pub epoch: u64,
    /// Wall time in microseconds since 1970.
    pub time: i64,
    /// The body, at most [`BODY_LIMIT`] bytes.
    pub body: Vec<u8>,
}

/// One frame, checked: its checksum was right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Its number, from 1 without gaps.
    pub seq: u64,
    /// The last sequence known to be synced when this frame was written.
    pub durable: u64,
    /// The hash of the frame before.
    pub previous: Hash,
    /// The hash of this frame.
    pub hash: Hash,
    /// What was appended.
    pub entry: Entry,
}

impl Frame {
    /// Where the log stands right after this frame.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { seq: self.seq, hash: self.hash }
    }

    /// Its bytes on the medium.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        HEADER_BYTES + self.entry.body.len()
    }
}

/// Why bytes are not the frame that was expected.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// The first four bytes are wrong.
    #[error("no frame begins here (wrong magic)")]
    Magic,
    /// Zeros where a frame should begin, and bytes after them.
    #[error("zeros where a frame should begin, with other bytes after them")]
    Hole,
    /// The length is over [`BODY_LIMIT`].
    #[error("its length {length} is over the limit of {BODY_LIMIT} bytes")]
    TooLong {
        /// The length found.
        length: u32,
    },
    /// The frame would reach beyond the bytes that are there.
    #[error("it needs {needed} bytes and {room} are there")]
    PastEnd {
        /// Bytes of the whole frame.
        needed: u64,
        /// Bytes there are.
        room: u64,
    },
    /// The checksum does not match.
    #[error("its checksum is {stored:08x}, its bytes give {computed:08x}")]
    Checksum {
        /// In the header.
        stored: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// A whole frame, but with the wrong number.
    #[error("it is frame {found} where frame {expected} should be")]
    Sequence {
        /// The next in order.
        expected: u64,
        /// The one found.
        found: u64,
    },
    /// A whole frame with the right number that follows other bytes than those before it.
    #[error("it does not follow the frame before it (hash chain broken)")]
    Chain,
    /// A whole frame that claims its own durability.
    #[error("frame {seq} says that {durable} was already durable, which cannot be")]
    Watermark {
        /// Its sequence.
        seq: u64,
        /// Its claim.
        durable: u64,
    },
}

impl Fault {
    /// Whether the frame itself is whole, so that no torn write can explain the fault.
    #[must_use]
    pub fn is_whole_frame(&self) -> bool {
        matches!(self, Fault::Sequence { .. } | Fault::Chain | Fault::Watermark { .. })
    }
}

/// The length of the frame whose first bytes are `bytes`, header included.
///
/// # Errors
/// [`Fault::Magic`], [`Fault::TooLong`], or [`Fault::PastEnd`] when `bytes` is shorter than a header.
pub fn peek_len(bytes: &[u8]) -> Result<usize, Fault> {
    if bytes.len() < HEADER_BYTES {
        return Err(Fault::PastEnd { needed: HEADER_BYTES as u64, room: bytes.len() as u64 });
    }
    if bytes[..4] != MAGIC {
        return Err(Fault::Magic);
    }
    let length = u32::from_le_bytes(field(bytes, 4));
    if length as usize > BODY_LIMIT {
        return Err(Fault::TooLong { length });
    }
    Ok(HEADER_BYTES + length as usize)
}

/// Decodes the frame that `bytes` begins with; bytes after it are not looked at.
///
/// The checksum and the frame's own consistency are checked, its place in the chain is not: see [`follows`].
/// Never panics, and allocates no more than the frame's own body, after its checksum was found right.
///
/// # Errors
/// What is wrong with the bytes.
pub fn decode(bytes: &[u8]) -> Result<Frame, Fault> {
    let needed = peek_len(bytes)?;
    let Some(bytes) = bytes.get(..needed) else {
        return Err(Fault::PastEnd { needed: needed as u64, room: bytes.len() as u64 });
    };
    let stored = u32::from_le_bytes(field(bytes, 8));
    let computed = checksum(bytes);
    if stored != computed {
        return Err(Fault::Checksum { stored, computed });
    }
    let seq = u64::from_le_bytes(field(bytes, 24));
    let durable = u64::from_le_bytes(field(bytes, 40));
    if durable >= seq {
        return Err(Fault::Watermark { seq, durable });
    }
    Ok(Frame {
        seq,
        durable,
        previous: Hash(field(bytes, 48)),
        hash: hash(bytes),
        entry: Entry {
            kind: u16::from_le_bytes(field(bytes, 12)),
            version: u16::from_le_bytes(field(bytes, 14)),
            epoch: u64::from_le_bytes(field(bytes, 16)),
            time: i64::from_le_bytes(field(bytes, 32)),
            body: bytes[HEADER_BYTES..].to_vec(),
        },
    })
}

/// Whether `frame` is the one that comes right after `position`.
///
/// # Errors
/// [`Fault::Sequence`] or [`Fault::Chain`].
pub fn follows(frame: &Frame, position: &Position) -> Result<(), Fault> {
    let expected = position.seq.saturating_add(1);
    if frame.seq != expected {
        return Err(Fault::Sequence { expected, found: frame.seq });
    }
    if frame.previous != position.hash {
        return Err(Fault::Chain);
    }
    Ok(())
}

/// Appends the bytes of the frame that follows `after` to `out`, and returns where the log then stands.
///
/// The caller has checked the body against [`BODY_LIMIT`].
pub fn encode(out: &mut Vec<u8>, entry: &Entry, after: &Position, durable: u64) -> Position {
    let start = out.len();
    lay_out(out, entry);
    seal(&mut out[start..], after, durable)
}

/// Appends the bytes of a frame whose place in the log is not known yet: [`seal`] gives it one.
///
/// The caller has checked the body against [`BODY_LIMIT`].
pub(crate) fn lay_out(out: &mut Vec<u8>, entry: &Entry) {
    let length =
        u32::try_from(entry.body.len()).expect("a body is checked against the limit before it is queued");
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&MAGIC);
    header[4..8].copy_from_slice(&length.to_le_bytes());
    header[12..14].copy_from_slice(&entry.kind.to_le_bytes());
    header[14..16].copy_from_slice(&entry.version.to_le_bytes());
    header[16..24].copy_from_slice(&entry.epoch.to_le_bytes());
    header[32..40].copy_from_slice(&entry.time.to_le_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(&entry.body);
}

/// Makes a frame that is laid out the one that follows `after`, and returns where the log then stands.
pub(crate) fn seal(frame: &mut [u8], after: &Position, durable: u64) -> Position {
    let seq = after.seq + 1;
    frame[24..32].copy_from_slice(&seq.to_le_bytes());
    frame[40..48].copy_from_slice(&durable.to_le_bytes());
    frame[48..80].copy_from_slice(&after.hash.0);
    let crc = checksum(frame);
    frame[8..12].copy_from_slice(&crc.to_le_bytes());
    Position { seq, hash: hash(frame) }
}

fn checksum(frame: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&frame[..8]), &frame[12..])
}

fn hash(frame: &[u8]) -> Hash {
    Hash(Sha256::digest(frame).into())
}

/// `N` bytes at `at`; the caller has checked that they are there.
pub(crate) fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut value = [0; N];
    value.copy_from_slice(&bytes[at..at + N]);
    value
}
