//! The objects that one view consists of, with their names, and the commands that make those which all views have. What
//! is made for one way of viewing only is in [`super::job`] and [`super::filter`]. Knows nothing about what came before
//! or what to do when a command is refused.

use std::path::PathBuf;

use journal::IntentId;
use journal::effect::{Begin, ViewDisk};
use journal::names::{Role, temporary};
use serde_json::{Value, json};

use super::Stop;
use super::scratch;
use crate::qmp::{
    Action, BitmapAdd, BitmapMerge, BitmapName, BitmapSource, BlockNode, NbdExport, Qmp, QmpError,
};
use crate::task::Folders;

/// One view, as an intent decided it.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) intent: IntentId,
    pub(super) begin: &'a Begin,
    /// Where its scratch files are.
    pub(super) folder: PathBuf,
    /// Where it is served.
    pub(super) socket: PathBuf,
}

impl<'a> View<'a> {
    pub(super) fn new(intent: IntentId, begin: &'a Begin, folders: &Folders) -> Self {
        let vm = begin.checkpoint.vm.id;
        Self { intent, begin, folder: folders.scratch_of(vm), socket: folders.nbd_socket_of(vm) }
    }

    pub(super) fn name(&self, disk: usize, role: Role) -> String {
        temporary(self.begin.checkpoint.installation, self.intent, disk, role)
    }

    pub(super) fn disks(&self) -> impl Iterator<Item = (usize, &'a ViewDisk)> + use<'a> {
        self.begin.disks.iter().enumerate()
    }

    /// Makes one disk's scratch file, an empty qcow2, and adds its node.
    pub(super) async fn add_scratch(&self, qmp: &Qmp, place: usize) -> Result<(), Stop> {
        let scratch = self.name(place, Role::Scratch);
        let file = self.folder.join(&scratch);
        scratch::create_image(&file, self.begin.disks[place].size_bytes, qmp.peer()).await?;
        let mut options =
            json!({"driver": "file", "node-name": scratch, "filename": file, "cache": no_flush()});
        // Never on QEMU's own threads: there are 64 of them for all files of a machine, and if the scratch storage
        // hangs, copies under way keep them all, and the guest's own disk waits for one (measured: with `threads` the
        // guest hangs for good, with `io_uring` for as long as `cbw-timeout` says).
        options["aio"] = "io_uring".into();
        match qmp.blockdev_add(options.clone()).await {
            Err(QmpError::Refusal { desc, .. }) if desc.contains("io_uring") || desc.contains("aio") => {
                tracing::warn!(
                    qmp = %qmp.path().display(),
                    why = desc,
                    "this QEMU cannot use io_uring: a busy guest may hang with the scratch storage, if that hangs"
                );
                options["aio"] = "threads".into();
                Ok(qmp.blockdev_add(options).await?)
            }
            added => Ok(added?),
        }
    }

    /// The temporary bitmap of one disk, with what `since` and `also` say. On the fleece and not on the disk: so it goes
    /// when the fleece goes.
    pub(super) fn changes(&self, place: usize, disk: &ViewDisk, also: Option<&String>) -> Vec<Action> {
        if disk.changed_since.is_empty() {
            return Vec::new();
        }
        let (node, target) = (self.name(place, Role::Fleece), self.name(place, Role::Changes));
        let add =
            BitmapAdd { node: node.clone(), name: target.clone(), disabled: true, ..Default::default() };
        let there =
            |name: &String| BitmapSource::There(BitmapName { node: disk.node.clone(), name: name.clone() });
        let bitmaps = disk.changed_since.iter().chain(also).map(there).collect();
        vec![Action::BitmapAdd(add), Action::BitmapMerge(BitmapMerge { node, target, bitmaps })]
    }

    /// Offers each disk's fleece, and the map of its changes, over NBD, unless it is offered already.
    pub(super) async fn expose(&self, qmp: &Qmp) -> Result<(), QmpError> {
        let exports = qmp.query_exports().await?;
        for (place, disk) in self.disks() {
            let name = self.name(place, Role::Export);
            if exports.iter().any(|export| export.id == name) {
                continue;
            }
            let changes = || BitmapSource::Here(self.name(place, Role::Changes));
            let bitmaps = if disk.changed_since.is_empty() { Vec::new() } else { vec![changes()] };
            let node_name = self.name(place, Role::Fleece);
            qmp.export_add(&NbdExport { id: name.clone(), node_name, name, writable: false, bitmaps })
                .await?;
        }
        Ok(())
    }
}

/// No power cut is survived by a view, so nothing of it is worth a flush while the guest waits.
pub(super) fn no_flush() -> Value {
    json!({"no-flush": true})
}

/// The node of this name.
pub(super) fn find<'a>(nodes: &'a [BlockNode], name: &str) -> Option<&'a BlockNode> {
    nodes.iter().find(|node| node.node_name.as_deref() == Some(name))
}
