//! Bases as files beside the segments: `<sequence>.base`, written whole or not at all.
//!
//! Owns their names and how they come and go. Knows nothing of when one is due.

use std::io;

use super::{Base, BaseFault};
use crate::log::medium::Disk;

const SUFFIX: &str = ".base";
const FRESH_NAME: &str = "base.new";
/// How many are kept: the newest, and one more for when that is damaged.
const KEPT: usize = 2;

/// The file name of the base at `seq`.
#[must_use]
pub fn file_name(seq: u64) -> String {
    format!("{seq:020}{SUFFIX}")
}

fn parse_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    (digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// The sequences of the bases on `disk`, newest first.
///
/// # Errors
/// The system's.
pub fn list(disk: &dyn Disk) -> io::Result<Vec<u64>> {
    let mut found: Vec<u64> = disk.names()?.iter().filter_map(|name| parse_name(name)).collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    Ok(found)
}

/// Reads the base at `seq`. Whether the journal has its frame is not known by then.
///
/// # Errors
/// Why it is not to be taken.
pub fn read(disk: &dyn Disk, seq: u64) -> Result<Base, BaseFault> {
    let gone = || io::Error::from(io::ErrorKind::NotFound);
    let file = disk.open(&file_name(seq))?.ok_or_else(gone)?;
    let mut bytes = vec![0; usize::try_from(file.size()?).map_err(io::Error::other)?];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    let base = Base::decode(&bytes)?;
    if base.at.seq != seq {
        return Err(BaseFault::Torn("its name says another sequence"));
    }
    Ok(base)
}

/// Writes a base, durable under its name, and removes those that are no longer needed; its size in bytes.
///
/// # Errors
/// The system's; what was there before is still there.
pub fn write(disk: &dyn Disk, base: &Base) -> Result<u64, BaseFault> {
    let bytes = base.encode()?;
    let written = disk.create(FRESH_NAME, bytes.len() as u64).and_then(|file| {
        file.write_at(&bytes, 0)?;
        file.sync()
    });
    if let Err(error) = written {
        // Half a base takes room that a full disk needs; if it stays, the next one overwrites it.
        let _left_behind = disk.remove(FRESH_NAME);
        return Err(error.into());
    }
    disk.rename(FRESH_NAME, &file_name(base.at.seq))?;
    disk.sync_names()?;
    for old in list(disk)?.into_iter().filter(|seq| *seq < base.at.seq).skip(KEPT - 1) {
        disk.remove(&file_name(old))?;
    }
    Ok(bytes.len() as u64)
}
