//! Bringing the disks of a view into the session, one after the other, each by its mode.
//!
//! An incremental disk whose bitmap the audit finds wrong is read whole in its stead. Knows nothing of the commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use journal::IntentId;
use journal::effect::{DiskMode, Store, StoreDisk, Way};
use journal::names::{self, Role};
use journal::wire::Progress;
use repository::{Pace, Session};

use super::audit::{Audit, Subject, audit};
use super::error::StoreError;
use super::ledger::DiskLedger;
use super::{DISMISS_LIMIT, parent};
use crate::pipeline::crew::Crew;
use crate::pipeline::disk::{Figures, Pipeline, in_time};
use crate::pipeline::hash::Sink;
use crate::pipeline::layout::Layout;
use crate::pipeline::view::View;
use crate::repositories::blocking;
use crate::task::Task;

/// A disk of which every chunk is in the session.
pub(super) struct Copied {
    pub(super) ledger: Arc<DiskLedger>,
    /// How it was read in the end.
    pub(super) mode: DiskMode,
    pub(super) figures: Figures,
    pub(super) audit: Audit,
}

/// Brings all disks into the session.
pub(super) async fn copy(
    intent: IntentId,
    effect: &Store,
    task: &Task,
    session: &Arc<Session>,
    pace: &Pace,
) -> Result<Vec<Copied>, StoreError> {
    let crew = Crew::hire().map_err(|error| StoreError::Host(format!("no threads: {error}")))?;
    let sink = Arc::new(Sink::new(Arc::clone(session)));
    let work = copy_disks(intent, effect, task, &crew, (&sink, pace));
    let copied = task.cancelled.run_until_cancelled(work).await.unwrap_or(Err(StoreError::Cancelled));
    drop(sink);
    let ended = blocking(DISMISS_LIMIT, "ending the work on chunks", move || {
        crew.dismiss();
        Ok(())
    });
    match (ended.await, copied) {
        (Err(failure), Ok(_)) => Err(StoreError::Stalled(failure.what)),
        (_, copied) => copied,
    }
}

async fn copy_disks(
    intent: IntentId,
    effect: &Store,
    task: &Task,
    crew: &Crew,
    (sink, pace): (&Arc<Sink>, &Pace),
) -> Result<Vec<Copied>, StoreError> {
    let views = connect(effect, task, sink).await?;
    let disk_bytes: u64 = effect.disks.iter().map(|disk| disk.size_bytes).sum();
    // What QEMU had to copy first counts as well.
    let before = if effect.way == Way::Push { disk_bytes } else { 0 };
    let total_bytes = before + disk_bytes;
    let done = AtomicU64::new(before);
    let advance = |bytes| {
        let done_bytes = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        task.progress.send_replace(Progress { done_bytes, total_bytes });
    };
    let pipeline = Pipeline { crew, sink, pace, advance: &advance };
    let mut copied = Vec::with_capacity(views.len());
    for (disk, view) in effect.disks.iter().zip(views) {
        copied.push(copy_disk(intent, effect, disk, view, &pipeline).await?);
    }
    Ok(copied)
}

async fn copy_disk(
    intent: IntentId,
    effect: &Store,
    disk: &StoreDisk,
    mut view: View,
    pipeline: &Pipeline<'_>,
) -> Result<Copied, StoreError> {
    let broken = |broken| StoreError::broken(broken, &disk.disk, &disk.mode);
    let mut ledger = ledger(effect, disk, pipeline.crew, pipeline.sink).await?;
    let mut mode = disk.mode.clone();
    let subject = Subject { crew: pipeline.crew, ledger: &ledger, view: &view };
    let audit = audit(intent, effect, disk, &subject).await.map_err(broken)?;
    if let Some(distrust) = &audit.distrust {
        tracing::error!(
            vm = %effect.vm.name, disk = %disk.disk, point = %effect.point,
            "{distrust}; the disk is read whole"
        );
        mode = DiskMode::Full { reason: distrust.clone() };
        view.disregard_changes();
        ledger = Arc::new(ledger.without_parent());
    }
    let figures = pipeline.copy(&view, ledger.layout(), &ledger).await.map_err(broken)?;
    Ok(Copied { ledger, mode, figures, audit })
}

/// Connects to every disk of the view before anything of it is read.
async fn connect(effect: &Store, task: &Task, sink: &Sink) -> Result<Vec<View>, StoreError> {
    let (socket, scratch) = (task.folders.nbd_socket_of(effect.vm.id), task.folders.scratch_of(effect.vm.id));
    let mut views = Vec::with_capacity(effect.disks.len());
    for (place, disk) in effect.disks.iter().enumerate() {
        let name = |role| names::temporary(effect.installation, effect.view, place, role);
        let incremental = matches!(disk.mode, DiskMode::Incremental { .. });
        let view = if effect.way == Way::Push {
            let chunk = sink.session().repository().chunk_size();
            View::open(&scratch.join(name(Role::Scratch)), incremental, chunk).await
        } else {
            let changes = incremental.then(|| name(Role::Changes));
            View::connect(&socket, &name(Role::Export), changes.as_deref()).await
        };
        let view = view.map_err(|error| StoreError::View { disk: disk.disk.clone(), error })?;
        if view.size() != disk.size_bytes {
            let (found, expected) = (view.size(), disk.size_bytes);
            return Err(StoreError::Size { disk: disk.disk.clone(), found, expected });
        }
        views.push(view);
    }
    Ok(views)
}

async fn ledger(
    effect: &Store,
    disk: &StoreDisk,
    crew: &Crew,
    sink: &Arc<Sink>,
) -> Result<Arc<DiskLedger>, StoreError> {
    let (wanted, time, sink) = (disk.clone(), effect.instant.to_utc(), Arc::clone(sink));
    let open = move || {
        let session = Arc::clone(sink.session());
        let layout = Layout::new(wanted.size_bytes, session.repository().chunk_size());
        let parent = parent::find(session.repository(), &wanted, layout)?;
        Ok(Arc::new(DiskLedger::new(session, time, layout, parent)))
    };
    match in_time(crew.run(open)).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(abandoned)) => Err(StoreError::Host(abandoned.to_string())),
        Err(stalled) => Err(StoreError::broken(stalled, &disk.disk, &disk.mode)),
    }
}
