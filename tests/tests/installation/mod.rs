//! One Backstay with one repository and some VMs, as an operator would have set them up: what the tests of the command
//! line begin with. Knows the command line and the laboratory; asserts nothing about either.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tests::backstay::Backstay;
use tests::lab::{Lab, PATIENCE, until};
use tests::qsd::{Options, Qsd};
use tests::restic::Restic;

/// The one repository's name.
pub const REPO: &str = "main";

/// One mebibyte.
pub const MIB: u64 = 1 << 20;

/// A running Backstay and its repository. The fields are dropped in this order: the folder goes last.
pub struct Installation {
    /// The server.
    pub backstay: Backstay,
    /// The repository, as restic sees it.
    pub restic: Restic,
    /// The folder.
    pub lab: Lab,
}

impl Installation {
    /// Backstay with an empty repository.
    #[track_caller]
    pub fn new() -> Installation {
        let lab = Lab::new();
        let restic = Restic::new(&lab, REPO);
        let site = Installation { backstay: Backstay::start(&lab, "data"), restic, lab };
        site.backstay.ok(&[
            "repo",
            "add",
            REPO,
            "--path",
            &site.repository(),
            "--password-file",
            &site.password(),
        ]);
        site
    }

    /// The repository's folder.
    pub fn repository(&self) -> String {
        text(self.restic.repository())
    }

    /// The repository's password file.
    pub fn password(&self) -> String {
        text(self.restic.password_file())
    }

    /// A path in the lab's folder, as the command line takes it.
    pub fn path(&self, name: &str) -> String {
        text(&self.lab.path(name))
    }

    /// A qemu-storage-daemon with `disks` blank disks of `size` bytes under management as the VM `name`.
    #[track_caller]
    pub fn vm(&self, name: &str, disks: usize, size: u64) -> Qsd {
        let options = Options::new(name, disks, size);
        let names: Vec<String> = options.disks.iter().map(|(disk, _)| disk.clone()).collect();
        let qsd = Qsd::start(&self.lab, options);
        self.manage(name, &qsd, &names);
        qsd
    }

    /// Puts a daemon under management: its disks have to be named, since it has no devices.
    #[track_caller]
    pub fn manage(&self, name: &str, qsd: &Qsd, disks: &[String]) {
        let socket = text(&qsd.qmp_socket());
        let disks: Vec<String> = disks.iter().map(|disk| format!("--disk={disk}={disk}")).collect();
        let mut words = vec!["vm", "add", name, "--qmp", &socket];
        words.extend(disks.iter().map(String::as_str));
        self.backstay.ok(&words);
    }

    /// A backup that has to be done; its restore point.
    #[track_caller]
    pub fn backup(&self, vm: &str) -> Value {
        let answer = self.backstay.ok(&["backup", vm, "--wait"]);
        let point = answer["jobs"][0]["point"].as_str().unwrap_or_else(|| panic!("no point: {answer}"));
        self.backstay.ok(&["point", "show", point])
    }

    /// The same where there are several repositories.
    #[track_caller]
    pub fn backup_into(&self, vm: &str, repository: &str) -> Value {
        let answer = self.backstay.ok(&["backup", vm, "--repo", repository, "--wait"]);
        let point = answer["jobs"][0]["point"].as_str().unwrap_or_else(|| panic!("no point: {answer}"));
        self.backstay.ok(&["point", "show", point])
    }

    /// A backup that has to fail; its reason.
    #[track_caller]
    pub fn failed_backup(&self, vm: &str) -> String {
        let answer = self.backstay.run(&["backup", vm, "--wait"]);
        assert_eq!(answer.status, 1, "{}", answer.json);
        let job = &answer.json["jobs"][0];
        assert_eq!(job["state"], "failed", "{job}");
        job["reason"].as_str().unwrap_or_else(|| panic!("a failed job without a reason: {job}")).to_owned()
    }

    /// Pauses a policy, and waits until nothing is left to do.
    #[track_caller]
    pub fn pause(&self, policy: &str) {
        self.backstay.ok(&["policy", "pause", policy]);
        until("nothing runs any more", PATIENCE, || {
            let jobs = self.backstay.ok(&["job", "list"]);
            let open = |job: &Value| job["state"] == "queued" || job["state"] == "running";
            (!jobs.as_array().into_iter().flatten().any(open)).then_some(())
        });
    }

    /// Restores one disk of a point and compares it, byte by byte, with the disk as it is now.
    #[track_caller]
    pub fn proves(&self, point: &Value, disk: &str, now: &Path) {
        let id = point["id"].as_str().expect("a point has an id");
        let image = self.lab.path(format!("{id}.{disk}.raw"));
        self.backstay.ok(&["restore", id, "--disk", disk, "--to", &text(&image), "--wait"]);
        let read = |path: &Path| fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(read(&image) == read(now), "{id} is not what {disk} holds");
        fs::remove_file(&image).expect("restored a moment ago");
    }
}

/// What a point says of one of its disks.
#[track_caller]
pub fn disk<'a>(point: &'a Value, name: &str) -> &'a Value {
    let disks = point["disks"].as_array().into_iter().flatten();
    disks.into_iter().find(|disk| disk["name"] == name).unwrap_or_else(|| panic!("no {name} in {point}"))
}

/// That a disk was read whole, with a reason that says this.
#[track_caller]
pub fn is_full(point: &Value, name: &str, because: &str) {
    let disk = disk(point, name);
    let reason = disk["reason"].as_str().unwrap_or_default();
    assert!(disk["mode"] == "full" && reason.contains(because), "not full because of `{because}`: {disk}");
}

/// That of a disk only what changed was read.
#[track_caller]
pub fn is_incremental(point: &Value, name: &str) {
    let disk = disk(point, name);
    assert!(disk["mode"] == "incremental" && disk["reason"].is_null(), "not incremental: {disk}");
}

/// That a message says each of these.
#[track_caller]
pub fn says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "`{word}` is not said: {message}");
    }
}

/// Writes `length` bytes of `fill` at an offset of a disk, as its guest would.
#[track_caller]
pub fn write(file: &Path, offset: u64, length: usize, fill: u8) {
    use std::os::unix::fs::FileExt;
    let disk = fs::File::options().write(true).open(file).expect("the disk is there");
    disk.write_all_at(&vec![fill; length], offset).expect("the disk takes a write");
}

/// A path as the command line takes it.
pub fn text(path: &Path) -> String {
    path.to_str().expect("the lab's paths are ASCII").to_owned()
}

/// Says that something is not tested here, which under `CI=true` is a failure.
pub fn skip(why: &str) {
    assert!(env::var("CI").as_deref() != Ok("true"), "{why} (and CI=true skips nothing)");
    eprintln!("SKIPPED: {why}");
}

/// The newest file of a folder by name, among those of one kind.
#[track_caller]
pub fn last_file(folder: &Path, extension: &str) -> PathBuf {
    let files = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let files = files.flatten().map(|file| file.path());
    let files = files.filter(|file| file.extension().is_some_and(|found| found == extension));
    files.max().unwrap_or_else(|| panic!("{} holds no *.{extension}", folder.display()))
}
