//! Limits of bandwidth, measured: what goes into a limited repository takes at least its bytes over the limit, and the limit
//! ends at its hour. Lower bounds, and one upper bound that is far from what happens.

mod installation;

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use installation::{Installation, MIB, REPO, is_incremental};
use tests::backstay::Backstay;
use tests::lab::require_qemu;
use tests::site::noise;

/// Writes what does not compress.
fn write_noise(disk: &Path, seed: u64, length: u64) {
    let bytes = noise(seed, usize::try_from(length).expect("some MiB"));
    let disk = std::fs::File::options().write(true).open(disk).expect("the disk is there");
    disk.write_all_at(&bytes, 0).expect("the disk takes a write");
}

#[test]
fn what_goes_into_a_limited_repository_takes_its_time() {
    if !require_qemu() {
        return;
    }
    let site = Installation::new();
    let qsd = site.vm("vm", 1, 32 * MIB);
    // What is first in the line does not wait for itself: a slice, and the small files.
    let least = |mib: u64, rate: u64| Duration::from_secs_f64((mib - 1) as f64 / rate as f64);
    write_noise(&qsd.file("disk0"), 1, 20 * MIB);
    site.backstay.ok(&["repo", "limit", REPO, "4M"]);
    let begun = Instant::now();
    let full = site.backup("vm");
    assert!(begun.elapsed() >= least(20, 4), "20 MiB at 4 MiB a second took {:?}", begun.elapsed());
    // The other way too, and of several limits the lowest counts.
    site.backstay.ok(&["repo", "limit", REPO, "16M", "00:00-00:00=5M"]);
    let begun = Instant::now();
    site.proves(&full, "disk0", &qsd.file("disk0"));
    assert!(begun.elapsed() >= least(20, 5), "20 MiB at 5 MiB a second took {:?}", begun.elapsed());
    // Hours that are not now limit nothing: at this pace it would be a minute and a half.
    let now = since_epoch() / 3600;
    let (from, to) = ((now + 11) % 24, (now + 13) % 24);
    site.backstay.ok(&["repo", "limit", REPO, &format!("{from:02}:00-{to:02}:00=256K")]);
    write_noise(&qsd.file("disk0"), 2, 24 * MIB);
    let begun = Instant::now();
    is_incremental(&site.backup("vm"), "disk0");
    assert!(begun.elapsed() < least(24, 1) * 4, "no limit holds now: {:?}", begun.elapsed());
    site.restic.check();
}

fn since_epoch() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_secs()
}

#[test]
fn a_limit_ends_at_its_hour_in_the_middle_of_a_backup() {
    if !require_qemu() {
        return;
    }
    let mut site = Installation::new();
    site.backstay.stop();
    // Limits change at whole minutes of the server's local time: let one come 25 seconds after its start, and every minute
    // after.
    let shift = (60 + 35 - since_epoch() % 60) % 60;
    let zone = format!("LAB-00:00:{shift:02}");
    site.backstay = Backstay::start_with(&site.lab, "data", &[], &[("TZ", &zone)]);
    let qsd = site.vm("vm", 1, 64 * MIB);
    write_noise(&qsd.file("disk0"), 1, 40 * MIB);
    let local = since_epoch() + shift;
    // Far enough away for the limit to be set before.
    let edge = (local + 5).div_ceil(60);
    let minute = |number: u64| format!("{:02}:{:02}", number / 60 % 24, number % 60);
    let window = format!("{}-{}=256K", minute(edge - 10), minute(edge));
    site.backstay.ok(&["repo", "limit", REPO, &window]);
    let begun = Instant::now();
    let point = site.backup("vm");
    let ended = since_epoch() + shift;
    assert!(ended >= edge * 60, "ended {} s before the limit did", edge * 60 - ended);
    // Over two and a half minutes if it had held to the end.
    assert!(begun.elapsed() < Duration::from_secs(140), "the limit went on: {:?}", begun.elapsed());
    site.proves(&point, "disk0", &qsd.file("disk0"));
}
