//! The journal as an operator meets it: the past shown, segments archived, bases taken and harmed, a disk that is full.
//! Needs
//! no QEMU but for the index, which lists what concerns a VM.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::backstay::{Backstay, binary};
use tests::lab::{Lab, PATIENCE, require_qemu, until};
use tests::qsd::{Options, Qsd};

/// Names in a policy, so that its record has some thirty kilobytes and a segment is soon full.
const NAMES: usize = 500;

/// An installation with a repository, and a policy that can be written again and again.
struct Installation {
    lab: Lab,
    backstay: Backstay,
}

impl Installation {
    fn new(lab: Lab) -> Installation {
        let backstay = Backstay::start(&lab, "data");
        let site = Installation { lab, backstay };
        let key = site.lab.path("key");
        fs::write(&key, "secret").expect("the lab's folder takes a file");
        let (path, key) = (text(&site.lab.path("repository")), text(&key));
        site.backstay.ok(&["repo", "add", "main", "--path", &path, "--password-file", &key]);
        site
    }

    fn policy(&self, number: usize) -> String {
        let names: Vec<String> =
            (0..NAMES).map(|name| format!("\"{}-{number}-{name}\"", "x".repeat(50))).collect();
        let policy = format!(
            "name = \"large\"\nrepositories = [\"main\"]\nselect = {{ names = [{}] }}\nkeep = \"last=3\"\n\
             schedules = [{{ cron = \"0 2 * * *\" }}]\n",
            names.join(", ")
        );
        let file = self.lab.path("large.toml");
        fs::write(&file, policy).expect("the lab's folder takes a file");
        text(&file)
    }

    fn apply(&self, number: usize) {
        self.backstay.ok(&["policy", "apply", "-f", &self.policy(number)]);
    }

    fn vm(&self, name: &str) -> Qsd {
        let qsd = Qsd::start(&self.lab, Options::new(name, 1, 1 << 20));
        self.backstay.ok(&["vm", "add", name, "--qmp", &text(&qsd.qmp_socket()), "--disk=disk0=disk0"]);
        qsd
    }

    /// `GET /v1/health`, of which no command of ours tells.
    fn health(&self) -> Value {
        let mut stream = UnixStream::connect(self.backstay.socket()).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a time limit");
        stream.write_all(b"GET /v1/health HTTP/1.0\r\n\r\n").expect("the server reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the server answers");
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }

    /// The doctor's word on the journal, and the status of the command.
    fn doctor(&self) -> (i32, Option<String>) {
        let found = self.backstay.run(&["doctor"]);
        let rows = found.json["findings"].as_array().cloned().unwrap_or_default();
        let row = rows.iter().find(|row| row["row"].as_str().is_some_and(|row| row.starts_with("journal-")));
        (found.status, row.map(ToString::to_string))
    }

    fn journal(&self) -> PathBuf {
        self.backstay.data().join("journal")
    }

    fn files(&self, folder: &Path, suffix: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut files: Vec<_> = entries.filter(|path| text(path).ends_with(suffix)).collect();
        files.sort();
        files
    }

    fn offline(&self, arguments: &[&str]) -> (i32, Value) {
        let output = Command::new(binary())
            .args(arguments)
            .arg("--json")
            .arg("--data")
            .arg(self.backstay.data())
            .output();
        let output = output.expect("the binary runs");
        let json = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        (output.status.code().expect("it exits by itself"), json)
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("the lab's paths are text").to_owned()
}

/// Without what a start adds.
fn said(past: &Value) -> Value {
    let mut state = past["state"].clone();
    state["epoch"] = Value::Null;
    state
}

#[test]
fn the_past_is_shown_and_archived_segments_are_part_of_it() {
    let mut site = Installation::new(Lab::new());
    (0..30).for_each(|number| site.apply(number));
    let now = site.backstay.ok(&["journal", "show"]);
    let last = now["seq"].as_u64().expect("a record's number");
    let then = site.backstay.ok(&["journal", "show", "--at", "10"]);
    assert_eq!(then["seq"], 10);
    let policy = |past: &Value| past["state"]["policies"]["large"]["text"].as_str().map(str::to_owned);
    assert!(policy(&now).is_some_and(|text| text.contains("-29-")), "the newest text");
    assert_ne!(policy(&then), policy(&now));
    assert!(site.backstay.refused(3, &["journal", "show", "--at", "100000"]).contains("no record 100000"));

    let log = site.backstay.ok(&["journal", "log"]);
    let moved = site.backstay.ok(&["journal", "archive"]);
    assert!(moved["segments"].as_u64() > Some(0), "{moved}");
    assert_eq!(moved["first"], 1);
    let archive = site.journal().join("archive");
    assert!(!site.files(&archive, ".log.zst").is_empty());
    assert_eq!(site.backstay.ok(&["journal", "log"]), log, "the log goes on over the archive");
    assert_eq!(site.backstay.ok(&["journal", "show", "--at", "10"]), then);
    let verified = site.backstay.ok(&["journal", "verify"]);
    assert_eq!((&verified["ok"], &verified["first"]), (&Value::Bool(true), &Value::from(1)), "{verified}");
    assert_eq!(site.backstay.ok(&["journal", "archive"])["segments"], 0, "nothing is archived twice");

    site.backstay.stop();
    let at = last.to_string();
    assert_eq!(site.offline(&["journal", "show", "--at", &at]), (0, now));
    assert_eq!(site.offline(&["journal", "verify"]).1["ok"], true);
    assert_eq!(site.offline(&["journal", "log"]).0, 0);
    fs::rename(&archive, site.lab.path("tape")).expect("a folder can be moved");
    let (status, missed) = site.offline(&["journal", "verify"]);
    let what = missed["problems"][0]["what"].as_str().unwrap_or_default();
    assert!(status == 1 && what.contains("are archived and not in the archive"), "{missed}");
    assert_eq!(
        missed["first"].as_u64(),
        moved["last"].as_u64().map(|last| last + 1),
        "from where it is proven"
    );
    // A base stands above all that is missing.
    site.backstay.restart();
    assert_eq!(
        said(&site.backstay.ok(&["journal", "show"]))["policies"]["large"]["text"].as_str(),
        policy(&now_of(&site)).as_deref()
    );
    fs::rename(site.lab.path("tape"), &archive).expect("a folder can be moved back");
    assert_eq!(site.backstay.ok(&["journal", "verify"])["ok"], true);
}

fn now_of(site: &Installation) -> Value {
    site.backstay.ok(&["journal", "show"])
}

/// What a base says is what the records say; a base that is harmed, or the index that goes with it, costs only time.
#[test]
fn a_start_from_a_base_is_a_start_from_the_records() {
    let mut site = Installation::new(Lab::new());
    (0..3).for_each(|number| site.apply(number));
    let before = said(&now_of(&site));
    site.backstay.stop();
    let bases = site.files(&site.journal(), ".base");
    assert_eq!(bases.len(), 1, "an orderly stop leaves one");

    site.backstay.restart();
    let log = site.backstay.log();
    let replayed = log.lines().rfind(|line| line.contains("the journal is replayed"));
    assert!(replayed.is_some_and(|line| !line.contains("base=0")), "it was taken: {log}");
    assert_eq!(said(&now_of(&site)), before);
    site.backstay.kill();

    let mut bytes = fs::read(&bases[0]).expect("the base");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&bases[0], bytes).expect("a base can be harmed");
    site.backstay.expect_log("a base of the journal is not taken");
    site.backstay.restart();
    assert_eq!(said(&now_of(&site)), before);
    let verified = site.backstay.run(&["journal", "verify"]);
    assert!(
        verified.status == 1
            && verified.json["problems"][0]["segment"].as_str().is_some_and(|it| it.ends_with(".base"))
    );
    site.backstay.stop();

    fs::remove_dir_all(site.backstay.data().join("index")).expect("the index can be removed");
    site.backstay.restart();
    assert_eq!(said(&now_of(&site)), before);
    let done = site.backstay.ok(&["job", "list"]);
    assert_eq!(done.as_array().map(Vec::len), Some(1), "the finished job is found again: {done}");
}

/// A small file system of its own, unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(folder: PathBuf, size: &str) -> Option<Mounted> {
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", size, "none"]).arg(&folder).output();
        mount.is_ok_and(|mount| mount.status.success()).then_some(Mounted(folder))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _unmounted_or_told = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_refuses_work_and_takes_it_again() {
    let lab = Lab::new();
    let folder = lab.folder("data/journal");
    let Some(mounted) = Mounted::new(folder, "size=4m") else {
        println!("SKIPPED: this needs the right to mount a small file system");
        return;
    };
    let mut site = Installation::new(lab);
    site.backstay.expect_log("the journal's disk is full");
    site.backstay.expect_log("the journal's disk has room again");
    assert_eq!((site.doctor(), &site.health()["journal"]["state"]), ((0, None), &json!("ok")));
    let filler = mounted.0.join("filler");
    let full =
        (1..64).map(|blocks| vec![1; blocks * 65536]).take_while(|bytes| fs::write(&filler, bytes).is_ok());
    assert!(full.count() > 3, "there was room at first");
    let mut refused = None;
    for number in 0..12 {
        let answer = site.backstay.run(&["policy", "apply", "-f", &site.policy(number)]);
        if answer.status != 0 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("half of a segment is not thirteen records");
    assert!(refused.status == 1 && refused.err.contains("the journal's disk is full"), "{}", refused.err);
    assert!(site.backstay.log().contains("the journal's disk is full"), "the operator is told");
    let last = now_of(&site)["seq"].clone();
    assert_eq!(site.backstay.ok(&["journal", "verify"])["last"], last, "readers go on");
    let told = |site: &Installation| {
        let (status, row) = site.doctor();
        let health = site.health()["journal"].clone();
        assert_eq!((status, &health["state"]), (1, &json!("full")));
        for said in [row.unwrap_or_default(), health.to_string()] {
            assert!(said.contains("full") && said.contains(&text(&site.journal())), "what and where: {said}");
            assert!(said.contains("free some room"), "what to do: {said}");
        }
    };
    told(&site);
    // Also after a restart: its own records are recovery's.
    site.backstay.kill();
    site.backstay.restart();
    assert_eq!(now_of(&site)["seq"].as_u64(), last.as_u64().map(|last| last + 1));
    until("the server finds its disk full again", PATIENCE, || {
        (site.health()["journal"]["state"] == "full").then_some(())
    });
    told(&site);

    fs::remove_file(&filler).expect("the filler can be removed");
    let begun = Instant::now();
    while site.backstay.run(&["policy", "apply", "-f", &site.policy(99)]).status != 0 {
        assert!(begun.elapsed() < PATIENCE, "work is taken again without a restart");
        thread::sleep(Duration::from_millis(200));
    }
    assert_eq!((site.doctor(), &site.health()["journal"]["state"]), ((0, None), &json!("ok")));
    assert_eq!(site.backstay.ok(&["journal", "verify"])["ok"], true);
    site.backstay.stop();
}

/// What the index shows is what a reader finds who goes through all records, whatever became of the index meanwhile.
#[test]
fn the_index_is_only_a_shorter_way() {
    if !require_qemu() {
        return;
    }
    let mut site = Installation::new(Lab::new());
    let _vms = ["one", "two"].map(|name| site.vm(name));
    let followed = site.lab.path("followed");
    let mut follower = site
        .backstay
        .command(&["--json", "journal", "log", "--vm", "two", "--follow"])
        .stdout(fs::File::create(&followed).expect("the lab's folder takes a file"))
        .spawn()
        .expect("the binary runs");
    for name in ["one", "two", "one", "one", "two"] {
        site.backstay.ok(&["backup", name, "--wait"]);
    }
    until("the follower saw the end of both backups", PATIENCE, || {
        let lines = fs::read_to_string(&followed).unwrap_or_default();
        (lines.matches("\"JobEnded\"").count() == 2).then_some(())
    });
    let _ended = follower.kill();
    let _ended = follower.wait();
    site.backstay.ok(&["point", "forget", "p1"]);

    let gone = site.backstay.ok(&["point", "list", "one", "--all"]);
    let ids = |list: &Value, key: &str| -> Vec<String> {
        let rows = list.as_array().cloned().unwrap_or_default();
        rows.iter().map(|row| row[key].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(ids(&gone, "id"), ["p1", "p3", "p4"], "{gone}");
    assert_eq!((&gone[0]["gone"]["how"], &gone[1]["gone"]), (&json!("forgotten"), &Value::Null), "{gone}");
    assert_eq!(ids(&site.backstay.ok(&["point", "list", "one"]), "id"), ["p3", "p4"]);
    assert_eq!(site.backstay.ok(&["point", "show", "p1"]), gone[0]);
    let jobs = site.backstay.ok(&["job", "list", "--vm", "one", "--limit", "3"]);
    assert_eq!(ids(&jobs, "kind"), ["point-forget", "backup", "backup"], "{jobs}");
    assert_eq!(ids(&jobs, "vm"), ["one", "one", "one"], "{jobs}");
    assert!(site.backstay.refused(3, &["job", "list", "--vm", "three"]).contains("no VM `three`"));

    let log = site.backstay.ok(&["journal", "log"]);
    let times = ids(&log, "time");
    let (since, until) = (times[times.len() / 3].clone(), times[times.len() / 2].clone());
    let asked: [&[&str]; 5] = [
        &["journal", "log", "--vm", "one"],
        &["journal", "log", "--vm", "two"],
        &["journal", "log", "--since", &since, "--until", &until],
        &["journal", "log", "--vm", "one", "--since", &since],
        &["journal", "log", "--until", &until],
    ];
    let between = site.backstay.ok(asked[2]);
    let between = ids(&between, "time");
    assert!(
        !between.is_empty() && between.iter().all(|time| (&since..=&until).contains(&time)),
        "{between:?}"
    );

    // As it stands; after a kill; without an index; with one that is garbage; with a half snapshot in it.
    let index = site.backstay.data().join("index");
    for harm in 0..5 {
        match harm {
            0 => {}
            1 => site.backstay.kill(),
            _ => site.backstay.stop(),
        }
        match harm {
            2 => fs::remove_dir_all(&index).expect("the index can be removed"),
            3 => site.files(&index, "").iter().filter(|path| path.is_file()).for_each(|path| {
                fs::write(path, [0x5a; 3000]).expect("the index can be harmed");
            }),
            4 => fs::write(index.join("snap.0000.generating"), b"half").expect("a folder takes a file"),
            _ => {}
        }
        if harm > 0 {
            site.backstay.restart();
        }
        let shown = asked.map(|words| site.backstay.ok(words));
        let points = site.backstay.ok(&["point", "list", "one", "--all"]);
        assert_eq!(points, gone, "harm {harm}");
        assert_eq!(site.backstay.ok(&["job", "list", "--vm", "one", "--limit", "3"]), jobs, "harm {harm}");
        let read = asked.map(|words| site.offline(words));
        for ((words, shown), read) in asked.iter().zip(shown).zip(read) {
            assert_eq!((0, shown), read, "harm {harm}: {words:?}");
        }
    }
    site.backstay.stop();
}
