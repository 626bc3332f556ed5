//! How fast an export is read, by the number of requests in flight. Run it in release:
//! `cargo test --release -p agent --test nbd_speed -- --ignored --nocapture`
#![allow(clippy::unwrap_used)]

mod support;

use agent::nbd::*;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use support::{StorageDaemon, installed, noise};

const SIZE: u64 = 2 << 30;
const READ: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn reading_two_gibibytes() {
    if !installed() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk.raw");
    let mut file = std::fs::File::create(&image).unwrap();
    for number in 0..SIZE / (32 << 20) {
        file.write_all(&noise(number, 32 << 20)).unwrap();
    }
    drop(file);
    let daemon = StorageDaemon::over(folder, "raw", &image);
    let _qmp = daemon.connect_and_export(&[]).await;
    for round in 0..3 {
        for depth in [1, 8, 16] {
            let nbd =
                Arc::new(Nbd::connect(daemon.nbd_socket(), "disk", &[], Limits::default()).await.unwrap());
            let next = Arc::new(AtomicU64::new(0));
            let (start, cpu) = (Instant::now(), cpu_seconds());
            let readers = (0..depth).map(|_| {
                let (nbd, next) = (nbd.clone(), next.clone());
                tokio::spawn(async move {
                    let mut buffer = vec![0; usize::try_from(READ).unwrap()];
                    loop {
                        let offset = next.fetch_add(READ, Ordering::Relaxed);
                        if offset >= SIZE {
                            return;
                        }
                        buffer = nbd.read(offset, buffer).await.unwrap();
                    }
                })
            });
            for reader in readers.collect::<Vec<_>>() {
                reader.await.unwrap();
            }
            let size = (SIZE >> 20) as f64 / 1024.0;
            let (rate, cpu) = (size / start.elapsed().as_secs_f64(), (cpu_seconds() - cpu) / size);
            println!(
                "round {round}, depth {depth:2}: {rate:.2} GiB/s, {cpu:.2} seconds of our processor a GiB"
            );
        }
    }
}

/// What this process has used, in seconds: fields 14 and 15 of proc(5)'s stat, hundredths on every Linux.
/// On a busy machine this says more than the time on the wall.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace();
    fields.skip(11).take(2).map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}
