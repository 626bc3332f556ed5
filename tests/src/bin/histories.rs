//! Lives through random histories, one after the other, for a while: see `docs/crash-matrix.md`. Started by
//! `scripts/random-histories`, which builds what it needs.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{env, thread};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tests::guest;
use tests::history::{Told, live};
use tests::lab::require_qemu;
use tests::machine::Machine;
use tests::qsd;
use tests::site::Site;
use tests::stage::Stage;
use tests::violation::{self, attempt, keep};

/// Bytes of each disk: every second counts.
const SIZE: u64 = 4 << 20;

const USAGE: &str =
    "usage: histories [--minutes N] [--histories N] [--seed N] [--steps N] [--jobs N] [--machine qsd|system]";

#[derive(Debug, Clone)]
struct Options {
    limit: Duration,
    histories: u64,
    seed: u64,
    steps: u64,
    jobs: u64,
    system: bool,
}

fn options() -> Result<Options, String> {
    let limit = Duration::from_secs(600);
    let mut options = Options { limit, histories: u64::MAX, seed: 1, steps: 12, jobs: 1, system: false };
    let mut words = env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|error| format!("{word} {value}: {error}"));
        match word.as_str() {
            "--minutes" => options.limit = Duration::from_secs(60 * number()?),
            "--histories" => options.histories = number()?,
            "--seed" => options.seed = number()?,
            "--steps" => options.steps = number()?,
            "--jobs" => options.jobs = number()?.max(1),
            "--machine" => match value.as_str() {
                "qsd" => options.system = false,
                "system" => options.system = true,
                other => return Err(format!("no machine `{other}`; there are qsd, system")),
            },
            _ => return Err(format!("what is `{word}`?")),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(what) => {
            eprintln!("{what}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if !require_qemu() {
        return ExitCode::FAILURE;
    }
    violation::catch();
    let run = Run { start: Instant::now(), next: AtomicU64::new(0), sum: Mutex::default(), options };
    thread::scope(|scope| {
        for _ in 0..run.options.jobs {
            scope.spawn(|| run.one_after_the_other());
        }
    });
    run.conclude()
}

/// What came of all histories so far.
#[derive(Debug, Default)]
struct Sum {
    histories: u64,
    violated: Vec<u64>,
    told: Told,
}

struct Run {
    options: Options,
    start: Instant,
    next: AtomicU64,
    sum: Mutex<Sum>,
}

impl Run {
    /// A history for each seed from the first.
    fn one_after_the_other(&self) {
        while self.start.elapsed() < self.options.limit {
            let at = self.next.fetch_add(1, Ordering::Relaxed);
            if at >= self.options.histories {
                break;
            }
            let seed = self.options.seed + at;
            println!("seed {seed}; replay with --seed {seed} --histories 1");
            self.history(seed);
        }
    }

    fn history(&self, seed: u64) {
        let mut stage = None;
        let lived = attempt(|| {
            let stage = stage.insert(self.stage(seed));
            live(stage.as_mut(), seed, self.options.steps)
        });
        // A log in which there is what nobody expected is a violation too.
        let told = lived.and_then(|told| attempt(|| drop(stage.take())).map(|()| told));
        let mut sum = self.sum.lock().expect("nobody panics with the sum");
        sum.histories += 1;
        match told {
            Ok(told) => sum.told.add(&told),
            Err(what) => {
                println!("seed {seed}: VIOLATED: {what}");
                sum.violated.push(seed);
                let to = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../target/histories/{seed}"));
                stage.into_iter().for_each(|stage| keep(stage, &to));
            }
        }
    }

    fn stage(&self, seed: u64) -> Box<dyn Stage> {
        let mut random = StdRng::seed_from_u64(seed);
        if self.options.system {
            let options = guest::Options { disk_size: 32 << 20, ..guest::Options::new("guest") };
            return Box::new(Machine::start(options, random.random()));
        }
        let disks = random.random_range(1..=3);
        Box::new(Site::start(qsd::Options::new("qsd", disks, SIZE), random.random()))
    }

    fn conclude(&self) -> ExitCode {
        let sum = self.sum.lock().expect("nobody panics with the sum");
        let Sum { histories, violated, told } = &*sum;
        println!("\n{histories} histories in {:?}, {} steps", self.start.elapsed(), told.steps);
        println!("asked for: {:?}\ncame to harm: {:?}", told.acts, told.blows);
        println!("{} restore points proven; {} violations {violated:?}", told.points, violated.len());
        if violated.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
