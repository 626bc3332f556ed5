//! What happened in this life of the process, counted for `/metrics`. Everything that is so at this moment is read off the
//! state instead. Fed with the records as they become durable; knows no text format.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use journal::effect::DiskMode;
use journal::outcome::{Done, Measured, Outcome, Stored};
use journal::record::{End, IntentSettled, JobEnded};
use journal::state::{Job, Point};
use journal::{Effect, Intent, IntentId, Record, RepositoryName, State, VmName};

/// How often something took how long, in seconds.
#[derive(Debug, Clone)]
pub struct Histogram {
    /// The upper bounds of the buckets, ascending; above the last there is one more.
    pub bounds: &'static [f64],
    /// How often in each bucket.
    pub counts: Vec<u64>,
    /// All of it together, in seconds.
    pub sum: f64,
}

/// Work on disks: a second to half a day.
const WORK: &[f64] = &[1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0];
/// What a guest may feel: a hundredth of a second to half a minute.
const STALL: &[f64] = &[0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0];
/// An `fdatasync`: a tenth of a millisecond to ten seconds.
const SYNC: &[f64] = &[0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 1.0, 10.0];

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    fn take(&mut self, seconds: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        self.counts[bucket] += 1;
        self.sum += seconds;
    }
}

/// Bytes of restore points.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bytes {
    /// Read from views.
    pub read: u64,
    /// Added to the repository.
    pub stored: u64,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Counters {
    /// Jobs that are over, by kind of work, end, and kind of failure.
    pub jobs: BTreeMap<(&'static str, &'static str, &'static str), u64>,
    /// How long they ran, by kind of work.
    pub durations: BTreeMap<&'static str, Histogram>,
    /// How long they had waited when they started, beyond the instant from which they might.
    pub waits: Histogram,
    /// Tries that failed and were followed by another, by kind of failure.
    pub retries: BTreeMap<&'static str, u64>,
    /// Scheduled runs that did not happen.
    pub skipped: u64,
    /// Bytes of restore points, by VM and repository.
    pub bytes: BTreeMap<(VmName, RepositoryName), Bytes>,
    /// Disks that were read whole, by the kind of reason.
    pub fulls: BTreeMap<&'static str, u64>,
    /// How long guests' file systems were frozen, at most: from the decision to freeze to the answer that they are thawed.
    pub freezes: BTreeMap<VmName, Histogram>,
    /// How long it took to begin views, the transaction that a guest's disks wait for included.
    pub begins: BTreeMap<VmName, Histogram>,
    /// What repositories were last measured to be.
    pub measured: BTreeMap<RepositoryName, Measured>,
    /// Effects that are under way, of those that are timed.
    timed: BTreeMap<IntentId, Timed>,
    /// Since when a guest is frozen, or about to be.
    frozen: BTreeMap<VmName, Instant>,
    /// How long the journal took to make records durable.
    pub appends: Histogram,
    /// Records appended.
    pub records: u64,
}

/// An effect that is timed, or whose outcome says nothing without it.
#[derive(Debug, Clone)]
enum Timed {
    Freeze(VmName, Instant),
    Thaw(VmName),
    Begin(VmName, Instant),
    Measure(RepositoryName),
}

impl Timed {
    /// Of an intent that is about to be sent.
    fn of(intent: &Intent) -> Option<Timed> {
        match &intent.effect {
            Effect::Freeze(it) => Some(Timed::Freeze(it.vm.name.clone(), Instant::now())),
            Effect::Thaw(it) => Some(Timed::Thaw(it.vm.name.clone())),
            Effect::Begin(it) => Some(Timed::Begin(it.checkpoint.vm.name.clone(), Instant::now())),
            Effect::Measure(it) => Some(Timed::Measure(it.repository.name.clone())),
            _ => None,
        }
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            jobs: BTreeMap::new(),
            durations: BTreeMap::new(),
            waits: Histogram::new(WORK),
            retries: BTreeMap::new(),
            skipped: 0,
            bytes: BTreeMap::new(),
            fulls: BTreeMap::new(),
            freezes: BTreeMap::new(),
            begins: BTreeMap::new(),
            measured: BTreeMap::new(),
            timed: BTreeMap::new(),
            frozen: BTreeMap::new(),
            appends: Histogram::new(SYNC),
            records: 0,
        }
    }
}

impl Counters {
    /// Records became durable together, which took so long; `state` is what they made so.
    pub fn appended(&mut self, records: &[Record], took: Duration, state: &State) {
        self.appends.take(took.as_secs_f64());
        self.records += records.len() as u64;
        records.iter().for_each(|record| self.count(record, state));
    }

    fn count(&mut self, record: &Record, state: &State) {
        match record {
            Record::JobStarted(it) => {
                let waited = state.jobs.get(&it.job).and_then(|job| Some(job.started?.0 - job.not_before.0));
                self.waits.take(waited.map_or(0.0, seconds).max(0.0));
            }
            Record::JobRetried(it) => *self.retries.entry(it.class.name()).or_default() += 1,
            Record::JobEnded(it) => self.job_ended(it, state.jobs.get(&it.job)),
            Record::RunSkipped(_) => self.skipped += 1,
            Record::IntentOpened(it) => {
                self.timed.extend(Timed::of(&it.intent).map(|timed| (it.intent.id, timed)));
            }
            Record::IntentSettled(it) => self.settled(it, state),
            _ => {}
        }
    }

    fn settled(&mut self, it: &IntentSettled, state: &State) {
        if let Outcome::Done(Done::Stored(stored)) = &it.outcome {
            self.stored(stored, state);
        }
        match (self.timed.remove(&it.intent), &it.outcome) {
            (Some(Timed::Freeze(vm, since)), Outcome::Done(_)) => drop(self.frozen.insert(vm, since)),
            (Some(Timed::Thaw(vm)), outcome) => {
                // A thaw that found nothing frozen tells of no freeze: the guest agent ended it, or never began it.
                let thawed =
                    matches!(outcome, Outcome::Done(Done::Thawed { filesystems }) if *filesystems > 0);
                let since = self.frozen.remove(&vm).filter(|_| thawed);
                took(&mut self.freezes, vm, since);
            }
            (Some(Timed::Begin(vm, since)), Outcome::Done(_)) => took(&mut self.begins, vm, Some(since)),
            (Some(Timed::Measure(repository)), Outcome::Done(Done::Measured(measured))) => {
                self.measured.insert(repository, measured.clone());
            }
            _ => {}
        }
    }

    fn job_ended(&mut self, it: &JobEnded, job: Option<&Job>) {
        let Some(job) = job else { return };
        let end = match it.end {
            End::Done => "done",
            End::Failed => "failed",
            End::Cancelled => "cancelled",
        };
        let kind = job.work.kind();
        let class = it.class.map_or("", journal::FailureClass::name);
        *self.jobs.entry((kind, end, class)).or_default() += 1;
        if let (Some(started), Some(ended)) = (job.started, job.ended) {
            let ran = seconds(ended.0 - started.0).max(0.0);
            self.durations.entry(kind).or_insert_with(|| Histogram::new(WORK)).take(ran);
        }
    }

    /// The newest points come last: the one that was just made is among them.
    fn stored(&mut self, stored: &Stored, state: &State) {
        let mut newest = state.points.values().rev();
        let Some(point) = newest.find(|point| point.snapshot == stored.snapshot) else { return };
        let bytes = self.bytes.entry((point.vm_name.clone(), point.repository.clone())).or_default();
        for disk in &point.disks {
            bytes.read += disk.read_bytes;
            bytes.stored += disk.stored_bytes;
        }
        for reason in full_reasons(point) {
            *self.fulls.entry(reason).or_default() += 1;
        }
    }
}

fn took(histograms: &mut BTreeMap<VmName, Histogram>, vm: VmName, since: Option<Instant>) {
    if let Some(since) = since {
        let histogram = histograms.entry(vm).or_insert_with(|| Histogram::new(STALL));
        histogram.take(since.elapsed().as_secs_f64());
    }
}

#[expect(clippy::cast_precision_loss, reason = "a microsecond in 285 years is none")]
fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}

/// Why disks of a point were read whole, in a word of a fixed set: reasons name points and sizes, and a label must not.
fn full_reasons(point: &Point) -> impl Iterator<Item = &'static str> {
    const KINDS: [(&str, &str); 8] = [
        ("the first backup of this disk", "first"),
        ("a full backup was asked for", "asked"),
        ("a read-only disk", "read-only"),
        ("a shared disk", "shared"),
        ("the disk's size changed", "resized"),
        ("is no longer in", "parent-gone"),
        ("no restore point of it", "no-point"),
        ("was deleted", "checkpoint-deleted"),
    ];
    let kind = |reason: &str| {
        KINDS.iter().find(|(words, _)| reason.contains(words)).map_or("tracking-lost", |(_, kind)| *kind)
    };
    point.disks.iter().filter_map(move |disk| match &disk.mode {
        DiskMode::Full { reason } => Some(kind(reason)),
        DiskMode::Incremental { .. } => None,
    })
}
