//! Walks the crash matrix: see `docs/crash-matrix.md`. Started by `scripts/crash-matrix`, which builds what it needs.
//!
//! Cells are walked in batches, each on a stage of its own, in an order that follows from the seed; a cell that does not
//! hold ends its batch's stage, whose files are kept for who looks into it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use chrono::Utc;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tests::guest;
use tests::lab::{PATIENCE, require_qemu, tool};
use tests::machine::Machine;
use tests::matrix::cell::{self, Ledger};
use tests::matrix::results::{Counted, Ground, Line, Results, put};
use tests::matrix::{Cell, Operation, POINTS, Victim, strike};
use tests::process::run;
use tests::qsd;
use tests::site::Site;
use tests::stage::Stage;
use tests::violation::{self, attempt, keep};

/// Bytes of each disk: every second counts a thousand times.
const SIZE: u64 = 4 << 20;

/// Cells on one stage: its repository and its chain must not grow for ever.
const BATCH: usize = 12;

const USAGE: &str = "usage: crash-matrix [--operation NAME]… [--victim NAME]… [--point NAME]… [--passage N]
    [--machine qsd|system] [--seed N] [--jobs N] [--minutes N] [--resume] [--no-page]
    [--results FILE]";

#[derive(Debug)]
struct Options {
    operations: Vec<Operation>,
    victims: Vec<Victim>,
    points: Vec<String>,
    passage: Option<u64>,
    machine: String,
    seed: u64,
    jobs: usize,
    limit: Option<Duration>,
    resume: bool,
    page: bool,
    results: PathBuf,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        operations: Vec::new(),
        victims: Vec::new(),
        points: Vec::new(),
        passage: None,
        machine: "qsd".to_owned(),
        seed: 1,
        jobs: 1,
        limit: None,
        resume: false,
        page: true,
        results: folder().join("results.jsonl"),
    };
    let mut words = env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
        match word.as_str() {
            "--operation" => options.operations.push(value()?.parse()?),
            "--victim" => options.victims.push(value()?.parse()?),
            "--point" => options.points.push(value()?),
            "--passage" => options.passage = Some(number(value()?)?),
            "--machine" => options.machine = value()?,
            "--seed" => options.seed = number(value()?)?,
            "--jobs" => options.jobs = usize::try_from(number(value()?)?).unwrap_or(1).max(1),
            "--minutes" => options.limit = Some(Duration::from_secs(60 * number(value()?)?)),
            "--resume" => options.resume = true,
            "--results" => options.results = value()?.into(),
            "--no-page" => options.page = false,
            _ => return Err(format!("what is `{word}`?")),
        }
    }
    if !["qsd", "system"].contains(&options.machine.as_str()) {
        return Err(format!("no machine `{}`; there are qsd, system", options.machine));
    }
    if let Some(unknown) = options.points.iter().find(|point| POINTS.iter().all(|(name, _)| name != point)) {
        return Err(format!("no point `{unknown}`; there are {}", POINTS.map(|(name, _)| name).join(", ")));
    }
    if options.operations.is_empty() {
        options.operations = Operation::ALL.to_vec();
    }
    if options.victims.is_empty() {
        options.victims = Victim::ALL.to_vec();
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
    fs::create_dir_all(folder()).expect("the target folder takes a folder");
    let ground = Ground { machine: options.machine.clone(), qemu: version(), seed: options.seed };
    let results = Results::open(&options.results, options.resume);
    let walk = Walk { options, ground, results: Mutex::new(results), start: Instant::now() };
    walk.all()
}

/// Where results and the leavings of violations lie.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/crash-matrix")
}

/// The version of the QEMU that is found first.
fn version() -> String {
    let said = run(tool("qemu-storage-daemon").arg("--version"), PATIENCE);
    said.split_whitespace().nth(2).unwrap_or("unknown").to_owned()
}

/// One run.
struct Walk {
    options: Options,
    ground: Ground,
    results: Mutex<Results>,
    start: Instant,
}

impl Walk {
    fn all(&self) -> ExitCode {
        let batches = Mutex::new(self.batches().into_iter());
        thread::scope(|scope| {
            for _ in 0..self.options.jobs {
                scope.spawn(|| {
                    loop {
                        let next = batches.lock().expect("taking the next does not panic").next();
                        let Some((operation, cells)) = next.filter(|_| !self.is_late()) else { break };
                        self.batch(operation, &cells);
                    }
                });
            }
        });
        self.conclude()
    }

    fn is_late(&self) -> bool {
        self.options.limit.is_some_and(|limit| self.start.elapsed() > limit)
    }

    /// The cells still to be walked, shuffled over all operations, in batches of one operation.
    fn batches(&self) -> Vec<(Operation, Vec<Cell>)> {
        let mut random = StdRng::seed_from_u64(self.options.seed);
        let mut batches = Vec::new();
        for operation in self.options.operations.clone() {
            let mut cells = self.cells(operation);
            cells.shuffle(&mut random);
            batches
                .extend(cells.chunks(BATCH).enumerate().map(|(at, cells)| (at, operation, cells.to_vec())));
        }
        // The first of each operation, then the second: a run that is cut short has seen something of all.
        batches.sort_by_key(|(at, operation, _)| (*at, *operation));
        batches.into_iter().map(|(_, operation, cells)| (operation, cells)).collect()
    }

    fn cells(&self, operation: Operation) -> Vec<Cell> {
        let counted = self.counted(operation);
        let wanted = |point: &String| self.options.points.is_empty() || self.options.points.contains(point);
        let results = self.results.lock().expect("nobody panics with the results");
        let mut cells = Vec::new();
        for (point, passages) in counted.passages.iter().filter(|(point, _)| wanted(point)) {
            for passage in 1..=*passages {
                if self.options.passage.is_some_and(|wanted| wanted != passage) {
                    continue;
                }
                let of = |victim: &Victim| Cell::new(operation, *victim, point, passage);
                cells.extend(
                    self.options.victims.iter().map(of).filter(|cell| !results.has(&self.ground, cell)),
                );
            }
        }
        cells
    }

    /// The dry run.
    fn counted(&self, operation: Operation) -> Counted {
        let known = {
            let results = self.results.lock().expect("nobody panics with the results");
            results.count_of(&self.ground, operation).cloned()
        };
        if let Some(counted) = known {
            return counted;
        }
        let mut stage = self.stage(operation, 0);
        cell::make_ready(stage.as_mut(), &mut Ledger::default());
        let commands = operation.prepare(stage.as_mut());
        let passages = strike::count(stage.as_mut(), commands);
        let shown: Vec<String> = passages.iter().map(|(point, times)| format!("{point} {times}")).collect();
        println!("{}: {}", operation.name(), shown.join(", "));
        let counted = Counted { ground: self.ground.clone(), operation, passages };
        self.results.lock().expect("nobody panics with the results").count(counted.clone());
        counted
    }

    fn stage(&self, operation: Operation, salt: u64) -> Box<dyn Stage> {
        let seed = StdRng::seed_from_u64(self.options.seed ^ salt).random();
        match self.options.machine.as_str() {
            "system" => {
                // A guest that writes all the time takes all the time that its emulation gets.
                let pause = Duration::from_millis(100);
                let options = guest::Options { disk_size: 32 << 20, pause, ..guest::Options::new("guest") };
                Box::new(Machine::start(options, true))
            }
            _ => Box::new(Site::start(qsd::Options::new("qsd", operation.disks(), SIZE), seed)),
        }
    }

    /// Walks cells on one stage; on another from where one did not hold.
    fn batch(&self, operation: Operation, cells: &[Cell]) {
        let mut stage: Option<(Box<dyn Stage>, Ledger)> = None;
        for cell in cells {
            if self.is_late() {
                break;
            }
            let (start, salt) = (Instant::now(), cell.passage);
            let walked = attempt(|| {
                let (stage, ledger) = stage.get_or_insert_with(|| {
                    let (mut stage, mut ledger) = (self.stage(operation, salt), Ledger::default());
                    cell::make_ready(stage.as_mut(), &mut ledger);
                    (stage, ledger)
                });
                cell::visit(stage.as_mut(), ledger, cell)
            });
            let millis = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
            let mut line = Line {
                ground: self.ground.clone(),
                cell: cell.clone(),
                reached: false,
                rows: Default::default(),
                violation: None,
                millis,
            };
            match walked {
                Ok(walked) => {
                    println!("{cell}: {} {millis} ms", if walked.reached { "held" } else { "not reached" });
                    (line.reached, line.rows) = (walked.reached, walked.rows);
                }
                Err(what) => {
                    println!("{cell}: VIOLATED after {millis} ms: {what}");
                    line.violation = Some(what);
                    if let Some((stage, _)) = stage.take() {
                        let name = cell.to_string().replace(['/', ':'], ".");
                        keep(stage, &folder().join("violations").join(name));
                    }
                }
            }
            self.results.lock().expect("nobody panics with the results").walked(line);
        }
        if let Err(what) = attempt(|| drop(stage.take())) {
            println!("{}: VIOLATED by the log of a batch: {what}", operation.name());
        }
    }

    fn conclude(&self) -> ExitCode {
        let results = self.results.lock().expect("nobody panics with the results");
        let words: Vec<String> = env::args().skip(1).filter(|word| word != "--resume").collect();
        let command = format!("scripts/crash-matrix {}", words.join(" "));
        let date = Utc::now().format("%Y-%m-%d").to_string();
        let part = results.page(&self.ground, &date, &command);
        if self.options.page {
            let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/crash-matrix.md");
            put(&page, &self.ground, &part);
        }
        println!("\n{part}");
        let mut slowest: BTreeMap<Operation, u64> = BTreeMap::new();
        for line in results.lines.iter().filter(|line| line.ground == self.ground) {
            let slowest = slowest.entry(line.cell.operation).or_default();
            *slowest = (*slowest).max(line.millis);
        }
        println!("slowest cell of each operation, ms: {slowest:?}; {:?} in all", self.start.elapsed());
        let violated =
            results.lines.iter().any(|line| line.ground == self.ground && line.violation.is_some());
        if violated { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}
