//! A machine whose disks are found by their devices, for what somebody does to their images. Knows no row.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tests::backstay::Backstay;
use tests::idle::Idle;
use tests::lab::{Lab, PATIENCE, tool};
use tests::matrix::cell::HEALING;
use tests::process::run;
use tests::restic::Restic;
use tests::site::add_repository;

/// A machine whose disks are found by their devices, in the care of a Backstay. Drop order: the folder last.
pub struct Devices {
    /// The server.
    pub backstay: Backstay,
    /// The machine.
    pub idle: Idle,
    /// The folder.
    pub lab: Lab,
}

impl Devices {
    /// With disks on these images, and a first point.
    #[track_caller]
    pub fn start(lab: Lab, disks: &[(&str, PathBuf)]) -> Devices {
        let idle = Idle::start(&lab, "machine");
        let restic = Restic::new(&lab, "repo");
        let mut backstay = Backstay::start(&lab, "data");
        for text in HEALING {
            backstay.expect_log(text);
        }
        for (name, image) in disks {
            idle.plug(name, image);
        }
        add_repository(&backstay, &restic);
        backstay.ok(&["vm", "add", "vm", "--qmp", &idle.qmp_socket().to_string_lossy()]);
        let devices = Devices { backstay, idle, lab };
        devices.back_up();
        devices
    }

    /// Backs up; the point.
    #[track_caller]
    pub fn back_up(&self) -> Value {
        let answer = self.backstay.ok(&["backup", "vm", "--wait"]);
        let point = answer["jobs"][0]["point"].as_str().unwrap_or_else(|| panic!("no point: {answer}"));
        self.backstay.ok(&["point", "show", point])
    }

    /// The point's disks, restored, hold these bytes at their beginnings.
    #[track_caller]
    pub fn must_hold(&self, point: &Value, expected: &[(&str, u8)]) {
        let id = point["id"].as_str().expect("a point has an id");
        for (disk, byte) in expected {
            let image = self.lab.path(format!("{id}.{disk}.img"));
            let to = image.to_string_lossy();
            self.backstay.ok(&["restore", id, "--disk", disk, "--to", &to, "--wait"]);
            let mut found = [0];
            File::open(&image).and_then(|file| file.read_exact_at(&mut found, 0)).expect("it was restored");
            assert!(found == [*byte], "{disk} of {id} begins with {found:?}, not {byte}");
        }
    }
}

/// Modes of a point's disks, in order.
pub fn modes(point: &Value) -> Vec<&str> {
    point["disks"].as_array().into_iter().flatten().filter_map(|disk| disk["mode"].as_str()).collect()
}

/// The names that Backstay found for a point's disks.
pub fn names(point: &Value) -> Vec<String> {
    let disks = point["disks"].as_array().into_iter().flatten();
    disks.map(|disk| disk["name"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Fills the beginning of an image that no QEMU has open.
pub fn fill(image: &Path, byte: u8) {
    let write = format!("write -q -P {byte} 0 64k");
    run(tool("qemu-io").args(["-f", "qcow2", "-c", &write]).arg(image), PATIENCE);
}
