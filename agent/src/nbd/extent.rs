//! A range of a disk, and a range with its state.

use super::protocol::{STATE_HOLE, STATE_ZERO};

/// A range of a disk in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    /// The first byte.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

impl Extent {
    /// `length` bytes from `offset` on.
    pub const fn new(offset: u64, length: u64) -> Self {
        Self { offset, length }
    }

    /// The byte after the last; the highest number where there is none so high.
    pub const fn end(self) -> u64 {
        self.offset.saturating_add(self.length)
    }

    /// Whether it lies within a disk of `size` bytes.
    pub fn fits(self, size: u64) -> bool {
        self.offset.checked_add(self.length).is_some_and(|end| end <= size)
    }
}

impl std::fmt::Display for Extent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes at {}", self.length, self.offset)
    }
}

/// A range of one state. What the flags mean is the context's affair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where.
    pub extent: Extent,
    /// The state, as the server gave it.
    pub flags: u32,
}

impl Run {
    /// In `base:allocation`: nothing is stored here.
    pub fn is_hole(&self) -> bool {
        self.flags & STATE_HOLE != 0
    }

    /// In `base:allocation`: it reads as zeros.
    pub fn is_zero(&self) -> bool {
        self.flags & STATE_ZERO != 0
    }

    /// In `qemu:dirty-bitmap:…`: the bitmap marks it.
    pub fn is_dirty(&self) -> bool {
        self.flags & 1 != 0
    }

    /// Appends to runs in order, into the last one where it goes on with the same state.
    pub(super) fn append_to(self, runs: &mut Vec<Self>) {
        match runs.last_mut() {
            Some(last) if last.flags == self.flags && last.extent.end() == self.extent.offset => {
                last.extent.length += self.extent.length;
            }
            _ => runs.push(self),
        }
    }
}
