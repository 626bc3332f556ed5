//! Backstay, QEMU or both die at every place of a backup, and of the making and deleting of checkpoints. Whatever it was,
//! Backstay ends at rest by itself, nothing of it is left behind, and the next points are right.
//!
//! The walks visit every passage of every crash point in turn until a run gets through. Of the commands to QEMU, which
//! are many, a sample is taken, unless `BACKSTAY_ALL=1`. Replay a run with `BACKSTAY_SEED`.

use std::env;
use std::time::Instant;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;
use tests::backstay::Backstay;
use tests::guest;
use tests::history;
use tests::invariants;
use tests::lab::{PATIENCE, require_qemu, until};
use tests::machine::Machine;
use tests::matrix::cell::{self, HEALING, KILLED, Ledger};
use tests::matrix::{Cell, Operation, Victim};
use tests::point::Point;
use tests::qsd::Options;
use tests::site::{Site, seed};

/// Bytes of each disk in a walk, where every second counts a hundred times.
const SMALL: u64 = 16 << 20;

/// Crash points that are passed a few times in each job.
const FEW: [&str; 6] = ["append", "appended", "effect", "performed", "store.committed", "store.snapshot"];

/// What a job of one effect passes, and every how manyth passage is visited.
const ALONE: [(&str, u64); 5] = [("append", 1), ("appended", 1), ("effect", 1), ("performed", 1), ("qmp", 4)];

/// Every `every`-th passage of a long walk, and from which on; every single one with `BACKSTAY_ALL=1`.
fn sample(every: u64, seed: u64) -> (u64, u64) {
    if env::var("BACKSTAY_ALL").as_deref() == Ok("1") {
        return (1, 1);
    }
    (every, StdRng::seed_from_u64(seed).random_range(1..=every))
}

/// A site with two small disks that is ready for cells.
fn ready(seed: u64) -> (Site, Ledger) {
    let mut site = Site::start(Options::new("qsd", 2, SMALL), seed);
    let mut ledger = Ledger::default();
    cell::make_ready(&mut site, &mut ledger);
    (site, ledger)
}

/// Visits passages `first`, `first + every`, … of a crash point until a run gets through.
fn walk(
    (site, ledger): &mut (Site, Ledger),
    operation: Operation,
    victim: Victim,
    point: &str,
    (every, first): (u64, u64),
) {
    let start = Instant::now();
    let mut runs = 0;
    for passage in (first..).step_by(usize::try_from(every).expect("a small number")) {
        let cell = Cell::new(operation, victim, point, passage);
        eprintln!("{cell}");
        runs += 1;
        if !cell::visit(site, ledger, &cell).reached {
            break;
        }
    }
    eprintln!("{point}: {runs} runs in {:?}", start.elapsed());
}

#[test]
fn a_backup_survives_a_crash_between_records_and_effects() {
    if !require_qemu() {
        return;
    }
    let seed = seed();
    let mut stage = ready(seed);
    for point in FEW {
        // After a record is before the next one, but for what is sent in between.
        let every = if point.starts_with("append") { 2 } else { 1 };
        walk(&mut stage, Operation::Incremental, Victim::Backstay, point, sample(every, seed));
    }
    stage.0.restic.check();
}

#[test]
fn a_backup_survives_a_crash_between_any_two_commands_to_qemu() {
    if !require_qemu() {
        return;
    }
    let seed = seed();
    let mut stage = ready(seed);
    walk(&mut stage, Operation::Incremental, Victim::Backstay, "qmp", sample(8, seed));
    stage.0.restic.check();
}

fn survives_a_crash_anywhere(operation: Operation) {
    if !require_qemu() {
        return;
    }
    let seed = seed();
    let mut stage = ready(seed);
    for (point, every) in ALONE {
        walk(&mut stage, operation, Victim::Backstay, point, sample(every, seed));
    }
    stage.0.restic.check();
}

#[test]
fn a_new_checkpoint_survives_a_crash_anywhere() {
    survives_a_crash_anywhere(Operation::Checkpoint);
}

#[test]
fn deleting_the_first_checkpoint_survives_a_crash_anywhere() {
    survives_a_crash_anywhere(Operation::DeleteFirst);
}

#[test]
fn deleting_a_middle_checkpoint_survives_a_crash_anywhere() {
    survives_a_crash_anywhere(Operation::DeleteMiddle);
}

#[test]
fn deleting_the_last_checkpoint_survives_a_crash_anywhere() {
    survives_a_crash_anywhere(Operation::DeleteLast);
}

#[test]
fn a_cancelled_backup_survives_a_crash_anywhere() {
    survives_a_crash_anywhere(Operation::Cancel);
}

#[test]
fn letting_go_of_a_vm_survives_a_crash_anywhere() {
    survives_a_crash_anywhere(Operation::RemoveVm);
}

/// What touches a repository and no QEMU, and a VM's first backup: each at each of its effects.
#[test]
fn every_other_operation_survives_a_crash_at_its_effects() {
    if !require_qemu() {
        return;
    }
    let seed = seed();
    for operation in [Operation::FirstFull, Operation::Forget, Operation::Prune, Operation::Restore] {
        let mut stage = ready(seed);
        for point in ["effect", "performed"] {
            walk(&mut stage, operation, Victim::Backstay, point, (1, 1));
        }
        stage.0.restic.check();
    }
}

/// One effect of each operation, and two others who can die there.
#[test]
fn every_operation_survives_the_end_of_its_qemu() {
    if !require_qemu() {
        return;
    }
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    for operation in Operation::ALL {
        let mut stage = ready(seed);
        let others = &Victim::ALL[1..];
        for victim in others.choose_multiple(&mut random, 2) {
            let point = if random.random() { "effect" } else { "performed" };
            let cell = Cell::new(operation, *victim, point, 1);
            eprintln!("{cell}");
            cell::visit(&mut stage.0, &mut stage.1, &cell);
        }
    }
}

/// A site with two small disks and two points.
fn site(seed: u64) -> Site {
    ready(seed).0
}

/// Queues a backup and waits until it stores; its job. `None` when it was too quick.
fn until_storing(backstay: &Backstay, mode: &str) -> Option<String> {
    let queued = backstay.ok(&["backup", "vm", "--mode", mode]);
    let job = queued["jobs"][0]["id"].as_str().expect("a job").to_owned();
    until("the view is up and read", PATIENCE, || {
        let job = backstay.ok(&["job", "show", &job]);
        let steps = job["steps"].as_array().expect("a list of steps");
        let store = steps.iter().find(|step| step["effect"] == "store")?;
        Some(store["outcome"].is_null())
    })
    .then_some(job)
}

fn state_of(backstay: &Backstay, job: &str) -> String {
    backstay.ok(&["job", "show", job])["state"].as_str().expect("a state").to_owned()
}

#[test]
fn a_store_that_is_killed_goes_on_by_itself() {
    if !require_qemu() {
        return;
    }
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let mut site = large::site(seed);
    Point::back_up(&site.backstay, &[]);
    let mut killed = 0;
    for round in 0..10 {
        large::fill(&site, &mut random);
        let mode = if round % 2 == 0 { "auto" } else { "full" };
        // The instant is over when the view is up; then the guest goes on.
        let nobody_writes = site.writer().pause();
        let truth = large::digest(&site);
        let job = until_storing(&site.backstay, mode);
        drop(nobody_writes);
        let Some(job) = job else { continue };
        let share = random.random_range(0.0..1.0);
        killed += u32::from(large::until_stored(&site.backstay, &job, share));
        site.backstay.kill();
        let start = Instant::now();
        site.backstay.restart();
        invariants::until_rest(&site.backstay);
        eprintln!(
            "round {round}: {mode}, killed at {:.0} %, at rest {:?} later",
            100.0 * share,
            start.elapsed()
        );
        assert_eq!(state_of(&site.backstay, &job), "done");
        let point = Point::list(&site.backstay).pop().expect("it is done");
        assert!(large::restored(&site, &point) == truth, "round {round}: {} is not its instant", point.id);
        if mode == "auto" {
            point.must_be_incremental();
        }
        site.must_hold();
    }
    assert!(killed >= 5, "only {killed} of 10 were killed in their store");
    site.restic.check();
}

/// The stage with much data.
mod large {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::FileExt;
    use tests::stage;

    const SIZE: u64 = 512 << 20;
    const STEP: u64 = 1 << 20;

    /// One disk, all of it data that neither compresses nor repeats.
    pub fn site(seed: u64) -> Site {
        let mut site = Site::start(Options::new("qsd", 1, SIZE), seed);
        for text in HEALING {
            site.backstay.expect_log(text);
        }
        let mut random = StdRng::seed_from_u64(seed);
        write(&site, &mut random, 0..SIZE / STEP);
        site
    }

    /// Overwrites a half of the disk.
    pub fn fill(site: &Site, random: &mut StdRng) {
        let (steps, at) = (SIZE / STEP, random.random_range(0..SIZE / STEP / 2));
        write(site, random, at..at + steps / 2);
    }

    /// Waits until a backup has dealt with this share of its disks; whether it was not over before.
    pub fn until_stored(backstay: &Backstay, job: &str, share: f64) -> bool {
        until("the backup comes so far", PATIENCE, || {
            let job = backstay.ok(&["job", "show", job]);
            let progress = |key: &str| job["progress"][key].as_f64().unwrap_or(0.0);
            let over = job["state"] != "running";
            (over || progress("done") > share * progress("total")).then_some(!over)
        })
    }

    fn write(site: &Site, random: &mut StdRng, steps: std::ops::Range<u64>) {
        let file =
            File::options().write(true).open(site.qsd.file("disk0")).expect("the daemon serves its disk");
        let mut bytes = vec![0; usize::try_from(STEP).expect("a mebibyte")];
        for step in steps {
            random.fill(&mut bytes[..]);
            file.write_all_at(&bytes, step * STEP).expect("the disk takes a write");
        }
    }

    pub fn digest(site: &Site) -> [u8; 32] {
        stage::digest(&site.qsd.file("disk0"))
    }

    pub fn restored(site: &Site, point: &Point) -> [u8; 32] {
        let folder = site.folder();
        let image = folder.join("disk0.img");
        site.backstay.ok(&["restore", &point.id, "--to", &image.to_string_lossy(), "--wait"]);
        let digest = stage::digest(&image);
        fs::remove_dir_all(folder).expect("a folder of ours");
        digest
    }
}

/// After QEMU was killed and is back: the next point is full on every disk and says why, the one after is not.
fn full_once(site: &mut Site) {
    site.writer().until_progress(5);
    let taken = site.back_up(&[]);
    taken.point.must_be_full(&KILLED);
    taken.must_show(site.prove(&taken.point, &site.log()));
    site.must_hold();
    for _ in 0..2 {
        site.next_must_be_incremental();
    }
}

#[test]
fn a_killed_qemu_costs_one_full_backup() {
    if !require_qemu() {
        return;
    }
    let mut site = site(seed());
    for _ in 0..3 {
        site.kill_qemu();
        site.revive_qemu();
        full_once(&mut site);

        // And one that ends in order costs none.
        site.restart_qemu();
        site.next_must_be_incremental();
    }
    site.restic.check();
}

#[test]
fn a_qemu_killed_under_a_backup_costs_one_full_backup() {
    if !require_qemu() {
        return;
    }
    let mut site = site(seed());
    site.backstay.expect_log("job failed");
    let mut failed = 0;
    until("three backups lost their QEMU", 3 * PATIENCE, || {
        let job = until_storing(&site.backstay, "full")?;
        site.backstay.process().signal(Signal::STOP);
        site.kill_qemu();
        site.backstay.process().signal(Signal::CONT);
        invariants::until_rest(&site.backstay);
        // A store that had read everything may be done all the same.
        failed += u32::from(state_of(&site.backstay, &job) == "failed");
        site.revive_qemu();
        full_once(&mut site);
        (failed == 3).then_some(())
    });
    site.restic.check();
}

#[test]
fn a_qemu_that_ends_in_order_at_any_step_costs_no_full_backup() {
    if !require_qemu() {
        return;
    }
    let mut stage = ready(seed());
    let backup = [("effect", 2), ("performed", 1), ("effect", 1)].map(|at| (Operation::MultiDisk, at));
    let alone =
        [Operation::DeleteFirst, Operation::DeleteMiddle, Operation::DeleteLast, Operation::Checkpoint];
    let alone =
        alone.into_iter().flat_map(|operation| [("effect", 1), ("performed", 1)].map(|at| (operation, at)));
    for (operation, (point, passage)) in backup.into_iter().chain(alone) {
        // Backstay is gone, the view is there, and QEMU goes; then both come back.
        let cell = Cell::new(operation, Victim::BackstayAndQuit, point, passage);
        eprintln!("{cell}");
        cell::visit(&mut stage.0, &mut stage.1, &cell);
    }
    stage.0.restic.check();
}

#[test]
fn backstay_and_qemu_killed_at_once_cost_one_full_backup() {
    if !require_qemu() {
        return;
    }
    let mut stage = ready(seed());
    let effects = (1..=3).flat_map(|passage| [("effect", passage), ("performed", passage)]);
    for (point, passage) in [("appended", 3)].into_iter().chain(effects) {
        let cell = Cell::new(Operation::MultiDisk, Victim::Both, point, passage);
        eprintln!("{cell}");
        cell::visit(&mut stage.0, &mut stage.1, &cell);
    }
    stage.0.restic.check();
}

fn full_once_of(machine: &mut Machine) {
    machine.back_up().must_be_full(&KILLED);
    machine.back_up().must_be_incremental();
}

#[test]
fn a_real_guest_is_backed_up_through_kills_and_restarts() {
    if !require_qemu() {
        return;
    }
    let mut machine = Machine::start(guest::Options::new("guest"), false);
    for text in HEALING {
        machine.backstay.expect_log(text);
    }
    machine.back_up().must_be_full(&["the first backup of this disk"]);
    machine.back_up().must_be_incremental();

    machine.guest.quit();
    machine.guest.restart();
    machine.back_up().must_be_incremental();

    machine.guest.kill();
    machine.guest.restart();
    full_once_of(&mut machine);

    // In the middle of a backup.
    let job = until("a backup is in its store", PATIENCE, || until_storing(&machine.backstay, "full"));
    machine.backstay.process().signal(Signal::STOP);
    machine.guest.kill();
    machine.backstay.process().signal(Signal::CONT);
    invariants::until_rest(&machine.backstay);
    eprintln!("the backup under which QEMU was killed is {}", state_of(&machine.backstay, &job));
    machine.guest.restart();
    full_once_of(&mut machine);

    // Both at once, in the middle of a backup.
    until("a backup is in its store", PATIENCE, || until_storing(&machine.backstay, "full"));
    machine.backstay.kill();
    machine.guest.kill();
    machine.guest.restart();
    machine.backstay.restart();
    invariants::until_rest(&machine.backstay);
    full_once_of(&mut machine);
    machine.restic.check();
}

/// A short one of `scripts/random-histories`.
#[test]
fn a_random_history_leaves_everything_true() {
    if !require_qemu() {
        return;
    }
    let seed = seed();
    let mut site = Site::start(Options::new("qsd", 2, SMALL / 4), seed);
    let told = history::live(&mut site, seed, 8);
    eprintln!("{told:?}");
}
