//! Long chains under a concurrent writer: every point of them, restored, is the disks at its instant, bit by bit.
//!
//! What is expected is computed beside Backstay: from the writer's log, from restic, and from a model of which
//! checkpoints there are. Replay a run with `BACKSTAY_SEED`.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use sha2::{Digest, Sha256};
use tests::lab::require_qemu;
use tests::point::Point;
use tests::qsd::Options;
use tests::site::{Site, Taken, seed};

/// Bytes of each disk.
const SIZE: u64 = 16 << 20;

/// What the operators did to the chain, as far as the next backup's mode depends on it.
struct Model {
    points: Vec<Point>,
    checkpoints: Vec<String>,
}

impl Model {
    /// Looks before a backup.
    fn look(site: &Site) -> Model {
        let points = Point::list(&site.backstay);
        Model { points, checkpoints: checkpoints(site) }
    }

    /// The newest point whose checkpoint is still there must be the parent; without one it is full, and says why.
    fn judge(&self, point: &Point) {
        let parent = self.points.iter().rev().find(|old| self.checkpoints.contains(&old.checkpoint));
        match parent {
            Some(parent) => {
                point.must_be_incremental();
                assert_eq!(point.parent.as_ref(), Some(&parent.id), "{point:?}");
            }
            None if self.points.is_empty() => point.must_be_full(&["the first backup of this disk"]),
            None => point.must_be_full(&["was deleted", "no longer tracked"]),
        }
    }
}

fn checkpoints(site: &Site) -> Vec<String> {
    let list = site.backstay.ok(&["checkpoint", "list", "vm"]);
    let names = list.as_array().expect("a list of checkpoints").iter();
    names.map(|checkpoint| checkpoint["name"].as_str().expect("a name").to_owned()).collect()
}

/// What an operator may do between two backups.
fn meddle(site: &mut Site, random: &mut StdRng) {
    let more = random.random_range(0..20);
    site.writer().until_progress(more);
    match random.random_range(0..100) {
        0..30 => drop(site.backstay.ok(&["checkpoint", "create", "vm"])),
        30..60 => {
            if let Some(victim) = checkpoints(site).choose(random) {
                site.backstay.ok(&["checkpoint", "delete", "vm", victim]);
            }
        }
        60..66 => {
            site.backstay.stop();
            site.backstay.restart();
        }
        66..70 => {
            site.backstay.kill();
            site.backstay.restart();
        }
        70..76 => site.restart_qemu(),
        _ => {}
    }
}

/// Proves the points, two at a time.
fn prove_all(site: &Site, taken: &[Taken]) {
    let log = site.log();
    let queue = Mutex::new(taken.iter());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("taking the next one does not panic").next();
                    let Some(taken) = next else { break };
                    site.prove_taken(taken, &log);
                }
            });
        }
    });
}

#[test]
fn every_point_of_a_long_chain_is_its_instant() {
    if !require_qemu() {
        return;
    }
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let mut site = Site::start(Options::new("qsd", 2, SIZE), seed);
    let mut taken: Vec<Taken> = Vec::new();
    let start = Instant::now();
    for round in 0..55 {
        for _ in 0..random.random_range(0..3) {
            meddle(&mut site, &mut random);
        }
        let model = Model::look(&site);
        let new = site.back_up(&[]);
        model.judge(&new.point);
        if round % 10 == 9 {
            site.prove_taken(&new, &site.log());
            site.must_hold();
        }
        taken.push(new);
    }
    let incremental = taken.iter().filter(|taken| taken.point.parent.is_some()).count();
    eprintln!(
        "{} points, {incremental} of them incremental, {} writes, in {:?}",
        taken.len(),
        site.log().len(),
        start.elapsed()
    );
    site.must_hold();
    prove_all(&site, &taken);
    site.restic.check();
}

#[test]
fn a_raw_disk_is_full_after_a_restart_and_its_neighbours_are_not() {
    if !require_qemu() {
        return;
    }
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let raw = vec!["disk2".to_owned()];
    let mut site = Site::start(Options { raw, ..Options::new("qsd", 3, SIZE) }, seed);
    site.backstay.expect_log("missing-new-process");
    let mut taken = vec![site.back_up(&[])];
    for round in 1..=15 {
        let restarted = round % 5 == 0;
        if restarted {
            site.restart_qemu();
        } else if random.random_bool(0.5) {
            site.backstay.ok(&["checkpoint", "create", "vm"]);
        }
        site.writer().until_progress(random.random_range(1..20));
        let new = site.back_up(&[]);
        for disk in &new.point.disks {
            if restarted && disk.name == "disk2" {
                disk.must_be_full(&["QEMU was restarted and had not stored it"]);
            } else {
                assert_eq!(disk.mode, "incremental", "round {round}: {disk:?}");
            }
        }
        taken.push(new);
    }
    site.must_hold();
    prove_all(&site, &taken);
    site.restic.check();
}

/// The bytes of all disks, by digest.
fn digests(files: &[impl AsRef<Path>]) -> Vec<[u8; 32]> {
    files.iter().map(|file| Sha256::digest(fs::read(file).expect("a disk, or an image")).into()).collect()
}

/// Nothing but the bytes themselves: read through QEMU while nobody writes, and restored.
#[test]
fn a_point_is_what_was_read_from_the_disks_at_its_instant() {
    if !require_qemu() {
        return;
    }
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let site = Site::start(Options::new("qsd", 2, 4 * SIZE), seed);
    let mut taken = Vec::new();
    for round in 0..12 {
        site.writer().until_progress(random.random_range(1..100));
        let nobody_writes = site.writer().pause();
        let truth = digests(&site.qsd.files());
        let point = Point::back_up(&site.backstay, &[]);
        drop(nobody_writes);
        assert_eq!(point.parent.is_some(), round > 0, "{point:?}");
        taken.push((point, truth));
        if random.random_bool(0.3) {
            site.backstay.ok(&["checkpoint", "create", "vm"]);
        }
    }
    for (point, truth) in taken {
        let folder = site.folder();
        assert!(digests(&site.restore(&point, &folder)) == truth, "{} differs from the disks", point.id);
        fs::remove_dir_all(folder).expect("a folder of ours");
    }
}
