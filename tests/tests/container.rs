//! A host as a container: QEMU and Backstay in it, their files in a folder outside. When the container is killed both
//! die at the same instant, as on a power cut, which no test that kills one process after the other can show.
//!
//! The image is built from scratch out of files of this machine and of Debian's QEMU 7.2: the programs, the libraries that `ldd` names for
//! them, and the test guest's busybox. No registry is asked for anything.

mod installation;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use installation::{MIB, is_full, is_incremental, says, skip, text};
use serde_json::{Value, json};
use testcontainers::core::{Mount, WaitFor};
use testcontainers::runners::{AsyncBuilder, AsyncRunner};
use testcontainers::{ContainerAsync, GenericBuildableImage, GenericImage, ImageExt};
use tests::backstay::{Answer, binary};
use tests::lab::{Lab, PATIENCE, require, require_qemu, tool, until};
use tests::older::older_qemu;
use tests::process::{answer, run};
use tests::qmp::Qmp;
use tests::restic::Restic;

/// Carried by all containers and images of this test, so that whoever finds one knows whose it is.
const LABEL: &str = "backstay.test";

/// Containers are called after it, the process id of their test, and the number of their life.
const NAME: &str = "backstay-test-";

/// The disk's size in bytes.
const DISK: u64 = 768 * MIB;

/// Both sides of a host. Ends with the first of them that ends, so that neither is missed.
const INIT: &str = r#"#!/bin/busybox sh
cd "$1" || exit 1
rm -f qmp.sock look.sock
qemu-storage-daemon \
    --chardev socket,id=qmp,path=qmp.sock,server=on,wait=off --monitor chardev=qmp \
    --chardev socket,id=look,path=look.sock,server=on,wait=off --monitor chardev=look \
    --blockdev driver=qcow2,node-name=disk0,file.driver=file,file.filename=disk0.qcow2 \
    >>qsd.log 2>&1 &
backstay up --data "$1/data" >>up.log 2>&1 &
echo started
wait -n
"#;

/// The image, removed when dropped.
struct Image {
    name: String,
    tag: String,
}

impl Drop for Image {
    fn drop(&mut self) {
        let name = format!("{}:{}", self.name, self.tag);
        let _ = answer(tool("docker").args(["image", "rm", "--force", &name]), PATIENCE);
    }
}

/// What a program needs: itself, the loader and every library, by the paths that the loader looks for.
fn with_libraries(program: &Path) -> BTreeSet<PathBuf> {
    let listed = run(Command::new("ldd").arg(program), PATIENCE);
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    libraries.collect()
}

fn found(program: &str) -> PathBuf {
    PathBuf::from(tool(program).get_program())
}

/// The static busybox of the test guest's initramfs.
fn busybox(lab: &Lab) -> PathBuf {
    let guest = std::env::var_os("BACKSTAY_CACHE")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guest"), PathBuf::from);
    let unpacked = lab.folder("initrd");
    let command = format!(
        "gzip -dc '{}' | cpio -i --quiet -d 'bin/busybox' './bin/busybox'",
        guest.join("initrd").display()
    );
    run(Command::new("sh").arg("-c").arg(command).current_dir(&unpacked), PATIENCE);
    unpacked.join("bin/busybox")
}

/// Removes the hosts of tests that were killed before they could: nobody else will.
fn sweep() {
    let label = format!("label={LABEL}");
    let listed =
        run(tool("docker").args(["ps", "--all", "--filter", &label, "--format", "{{.Names}}"]), PATIENCE);
    for name in listed.lines() {
        let owner = name.strip_prefix(NAME).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = answer(tool("docker").args(["rm", "--force", name]), PATIENCE);
        }
    }
}

async fn build(lab: &Lab) -> (Image, GenericImage) {
    // The host runs the QEMU of Debian 12, where that can be had: not the one that all other tests run on.
    let older = older_qemu();
    let qemu =
        |program| older.as_ref().map_or_else(|| found(program), |folder| Path::new(folder).join(program));
    let programs = [
        ("backstay", binary()),
        ("qemu-storage-daemon", qemu("qemu-storage-daemon")),
        ("qemu-img", qemu("qemu-img")),
    ];
    let image = Image { name: "backstay-test-host".to_owned(), tag: process::id().to_string() };
    let mut dockerfile = format!("FROM scratch\nLABEL {LABEL}=host\nCOPY root/ /\n");
    dockerfile.push_str("ENV PATH=/bin TMPDIR=/tmp\nENTRYPOINT [\"/init\"]\n");
    let mut builder = GenericBuildableImage::new(&image.name, &image.tag)
        .with_dockerfile_string(dockerfile)
        .with_file(executable(lab, "init", INIT), "root/init")
        .with_file(executable(lab, "keep", ""), "root/tmp/keep")
        .with_file(busybox(lab), "root/bin/busybox");
    let mut libraries = BTreeSet::new();
    for (name, program) in &programs {
        libraries.extend(with_libraries(program));
        builder = builder.with_file(program, format!("root/bin/{name}"));
    }
    for library in &libraries {
        let file = fs::canonicalize(library).unwrap_or_else(|error| panic!("{}: {error}", library.display()));
        builder = builder.with_file(file, format!("root{}", library.display()));
    }
    let built = builder.build_image().await.unwrap_or_else(|error| panic!("the image is not built: {error}"));
    (image, built)
}

fn executable(lab: &Lab, name: &str, content: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = lab.path(name);
    fs::write(&path, content).expect("the lab's folder takes a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a file of ours");
    path
}

/// One life of the host. Its folder has the same path inside as outside, so that paths mean the same to both.
struct Host {
    container: ContainerAsync<GenericImage>,
    folder: PathBuf,
}

impl Host {
    async fn boot(image: &GenericImage, folder: &Path, life: u32) -> Host {
        let shared = text(folder);
        let container = image
            .clone()
            .with_wait_for(WaitFor::message_on_stdout("started"))
            .with_cmd([shared.clone()])
            .with_container_name(format!("{NAME}{}-{life}", process::id()))
            .with_label(LABEL, "host")
            .with_hostname("backstay-test-host")
            .with_network("none")
            .with_mount(Mount::bind_mount(shared.clone(), shared))
            .start()
            .await
            .unwrap_or_else(|error| panic!("life {life} of the host does not begin: {error}"));
        let host = Host { container, folder: folder.to_owned() };
        until("the host's Backstay and QEMU answer", PATIENCE, || {
            let log = fs::read_to_string(host.folder.join("up.log")).unwrap_or_default();
            let there = host.try_run(&["vm", "list"]).status == 0
                && Qmp::try_connect(&host.folder.join("look.sock")).is_some();
            assert!(!log.contains("panicked"), "{log}");
            there.then_some(())
        });
        host
    }

    /// SIGKILL to everything in it at once.
    async fn crash(self) {
        self.container.rm().await.unwrap_or_else(|error| panic!("the host cannot be killed: {error}"));
    }

    fn try_run(&self, words: &[&str]) -> Answer {
        let mut command = Command::new(binary());
        let server = format!("unix://{}/data/backstay.sock", self.folder.display());
        let answer = answer(command.args(["--json", "--server", &server]).args(words), 5 * PATIENCE);
        let json = serde_json::from_str(&answer.out).unwrap_or(Value::Null);
        Answer { status: answer.status, json, err: answer.err }
    }

    #[track_caller]
    fn ok(&self, words: &[&str]) -> Value {
        let answer = self.try_run(words);
        let log = || fs::read_to_string(self.folder.join("up.log")).unwrap_or_default();
        assert!(answer.status == 0, "{words:?}: {} {}\n{}", answer.err, answer.json, log());
        answer.json
    }

    fn backup(&self) -> Value {
        let answer = self.ok(&["backup", "vm", "--wait"]);
        let point = answer["jobs"][0]["point"].as_str().unwrap_or_else(|| panic!("no point: {answer}"));
        self.ok(&["point", "show", point])
    }

    /// What a guest's write with a flush behind it is: QEMU mirrors an image onto the whole disk.
    fn write(&self, from: &Path) {
        let mut qmp =
            Qmp::try_connect(&self.folder.join("look.sock")).expect("the laboratory's monitor answers");
        let file = json!({ "driver": "file", "filename": from, "read-only": true });
        qmp.ok(
            "blockdev-add",
            json!({ "driver": "raw", "node-name": "from", "read-only": true, "file": file }),
        );
        let copy = json!({ "job-id": "guest", "device": "from", "target": "disk0", "sync": "full", "auto-dismiss": false });
        qmp.ok("blockdev-mirror", copy);
        qmp.event("BLOCK_JOB_READY");
        qmp.ok("block-job-cancel", json!({ "device": "guest" }));
        let done = qmp.event("BLOCK_JOB_COMPLETED");
        assert!(done["data"]["error"].is_null(), "{done}");
        qmp.ok("job-dismiss", json!({ "id": "guest" }));
        qmp.ok("blockdev-del", json!({ "node-name": "from" }));
    }

    /// Restores a point and compares it with the image that was written last.
    fn proves(&self, point: &Value, now: &Path) {
        let id = point["id"].as_str().expect("a point has an id");
        let image = self.folder.join(format!("{id}.raw"));
        self.ok(&["restore", id, "--disk", "disk0", "--to", &text(&image), "--wait"]);
        run(tool("cmp").arg(&image).arg(now), PATIENCE);
        fs::remove_file(image).expect("restored a moment ago");
    }
}

/// A raw image of the disk's size with noise at some places.
fn image(lab: &Lab, name: &str, seed: u64, length: u64) -> PathBuf {
    use rand::{RngCore, SeedableRng};
    use std::io::Write;
    let path = lab.path(name);
    let mut file = fs::File::create(&path).expect("the lab's folder takes a file");
    file.set_len(DISK).expect("a sparse file");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let mut block = vec![0; 1 << 20];
    for _ in 0..length / MIB {
        random.fill_bytes(&mut block);
        file.write_all(&block).expect("the disk has room");
    }
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_crashes_in_the_middle_of_a_backup_comes_back_by_itself() {
    if !(require_qemu() && require(&["docker", "ldd", "cpio", "cmp", "restic"])) {
        return;
    }
    if answer(tool("docker").arg("info"), PATIENCE).status != 0 {
        return skip("no Docker daemon answers");
    }
    sweep();
    let lab = Lab::new();
    let (_image, built) = build(&lab).await;
    let folder = lab.folder("host");
    lab.qcow2("host/disk0.qcow2", DISK);
    let restic = Restic::new(&lab, "host/repo");
    let (small, large) = (image(&lab, "host/small", 1, 16 * MIB), image(&lab, "host/large", 2, DISK));

    let host = Host::boot(&built, &folder, 1).await;
    host.ok(&["vm", "add", "vm", "--qmp", &text(&folder.join("qmp.sock")), "--disk", "disk0=disk0"]);
    host.ok(&[
        "repo",
        "add",
        "main",
        "--path",
        &text(restic.repository()),
        "--password-file",
        &text(restic.password_file()),
    ]);
    host.write(&small);
    is_full(&host.backup(), "disk0", "the first backup");
    let before = host.backup();
    is_incremental(&before, "disk0");
    host.write(&large);
    let queued = host.ok(&["backup", "vm"]);
    let job = queued["jobs"][0]["id"].as_str().expect("a job has an id").to_owned();
    until("the backup is in the middle of its data", PATIENCE, || {
        let job = host.ok(&["job", "show", &job]);
        assert_eq!(job["ended"], Value::Null, "the backup was too quick: {job}");
        (job["progress"]["done"].as_u64() > Some(32 * MIB)).then_some(())
    });
    host.crash().await;

    let host = Host::boot(&built, &folder, 2).await;
    let over = host.try_run(&["job", "watch", &job]);
    assert_eq!((over.status, &over.json["state"]), (1, &json!("failed")), "{}", over.json);
    assert!(over.json["reason"].is_string(), "a job that was cut off says so: {}", over.json);
    let healed = host.backup();
    is_full(&healed, "disk0", "QEMU was restarted and had not stored it");
    host.proves(&healed, &large);
    host.proves(&before, &small);
    host.write(&small);
    let next = host.backup();
    is_incremental(&next, "disk0");
    host.proves(&next, &small);
    assert_eq!(host.ok(&["journal", "verify"])["ok"], true);
    assert_eq!(host.ok(&["doctor"])["ok"], true);
    let left = fs::read_dir(folder.join("data/scratch")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "no scratch file is left behind");
    host.crash().await;

    restic.check();
    assert_eq!(restic.snapshots().len(), 4, "the backup that was cut off left no snapshot");
    let offline = answer(
        Command::new(binary()).args(["--json", "journal", "verify", "--data", &text(&folder.join("data"))]),
        PATIENCE,
    );
    assert_eq!(offline.status, 0, "after a second crash: {}{}", offline.out, offline.err);
    says(&offline.out, &["\"ok\": true"]);
}
