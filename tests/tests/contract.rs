//! The command line's contract: what every command answers with `--json`, key by key and type by type, and with which
//! exit status. Scripts rely on it; whoever changes a shape here changes `docs/cli.md` too.

mod installation;

use std::fs;
use std::path::{Path, PathBuf};

use installation::{Installation, MIB, REPO, last_file, says, text, write};
use serde_json::{Value, json};
use tests::backstay::binary;
use tests::lab::{PATIENCE, require_qemu, until};
use tests::process::{Answer, answer};

/// A point as `point list` and `point show` tell it.
fn point() -> Value {
    json!({
        "id": "text", "vm": "text", "created": "time", "repository": "text", "parent": "text?", "consistency": "text",
        "snapshot": "text", "checkpoint": "text", "policy": "text?", "held": "flag",
        "way": "text", "suspect": "text?",
        "disks": [{ "name": "text", "size": "number", "mode": "text", "reason": "text?", "changed_bytes": "number",
                    "read_bytes": "number", "stored_bytes": "number", "audited_chunks": "number" }],
        "left_out": [{ "disk": "text", "reason": "text" }],
    })
}

fn job() -> Value {
    json!({
        "id": "text", "kind": "text", "vm": "text?", "state": "text", "policy": "text?", "attempt": "number",
        "reason": "text?", "created": "time", "started": "time?", "ended": "time?", "repository": "text?",
        "point": "text?", "steps": [{ "intent": "text", "effect": "text", "outcome": "any" }], "progress": "any",
        "revision": "number", "advice": "text?", "tries": [{ "ended": "time", "reason": "text" }],
        "retries": "text?", "request": "text?", "after": ["text"], "priority": "number",
    })
}

fn checkpoint() -> Value {
    json!({
        "name": "text", "created": "time", "by_hand": "flag",
        "disks": [{ "disk": "text", "bitmap": "text", "recording": "flag", "granularity": "number",
                    "dirty_bytes": "number", "memory_bytes": "number", "image_bytes": "number" }],
    })
}

fn vm() -> Value {
    json!({
        "id": "text", "name": "text", "qmp": "text", "guest_agent": "text?", "labels": "any", "added": "time",
        "points": "number", "last_point": "time?", "checkpoints": "number",
        "disks": [{ "name": "text", "node": "text", "size": "number?", "format": "text?", "note": "text?" }],
        "host": "text", "live": "text?", "unprotected": "text?",
    })
}

fn repository(created: bool) -> Value {
    let mut shape = json!({ "name": "text", "path": "text", "id": "text", "chunk_size": "number", "added": "time",
                            "points": "number", "append_only": "flag",
                            "limits": [{ "from_minute": "number", "to_minute": "number", "bytes_per_second": "number" }] });
    if created {
        shape["created"] = json!("flag");
    }
    shape
}

fn verified() -> Value {
    json!({ "ok": "flag", "first": "number", "last": "number",
            "problems": [{ "segment": "text", "offset": "number", "seq": "number", "what": "text", "advice": "text" }] })
}

fn freed() -> Value {
    json!({ "repository": "text", "job": "text", "dry_run": "flag", "freed_bytes": "number", "marked_bytes": "number",
            "copied_bytes": "number", "unused_bytes": "number", "packs_kept": "number", "packs_removed": "number",
            "packs_marked": "number", "packs_taken_back": "number", "first_due": "time?" })
}

fn findings() -> Value {
    json!([{ "vm": "text", "disk": "text?", "row": "text", "what": "text", "verdict": "text", "why": "text" }])
}

fn sides() -> Value {
    json!([{ "vm": "text", "disk": "text?", "thing": "text", "journal": "text?", "qemu": "text?", "repository": "text?",
             "files": "text?" }])
}

fn plan() -> Value {
    json!([{ "vm": "text", "step": "text", "rows": ["text"] }])
}

fn policy() -> Value {
    json!({ "name": "text", "applied": "time", "paused": "flag", "vms": ["text"], "next_run": "time?", "text": "text" })
}

/// Compares a document with its shape: the same keys, no more and no less, each of its type; `?` allows null.
#[track_caller]
fn has_shape(value: &Value, shape: &Value) {
    if let Err(why) = fits(value, shape, "") {
        panic!("{why}\nin {value:#}");
    }
}

fn fits(value: &Value, shape: &Value, at: &str) -> Result<(), String> {
    match (value, shape) {
        (Value::Object(found), Value::Object(wanted)) => {
            let keys = |map: &serde_json::Map<String, Value>| -> Vec<String> {
                let mut keys: Vec<String> = map.keys().cloned().collect();
                keys.sort();
                keys
            };
            if keys(found) != keys(wanted) {
                return Err(format!("{at}: keys {:?}, not {:?}", keys(found), keys(wanted)));
            }
            wanted.iter().try_for_each(|(key, shape)| fits(&found[key], shape, &format!("{at}.{key}")))
        }
        (Value::Array(found), Value::Array(wanted)) => {
            found.iter().try_for_each(|it| fits(it, &wanted[0], &format!("{at}[]")))
        }
        (_, Value::String(kind)) => {
            let (kind, null) = kind.strip_suffix('?').map_or((kind.as_str(), false), |kind| (kind, true));
            let is = match kind {
                "text" => value.is_string(),
                "number" => value.is_u64(),
                "flag" => value.is_boolean(),
                "time" => {
                    value.as_str().is_some_and(|text| chrono::DateTime::parse_from_rfc3339(text).is_ok())
                }
                _ => true,
            };
            let fits = is || (null && value.is_null());
            fits.then_some(()).ok_or_else(|| format!("{at} is {value}, not a {kind}"))
        }
        _ => Err(format!("{at} is {value}, not {shape}")),
    }
}

/// A command that needs no server: `--json` and its document.
fn offline(words: &[&str]) -> (i32, Value, Answer) {
    let mut command = std::process::Command::new(binary());
    command.arg("--json").args(words).env_remove("BACKSTAY_SERVER").env_remove("BACKSTAY_DATA");
    let answer = answer(&mut command, PATIENCE);
    let json = serde_json::from_str(&answer.out).unwrap_or(Value::Null);
    (answer.status, json, answer)
}

#[test]
fn vms_and_repositories() {
    if !require_qemu() {
        return;
    }
    let site = Installation::new();
    let qsd = tests::qsd::Qsd::start(&site.lab, tests::qsd::Options::new("vm", 1, MIB));
    let socket = text(&qsd.qmp_socket());
    let words = ["vm", "add", "vm", "--qmp", &socket, "--disk", "disk0=disk0", "--label", "env=test"];
    let added = site.backstay.ok(&words);
    has_shape(&added, &vm());
    assert_eq!(
        (&added["name"], &added["labels"], &added["qmp"]),
        (&json!("vm"), &json!({ "env": "test" }), &json!(socket))
    );
    has_shape(&site.backstay.ok(&["vm", "list"]), &json!([vm()]));
    let shown = site.backstay.ok(&["vm", "show", "vm"]);
    has_shape(&shown, &vm());
    assert_eq!(shown["disks"][0]["size"], MIB);
    says(shown["live"].as_str().unwrap_or_default(), &["QEMU", "runs"]);
    says(shown["unprotected"].as_str().unwrap_or_default(), &["scratch storage hangs", "disk0: "]);

    let second = site.path("second");
    let password = site.password();
    let words =
        ["repo", "add", "second", "--path", &second, "--password-file", &password, "--chunk-size", "512K"];
    let created = site.backstay.ok(&words);
    has_shape(&created, &repository(true));
    assert_eq!((&created["created"], &created["chunk_size"]), (&json!(true), &json!(512 << 10)));
    has_shape(&site.backstay.ok(&["repo", "list"]), &json!([repository(false)]));
    let checked = site.backstay.ok(&["repo", "check", REPO, "--read-data"]);
    assert_eq!(checked, json!({ "ok": true, "problems": [] }));
    let pruned = site.backstay.ok(&["repo", "prune", REPO]);
    has_shape(&pruned, &freed());
    let removed = site.backstay.ok(&["vm", "remove", "vm"]);
    has_shape(&removed, &json!({ "vm": "text", "job": "text" }));
    assert_eq!(site.backstay.ok(&["vm", "list"]), json!([]));
}

#[test]
fn backups_points_restores_and_jobs() {
    if !require_qemu() {
        return;
    }
    let mut site = Installation::new();
    site.backstay.expect_log("job failed");
    let qsd = site.vm("vm", 2, 4 * MIB);
    write(&qsd.file("disk0"), 0, 65536, 1);
    let jobs = json!({ "jobs": [{ "id": "text", "vm": "text", "state": "text", "point": "text?", "reason": "text?" }] });
    let first = site.backstay.ok(&[
        "backup",
        "vm",
        "--mode",
        "full",
        "--consistency",
        "crash",
        "--repo",
        REPO,
        "--wait",
    ]);
    has_shape(&first, &jobs);
    assert_eq!((&first["jobs"][0]["state"], &first["jobs"][0]["point"]), (&json!("done"), &json!("p1")));
    says(
        first["jobs"][0]["reason"].as_str().unwrap_or_default(),
        &["disk0: a full backup was asked for", "disk1: "],
    );
    let queued = site.backstay.ok(&["backup", "vm"]);
    has_shape(&queued, &jobs);
    let states = ["queued", "running", "paused", "done", "failed", "cancelled"];
    assert!(states.iter().any(|state| queued["jobs"][0]["state"] == *state), "{queued}");
    let id = queued["jobs"][0]["id"].as_str().expect("a job has an id");
    let watched = site.backstay.ok(&["job", "watch", id]);
    has_shape(&watched, &job());
    assert_eq!(watched["state"], "done");

    let points = site.backstay.ok(&["point", "list"]);
    has_shape(&points, &json!([point()]));
    assert_eq!(points, site.backstay.ok(&["point", "list", "vm"]));
    let (full, changed) = (&points[0], &points[1]);
    assert_eq!((&full["parent"], &changed["parent"]), (&Value::Null, &json!("p1")));
    assert_eq!((&full["disks"][0]["mode"], &full["disks"][0]["size"]), (&json!("full"), &json!(4 * MIB)));
    assert!(full["disks"][0]["stored_bytes"].as_u64() > Some(0), "{full}");
    assert_eq!(changed["disks"][0]["mode"], "incremental");
    assert!(changed["disks"][0]["reason"].is_null());
    has_shape(&site.backstay.ok(&["point", "show", "p1"]), &point());
    assert_eq!(site.backstay.ok(&["point", "hold", "p1"])["held"], true);
    let released = site.backstay.ok(&["point", "release", "p1"]);
    has_shape(&released, &point());
    assert_eq!(released["held"], false);

    restores(&site);
    let forgotten = site.backstay.ok(&["point", "forget", "p1"]);
    has_shape(&forgotten, &json!({ "point": "text", "job": "text" }));
    let all = site.backstay.ok(&["job", "list"]);
    has_shape(&all, &json!([job()]));
    let job_ids: Vec<u64> = all.as_array().into_iter().flatten().filter_map(number).collect();
    assert!(job_ids.len() > 5 && job_ids.is_sorted_by(|a, b| a > b), "newest first: {job_ids:?}");
    let id = all[0]["id"].as_str().expect("a job has an id");
    has_shape(&site.backstay.ok(&["job", "show", id]), &job());
    let over = site.backstay.run(&["job", "cancel", id]);
    assert!(over.status == 0 || over.json["error"]["code"].is_string(), "{} {}", over.status, over.json);
}

fn number(job: &Value) -> Option<u64> {
    job["id"].as_str()?.strip_prefix('j')?.parse().ok()
}

fn restores(site: &Installation) {
    let shape = json!({ "point": "text", "disk": "text?", "path": "text", "written_bytes": "number", "verified": "flag",
                        "disks": [{ "disk": "text", "written_bytes": "number", "verified": "flag" }] });
    let image = site.path("one.qcow2");
    let words = ["restore", "p1", "--disk", "disk0", "--to", &image, "--format", "qcow2", "--wait"];
    let one = site.backstay.ok(&words);
    has_shape(&one, &shape);
    assert_eq!(
        (&one["point"], &one["disk"], &one["path"], &one["verified"]),
        (&json!("p1"), &json!("disk0"), &json!(image), &json!(true))
    );
    assert!(one["written_bytes"].as_u64() >= Some(65536), "{one}");
    let again = site.backstay.ok(&[
        "restore",
        "p1",
        "--disk",
        "disk0",
        "--to",
        &image,
        "--format",
        "qcow2",
        "--in-place",
        "--wait",
    ]);
    assert_eq!(again["written_bytes"], 0, "in place only what differs is written: {again}");
    let folder = text(&site.lab.folder("images"));
    let all = site.backstay.ok(&["restore", "p1", "--to", &folder, "--wait"]);
    has_shape(&all, &shape);
    assert_eq!((&all["disk"], all["disks"].as_array().map(Vec::len)), (&Value::Null, Some(2)));
    let failed = site.backstay.run(&["restore", "p1", "--disk", "disk0", "--to", &image, "--wait"]);
    assert_eq!((failed.status, &failed.json["error"]["code"]), (1, &json!("failed")));
    has_shape(&failed.json, &json!({ "error": { "code": "text", "message": "text" } }));
    let queued = site.backstay.ok(&["restore", "p1", "--disk", "disk0", "--to", &site.path("later")]);
    has_shape(&queued, &json!({ "jobs": ["text"] }));
    site.backstay.ok(&["job", "watch", queued["jobs"][0].as_str().unwrap_or_default()]);
}

#[test]
fn checkpoints_and_the_doctor() {
    if !require_qemu() {
        return;
    }
    let site = Installation::new();
    let mut qsd = site.vm("vm", 1, 4 * MIB);
    site.backup("vm");
    let made = site.backstay.ok(&["checkpoint", "create", "vm"]);
    has_shape(&made, &checkpoint());
    assert_eq!((&made["name"], &made["by_hand"]), (&json!("c2"), &json!(true)));
    write(&qsd.file("disk0"), 0, 65536, 1);
    let chain = site.backstay.ok(&["checkpoint", "list", "vm"]);
    has_shape(&chain, &json!([checkpoint()]));
    let newest = &chain[1]["disks"][0];
    assert_eq!((&newest["recording"], &newest["dirty_bytes"]), (&json!(true), &json!(65536)), "{chain}");
    assert_eq!(chain[0]["disks"][0]["recording"], false);
    let deleted = site.backstay.ok(&["checkpoint", "delete", "vm", "c2"]);
    has_shape(&deleted, &json!({ "vm": "text", "checkpoint": "text", "job": "text" }));
    let left = site.backstay.ok(&["checkpoint", "list", "vm"]);
    let only = &left[0]["disks"][0];
    assert_eq!(
        (&only["recording"], &only["dirty_bytes"]),
        (&json!(true), &json!(65536)),
        "its bits are merged: {left}"
    );

    let well = site.backstay.ok(&["doctor"]);
    has_shape(
        &well,
        &json!({ "ok": "flag", "findings": findings(), "sides": sides(), "plan": plan(), "jobs": ["text"] }),
    );
    assert_eq!(well["ok"], true);
    let healed = site.backstay.ok(&["doctor", "vm", "--apply"]);
    has_shape(
        &healed,
        &json!({ "ok": "flag", "findings": findings(), "sides": sides(), "plan": plan(), "jobs": ["text"], "left": findings() }),
    );
    qsd.kill();
    let away = site.backstay.run(&["doctor", "vm"]);
    has_shape(
        &away.json,
        &json!({ "ok": "flag", "findings": findings(), "sides": sides(), "plan": plan(), "jobs": ["text"] }),
    );
    assert_eq!((away.status, &away.json["ok"]), (1, &json!(false)));
    // Null is what only QEMU knows.
    let unknown = &site.backstay.ok(&["checkpoint", "list", "vm"])[0]["disks"][0];
    assert_eq!((&unknown["recording"], &unknown["granularity"]), (&Value::Null, &Value::Null));
}

#[test]
fn exports() {
    if !require_qemu() {
        return;
    }
    let site = Installation::new();
    let _qsd = site.vm("vm", 1, 4 * MIB);
    let made = site.backstay.ok(&["checkpoint", "create", "vm"]);
    let export = |uri: &str, instant: &str, ended: &str| {
        json!({
            "id": "text", "vm": "text", "state": "text", "instant": instant, "expires": instant, "since": "text?",
            "way": "text?", "disks": [{ "disk": "text", "size": "number", "uri": uri, "bitmap": "text?",
                                        "reason": "text?" }],
            "left_out": [{ "disk": "text", "reason": "text" }], "reason": "text?", "ended": ended,
        })
    };
    let open =
        site.backstay.ok(&["export", "create", "vm", "--since", made["name"].as_str().expect("a name")]);
    has_shape(&open, &export("text", "time", "time?"));
    let disk = &open["disks"][0];
    says(disk["uri"].as_str().unwrap_or_default(), &["nbd+unix:///backstay.", "?socket=/"]);
    says(disk["bitmap"].as_str().unwrap_or_default(), &["qemu:dirty-bitmap:backstay."]);
    assert_eq!((&open["state"], &open["ended"]), (&json!("open"), &Value::Null));
    has_shape(&site.backstay.ok(&["export", "list"]), &json!([export("text?", "time?", "time?")]));
    let ended = site.backstay.ok(&["export", "remove", open["id"].as_str().expect("an id")]);
    has_shape(&ended, &export("text?", "time", "time"));
    assert_eq!((&ended["state"], &ended["disks"][0]["uri"]), (&json!("ended"), &Value::Null));
}

#[test]
fn policies() {
    if !require_qemu() {
        return;
    }
    let site = Installation::new();
    let _qsd = site.vm("vm", 1, MIB);
    let file = site.path("policy.toml");
    let write = |cron: &str| {
        let policy = format!(
            "name = \"nightly\"\nrepositories = [\"{REPO}\"]\nkeep = \"last=3\"\n[select]\nnames = [\"vm\"]\n\
             [[schedules]]\ncron = \"{cron}\"\n"
        );
        fs::write(&file, policy).expect("the lab's folder takes a file");
    };
    write("0 2 * * *");
    let changes = json!([{ "policy": "text", "change": "text", "details": ["text"] }]);
    let dry = site.backstay.ok(&["policy", "apply", "-f", &file, "--dry-run"]);
    has_shape(&dry, &changes);
    assert_eq!(dry[0]["change"], "added");
    assert_eq!(site.backstay.ok(&["policy", "list"]), json!([]));
    assert_eq!(site.backstay.ok(&["policy", "apply", "-f", &file])[0]["change"], "added");
    assert_eq!(site.backstay.ok(&["policy", "apply", "-f", &file])[0]["change"], "unchanged");
    write("0 3 * * *");
    let changed = site.backstay.ok(&["policy", "apply", "-f", &file]);
    has_shape(&changed, &changes);
    assert_eq!(changed[0]["change"], "changed");
    assert!(changed[0]["details"].as_array().is_some_and(|details| !details.is_empty()), "{changed}");

    has_shape(&site.backstay.ok(&["policy", "list"]), &json!([policy()]));
    let shown = site.backstay.ok(&["policy", "show", "nightly"]);
    has_shape(&shown, &policy());
    assert_eq!((&shown["vms"], &shown["paused"]), (&json!(["vm"]), &json!(false)));
    let days = ["--from", "2030-01-01T00:00:00Z", "--to", "2030-01-04T00:00:00Z"];
    let preview = |words: &[&str]| site.backstay.ok(&[&["policy", "preview"], words, &days].concat());
    let three = preview(&["nightly"]);
    let shape = json!({
        "runs": [{ "policy": "text", "schedule": "text", "vm": "text", "at": "time", "mode": "text" }],
        "not_run": [{ "policy": "text", "schedule": "text", "at": "time", "reason": "text" }],
        "load": [{ "hour": "time", "host": "text", "backups": "number" }],
    });
    has_shape(&three, &shape);
    assert_eq!(three["runs"].as_array().map(Vec::len), Some(3));
    assert_eq!(three, preview(&[]));
    assert_eq!(site.backstay.ok(&["policy", "pause", "nightly"])["paused"], true);
    let paused = preview(&[]);
    has_shape(&paused, &shape);
    assert_eq!(
        (paused["runs"].as_array().map(Vec::len), paused["not_run"].as_array().map(Vec::len)),
        (Some(0), Some(3))
    );
    let resumed = site.backstay.ok(&["policy", "resume", "nightly"]);
    has_shape(&resumed, &policy());
    assert_eq!(resumed["paused"], false);
    assert_eq!(site.backstay.ok(&["policy", "remove", "nightly"]), json!({ "policy": "nightly" }));
}

#[test]
fn the_retention_simulator_needs_no_server() {
    let lab = tests::lab::Lab::new();
    let times = lab.path("times");
    fs::write(&times, "2030-01-03T02:00:00Z\n2030-01-01T02:00:00Z\n2030-01-02T02:00:00Z\n")
        .expect("a new file");
    let (status, kept, said) = offline(&["policy", "simulate", "--keep", "last=2", "--times", &text(&times)]);
    assert_eq!(status, 0, "{}", said.err);
    has_shape(&kept, &json!([{ "time": "time", "keep": "flag", "reasons": ["text"] }]));
    let order: Vec<(&str, bool)> = kept
        .as_array()
        .into_iter()
        .flatten()
        .map(|it| (it["time"].as_str().unwrap_or_default(), it["keep"].as_bool().unwrap_or_default()))
        .collect();
    assert_eq!(
        order,
        [("2030-01-03T02:00:00Z", true), ("2030-01-01T02:00:00Z", false), ("2030-01-02T02:00:00Z", true)],
        "in the order of the file"
    );
    assert!(
        kept.as_array()
            .into_iter()
            .flatten()
            .all(|it| it["reasons"].as_array().is_some_and(|it| !it.is_empty()))
    );
    let proxmox =
        ["policy", "simulate", "--keep", "last=1,daily=1", "--style", "proxmox", "--times", &text(&times)];
    assert_eq!(offline(&proxmox).0, 0);
    let (status, error, _) = offline(&["policy", "simulate", "--keep", "lats=2", "--times", &text(&times)]);
    assert_eq!((status, &error["error"]["code"]), (2, &json!("usage")));
}

#[test]
fn the_journal_online_and_offline() {
    if !require_qemu() {
        return;
    }
    let mut site = Installation::new();
    let _qsd = site.vm("vm", 1, MIB);
    site.backup("vm");
    let log = site.backstay.ok(&["journal", "log"]);
    let record = json!({ "seq": "number", "epoch": "number", "time": "time", "kind": "text", "vm": "text?",
                         "summary": "text", "body": "any" });
    has_shape(&log, &json!([record]));
    let of_vm = site.backstay.ok(&["journal", "log", "--vm", "vm"]);
    let (all, some) = (log.as_array().map_or(0, Vec::len), of_vm.as_array().map_or(0, Vec::len));
    assert!(0 < some && some < all, "{some} of {all} records concern the VM");
    let online = site.backstay.ok(&["journal", "verify"]);
    has_shape(&online, &verified());
    assert_eq!((&online["ok"], &online["first"], &online["problems"]), (&json!(true), &json!(1), &json!([])));

    let data = text(site.backstay.data());
    let verify = ["journal", "verify", "--data", &data];
    site.backstay.stop();
    let (status, whole, _) = offline(&verify);
    has_shape(&whole, &verified());
    assert_eq!((status, &whole["ok"], &whole["first"]), (0, &json!(true), &json!(1)));
    let (status, again, _) = offline(&["journal", "log", "--data", &data]);
    has_shape(&again, &json!([record]));
    assert!(
        status == 0
            && again
                .as_array()
                .is_some_and(|again| again[..all] == log.as_array().map_or(&[][..], |it| it)[..])
    );

    let (segment, spot) = damage(&site, 40);
    let (status, harmed, _) = offline(&verify);
    has_shape(&harmed, &verified());
    assert_eq!((status, &harmed["ok"]), (1, &json!(false)));
    let problem = &harmed["problems"][0];
    assert_eq!(problem["segment"], json!(segment.file_name().and_then(|name| name.to_str())));
    assert!(
        problem["offset"].as_u64().is_some_and(|at| at <= spot),
        "the frame begins before the damage: {problem}"
    );
    assert!(problem["seq"].as_u64().is_some_and(|seq| (1..all as u64).contains(&seq)), "{problem}");
    let mut up = std::process::Command::new(binary());
    let refused = answer(up.args(["up", "--data", &data]), PATIENCE);
    assert_eq!(refused.status, 1, "a damaged journal is not run on");
    says(&refused.err, &[problem["segment"].as_str().unwrap_or_default(), "journal verify"]);
}

/// Turns one byte over, a part of the way (in percent) into what the newest segment holds.
fn damage(site: &Installation, percent: u64) -> (PathBuf, u64) {
    use std::os::unix::fs::FileExt;
    let folder = journal_folder(site.backstay.data());
    let segment = last_file(&folder, "log");
    let bytes = fs::read(&segment).expect("the server is stopped");
    let used = bytes.iter().rposition(|byte| *byte != 0).expect("a journal is not blank") as u64;
    let spot = used * percent / 100;
    let file = fs::File::options().write(true).open(&segment).expect("the server is stopped");
    let at = usize::try_from(spot).expect("a segment is small");
    file.write_all_at(&[bytes[at] ^ 0xff], spot).expect("a file takes a write");
    (segment, spot)
}

fn journal_folder(data: &Path) -> PathBuf {
    let folder = data.join("journal");
    assert!(folder.is_dir(), "{} is missing", folder.display());
    folder
}

#[test]
fn a_followed_log_shows_what_is_yet_to_come() {
    if !require_qemu() {
        return;
    }
    let site = Installation::new();
    let _qsd = site.vm("vm", 1, MIB);
    let out = site.lab.path("followed");
    let file = fs::File::create(&out).expect("the lab's folder takes a file");
    let mut follower = site
        .backstay
        .command(&["--json", "journal", "log", "--follow"])
        .stdout(file)
        .spawn()
        .unwrap_or_else(|error| panic!("backstay does not start: {error}"));
    site.backup("vm");
    let lines = until("the follower saw the backup's end", PATIENCE, || {
        let text = fs::read_to_string(&out).unwrap_or_default();
        text.contains("\"JobEnded\"").then_some(text)
    });
    let _ = follower.kill();
    let _ = follower.wait();
    for line in lines.lines().filter(|line| line.ends_with('}')) {
        let record: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(record["seq"].is_u64(), "one document a line: {line}");
    }
}

#[test]
fn a_person_reads_the_same_without_json() {
    if !require_qemu() {
        return;
    }
    let site = Installation::new();
    let _qsd = site.vm("vm", 1, MIB);
    site.backup("vm");
    for (words, said) in [
        (&["vm", "list"][..], "NAME"),
        (&["repo", "list"], "CHUNK"),
        (&["point", "list"], "p1"),
        (&["checkpoint", "list", "vm"], "c1"),
        (&["job", "list"], "backup"),
        (&["journal", "verify"], "the journal is whole"),
        (&["doctor"], "tracked"),
    ] {
        let answer = answer(&mut site.backstay.command(words), PATIENCE);
        assert_eq!(answer.status, 0, "{words:?}: {}", answer.err);
        says(&answer.out, &[said]);
    }
}
