//! `GET /metrics`: what is so and what happened, in Prometheus' text format (version 0.0.4). docs/metrics.md lists it.
//!
//! Ages and counts of what is there come from the state at this moment; counters begin at 0 with the process, as Prometheus
//! expects. No label has a value that grows without end but the names of VMs, repositories and policies.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::PoisonError;

use axum::extract::State as Extract;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use journal::state::JobState;
use journal::{ReceiverName, State, Time};

use super::Api;
use super::jobs::Sight;
use crate::drive::{self, Counters, Histogram, Shared};

pub(super) async fn show(Extract(api): Extract<Api>) -> impl IntoResponse {
    let state = api.shared.state.read().await;
    let counters = api.shared.counters.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut page = Page::default();
    vms(&mut page, &state, drive::now());
    repositories(&mut page, &state, &counters);
    queue(&mut page, &api.shared, &state, drive::now());
    notices(&mut page, &state, &api.shared.receivers);
    happened(&mut page, &counters);
    stalls(&mut page, &counters);
    journal(&mut page, &api.shared, &counters);
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page.0)
}

/// Lines of the text format.
#[derive(Default)]
struct Page(String);

type Labels<'a> = &'a [(&'a str, &'a str)];

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: Labels<'_>, value: f64) {
        self.0.push_str(name);
        for (number, (label, value)) in labels.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{value}\"", if number == 0 { '{' } else { ',' });
        }
        let value = if value.is_infinite() { "+Inf".to_owned() } else { value.to_string() };
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    fn histogram(&mut self, name: &str, labels: Labels<'_>, histogram: &Histogram) {
        let mut below = 0;
        let bounds = histogram.bounds.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(&histogram.counts) {
            below += count;
            let labels: Vec<_> = labels.iter().copied().chain([("le", bound.as_str())]).collect();
            self.sample(&format!("{name}_bucket"), &labels, number(below));
        }
        self.sample(&format!("{name}_sum"), labels, histogram.sum);
        self.sample(&format!("{name}_count"), labels, number(below));
    }
}

#[expect(clippy::cast_precision_loss, reason = "every value of the text format is a double")]
fn number(count: u64) -> f64 {
    count as f64
}

#[expect(clippy::cast_precision_loss, reason = "every value of the text format is a double")]
fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}

fn vms(page: &mut Page, state: &State, now: Time) {
    let good = |vm| state.points_of(vm).rfind(|point| point.suspect.is_none()).map(|point| point.created);
    let name = "backstay_last_good_point_age_seconds";
    page.family(
        name,
        "gauge",
        "Age of a VM's newest restore point that is not in doubt; +Inf where there is none.",
    );
    for (id, vm) in &state.vms {
        let age = good(*id).map_or(f64::INFINITY, |created| seconds(now.0 - created.0).max(0.0));
        page.sample(name, &[("vm", vm.address.name.as_str())], age);
    }
    let name = "backstay_points";
    page.family(name, "gauge", "Restore points of a VM in all repositories.");
    for (id, vm) in &state.vms {
        let points = state.points_of(*id).count() as u64;
        page.sample(name, &[("vm", vm.address.name.as_str())], number(points));
    }
    let name = "backstay_suspect_points";
    page.family(name, "gauge", "Restore points of a VM whose data is in doubt.");
    for (id, vm) in &state.vms {
        let suspect = state.points_of(*id).filter(|point| point.suspect.is_some()).count() as u64;
        page.sample(name, &[("vm", vm.address.name.as_str())], number(suspect));
    }
    let name = "backstay_checkpoints";
    page.family(name, "gauge", "Checkpoints in a VM's chain.");
    for vm in state.vms.values() {
        let checkpoints = vm.chain.checkpoints.len() as u64;
        page.sample(name, &[("vm", vm.address.name.as_str())], number(checkpoints));
    }
}

/// Nothing here asks a storage: points say what they added, and a measure of this life of the process what it found.
fn repositories(page: &mut Page, state: &State, counters: &Counters) {
    let mut added: BTreeMap<&str, u64> = state.repositories.keys().map(|name| (name.as_str(), 0)).collect();
    for point in state.points.values() {
        let stored: u64 = point.disks.iter().map(|disk| disk.stored_bytes).sum();
        *added.entry(point.repository.as_str()).or_default() += stored;
    }
    let name = "backstay_repository_added_bytes";
    page.family(
        name,
        "gauge",
        "What the restore points that are there added to a repository when they were made.",
    );
    for (repository, bytes) in added {
        page.sample(name, &[("repository", repository)], number(bytes));
    }
    let name = "backstay_repository_stored_bytes";
    page.family(name, "gauge", "All packs of a repository as the last `repo stats` found them.");
    for (repository, measured) in &counters.measured {
        page.sample(name, &[("repository", repository.as_str())], number(measured.stored_bytes));
    }
    let name = "backstay_repository_used_bytes";
    page.family(name, "gauge", "What restore points need of the packs as the last `repo stats` found them.");
    for (repository, measured) in &counters.measured {
        page.sample(name, &[("repository", repository.as_str())], number(measured.used_bytes));
    }
}

fn notices(page: &mut Page, state: &State, receivers: &BTreeSet<ReceiverName>) {
    let name = "backstay_notices_owed";
    page.family(name, "gauge", "Notices that a receiver does not have yet.");
    for receiver in receivers {
        let owed = state.notices.values().filter(|notice| !notice.answered.contains_key(receiver)).count();
        page.sample(name, &[("receiver", receiver.as_str())], number(owed as u64));
    }
}

/// What guests may have felt.
fn stalls(page: &mut Page, counters: &Counters) {
    let name = "backstay_freeze_seconds";
    page.family(name, "histogram", "How long a guest's file systems were frozen for a backup, at most.");
    for (vm, histogram) in &counters.freezes {
        page.histogram(name, &[("vm", vm.as_str())], histogram);
    }
    let name = "backstay_begin_seconds";
    page.family(name, "histogram", "How long it took to begin a view, the transaction in QEMU included.");
    for (vm, histogram) in &counters.begins {
        page.histogram(name, &[("vm", vm.as_str())], histogram);
    }
}

fn queue(page: &mut Page, shared: &Shared, state: &State, now: Time) {
    let name = "backstay_jobs";
    page.family(name, "gauge", "Jobs that are not over.");
    for wanted in [JobState::Queued, JobState::Running, JobState::Paused] {
        let count = state.jobs.values().filter(|job| job.state == wanted).count() as u64;
        page.sample(name, &[("state", &wanted.to_string())], number(count));
    }
    let name = "backstay_queue_depth";
    page.family(name, "gauge", "Jobs that wait, by policy; those asked for by hand have none.");
    let mut depth = BTreeMap::<&str, u64>::new();
    for (lane, waiting) in state.queue().waiting() {
        *depth.entry(lane.policy.as_ref().map_or("", |policy| policy.as_str())).or_default() +=
            waiting as u64;
    }
    for (policy, waiting) in depth {
        page.sample(name, &[("policy", policy)], number(waiting));
    }
    let queued = state.jobs.values().filter(|job| job.state == JobState::Queued && job.waits_for.is_empty());
    let sight = Sight::new(shared, state);
    let longest = queued.fold(None, |longest: Option<Time>, job| {
        let longer = longest.is_none_or(|since| job.not_before < since);
        if longer && sight.out_of_hours(job).is_none() { Some(job.not_before) } else { longest }
    });
    let longest = longest.map_or(0.0, |since| seconds(now.0 - since.0).max(0.0));
    page.gauge(
        "backstay_queue_longest_wait_seconds",
        "How long the job that waits longest could have run; one that waits for its window or for another job does not count.",
        longest,
    );
    page.gauge(
        "backstay_open_intents",
        "Effects that were decided and are not settled.",
        number(state.open.len() as u64),
    );
}

fn happened(page: &mut Page, counters: &Counters) {
    let name = "backstay_jobs_ended_total";
    page.family(name, "counter", "Jobs that are over, by kind, outcome and kind of failure.");
    for ((kind, outcome, reason), count) in &counters.jobs {
        page.sample(name, &[("kind", kind), ("outcome", outcome), ("reason", reason)], number(*count));
    }
    let name = "backstay_job_duration_seconds";
    page.family(name, "histogram", "How long the last try of a job ran.");
    for (kind, histogram) in &counters.durations {
        page.histogram(name, &[("kind", kind)], histogram);
    }
    let name = "backstay_job_wait_seconds";
    page.family(
        name,
        "histogram",
        "How long a job had waited when it started, beyond the instant from which it might.",
    );
    page.histogram(name, &[], &counters.waits);
    let name = "backstay_job_retries_total";
    page.family(name, "counter", "Tries that failed and were followed by another, by kind of failure.");
    for (reason, count) in &counters.retries {
        page.sample(name, &[("reason", reason)], number(*count));
    }
    let name = "backstay_runs_skipped_total";
    page.family(name, "counter", "Scheduled runs that did not happen; the journal has the reason of each.");
    page.sample(name, &[], number(counters.skipped));
    let name = "backstay_read_bytes_total";
    page.family(name, "counter", "Bytes read from VMs for restore points.");
    for ((vm, repository), bytes) in &counters.bytes {
        page.sample(name, &[("vm", vm.as_str()), ("repository", repository.as_str())], number(bytes.read));
    }
    let name = "backstay_stored_bytes_total";
    page.family(name, "counter", "Bytes added to repositories for restore points, compressed and sealed.");
    for ((vm, repository), bytes) in &counters.bytes {
        page.sample(name, &[("vm", vm.as_str()), ("repository", repository.as_str())], number(bytes.stored));
    }
    let name = "backstay_full_disks_total";
    page.family(name, "counter", "Disks that were read whole, by the kind of reason.");
    for (reason, count) in &counters.fulls {
        page.sample(name, &[("reason", reason)], number(*count));
    }
}

fn journal(page: &mut Page, shared: &Shared, counters: &Counters) {
    let name = "backstay_journal_append_seconds";
    page.family(name, "histogram", "How long it took to make records durable.");
    page.histogram(name, &[], &counters.appends);
    let name = "backstay_journal_records_total";
    page.family(name, "counter", "Records appended.");
    page.sample(name, &[], number(counters.records));
    page.gauge("backstay_journal_sequence", "The newest record.", number(shared.log.durable().borrow().seq));
    let ok = if shared.trouble().is_none() { 1.0 } else { 0.0 };
    page.gauge(
        "backstay_journal_ok",
        "1 while the journal takes new work; 0 when its disk is full or refuses.",
        ok,
    );
    let name = "backstay_build_info";
    page.family(name, "gauge", "Always 1; the version is its label.");
    page.sample(name, &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
}
