//! `restic forget` as restic 0.14 does it (`ApplyPolicy` in `internal/restic/snapshot_policy.go`), compared
//! with the program itself in `tests/restic.rs`. Knows nothing of holds.
//!
//! That version keeps no "oldest" point when a count is not used up; later ones do.

use chrono::{DateTime, Utc};

use super::{Count, Decision, Item, Period, Rule};
use crate::schedule;

/// One rule on its way from the newest point to the oldest.
struct Bucket {
    /// `None` for the rule `last`, in which each point is a period of its own.
    period: Option<Period>,
    limit: Limit,
    /// Number of the period last kept.
    current: Option<i64>,
}

enum Limit {
    /// So many periods are left, of so many.
    Count { left: usize, of: Count },
    /// Points later than the instant; the span as it is shown.
    After { cut: Option<DateTime<Utc>>, span: String },
}

pub(super) fn decide(
    rule: &Rule,
    items: &[Item<'_>],
    newest_first: &[usize],
    now: DateTime<Utc>,
) -> Vec<Decision> {
    // Where every point lies in the future, restic measures from the year 1 and so cuts nothing off.
    let newest = items.iter().map(|item| item.at).filter(|at| *at < now).max();
    let cut = |span: &super::Span| newest.and_then(|newest| span.before(newest, rule.zone));
    let mut buckets = buckets(rule, cut);
    let within = (!rule.within.is_zero()).then(|| cut(&rule.within));

    let mut decisions = vec![Decision { keep: false, reasons: Vec::new() }; items.len()];
    for &index in newest_first {
        let item = &items[index];
        let civil = schedule::reading(rule.zone, item.at);
        let (mut wanted, mut refused) = (Vec::new(), Vec::new());
        for tags in &rule.tags {
            match tags.iter().all(|tag| item.tags.contains(tag)) {
                true => wanted.push(format!("has tags [{}]", tags.join(", "))),
                false => refused.push(format!("lacks tags [{}]", tags.join(", "))),
            }
        }
        if let Some(cut) = within {
            match cut.is_none_or(|cut| item.at > cut) {
                true => wanted.push(format!("within {}", rule.within)),
                false => refused.push(format!("not within {}", rule.within)),
            }
        }
        for bucket in &mut buckets {
            match bucket.offer(item.at, bucket.period.map(|period| period.number(civil))) {
                Ok(reason) => wanted.push(reason),
                Err(reason) => refused.push(reason),
            }
        }
        let keep = !wanted.is_empty();
        decisions[index] = Decision { keep, reasons: if keep { wanted } else { refused } };
    }
    decisions
}

/// The rules that are set, in the order in which restic applies and reports them.
fn buckets(rule: &Rule, cut: impl Fn(&super::Span) -> Option<DateTime<Utc>>) -> Vec<Bucket> {
    let counted =
        std::iter::once((None, rule.last)).chain(Period::ALL.map(Some).into_iter().zip(rule.periods));
    let counted = counted.filter(|(_, count)| count.is_set()).map(|(period, of)| Bucket {
        period,
        limit: Limit::Count { left: of.limit(), of },
        current: None,
    });
    let within = Period::ALL.into_iter().zip(&rule.periods_within).filter(|(_, span)| !span.is_zero());
    let within = within.map(|(period, span)| Bucket {
        period: Some(period),
        limit: Limit::After { cut: cut(span), span: span.to_string() },
        current: None,
    });
    counted.chain(within).collect()
}

impl Bucket {
    /// Takes or refuses a point, with the reason. `number` is that of its period.
    fn offer(&mut self, at: DateTime<Utc>, number: Option<i64>) -> Result<String, String> {
        let word = self.period.map_or("last", Period::word);
        match &self.limit {
            Limit::Count { left: 0, of } => return Err(format!("beyond {word}={of}")),
            Limit::After { cut: Some(cut), span } if at <= *cut => {
                return Err(format!("not {word} within {span}"));
            }
            _ => {}
        }
        if let Some(period) = self.period
            && number == self.current
        {
            return Err(format!("not the newest of its {}", period.noun()));
        }
        self.current = number;
        match &mut self.limit {
            Limit::Count { left, .. } => {
                *left -= 1;
                Ok(format!("{word} snapshot"))
            }
            Limit::After { span, .. } => Ok(format!("{word} within {span}")),
        }
    }
}
