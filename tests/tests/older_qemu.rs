//! QEMU 7.2, which Debian 12 has, as well as the QEMU that is installed: a part of the crash matrix walked on it.

use std::process::Command;

use tests::backstay::binary;
use tests::lab::{Lab, PATIENCE, require_qemu};
use tests::older::older_qemu;
use tests::process::run;

#[test]
fn crashes_on_qemu_7_2_leave_nothing_behind() {
    if !require_qemu() {
        return;
    }
    let Some(folder) = older_qemu() else { return };
    let lab = Lab::new();
    let mut matrix = Command::new(env!("CARGO_BIN_EXE_crash-matrix"));
    matrix.env("BACKSTAY_QEMU_FOLDER", &folder).env("BACKSTAY_BIN", binary());
    for operation in ["multi-disk", "checkpoint", "delete-middle"] {
        matrix.args(["--operation", operation]);
    }
    matrix
        .args(["--point", "performed", "--passage", "1", "--no-page", "--results"])
        .arg(lab.path("results"));
    let walked = run(&mut matrix, 4 * PATIENCE);
    eprintln!("{walked}");
    assert!(walked.contains("QEMU 7.2") && walked.contains(" 15 of "), "it was not walked:\n{walked}");
}
