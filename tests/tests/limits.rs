//! Limits of bandwidth, measured: what goes into a limited repository takes at least its bytes over the limit, and the limit
//! ends at its hour. Lower bounds, and one upper bound that is far from what happens.

mod installation;

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use installation::{Installation, MIB, REPO, is_incremental};
use serde_json::{Value, json};
use tests::backstay::Backstay;
use tests::lab::{PATIENCE, require_qemu, until};
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

/// A policy for all VMs, every two seconds, with this bandwidth.
fn apply_policy(site: &Installation, bandwidth: &str) {
    let file = site.path("often.toml");
    let policy = format!(
        "name = \"often\"\nrepositories = [\"{REPO}\"]\nconsistency = \"crash\"\nselect.names = [\"*\"]\n\
         bandwidth = {bandwidth}\nschedules = [{{ cron = \"@every 2s\", time_zone = \"Asia/Kathmandu\" }}]\n"
    );
    std::fs::write(&file, policy).expect("the lab's folder takes a file");
    site.backstay.ok(&["policy", "apply", "-f", &file]);
}

/// The limits that a job's transfers were given, one after the other.
fn given(site: &Installation, job: &str) -> Vec<Value> {
    let records = site.backstay.ok(&["journal", "log"]);
    let intents = records.as_array().into_iter().flatten().map(|record| &record["body"]["body"]["intent"]);
    let number = Value::from(job.trim_start_matches('j').parse::<u64>().expect("a job's number"));
    let stores = intents.filter(|intent| intent["job"] == number && intent["effect"]["Store"].is_object());
    stores.map(|intent| intent["effect"]["Store"]["bandwidth"].clone()).collect()
}

#[test]
fn all_backups_of_a_policy_are_together_no_faster_than_it_says() {
    if !require_qemu() {
        return;
    }
    let mut site = Installation::new();
    site.backstay.expect_log("run skipped");
    let disks: Vec<_> = (1..=2)
        .map(|seed| {
            let qsd = site.vm(&format!("vm{seed}"), 1, 16 * MIB);
            write_noise(&qsd.file("disk0"), seed, 10 * MIB);
            qsd
        })
        .collect();
    let begun = Instant::now();
    // Sunday's hours are Kathmandu's, and whatever they are, the lower limit holds at all of them.
    apply_policy(&site, "[\"4M\", \"sun 00:00-24:00=40M\"]");
    let points: Vec<Value> = until("both have a restore point", PATIENCE, || {
        let points = site.backstay.ok(&["point", "list"]);
        let of =
            |vm: &str| points.as_array()?.iter().find(|it| it["vm"] == vm && it["parent"].is_null()).cloned();
        Some(vec![of("vm1")?, of("vm2")?])
    });
    let took = begun.elapsed();
    site.pause("often");
    let stored: u64 = points.iter().filter_map(|point| point["disks"][0]["stored_bytes"].as_u64()).sum();
    assert!(stored >= 20 * MIB, "noise does not compress: {points:#?}");
    let least = Duration::from_secs_f64(stored as f64 / (4 * MIB) as f64);
    assert!(took >= least, "{stored} bytes at 4 MiB a second took {took:?}");
    for (point, qsd) in points.iter().zip(&disks) {
        site.proves(point, "disk0", &qsd.file("disk0"));
    }
    site.restic.check();
}

#[test]
fn a_policy_applied_anew_counts_for_a_transfer_that_goes_on_after_a_rest() {
    if !require_qemu() {
        return;
    }
    let mut site = Installation::new();
    site.backstay.expect_log("run skipped");
    let qsd = site.vm("vm", 1, 64 * MIB);
    write_noise(&qsd.file("disk0"), 1, 40 * MIB);
    // Over two and a half minutes.
    apply_policy(&site, "\"256K\"");
    let id = until("a transfer is under way", PATIENCE, || {
        let jobs = site.backstay.ok(&["job", "list"]);
        let moves = |job: &&Value| job["progress"]["done"].as_u64() > Some(0) && job["state"] == "running";
        jobs.as_array()?.iter().find(moves)?["id"].as_str().map(str::to_owned)
    });
    site.backstay.ok(&["policy", "pause", "often"]);
    site.backstay.ok(&["job", "pause", &id]);
    let is = |state: &str| {
        until(state, PATIENCE, || (site.backstay.ok(&["job", "show", &id])["state"] == state).then_some(()));
    };
    is("paused");
    apply_policy(&site, "[\"1G\", \"12:00-13:00=512M\"]");
    site.backstay.ok(&["job", "resume", &id]);
    is("done");
    let limit = |(from, to): (u64, u64), rate: u64| json!({ "days": 127, "rate": { "from_minute": from, "to_minute": to, "bytes_per_second": rate } });
    let of = |limits: &[Value]| json!({ "time_zone": "Asia/Kathmandu", "limits": limits });
    let slow = of(&[limit((0, 0), 256 << 10)]);
    let fast = of(&[limit((0, 0), 1 << 30), limit((720, 780), 512 << 20)]);
    assert_eq!(given(&site, &id), [slow, fast]);
    let point = site.backstay.ok(&["job", "show", &id])["point"].clone();
    let point = site.backstay.ok(&["point", "show", point.as_str().expect("a point")]);
    site.proves(&point, "disk0", &qsd.file("disk0"));
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
