//! A qemu-storage-daemon: QEMU's block layer without a machine, started in milliseconds. Its disks can be
//! written through FUSE exports, which leaves the process's one NBD server to Backstay.
//!
//! Pull backups only while somebody writes to the files: a job that ends by itself (a push backup, a commit)
//! waits inside a FUSE request for that same request, and the daemon hangs for ever (seen at once with 10.0.2,
//! never in 300 rounds of fleece, NBD and teardown). For those use [`crate::guest`].

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::lab::{Lab, PATIENCE, tool, unmount};
use crate::process::Process;
use crate::qmp::Qmp;

/// Which disks.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder in the lab, so unique in it.
    pub name: String,
    /// Block node name and size in bytes of each disk.
    pub disks: Vec<(String, u64)>,
    /// Those of them that are raw images, which store no bitmap. The others are qcow2.
    pub raw: Vec<String>,
    /// Offers each disk as a writable file. Needs `/dev/fuse`.
    pub files: bool,
}

impl Options {
    /// `count` disks called `disk0`, `disk1`, … of `size` bytes, writable as files.
    pub fn new(name: &str, count: usize, size: u64) -> Options {
        let disks = (0..count).map(|number| (format!("disk{number}"), size)).collect();
        Options { name: name.to_owned(), disks, raw: Vec::new(), files: true }
    }
}

/// A running daemon. Killed, and its FUSE files detached, when dropped.
#[derive(Debug)]
pub struct Qsd {
    options: Options,
    dir: PathBuf,
    process: Process,
}

impl Qsd {
    /// Creates the disks, starts the daemon and waits until it answers and serves its files.
    #[track_caller]
    pub fn start(lab: &Lab, options: Options) -> Qsd {
        let dir = lab.folder(&options.name);
        for (disk, size) in &options.disks {
            if options.raw.contains(disk) {
                let image = File::create_new(dir.join(format!("{disk}.raw"))).expect("a new folder");
                image.set_len(*size).expect("the lab's folder takes a sparse file");
            } else {
                lab.qcow2(&format!("{}/{disk}.qcow2", options.name), *size);
            }
        }
        let process = launch(&options, &dir);
        let mut qsd = Qsd { options, dir, process };
        qsd.until_ready();
        qsd
    }

    /// The monitor socket for Backstay; the laboratory does not use it.
    pub fn qmp_socket(&self) -> PathBuf {
        self.dir.join("qmp.sock")
    }

    /// The laboratory's own monitor socket; a second Backstay may have it as long as nobody [looks](Qsd::look).
    pub fn look_socket(&self) -> PathBuf {
        self.dir.join("look.sock")
    }

    /// The image behind a disk.
    pub fn image(&self, disk: &str) -> PathBuf {
        self.dir.join(format!("{disk}.{}", format(&self.options, disk)))
    }

    /// The disk as a file: writing here is what a guest's write is.
    pub fn file(&self, disk: &str) -> PathBuf {
        file(&self.dir, disk)
    }

    /// All disks as files, in order.
    pub fn files(&self) -> Vec<PathBuf> {
        self.options.disks.iter().map(|(disk, _)| self.file(disk)).collect()
    }

    /// The daemon itself: to stop, continue or watch.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// A look inside through the laboratory's own monitor. One at a time: drop it before the next.
    #[track_caller]
    pub fn look(&mut self) -> Qmp {
        let socket = self.look_socket();
        self.process.until("the laboratory's monitor answers", PATIENCE, || Qmp::try_connect(&socket))
    }

    /// SIGKILL: what a crash leaves.
    pub fn kill(&mut self) {
        self.process.kill();
        self.detach();
    }

    /// Ends it, which stores the bitmaps.
    #[track_caller]
    pub fn quit(&mut self) {
        self.process.terminate();
        self.detach();
    }

    /// Starts it again after [`Qsd::kill`] or [`Qsd::quit`]: same disks, a new process.
    #[track_caller]
    pub fn restart(&mut self) {
        assert!(!self.process.is_running(), "{} still runs", self.options.name);
        self.process = launch(&self.options, &self.dir);
        self.until_ready();
    }

    #[track_caller]
    fn until_ready(&mut self) {
        drop(self.look());
        let Qsd { options, dir, process } = self;
        for (disk, size) in options.disks.iter().filter(|_| options.files) {
            process.until(&format!("{disk} is served as a file"), PATIENCE, || {
                (fs::metadata(file(dir, disk)).ok()?.len() == *size).then_some(())
            });
        }
    }

    /// After the process is gone its mount points answer ENOTCONN until somebody detaches them.
    fn detach(&self) {
        for (disk, _) in self.options.disks.iter().filter(|_| self.options.files) {
            unmount(&self.file(disk));
        }
    }
}

impl Drop for Qsd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn file(dir: &Path, disk: &str) -> PathBuf {
    dir.join(format!("{disk}.file"))
}

fn format(options: &Options, disk: &str) -> &'static str {
    if options.raw.iter().any(|raw| raw == disk) { "raw" } else { "qcow2" }
}

fn launch(options: &Options, dir: &Path) -> Process {
    let mut qsd = tool("qemu-storage-daemon");
    for monitor in ["qmp", "look"] {
        let path = dir.join(format!("{monitor}.sock"));
        qsd.args(["--chardev", &format!("socket,id={monitor},path={},server=on,wait=off", path.display())])
            .args(["--monitor", &format!("chardev={monitor}")]);
    }
    for (disk, _) in &options.disks {
        let format = format(options, disk);
        let image = dir.join(format!("{disk}.{format}"));
        let node = json!({ "driver": format, "node-name": disk, "discard": "unmap", "file": {
            "driver": "file", "node-name": format!("{disk}-file"), "filename": image } });
        qsd.args(["--blockdev", &node.to_string()]);
        if options.files {
            let mount = file(dir, disk);
            fs::write(&mount, "").expect("the lab's folder takes a file");
            let export = format!(
                "type=fuse,id=file-{disk},node-name={disk},writable=on,mountpoint={}",
                mount.display()
            );
            qsd.args(["--export", &export]);
        }
    }
    Process::start(&options.name, &mut qsd, &dir.join("qsd.log"))
}
