//! The `config` file: format version, identity, and the size of our chunks.
//!
//! The chunk size is a field of our own. restic ignores fields that it does not know and never rewrites the
//! configuration of a version 2 repository (checked with restic 0.14: check, prune, forget, dump).

use serde::{Deserialize, Serialize};

use crate::id::FileId;
use crate::polynomial;

/// Bytes of a chunk in a new repository unless chosen otherwise.
pub const DEFAULT_CHUNK_SIZE: u32 = 256 << 10;
/// The smallest chunk size, in bytes.
pub const MIN_CHUNK_SIZE: u32 = 64 << 10;
/// The largest chunk size, in bytes: restic's own chunker never makes larger ones.
pub const MAX_CHUNK_SIZE: u32 = 8 << 20;

/// Bytes of a chunk where the configuration does not say: never changed, or what is stored there would no longer fit.
const UNSAID_CHUNK_SIZE: u32 = 1 << 20;

/// The only format version that is written and read.
pub(crate) const VERSION: u32 = 2;

/// The content of `config`, as restic writes it, and one field more.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Config {
    pub(crate) version: u32,
    pub(crate) id: FileId,
    pub(crate) chunker_polynomial: String,
    /// Absent in a repository that restic made.
    #[serde(default = "unsaid_chunk_size")]
    pub(crate) fixed_chunk_size: u32,
}

fn unsaid_chunk_size() -> u32 {
    UNSAID_CHUNK_SIZE
}

/// Whether chunks may have this size (bytes).
pub(crate) fn allowed_chunk_size(size: u32) -> bool {
    size.is_power_of_two() && (MIN_CHUNK_SIZE..=MAX_CHUNK_SIZE).contains(&size)
}

impl Config {
    /// A new identity.
    pub(crate) fn random(chunk_size: u32) -> Self {
        Self {
            version: VERSION,
            id: FileId(rand::random()),
            chunker_polynomial: format!("{:x}", polynomial::random()),
            fixed_chunk_size: chunk_size,
        }
    }
}
