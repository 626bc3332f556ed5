//! Several processes on one repository at once, as hosts have it: they back up, forget and prune, and so does restic.
//! Whatever the order, every snapshot that nobody forgot is whole in the end.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use repository::{ForgetError, LockError, PruneError, PruneOptions, Repository, SessionOptions, WriteError};
use support::*;

/// What the child does: the repository's folder, its number, and how many rounds.
const ROLE: &str = "BACKSTAY_CROWD_ROLE";
const PLACE: &str = "BACKSTAY_CROWD_PLACE";
const HOSTS: u64 = 2;
const ROUNDS: u64 = 6;

/// What a host stores in a round: half of it all hosts have, a part stays from round to round.
fn content(host: u64, round: u64) -> Vec<u8> {
    [bytes(7, 2 << 20), bytes(100 * host + round / 2, 2 << 20), bytes(100 * host + 50 + round, 1 << 20)]
        .concat()
}

fn tag(host: u64, round: u64) -> String {
    format!("host{host}-{round}")
}

/// Tries until nobody is in the way: an exclusive lock is held for moments here.
fn insist<T, E: std::fmt::Debug>(mut work: impl FnMut() -> Result<T, E>, locked: impl Fn(&E) -> bool) -> T {
    let start = Instant::now();
    loop {
        match work() {
            Ok(done) => return done,
            Err(error) if locked(&error) => {
                assert!(start.elapsed() < Duration::from_secs(120), "locked for ever: {error:?}");
                std::thread::sleep(Duration::from_millis(3));
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

fn is_locked(error: &LockError) -> bool {
    matches!(error, LockError::Locked { .. })
}

fn host(place: &Path, number: u64) {
    let repository = Repository::open(local(place), PASSWORD).unwrap();
    for round in 0..ROUNDS {
        let content = content(number, round);
        let locked = |error: &WriteError| matches!(error, WriteError::Lock(error) if is_locked(error));
        let saved = insist(
            || {
                let session = repository.session(&SessionOptions::default())?;
                try_backup(&session, "vda", &content, &tag(number, round))
            },
            locked,
        );
        assert!(read_file(&repository, saved, "disks/vda") == content, "host {number}, round {round}");
        if round % 3 == 1 {
            // The one before, of which the next round still has a part.
            let gone = repository.snapshots_with_tag(&tag(number, round - 1)).unwrap()[0].0;
            let locked = |error: &ForgetError| matches!(error, ForgetError::Lock(error) if is_locked(error));
            insist(|| repository.forget(gone), locked);
        }
    }
}

/// Prunes until it is told to stop: at once, or in two phases, and so strictly that much is moved.
fn pruner(place: &Path) {
    let repository = Repository::open(local(place), PASSWORD).unwrap();
    let mut done = 0;
    for grace in [TimeDelta::zero(), TimeDelta::hours(1)].into_iter().cycle() {
        if place.with_extension("over").exists() {
            break;
        }
        let options = PruneOptions { max_unused_percent: 0, grace, ..PruneOptions::default() };
        match repository.prune(&options, &repository::unwatched) {
            Ok(_) => done += 1,
            Err(PruneError::Lock(error)) if is_locked(&error) => {}
            Err(error) => panic!("{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("{done} prunes got their turn");
}

#[test]
#[ignore = "one of the processes of the test below; does nothing without it"]
fn child() {
    let Some(place) = std::env::var_os(PLACE).map(PathBuf::from) else { return };
    match std::env::var(ROLE).unwrap().as_str() {
        "pruner" => pruner(&place),
        number => host(&place, number.parse().unwrap()),
    }
}

fn start(place: &Path, role: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--ignored", "--nocapture"]);
    command.env(PLACE, place).env(ROLE, role).stdout(Stdio::null()).spawn().unwrap()
}

#[test]
fn hosts_that_back_up_forget_and_prune_at_once_lose_nothing() {
    let place = Place::new();
    let path = place.path();
    let mut hosts = (0..HOSTS).map(|number| start(&path, &number.to_string())).collect::<Vec<_>>();
    let mut pruner = start(&path, "pruner");
    // restic among them: what it refuses because of a lock it may refuse, and nothing else.
    let source = place.folder.path().join("source");
    std::fs::write(&source, bytes(7, 3 << 20)).unwrap();
    let (mut rounds, mut pruned) = (0, 0);
    let with_restic = restic_is_there();
    let mut ended = 0;
    while ended < hosts.len() {
        if with_restic {
            let words: &[&str] = match rounds % 3 {
                0 => &["backup", source.to_str().unwrap()],
                1 => &["prune", "--max-unused", "0"],
                _ => &["check"],
            };
            let answer = restic_try(&path, words);
            let said = String::from_utf8_lossy(&answer.stderr).into_owned();
            assert!(answer.status.success() || said.contains("already locked"), "restic {words:?}: {said}");
            pruned += usize::from(rounds % 3 == 1 && answer.status.success());
            rounds += 1;
        } else {
            std::thread::sleep(Duration::from_millis(50));
        }
        ended = hosts.iter_mut().filter_map(|host| host.try_wait().unwrap()).count();
    }
    std::fs::write(path.with_extension("over"), "").unwrap();
    for child in hosts.iter_mut().chain([&mut pruner]) {
        assert!(child.wait().unwrap().success(), "a process of the crowd failed; its error is above");
    }
    println!("restic had {rounds} turns, and pruned in {pruned} of them");

    let repository = place.reopened();
    for host in 0..HOSTS {
        for round in 0..ROUNDS {
            let found = repository.snapshots_with_tag(&tag(host, round)).unwrap();
            if round % 3 == 0 && round + 1 < ROUNDS {
                assert_eq!(found.len(), 0, "host {host} forgot round {round}");
            } else {
                assert!(read_file(&repository, found[0].0, "disks/vda") == content(host, round));
            }
        }
    }
    assert_healthy(&repository);
    assert_eq!(files(&path.join("locks")).len(), 0, "locks are left");
    repository.prune(&PruneOptions::default(), &repository::unwatched).unwrap();
    if with_restic {
        restic(&path, &["check", "--read-data"]);
    }
}
