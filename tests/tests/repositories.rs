//! `backstay repo` beside backups: figures, drawn checks, keys, and a repository that is only added to.

mod installation;

use std::fs;

use installation::{Installation, MIB, REPO, is_incremental, says, text, write};
use serde_json::Value;
use tests::lab::require_qemu;

#[test]
fn figures_keys_and_a_check_of_a_share() {
    if !require_qemu() {
        return;
    }
    let mut site = Installation::new();
    let (one, other) = (site.vm("one", 1, 8 * MIB), site.vm("other", 1, 8 * MIB));
    write(&one.file("disk0"), 0, 4 << 20, 1);
    for (place, byte) in (0..3_u64).zip(1..) {
        write(&other.file("disk0"), place * MIB, 1 << 20, byte);
    }
    site.backup("one");
    site.backup("other");
    let stats = site.backstay.ok(&["repo", "stats", REPO]);
    assert_eq!(
        (&stats["points"], &stats["vms"][0]["vm"], &stats["vms"][1]["vm"]),
        (&2.into(), &"one".into(), &"other".into()),
        "{stats}"
    );
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    assert!(
        number(&stats["restore_bytes"]) >= 16 * MIB && stats["dedup_ratio"].as_f64() > Some(2.0),
        "{stats}"
    );
    assert!(number(&stats["stored_bytes"]) >= number(&stats["used_bytes"]), "{stats}");
    // Of both VMs' first chunks one copy is there; the proofs are each VM's own.
    let vms = [&stats["vms"][0], &stats["vms"][1]];
    assert!(vms.iter().all(|vm| number(&vm["used_bytes"]) > number(&vm["own_bytes"])), "{stats}");

    for more in [&["--read-data"][..], &["--read-data-subset", "30%"], &[]] {
        assert_eq!(site.backstay.ok(&[&["repo", "check", REPO], more].concat())["ok"], true);
    }
    site.backstay.refused(2, &["repo", "check", REPO, "--read-data-subset", "0%"]);

    let (second, third) = (site.lab.path("second"), site.lab.path("third"));
    fs::write(&second, "another password\n").expect("the lab's folder takes a file");
    fs::write(&third, "a third one\n").expect("the lab's folder takes a file");
    let keys = site.backstay.ok(&["repo", "key", "add", REPO, "--new-password-file", &text(&second)]);
    assert_eq!(keys.as_array().map(Vec::len), Some(2), "{keys}");
    let folder = site.repository();
    let restic = |password: &std::path::Path| {
        let mut command = tests::lab::tool("restic");
        command.args(["--no-cache", "--repo", &folder, "--password-file"]).arg(password).arg("check");
        tests::process::answer(&mut command, tests::lab::PATIENCE).status
    };
    assert_eq!((restic(&second), restic(&third)), (0, 1));
    let current = keys[0]["id"].as_str().expect("a key has an id").to_owned();
    assert_eq!(keys[0]["current"], true, "{keys}");
    site.backstay.expect_log("job failed");
    says(
        &site.backstay.refused(1, &["repo", "key", "remove", REPO, &current]),
        &["stays", "is opened with it"],
    );
    let changed = site.backstay.ok(&["repo", "key", "change", REPO, "--new-password-file", &text(&third)]);
    assert_eq!(changed.as_array().map(Vec::len), Some(2), "{changed}");
    assert_eq!((restic(site.restic.password_file()), restic(&third)), (1, 0));
    // The new file is the one that counts, after a restart too.
    fs::remove_file(site.restic.password_file()).expect("the lab's own");
    write(&one.file("disk0"), 0, 65536, 9);
    is_incremental(&site.backup("one"), "disk0");
    site.backstay.stop();
    site.backstay.restart();
    is_incremental(&site.backup("one"), "disk0");
    let listed = site.backstay.ok(&["repo", "key", "list", REPO]);
    let other = listed.as_array().into_iter().flatten().find(|key| key["current"] == false);
    let other = other.and_then(|key| key["id"].as_str()).expect("the second key").to_owned();
    site.backstay.ok(&["repo", "key", "remove", REPO, &other[..12]]);
    assert_eq!((restic(&second), restic(&third)), (1, 0));
}

#[test]
fn a_repository_that_is_only_added_to_refuses_what_loses_something() {
    if !require_qemu() {
        return;
    }
    let site = Installation::new();
    let kept = site.path("kept");
    let added = site.backstay.ok(&[
        "repo",
        "add",
        "kept",
        "--path",
        &kept,
        "--password-file",
        &site.password(),
        "--append-only",
    ]);
    assert_eq!(added["append_only"], true, "{added}");
    let qsd = site.vm("vm", 1, 8 * MIB);
    write(&qsd.file("disk0"), 0, 2 << 20, 1);
    let backup = || {
        let answer = site.backstay.ok(&["backup", "vm", "--repo", "kept", "--wait"]);
        let point = answer["jobs"][0]["point"].as_str().expect("a point").to_owned();
        site.backstay.ok(&["point", "show", &point])
    };
    let first = backup();
    write(&qsd.file("disk0"), MIB, 65536, 2);
    let second = backup();
    is_incremental(&second, "disk0");
    let id = first["id"].as_str().expect("a point has an id");
    let refusals: [&[&str]; 4] = [
        &["point", "forget", id, "--force"],
        &["repo", "prune", "kept"],
        &["repo", "key", "remove", "kept", "ab"],
        &["repo", "key", "change", "kept", "--new-password-file", "/nowhere"],
    ];
    for refused in refusals {
        says(&site.backstay.refused(4, refused), &["append-only"]);
    }
    assert_eq!(site.backstay.ok(&["repo", "check", "kept", "--read-data"])["ok"], true);
    let locks = fs::read_dir(site.lab.path("kept/locks")).expect("a repository's folder").count();
    assert_eq!(locks, 0, "its own locks are the one thing that it removes");
    site.proves(&second, "disk0", &qsd.file("disk0"));
}
