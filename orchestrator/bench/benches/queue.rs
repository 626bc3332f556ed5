//! What one decision costs, and one job in memory, with 100,000 jobs waiting: the real decisions and the real fold, on one
//! core, with agents that answer at once.
//!
//! 1,000 VMs on 50 hosts, 20 policies, 4 repositories; each job is one that touches no QEMU when it fails at its first look, so that
//! what is measured is the queue's own cycle: admit, look, compare, end. Owns the measuring and the table.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput};
use journal::effect::{RepositoryAddress, VmAddress};
use journal::observation::VmSeen;
use journal::record::{
    BackupWork, ConsistencyAsked, Due, EpochBegan, Installed, JobQueued, JobStarted, Mode, PolicyApplied,
    RepositoryAdded, Terms, VmAdded, Work,
};
use journal::state::Stamp;
use journal::{Epoch, Installation, JobId, Record, State, Time, VmId};
use orchestrator::decide::{CheckStep, Live, Seen, next};

const VMS: u128 = 1_000;
const POLICIES: u64 = 20;
const REPOSITORIES: u64 = 4;
const HOSTS: u128 = 50;
const JOBS: usize = 16;
const WAITING: u64 = 100_000;
/// What is promised.
const DECISIONS_PER_SECOND: f64 = 50_000.0;
const BYTES_PER_JOB: usize = 1 << 10;

/// Counts what is allocated and not given back.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

// SAFETY: passes everything on to the system's allocator, and only counts.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// An installation, its clock, and the VMs at which a look goes on for ever.
struct Site {
    state: State,
    live: Live,
    clock: i64,
    held: Vec<VmId>,
}

impl Clone for Site {
    fn clone(&self) -> Self {
        let mut live = Live::new(self.live.limits, BTreeSet::new());
        live.refresh_policies(&self.state);
        self.held.iter().for_each(|vm| live.step(*vm, CheckStep::Ask));
        Site { state: self.state.clone(), live, clock: self.clock, held: self.held.clone() }
    }
}

impl Site {
    fn new() -> Site {
        let mut site = Site { state: State::default(), live: Live::default(), clock: 0, held: Vec::new() };
        site.live.limits.jobs = JOBS;
        site.live.limits.jobs_per_host = 1;
        site.fold(Installed { installation: Installation(1) });
        site.fold(EpochBegan { pid: 1, version: "0".into() });
        for number in 0..VMS {
            let name = format!("vm-{number}").parse().expect("a name");
            let vm = VmAddress { id: vm(number), name, qmp: "/run/qmp".into(), guest_agent: None };
            let host = Some(format!("host-{}", number % HOSTS).parse().expect("a name"));
            site.fold(VmAdded { vm, disks: Vec::new(), labels: Vec::new(), host });
        }
        for number in 0..REPOSITORIES {
            let name = format!("repository-{number}").parse().expect("a name");
            let repository = RepositoryAddress {
                name,
                path: "/r".into(),
                password_file: "/k".into(),
                append_only: false,
                rates: Vec::new(),
            };
            site.fold(RepositoryAdded { repository, id: "r".into(), chunk_bytes: 1 << 20 });
        }
        for number in 0..POLICIES {
            let text = format!(
                "name = \"policy-{number}\"\nrepositories = [\"repository-0\"]\nselect.names = [\"*\"]\n\
                 retry = {{ attempts = 1 }}\npriority = {}\nschedules = [{{ cron = \"0 2 * * *\" }}]\n",
                number % 3
            );
            site.fold(PolicyApplied { name: format!("policy-{number}").parse().expect("a name"), text });
        }
        assert!(site.live.refresh_policies(&site.state).is_empty(), "the policies are read");
        site
    }

    fn fold(&mut self, record: impl Into<Record>) {
        self.clock += 1;
        let stamp = Stamp { epoch: Epoch(1), time: Time(self.clock) };
        self.state.apply(stamp, &record.into()).expect("a legal record");
    }

    fn queue(&mut self, jobs: u64) {
        for _ in 0..jobs {
            let job = self.state.next.job;
            let number = job.0;
            let due = Due {
                policy: format!("policy-{}", number % POLICIES).parse().expect("a name"),
                schedule: "0 2 * * *".into(),
                at: Time(self.clock),
                not_before: Time(self.clock),
            };
            let work = Work::Backup(BackupWork {
                vm: vm(u128::from(number * 7919) % VMS),
                repository: format!("repository-{}", number % REPOSITORIES).parse().expect("a name"),
                mode: Mode::Auto,
                since: None,
                consistency: ConsistencyAsked::Crash,
            });
            let terms = Terms { priority: i8::try_from(number % 3).unwrap_or(0), ..Terms::default() };
            self.fold(JobQueued { job, work, due: Some(due), terms });
        }
    }

    /// Has a job run on each of all the hosts that there may be, but one: nothing else starts there.
    fn fill_hosts(&mut self) {
        for number in 0..JOBS as u128 - 1 {
            let job = self.state.queue().of_vm(vm(number)).next().expect("jobs of every VM wait");
            self.fold(JobStarted { job });
            self.live.step(vm(number), CheckStep::Ask);
            self.held.push(vm(number));
        }
    }

    /// One cycle: what the drive does with a decision. Its QEMU is not there, which ends the job.
    fn decide(&mut self) -> bool {
        self.live.refresh_policies(&self.state);
        let Some(decision) = next(&self.state, &self.live, Time(self.clock)) else { return false };
        decision.records.into_iter().for_each(|record| self.fold(record));
        for (vm, step) in decision.checks {
            self.live.step(vm, step);
            if step == CheckStep::Ask {
                let vm_seen = VmSeen::NotRunning { why: "nobody listens".into() };
                self.live.saw(vm, Seen { vm: vm_seen, repositories: Vec::new() });
            }
        }
        true
    }

    fn decide_times(&mut self, times: u64) -> u64 {
        (0..times).take_while(|_| self.decide()).count() as u64
    }
}

fn vm(number: u128) -> VmId {
    VmId(uuid::Uuid::from_u128(number + 1))
}

fn main() {
    // Cargo runs benches in tests too, then without `--bench`: nothing is measured there.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let held = || HELD.load(Ordering::Relaxed);
    let empty = Site::new();
    let mut full = empty.clone();
    let before = held();
    full.queue(WAITING);
    let bytes = (held() - before) / usize::try_from(WAITING).expect("a small number");
    println!("memory of a queued job: {bytes} bytes");
    assert!(bytes < BYTES_PER_JOB, "{bytes} bytes are more than promised");

    let (decisions, spent) = until_empty(full.clone());
    let rate = decisions as f64 / spent.as_secs_f64();
    println!("{WAITING} jobs to their end: {decisions} decisions in {spent:.2?}, {rate:.0} a second");
    assert!(rate >= DECISIONS_PER_SECOND, "{rate:.0} decisions a second are less than promised");

    let mut criterion = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(8));
    cycles(&mut criterion, "waiting/100", &with(&empty, 100, 0));
    cycles(&mut criterion, "waiting/100000", &full);
    // So many hosts at their limit that only one job more may run at once.
    let mut crowded = full.clone();
    crowded.fill_hosts();
    cycles(&mut criterion, "waiting/100000, 15 of 50 hosts full", &crowded);
    // The same hundred waiting, after long lives: what is over must cost nothing.
    for finished in [1_000, 20_000] {
        cycles(&mut criterion, &format!("finished/{finished}"), &with(&empty, 100, finished));
    }
    criterion.final_summary();
}

/// So many jobs waiting, after so many that are over.
fn with(empty: &Site, waiting: u64, finished: u64) -> Site {
    let mut site = empty.clone();
    site.queue(finished);
    while site.decide() {}
    assert_eq!(site.state.next.job, JobId(finished + 1));
    site.queue(waiting);
    site
}

fn until_empty(mut site: Site) -> (u64, Duration) {
    let begun = Instant::now();
    let decisions = site.decide_times(u64::MAX);
    let spent = begun.elapsed();
    assert!(black_box(site.state.queue().waiting().next()).is_none(), "all came to their end");
    (decisions, spent)
}

fn cycles(criterion: &mut Criterion, name: &str, site: &Site) {
    const CYCLES: u64 = 100;
    let mut group = criterion.benchmark_group("cycle");
    group.throughput(Throughput::Elements(CYCLES));
    group.bench_function(name, |bencher| {
        bencher.iter_batched(
            || site.clone(),
            |mut site| {
                assert_eq!(site.decide_times(CYCLES), CYCLES);
                site
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}
