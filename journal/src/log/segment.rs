//! A segment file's name and its header.
//!
//! Owns both layouts. Knows nothing of the frames that follow the header.
//!
//! A segment is a file of fixed size, written full of zeros and synced before it gets its name, so that an
//! append never changes the file's metadata and has only data to make durable. Its name is the sequence of its
//! first frame. The header fills the first sector, so that no append ever writes anything else there:
//!
//! ```text
//!   0  magic      8   "BKSTSEG" 0
//!   8  format     4   of the frames inside, 1
//!  12  crc32c     4   of the other 508 bytes
//!  16  first      8   sequence of its first frame
//!  24  size       8   of the whole file in bytes
//!  32  created    8   microseconds since 1970
//!  40  previous  32   hash of the frame before the first
//!  72  zeros    440
//! ```

use super::frame::{BODY_LIMIT, HEADER_BYTES, Hash, Position, field};

/// Bytes before the first frame: one sector.
pub const SEGMENT_HEADER_BYTES: usize = 512;
/// The same as an offset in a file.
pub(crate) const FRAMES_START: u64 = SEGMENT_HEADER_BYTES as u64;
/// The longest segment that is ever made or read: the longest frame fits in it. Bytes.
pub const LONGEST_SEGMENT: u64 = FRAMES_START + (HEADER_BYTES + BODY_LIMIT) as u64;
/// The format that this version writes, and the newest it reads.
pub const FORMAT: u32 = 1;

const MAGIC: [u8; 8] = *b"BKSTSEG\0";
const SUFFIX: &str = ".log";
/// Digits of a name: as many as the largest u64 has, so that names sort as numbers do.
const DIGITS: usize = 20;

/// The first sector of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// Sequence of the first frame in it.
    pub first: u64,
    /// Size of the file in bytes.
    pub size: u64,
    /// When it was made, microseconds since 1970.
    pub created: i64,
    /// The hash of the frame before `first`.
    pub previous: Hash,
}

/// Why a segment's first sector is not a header.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HeaderFault {
    /// The file is shorter than a header.
    #[error("the file ends inside the segment header")]
    Short,
    /// The first bytes are wrong.
    #[error("the file does not begin with a segment header")]
    Magic,
    /// The checksum does not match.
    #[error("the segment header's checksum does not match")]
    Checksum,
    /// Written by a newer version.
    #[error("the segment has format {found}, this version reads up to {FORMAT}")]
    Format {
        /// The format found.
        found: u32,
    },
    /// A header that cannot be: no first sequence, or no room for itself.
    #[error("the segment header makes no sense (first {first}, size {size})")]
    Nonsense {
        /// Its first sequence.
        first: u64,
        /// Its size.
        size: u64,
    },
}

impl SegmentHeader {
    /// Where the log stands before the first frame in it.
    #[must_use]
    pub fn before(&self) -> Position {
        Position { seq: self.first.saturating_sub(1), hash: self.previous }
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.size.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.created.to_le_bytes());
        bytes[40..72].copy_from_slice(&self.previous.0);
        let crc = checksum(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header from the beginning of `bytes`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<SegmentHeader, HeaderFault> {
        let bytes = bytes.get(..SEGMENT_HEADER_BYTES).ok_or(HeaderFault::Short)?;
        if bytes[..8] != MAGIC {
            return Err(HeaderFault::Magic);
        }
        if u32::from_le_bytes(field(bytes, 12)) != checksum(bytes) {
            return Err(HeaderFault::Checksum);
        }
        let found = u32::from_le_bytes(field(bytes, 8));
        if found != FORMAT {
            return Err(HeaderFault::Format { found });
        }
        let header = SegmentHeader {
            first: u64::from_le_bytes(field(bytes, 16)),
            size: u64::from_le_bytes(field(bytes, 24)),
            created: i64::from_le_bytes(field(bytes, 32)),
            previous: Hash(field(bytes, 40)),
        };
        if header.first == 0 || header.size < FRAMES_START {
            return Err(HeaderFault::Nonsense { first: header.first, size: header.size });
        }
        Ok(header)
    }
}

/// The file name of the segment whose first frame is `first`.
#[must_use]
pub fn file_name(first: u64) -> String {
    format!("{first:020}{SUFFIX}")
}

/// The first sequence that a file name stands for; `None` when it is no segment's name.
#[must_use]
pub fn parse_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    if digits.len() != DIGITS || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|first| *first > 0)
}

fn checksum(header: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..SEGMENT_HEADER_BYTES])
}
