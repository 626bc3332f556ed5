//! A year of a whole site: hundreds of VMs under twenty policies, on hosts that hang, into repositories that fill up, with an
//! orchestrator that dies, in zones whose clocks change. The real decisions and the real fold, over virtual time.
//!
//! ```text
//!   mishaps ──▶ worlds, hosts, repositories ◀── effects ── decide ◀── state ◀── fold
//!                                └── outcomes ──▶ books ─────────────────────────┘
//!   oracle: what is due ──▶ is compared with ◀── the records ──▶ watch: what must hold, report: what would have been lost
//! ```
//!
//! `scripts/simulate-year` runs the whole of it; `docs/simulation.md` says what is checked. Who drives decisions and agents
//! is in `driver`; nothing here knows how anything is decided.

mod books;
mod driver;
mod mishaps;
mod oracle;
mod report;
mod site;
mod watch;

use std::time::Instant;

use driver::Year;
use report::percentile;

pub const SECOND: i64 = 1_000_000;
pub const MINUTE: i64 = 60 * SECOND;
pub const HOUR: i64 = 60 * MINUTE;
pub const DAY: i64 = 24 * HOUR;

/// 7 March 2027, noon: in the four weeks that follow, the clocks change in America, Europe, Australia and at the poles.
const BEGIN: i64 = 1_804_420_800 * SECOND;

/// How large a simulation is.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub vms: usize,
    pub hosts: usize,
    pub days: i64,
    /// Whether all records are kept, so that after each crash they are folded from the first one as well.
    pub whole: bool,
    /// Of the decisions of many records, a crash cuts one in so many in two.
    pub cuts: u32,
}

/// A month of 200 VMs.
#[test]
fn a_month_is_answered_for() {
    let seed = seed().unwrap_or(1);
    simulate(seed, Size { vms: 200, hosts: 10, days: 30, whole: true, cuts: 10 });
}

/// A year of 1,000 VMs: `scripts/simulate-year`.
#[test]
#[ignore = "a minute and more: scripts/simulate-year"]
fn a_year_is_answered_for() {
    let seed = seed().unwrap_or(1);
    simulate(seed, Size { vms: 1000, hosts: 50, days: 365, whole: false, cuts: 100 });
}

/// The same seed is the same history, to the last byte of the last record; another is another.
#[test]
fn a_seed_is_a_history() {
    let size = Size { vms: 60, hosts: 5, days: 12, whole: false, cuts: 10 };
    let hash = |seed| simulate(seed, size);
    let (first, again, other) = (hash(7), hash(7), hash(8));
    assert_eq!(first, again);
    assert_ne!(first, other);
}

fn seed() -> Option<u64> {
    std::env::var("BACKSTAY_SEED").ok().map(|seed| seed.parse().unwrap())
}

/// Runs one and checks it; the hash of its records.
fn simulate(seed: u64, size: Size) -> String {
    println!(
        "\n{} VMs, {} hosts, {} days; seed {seed}: `BACKSTAY_SEED={seed}` runs it again",
        size.vms, size.hosts, size.days
    );
    let begun = Instant::now();
    let mut year = Year::new(seed, size);
    year.run();
    let took = begun.elapsed();
    year.check();
    let rate = year.decisions as f64 / took.as_secs_f64();
    let Year { books, watch, .. } = &year;
    println!(
        "{:.1} s: {} runs due, {} decisions ({rate:.0}/s), {} records ({} MiB), {} starts, {} bases",
        took.as_secs_f64(),
        year.due(),
        year.decisions,
        books.records,
        books.bytes >> 20,
        year.starts(),
        books.bases,
    );
    println!("backups ended: {:?}", watch.ended);
    println!(
        "tried again: {:?}; points forgotten: {}; at most {} jobs at once, {} on one host; {} tries waited for a window; {} \
         hooks",
        watch.retried,
        watch.forgotten,
        watch.most_at_once,
        watch.most_on_a_host,
        watch.held_back,
        watch.hooks.count
    );
    let mut waits = watch.waits.clone();
    waits.sort_unstable();
    let minutes = |percent| percentile(&waits, percent) / MINUTE;
    println!(
        "waited for a turn, in minutes: p50 {}, p95 {}, p99 {}, longest {} (bound {})",
        minutes(50),
        minutes(95),
        minutes(99),
        minutes(100),
        watch::LONGEST_WAIT / MINUTE,
    );
    year.report.print(&year);
    let hash = year.books.hash();
    println!("hash of all records: {hash}");
    hash
}
