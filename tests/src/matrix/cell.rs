//! One cell: make ready, strike, and hold everything that has to be true afterwards against what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::strike::{Struck, strike};
use super::{Cell, Operation, Victim, rows};
use crate::invariants;
use crate::lab::{PATIENCE, until};
use crate::point::Point;
use crate::stage::{Stage, prove, restored};

/// Why a backup is full after QEMU was killed: stored bitmaps are inconsistent then, and others are not there.
pub const KILLED: [&str; 2] = ["QEMU was killed or crashed", "QEMU was restarted and had not stored it"];

/// Why the first one is.
const FIRST: &str = "the first backup of this disk";

/// Why the first one is after a VM was let go of and taken in again, where QEMU has a UUID: its points are still known, and
/// its chain is not.
const CHAIN_GONE: &str = "is no longer tracked";

/// Why one is that was asked to be.
const ASKED: &str = "asked";

/// What the log of a server says that was killed, or whose QEMU was, or whose client changed its mind.
pub const HEALING: [&str; 5] = [
    "full next",
    "view lost",
    "the outcome of an effect is unknown",
    "removing a stale lock of the repository",
    "job failed",
];

/// Within what time Backstay heals by itself what no job needs: it looks again every 15 seconds.
const HEALED: Duration = Duration::from_secs(20);

/// What came of a cell in which everything held.
#[derive(Debug)]
pub struct Walked {
    /// Whether the crash came to pass: an operation may take a shorter way than the one that was counted.
    pub reached: bool,
    /// The rows of the reconcile table that the journal shows after the crash.
    pub rows: BTreeSet<String>,
}

/// What is known of a stage's points: those that were proven, by digest of their disks.
#[derive(Debug, Default)]
pub struct Ledger(BTreeMap<String, Vec<[u8; 32]>>);

impl Ledger {
    /// Whether the point was proven.
    pub fn knows(&self, point: &Point) -> bool {
        self.0.contains_key(&point.id)
    }

    /// Keeps the digests of a point that was proven.
    pub fn note(&mut self, point: &Point, digests: Vec<[u8; 32]>) {
        self.0.insert(point.id.clone(), digests);
    }
}

/// Makes a stage ready for cells: a first point, and one that builds on it.
#[track_caller]
pub fn make_ready(stage: &mut dyn Stage, ledger: &mut Ledger) {
    for text in HEALING {
        stage.server().expect_log(text);
    }
    back_up(stage, ledger, &Expected::Full(vec![FIRST]));
    back_up(stage, ledger, &Expected::Incremental);
    hold(stage);
}

/// Walks one cell.
///
/// # Panics
/// When anything does not hold.
#[track_caller]
pub fn visit(stage: &mut dyn Stage, ledger: &mut Ledger, cell: &Cell) -> Walked {
    let commands = cell.operation.prepare(stage);
    let image = commands[0].iter().skip_while(|word| *word != "--to").nth(1).cloned();
    let points = points(stage);
    let jobs = jobs(stage).len();
    let seq = rows::last(stage.server());
    let at = format!("{}:{}", cell.point, cell.passage);
    let Struck { reached, killed, client } = strike(stage, &at, cell.victim, commands);
    client.hear();
    let rows = rows::since(stage.server(), seq);

    jobs_are_over(stage, cell, jobs);
    // Backstay hears of the death of a QEMU in which nothing of it was under way when it looks again: before the next job.
    let knows = killed.is_none();
    if cell.operation == Operation::RemoveVm {
        managed_again(stage, knows);
    }
    if knows {
        hold(stage);
    }
    let expected = judge(stage, ledger, cell, &points, killed);
    no_point_is_lost(stage, cell, &points);
    if let Some(image) = image {
        restored_is_right(stage, ledger, &image, points.last());
    }
    // By itself, and as the table says: then as ever.
    stage.progress();
    back_up(stage, ledger, &expected);
    hold(stage);
    if expected != Expected::Incremental {
        back_up(stage, ledger, &Expected::Incremental);
    }
    an_older_point_is_as_it_was(stage, ledger, cell.passage);
    let locks = std::fs::read_dir(stage.restic().repository().join("locks")).expect("a repository's folder");
    assert_eq!(locks.count(), 0, "locks are left in the repository");
    Walked { reached, rows }
}

/// What the next backup has to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Expected {
    /// On all disks.
    Incremental,
    /// Because of one of these.
    Full(Vec<&'static str>),
}

impl Expected {
    #[track_caller]
    fn of(&self, point: &Point) {
        match self {
            Expected::Incremental => point.must_be_incremental(),
            Expected::Full(because) => point.must_be_full(because),
        }
    }
}

/// Judges and proves the points that came to be in the cell; what the next one has to be.
fn judge(
    stage: &mut dyn Stage,
    ledger: &mut Ledger,
    cell: &Cell,
    before: &[Point],
    killed: Option<DateTime<Utc>>,
) -> Expected {
    let anew = matches!(cell.operation, Operation::FirstFull | Operation::RemoveVm);
    let full = |because: &[&'static str]| Expected::Full(because.to_vec());
    let first = if anew { full(&[FIRST, CHAIN_GONE, KILLED[0], KILLED[1]]) } else { Expected::Incremental };
    let mut next = match killed {
        Some(_) if anew => first,
        Some(_) => full(&KILLED),
        None => first,
    };
    for point in points(stage).iter().filter(|point| before.iter().all(|old| old.id != point.id)) {
        let earlier = killed.is_some_and(|killed| point.created < killed);
        if cell.operation == Operation::Cancel {
            full(&[ASKED, KILLED[0], KILLED[1]]).of(point);
        } else if earlier && !anew {
            point.must_be_incremental();
        } else {
            next.of(point);
        }
        ledger.note(point, prove(stage, point, earlier));
        if earlier {
            next = full(&KILLED);
        } else {
            next = Expected::Incremental;
        }
    }
    next
}

/// Backs up, and judges and proves the point.
#[track_caller]
pub fn back_up(stage: &mut dyn Stage, ledger: &mut Ledger, expected: &Expected) {
    let point = Point::back_up(stage.server(), &[]);
    expected.of(&point);
    ledger.note(&point, prove(stage, &point, false));
}

/// Waits until Backstay rests and nothing is left to heal, and checks what holds then.
#[track_caller]
pub fn hold(stage: &mut dyn Stage) {
    let bare = stage.bare();
    let mut qemu = stage.look_inside();
    invariants::until_rest(stage.server());
    // What a start finds unexplained is healed by no job.
    let start = Instant::now();
    let server = stage.server();
    until("the doctor finds nothing", PATIENCE, || {
        let healthy = server.run(&["doctor"]).json["ok"] == true;
        // When it is too late the check below says what is amiss.
        (healthy || start.elapsed() > HEALED).then_some(())
    });
    invariants::hold(server, "vm", &mut qemu, &bare);
}

/// Nothing is under way any more, and where QEMU was there all the time nothing failed. `before` is how many jobs there were.
#[track_caller]
fn jobs_are_over(stage: &mut dyn Stage, cell: &Cell, before: usize) {
    let jobs = jobs(stage);
    let new = &jobs[..jobs.len() - before];
    let over = |job: &&Value| match job["state"].as_str() {
        Some("done") => true,
        Some("cancelled") => cell.operation == Operation::Cancel,
        Some("failed") => !matches!(cell.victim, Victim::Backstay),
        _ => false,
    };
    let not_over = new.iter().find(|job| !over(job));
    assert!(not_over.is_none(), "not done: {}", not_over.unwrap_or(&Value::Null));
}

/// All jobs, newest first.
#[track_caller]
pub fn jobs(stage: &mut dyn Stage) -> Vec<Value> {
    match stage.server().ok(&["job", "list"]) {
        Value::Array(jobs) => jobs,
        other => panic!("`job list` answers no list: {other}"),
    }
}

fn is_managed(stage: &mut dyn Stage) -> bool {
    let vms = stage.server().ok(&["vm", "list"]);
    vms.as_array().expect("a list of VMs").iter().any(|vm| vm["name"] == "vm")
}

/// Checks that a VM that was let go of has nothing of ours in it, and takes it into care again.
#[track_caller]
fn managed_again(stage: &mut dyn Stage, knows: bool) {
    if is_managed(stage) {
        // Its removal was not heard, or refused while its QEMU was away.
        if knows {
            hold(stage);
        }
        stage.server().ok(&["vm", "remove", "vm"]);
    }
    let bare = stage.bare();
    let mut qemu = stage.look_inside();
    invariants::hold_without(stage.server(), &mut qemu, &bare);
    drop(qemu);
    stage.add();
}

/// The points of all VMs, oldest first.
fn points(stage: &mut dyn Stage) -> Vec<Point> {
    Point::list(stage.server())
}

/// Only a forgotten point is gone.
#[track_caller]
fn no_point_is_lost(stage: &mut dyn Stage, cell: &Cell, before: &[Point]) {
    let now: BTreeSet<String> = points(stage).into_iter().map(|point| point.id).collect();
    let mut lost = before.iter().filter(|point| !now.contains(&point.id));
    let forgotten = if cell.operation == Operation::Forget { lost.next() } else { None };
    assert!(forgotten.is_none_or(|point| point.id == before[0].id), "{forgotten:?} was not to be forgotten");
    assert!(lost.next().is_none(), "points of {before:?} are lost; left are {now:?}");
}

/// An image that a restore left is the point's, or it is not there.
#[track_caller]
fn restored_is_right(stage: &mut dyn Stage, ledger: &Ledger, to: &str, point: Option<&Point>) {
    let jobs = jobs(stage);
    let newest = jobs.iter().find(|job| job["kind"] == "restore");
    // The newest restore may be one that proved a point, which is done all the same.
    let Some(("done", point)) = newest.and_then(|job| job["state"].as_str()).zip(point) else { return };
    let disks = stage.disks();
    let image = |disk: &str| match disks.len() {
        1 => to.into(),
        _ => crate::stage::image(to.as_ref(), disk),
    };
    if !image(&disks[0]).exists() {
        return;
    }
    let digests: Vec<[u8; 32]> = disks.iter().map(|disk| crate::stage::digest(&image(disk))).collect();
    assert!(ledger.0.get(&point.id).is_none_or(|known| *known == digests), "{to} is not {}", point.id);
}

/// One of the points that were proven, another one each time, still restores to the same bytes.
#[track_caller]
pub fn an_older_point_is_as_it_was(stage: &mut dyn Stage, ledger: &mut Ledger, choice: u64) {
    let points = points(stage);
    ledger.0.retain(|known, _| points.iter().any(|point| point.id == *known));
    let known: Vec<&Point> = points.iter().filter(|point| ledger.0.contains_key(&point.id)).collect();
    let choice = usize::try_from(choice).expect("a small number") % known.len();
    let point = known[choice];
    assert!(ledger.0[&point.id] == restored(stage, point), "{} has changed since it was proven", point.id);
}
