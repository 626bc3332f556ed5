//! The queue on a real QEMU and a real repository: what fails is tried again, what is paused rests and goes on, and what was
//! not finished is taken up.

mod installation;

use std::fs;
use std::path::Path;

use installation::{Installation, MIB, REPO, says, text, write};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use rustix::process::Signal;
use serde_json::Value;
use tests::lab::{PATIENCE, require_qemu, until};
use tests::qsd::Qsd;

fn job(site: &Installation, id: &str) -> Value {
    site.backstay.ok(&["job", "show", id])
}

fn until_state(site: &Installation, id: &str, state: &str) -> Value {
    until(&format!("{id} is {state}"), PATIENCE, || Some(job(site, id)).filter(|job| job["state"] == state))
}

/// Fills a disk with what neither compresses nor repeats.
fn fill(file: &Path, bytes: usize) {
    use std::os::unix::fs::FileExt;
    let mut noise = vec![0; bytes];
    StdRng::seed_from_u64(7).fill_bytes(&mut noise);
    let disk = fs::File::options().write(true).open(file).expect("the disk is there");
    disk.write_all_at(&noise, 0).expect("the disk takes a write");
}

/// Whether the transfer of a job is open, and has begun to move.
fn is_moving(job: &Value) -> bool {
    let last = job["steps"].as_array().and_then(|steps| steps.last());
    last.is_some_and(|step| step["effect"] == "store" && step["outcome"].is_null())
        && job["progress"]["done"].as_u64() > Some(0)
}

/// Starts a backup and holds its QEMU in the middle of the transfer.
fn held_in_the_middle(site: &Installation, qsd: &mut Qsd) -> String {
    let queued = site.backstay.ok(&["backup", "vm"]);
    let id = queued["jobs"][0]["id"].as_str().expect("a job").to_owned();
    until("the transfer moves", PATIENCE, || {
        let now = job(site, &id);
        assert_ne!(now["state"], "done", "it was over before it could be held: {now}");
        is_moving(&now).then(|| qsd.process().signal(Signal::STOP))
    });
    id
}

#[test]
fn a_paused_transfer_stops_survives_a_kill_and_goes_on() {
    if !require_qemu() {
        return;
    }
    let mut site = Installation::new();
    let size = 384 * MIB;
    let mut qsd = site.vm("vm", 1, size);
    fill(&qsd.file("disk0"), usize::try_from(size).expect("a small disk"));
    let id = held_in_the_middle(&site, &mut qsd);
    site.backstay.ok(&["job", "pause", &id]);
    let rests = until_state(&site, &id, "paused");
    qsd.process().signal(Signal::CONT);
    let steps = rests["steps"].as_array().expect("its steps").len();
    let last = &rests["steps"][steps - 1];
    assert!(last["effect"] == "store" && last["outcome"]["Failed"]["class"] == "cancelled", "{rests}");

    // What the guest writes meanwhile is not in the point: the view stays at its instant.
    let then = fs::read(qsd.file("disk0")).expect("the disk is there");
    write(&qsd.file("disk0"), 0, 65536, 9);
    site.backstay.kill();
    site.backstay.restart();
    assert_eq!(until_state(&site, &id, "paused")["steps"].as_array().map(Vec::len), Some(steps));
    let behind = site.backstay.ok(&["backup", "vm"]);
    let behind = behind["jobs"][0]["id"].as_str().expect("a job").to_owned();
    says(job(&site, &behind)["reason"].as_str().unwrap_or_default(), &[&id, "this VM"]);

    site.backstay.ok(&["job", "resume", &id]);
    let done = until_state(&site, &id, "done");
    let point = site.backstay.ok(&["point", "show", done["point"].as_str().expect("a point")]);
    let disk = &point["disks"][0];
    assert!(
        disk["stored_bytes"].as_u64() < Some(size) && disk["read_bytes"].as_u64() == Some(size),
        "what was stored before the rest was stored again: {disk}"
    );
    let image = site.lab.path("then.raw");
    site.backstay.ok(&["restore", point["id"].as_str().expect("an id"), "--to", &text(&image), "--wait"]);
    assert!(
        fs::read(&image).expect("restored") == then,
        "the point is not what the disk held at its instant"
    );
    until_state(&site, &behind, "done");
    site.restic.check();
}

#[test]
fn a_waiting_job_that_is_paused_does_not_start_and_a_paused_one_can_be_cancelled() {
    if !require_qemu() {
        return;
    }
    let site = Installation::new();
    let mut qsd = site.vm("vm", 1, 256 * MIB);
    fill(&qsd.file("disk0"), 256 << 20);
    let id = held_in_the_middle(&site, &mut qsd);
    let second = site.backstay.ok(&["backup", "vm"])["jobs"][0]["id"].as_str().expect("a job").to_owned();
    assert_eq!(site.backstay.ok(&["job", "pause", &second])["state"], "paused");
    site.backstay.ok(&["job", "pause", &id]);
    until_state(&site, &id, "paused");
    qsd.process().signal(Signal::CONT);
    site.backstay.ok(&["job", "cancel", &id]);
    until_state(&site, &id, "cancelled");
    assert_eq!(job(&site, &second)["state"], "paused");
    says(&site.backstay.refused(2, &["job", "pause", &id]), &["cancelled already"]);
    site.backstay.ok(&["job", "resume", &second]);
    until_state(&site, &second, "done");
    let again = site.backstay.ok(&["job", "retry", &id]);
    until_state(&site, again[0]["id"].as_str().expect("a job"), "done");
}

#[test]
fn a_backup_after_another_one_waits_for_its_end_however_that_comes() {
    if !require_qemu() {
        return;
    }
    let mut site = Installation::new();
    let mut qsd = site.vm("vm", 1, 256 * MIB);
    let _other = site.vm("other", 1, 4 * MIB);
    fill(&qsd.file("disk0"), 256 << 20);
    let first = held_in_the_middle(&site, &mut qsd);
    let after = |jobs: &[&str]| {
        let words = jobs.iter().flat_map(|job| ["--after", job]);
        ["backup", "other"].into_iter().chain(words).map(str::to_owned).collect::<Vec<_>>()
    };
    let queue = |site: &Installation, jobs: &[&str]| {
        let words = after(jobs);
        let queued = site.backstay.ok(&words.iter().map(String::as_str).collect::<Vec<_>>());
        queued["jobs"][0]["id"].as_str().expect("a job").to_owned()
    };
    let second = queue(&site, &[&first, &first]);
    let third = queue(&site, &[&second]);
    let waits = job(&site, &second);
    assert_eq!((&waits["state"], &waits["after"]), (&Value::from("queued"), &serde_json::json!([first])));
    says(waits["reason"].as_str().unwrap_or_default(), &["waits for the end of", &first]);
    says(&site.backstay.refused(3, &["backup", "other", "--after", "j999"]), &["no job `j999`"]);
    says(&site.backstay.refused(3, &["backup", "other", "--after", "yesterday"]), &["no job `yesterday`"]);
    // One that rests is not over, and a restart forgets none of it.
    site.backstay.ok(&["job", "pause", &first]);
    until_state(&site, &first, "paused");
    qsd.process().signal(Signal::CONT);
    site.backstay.kill();
    site.backstay.restart();
    says(job(&site, &second)["reason"].as_str().unwrap_or_default(), &["waits for the end of", &first]);
    site.backstay.ok(&["job", "cancel", &first]);
    until_state(&site, &third, "done");
    let ended = |id: &str| job(&site, id)["ended"].as_str().expect("it is over").to_owned();
    let started = |id: &str| job(&site, id)["started"].as_str().expect("it began").to_owned();
    assert_eq!(job(&site, &first)["state"], "cancelled");
    assert!(started(&second) >= ended(&first) && started(&third) >= ended(&second));
    // What is over is not waited for.
    until_state(&site, &queue(&site, &[&first]), "done");
}

#[test]
fn a_failed_run_is_tried_again_until_its_repository_is_back() {
    if !require_qemu() {
        return;
    }
    let mut site = Installation::new();
    site.backstay.expect_log("run skipped");
    let _qsd = site.vm("vm", 1, 4 * MIB);
    let file = site.path("often.toml");
    let policy = format!(
        "name = \"often\"\nrepositories = [\"{REPO}\"]\nconsistency = \"crash\"\nselect = {{ names = [\"*\"] }}\n\
         retry = {{ attempts = 20, backoff = \"1s\", backoff_max = \"1s\" }}\nschedules = [{{ cron = \"@every 2s\" }}]\n"
    );
    fs::write(&file, policy).expect("the lab's folder takes a file");
    let away = site.lab.path("away");
    fs::rename(site.repository(), &away).expect("a folder that can be moved");
    site.backstay.ok(&["policy", "apply", "-f", &file]);
    let tried = until("a third try", PATIENCE, || {
        let jobs = site.backstay.ok(&["job", "list", "--vm", "vm"]);
        jobs.as_array()?.iter().find(|job| job["attempt"].as_u64() >= Some(3)).cloned()
    });
    fs::rename(&away, site.repository()).expect("a folder that can be moved");
    let id = tried["id"].as_str().expect("an id");
    let done = until_state(&site, id, "done");
    let tries = done["tries"].as_array().expect("its tries");
    assert_eq!(done["attempt"].as_u64(), Some(tries.len() as u64 + 1));
    says(tries[0]["reason"].as_str().unwrap_or_default(), &[REPO]);
    site.pause("often");
}

#[test]
fn only_what_was_not_finished_is_tried_again() {
    if !require_qemu() {
        return;
    }
    let mut site = Installation::new();
    site.backstay.expect_log("job failed");
    let one = site.vm("one", 2, 4 * MIB);
    let mut two = site.vm("two", 1, 4 * MIB);
    write(&one.file("disk1"), 0, 65536, 3);
    two.quit();
    let both = site.backstay.run(&["backup", "one", "two", "--wait"]);
    assert_eq!(both.status, 1);
    let id = |number: usize| both.json["jobs"][number]["id"].as_str().expect("an id").to_owned();
    let failed = job(&site, &id(1));
    says(failed["advice"].as_str().unwrap_or_default(), &["job retry"]);
    says(&site.backstay.refused(2, &["job", "retry", &id(0)]), &["is done"]);
    two.restart();
    let again = site.backstay.ok(&["job", "retry", &id(0), "--request"]);
    assert_eq!(again.as_array().map(Vec::len), Some(1), "one of two is done: {again}");
    assert_eq!((&again[0]["vm"], &again[0]["retries"]), (&Value::from("two"), &Value::from(id(1))));
    until_state(&site, again[0]["id"].as_str().expect("an id"), "done");
    says(&site.backstay.refused(2, &["job", "retry", &id(1)]), &["again already"]);

    let folder = site.lab.folder("out");
    let in_the_way = folder.join("disk1.img");
    fs::write(&in_the_way, "somebody's").expect("a file");
    let point = job(&site, &id(0))["point"].as_str().expect("a point").to_owned();
    let restore = site.backstay.run(&["restore", &point, "--to", &text(&folder), "--wait"]);
    assert_eq!(restore.status, 1, "{}", restore.json);
    let written = fs::metadata(folder.join("disk0.img")).expect("the first disk is written").modified().ok();
    fs::remove_file(&in_the_way).expect("it is there");
    let jobs = site.backstay.ok(&["job", "list", "--limit", "1"]);
    let again = site.backstay.ok(&["job", "retry", jobs[0]["id"].as_str().expect("an id")]);
    let done = until_state(&site, again[0]["id"].as_str().expect("an id"), "done");
    assert_eq!(done["steps"].as_array().map(Vec::len), Some(1), "only the disk that was missing: {done}");
    assert!(fs::read(&in_the_way).expect("restored") == fs::read(one.file("disk1")).expect("a disk"));
    assert_eq!(fs::metadata(folder.join("disk0.img")).expect("it is there").modified().ok(), written);
}
