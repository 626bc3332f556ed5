//! Files that are right, that are wrong, and that change.

#![allow(clippy::unwrap_used)]

use chrono::TimeDelta;

use super::*;
use crate::policy::{Consistency, Hooks, Missed, Mode, Overlap};

const FULL: &str = r#"
[[policy]]
name = "nightly"
description = 'web servers, "prod"'
repositories = ["main", "offsite"]
consistency = "required"
priority = -2
blackout = ["12-24/01-02", "mon  08:00-12:00"]
concurrency = 4
deadline = "6h"
after = ["other"]
bandwidth = ["20M", "mon-fri  08:00-18:00 = 5MiB/s"]
retry = { attempts = 5, backoff = "2m" }
hooks = { before = "quiesce", after = "resume.sh", limit = "90s" }
select = { names = ["web-*"], labels = { env = "prod", "a b" = "*" }, hosts = ["h?"], exclude = ["web-test"] }
keep = { style = "restic", time_zone = "Europe/Berlin", last = 3, daily = 7, weekly = "all", yearly = -1, within = "30d", within_hourly = "2d", tags = ["legal", "a+b"] }

[[policy.schedules]]
cron = "30 2 * *   *"
time_zone = "Europe/Berlin"
mode = "incremental"
jitter = "90m"
window = ["22:00-06:00", "sat,sun  00:00-24:00"]
missed = "all"
overlap = "queue"

[[policy.schedules]]
cron = "@weekly"
mode = "full"

[[policy]]
name = "other"
paused = true
repositories = ["main"]
select.labels.tier = "db"
keep = "last=3,daily=7"
"#;

#[test]
fn a_full_file_is_read() {
    let policies = read(FULL).unwrap();
    let [nightly, other] = &policies[..] else { panic!("two policies") };
    assert_eq!(nightly.repositories, ["main", "offsite"]);
    assert_eq!(nightly.consistency, Consistency::Required);
    assert_eq!(nightly.select.labels["a b"], "*");
    let [first, second] = &nightly.schedules[..] else { panic!("two schedules") };
    assert_eq!((nightly.priority, nightly.concurrency), (-2, Some(4)));
    assert_eq!(
        (nightly.deadline, &nightly.after[..]),
        (Some(TimeDelta::hours(6)), &["other".to_owned()][..])
    );
    assert_eq!((nightly.retry.attempts, nightly.retry.backoff), (5, TimeDelta::minutes(2)));
    let hooks = Hooks {
        before: Some("quiesce".into()),
        after: Some("resume.sh".into()),
        limit: TimeDelta::seconds(90),
    };
    assert_eq!((&nightly.hooks, &other.hooks), (&hooks, &Hooks::default()));
    let limits: Vec<_> = nightly.bandwidth.iter().map(|it| (it.text(), it.bytes_per_second)).collect();
    assert_eq!(limits, [("20M", 20 << 20), ("mon-fri 08:00-18:00=5MiB/s", 5 << 20)]);
    assert!(other.bandwidth.is_empty());
    let zones = [first.key(), second.key(), "gone"].map(|key| nightly.zone(key).name());
    assert_eq!(zones, ["Europe/Berlin", "UTC", "Europe/Berlin"]);
    assert_eq!(nightly.blackout.spans().collect::<Vec<_>>(), ["12-24/01-02", "mon 08:00-12:00"]);
    assert_eq!(first.key(), "30 2 * * * Europe/Berlin");
    assert_eq!(second.key(), "@weekly");
    assert_eq!(first.jitter, TimeDelta::minutes(90));
    assert_eq!((first.mode, first.missed, first.overlap), (Mode::Incremental, Missed::All, Overlap::Queue));
    assert_eq!((second.mode, second.missed, second.overlap), (Mode::Full, Missed::Once, Overlap::Skip));
    let rule = nightly.keep.as_ref().unwrap();
    assert_eq!(
        rule.to_string(),
        "last=3,daily=7,weekly=all,yearly=all,within=30d,within-hourly=2d,tag=legal,tag=a+b"
    );
    assert_eq!(rule.zone, chrono_tz::Tz::Europe__Berlin);
    assert!(other.paused && other.schedules.is_empty());
    assert_eq!(other.consistency, Consistency::Filesystem);
}

#[test]
fn what_is_printed_is_read_back_and_printing_is_canonical() {
    let policies = read(FULL).unwrap();
    let printed = print(&policies);
    assert_eq!(read(&printed).unwrap(), policies);
    assert_eq!(print(&read(&printed).unwrap()), printed);
    let expected = r#"[[policy]]
name = "other"
paused = true
repositories = ["main"]
consistency = "filesystem"

[policy.select]
labels = { tier = "db" }

[policy.retry]
attempts = 3
backoff = "1m"
backoff_max = "30m"

[policy.keep]
style = "restic"
time_zone = "UTC"
last = 3
daily = 7
"#;
    assert_eq!(print(&policies[1..]), expected);
    // A name, a label or a description may hold anything a TOML string may.
    let odd = FULL.replace("web servers", "tab\\t, new line\\n, \\u0007, '''");
    let odd = odd.replace("'tab", "\"tab").replace(", \"prod\"'", "\"");
    let policies = read(&odd).unwrap();
    assert_eq!(read(&print(&policies)).unwrap(), policies);
}

#[test]
fn a_policy_is_a_table_too() {
    let mut policies = read(FULL).unwrap();
    policies[0].description = Some("several\n\n[policy.select]\nlines".to_owned());
    let table = table(&policies[0]);
    assert_eq!(table["name"].as_str(), Some("nightly"));
    assert_eq!(table["description"].as_str(), policies[0].description.as_deref());
    assert_eq!(table["keep"]["daily"].as_integer(), Some(7));
    assert_eq!(table["schedules"][1]["mode"].as_str(), Some("full"));
}

#[test]
fn one_policy_needs_no_header() {
    let policies = read("name = \"p\"\nrepositories = [\"r\"]\nselect.names = [\"*\"]\n").unwrap();
    assert_eq!(policies[0].name, "p");
}

#[test]
fn the_example_in_the_manual_is_right() {
    let source = include_str!("../file.rs");
    let example = source.split("```").nth(1).unwrap().trim_start_matches("toml");
    let example: String =
        example.lines().map(|line| line.trim_start_matches("//!").to_owned() + "\n").collect();
    assert_eq!(read(&example).unwrap().len(), 1);
}

/// A valid policy with one line put in: before the schedules, or at the end of the schedule.
fn with(head: &str, schedule: &str) -> String {
    format!(
        "[[policy]]\nname = \"p\"\nrepositories = [\"r\"]\nselect.names = [\"*\"]\n{head}\n\
         [[policy.schedules]]\ncron = \"0 2 * * *\"\n{schedule}\n"
    )
}

#[test]
fn mistakes_are_named_with_their_place() {
    assert!(read(&with("", "")).is_ok());
    for (text, expected) in [
        (with("schedule = []", ""), "line 5, column 1: unknown key `schedule`; did you mean `schedules`?"),
        (with("colour = []", ""), "line 5, column 1: unknown key `colour`; known here: name, "),
        (with("retry.attempt = 3", ""), "line 5, column 7: unknown key `attempt`; did you mean `attempts`?"),
        (with("retry.attempts = 0", ""), "line 5, column 18: `attempts` is a whole number from 1 to 20"),
        (with("retry.backoff = \"0s\"", ""), "line 5, column 17: `backoff` is more than nothing"),
        (
            with("retry = { backoff = \"5m\", backoff_max = \"1m\" }", ""),
            "`backoff_max` is less than `backoff`",
        ),
        (with("retry = 3", ""), "line 5, column 9: `retry` takes a table here, not an integer"),
        (with("priority = 10", ""), "line 5, column 12: `priority` is a whole number from -9 to 9"),
        (
            with("concurrency = \"2\"", ""),
            "line 5, column 15: `concurrency` is a whole number from 1 to 1000",
        ),
        (with("hooks.before = \"../sh\"", ""), "line 5, column 16: a hook's name has 1 to 64 letters"),
        (with("hooks.after = \".sh\"", ""), "line 5, column 15: a hook's name has 1 to 64 letters"),
        (with("hooks = {}", ""), "line 5, column 9: `hooks` names none"),
        (with("hooks = { after = \"a\", limit = \"25h\" }", ""), "line 5, column 9: a hook's `limit`"),
        (with("deadline = \"5\"", ""), "line 5, column 12: `5` is not a length of time"),
        (with("after = [\"p\"]", ""), "line 5, column 10: a policy cannot wait for itself"),
        (
            with("bandwith = \"20M\"", ""),
            "line 5, column 1: unknown key `bandwith`; did you mean `bandwidth`?",
        ),
        (
            with("bandwidth = [\"20M\", \"08:00-18:00 5M\"]", ""),
            "line 5, column 21: `08:00-18:00 5M` is not a limit of bandwidth; write what may go in a second, such as `20M`",
        ),
        (with("bandwidth = \"100K\"", ""), "line 5, column 13: `100K` is too low: at least 256K a second"),
        (with("bandwidth = 20", ""), "line 5, column 13: `bandwidth` is a list of strings, not an integer"),
        (with("select.name = []", ""), "line 5, column 8: unknown key `name`; did you mean `names`?"),
        (with("paused = \"yes\"", ""), "line 5, column 10: `paused` is true or false, not a string"),
        (
            with("consistency = \"required \"", ""),
            "line 5, column 15: `consistency` is crash or filesystem or required, not `required `; did you mean `required`?",
        ),
        (with("keep = \"dayly=7\"", ""), "line 5, column 8: `dayly` is not known; did you mean `daily`?"),
        (with("keep.dayly = 7", ""), "line 5, column 6: unknown key `dayly`; did you mean `daily`?"),
        (with("keep.daily = \"x\"", ""), "line 5, column 14: `daily=x`: a count is"),
        (
            with("keep.daily = 1.5", ""),
            "line 5, column 14: `daily` is a number or a text, not a number with a fraction",
        ),
        (with("keep = { style = \"proxmox\", within = \"3d\" }", ""), "`within` is restic's"),
        (with("keep = {}", ""), "line 5, column 8: `keep` says nothing"),
        (with("keep = 3", ""), "line 5, column 8: `keep` is a table or a text"),
        (
            with("", "mode = \"ful\""),
            "line 8, column 8: `mode` is auto or incremental or differential or full, not `ful`; did you mean `full`?",
        ),
        (
            with("", "time_zone = \"Europe/Berln\""),
            "line 8, column 13: `Europe/Berln` is not a time zone; use an IANA name such as `Europe/Berlin`",
        ),
        (
            with("", "timezone = \"UTC\""),
            "line 8, column 1: unknown key `timezone`; did you mean `time_zone`?",
        ),
        (with("", "jitter = \"15\""), "line 8, column 10: `15` is not a length of time"),
        (with("", "jitter = \"25h\""), "line 8, column 10: a jitter is at most 24h"),
        (with("", "jitter = 15"), "line 8, column 10: `jitter` takes a string here, not an integer"),
        (with("", "window = [\"22:00-06:00\", \"6-22\"]"), "line 8, column 26: `6-22` is not a window"),
        (
            with("", "window = \"12:00-13:00\""),
            "line 6, column 1: the window is closed whenever the schedule comes",
        ),
        (
            with("blackout = [\"2026-12-24\", \"24.12.\"]", ""),
            "line 5, column 27: `24.12.` is not a blackout; write `2026-12-24`",
        ),
        (
            with("blackout = \"01:00-03:00\"", ""),
            "line 6, column 1: the blackout covers the schedule whenever it comes",
        ),
        (
            with("", "overlap = \"cancel-elder\""),
            "line 8, column 11: `overlap` is skip or queue or cancel-older, not `cancel-elder`; did you mean `cancel-older`?",
        ),
        (
            with("", "[[policy.schedules]]\ncron = \"0  2 * * *\""),
            "line 8, column 1: two schedules of this policy are `0 2 * * *`",
        ),
        (with("", "[[policy.schedules]]\nmode = \"full\""), "line 8, column 1: the schedule has no `cron`"),
        (
            with("", "[[policy.schedules]]\ncron = \"0 25 * * *\""),
            "line 9, column 8: the hour field `25` is not understood",
        ),
        (
            with("schedules = {}", "").split("[[policy.s").next().unwrap().to_owned(),
            "line 5, column 13: `schedules` is a list of tables, not a table; write `[[…schedules]]`",
        ),
        ("".to_owned(), "line 1, column 1: the file has no policy"),
        ("[[policys]]\n".to_owned(), "line 1, column 3: unknown key `policys`; did you mean `policy`?"),
        ("[[policy]]\n".to_owned(), "line 1, column 1: the policy has no `name`"),
        ("[[policy]]\nname = \"a b\"\n".to_owned(), "line 2, column 8: a name has 1 to 64"),
        ("[[policy]]\nname = \"p\"\nselect = {}\n".to_owned(), "line 3, column 10: `select` names nothing"),
        ("[[policy]]\nname = \"p\nselect = {}\n".to_owned(), "line 2, column "),
        ("# ü\n[[policy]]\nname = \"p\" # ü\nname = \"q\"\n".to_owned(), "line 4, column 1: duplicate key"),
        (with("", "") + &with("", ""), "the file has two policies named `p`"),
        (with("", "").replace("[\"r\"]", "[]"), "the policy has no `repositories`"),
        (
            with("", "").replace("[\"r\"]", "[\"r\", \"r\"]"),
            "line 3, column 22: the repository `r` is empty or named twice",
        ),
        (
            with("", "").replace("[\"r\"]", "\"r\""),
            "line 3, column 16: `repositories` is a list of strings, not a string",
        ),
    ] {
        let error = read(&text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}\ngave:\n{error}\nnot:\n{expected}");
    }
}

#[test]
fn every_mistake_is_reported_at_once() {
    let error = read(&with("pausd = true\nkeep.last = \"x\"", "mode = \"f\"")).unwrap_err();
    let lines: Vec<usize> = error.problems.iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [5, 6, 9]);
}

#[test]
fn the_difference_is_told_field_by_field() {
    let old = read(FULL).unwrap();
    assert!(difference(&old, &old).is_empty());
    let mut new = old.clone();
    new[0].schedules.reverse();
    assert!(difference(&old, &new).is_empty(), "the order of schedules means nothing");

    let text = FULL
        .replace("\"other\"", "\"third\"")
        .replace("last = 3, ", "")
        .replace("\"full\"", "\"differential\"")
        .replace("env = \"prod\"", "env = \"test\"")
        .replace("12-24/01-02", "2026-12-24")
        .replace("[\"20M\", ", "[");
    let told = shown(&difference(&old, &read(&text).unwrap()));
    assert_eq!(
        told,
        [
            "nightly blackout: [\"12-24/01-02\", \"mon 08:00-12:00\"] -> [\"2026-12-24\", \"mon 08:00-12:00\"]",
            "nightly after: [\"other\"] -> [\"third\"]",
            "nightly bandwidth: [\"20M\", \"mon-fri 08:00-18:00=5MiB/s\"] -> [\"mon-fri 08:00-18:00=5MiB/s\"]",
            "nightly select.labels.env: \"prod\" -> \"test\"",
            "nightly schedules[@weekly].mode: \"full\" -> \"differential\"",
            "nightly keep.last: 3 -> (none)",
            "third added",
            "other removed",
        ]
    );
}

fn shown(changes: &[Change]) -> Vec<String> {
    let none = || "(none)".to_owned();
    let show = |change: &Change| match change {
        Change::Added { policy } => vec![format!("{policy} added")],
        Change::Removed { policy } => vec![format!("{policy} removed")],
        Change::Changed { policy, fields } => fields
            .iter()
            .map(|change| {
                let (from, to) =
                    (change.from.clone().unwrap_or_else(none), change.to.clone().unwrap_or_else(none));
                format!("{policy} {}: {from} -> {to}", change.field)
            })
            .collect(),
    };
    changes.iter().flat_map(show).collect()
}
