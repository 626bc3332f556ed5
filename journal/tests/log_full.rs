//! A full disk: new work is refused, what is under way is brought to its end, and all goes on when there is room.

#![allow(clippy::unwrap_used)]

mod log_support;

use std::sync::Arc;
use std::time::Duration;

use journal::log::medium::{Crash, Disk, SimulatedDisk};
use journal::log::{Log, LogError, Options, Purpose, Room, verify_disk};
use log_support::{entry, quiet};

const RESERVE: u64 = 8192;

fn options() -> Options {
    Options { reserve_bytes: RESERVE, prepare_ahead: true, ..quiet() }
}

fn open(disk: &SimulatedDisk, options: &Options) -> (Log, u64) {
    let (log, recovered) = Log::open_on(Arc::new(disk.clone()), options, |_| {}).unwrap();
    (log, recovered.frames_replayed)
}

/// Appends until work is refused; how many went in.
async fn fill(log: &Log) -> u64 {
    for number in 1..10_000 {
        match log.append(vec![entry(number, 100)]).await {
            Ok(_) => {}
            Err(LogError::Full { .. }) => return number - 1,
            Err(other) => panic!("{other}"),
        }
    }
    panic!("the disk never became full");
}

#[tokio::test]
async fn work_is_refused_and_recovery_goes_on_into_the_reserve() {
    for prepare_ahead in [false, true] {
        let options = Options { prepare_ahead, ..options() };
        let disk = SimulatedDisk::new();
        let (log, _) = open(&disk, &options);
        disk.free(Some(0));
        let before = fill(&log).await;
        assert_eq!(*log.room().borrow(), Room::Reserve);
        let again = log.append(vec![entry(1, 100)]).await;
        assert!(matches!(again, Err(LogError::Full { .. })), "{again:?}");
        // All that is needed to bring things to an end: more than is left in the segment.
        for number in 1..=40 {
            log.append_for(Purpose::Recovery, vec![entry(before + number, 100)]).await.unwrap();
        }
        let mut reader = log.reader(1).unwrap();
        while reader.next().unwrap().is_some() {}
        assert_eq!(reader.position().seq, before + 40, "readers go on");
        drop(log);
        assert!(verify_disk(&disk).unwrap().ok);
        assert_eq!(open(&disk.crashed(Crash::LoseAll), &options).1, before + 40);
    }
}

#[tokio::test]
async fn a_spent_reserve_is_refused_and_poisons_nothing() {
    let disk = SimulatedDisk::new();
    let (log, _) = open(&disk, &options());
    disk.free(Some(0));
    let before = fill(&log).await;
    let mut spent = 0;
    let refused = loop {
        match log.append_for(Purpose::Recovery, vec![entry(1, 100)]).await {
            Ok(_) => spent += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, LogError::Full { .. }), "{refused}");
    assert!(spent >= (RESERVE - 512) / 180, "{spent} records in the reserve of {RESERVE} bytes");
    // A start on the full disk: what is there is read, and the first thing that it wants to append is refused.
    let restarted = disk.crashed(Crash::Process);
    restarted.free(Some(0));
    let (again, replayed) = open(&restarted, &options());
    assert_eq!(replayed, before + spent);
    assert_eq!(*again.room().borrow(), Room::Reserve);
    disk.free(None);
    assert_eq!(
        log.append_for(Purpose::Recovery, vec![entry(1, 100)]).await.unwrap().start,
        before + spent + 1
    );
}

#[tokio::test]
async fn room_that_comes_back_is_found_without_a_restart() {
    let disk = SimulatedDisk::new();
    let (log, _) = open(&disk, &options());
    disk.free(Some(0));
    let before = fill(&log).await;
    for number in 1..=40 {
        log.append_for(Purpose::Recovery, vec![entry(before + number, 100)]).await.unwrap();
    }
    disk.free(None);
    let mut room = log.room();
    let back = tokio::time::timeout(Duration::from_secs(20), room.wait_for(|room| *room == Room::Enough));
    back.await.expect("nobody looked for room").unwrap();
    assert_eq!(log.append(vec![entry(1, 100)]).await.unwrap().start, before + 41);
    assert!(disk.open("reserve").unwrap().is_some(), "the reserve is made again before anything else");
    drop(log);
    assert!(verify_disk(&disk).unwrap().ok);
}

/// Work and recovery that are asked for in the same instant share a commit; only the work is turned away.
#[tokio::test]
async fn in_one_commit_only_the_work_is_turned_away() {
    let disk = SimulatedDisk::new();
    let (log, _) = open(&disk, &Options { prepare_ahead: false, ..options() });
    disk.free(Some(0));
    let (work, recovery) = tokio::join!(
        log.append(vec![entry(1, 5000)]),
        log.append_for(Purpose::Recovery, vec![entry(2, 100)]),
    );
    assert!(matches!(work, Err(LogError::Full { .. })), "{work:?}");
    assert_eq!(recovery.unwrap(), 1..2);
}

/// Who asks before he appends is not disappointed by the append.
#[tokio::test]
async fn room_that_was_promised_is_there() {
    for prepare_ahead in [false, true] {
        let disk = SimulatedDisk::new();
        let (log, _) = open(&disk, &Options { prepare_ahead, ..options() });
        disk.free(Some(20_000));
        let mut appended = 0;
        while log.make_room(3000).await.is_ok() {
            log.append(vec![entry(1, 3000 - 80)]).await.unwrap();
            appended += 1;
        }
        assert!(appended >= 2);
        assert_eq!(*log.room().borrow(), Room::Reserve);
    }
}
