//! A qemu-storage-daemon in Backstay's care, with somebody writing to its disks: the stage for tests of chains and
//! crashes. The writers' log over all restarts lies here, so that any restore point can be proven at any time.

use std::fs::{self, File};
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::backstay::Backstay;
use crate::invariants;
use crate::lab::{Lab, PATIENCE, tool};
use crate::point::Point;
use crate::process::run;
use crate::qmp::{Look, Qmp};
use crate::qsd::{self, Qsd};
use crate::restic::Restic;
use crate::stage::Stage;
use crate::writer::{Cut, Write, Writer, cut};

/// Between two writes: a guest that is at work, on a machine that does something else too.
const PAUSE: Duration = Duration::from_millis(1);

/// The stage. Its VM is called `vm`, its repository `main`, its disks as their nodes.
#[derive(Debug)]
pub struct Site {
    /// The server.
    pub backstay: Backstay,
    writer: Option<Writer>,
    /// The daemon.
    pub qsd: Qsd,
    /// The repository.
    pub restic: Restic,
    disks: Vec<(String, u64)>,
    seed: u64,
    /// What earlier writers wrote.
    log: Vec<Write>,
    /// What was written before QEMU was last killed.
    before: Vec<Write>,
    /// The number of the last write of all.
    last: u64,
    bare: Look,
    scratch: AtomicU64,
    // Last, since what is above lies in it.
    lab: Lab,
}

/// A restore point, with the last write that was acknowledged before it was asked for, and before it was done.
#[derive(Debug, Clone)]
pub struct Taken {
    /// The point.
    pub point: Point,
    /// The last write that it must show.
    pub from: u64,
    /// The last write that was acknowledged when it was done.
    pub to: u64,
}

impl Site {
    /// Starts everything; nothing is backed up yet.
    #[track_caller]
    pub fn start(options: qsd::Options, seed: u64) -> Site {
        let lab = Lab::new();
        let disks = options.disks.clone();
        let mut qsd = Qsd::start(&lab, options);
        let bare = qsd.look().look();
        let restic = Restic::new(&lab, "repo");
        let backstay = Backstay::start(&lab, "data");
        add_vm(&backstay, &qsd.qmp_socket(), disks.iter().map(|(disk, _)| disk.as_str()));
        add_repository(&backstay, &restic);
        let scratch = AtomicU64::new(0);
        let (writer, log, before) = (None, Vec::new(), Vec::new());
        let mut site =
            Site { backstay, writer, qsd, restic, disks, seed, log, before, last: 0, bare, scratch, lab };
        site.write_on();
        site
    }

    /// The writer. There is one whenever the daemon runs.
    #[track_caller]
    pub fn writer(&self) -> &Writer {
        self.writer.as_ref().expect("somebody writes whenever the daemon runs")
    }

    /// Every write since the disks were blank.
    #[track_caller]
    pub fn log(&self) -> Vec<Write> {
        let now = self.writer.as_ref().map(|writer| writer.pause().clone()).unwrap_or_default();
        [self.log.clone(), now].concat()
    }

    /// Backs up, under the writer. `more` are further arguments.
    #[track_caller]
    pub fn back_up(&self, more: &[&str]) -> Taken {
        let from = self.writer().last();
        let point = Point::back_up(&self.backstay, more);
        Taken { point, from, to: self.writer().last() }
    }

    /// A new empty folder in the lab.
    pub fn folder(&self) -> PathBuf {
        self.lab.folder(format!("scratch{}", self.scratch.fetch_add(1, Ordering::Relaxed)))
    }

    /// Restores all disks of a point into raw images in `folder`.
    #[track_caller]
    pub fn restore(&self, point: &Point, folder: &Path) -> Vec<PathBuf> {
        self.backstay.ok(&["restore", &point.id, "--to", &folder.to_string_lossy(), "--wait"]);
        self.disks.iter().map(|(disk, _)| folder.join(format!("{disk}.img"))).collect()
    }

    /// Proves that a point shows one instant of the writers' order over all disks, and which.
    #[track_caller]
    pub fn prove(&self, point: &Point, log: &[Write]) -> Cut {
        let folder = self.folder();
        let shown = cut(log, &self.restore(point, &folder));
        fs::remove_dir_all(folder).expect("a folder of ours");
        shown
    }

    /// [`Site::prove`], and that the instant lies between the request and its end, and that restic reads the same bytes.
    #[track_caller]
    pub fn prove_taken(&self, taken: &Taken, log: &[Write]) {
        let folder = self.folder();
        let images = self.restore(&taken.point, &folder);
        taken.must_show(cut(log, &images));
        let dumped = self.folder();
        self.restic.dump_all(&taken.point.snapshot, &dumped);
        for image in &images {
            must_be_equal(image, &dumped.join(image.file_name().expect("named by its disk")));
        }
        fs::remove_dir_all(dumped).expect("a folder of ours");
        fs::remove_dir_all(folder).expect("a folder of ours");
    }

    /// Waits until all jobs are over, and checks what holds then.
    #[track_caller]
    pub fn must_hold(&mut self) {
        invariants::until_rest(&self.backstay);
        invariants::hold(&self.backstay, "vm", &mut self.qsd.look(), &self.bare);
    }

    /// Checks that the next backup is done, incremental on all disks and right, and that no restic lock stays.
    #[track_caller]
    pub fn next_must_be_incremental(&mut self) {
        self.writer().until_progress(5);
        let taken = self.back_up(&[]);
        taken.point.must_be_incremental();
        taken.must_show(self.prove(&taken.point, &self.log()));
        self.must_hold();
        let locks =
            fs::read_dir(self.restic.repository().join("locks")).expect("a repository's folder").count();
        assert_eq!(locks, 0, "locks are left in the repository");
    }

    /// Ends the daemon, which stores its bitmaps, and starts it again.
    #[track_caller]
    pub fn restart_qemu(&mut self) {
        self.write_no_more();
        self.qsd.quit();
        self.qsd.restart();
        self.write_on();
    }

    /// Stops the writer after its present write and takes its log over.
    #[track_caller]
    pub fn write_no_more(&mut self) {
        let log = self.writer.take().expect("somebody writes").stop();
        self.last = log.last().map_or(self.last, |write| write.number);
        self.log.extend(log);
    }

    /// Starts a writer that goes on where the last one ended.
    #[track_caller]
    pub fn write_on(&mut self) {
        let writer = Writer::start(self.seed ^ self.last, &self.qsd.files(), self.last + 1, PAUSE);
        writer.until_progress(3);
        self.writer = Some(writer);
    }

    /// Kills the daemon in the middle of a write.
    #[track_caller]
    pub fn kill_qemu(&mut self) {
        let writer = self.writer.take().expect("somebody writes");
        self.qsd.kill();
        self.before = [mem::take(&mut self.log), writer.bereave()].concat();
        self.last = self.before.last().map_or(self.last, |write| write.number);
    }

    /// Starts the daemon after [`Site::kill_qemu`]. What QEMU had not flushed is gone, as after a power cut, and of these
    /// disks the writers' log is worth nothing: the disks are overwritten with zeros, as a guest would, and a new log begins.
    #[track_caller]
    pub fn revive_qemu(&mut self) {
        self.qsd.restart();
        for (disk, size) in &self.disks {
            zero(&self.qsd.file(disk), *size);
        }
        self.write_on();
    }
}

impl Stage for Site {
    fn server(&mut self) -> &mut Backstay {
        &mut self.backstay
    }

    fn restic(&self) -> &Restic {
        &self.restic
    }

    fn disks(&self) -> Vec<String> {
        self.disks.iter().map(|(disk, _)| disk.clone()).collect()
    }

    fn new_folder(&self) -> PathBuf {
        self.folder()
    }

    fn progress(&mut self) {
        self.writer().until_progress(5);
    }

    fn examine(&mut self, images: &[PathBuf], before: bool) {
        let _ = if before { cut(&self.before, images) } else { cut(&self.log(), images) };
    }

    fn look_inside(&mut self) -> Qmp {
        self.qsd.look()
    }

    fn bare(&self) -> Look {
        self.bare.clone()
    }

    fn add(&mut self) {
        add_vm(&self.backstay, &self.qsd.qmp_socket(), self.disks.iter().map(|(disk, _)| disk.as_str()));
    }

    fn kill_machine(&mut self) {
        self.kill_qemu();
    }

    fn revive_machine(&mut self) {
        self.revive_qemu();
    }

    fn restart_machine(&mut self) {
        self.restart_qemu();
    }
}

impl Taken {
    /// The instant that was found lies between the request and its end.
    #[track_caller]
    pub fn must_show(&self, shown: Cut) {
        // One write may have been under way at either end.
        assert!(
            self.from <= shown.last && shown.last <= self.to + 1,
            "{} was taken between the writes {} and {}, and shows {shown:?}",
            self.point.id,
            self.from,
            self.to
        );
    }
}

/// Puts a VM, called `vm`, into Backstay's care, its disks named as their nodes.
#[track_caller]
pub fn add_vm<'a>(backstay: &Backstay, qmp: &Path, disks: impl Iterator<Item = &'a str>) {
    let qmp = qmp.to_string_lossy();
    let disks: Vec<String> = disks.map(|disk| format!("--disk={disk}={disk}")).collect();
    let mut arguments = vec!["vm", "add", "vm", "--qmp", &qmp];
    arguments.extend(disks.iter().map(String::as_str));
    backstay.ok(&arguments);
}

/// Creates the repository `main`, whose password is cheap to try: see [`Restic::init_cheap`].
#[track_caller]
pub fn add_repository(backstay: &Backstay, restic: &Restic) {
    restic.init_cheap();
    let (path, password) = (restic.repository().to_string_lossy(), restic.password_file().to_string_lossy());
    backstay.ok(&["repo", "add", "main", "--path", &path, "--password-file", &password]);
}

/// The same bytes for the same seed; they do not compress.
#[must_use]
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let words = std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(length).collect()
}

/// Two files hold the same bytes.
#[track_caller]
pub fn must_be_equal(one: &Path, other: &Path) {
    run(tool("cmp").arg(one).arg(other), PATIENCE);
}

/// Overwrites a disk.
#[track_caller]
fn zero(disk: &Path, size: u64) {
    use std::os::unix::fs::FileExt;
    let file = File::options().write(true).open(disk).expect("the daemon serves its disks as files");
    let zeros = vec![0; 1 << 20];
    let step = zeros.len() as u64;
    for offset in (0..size).step_by(zeros.len()) {
        let part = usize::try_from(step.min(size - offset)).expect("no more than a step");
        file.write_all_at(&zeros[..part], offset).expect("the disk takes a write");
    }
}

/// The seed of a randomised test, printed: `BACKSTAY_SEED`; without it the same one in every CI run, whose verdict
/// shall depend on the change alone, and a new one elsewhere.
pub fn seed() -> u64 {
    let seed = match std::env::var("BACKSTAY_SEED") {
        Ok(seed) => seed.parse().expect("BACKSTAY_SEED is a number"),
        Err(_) if std::env::var_os("CI").is_some() => 1,
        Err(_) => rand::random(),
    };
    eprintln!("seed {seed}; replay with BACKSTAY_SEED={seed}");
    seed
}
