//! Limits by a clock that stands until somebody waits.
#![allow(clippy::unwrap_used)]

use super::*;

const MIB: usize = 1 << 20;

/// A time of the 20th of November 2026, a Friday.
fn at(time: &str) -> DateTime<Utc> {
    format!("2026-11-20T{time}Z").parse().unwrap()
}

fn rate(from: u32, to: u32, mib: u64) -> Rate {
    Rate { days: Rate::EVERY_DAY, from: from * 60, to: to * 60, bytes_per_second: mib << 20 }
}

fn on(days: u8, rate: Rate) -> Rate {
    Rate { days, ..rate }
}

fn pace(rates: Vec<Rate>, zone: &str) -> Pace {
    Pace::new(Timetable { rates, zone: zone.parse().unwrap() }, Arc::default())
}

/// Sends so many MiB from a time on, in slices that each wait for their turn, and answers when they are through.
fn send(pace: &Pace, from: DateTime<Utc>, mib: usize) -> DateTime<Utc> {
    let mut now = from;
    for _ in 0..mib * 16 {
        now += TimeDelta::from_std(pace.enter_at(now, MIB / 16).begins).unwrap();
    }
    now + TimeDelta::from_std(pace.enter_at(now, 0).ends).unwrap()
}

fn sent(rates: Vec<Rate>, from: &str, mib: usize) -> String {
    send(&pace(rates, "UTC"), at(from), mib).format("%d %H:%M:%S").to_string()
}

#[test]
fn a_limit_all_day_is_kept_to_the_second_over_midnight_too() {
    assert_eq!(sent(vec![rate(0, 0, 2)], "10:00:00", 120), "20 10:01:00");
    assert_eq!(sent(vec![rate(0, 0, 1)], "23:59:30", 60), "21 00:00:30");
}

#[test]
fn each_hour_has_its_own_and_outside_there_is_none() {
    let office = vec![rate(8, 18, 1), rate(12, 13, 4)];
    assert_eq!(sent(office.clone(), "07:59:00", 100_000), "20 07:59:00", "no limit before eight");
    // The lower of two counts: the pause at noon does not lift the limit.
    assert_eq!(sent(office, "12:59:00", 120), "20 13:01:00");
    let half = "half a minute with the limit, the rest at once";
    assert_eq!(sent(vec![rate(8, 18, 1)], "17:59:30", 500), "20 18:00:00", "{half}");
    assert_eq!(sent(vec![rate(22, 6, 1)], "05:59:00", 90), "20 06:00:00");
    // A minute at twenty, and what is left at five.
    assert_eq!(sent(vec![rate(0, 0, 20), rate(8, 18, 5)], "07:59:00", 1200 + 300), "20 08:01:00");
}

#[test]
fn days_are_those_on_which_the_hours_begin() {
    let (friday, weekend) = (1 << 5, 1 << 6 | 1);
    let workday = vec![on(friday, rate(22, 2, 1))];
    assert_eq!(sent(workday.clone(), "23:59:30", 60), "21 00:00:30", "Friday's night goes on on Saturday");
    let tomorrow = at("22:00:00") + TimeDelta::days(1);
    assert_eq!(send(&pace(workday, "UTC"), tomorrow, 60), tomorrow, "Saturday has none");
    // A whole day from one midnight to the other.
    assert_eq!(sent(vec![on(weekend, rate(0, 0, 1))], "23:59:00", 60), "20 23:59:00");
    let saturday = at("23:59:30") + TimeDelta::days(1);
    let all_day = pace(vec![on(1 << 6, rate(0, 0, 1))], "UTC");
    assert_eq!(send(&all_day, saturday, 60), saturday + TimeDelta::seconds(30), "and Sunday has none");
}

#[test]
fn hours_are_those_of_the_zone_also_when_the_clocks_change() {
    let mib = 60 * 120;
    let hours = |from, to| pace(vec![rate(from, to, 1)], "Europe/Berlin");
    // In autumn two to three comes twice: two hours with the limit.
    let autumn: DateTime<Utc> = "2026-10-25T00:00:00Z".parse().unwrap();
    assert_eq!(send(&hours(2, 3), autumn, mib), autumn + TimeDelta::hours(2));
    assert_eq!(send(&hours(2, 3), autumn, 2 * mib), autumn + TimeDelta::hours(2), "and none after them");
    // In spring it does not come at all.
    let spring: DateTime<Utc> = "2026-03-29T00:30:00Z".parse().unwrap();
    assert_eq!(send(&hours(2, 3), spring, mib), spring);
    assert_eq!(
        send(&hours(1, 4), spring, mib),
        spring + TimeDelta::minutes(90),
        "half an hour before two, and one after"
    );
    assert!("Europe/Berln".parse::<Zone>().unwrap_err().to_string().contains("not a time zone"));
}

#[test]
fn all_transfers_stand_in_one_line_and_nobody_pays_for_an_idle_hour() {
    let pace = pace(vec![rate(0, 0, 1)], "UTC");
    let (now, later) = (at("10:00:00"), at("11:00:04"));
    let turn = |begins, ends| Turn { begins: Duration::from_secs(begins), ends: Duration::from_secs(ends) };
    assert_eq!(pace.enter_at(now, 3 * MIB), turn(0, 3));
    assert_eq!(pace.enter_at(now, MIB), turn(3, 4));
    assert_eq!(pace.enter_at(now, MIB), turn(4, 5));
    assert_eq!(pace.enter_at(later, MIB), turn(0, 1));
    assert_eq!(pace.enter_at(later, MIB), turn(1, 2), "an hour without work is no credit");
    let none = Pace::new(Timetable::default(), Arc::clone(&pace.line));
    assert_eq!(none.enter_at(later, usize::MAX), Turn::default());
}

#[test]
fn those_in_one_line_are_together_no_faster_than_each_may_be() {
    let line = Arc::new(Line::default());
    let under = |rates| Pace::new(Timetable { rates, zone: Zone::Here }, Arc::clone(&line));
    let (slow, fast) = (under(vec![rate(0, 0, 1)]), under(vec![rate(0, 0, 4)]));
    let now = at("10:00:00");
    assert_eq!(slow.enter_at(now, 2 * MIB).ends, Duration::from_secs(2));
    assert_eq!(
        fast.enter_at(now, 4 * MIB).ends,
        Duration::from_secs(3),
        "a second for its own, behind the other's two"
    );
    assert_eq!(slow.enter_at(now, MIB).ends, Duration::from_secs(4));
}

#[test]
fn a_clock_that_was_set_back_leaves_what_is_ahead_as_it_is() {
    let pace = pace(vec![rate(0, 0, 1)], "UTC");
    let _first = pace.enter_at(at("10:00:00"), 5 * MIB);
    assert_eq!(pace.enter_at(at("09:00:00"), 0).begins, Duration::from_secs(5));
    assert_eq!(pace.enter_at(at("09:00:02"), 0).begins, Duration::from_secs(3));
}
