//! The mark: a small file that says how far the log is known to be durable.
//!
//! Owns its layout, its two slots and when a slot is valid. Knows nothing of frames.
//!
//! A commit is proved durable by the next one, whose frames carry `durable`. Nothing comes after the last
//! commit, so the mark speaks for it: it is written when the writer falls idle, when a segment is begun and
//! at a clean end, never between a commit and its acknowledgement. It is a lower bound: what it names was
//! acknowledged and synced before; what came later may be there too. Two slots of one sector each are written
//! in turn, so that a torn write leaves the older one.
//!
//! ```text
//!   0  magic       8   "BKSTMRK" 0
//!   8  generation  8   the larger of the two slots counts
//!  16  first       8   the lowest sequence that should be there; lower ones are in the archive
//!  24  segment     8   first sequence of the newest segment known to have its name; 0: none yet
//!  32  durable     8   the last sequence known to be durable
//!  40  hash       32   of that frame
//!  72  crc32c      4   of the bytes before
//! ```

use std::io;

use super::frame::{Hash, Position, field};
use super::medium::{Disk, DiskFile};

/// Its file name.
pub(crate) const MARK_NAME: &str = "mark";
pub(crate) const FRESH_NAME: &str = "mark.new";
const SLOT: usize = 512;
const MAGIC: [u8; 8] = *b"BKSTMRK\0";
const CRC_AT: usize = 72;

/// What the mark says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mark {
    pub generation: u64,
    pub first: u64,
    pub segment: u64,
    pub durable: Position,
}

impl Mark {
    pub const FRESH: Mark = Mark { generation: 0, first: 1, segment: 0, durable: Position::START };

    fn encode(&self) -> [u8; SLOT] {
        let mut bytes = [0; SLOT];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.generation.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.segment.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.durable.seq.to_le_bytes());
        bytes[40..72].copy_from_slice(&self.durable.hash.0);
        let crc = crc32c::crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Mark> {
        let bytes = bytes.get(..SLOT)?;
        if bytes[..8] != MAGIC || u32::from_le_bytes(field(bytes, CRC_AT)) != crc32c::crc32c(&bytes[..CRC_AT])
        {
            return None;
        }
        Some(Mark {
            generation: u64::from_le_bytes(field(bytes, 8)),
            first: u64::from_le_bytes(field(bytes, 16)),
            segment: u64::from_le_bytes(field(bytes, 24)),
            durable: Position { seq: u64::from_le_bytes(field(bytes, 32)), hash: Hash(field(bytes, 40)) },
        })
    }
}

/// Reads the mark; `None` when there is none, or when neither slot is whole.
pub(crate) fn read(disk: &dyn Disk) -> io::Result<Option<Mark>> {
    let Some(file) = disk.open(MARK_NAME)? else { return Ok(None) };
    let mut bytes = [0; 2 * SLOT];
    let len = file.read_at(&mut bytes, 0)?;
    let slots = bytes[..len].chunks(SLOT).filter_map(Mark::decode);
    Ok(slots.max_by_key(|mark| mark.generation))
}

/// Makes the file anew, holding `mark`, durable under its name.
pub(crate) fn create(disk: &dyn Disk, mark: &Mark) -> io::Result<MarkFile> {
    let file = disk.create(FRESH_NAME, 2 * SLOT as u64)?;
    file.write_at(&mark.encode(), slot(mark.generation))?;
    file.sync()?;
    disk.rename(FRESH_NAME, MARK_NAME)?;
    disk.sync_names()?;
    Ok(MarkFile { file, last: *mark })
}

/// The open mark of a log that is being written.
pub(crate) struct MarkFile {
    file: Box<dyn DiskFile>,
    last: Mark,
}

impl MarkFile {
    /// Opens the file in which `last` was read.
    pub fn open(disk: &dyn Disk, last: Mark) -> io::Result<MarkFile> {
        match disk.open(MARK_NAME)? {
            Some(file) => Ok(MarkFile { file, last }),
            None => create(disk, &last),
        }
    }

    /// Whether it already says this.
    pub fn says(&self, segment: u64, durable: &Position) -> bool {
        self.last.segment == segment && self.last.durable == *durable
    }

    /// Writes and syncs the next generation.
    pub fn write(&mut self, segment: u64, durable: Position) -> io::Result<()> {
        self.put(Mark { segment, durable, ..self.last })
    }

    /// Notes that the log here begins with `first`; what was before is in the archive.
    pub fn release(&mut self, first: u64) -> io::Result<()> {
        self.put(Mark { first, ..self.last })
    }

    fn put(&mut self, next: Mark) -> io::Result<()> {
        let next = Mark { generation: self.last.generation + 1, ..next };
        self.file.write_at(&next.encode(), slot(next.generation))?;
        self.file.sync()?;
        self.last = next;
        Ok(())
    }
}

fn slot(generation: u64) -> u64 {
    (generation % 2) * SLOT as u64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::log::medium::SimulatedDisk;

    const SAMPLE: Mark =
        Mark { generation: 9, first: 1, segment: 42, durable: Position { seq: 77, hash: Hash([0xEF; 32]) } };

    /// Made with Python's `struct` and a bitwise CRC-32C, not with this code. These bytes may never change.
    #[test]
    fn a_slot_has_these_bytes() {
        let bytes = SAMPLE.encode();
        let hex: String = bytes[..76].iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = concat!(
            "424b53544d524b00",
            "0900000000000000",
            "0100000000000000",
            "2a00000000000000",
            "4d00000000000000",
            "efefefefefefefefefefefefefefefefefefefefefefefefefefefefefefefef",
            "8579607b",
        );
        assert_eq!(hex, expected);
        assert!(bytes[76..].iter().all(|byte| *byte == 0));
        assert_eq!(Mark::decode(&bytes), Some(SAMPLE));
    }

    #[test]
    fn a_torn_slot_leaves_the_older_one() {
        let disk = SimulatedDisk::new();
        let mut file = create(&disk, &Mark::FRESH).unwrap();
        for seq in 1..=4 {
            file.write(1, Position { seq, ..Position::START }).unwrap();
            assert_eq!(read(&disk).unwrap().unwrap().durable.seq, seq);
        }
        file.file.write_at(&[0; 40], slot(file.last.generation)).unwrap();
        assert_eq!(read(&disk).unwrap().unwrap().durable.seq, 3);
        file.file.write_at(&[0; 40], slot(file.last.generation + 1)).unwrap();
        assert_eq!(read(&disk).unwrap(), None);
    }

    #[test]
    fn a_mark_of_any_length_is_read_without_a_panic() {
        for len in 0..1030 {
            let disk = SimulatedDisk::new();
            disk.create(MARK_NAME, len).unwrap();
            assert_eq!(read(&disk).unwrap(), None);
        }
    }
}
