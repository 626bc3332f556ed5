//! The machine's block devices as QEMU knows them, each with the disk's own node: what stands on top for a while (the
//! nodes of a view, the filter of a backup job, ours or another tool's) is looked through. Knows nothing about intents.

use serde_json::Value;

use super::graph::{Graph, is_top};
use crate::qmp::{BlockDevice, BlockNode, Qmp, QmpError};

/// The driver of the filter that a backup job puts on top of a disk.
const FILTER: &str = "copy-before-write";

/// The first QEMU whose copy-before-write filter can give up a view instead of a guest's write, and in time
/// (`on-cbw-error` and `cbw-timeout`; measured with 7.2.22 and 10.0.2).
const FILTERS_FROM: (u32, u32) = (7, 2);

/// Why there is nowhere to put a filter.
pub(crate) const NO_DEVICE: &str =
    "its node is no device's own, and only below a device can a filter be put in";

/// From this major version on a view may be read while the device works on an iothread, and a filter be put on a disk.
/// Before it, QEMU aborts, the guest included, when the reader leaves or a node is added on top of the disk (measured:
/// 7.2.22 aborts, 10.0.2 does not; between them nobody knows).
pub(super) const IOTHREADS_SAFE_FROM: u32 = 10;

/// Whether a view of a disk may be read through QEMU, by the iothread that its device works on.
pub(crate) fn takes_reader(qmp: &Qmp, iothread: Option<&str>) -> bool {
    iothread.is_none() || qmp.version().major >= IOTHREADS_SAFE_FROM
}

/// One block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    /// The legacy name, `drive0`; empty where there is none.
    pub(crate) name: String,
    /// Its place in QEMU's object tree, or its id.
    pub(crate) qdev: Option<String>,
    /// Whether the medium can be taken out: a CD or floppy drive.
    pub(crate) removable: bool,
    /// The disk's node; none in an empty drive.
    pub(crate) node: Option<String>,
    /// The node that the device itself uses: the disk's, or what stands on it for a while.
    pub(crate) top: Option<String>,
}

/// All block devices of a machine; none in qemu-storage-daemon, which has no machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Devices(pub(crate) Vec<Device>);

impl Devices {
    /// Asks QEMU.
    pub(crate) async fn query(qmp: &Qmp) -> Result<Self, QmpError> {
        let devices = match qmp.query_block().await {
            Ok(devices) => devices,
            Err(QmpError::CommandNotFound { .. }) => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        let passes = |node: &BlockNode| node.drv == FILTER || node.node_name.as_deref().is_some_and(is_top);
        let covered = devices.iter().any(|device| device.inserted.as_ref().is_some_and(passes));
        let graph = if covered { Some(Graph::query(qmp).await?) } else { None };
        Ok(Self(devices.into_iter().map(|device| Device::new(device, graph.as_ref())).collect()))
    }

    /// The device with this node, legacy name, or id.
    pub(crate) fn find(&self, given: &str) -> Option<&Device> {
        let on_node = self.0.iter().find(|device| device.node.as_deref() == Some(given));
        let named = || self.0.iter().find(|device| device.name == given && !given.is_empty());
        on_node.or_else(named).or_else(|| self.0.iter().find(|device| device.id() == Some(given)))
    }
}

impl Device {
    fn new(device: BlockDevice, graph: Option<&Graph>) -> Self {
        let BlockDevice { device: name, qdev, removable, inserted } = device;
        let top = inserted.and_then(|node| node.node_name);
        let node = match (&top, graph) {
            (Some(top), Some(graph)) => Some(graph.disk_below(top)),
            _ => top.clone(),
        };
        Self { name, qdev, removable, node, top }
    }

    /// The id that the operator gave the device: `virtio0` of `/machine/peripheral/virtio0/virtio-backend`.
    pub(crate) fn id(&self) -> Option<&str> {
        let qdev = self.qdev.as_deref()?;
        match qdev.strip_prefix("/machine/peripheral/") {
            Some(path) => path.split('/').next(),
            // Devices without an id live below `peripheral-anon`, those of the board below the machine.
            None if qdev.starts_with('/') => None,
            None => Some(qdev),
        }
    }

    /// Where a copy-before-write filter can be put between this device and its disk while the guest runs, as the path of
    /// the object whose drive is exchanged; or why nowhere.
    pub(crate) async fn filter_place(
        &self,
        qmp: &Qmp,
        graph: &Graph,
    ) -> Result<Result<&str, String>, QmpError> {
        let (Some(qdev), Some(node)) = (&self.qdev, &self.node) else { return Ok(Err(NO_DEVICE.to_owned())) };
        let version = qmp.version();
        if (version.major, version.minor) < FILTERS_FROM {
            return Ok(Err(format!("QEMU {version} has no filter that can give up a view, 7.2 has")));
        }
        if self.top != self.node {
            return Ok(Err("another view, or another tool's backup, stands on it now".to_owned()));
        }
        if graph.writers(node) > 1 {
            return Ok(Err("somebody else writes to it past its device".to_owned()));
        }
        if version.major < IOTHREADS_SAFE_FROM
            && let Some(iothread) = self.iothread(qmp).await?
        {
            return Ok(Err(format!(
                "it works on iothread {iothread}, which QEMU {version} does not survive, and 10.0 does"
            )));
        }
        // An nvme controller's own namespace has a drive that no path leads to.
        match property(qmp, qdev, "drive").await? {
            Some(Value::String(drive)) if !drive.is_empty() => Ok(Ok(qdev)),
            _ => Ok(Err(format!("the drive of {qdev} cannot be exchanged"))),
        }
    }

    /// Whether the device lets others write to its image, another QEMU among them.
    pub(crate) async fn is_shared(&self, qmp: &Qmp) -> Result<bool, QmpError> {
        let Some(qdev) = &self.qdev else { return Ok(false) };
        Ok(property(qmp, qdev, "share-rw").await? == Some(Value::Bool(true)))
    }

    /// The iothread that the device works on, its own or its controller's.
    pub(crate) async fn iothread(&self, qmp: &Qmp) -> Result<Option<String>, QmpError> {
        let Some(qdev) = &self.qdev else { return Ok(None) };
        if let Some(own) = iothread_at(qmp, qdev).await? {
            return Ok(Some(own));
        }
        // A SCSI disk works where its controller does: the bus is `<controller>/<bus>`.
        let Some(Value::String(bus)) = property(qmp, qdev, "parent_bus").await? else { return Ok(None) };
        match bus.rsplit_once('/') {
            Some((controller, _)) if controller != qdev => iothread_at(qmp, controller).await,
            _ => Ok(None),
        }
    }
}

/// One iothread, or the first of several (`iothread-vq-mapping`, since QEMU 9.0).
async fn iothread_at(qmp: &Qmp, path: &str) -> Result<Option<String>, QmpError> {
    if let Some(Value::String(thread)) = property(qmp, path, "iothread").await?
        && !thread.is_empty()
    {
        return Ok(Some(thread.rsplit('/').next().unwrap_or(&thread).to_owned()));
    }
    let mapping = property(qmp, path, "iothread-vq-mapping").await?;
    let first = mapping.as_ref().and_then(|mapping| mapping.get(0)?.get("iothread")?.as_str());
    Ok(first.map(str::to_owned))
}

/// A property, or nothing where the object has none of this name.
async fn property(qmp: &Qmp, path: &str, name: &str) -> Result<Option<Value>, QmpError> {
    match qmp.qom_get(path, name).await {
        Ok(value) => Ok(Some(value)),
        Err(QmpError::Refusal { .. } | QmpError::CommandNotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn device(name: &str, qdev: Option<&str>) -> Device {
        Device {
            name: name.into(),
            qdev: qdev.map(Into::into),
            removable: false,
            node: Some("n".into()),
            top: None,
        }
    }

    #[test]
    fn an_id_is_what_the_operator_gave() {
        let id = |qdev| device("", Some(qdev)).id().map(str::to_owned);
        assert_eq!(id("/machine/peripheral/virtio0/virtio-backend").as_deref(), Some("virtio0"));
        assert_eq!(id("scsi0-0").as_deref(), Some("scsi0-0"));
        assert_eq!(id("/machine/peripheral-anon/device[1]/virtio-backend"), None);
        assert_eq!(id("/machine/system.flash0"), None);
    }
}
