//! How far jobs are, on standard error: bars on a terminal, plain lines elsewhere, nothing beside JSON in a pipe.
//!
//! Owns how often something is said. Knows nothing of where the news comes from.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use orchestrator::api::view::JobView;

use crate::follow::is_over;
use crate::size;
use crate::table::clean;

/// A line about the same step is due after this long, or after a tenth.
const REST: Duration = Duration::from_secs(5);

/// Where progress is shown.
#[derive(Debug)]
pub enum Progress {
    /// Nowhere.
    Silent,
    /// A line now and then.
    Lines(Lines),
    /// A bar for each job.
    Bars(Bars),
}

impl Progress {
    /// What fits standard error. With JSON only a terminal gets progress, so that what a script collects stays clean.
    #[must_use]
    pub fn new(json: bool) -> Progress {
        match (std::io::stderr().is_terminal(), json) {
            (true, _) => Progress::Bars(Bars::default()),
            (false, false) => Progress::Lines(Lines::default()),
            (false, true) => Progress::Silent,
        }
    }

    /// There is news of a job.
    pub fn saw(&mut self, job: &JobView) {
        match self {
            Progress::Silent => {}
            Progress::Lines(lines) => {
                if let Some(line) = lines.line(job, Instant::now()) {
                    let _nobody_reads = writeln!(std::io::stderr(), "{line}");
                }
            }
            Progress::Bars(bars) => bars.saw(job),
        }
    }
}

/// What the job is at: its open step, or its state.
fn doing(job: &JobView) -> &str {
    let open = job.steps.iter().rev().find(|step| step.outcome.is_none());
    match (job.state.as_str(), open) {
        ("running", Some(step)) => &step.effect,
        (state, _) => state,
    }
}

fn label(job: &JobView) -> String {
    let vm = job.vm.as_deref().map(|vm| format!(" {vm}")).unwrap_or_default();
    clean(&format!("{} {}{vm}", job.id, job.kind))
}

/// Decides what is worth a line.
#[derive(Debug, Default)]
pub struct Lines {
    said: HashMap<String, Said>,
}

#[derive(Debug)]
struct Said {
    doing: String,
    tenth: u64,
    done: u64,
    at: Instant,
}

impl Lines {
    /// The line about this news, if it is worth one.
    fn line(&mut self, job: &JobView, now: Instant) -> Option<String> {
        let doing = doing(job).to_owned();
        let progress = job.progress.filter(|progress| progress.total > 0 && !is_over(job));
        let done = progress.map_or(0, |progress| progress.done);
        let tenth = progress.map_or(0, |progress| progress.done.saturating_mul(10) / progress.total);
        if let Some(said) = self.said.get(&job.id) {
            let further = said.tenth != tenth || (said.done != done && now.duration_since(said.at) >= REST);
            if said.doing == doing && !further {
                return None;
            }
        }
        let mut line = format!("{}: {doing}", label(job));
        if let Some(progress) = progress {
            let percent = progress.done.saturating_mul(100) / progress.total;
            let (done, total) = (size::show(progress.done), size::show(progress.total));
            line.push_str(&format!(", {percent} % ({done} of {total})"));
        }
        if let Some(reason) = job.reason.as_deref().filter(|_| is_over(job)) {
            line.push_str(&format!(": {}", clean(reason)));
        }
        self.said.insert(job.id.clone(), Said { doing, tenth, done, at: now });
        Some(line)
    }
}

/// A bar for each job.
#[derive(Debug, Default)]
pub struct Bars {
    all: MultiProgress,
    bars: HashMap<String, ProgressBar>,
}

impl Bars {
    fn saw(&mut self, job: &JobView) {
        let bar = self.bars.entry(job.id.clone()).or_insert_with(|| {
            let bar = self.all.add(ProgressBar::new(0).with_style(waiting()).with_prefix(label(job)));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        bar.set_message(doing(job).to_owned());
        match job.progress {
            Some(progress) if progress.total > 0 => {
                // A bar that is counted anew for each step would show the last step's speed.
                if bar.length() != Some(progress.total) {
                    bar.set_length(progress.total);
                    bar.reset_eta();
                }
                bar.set_style(moving());
                bar.set_position(progress.done);
            }
            _ => bar.set_style(waiting()),
        }
        if is_over(job) {
            bar.set_style(waiting());
            bar.finish();
        }
    }
}

fn waiting() -> ProgressStyle {
    style("{prefix}  {spinner} {msg} {elapsed}")
}

fn moving() -> ProgressStyle {
    style(
        "{prefix}  {bar:30} {percent:>3} %  {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {msg}, {eta} left",
    )
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use orchestrator::api::view::{ProgressView, StepView};

    use super::*;

    fn job(state: &str, effect: Option<&str>, progress: Option<(u64, u64)>) -> JobView {
        let step = |effect: &str| StepView { intent: "i1".into(), effect: effect.into(), outcome: None };
        JobView {
            id: "j1".into(),
            kind: "backup".into(),
            vm: Some("web".into()),
            state: state.into(),
            policy: None,
            attempt: 1,
            reason: None,
            advice: None,
            tries: Vec::new(),
            retries: None,
            request: None,
            after: Vec::new(),
            priority: 0,
            created: String::new(),
            started: None,
            ended: None,
            repository: None,
            point: None,
            steps: effect.map(step).into_iter().collect(),
            progress: progress.map(|(done, total)| ProgressView { done, total }),
            revision: 0,
        }
    }

    #[test]
    fn a_change_is_said_at_once_and_a_tenth_is_said_once() {
        let (mut lines, now) = (Lines::default(), Instant::now());
        let mut line = |job: &JobView| lines.line(job, now);
        assert_eq!(line(&job("queued", None, None)).unwrap(), "j1 backup web: queued");
        assert_eq!(line(&job("queued", None, None)), None);
        assert_eq!(line(&job("running", Some("begin"), None)).unwrap(), "j1 backup web: begin");
        let store = |done| job("running", Some("store"), Some((done, 4 << 30)));
        assert_eq!(line(&store(0)).unwrap(), "j1 backup web: store, 0 % (0 B of 4 GiB)");
        assert_eq!(line(&store(1 << 20)), None);
        assert_eq!(line(&store(1 << 30)).unwrap(), "j1 backup web: store, 25 % (1 GiB of 4 GiB)");
        let mut over = job("failed", None, Some((1, 2)));
        over.reason = Some("no\nspace".into());
        assert_eq!(line(&over).unwrap(), "j1 backup web: failed: no space");
    }

    #[test]
    fn a_slow_step_is_heard_of_every_few_seconds() {
        let (mut lines, now) = (Lines::default(), Instant::now());
        let store = |done| job("running", Some("store"), Some((done, 1000)));
        assert!(lines.line(&store(0), now).is_some());
        assert!(lines.line(&store(1), now + REST / 2).is_none());
        assert!(lines.line(&store(0), now + REST).is_none(), "nothing moved");
        assert!(lines.line(&store(2), now + REST).is_some());
    }

    #[test]
    fn a_total_that_is_not_known_shows_no_percentage() {
        let line = Lines::default().line(&job("running", Some("store"), Some((5, 0))), Instant::now());
        assert_eq!(line.unwrap(), "j1 backup web: store");
    }
}
