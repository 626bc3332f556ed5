//! The way of pushing: QEMU itself copies all that is to be read into scratch files, by a block job for each disk, and
//! nobody reads before it has let go of them. For where the reader of a view can abort QEMU: such a view has no export.
//!
//! ```text
//!   device            device              device
//!     |                 |                   |
//!     |               filter, the job's     |
//!     |                /    \               |
//!   disk   kept     disk    kept          disk
//!            |                |
//!         scratch          scratch                scratch file, read by us
//!
//!   prepared          TRANSACTION         concluded, let go of
//! ```
//!
//! The job's filter copies what the guest is about to overwrite first, and the guest's write waits for that and fails if
//! it fails; no option of `blockdev-backup` changes that up to QEMU 10.0. So all the room that a copy can take is reserved
//! in its file system before the job starts. Against storage that hangs there is no help: see decision 13.

use std::time::Duration;

use journal::effect::{Store, ViewDisk, Way};
use journal::names::{Role, temporary};
use journal::outcome::{Failure, FailureClass};
use journal::wire::Progress;
use serde_json::json;
use tokio::time::Instant;

use super::guard::check_copies;
use super::marks::mark_actions;
use super::reach::{self, Line};
use super::view::{View, find, no_flush};
use super::{Stop, scratch};
use crate::qmp::{
    Action, Backup, BackupSync, BitmapAdd, BitmapMerge, BitmapSource, BlockNode, Event, Job, Qmp,
};
use crate::task::Task;

/// Bytes of a cluster of a scratch file, and the smallest piece that a block job copies into it.
const CLUSTER: u64 = 64 << 10;

/// Room for what the guest changes between the look at what changed and the instant of the view, beside an eighth of what
/// had changed until then.
const MEANWHILE: u64 = 64 << 20;

/// How long QEMU's monitor is held to hear of the end of a copy, and for how long it is then left to others.
const HOLD: Duration = Duration::from_secs(2);
const REST: Duration = Duration::from_millis(500);

/// How long a copy may not move.
const STALL: Duration = Duration::from_secs(300);

impl View<'_> {
    /// Makes a scratch file for each disk, with all the room reserved that its copy can take.
    pub(super) async fn prepare_copies(&self, qmp: &Qmp) -> Result<(), Stop> {
        let unions: Vec<Action> = self
            .disks()
            .flat_map(|(place, disk)| [self.add_union(place, disk), self.union(place, disk)])
            .flatten()
            .collect();
        if !unions.is_empty() {
            qmp.transaction(&unions).await?;
        }
        let nodes = qmp.query_nodes().await?;
        let covered: Vec<u64> = self
            .disks()
            .map(|(place, disk)| match self.changed(&nodes, place, disk) {
                Some(changed) => (changed + changed / 8 + MEANWHILE).min(disk.size_bytes),
                None => disk.size_bytes,
            })
            .collect();
        let needed = self.disks().map(|(place, disk)| file_bytes(disk.size_bytes, covered[place])).sum();
        let room = scratch::room(&self.folder, Vec::new()).await?;
        check_copies(room, needed, self.begin.limits.scratch_bytes)?;
        for (place, disk) in self.disks() {
            self.add_scratch(qmp, place).await?;
            self.reserve(place, disk, covered[place]).await?;
            let (scratch, kept) = (self.name(place, Role::Scratch), self.name(place, Role::Kept));
            qmp.blockdev_add(json!({
                "driver": "qcow2", "node-name": kept, "file": scratch, "backing": null, "cache": no_flush(),
            }))
            .await?;
        }
        Ok(())
    }

    /// The instant: checkpoint and start of the jobs over all disks at once.
    pub(super) fn copy_actions(&self) -> Vec<Action> {
        let mut actions = mark_actions(&self.begin.checkpoint);
        for (place, disk) in self.disks() {
            let union = self.union(place, disk);
            let bitmap = union.is_some().then(|| self.name(place, Role::Changes));
            // Merged again: with what the guest has changed since it was looked at.
            actions.extend(union);
            actions.push(Action::Backup(Backup {
                job_id: self.name(place, Role::Job),
                device: disk.node.clone(),
                target: self.name(place, Role::Kept),
                sync: if bitmap.is_some() { BackupSync::Bitmap } else { BackupSync::Full },
                bitmap,
                filter_node_name: Some(self.name(place, Role::Filter)),
                speed: None,
            }));
        }
        actions
    }

    /// Makes sure of the room for what had changed at the instant of the view, which may be more than was foreseen.
    pub(super) async fn cover(&self, qmp: &Qmp) -> Result<(), Stop> {
        let nodes = qmp.query_nodes().await?;
        for (place, disk) in self.disks() {
            if let Some(changed) = self.changed(&nodes, place, disk) {
                self.reserve(place, disk, changed).await?;
            }
        }
        Ok(())
    }

    async fn reserve(&self, place: usize, disk: &ViewDisk, covered: u64) -> Result<(), Stop> {
        let file = self.folder.join(self.name(place, Role::Scratch));
        Ok(scratch::reserve(&file, file_bytes(disk.size_bytes, covered)).await?)
    }

    /// What changed on a disk, in bytes of the pieces that are copied; nothing where it is copied whole.
    fn changed(&self, nodes: &[BlockNode], place: usize, disk: &ViewDisk) -> Option<u64> {
        let union = find(nodes, &disk.node)?.bitmap(&self.name(place, Role::Changes))?;
        Some(union.count.min(disk.size_bytes))
    }

    /// The bitmap that a copy of changes follows. On the disk itself, since a job takes no other.
    fn add_union(&self, place: usize, disk: &ViewDisk) -> Option<Action> {
        let (node, name) = (disk.node.clone(), self.name(place, Role::Changes));
        let granularity = self.begin.unit_bytes.map(u64::from);
        let add = BitmapAdd { node, name, granularity, persistent: false, disabled: true };
        (!disk.changed_since.is_empty()).then_some(Action::BitmapAdd(add))
    }

    fn union(&self, place: usize, disk: &ViewDisk) -> Option<Action> {
        let (node, target) = (disk.node.clone(), self.name(place, Role::Changes));
        let bitmaps = disk.changed_since.iter().cloned().map(BitmapSource::Here).collect();
        let merge = BitmapMerge { node, target, bitmaps };
        (!disk.changed_since.is_empty()).then_some(Action::BitmapMerge(merge))
    }
}

/// The longest that a qcow2 of a disk of `size` bytes can become by `data` bytes in it, in whole clusters that are each
/// written once, and by zeros anywhere (docs/interop/qcow2.txt in QEMU's sources).
fn file_bytes(size: u64, data: u64) -> u64 {
    // A table of clusters fills one, with 8 bytes for each; the first table has 8 bytes for each of those.
    let tables = size.div_ceil(CLUSTER * (CLUSTER / 8));
    let content = data.div_ceil(CLUSTER) + tables + (tables * 8).div_ceil(CLUSTER);
    // A block of counts fills a cluster, with 2 bytes for each of the file; their table, 8 bytes for each block, is made
    // anew when it is full.
    let counts = content.div_ceil(CLUSTER / 2 - 1) + 1;
    let counts = counts + 2 * (counts * 8).div_ceil(CLUSTER);
    // The header, and a little for what no formula knows.
    (content + counts + 16) * CLUSTER
}

/// Waits until what a view shows can be read: until QEMU has copied it, where QEMU copies. Any other view can be read as
/// soon as it is there.
///
/// # Errors
/// The copy failed, or is gone, or QEMU is; or nothing moves. When it is cut short, it may be called again.
pub(crate) async fn until_readable(store: &Store, task: &Task) -> Result<(), Failure> {
    if store.way != Way::Push {
        return Ok(());
    }
    let (copies, mut moved, mut copied) = (Copies { store, task }, Instant::now(), 0);
    loop {
        let silence = match copies.follow().await {
            Ok(Follow::Whole) => return Ok(()),
            Ok(Follow::Copied(bytes)) => {
                if bytes > copied {
                    (moved, copied) = (Instant::now(), bytes);
                }
                None
            }
            // The monitor is anybody's, and a copy may well go on while nobody can be asked.
            Err(Stop::Failed(failure)) if failure.class != FailureClass::Unreachable => return Err(failure),
            Err(stop) => Some(stop.why()),
        };
        if moved.elapsed() > STALL {
            let mut what = format!("QEMU has copied nothing into the scratch folder for {STALL:?}");
            what.extend(silence.map(|why| format!(": {why}")));
            return Err(Failure::new(FailureClass::Unreachable, what));
        }
        tokio::time::sleep(REST).await;
    }
}

/// How far all copies of a view are.
enum Follow {
    /// Done, and QEMU has let go of the files.
    Whole,
    /// This many bytes of the disks are dealt with.
    Copied(u64),
}

/// The copies of one view.
struct Copies<'a> {
    store: &'a Store,
    task: &'a Task,
}

impl Copies<'_> {
    fn name(&self, place: usize, role: Role) -> String {
        temporary(self.store.installation, self.store.view, place, role)
    }

    /// Looks; where there is no end yet, waits a while for one and looks again.
    async fn follow(&self) -> Result<Follow, Stop> {
        let line = reach::reach(&self.store.vm, self.store.process, &self.task.folders).await?;
        let mut events = line.events();
        let Follow::Copied(_) = self.look(&line).await? else { return Ok(Follow::Whole) };
        let ended = |event: &Event| event.is("JOB_STATUS_CHANGE", "status", "concluded");
        // In time or not: what counts is what the list of jobs says then.
        let _ = events.wait("a copy to end", HOLD, ended).await;
        self.look(&line).await
    }

    async fn look(&self, line: &Line) -> Result<Follow, Stop> {
        let found = self.judge(&line.query_jobs().await?)?;
        match found {
            Follow::Whole => self.let_go(line).await?,
            Follow::Copied(done_bytes) => {
                let disk_bytes: u64 = self.store.disks.iter().map(|disk| disk.size_bytes).sum();
                // Each byte is copied first and stored then.
                self.task.progress.send_replace(Progress { done_bytes, total_bytes: 2 * disk_bytes });
            }
        }
        Ok(found)
    }

    fn judge(&self, jobs: &[Job]) -> Result<Follow, Stop> {
        let (mut whole, mut copied) = (true, 0);
        for (place, disk) in self.store.disks.iter().enumerate() {
            let id = self.name(place, Role::Job);
            let lost = |why: String| {
                let what = format!("disk {} was not copied into the scratch folder: {why}", disk.disk);
                Stop::failed(FailureClass::ViewLost, what)
            };
            let Some(job) = jobs.iter().find(|job| job.id == id) else {
                return Err(lost(format!("its block job {id} is gone")));
            };
            if let Some(error) = &job.error {
                return Err(lost(error.clone()));
            }
            let concluded = job.status == "concluded";
            whole &= concluded;
            let share = u128::from(job.current_progress) * u128::from(disk.size_bytes)
                / u128::from(job.total_progress.max(1));
            let share = u64::try_from(share).unwrap_or(u64::MAX).min(disk.size_bytes);
            copied += if concluded { disk.size_bytes } else { share };
        }
        Ok(if whole { Follow::Whole } else { Follow::Copied(copied) })
    }

    /// Closes the files in QEMU, which brings everything into them. The jobs stay listed until the view ends: they are the
    /// proof that the files are whole.
    async fn let_go(&self, line: &Line) -> Result<(), Stop> {
        let nodes = line.query_nodes().await?;
        for place in 0..self.store.disks.len() {
            for node in [Role::Kept, Role::Scratch].map(|role| self.name(place, role)) {
                if find(&nodes, &node).is_some() {
                    line.blockdev_del(&node).await?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_copy_takes_little_more_than_its_data() {
        for size in [1, 512 << 20, 40 * GIB, 3 << 40, 40 << 40] {
            for data in [0, size / 7, size] {
                let file = file_bytes(size, data);
                assert!(file > data && file.is_multiple_of(CLUSTER), "{size} {data}: {file}");
                // Tables take 1/8192 of the disk, counts 1/32768 of the file.
                assert!(file <= data + size / 8000 + data / 30_000 + (2 << 20), "{size} {data}: {file}");
            }
        }
    }
}
