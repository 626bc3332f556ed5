//! Power lost in the middle of every single operation, on a simulated disk: nothing acknowledged is lost.

#![allow(clippy::unwrap_used)]

mod log_support;

use std::sync::Arc;

use journal::log::medium::{Crash, SimulatedDisk};
use journal::log::{Entry, Frame, Log, LogError, Options, Recovered, verify_disk};
use log_support::{dice, entry, quiet};
use rand::Rng;
use rand::rngs::StdRng;

fn open(disk: &SimulatedDisk) -> Result<(Log, Recovered, Vec<Frame>), LogError> {
    let mut frames = Vec::new();
    let (log, recovered) =
        Log::open_on(Arc::new(disk.clone()), &options(), |frame| frames.push(frame.clone()))?;
    Ok((log, recovered, frames))
}

/// Small segments, so that a short life sees many of them.
fn options() -> Options {
    Options { first_segment_bytes: 2048, segment_bytes: 8192, ..quiet() }
}

/// What a life of the log wrote: its commits, and how many of them were acknowledged.
struct Life {
    commits: Vec<Vec<Entry>>,
    acknowledged: usize,
}

impl Life {
    /// Appends commits of one to six entries until power goes.
    fn live(disk: &SimulatedDisk, dice: &mut StdRng) -> Life {
        let mut life = Life { commits: Vec::new(), acknowledged: 0 };
        let Ok((log, ..)) = open(disk) else { return life };
        let mut number = 0;
        for _ in 0..14 {
            let commit: Vec<Entry> = (0..dice.random_range(1..=6))
                .map(|_| {
                    number += 1;
                    entry(number, dice.random_range(0..900))
                })
                .collect();
            life.commits.push(commit.clone());
            if log.append_blocking(commit).is_err() {
                break;
            }
            life.acknowledged += 1;
        }
        life
    }

    /// All that was acknowledged is there, and what else is there is the beginning of what was asked for.
    fn check(&self, frames: &[Frame]) {
        let asked: Vec<&Entry> = self.commits.iter().flatten().collect();
        let promised = self.commits[..self.acknowledged].iter().flatten().count();
        assert!(frames.len() >= promised, "{promised} entries were acknowledged, {} are left", frames.len());
        assert!(frames.len() <= asked.len());
        for (frame, entry) in frames.iter().zip(asked) {
            assert_eq!(frame.entry, *entry, "sequence {}", frame.seq);
        }
    }
}

fn crashes(dice: &mut StdRng) -> Vec<Crash> {
    let some = (0..6).map(|_| Crash::LoseSome(dice.random()));
    [Crash::Process, Crash::LoseAll].into_iter().chain(some).collect()
}

#[test]
fn power_lost_at_every_operation_loses_nothing_acknowledged() {
    let (seed, mut dice) = dice("power");
    for nth in 1.. {
        let disk = SimulatedDisk::new();
        disk.power_off(nth);
        let life = Life::live(&disk, &mut dice);
        let survived = disk.operations() < nth;
        for crash in crashes(&mut dice) {
            println!("power off at operation {nth}, {crash:?}, BACKSTAY_SEED={seed}");
            let after = disk.crashed(crash);
            assert!(
                verify_disk(&after)
                    .unwrap()
                    .problems
                    .iter()
                    .all(|p| p.what.starts_with("tail: ") || p.segment == "mark")
            );
            let (log, _, frames) = open(&after).unwrap();
            life.check(&frames);
            let next = frames.len() as u64 + 1;
            assert_eq!(log.append_blocking(vec![entry(next, 50)]).unwrap(), next..next + 1);
            drop(log);
            let verification = verify_disk(&after).unwrap();
            assert!(verification.ok, "{verification:#?}");
            assert_eq!(verification.last, Some(next));
        }
        if survived {
            assert!(nth > 60, "the whole life took {nth} operations: too few to mean anything");
            return;
        }
    }
}

/// Recovery itself is interrupted at every operation, and begun again.
#[test]
fn power_lost_while_recovering_loses_nothing_replayed() {
    let (seed, mut dice) = dice("recovery");
    for nth in (9..70).step_by(4) {
        let disk = SimulatedDisk::new();
        disk.power_off(nth);
        let life = Life::live(&disk, &mut dice);
        let torn = disk.crashed(Crash::LoseSome(dice.random()));
        for second in 1.. {
            println!("power off at operation {nth}, then at {second} of recovery, BACKSTAY_SEED={seed}");
            let again = torn.crashed(Crash::Process);
            again.power_off(second);
            let first_try = open(&again);
            let replayed = first_try.as_ref().map_or(0, |(_, _, frames)| frames.len());
            let survived = first_try.is_ok();
            drop(first_try);
            let (_log, _, frames) = open(&again.crashed(Crash::LoseSome(dice.random()))).unwrap();
            life.check(&frames);
            assert!(frames.len() >= replayed, "what a start replayed is as durable as what was acknowledged");
            if survived && again.operations() < second {
                break;
            }
        }
    }
}

#[test]
fn a_failed_sync_is_not_tried_again_and_not_believed_at_the_next_start() {
    let disk = SimulatedDisk::new();
    let (log, ..) = open(&disk).unwrap();
    log.append_blocking(vec![entry(1, 100)]).unwrap();
    disk.fail_sync(1);
    let syncs = disk.syncs();
    let error = log.append_blocking(vec![entry(2, 100)]).unwrap_err();
    assert!(matches!(error, LogError::Io { doing: "write and sync", .. }), "{error}");
    let error = log.append_blocking(vec![entry(3, 100)]).unwrap_err();
    assert!(matches!(&error, LogError::Poisoned { first } if first.contains("could not write")), "{error}");
    let mut reader = log.reader(1).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().seq, 1, "readers go on");
    assert!(reader.next().unwrap().is_none());
    drop(log);
    assert_eq!(disk.syncs(), syncs + 1, "nothing is synced after the failure");

    // The frame is still in memory, called clean, and not on the disk. Who replays it must write it once
    // more.
    let restarted = disk.crashed(Crash::Process);
    let (log, _, frames) = open(&restarted).unwrap();
    assert_eq!(frames.len(), 2);
    drop(log);
    assert_eq!(open(&restarted.crashed(Crash::LoseAll)).unwrap().2.len(), 2);
}

/// A writer that rests notes how far it is durable. A disk that fails then has failed nobody's request; whoever watches over
/// the log has to learn of it all the same.
#[test]
fn a_disk_that_fails_while_nobody_appends_is_told() {
    let disk = SimulatedDisk::new();
    let options = Options { settle_after: std::time::Duration::from_millis(1), ..quiet() };
    let (log, _) = Log::open_on(Arc::new(disk.clone()), &options, |_| {}).unwrap();
    // The append syncs once, and what comes of itself fails.
    disk.fail_sync(2);
    log.append_blocking(vec![entry(1, 100)]).unwrap();
    let mut stopped = log.stopped();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let told = runtime.block_on(async {
        let told = stopped.wait_for(Option::is_some);
        tokio::time::timeout(std::time::Duration::from_secs(30), told).await.unwrap().unwrap().clone()
    });
    assert!(told.unwrap().contains("could not"));
    assert!(matches!(log.append_blocking(vec![entry(2, 100)]), Err(LogError::Poisoned { .. })));
}
