//! `restic copy` between a repository of ours and one that restic made, both ways, and what Backstay does with the result.

mod installation;

use std::path::Path;

use installation::{Installation, MIB, REPO, is_full, is_incremental, text, write};
use serde_json::Value;
use tests::lab::{require, require_qemu};
use tests::restic::Restic;
use tests::site::must_be_equal;

/// `restic copy`, of all snapshots or of one.
#[track_caller]
fn copy(from: &Restic, to: &Restic, snapshot: Option<&str>) {
    let (source, password) = (text(from.repository()), text(from.password_file()));
    let mut words = vec!["copy", "--from-repo", &source, "--from-password-file", &password];
    words.extend(snapshot);
    to.ok(&words);
}

/// The snapshot of a repository that is the copy of another.
#[track_caller]
fn copy_of(repository: &Restic, snapshot: &Value) -> Value {
    let all = repository.snapshots();
    let found = all.iter().find(|it| it["original"] == *snapshot);
    found.unwrap_or_else(|| panic!("no copy of {snapshot} in {all:?}")).clone()
}

#[track_caller]
fn must_dump(repository: &Restic, snapshot: &Value, disk: &str, expected: &Path, scratch: &Path) {
    let id = snapshot["id"].as_str().expect("a snapshot has an id");
    repository.dump(id, &format!("/{disk}.img"), scratch);
    must_be_equal(scratch, expected);
}

#[test]
fn restic_copies_from_us_and_to_us() {
    if !require_qemu() || !require(&["restic"]) {
        return;
    }
    let site = Installation::new();
    let qsd = site.vm("vm", 1, 16 * MIB);
    let (disk, scratch) = (qsd.file("disk0"), site.lab.path("scratch"));
    write(&disk, 0, 5 << 20, 1);
    let first = site.backup("vm");
    let then = site.lab.path("then");
    std::fs::copy(&disk, &then).expect("the lab's folder takes a file");
    write(&disk, 3 * MIB, 1 << 20, 2);
    let second = site.backup("vm");

    // From us. Everything arrives, tags and proof included.
    let theirs = Restic::new(&site.lab, "theirs");
    theirs.init();
    copy(&site.restic, &theirs, None);
    theirs.check();
    let (old, new) = (copy_of(&theirs, &first["snapshot"]), copy_of(&theirs, &second["snapshot"]));
    must_dump(&theirs, &old, "disk0", &then, &scratch);
    must_dump(&theirs, &new, "disk0", &disk, &scratch);
    let original = site.restic.snapshots().into_iter().find(|it| it["id"] == second["snapshot"]);
    assert_eq!(original.map(|it| it["tags"].clone()), Some(new["tags"].clone()));
    let proof = |repository: &Restic, snapshot: &Value| {
        repository.ok(&["dump", snapshot.as_str().expect("an id"), "/backstay.json"])
    };
    assert_eq!(proof(&theirs, &new["id"]), proof(&site.restic, &second["snapshot"]));
    // Once more copies nothing.
    copy(&site.restic, &theirs, None);
    assert_eq!(theirs.snapshots().len(), 2);

    // Backstay takes the result over: counts it, proves it, and backs up beside it.
    let (place, password) = (text(theirs.repository()), text(theirs.password_file()));
    let added = site.backstay.ok(&["repo", "add", "theirs", "--path", &place, "--password-file", &password]);
    assert_eq!((&added["created"], &added["chunk_size"]), (&false.into(), &(1 << 20).into()), "{added}");
    assert_eq!(site.backstay.ok(&["repo", "check", "theirs", "--read-data"])["ok"], true);
    let stats = site.backstay.ok(&["repo", "stats", "theirs"]);
    assert_eq!((&stats["points"], &stats["vms"][0]["vm"]), (&2.into(), &"vm".into()), "{stats}");
    let beside = site.backup_into("vm", "theirs");
    is_full(&beside, "disk0", "first");
    write(&disk, 9 * MIB, 65536, 3);
    let newest = site.backup_into("vm", "theirs");
    is_incremental(&newest, "disk0");
    site.proves(&newest, "disk0", &disk);

    // To us: what restic made and what we made there, into what we made.
    let source = site.lab.path("source");
    std::fs::write(&source, "of restic's own").expect("the lab's folder takes a file");
    theirs.ok(&["backup", &text(&source)]);
    copy(&theirs, &site.restic, None);
    site.restic.check();
    let back = copy_of(&site.restic, &newest["snapshot"]);
    must_dump(&site.restic, &back, "disk0", &disk, &scratch);
    assert_eq!(site.backstay.ok(&["repo", "check", REPO, "--read-data"])["ok"], true);
    // Points are known by their snapshots: those that were there are, and go on.
    let image = site.lab.path("first.raw");
    let id = first["id"].as_str().expect("a point has an id");
    site.backstay.ok(&["restore", id, "--disk", "disk0", "--to", &text(&image), "--wait"]);
    must_be_equal(&image, &then);
    is_incremental(&site.backup_into("vm", REPO), "disk0");
    // What is copied is as good a use of a chunk as any other: nothing of it goes with a prune.
    site.backstay.ok(&["point", "forget", id]);
    site.backstay.ok(&["repo", "prune", REPO, "--max-unused", "0%"]);
    site.restic.check();
    must_dump(&site.restic, &back, "disk0", &disk, &scratch);
}
