//! Every way in which bytes from a disk come in, each as one function that takes any bytes: what fuzzing calls.
//!
//! Each returns, whatever it is given: a panic, an allocation beyond what the formats allow, or time that grows faster than
//! the bytes do is a bug. Knows nothing of how the bytes are made.

use std::sync::Arc;

use crate::base::Base;
use crate::log::medium::{Disk, SimulatedDisk};
use crate::log::segment::{SegmentHeader, file_name};
use crate::log::{Log, Options, Reader, frame, verify_disk};
use crate::record::Record;
use crate::replay;

/// Bytes as a frame, and as a piece of a segment in which frames are searched.
pub fn frame(bytes: &[u8]) {
    let _any_answer = frame::peek_len(bytes);
    let _any_answer = frame::decode(bytes);
    let _any_answer = SegmentHeader::decode(bytes);
    let _any_answer = crate::log::find_frames(bytes, 0);
}

/// Bytes as a record; the first three choose its kind and version.
pub fn record(bytes: &[u8]) {
    let Some((which, body)) = bytes.split_at_checked(3) else { return };
    let kind = Record::KINDS[usize::from(which[0]) % Record::KINDS.len()].0;
    let kind = if which[1] == 0xff { u16::from_le_bytes([which[0], which[1]]) } else { kind };
    if let Ok(record) = Record::decode(kind, u16::from(which[2] % 4) + 1, body) {
        // What was read can be written, and is written as it was read.
        let encoded = record.encode().expect("it came from a body within the limit");
        assert_eq!(Record::decode(encoded.kind, encoded.version, &encoded.body).ok().as_ref(), Some(&record));
    }
}

/// Bytes as a base; and once more with the checksum that they should have.
pub fn base(bytes: &[u8]) {
    let _any_answer = Base::decode(bytes);
    if let Ok(base) = Base::decode(&crate::base::resealed(bytes)) {
        assert_eq!(Base::decode(&base.encode().expect("it was one")).ok().as_ref(), Some(&base));
    }
}

/// Bytes as the only segment of a journal, which is verified, read, and opened.
pub fn segment(bytes: &[u8]) {
    let disk = SimulatedDisk::new();
    put(&disk, &file_name(1), bytes);
    journal(&disk);
}

/// Bytes as an archived segment, which is unpacked.
pub fn archive(bytes: &[u8]) {
    if let Ok(unpacked) = crate::log::unpack(bytes) {
        assert!(unpacked.len() as u64 <= crate::log::segment::LONGEST_SEGMENT);
    }
}

/// Any disk as a journal's folder. When it opens, it verifies and reads to the same end afterwards.
pub fn journal(disk: &SimulatedDisk) {
    let _any_answer = verify_disk(disk);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let _any_answer =
        Reader::on(Arc::clone(&shared), 1).map(|mut reader| while let Ok(Some(_)) = reader.next() {});
    let _any_answer = replay::state_at(&shared, None);
    let options = Options { prepare_ahead: false, reserve_bytes: 0, ..Options::default() };
    let Ok((log, _)) = Log::open_on(Arc::clone(&shared), &options, |_| {}) else { return };
    drop(log);
    let verified = verify_disk(disk).expect("a simulated disk reads");
    assert!(verified.ok, "a journal that opens is whole: {:?}", verified.problems);
}

fn put(disk: &SimulatedDisk, name: &str, bytes: &[u8]) {
    let written = disk.create(name, bytes.len() as u64).and_then(|file| file.write_at(bytes, 0));
    written.expect("a simulated disk takes what it is given");
}
