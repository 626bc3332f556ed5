//! What a prune decides, case by case.

#![allow(clippy::unwrap_used)]
use super::*;
use crate::id::Digest;

fn blob(number: u8, length: u32) -> BlobEntry {
    BlobEntry { id: Digest([number; 32]), kind: BlobKind::Data, offset: 0, length, raw_length: 0 }
}

fn survey(packs: &[(u8, &[BlobEntry])], used: &[u8]) -> Survey {
    let indexed = packs
        .iter()
        .map(|(id, blobs)| IndexPack { id: PackId([*id; 32]), blobs: blobs.to_vec() })
        .collect::<Vec<_>>();
    let stored = indexed
        .iter()
        .map(|pack| Listed { id: pack.id.into(), size: pack::expected_size(&pack.blobs) })
        .collect();
    let data = used.iter().map(|number| Digest([*number; 32])).collect();
    Survey { stored, indexed, used: Used { data, ..Used::default() }, ..Survey::default() }
}

fn instant(hour: u32) -> DateTime<Utc> {
    use chrono::TimeZone as _;
    Utc.with_ymd_and_hms(2026, 1, 2, hour, 0, 0).unwrap()
}

fn make(survey: Survey, max_unused_percent: u8) -> Result<Plan, PruneError> {
    let options = PruneOptions { max_unused_percent, ..PruneOptions::default() };
    Plan::make(survey, &options, instant(12))
}

/// With an hour's grace, at twelve.
fn gently(survey: Survey) -> Plan {
    let grace = TimeDelta::hours(1);
    let options = PruneOptions { max_unused_percent: 0, grace, ..PruneOptions::default() };
    Plan::make(survey, &options, instant(12)).unwrap()
}

/// Takes packs off the list and marks them.
fn mark(survey: &mut Survey, id: u8, hour: u32) {
    let place = survey.indexed.iter().position(|pack| pack.id == PackId([id; 32])).unwrap();
    let IndexPack { id, blobs } = survey.indexed.remove(place);
    survey.marked.push(MarkedPack { id, blobs, time: Some(instant(hour)), size: None });
}

#[test]
fn with_a_grace_time_packs_are_marked_and_go_when_it_is_over() {
    let packs: &[(u8, &[BlobEntry])] =
        &[(1, &[blob(1, 50)]), (2, &[blob(2, 50)]), (3, &[blob(3, 50)]), (4, &[blob(4, 50)])];
    let mut state = survey(packs, &[1]);
    mark(&mut state, 3, 11);
    // By a clock that is ahead of ours.
    mark(&mut state, 4, 20);
    state.stored.push(Listed { id: FileId([9; 32]), size: 77 });
    let plan = gently(state);
    let mut marked = plan.marked.iter().map(|pack| (pack.id.0[0], pack.time)).collect::<Vec<_>>();
    marked.sort_unstable();
    assert_eq!(marked, [(2, Some(instant(12))), (4, Some(instant(12))), (9, Some(instant(12)))]);
    assert_eq!(plan.remove, [FileId([3; 32])]);
    assert!(plan.index_changes);
    let report = plan.report();
    assert_eq!((report.packs_marked, report.packs_removed, report.packs_unlisted), (3, 1, 1));
    assert_eq!(report.first_due, Some(instant(13)));
}

#[test]
fn while_all_marks_wait_the_index_stays_as_it_is() {
    let packs: &[(u8, &[BlobEntry])] = &[(1, &[blob(1, 50)]), (2, &[blob(2, 50)])];
    let mut state = survey(packs, &[1]);
    mark(&mut state, 2, 12);
    let plan = gently(state);
    assert!(!plan.index_changes && plan.remove.is_empty());
    assert_eq!(plan.report().packs_marked, 1);
}

#[test]
fn a_marked_pack_that_is_needed_is_taken_back_unless_its_blobs_are_elsewhere() {
    let packs: &[(u8, &[BlobEntry])] =
        &[(1, &[blob(1, 50), blob(9, 50)]), (2, &[blob(1, 50)]), (3, &[blob(3, 50)])];
    let mut state = survey(packs, &[1, 3, 9]);
    // The first would waste nothing, the second is as good.
    mark(&mut state, 2, 9);
    mark(&mut state, 3, 9);
    let plan = gently(state);
    assert_eq!(plan.report().packs_taken_back, 1);
    let mut kept = plan.keep.iter().map(|pack| pack.id.0[0]).collect::<Vec<_>>();
    kept.sort_unstable();
    assert_eq!(kept, [1, 3]);
    assert_eq!(plan.remove, [FileId([2; 32])]);
    assert!(plan.index_changes);
}

#[test]
fn what_is_listed_and_marked_is_listed() {
    let mut state = survey(&[(1, &[blob(1, 50)])], &[1]);
    let IndexPack { id, blobs } = state.indexed[0].clone();
    state.marked.push(MarkedPack { id, blobs, time: Some(instant(1)), size: None });
    let plan = gently(state);
    assert_eq!((plan.keep.len(), plan.report().packs_taken_back, plan.index_changes), (1, 0, false));
}

#[test]
fn drops_unused_keeps_full_and_repacks_what_wastes_most() {
    let packs: &[(u8, &[BlobEntry])] = &[
        (1, &[blob(1, 1000), blob(2, 1000)]),
        (2, &[blob(3, 9900), blob(4, 100)]),
        (3, &[blob(5, 100), blob(6, 900)]),
        (4, &[blob(7, 500)]),
    ];
    let plan = make(survey(packs, &[1, 2, 3, 5]), 5).unwrap();
    assert_eq!(plan.keep.len(), 2, "the full one, and the one that wastes 1 %");
    assert_eq!(plan.repack.len(), 1);
    assert_eq!(plan.repack[0].id, PackId([3; 32]));
    assert_eq!(plan.report.packs_unused, 1);
    assert_eq!(plan.report.bytes_unused, 100);
    let strict = make(survey(packs, &[1, 2, 3, 5]), 0).unwrap();
    assert_eq!(strict.repack.len(), 2);
}

#[test]
fn of_a_blob_in_two_packs_one_copy_stays() {
    let packs: &[(u8, &[BlobEntry])] = &[(1, &[blob(1, 50), blob(2, 50)]), (2, &[blob(1, 50)])];
    let plan = make(survey(packs, &[1]), 0).unwrap();
    assert_eq!(plan.keep.len(), 1);
    assert_eq!(plan.keep[0].id, PackId([2; 32]));
    assert_eq!(plan.report.packs_unused, 1);
}

#[test]
fn refuses_when_something_is_missing() {
    let packs: &[(u8, &[BlobEntry])] = &[(1, &[blob(1, 50)])];
    assert!(matches!(make(survey(packs, &[1, 9]), 5), Err(PruneError::Missing { count: 1, .. })));
    let mut gone = survey(packs, &[1]);
    gone.stored.clear();
    assert!(matches!(make(gone, 5), Err(PruneError::Missing { count: 1, .. })));
    let mut short = survey(packs, &[1]);
    short.stored[0].size -= 1;
    assert!(matches!(make(short, 5), Err(PruneError::DamagedPack { .. })));
}

#[test]
fn unlisted_packs_and_listed_ghosts_go() {
    let packs: &[(u8, &[BlobEntry])] = &[(1, &[blob(1, 50)]), (2, &[blob(2, 50)])];
    let mut state = survey(packs, &[1]);
    state.stored.retain(|file| file.id != FileId([2; 32]));
    state.stored.push(Listed { id: FileId([8; 32]), size: 77 });
    let plan = make(state, 5).unwrap();
    assert!(plan.index_changes);
    assert_eq!(plan.remove, [FileId([8; 32])]);
    assert_eq!(plan.report.bytes_removed, 77);
}
