//! Proxmox's prune, as the backup server does it (`pbs-datastore/src/prune.rs`). Knows nothing of unfinished
//! backups: a restore point exists only when it is complete.
//!
//! The simulator in its documentation and the server part ways in one corner: a week over the end of a month,
//! where an older point of that month is kept already. The server takes the month as covered, and so do we.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::{Decision, Item, Period, Rule};
use crate::schedule;

pub(super) fn decide(rule: &Rule, items: &[Item<'_>], newest_first: &[usize]) -> Vec<Decision> {
    let mut marks: Vec<Option<Decision>> = vec![None; items.len()];
    // A protected backup takes no part: it neither covers a period nor uses up a count.
    let free: Vec<usize> = newest_first.iter().copied().filter(|&index| !items[index].held).collect();

    for &index in free.iter().take(rule.last.limit()) {
        marks[index] = Some(Decision { keep: true, reasons: vec!["keep-last".to_owned()] });
    }
    for (period, count) in Period::ALL.into_iter().zip(rule.periods).filter(|(_, count)| count.is_set()) {
        let number = |index: usize| number(period, items[index].at, rule.zone);
        let kept = |index: &usize| marks[*index].as_ref().is_some_and(|mark| mark.keep);
        let covered: HashSet<i64> = free.iter().copied().filter(kept).map(number).collect();
        let mut taken = HashSet::new();
        for &index in &free {
            if marks[index].is_some() || covered.contains(&number(index)) {
                continue;
            }
            if taken.contains(&number(index)) {
                // Decided for good: a later rule does not look at it again.
                let reason = format!("not the newest of its {}", period.noun());
                marks[index] = Some(Decision { keep: false, reasons: vec![reason] });
            } else if taken.len() == count.limit() {
                break;
            } else {
                taken.insert(number(index));
                marks[index] =
                    Some(Decision { keep: true, reasons: vec![format!("keep-{}", period.word())] });
            }
        }
    }
    let unclaimed = || Decision { keep: false, reasons: vec!["no rule keeps it".to_owned()] };
    marks.into_iter().map(|mark| mark.unwrap_or_else(unclaimed)).collect()
}

fn number(period: Period, at: DateTime<Utc>, zone: Tz) -> i64 {
    period.number(schedule::reading(zone, at))
}
