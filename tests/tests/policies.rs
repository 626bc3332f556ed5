//! Policies on a real QEMU, by the clock: runs happen by themselves, old points expire, and every instant of a schedule
//! is accounted for in the journal, as a run or as a run that did not happen and why.

mod installation;

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use installation::{Installation, MIB, REPO, is_full, is_incremental, says, write};
use rustix::process::Signal;
use serde_json::{Value, json};
use tests::lab::{PATIENCE, require_qemu, until};

/// What the log says of an instant without a run.
const SKIPPED: &str = "run skipped";

/// Seconds between two instants of the schedule.
const EVERY: i64 = 2;

/// A policy for all VMs, every two seconds.
fn often(site: &Installation, more: &str) -> String {
    let file = site.path("often.toml");
    let policy = format!(
        "name = \"often\"\nrepositories = [\"{REPO}\"]\nconsistency = \"crash\"\nkeep = \"last=2\"\n\
         [select]\nnames = [\"*\"]\n[[schedules]]\ncron = \"@every {EVERY}s\"\n{more}"
    );
    fs::write(&file, policy).expect("the lab's folder takes a file");
    file
}

fn records(site: &Installation) -> Vec<Value> {
    match site.backstay.ok(&["journal", "log"]) {
        Value::Array(records) => records,
        other => panic!("no list of records: {other}"),
    }
}

/// Every instant that the journal speaks of, in seconds, with why nothing ran then, or `None` for a run.
fn accounts(records: &[Value]) -> BTreeMap<i64, Option<String>> {
    let mut accounts = BTreeMap::new();
    for record in records {
        let body = &record["body"]["body"];
        let (at, why) = match record["kind"].as_str() {
            Some("JobQueued") if body["due"]["policy"] == "often" => (&body["due"]["at"], None),
            Some("RunSkipped") => (&body["at"], Some(body["reason"].as_str().expect("a reason").to_owned())),
            _ => continue,
        };
        let at = at.as_i64().expect("microseconds");
        assert_eq!(at % 1_000_000, 0, "an instant of the schedule: {record}");
        assert_eq!(accounts.insert(at / 1_000_000, why), None, "answered for twice: {record}");
    }
    accounts
}

/// That no instant between the first and the last is missing, and how many there are.
#[track_caller]
fn is_gapless(accounts: &BTreeMap<i64, Option<String>>) -> usize {
    let instants: Vec<i64> = accounts.keys().copied().collect();
    for pair in instants.windows(2) {
        assert_eq!(pair[1] - pair[0], EVERY, "silently skipped after {}: {accounts:#?}", pair[0]);
    }
    instants.len()
}

/// Waits for a number of restore points that the policy made, expired or not: their numbers only grow.
#[track_caller]
fn until_point(site: &Installation, number: u64) {
    until(&format!("p{number} is made"), PATIENCE, || {
        let points = site.backstay.ok(&["point", "list"]);
        let newest = points
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|point| point["id"].as_str()?.strip_prefix('p')?.parse::<u64>().ok());
        (newest.max() >= Some(number)).then_some(())
    });
}

/// Lets some instants of the schedule pass: here time itself is what is waited for.
fn let_pass(instants: u64) {
    let start = Instant::now();
    let limit = Duration::from_secs(instants * EVERY.unsigned_abs());
    until("the clock goes on", PATIENCE, || (start.elapsed() > limit).then_some(()));
}

#[test]
fn backups_happen_by_themselves_and_old_ones_go() {
    if !require_qemu() {
        return;
    }
    let mut site = Installation::new();
    site.backstay.expect_log(SKIPPED);
    let qsd = site.vm("vm", 1, 4 * MIB);
    write(&qsd.file("disk0"), 0, 65536, 1);
    let applied = site.backstay.ok(&["policy", "apply", "-f", &often(&site, "")]);
    assert_eq!(applied[0]["change"], "added");
    until_point(&site, 1);
    let first = site.backstay.ok(&["point", "show", "p1"]);
    is_full(&first, "disk0", "the first backup of this disk");
    assert_eq!(first["policy"], "often");
    write(&qsd.file("disk0"), MIB, 65536, 2);
    until_point(&site, 5);
    site.pause("often");

    let points = site.backstay.ok(&["point", "list", "vm"]);
    let points = points.as_array().expect("a list");
    assert_eq!(points.len(), 2, "keep = last=2: {points:#?}");
    points.iter().for_each(|point| is_incremental(point, "disk0"));
    site.proves(&points[1], "disk0", &qsd.file("disk0"));
    assert_eq!(site.restic.snapshots().len(), 2);
    let records = records(&site);
    let told = |summary: &str| {
        records.iter().any(|it| it["summary"].as_str().is_some_and(|it| it.contains(summary)))
    };
    assert!(told("forget p1 (policy often: beyond last=2)"), "the reason is in the journal");
    assert!(told("delete-checkpoint c1"), "what no target needs is merged away");
    let chain = site.backstay.ok(&["checkpoint", "list", "vm"]);
    let bitmaps = chain.as_array().map_or(0, Vec::len);
    assert!((1..=2).contains(&bitmaps), "the chain does not grow with the backups: {chain}");
    assert!(is_gapless(&accounts(&records)) >= 5);
    assert_eq!(site.backstay.ok(&["repo", "prune", REPO])["repository"], REPO);
    site.restic.check();
}

#[test]
fn what_is_paused_says_so_and_goes_on_when_resumed() {
    if !require_qemu() {
        return;
    }
    let mut site = Installation::new();
    site.backstay.expect_log(SKIPPED);
    let _qsd = site.vm("vm", 1, MIB);
    site.backstay.ok(&["policy", "apply", "-f", &often(&site, "")]);
    until_point(&site, 1);
    site.pause("often");
    let before = site.backstay.ok(&["point", "list"]);
    let_pass(3);
    assert_eq!(site.backstay.ok(&["point", "list"]), before, "nothing runs while it is paused");
    let resumed = chrono::Utc::now().timestamp();
    assert!(site.backstay.ok(&["policy", "resume", "often"])["next_run"].is_string());
    until_point(&site, 3);
    site.pause("often");

    let accounts = accounts(&records(&site));
    is_gapless(&accounts);
    let paused = accounts.values().flatten().filter(|why| why.as_str() == "the policy is paused").count();
    assert!(paused >= 2, "a pause is no reason to make up for what was not to run: {accounts:#?}");
    let early = accounts.iter().find(|(at, why)| {
        **at < resumed - EVERY && why.is_some() && why.as_deref() != Some("the policy is paused")
    });
    assert_eq!(early, None, "{accounts:#?}");
}

#[test]
fn nothing_starts_in_a_blackout_and_each_run_that_does_not_is_recorded() {
    if !require_qemu() {
        return;
    }
    let mut site = Installation::new();
    site.backstay.expect_log(SKIPPED);
    let _qsd = site.vm("vm", 1, MIB);
    let file = often(&site, "");
    let text = fs::read_to_string(&file).expect("it was just written");
    fs::write(&file, format!("blackout = \"2000-01-01/2100-12-31\"\n{text}")).expect("a file");
    site.backstay.ok(&["policy", "apply", "-f", &file]);
    let dark = "in the policy's blackout `2000-01-01/2100-12-31`";
    let preview = site.backstay.ok(&["policy", "preview", "often"]);
    assert_eq!((&preview["runs"], &preview["not_run"][0]["reason"]), (&json!([]), &json!(dark)));
    until("several instants are answered for", PATIENCE, || {
        (accounts(&records(&site)).len() >= 3).then_some(())
    });
    let accounts_then = accounts(&records(&site));
    is_gapless(&accounts_then);
    assert!(accounts_then.values().all(|why| why.as_deref() == Some(dark)), "{accounts_then:#?}");

    fs::write(&file, text).expect("a file");
    site.backstay.ok(&["policy", "apply", "-f", &file]);
    until_point(&site, 1);
    site.pause("often");
    is_gapless(&accounts(&records(&site)));
}

#[test]
fn a_broken_file_changes_nothing_and_says_where() {
    let mut site = Installation::new();
    let file = site.path("broken.toml");
    let text = format!(
        "name = \"often\"\nrepositories = [\"{REPO}\"]\nkepe = \"last=2\"\n[select]\nnames = [\"*\"]\n\
         [[schedules]]\ncron = \"61 * * * *\"\nmode = \"incrementl\"\n"
    );
    fs::write(&file, text).expect("the lab's folder takes a file");
    let said = site.backstay.refused(2, &["policy", "apply", "-f", &file]);
    says(&said, &["broken.toml", "line 3, column 1", "unknown key `kepe`", "did you mean `keep`?"]);
    says(&said, &["line 7, column 8", "`61`", "0 to 59"]);
    says(&said, &["line 8, column 8", "`incrementl`", "did you mean `incremental`?"]);
    assert_eq!(site.backstay.ok(&["policy", "list"]), Value::Array(Vec::new()));
    fs::write(&file, "name = \"often\"\nrepositories = [\"main\"\n").expect("the lab's folder takes a file");
    says(&site.backstay.refused(2, &["policy", "apply", "-f", &file]), &["line "]);
    says(&site.backstay.refused(3, &["policy", "apply", "-f", &site.path("none.toml")]), &["none.toml"]);
    site.backstay.stop();
}

#[test]
fn a_run_that_meets_the_previous_one_is_recorded() {
    if !require_qemu() {
        return;
    }
    let mut site = Installation::new();
    for said in [SKIPPED, "job failed"] {
        site.backstay.expect_log(said);
    }
    let mut qsd = site.vm("vm", 1, MIB);
    site.backstay.ok(&["policy", "apply", "-f", &often(&site, "overlap = \"skip\"\n")]);
    until_point(&site, 1);
    qsd.process().signal(Signal::STOP);
    until("a run that meets a hanging one is recorded", PATIENCE, || {
        let accounts = accounts(&records(&site));
        let overlap = |why: &String| why == "the previous run is not over, and overlap = \"skip\"";
        accounts.values().flatten().any(overlap).then_some(())
    });
    qsd.process().signal(Signal::CONT);
    let made = site.backstay.ok(&["point", "list"]).as_array().map_or(0, Vec::len);
    until_point(&site, made as u64 + 2);
    site.pause("often");
    is_gapless(&accounts(&records(&site)));
}

#[test]
fn what_was_missed_while_nobody_was_there_is_accounted_for() {
    if !require_qemu() {
        return;
    }
    let mut site = Installation::new();
    for said in [SKIPPED, "the view", "job failed"] {
        site.backstay.expect_log(said);
    }
    let qsd = site.vm("vm", 1, 4 * MIB);
    site.backstay.ok(&["policy", "apply", "-f", &often(&site, "missed = \"once\"\n")]);
    until_point(&site, 2);
    let killed = chrono::Utc::now().timestamp();
    site.backstay.kill();
    write(&qsd.file("disk0"), 0, 65536, 7);
    let_pass(3);
    let back = chrono::Utc::now().timestamp();
    site.backstay.restart();
    until_point(&site, 4);
    site.pause("often");

    let accounts = accounts(&records(&site));
    is_gapless(&accounts);
    let missed: Vec<&Option<String>> = accounts.range(killed + 1..back - 1).map(|(_, why)| why).collect();
    assert!(missed.len() >= 2, "some instants fell into the gap: {accounts:#?}");
    let made_up = |why: &&&Option<String>| why.as_ref().is_some_and(|why| why.contains("makes up for it"));
    assert!(
        missed.iter().filter(made_up).count() + 1 >= missed.len(),
        "one run makes up for all: {accounts:#?}"
    );
    let points = site.backstay.ok(&["point", "list", "vm"]);
    let newest = points.as_array().and_then(|points| points.last()).expect("the newest");
    is_incremental(newest, "disk0");
    site.proves(newest, "disk0", &qsd.file("disk0"));
    assert_eq!(site.backstay.ok(&["journal", "verify"])["ok"], true);
}
