//! What must hold of hooks, read off the records alone: what comes after a try comes, once what comes before it was begun; and
//! nothing begins after that.

use std::collections::BTreeSet;

use journal::effect::{Hook, HookSide};
use journal::{Effect, JobId, Record};

#[derive(Default)]
pub struct Hooks {
    /// Jobs whose hook before a try was begun, and whose hook after it was not yet; and those whose was.
    owed: BTreeSet<JobId>,
    paid: BTreeSet<JobId>,
    /// How many were begun.
    pub count: u64,
}

impl Hooks {
    pub fn see(&mut self, record: &Record) {
        match record {
            Record::IntentOpened(it) => match &it.intent.effect {
                Effect::Hook(hook) => self.begun(hook),
                Effect::Begin(_) => {
                    let over = it.intent.job.filter(|job| self.paid.contains(job));
                    assert_eq!(over, None, "a view begins after the hook that comes last");
                }
                _ => {}
            },
            Record::JobRetried(it) => self.over(it.job),
            Record::JobEnded(it) => self.over(it.job),
            _ => {}
        }
    }

    fn begun(&mut self, hook: &Hook) {
        self.count += 1;
        if hook.side == HookSide::Before {
            assert!(self.owed.insert(hook.job), "{} runs its first hook twice in one try", hook.job);
        } else {
            self.owed.remove(&hook.job);
            self.paid.insert(hook.job);
        }
    }

    fn over(&mut self, job: JobId) {
        assert!(!self.owed.contains(&job), "a try of {job} is over, and what comes after it did not run");
        self.paid.remove(&job);
    }
}
