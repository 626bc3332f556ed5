//! What QEMU says when asked: only the fields that a backup reads. Unknown fields are ignored, so that a newer
//! QEMU is no error; the names are QEMU's, from qapi/block-core.json and its neighbours.

use super::{Qmp, QmpError};
use serde::Deserialize;
use serde_json::{Value, json};

/// One entry of `query-block`: a device of the machine.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct BlockDevice {
    /// The legacy name; empty for a device made with `-device`.
    #[serde(default)]
    pub device: String,
    /// Where the device is in QEMU's object tree, as `qom-get` takes it.
    pub qdev: Option<String>,
    /// A CD drive or the like.
    #[serde(default)]
    pub removable: bool,
    /// The medium; absent in an empty drive.
    pub inserted: Option<BlockNode>,
}

/// A block node: an entry of `query-named-block-nodes`, or the medium of a device.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockNode {
    /// Its name; one that starts with `#` was given by QEMU and does not survive a restart.
    pub node_name: Option<String>,
    /// Whether writes are refused.
    pub ro: bool,
    /// The driver: `qcow2`, `raw`, `file`, `copy-before-write`, …
    pub drv: String,
    /// The file name, or a `json:` description where no name says it all.
    pub file: String,
    /// The file below, as named in the image.
    #[serde(rename = "backing_file")]
    pub backing_file: Option<String>,
    /// What the image says of itself.
    pub image: Image,
    /// The dirty bitmaps of the node, in no order; nameless ones belong to running jobs.
    #[serde(default)]
    pub dirty_bitmaps: Vec<Bitmap>,
}

impl BlockNode {
    /// The bitmap of this name.
    pub fn bitmap(&self, name: &str) -> Option<&Bitmap> {
        self.dirty_bitmaps.iter().find(|bitmap| bitmap.name.as_deref() == Some(name))
    }
}

/// What an image says of itself.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Image {
    /// The file name or description.
    pub filename: String,
    /// `qcow2`, `raw`, …
    pub format: String,
    /// What the guest sees, in bytes.
    pub virtual_size: u64,
    /// What the file takes on its file system, in bytes.
    pub actual_size: Option<u64>,
    /// Bytes of a qcow2 cluster.
    pub cluster_size: Option<u64>,
    /// The image below, as named in this one.
    pub backing_filename: Option<String>,
    /// The image below, itself; only in `query-block`.
    pub backing_image: Option<Box<Image>>,
    /// What only this format has.
    pub format_specific: Option<ImageFormat>,
}

impl Image {
    /// Whether persistent bitmaps can live here: qcow2 of version 3 (`compat: 1.1`).
    pub fn keeps_bitmaps(&self) -> bool {
        let compat =
            |specific: &ImageFormat| specific.data.get("compat").and_then(Value::as_str) == Some("1.1");
        self.format == "qcow2" && self.format_specific.as_ref().is_some_and(compat)
    }
}

/// What only this image format has.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ImageFormat {
    /// The format again.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its members as they came: `compat`, `corrupt`, `bitmaps`, … for qcow2.
    #[serde(default)]
    pub data: Value,
}

/// A dirty bitmap.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Bitmap {
    /// Absent for one that belongs to a job.
    pub name: Option<String>,
    /// Bytes that it marks.
    pub count: u64,
    /// Bytes that one bit stands for.
    pub granularity: u64,
    /// Whether new writes are marked.
    #[serde(default)]
    pub recording: bool,
    /// Whether it is in use by a job or an export.
    #[serde(default)]
    pub busy: bool,
    /// Whether it is stored in the image on a graceful close.
    #[serde(default)]
    pub persistent: bool,
    /// Whether it was not stored on the last close: it can only be removed.
    #[serde(default)]
    pub inconsistent: bool,
}

/// An entry of `query-jobs`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Job {
    /// Its id.
    pub id: String,
    /// `backup`, `commit`, `stream`, `mirror`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// `created`, `running`, `paused`, `ready`, `concluded`, …
    pub status: String,
    /// How far, in units that only mean something beside the total.
    pub current_progress: u64,
    /// How far it has to go, an estimate that may grow.
    pub total_progress: u64,
    /// Why it failed; absent in one that did not (yet).
    pub error: Option<String>,
}

/// An entry of `query-block-jobs`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockJob {
    /// Its id, in spite of the name.
    pub device: String,
    /// `backup`, `commit`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// Bytes to go in all.
    pub len: u64,
    /// Bytes done.
    pub offset: u64,
    /// Bytes a second; 0 is no limit.
    pub speed: u64,
    /// Whether somebody paused it.
    pub paused: bool,
    /// As [`Job::status`].
    pub status: String,
    /// `ok`, `failed`, `nospace`.
    pub io_status: String,
    /// Why it failed.
    pub error: Option<String>,
}

/// An entry of `query-block-exports`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockExport {
    /// Its id.
    pub id: String,
    /// `nbd`, `fuse`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// The node that it offers.
    pub node_name: String,
    /// Whether it is on its way out and waits for its clients.
    pub shutting_down: bool,
}

/// The answer to `query-status`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Status {
    /// Whether the guest's processors run.
    pub running: bool,
    /// `running`, `paused`, `io-error`, `restore-vm`, …
    pub status: String,
}

impl Qmp {
    /// The machine's block devices. qemu-storage-daemon has none, and answers so.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn query_block(&self) -> Result<Vec<BlockDevice>, QmpError> {
        self.ask("query-block", Value::Null).await
    }

    /// All named nodes, each without the images below it: asking for those too takes time that grows with
    /// the square of the chain.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn query_nodes(&self) -> Result<Vec<BlockNode>, QmpError> {
        self.ask("query-named-block-nodes", json!({"flat": true})).await
    }

    /// Jobs of every kind, concluded ones too until they are dismissed.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn query_jobs(&self) -> Result<Vec<Job>, QmpError> {
        self.ask("query-jobs", Value::Null).await
    }

    /// Block jobs, with what only these have.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn query_block_jobs(&self) -> Result<Vec<BlockJob>, QmpError> {
        self.ask("query-block-jobs", Value::Null).await
    }

    /// Block exports, those of other tools too.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn query_exports(&self) -> Result<Vec<BlockExport>, QmpError> {
        self.ask("query-block-exports", Value::Null).await
    }

    /// The machine's UUID, all zeros where none was given. Does not exist in qemu-storage-daemon.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn query_uuid(&self) -> Result<String, QmpError> {
        #[derive(Deserialize)]
        struct Uuid {
            #[serde(rename = "UUID")]
            uuid: String,
        }
        Ok(self.ask::<Uuid>("query-uuid", Value::Null).await?.uuid)
    }

    /// The machine's name, if it was given one. Does not exist in qemu-storage-daemon.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn query_name(&self) -> Result<Option<String>, QmpError> {
        #[derive(Deserialize)]
        struct Name {
            name: Option<String>,
        }
        Ok(self.ask::<Name>("query-name", Value::Null).await?.name)
    }

    /// Whether the guest runs. Does not exist in qemu-storage-daemon.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn query_status(&self) -> Result<Status, QmpError> {
        self.ask("query-status", Value::Null).await
    }

    /// A property in QEMU's object tree, such as a device's `iothread`.
    ///
    /// # Errors
    /// As [`Qmp::execute`]; [`QmpError::Refusal`] where there is no such property.
    pub async fn qom_get(&self, path: &str, property: &str) -> Result<Value, QmpError> {
        self.execute("qom-get", json!({"path": path, "property": property})).await
    }

    /// Sets a property in QEMU's object tree, such as a device's `drive`.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn qom_set(&self, path: &str, property: &str, value: Value) -> Result<(), QmpError> {
        self.execute("qom-set", json!({"path": path, "property": property, "value": value})).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_machines_disk_is_read_with_its_layers_and_bitmaps() {
        let base = json!({"filename": "base.qcow2", "format": "qcow2", "virtual-size": 4096});
        let specific = json!({"type": "qcow2", "data": {"compat": "0.10", "extended-l2": false}});
        let bitmap = json!({"name": "cp1", "recording": false, "persistent": true, "busy": false,
            "granularity": 65536, "count": 0, "inconsistent": true, "of a later QEMU": 1});
        let nameless =
            json!({"recording": true, "persistent": false, "busy": true, "granularity": 65536, "count": 1});
        let image = json!({"filename": "top.qcow2", "format": "qcow2", "virtual-size": 4096, "cluster-size": 65536,
            "backing-filename": "base.qcow2", "backing-image": base, "format-specific": specific});
        let entry = json!({"device": "", "qdev": "/machine/peripheral/d0/virtio-backend", "locked": false,
            "removable": false, "inserted": {"node-name": "disk0", "ro": false, "drv": "qcow2", "file": "top.qcow2",
            "backing_file": "base.qcow2", "image": image, "dirty-bitmaps": [nameless, bitmap]}});
        let device: BlockDevice = serde_json::from_value(entry).unwrap();
        let node = device.inserted.unwrap();
        assert_eq!(node.image.backing_image.as_ref().unwrap().filename, "base.qcow2");
        assert_eq!(node.backing_file.as_deref(), Some("base.qcow2"));
        assert!(!node.image.keeps_bitmaps(), "version 2 of qcow2");
        assert!(node.bitmap("cp1").unwrap().inconsistent && node.dirty_bitmaps.len() == 2);
        let empty: BlockDevice = serde_json::from_value(json!({"device": "cd0", "removable": true})).unwrap();
        assert!(empty.inserted.is_none() && empty.qdev.is_none());
    }
}
