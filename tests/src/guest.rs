//! A virtual machine: qemu-system-x86_64 under emulation (no KVM is counted on) with the tiny guest that
//! `scripts/guest` builds. Its writer fills two disks in a fixed order; [`crate::sequence`] proves images of them.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::held;
use crate::lab::{Lab, PATIENCE, guest_image, tool};
use crate::process::Process;
use crate::qmp::Qmp;

/// The two disks, in the guest's writing order. Block nodes have these names, devices `disk-a` and `disk-b`.
pub const DISKS: [&str; 2] = ["a", "b"];

/// What kind of machine.
#[derive(Debug, Clone)]
pub struct Options {
    /// QEMU's `-name`; also the folder in the lab, so unique in it.
    pub name: String,
    /// Bytes of each disk where no image is given.
    pub disk_size: u64,
    /// Existing qcow2 images for the two disks, for example restored ones.
    pub images: Option<[PathBuf; 2]>,
    /// Whether the guest writes. If not, it mounts the disks and serves its agent.
    pub writer: bool,
    /// What the writer waits between two numbers.
    pub pause: Duration,
    /// Gives each disk an iothread.
    pub iothread: bool,
    /// Lets a second writer (a restore by export) at the disks.
    pub share_rw: bool,
    /// The QEMU binary; `BACKSTAY_QEMU` in the environment, else Debian's.
    pub qemu: PathBuf,
}

impl Options {
    /// A writing guest with two blank disks of 256 MiB.
    pub fn new(name: &str) -> Options {
        Options {
            name: name.to_owned(),
            disk_size: 256 << 20,
            images: None,
            writer: true,
            pause: Duration::from_millis(20),
            iothread: false,
            share_rw: false,
            qemu: std::env::var_os("BACKSTAY_QEMU").unwrap_or_else(|| "qemu-system-x86_64".into()).into(),
        }
    }
}

/// A running machine. Killed when dropped.
#[derive(Debug)]
pub struct Guest {
    options: Options,
    dir: PathBuf,
    images: [PathBuf; 2],
    boots: u32,
    process: Process,
}

impl Guest {
    /// Boots, and waits until the guest has mounted its disks and, if it is to write, written its first number.
    #[track_caller]
    pub fn start(lab: &Lab, options: Options) -> Guest {
        let dir = lab.folder(&options.name);
        let images = options.images.clone().unwrap_or_else(|| {
            DISKS.map(|disk| lab.qcow2(&format!("{}/{disk}.qcow2", options.name), options.disk_size))
        });
        let process = launch(&options, &dir, &images, 1);
        Guest { options, dir, images, boots: 1, process }
    }

    /// The monitor socket for Backstay; the laboratory does not use it.
    pub fn qmp_socket(&self) -> PathBuf {
        self.dir.join("qmp.sock")
    }

    /// The guest agent's socket, for Backstay.
    pub fn agent_socket(&self) -> PathBuf {
        self.dir.join("agent.sock")
    }

    /// The image file of disk `a` or `b`.
    pub fn image(&self, disk: &str) -> &Path {
        let at = DISKS.iter().position(|name| *name == disk).expect("the disks are called a and b");
        &self.images[at]
    }

    /// The machine's `-uuid`, made from its name.
    pub fn uuid(&self) -> String {
        uuid(&self.options.name)
    }

    /// QEMU's process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// QEMU itself: to stop, continue or watch.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// A look into QEMU through the laboratory's own monitor. One at a time: drop it before the next.
    #[track_caller]
    pub fn look(&mut self) -> Qmp {
        let socket = self.dir.join("look.sock");
        self.process.until("the laboratory's monitor answers", PATIENCE, || Qmp::try_connect(&socket))
    }

    /// Asks the guest agent; its answer. For a moment when Backstay is not connected: the agent hears one client.
    #[track_caller]
    pub fn agent(&self, command: &str) -> Value {
        let socket = self.agent_socket();
        let mut stream =
            UnixStream::connect(&socket).unwrap_or_else(|error| panic!("{}: {error}", socket.display()));
        stream.set_read_timeout(Some(PATIENCE)).expect("a limit above zero is valid");
        writeln!(stream, "{}", json!({ "execute": command })).expect("the agent's socket takes a line");
        let mut line = String::new();
        BufReader::new(stream)
            .read_line(&mut line)
            .unwrap_or_else(|error| panic!("no answer to {command}: {error}"));
        let mut reply: Value =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{command}: {error}: {line}"));
        assert!(reply.get("return").is_some(), "{command}: {reply}");
        reply["return"].take()
    }

    /// The last number that the guest said it has on both disks, since this boot; 0 before the first.
    pub fn sequence(&self) -> u64 {
        last_in(&self.serial_file())
    }

    /// Waits until the writer has come to `number`.
    #[track_caller]
    pub fn until_sequence(&mut self, number: u64) {
        let serial = self.serial_file();
        self.process.until(&format!("the guest writes number {number}"), PATIENCE, || {
            (last_in(&serial) >= number).then_some(())
        });
    }

    /// Waits for three numbers more than now: the guest is neither frozen nor paused nor in an IO error.
    #[track_caller]
    pub fn until_progress(&mut self) {
        // The first of them may have been under way, the second may have been stuck behind it.
        let number = self.sequence() + 3;
        self.until_sequence(number);
    }

    /// The guest's console since this boot.
    pub fn serial(&self) -> String {
        fs::read_to_string(self.serial_file()).unwrap_or_default()
    }

    /// SIGKILL: what a crash of QEMU or of its host leaves.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Asks QEMU to end, which stores the bitmaps. (The guest itself ignores a power button.)
    #[track_caller]
    pub fn quit(&mut self) {
        // QEMU may close the connection before it has answered.
        self.look().tell("quit");
        self.process.wait(PATIENCE);
    }

    /// Starts it again after [`Guest::kill`] or [`Guest::quit`]: same disks, same options, a new process.
    #[track_caller]
    pub fn restart(&mut self) {
        assert!(!self.process.is_running(), "{} still runs", self.options.name);
        self.boots += 1;
        self.process = launch(&self.options, &self.dir, &self.images, self.boots);
    }

    fn serial_file(&self) -> PathBuf {
        serial_file(&self.dir, self.boots)
    }
}

fn serial_file(dir: &Path, boot: u32) -> PathBuf {
    dir.join(format!("serial.{boot}"))
}

fn last_in(serial: &Path) -> u64 {
    let console = fs::read_to_string(serial).unwrap_or_default();
    // The last line may be half written.
    let whole = console.rfind('\n').map_or("", |end| &console[..end]);
    whole.lines().rev().find_map(|line| line.trim().strip_prefix("seq ")?.parse().ok()).unwrap_or(0)
}

fn uuid(name: &str) -> String {
    let digest = Sha256::digest(name);
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}

/// Where a machine begins.
enum Begin<'a> {
    /// With a boot.
    Boot,
    /// With a boot that ends before the guest looks for its disks.
    Hold,
    /// Where such a boot ended, in a state that was saved.
    From(&'a Path),
}

/// What the guest says when it has mounted its disks.
const READY: &str = "guest: ready";
/// What it says when it holds.
const HELD: &str = "guest: held";

/// Starts a machine; returns when the guest has mounted its disks and, if it is to write, written its first number.
#[track_caller]
fn launch(options: &Options, dir: &Path, images: &[PathBuf; 2], boot: u32) -> Process {
    let serial = serial_file(dir, boot);
    let state = held::state(&options.qemu, |to| save(options, to));
    let begin = state.as_deref().map_or(Begin::Boot, Begin::From);
    let mut process = start(options, dir, images, &serial, &begin);
    // What the guest is told it reads in its own time.
    let told = state.is_some().then(|| go_on(&mut process, options, dir));
    process.until("the guest boots and mounts its disks", PATIENCE, || says(&serial, READY));
    drop(told);
    if options.writer {
        process.until("the guest writes number 1", PATIENCE, || (last_in(&serial) >= 1).then_some(()));
    }
    process
}

/// Lets a guest go on that QEMU took from a saved state.
#[track_caller]
fn go_on(process: &mut Process, options: &Options, dir: &Path) -> UnixStream {
    process.until("QEMU has the guest's state", PATIENCE, || {
        let status = Qmp::try_connect(&dir.join("look.sock"))?.ok("query-status", json!({}));
        (status["status"] == "running").then_some(())
    });
    // Nobody is to meet this QEMU before it is a whole machine: that would be one of the other end of a migration.
    fs::rename(dir.join("qmp.new"), dir.join("qmp.sock")).expect("both are in one folder");
    let mut go = UnixStream::connect(dir.join("go.sock")).expect("QEMU listens for what the guest is told");
    writeln!(go, "{}", words(options)).expect("a socket takes a line");
    go
}

/// Boots a guest that holds, and saves its state; `false` where this guest cannot hold.
#[track_caller]
fn save(options: &Options, to: &Path) -> bool {
    let lab = Lab::new();
    let (dir, images) = (lab.folder("held"), DISKS.map(|disk| lab.qcow2(disk, 1 << 20)));
    let serial = serial_file(&dir, 0);
    let mut process = start(options, &dir, &images, &serial, &Begin::Hold);
    let held = process.until("the guest holds", PATIENCE, || {
        says(&serial, HELD).map(|()| true).or_else(|| says(&serial, READY).map(|()| false))
    });
    if held {
        let look = dir.join("look.sock");
        let mut look = process.until("the monitor answers", PATIENCE, || Qmp::try_connect(&look));
        look.ok("migrate", json!({ "uri": format!("exec:cat > '{}'", to.display()) }));
        process.until("QEMU saves the guest's state", PATIENCE, || {
            let status = look.ok("query-migrate", json!({}));
            assert_ne!(status["status"], "failed", "{status}");
            (status["status"] == "completed").then_some(())
        });
        look.tell("quit");
        process.wait(PATIENCE);
    }
    held
}

/// Whether the guest has said this on its console.
fn says(serial: &Path, what: &str) -> Option<()> {
    let console = fs::read_to_string(serial).unwrap_or_default();
    assert!(!console.contains("Kernel panic"), "the guest panicked:\n{console}");
    console.contains(what).then_some(())
}

/// What the guest is told, by its kernel's command line or when it goes on.
fn words(options: &Options) -> String {
    let writer = if options.writer { "on" } else { "off" };
    format!("backstay.writer={writer} backstay.pause={}", options.pause.as_secs_f64())
}

fn start(options: &Options, dir: &Path, images: &[PathBuf; 2], serial: &Path, begin: &Begin<'_>) -> Process {
    let mut qemu = tool(&options.qemu.to_string_lossy());
    let (hold, monitor) = match begin {
        Begin::Boot => ("", "qmp.sock"),
        Begin::Hold => ("backstay.hold=on", "qmp.sock"),
        Begin::From(state) => {
            qemu.args(["-incoming", &format!("exec:cat '{}'", state.display())]);
            ("", "qmp.new")
        }
    };
    let socket =
        |id: &str, file: &str| format!("socket,id={id},path={}/{file},server=on,wait=off", dir.display());
    // "base" QEMU: nothing that is not asked for, no configuration of the machine's owner.
    qemu.args(["-no-user-config", "-nodefaults", "-display", "none", "-no-reboot"])
        .args(["-name", &options.name, "-uuid", &uuid(&options.name)])
        .args(["-machine", "q35", "-accel", "tcg", "-cpu", "max", "-m", "256M"])
        .arg("-kernel")
        .arg(guest_image("kernel"))
        .arg("-initrd")
        .arg(guest_image("initrd"))
        .args(["-append", &format!("console=ttyS0 quiet panic=-1 {} {hold}", words(options))])
        .args(["-serial", &format!("file:{}", serial.display())])
        .args(["-device", "virtio-serial-pci"])
        .args(["-chardev", &socket("agent", "agent.sock")])
        .args(["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"])
        .args(["-chardev", &socket("go", "go.sock")])
        .args(["-device", "virtserialport,chardev=go,name=backstay.go"]);
    for monitor in [monitor, "look.sock"] {
        qemu.args(["-qmp", &format!("unix:{}/{monitor},server=on,wait=off", dir.display())]);
    }
    for (disk, image) in DISKS.iter().zip(images) {
        let file = json!({ "driver": "file", "node-name": format!("{disk}-file"), "filename": image });
        let node = json!({ "driver": "qcow2", "node-name": disk, "file": format!("{disk}-file"), "discard": "unmap" });
        let mut device = format!("virtio-blk-pci,id=disk-{disk},drive={disk}");
        if options.share_rw {
            device.push_str(",share-rw=on");
        }
        if options.iothread {
            qemu.args(["-object", &format!("iothread,id=io-{disk}")]);
            device.push_str(&format!(",iothread=io-{disk}"));
        }
        qemu.args(["-blockdev", &file.to_string(), "-blockdev", &node.to_string(), "-device", &device]);
    }
    Process::start(&options.name, &mut qemu, &dir.join("qemu.log"))
}
