//! Looking at one VM: everything that reconcile may want to know of it, in the words of `journal::observation`.
//! Changes nothing, and says nothing about what it sees.

use std::path::Path;

use journal::DiskName;
use journal::names;
use journal::observation::{BitmapSeen, DiskSeen, JobSeen, LookAt, Machine, VmSeen};

use crate::machine::{
    Device, Devices, Graph, NO_DEVICE, backing, connect, identity, scratch_answers, scratch_files,
    socket_is_dead, takes_reader,
};
use crate::qmp::{Bitmap, BlockNode, Qmp, QmpError};
use crate::task::Folders;

/// Looks at a VM.
pub(crate) async fn observe(at: &LookAt, folders: &Folders) -> VmSeen {
    // Where the scratch storage of a view hangs, so would QEMU if it were asked about its nodes, and its guest with it.
    if let Some(vm) = at.id
        && let Err(failure) = scratch_answers(&folders.scratch_of(vm)).await
    {
        return VmSeen::Silent { why: failure.what };
    }
    match machine(at, folders).await {
        Ok(machine) => VmSeen::Answering(Box::new(machine)),
        Err(error @ (QmpError::NotThere { .. } | QmpError::Refused { .. })) => {
            VmSeen::NotRunning { why: error.to_string() }
        }
        Err(error) => VmSeen::Silent { why: error.to_string() },
    }
}

async fn machine(at: &LookAt, folders: &Folders) -> Result<Machine, QmpError> {
    let qmp = connect(Path::new(&at.qmp)).await?;
    let nodes = qmp.query_nodes().await?;
    let devices = Devices::query(&qmp).await?;
    let sight = Sight { qmp: &qmp, graph: Graph::query(&qmp).await?, nodes: &nodes };
    let mut found =
        if at.disks.is_empty() { discovered(&devices) } else { named(&at.disks, &devices, &sight) };
    let mut disks = Vec::new();
    for wanted in std::mem::take(&mut found.disks) {
        match nodes.iter().find(|node| node.node_name.as_deref() == Some(&wanted.node)) {
            Some(node) => disks.push(sight.disk(wanted, node).await?),
            None => {
                let why = format!("QEMU does not list its node {}", wanted.node);
                found.unusable.push((wanted.name, why));
            }
        }
    }
    let ours = |name: &String| names::owner(name).is_some();
    let jobs = qmp.query_jobs().await?.into_iter().filter(|job| ours(&job.id));
    let socket = at.id.map(|id| folders.nbd_socket_of(id)).unwrap_or_default();
    Ok(Machine {
        process: identity(qmp.process()),
        version: qmp.version().to_string(),
        uuid: uuid(&qmp).await?,
        disks,
        unusable: found.unusable,
        jobs: jobs.map(|job| JobSeen { id: job.id, status: job.status, error: job.error }).collect(),
        exports: qmp.query_exports().await?.into_iter().map(|export| export.id).filter(ours).collect(),
        nodes: nodes.into_iter().filter_map(|node| node.node_name).filter(ours).collect(),
        files: files(at, folders).await,
        socket_is_dead: socket_is_dead(&socket).await,
        socket: socket.to_string_lossy().into_owned(),
    })
}

/// The disks to look at, and those that cannot be, each with the reason.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found<'a> {
    disks: Vec<Wanted<'a>>,
    unusable: Vec<(DiskName, String)>,
}

#[derive(Debug, PartialEq, Eq)]
struct Wanted<'a> {
    name: DiskName,
    node: String,
    device: Option<&'a Device>,
}

/// The disks as the operator named them: by node, by legacy device name, or by the device's id.
fn named<'a>(disks: &[(DiskName, String)], devices: &'a Devices, sight: &Sight<'_>) -> Found<'a> {
    let mut found = Found::default();
    for (name, given) in disks {
        let name = name.clone();
        let device = devices.find(given);
        if sight.node(given).is_some() {
            match sight.follow(given, !devices.0.is_empty()) {
                Ok(node) => {
                    // Whoever named both knows what is what.
                    let named = disks.iter().any(|(_, other)| other == node);
                    let node = if named { given.as_str() } else { node };
                    let device = devices.find(node).or(device);
                    found.disks.push(Wanted { name, node: node.to_owned(), device });
                }
                Err(why) => found.unusable.push((name, why)),
            }
        } else if let Some(node) = device.and_then(|device| device.node.clone()) {
            found.disks.push(Wanted { name, node, device });
        } else if device.is_some() {
            found.unusable.push((name, format!("the drive `{given}` is empty")));
        } else {
            let why = format!(
                "QEMU has no node, drive or device `{given}`; name another, or see `query-named-block-nodes`"
            );
            found.unusable.push((name, why));
        }
    }
    found
}

/// Every disk of the machine, but no CD or floppy drives and nothing empty.
fn discovered(devices: &Devices) -> Found<'_> {
    let mut found = Found::default();
    for device in devices.0.iter().filter(|device| !device.removable) {
        let Some(node) = device.node.clone() else { continue };
        let legacy = Some(device.name.as_str()).filter(|name| !name.is_empty());
        let name = fitting(device.id().or(legacy).unwrap_or(&node));
        if found.disks.iter().any(|other| other.name == name) {
            let why = format!(
                "another disk goes by this name too; name the disks yourself (this one's node is {node})"
            );
            found.unusable.push((name, why));
        } else {
            found.disks.push(Wanted { name, node, device: Some(device) });
        }
    }
    found
}

/// The name with what a disk's name cannot hold replaced by dashes.
fn fitting(name: &str) -> DiskName {
    let fits = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
    let name: String = name.chars().map(fits).skip_while(|c| !c.is_ascii_alphanumeric()).take(64).collect();
    name.parse().unwrap_or_else(|_| "disk".parse().expect("four letters are a name"))
}

/// What all disks are looked at with.
struct Sight<'a> {
    qmp: &'a Qmp,
    graph: Graph,
    nodes: &'a [BlockNode],
}

impl Sight<'_> {
    fn node(&self, name: &str) -> Option<&BlockNode> {
        self.nodes.iter().find(|node| node.node_name.as_deref() == Some(name))
    }

    /// The node that a disk goes on in, which the operator named once. Somebody who takes an external snapshot puts an image
    /// on top of that node, and QEMU only reads it from then on: to back it up would be to back up the past.
    fn follow<'a>(&'a self, given: &'a str, has_devices: bool) -> Result<&'a str, String> {
        let mut at = given;
        loop {
            let above = self.graph.above(at);
            let used = above.iter().any(|(_, link)| *link != "backing");
            let Some(node) = self.node(at).filter(|node| node.ro && !used) else { return Ok(at) };
            match above.as_slice() {
                [(overlay, _)] => at = overlay,
                // What a guest wrote to once, and no device has any more.
                [] if has_devices && node.dirty_bitmaps.iter().any(is_ours) => {
                    return Err(format!(
                        "no device uses node {at} any more, and it is only read: somebody took an external snapshot of the \
                         disk, and merged it; name the node, or the device, that the disk has now"
                    ));
                }
                [] => return Ok(at),
                overlays => {
                    let overlays: Vec<&str> = overlays.iter().map(|(overlay, _)| *overlay).collect();
                    return Err(format!(
                        "node {at} is only read, and lies below several images ({}); name the one that the disk is",
                        overlays.join(", ")
                    ));
                }
            }
        }
    }

    async fn disk(&self, wanted: Wanted<'_>, node: &BlockNode) -> Result<DiskSeen, QmpError> {
        let Self { qmp, graph, nodes } = self;
        // QEMU itself keeps other processes away from the file below a qcow2, whatever the device allows.
        let may_be_shared = node.drv == "raw";
        // A node that was named and is not the device's own, such as one below it, is not where a filter goes.
        let owner = wanted.device.filter(|device| device.node.as_ref() == Some(&wanted.node));
        let no_filter = match owner {
            Some(device) => device.filter_place(qmp, graph).await?.err(),
            None => Some(NO_DEVICE.to_owned()),
        };
        let (iothread, shared) = match wanted.device {
            Some(device) => (device.iothread(qmp).await?, may_be_shared && device.is_shared(qmp).await?),
            None => (None, false),
        };
        Ok(DiskSeen {
            disk: wanted.name,
            size_bytes: node.image.virtual_size,
            format: node.drv.clone(),
            stores_bitmaps: node.image.keeps_bitmaps() && !node.ro,
            read_only: node.ro,
            backing: backing::describe(graph, nodes, &wanted.node, qmp.process().pid).await,
            below: self.bitmaps_below(&wanted.node),
            node: wanted.node,
            takes_reader: takes_reader(qmp, iothread.as_deref()),
            iothread,
            shared,
            no_filter,
            bitmaps: node.dirty_bitmaps.iter().filter_map(bitmap).collect(),
        })
    }

    /// Our bitmaps on what the disk stands on: where they end up when somebody puts a new image on top.
    fn bitmaps_below(&self, disk: &str) -> Vec<String> {
        let below = self.graph.below(disk);
        let below = below
            .iter()
            .filter_map(|it| self.nodes.iter().find(|node| node.node_name.as_deref() == Some(it.node)));
        let bitmaps = below.flat_map(|node| &node.dirty_bitmaps).filter_map(|bitmap| bitmap.name.clone());
        let mut ours: Vec<String> = bitmaps.filter(|name| names::owner(name).is_some()).collect();
        ours.sort();
        ours
    }
}

fn is_ours(bitmap: &Bitmap) -> bool {
    bitmap.name.as_ref().is_some_and(|name| names::owner(name).is_some())
}

/// A bitmap without a name belongs to a running job.
fn bitmap(bitmap: &Bitmap) -> Option<BitmapSeen> {
    Some(BitmapSeen {
        name: bitmap.name.clone().filter(|name| !name.is_empty())?,
        recording: bitmap.recording,
        persistent: bitmap.persistent,
        busy: bitmap.busy,
        inconsistent: bitmap.inconsistent,
        granularity_bytes: bitmap.granularity,
        dirty_bytes: bitmap.count,
    })
}

/// The guest's UUID. All zeros is how QEMU says that it was given none; qemu-storage-daemon has no guest.
async fn uuid(qmp: &Qmp) -> Result<Option<uuid::Uuid>, QmpError> {
    match qmp.query_uuid().await {
        Ok(text) => Ok(text.parse().ok().filter(|uuid: &uuid::Uuid| !uuid.is_nil())),
        Err(QmpError::CommandNotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn files(at: &LookAt, folders: &Folders) -> Vec<String> {
    let Some(vm) = at.id else { return Vec::new() };
    match scratch_files(&folders.scratch_of(vm)).await {
        Ok(files) => files.into_iter().filter(|name| names::owner(name).is_some()).collect(),
        // Nothing in QEMU hangs on these: what cannot be listed now is found by a later look.
        Err(failure) => {
            tracing::warn!(vm = %at.name, %failure, "the scratch folder cannot be listed");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn device(name: &str, qdev: Option<&str>, node: Option<&str>, removable: bool) -> Device {
        Device {
            name: name.into(),
            qdev: qdev.map(Into::into),
            removable,
            node: node.map(Into::into),
            top: None,
        }
    }

    #[test]
    fn disks_are_called_what_the_operator_called_them() {
        let devices = Devices(vec![
            device("drv0", Some("/machine/peripheral/virtio0/virtio-backend"), Some("#block1"), false),
            device(
                "virtio1",
                Some("/machine/peripheral-anon/device[1]/virtio-backend"),
                Some("#block2"),
                false,
            ),
            device(
                "",
                Some("/machine/peripheral-anon/device[0]/virtio-backend"),
                Some("libvirt-1-format"),
                false,
            ),
            device("", Some("sd2"), Some("d2"), false),
            device("", Some("cd0"), Some("iso"), true),
            device("floppy0", None, None, false),
            device("", Some("virtio0"), Some("twin"), false),
        ]);
        let found = discovered(&devices);
        let names: Vec<(&str, &str)> =
            found.disks.iter().map(|disk| (disk.name.as_str(), disk.node.as_str())).collect();
        assert_eq!(
            names,
            [
                ("virtio0", "#block1"),
                ("virtio1", "#block2"),
                ("libvirt-1-format", "libvirt-1-format"),
                ("sd2", "d2")
            ]
        );
        assert_eq!(found.unusable.len(), 1, "{found:?}");
        assert_eq!(fitting("#block432").as_str(), "block432");
        assert_eq!(fitting("ü").as_str(), "disk");
    }
}
