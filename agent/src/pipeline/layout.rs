//! Where the chunks and the parts of a disk lie: arithmetic, and nothing else.
//!
//! Chunks have one size and begin at the disk's start; only the last may be shorter. A disk of up to [`WHOLE_BYTES`]
//! is one part, which is one file of the restore point; a larger one is cut into parts of [`PART_CHUNKS`]. Knows
//! nothing of how either is read or stored.

use crate::nbd::Extent;

/// The largest disk that is stored as one file, in bytes.
pub const WHOLE_BYTES: u64 = 64 << 30;

/// Chunks in one part of a larger disk: a part's list takes about 35 KiB in the repository, whatever the chunks' size.
pub const PART_CHUNKS: u32 = 1024;

/// The most bytes that are surveyed at a time. Every allowed chunk size divides it.
const STRETCH_BYTES: u64 = 1 << 30;

/// A disk, cut up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    disk_bytes: u64,
    chunk_bytes: u32,
}

impl Layout {
    /// A disk of this size in chunks of this size; the repository allows powers of two from 64 KiB to 8 MiB.
    #[must_use]
    pub fn new(disk_bytes: u64, chunk_bytes: u32) -> Self {
        Self { disk_bytes, chunk_bytes }
    }

    /// The disk's size in bytes.
    #[must_use]
    pub fn disk_bytes(self) -> u64 {
        self.disk_bytes
    }

    /// The chunks' size in bytes.
    #[must_use]
    pub fn chunk_bytes(self) -> u32 {
        self.chunk_bytes
    }

    /// Whether the disk is stored as one file. Otherwise it is a folder of parts.
    #[must_use]
    pub fn is_whole(self) -> bool {
        self.disk_bytes <= WHOLE_BYTES
    }

    /// The parts, in order: one for a disk that is stored whole, even an empty one.
    pub fn parts(self) -> impl ExactSizeIterator<Item = Part> {
        let part_bytes = u64::from(PART_CHUNKS) * u64::from(self.chunk_bytes);
        let step = if self.is_whole() { WHOLE_BYTES } else { part_bytes };
        let count =
            u32::try_from(self.disk_bytes.div_ceil(step).max(1)).expect("4 billion parts are 256 PiB");
        (0..count).map(move |number| {
            let offset = u64::from(number) * step;
            Part { number, offset, length: step.min(self.disk_bytes - offset), chunk_bytes: self.chunk_bytes }
        })
    }
}

/// One part of a disk. Its chunks are counted from its own start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Its place among the parts.
    pub number: u32,
    /// Where it begins on the disk, in bytes.
    pub offset: u64,
    /// Its bytes.
    pub length: u64,
    /// Bytes of its chunks.
    pub chunk_bytes: u32,
}

impl Part {
    /// How many chunks it has.
    #[must_use]
    pub fn chunks(self) -> usize {
        usize::try_from(self.length.div_ceil(u64::from(self.chunk_bytes))).expect("a part is at most 64 GiB")
    }

    /// Where its `chunk`-th chunk lies on the disk.
    #[must_use]
    pub fn chunk(self, chunk: usize) -> Extent {
        let from = chunk as u64 * u64::from(self.chunk_bytes);
        Extent::new(self.offset + from, u64::from(self.chunk_bytes).min(self.length - from))
    }

    /// How many bytes its `chunk`-th chunk has.
    #[must_use]
    pub fn chunk_length(self, chunk: usize) -> usize {
        usize::try_from(self.chunk(chunk).length).expect("a chunk is at most 8 MiB")
    }

    /// The chunks that `extent` of the disk touches.
    #[must_use]
    pub fn chunks_of(self, extent: Extent) -> std::ops::Range<usize> {
        let place = |offset: u64| usize::try_from(offset).expect("a part is at most 64 GiB");
        let chunk = u64::from(self.chunk_bytes);
        place((extent.offset - self.offset) / chunk)..place((extent.end() - self.offset).div_ceil(chunk))
    }

    /// The stretches in which the part is surveyed: at most [`STRETCH_BYTES`] each, so that the map of a fragmented
    /// disk is never held whole.
    pub fn stretches(self) -> impl Iterator<Item = Extent> {
        (0..self.length.div_ceil(STRETCH_BYTES)).map(move |number| {
            let from = number * STRETCH_BYTES;
            Extent::new(self.offset + from, STRETCH_BYTES.min(self.length - from))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_of_64_gib_is_whole_and_one_byte_more_is_not() {
        let whole = Layout::new(WHOLE_BYTES, 1 << 20);
        assert!(whole.is_whole());
        assert_eq!(whole.parts().len(), 1);
        let cut = Layout::new(WHOLE_BYTES + 1, 1 << 20);
        assert!(!cut.is_whole());
        let parts = cut.parts().collect::<Vec<_>>();
        assert_eq!(parts.len(), 65);
        assert_eq!((parts[64].offset, parts[64].length, parts[64].chunks()), (WHOLE_BYTES, 1, 1));
        assert_eq!(parts.iter().map(|part| part.length).sum::<u64>(), WHOLE_BYTES + 1);
    }

    #[test]
    fn a_part_has_as_many_chunks_whatever_their_size() {
        for chunk_bytes in [64 << 10, 256 << 10, 1 << 20, 8 << 20] {
            let part = Layout::new(WHOLE_BYTES + 1, chunk_bytes).parts().next().expect("there is always one");
            assert_eq!(part.chunks(), 1024, "{chunk_bytes}");
            let surveyed = part.stretches().map(|stretch| stretch.length).sum::<u64>();
            assert_eq!(surveyed, part.length, "{chunk_bytes}");
        }
    }

    #[test]
    fn the_last_chunk_is_as_short_as_the_disk() {
        let part = Layout::new((3 << 20) + 512, 1 << 20).parts().next().expect("there is always one");
        assert_eq!(part.chunks(), 4);
        assert_eq!(part.chunk(3), Extent::new(3 << 20, 512));
        assert_eq!(part.stretches().collect::<Vec<_>>(), [Extent::new(0, (3 << 20) + 512)]);
    }

    #[test]
    fn an_empty_disk_is_one_part_without_chunks() {
        let part = Layout::new(0, 1 << 20).parts().next().expect("there is always one");
        assert_eq!((part.chunks(), part.stretches().count()), (0, 0));
    }
}
