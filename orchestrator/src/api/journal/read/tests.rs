//! What the index finds is what reading the whole journal finds, and an index that is wrong is found out.
#![allow(clippy::unwrap_used)]

use journal::{Epoch, State};

use super::*;
use crate::drive::{Site, story};

fn wanted(after: u64, upto: u64, limit: usize) -> Wanted {
    Wanted { after, upto, since: Time(i64::MIN), until: Time(i64::MAX), limit }
}

fn seqs(frames: &[Frame]) -> Vec<u64> {
    frames.iter().map(|frame| frame.seq).collect()
}

/// With the index or without it, from wherever, a page shows the same.
#[tokio::test]
async fn the_index_shows_what_reading_everything_shows() {
    let folder = tempfile::tempdir().unwrap();
    let mut site = Site::open(folder.path());
    site.live(&story::story(story::seed() + 9, 700)).await;
    let last = site.last();
    assert!(site.history.caught_up(last).await);
    let readers = Readers::default();
    let source = Source { log: &site.log, history: &site.history, readers: &readers };
    for vm in [1, 2, 3].map(story::vm) {
        for (after, limit) in [(0, 1000), (0, 7), (last / 2, 3), (last - 1, 1000), (last - 40, 1000)] {
            let wanted = wanted(after, last, limit);
            let with = source.read(Some(vm), &wanted, true).unwrap();
            assert_eq!(with, source.read(Some(vm), &wanted, false).unwrap(), "{vm} {wanted:?}");
            assert!(with.len() <= limit);
        }
    }
    let all = source.read(None, &wanted(0, last, usize::MAX), false).unwrap();
    assert_eq!(seqs(&all), (1..=last).collect::<Vec<_>>());
    let of_vm = source.read(Some(story::vm(1)), &wanted(0, last, usize::MAX), true).unwrap();
    assert!(!of_vm.is_empty() && of_vm.len() < all.len());
    // Times: any two records' own, in whichever order the wall clock put them.
    for (from, to) in [(0, all.len() - 1), (all.len() / 3, all.len() / 2), (all.len() / 2, all.len() / 2)] {
        let times = (Time(all[from].entry.time), Time(all[to].entry.time));
        let wanted = Wanted { since: times.0, until: times.1, ..wanted(0, last, usize::MAX) };
        let expected: Vec<u64> = seqs(
            &all.iter()
                .filter(|frame| (times.0.0..=times.1.0).contains(&frame.entry.time))
                .cloned()
                .collect::<Vec<_>>(),
        );
        assert_eq!(seqs(&source.read(None, &wanted, true).unwrap()), expected);
        assert_eq!(seqs(&source.read(None, &wanted, false).unwrap()), expected);
        let of_vm = |indexed| seqs(&source.read(Some(story::vm(2)), &wanted, indexed).unwrap());
        assert_eq!(of_vm(true), of_vm(false));
    }
    assert!(readers.resting().len() <= RESTING);
}

/// A poll goes on with the reader of the one before it.
#[tokio::test]
async fn a_follower_costs_what_is_new() {
    let folder = tempfile::tempdir().unwrap();
    let mut site = Site::open(folder.path());
    let groups = story::story(story::seed() + 2, 300);
    site.live(&groups[..150]).await;
    let readers = Readers::default();
    let mut after = 0;
    let mut shown = Vec::new();
    for group in &groups[150..] {
        site.live(std::slice::from_ref(group)).await;
        let last = site.last();
        assert!(site.history.caught_up(last).await);
        let source = Source { log: &site.log, history: &site.history, readers: &readers };
        let page = source.read(Some(story::vm(1)), &wanted(after, last, 1000), true).unwrap();
        shown.extend(seqs(&page));
        after = last;
        assert!(readers.resting().len() <= 1, "it is the same one each time");
    }
    let source = Source { log: &site.log, history: &site.history, readers: &readers };
    let all = source.read(Some(story::vm(1)), &wanted(0, after, usize::MAX), false).unwrap();
    assert_eq!(shown, seqs(&all));
    readers.forget();
    assert!(readers.resting().is_empty());
}

/// The index is never trusted over the journal.
#[tokio::test]
async fn a_record_that_is_not_what_the_index_says_is_read_from_the_journal() {
    let folder = tempfile::tempdir().unwrap();
    let mut site = Site::open(folder.path());
    let groups = story::story(story::seed() + 3, 100);
    site.live(&groups).await;
    let last = site.last();
    assert!(site.history.caught_up(last).await);
    let readers = Readers::default();
    let source = Source { log: &site.log, history: &site.history, readers: &readers };
    let wanted = wanted(0, last, usize::MAX);
    let right = source.read(Some(story::vm(1)), &wanted, false).unwrap();
    site.history.falsify(story::vm(1), right[3].seq);
    assert_eq!(source.read(Some(story::vm(1)), &wanted, true).unwrap(), right);
    assert_eq!(site.history.records_of(story::vm(1), &wanted), None, "it is believed no more");
    let state: State = site.state.clone();
    drop(site);
    let mended = Site::open(folder.path());
    assert_eq!(mended.state, state);
    assert!(mended.history.caught_up(last).await);
    let listed = mended.history.records_of(story::vm(1), &wanted).unwrap();
    assert_eq!(listed.iter().map(|listed| listed.seq).collect::<Vec<_>>(), seqs(&right));
    assert_eq!(mended.state.epoch, Some(Epoch(1)));
}
