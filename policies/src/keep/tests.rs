//! Rules as text, Proxmox's turns, marks, and what no rule may do. restic's side is compared with the program
//! itself in `tests/restic.rs`.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn at(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap().with_timezone(&Utc)
}

/// Decides on instants and shows each as `+ reasons` or `- reasons`.
fn shown(rule: &str, style: Style, instants: &[&str]) -> Vec<String> {
    let rule = Rule::parse(rule, style).unwrap();
    let items: Vec<_> = instants.iter().map(|text| Item::at(at(text))).collect();
    decide(&rule, &items, DateTime::<Utc>::MAX_UTC).iter().map(show).collect()
}

fn show(decision: &Decision) -> String {
    format!("{} {}", if decision.keep { '+' } else { '-' }, decision.reasons.join(", "))
}

#[test]
fn restic_rules_stand_side_by_side() {
    let days =
        ["2026-01-03T12:00:00Z", "2026-01-03T06:00:00Z", "2026-01-02T12:00:00Z", "2025-12-31T12:00:00Z"];
    assert_eq!(
        shown("last=1,daily=2,yearly=3", Style::Restic, &days),
        [
            "+ last snapshot, daily snapshot, yearly snapshot",
            "- beyond last=1, not the newest of its day, not the newest of its year",
            "+ daily snapshot",
            "+ yearly snapshot",
        ]
    );
}

#[test]
fn proxmox_rules_work_in_turn() {
    // Two a day. `last` covers the 10th, `daily` goes on from the 9th, `weekly` from the week before that.
    let instants: Vec<String> = (1..=10)
        .rev()
        .flat_map(|day| [format!("2026-06-{day:02}T20:00:00Z"), format!("2026-06-{day:02}T08:00:00Z")])
        .collect();
    let instants: Vec<&str> = instants.iter().map(String::as_str).collect();
    let kept: Vec<(&str, String)> = instants
        .iter()
        .copied()
        .zip(shown("last=1,daily=2,weekly=1,monthly=1", Style::Proxmox, &instants))
        .filter(|(_, shown)| shown.starts_with('+'))
        .collect();
    assert_eq!(
        kept,
        [
            ("2026-06-10T20:00:00Z", "+ keep-last".to_owned()),
            ("2026-06-09T20:00:00Z", "+ keep-daily".to_owned()),
            ("2026-06-08T20:00:00Z", "+ keep-daily".to_owned()),
            // The 8th was a Monday, so the week before ends on the 7th. June is covered: no monthly one is left.
            ("2026-06-07T20:00:00Z", "+ keep-weekly".to_owned()),
        ]
    );
}

#[test]
fn proxmox_does_not_look_again_at_what_it_put_aside() {
    // `daily` puts the 06:00 one aside for good, so `monthly` finds January covered and takes December.
    assert_eq!(
        shown(
            "daily=1,monthly=1",
            Style::Proxmox,
            &["2026-01-03T12:00:00Z", "2026-01-03T06:00:00Z", "2026-01-01T00:00:00Z", "2025-12-01T00:00:00Z"]
        ),
        ["+ keep-daily", "- not the newest of its day", "- no rule keeps it", "+ keep-monthly"]
    );
}

#[test]
fn proxmox_weeks_over_the_end_of_a_month() {
    // The manual's example: the week is covered, so its part of June is not considered for June.
    assert_eq!(
        shown(
            "weekly=1,monthly=1",
            Style::Proxmox,
            &["2026-07-01T00:00:00Z", "2026-06-30T00:00:00Z", "2026-06-28T00:00:00Z"]
        ),
        ["+ keep-weekly", "- not the newest of its week", "+ keep-monthly"]
    );
    // Where the simulator would keep 30 June: June is covered by the 28th.
    assert_eq!(
        shown(
            "daily=1,weekly=1,monthly=1",
            Style::Proxmox,
            &["2026-07-01T00:00:00Z", "2026-06-30T00:00:00Z", "2026-06-28T00:00:00Z", "2026-05-01T00:00:00Z"]
        ),
        ["+ keep-daily", "- no rule keeps it", "+ keep-weekly", "+ keep-monthly"]
    );
}

/// Proxmox's algorithm once more, in its own terms: names of periods as text, marks as words.
fn proxmox_oracle(counts: &[(&str, u32); 6], newest_first: &[DateTime<Utc>]) -> Vec<bool> {
    let mut marks: Vec<&str> = vec![""; newest_first.len()];
    for (format, keep) in counts {
        let names: Vec<String> = newest_first.iter().map(|at| at.format(format).to_string()).collect();
        let covered: Vec<&String> =
            names.iter().zip(&marks).filter(|(_, mark)| **mark == "keep").map(|(name, _)| name).collect();
        let mut seen: Vec<&String> = Vec::new();
        for (name, mark) in names.iter().zip(&mut marks) {
            if !mark.is_empty() || covered.contains(&name) {
                continue;
            }
            if seen.contains(&name) {
                *mark = "remove";
                continue;
            }
            if seen.len() >= usize::try_from(*keep).unwrap() {
                break;
            }
            seen.push(name);
            *mark = "keep";
        }
    }
    marks.iter().map(|mark| *mark == "keep").collect()
}

#[test]
fn weeks_are_iso_weeks() {
    // 29 December 2025 is in the first week of 2026.
    let instants = ["2026-01-04T00:00:00Z", "2025-12-29T00:00:00Z", "2025-12-28T00:00:00Z"];
    assert_eq!(
        shown("weekly=9", Style::Restic, &instants),
        ["+ weekly snapshot", "- not the newest of its week", "+ weekly snapshot"]
    );
    assert_eq!(
        shown("weekly=9", Style::Proxmox, &instants),
        ["+ keep-weekly", "- not the newest of its week", "+ keep-weekly"]
    );
}

#[test]
fn periods_are_those_of_the_zone() {
    let items = [Item::at(at("2026-06-01T23:00:00Z")), Item::at(at("2026-06-01T21:00:00Z"))];
    let rule = Rule::parse("daily=2", Style::Restic).unwrap();
    let kept = |rule: &Rule| decide(rule, &items, DateTime::<Utc>::MAX_UTC).iter().filter(|d| d.keep).count();
    assert_eq!(kept(&rule), 1);
    assert_eq!(kept(&rule.in_zone(chrono_tz::Tz::Europe__Berlin)), 2);
}

#[test]
fn a_hold_and_the_last_good_point_are_kept_for_reasons_of_their_own() {
    let instants =
        ["2026-01-04T00:00:00Z", "2026-01-03T00:00:00Z", "2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z"];
    let mut items: Vec<_> = instants.iter().map(|text| Item::at(at(text))).collect();
    items[1].last_good = true;
    items[3].held = true;
    for (style, expected) in [
        (Style::Restic, ["+ last snapshot", "+ last good point", "- beyond last=1", "+ held"]),
        (Style::Proxmox, ["+ keep-last", "+ last good point", "- no rule keeps it", "+ held"]),
    ] {
        let rule = Rule::parse("last=1", style).unwrap();
        let decisions = decide(&rule, &items, DateTime::<Utc>::MAX_UTC);
        assert_eq!(decisions.iter().map(show).collect::<Vec<_>>(), expected);
    }
    // A protected backup takes nobody's place in Proxmox, and a kept one keeps both reasons.
    items[0].held = true;
    let decisions = decide(&Rule::parse("last=1", Style::Proxmox).unwrap(), &items, DateTime::<Utc>::MAX_UTC);
    assert_eq!(show(&decisions[0]), "+ held");
    assert_eq!(show(&decisions[1]), "+ keep-last, last good point");
}

#[test]
fn an_empty_rule_keeps_everything() {
    assert_eq!(shown("last=0,daily=0", Style::Restic, &["2026-01-01T00:00:00Z"]), ["+ policy is empty"]);
    assert_eq!(shown("last=0", Style::Proxmox, &["2026-01-01T00:00:00Z"]), ["+ keep-all"]);
    assert!(shown("last=1", Style::Restic, &[]).is_empty());
}

#[test]
fn future_points_do_not_stretch_a_span() {
    let items = [Item::at(at("2030-01-01T00:00:00Z")), Item::at(at("2026-01-01T00:00:00Z"))];
    let rule = Rule::parse("within=1d", Style::Restic).unwrap();
    let shown: Vec<_> = decide(&rule, &items, at("2026-02-01T00:00:00Z")).iter().map(show).collect();
    assert_eq!(shown, ["+ within 1d", "+ within 1d"]);
    let shown: Vec<_> = decide(&rule, &items, at("2031-01-01T00:00:00Z")).iter().map(show).collect();
    assert_eq!(shown, ["+ within 1d", "- not within 1d"]);
    // All in the future: restic measures from the year 1, and keeps all.
    assert!(decide(&rule, &items, at("2020-01-01T00:00:00Z")).iter().all(|d| d.keep));
}

#[test]
fn a_month_back_from_the_31st_runs_over() {
    let span = Span::parse("1m").unwrap();
    assert_eq!(span.before(at("2026-03-31T12:00:00Z"), chrono_tz::Tz::UTC), Some(at("2026-03-03T12:00:00Z")));
    let span = Span::parse("1y2m3d4h").unwrap();
    assert_eq!(span.before(at("2026-03-31T12:00:00Z"), chrono_tz::Tz::UTC), Some(at("2025-01-28T08:00:00Z")));
}

#[test]
fn rules_are_read_and_printed() {
    for (text, printed) in [
        ("last=3,daily=7", "last=3,daily=7"),
        (" keep-daily=7 , --keep-last=3 ", "last=3,daily=7"),
        ("yearly=all,hourly=-1", "hourly=all,yearly=all"),
        ("within=2h1y,within-monthly=90d", "within=1y2h,within-monthly=90d"),
        ("tag=a+b,tag=c", "tag=a+b,tag=c"),
        ("last=0", "last=0"),
    ] {
        let rule = Rule::parse(text, Style::Restic).unwrap();
        assert_eq!(rule.to_string(), printed);
        assert_eq!(Rule::parse(printed, Style::Restic).unwrap(), rule);
    }
}

#[test]
fn mistakes_are_named() {
    for (text, style, expected) in [
        ("", Style::Restic, "the rule is empty"),
        ("daily", Style::Restic, "`daily` lacks a value"),
        ("dayly=7", Style::Restic, "did you mean `daily`?"),
        ("daily=seven", Style::Restic, "a count is a number"),
        ("daily=-2", Style::Restic, "a count is a number"),
        ("daily=99999999999", Style::Restic, "a count is a number"),
        ("daily=", Style::Restic, "a count is a number"),
        ("last=1,last=2", Style::Restic, "`last` is given twice"),
        ("within=30", Style::Restic, "`30` is not a span"),
        ("within=30s", Style::Restic, "`30s` is not a span"),
        ("within=-3d", Style::Restic, "`-3d` is not a span"),
        ("within=", Style::Restic, "`` is not a span"),
        ("within-last=3d", Style::Restic, "is not known"),
        ("tag=a+", Style::Restic, "a tag is missing"),
        ("within=30d", Style::Proxmox, "`within` is restic's"),
        ("tag=a", Style::Proxmox, "`tag` is restic's"),
    ] {
        let error = Rule::parse(text, style).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

proptest! {
    #[test]
    fn proxmox_as_in_its_own_terms(
        hours in prop::collection::btree_set(0..9000_i64, 0..80),
        counts in prop::array::uniform6(0..5_u32),
    ) {
        prop_assume!(counts.iter().any(|count| *count > 0));
        let instants: Vec<_> =
            hours.iter().rev().map(|hour| DateTime::from_timestamp(1_735_000_000 + hour * 3000, 0).unwrap()).collect();
        let formats = ["%s", "%Y/%m/%d/%H", "%Y/%m/%d", "%G/%V", "%Y/%m", "%Y"];
        let expected = proxmox_oracle(&std::array::from_fn(|i| (formats[i], counts[i])), &instants);
        let mut rule = Rule::empty(Style::Proxmox);
        rule.last = Count::Of(counts[0]);
        rule.periods = std::array::from_fn(|i| Count::Of(counts[i + 1]));
        let items: Vec<_> = instants.iter().map(|at| Item::at(*at)).collect();
        let kept: Vec<_> = decide(&rule, &items, DateTime::<Utc>::MAX_UTC).iter().map(|d| d.keep).collect();
        prop_assert_eq!(kept, expected, "{}", rule);
    }

    #[test]
    fn whatever_the_rule(
        seconds in prop::collection::vec(0..80_000_000_i64, 0..60),
        counts in prop::array::uniform6(0..5_u32),
        marks in prop::collection::vec((prop::bool::weighted(0.1), prop::bool::weighted(0.1)), 60),
        proxmox in any::<bool>(),
    ) {
        let mut rule = Rule::empty(if proxmox { Style::Proxmox } else { Style::Restic });
        rule.last = Count::Of(counts[0]);
        rule.periods.iter_mut().zip(&counts[1..]).for_each(|(period, count)| *period = Count::Of(*count));
        let items: Vec<Item<'_>> = seconds.iter().zip(&marks)
            .map(|(second, (held, last_good))| Item {
                at: DateTime::from_timestamp(1_700_000_000 + second, 0).unwrap(),
                tags: &[], held: *held, last_good: *last_good,
            })
            .collect();
        let decisions = decide(&rule, &items, DateTime::<Utc>::MAX_UTC);

        prop_assert_eq!(decisions.len(), items.len());
        for (decision, item) in decisions.iter().zip(&items) {
            prop_assert!(!decision.reasons.is_empty(), "each has a reason");
            prop_assert!(decision.keep || !(item.held || item.last_good), "marked ones stay");
        }
        let by_rule = |d: &&Decision| d.reasons.iter().any(|r| r.ends_with("snapshot") || r.starts_with("keep-"));
        let total = usize::try_from(counts.iter().sum::<u32>()).unwrap();
        prop_assert!(decisions.iter().filter(by_rule).count() <= total, "no count is exceeded");
        if total > 0 && let Some(newest) = (0..items.len()).filter(|&i| !(proxmox && items[i].held)).max_by_key(|&i| items[i].at) {
            let newest = items[newest].at;
            prop_assert!(
                items.iter().zip(&decisions).any(|(item, decision)| item.at == newest && decision.keep),
                "the newest stays"
            );
        }
        // The order in which points are given means nothing, as long as no two share an instant.
        let distinct = items.iter().map(|item| item.at).collect::<std::collections::HashSet<_>>().len() == items.len();
        if distinct {
            let reversed: Vec<_> = items.iter().rev().copied().collect();
            let mut again = decide(&rule, &reversed, DateTime::<Utc>::MAX_UTC);
            again.reverse();
            prop_assert_eq!(again, decisions);
        }
    }
}
