//! What a crash happens to: a QEMU with somebody writing in it, in the care of a Backstay, as one thing. The crash matrix
//! knows only this, so that the same cells are walked on a qemu-storage-daemon and on a virtual machine.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::backstay::Backstay;
use crate::point::Point;
use crate::qmp::{Look, Qmp};
use crate::restic::Restic;

/// A stage. Its VM is called `vm`, its repository `main`, its disks as their nodes.
pub trait Stage {
    /// The server.
    fn server(&mut self) -> &mut Backstay;

    /// Its repository.
    fn restic(&self) -> &Restic;

    /// The names of its disks, in the order of writing.
    fn disks(&self) -> Vec<String>;

    /// A new empty folder.
    fn new_folder(&self) -> PathBuf;

    /// Waits until somebody has written something more.
    fn progress(&mut self);

    /// Proves that raw images of all disks show one instant since QEMU was last killed, or, where `before`, one before
    /// that; panics when they do not.
    fn examine(&mut self, images: &[PathBuf], before: bool);

    /// A look into QEMU through the laboratory's own monitor.
    fn look_inside(&mut self) -> Qmp;

    /// What was in QEMU before Backstay came.
    fn bare(&self) -> Look;

    /// Puts the VM into Backstay's care.
    fn add(&mut self);

    /// SIGKILL for QEMU, in the middle of a write.
    fn kill_machine(&mut self);

    /// Starts QEMU after it was killed, and whoever writes in it.
    fn revive_machine(&mut self);

    /// Ends QEMU in order and starts it again.
    fn restart_machine(&mut self);
}

/// Restores all disks of a point, proves what they show (see [`Stage::examine`]), and digests each.
#[track_caller]
pub fn prove(stage: &mut dyn Stage, point: &Point, before: bool) -> Vec<[u8; 32]> {
    let folder = stage.new_folder();
    let images = restore(stage, point, &folder);
    stage.examine(&images, before);
    let digests = images.iter().map(|image| digest(image)).collect();
    fs::remove_dir_all(folder).expect("a folder of ours");
    digests
}

/// Restores all disks of a point, and digests each.
#[track_caller]
pub fn restored(stage: &mut dyn Stage, point: &Point) -> Vec<[u8; 32]> {
    let folder = stage.new_folder();
    let digests = restore(stage, point, &folder).iter().map(|image| digest(image)).collect();
    fs::remove_dir_all(folder).expect("a folder of ours");
    digests
}

#[track_caller]
fn restore(stage: &mut dyn Stage, point: &Point, folder: &Path) -> Vec<PathBuf> {
    let disks = stage.disks();
    let to = restore_target(folder, &disks);
    stage.server().ok(&["restore", &point.id, "--to", &to.to_string_lossy(), "--wait"]);
    disks.iter().map(|disk| image(folder, disk)).collect()
}

/// What `restore --to` takes so that all disks come to lie in the folder: of one disk it is the image itself.
pub fn restore_target(folder: &Path, disks: &[String]) -> PathBuf {
    match disks {
        [disk] => image(folder, disk),
        _ => folder.to_owned(),
    }
}

/// Where a restored disk lies in the folder of all.
pub fn image(folder: &Path, disk: &str) -> PathBuf {
    folder.join(format!("{disk}.img"))
}

/// SHA-256 of a file.
#[track_caller]
pub fn digest(path: &Path) -> [u8; 32] {
    let mut file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut bytes = vec![0; 1 << 20];
    let mut digest = Sha256::new();
    loop {
        match file.read(&mut bytes).expect("it can be read") {
            0 => return digest.finalize().into(),
            read => digest.update(&bytes[..read]),
        }
    }
}
