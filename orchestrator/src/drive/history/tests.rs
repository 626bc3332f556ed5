//! The index is a projection of the journal: the same records, the same index, whatever was done to its files.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use journal::log::{Options, Reader};
use journal::record::{PolicyApplied, Record};
use journal::{PointId, State, Time};

use super::index::{CONDEMNED, Index};
use super::story::{self, Site, story};
use super::*;
use crate::drive::start::fold;

fn copy(from: &Path, to: &Path) {
    let _not_there = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// However the index came about, the same journal makes the same index.
#[tokio::test]
async fn the_same_journal_makes_the_same_index() {
    let folder = tempfile::tempdir().unwrap();
    let (data, aside) = (folder.path().join("data"), folder.path().join("aside"));
    let index = data.join("index");
    let groups = story(story::seed(), 600);
    let mut site = Site::open(&data);
    site.live(&groups[..300]).await;
    site.history.reach(site.last()).unwrap();
    let halfway = site.last();
    copy(&index, &aside);
    site.live(&groups[300..]).await;
    let (lived, state, last) = (site.all().await, site.state.clone(), site.last());
    assert!(lived.len() > 1000, "{} entries prove little", lived.len());
    assert!(!site.history.gone(None).is_empty(), "no point went");
    assert!(state.jobs.len() > 10 && !state.open.is_empty());
    drop(site);

    let harms: [(&str, &dyn Fn()); 6] = [
        ("nothing", &|| {}),
        ("it was deleted", &|| std::fs::remove_dir_all(&index).unwrap()),
        ("it is an older one", &|| copy(&aside, &index)),
        ("a half snapshot lies in it", &|| {
            std::fs::write(index.join("snap.00.generating"), b"half").unwrap();
        }),
        ("its files are garbage", &|| {
            for entry in std::fs::read_dir(&index).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_file() {
                    std::fs::write(entry.path(), [0xa5; 4096]).unwrap();
                }
            }
        }),
        ("it is a file", &|| {
            std::fs::remove_dir_all(&index).unwrap();
            std::fs::write(&index, b"not a folder").unwrap();
        }),
    ];
    for (what, harm) in harms {
        harm();
        let site = Site::open(&data);
        assert!(site.all().await == lived, "when {what}");
        assert_eq!(site.state, state);
    }
    assert!(halfway < last);
    // A kill between two batches of a start.
    std::fs::remove_dir_all(&index).unwrap();
    let mut half = Index::open(&index).unwrap();
    let journal = crate::journal_folder(&data);
    let mut shown = State::default();
    let mut reader = Reader::open(&journal, 1).unwrap();
    let mut catch_up = half.catch_up(&journal);
    while let Some(frame) = reader.next().unwrap().filter(|frame| frame.seq <= halfway) {
        let record = journal::replay::fold(&mut shown, &frame).unwrap();
        catch_up.take(frame.seq, &shown, &record);
    }
    catch_up.finish();
    assert_eq!(half.through(), halfway);
    drop(half);
    assert!(Site::open(&data).all().await == lived, "after a kill between");
}

/// What the index lists is what a reader finds who goes through all records.
#[tokio::test]
async fn what_is_over_and_gone_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let mut site = Site::open(folder.path());
    let groups = story(story::seed() + 1, 800);
    site.live(&groups).await;
    site.all().await;
    let records = || groups.iter().flatten();
    let ended = records().filter_map(|record| match record {
        Record::JobEnded(it) => Some(it.job),
        _ => None,
    });
    let mut ended: Vec<JobId> = ended.collect();
    ended.sort_unstable();
    let newest: Vec<JobId> = site.history.newest(None, usize::MAX).iter().rev().map(|job| job.id).collect();
    assert_eq!(newest, ended);
    let of = |vm| site.history.newest(Some(vm), usize::MAX);
    for vm in [story::vm(1), story::vm(2)] {
        assert!(!of(vm).is_empty() && of(vm).is_sorted_by_key(|job| std::cmp::Reverse(job.ended)));
    }
    let some = of(story::vm(1)).len() + of(story::vm(2)).len();
    assert!(0 < some && some < ended.len(), "checks of a repository are of no VM");

    let gone = site.history.gone(None);
    let missing = records().filter(|record| matches!(record, Record::PointGone(_))).count();
    let missed = gone.iter().filter(|kept| kept.gone.as_ref().is_some_and(|gone| gone.how == How::Missing));
    assert_eq!(missed.count(), missing);
    assert!(gone.len() > missing, "none was forgotten");
    let all: Vec<PointId> = site.state.points.keys().copied().collect();
    assert!(gone.iter().all(|kept| !all.contains(&kept.point.id)));
    for point in site.state.points.values() {
        assert_eq!(site.history.point(point.id), Some(Kept { point: point.clone(), gone: None }));
    }
    let by_vm: usize = [1, 2].map(|vm| site.history.gone(Some(story::vm(vm))).len()).iter().sum();
    assert_eq!(by_vm, gone.len());
}

#[tokio::test]
async fn an_index_of_another_journal_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (folder.path().join("one"), folder.path().join("other"));
    for (data, seed) in [(&one, 1), (&other, 2)] {
        let mut site = Site::open(data);
        site.live(&story(seed, 100)).await;
        site.all().await;
    }
    let right = Site::open(&other).all().await;
    copy(&one.join("index"), &other.join("index"));
    assert!(Site::open(&other).all().await == right);
}

#[tokio::test]
async fn an_index_that_is_ahead_of_the_journal_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let mut site = Site::open(folder.path());
    site.live(&story(3, 50)).await;
    site.history.reach(site.last()).unwrap();
    drop(site);
    std::fs::remove_dir_all(crate::journal_folder(folder.path())).unwrap();
    let (opened, index) = fold(folder.path()).unwrap();
    assert_eq!((opened.base, index.through()), (0, 0));
}

/// Notes that were lost are not guessed at: what is there is not believed, and the next start makes it good.
#[tokio::test]
async fn a_gap_ends_the_writing_until_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let groups = story(4, 100);
    let mut site = Site::open(folder.path());
    site.live(&groups[..50]).await;
    assert!(site.history.caught_up(site.last()).await);
    let at = *site.log.durable().borrow();
    let record = PolicyApplied { name: "p".parse().unwrap(), text: String::new() }.into();
    let note = site.history.note(at.seq + 2, Time(0), &site.state, &record);
    site.history.take(vec![note], at);
    site.live(&groups[50..]).await;
    assert!(!site.history.caught_up(site.last()).await);
    assert!(site.history.reach(site.last()).is_err(), "no base may stand on it");
    let wanted =
        Wanted { after: 0, upto: 1, since: Time(i64::MIN), until: Time(i64::MAX), limit: usize::MAX };
    assert_eq!(site.history.records_of(story::vm(1), &wanted), None);
    assert_eq!(site.history.stretches(&wanted), None);
    assert!(folder.path().join("index").join(CONDEMNED).exists());
    drop(site);
    let mended = Site::open(folder.path()).all().await;
    std::fs::remove_dir_all(folder.path().join("index")).unwrap();
    assert!(mended == Site::open(folder.path()).all().await);
}

/// Archived records that were taken away are no reason for not starting: the index begins where they end.
#[tokio::test]
async fn an_index_begins_at_the_end_where_older_records_are_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut site = Site::open(&data);
    let large = |number: usize| PolicyApplied {
        name: "large".parse().unwrap(),
        text: format!("{number}{}", "x".repeat(100_000)),
    };
    let mut groups = story(5, 300);
    groups.extend((0..20).map(|number| vec![large(number).into()]));
    site.live(&groups).await;
    site.history.reach(site.last()).unwrap();
    let (state, last) = (site.state.clone(), site.last());
    drop(site);
    // A base, and all that can be archived.
    let journal = crate::journal_folder(&data);
    let opened = journal::replay::open(&journal, &Options::default(), 0, |_, _, _| {}).unwrap();
    let disk = journal::log::medium::RealDisk::create(&journal).unwrap();
    let at = *opened.log.durable().borrow();
    journal::base::write(&disk, &journal::base::Base { at, state: opened.state }).unwrap();
    assert!(opened.log.archive(u64::MAX, 0).unwrap().segments > 0);
    drop(opened.log);
    let whole = Site::open(&data).all().await;
    std::fs::rename(journal.join("archive"), folder.path().join("tape")).unwrap();
    std::fs::remove_dir_all(data.join("index")).unwrap();

    let mut site = Site::open(&data);
    assert_eq!(site.state, state);
    assert_eq!(site.history.inner.first, last + 1);
    let over = state.jobs.values().filter(|job| job.state.is_over()).count();
    assert_eq!(site.history.newest(None, usize::MAX).len(), over);
    assert!(site.history.point(*state.points.keys().next().unwrap()).is_some());
    let (vm, job) = (story::vm(1), site.state.next.job);
    site.live(&[vec![
        journal::record::JobQueued {
            job,
            work: journal::record::Work::Reconcile { vm },
            due: None,
            terms: journal::record::Terms::default(),
        }
        .into(),
    ]])
    .await;
    site.all().await;
    let wanted = |after| Wanted {
        after,
        upto: last + 1,
        since: Time(i64::MIN),
        until: Time(i64::MAX),
        limit: usize::MAX,
    };
    assert_eq!(site.history.records_of(vm, &wanted(0)), None, "it does not know");
    assert_eq!(site.history.records_of(vm, &wanted(last)).unwrap().len(), 1);
    drop(site);
    // Once they are back, an index that is removed is whole again.
    std::fs::rename(folder.path().join("tape"), journal.join("archive")).unwrap();
    std::fs::remove_dir_all(data.join("index")).unwrap();
    let again = Site::open(&data).all().await;
    let lasting = whole.iter().filter(|(key, _)| !matches!(key[0], b'm' | b'b'));
    assert!(lasting.clone().count() > 100 && lasting.clone().all(|entry| again.contains(entry)));
}
