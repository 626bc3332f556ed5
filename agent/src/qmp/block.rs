//! The block commands that a backup gives: bitmaps, fleeces, jobs, exports. Each argument struct serves the
//! command and the transaction action alike, since QEMU names and shapes both the same.

use super::{Qmp, QmpError};
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// What may stand in a transaction on every QEMU from 7.2 on (`blockdev-add` and the like may not).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", content = "data", rename_all = "kebab-case")]
pub enum Action {
    /// `block-dirty-bitmap-add`
    #[serde(rename = "block-dirty-bitmap-add")]
    BitmapAdd(BitmapAdd),
    /// `block-dirty-bitmap-remove`. A stored bitmap leaves the file at once, even if the transaction then fails.
    #[serde(rename = "block-dirty-bitmap-remove")]
    BitmapRemove(BitmapName),
    /// `block-dirty-bitmap-clear`
    #[serde(rename = "block-dirty-bitmap-clear")]
    BitmapClear(BitmapName),
    /// `block-dirty-bitmap-enable`
    #[serde(rename = "block-dirty-bitmap-enable")]
    BitmapEnable(BitmapName),
    /// `block-dirty-bitmap-disable`
    #[serde(rename = "block-dirty-bitmap-disable")]
    BitmapDisable(BitmapName),
    /// `block-dirty-bitmap-merge`
    #[serde(rename = "block-dirty-bitmap-merge")]
    BitmapMerge(BitmapMerge),
    /// `blockdev-backup`
    #[serde(rename = "blockdev-backup")]
    Backup(Backup),
    /// `blockdev-snapshot`
    #[serde(rename = "blockdev-snapshot")]
    Snapshot(Snapshot),
}

impl Action {
    /// The name of the action, which is the name of the command too.
    pub fn command(&self) -> &'static str {
        match self {
            Self::BitmapAdd(_) => "block-dirty-bitmap-add",
            Self::BitmapRemove(_) => "block-dirty-bitmap-remove",
            Self::BitmapClear(_) => "block-dirty-bitmap-clear",
            Self::BitmapEnable(_) => "block-dirty-bitmap-enable",
            Self::BitmapDisable(_) => "block-dirty-bitmap-disable",
            Self::BitmapMerge(_) => "block-dirty-bitmap-merge",
            Self::Backup(_) => "blockdev-backup",
            Self::Snapshot(_) => "blockdev-snapshot",
        }
    }
}

/// A bitmap on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BitmapName {
    /// The node.
    pub node: String,
    /// The bitmap.
    pub name: String,
}

/// A new bitmap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BitmapAdd {
    /// The node.
    pub node: String,
    /// The bitmap, of 1 to 1023 bytes.
    pub name: String,
    /// Bytes that one bit stands for, a power of two; QEMU chooses where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub granularity: Option<u64>,
    /// Whether it is stored in the image on a graceful close.
    pub persistent: bool,
    /// Whether it starts without recording.
    pub disabled: bool,
}

/// Bitmaps to be added into another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BitmapMerge {
    /// The node of the target.
    pub node: String,
    /// The bitmap that receives.
    pub target: String,
    /// The bitmaps that are added into it. If one is missing, nothing changes.
    pub bitmaps: Vec<BitmapSource>,
}

/// A bitmap to merge or to export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum BitmapSource {
    /// On the same node.
    Here(String),
    /// On another node.
    There(BitmapName),
}

/// How much a backup job copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackupSync {
    /// Only what the guest is about to overwrite: a fleece.
    None,
    /// Everything.
    Full,
    /// What `bitmap` marks; the bitmap is left alone (`bitmap-mode: never`).
    Bitmap,
}

/// `blockdev-backup`. Two options are not offered: `auto-dismiss` is always off, so that a job's end can be
/// read after a crash of ours, and no `on-target-error`, since `ignore` reports success over lost writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", into = "BackupArguments")]
pub struct Backup {
    /// The job's id.
    pub job_id: String,
    /// The node that is read.
    pub device: String,
    /// The node that is written.
    pub target: String,
    /// How much.
    pub sync: BackupSync,
    /// For [`BackupSync::Bitmap`].
    pub bitmap: Option<String>,
    /// The name for the filter that the job puts over the disk.
    pub filter_node_name: Option<String>,
    /// Bytes a second.
    pub speed: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct BackupArguments {
    job_id: String,
    device: String,
    target: String,
    sync: BackupSync,
    #[serde(skip_serializing_if = "Option::is_none")]
    bitmap: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bitmap_mode: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filter_node_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    speed: Option<u64>,
    auto_dismiss: bool,
}

impl From<Backup> for BackupArguments {
    fn from(backup: Backup) -> Self {
        let Backup { job_id, device, target, sync, bitmap, filter_node_name, speed } = backup;
        let bitmap_mode = bitmap.is_some().then_some("never");
        Self {
            job_id,
            device,
            target,
            sync,
            bitmap,
            bitmap_mode,
            filter_node_name,
            speed,
            auto_dismiss: false,
        }
    }
}

/// `blockdev-snapshot`: the overlay, added with `"backing": null`, becomes the disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// The disk as it is.
    pub node: String,
    /// The node that goes on top.
    pub overlay: String,
}

/// An export over QEMU's NBD server. Never on an iothread: some versions abort or hang.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct NbdExport {
    /// The export's id in QEMU.
    pub id: String,
    /// The node.
    pub node_name: String,
    /// The name that NBD clients ask for.
    pub name: String,
    /// Whether clients may write.
    pub writable: bool,
    /// The bitmaps that clients may read, as `qemu:dirty-bitmap:NAME`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bitmaps: Vec<BitmapSource>,
}

/// How a removal treats the clients of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RemoveMode {
    /// Refuse while there are clients.
    Safe,
    /// Drop the connections.
    Hard,
}

impl Qmp {
    /// Runs all actions or none, at one instant for all disks.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn transaction(&self, actions: &[Action]) -> Result<(), QmpError> {
        self.execute("transaction", json!({"actions": actions})).await.map(drop)
    }

    /// Runs one action as a command of its own.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn apply(&self, action: &Action) -> Result<(), QmpError> {
        let data = json!(action)["data"].take();
        self.execute(action.command(), data).await.map(drop)
    }

    /// Adds a block node as described.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn blockdev_add(&self, options: Value) -> Result<(), QmpError> {
        self.execute("blockdev-add", options).await.map(drop)
    }

    /// Removes a block node that nothing uses any more.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn blockdev_del(&self, node: &str) -> Result<(), QmpError> {
        self.execute("blockdev-del", json!({"node-name": node})).await.map(drop)
    }

    /// Asks a job to stop. It is over only when it is concluded: [`super::Events::job_status`].
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn job_cancel(&self, job: &str) -> Result<(), QmpError> {
        self.execute("job-cancel", json!({"id": job})).await.map(drop)
    }

    /// Forgets a concluded job.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn job_dismiss(&self, job: &str) -> Result<(), QmpError> {
        self.execute("job-dismiss", json!({"id": job})).await.map(drop)
    }

    /// Starts QEMU's one NBD server on a unix socket. Nothing tells whether one runs but this call's refusal.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn nbd_server_start(&self, socket: &Path) -> Result<(), QmpError> {
        let address = json!({"type": "unix", "data": {"path": socket}});
        self.execute("nbd-server-start", json!({"addr": address})).await.map(drop)
    }

    /// Stops the NBD server, and every NBD export with it.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn nbd_server_stop(&self) -> Result<(), QmpError> {
        self.execute("nbd-server-stop", Value::Null).await.map(drop)
    }

    /// Offers a node over NBD.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn export_add(&self, export: &NbdExport) -> Result<(), QmpError> {
        let mut arguments = json!(export);
        arguments["type"] = "nbd".into();
        self.execute("block-export-add", arguments).await.map(drop)
    }

    /// Takes an export down and waits until it is gone, so that its node and bitmaps are free.
    ///
    /// # Errors
    /// As [`Qmp::execute`] and [`super::Events::wait`].
    pub async fn export_remove(&self, id: &str, mode: RemoveMode, limit: Duration) -> Result<(), QmpError> {
        let mut events = self.events();
        self.execute_within("block-export-del", json!({"id": id, "mode": mode}), limit).await?;
        let gone = |event: &super::Event| event.is("BLOCK_EXPORT_DELETED", "id", id);
        events.wait(&format!("export {id} to be deleted"), limit, gone).await.map(drop)
    }
}
