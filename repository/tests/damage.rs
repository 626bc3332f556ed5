//! Damaged, full and dying storage: what is found, what is named, what survives.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::process::Command;

use repository::{
    BackendError, BlobKind, FileKind, FileName, Problem, PruneError, PruneOptions, ReadData, ReadError,
    Repository, SessionOptions, WriteError, unwatched,
};
use support::failing::{Failing, Fault};
use support::*;

/// Rewrites a file, whatever its permissions.
fn change(path: &Path, how: impl FnOnce(&mut Vec<u8>)) {
    let mut content = std::fs::read(path).unwrap();
    how(&mut content);
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, content).unwrap();
}

fn largest_pack(place: &Place) -> std::path::PathBuf {
    place.packs().into_iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap()
}

#[test]
fn a_flipped_bit_is_found_and_its_pack_named() {
    let place = Place::new();
    let content = bytes(1, 3 << 20);
    let good = backup(&place.repository, "vda", b"small", "good");
    let hit = backup(&place.repository, "vdb", &content, "hit");
    let pack = largest_pack(&place);
    let name = pack.file_name().unwrap().to_str().unwrap().to_owned();
    change(&pack, |bytes| bytes[100] ^= 4);
    let repository = place.reopened();
    assert!(
        repository.check(ReadData::None, &unwatched).unwrap().is_healthy(),
        "the size is right, nothing was read"
    );
    let report = repository.check(ReadData::All, &unwatched).unwrap();
    assert!(
        report
            .problems
            .iter()
            .any(|problem| matches!(problem, Problem::PackDamaged { pack, .. } if pack.to_string() == name))
    );
    assert!(
        report
            .problems
            .iter()
            .any(|problem| matches!(problem, Problem::BlobDamaged { pack, .. } if pack.to_string() == name))
    );
    assert_eq!(report.affected, [hit]);
    let failed = content.chunks(1 << 20).map(|chunk| repository.load_blob(&repository::Digest::of(chunk)));
    let errors = failed.filter_map(Result::err).collect::<Vec<_>>();
    assert!(
        matches!(&errors[..], [ReadError::DamagedBlob { pack, .. }] if pack.to_string() == name),
        "{errors:?}"
    );
    assert_eq!(read_file(&repository, good, "disks/vda"), b"small");
}

#[test]
fn a_cut_pack_a_lost_pack_and_a_lost_index_are_named() {
    let place = Place::new();
    let hit = backup(&place.repository, "vda", &bytes(1, 3 << 20), "hit");
    let pack = largest_pack(&place);
    change(&pack, |bytes| bytes.truncate(bytes.len() / 2));
    let report = place.repository.check(ReadData::None, &unwatched).unwrap();
    assert!(matches!(&report.problems[..], [Problem::PackSize { .. }]), "{:?}", report.problems);
    assert_eq!(place.repository.check(ReadData::All, &unwatched).unwrap().affected, [hit]);
    let refused = place.repository.prune(&PruneOptions::default(), &unwatched);
    assert!(matches!(refused, Err(PruneError::DamagedPack { .. })), "{refused:?}");
    std::fs::remove_file(&pack).unwrap();
    let report = place.repository.check(ReadData::None, &unwatched).unwrap();
    assert!(matches!(&report.problems[..], [Problem::PackGone { .. }]), "{:?}", report.problems);
    assert_eq!(report.affected, [hit]);
    let refused = place.repository.prune(&PruneOptions::default(), &unwatched);
    assert!(matches!(refused, Err(PruneError::Missing { .. })), "{refused:?}");
    for index in files(&place.path().join("index")) {
        std::fs::remove_file(index).unwrap();
    }
    let report = place.reopened().check(ReadData::None, &unwatched).unwrap();
    assert!(
        matches!(&report.problems[..], [Problem::BlobMissing { kind: BlobKind::Tree, .. }]),
        "{:?}",
        report.problems
    );
    assert!(place.reopened().prune(&PruneOptions::default(), &unwatched).is_err());
}

#[test]
fn damaged_index_files_and_snapshots_are_named_and_stop_a_prune() {
    let place = Place::new();
    let hit = backup(&place.repository, "vda", &bytes(1, 3 << 20), "hit");
    let snapshot = files(&place.path().join("snapshots")).remove(0);
    change(&snapshot, |bytes| bytes[30] ^= 1);
    let report = place.repository.check(ReadData::None, &unwatched).unwrap();
    assert!(matches!(
        &report.problems[..],
        [Problem::Unreadable { file: FileName::Of(FileKind::Snapshot, _), .. }]
    ));
    assert_eq!(report.affected, [hit]);
    assert!(matches!(place.reopened().prune(&PruneOptions::default(), &unwatched), Err(PruneError::Read(_))));
    let index = files(&place.path().join("index")).remove(0);
    change(&index, |bytes| bytes.truncate(10));
    assert!(matches!(place.reopened().refresh(), Err(ReadError::DamagedFile { .. })));
    assert!(matches!(place.reopened().prune(&PruneOptions::default(), &unwatched), Err(PruneError::Read(_))));
}

#[test]
fn a_writer_that_panics_fails_the_session_and_hangs_nobody() {
    let place = Place::new();
    let repository = Failing::after(0, Fault::Panic).open(&place);
    let session = repository.session(&SessionOptions::default()).unwrap();
    let done = try_backup(&session, "vda", &bytes(1, 80 << 20), "tag");
    assert!(matches!(done, Err(WriteError::Abandoned)), "{done:?}");
    assert!(matches!(session.commit(), Err(WriteError::Abandoned)));
    drop(session);
    assert!(place.reopened().check(ReadData::None, &unwatched).unwrap().is_healthy());
}

#[test]
fn a_backup_may_die_at_every_step_and_be_repeated() {
    for fault in [Fault::Full, Fault::Io, Fault::AnswerLost] {
        backup_dying_at_every_step(fault);
    }
}

fn backup_dying_at_every_step(fault: Fault) {
    let place = Place::new();
    let (old, new) = (bytes(1, 3 << 20), bytes(2, 36 << 20));
    let first = backup(&place.repository, "vda", &old, "first");
    let mut steps = 0;
    loop {
        let repository = Failing::after(steps, fault).open(&place);
        let session = repository.session(&SessionOptions::default()).unwrap();
        let done = try_backup(&session, "vda", &new, "second");
        if let Err(error) = &done {
            let full = matches!(error, WriteError::Backend(BackendError::Full { .. }));
            let broken = matches!(error, WriteError::Backend(BackendError::Io { .. }));
            assert!(if matches!(fault, Fault::Full) { full } else { broken }, "{error}");
            assert!(session.commit().is_err() || steps > 0, "a failure is never lost");
        }
        drop(session);
        let reopened = place.reopened();
        assert!(
            reopened
                .check(if steps % 3 == 0 { ReadData::All } else { ReadData::None }, &unwatched)
                .unwrap()
                .is_healthy(),
            "{fault:?} after {steps} steps"
        );
        assert!(read_file(&reopened, first, "disks/vda") == old);
        let others = reopened.snapshot_ids().unwrap().into_iter().filter(|id| *id != first);
        let others = others.collect::<Vec<_>>();
        match done {
            Ok(second) => {
                assert!(read_file(&reopened, second, "disks/vda") == new);
                break;
            }
            // An answer that was lost hides a snapshot that is there; then it is whole.
            Err(_) if matches!(fault, Fault::AnswerLost) => {
                assert!(others.iter().all(|second| read_file(&reopened, *second, "disks/vda") == new));
            }
            Err(_) => assert_eq!(others, []),
        }
        steps += 1;
    }
    assert!(steps >= 2, "packs that a dead attempt left in the index count as stored: {steps}");
    let strict = PruneOptions { max_unused_percent: 0, ..PruneOptions::default() };
    place.repository.prune(&strict, &unwatched).unwrap();
    assert_eq!(assert_healthy(&place.reopened()).unlisted_packs, 0);
}

#[test]
fn a_prune_may_die_at_every_step_and_be_repeated() {
    let place = Place::new();
    let kept = bytes(1, 20 << 20);
    let mut other = kept.clone();
    other[3 << 20..6 << 20].copy_from_slice(&bytes(2, 3 << 20));
    let first = backup(&place.repository, "vda", &other, "goes");
    let second = backup(&place.repository, "vda", &kept, "stays");
    let third = backup(&place.repository, "vdb", &bytes(9, 2 << 20), "goes");
    place.repository.forget(first).unwrap();
    place.repository.forget(third).unwrap();
    let strict = PruneOptions { max_unused_percent: 0, ..PruneOptions::default() };
    let mut steps = 0;
    while let Err(error) = Failing::after(steps, Fault::Full).open(&place).prune(&strict, &unwatched) {
        assert!(matches!(error, PruneError::Backend(BackendError::Full { .. })), "{error}");
        let reopened = place.reopened();
        assert!(reopened.check(ReadData::All, &unwatched).unwrap().is_healthy(), "after {steps} steps");
        assert!(read_file(&reopened, second, "disks/vda") == kept, "after {steps} steps");
        steps += 1;
        assert!(steps < 100, "it never ends");
    }
    let report = assert_healthy(&place.reopened());
    assert_eq!(report.unlisted_packs, 0);
    let again = place.repository.prune(&strict, &unwatched).unwrap();
    assert_eq!((again.packs_removed, again.packs_repacked, again.bytes_unused), (0, 0, 0));
    assert!(read_file(&place.repository, second, "disks/vda") == kept);
}

#[test]
fn a_prune_clears_what_the_dead_left() {
    let place = Place::new();
    let snapshot = backup(&place.repository, "vda", b"content", "tag");
    let leftover = format!("{}-tmp-0123", largest_pack(&place).display());
    std::fs::write(&leftover, "half a pack").unwrap();
    std::fs::write(place.path().join("config-tmp-0123"), "half a configuration").unwrap();
    std::fs::write(place.path().join("data/foreign.txt"), "not ours").unwrap();
    let stray = place.path().join("data/aa").join("aa".repeat(32));
    std::fs::write(&stray, "never listed").unwrap();
    assert_eq!(place.repository.check(ReadData::None, &unwatched).unwrap().unlisted_packs, 1);
    let report = place.repository.prune(&PruneOptions::default(), &unwatched).unwrap();
    assert_eq!((report.packs_unlisted, report.leftovers, report.packs_unused), (1, 2, 0));
    assert!(!Path::new(&leftover).exists() && !stray.exists());
    assert!(place.path().join("data/foreign.txt").exists());
    assert_eq!(read_file(&place.reopened(), snapshot, "disks/vda"), b"content");
}

/// A file system of its own that is soon full.
struct Tiny(tempfile::TempDir);

impl Tiny {
    fn mount(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("timeout")
            .args(["20", "mount", "-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(folder.path())
            .status()
            .is_ok_and(|status| status.success());
        if !mounted {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "cannot mount a tmpfs on CI");
            eprintln!("SKIPPED: cannot mount a tmpfs, a really full file system is not tested");
        }
        mounted.then_some(Self(folder))
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = Command::new("timeout").args(["20", "umount"]).arg(self.0.path()).status();
    }
}

#[test]
fn a_full_file_system_leaves_the_earlier_snapshots_readable() {
    let Some(tiny) = Tiny::mount("30m") else { return };
    let path = tiny.0.path().join("repo");
    let repository = init(local(&path));
    let content = bytes(1, 2 << 20);
    let first = backup(&repository, "vda", &content, "first");
    let session = repository.session(&SessionOptions::default()).unwrap();
    let failed = try_backup(&session, "vda", &bytes(2, 100 << 20), "second").unwrap_err();
    assert!(matches!(failed, WriteError::Backend(BackendError::Full { .. })) && failed.is_full(), "{failed}");
    assert!(matches!(session.commit(), Err(WriteError::Backend(BackendError::Full { .. }))));
    drop(session);
    let reopened = Repository::open(local(&path), PASSWORD).unwrap();
    assert!(read_file(&reopened, first, "disks/vda") == content);
    assert_healthy(&reopened);
    let report = reopened.prune(&PruneOptions::default(), &unwatched).unwrap();
    assert!(report.packs_unlisted >= 1, "{report:?}");
    let second = backup(&reopened, "vdb", &bytes(3, 2 << 20), "third");
    assert_eq!(read_file(&reopened, second, "disks/vdb"), bytes(3, 2 << 20));
}
