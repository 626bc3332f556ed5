//! Records in words: one line for each, for people.

use journal::effect::Effect;
use journal::notice::Answer;
use journal::record::{BackupPlanned, End, ExportPlanned, IntentSettled, Witness};
use journal::{JobId, Outcome, Record};

/// What a record says, in one line.
pub(super) fn summary(record: &Record) -> String {
    match record {
        Record::Installed(it) => format!("installation {}", it.installation),
        Record::EpochBegan(it) => format!("Backstay {} started as pid {}", it.version, it.pid),
        Record::RecordsLost(it) => format!("records {} to {} are gone: {}", it.first, it.last, it.what),
        Record::VmAdded(it) => {
            let host = it.host.as_ref().map(|host| format!(" on host {host}")).unwrap_or_default();
            format!("{} ({}){host}", it.vm.name, it.vm.qmp)
        }
        Record::VmHosted(it) => format!("on host {}", it.host),
        Record::VmRemoved(it) => it.vm.to_string(),
        Record::ProcessSeen(it) => format!("QEMU {} runs, {}", it.version, it.process),
        Record::TrackingLost(it) => format!("{} through {}: {} [{}]", it.disk, it.through, it.reason, it.row),
        Record::ViewLost(it) => format!("{} [{}]", it.reason, it.row),
        Record::RepositoryAdded(it) => format!("{} in {}", it.repository.name, it.repository.path),
        Record::PolicyApplied(it) => it.name.to_string(),
        Record::PolicyRemoved(it) => it.name.to_string(),
        Record::PolicyPaused(it) => format!("{} {}", it.name, if it.paused { "paused" } else { "resumed" }),
        Record::ScheduleAdvanced(it) => format!("{} `{}` through {}", it.policy, it.schedule, it.through),
        Record::RunSkipped(it) => format!("{} `{}` at {}: {}", it.policy, it.schedule, it.at, it.reason),
        Record::JobQueued(it) => {
            let (due, after) = (due(it.due.as_ref()), after(&it.terms.after));
            format!("{} {}{due}{after}", it.job, it.work.kind())
        }
        Record::JobStarted(it) => it.job.to_string(),
        Record::BackupPlanned(it) => plan(it),
        Record::ExportPlanned(it) => export(it),
        Record::CancelAsked(it) => {
            it.why.as_ref().map_or_else(|| it.job.to_string(), |why| format!("{}: {why}", it.job))
        }
        Record::JobRetried(it) => format!("{} again from {}: {}", it.job, it.not_before, it.reason),
        Record::PauseAsked(it) => format!("{} {}", it.job, if it.paused { "to rest" } else { "to go on" }),
        Record::JobPaused(it) => format!("{} rests", it.job),
        Record::JobEnded(it) => {
            let reason = it.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            let end = match it.end {
                End::Done => "done",
                End::Failed => "failed",
                End::Cancelled => "cancelled",
            };
            format!("{} {end}{reason}", it.job)
        }
        Record::IntentOpened(it) => {
            let job = it.intent.job.map(|job| format!(" for {job}")).unwrap_or_default();
            format!("{} {}{}{job}", it.intent.id, it.intent.effect.kind(), object(&it.intent.effect))
        }
        Record::IntentAdopted(it) => format!("{} repeated [{}]", it.intent, it.row),
        Record::IntentSettled(it) => settled(it),
        Record::NoticeRaised(it) => format!("{} {}: {}", it.notice, it.kind.name(), it.text),
        Record::NoticeAnswered(it) => match &it.answer {
            Answer::Taken(said) => format!("{} taken by {}: {said}", it.notice, it.receiver),
            Answer::GivenUp(why) => format!("{} given up with {}: {why}", it.notice, it.receiver),
        },
        Record::NoticeSettled(it) => match &it.given_up {
            None => format!("{} delivered", it.notice),
            Some(why) => format!("{} given up: {why}", it.notice),
        },
        Record::PointHeld(it) => format!("{} {}", it.point, if it.held { "held" } else { "released" }),
        Record::PointGone(it) => format!("{}: {}", it.point, it.why),
    }
}

fn due(due: Option<&journal::record::Due>) -> String {
    due.map(|due| format!(" for policy {}, due {}", due.policy, due.at)).unwrap_or_default()
}

fn after(jobs: &[JobId]) -> String {
    let jobs: Vec<String> = jobs.iter().map(ToString::to_string).collect();
    if jobs.is_empty() { String::new() } else { format!(" after {}", jobs.join(", ")) }
}

fn plan(it: &BackupPlanned) -> String {
    let disks = it.disks.iter().map(|disk| match &disk.mode {
        journal::effect::DiskMode::Full { reason } => format!("{} full ({reason})", disk.disk),
        journal::effect::DiskMode::Incremental { since, .. } => {
            format!("{} incremental since {since}", disk.disk)
        }
    });
    let disks: Vec<String> = disks.collect();
    format!("{} makes {} at {}: {}", it.job, it.point, it.checkpoint, disks.join(", "))
}

fn export(it: &ExportPlanned) -> String {
    let disks = it.disks.iter().map(|disk| match &disk.reason {
        Some(reason) => format!("{} without a map of changes ({reason})", disk.disk),
        None => disk.disk.to_string(),
    });
    format!("{} exports {}", it.job, disks.collect::<Vec<_>>().join(", "))
}

fn object(effect: &Effect) -> String {
    match effect {
        Effect::Begin(it) if it.checkpoint.disks.is_empty() => " without a checkpoint".to_owned(),
        Effect::Begin(it) => format!(" at {}", it.checkpoint.checkpoint),
        Effect::Offer(it) => format!(" of {} until {}", it.view, it.until),
        Effect::AddCheckpoint(it) => format!(" {}", it.checkpoint),
        Effect::DeleteCheckpoint(it) => format!(" {}", it.checkpoint),
        Effect::Store(it) => format!(" {} into {}", it.point, it.repository.name),
        Effect::End(it) => format!(" of {}", it.view),
        Effect::Forget(it) => format!(" {} ({})", it.point, it.reason),
        Effect::Restore(it) => format!(" {} of {} to {}", it.disk, it.point, it.path),
        Effect::OpenRepository(it) => format!(" {}", it.repository.name),
        Effect::Check(it) => format!(" {}", it.repository.name),
        Effect::Prune(it) => format!(" {}", it.repository.name),
        Effect::PruneBy(it) => format!(" {}", it.repository.name),
        Effect::Measure(it) => format!(" {}", it.repository.name),
        Effect::Keys(it) => format!(" of {}", it.repository.name),
        Effect::Hook(it) => format!(" `{}` of policy {}, for {}", it.name, it.policy, it.vm.name),
        Effect::Freeze(_) | Effect::Thaw(_) | Effect::Clean(_) => String::new(),
    }
}

fn settled(it: &IntentSettled) -> String {
    let outcome = match &it.outcome {
        Outcome::Done(_) => "done".to_owned(),
        Outcome::Failed(failure) => format!("failed: {}", failure.what),
    };
    match &it.by {
        Witness::Agent => format!("{} {outcome}", it.intent),
        Witness::Observation { row } => format!("{} {outcome} [{row}]", it.intent),
    }
}
