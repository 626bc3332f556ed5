//! QEMU 7.2, which Debian 12 has, beside the QEMU that is installed. Knows nothing of what is run on it.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::lab::PATIENCE;
use crate::process::answer;

/// The folder of its programs. `None` where it cannot be had, which is said, and which on Debian 12 is a failure under CI.
///
/// # Panics
/// Under CI on Debian 12, when it cannot be had.
#[must_use]
pub fn older_qemu() -> Option<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/qemu-older");
    let fetched = answer(&mut Command::new(script), 5 * PATIENCE);
    if fetched.status == 0 {
        return Some(fetched.out.trim().to_owned());
    }
    let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let offered = system.contains("VERSION_CODENAME=bookworm") && env::var("CI").as_deref() == Ok("true");
    assert!(!offered, "QEMU 7.2 cannot be had: {}", fetched.err);
    eprintln!("SKIPPED: QEMU 7.2 cannot be had: {}", fetched.err);
    None
}
