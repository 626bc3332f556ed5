//! Records as earlier versions of Backstay wrote them, each with what it means today. None of this ever changes.

use serde::Deserialize;

use super::{Due, JobQueued, Terms, Work};
use crate::ids::{JobId, Time};

/// [`JobQueued`] before jobs had hooks.
#[derive(Deserialize)]
pub(super) struct JobQueuedV1 {
    job: JobId,
    work: Work,
    due: Option<Due>,
    terms: TermsV1,
}

#[derive(Deserialize)]
struct TermsV1 {
    priority: i8,
    deadline: Option<Time>,
    request: Option<JobId>,
    retries: Option<JobId>,
}

impl From<JobQueuedV1> for JobQueued {
    fn from(JobQueuedV1 { job, work, due, terms }: JobQueuedV1) -> Self {
        let TermsV1 { priority, deadline, request, retries } = terms;
        Self { job, work, due, terms: Terms { priority, deadline, request, retries, hooks: None } }
    }
}
