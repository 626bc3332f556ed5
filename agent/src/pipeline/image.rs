//! A disk in an image that QEMU has copied it into and let go of: its map and its bytes, from the file itself.
//!
//! The image is a qcow2 of version 3 that stands on nothing (docs/interop/qcow2.txt in QEMU's sources). We made it, but
//! its content is QEMU's, and a guest that broke out of its QEMU could have written anything there: every number is
//! checked before it is believed, and no other file is ever opened. Everything here blocks. Knows nothing about jobs,
//! chunks or views.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::nbd::Extent;

/// The first bytes of every qcow2.
const MAGIC: u32 = 0x5146_49fb;

/// The bytes of a header of version 3 that every writer of it writes.
const HEADER: usize = 104;

/// The longest first table that QEMU itself accepts, in bytes.
const LONGEST_TABLE: u64 = 32 << 20;

/// Where a cluster, or a table of clusters, lies in the file: bits 9 to 55 of an entry.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// In a cluster's entry: the cluster is compressed, which no block job does unasked.
const COMPRESSED: u64 = 1 << 62;

/// In a cluster's entry: it reads as zeros.
const ZEROS: u64 = 1;

/// What a range of the disk is in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// It was not copied.
    Absent,
    /// Zeros, which take no room.
    Zeros,
    /// Bytes of the file, from here on.
    At(u64),
}

/// Why an image cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    /// The file.
    #[error("{}: {source}", .path.display())]
    File {
        /// The image.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// Its content.
    #[error("{}: {what}: it is not the image that a block job of QEMU leaves", .path.display())]
    Malformed {
        /// The image.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Something that has to be in it is not.
    #[error("{}: {extent} are not in it, or not whole, and have to be", .path.display())]
    Incomplete {
        /// The image.
        path: PathBuf,
        /// What is missing.
        extent: Extent,
    },
}

/// An image, open for reading.
#[derive(Debug)]
pub(crate) struct Image {
    path: PathBuf,
    file: File,
    size: u64,
    cluster_bits: u32,
    /// Where the tables of clusters lie; 0 where there is none, so that none of its clusters is there.
    tables: Vec<u64>,
}

impl Image {
    /// Opens it and reads what leads to its clusters.
    pub(crate) fn open(path: &Path) -> Result<Self, ImageError> {
        let failed = |source| ImageError::File { path: path.to_owned(), source };
        let malformed =
            |what: &str| Err(ImageError::Malformed { path: path.to_owned(), what: what.to_owned() });
        let no_link = OFlags::NOFOLLOW.bits().cast_signed();
        let file = File::options().read(true).custom_flags(no_link).open(path).map_err(failed)?;
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0).map_err(failed)?;
        let (short, long) = (|at| u32_at(&header, at), |at| u64_at(&header, at));
        if (short(0), short(4)) != (MAGIC, 3) {
            return malformed("no qcow2 of version 3");
        }
        // Of the incompatible features (at 72) the first says that it was not closed in order.
        if long(8) != 0 || short(32) != 0 || short(60) != 0 || long(72) != 0 {
            return malformed("it has a backing file, a password, snapshots, or an incompatible feature");
        }
        let (cluster_bits, size) = (short(20), long(24));
        if !(9..=21).contains(&cluster_bits) {
            return malformed("a size of clusters that cannot be");
        }
        let tables = size.div_ceil(table_bytes(cluster_bits));
        if tables > u64::from(short(36)) || tables * 8 > LONGEST_TABLE {
            return malformed("more bytes than its tables have clusters");
        }
        let mut bytes = vec![0; usize::try_from(tables * 8).expect("32 MiB at most")];
        file.read_exact_at(&mut bytes, long(40)).map_err(failed)?;
        let tables = bytes.chunks_exact(8).map(|entry| u64_at(entry, 0) & OFFSET).collect();
        Ok(Self { path: path.to_owned(), file, size, cluster_bits, tables })
    }

    /// The disk's size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// What a range within the disk is: in order, without gaps, neighbours of one kind joined.
    pub(crate) fn map(&self, range: Extent) -> Result<Vec<(Extent, Place)>, ImageError> {
        let mut runs = Vec::new();
        let mut at = range.offset;
        while at < range.end() {
            let table_bytes = table_bytes(self.cluster_bits);
            let end = range.end().min((at / table_bytes + 1) * table_bytes);
            let part = Extent::new(at, end - at);
            let number = usize::try_from(at / table_bytes).expect("there are no more than were read");
            match self.tables.get(number) {
                Some(0) => append(&mut runs, part, Place::Absent),
                Some(table) => self.map_part(*table, part, &mut runs)?,
                None => return Err(self.incomplete(part)),
            }
            at = end;
        }
        Ok(runs)
    }

    /// The same, for a part of the disk that one table leads to.
    fn map_part(&self, table: u64, part: Extent, runs: &mut Vec<(Extent, Place)>) -> Result<(), ImageError> {
        let cluster = 1_u64 << self.cluster_bits;
        let first = part.offset / cluster;
        let count = part.end().div_ceil(cluster) - first;
        let mut entries = vec![0; usize::try_from(count * 8).expect("a table is at most 2 MiB")];
        let slot = first % (table_bytes(self.cluster_bits) / cluster);
        self.file.read_exact_at(&mut entries, table + slot * 8).map_err(|source| self.failed(source))?;
        for (number, entry) in (first..).zip(entries.chunks_exact(8)) {
            let entry = u64_at(entry, 0);
            let (offset, start) = (entry & OFFSET, number * cluster);
            let (from, to) = (start.max(part.offset), (start + cluster).min(part.end()));
            let place = if entry & COMPRESSED != 0 || offset % cluster != 0 {
                let what = format!("the entry {entry:#x} of the cluster at {start}");
                return Err(ImageError::Malformed { path: self.path.clone(), what });
            } else if entry & ZEROS != 0 {
                Place::Zeros
            } else if offset == 0 {
                Place::Absent
            } else {
                Place::At(offset + (from - start))
            };
            append(runs, Extent::new(from, to - from), place);
        }
        Ok(())
    }

    /// Reads the range that begins at `offset` and is as long as `buffer`; all of it has to be there.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        let range = Extent::new(offset, buffer.len() as u64);
        let mut rest = buffer;
        for (extent, place) in self.map(range)? {
            let length = usize::try_from(extent.length).expect("it is within the buffer");
            let (part, after) = rest.split_at_mut(length);
            rest = after;
            match place {
                Place::Absent => return Err(self.incomplete(extent)),
                Place::Zeros => part.fill(0),
                Place::At(from) => {
                    self.file.read_exact_at(part, from).map_err(|source| self.failed(source))?;
                }
            }
        }
        Ok(())
    }

    /// What is to be said where a range is missing.
    pub(crate) fn incomplete(&self, extent: Extent) -> ImageError {
        ImageError::Incomplete { path: self.path.clone(), extent }
    }

    fn failed(&self, source: io::Error) -> ImageError {
        ImageError::File { path: self.path.clone(), source }
    }
}

/// Bytes of the disk that one table of clusters leads to: it fills one cluster, with 8 bytes for each.
fn table_bytes(cluster_bits: u32) -> u64 {
    1 << (2 * cluster_bits - 3)
}

/// Appends a run, into the last one where it goes on.
fn append(runs: &mut Vec<(Extent, Place)>, extent: Extent, place: Place) {
    if let Some((last, kind)) = runs.last_mut() {
        let goes_on = match (*kind, place) {
            (Place::At(from), Place::At(here)) => from + last.length == here,
            (one, other) => one == other,
        };
        if goes_on && last.end() == extent.offset {
            last.length += extent.length;
            return;
        }
    }
    runs.push((extent, place));
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    /// Runs a tool of QEMU's; where it is not installed, the test is skipped, and fails under CI.
    fn tool(name: &str, arguments: &[&str]) -> Option<String> {
        match Command::new(name).args(arguments).stderr(Stdio::inherit()).output() {
            Ok(output) => {
                assert!(output.status.success(), "{name} {arguments:?}");
                Some(String::from_utf8(output.stdout).unwrap())
            }
            Err(error) => {
                let message = format!("SKIPPED: {name} ({error}); Debian: qemu-utils");
                assert!(std::env::var("CI").as_deref() != Ok("true"), "{message}; under CI it must be");
                eprintln!("{message}");
                None
            }
        }
    }

    /// An image that QEMU has written these commands into.
    fn written(folder: &Path, size: u64, clusters: &str, commands: &[String]) -> Option<PathBuf> {
        let path = folder.join("image");
        let at = path.to_str().unwrap();
        let cluster = format!("cluster_size={clusters}");
        tool("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &cluster, at, &size.to_string()])?;
        let mut arguments = vec!["-f", "qcow2"];
        commands.iter().for_each(|command| arguments.extend(["-c", command]));
        tool("qemu-io", &[&arguments[..], &[at]].concat())?;
        Some(path)
    }

    /// What QEMU itself says of the image, in our words.
    fn map_of_qemu(path: &Path) -> Vec<(Extent, Place)> {
        let said = tool("qemu-img", &["map", "-f", "qcow2", "--output=json", path.to_str().unwrap()]);
        let said: Vec<serde_json::Value> = serde_json::from_str(&said.unwrap()).unwrap();
        let mut runs = Vec::new();
        for run in said {
            let extent = Extent::new(run["start"].as_u64().unwrap(), run["length"].as_u64().unwrap());
            let place = match (run["present"] == true, run["data"] == true) {
                (false, _) => Place::Absent,
                (true, false) => Place::Zeros,
                (true, true) => Place::At(run["offset"].as_u64().unwrap()),
            };
            append(&mut runs, extent, place);
        }
        runs
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn it_is_read_as_qemu_reads_it(writes in proptest::collection::vec((0..640_u64, 1..24_u64, 0..4_u8), 0..12),
                                       tail in 0..128_u64, clusters in prop::sample::select(vec!["4k", "64k"])) {
            let size = 40 * (1 << 20) + tail * 512;
            let mut truth = vec![0_u8; usize::try_from(size).unwrap()];
            let mut commands = Vec::new();
            for (block, blocks, byte) in writes {
                let (from, to) = (block << 16, ((block + blocks) << 16).min(size));
                let what = if byte == 0 { "-z".to_owned() } else { format!("-P {byte}") };
                commands.push(format!("write -q {what} {from} {}", to - from));
                truth[usize::try_from(from).unwrap()..usize::try_from(to).unwrap()].fill(byte);
            }
            let folder = tempfile::tempdir().unwrap();
            let Some(path) = written(folder.path(), size, clusters, &commands) else { return Ok(()) };
            let image = Image::open(&path).unwrap();
            prop_assert_eq!(image.size(), size);
            let map = image.map(Extent::new(0, size)).unwrap();
            prop_assert_eq!(&map, &map_of_qemu(&path));
            for (extent, place) in map {
                let mut buffer = vec![7; usize::try_from(extent.length).unwrap()];
                let read = image.read(extent.offset, &mut buffer);
                if place == Place::Absent {
                    let refused = matches!(read, Err(ImageError::Incomplete { .. }));
                    prop_assert!(refused);
                } else {
                    let from = usize::try_from(extent.offset).unwrap();
                    prop_assert!(buffer == truth[from..from + buffer.len()]);
                }
            }
        }
    }

    #[test]
    fn a_part_of_a_cluster_is_read_from_its_middle() {
        let folder = tempfile::tempdir().unwrap();
        let commands = ["write -q -P 1 64k 64k".to_owned(), "write -q -P 2 128k 64k".to_owned()];
        let Some(path) = written(folder.path(), 1 << 20, "64k", &commands) else { return };
        let image = Image::open(&path).unwrap();
        let mut buffer = [0; 2048];
        image.read((128 << 10) - 1024, &mut buffer).unwrap();
        assert!(buffer[..1024] == [1; 1024] && buffer[1024..] == [2; 1024]);
        assert!(matches!(image.read((64 << 10) - 1, &mut buffer), Err(ImageError::Incomplete { .. })));
        assert!(matches!(image.map(Extent::new(1 << 30, 1)), Err(ImageError::Incomplete { .. })));
    }

    #[test]
    fn what_no_block_job_leaves_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let commands = ["write -q -P 1 0 64k".to_owned()];
        let Some(path) = written(folder.path(), 1 << 20, "64k", &commands) else { return };
        let whole = std::fs::read(&path).unwrap();
        let table = usize::try_from(Image::open(&path).unwrap().tables[0]).unwrap();
        let with = |at: usize, bytes: &[u8]| {
            let mut image = whole.clone();
            image[at..at + bytes.len()].copy_from_slice(bytes);
            std::fs::write(&path, image).unwrap();
            Image::open(&path).and_then(|image| image.read(0, &mut [0; 512]))
        };
        assert!(with(0, b"QFI").is_ok());
        // Version, backing file, clusters, size, encryption, first table, snapshots, "was not closed".
        for (at, bytes) in [
            (4, &2_u32.to_be_bytes()[..]),
            (8, &64_u64.to_be_bytes()),
            (20, &40_u32.to_be_bytes()),
            (24, &(1_u64 << 60).to_be_bytes()),
            (32, &1_u32.to_be_bytes()),
            (36, &0_u32.to_be_bytes()),
            (60, &1_u32.to_be_bytes()),
            (72, &1_u64.to_be_bytes()),
            (table, &(1_u64 << 62 | 1 << 20).to_be_bytes()),
            (table, &(1_u64 << 63 | 1 << 10).to_be_bytes()),
        ] {
            let refused = with(at, bytes);
            assert!(matches!(refused, Err(ImageError::Malformed { .. })), "{at}: {refused:?}");
        }
        // Places outside of the file.
        for (at, bytes) in [(40, 1_u64 << 40), (table, 1 << 40)] {
            let refused = with(at, &bytes.to_be_bytes());
            assert!(matches!(refused, Err(ImageError::File { .. })), "{at}: {refused:?}");
        }
        std::fs::write(&path, &whole[..50]).unwrap();
        assert!(matches!(Image::open(&path), Err(ImageError::File { .. })));
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(Image::open(&link), Err(ImageError::File { .. })));
    }
}
