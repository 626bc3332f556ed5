//! Keys, figures, drawn checks and storage that is only added to.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use repository::{
    AppendOnly, BackendError, BlobKind, ForgetError, KeyDerivation, KeyError, LockKind, OpenError,
    PruneError, PruneOptions, ReadData, Repository, SessionOptions, unwatched,
};
use support::*;

const CHEAP: KeyDerivation = KeyDerivation::Fixed { log_n: 10, r: 8, p: 1 };

fn opens(place: &Place, password: &str) -> bool {
    match Repository::open(local(&place.path()), password) {
        Ok(_) => true,
        Err(OpenError::WrongPassword { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

fn restic_opens(place: &Place, password: &str) -> bool {
    restic_command(&place.path(), password, &["snapshots"]).output().unwrap().status.success()
}

#[test]
fn keys_come_and_go_and_restic_sees_the_same() {
    let place = Place::new();
    let repository = &place.repository;
    backup(repository, "vda", &bytes(1, 2 << 20), "tag");
    let second = repository.add_key(PASSWORD, "second", CHEAP).unwrap();
    assert_eq!(repository.add_key(PASSWORD, "second", CHEAP).unwrap(), second, "a repetition adds nothing");
    assert!(matches!(repository.add_key("wrong", "third", CHEAP), Err(KeyError::WrongPassword { .. })));
    let keys = repository.keys(PASSWORD).unwrap();
    assert_eq!(keys.iter().map(|key| key.opens).collect::<Vec<_>>(), [true, false]);
    assert!(opens(&place, "second") && opens(&place, PASSWORD));
    let first = keys[0].id;
    assert!(matches!(
        repository.remove_key(PASSWORD, &first.to_string()),
        Err(KeyError::Needed { key, .. }) if key == first
    ));
    assert!(matches!(repository.remove_key(PASSWORD, "zz"), Err(KeyError::NoSuchKey { .. })));
    assert!(matches!(repository.remove_key(PASSWORD, ""), Err(KeyError::NoSuchKey { .. })));
    if restic_is_there() {
        assert!(restic_opens(&place, "second") && !restic_opens(&place, "third"));
        let listed = String::from_utf8(restic(&place.path(), &["key", "list"])).unwrap();
        assert!(listed.contains(&second.to_string()[..8]), "{listed}");
    }
    repository.change_key(PASSWORD, "changed", CHEAP).unwrap();
    repository.change_key(PASSWORD, "changed", CHEAP).unwrap();
    assert!(!opens(&place, PASSWORD) && opens(&place, "changed") && opens(&place, "second"));
    repository.remove_key("changed", &second.to_string()[..10]).unwrap();
    repository.remove_key("changed", &second.to_string()).unwrap();
    let last = repository.keys("changed").unwrap();
    assert_eq!(last.len(), 1);
    assert!(matches!(repository.remove_key("second", &last[0].id.to_string()), Err(KeyError::Needed { .. })));
    if restic_is_there() {
        assert!(restic_opens(&place, "changed") && !restic_opens(&place, PASSWORD));
        let check = restic_command(&place.path(), "changed", &["check", "--read-data"]).output().unwrap();
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
    }
}

#[test]
fn a_key_that_restic_added_is_one_of_ours() {
    if !restic_is_there() {
        return;
    }
    let place = Place::new();
    let file = place.folder.path().join("new");
    std::fs::write(&file, "theirs\n").unwrap();
    restic(&place.path(), &["key", "add", "--new-password-file", file.to_str().unwrap()]);
    let keys = place.repository.keys("theirs").unwrap();
    assert_eq!(keys.iter().map(|key| key.opens).collect::<Vec<_>>(), [false, true]);
    place.repository.remove_key("theirs", &keys[0].id.to_string()).unwrap();
    assert!(opens(&place, "theirs") && !opens(&place, PASSWORD));
}

#[test]
fn figures_say_what_is_there_and_whose_it_is() {
    let place = Place::new();
    let shared = bytes(1, 8 << 20);
    backup(&place.repository, "vda", &shared, "a");
    backup(&place.repository, "vda", &shared, "a");
    backup(&place.repository, "vda", &[shared, bytes(2, 4 << 20)].concat(), "b");
    let dropped = backup(&place.repository, "vda", &bytes(3, 6 << 20), "c");
    place.repository.forget(dropped).unwrap();
    let stats = place.reopened().stats(|snapshot| snapshot.tags.concat(), &unwatched).unwrap();
    // A byte each for the small file beside the disk, which holds the tag.
    assert_eq!((stats.snapshots, stats.restore_bytes), (3, (8 + 8 + 12) * (1 << 20) + 3));
    assert_eq!(stats.plain_bytes, 12 * (1 << 20) + 2);
    let [a, b] = &stats.groups[..] else { panic!("{stats:?}") };
    assert_eq!((a.name.as_str(), a.snapshots, a.restore_bytes), ("a", 2, 16 * (1 << 20) + 2));
    assert_eq!((b.name.as_str(), b.snapshots, b.restore_bytes), ("b", 1, 12 * (1 << 20) + 1));
    // Half of the bytes compress to nearly nothing.
    let half = |mib: u64| mib * (4 << 17)..mib * (5 << 17);
    assert!(half(8).contains(&a.used_bytes) && half(12).contains(&b.used_bytes), "{stats:?}");
    assert!(a.own_bytes < 1000 && half(4).contains(&b.own_bytes), "{stats:?}");
    assert!(half(12).contains(&stats.used_bytes) && half(18).contains(&stats.stored_bytes), "{stats:?}");
    if restic_is_there() {
        let raw = restic(&place.path(), &["stats", "--mode", "raw-data", "--json"]);
        let restore = restic(&place.path(), &["stats", "--mode", "restore-size", "--json"]);
        let number = |json: &[u8], name: &str| {
            serde_json::from_slice::<serde_json::Value>(json).unwrap()[name].as_u64().unwrap()
        };
        assert_eq!(number(&raw, "total_size"), stats.used_bytes);
        assert_eq!(number(&restore, "total_size"), stats.restore_bytes);
    }
}

#[test]
fn a_share_of_the_packs_is_drawn_anew_each_time_and_in_the_end_all_are_read() {
    let place = Place::new();
    for seed in 0..10 {
        backup(&place.repository, "vda", &bytes(seed, 1 << 20), &seed.to_string());
    }
    let pack = place.packs().into_iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut content = std::fs::read(&pack).unwrap();
    content[100] ^= 1;
    std::fs::remove_file(&pack).unwrap();
    std::fs::write(&pack, content).unwrap();
    let read = |percent, seed| place.repository.check(ReadData::Share { percent, seed }, &unwatched).unwrap();
    let whole = place.repository.check(ReadData::All, &unwatched).unwrap();
    assert!(!whole.is_healthy());
    assert_eq!(read(100, 1).read_bytes, whole.read_bytes);
    let (mut sizes, mut found) = (BTreeSet::new(), 0);
    for seed in 0..50 {
        let report = read(10, seed);
        assert_eq!(report.read_bytes, read(10, seed).read_bytes, "the same seed draws the same");
        assert!(report.read_bytes > 0 && report.read_bytes < whole.read_bytes / 2, "{report:?}");
        sizes.insert(report.read_bytes);
        found += usize::from(!report.is_healthy());
    }
    // A tenth of them each time: that none of fifty draws hits, or all do, is a chance of 1 in 190.
    assert!(sizes.len() > 2 && found > 0 && found < 50, "{found} of 50, {sizes:?}");
}

#[test]
fn what_is_only_added_to_loses_nothing() {
    let place = Place::new();
    let content = bytes(1, 3 << 20);
    let id = backup(&place.repository, "vda", &content, "tag");
    // Somebody else is at work, or died: whose lock it is, is not for us to judge here.
    let ghost = place.repository.lock(LockKind::Shared).unwrap();
    std::mem::forget(ghost);
    let before = files(&place.path());
    let backend = Arc::new(AppendOnly::new(local(&place.path())));
    let repository = Repository::open(backend, PASSWORD).unwrap();
    let refused = repository.forget(id);
    assert!(matches!(&refused, Err(ForgetError::Backend(BackendError::Refused { .. }))), "{refused:?}");
    let options = PruneOptions::default();
    let refused = repository.prune(&options, &unwatched);
    assert!(matches!(&refused, Err(PruneError::Backend(BackendError::Refused { .. }))), "{refused:?}");
    assert_eq!(files(&place.path()), before, "its own locks are gone, and nothing else");
    let new = backup(&repository, "vda", &bytes(2, 3 << 20), "more");
    repository.add_key(PASSWORD, "second", CHEAP).unwrap();
    assert!(matches!(
        repository.change_key(PASSWORD, "third", CHEAP),
        Err(KeyError::Backend(BackendError::Refused { .. }))
    ));
    let session = repository.session(&SessionOptions::default()).unwrap();
    session.save(BlobKind::Data, b"known").unwrap();
    session.commit().unwrap();
    drop(session);
    let after = files(&place.path());
    assert!(before.iter().all(|file| after.contains(file)));
    assert!(read_file(&place.reopened(), new, "disks/vda") == bytes(2, 3 << 20));
    assert!(read_file(&place.reopened(), id, "disks/vda") == content);
    assert_healthy(&place.reopened());
}
