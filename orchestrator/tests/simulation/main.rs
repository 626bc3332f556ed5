//! The real decisions and the real fold against a small world, over seeded histories of writes, kills and wishes.
//!
//! One seed again: `BACKSTAY_SEED=<n> cargo nextest run -p orchestrator --test simulation`. More of them:
//! `BACKSTAY_HISTORIES=1000000 cargo test --release -p orchestrator --test simulation`.
#![allow(clippy::unwrap_used, missing_docs)]

mod driver;
mod hooks;
mod world;
mod year;

use driver::Driver;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const HISTORIES: u64 = 4000;
const EVENTS: usize = 120;

/// After any history, once things are quiet, every restore point holds what its view showed, nothing of ours is left
/// behind, no job is stuck, and the next backups go through: the first heals, the second is incremental.
#[test]
fn every_history_ends_well() {
    let seeds = match std::env::var("BACKSTAY_SEED") {
        Ok(seed) => seed.parse().map(|seed: u64| seed..seed + 1).unwrap(),
        Err(_) => 0..histories(),
    };
    let mut all = Told::default();
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let result = std::panic::catch_unwind(|| history(seed));
        let told =
            result.unwrap_or_else(|_| panic!("seed {seed} failed: run it again with BACKSTAY_SEED={seed}"));
        all.incrementals += told.incrementals;
        all.fulls += told.fulls;
        all.retries += told.retries;
        all.rests += told.rests;
        all.mapped += told.mapped;
        all.hooks += told.hooks;
    }
    println!("{count} histories: {all:?} (disks)");
    assert!(
        count < 100 || (all.retries > 20 && all.rests > 20),
        "histories without retries and rests prove little"
    );
    assert!(all.incrementals > all.fulls / 4, "histories in which nothing is incremental prove little");
    assert!(count < 100 || all.hooks > 1000, "histories without hooks prove nothing of them");
    assert!(count < 100 || all.mapped > 0, "histories without a map of changes prove nothing of exports");
}

/// How many histories: as many as `BACKSTAY_HISTORIES` says, or few.
fn histories() -> u64 {
    std::env::var("BACKSTAY_HISTORIES").map_or(HISTORIES, |many| many.parse().unwrap())
}

/// What a history had in it.
#[derive(Debug, Default)]
struct Told {
    incrementals: usize,
    fulls: usize,
    retries: usize,
    rests: usize,
    /// Disks that were exported with a map of changes.
    mapped: usize,
    /// Hooks that were begun.
    hooks: u64,
}

fn history(seed: u64) -> Told {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut driver = Driver::new(rng.random());
    for _ in 0..EVENTS {
        event(&mut driver, &mut rng);
    }
    driver.settle();
    driver.check();
    driver.backup();
    driver.settle();
    driver.check();
    driver.world.write(0, 3);
    let before = driver.incremental_disks();
    driver.backup();
    driver.settle();
    driver.check();
    assert_eq!(driver.incremental_disks(), before + 3, "the chain has not healed");
    Told {
        incrementals: driver.incremental_disks(),
        fulls: driver.full_disks(),
        retries: driver.retries,
        rests: driver.rests,
        mapped: driver.mapped_disks(),
        hooks: driver.hooks.count,
    }
}

fn event(driver: &mut Driver, rng: &mut StdRng) {
    match rng.random_range(0..100) {
        0..40 => {
            let (disk, block) = (rng.random_range(0..3), rng.random_range(0..world::BLOCKS));
            driver.world.write(disk, block);
        }
        40..72 => driver.advance(),
        72..79 => driver.backup(),
        79..80 => driver.let_time_pass(),
        80..81 => driver.create_checkpoint(),
        81..83 => driver.pause(),
        83..85 => driver.export(),
        85..88 => driver.delete_checkpoint(),
        88..90 => driver.forget_point(),
        90..94 => driver.crash(),
        94..95 => driver.lose_answer(),
        95..96 => driver.world.kill(),
        96..97 => driver.world.quit(),
        97..98 => driver.remove_bitmap(),
        98..99 => driver.cancel(),
        99..100 if rng.random_ratio(1, 3) => driver.world.full ^= true,
        99..100 if rng.random_ratio(1, 4) => driver.world.swap_images(),
        99..100 if rng.random_ratio(1, 4) => driver.clear_bitmap(),
        _ => driver.world.start(),
    }
}
