//! What goes wrong around Backstay, one thing after another on a real QEMU: each is said clearly with what to do, ends
//! with its exit status, harms no other disk and no other VM, and is over by itself once its cause is.

mod installation;

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;

use installation::{Installation, MIB, REPO, disk, is_full, is_incremental, says, skip, text, write};
use serde_json::{Value, json};
use tests::idle::Idle;
use tests::lab::{PATIENCE, require_qemu, tool};
use tests::process::{answer, run};
use tests::qmp::Qmp;

/// What the log says of a job that failed; each test that makes one expects it.
const JOB_FAILED: &str = "job failed";

/// What the log says of a disk that will be read whole.
const FULL_NEXT: &str = "full next";

#[test]
fn a_bitmap_that_somebody_removed_costs_one_disk_one_full() {
    if !require_qemu() {
        return;
    }
    let mut site = Installation::new();
    site.backstay.expect_log(FULL_NEXT);
    let mut qsd = site.vm("vm", 2, 4 * MIB);
    let other = site.vm("other", 1, 4 * MIB);
    write(&qsd.file("disk0"), 0, 65536, 1);
    site.backup("vm");
    site.backup("other");
    let mut qmp = qsd.look();
    let ours = qmp.bitmaps();
    let newest = ours.iter().find(|bitmap| bitmap.node == "disk0" && bitmap.recording).expect("ours records");
    qmp.remove_bitmap("disk0", &newest.name);
    drop(qmp);
    write(&qsd.file("disk0"), MIB, 65536, 2);
    write(&qsd.file("disk1"), MIB, 65536, 3);

    let healed = site.backup("vm");
    is_full(&healed, "disk0", "was removed from the running QEMU");
    is_incremental(&healed, "disk1");
    site.proves(&healed, "disk0", &qsd.file("disk0"));
    site.proves(&healed, "disk1", &qsd.file("disk1"));
    is_incremental(&site.backup("other"), "disk0");
    write(&qsd.file("disk0"), 2 * MIB, 65536, 4);
    let next = site.backup("vm");
    is_incremental(&next, "disk0");
    site.proves(&next, "disk0", &qsd.file("disk0"));
    drop(other);
    site.restic.check();
}

#[test]
fn what_belongs_to_others_is_shown_and_left_alone() {
    if !require_qemu() {
        return;
    }
    let site = Installation::new();
    let mut qsd = site.vm("vm", 1, 4 * MIB);
    let mut qmp = qsd.look();
    qmp.add_bitmap("disk0", "libvirt-backup", true);
    // Our shape of a name, and another installation's mark.
    qmp.add_bitmap("disk0", "backstay.00000000.1", true);
    let scratch = site.lab.qcow2("theirs.qcow2", 4 * MIB);
    qmp.ok(
        "blockdev-add",
        json!({ "driver": "qcow2", "node-name": "theirs", "file": { "driver": "file", "filename": scratch } }),
    );
    qmp.ok(
        "blockdev-backup",
        json!({ "job-id": "their-job", "device": "disk0", "target": "theirs", "sync": "none",
                "auto-dismiss": false }),
    );
    let before = qmp.look();
    drop(qmp);

    site.backup("vm");
    write(&qsd.file("disk0"), 0, 65536, 1);
    let point = site.backup("vm");
    is_incremental(&point, "disk0");
    site.proves(&point, "disk0", &qsd.file("disk0"));
    let found = site.backstay.ok(&["doctor", "vm"]);
    let foreign: Vec<&Value> =
        found["findings"].as_array().into_iter().flatten().filter(|it| it["row"] == "foreign").collect();
    for theirs in ["libvirt-backup", "backstay.00000000.1"] {
        let shown =
            foreign.iter().any(|finding| finding["what"].as_str().is_some_and(|what| what.contains(theirs)));
        assert!(shown, "{theirs} is not shown as foreign: {found}");
    }
    site.backstay.ok(&["doctor", "vm", "--apply"]);
    site.backstay.ok(&["vm", "remove", "vm"]);

    let mut qmp = qsd.look();
    qmp.until_tidy(&before, PATIENCE);
    assert_eq!(qmp.look(), before, "all that was ours is gone, all that was theirs is there");
}

/// Each has a monitor of its own, since QEMU takes one client on each. QEMU's one NBD server they have to share.
#[test]
fn two_installations_back_up_one_vm() {
    if !require_qemu() {
        return;
    }
    let (mut one, mut other) = (Installation::new(), Installation::new());
    let mut qsd = one.vm("vm", 1, 4 * MIB);
    let bare = qsd.look().look();
    let monitor = text(&qsd.look_socket());
    other.backstay.ok(&["vm", "add", "vm", "--qmp", &monitor, "--disk=disk0=disk0"]);
    for round in 0..3_u8 {
        for (place, site) in [(0, &one), (1, &other)] {
            write(&qsd.file("disk0"), (2 * u64::from(round) + place) * 65536, 65536, 1 + round);
            let point = site.backup("vm");
            if round > 0 {
                is_incremental(&point, "disk0");
            }
            site.proves(&point, "disk0", &qsd.file("disk0"));
        }
    }
    for site in [&one, &other] {
        let doctor = site.backstay.ok(&["doctor", "vm"]);
        assert!(doctor["ok"] == true && doctor.to_string().contains("foreign"), "{doctor}");
    }

    // At the same moment: whoever comes second says what is in its way.
    for site in [&mut one, &mut other] {
        site.backstay.expect_log(JOB_FAILED);
    }
    let answers = thread::scope(|scope| {
        let both = [&one, &other].map(|site| scope.spawn(|| site.backstay.run(&["backup", "vm", "--wait"])));
        both.map(|answer| answer.join().expect("a client does not panic"))
    });
    for answer in answers.iter().filter(|answer| answer.status != 0) {
        let reason = answer.json["jobs"][0]["reason"].as_str().unwrap_or_default();
        says(reason, &["already runs an NBD server that is not on our socket"]);
    }
    for site in [&one, &other] {
        let point = site.backup("vm");
        is_incremental(&point, "disk0");
        site.proves(&point, "disk0", &qsd.file("disk0"));
    }

    other.backstay.ok(&["vm", "remove", "vm"]);
    write(&qsd.file("disk0"), MIB, 65536, 9);
    let point = one.backup("vm");
    is_incremental(&point, "disk0");
    one.proves(&point, "disk0", &qsd.file("disk0"));
    one.backstay.ok(&["vm", "remove", "vm"]);
    other.backstay.stop();
    qsd.look().until_tidy(&bare, PATIENCE);
}

#[test]
fn a_disk_that_grew_is_full_and_one_that_went_is_left_out() {
    if !require_qemu() {
        return;
    }
    let mut site = Installation::new();
    site.backstay.expect_log(FULL_NEXT);
    let mut qsd = site.vm("vm", 3, 4 * MIB);
    site.backup("vm");

    qsd.look().ok("block_resize", json!({ "node-name": "disk1", "size": 8 * MIB }));
    write(&qsd.file("disk0"), 0, 65536, 1);
    write(&qsd.file("disk1"), 6 * MIB, 65536, 2);
    let grown = site.backup("vm");
    is_full(&grown, "disk1", "size changed from 4194304 to 8388608");
    is_incremental(&grown, "disk0");
    is_incremental(&grown, "disk2");
    assert_eq!(disk(&grown, "disk1")["size"], 8 * MIB);
    site.proves(&grown, "disk1", &qsd.file("disk1"));
    is_incremental(&site.backup("vm"), "disk1");

    let mut qmp = qsd.look();
    qmp.ok("block-export-del", json!({ "id": "file-disk2", "mode": "hard" }));
    qmp.event("BLOCK_EXPORT_DELETED");
    qmp.ok("blockdev-del", json!({ "node-name": "disk2" }));
    drop(qmp);
    let without = site.backup("vm");
    assert_eq!(without["disks"].as_array().map(Vec::len), Some(2), "{without}");
    assert_eq!(without["left_out"][0]["disk"], "disk2", "{without}");
    is_incremental(&without, "disk0");

    // Closing it stored its bitmaps: back again, it goes on where it was.
    qsd.look().ok(
        "blockdev-add",
        json!({ "driver": "qcow2", "node-name": "disk2", "file": {
            "driver": "file", "filename": qsd.image("disk2") } }),
    );
    let back = site.backup("vm");
    assert_eq!(back["left_out"], json!([]));
    assert_eq!(back["disks"].as_array().map(Vec::len), Some(3), "{back}");
    is_incremental(&back, "disk0");
    is_incremental(&site.backup("vm"), "disk2");
}

#[test]
fn disks_that_are_plugged_in_and_out_are_found_by_themselves() {
    if !require_qemu() {
        return;
    }
    let mut site = Installation::new();
    site.backstay.expect_log(FULL_NEXT);
    let machine = Idle::start(&site.lab, "machine");
    let image = |name: &str| site.lab.path(format!("machine/{name}.qcow2"));
    for name in ["first", "second"] {
        site.lab.qcow2(&format!("machine/{name}.qcow2"), 4 * MIB);
    }
    machine.plug("first", &image("first"));
    site.backstay.ok(&["vm", "add", "vm", "--qmp", &site.path("machine/qmp.sock")]);
    let names = |point: &Value| -> Vec<String> {
        let disks = point["disks"].as_array().into_iter().flatten();
        disks.map(|disk| disk["name"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let alone = names(&site.backup("vm"));
    assert_eq!(alone.len(), 1);

    machine.plug("second", &image("second"));
    let point = site.backup("vm");
    let both = names(&point);
    let new = both.iter().find(|name| **name != alone[0]).expect("the new disk is found");
    is_incremental(&point, &alone[0]);
    is_full(&point, new, "the first backup of this disk");
    is_incremental(&site.backup("vm"), new);

    machine.unplug("second");
    let point = site.backup("vm");
    assert_eq!(names(&point), alone);
    is_incremental(&point, &alone[0]);

    machine.plug("second", &image("second"));
    assert_eq!(names(&site.backup("vm")), both);
    is_incremental(&site.backup("vm"), new);
}

#[test]
fn raw_and_read_only_disks_do_what_they_can() {
    if !require_qemu() {
        return;
    }
    let mut site = Installation::new();
    site.backstay.expect_log(FULL_NEXT);
    let mut qsd = tests::qsd::Qsd::start(&site.lab, tests::qsd::Options::new("vm", 1, 4 * MIB));
    for name in ["raw", "still"] {
        fs::File::create(site.lab.path(name)).and_then(|file| file.set_len(4 * MIB)).expect("a sparse file");
    }
    let plug = |qmp: &mut Qmp, name: &str, read_only: bool| {
        qmp.ok(
            "blockdev-add",
            json!({ "driver": "raw", "node-name": name, "read-only": read_only,
                    "file": { "driver": "file", "filename": site.lab.path(name) } }),
        );
    };
    let plug_both = |qmp: &mut Qmp| {
        plug(qmp, "raw", false);
        plug(qmp, "still", true);
    };
    plug_both(&mut qsd.look());
    site.manage("vm", &qsd, &["disk0", "raw", "still"].map(str::to_owned));
    let shown = site.backstay.ok(&["vm", "show", "vm"]);
    let note = |place: usize| shown["disks"][place]["note"].as_str().unwrap_or_default().to_owned();
    says(&note(1), &["keeps no bitmaps", "full again after each restart"]);
    says(&note(2), &["read-only", "every backup of it is full"]);

    site.backup("vm");
    let second = site.backup("vm");
    is_incremental(&second, "disk0");
    is_incremental(&second, "raw");
    is_full(&second, "still", "a read-only disk: QEMU keeps no bitmap on it");

    // An orderly end stores what can be stored.
    qsd.quit();
    qsd.restart();
    plug_both(&mut qsd.look());
    let third = site.backup("vm");
    is_incremental(&third, "disk0");
    is_full(&third, "raw", "QEMU was restarted and had not stored it");
    is_incremental(&site.backup("vm"), "raw");
}

#[test]
fn a_qmp_socket_with_nobody_behind_it_is_told_from_one_that_is_taken() {
    if !require_qemu() {
        return;
    }
    let mut site = Installation::new();
    site.backstay.expect_log(JOB_FAILED);
    let mut qsd = site.vm("vm", 1, 4 * MIB);
    let other = site.vm("other", 1, 4 * MIB);
    site.backup("vm");
    let socket = qsd.qmp_socket();

    qsd.quit();
    says(&site.failed_backup("vm"), &["QEMU is not running", &text(&socket), "start the VM"]);
    let found = site.backstay.run(&["doctor", "vm"]);
    assert_eq!(
        (found.status, &found.json["findings"][0]["row"]),
        (1, &json!("unreachable")),
        "{}",
        found.json
    );
    assert!(
        site.backstay.ok(&["vm", "show", "vm"])["live"].as_str().is_some_and(|it| it.contains("not running"))
    );

    // What a killed QEMU leaves: a socket file behind which nobody listens.
    let _ = fs::remove_file(&socket);
    drop(UnixListener::bind(&socket).expect("the place is free"));
    says(&site.failed_backup("vm"), &["QEMU is not running", "nobody listens", "start the VM again"]);
    site.backup("other");

    fs::remove_file(&socket).expect("bound above");
    qsd.restart();
    is_incremental(&site.backup("vm"), "disk0");

    // QEMU lets a second client wait without a word.
    let holder = Qmp::try_connect(&socket).expect("QEMU takes one client");
    says(&site.failed_backup("vm"), &["does not answer", "greet", "another client"]);
    site.backup("other");
    drop(holder);
    is_incremental(&site.backup("vm"), "disk0");
    drop(other);
}

#[test]
fn a_password_that_is_wrong_or_missing_stops_one_repository_only() {
    if !require_qemu() {
        return;
    }
    let mut site = Installation::new();
    site.backstay.expect_log(JOB_FAILED);
    let qsd = site.vm("vm", 1, 4 * MIB);
    let (password, second) = (PathBuf::from(site.password()), site.path("second"));
    let spare = site.path("spare.password");
    fs::write(&spare, "another\n").expect("the lab's folder takes a file");
    site.backstay.ok(&["repo", "add", "second", "--path", &second, "--password-file", &spare]);
    site.backstay.ok(&["backup", "vm", "--repo", REPO, "--repo", "second", "--wait"]);
    let away = site.lab.path("password.away");

    fs::rename(&password, &away).expect("it is there");
    let failed = |words: &[&str]| {
        let answer = site.backstay.run(&["backup", "vm", "--repo", REPO, "--repo", "second", "--wait"]);
        assert_eq!(answer.status, 1, "{}", answer.json);
        let jobs = answer.json["jobs"].as_array().expect("two jobs");
        assert_eq!((&jobs[0]["state"], &jobs[1]["state"]), (&json!("failed"), &json!("done")), "{jobs:?}");
        says(jobs[0]["reason"].as_str().unwrap_or_default(), words);
    };
    failed(&["no password", &text(&password), "put it into the first line"]);
    fs::write(&password, "not this one\n").expect("the lab's folder takes a file");
    failed(&["wrong password", &site.repository(), "password file"]);
    let refused =
        site.backstay.run(&["repo", "add", "third", "--path", &second, "--password-file", &text(&password)]);
    assert_eq!(refused.status, 4, "the folder is managed already: {}", refused.err);
    says(&refused.err, &["is repository `second` already"]);

    // And at the first sight of it.
    let apart = site.path("apart");
    run(
        tool("restic").args([
            "--repo",
            &apart,
            "--password-file",
            &spare,
            "init",
            "--repository-version",
            "2",
        ]),
        PATIENCE,
    );
    let add =
        |file: &str| site.backstay.run(&["repo", "add", "apart", "--path", &apart, "--password-file", file]);
    let wrong = add(&text(&password));
    assert_eq!(wrong.status, 1);
    says(&wrong.err, &["wrong password", &apart]);
    let missing = add(&site.path("nothing"));
    assert_eq!(missing.status, 1);
    says(&missing.err, &["no password", "put it into the first line of"]);
    assert_eq!(add(&spare).status, 0, "the same name is free for another try");

    fs::rename(&away, &password).expect("it is there");
    let answer = site.backstay.ok(&["backup", "vm", "--repo", REPO, "--wait"]);
    let point = site.backstay.ok(&["point", "show", answer["jobs"][0]["point"].as_str().unwrap_or_default()]);
    is_incremental(&point, "disk0");
    site.proves(&point, "disk0", &qsd.file("disk0"));
}

#[test]
fn a_repository_that_is_not_there_is_not_made_anew() {
    if !require_qemu() {
        return;
    }
    let mut site = Installation::new();
    site.backstay.expect_log(JOB_FAILED);
    let qsd = site.vm("vm", 1, 4 * MIB);
    site.backup("vm");
    let (folder, away) = (PathBuf::from(site.repository()), site.lab.path("away"));
    fs::rename(&folder, &away).expect("it is there");
    says(&site.failed_backup("vm"), &["no repository at", &text(&folder), "check that it is mounted"]);
    assert!(!folder.exists(), "a mount point that came up empty is not a place for a new repository");
    let found = site.backstay.run(&["doctor"]);
    let rows: Vec<&Value> =
        found.json["findings"].as_array().into_iter().flatten().map(|it| &it["row"]).collect();
    assert!(found.status == 1 && rows.contains(&&json!("repository-closed")), "{}", found.json);

    // An empty folder in its place: what an unmounted file system shows.
    fs::create_dir(&folder).expect("the place is free");
    says(&site.failed_backup("vm"), &["no repository at", "check that it is mounted"]);
    assert_eq!(fs::read_dir(&folder).expect("made above").count(), 0);
    fs::remove_dir(&folder).expect("nothing was put there");

    fs::rename(&away, &folder).expect("moved above");
    write(&qsd.file("disk0"), MIB, 65536, 1);
    let healed = site.backup("vm");
    is_incremental(&healed, "disk0");
    site.proves(&healed, "disk0", &qsd.file("disk0"));
    site.restic.check();
}

/// A file system that is unmounted when dropped.
struct Small(PathBuf);

impl Small {
    fn mount(at: &Path, size: &str) -> Option<Small> {
        fs::create_dir_all(at).ok()?;
        let mut mount = tool("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(at);
        (answer(&mut mount, PATIENCE).status == 0).then(|| Small(at.to_owned()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = tool("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_repository_fails_its_backup_and_nothing_else() {
    if !require_qemu() {
        return;
    }
    let mut site = Installation::new();
    site.backstay.expect_log(JOB_FAILED);
    let small = site.lab.path("small");
    let Some(_mounted) = Small::mount(&small, "12M") else {
        return skip("a full repository: mounting a tmpfs needs root");
    };
    let repository = text(&small.join("repo"));
    let mut qsd = site.vm("vm", 1, 32 * MIB);
    let before = qsd.look().look();
    site.backstay.ok(&["repo", "add", "small", "--path", &repository, "--password-file", &site.password()]);
    let backup = |repo: &str| site.backstay.run(&["backup", "vm", "--repo", repo, "--wait"]);
    assert_eq!(backup("small").status, 0, "a blank disk fits");

    let noise: Vec<u8> = {
        use rand::{RngCore, SeedableRng};
        let mut bytes = vec![0; 24 << 20];
        rand::rngs::StdRng::seed_from_u64(5).fill_bytes(&mut bytes);
        bytes
    };
    {
        use std::os::unix::fs::FileExt;
        let file = fs::File::options().write(true).open(qsd.file("disk0")).expect("the disk is there");
        file.write_all_at(&noise, 0).expect("the disk takes a write");
    }
    let full = backup("small");
    assert_eq!(full.status, 1, "{}", full.json);
    let reason = full.json["jobs"][0]["reason"].as_str().unwrap_or_default().to_owned();
    says(&reason, &["repository small", &repository, "no space left", "free"]);
    assert_eq!(backup(REPO).status, 0, "the same disk, another repository");
    qsd.look().until_tidy(&before, PATIENCE);

    // Somebody makes room; what the failed backup left there is no obstacle.
    run(tool("mount").args(["-o", "remount,size=64M"]).arg(&small), PATIENCE);
    let healed = backup("small");
    assert_eq!(healed.status, 0, "{}", healed.json);
    let point =
        site.backstay.ok(&["point", "show", healed.json["jobs"][0]["point"].as_str().unwrap_or_default()]);
    is_incremental(&point, "disk0");
    site.proves(&point, "disk0", &qsd.file("disk0"));
    assert_eq!(site.backstay.ok(&["repo", "check", "small", "--read-data"])["ok"], true);
}

#[test]
fn an_nbd_server_of_somebody_else_is_not_taken_down() {
    if !require_qemu() {
        return;
    }
    let mut site = Installation::new();
    site.backstay.expect_log(JOB_FAILED);
    let mut qsd = site.vm("vm", 1, 4 * MIB);
    let other = site.vm("other", 1, 4 * MIB);
    site.backup("vm");
    let mut qmp = qsd.look();
    let address = json!({ "type": "unix", "data": { "path": site.lab.path("theirs.sock") } });
    qmp.ok("nbd-server-start", json!({ "addr": address }));
    qmp.ok(
        "blockdev-add",
        json!({ "driver": "null-co", "node-name": "nothing", "size": MIB, "read-zeroes": true }),
    );
    qmp.ok(
        "block-export-add",
        json!({ "type": "nbd", "id": "theirs", "node-name": "nothing", "name": "theirs" }),
    );
    let before = qmp.look();
    drop(qmp);

    let reason = site.failed_backup("vm");
    says(
        &reason,
        &["already runs an NBD server", "theirs", "end the other tool's backup", "nbd-server-stop"],
    );
    site.backup("other");
    let mut qmp = qsd.look();
    qmp.until_tidy(&before, PATIENCE);
    qmp.ok("nbd-server-stop", json!({}));
    qmp.event("BLOCK_EXPORT_DELETED");
    drop(qmp);
    write(&qsd.file("disk0"), 0, 65536, 9);
    let healed = site.backup("vm");
    is_incremental(&healed, "disk0");
    site.proves(&healed, "disk0", &qsd.file("disk0"));
    drop(other);
}

#[test]
fn what_would_be_lost_is_refused_and_what_is_unknown_is_said_to_be() {
    if !require_qemu() {
        return;
    }
    let mut site = Installation::new();
    site.backstay.expect_log(JOB_FAILED);
    let qsd = site.vm("vm", 1, 4 * MIB);
    let refused =
        |status: i32, words: &[&str], said: &[&str]| says(&site.backstay.refused(status, words), said);
    site.backup("vm");
    site.backup("vm");

    // An image that is there is left alone.
    let image = site.path("image");
    fs::write(&image, "somebody's").expect("the lab's folder takes a file");
    let restore = ["restore", "p1", "--disk", "disk0", "--to", &image, "--wait"];
    refused(1, &restore, &["exists and was left alone", "choose another path", "in place"]);
    assert_eq!(fs::read(&image).expect("written above"), b"somebody's");

    for (words, said) in [
        (&["backup", "nobody"][..], "`vm list` shows them"),
        (&["backup", "vm", "--repo", "nowhere"], "`repo list` shows them"),
        (&["backup", "vm", "--since", "c99"], "`checkpoint list vm` shows them"),
        (&["point", "show", "p99"], "`point list` shows them"),
        (&["restore", "p99", "--to", &image], "`point list` shows them"),
        (&["restore", "p1", "--disk", "sdz", "--to", &image], "it has disk0"),
        (&["job", "show", "j99"], "`job list` shows them"),
        (&["job", "cancel", "j99"], "`job list` shows them"),
        (&["repo", "check", "nowhere"], "`repo list` shows them"),
        (&["vm", "remove", "nobody"], "`vm list` shows them"),
        (&["doctor", "nobody"], "`vm list` shows them"),
        (&["policy", "show", "nothing"], "`policy list` shows them"),
    ] {
        refused(3, words, &[said]);
    }
    refused(
        2,
        &["backup", "vm", "--mode", "sideways"],
        &["sideways", "auto, incremental, differential, full"],
    );
    refused(2, &["backup"], &["Usage"]);

    site.backstay.ok(&["point", "hold", "p1"]);
    refused(4, &["point", "forget", "p1"], &["p1 is held", "`point release p1` first"]);
    refused(4, &["point", "forget", "p1", "--force"], &["p1 is held"]);
    site.backstay.ok(&["point", "release", "p1"]);
    site.backstay.ok(&["point", "forget", "p1"]);
    refused(4, &["point", "forget", "p2"], &["the last restore point of vm", "--force"]);
    refused(4, &["vm", "add", "vm", "--qmp", &image], &["there is a VM `vm` already", "`vm remove vm`"]);
    is_incremental(&site.backup("vm"), "disk0");

    // Its points outlive a VM that is let go of, and the last one goes only by force.
    site.backstay.ok(&["point", "forget", "p2"]);
    site.backstay.ok(&["point", "forget", "p3", "--force"]);
    is_full(&site.backup("vm"), "disk0", "the first backup of this disk");
    drop(qsd);

    site.backstay.stop();
    let error = site.backstay.refused(5, &["vm", "list"]);
    says(&error, &["no server at", "backstay up", "--server"]);
}
