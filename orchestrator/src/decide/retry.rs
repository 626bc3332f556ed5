//! What becomes of a try that failed: another one, later, or the end with advice.
//!
//! Whether another try can help is a matter of the kind of failure; how often and how late is the policy's. What was asked
//! for by hand is tried once: whoever asked looks at the answer, and `job retry` is theirs.

use journal::record::{End, JobEnded, JobRetried};
use journal::state::Job;
use journal::{FailureClass, Record, Time};
use policies::Retry;

use super::{Decision, Live};

/// What time does about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Healing {
    /// Nothing: the next try would fail alike.
    Never,
    /// It is over soon, or the next try goes another way: a plan is made anew.
    Soon,
    /// Somebody has to do something, and may be doing it.
    Slowly,
}

/// What time does about a kind of failure.
#[must_use]
pub fn healing(class: FailureClass) -> Healing {
    match class {
        FailureClass::ProcessGone
        | FailureClass::Unreachable
        | FailureClass::Refused
        | FailureClass::ViewLost
        | FailureClass::Host => Healing::Soon,
        FailureClass::Full | FailureClass::Repository => Healing::Slowly,
        FailureClass::Damaged
        | FailureClass::Cancelled
        | FailureClass::Invalid
        | FailureClass::Fenced
        | FailureClass::TooLate => Healing::Never,
    }
}

/// What to do about a failure that no further try has healed.
#[must_use]
pub fn advice(class: FailureClass) -> &'static str {
    match class {
        FailureClass::ProcessGone | FailureClass::ViewLost => {
            "see that the VM runs (`vm show`), then `job retry`; a VM that is restarted again and again has no time for a backup"
        }
        FailureClass::Unreachable => {
            "see that QEMU, its guest agent and the storage answer (`vm show`, `doctor`), then `job retry`"
        }
        FailureClass::Refused => {
            "the reason is QEMU's or the guest's own: mend what it names, then `job retry`"
        }
        FailureClass::Full => {
            "make room where the reason says (`point forget`, `repo prune`), then `job retry`"
        }
        FailureClass::Repository => {
            "see that the repository's storage is mounted and its password file is the right one, then `job retry`"
        }
        FailureClass::Damaged => {
            "run `repo check --read-data`; the next full backup does not need what is damaged (`backup --mode full`)"
        }
        FailureClass::Invalid => "what was asked for cannot be done: ask for something else",
        FailureClass::TooLate => {
            "give the policy more time (`deadline`), room (`limits.jobs`) or a higher `priority`"
        }
        FailureClass::Cancelled => "`job retry` takes up what was not finished",
        FailureClass::Fenced => "another orchestrator has taken over: ask that one",
        FailureClass::Host => "the reason is the host's own: mend what it names, then `job retry`",
    }
}

/// A slow kind of failure is waited for so many times longer.
const SLOWER: i32 = 4;

/// The same decision, but with another try instead of a failed end wherever that may help.
#[must_use]
pub fn instead(mut decision: Decision, live: &Live, job: &Job, now: Time) -> Decision {
    for record in &mut decision.records {
        let Record::JobEnded(ended) = record else { continue };
        if ended.end != End::Failed {
            continue;
        }
        if let Some(retried) = retried(live, job, ended, now) {
            *record = retried.into();
        } else if !job.tries.is_empty() {
            let reason = ended.reason.take().unwrap_or_default();
            ended.reason = Some(format!("{reason} (try {} of {})", job.attempt(), attempts(live, job)));
        }
    }
    decision
}

fn retried(live: &Live, job: &Job, ended: &JobEnded, now: Time) -> Option<JobRetried> {
    let class = ended.class?;
    let retry = of_policy(live, job);
    if job.cancel_asked || job.attempt() >= retry.attempts {
        return None;
    }
    let times = match healing(class) {
        Healing::Never => return None,
        Healing::Soon => 1,
        Healing::Slowly => SLOWER,
    };
    let whose = job.due.as_ref().map(|due| due.policy.to_string()).unwrap_or_default();
    let wait = retry.wait(job.attempt(), &whose, &job.id.to_string()) * times;
    let not_before = Time(now.0.saturating_add(wait.num_microseconds()?));
    let in_time = job.terms.deadline.is_none_or(|deadline| not_before < deadline);
    in_time.then(|| JobRetried {
        job: job.id,
        reason: ended.reason.clone().unwrap_or_default(),
        class,
        not_before,
    })
}

/// How a job's failures are tried again.
#[must_use]
pub fn of_policy(live: &Live, job: &Job) -> Retry {
    let policy = job.due.as_ref().and_then(|due| live.policies.get(&due.policy));
    policy.map_or(Retry::NEVER, |parsed| parsed.policy.retry)
}

fn attempts(live: &Live, job: &Job) -> u32 {
    of_policy(live, job).attempts.max(job.attempt())
}

#[cfg(test)]
mod tests;
