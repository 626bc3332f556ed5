//! Previews of whole fleets: the shape that `policy preview --json` promises, a change of the clocks, and speed.

#![allow(clippy::unwrap_used, missing_docs)]

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use policies::preview::preview;
use policies::select::Vm;
use policies::{Policy, file};
use serde_json::json;

fn at(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap().with_timezone(&Utc)
}

fn policies(text: &str) -> Vec<Policy> {
    file::read(text).unwrap()
}

/// Machines that are spread over some hosts, in turn.
fn fleet<'a>(names: &'a [String], hosts: &'a [String]) -> Vec<Vm<'a>> {
    names
        .iter()
        .zip(hosts.iter().cycle())
        .map(|(name, host)| Vm { name, labels: &[], host: Some(host) })
        .collect()
}

fn named(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}-{number}")).collect()
}

#[test]
fn the_shape_is_the_promised_one() {
    let policies = policies(
        r#"
        [[policy]]
        name = "nightly"
        repositories = ["main"]
        select.names = ["web-*"]
        schedules = [
            { cron = "30 2 * * *", time_zone = "Europe/Berlin", mode = "incremental" },
            { cron = "0 */12 * * *", window = "10:00-14:00" },
        ]

        [[policy]]
        name = "asleep"
        paused = true
        repositories = ["main"]
        select.names = ["*"]
        schedules = [{ cron = "@weekly", mode = "full" }]

        [[policy]]
        name = "nobody"
        repositories = ["main"]
        select.names = ["mail"]
        schedules = [{ cron = "@weekly" }]
        "#,
    );
    let names = ["web-2".to_owned(), "web-1".to_owned(), "db".to_owned()];
    let hosts = named("kvm", 2);
    let vms = fleet(&names, &hosts);
    // The night in which 02:30 does not exist.
    let preview = preview(&policies, &vms, at("2026-03-29T00:00:00Z"), at("2026-03-30T00:00:00Z")).unwrap();
    let run = |schedule: &str, vm: &str, at: &str, mode: &str| json!({"policy": "nightly", "schedule": schedule, "vm": vm, "at": at, "scheduled": at, "mode": mode, "caught_up": false});
    let berlin = "30 2 * * * Europe/Berlin";
    assert_eq!(
        serde_json::to_value(&preview).unwrap(),
        json!({
            "runs": [
                run(berlin, "web-1", "2026-03-29T01:00:00Z", "incremental"),
                run(berlin, "web-2", "2026-03-29T01:00:00Z", "incremental"),
                run("0 */12 * * *", "web-1", "2026-03-29T12:00:00Z", "auto"),
                run("0 */12 * * *", "web-2", "2026-03-29T12:00:00Z", "auto"),
            ],
            "not_run": [
                {"policy": "asleep", "schedule": "@weekly", "at": "2026-03-29T00:00:00Z", "reason": "the policy is paused"},
                {"policy": "nightly", "schedule": "0 */12 * * *", "at": "2026-03-29T00:00:00Z", "reason": "outside the schedule's window"},
                {"policy": "nobody", "schedule": "@weekly", "at": "2026-03-29T00:00:00Z", "reason": "the policy selects no VM"},
            ],
            "load": [
                {"hour": "2026-03-29T01:00:00Z", "host": "kvm-0", "backups": 1},
                {"hour": "2026-03-29T01:00:00Z", "host": "kvm-1", "backups": 1},
                {"hour": "2026-03-29T12:00:00Z", "host": "kvm-0", "backups": 1},
                {"hour": "2026-03-29T12:00:00Z", "host": "kvm-1", "backups": 1},
            ],
        })
    );
}

#[test]
fn a_month_of_a_thousand_machines_is_quick() {
    let (names, hosts) = (named("vm", 1000), named("kvm", 50));
    let vms = fleet(&names, &hosts);
    let (from, to) = (at("2026-03-01T00:00:00Z"), at("2026-04-01T00:00:00Z"));
    for (cron, runs) in [("30 2 * * *", 31_000), ("0 * * * *", 744_000)] {
        let policies = policies(&format!(
            "name = \"p\"\nrepositories = [\"r\"]\nselect.names = [\"vm-*\"]\n\
             schedules = [{{ cron = \"{cron}\", time_zone = \"Europe/Berlin\", jitter = \"30m\" }}]"
        ));
        let begun = Instant::now();
        let preview = preview(&policies, &vms, from, to).unwrap();
        println!("`{cron}`: {runs} runs in {:?}", begun.elapsed());
        assert_eq!(preview.runs.len(), runs);
        assert!(preview.runs.is_sorted_by_key(|run| run.at));
        assert!(preview.load.is_sorted_by_key(|load| (load.hour, load.host)));
        assert_eq!(preview.load.iter().map(|load| load.backups).sum::<usize>(), runs);
        assert!(begun.elapsed() < Duration::from_secs(10), "a preview that slow is not used");
    }
}

#[test]
fn one_machine_at_a_time_is_quick_too() {
    let policies = policies(
        "name = \"p\"\nrepositories = [\"r\"]\nselect.names = [\"*\"]\n\
         schedules = [{ cron = \"30 2 * * *\", time_zone = \"Europe/Berlin\" }]",
    );
    let schedule = &policies[0].schedules[0].schedule;
    let begun = Instant::now();
    let (from, to) = (at("2026-03-01T00:00:00Z"), at("2026-04-01T00:00:00Z"));
    let runs: usize = (0..1000).map(|_| schedule.between(from, to).count()).sum();
    println!("1000 x 31 days of one schedule: {runs} instants in {:?}", begun.elapsed());
    assert_eq!(runs, 31_000);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_range_too_long_is_refused() {
    let policies = policies(
        "name = \"p\"\nrepositories = [\"r\"]\nselect.names = [\"*\"]\nschedules = [{ cron = \"* * * * *\" }]",
    );
    let error = preview(&policies, &[], at("2026-01-01T00:00:00Z"), at("2126-01-01T00:00:00Z")).unwrap_err();
    assert!(error.to_string().contains("by 2027-11-26"), "{error}");
}

#[test]
fn the_load_says_what_comes_to_each_host_in_each_hour() {
    let policies = policies(
        r#"
        [[policy]]
        name = "rack"
        repositories = ["here", "there"]
        select.hosts = ["kvm-1", "kvm-2"]
        schedules = [{ cron = "50 1 * * *", jitter = "1h" }]

        [[policy]]
        name = "all"
        repositories = ["here"]
        select.names = ["*"]
        schedules = [{ cron = "5 2 * * *" }]
        "#,
    );
    let (names, hosts) = (named("vm", 900), named("kvm", 3));
    let mut vms = fleet(&names, &hosts);
    vms.push(Vm { name: "lost", labels: &[], host: None });
    let preview = preview(&policies, &vms, at("2026-03-01T00:00:00Z"), at("2026-03-02T00:00:00Z")).unwrap();
    let of = |hour: u32, host: Option<&str>| -> usize {
        let there = preview.load.iter().filter(|load| load.host == host);
        there
            .filter(|load| load.hour == at(&format!("2026-03-01T{hour:02}:00:00Z")))
            .map(|load| load.backups)
            .sum()
    };
    assert_eq!((of(1, None), of(2, None)), (0, 1));
    assert_eq!((of(1, Some("kvm-0")), of(2, Some("kvm-0"))), (0, 300));
    for host in ["kvm-1", "kvm-2"] {
        let (before, after) = (of(1, Some(host)), of(2, Some(host)));
        assert_eq!(before + after, 2 * 300 + 300, "two repositories, and the other policy");
        // Ten minutes of the hour over which the starts are spread.
        assert!((60..200).contains(&before), "{before} of {host}");
    }
    assert_eq!(preview.load.iter().map(|load| load.backups).sum::<usize>(), 901 + 2 * 600);
}
