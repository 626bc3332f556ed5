//! What operators are told without asking: that a policy's backups of a VM fail, that a VM has no good restore point that is
//! young enough, that the hook after a backup fails, and that each of them is well again. Once each: what they know already is in the state.

use std::collections::BTreeSet;

use journal::notice::{Answer, NoticeKind, NoticeRaised, NoticeSettled, Subject};
use journal::record::{End, JobEnded, Work};
use journal::state::{Job, Notice};
use journal::{EffectKind, NoticeId, ReceiverName, Record, State, Time, VmId};

use super::{Decision, Live};

/// One notice for one receiver.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Delivery {
    /// Which.
    pub notice: NoticeId,
    /// For whom.
    pub receiver: ReceiverName,
}

/// The same decision with the notices that its records give rise to. They come first: a crash may keep the first records of
/// a decision, and an end without its notice would be an end that nobody hears of.
#[must_use]
pub fn beside(mut decision: Decision, state: &State, live: &Live) -> Decision {
    if live.receivers.is_empty() {
        return decision;
    }
    let mut raised: Vec<Record> = Vec::new();
    for ended in decision.records.iter().filter_map(|record| match record {
        Record::JobEnded(ended) => Some(ended),
        _ => None,
    }) {
        for told in [of_end, of_hook] {
            let notice = NoticeId(state.next.notice.0 + raised.len() as u64);
            raised.extend(told(state, ended, notice));
        }
    }
    decision.records.splice(0..0, raised);
    decision
}

fn of_end(state: &State, ended: &JobEnded, notice: NoticeId) -> Option<Record> {
    let job = state.jobs.get(&ended.job)?;
    let Work::Backup(work) = &job.work else { return None };
    let subject = Subject::Backup { vm: work.vm, repository: work.repository.clone() };
    let known = state.alarms.contains_key(&subject);
    let (kind, text) = match ended.end {
        // Whoever asked by hand looks at the answer.
        End::Failed if !known && job.due.is_some() => (NoticeKind::Alarm, failed(state, job, ended)),
        End::Done if known => {
            let (vm, repository) = (name(state, work.vm), &work.repository);
            (NoticeKind::Recovery, format!("the backup of {vm} into {repository} is done again ({})", job.id))
        }
        _ => return None,
    };
    Some(NoticeRaised { notice, kind, subject, vm: Some(name(state, work.vm)), text }.into())
}

/// Of the hook that ran before a backup ended: it fails no backup, and what it left undone may matter to others.
fn of_hook(state: &State, ended: &JobEnded, notice: NoticeId) -> Option<Record> {
    let job = state.jobs.get(&ended.job)?;
    let (Work::Backup(work), Some(run)) = (&job.work, job.last(EffectKind::HookAfter)) else { return None };
    let subject = Subject::Hook { vm: work.vm, repository: work.repository.clone() };
    let known = state.alarms.contains_key(&subject);
    let (vm, repository) = (name(state, work.vm), &work.repository);
    let (kind, text) = match run.failure() {
        Some(failure) if !known => {
            let what = &failure.what;
            (NoticeKind::Alarm, format!("after the backup into {repository} ({}): {what}", job.id))
        }
        None if known => {
            let done =
                format!("the hook after the backup of {vm} into {repository} is done again ({})", job.id);
            (NoticeKind::Recovery, done)
        }
        _ => return None,
    };
    Some(NoticeRaised { notice, kind, subject, vm: Some(vm), text }.into())
}

fn failed(state: &State, job: &Job, ended: &JobEnded) -> String {
    let vm = job.work.vm().map(|vm| name(state, vm)).unwrap_or_default();
    let repository = job.repository.as_ref().map(ToString::to_string).unwrap_or_default();
    let reason = ended.reason.as_deref().unwrap_or("for no reason that is known");
    let advice = ended.class.map(|class| format!("; {}", super::retry::advice(class))).unwrap_or_default();
    format!("the backup of {vm} into {repository} failed ({}): {reason}{advice}", job.id)
}

/// The next notice to deliver, or to raise because time has passed.
#[must_use]
pub fn next(state: &State, live: &Live, now: Time) -> Option<Decision> {
    if let Some(decision) = state.notices.values().find_map(|notice| deliver(notice, live)) {
        return Some(decision);
    }
    let limit = live.limits.good_point_within.filter(|_| !live.receivers.is_empty())?;
    // Of those that are well the oldest, of those that are told to be amiss the youngest: nobody else's turn comes before.
    let old = |(since, _): &(Time, VmId)| now.0.saturating_sub(since.0) > limit;
    let alarms = state.by_good_point(false).take_while(old);
    let recoveries = state.by_good_point(true).rev().take_while(|it| !old(it));
    alarms.chain(recoveries).find_map(|(_, vm)| good_point(state, vm, limit, now))
}

/// Sends a notice on its way to the next receiver that does not have it, or settles it where there is none.
fn deliver(notice: &Notice, live: &Live) -> Option<Decision> {
    let id = notice.raised.notice;
    let mut owed = owed(notice, &live.receivers).peekable();
    if owed.peek().is_none() {
        let settled = NoticeSettled { notice: id, given_up: given_up(notice) };
        return Some(Decision { records: vec![settled.into()], ..Decision::default() });
    }
    let mut deliveries = owed.map(|receiver| Delivery { notice: id, receiver: receiver.clone() });
    let tell = deliveries.find(|delivery| !live.telling.contains(delivery))?;
    Some(Decision { tell: vec![tell], ..Decision::default() })
}

/// Those of the receivers that are not done with a notice.
pub fn owed<'a>(
    notice: &'a Notice,
    receivers: &'a BTreeSet<ReceiverName>,
) -> impl Iterator<Item = &'a ReceiverName> {
    receivers.iter().filter(|receiver| !notice.answered.contains_key(*receiver))
}

fn given_up(notice: &Notice) -> Option<String> {
    if notice.answered.is_empty() {
        return Some("no receiver is configured any more".to_owned());
    }
    let failed: Vec<String> = notice
        .answered
        .iter()
        .filter_map(|(receiver, answer)| match answer {
            Answer::Taken(_) => None,
            Answer::GivenUp(why) => Some(format!("{receiver}: {why}")),
        })
        .collect();
    (!failed.is_empty()).then(|| failed.join("; "))
}

/// What is to be told of a VM's newest good point: a VM that has none is as old as its time under management.
fn good_point(state: &State, vm: VmId, limit: i64, now: Time) -> Option<Decision> {
    let subject = Subject::GoodPoint { vm };
    let newest = state.good_point(vm).map(|point| point.created);
    let since = newest.unwrap_or(state.vms.get(&vm)?.added);
    let (old, told) = (now.0.saturating_sub(since.0) > limit, state.alarms.contains_key(&subject));
    let vm_name = name(state, vm);
    let (kind, text) = match (old, told, newest) {
        (true, false, Some(newest)) => {
            (NoticeKind::Alarm, format!("{vm_name} has no good restore point since {newest}"))
        }
        (true, false, None) => (NoticeKind::Alarm, format!("{vm_name} has no good restore point at all")),
        (false, true, Some(newest)) => {
            (NoticeKind::Recovery, format!("{vm_name} has a good restore point again, of {newest}"))
        }
        _ => return None,
    };
    let raised = NoticeRaised { notice: state.next.notice, kind, subject, vm: Some(vm_name), text };
    Some(Decision { records: vec![raised.into()], ..Decision::default() })
}

fn name(state: &State, vm: VmId) -> String {
    state.vms.get(&vm).map_or_else(|| vm.to_string(), |vm| vm.address.name.to_string())
}
