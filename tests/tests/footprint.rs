//! What Backstay costs: the memory of an idle server, the most that a backup takes, and how long a huge and almost
//! empty disk lasts. Measured on whatever build is under test, with limits that hold for an unoptimised one too.

mod installation;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use installation::{Installation, MIB, disk, is_incremental, write};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use tests::backstay::Backstay;
use tests::lab::{Lab, PATIENCE, require_qemu, until};

/// Of a server that has nothing to do, whatever it had to do before, bytes.
const IDLE: u64 = 60_000_000;

/// The most that it may ever have taken, bytes.
const PEAK: u64 = 512 * MIB;

/// For a huge disk that holds little, on a machine with other things to do.
const QUICK: Duration = Duration::from_secs(60);

/// One tebibyte.
const TIB: u64 = 1 << 40;

/// `VmRSS`, `VmHWM`, … of the server, in bytes (proc(5)).
fn memory(backstay: &mut Backstay, field: &str) -> u64 {
    let status = format!("/proc/{}/status", backstay.process().id());
    let status = fs::read_to_string(&status).unwrap_or_else(|error| panic!("{status}: {error}"));
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or_else(|| panic!("no {field} in {status}")) * 1024
}

/// Memory that was freed goes back to the system when it has not been wanted again for a moment.
fn comes_to_rest(what: &str, backstay: &mut Backstay) {
    let settled = || Some(memory(backstay, "VmRSS")).filter(|bytes| *bytes < IDLE);
    let bytes = until(what, PATIENCE, settled);
    eprintln!("{what}: {} MiB", bytes / MIB);
}

#[track_caller]
fn at_most(what: &str, bytes: u64, limit: u64) {
    eprintln!("{what}: {} MiB", bytes / MIB);
    assert!(bytes < limit, "{what}: {} MiB, and {} are allowed", bytes / MIB, limit / MIB);
}

/// Fills a part of a disk with what neither compresses nor repeats.
fn noise(file: &File, seed: u64, offset: u64, length: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut block = vec![0; 4 << 20];
    let mut at = offset;
    while at < offset + length {
        random.fill_bytes(&mut block);
        file.write_all_at(&block, at).expect("the disk takes a write");
        at += block.len() as u64;
    }
}

#[test]
fn an_idle_server_is_small() {
    if !require_qemu() {
        return;
    }
    let lab = Lab::new();
    let mut fresh = Backstay::start(&lab, "fresh");
    at_most("after its start", memory(&mut fresh, "VmRSS"), IDLE);
    drop(fresh);

    let mut site = Installation::new();
    at_most("with a repository open", memory(&mut site.backstay, "VmRSS"), IDLE);
    let qsd = site.vm("vm", 2, 64 * MIB);
    for fill in 1..=5 {
        write(&qsd.file("disk0"), u64::from(fill) * MIB, 4 << 20, fill);
        site.backup("vm");
    }
    comes_to_rest("after five backups", &mut site.backstay);
    at_most("at its peak", memory(&mut site.backstay, "VmHWM"), PEAK);
}

#[test]
fn a_large_backup_takes_no_more_memory_than_it_is_given() {
    if !require_qemu() {
        return;
    }
    let mut site = Installation::new();
    let qsd = site.vm("vm", 1, 8 << 30);
    let file = File::options().write(true).open(qsd.file("disk0")).expect("the disk is there");
    for part in 0..3 {
        noise(&file, part, part * (2 << 30), 512 * MIB);
    }
    let start = Instant::now();
    let full = site.backup("vm");
    let took = start.elapsed();
    let stored = disk(&full, "disk0")["stored_bytes"].as_u64().unwrap_or_default();
    eprintln!("full of 1.5 GiB in {took:.1?}: {} MiB stored", stored / MIB);
    assert!(stored >= 1536 * MIB, "what does not compress is stored: {full}");
    noise(&file, 9, 3 << 30, 16 * MIB);
    let start = Instant::now();
    let changed = site.backup("vm");
    eprintln!("incremental of 16 MiB in {:.1?}", start.elapsed());
    is_incremental(&changed, "disk0");
    assert!(
        disk(&changed, "disk0")["read_bytes"].as_u64() <= Some(18 * MIB),
        "only what changed is read: {changed}"
    );
    at_most("peak", memory(&mut site.backstay, "VmHWM"), PEAK);
    comes_to_rest("afterwards", &mut site.backstay);
}

#[test]
fn a_huge_disk_that_holds_little_is_quick() {
    if !require_qemu() {
        return;
    }
    let mut site = Installation::new();
    let qsd = site.vm("vm", 1, 4 * TIB);
    let file = File::options().write(true).open(qsd.file("disk0")).expect("the disk is there");
    for (seed, offset) in [0, TIB, 2 * TIB + 12345 * 4096, 4 * TIB - 4 * MIB].into_iter().enumerate() {
        noise(&file, seed as u64, offset, 4 * MIB);
    }
    let mut timed = |what: &str| {
        let start = Instant::now();
        let point = site.backup("vm");
        let took = start.elapsed();
        eprintln!("{what} of 4 TiB in {took:.1?}");
        assert!(took < QUICK, "{what} took {took:?}");
        at_most("peak", memory(&mut site.backstay, "VmHWM"), PEAK);
        point
    };
    let full = timed("full");
    assert!(disk(&full, "disk0")["read_bytes"].as_u64() <= Some(64 * MIB), "holes are not read: {full}");
    noise(&file, 9, 3 * TIB, 4 * MIB);
    let changed = timed("incremental");
    is_incremental(&changed, "disk0");
    is_incremental(&timed("incremental of nothing"), "disk0");
}
