//! Guests that no filter protects from scratch storage that hangs: `limits.unprotected` says whether they are backed up
//! nevertheless, and everybody who asks is told before (decision 17). What hung storage does is in `agent/tests`.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tests::backstay::Backstay;
use tests::guest::{self, Guest};
use tests::lab::{Lab, require_qemu};
use tests::older::older_qemu;
use tests::point::Point;
use tests::qsd::{Options, Qsd};
use tests::restic::Restic;
use tests::site::add_repository;

const JOB_FAILED: &str = "job failed";

/// A Backstay that takes unprotected views, or refuses them, with a repository.
#[track_caller]
fn backstay(lab: &Lab, unprotected: &str) -> Backstay {
    let config = lab.path("backstay.toml");
    set(&config, unprotected);
    let backstay = Backstay::start_with(lab, "data", &["--config", &config.to_string_lossy()], &[]);
    add_repository(&backstay, &Restic::new(lab, "repo"));
    backstay
}

fn set(config: &Path, unprotected: &str) {
    let text = format!("[limits]\nunprotected = \"{unprotected}\"\n");
    fs::write(config, text).expect("the lab's folder takes a file");
}

#[track_caller]
fn add(backstay: &Backstay, socket: &Path, disks: &[&str]) {
    let mut words: Vec<String> = ["vm", "add", "vm", "--qmp"].map(str::to_owned).to_vec();
    words.push(socket.to_string_lossy().into_owned());
    words.extend(disks.iter().map(|disk| format!("--disk={disk}={disk}")));
    backstay.ok(&words.iter().map(String::as_str).collect::<Vec<_>>());
}

/// What `doctor` says of the VM's protection.
#[track_caller]
fn row(doctor: &Value) -> Option<&Value> {
    doctor["findings"].as_array().into_iter().flatten().find(|it| it["row"] == "unprotected")
}

/// A command that has to be refused for want of a filter; what it says.
#[track_caller]
fn refused(backstay: &Backstay, words: &[&str]) -> String {
    let answer = backstay.run(words);
    assert_eq!(answer.status, 1, "{}", answer.json);
    let said = format!("{}{}", answer.json, answer.err);
    for part in ["scratch storage hangs", "unprotected", "refuse", "local storage"] {
        assert!(said.contains(part), "`{part}` is not said: {said}");
    }
    said
}

fn way(backstay: &Backstay, point: &Point) -> Value {
    backstay.ok(&["point", "show", &point.id])["way"].clone()
}

#[test]
fn what_cannot_be_protected_is_taken_or_refused_as_it_is_set() {
    if !require_qemu() {
        return;
    }
    let lab = Lab::new();
    let mut qsd = Qsd::start(&lab, Options::new("vm", 2, 4 << 20));
    let mut backstay = backstay(&lab, "refuse");
    backstay.expect_log(JOB_FAILED);
    add(&backstay, &qsd.qmp_socket(), &["disk0", "disk1"]);
    let bare = qsd.look().look();

    // Refused, and said before: which disk, and what stands in the way.
    for words in [&["backup", "vm", "--wait"][..], &["export", "create", "vm"]] {
        let said = refused(&backstay, words);
        assert!(said.contains("disk0: its node is no device's own") && said.contains("disk1: "), "{said}");
    }
    let shown = backstay.ok(&["vm", "show", "vm"]);
    assert!(shown["unprotected"].as_str().is_some_and(|it| it.contains("disk1: its node is")), "{shown}");
    let doctor = backstay.run(&["doctor", "vm"]);
    assert_eq!((doctor.status, &doctor.json["ok"]), (1, &json!(false)), "{}", doctor.json);
    assert_eq!(row(&doctor.json).map(|row| &row["verdict"]), Some(&json!("refuse backups")));
    assert_eq!(qsd.look().look(), bare, "nothing was begun");
    // What needs no view is none of this.
    backstay.ok(&["checkpoint", "create", "vm"]);

    backstay.stop();
    set(&lab.path("backstay.toml"), "take");
    backstay.restart();
    let point = Point::back_up(&backstay, &[]);
    assert_eq!(way(&backstay, &point), "backup-job");
    let doctor = backstay.ok(&["doctor", "vm"]);
    assert_eq!(doctor["ok"], true, "{doctor}");
    assert_eq!(row(&doctor).map(|row| &row["verdict"]), Some(&json!("go on")));
}

/// With iothreads QEMU 10.0 takes a filter, and 7.2 none.
#[test]
fn guests_on_iothreads_are_protected_from_qemu_10_on() {
    if !require_qemu() {
        return;
    }
    let options = guest::Options { iothread: true, disk_size: 64 << 20, ..guest::Options::new("guest") };
    let older = older_qemu().map(|folder| Path::new(&folder).join("qemu-system-x86_64"));
    let older = older.map(|qemu| guest::Options { qemu, ..options.clone() });
    for options in [Some(options), older].into_iter().flatten() {
        let lab = Lab::new();
        let mut guest = Guest::start(&lab, options);
        let mut backstay = backstay(&lab, "refuse");
        backstay.expect_log(JOB_FAILED);
        add(&backstay, &guest.qmp_socket(), &guest::DISKS);
        guest.until_progress();
        let shown = backstay.ok(&["vm", "show", "vm"]);
        if shown["live"].as_str().is_some_and(|it| it.starts_with("QEMU 7.2")) {
            let said = refused(&backstay, &["backup", "vm", "--wait"]);
            assert!(
                said.contains("a: it works on iothread io-a") && said.contains("and 10.0 does"),
                "{said}"
            );
        } else {
            assert_eq!(shown["unprotected"], Value::Null, "{shown}");
            for _ in 0..3 {
                let point = Point::back_up(&backstay, &[]);
                assert_eq!(way(&backstay, &point), "copy-before-write");
                guest.until_progress();
            }
            assert_eq!(backstay.ok(&["doctor"])["ok"], true);
        }
        guest.until_progress();
    }
}
