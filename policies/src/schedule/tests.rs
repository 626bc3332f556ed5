//! Schedules against an oracle that walks every minute of civil and of real time, and the cases people ask about.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use chrono::Datelike;
use proptest::prelude::*;

use super::*;

fn at(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap().with_timezone(&Utc)
}

fn schedule(cron: &str, zone: &str) -> Schedule {
    Schedule::new(cron, self::zone(zone).unwrap()).unwrap()
}

/// The readings of the zone's clock at each instant, with the offset, as people would write them.
fn readings(cron: &str, zone: &str, from: &str, to: &str) -> Vec<String> {
    let schedule = schedule(cron, zone);
    let show = |at: DateTime<Utc>| at.with_timezone(&schedule.zone()).format("%d %H:%M %:::z").to_string();
    schedule.between(at(from), at(to)).map(show).collect()
}

/// Two days around each change of Berlin's clock in 2026.
const SPRING: (&str, &str) = ("2026-03-28T00:00:00+01:00", "2026-03-31T00:00:00+02:00");
const AUTUMN: (&str, &str) = ("2026-10-24T00:00:00+02:00", "2026-10-27T00:00:00+01:00");

#[test]
fn a_time_in_the_gap_runs_right_after_it() {
    let runs = readings("30 2 * * *", "Europe/Berlin", SPRING.0, SPRING.1);
    assert_eq!(runs, ["28 02:30 +01", "29 03:00 +02", "30 02:30 +02"]);
}

#[test]
fn a_repeated_time_runs_once_the_first_time() {
    let runs = readings("30 2 * * *", "Europe/Berlin", AUTUMN.0, AUTUMN.1);
    assert_eq!(runs, ["24 02:30 +02", "25 02:30 +02", "26 02:30 +01"]);
    let schedule = schedule("30 2 * * *", "Europe/Berlin");
    for between in ["2026-10-25T02:30:00+02:00", "2026-10-25T02:10:00+01:00", "2026-10-25T02:30:00+01:00"] {
        assert_eq!(schedule.next_after(at(between)), Some(at("2026-10-26T02:30:00+01:00")), "{between}");
    }
}

#[test]
fn several_times_in_one_gap_are_one_run() {
    let runs = readings("*/15 2 * * *", "Europe/Berlin", "2026-03-29T00:00:00+01:00", SPRING.1);
    assert_eq!(runs, ["29 03:00 +02", "30 02:00 +02", "30 02:15 +02", "30 02:30 +02", "30 02:45 +02"]);
}

#[test]
fn every_half_hour_stays_every_half_hour() {
    for (from, to) in [SPRING, AUTUMN] {
        let schedule = schedule("*/30 * * * *", "Europe/Berlin");
        let runs: Vec<_> = schedule.between(at(from), at(to)).collect();
        assert!(runs.windows(2).all(|pair| pair[1] - pair[0] == TimeDelta::minutes(30)));
        assert_eq!(runs.len(), usize::try_from((at(to) - at(from)).num_minutes() / 30).unwrap());
    }
    let runs =
        readings("*/30 * * * *", "Europe/Berlin", "2026-10-25T01:30:00+02:00", "2026-10-25T03:30:00+01:00");
    assert_eq!(
        runs,
        ["25 01:30 +02", "25 02:00 +02", "25 02:30 +02", "25 02:00 +01", "25 02:30 +01", "25 03:00 +01"]
    );
}

#[test]
fn every_second_hour_loses_none() {
    let runs =
        readings("0 */2 * * *", "Europe/Berlin", "2026-03-29T00:00:00+01:00", "2026-03-29T07:00:00+02:00");
    assert_eq!(runs, ["29 00:00 +01", "29 03:00 +02", "29 04:00 +02", "29 06:00 +02"]);
    let runs =
        readings("0 */2 * * *", "Europe/Berlin", "2026-10-25T00:00:00+02:00", "2026-10-25T05:00:00+01:00");
    assert_eq!(runs, ["25 00:00 +02", "25 02:00 +02", "25 04:00 +01"]);
}

#[test]
fn midnight_that_does_not_exist_and_a_day_that_does_not_exist() {
    let runs =
        readings("@daily", "America/Sao_Paulo", "2018-11-03T00:00:00-03:00", "2018-11-05T12:00:00-02:00");
    assert_eq!(runs, ["03 00:00 -03", "04 01:00 -02", "05 00:00 -02"]);
    // Samoa went from 29 December 2011 straight to the 31st.
    let runs =
        readings("0 12 * * *", "Pacific/Apia", "2011-12-29T00:00:00-10:00", "2012-01-01T00:00:00+14:00");
    assert_eq!(runs, ["29 12:00 -10", "31 00:00 +14", "31 12:00 +14"]);
}

#[test]
fn a_day_repeated_over_midnight_is_followed_by_the_clock() {
    // Paraguay's clocks went back at midnight, so 23:00 to 24:00 came twice, on the 27th.
    let runs =
        readings("0 * 27 3 *", "America/Asuncion", "2021-03-27T22:00:00-03:00", "2021-03-29T00:00:00-04:00");
    assert_eq!(runs, ["27 22:00 -03", "27 23:00 -03", "27 23:00 -04"]);
}

#[test]
fn days_follow_vixie_cron() {
    let days = |cron: &str| -> Vec<u32> {
        let schedule = schedule(cron, "UTC");
        schedule.between(at("2026-06-01T00:00:00Z"), at("2026-07-01T00:00:00Z")).map(|at| at.day()).collect()
    };
    assert_eq!(days("0 0 13 * fri"), [5, 12, 13, 19, 26], "both restricted: either");
    assert_eq!(days("0 0 */2 * fri"), [5, 19], "a star and a step is not restricted: both");
    assert_eq!(days("0 0 1-7 * *"), [1, 2, 3, 4, 5, 6, 7]);
    for sunday in ["0 0 * * 0", "0 0 * * 7", "0 0 * * SUN", "@weekly", "0 0 * * 7-7"] {
        assert_eq!(days(sunday), [7, 14, 21, 28], "{sunday}");
    }
    assert_eq!(days("0 0 * * sat-sun"), days("0 0 * * 6-7"));
    assert_eq!(days("0 0 * * 5-7"), [5, 6, 7, 12, 13, 14, 19, 20, 21, 26, 27, 28]);
    assert_eq!(days("0 0 * * mon-fri/2"), days("0 0 * * 1,3,5"));
    assert_eq!(days("@monthly"), [1]);
    assert_eq!(days("@hourly").len(), 30 * 24);
    assert_eq!(days("5/20 12 1 jan,JUN *"), [1, 1, 1]);
}

#[test]
fn rare_days_are_found() {
    let leap = schedule("0 0 29 2 *", "UTC");
    assert_eq!(leap.next_after(at("2096-02-29T00:00:00Z")), Some(at("2104-02-29T00:00:00Z")));
    let hourly = schedule("15 * 29 2 *", "Europe/Berlin");
    assert_eq!(hourly.next_after(at("2096-03-01T00:00:00Z")), Some(at("2104-02-29T00:15:00+01:00")));
    assert_eq!(
        schedule("@yearly", "UTC").next_after(at("2026-01-01T00:00:00Z")),
        Some(at("2027-01-01T00:00:00Z"))
    );
}

#[test]
fn mistakes_are_named() {
    for (cron, expected) in [
        ("", "has 0 fields"),
        ("* * * *", "has 4 fields"),
        ("0 * * * * *", "has 6 fields"),
        ("60 * * * *", "the minute field `60`"),
        ("* 24 * * *", "the hour field `24`"),
        ("* * 0 * *", "the day of month field `0`"),
        ("* * 32 * *", "the day of month field `32`"),
        ("* * * 13 *", "the month field `13`"),
        ("* * * * 8", "the weekday field `8`"),
        ("* * * * fr", "the weekday field `fr`"),
        ("* * * * fri-mon", "the weekday field `fri-mon`"),
        ("*/0 * * * *", "the minute field `*/0`"),
        ("* * * * */0", "the weekday field `*/0`"),
        ("30-10 * * * *", "the minute field `30-10`"),
        ("1,,2 * * * *", "the minute field `1,,2`"),
        ("* * ? * *", "the day of month field `?`"),
        ("* * L * *", "the day of month field `L`"),
        ("@dayly", "did you mean `@daily`"),
        ("0 0 30 2 *", "never comes"),
        ("0 0 31 4,6,9,11 *", "never comes"),
    ] {
        let error = Schedule::new(cron, Tz::UTC).unwrap_err().to_string();
        assert!(error.contains(expected), "{cron}: {error}");
    }
    assert!(zone("Europe/Berln").unwrap_err().to_string().contains("`Europe/Berlin`"));
}

/// A field as its text and, made independently of any parser, its values.
fn field(low: u32, high: u32) -> impl Strategy<Value = (String, BTreeSet<u32>)> {
    let all = move || (low..=high).collect::<BTreeSet<_>>();
    let range = (low..=high, low..=high).prop_map(|(a, b)| (a.min(b), a.max(b)));
    prop_oneof![
        3 => Just(("*".to_owned(), all())),
        1 => (2..=7_u32).prop_map(move |n| (format!("*/{n}"), (low..=high).filter(|v| (v - low).is_multiple_of(n)).collect())),
        2 => (low..=high).prop_map(|v| (v.to_string(), BTreeSet::from([v]))),
        1 => prop::collection::btree_set(low..=high, 1..4)
            .prop_map(|set| (set.iter().map(u32::to_string).collect::<Vec<_>>().join(","), set)),
        1 => (range, 1..=5_u32).prop_map(|((a, b), n)| {
            (format!("{a}-{b}/{n}"), (a..=b).filter(|v| (v - a).is_multiple_of(n)).collect())
        }),
    ]
}

const ZONES: [&str; 14] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
    "Pacific/Apia",
    "Africa/Casablanca",
    "America/Havana",
    "Asia/Beirut",
    "Antarctica/Troll",
    "Asia/Kathmandu",
    "Europe/Dublin",
    "America/Asuncion",
    "Asia/Gaza",
];

/// The first day of five to look at: around a change of the zone's clock in that year, if it has one.
fn start(zone: Tz, year: i32, which: usize) -> DateTime<Utc> {
    let new_year = at(&format!("{year}-01-01T00:00:00Z"));
    let day = |n: i64| new_year + TimeDelta::days(n);
    let changes: Vec<_> =
        (0..365).map(day).filter(|&d| offset(zone, d) != offset(zone, d + TimeDelta::days(1))).collect();
    if changes.is_empty() { day(59) } else { changes[which % changes.len()] - TimeDelta::days(2) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn agrees_with_a_walk_over_every_minute(
        minutes in field(0, 59), hours in field(0, 23), days in field(1, 31), weekdays in field(0, 6),
        zone in prop::sample::select(&ZONES[..]), year in 2006..2030_i32, which in 0..4_usize,
    ) {
        let zone = self::zone(zone).unwrap();
        let cron = format!("{} {} {} * {}", minutes.0, hours.0, days.0, weekdays.0);
        let Ok(schedule) = Schedule::new(&cron, zone) else { return Err(TestCaseError::fail(cron)) };
        let either = !days.0.starts_with('*') && !weekdays.0.starts_with('*');
        let matches = |civil: NaiveDateTime| {
            let (d, w) = (days.1.contains(&civil.day()), weekdays.1.contains(&civil.weekday().num_days_from_sunday()));
            minutes.1.contains(&civil.minute()) && hours.1.contains(&civil.hour()) && if either { d || w } else { d && w }
        };

        let from = start(zone, year, which);
        let to = from + TimeDelta::days(5);
        let instants: Vec<_> = (0..5 * 1440).map(|n| from + TimeDelta::minutes(n)).collect();
        let expected: BTreeSet<DateTime<Utc>> = if hours.1.len() == 24 {
            instants.iter().copied().filter(|&i| matches(reading(zone, i))).collect()
        } else {
            // The first instant that shows each reading; a reading that never shows takes the next that does.
            let mut shown = BTreeMap::new();
            for &instant in instants.iter().rev() {
                shown.insert(reading(zone, instant), instant);
            }
            let (first, last) = (reading(zone, from), reading(zone, to));
            let civil = std::iter::successors(Some(first), |c| Some(*c + TimeDelta::minutes(1)));
            civil.take_while(|c| *c < last).filter(|c| matches(*c))
                .filter_map(|c| shown.range(c..).next().map(|(_, at)| *at)).collect()
        };
        let actual: Vec<_> = schedule.between(from, to).collect();
        prop_assert!(actual.windows(2).all(|pair| pair[0] < pair[1]), "{} {}: not increasing", cron, zone);
        prop_assert_eq!(&actual, &expected.iter().copied().collect::<Vec<_>>(), "{} {} from {}", cron, zone, from);
        // And asking from any instant gives the next of the same list.
        for (n, instant) in instants.iter().enumerate().step_by(97) {
            let odd = *instant + TimeDelta::seconds(i64::try_from(n % 60).unwrap());
            if let Some(next) = expected.iter().find(|e| **e > odd) {
                prop_assert_eq!(schedule.next_after(odd), Some(*next), "{} {} after {}", cron, zone, odd);
            }
        }
    }
}

#[test]
fn every_is_real_time_and_needs_a_length() {
    let schedule = Schedule::new("@every  15s", chrono_tz::Europe::Berlin).unwrap();
    assert_eq!(schedule.cron(), "@every 15s");
    let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
    assert_eq!(schedule.next_after(at("2026-10-25T00:59:59Z")), Some(at("2026-10-25T01:00:00Z")));
    assert_eq!(schedule.next_after(at("2026-10-25T01:00:00Z")), Some(at("2026-10-25T01:00:15Z")));
    assert_eq!(schedule.next_after(at("1969-12-31T23:59:50.5Z")), Some(at("1970-01-01T00:00:00Z")));
    for bad in ["@every", "@every 0s", "@every -5m", "@every 15", "@every 40d", "@every day"] {
        assert!(Schedule::new(bad, Tz::UTC).is_err(), "{bad}");
    }
}
