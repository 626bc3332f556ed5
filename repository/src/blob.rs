//! What a stored blob is: its kind, and where it lies in a pack.
//!
//! Owns restic's two kinds of blobs and the record of a blob's place. Knows nothing of files.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::crypto::OVERHEAD;
use crate::id::Digest;

/// The two kinds of blobs. The same bytes as both kinds are two blobs, as in restic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlobKind {
    /// A chunk of a file.
    Data,
    /// A folder's listing, as JSON.
    Tree,
}

impl fmt::Display for BlobKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Data => "data",
            Self::Tree => "tree",
        })
    }
}

/// One blob as an index file or a pack's header lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BlobEntry {
    /// Its name.
    pub(crate) id: Digest,
    /// Its kind.
    #[serde(rename = "type")]
    pub(crate) kind: BlobKind,
    /// Where its sealed bytes begin in the pack.
    pub(crate) offset: u32,
    /// How many sealed bytes there are, IV and MAC included.
    pub(crate) length: u32,
    /// Plain bytes when compressed; 0 when stored as it is.
    #[serde(rename = "uncompressed_length", default, skip_serializing_if = "is_zero")]
    pub(crate) raw_length: u32,
}

impl BlobEntry {
    /// How many plain bytes it has.
    pub(crate) fn plain_length(&self) -> usize {
        if self.raw_length == 0 {
            (self.length as usize).saturating_sub(OVERHEAD)
        } else {
            self.raw_length as usize
        }
    }
}

// serde hands references to `skip_serializing_if`.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(length: &u32) -> bool {
    *length == 0
}
