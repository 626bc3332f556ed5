//! Debian's restic and we, on the same repository, in both directions.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write as _;
use std::process::Stdio;

use repository::{
    BlobKind, DEFAULT_CHUNK_SIZE, InitOptions, LockError, LockKind, PruneError, PruneOptions, Repository,
    SessionOptions, unwatched,
};
use support::*;

#[test]
fn restic_checks_lists_dumps_and_restores_what_we_wrote() {
    if !restic_is_there() {
        return;
    }
    let place = Place::new();
    let repo = place.path();
    let content = bytes(1, 40 << 20);
    let snapshot = backup(&place.repository, "vda \"x\" \u{e9}.img", &content, "first");
    let id = snapshot.to_string();
    restic(&repo, &["check", "--read-data"]);
    let listing = String::from_utf8(restic(&repo, &["ls", &id])).unwrap();
    assert!(listing.contains("/disks/vda \"x\" \u{e9}.img") && listing.contains("/proof.json"), "{listing}");
    assert!(restic(&repo, &["dump", &id, "/disks/vda \"x\" \u{e9}.img"]) == content);
    let target = place.folder.path().join("restored");
    restic(&repo, &["restore", &id, "--target", target.to_str().unwrap()]);
    assert!(std::fs::read(target.join("disks/vda \"x\" \u{e9}.img")).unwrap() == content);
    let listed = String::from_utf8(restic(&repo, &["snapshots", "--json", "--tag", "first"])).unwrap();
    assert!(listed.contains(&id), "{listed}");
    // It also writes into it, with the polynomial that we made.
    restic(&repo, &["backup", target.to_str().unwrap()]);
    restic(&repo, &["check", "--read-data"]);
    assert_eq!(assert_healthy(&place.repository).snapshots, 2);
}

#[test]
fn we_read_after_restic_has_forgotten_and_pruned() {
    if !restic_is_there() {
        return;
    }
    let place = Place::new();
    let first = bytes(1, 24 << 20);
    let mut second = first.clone();
    second[5 << 20..9 << 20].copy_from_slice(&bytes(2, 4 << 20));
    let old = backup(&place.repository, "vda", &first, "old");
    let new = backup(&place.repository, "vda", &second, "new");
    let other = place.reopened();
    assert!(read_file(&other, old, "disks/vda") == first);
    restic(&place.path(), &["forget", &old.to_string(), "--prune", "--max-unused", "0"]);
    restic(&place.path(), &["check", "--read-data"]);
    // This one has the old index in memory, and finds the new one by itself.
    assert!(read_file(&other, new, "disks/vda") == second);
    assert!(read_file(&place.repository, new, "disks/vda") == second);
    assert_healthy(&place.repository);
    // And saving goes on: what restic pruned is stored again.
    let again = backup(&place.repository, "vda", &first, "again");
    assert!(read_file(&place.reopened(), again, "disks/vda") == first);
    restic(&place.path(), &["check", "--read-data"]);
    assert_eq!(place.reopened().chunk_size(), DEFAULT_CHUNK_SIZE);
}

#[test]
fn we_open_and_extend_what_restic_made() {
    if !restic_is_there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (repo, source) = (folder.path().join("repo"), folder.path().join("source"));
    let content = bytes(3, 9 << 20);
    std::fs::create_dir_all(source.join("sub\nfolder")).unwrap();
    std::fs::write(source.join("sub\nfolder/b\\\"c"), &content).unwrap();
    std::fs::write(source.join("a"), "").unwrap();
    std::os::unix::fs::symlink("a", source.join("l")).unwrap();
    restic(&repo, &["init", "--repository-version", "2"]);
    restic(&repo, &["backup", "--tag", "theirs", source.to_str().unwrap()]);

    let repository = Repository::open(local(&repo), PASSWORD).unwrap();
    assert_eq!(repository.chunk_size(), 1 << 20, "its configuration does not say");
    let found = repository.snapshots_with_tag("theirs").unwrap();
    assert_eq!(found.len(), 1);
    let path = format!("{}/sub\nfolder/b\\\"c", source.display());
    assert!(read_file(&repository, found[0].0, &path) == content);
    let report = assert_healthy(&repository);
    assert_eq!((report.snapshots, report.unlisted_packs), (1, 0));
    backup(&repository, "vda", &bytes(4, 3 << 20), "ours");
    restic(&repo, &["check", "--read-data"]);
    repository.forget(found[0].0).unwrap();
    repository.prune(&PruneOptions::default(), &unwatched).unwrap();
    restic(&repo, &["check", "--read-data"]);
}

#[test]
fn restic_is_content_after_our_prune() {
    if !restic_is_there() {
        return;
    }
    let place = Place::new();
    let first = bytes(1, 40 << 20);
    let mut second = first.clone();
    for place in [1, 7, 20, 33] {
        second[place << 20..(place + 2) << 20].copy_from_slice(&bytes(place as u64 + 50, 2 << 20));
    }
    let old = backup(&place.repository, "vda", &first, "old");
    let new = backup(&place.repository, "vda", &second, "new");
    place.repository.forget(old).unwrap();
    let options = PruneOptions { max_unused_percent: 0, dry_run: true, ..PruneOptions::default() };
    let planned = place.repository.prune(&options, &unwatched).unwrap();
    let report = place.repository.prune(&PruneOptions { dry_run: false, ..options }, &unwatched).unwrap();
    assert!(report.packs_repacked > 0 && report.bytes_unused == 0, "{report:?}");
    assert_eq!(
        (planned.packs_repacked, planned.bytes_removed),
        (report.packs_repacked, report.bytes_removed)
    );
    restic(&place.path(), &["check", "--read-data"]);
    assert!(restic(&place.path(), &["dump", &new.to_string(), "/disks/vda"]) == second);
    assert!(read_file(&place.repository, new, "disks/vda") == second);
    let dry = String::from_utf8(restic(&place.path(), &["prune", "--dry-run", "--max-unused", "0"])).unwrap();
    assert!(dry.contains("to delete:             0 blobs"), "{dry}");
}

#[test]
fn restic_respects_our_locks() {
    if !restic_is_there() {
        return;
    }
    let place = Place::new();
    backup(&place.repository, "vda", b"content", "tag");
    let session = place.repository.session(&SessionOptions::default()).unwrap();
    let refused = restic_try(&place.path(), &["prune"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("already locked"), "{refused:?}");
    session.save(BlobKind::Data, b"more").unwrap();
    drop(session);
    restic(&place.path(), &["prune"]);
    let alone = place.repository.lock(LockKind::Exclusive).unwrap();
    assert!(!restic_try(&place.path(), &["snapshots"]).status.success());
    drop(alone);
    restic(&place.path(), &["snapshots"]);
}

#[test]
fn we_respect_restics_locks_and_clear_those_of_the_dead() {
    if !restic_is_there() {
        return;
    }
    let place = Place::new();
    backup(&place.repository, "vda", b"content", "tag");
    let mut command = restic_command(&place.path(), PASSWORD, &["backup", "--stdin"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(b"some bytes, and then nothing").unwrap();
    let started = std::time::Instant::now();
    // restic writes the file under another name and renames it: before, the lock does not count.
    let is_lock = |file: &std::path::PathBuf| file.file_name().is_some_and(|name| name.len() == 64);
    while !files(&place.path().join("locks")).iter().any(is_lock) {
        assert!(started.elapsed().as_secs() < 60, "restic never locked");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let refused = place.repository.prune(&PruneOptions::default(), &unwatched);
    let Err(PruneError::Lock(LockError::Locked { by, exclusive: false, .. })) = refused else {
        panic!("{refused:?}")
    };
    let pid = rustix::process::Pid::from_raw(i32::try_from(by.pid).unwrap()).unwrap();
    // Sharing with it is fine, on both sides.
    let session = place.repository.session(&SessionOptions::default()).unwrap();
    drop(session);
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    child.wait().unwrap();
    drop(pipe);
    place.repository.prune(&PruneOptions::default(), &unwatched).unwrap();
    assert_eq!(files(&place.path().join("locks")).len(), 0);
    restic(&place.path(), &["check"]);
}

#[test]
fn restic_leaves_our_chunk_size_in_the_configuration() {
    if !restic_is_there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let repo = folder.path().join("repo");
    let large = InitOptions { chunk_size: 4 << 20, ..options() };
    Repository::init(local(&repo), PASSWORD, &large).unwrap();
    let source = folder.path().join("source");
    std::fs::write(&source, bytes(1, 3 << 20)).unwrap();
    restic(&repo, &["backup", source.to_str().unwrap()]);
    restic(&repo, &["forget", "--prune", "--keep-last", "1"]);
    restic(&repo, &["rebuild-index"]);
    restic(&repo, &["check", "--read-data"]);
    assert_eq!(Repository::open(local(&repo), PASSWORD).unwrap().chunk_size(), 4 << 20);
}
