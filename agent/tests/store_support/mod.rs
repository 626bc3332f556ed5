//! A whole small world for the tests of storing and restoring: an agent, a repository, and a VM whose disks are real
//! images behind a real qemu-storage-daemon. Knows nothing about what is tested with it.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation)]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use agent::{Agent, Folders};
use journal::effect::{
    Bandwidth, Consistency, DiskMode, ImageFormat, OpenRepository, RepositoryAddress, Restore, RestoreTarget,
    Store, StoreDisk, VmAddress, Way,
};
use journal::names::{self, Role};
use journal::outcome::Stored;
use journal::wire::{FromAgent, Progress, ToAgent};
use journal::{
    CheckpointId, Done, Effect, Epoch, Failure, Installation, Intent, IntentId, Outcome, PointId, Process,
    Time, VmId,
};
use tokio::sync::mpsc;

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

const US: Installation = Installation(0x0a1b_2c3d);
const VM: VmId = VmId(uuid::Uuid::from_u128(0x1234_5678_9abc_def0_1234_5678_9abc_def0));
/// The view that every test reads; its exports carry this number in their names.
const VIEW: IntentId = IntentId(7);

/// Whether the tools are there. If not, the test says so and is skipped; under CI that is a failure.
pub fn installed() -> bool {
    let tools = ["qemu-storage-daemon", "qemu-img", "qemu-io", "restic"];
    let found = |tool: &str| {
        let version = if tool == "restic" { "version" } else { "--version" };
        Command::new(tool).arg(version).stdout(Stdio::null()).status().is_ok()
    };
    if tools.into_iter().all(found) {
        return true;
    }
    let message = "SKIPPED: qemu-storage-daemon, qemu-img, qemu-io or restic is not installed (Debian: qemu-utils, restic)";
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{message}; under CI they must be");
    eprintln!("{message}");
    false
}

/// Runs a tool to its end and answers what it printed.
pub fn run(tool: &str, arguments: &[&str]) -> String {
    let output = Command::new(tool).args(arguments).output().expect("the tool was found before");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool} {arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// An agent with a repository, and a folder for everything.
pub struct World {
    pub folder: tempfile::TempDir,
    pub repository: RepositoryAddress,
    to_agent: mpsc::Sender<ToAgent>,
    from_agent: mpsc::Receiver<FromAgent>,
    intents: u64,
    /// What [`World::store`] asks for.
    pub audit_chunks: u32,
    pub bandwidth: Option<Bandwidth>,
}

impl World {
    /// An agent, and no repository yet.
    pub fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("password"), "correct horse\nnot this line\n").unwrap();
        let folders = Folders { state: at("state"), scratch: at("scratch"), sockets: at("run"), hooks: None };
        let (to_agent, from_agent) = Agent::start(folders).unwrap();
        let repository = RepositoryAddress {
            name: "vault".parse().unwrap(),
            path: at("vault").to_str().unwrap().to_owned(),
            password_file: at("password").to_str().unwrap().to_owned(),
            append_only: false,
            rates: Vec::new(),
        };
        Self { folder, repository, to_agent, from_agent, intents: 100, audit_chunks: 0, bandwidth: None }
    }

    /// An agent with a new repository of chunks of this size.
    pub async fn new(chunk_bytes: u32) -> Self {
        let mut world = Self::empty();
        let done = world.done(world.open_repository(chunk_bytes)).await;
        assert!(matches!(done, Done::Opened { created: true, .. }), "{done:?}");
        world
    }

    pub fn open_repository(&self, chunk_bytes: u32) -> Effect {
        Effect::OpenRepository(OpenRepository { repository: self.repository.clone(), chunk_bytes })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Sends an effect and says under which intent.
    pub async fn send(&mut self, effect: Effect) -> IntentId {
        self.intents += 1;
        let id = IntentId(self.intents);
        self.send_as(id, effect).await;
        id
    }

    pub async fn send_as(&mut self, id: IntentId, effect: Effect) {
        let intent = Box::new(Intent { id, job: None, effect });
        self.to_agent.send(ToAgent::Perform { epoch: Epoch(1), intent }).await.unwrap();
    }

    pub async fn cancel(&mut self, intent: IntentId) {
        self.to_agent.send(ToAgent::Cancel { intent }).await.unwrap();
    }

    /// Waits until an intent is under way and some bytes are dealt with.
    pub async fn progress(&mut self, intent: IntentId) -> Progress {
        loop {
            match self.from_agent.recv().await.expect("the agent lives") {
                FromAgent::Progress { intent: of, progress } if of == intent && progress.done_bytes > 0 => {
                    return progress;
                }
                FromAgent::Progress { .. } => {}
                other => panic!("it ended early: {other:?}"),
            }
        }
    }

    pub async fn outcome(&mut self, intent: IntentId) -> Outcome {
        loop {
            match self.from_agent.recv().await.expect("the agent lives") {
                FromAgent::Settled { intent: of, outcome } if of == intent => return outcome,
                FromAgent::Progress { .. } => {}
                other => panic!("expected the outcome of {intent}, got {other:?}"),
            }
        }
    }

    pub async fn done(&mut self, effect: Effect) -> Done {
        let id = self.send(effect).await;
        match self.outcome(id).await {
            Outcome::Done(done) => done,
            Outcome::Failed(failure) => panic!("{failure:?}"),
        }
    }

    pub async fn failed(&mut self, effect: Effect) -> Failure {
        let id = self.send(effect).await;
        match self.outcome(id).await {
            Outcome::Failed(failure) => failure,
            Outcome::Done(done) => panic!("it did not fail: {done:?}"),
        }
    }

    /// Stores a point that must succeed.
    pub async fn stored(&mut self, point: u64, disks: Vec<StoreDisk>) -> Stored {
        let effect = self.store(point, disks);
        match self.done(effect).await {
            Done::Stored(stored) => stored,
            other => panic!("{other:?}"),
        }
    }

    pub fn store(&self, point: u64, disks: Vec<StoreDisk>) -> Effect {
        Effect::Store(Box::new(Store {
            vm: VmAddress {
                id: VM,
                name: "web-1".parse().unwrap(),
                qmp: "/unused".into(),
                guest_agent: None,
            },
            process: Process { pid: 1, started_ticks: 1, boot: uuid::Uuid::nil() },
            qemu: "10.0.2".into(),
            installation: US,
            view: VIEW,
            way: Way::CopyBeforeWrite,
            repository: self.repository.clone(),
            point: PointId(point),
            instant: Time(1_790_000_000_000_000 + i64::try_from(point).unwrap() * 60_000_000),
            checkpoint: CheckpointId(point),
            chain: (1..=point).map(CheckpointId).collect(),
            policy: Some("nightly".parse().unwrap()),
            consistency: Consistency::Crash,
            disks,
            left_out: Vec::new(),
            audit_chunks: self.audit_chunks,
            bandwidth: self.bandwidth.clone(),
        }))
    }

    pub fn restore(
        &self,
        stored: &Stored,
        disk: &str,
        size: u64,
        path: &Path,
        format: ImageFormat,
    ) -> Restore {
        Restore {
            repository: self.repository.clone(),
            point: PointId(1),
            snapshot: stored.snapshot.clone(),
            disk: disk.parse().unwrap(),
            size_bytes: size,
            path: path.to_str().unwrap().to_owned(),
            format,
            target: RestoreTarget::New,
        }
    }

    /// Debian's restic on the repository.
    pub fn restic(&self, arguments: &[&str]) -> String {
        let output = self.restic_command(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "restic {arguments:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn restic_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("restic");
        command.args([
            "--no-cache",
            "-q",
            "-r",
            &self.repository.path,
            "--password-command",
            "echo correct horse",
        ]);
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// Whether `restic dump` of a file of the newest snapshot is this image.
    pub fn assert_dump_is(&self, file: &str, image: &Path) {
        let dumped = self.path("dumped");
        let output = File::create(&dumped).unwrap();
        let status = self.restic_command(&["dump", "latest", file]).stdout(output).status().unwrap();
        assert!(status.success(), "restic dump {file}: {status}");
        assert_same(&dumped, image);
    }

    /// A file of the newest snapshot, from restic.
    pub fn dump(&self, file: &str) -> String {
        self.restic(&["dump", "latest", file])
    }

    /// The ids of all snapshots, as restic lists them.
    pub fn snapshots(&self) -> usize {
        let listed: serde_json::Value = serde_json::from_str(&self.restic(&["snapshots", "--json"])).unwrap();
        listed.as_array().map_or(0, Vec::len)
    }

    /// Serves disks as the view of the VM, as a `Begin` would have left it.
    pub fn serve(&self, disks: &[&Disk]) -> View {
        self.serve_through(disks, &[], None)
    }

    /// As [`World::serve`], no faster than so many bytes in a second.
    pub fn serve_slowly(&self, disks: &[&Disk], bytes_a_second: u64) -> View {
        let group = format!("throttle-group,id=slow,x-bps-total={bytes_a_second}");
        self.serve_through(disks, &["--object", &group], Some("driver=throttle,throttle-group=slow,file="))
    }

    /// As [`World::serve`], with a sector that cannot be read.
    pub fn serve_with_a_bad_sector(&self, disks: &[&Disk], sector: u64) -> View {
        let filter = format!(
            "driver=blkdebug,inject-error.0.event=none,inject-error.0.iotype=read,inject-error.0.sector={sector},image="
        );
        self.serve_through(disks, &[], Some(&filter))
    }

    /// Serves disks, each through a filter: its options up to the node below.
    fn serve_through(&self, disks: &[&Disk], arguments: &[&str], filter: Option<&str>) -> View {
        let folder = self.path("run").join(VM.0.simple().to_string());
        std::fs::create_dir_all(&folder).unwrap();
        let socket = folder.join("nbd");
        // A leftover of the last view.
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let mut command = Command::new("qemu-storage-daemon");
        command.args(["--nbd-server", "addr.type=fd,addr.str=0"]);
        command.args(arguments);
        for (place, disk) in disks.iter().enumerate() {
            let Disk { format, image, .. } = disk;
            let file = format!("driver=file,node-name=file{place},read-only=on,filename={}", image.display());
            let top = format!("driver={format},node-name=disk{place},read-only=on,file=file{place}");
            command.args(["--blockdev", &file, "--blockdev", &top]);
            let mut node = format!("disk{place}");
            if let Some(options) = filter {
                command
                    .args(["--blockdev", &format!("read-only=on,node-name=filter{place},{options}{node}")]);
                node = format!("filter{place}");
            }
            let name = names::temporary(US, VIEW, place, Role::Export);
            let mut export = format!("type=nbd,id=x{place},node-name={node},name={name}");
            if disk.changes {
                export += &format!(",bitmaps.0={}", names::temporary(US, VIEW, place, Role::Changes));
            }
            command.args(["--export", &export]);
        }
        View { child: command.stdin(Stdio::from(OwnedFd::from(listener))).spawn().unwrap() }
    }
}

/// A daemon that serves a view; it ends with its test.
pub struct View {
    child: Child,
}

impl View {
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // Fails only where the test has killed it already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One disk of the VM: an image that is written while it is not served.
pub struct Disk {
    pub name: &'static str,
    pub format: &'static str,
    pub size: u64,
    pub image: PathBuf,
    changes: bool,
    granularity: Option<u64>,
    place: usize,
}

impl Disk {
    /// An empty disk; `place` is its place in the view.
    pub fn new(world: &World, place: usize, name: &'static str, format: &'static str, size: u64) -> Self {
        let image = world.path(&format!("{name}.{format}"));
        run("qemu-img", &["create", "-q", "-f", format, image.to_str().unwrap(), &size.to_string()]);
        Self { name, format, size, image, changes: false, granularity: None, place }
    }

    /// Commands of qemu-io, as in `write -P 7 0 64k`.
    pub fn io(&self, commands: &[&str]) {
        let mut arguments = vec!["-f", self.format];
        for command in commands {
            arguments.extend(["-c", command]);
        }
        arguments.push(self.image.to_str().unwrap());
        run("qemu-io", &arguments);
    }

    /// Writes bytes without a pattern.
    pub fn write_noise(&self, seed: u64, offset: u64, length: u64) {
        let path = self.image.with_extension("noise");
        std::fs::write(&path, noise(seed, length as usize)).unwrap();
        self.io(&[&format!("write -s {} {offset} {length}", path.display())]);
    }

    /// From here on changes are recorded, for the next view. Without a bitmap of before.
    pub fn record_changes(&mut self, granularity: u64) {
        let (image, name) = (self.image.to_str().unwrap(), self.bitmap());
        if self.changes {
            run("qemu-img", &["bitmap", "--remove", "-f", self.format, image, &name]);
        }
        self.granularity = Some(granularity);
        let granularity = granularity.to_string();
        run("qemu-img", &["bitmap", "--add", "-g", &granularity, "-f", self.format, image, &name]);
        self.changes = false;
    }

    /// What was recorded is now the view's map of changes.
    pub fn freeze_changes(&mut self) {
        run(
            "qemu-img",
            &["bitmap", "--disable", "-f", self.format, self.image.to_str().unwrap(), &self.bitmap()],
        );
        self.changes = true;
    }

    fn bitmap(&self) -> String {
        names::temporary(US, VIEW, self.place, Role::Changes)
    }

    pub fn full(&self) -> StoreDisk {
        let mode = DiskMode::Full { reason: "the first backup".into() };
        self.stored_by(mode)
    }

    pub fn since(&self, point: u64, stored: &Stored) -> StoreDisk {
        let (since, parent, snapshot) = (CheckpointId(point), PointId(point), stored.snapshot.clone());
        let mode = DiskMode::Incremental { since, parent, snapshot };
        self.stored_by(mode)
    }

    fn stored_by(&self, mode: DiskMode) -> StoreDisk {
        let (disk, granularity_bytes) = (self.name.parse().unwrap(), self.granularity);
        StoreDisk { disk, size_bytes: self.size, mode, granularity_bytes }
    }

    /// The disk's content as a raw file.
    pub fn raw(&self) -> PathBuf {
        let raw = self.image.with_extension("expected");
        let (from, to) = (self.image.to_str().unwrap(), raw.to_str().unwrap());
        run("qemu-img", &["convert", "-f", self.format, "-O", "raw", from, to]);
        raw
    }
}

/// Bytes without a pattern, the same for the same seed (xorshift64*).
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Whether two files have the same bytes.
pub fn assert_same(left: &Path, right: &Path) {
    let (a, b) = (File::open(left).unwrap(), File::open(right).unwrap());
    let size = a.metadata().unwrap().len();
    assert_eq!(size, b.metadata().unwrap().len(), "{} and {}", left.display(), right.display());
    let (mut one, mut other) = (vec![0; MIB as usize], vec![0; MIB as usize]);
    for offset in (0..size).step_by(MIB as usize) {
        let length = MIB.min(size - offset) as usize;
        a.read_exact_at(&mut one[..length], offset).unwrap();
        b.read_exact_at(&mut other[..length], offset).unwrap();
        assert!(
            one[..length] == other[..length],
            "{} and {} differ at {offset}",
            left.display(),
            right.display()
        );
    }
}

/// A small filesystem that goes with its test.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one; it takes root, so without it the test is skipped.
    pub fn mount(path: PathBuf, size: &str) -> Option<Self> {
        std::fs::create_dir_all(&path).unwrap();
        let options = format!("size={size}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&path).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(path));
        }
        eprintln!("SKIPPED: a small filesystem cannot be mounted here (it takes root)");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Unmounted when nobody uses it any more; the test may have failed with something open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}
