//! Proves images of the test guest's disks offline, with e2fsprogs on a copy: no mount, no root.
//!
//! What the guest promises stands in `scripts/guest-init`: at every instant each disk holds the files 1..n
//! without a gap, each whole, and the last number of disk b is that of disk a or one less.

use std::fs;
use std::path::Path;

use crate::lab::{Lab, PATIENCE, tool};
use crate::process::{answer, run};

/// How often a file repeats its number, one a line.
const LINES: usize = 1024;

/// What one disk was found to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    /// The last number: 1 to this are there, whole.
    pub last: u64,
    /// Whether the file system's journal had to be replayed: the image is crash consistent. Otherwise it is
    /// that of a frozen or unmounted file system.
    pub recovered: bool,
}

/// Examines one image (`format`: `raw` or `qcow2`), which is only read.
///
/// # Panics
/// When the file system needs more than a replay of its journal, a number is missing, or a file is not whole.
#[track_caller]
pub fn examine(lab: &Lab, image: &Path, format: &str) -> Sequence {
    let scratch = tempfile::tempdir_in(lab.path("")).expect("the lab's folder takes a folder");
    let copy = scratch.path().join("image");
    run(tool("qemu-img").args(["convert", "-f", format, "-O", "raw"]).arg(image).arg(&copy), 5 * PATIENCE);

    let features = run(tool("dumpe2fs").arg("-h").arg(&copy), PATIENCE);
    let recovered = features.contains("needs_recovery");
    run(tool("e2fsck").args(["-E", "journal_only", "-y"]).arg(&copy), PATIENCE);
    let check = answer(tool("e2fsck").args(["-f", "-n"]).arg(&copy), PATIENCE);
    assert!(check.status == 0, "{} is not consistent:\n{}{}", image.display(), check.out, check.err);

    let files = scratch.path().join("files");
    fs::create_dir(&files).expect("a new folder takes a folder");
    let extract = format!("rdump / {}", files.display());
    run(tool("debugfs").args(["-R", &extract]).arg(&copy), PATIENCE);
    Sequence { last: contiguous(&files, image), recovered }
}

/// Examines the images of both disks taken at one instant, and their order. Returns what was found on each.
#[track_caller]
pub fn examine_pair(lab: &Lab, a: &Path, b: &Path, format: &str) -> (Sequence, Sequence) {
    let (on_a, on_b) = (examine(lab, a, format), examine(lab, b, format));
    assert!(
        on_a.last == on_b.last || on_a.last == on_b.last + 1,
        "not one instant: disk a is at {}, disk b at {}",
        on_a.last,
        on_b.last
    );
    (on_a, on_b)
}

/// The last number of the folder's files, none missing and each whole. Other names are not the writer's.
#[track_caller]
fn contiguous(files: &Path, image: &Path) -> u64 {
    let mut numbers: Vec<u64> = fs::read_dir(files)
        .expect("debugfs made the folder")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    numbers.sort_unstable();
    for (number, expected) in numbers.iter().zip(1..) {
        assert!(*number == expected, "{}: file {expected} is missing, {number} is there", image.display());
        let content = fs::read_to_string(files.join(number.to_string())).unwrap_or_default();
        assert!(
            content == format!("{number}\n").repeat(LINES),
            "{}: file {number} is damaged",
            image.display()
        );
    }
    numbers.last().copied().unwrap_or(0)
}
