//! A base: the folded state at one sequence number, so that a start reads it and the records after it, and not all.
//!
//! Owns the file's layout and what makes one acceptable. The journal stays the truth: a base says on which frame it
//! stands, by sequence and hash, and is left aside when it is damaged, when another fold made it, or when the journal has
//! another frame there. Then an older one is taken, or every record is folded again. Nothing but time is lost.
//!
//! ```text
//!   0  magic    8   "BKSTBAS" 0
//!   8  fold     4   which fold made it: FOLD
//!  12  crc32c   4   of all other bytes of the file
//!  16  seq      8   the last record that is folded in
//!  24  hash    32   of that record's frame
//!  56  length   8   of the body
//!  64  body         the state: bincode, legacy configuration
//! ```

mod files;
mod keeper;
#[cfg(test)]
mod tests;

use bincode::config;

pub use files::{file_name, list, read, write};
pub use keeper::{Follow, Keeper, Pace};

use crate::log::frame::field;
use crate::log::{Hash, Position};
use crate::state::State;

/// Which fold this is. To be raised whenever [`State`]'s layout changes, or what a record does to it: a base that another
/// fold made is not taken. Golden bytes under `tests/formats` notice both.
pub const FOLD: u32 = 4;

const MAGIC: [u8; 8] = *b"BKSTBAS\0";
const HEADER_BYTES: usize = 64;
const CRC_AT: usize = 12;
/// The largest state that is read, in bytes; and steps below it, so that a length inside a small file cannot ask for as much.
const LIMIT: usize = 1 << 30;
const LARGE: usize = 64 << 20;
const SMALL: usize = 4 << 20;

/// The state after one record, and all before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// The record's frame.
    pub at: Position,
    /// What is so after it.
    pub state: State,
}

/// Why a base is not taken.
#[derive(Debug, thiserror::Error)]
pub enum BaseFault {
    /// The file cannot be read or written.
    #[error("its file cannot be read or written: {0}")]
    Io(#[from] std::io::Error),
    /// It is no base, or a part of one.
    #[error("it is not a whole base ({0})")]
    Torn(&'static str),
    /// Its bytes are not those that were written.
    #[error("its checksum is {stored:08x}, its bytes give {computed:08x}")]
    Checksum {
        /// In the header.
        stored: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// Another version of Backstay made it.
    #[error("fold {found} made it, this Backstay has fold {FOLD}")]
    Fold {
        /// Which.
        found: u32,
    },
    /// Its body is not a state.
    #[error("its body does not decode: {0}")]
    Body(String),
    /// It stands on a frame that the journal does not have.
    #[error("the journal has no such frame, or another one, where it stands")]
    Elsewhere,
    /// The records after it cannot follow it.
    #[error("the records after it do not follow: {0}")]
    Unlikely(String),
    /// The records lead to another state.
    #[error("the records up to it lead to another state")]
    Untrue,
}

impl Base {
    /// Its bytes.
    ///
    /// # Errors
    /// [`BaseFault::Body`] when the state cannot be written, which is a bug.
    pub fn encode(&self) -> Result<Vec<u8>, BaseFault> {
        let body = bincode::serde::encode_to_vec(&self.state, config::legacy())
            .map_err(|error| BaseFault::Body(error.to_string()))?;
        let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FOLD.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.at.seq.to_le_bytes());
        bytes.extend_from_slice(&self.at.hash.0);
        bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&body);
        let crc = checksum(&bytes);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        Ok(bytes)
    }

    /// The base that these bytes are. Allocates nothing before the checksum was found right.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn decode(bytes: &[u8]) -> Result<Base, BaseFault> {
        if bytes.len() < HEADER_BYTES {
            return Err(BaseFault::Torn("it ends inside its header"));
        }
        if bytes[..8] != MAGIC {
            return Err(BaseFault::Torn("it does not begin as one"));
        }
        let (stored, computed) = (u32::from_le_bytes(field(bytes, CRC_AT)), checksum(bytes));
        if stored != computed {
            return Err(BaseFault::Checksum { stored, computed });
        }
        let found = u32::from_le_bytes(field(bytes, 8));
        if found != FOLD {
            return Err(BaseFault::Fold { found });
        }
        let body = &bytes[HEADER_BYTES..];
        if u64::from_le_bytes(field(bytes, 56)) != body.len() as u64 {
            return Err(BaseFault::Torn("its length is another"));
        }
        let (state, used) = match body.len() {
            ..SMALL => decode_within::<SMALL>(body),
            SMALL..LARGE => decode_within::<LARGE>(body),
            _ => decode_within::<LIMIT>(body),
        }?;
        if used != body.len() {
            return Err(BaseFault::Body(format!("{} bytes too many", body.len() - used)));
        }
        let at = Position { seq: u64::from_le_bytes(field(bytes, 16)), hash: Hash(field(bytes, 24)) };
        Ok(Base { at, state: state.indexed() })
    }
}

/// Decodes a state, asking for no more than `LIMIT` bytes for any one thing in it.
fn decode_within<const LIMIT: usize>(body: &[u8]) -> Result<(State, usize), BaseFault> {
    let limited = config::legacy().with_limit::<LIMIT>();
    bincode::serde::decode_from_slice(body, limited).map_err(|error| BaseFault::Body(error.to_string()))
}

/// The same bytes with the checksum that they should have, so that a probe gets behind it.
pub(crate) fn resealed(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if bytes.len() >= HEADER_BYTES {
        let crc = checksum(&bytes);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    }
    bytes
}

fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..CRC_AT]), &bytes[CRC_AT + 4..])
}
