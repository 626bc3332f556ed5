//! A QEMU with disks and an agent beside it, for the tests of effects on machines: effects are given and answers read
//! as an orchestrator would. Knows nothing about what is tested with it.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc, missing_docs)]

pub mod guest;
pub mod proxy;
pub mod writer;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agent::qmp::{self, Qmp, QmpError};
use agent::{Agent, Folders};
use journal::effect::{
    AddCheckpoint, Begin, Clean, DeleteCheckpoint, End, Lasts, Mark, Predecessor, Unmark, ViewDisk,
    ViewLimits, VmAddress, Way,
};
use journal::names::{self, Role, temporary};
use journal::observation::{LookAt, Machine, VmSeen};
use journal::wire::{FromAgent, ToAgent};
use journal::{
    BitmapId, CheckpointId, Done, Effect, Epoch, FailureClass, Installation, Intent, IntentId, Outcome,
    Process, VmId,
};
use tokio::sync::mpsc;

pub const US: Installation = Installation(0x0a1b_2c3d);
pub const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// What became of an effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Became {
    Done(Done),
    Failed(FailureClass, String),
    Unknown(String),
}

impl Became {
    #[track_caller]
    pub fn done(self) -> Done {
        match self {
            Became::Done(done) => done,
            other => panic!("not done: {other:?}"),
        }
    }

    #[track_caller]
    pub fn failed(self, class: FailureClass) -> String {
        match self {
            Became::Failed(is, what) if is == class => what,
            other => panic!("not failed as {class:?}: {other:?}"),
        }
    }
}

/// One disk of a storage daemon.
#[derive(Debug, Clone, Copy)]
pub struct Disk {
    pub format: &'static str,
    pub read_only: bool,
}

pub const QCOW2: Disk = Disk { format: "qcow2", read_only: false };
pub const RAW: Disk = Disk { format: "raw", read_only: false };
pub const READ_ONLY: Disk = Disk { format: "qcow2", read_only: true };

pub const SIZE: u64 = 16 * MIB;

/// Bytes that QEMU copies at a time, where it copies.
pub const UNIT: u32 = 256 << 10;

pub const UNLIMITED: ViewLimits = ViewLimits { scratch_bytes: u64::MAX, stall_ms: 1_000 };

/// A QEMU process that ends with its test.
pub struct Qemu {
    pub child: Child,
    pub folder: tempfile::TempDir,
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // Fails only where the test has killed it already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // What a killed process has mounted stays, dead, and in the way of the folder.
        for name in ["fuse0", "fuse1", "slow0", "slow1"].map(|name| self.path(name)) {
            if std::fs::symlink_metadata(&name)
                .is_err_and(|error| error.kind() != std::io::ErrorKind::NotFound)
            {
                let _ = Command::new("fusermount3").args(["-q", "-u", "-z"]).arg(&name).status();
            }
        }
    }
}

impl Qemu {
    /// A storage daemon with nodes `disk0`, `disk1`, …, each writable through a FUSE export `fuse<n>` where `fuse`,
    /// and with the two monitors `qmp.sock` and `front.sock`.
    pub fn storage_daemon(disks: &[Disk], fuse: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("qemu-storage-daemon");
        for (n, disk) in disks.iter().enumerate() {
            let image = folder.path().join(format!("disk{n}.img"));
            run("qemu-img", &["create", "-q", "-f", disk.format, image.to_str().unwrap(), &SIZE.to_string()]);
            let options = format!(
                "driver={},node-name=disk{n},read-only={},file.driver=file,file.filename={}",
                disk.format,
                if disk.read_only { "on" } else { "off" },
                image.display()
            );
            command.args(["--blockdev", &options]);
            if fuse && !disk.read_only {
                let mount = folder.path().join(format!("fuse{n}"));
                std::fs::write(&mount, "").unwrap();
                let options = format!(
                    "type=fuse,id=fuse{n},node-name=disk{n},mountpoint={},writable=on",
                    mount.display()
                );
                command.args(["--export", &options]);
            }
        }
        for monitor in ["qmp", "front"] {
            let path = folder.path().join(format!("{monitor}.sock"));
            command.arg("--chardev");
            command.arg(format!("socket,id={monitor},path={},server=on,wait=off", path.display()));
            command.args(["--monitor", &format!("chardev={monitor}")]);
        }
        let child = command.stdin(Stdio::null()).spawn().expect("qemu-storage-daemon is installed");
        Self { child, folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub async fn connect(&self) -> Qmp {
        connect(&self.path("qmp.sock")).await
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Connects as soon as somebody listens.
pub async fn connect(path: &Path) -> Qmp {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Qmp::connect(path, qmp::Limits::default()).await {
            Ok(qmp) => return qmp,
            Err(QmpError::NotThere { .. } | QmpError::Refused { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("QEMU does not answer: {error}"),
        }
    }
}

/// Whether FUSE exports work here; loud if not.
pub fn fuse() -> bool {
    let there = Path::new("/dev/fuse").exists() && which("fusermount3");
    if !there {
        let message = "SKIPPED: no /dev/fuse or no fusermount3 (Debian: fuse3)";
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{message}; under CI they must be");
        eprintln!("{message}");
    }
    there
}

pub fn which(tool: &str) -> bool {
    Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

pub fn run(tool: &str, arguments: &[&str]) -> String {
    let output = Command::new(tool).args(arguments).output().expect("the tool is installed");
    assert!(output.status.success(), "{tool} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// An agent, and the orchestrator's end of it.
pub struct Hands {
    pub sender: mpsc::Sender<ToAgent>,
    pub receiver: mpsc::Receiver<FromAgent>,
    pub folders: Folders,
    pub vm: VmAddress,
    pub epoch: Epoch,
}

impl Hands {
    /// An agent with its folders in `home`, for the VM behind `socket`.
    pub fn new(home: &Path, socket: &Path) -> Self {
        let folders = Folders {
            state: home.join("state"),
            scratch: home.join("scratch"),
            sockets: home.join("sockets"),
            hooks: None,
        };
        let (sender, receiver) = Agent::start(folders.clone()).unwrap();
        let vm = VmAddress {
            id: VmId("11111111-2222-3333-4444-555555555555".parse().unwrap()),
            name: "web-01".parse().unwrap(),
            qmp: socket.to_str().unwrap().to_owned(),
            guest_agent: None,
        };
        Self { sender, receiver, folders, vm, epoch: Epoch(1) }
    }

    pub async fn send(&self, intent: u64, effect: Effect) {
        let intent = Box::new(Intent { id: IntentId(intent), job: None, effect });
        self.sender.send(ToAgent::Perform { epoch: self.epoch, intent }).await.unwrap();
    }

    pub async fn perform(&mut self, intent: u64, effect: Effect) -> Became {
        self.send(intent, effect).await;
        self.answer(intent).await
    }

    /// The answer to an intent; progress on the way is skipped.
    pub async fn answer(&mut self, awaited: u64) -> Became {
        loop {
            let message =
                tokio::time::timeout(PATIENCE, self.receiver.recv()).await.expect("an answer in time");
            match message.expect("the agent runs") {
                FromAgent::Settled { intent, outcome } if intent == IntentId(awaited) => {
                    return match outcome {
                        Outcome::Done(done) => Became::Done(done),
                        Outcome::Failed(failure) => Became::Failed(failure.class, failure.what),
                    };
                }
                FromAgent::Unknown { intent, why } if intent == IntentId(awaited) => {
                    return Became::Unknown(why);
                }
                FromAgent::Progress { .. } => {}
                other => panic!("an answer to nothing that was asked: {other:?}"),
            }
        }
    }

    pub async fn look(&mut self, disks: &[(&str, &str)]) -> VmSeen {
        let disks = disks.iter().map(|(name, node)| (name.parse().unwrap(), (*node).to_owned())).collect();
        let (id, name) = (Some(self.vm.id), self.vm.name.clone());
        let vm = Some(LookAt { id, name, qmp: self.vm.qmp.clone(), disks });
        self.sender.send(ToAgent::Observe { request: 7, vm, repositories: vec![] }).await.unwrap();
        let message =
            tokio::time::timeout(PATIENCE, self.receiver.recv()).await.expect("an observation in time");
        match message.expect("the agent runs") {
            FromAgent::Observed { request: 7, vm: Some(seen), repositories } if repositories.is_empty() => {
                seen
            }
            other => panic!("no observation: {other:?}"),
        }
    }

    /// What there is of the VM with `n` disks called `vd0`, … on nodes `disk0`, …
    pub async fn machine(&mut self, n: usize) -> Machine {
        let names: Vec<(String, String)> = (0..n).map(|n| (format!("vd{n}"), format!("disk{n}"))).collect();
        let names: Vec<(&str, &str)> = names.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        match self.look(&names).await {
            VmSeen::Answering(mut machine) => {
                machine.nodes.sort();
                machine.jobs.sort_by(|a, b| a.id.cmp(&b.id));
                machine.exports.sort();
                machine.disks.iter_mut().for_each(|disk| disk.bitmaps.sort_by(|a, b| a.name.cmp(&b.name)));
                *machine
            }
            other => panic!("the VM does not answer: {other:?}"),
        }
    }

    pub fn nbd_socket(&self) -> PathBuf {
        self.folders.nbd_socket_of(self.vm.id)
    }

    pub fn uri(&self, view: u64, disk: usize) -> String {
        let name = temporary(US, IntentId(view), disk, Role::Export);
        format!("nbd+unix:///{name}?socket={}", self.nbd_socket().display())
    }

    /// Everything that a view shows of a disk.
    pub async fn read(&self, view: u64, disk: usize, to: &Path) -> Vec<u8> {
        let (uri, to) = (self.uri(view, disk), to.to_path_buf());
        tokio::task::spawn_blocking(move || {
            run("qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, to.to_str().unwrap()]);
            std::fs::read(to).unwrap()
        })
        .await
        .unwrap()
    }

    /// The ranges that a view calls changed, as (offset, length).
    pub fn changed(&self, view: u64, disk: usize) -> Vec<(u64, u64)> {
        let (export, map) = (
            temporary(US, IntentId(view), disk, Role::Export),
            temporary(US, IntentId(view), disk, Role::Changes),
        );
        let options = format!(
            "driver=nbd,server.type=unix,server.path={},export={export},x-dirty-bitmap=qemu:dirty-bitmap:{map}",
            self.nbd_socket().display()
        );
        let said = run("qemu-img", &["map", "--output=json", "--image-opts", &options]);
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        // With x-dirty-bitmap, what is dirty is shown as a hole.
        let dirty = said.as_array().unwrap().iter().filter(|range| range["data"] == false);
        dirty.map(|range| (range["start"].as_u64().unwrap(), range["length"].as_u64().unwrap())).collect()
    }

    // What an orchestrator would decide, for the disks of a storage daemon.

    pub fn checkpoint(
        &self,
        process: Process,
        number: u64,
        disks: &[usize],
        previous: Option<u64>,
    ) -> AddCheckpoint {
        let mark = |n: &usize| Mark {
            disk: format!("vd{n}").parse().unwrap(),
            node: format!("disk{n}"),
            bitmap: bitmap(number),
            lasts: Lasts::WithProcess,
            backing: String::new(),
            size_bytes: SIZE,
            disable: previous.map(bitmap).into_iter().collect(),
        };
        AddCheckpoint {
            vm: self.vm.clone(),
            process,
            installation: US,
            checkpoint: CheckpointId(number),
            disks: disks.iter().map(mark).collect(),
        }
    }

    /// A view by the way of the backup job, without limits.
    pub fn begin(&self, checkpoint: AddCheckpoint, disks: &[usize], since: &[u64]) -> Effect {
        self.begin_by(Way::BackupJob, UNLIMITED, checkpoint, disks, since)
    }

    pub fn begin_by(
        &self,
        way: Way,
        limits: ViewLimits,
        checkpoint: AddCheckpoint,
        disks: &[usize],
        since: &[u64],
    ) -> Effect {
        let disk = |n: &usize| ViewDisk {
            disk: format!("vd{n}").parse().unwrap(),
            node: format!("disk{n}"),
            size_bytes: SIZE,
            changed_since: since.iter().copied().map(bitmap).collect(),
        };
        Effect::Begin(Begin {
            checkpoint,
            disks: disks.iter().map(disk).collect(),
            way,
            limits,
            unit_bytes: Some(UNIT),
        })
    }

    pub fn end(&self, process: Process, view: u64, disks: usize) -> Effect {
        Effect::End(End { vm: self.vm.clone(), process, installation: US, view: IntentId(view), disks })
    }

    pub fn delete(
        &self,
        process: Process,
        number: u64,
        disks: &[usize],
        into: Option<u64>,
        newest: bool,
    ) -> Effect {
        let unmark = |n: &usize| Unmark {
            disk: format!("vd{n}").parse().unwrap(),
            node: format!("disk{n}"),
            bitmap: bitmap(number),
            predecessor: into.map(|into| Predecessor {
                bitmap: bitmap(into),
                becomes: bitmap(number + 100),
                lasts: Lasts::WithProcess,
                records: newest,
            }),
        };
        let checkpoint = CheckpointId(number);
        let disks = disks.iter().map(unmark).collect();
        let (vm, reason) = (self.vm.clone(), "by hand".to_owned());
        Effect::DeleteCheckpoint(DeleteCheckpoint { vm, process, checkpoint, reason, disks })
    }

    /// Everything of ours that the machine shows, but the checkpoints.
    pub fn clean(&self, seen: &Machine) -> Clean {
        Clean {
            vm: self.vm.clone(),
            process: seen.process,
            installation: US,
            exports: seen.exports.clone(),
            jobs: seen.jobs.iter().map(|job| job.id.clone()).collect(),
            nodes: seen.nodes.clone(),
            bitmaps: vec![],
            files: seen.files.clone(),
        }
    }

    /// Nothing temporary is left: in QEMU, in the scratch folder, on the socket.
    pub async fn assert_bare(&mut self, disks: usize) -> Machine {
        let seen = self.machine(disks).await;
        assert_eq!(
            (&seen.jobs.len(), &seen.exports.len(), &seen.nodes.len(), &seen.files.len()),
            (&0, &0, &0, &0),
            "{seen:?}"
        );
        assert!(!self.folders.scratch_of(self.vm.id).exists(), "the scratch folder is left");
        assert!(!self.nbd_socket().exists(), "the NBD socket is left");
        seen
    }
}

pub fn bitmap(checkpoint: u64) -> String {
    names::bitmap(US, BitmapId(checkpoint))
}

/// The bitmaps of a disk in short: `7+` records, `7-` does not; foreign ones by their names.
pub fn bitmaps(seen: &Machine, disk: usize) -> Vec<String> {
    let short = |name: &str| name.strip_prefix("backstay.0a1b2c3d.").unwrap_or(name).to_owned();
    let bitmaps = seen.disks[disk].bitmaps.iter();
    bitmaps.map(|bitmap| short(&bitmap.name) + if bitmap.recording { "+" } else { "-" }).collect()
}

/// The process behind a machine's monitor, in the journal's words.
pub async fn identity(qemu: &Qemu) -> Process {
    let qmp = qemu.connect().await;
    let qmp::Process { pid, start_time } = qmp.process();
    qmp.close().await;
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    Process { pid, started_ticks: start_time, boot: boot.trim().parse().unwrap() }
}

/// A file system of a few MiB, which takes root to mount.
pub struct SmallStorage(PathBuf);

impl SmallStorage {
    pub fn mount(home: &Path, name: &str, mib: u64) -> Option<Self> {
        let at = home.join(name);
        std::fs::create_dir_all(&at).unwrap();
        let options = format!("size={mib}m,mode=0711");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&at).output();
        if mounted.is_ok_and(|mounted| mounted.status.success()) {
            return Some(Self(at));
        }
        eprintln!("SKIPPED: this user may not mount a tmpfs; run the test as root");
        None
    }

    /// Bytes that are free.
    pub fn free(&self) -> u64 {
        let system = rustix::fs::statvfs(&self.0).unwrap();
        system.f_bavail * system.f_frsize
    }
}

impl Drop for SmallStorage {
    fn drop(&mut self) {
        // Lazily: a QEMU that ends after this may still hold a file there.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Files `slow0`, `slow1`, … whose storage hangs when it is told to: FUSE exports of a process that is stopped.
pub struct Stoppable(Child);

impl Stoppable {
    pub async fn start(beside: &Qemu, files: usize) -> Self {
        let mut command = Command::new("qemu-storage-daemon");
        for n in 0..files {
            let (file, below) = (beside.path(&format!("slow{n}")), beside.path(&format!("below{n}")));
            std::fs::write(&file, "").unwrap();
            std::fs::write(&below, "").unwrap();
            command.args(["--blockdev", &format!("driver=file,node-name=n{n},filename={}", below.display())]);
            command.arg("--export");
            command.arg(format!(
                "type=fuse,id=e{n},node-name=n{n},mountpoint={},writable=on,growable=on",
                file.display()
            ));
        }
        let monitor = beside.path("slow.sock");
        command.args(["--chardev", &format!("socket,id=m,path={},server=on,wait=off", monitor.display())]);
        command.args(["--monitor", "chardev=m"]);
        let it = Self(command.stdin(Stdio::null()).spawn().expect("qemu-storage-daemon is installed"));
        // It listens before it exports; it answers after.
        connect(&monitor).await.close().await;
        it
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub fn stop(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    pub fn go_on(&self) {
        self.signal(rustix::process::Signal::CONT);
    }
}

impl Drop for Stoppable {
    fn drop(&mut self) {
        self.go_on();
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A search path by which an agent finds whatever image it makes on a [`Stoppable`] storage.
pub fn path_to_slow_storage(beside: &Qemu, home: &Path) -> String {
    use std::os::unix::fs::PermissionsExt;
    let tools = home.join("tools");
    std::fs::create_dir(&tools).unwrap();
    let script = format!(
        "#!/bin/sh\nset -e\nn=${{5%s}}; n=${{n##*.}}\nln -s {0}/slow$n \"$5\"\nexec env PATH=\"${{PATH#*:}}\" qemu-img \"$@\"\n",
        beside.folder.path().display()
    );
    std::fs::write(tools.join("qemu-img"), script).unwrap();
    std::fs::set_permissions(tools.join("qemu-img"), std::fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", tools.display(), std::env::var("PATH").unwrap())
}

/// Performs the effect in an agent of its own, a run of the test `child`, which dies at that passage; answers whether it got so far.
pub async fn in_a_child(
    home: &Path,
    hands: &Hands,
    effect: &Effect,
    passage: Option<u64>,
    path: &str,
) -> bool {
    use std::os::unix::process::ExitStatusExt;
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
    child.args(["child", "--exact", "--ignored", "--nocapture"]).kill_on_drop(true);
    child.env("BACKSTAY_TEST_HOME", home).env("BACKSTAY_TEST_SOCKET", &hands.vm.qmp).env("PATH", path);
    child.env("BACKSTAY_TEST_EFFECT", serde_json::to_string(effect).unwrap());
    if let Some(passage) = passage {
        child.env("BACKSTAY_CRASH_AT", format!("qmp:{passage}"));
    }
    let output = tokio::time::timeout(Duration::from_secs(60), child.output()).await.unwrap().unwrap();
    let killed = output.status.signal() == Some(9);
    assert!(killed || output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    killed
}

/// What a test binary's `child` does: the effect that [`in_a_child`] hands over; nothing where nobody handed one over.
pub async fn be_the_child() {
    let Ok(home) = std::env::var("BACKSTAY_TEST_HOME") else { return };
    let socket = std::env::var("BACKSTAY_TEST_SOCKET").unwrap();
    let effect = serde_json::from_str(&std::env::var("BACKSTAY_TEST_EFFECT").unwrap()).unwrap();
    Hands::new(home.as_ref(), socket.as_ref()).perform(50, effect).await.done();
}
