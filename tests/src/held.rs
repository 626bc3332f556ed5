//! The state of a guest that was about to look for its disks when QEMU saved it: to go on from there takes a quarter of the
//! processor time of a whole boot under emulation. Made when it is first wanted, one for each QEMU and guest, beside the
//! guest's kernel. Knows nothing of how a guest is started.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::lab::{PATIENCE, guest_image, tool};
use crate::process::run;

/// The state for this QEMU. `save` is asked to make it, and answers `false` where the guest cannot be held.
#[track_caller]
pub(crate) fn state(qemu: &Path, save: impl FnOnce(&Path) -> bool) -> Option<PathBuf> {
    let version = run(tool(&qemu.to_string_lossy()).arg("--version"), PATIENCE);
    let recipe = fs::read_to_string(guest_image("recipe")).unwrap_or_default();
    let digest = Sha256::digest(version + &recipe);
    let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let (state, none) = (guest_image(&format!("held.{name}")), guest_image(&format!("held.{name}.none")));
    // One at a time: whoever comes second finds it there.
    let lock = File::create(guest_image("held.lock")).expect("the guest's folder takes a file");
    lock.lock().expect("a file can be locked");
    if !state.exists() && !none.exists() {
        let new = guest_image(&format!("held.{name}.new"));
        if save(&new) {
            fs::rename(&new, &state).expect("both are in one folder");
        } else {
            File::create(&none).expect("the guest's folder takes a file");
        }
    }
    state.exists().then_some(state)
}
