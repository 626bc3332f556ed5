//! The bytes of the log: golden, round trip, and whatever else a decoder may be fed.

#![allow(clippy::unwrap_used)]

use journal::log::frame::{Fault, decode, encode, follows, peek_len};
use journal::log::segment::{HeaderFault, SEGMENT_HEADER_BYTES, SegmentHeader, file_name, parse_name};
use journal::log::{BODY_LIMIT, Entry, HEADER_BYTES, Hash, Position};
use proptest::prelude::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn golden_entry() -> Entry {
    Entry { kind: 0x0102, version: 0x0304, epoch: 5, time: 1_700_000_000_123_456, body: b"backstay".to_vec() }
}

/// Made with Python's `struct` and `hashlib` and a bitwise CRC-32C, not with this code.
///
/// These bytes are on disks out there: they may never change. A new format gets a new number and its own
/// golden.
#[test]
fn a_frame_has_these_bytes() {
    let mut bytes = Vec::new();
    let after = Position { seq: 41, hash: Hash([0xAB; 32]) };
    let position = encode(&mut bytes, &golden_entry(), &after, 40);
    let expected = concat!(
        "b56b461a",
        "08000000",
        "762454ab",
        "0201",
        "0403",
        "0500000000000000",
        "2a00000000000000",
        "40222018240a0600",
        "2800000000000000",
        "abababababababababababababababababababababababababababababababab",
        "6261636b73746179",
    );
    assert_eq!(hex(&bytes), expected);
    assert_eq!(position.seq, 42);
    assert_eq!(position.hash.to_string(), "52cb510eaa68b4de4684ee36feea8e18378b98f8ab0e24d28b599b70231c611e");
}

#[test]
fn a_segment_header_has_these_bytes() {
    let header =
        SegmentHeader { first: 42, size: 4096, created: 1_700_000_000_123_456, previous: Hash([0xCD; 32]) };
    let bytes = header.encode();
    let expected = concat!(
        "424b535453454700",
        "01000000",
        "b96cf7f1",
        "2a00000000000000",
        "0010000000000000",
        "40222018240a0600",
        "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd",
    );
    assert_eq!(hex(&bytes[..72]), expected);
    assert!(bytes[72..].iter().all(|byte| *byte == 0));
    assert_eq!(SegmentHeader::decode(&bytes).unwrap(), header);
}

#[test]
fn a_256_byte_record_costs_at_most_35_percent() {
    const { assert!((HEADER_BYTES + 256) * 100 <= 256 * 135) };
}

#[test]
fn every_flipped_bit_of_a_segment_header_is_noticed() {
    let header = SegmentHeader { first: 1, size: 4096, created: 0, previous: Hash::default() };
    for at in 0..SEGMENT_HEADER_BYTES * 8 {
        let mut bytes = header.encode();
        bytes[at / 8] ^= 1 << (at % 8);
        SegmentHeader::decode(&bytes).unwrap_err();
    }
    assert_eq!(SegmentHeader::decode(&header.encode()[..511]), Err(HeaderFault::Short));
}

#[test]
fn names_are_numbers_of_twenty_digits() {
    assert_eq!(file_name(42), "00000000000000000042.log");
    assert_eq!(parse_name(&file_name(u64::MAX)), Some(u64::MAX));
    for no in
        ["42.log", "00000000000000000000.log", "00000000000000000042", "99999999999999999999.log", "spare"]
    {
        assert_eq!(parse_name(no), None, "{no}");
    }
}

#[test]
fn a_length_over_the_limit_is_refused_before_it_is_believed() {
    let mut bytes = Vec::new();
    encode(&mut bytes, &golden_entry(), &Position::START, 0);
    bytes[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(peek_len(&bytes), Err(Fault::TooLong { length: u32::MAX }));
    let just_over = u32::try_from(BODY_LIMIT + 1).unwrap();
    bytes[4..8].copy_from_slice(&just_over.to_le_bytes());
    assert_eq!(decode(&bytes), Err(Fault::TooLong { length: just_over }));
}

proptest! {
    #[test]
    fn a_frame_comes_back_as_it_went(
        kind: u16, version: u16, epoch: u64, time: i64, body in prop::collection::vec(any::<u8>(), 0..600),
        seq in 0..u64::MAX - 1, hash: [u8; 32], trailing in prop::collection::vec(any::<u8>(), 0..90),
    ) {
        let entry = Entry { kind, version, epoch, time, body };
        let after = Position { seq, hash: Hash(hash) };
        let mut bytes = Vec::new();
        let position = encode(&mut bytes, &entry, &after, seq / 2);
        bytes.extend(trailing);
        let frame = decode(&bytes).unwrap();
        prop_assert_eq!(follows(&frame, &after), Ok(()));
        prop_assert_eq!(frame.position(), position);
        prop_assert_eq!(frame.durable, seq / 2);
        prop_assert_eq!(frame.entry, entry);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..400), magic: bool, len: u8,
    ) {
        if magic && bytes.len() >= 8 {
            bytes[..4].copy_from_slice(&[0xB5, b'k', b'F', 0x1A]);
            bytes[4..8].copy_from_slice(&u32::from(len).to_le_bytes());
        }
        let _any_answer = decode(&bytes);
        let _any_answer = SegmentHeader::decode(&bytes);
    }

    #[test]
    fn no_flipped_bit_goes_unnoticed(len in 0..300usize, at: prop::sample::Index) {
        let mut bytes = Vec::new();
        let entry = Entry { body: vec![0x5A; len], ..golden_entry() };
        encode(&mut bytes, &entry, &Position::START, 0);
        let bit = at.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        decode(&bytes).unwrap_err();
    }
}
