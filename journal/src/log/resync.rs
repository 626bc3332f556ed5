//! Finding whole frames among bytes that are none, in one pass however the bytes are made.
//!
//! Owns the search and what it found. Knows nothing of files, nor of what a fault means.
//!
//! A body may be anything, also a hundred thousand headers that each claim the next sixteen megabytes. Taking the
//! checksum of every claim would be quadratic, so checksums are made of prefixes: with the checksum of the first `k` bytes
//! known at every [`STEP`], that of any piece follows from two of them and the reading of at most two steps (the
//! checksum is linear over GF(2), see `crc32c_combine`).

use crc32c::{crc32c, crc32c_append, crc32c_combine};

use super::frame::{self, HEADER_BYTES, Hash, MAGIC, Position, field};

/// Bytes between two prefixes whose checksum is kept.
const STEP: usize = 256;

/// A whole frame that was found by searching.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sighting {
    /// Where it begins in the file.
    pub offset: u64,
    /// Its sequence.
    pub seq: u64,
    /// What it says was durable when it was written.
    pub durable: u64,
    /// Where the log stood before it.
    pub before: Position,
}

/// All whole frames behind a fault, in the order of the file.
#[derive(Debug, Default)]
pub(crate) struct Sightings {
    found: Vec<Sighting>,
    /// For each, the highest `durable` of it and all behind it.
    proof: Vec<u64>,
    /// Those before this one lie behind the walk, which never goes back.
    next: usize,
}

impl Sightings {
    pub fn new(found: Vec<Sighting>) -> Sightings {
        let mut proof: Vec<u64> = found.iter().map(|sighting| sighting.durable).collect();
        for at in (1..proof.len()).rev() {
            proof[at - 1] = proof[at - 1].max(proof[at]);
        }
        Sightings { found, proof, next: 0 }
    }

    /// The first one behind `offset` whose sequence is above `seq`, and the highest sequence that it or any behind
    /// it says was durable. Neither argument may be less than at the call before.
    pub fn behind(&mut self, offset: u64, seq: u64) -> (Option<Sighting>, u64) {
        while let Some(sighting) = self.found.get(self.next)
            && (sighting.offset <= offset || sighting.seq <= seq)
        {
            self.next += 1;
        }
        let sighting = self.found.get(self.next).copied();
        (sighting, self.proof.get(self.next).copied().unwrap_or(0))
    }
}

/// The whole frames in `bytes`, which stand at `base` in their file; none of them inside another.
#[must_use]
pub fn find_frames(bytes: &[u8], base: u64) -> Vec<Sighting> {
    let mut found = Vec::new();
    let mut prefixes = None;
    let mut at = 0;
    while let Some(ahead) = bytes.get(at..).and_then(next_magic) {
        at += ahead;
        let whole = plausible(&bytes[at..]).filter(|len| {
            let prefixes = prefixes.get_or_insert_with(|| Prefixes::new(bytes));
            prefixes.frame_checksum(at, *len) == u32::from_le_bytes(field(bytes, at + 8))
        });
        match whole {
            Some(len) => {
                found.push(sighting(&bytes[at..], base + at as u64));
                at += len;
            }
            None => at += 1,
        }
    }
    found
}

/// How many bytes there are before the next magic.
fn next_magic(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(ahead) = bytes.get(at..)?.iter().position(|byte| *byte == MAGIC[0]) {
        at += ahead;
        if bytes[at..].starts_with(&MAGIC) {
            return Some(at);
        }
        at += 1;
    }
    None
}

/// The length of the frame that `bytes` may begin with, as far as its header tells.
fn plausible(bytes: &[u8]) -> Option<usize> {
    let len = frame::peek_len(bytes).ok().filter(|len| *len <= bytes.len())?;
    let (seq, durable) = (u64::from_le_bytes(field(bytes, 24)), u64::from_le_bytes(field(bytes, 40)));
    (durable < seq).then_some(len)
}

/// What the header at the beginning of `bytes` says; it is all there.
fn sighting(bytes: &[u8], offset: u64) -> Sighting {
    let seq = u64::from_le_bytes(field(bytes, 24));
    let durable = u64::from_le_bytes(field(bytes, 40));
    let before = Position { seq: seq.saturating_sub(1), hash: Hash(field(bytes, 48)) };
    Sighting { offset, seq, durable, before }
}

/// Checksums of the beginnings of some bytes.
struct Prefixes<'a> {
    bytes: &'a [u8],
    every_step: Vec<u32>,
}

impl<'a> Prefixes<'a> {
    fn new(bytes: &'a [u8]) -> Prefixes<'a> {
        let mut every_step = Vec::with_capacity(bytes.len() / STEP + 1);
        let mut sum = 0;
        every_step.push(sum);
        for step in bytes.chunks_exact(STEP) {
            sum = crc32c_append(sum, step);
            every_step.push(sum);
        }
        Prefixes { bytes, every_step }
    }

    /// Of the first `len` bytes.
    fn upto(&self, len: usize) -> u32 {
        let step = len / STEP;
        crc32c_append(self.every_step[step], &self.bytes[step * STEP..len])
    }

    /// Of a frame, as it is written in its header: of all its bytes but those of the checksum itself.
    ///
    /// What is left of the prefix up to the frame's end without the prefix up to its twelfth byte, and with its first
    /// eight before it: all three are one shift, since the checksum is linear.
    fn frame_checksum(&self, at: usize, len: usize) -> u32 {
        debug_assert!(len >= HEADER_BYTES, "a frame has a header");
        let before = crc32c(&self.bytes[at..at + 8]) ^ self.upto(at + 12);
        crc32c_combine(before, self.upto(at + len), len - 12)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::frame::{Entry, encode};

    fn frame(out: &mut Vec<u8>, after: Position, body: Vec<u8>) -> Position {
        encode(out, &Entry { body, ..Entry::default() }, &after, after.seq)
    }

    #[test]
    fn frames_are_found_behind_anything() {
        for noise in [0, 1, 79, 80, 300, 5000] {
            let mut bytes: Vec<u8> = (0..noise).map(|at| MAGIC[at % 4] ^ u8::from(at % 7 == 0)).collect();
            let mut position = Position { seq: 4, ..Position::START };
            for len in [0, 1, 255, 256, 257, 3000] {
                position = frame(&mut bytes, position, vec![0xB5; len]);
            }
            let found = find_frames(&bytes, 1000);
            let seqs: Vec<u64> = found.iter().map(|sighting| sighting.seq).collect();
            assert_eq!(seqs, [5, 6, 7, 8, 9, 10], "behind {noise} bytes");
            assert_eq!(found[0].offset, 1000 + noise as u64);
        }
    }

    #[test]
    fn a_frame_inside_another_is_not_found() {
        let mut inner = Vec::new();
        frame(&mut inner, Position { seq: 90, ..Position::START }, vec![1; 50]);
        let mut bytes = Vec::new();
        frame(&mut bytes, Position::START, inner);
        let seqs: Vec<u64> = find_frames(&bytes, 0).iter().map(|sighting| sighting.seq).collect();
        assert_eq!(seqs, [1]);
    }

    /// A segment full of headers that each claim almost all that follows: what was quadratic once.
    #[test]
    fn a_segment_full_of_claims_is_searched_in_one_pass() {
        let len: usize = 8 << 20;
        let mut bytes = vec![0; len];
        for at in (0..len - HEADER_BYTES).step_by(HEADER_BYTES) {
            bytes[at..at + 4].copy_from_slice(&MAGIC);
            let claim = u32::try_from(len - HEADER_BYTES - at).unwrap_or(0);
            bytes[at + 4..at + 8].copy_from_slice(&claim.to_le_bytes());
            bytes[at + 24] = 9;
        }
        let begun = std::time::Instant::now();
        assert_eq!(find_frames(&bytes, 0), []);
        // Taking each checksum anew would read 400 GiB.
        assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    }

    #[test]
    fn what_was_passed_is_not_found_again() {
        let at = |offset, seq, durable| Sighting { offset, seq, durable, before: Position::START };
        let mut sightings = Sightings::new(vec![at(10, 3, 2), at(20, 5, 0), at(30, 6, 1)]);
        assert_eq!(sightings.behind(0, 2), (Some(at(10, 3, 2)), 2));
        assert_eq!(sightings.behind(10, 3), (Some(at(20, 5, 0)), 1));
        assert_eq!(sightings.behind(15, 9), (None, 0));
    }
}
