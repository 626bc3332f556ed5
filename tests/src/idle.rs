//! A virtual machine that never starts its guest, with a SCSI controller that takes and gives back disks at once: for
//! what depends on devices and on no guest.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::lab::{Lab, PATIENCE, tool, until};
use crate::process::Process;
use crate::qmp::Qmp;

/// A machine. Killed when dropped.
#[derive(Debug)]
pub struct Idle {
    process: Process,
    dir: PathBuf,
}

impl Idle {
    /// Starts it, without disks.
    #[track_caller]
    pub fn start(lab: &Lab, name: &str) -> Idle {
        let dir = lab.folder(name);
        let mut idle = Idle { process: launch(&dir), dir };
        idle.until_ready();
        idle
    }

    /// The monitor socket for Backstay; the laboratory does not use it.
    pub fn qmp_socket(&self) -> PathBuf {
        self.dir.join("qmp.sock")
    }

    /// A look inside through the laboratory's own monitor. One at a time: drop it before the next.
    #[track_caller]
    pub fn look(&self) -> Qmp {
        until("the machine's monitor answers", PATIENCE, || Qmp::try_connect(&self.dir.join("look.sock")))
    }

    /// Plugs in the disk `name`: the node of that name on an image, behind a device `dev-NAME`.
    #[track_caller]
    pub fn plug(&self, name: &str, image: &Path) {
        let mut qmp = self.look();
        let file = json!({ "driver": "file", "filename": image });
        qmp.ok("blockdev-add", json!({ "driver": "qcow2", "node-name": name, "file": file }));
        qmp.ok(
            "device_add",
            json!({ "driver": "scsi-hd", "bus": "scsi.0", "id": format!("dev-{name}"), "drive": name }),
        );
    }

    /// Takes a disk out.
    #[track_caller]
    pub fn unplug(&self, name: &str) {
        let mut qmp = self.look();
        qmp.ok("device_del", json!({ "id": format!("dev-{name}") }));
        qmp.event("DEVICE_DELETED");
        qmp.ok("blockdev-del", json!({ "node-name": name }));
    }

    /// Ends QEMU, which stores the bitmaps, and starts it again, without disks.
    #[track_caller]
    pub fn restart(&mut self) {
        self.look().tell("quit");
        self.process.wait(PATIENCE);
        self.process = launch(&self.dir);
        self.until_ready();
    }

    #[track_caller]
    fn until_ready(&mut self) {
        let socket = self.dir.join("look.sock");
        self.process.until("the machine's monitor answers", PATIENCE, || Qmp::try_connect(&socket).map(drop));
    }
}

fn launch(dir: &Path) -> Process {
    let mut qemu = tool("qemu-system-x86_64");
    qemu.args([
        "-no-user-config",
        "-nodefaults",
        "-display",
        "none",
        "-S",
        "-machine",
        "pc",
        "-accel",
        "tcg",
    ]);
    qemu.args(["-m", "64M", "-device", "virtio-scsi-pci,id=scsi"]);
    for monitor in ["qmp", "look"] {
        qemu.args(["-qmp", &format!("unix:{}/{monitor}.sock,server=on,wait=off", dir.display())]);
    }
    Process::start("machine", &mut qemu, &dir.join("qemu.log"))
}
