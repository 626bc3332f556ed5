//! The program against a server: its own `up` where nothing has to be backed up, a scripted one where something has.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use journal::log::{Entry, Log, Options};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

fn command(data: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backstay"));
    command.args(words).env("BACKSTAY_DATA", data).env_remove("BACKSTAY_SERVER").env_remove("BACKSTAY_LOG");
    command
}

fn backstay(data: &Path, words: &[&str]) -> Output {
    command(data, words).output().unwrap()
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", out(output), err(output)))
}

/// `backstay up`, ready.
struct Up(Child);

impl Up {
    fn start(data: &Path, words: &[&str]) -> Up {
        let words = [&["up"], words].concat();
        let mut child = command(data, &words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, format!("ready on unix://{}/backstay.sock\n", data.display()));
        Up(child)
    }

    fn stop(mut self) -> i32 {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        self.0.wait().unwrap().code().unwrap()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _ended_already = self.0.wait();
    }
}

#[test]
fn up_serves_until_it_is_told_to_stop_and_comes_back_with_the_next_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let up = Up::start(&data, &[]);
    for words in
        [&["vm", "list"][..], &["repo", "list"], &["point", "list"], &["policy", "list"], &["job", "list"]]
    {
        let output = backstay(&data, &[words, &["--json"]].concat());
        assert_eq!((status(&output), document(&output)), (0, json!([])), "{words:?}");
        assert!(out(&backstay(&data, words)).starts_with("no "), "{words:?}");
    }
    let verified = backstay(&data, &["journal", "verify", "--json"]);
    assert_eq!((status(&verified), &document(&verified)["ok"]), (0, &json!(true)));

    let second = backstay(&data, &["up"]);
    assert_eq!(status(&second), 1);
    assert!(err(&second).contains("is in use by process"), "{}", err(&second));
    assert_eq!(out(&second), "", "the other's socket is not ours to be ready on");

    assert_eq!(up.stop(), 0);
    assert_eq!(status(&backstay(&data, &["vm", "list"])), 5);

    let up = Up::start(&data, &[]);
    let log = backstay(&data, &["journal", "log", "--json"]);
    let kinds: Vec<String> = document(&log)
        .as_array()
        .unwrap()
        .iter()
        .map(|record| format!("{} {}", record["kind"].as_str().unwrap(), record["epoch"]))
        .collect();
    assert_eq!(kinds, ["Installed 1", "EpochBegan 1", "EpochBegan 2"]);
    assert_eq!(up.stop(), 0);
}

/// A journal in which VMs have no host yet, as the golden bytes have it.
fn write_journal_without_hosts(data: &Path) {
    let (log, _) = Log::open(&data.join("journal"), &Options::default()).unwrap();
    let formats = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/formats");
    let entry = |kind: u16| {
        let golden = std::fs::read_to_string(formats.join(format!("{kind:04x}-1.hex"))).unwrap();
        let golden = golden.lines().next().unwrap();
        let bytes =
            (0..golden.len()).step_by(2).map(|at| u8::from_str_radix(&golden[at..at + 2], 16).unwrap());
        Entry { kind, version: 1, epoch: 1, time: 0, body: bytes.collect() }
    };
    // Installed, EpochBegan, VmAdded.
    log.append_blocking([0x0001, 0x0002, 0x0010].map(entry).into()).unwrap();
}

#[test]
fn a_vm_of_an_older_journal_is_on_the_host_of_its_next_start_and_stays_there_under_any_name() {
    let folder = tempfile::tempdir().unwrap();
    let (data, config) = (folder.path().join("data"), folder.path().join("up.toml"));
    write_journal_without_hosts(&data);
    let host_under = |host: &str| {
        std::fs::write(&config, format!("host = \"{host}\"\n")).unwrap();
        let up = Up::start(&data, &["--config", config.to_str().unwrap()]);
        let vms = document(&backstay(&data, &["vm", "list", "--json"]));
        assert!(out(&backstay(&data, &["vm", "list"])).contains(host));
        assert_eq!(up.stop(), 0);
        (vms[0]["name"].clone(), vms[0]["host"].clone())
    };
    for host in ["kvm-1", "kvm-2", "kvm-2"] {
        assert_eq!(host_under(host), (json!("web"), json!(host)));
    }
    let log = document(&backstay(&data, &["journal", "log", "--data", data.to_str().unwrap(), "--json"]));
    let told = log.as_array().unwrap().iter().filter(|record| record["kind"] == "VmHosted");
    let told: Vec<&str> = told.map(|record| record["summary"].as_str().unwrap()).collect();
    assert_eq!(told, ["on host kvm-1", "on host kvm-2"]);
    std::fs::write(&config, "host = \"a b\"\n").unwrap();
    let refused = backstay(&data, &["up", "--config", config.to_str().unwrap()]);
    assert_eq!(status(&refused), 2);
    assert!(
        err(&refused).contains("line 1") && err(&refused).contains("not a valid host name"),
        "{}",
        err(&refused)
    );
}

#[test]
fn up_serves_a_data_folder_whose_sockets_paths_are_too_long() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("d".repeat(120));
    let up = Up::start(&data, &[]);
    assert_eq!(status(&backstay(&data, &["vm", "list"])), 0);
    assert_eq!(up.stop(), 0);
}

#[test]
fn what_is_not_there_ends_with_three_and_what_makes_no_sense_with_two() {
    let folder = tempfile::tempdir().unwrap();
    let _up = Up::start(folder.path(), &[]);
    for words in [
        &["vm", "show", "nobody"][..],
        &["vm", "remove", "nobody"],
        &["checkpoint", "list", "nobody"],
        &["point", "show", "p9"],
        &["point", "show", "nothing"],
        &["job", "show", "j9"],
        &["job", "watch", "j9"],
        &["policy", "show", "nothing"],
        &["repo", "check", "nowhere"],
        &["restore", "p9", "--to", "x"],
    ] {
        let output = backstay(folder.path(), &[words, &["--json"]].concat());
        assert_eq!(
            (status(&output), &document(&output)["error"]["code"]),
            (3, &json!("not-found")),
            "{words:?}"
        );
    }
    let policy = folder.path().join("policy.toml");
    std::fs::write(&policy, "[[policy]]\nnmae = 1\n").unwrap();
    let output = backstay(folder.path(), &["policy", "apply", "-f", policy.to_str().unwrap()]);
    assert_eq!(status(&output), 2, "{}", err(&output));
    assert!(err(&output).contains("policy.toml: "), "{}", err(&output));
}

/// In place of an answer: the connection ends without one, as when a server is killed.
const AWAY: &str = "away";

/// Answers by method and path; each has a row of answers, the last of which stays.
struct Scripted {
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Scripted {
    fn start(data: &Path, answers: &[(&str, Vec<Value>)]) -> Scripted {
        let listener = UnixListener::bind(data.join("backstay.sock")).unwrap();
        let mut answers: HashMap<String, Vec<Value>> =
            answers.iter().map(|(ask, answers)| ((*ask).to_owned(), answers.clone())).collect();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve(stream.unwrap(), &mut answers, &log);
            }
        });
        Scripted { asked }
    }

    fn body_of(&self, ask: &str) -> Value {
        let asked = self.asked.lock().unwrap();
        asked.iter().find(|(line, _)| line == ask).map(|(_, body)| body.clone()).unwrap()
    }
}

fn serve(
    mut stream: UnixStream,
    answers: &mut HashMap<String, Vec<Value>>,
    log: &Mutex<Vec<(String, Value)>>,
) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap() == 0 {
            return;
        }
    }
    let length =
        head.to_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).unwrap();
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let ask = format!("{method} {}", path.split('?').next().unwrap());
    log.lock().unwrap().push((ask.clone(), serde_json::from_slice(&body).unwrap_or(Value::Null)));
    let row = answers.get_mut(&ask).unwrap_or_else(|| panic!("{ask} is not in the script"));
    let answer = if row.len() > 1 { row.remove(0) } else { row[0].clone() };
    if answer == AWAY {
        return;
    }
    let answer = answer.to_string();
    let reply =
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}", answer.len());
    stream.write_all(reply.as_bytes()).unwrap();
}

fn job(id: &str, state: &str, revision: u64, more: &Value) -> Value {
    let mut job = json!({
        "id": id, "kind": "backup", "vm": "web", "state": state, "policy": null, "attempt": 1, "reason": null,
        "advice": null, "tries": [], "retries": null, "request": null, "priority": 0,
        "created": "2026-01-01T00:00:00Z", "started": null, "ended": null, "repository": "main", "point": null,
        "steps": [], "progress": null, "revision": revision,
    });
    job.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    job
}

fn point() -> Value {
    let disk = |name: &str, reason: Value| {
        let mode = if reason.is_null() { "incremental" } else { "full" };
        json!({ "name": name, "size": 1, "mode": mode, "reason": reason, "changed_bytes": 1, "read_bytes": 1,
                "stored_bytes": 1, "audited_chunks": 0 })
    };
    json!({
        "id": "p1", "vm": "web", "created": "2026-01-01T00:00:00Z", "repository": "main", "parent": null,
        "consistency": "crash", "snapshot": "00", "checkpoint": "c1", "policy": null, "held": false,
        "way": "backup-job", "suspect": null,
        "disks": [disk("vda", json!("first backup")), disk("vdb", Value::Null)], "left_out": [],
    })
}

#[test]
fn a_backup_is_followed_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let storing = json!({
        "steps": [{ "intent": "i1", "effect": "store", "outcome": null }],
        "progress": { "done": 5, "total": 10 },
    });
    let script = [
        ("POST /v1/backups", vec![json!({ "jobs": ["j1", "j2"] })]),
        (
            "GET /v1/jobs/j1",
            vec![
                job("j1", "queued", 1, &json!({})),
                job("j1", "running", 2, &storing),
                job("j1", "done", 3, &json!({ "point": "p1" })),
            ],
        ),
        ("GET /v1/jobs/j2", vec![job("j2", "failed", 9, &json!({ "reason": "no space left" }))]),
        ("GET /v1/points/p1", vec![point()]),
    ];
    let server = Scripted::start(folder.path(), &script);
    let asked =
        ["backup", "web", "db", "--repo", "main", "--after", "j7", "--after", "j8", "--wait", "--json"];
    let output = backstay(folder.path(), &asked);
    assert_eq!(status(&output), 1, "{}", err(&output));
    assert_eq!(
        document(&output),
        json!({ "jobs": [
            { "id": "j1", "vm": "web", "state": "done", "point": "p1", "reason": "vda: first backup" },
            { "id": "j2", "vm": "web", "state": "failed", "point": null, "reason": "no space left" },
        ] })
    );
    assert_eq!(
        server.body_of("POST /v1/backups"),
        json!({ "vms": ["web", "db"], "mode": "auto", "since": null, "repositories": ["main"],
                "consistency": "filesystem", "after": ["j7", "j8"] })
    );
}

#[test]
fn a_wait_outlives_a_restart_of_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let answers = vec![job("j1", "running", 1, &json!({})), json!(AWAY), job("j1", "done", 2, &json!({}))];
    let _server = Scripted::start(folder.path(), &[("GET /v1/jobs/j1", answers)]);
    let output = backstay(folder.path(), &["job", "watch", "j1", "--json"]);
    assert_eq!((status(&output), &document(&output)["state"]), (0, &json!("done")), "{}", err(&output));
}

#[test]
fn progress_is_told_in_lines_where_there_is_no_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let script = [
        ("POST /v1/backups", vec![json!({ "jobs": ["j1"] })]),
        (
            "GET /v1/jobs/j1",
            vec![job("j1", "queued", 1, &json!({})), job("j1", "done", 3, &json!({ "point": "p1" }))],
        ),
        ("GET /v1/points/p1", vec![point()]),
    ];
    let _server = Scripted::start(folder.path(), &script);
    let output = backstay(folder.path(), &["backup", "web", "--wait"]);
    assert_eq!(status(&output), 0);
    assert_eq!(err(&output), "j1 backup web: queued\nj1 backup web: done\n");
    assert_eq!(
        out(&output),
        "JOB  VM   STATE  POINT  MODE/REASON\nj1   web  done   p1     mixed: vda: first backup\n"
    );
}

#[test]
fn a_restore_adds_its_disks_up() {
    let folder = tempfile::tempdir().unwrap();
    let step = |written: u64| {
        json!({ "intent": "i", "effect": "restore",
                "outcome": { "Done": { "Restored": { "written_bytes": written, "verified": true } } } })
    };
    let script = [
        ("POST /v1/restores", vec![json!({ "jobs": ["j1"] })]),
        ("GET /v1/jobs/j1", vec![job("j1", "done", 1, &json!({ "steps": [step(10), step(5)] }))]),
        ("GET /v1/points/p1", vec![point()]),
    ];
    let server = Scripted::start(folder.path(), &script);
    let mut command = command(folder.path(), &["restore", "p1", "--to", "images", "--wait", "--json"]);
    let output = command.current_dir(folder.path()).output().unwrap();
    assert_eq!(status(&output), 0, "{}", err(&output));
    let to = folder.path().canonicalize().unwrap().join("images");
    assert_eq!(server.body_of("POST /v1/restores")["to"], json!(to));
    assert_eq!(
        document(&output),
        json!({ "point": "p1", "disk": null, "path": to, "written_bytes": 15, "verified": true, "disks": [
            { "disk": "vda", "written_bytes": 10, "verified": true },
            { "disk": "vdb", "written_bytes": 5, "verified": true },
        ] })
    );
}

#[test]
fn a_job_that_fails_is_an_error_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let failed = job("j1", "failed", 1, &json!({ "reason": "wrong password" }));
    let script =
        [("POST /v1/repositories", vec![json!({ "jobs": ["j1"] })]), ("GET /v1/jobs/j1", vec![failed])];
    let _server = Scripted::start(folder.path(), &script);
    let words = ["repo", "add", "main", "--path", "r", "--password-file", "p", "--json"];
    let output = backstay(folder.path(), &words);
    assert_eq!(status(&output), 1);
    assert_eq!(
        document(&output),
        json!({ "error": { "code": "failed", "message": "job j1 failed: wrong password" } })
    );
    assert_eq!(err(&output), "backstay: job j1 failed: wrong password\n");
}

#[test]
fn a_check_that_found_something_shows_it_and_ends_with_one() {
    let folder = tempfile::tempdir().unwrap();
    let outcome = json!({ "Done": { "Checked": { "problems": ["pack 12 is gone"] } } });
    let steps = json!({ "steps": [{ "intent": "i1", "effect": "check", "outcome": outcome }], "reason": "1 problem" });
    let script = [
        ("POST /v1/repositories/main/check", vec![json!({ "jobs": ["j1"] })]),
        ("GET /v1/jobs/j1", vec![job("j1", "failed", 1, &steps)]),
    ];
    let _server = Scripted::start(folder.path(), &script);
    let output = backstay(folder.path(), &["repo", "check", "main", "--json"]);
    assert_eq!(
        (status(&output), document(&output)),
        (1, json!({ "ok": false, "problems": ["pack 12 is gone"] }))
    );
}
