//! Saving, committing, reading: round trips and what must be refused.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::{AtomicU64, Ordering};

use repository::{
    BlobKind, Digest, ForgetError, InitOptions, KeyDerivation, LockError, LockKind, OpenError, PruneError,
    PruneOptions, ReadError, Repository, SessionOptions, Snapshot, TreeBuilder, TreeError, WriteError,
    unwatched,
};
use support::*;

#[test]
fn what_is_saved_comes_back() {
    let place = Place::new();
    let content = bytes(7, (35 << 20) + 123);
    let id = backup(&place.repository, "vda", &content, "one");
    let reopened = place.reopened();
    assert!(read_file(&reopened, id, "disks/vda") == content);
    assert_eq!(read_file(&reopened, id, "/proof.json"), b"one");
    let snapshot = reopened.load_snapshot(id).unwrap();
    assert_eq!(snapshot.tags, ["one"]);
    assert_eq!(reopened.snapshot_ids().unwrap(), [id]);
    assert_eq!(reopened.snapshots_with_tag("two").unwrap(), []);
    assert!(matches!(reopened.node_at(&snapshot.tree, "disks/vdb"), Err(ReadError::NoSuchPath { .. })));
    assert!(matches!(reopened.node_at(&snapshot.tree, "proof.json/x"), Err(ReadError::NoSuchPath { .. })));
    let report = assert_healthy(&reopened);
    assert_eq!((report.snapshots, report.trees, report.blobs, report.unlisted_packs), (1, 2, 37, 0));
    assert!(files(&place.path().join("locks")).is_empty());
}

#[test]
fn the_second_time_nothing_is_stored() {
    let place = Place::new();
    let content = bytes(7, 5 << 20);
    backup(&place.repository, "vda", &content, "one");
    let packs = place.packs();
    let reopened = place.reopened();
    let session = reopened.session(&SessionOptions::default()).unwrap();
    for chunk in content.chunks(1 << 20) {
        assert!(session.knows(&Digest::of(chunk)));
        assert_eq!(session.save(BlobKind::Data, chunk).unwrap().stored, 0);
    }
    // The same bytes as a tree are another blob.
    assert!(session.save(BlobKind::Tree, &content[..1 << 20]).unwrap().stored > 0);
    drop(session);
    assert_eq!(place.packs(), packs, "a session without commit");
}

#[test]
fn threads_that_save_the_same_store_it_once() {
    let place = Place::new();
    let chunks = (0..60).map(|seed| bytes(seed % 40, 300_000)).collect::<Vec<_>>();
    let session = place.repository.session(&SessionOptions::default()).unwrap();
    let stored = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for chunk in &chunks {
                    if session.save(BlobKind::Data, chunk).unwrap().stored > 0 {
                        stored.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(stored.load(Ordering::Relaxed), 40);
    session.commit().unwrap();
    assert_eq!(place.repository.blob_count(), 40);
    assert_eq!(place.packs().len(), 1, "small packs of several threads are joined");
    let reopened = place.reopened();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for chunk in &chunks {
                    assert!(reopened.load_blob(&Digest::of(chunk)).unwrap() == *chunk);
                }
            });
        }
    });
}

#[test]
fn commits_and_saves_from_many_threads_lose_nothing() {
    let place = Place::new();
    let session = place.repository.session(&SessionOptions::default()).unwrap();
    let length = 200_000;
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (session, place) = (&session, &place);
            scope.spawn(move || {
                for seed in 0..100 {
                    // Half of them are everybody's.
                    let chunk = bytes(if seed % 2 == 0 { seed } else { seed + 1000 * thread }, length);
                    session.save(BlobKind::Data, &chunk).unwrap();
                    if seed % 10 == thread {
                        session.commit().unwrap();
                        assert!(place.reopened().load_blob(&Digest::of(&chunk)).unwrap() == chunk);
                    }
                }
            });
        }
    });
    session.commit().unwrap();
    let reopened = place.reopened();
    for (thread, seed) in (0..4).flat_map(|thread| (0..100).map(move |seed| (thread, seed))) {
        let chunk = bytes(if seed % 2 == 0 { seed } else { seed + 1000 * thread }, length);
        assert!(reopened.load_blob(&Digest::of(&chunk)).unwrap() == chunk);
    }
    reopened.refresh().unwrap();
    assert_eq!(reopened.blob_count(), 50 + 4 * 50);
    assert_healthy(&reopened);
}

#[test]
fn a_snapshot_needs_a_commit_and_a_tree() {
    let place = Place::new();
    let session = place.repository.session(&SessionOptions::default()).unwrap();
    let mut tree = TreeBuilder::new(now());
    tree.file("empty", 0, Vec::new()).unwrap();
    let tree = tree.save(&session).unwrap();
    let snapshot = Snapshot::new(tree, now(), vec!["/".to_owned()]);
    let refused = session.save_snapshot(snapshot.clone());
    assert!(matches!(refused, Err(WriteError::Uncommitted { blobs: 1 })), "{refused:?}");
    session.commit().unwrap();
    let elsewhere = Snapshot { tree: Digest::of(b"no such tree"), ..snapshot.clone() };
    assert!(matches!(session.save_snapshot(elsewhere), Err(WriteError::NoTree { .. })));
    let id = session.save_snapshot(snapshot).unwrap();
    drop(session);
    place.repository.forget(id).unwrap();
    assert!(matches!(place.repository.forget(id), Err(ForgetError::NoSnapshot { .. })));
    assert!(!place.repository.snapshot_exists(id).unwrap());
}

#[test]
fn folders_are_built_from_paths() {
    let place = Place::new();
    let session = place.repository.session(&SessionOptions::default()).unwrap();
    let mut tree = TreeBuilder::new(now());
    tree.file("b/c/d", 0, Vec::new()).unwrap();
    tree.file("b/a", 0, Vec::new()).unwrap();
    tree.file("a", 0, Vec::new()).unwrap();
    assert!(matches!(tree.file("a/x", 0, Vec::new()), Err(TreeError::Occupied { .. })));
    assert!(matches!(tree.file("b", 0, Vec::new()), Err(TreeError::Occupied { .. })));
    for bad in ["", "/a", "a//b", "../a", "x/.", "a\0"] {
        assert!(matches!(tree.file(bad, 0, Vec::new()), Err(TreeError::BadPath { .. })), "{bad:?}");
    }
    let root = tree.save(&session).unwrap();
    session.commit().unwrap();
    let mut next = TreeBuilder::new(now());
    next.stored_folder("old", root).unwrap();
    let next = next.save(&session).unwrap();
    session.commit().unwrap();
    assert_eq!(place.repository.node_at(&next, "old/b/c/d").unwrap().name, "d");
    let names = place
        .repository
        .load_tree(&root)
        .unwrap()
        .nodes
        .into_iter()
        .map(|node| node.name)
        .collect::<Vec<_>>();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn opening_says_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("repo");
    assert!(matches!(Repository::open(local(&path), PASSWORD), Err(OpenError::NotARepository { .. })));
    let odd = InitOptions { chunk_size: 3 << 20, ..options() };
    assert!(matches!(
        Repository::init(local(&path), PASSWORD, &odd),
        Err(OpenError::ChunkSize { size: 3_145_728 })
    ));
    let costly = InitOptions { key_derivation: KeyDerivation::Fixed { log_n: 40, r: 8, p: 1 }, ..options() };
    assert!(matches!(
        Repository::init(local(&path), PASSWORD, &costly),
        Err(OpenError::KeyDerivation { .. })
    ));
    let large = InitOptions { chunk_size: 4 << 20, ..options() };
    let made = Repository::init(local(&path), PASSWORD, &large).unwrap();
    assert!(matches!(
        Repository::init(local(&path), PASSWORD, &large),
        Err(OpenError::AlreadyInitialised { .. })
    ));
    assert!(matches!(Repository::open(local(&path), "wrong"), Err(OpenError::WrongPassword { .. })));
    let opened = Repository::open(local(&path), PASSWORD).unwrap();
    assert_eq!((opened.id(), opened.chunk_size()), (made.id(), 4 << 20));

    // An attempt that died before the configuration leaves a key; it is not in the way, nor does it win later.
    std::fs::remove_file(path.join("config")).unwrap();
    let again = Repository::init(local(&path), PASSWORD, &options()).unwrap();
    assert_eq!(Repository::open(local(&path), PASSWORD).unwrap().id(), again.id());
    backup(&again, "vda", b"content", "tag");
    std::fs::remove_file(path.join("config")).unwrap();
    assert!(matches!(Repository::init(local(&path), PASSWORD, &options()), Err(OpenError::Remains { .. })));
}

#[test]
fn a_damaged_or_foreign_version_of_the_configuration_is_named() {
    let place = Place::new();
    let config = place.path().join("config");
    let mut sealed = std::fs::read(&config).unwrap();
    sealed[20] ^= 1;
    std::fs::remove_file(&config).unwrap();
    std::fs::write(&config, sealed).unwrap();
    let refused = Repository::open(local(&place.path()), PASSWORD);
    assert!(matches!(refused, Err(OpenError::DamagedConfig { .. })), "{refused:?}");
    if restic_is_there() {
        let old = place.folder.path().join("version1");
        restic(&old, &["init", "--repository-version", "1"]);
        let refused = Repository::open(local(&old), PASSWORD);
        assert!(matches!(refused, Err(OpenError::UnsupportedVersion { found: 1 })), "{refused:?}");
    }
}

#[test]
fn locks_keep_writers_and_pruners_apart() {
    let place = Place::new();
    backup(&place.repository, "vda", b"content", "tag");
    let session = place.repository.session(&SessionOptions::default()).unwrap();
    let second = place.reopened().session(&SessionOptions::default()).unwrap();
    let refused = place.reopened().prune(&PruneOptions::default(), &unwatched);
    let Err(PruneError::Lock(LockError::Locked { by, exclusive, .. })) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!((by.pid, exclusive), (std::process::id(), false));
    drop((session, second));
    let alone = place.repository.lock(LockKind::Exclusive).unwrap();
    alone.verify().unwrap();
    let refused = place.repository.session(&SessionOptions::default());
    assert!(matches!(refused, Err(WriteError::Lock(LockError::Locked { exclusive: true, .. }))));
    drop(alone);
    place.repository.prune(&PruneOptions::default(), &unwatched).unwrap();
}

#[test]
fn a_session_whose_lock_was_taken_away_commits_nothing() {
    let place = Place::new();
    let session = place.repository.session(&SessionOptions::default()).unwrap();
    session.save(BlobKind::Data, b"content").unwrap();
    for lock in files(&place.path().join("locks")) {
        std::fs::remove_file(lock).unwrap();
    }
    assert!(matches!(session.commit(), Err(WriteError::Lock(LockError::Lost))));
    assert!(matches!(session.save(BlobKind::Data, b"more"), Err(WriteError::Lock(LockError::Lost))));
    assert!(files(&place.path().join("index")).is_empty());
}
