//! Storage that hangs: whoever works on it learns so in time, and nobody else notices.
//!
//! A file that is a pipe stands for a mount whose server does not answer: to open it does not return, and cannot be
//! interrupted from within the program.

mod installation;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use installation::{Installation, MIB, REPO, is_incremental, says, text, write};
use tests::lab::{PATIENCE, require_qemu, until};
use tests::process::run;

/// Puts a pipe into a file's place; the file is kept beside the repository.
fn hang(file: &Path, kept: &Path) {
    fs::rename(file, kept).expect("both are in the lab");
    run(Command::new("mkfifo").arg(file), PATIENCE);
}

#[test]
fn a_hung_repository_fails_its_own_work_and_no_other() {
    if !require_qemu() {
        return;
    }
    let mut site = Installation::new();
    let other = site.path("other");
    site.backstay.ok(&["repo", "add", "other", "--path", &other, "--password-file", &site.password()]);
    let qsd = site.vm("vm", 1, 8 * MIB);
    write(&qsd.file("disk0"), 0, 2 << 20, 1);
    site.backup_into("vm", REPO);
    let config = site.restic.repository().join("config");
    let kept = site.lab.path("config");
    hang(&config, &kept);

    let begun = Instant::now();
    let mut check = site.backstay.command(&["repo", "check", REPO]);
    let mut check = check.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the client starts");
    until("the check runs", PATIENCE, || {
        let jobs = site.backstay.ok(&["job", "list"]);
        let runs = |job: &serde_json::Value| job["kind"] == "repo-check" && job["state"] == "running";
        jobs.as_array().into_iter().flatten().any(runs).then_some(())
    });
    // Meanwhile everything else goes on: another VM's disk into another repository, and every question.
    site.backup_into("vm", "other");
    assert_eq!(site.backstay.ok(&["repo", "check", "other", "--read-data"])["ok"], true);
    assert!(check.try_wait().expect("a child of ours").is_none(), "the pipe does not hang");
    site.backstay.expect_log("job failed");
    let status = until("the check gives up", 4 * PATIENCE, || check.try_wait().expect("a child of ours"));
    assert_eq!(status.code(), Some(1));
    assert!(begun.elapsed() < 4 * PATIENCE, "it took {:?}", begun.elapsed());
    let jobs = site.backstay.ok(&["job", "list"]);
    let failed = jobs
        .as_array()
        .into_iter()
        .flatten()
        .find(|job| job["kind"] == "repo-check" && job["state"] == "failed");
    let reason =
        failed.and_then(|job| job["reason"].as_str()).expect("a failed check has a reason").to_owned();
    says(&reason, &["opening the repository", &text(site.restic.repository())]);

    // The storage answers again: so does everything, without a restart.
    fs::remove_file(&config).expect("the pipe");
    fs::rename(&kept, &config).expect("both are in the lab");
    write(&qsd.file("disk0"), MIB, 65536, 2);
    is_incremental(&site.backup_into("vm", REPO), "disk0");
    site.restic.check();
    // The thread that hangs for ever keeps nobody from ending.
    site.backstay.stop();
}
