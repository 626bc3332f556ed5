//! The program itself, as far as it needs no server: exit statuses, JSON, the retention simulator, and the journal of a
//! stopped installation.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use journal::log::{Entry, Log, Options};
use journal::record::{EpochBegan, Installed};
use journal::{Installation, Record};
use serde_json::{Value, json};

fn backstay(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_backstay"))
        .args(words)
        .env_remove("BACKSTAY_SERVER")
        .env_remove("BACKSTAY_DATA")
        .output()
        .unwrap()
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
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", out(output)))
}

#[test]
fn what_cannot_be_read_is_a_usage_error() {
    for words in [
        &["frobnicate"][..],
        &["snapshot", "list", "web"],
        &["vm", "add", "web"],
        &["backup"],
        &["point", "show", ".."],
        &["--server", "https://backup.example", "vm", "list"],
        &["--server", "http://backup.example", "vm", "list"],
        &["--server", "backup.example", "vm", "list"],
        &["up", "--server", "unix:///x"],
        &["up", "--listen", "0.0.0.0:7070"],
    ] {
        let output = backstay(words);
        assert_eq!((status(&output), out(&output).as_str()), (2, ""), "{words:?}: {}", err(&output));
        assert!(!err(&output).is_empty());
    }
}

#[test]
fn a_usage_error_is_a_document_too() {
    for words in [&["vm", "frobnicate", "--json"][..], &["--json", "--server", "https://x", "vm", "list"]] {
        let output = backstay(words);
        assert_eq!(status(&output), 2);
        assert_eq!(document(&output)["error"]["code"], "usage", "{words:?}");
    }
}

#[test]
fn help_is_an_answer() {
    let output = backstay(&["--help"]);
    assert_eq!(status(&output), 0);
    assert!(out(&output).contains("5 server unreachable"), "{}", out(&output));
}

#[test]
fn a_server_that_is_not_there_ends_with_five_and_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let output = backstay(&["--data", data, "vm", "list"]);
    assert_eq!((status(&output), out(&output).as_str()), (5, ""));
    let message = err(&output);
    assert!(message.contains(&format!("unix://{data}/backstay.sock")), "{message}");
    assert!(message.contains("Start one with `backstay up`"), "{message}");

    let server = format!("unix://{data}/other.sock");
    let output = backstay(&["backup", "web", "--wait", "--json", "--server", &server]);
    assert_eq!(status(&output), 5);
    let error = &document(&output)["error"];
    assert_eq!(error["code"], "unreachable");
    assert!(error["message"].as_str().unwrap().contains("other.sock"));
}

#[test]
fn the_environment_names_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_backstay"))
        .args(["job", "list"])
        .env("BACKSTAY_DATA", folder.path())
        .env_remove("BACKSTAY_SERVER")
        .output()
        .unwrap();
    assert_eq!(status(&output), 5);
    assert!(err(&output).contains(folder.path().to_str().unwrap()));
}

#[test]
fn a_retention_rule_is_tried_without_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let times = folder.path().join("times");
    fs::write(&times, "2026-01-01T10:00:00Z\n2026-01-03T10:00:00Z\n2026-01-02T10:00:00Z\n").unwrap();
    let times = times.to_str().unwrap();
    let output = backstay(&["policy", "simulate", "--keep", "last=1,daily=2", "--times", times, "--json"]);
    assert_eq!(status(&output), 0, "{}", err(&output));
    let kept: Vec<(Value, Value)> = document(&output)
        .as_array()
        .unwrap()
        .iter()
        .map(|instant| (instant["time"].clone(), instant["keep"].clone()))
        .collect();
    let expected = [("2026-01-01", false), ("2026-01-03", true), ("2026-01-02", true)];
    assert_eq!(kept, expected.map(|(day, keep)| (json!(format!("{day}T10:00:00Z")), json!(keep))));
    assert_eq!(document(&output)[1]["reasons"], json!(["last snapshot", "daily snapshot"]));

    let output =
        backstay(&["policy", "simulate", "--keep", "daily=1", "--style", "proxmox", "--times", times]);
    assert_eq!(status(&output), 0);
    let keep = out(&output).lines().find(|line| line.starts_with("2026-01-03")).map(str::to_owned);
    assert_eq!(keep.as_deref(), Some("2026-01-03T10:00:00Z  keep  keep-daily"));
}

#[test]
fn a_bad_rule_and_a_bad_line_say_where() {
    let folder = tempfile::tempdir().unwrap();
    let times = folder.path().join("times");
    fs::write(&times, "2026-01-01T10:00:00Z\nyesterday\n").unwrap();
    let times = times.to_str().unwrap();
    let output = backstay(&["policy", "simulate", "--keep", "last=1", "--times", times]);
    assert_eq!(status(&output), 2);
    assert!(err(&output).contains("line 2: `yesterday`"), "{}", err(&output));
    let output = backstay(&["policy", "simulate", "--keep", "dayly=1", "--times", times]);
    assert_eq!(status(&output), 2);
    assert!(err(&output).contains("did you mean `daily`?"), "{}", err(&output));
    let output = backstay(&["policy", "simulate", "--keep", "last=1", "--times", "/nowhere/times"]);
    assert_eq!(status(&output), 3);
}

/// A journal of `installed` and `count` epochs in the data folder `data`.
fn write_journal(data: &Path, count: u64) {
    let (log, _) = Log::open(&data.join("journal"), &Options::default()).unwrap();
    let began =
        |pid: u64| Record::from(EpochBegan { pid: u32::try_from(pid).unwrap(), version: "0".repeat(100) });
    let records =
        [Record::from(Installed { installation: Installation(7) })].into_iter().chain((1..=count).map(began));
    let entries = records.map(|record| {
        let encoded = record.encode().unwrap();
        Entry { kind: encoded.kind, version: encoded.version, epoch: 1, time: 0, body: encoded.body }
    });
    log.append_blocking(entries.collect()).unwrap();
    drop(log);
}

#[test]
fn the_journal_of_a_stopped_installation_is_read_and_verified() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    write_journal(folder.path(), 4);

    let output = backstay(&["journal", "verify", "--data", data, "--json"]);
    assert_eq!(status(&output), 0, "{}", err(&output));
    assert_eq!(document(&output), json!({ "ok": true, "first": 1, "last": 5, "problems": [] }));

    let output = backstay(&["journal", "log", "--data", data, "--json"]);
    let records = document(&output);
    let seqs: Vec<u64> =
        records.as_array().unwrap().iter().map(|record| record["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5]);
    assert_eq!(
        (records[0]["kind"].as_str(), records[1]["body"]["body"]["pid"].as_u64()),
        (Some("Installed"), Some(1))
    );

    let output = backstay(&["journal", "log", "--data", data, "--vm", "web", "--json"]);
    assert_eq!((status(&output), document(&output)), (0, json!([])));
    let output = backstay(&["journal", "log", "--data", data]);
    assert_eq!(out(&output).lines().count(), 5);
    let output = backstay(&["journal", "log", "--data", data, "--follow"]);
    assert_eq!(status(&output), 2);
}

#[test]
fn a_damaged_journal_says_where_and_is_read_up_to_there() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    write_journal(folder.path(), 20);
    let segments = fs::read_dir(folder.path().join("journal")).unwrap().map(|entry| entry.unwrap().path());
    let segment =
        segments.filter(|path| path.extension().is_some_and(|ending| ending == "log")).min().unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    // Somewhere in the version of the tenth epoch.
    let (mut place, mut seen) = (0, 0);
    while seen < 10 {
        place += 1;
        if bytes[place..].starts_with(&[b'0'; 100]) {
            seen += 1;
            place += 99;
        }
    }
    bytes[place - 50] ^= 1;
    fs::write(&segment, bytes).unwrap();

    let output = backstay(&["journal", "verify", "--data", data, "--json"]);
    assert_eq!(status(&output), 1);
    let verified = document(&output);
    assert_eq!(
        (&verified["ok"], &verified["first"], &verified["last"]),
        (&json!(false), &json!(1), &json!(21))
    );
    let problem = &verified["problems"][0];
    assert_eq!(problem["seq"], 11);
    assert_eq!(problem["segment"].as_str(), segment.file_name().and_then(|name| name.to_str()));
    assert!(problem["offset"].as_u64().unwrap() > 0 && !problem["what"].as_str().unwrap().is_empty());

    let output = backstay(&["journal", "verify", "--data", data]);
    assert_eq!(status(&output), 1);
    assert!(out(&output).contains("WHAT"), "{}", out(&output));
    let output = backstay(&["journal", "log", "--data", data]);
    assert_eq!((status(&output), out(&output).lines().count()), (1, 10));
    assert!(err(&output).contains("damaged"), "{}", err(&output));
}

#[test]
fn a_folder_without_a_journal_is_not_found() {
    let folder = tempfile::tempdir().unwrap();
    let output = backstay(&["journal", "verify", "--data", folder.path().to_str().unwrap(), "--json"]);
    assert_eq!((status(&output), document(&output)["error"]["code"].clone()), (3, json!("not-found")));
}
