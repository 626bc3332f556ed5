//! Compressing chunks with zstd: harder while the storage is what everybody waits for, and not at all where a sample says
//! that it does not pay.
//!
//! Knows nothing of packs.

use std::sync::atomic::{AtomicI32, Ordering};

use zstd::bulk::Compressor;
use zstd::zstd_safe::compress_bound;

use crate::session::WriteError;

/// Compression must save at least this share to be worth undoing at every read: one part in 64.
const WORTHWHILE: usize = 64;
/// Bytes of a chunk that are tried first where the chunk before it did not compress.
const SAMPLE: usize = 8 << 10;
/// Levels above the wanted one, at most: 6 instead of 1 makes packs a tenth smaller at a third of the speed.
const EXTRA: i32 = 5;

/// How hard to compress; shared by all who do.
#[derive(Debug)]
pub(crate) struct Effort {
    level: i32,
    extra: AtomicI32,
}

impl Effort {
    /// At least `level`.
    pub(crate) fn new(level: i32) -> Self {
        Self { level, extra: AtomicI32::new(0) }
    }

    fn level(&self) -> i32 {
        self.level + self.extra.load(Ordering::Relaxed)
    }

    /// A finished pack has to wait: the processors have time to spare.
    pub(crate) fn storage_is_behind(&self) {
        self.change(|extra| (extra + 1).min(EXTRA));
    }

    /// The storage waits for a pack.
    pub(crate) fn storage_is_idle(&self) {
        self.change(|extra| (extra - 1).max(0));
    }

    fn change(&self, change: impl Fn(i32) -> i32) {
        // A change that another one overtakes is one step that comes later.
        self.extra.store(change(self.extra.load(Ordering::Relaxed)), Ordering::Relaxed);
    }
}

/// A thread's own compressor.
pub(crate) struct Compression {
    zstd: Compressor<'static>,
    level: i32,
    /// The last chunk did not compress, so that its neighbour may not either.
    doubtful: bool,
}

impl Compression {
    /// # Errors
    /// [`WriteError::Level`] when zstd does not know this effort's level.
    pub(crate) fn new(effort: &Effort) -> Result<Self, WriteError> {
        let level = effort.level();
        let zstd = Compressor::new(level).map_err(|error| unknown(level, &error))?;
        Ok(Self { zstd, level, doubtful: false })
    }

    /// From here on with this effort.
    pub(crate) fn with(&mut self, effort: &Effort) -> Result<&mut Self, WriteError> {
        let level = effort.level();
        if level != self.level {
            self.level = level;
            self.zstd.set_compression_level(level).map_err(|error| unknown(level, &error))?;
        }
        Ok(self)
    }

    /// Compresses a chunk to the start of `room`, which has [`room_for`] it; how many bytes it has there.
    /// `None`: it is better stored as it is, and `room` holds anything.
    pub(crate) fn compress(&mut self, plain: &[u8], room: &mut [u8]) -> Option<usize> {
        if self.doubtful && plain.len() > 4 * SAMPLE {
            let middle = (plain.len() - SAMPLE) / 2;
            self.doubtful = self.shorter(&plain[middle..middle + SAMPLE], room).is_none();
            if self.doubtful {
                return None;
            }
        }
        let compressed = self.shorter(plain, room);
        self.doubtful = compressed.is_none();
        compressed
    }

    fn shorter(&mut self, plain: &[u8], room: &mut [u8]) -> Option<usize> {
        let length = self.zstd.compress_to_buffer(plain, room).ok()?;
        (length + plain.len() / WORTHWHILE < plain.len()).then_some(length)
    }
}

/// Room that [`Compression::compress`] wants for so many bytes.
pub(crate) fn room_for(plain: usize) -> usize {
    compress_bound(plain)
}

fn unknown(level: i32, error: &std::io::Error) -> WriteError {
    WriteError::Level { level, what: error.to_string() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rand::RngCore as _;

    use super::*;

    const CHUNK: usize = 256 << 10;

    fn noise() -> Vec<u8> {
        let mut bytes = vec![0; CHUNK];
        rand::rng().fill_bytes(&mut bytes);
        bytes
    }

    /// Lines that repeat so much that no level makes more of them than the first.
    fn log() -> Vec<u8> {
        (0..)
            .flat_map(|n: u32| format!("line {n} of a log, much like the others\n").into_bytes())
            .take(CHUNK)
            .collect()
    }

    /// Words in no order, of which there are a few hundred: a higher level finds more in them.
    fn prose() -> Vec<u8> {
        let mut random = 1_u32;
        let mut word = || {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            format!(
                "{:x}{} ",
                (random >> 24).wrapping_mul(0x9E37_79B9),
                ["", "ing", "ed"][(random >> 8) as usize % 3]
            )
        };
        std::iter::repeat_with(|| word().into_bytes()).flatten().take(CHUNK).collect()
    }

    #[test]
    fn what_does_not_compress_is_found_out_by_a_sample_and_so_is_its_end() {
        let mut compression = Compression::new(&Effort::new(1)).unwrap();
        let mut room = vec![0; room_for(CHUNK)];
        assert_eq!(compression.compress(&noise(), &mut room), None);
        // Only the sample is looked at, so that what compresses elsewhere does not count.
        let mut mixed = log();
        mixed[CHUNK / 4..3 * CHUNK / 4].copy_from_slice(&noise()[..CHUNK / 2]);
        assert_eq!(compression.compress(&mixed, &mut room), None);
        let log = log();
        let length = compression.compress(&log, &mut room).unwrap();
        assert!(length < CHUNK / 4, "{length}");
        assert_eq!(zstd::bulk::decompress(&room[..length], CHUNK).unwrap(), log);
        assert!(compression.compress(&mixed, &mut room).is_some());
    }

    #[test]
    fn the_level_rises_while_packs_wait_and_falls_while_the_storage_does() {
        let effort = Effort::new(1);
        let mut compression = Compression::new(&effort).unwrap();
        let mut room = vec![0; room_for(CHUNK)];
        let prose = prose();
        let quick = compression.compress(&prose, &mut room).unwrap();
        (0..20).for_each(|_| effort.storage_is_behind());
        assert_eq!(effort.level(), 6);
        let hard = compression.with(&effort).unwrap().compress(&prose, &mut room).unwrap();
        assert!(hard < quick, "{hard} {quick}");
        assert_eq!(zstd::bulk::decompress(&room[..hard], CHUNK).unwrap(), prose);
        (0..20).for_each(|_| effort.storage_is_idle());
        assert_eq!(compression.with(&effort).unwrap().compress(&prose, &mut room), Some(quick));
    }
}
