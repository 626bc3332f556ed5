//! A writer killed at any moment, and the order of its system calls.
//!
//! The child is this test binary, run again.

#![allow(clippy::unwrap_used)]

mod log_support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use journal::log::{Log, Options, verify};
use log_support::{dice, entry, open, quiet};
use rand::Rng;

const DIR: &str = "LOG_TEST_CHILD_DIR";
const WRITERS: &str = "LOG_TEST_CHILD_WRITERS";
const EACH: &str = "LOG_TEST_CHILD_EACH";

fn options() -> Options {
    Options {
        first_segment_bytes: 16 << 10,
        segment_bytes: 64 << 10,
        settle_after: Duration::from_millis(1),
        prepare_ahead: true,
        ..Options::default()
    }
}

/// The child: appends from several threads and says `sequence number` on standard output after each
/// acknowledgement.
#[test]
#[ignore = "run by the other tests of this file, in a process of its own"]
fn child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let number = |name| std::env::var(name).unwrap().parse::<u64>().unwrap();
    let options = if number(WRITERS) == 1 { quiet() } else { options() };
    let (log, _) = Log::open(Path::new(&dir), &options).unwrap();
    let start = log.durable().borrow().seq * 1000;
    std::thread::scope(|scope| {
        for writer in 0..number(WRITERS) {
            let log = log.clone();
            let each = number(EACH);
            scope.spawn(move || {
                for count in 0..each {
                    let id = start + writer * 1_000_000 + count;
                    let range = log.append_blocking(vec![entry(id, 200)]).unwrap();
                    // One write, so that a kill leaves whole lines; not `println!`, which the test harness
                    // may hold back.
                    std::io::stdout().write_all(format!("ack {} {id}\n", range.start).as_bytes()).unwrap();
                }
            });
        }
    });
}

fn child_args() -> [&'static str; 4] {
    ["--exact", "child", "--ignored", "--nocapture"]
}

fn spawn(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(child_args())
        .envs([(WRITERS, "4"), (EACH, "100000")])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_killed_writer_loses_nothing_acknowledged() {
    let (_, mut dice) = dice("kill");
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeMap::new();
    for round in 0..25 {
        let mut child = spawn(dir.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let enough = dice.random_range(0..400);
        let mut note = |line: &str| {
            let mut words = line.split(' ').skip_while(|word| !word.ends_with("ack")).skip(1);
            if let (Some(seq), Some(id)) = (words.next(), words.next()) {
                acknowledged.insert(seq.parse::<u64>().unwrap(), id.parse::<u64>().unwrap());
            }
        };
        lines.by_ref().take(enough).for_each(|line| note(&line));
        child.kill().unwrap();
        child.wait().unwrap();
        // What it still said before it died counts too.
        lines.for_each(|line| note(&line));
        let (log, recovered, frames) = open(dir.path(), &options()).unwrap();
        drop(log);
        for (seq, id) in &acknowledged {
            let frame = &frames[usize::try_from(seq - 1).unwrap()];
            assert_eq!((frame.seq, &frame.entry), (*seq, &entry(*id, 200)), "round {round}, {recovered:?}");
        }
        assert!(verify(dir.path()).unwrap().ok);
    }
    assert!(!acknowledged.is_empty());
}

/// Under `strace`: between the write of a frame and the word that it is acknowledged there is an `fdatasync`, or the
/// write is durable by itself.
#[test]
fn a_frame_is_synced_before_it_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let status = Command::new("strace")
        .args(["-f", "-qq", "-s", "4096", "-e", "trace=pwrite64,pwritev2,write,fdatasync", "-o"])
        .arg(&trace)
        .arg(std::env::current_exe().unwrap())
        .args(child_args())
        .envs([(WRITERS, "1"), (EACH, "20")])
        .env(DIR, dir.path().join("log"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match status {
        Ok(status) if status.success() => {}
        other => {
            assert!(std::env::var_os("CI").is_none(), "strace is not here, or may not trace: {other:?}");
            println!("SKIPPED: strace is not here, or may not trace ({other:?})");
            return;
        }
    }
    let (mut written, mut synced, mut acks) = (0, 0, 0);
    for line in std::fs::read_to_string(&trace).unwrap().lines() {
        let frame = line.contains("\\265kF\\32") && !line.contains("= -1");
        if frame && line.contains("pwrite64(") {
            written += 1;
        } else if frame && line.contains("pwritev2(") && line.contains("RWF_DSYNC") {
            written += 1;
            synced = written;
        } else if line.contains("fdatasync") && line.ends_with("= 0") {
            synced = written;
        } else if line.contains("write(1,") && line.contains("ack ") {
            acks += 1;
            assert_eq!((written, synced), (acks, acks), "{line}");
        }
    }
    assert_eq!(acks, 20);
}
