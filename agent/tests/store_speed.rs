//! How fast a disk of real files goes into a repository and comes back, and with how much memory. Run by hand:
//! `cargo nextest run --release -p agent --run-ignored all --test store_speed --no-capture`.
#![allow(clippy::unwrap_used, clippy::cast_precision_loss)]

mod store_support;

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use journal::Effect;
use journal::effect::{ImageFormat, RestoreTarget};
use store_support::{Disk, GIB, MIB, World, installed, run};

/// Processor time of this process so far.
fn processor() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace().collect::<Vec<_>>();
    let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

fn peak_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

struct Clock {
    start: Instant,
    processor: Duration,
}

impl Clock {
    fn start() -> Self {
        // Forgets the peak so far.
        fs::write("/proc/self/clear_refs", "5").unwrap();
        Self { start: Instant::now(), processor: processor() }
    }

    fn stop(self, what: &str, bytes: u64) {
        let (wall, used) = (self.start.elapsed(), processor() - self.processor);
        let speed = bytes as f64 / wall.as_secs_f64() / MIB as f64;
        println!("{what:34} {wall:8.2?} {speed:7.0} MiB/s, processor {used:6.2?}, peak {} MiB", peak_mib());
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: minutes, and only meaningful in release"]
async fn two_gibibytes_of_files() {
    if !installed() {
        return;
    }
    let mut world = World::new(1 << 20).await;
    let mut disk = Disk::new(&world, 0, "vda", "qcow2", 4 * GIB);
    let files = world.path("files");
    let pack = format!("tar cf - /usr 2>/dev/null | head -c 2G > {}", files.display());
    assert!(Command::new("sh").args(["-c", &pack]).status().unwrap().success());
    let length = fs::metadata(&files).unwrap().len();
    fs::File::options().write(true).open(&files).unwrap().set_len(disk.size).unwrap();
    let (from, to) = (files.to_str().unwrap(), disk.image.to_str().unwrap());
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", from, to]);
    fs::remove_file(&files).unwrap();
    disk.record_changes(65536);

    let view = world.serve(&[&disk]);
    let socket = world.path("run/123456789abcdef0123456789abcdef0/nbd");
    let uri = format!("nbd+unix:///backstay.0a1b2c3d.t7.0x?socket={}", socket.display());
    for round in ["nbdcopy to null, cold", "nbdcopy to null, warm"] {
        let clock = Clock::start();
        let copied = Command::new("nbdcopy").args([uri.as_str(), "null:"]).stdout(Stdio::null()).status();
        if copied.is_ok_and(|status| status.success()) {
            clock.stop(round, length);
        }
    }
    let clock = Clock::start();
    let full = world.stored(1, vec![disk.full()]).await;
    clock.stop("full, into an empty repository", length);
    println!("    {:?}", full.disks[0]);
    let clock = Clock::start();
    world.stored(2, vec![disk.full()]).await;
    clock.stop("full again, nothing new", length);
    drop(view);

    for change in 0..20 {
        disk.write_noise(change + 1, change * 97 * MIB, MIB);
    }
    disk.freeze_changes();
    let view = world.serve(&[&disk]);
    let clock = Clock::start();
    let increment = world.stored(3, vec![disk.since(1, &full)]).await;
    clock.stop("incremental, 1 %", 20 * MIB);
    println!("    {:?}", increment.disks[0]);
    drop(view);

    for (format, name) in [(ImageFormat::Raw, "new raw"), (ImageFormat::Qcow2, "new qcow2")] {
        let path = world.path(name);
        let restore = world.restore(&increment, "vda", disk.size, &path, format);
        let clock = Clock::start();
        println!("    {:?}", world.done(Effect::Restore(restore.clone())).await);
        clock.stop(&format!("restore, {name}, read back"), length);
        let restore = journal::effect::Restore { target: RestoreTarget::InPlace, ..restore };
        let clock = Clock::start();
        println!("    {:?}", world.done(Effect::Restore(restore)).await);
        clock.stop("restore in place, nothing differs", length);
        fs::remove_file(path).unwrap();
    }
}
