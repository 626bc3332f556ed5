//! A writer that is killed at any instant leaves whole files or none: no part of one, under whatever name.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use repository::{BlobKind, Repository, SessionOptions};
use support::*;

/// Where the child writes.
const PLACE: &str = "BACKSTAY_KILLED_WRITER";

#[test]
#[ignore = "the writer that is killed in the test below; does nothing without it"]
fn child() {
    let Some(place) = std::env::var_os(PLACE) else { return };
    let repository = Repository::open(local(Path::new(&place)), PASSWORD).unwrap();
    for seed in 0.. {
        let session = repository.session(&SessionOptions::default()).unwrap();
        session.save(BlobKind::Data, &bytes(seed ^ u64::from(std::process::id()), 1 << 20)).unwrap();
        session.commit().unwrap();
    }
}

#[test]
fn a_killed_writer_leaves_no_part_of_a_file() {
    let place = Place::new();
    let nameless = has_nameless_files(&place.path());
    for round in 1..=20_u32 {
        let before = place.packs().len();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored"])
            .env(PLACE, place.path())
            .stdout(Stdio::null())
            .spawn();
        let mut child = child.unwrap();
        let start = Instant::now();
        while place.packs().len() == before {
            assert!(start.elapsed() < Duration::from_secs(60), "the child does not write");
        }
        // Somewhere in its next writes.
        std::thread::sleep(Duration::from_micros(u64::from(round) * 700));
        child.kill().unwrap();
        child.wait().unwrap();
        let parts: Vec<PathBuf> = files(&place.path())
            .into_iter()
            .filter(|path| path.to_string_lossy().contains("-tmp-"))
            .collect();
        assert!(parts.is_empty() || !nameless, "round {round} left {parts:?}");
        assert_healthy(&place.reopened());
    }
}

/// Whether the file system has files without a name; where it has none, the next prune sweeps what is left.
fn has_nameless_files(folder: &Path) -> bool {
    use rustix::fs::{Mode, OFlags, open};
    open(folder, OFlags::TMPFILE | OFlags::WRONLY, Mode::from_raw_mode(0o400)).is_ok()
}
