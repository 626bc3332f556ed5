//! Retention: which restore points stay, and why each does or does not. Knows a point as an instant with
//! tags and marks; nothing of machines, chains or repositories, and deletes nothing.
//!
//! Two styles, because people come with either in mind:
//!
//! - **restic** (`restic forget`, 0.14): every rule looks at all points, and a point stays if one rule wants it.
//! - **proxmox** (`prune`): rules work in turn, and each passes over the periods that those before it covered.
//!
//! In both, a count of periods counts only periods that have a point, and the newest point of a period stands
//! for it. Periods are those of the rule's time zone.

mod proxmox;
mod restic;
mod rule;
mod span;
#[cfg(test)]
mod tests;

use chrono::{DateTime, Datelike, NaiveDateTime, Timelike, Utc};

pub use rule::{Count, Period, Rule, RuleError, Style};
pub use span::{Span, SpanError};

/// A restore point, as far as retention is concerned.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// The instant it shows.
    pub at: DateTime<Utc>,
    /// Its tags.
    pub tags: &'a [String],
    /// An operator holds it: it stays until released. In proxmox style it takes nobody's place in a count, as
    /// a protected backup there; in restic style it counts as any other, as one kept by a tag does.
    pub held: bool,
    /// The newest good point of its machine, which stays whatever the rule says.
    pub last_good: bool,
}

impl Item<'_> {
    /// A point with nothing but its instant.
    #[must_use]
    pub fn at(at: DateTime<Utc>) -> Self {
        Self { at, tags: &[], held: false, last_good: false }
    }
}

/// What becomes of one point.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Decision {
    /// It stays.
    pub keep: bool,
    /// Why it stays, in the words of the style (`daily snapshot`; `keep-daily`), or for each rule why it does not.
    pub reasons: Vec<String>,
}

/// Decides for all points of one machine in one repository, in the order given. Points later than `now` do
/// not stretch the `within` rules, as in restic. Points of one instant keep their order.
#[must_use]
pub fn decide(rule: &Rule, items: &[Item<'_>], now: DateTime<Utc>) -> Vec<Decision> {
    let mut newest_first: Vec<usize> = (0..items.len()).collect();
    newest_first.sort_by_key(|&index| std::cmp::Reverse(items[index].at));
    let all = |reason: &str| vec![Decision { keep: true, reasons: vec![reason.to_owned()] }; items.len()];
    let mut decisions = match rule.style {
        Style::Restic if rule.is_empty() => all("policy is empty"),
        Style::Restic => restic::decide(rule, items, &newest_first, now),
        Style::Proxmox if rule.is_empty() => all("keep-all"),
        Style::Proxmox => proxmox::decide(rule, items, &newest_first),
    };
    for (decision, item) in decisions.iter_mut().zip(items) {
        for (marked, reason) in [(item.held, "held"), (item.last_good, "last good point")] {
            if marked {
                decision.spare(reason);
            }
        }
    }
    decisions
}

impl Decision {
    /// Keeps the point for a reason of its own; what spoke against it no longer matters.
    fn spare(&mut self, reason: &str) {
        if !self.keep {
            self.keep = true;
            self.reasons.clear();
        }
        self.reasons.push(reason.to_owned());
    }
}

impl Period {
    /// A number that two civil times share exactly when they lie in the same period. Weeks are ISO weeks. The
    /// two passes through a repeated hour are one hour, as in restic and Proxmox.
    fn number(self, civil: NaiveDateTime) -> i64 {
        let (year, month, day) = (i64::from(civil.year()), i64::from(civil.month()), i64::from(civil.day()));
        match self {
            Period::Hour => ((year * 100 + month) * 100 + day) * 100 + i64::from(civil.hour()),
            Period::Day => (year * 100 + month) * 100 + day,
            Period::Week => i64::from(civil.iso_week().year()) * 100 + i64::from(civil.iso_week().week()),
            Period::Month => year * 100 + month,
            Period::Year => year,
        }
    }
}
