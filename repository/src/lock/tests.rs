//! The stale rule, renewal, and losing a lock; the rest is in `tests/`, with restic as the other side.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::crypto::{Key, Secrets};
use crate::local::Local;

fn store() -> (tempfile::TempDir, Arc<Store>) {
    let folder = tempfile::tempdir().unwrap();
    let backend = Arc::new(Local::new(folder.path()));
    (folder, Arc::new(Store { backend, key: Key::new(&Secrets::random()) }))
}

fn locks(store: &Store) -> Vec<FileId> {
    store.backend.list(FileKind::Lock).unwrap().into_iter().map(|file| file.id).collect()
}

fn of_another_host(minutes_ago: i64, exclusive: bool) -> LockFile {
    let time = Utc::now() - TimeDelta::minutes(minutes_ago);
    LockFile { time, hostname: "elsewhere".to_owned(), exclusive, ..LockFile::ours(LockKind::Shared) }
}

#[test]
fn stale_is_old_or_of_a_dead_process_here() {
    let now = Utc::now();
    assert!(!LockFile::ours(LockKind::Shared).stale(now));
    assert!(!of_another_host(29, false).stale(now));
    assert!(of_another_host(31, false).stale(now));
    // Another host's process numbers say nothing.
    let dead = 4_194_305;
    assert!(!LockFile { pid: dead, ..of_another_host(1, false) }.stale(now));
    assert!(LockFile { pid: dead, ..LockFile::ours(LockKind::Shared) }.stale(now));
    // A crash, and the same number again: what containers do.
    assert!(LockFile { backstay_process_start: Some(1), ..LockFile::ours(LockKind::Shared) }.stale(now));
    let of_restic = LockFile { backstay_process_start: None, ..LockFile::ours(LockKind::Shared) };
    assert!(!of_restic.stale(now), "restic says nothing of it");
}

#[test]
fn stale_locks_are_removed_and_live_ones_respected() {
    let (_folder, store) = store();
    store.backend.prepare().unwrap();
    store.write_json(FileKind::Lock, &of_another_host(31, true)).unwrap();
    drop(Lock::acquire(&store, LockKind::Exclusive).unwrap());
    assert_eq!(locks(&store), []);

    let live = store.write_json(FileKind::Lock, &of_another_host(3, true)).unwrap();
    let refused = Lock::acquire(&store, LockKind::Shared).unwrap_err();
    assert!(refused.to_string().contains("locked exclusively by process"), "{refused}");
    assert_eq!(locks(&store), [live], "the one that was refused leaves nothing");
    remove_lock(&store, live);

    store.write_json(FileKind::Lock, &of_another_host(3, false)).unwrap();
    let shared = Lock::acquire(&store, LockKind::Shared).unwrap();
    assert_eq!((shared.kind(), locks(&store).len()), (LockKind::Shared, 2));
    assert!(matches!(
        Lock::acquire(&store, LockKind::Exclusive),
        Err(LockError::Locked { exclusive: false, .. })
    ));
}

#[test]
fn renewal_replaces_the_file_and_notices_when_it_was_taken() {
    let (_folder, store) = store();
    store.backend.prepare().unwrap();
    let lock = Lock::acquire(&store, LockKind::Shared).unwrap();
    let first = lock.held.lock().file;
    lock.held.renew(first).unwrap();
    let second = lock.held.lock().file;
    assert_ne!(first, second);
    assert_eq!(locks(&store), [second]);
    lock.verify().unwrap();
    remove_lock(&store, second);
    assert!(matches!(lock.verify(), Err(LockError::Lost)));
    lock.held.renew(second).unwrap();
    assert!(
        matches!(lock.verify(), Err(LockError::Lost)),
        "a new file does not heal it: somebody may have pruned"
    );
    drop(lock);
    assert_eq!(locks(&store), []);
}

#[test]
fn a_lock_that_could_not_be_renewed_is_not_trusted() {
    let (_folder, store) = store();
    store.backend.prepare().unwrap();
    let lock = Lock::acquire(&store, LockKind::Shared).unwrap();
    lock.held.lock().renewed = Utc::now() - TimeDelta::minutes(26);
    assert!(matches!(lock.verify(), Err(LockError::Lost)));
}
