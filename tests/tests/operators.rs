//! What operators of backup tools suffer from, one test for each pain, named after it. The pains are from the public
//! trackers of such tools.
//!
//! Their numbers are those of the list in `docs/recovery.md`, which names what is tested elsewhere, and at length.

mod installation;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use installation::{Installation, MIB, disk, is_full, is_incremental, text};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use rustix::process::Signal;
use serde_json::{Value, json};
use tests::backstay::Backstay;
use tests::export::Export;
use tests::guest::{self, Guest};
use tests::invariants;
use tests::lab::{Lab, PATIENCE, require, require_qemu, tool, until};
use tests::matrix::cell::{self, HEALING, KILLED, Ledger};
use tests::matrix::operation::commands;
use tests::matrix::strike::crash;
use tests::point::Point;
use tests::process::run;
use tests::qsd::{Options, Qsd};
use tests::restic::Restic;
use tests::site::{Site, add_repository, seed};

/// Two small disks, somebody who writes to them, and two points.
fn site() -> Site {
    let mut site = Site::start(Options::new("qsd", 2, 4 * MIB), seed());
    cell::make_ready(&mut site, &mut Ledger::default());
    site
}

/// Bytes that do not compress, written as a guest would, and flushed.
fn fill(disk: &Path, offset: u64, length: u64, seed: u64) {
    let mut bytes = vec![0; usize::try_from(length).expect("a test disk is small")];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    let file = File::options().write(true).open(disk).expect("the disk is there");
    file.write_all_at(&bytes, offset).and_then(|()| file.sync_all()).expect("the disk takes a write");
}

/// A backup that begins, and cannot be stored: the repository's password is gone.
#[track_caller]
fn fail_in_the_store(site: &mut Site) {
    let password = site.restic.password_file().to_owned();
    let away = password.with_extension("away");
    fs::rename(&password, &away).expect("it is there");
    let answer = site.backstay.run(&["backup", "vm", "--wait"]);
    fs::rename(&away, &password).expect("moved above");
    assert_eq!((answer.status, &answer.json["jobs"][0]["state"]), (1, &json!("failed")), "{}", answer.json);
}

/// 1. The parent moves only when a point is durable: what an interrupted backup had read is read again.
#[test]
fn an_interrupted_incremental_loses_no_change() {
    if !require_qemu() {
        return;
    }
    let mut site = site();
    for _ in 0..3 {
        site.writer().until_progress(20);
        let parent = Point::list(&site.backstay).pop().expect("there are two");
        fail_in_the_store(&mut site);
        assert_eq!(Point::list(&site.backstay).last().map(|point| &point.id), Some(&parent.id));
        site.writer().until_progress(20);
        let taken = site.back_up(&[]);
        taken.point.must_be_incremental();
        assert_eq!(taken.point.parent.as_ref(), Some(&parent.id));
        site.prove_taken(&taken, &site.log());
        site.must_hold();
    }
    site.restic.check();
}

/// 2. Names are never given twice: one that somehow is there already stops nothing.
#[test]
fn a_bitmap_that_exists_already_stops_nothing() {
    if !require_qemu() {
        return;
    }
    let mut site = site();
    let mut qmp = site.qsd.look();
    let bitmaps = qmp.bitmaps();
    let newest = bitmaps.iter().find(|bitmap| bitmap.recording).expect("one records");
    let (mark, _) = newest.name.rsplit_once('.').expect("mark and number");
    let number = |name: &str| name.rsplit_once('.').and_then(|(_, number)| number.parse::<u64>().ok());
    let last = bitmaps.iter().filter_map(|bitmap| number(&bitmap.name)).max().expect("ours have numbers");
    for next in 1..=8 {
        qmp.add_bitmap("disk0", &format!("{mark}.{}", last + next), next % 2 == 0);
    }
    drop(qmp);
    for _ in 0..3 {
        site.next_must_be_incremental();
    }
}

/// 3. A failed backup leaves no checkpoint that the next one builds on.
#[test]
fn a_failed_backup_is_no_base() {
    if !require_qemu() {
        return;
    }
    let mut site = site();
    let base = Point::list(&site.backstay).pop().expect("there are two");
    for _ in 0..3 {
        site.writer().until_progress(10);
        fail_in_the_store(&mut site);
    }
    let taken = site.back_up(&[]);
    assert_eq!(taken.point.parent.as_ref(), Some(&base.id));
    site.prove_taken(&taken, &site.log());
    // And the failed ones' checkpoints do not pile up.
    site.next_must_be_incremental();
    let left = site.backstay.ok(&["checkpoint", "list", "vm"]);
    let left = left.as_array().map(Vec::len);
    assert!(left <= Some(2), "{left:?} checkpoints are left");
}

/// 4. After a kill the next backup is full and says why; after an orderly restart it is incremental. No hand is needed.
#[test]
fn a_killed_or_restarted_qemu_needs_no_hand() {
    if !require_qemu() {
        return;
    }
    let mut site = site();
    site.restart_qemu();
    site.next_must_be_incremental();
    site.kill_qemu();
    site.revive_qemu();
    let taken = site.back_up(&[]);
    taken.point.must_be_full(&KILLED);
    site.prove_taken(&taken, &site.log());
    site.next_must_be_incremental();
    site.restart_qemu();
    site.next_must_be_incremental();
}

/// 5. A disk that is in trouble costs itself a full backup, and the VM nothing.
#[test]
fn one_disk_in_trouble_is_not_the_vm_in_trouble() {
    if !require_qemu() {
        return;
    }
    let mut site = site();
    let mut qmp = site.qsd.look();
    let bitmaps = qmp.bitmaps();
    let newest =
        bitmaps.iter().find(|bitmap| bitmap.node == "disk1" && bitmap.recording).expect("one records");
    qmp.remove_bitmap("disk1", &newest.name);
    drop(qmp);
    let taken = site.back_up(&[]);
    assert_eq!(taken.point.disks[0].mode, "incremental");
    taken.point.disks[1].must_be_full(&["was removed from the running QEMU"]);
    site.prove_taken(&taken, &site.log());
    site.next_must_be_incremental();
}

/// 6. A client that waits hears how it ended, though the server was killed and started meanwhile.
#[test]
fn a_client_survives_the_restart_of_its_server() {
    if !require_qemu() {
        return;
    }
    let mut site = site();
    let job = site.backstay.ok(&["job", "list"])[0]["id"].as_str().expect("a job").to_owned();
    let (died, client) = crash(&mut site, "effect:2", commands(&[&["backup", "vm", "--wait"]]), |_| ());
    assert!(died, "the store was not reached");
    client.hear_done();
    invariants::until_rest(&site.backstay);
    let newest = site.backstay.ok(&["job", "list"])[0].clone();
    assert!(newest["state"] == "done" && newest["id"] != job.as_str(), "{newest}");
}

/// 7. A backup that cannot go on breaks, and its guest does not: thawed, it runs on without scratch space and without a target.
#[test]
fn a_guest_outlives_its_broken_backups() {
    if !require_qemu() {
        return;
    }
    let lab = Lab::new();
    let images = ["a", "b"].map(|name| lab.qcow2(&format!("{name}.qcow2"), 64 * MIB));
    for image in &images {
        // Not zeros: to keep those takes no scratch space.
        let write = format!("write -q -P 255 0 {}", 64 * MIB);
        run(tool("qemu-io").args(["-f", "qcow2", "-c", &write]).arg(image), PATIENCE);
    }
    let options = guest::Options { images: Some(images), ..guest::Options::new("guest") };
    let mut guest = Guest::start(&lab, options);
    let config = lab.path("backstay.toml");
    fs::write(&config, "[limits]\nscratch = \"2M\"\n").expect("the lab's folder takes a file");
    let mut backstay = Backstay::start_with(&lab, "data", &["--config", &text(&config)], &[]);
    HEALING.iter().chain(&["a view is given up"]).for_each(|words| backstay.expect_log(words));
    let restic = Restic::new(&lab, "repo");
    add_repository(&backstay, &restic);
    let (qmp, agent) = (text(&guest.qmp_socket()), text(&guest.agent_socket()));
    let disks = ["--disk", "a=a", "--disk", "b=b"];
    backstay.ok(&[&["vm", "add", "vm", "--qmp", &qmp, "--guest-agent", &agent][..], &disks].concat());

    let export = Export::create(&backstay, &[]);
    let ended = until("the view is given up", PATIENCE, || {
        let export = Export::find(&backstay, &export.id);
        (export.state == "ended").then_some(export)
    });
    let reason = ended.reason.unwrap_or_default();
    assert!(reason.contains("given up so that the guest could go on"), "{reason}");
    runs_on(&mut guest);

    let away = restic.repository().with_extension("away");
    fs::rename(restic.repository(), &away).expect("it is there");
    let failed = backstay.run(&["backup", "vm", "--wait"]);
    assert_eq!(failed.json["jobs"][0]["state"], "failed", "{}", failed.json);
    invariants::until_rest(&backstay);
    runs_on(&mut guest);
    assert_eq!(guest.agent("guest-fsfreeze-status"), "thawed");
}

/// The machine is neither paused nor in an error, and its guest writes.
#[track_caller]
fn runs_on(guest: &mut Guest) {
    assert_eq!(guest.look().ok("query-status", json!({}))["status"], "running");
    guest.until_progress();
}

/// 8. Storage that does not answer stops its own backups and nothing else.
#[test]
fn storage_that_hangs_stops_nobody_else() {
    if !require_qemu() || !require(&["mkfifo"]) {
        return;
    }
    let mut site = Installation::new();
    for words in HEALING {
        site.backstay.expect_log(words);
    }
    let qsd = site.vm("vm", 1, 4 * MIB);
    let other = site.vm("other", 1, 4 * MIB);
    let folder = site.lab.path("hangs");
    site.backstay.ok(&[
        "repo",
        "add",
        "hangs",
        "--path",
        &text(&folder),
        "--password-file",
        &site.password(),
    ]);
    site.backstay.ok(&["backup", "vm", "--repo", "hangs", "--wait"]);
    // Whoever opens a FIFO waits for the other end: so does whoever reads from a dead mount.
    site.backstay.stop();
    let (config, away) = (folder.join("config"), folder.join("config.away"));
    fs::rename(&config, &away).expect("a repository has one");
    run(tool("mkfifo").arg(&config), PATIENCE);
    site.backstay.restart();
    let stuck = site.backstay.ok(&["backup", "vm", "--repo", "hangs"])["jobs"][0]["id"].clone();
    let stuck = stuck.as_str().expect("a job");
    let start = Instant::now();
    let answer = site.backstay.ok(&["backup", "other", "--repo", "main", "--wait"]);
    assert!(start.elapsed() < Duration::from_secs(20), "it waited for somebody else's storage: {answer}");
    fill(&qsd.file("disk0"), 0, MIB, 1);
    assert!(site.backstay.ok(&["vm", "list"]).as_array().is_some_and(|vms| vms.len() == 2));
    eprintln!("another VM was backed up in {:?}", start.elapsed());
    // It ends by itself.
    let state = until("the backup gives up", 3 * PATIENCE, || {
        let state = site.backstay.ok(&["job", "show", stuck])["state"].clone();
        (state != "queued" && state != "running").then_some(state)
    });
    assert_eq!(state, "failed");
    // Whoever still waits at the FIFO is let go.
    fs::rename(&config, folder.join("fifo")).expect("made above");
    fs::rename(&away, &config).expect("moved above");
    drop(File::options().read(true).write(true).open(folder.join("fifo")));
    fs::remove_file(folder.join("fifo")).expect("made above");
    let answer = site.backstay.ok(&["backup", "vm", "--repo", "hangs", "--wait"]);
    assert_eq!(answer["jobs"][0]["state"], "done", "{answer}");
    drop(other);
}

/// 9. A guest agent that hears and never answers costs the freeze, and not the backup.
#[test]
fn a_freeze_that_hangs_is_given_up() {
    if !require_qemu() {
        return;
    }
    let mut site = Installation::new();
    for words in HEALING {
        site.backstay.expect_log(words);
    }
    let qsd = Qsd::start(&site.lab, Options::new("vm", 1, 4 * MIB));
    let agent = site.lab.path("agent.sock");
    let listener = UnixListener::bind(&agent).expect("the lab's folder takes a socket");
    // It synchronises as an agent does, and hangs from the freeze on.
    thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming().flatten() {
            held.push(answer_until_the_freeze(stream));
        }
    });
    let (qmp, agent) = (text(&qsd.qmp_socket()), text(&agent));
    site.backstay.ok(&["vm", "add", "vm", "--qmp", &qmp, "--guest-agent", &agent, "--disk", "disk0=disk0"]);
    let start = Instant::now();
    let answer = site.backstay.run(&["backup", "vm", "--wait"]);
    eprintln!("over after {:?}: {}", start.elapsed(), answer.json);
    assert!(start.elapsed() < 2 * PATIENCE, "it hung");
    assert_ne!(answer.json["jobs"][0]["state"], "running");
    // Nobody is left waiting, and without the agent's help it goes on.
    invariants::until_rest(&site.backstay);
    let crash = site.backstay.run(&["backup", "vm", "--consistency", "crash", "--wait"]);
    assert_eq!((crash.status, &crash.json["jobs"][0]["state"]), (0, &json!("done")), "{}", crash.json);
}

/// Answers a client's lines until one asks to freeze. The stream is held, so that it stays open.
fn answer_until_the_freeze(stream: std::os::unix::net::UnixStream) -> std::os::unix::net::UnixStream {
    let held = stream.try_clone().expect("a socket can be opened twice");
    thread::spawn(move || {
        let mut writer = stream.try_clone().expect("a socket can be opened twice");
        let mut frozen = false;
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            // A synchronisation may begin with a byte that ends whatever was there before.
            let line: Vec<u8> = line.into_iter().filter(|byte| *byte != 0xff).collect();
            let Ok(asked) = serde_json::from_slice::<Value>(&line) else { continue };
            let answer = match asked["execute"].as_str() {
                _ if frozen => continue,
                Some("guest-sync") => json!({ "return": asked["arguments"]["id"] }),
                Some("guest-sync-delimited") => {
                    let _ = writer.write_all(&[0xff]);
                    json!({ "return": asked["arguments"]["id"] })
                }
                Some("guest-fsfreeze-status") => json!({ "return": "thawed" }),
                Some("guest-fsfreeze-freeze") => {
                    frozen = true;
                    continue;
                }
                _ => json!({ "return": {} }),
            };
            if writeln!(writer, "{answer}").is_err() {
                break;
            }
        }
    });
    held
}

/// 17. Nothing is running for ever: not after both ends died, not when QEMU never comes back, not behind a dead lock.
#[test]
fn no_job_and_no_lock_outlives_its_owner() {
    if !require_qemu() {
        return;
    }
    let mut site = site();
    let (died, client) =
        crash(&mut site, "store.committed:1", commands(&[&["backup", "vm", "--wait"]]), |site| {
            site.kill_qemu();
        });
    assert!(died, "the store was not reached");
    client.hear();
    // QEMU is away, and stays away.
    invariants::until_rest(&site.backstay);
    let running = site.backstay.ok(&["job", "list"]);
    let running = running.as_array().into_iter().flatten().filter(|job| job["state"] == "running").count();
    assert_eq!(running, 0);
    site.revive_qemu();
    site.back_up(&[]).point.must_be_full(&KILLED);

    // A restic that was killed leaves its lock.
    let lock = a_dead_lock(&site.restic);
    site.backstay.ok(&["repo", "prune", "main"]);
    assert!(!lock.exists(), "the lock of a dead process is still there");
    site.next_must_be_incremental();
}

/// Kills a restic that holds a lock; the lock.
#[track_caller]
fn a_dead_lock(restic: &Restic) -> std::path::PathBuf {
    let locks = restic.repository().join("locks");
    let mut command = restic.command(&["backup", "--stdin"]);
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
    let mut child = command.stderr(std::process::Stdio::null()).spawn().expect("restic starts");
    let lock = until("restic holds a lock", PATIENCE, || {
        Some(fs::read_dir(&locks).ok()?.flatten().next()?.path()).filter(|path| path.is_file())
    });
    let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::KILL);
    child.wait().expect("a child of ours");
    lock
}

/// 18. Where a bitmap was lost the disk is read whole, says why, and only what differs is stored.
#[test]
fn a_lost_bitmap_costs_reading_and_no_storage() {
    if !require_qemu() {
        return;
    }
    const SIZE: u64 = 64 * MIB;
    let mut site = Installation::new();
    for words in HEALING {
        site.backstay.expect_log(words);
    }
    let mut qsd = site.vm("vm", 1, SIZE);
    fill(&qsd.file("disk0"), 0, SIZE, 1);
    let first = site.backup("vm");
    let stored = |point: &Value| disk(point, "disk0")["stored_bytes"].as_u64().expect("a number");
    assert!(stored(&first) > SIZE / 2, "{first}");
    qsd.kill();
    qsd.restart();
    fill(&qsd.file("disk0"), MIB, MIB, 2);
    let second = site.backup("vm");
    let reason = disk(&second, "disk0")["reason"].as_str().unwrap_or_default();
    assert!(KILLED.iter().any(|words| reason.contains(words)), "full because of: {reason}");
    assert!(disk(&second, "disk0")["read_bytes"].as_u64() >= Some(SIZE), "{second}");
    assert!(stored(&second) < 4 * MIB, "{second}");
    site.proves(&second, "disk0", &qsd.file("disk0"));
    is_incremental(&site.backup("vm"), "disk0");
}

/// 20. Another tool's bitmaps, jobs and nodes cause no full backups, and are there afterwards.
#[test]
fn another_tools_leftovers_cause_no_full_backups() {
    if !require_qemu() {
        return;
    }
    let mut site = Installation::new();
    for words in HEALING {
        site.backstay.expect_log(words);
    }
    let mut qsd = site.vm("vm", 1, 4 * MIB);
    is_full(&site.backup("vm"), "disk0", "the first backup of this disk");
    for round in 0..4 {
        let mut qmp = qsd.look();
        qmp.add_bitmap("disk0", &format!("virtnbdbackup.{round}"), true);
        qmp.add_bitmap("disk0", &format!("backup-libvirt-{round}"), false);
        let before = qmp.look();
        drop(qmp);
        fill(&qsd.file("disk0"), round * MIB, 65536, round);
        let point = site.backup("vm");
        is_incremental(&point, "disk0");
        site.proves(&point, "disk0", &qsd.file("disk0"));
        let after = qsd.look().look();
        let gone: Vec<&String> = before
            .bitmaps
            .iter()
            .filter(|name| !name.contains("backstay.") && !after.bitmaps.contains(*name))
            .collect();
        assert!(gone.is_empty(), "what is not ours was touched: {gone:?}");
        if round == 1 {
            qsd.quit();
            qsd.restart();
        }
    }
}

/// The list in `docs/recovery.md` names tests that there are, and every number of this file.
#[test]
fn every_pain_of_the_documented_list_has_its_test() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(tests.join("../docs/recovery.md")).expect("the list is documented");
    let (_, list) = page.split_once("## What operators suffer from, by test").expect("it has its heading");
    let mut sources = String::new();
    for folder in ["tests", "tests/rows", "../agent/tests"].map(|folder| tests.join(folder)) {
        for file in fs::read_dir(&folder).expect("a folder of tests").flatten() {
            sources.extend(fs::read_to_string(file.path()));
        }
    }
    let rows: Vec<&str> = list.lines().filter(|line| line.starts_with("| ") && line.contains('`')).collect();
    for row in &rows {
        let number = row.split('|').nth(1).unwrap_or_default().trim();
        let named = row.split('`').skip(1).step_by(2).filter(|name| *name != "rows" && !name.contains('.'));
        for name in named {
            // A row of the reconcile table becomes a test by a macro.
            let there = [format!("fn {name}("), format!("\n    {name}: ")];
            assert!(there.iter().any(|it| sources.contains(it)), "pain {number}: there is no test {name}");
        }
        assert!(sources.contains(&format!("/// {number}. ")), "pain {number} has no test of its own");
    }
    assert_eq!(rows.len(), 12, "{rows:?}");
}
