//! Notices on a real server and a receiver that is sometimes away: once for each trouble and once for its end, and over a
//! kill at least once.

mod installation;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use installation::{Installation, MIB, REPO, says};
use serde_json::Value;
use tests::backstay::Backstay;
use tests::lab::{Lab, PATIENCE, require_qemu, until};
use tests::restic::Restic;

/// A webhook's receiver.
struct Receiver {
    address: String,
    taken: Arc<Mutex<Vec<Value>>>,
    refuses: Arc<AtomicBool>,
}

impl Receiver {
    fn start() -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = format!("http://{}/notices", listener.local_addr().expect("it is bound"));
        let (taken, refuses) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (of_thread, down) = (Arc::clone(&taken), Arc::clone(&refuses));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serve(stream, &of_thread, down.load(Ordering::SeqCst));
            }
        });
        Receiver { address, taken, refuses }
    }

    fn refuses(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::SeqCst);
    }

    fn taken(&self) -> Vec<Value> {
        self.taken.lock().expect("no thread of the receiver panics").clone()
    }

    /// Waits for a notice of this kind and subject.
    fn until(&self, kind: &str, subject: &str) -> Value {
        until(&format!("a notice `{kind}` of `{subject}`"), PATIENCE, || {
            self.taken().into_iter().find(|it| it["kind"] == kind && it["subject"] == subject)
        })
    }

    /// The ids of what was taken of this kind and subject: a repeat has the same.
    fn ids(&self, kind: &str, subject: &str) -> BTreeSet<String> {
        let wanted = self.taken().into_iter().filter(|it| it["kind"] == kind && it["subject"] == subject);
        wanted.map(|it| it["id"].as_str().expect("an id").to_owned()).collect()
    }
}

fn serve(stream: TcpStream, taken: &Mutex<Vec<Value>>, refuse: bool) {
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket takes a time limit");
    let mut reader = BufReader::new(stream);
    let (mut line, mut length, mut key) = (String::new(), 0, String::new());
    while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().expect("a length"),
            "idempotency-key" => key = value.trim().to_owned(),
            _ => {}
        }
        line.clear();
    }
    let mut body = vec![0; length];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    let status = if refuse { "503 Service Unavailable" } else { "204 No Content" };
    if !refuse {
        let notice: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(notice["id"], key.as_str(), "the id is in the header too");
        taken.lock().expect("no thread of the receiver panics").push(notice);
    }
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let _gone = reader.get_mut().write_all(answer.as_bytes());
}

fn install(receiver: &Receiver, more: &str) -> Installation {
    let lab = Lab::new();
    let restic = Restic::new(&lab, REPO);
    let config = lab.path("backstay.toml");
    fs::write(&config, format!("[notify]\nwebhook = \"{}\"\n{more}", receiver.address)).expect("a file");
    let config = config.to_str().expect("the lab's paths are ASCII").to_owned();
    let backstay = Backstay::start_with(&lab, "data", &["--config", &config], &[]);
    let site = Installation { backstay, restic, lab };
    let (path, password) = (site.repository(), site.password());
    site.backstay.ok(&["repo", "add", REPO, "--path", &path, "--password-file", &password]);
    site
}

#[test]
fn trouble_and_its_end_are_told_once_and_over_a_kill() {
    if !require_qemu() {
        return;
    }
    let receiver = Receiver::start();
    let mut site = install(&receiver, "");
    for expected in ["run skipped", "job failed", "a notice was not delivered"] {
        site.backstay.expect_log(expected);
    }
    assert_eq!(site.backstay.ok(&["notify", "test"])["delivered"], true);
    let test = receiver.until("test", "test");
    says(test["text"].as_str().unwrap_or_default(), &["a test"]);

    let _qsd = site.vm("vm", 1, 4 * MIB);
    let away = site.lab.path("away");
    fs::rename(site.repository(), &away).expect("a folder that can be moved");
    receiver.refuses(true);
    let file = site.path("often.toml");
    let policy = format!(
        "name = \"often\"\nrepositories = [\"{REPO}\"]\nconsistency = \"crash\"\nselect = {{ names = [\"*\"] }}\n\
         retry = {{ attempts = 1 }}\nschedules = [{{ cron = \"@every 2s\" }}]\n"
    );
    fs::write(&file, policy).expect("the lab's folder takes a file");
    site.backstay.ok(&["policy", "apply", "-f", &file]);
    let failed = |site: &Installation| {
        let jobs = site.backstay.ok(&["job", "list", "--vm", "vm"]);
        jobs.as_array().into_iter().flatten().filter(|job| job["state"] == "failed").count()
    };
    until("several runs failed", PATIENCE, || (failed(&site) >= 3).then_some(()));
    let owed = site.backstay.ok(&["notify", "list"]);
    assert_eq!(owed.as_array().map(Vec::len), Some(1), "one notice for one trouble: {owed}");
    assert!(receiver.ids("alarm", "backup").is_empty());

    site.backstay.kill();
    receiver.refuses(false);
    site.backstay.restart();
    let alarm = receiver.until("alarm", "backup");
    says(alarm["text"].as_str().unwrap_or_default(), &["vm", REPO, "job retry"]);
    until("nothing is owed", PATIENCE, || {
        (site.backstay.ok(&["notify", "list"]).as_array().map(Vec::len) == Some(0)).then_some(())
    });
    fs::rename(&away, site.repository()).expect("a folder that can be moved");
    receiver.until("recovery", "backup");
    site.backstay.ok(&["policy", "pause", "often"]);
    assert_eq!(receiver.ids("alarm", "backup").len(), 1);
    assert_eq!(receiver.ids("recovery", "backup").len(), 1);
}

#[test]
fn a_vm_without_a_good_point_is_told_of() {
    if !require_qemu() {
        return;
    }
    let receiver = Receiver::start();
    let site = install(&receiver, "good_point_within = \"2s\"\n");
    let _qsd = site.vm("vm", 1, 4 * MIB);
    let alarm = receiver.until("alarm", "good-point");
    says(alarm["text"].as_str().unwrap_or_default(), &["vm has no good restore point at all"]);
    site.backup("vm");
    receiver.until("recovery", "good-point");
}

#[test]
fn without_a_receiver_a_test_is_refused_with_advice() {
    let lab = Lab::new();
    let backstay = Backstay::start(&lab, "data");
    says(&backstay.refused(2, &["notify", "test"]), &["webhook", "[notify]"]);
}
