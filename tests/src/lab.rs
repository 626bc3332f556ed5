//! The folder of one test, the tools that it needs, and waiting for a condition. Knows no QEMU.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::process::run;

/// What a slow machine with everything else running may take for one step.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Folders are called `backstay-lab.<pid>.<random>`, so that a later test can tell whose owner is dead.
const PREFIX: &str = "backstay-lab.";

/// The folder of one test, removed when dropped.
///
/// It lies directly in the temporary folder because the path of a unix socket has at most 107 bytes.
#[derive(Debug)]
pub struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    /// Makes the folder, and removes those whose test was killed before it could.
    pub fn new() -> Lab {
        sweep();
        let dir = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{}.", process::id()))
            .tempdir()
            .expect("the temporary folder takes a new folder");
        Lab { dir }
    }

    /// A path in the folder; nothing is created.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A folder in the folder, created where missing.
    pub fn folder(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("cannot create {}: {error}", path.display()));
        path
    }

    /// Creates a blank qcow2 (compat 1.1, so that it can store bitmaps) of `size` bytes.
    pub fn qcow2(&self, name: &str, size: u64) -> PathBuf {
        let path = self.path(name);
        let size = size.to_string();
        run(tool("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&path).arg(size), PATIENCE);
        path
    }

    /// Copies an image of `format` into a raw file of the folder, holes kept.
    pub fn raw_copy(&self, image: &Path, format: &str, name: &str) -> PathBuf {
        let path = self.path(name);
        run(
            tool("qemu-img").args(["convert", "-f", format, "-O", "raw"]).arg(image).arg(&path),
            5 * PATIENCE,
        );
        path
    }
}

impl Default for Lab {
    fn default() -> Self {
        Lab::new()
    }
}

/// Removes the folders of tests that were killed: their process is gone, so nobody else will.
fn sweep() {
    let Ok(entries) = fs::read_dir(env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner =
            name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('.').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            kill_children_of(&entry.path());
            unmount_below(&entry.path());
            // Another test may be sweeping too: whoever comes second finds nothing.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Kills what still runs for a dead test: whoever has the path of its folder, which no other has, in its arguments.
fn kill_children_of(folder: &Path) {
    let folder = folder.as_os_str().as_encoded_bytes();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw)
        else {
            continue;
        };
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if arguments.windows(folder.len()).any(|part| part == folder) {
            let _ = kill_process(id, Signal::KILL);
        }
    }
}

/// Detaches what is mounted below `dir`: a killed qemu-storage-daemon leaves its FUSE exports mounted.
fn unmount_below(dir: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for mount in mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new) {
        if mount.starts_with(dir) {
            unmount(mount);
        }
    }
}

/// Detaches one FUSE mount point, where something is mounted there.
pub(crate) fn unmount(mount: &Path) {
    let _ = tool("fusermount3").args(["-u", "-z", "-q"]).arg(mount).status();
}

/// A command by name, found also in the `sbin` folders that a user's `PATH` leaves out; those of QEMU first in the folder
/// `BACKSTAY_QEMU_FOLDER`, where another version of it lies.
pub fn tool(name: &str) -> Command {
    Command::new(find(name).unwrap_or_else(|| name.into()))
}

fn find(name: &str) -> Option<PathBuf> {
    let mut path = env::var_os("PATH").unwrap_or_default();
    path.push(OsString::from(":/usr/sbin:/sbin"));
    let other = env::var_os("BACKSTAY_QEMU_FOLDER").filter(|_| name.starts_with("qemu-")).map(PathBuf::from);
    other.into_iter().chain(env::split_paths(&path)).map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// Whether all of these commands are here. If not, the test is to return: on a user's machine it counts as
/// skipped, loudly; under `CI=true` this panics, because there nothing may be missing.
#[must_use]
pub fn require(tools: &[&str]) -> bool {
    let missing: Vec<_> = tools.iter().filter(|name| find(name).is_none()).copied().collect();
    missing.is_empty() || skip(&format!("{} missing; scripts/setup installs it", missing.join(", ")))
}

/// [`require`] for everything that a test with a real guest or a qemu-storage-daemon needs.
#[must_use]
pub fn require_qemu() -> bool {
    require(&[
        "qemu-system-x86_64",
        "qemu-storage-daemon",
        "qemu-img",
        "debugfs",
        "e2fsck",
        "fusermount3",
        "nbdcopy",
    ]) && (guest_image("kernel").exists() || skip("the test guest is missing; scripts/guest builds it"))
}

pub(crate) fn skip(why: &str) -> bool {
    assert!(env::var("CI").as_deref() != Ok("true"), "{why} (and CI=true skips nothing)");
    eprintln!("SKIPPED: {why}");
    false
}

/// `kernel` or `initrd` of the test guest.
pub(crate) fn guest_image(part: &str) -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guest");
    env::var_os("BACKSTAY_CACHE").map_or(built, PathBuf::from).join(part)
}

/// Asks `condition` until it answers, and panics with `what` when it has not within `limit`.
///
/// # Panics
/// When the limit is over.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = condition() {
            return answer;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
