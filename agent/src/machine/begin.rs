//! `Begin`: a view of some disks and a checkpoint, at one instant over all of them. For the way of the backup job:
//!
//! ```text
//! look --- ran already ----------------------------------+
//!   |                                                    v
//! check -> clear our own leftovers -> serve -> prepare -> TRANSACTION -> expose -> Began
//!              (whatever is refused here)         |            | refused    | refused
//!                                                 v            v            v
//!                                            clear up, Failed  |      clear up, take the
//!                                                 ^------------+      checkpoint back, Failed
//! ```
//!
//! For that of copy-before-write, the checkpoint and the instant of the view are two steps. Whoever dies between them has
//! left a checkpoint that is only too old, so the repeat goes on from there with a new view:
//!
//! ```text
//! look --- filters in ---------------------------------------------------------------------+
//!   | \--- marked, not in ---------------------------------+                               v
//! check -> clear -> serve -> prepare -> MARK (transaction)  |                       show -> expose -> Began
//!                                         |                 v                        ^ |       |
//!                                         |  clear -> serve -> prepare -> ENTER -----+ v       v
//!                                         +------------------------------->        (refused: clear up, take
//!                                                                                   the checkpoint back, Failed)
//! ```
//!
//! For that of pushing, it is as for the backup job's, but nothing is served; "expose" makes sure of the copies' room.
//!
//! The NBD server is started before all that: if it cannot be had, there is nothing to take back. So is the guard: it
//! has to know of the view before a guest's write can fill it.

use journal::effect::{Begin, Way};
use journal::outcome::{Done, FailureClass, Outcome};
use journal::{IntentId, Time};

use super::devices::{Devices, IOTHREADS_SAFE_FROM};
use super::graph::{Graph, is_top};
use super::guard::check_room;
use super::marks::{check_marks, has_mark, mark_actions, stopped, unmark_actions};
use super::note::{self, Note};
use super::reach::{self, Line};
use super::scratch::Access;
use super::takedown::{Objects, STACKS_SAFE_FROM};
use super::view::View;
use super::{Stop, conclude, end, now, scratch, serve};
use crate::qmp::{BlockNode, Qmp};
use crate::task::{Answer, Task};

pub(crate) async fn begin(intent: IntentId, effect: &Begin, task: &Task) -> Answer {
    let Begin { checkpoint, .. } = effect;
    let begun = async {
        let line = reach::reach(&checkpoint.vm, checkpoint.process, &task.folders).await?;
        Beginning { view: View::new(intent, effect, &task.folders), line, task }.run().await
    };
    let answer = conclude(checkpoint.process, begun.await).await;
    let Answer::Settled(Outcome::Failed(failure)) = &answer else { return answer };
    if failure.class != FailureClass::ProcessGone {
        return answer;
    }
    // With the process went everything but the files.
    task.guards.disarm(checkpoint.installation, intent);
    match end::remove_files(&checkpoint.vm, checkpoint.installation, intent, task).await {
        Ok(()) => answer,
        Err(left) => {
            Answer::Unknown(format!("{}; and its files could not be removed: {}", failure.what, left.what))
        }
    }
}

/// One performing.
struct Beginning<'a> {
    view: View<'a>,
    line: Line,
    task: &'a Task,
}

impl Beginning<'_> {
    async fn run(&self) -> Result<Done, Stop> {
        let effect = self.view.begin;
        let nodes = self.line.query_nodes().await?;
        let marked = has_mark(&effect.checkpoint, &nodes);
        let up = match effect.way {
            Way::BackupJob | Way::Push => self.view.has_job(&nodes, &self.line.query_jobs().await?),
            Way::CopyBeforeWrite => self.view.is_in(&nodes, &Graph::query(&self.line).await?),
        };
        if up {
            return self.resume().await;
        }
        if !marked {
            check_marks(&effect.checkpoint, &nodes)?;
            check(effect, &nodes, &self.line).await?;
        }
        self.clear().await?;
        let begun = match effect.way {
            Way::BackupJob => self.by_job().await,
            Way::CopyBeforeWrite => self.by_filter(&nodes, marked).await,
            Way::Push => self.by_copy().await,
        };
        match begun {
            Ok(instant) => Ok(Done::Began { instant }),
            Err(Stop::Failed(failure)) => {
                // What is left says nothing to anybody; if it cannot be cleared, the answer is not "failed".
                self.undo().await.map_err(|stop| {
                    Stop::Lost(format!("{}; and clearing up after that: {}", failure.what, stop.why()))
                })?;
                Err(failure.into())
            }
            Err(lost) => Err(lost),
        }
    }

    /// The view came up in an earlier performing whose answer was lost. One that broke since is found broken by whoever
    /// reads it.
    async fn resume(&self) -> Result<Done, Stop> {
        let effect = self.view.begin;
        let exposed = async {
            self.serve().await?;
            self.expose().await
        };
        match exposed.await {
            Ok(()) => {}
            Err(Stop::Failed(failure)) => {
                let (vm, intent) = (&effect.checkpoint.vm.name, self.view.intent);
                tracing::warn!(%vm, %intent, %failure, "the checkpoint is there, but its view cannot be offered");
            }
            Err(lost) => return Err(lost),
        }
        let noted = note::of_view(&self.view.folder, effect.checkpoint.installation, self.view.intent).await;
        let instant = noted.as_ref().map_or_else(now, |note| note.instant);
        if let Some(note) = noted {
            self.task.guards.arm(note, &self.task.folders);
        }
        Ok(Done::Began { instant })
    }

    async fn by_job(&self) -> Result<Time, Stop> {
        self.make_room().await?;
        self.view.prepare_jobs(&self.line).await?;
        self.unless_cancelled()?;
        self.watch().await?;
        self.line.transaction(&self.view.job_actions()).await?;
        let instant = now();
        self.expose().await?;
        Ok(instant)
    }

    async fn by_filter(&self, nodes: &[BlockNode], marked: bool) -> Result<Time, Stop> {
        self.make_room().await?;
        self.view.prepare_filters(&self.line, nodes).await?;
        self.unless_cancelled()?;
        self.watch().await?;
        let marks = mark_actions(&self.view.begin.checkpoint);
        if !marked && !marks.is_empty() {
            self.line.transaction(&marks).await?;
        }
        self.view.insert_filters(&self.line, nodes).await?;
        let instant = now();
        self.expose().await?;
        Ok(instant)
    }

    async fn by_copy(&self) -> Result<Time, Stop> {
        self.make_room().await?;
        self.view.prepare_copies(&self.line).await?;
        self.unless_cancelled()?;
        self.watch().await?;
        self.line.transaction(&self.view.copy_actions()).await?;
        let instant = now();
        self.expose().await?;
        Ok(instant)
    }

    /// The place where the view is served, and the one where its files are.
    async fn make_room(&self) -> Result<(), Stop> {
        self.serve().await?;
        scratch::make_folder(&self.view.folder, self.line.peer(), Access::OpensFiles).await?;
        Ok(check_room(scratch::room(&self.view.folder, Vec::new()).await?)?)
    }

    async fn serve(&self) -> Result<(), Stop> {
        match self.view.begin.way {
            Way::Push => Ok(()),
            Way::CopyBeforeWrite | Way::BackupJob => serve::start(&self.line, &self.view.socket).await,
        }
    }

    fn unless_cancelled(&self) -> Result<(), Stop> {
        if self.task.cancelled.is_cancelled() {
            return Err(Stop::failed(FailureClass::Cancelled, "cancelled before the view began"));
        }
        Ok(())
    }

    async fn watch(&self) -> Result<(), Stop> {
        let note = Note::new(self.view.intent, self.view.begin, now());
        note.write(&self.task.folders).await?;
        self.task.guards.arm(note, &self.task.folders);
        Ok(())
    }

    async fn expose(&self) -> Result<(), Stop> {
        match self.view.begin.way {
            Way::Push => return self.view.cover(&self.line).await,
            Way::CopyBeforeWrite => self.view.show(&self.line).await?,
            Way::BackupJob => {}
        }
        Ok(self.view.expose(&self.line).await?)
    }

    /// Removes everything of this intent, and takes the checkpoint back if it was made.
    async fn undo(&self) -> Result<(), Stop> {
        self.clear().await?;
        let checkpoint = &self.view.begin.checkpoint;
        if has_mark(checkpoint, &self.line.query_nodes().await?) {
            self.line.transaction(&unmark_actions(checkpoint)).await?;
        }
        Ok(())
    }

    /// Removes everything of this intent but the checkpoint.
    async fn clear(&self) -> Result<(), Stop> {
        let (view, installation) = (&self.view, self.view.begin.checkpoint.installation);
        self.task.guards.disarm(installation, view.intent);
        Objects::of(&self.line, installation, view.intent).await?.remove(&self.line).await?;
        serve::stop_if_idle(&self.line, &view.socket).await?;
        Ok(scratch::remove_view(&view.folder, installation, view.intent).await?)
    }
}

/// Refuses what QEMU would accept and regret.
async fn check(effect: &Begin, nodes: &[BlockNode], qmp: &Qmp) -> Result<(), Stop> {
    for disk in &effect.disks {
        let Some(node) = nodes.iter().find(|node| node.node_name.as_deref() == Some(&disk.node)) else {
            let what =
                format!("disk {}: QEMU has no node {} any more; observe the VM again", disk.disk, disk.node);
            return Err(Stop::failed(FailureClass::Invalid, what));
        };
        let size = node.image.virtual_size;
        if size != disk.size_bytes {
            let what = format!(
                "disk {}: has {size} bytes now and had {}; observe the VM again",
                disk.disk, disk.size_bytes
            );
            return Err(Stop::failed(FailureClass::Invalid, what));
        }
        // The union of the bitmaps says what changed only if the newest has recorded up to now.
        if let Some(newest) = disk.changed_since.last()
            && !node.bitmap(newest).is_some_and(|bitmap| bitmap.recording)
        {
            return Err(stopped(&disk.disk, newest));
        }
    }
    if qmp.version().major >= IOTHREADS_SAFE_FROM.max(STACKS_SAFE_FROM) {
        return Ok(());
    }
    let devices = Devices::query(qmp).await?;
    for disk in &effect.disks {
        let Some(device) = devices.find(&disk.node) else { continue };
        if effect.way != Way::CopyBeforeWrite && device.top.as_deref().is_some_and(is_top) {
            let what = format!(
                "disk {}: another view of it is up by way of copy-before-write, and a QEMU {} aborts, guest and all, when \
                 that ends while a backup job works below it; end the other view, or wait for it",
                disk.disk,
                qmp.version(),
            );
            return Err(Stop::failed(FailureClass::Refused, what));
        }
        // What nobody reads through QEMU is safe.
        if effect.way != Way::Push
            && let Some(iothread) = device.iothread(qmp).await?
        {
            let what = format!(
                "disk {}: its device works on iothread {iothread}, and a QEMU {} aborts, guest and all, when the reader \
                 of a view leaves; run this VM on QEMU 10.0 or newer, or without the iothread",
                disk.disk,
                qmp.version(),
            );
            return Err(Stop::failed(FailureClass::Refused, what));
        }
    }
    Ok(())
}
