//! The index's keys and fixed values: their bytes, and nothing of what they stand for.
//!
//! Numbers are big-endian and times have their sign turned over, so that the order of the bytes is the order of time.

use std::ops::{RangeFrom, RangeInclusive};

use journal::log::{Hash, Position};
use journal::{IntentId, JobId, PointId, Time, VmId};

/// Where the mark is.
pub(super) const MARK: &[u8] = b"m";

/// Changes whenever keys or values do: an index of another layout is made anew.
const LAYOUT: u32 = 2;

/// How far the index is, and what it was made by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// Records of VMs are listed from this one on.
    pub first: u64,
    /// The newest record that is taken in.
    pub through: Position,
}

impl Mark {
    /// Of an index that has seen nothing.
    pub const NEW: Mark = Mark { first: 1, through: Position::START };

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = made_by().to_vec();
        bytes.extend(self.first.to_be_bytes());
        bytes.extend(self.through.seq.to_be_bytes());
        bytes.extend(self.through.hash.0);
        bytes
    }

    /// `None` for what another layout or another fold made.
    pub fn decode(bytes: &[u8]) -> Option<Mark> {
        let rest = bytes.strip_prefix(&made_by())?;
        let (first, rest) = rest.split_first_chunk()?;
        let (seq, hash) = rest.split_first_chunk()?;
        let through = Position { seq: u64::from_be_bytes(*seq), hash: Hash(hash.try_into().ok()?) };
        Some(Mark { first: u64::from_be_bytes(*first), through })
    }
}

/// The layout, and the fold whose jobs and points are in the values.
fn made_by() -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&LAYOUT.to_be_bytes());
    bytes[4..].copy_from_slice(&journal::base::FOLD.to_be_bytes());
    bytes
}

fn key(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = vec![kind];
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

fn time(at: Time) -> [u8; 8] {
    (at.0.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

pub(super) fn job(id: JobId) -> Vec<u8> {
    key(b'j', &[&id.0.to_be_bytes()])
}

pub(super) fn jobs() -> RangeInclusive<Vec<u8>> {
    job(JobId(0))..=job(JobId(u64::MAX))
}

pub(super) fn ended(vm: VmId, at: Time, id: JobId) -> Vec<u8> {
    key(b'e', &[vm.0.as_bytes(), &time(at), &id.0.to_be_bytes()])
}

pub(super) fn ended_of(vm: VmId) -> Vec<u8> {
    key(b'e', &[vm.0.as_bytes()])
}

pub(super) fn point(id: PointId) -> Vec<u8> {
    key(b'p', &[&id.0.to_be_bytes()])
}

pub(super) fn points() -> RangeInclusive<Vec<u8>> {
    point(PointId(0))..=point(PointId(u64::MAX))
}

pub(super) fn created(vm: VmId, at: Time, id: PointId) -> Vec<u8> {
    key(b'c', &[vm.0.as_bytes(), &time(at), &id.0.to_be_bytes()])
}

pub(super) fn created_of(vm: VmId) -> Vec<u8> {
    key(b'c', &[vm.0.as_bytes()])
}

pub(super) fn intent(id: IntentId) -> Vec<u8> {
    key(b'i', &[&id.0.to_be_bytes()])
}

pub(super) fn intents() -> RangeInclusive<Vec<u8>> {
    intent(IntentId(0))..=intent(IntentId(u64::MAX))
}

pub(super) fn record(vm: VmId, seq: u64) -> Vec<u8> {
    key(b'r', &[vm.0.as_bytes(), &seq.to_be_bytes()])
}

pub(super) fn block(number: u64) -> Vec<u8> {
    key(b'b', &[&number.to_be_bytes()])
}

pub(super) fn blocks_from(number: u64) -> RangeFrom<Vec<u8>> {
    block(number)..
}

/// The number at the end of a key.
pub(super) fn number(key: &[u8]) -> Option<u64> {
    key.last_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

/// A record's kind and time.
pub(super) fn entry(kind: u16, at: Time) -> Vec<u8> {
    let mut bytes = kind.to_be_bytes().to_vec();
    bytes.extend(at.0.to_be_bytes());
    bytes
}

pub(super) fn entry_of(bytes: &[u8]) -> Option<(u16, Time)> {
    let (kind, at) = bytes.split_first_chunk()?;
    Some((u16::from_be_bytes(*kind), Time(i64::from_be_bytes(at.try_into().ok()?))))
}

/// The earliest and the latest time in a block.
pub(super) fn span((earliest, latest): (Time, Time)) -> Vec<u8> {
    [earliest.0.to_be_bytes(), latest.0.to_be_bytes()].concat()
}

pub(super) fn span_of(bytes: &[u8]) -> Option<(Time, Time)> {
    let (earliest, latest) = bytes.split_first_chunk()?;
    Some((Time(i64::from_be_bytes(*earliest)), Time(i64::from_be_bytes(latest.try_into().ok()?))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn keys_are_in_the_order_of_time_and_values_read_back() {
        let vm = VmId(uuid::Uuid::from_u128(7));
        let times = [i64::MIN, -1, 0, 1, i64::MAX].map(|at| ended(vm, Time(at), JobId(1)));
        assert!(times.is_sorted());
        assert!(times.iter().all(|key| key.starts_with(&ended_of(vm)) && number(key) == Some(1)));
        assert!(record(vm, 255) < record(vm, 256));
        assert_eq!(entry_of(&entry(7, Time(-3))), Some((7, Time(-3))));
        assert_eq!(span_of(&span((Time(-3), Time(9)))), Some((Time(-3), Time(9))));
        assert_eq!((entry_of(b"short"), span_of(b"short"), number(b"short")), (None, None, None));
        let mark = Mark { first: 3, through: Position { seq: 9, hash: Hash([7; 32]) } };
        let bytes = mark.encode();
        assert_eq!(Mark::decode(&bytes), Some(mark));
        assert_eq!(Mark::decode(&bytes[1..]), None);
        let mut older = bytes;
        older[3] -= 1;
        assert_eq!(Mark::decode(&older), None);
    }
}
