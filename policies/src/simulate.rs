//! A retention rule tried on a list of instants (`policy simulate`). Knows no restore point and no policy.

use chrono::{DateTime, Utc};

use crate::keep::{self, Item, Rule};

/// A list of instants that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "line {line}: `{text}` is not an RFC 3339 instant; write one a line, such as 2026-03-29T02:30:00+01:00"
)]
pub struct TimesError {
    line: usize,
    text: String,
}

/// One instant, and what the rule makes of it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Simulated {
    /// The instant, in the words of the list.
    pub time: String,
    /// It would be kept.
    pub keep: bool,
    /// Why it would, or would not.
    pub reasons: Vec<String>,
}

/// Applies the rule to a text with one RFC 3339 instant a line; the answer is in the order of the lines.
/// Empty lines and lines that begin with `#` are passed over. No instant counts as future.
///
/// # Errors
/// On the first line that is not an instant.
pub fn simulate(rule: &Rule, list: &str) -> Result<Vec<Simulated>, TimesError> {
    let lines = (1..).zip(list.lines().map(str::trim));
    let lines = lines.filter(|(_, text)| !text.is_empty() && !text.starts_with('#'));
    let read = |(line, text): (usize, &str)| match DateTime::parse_from_rfc3339(text) {
        Ok(at) => Ok((text.to_owned(), at.with_timezone(&Utc))),
        Err(_) => Err(TimesError { line, text: text.to_owned() }),
    };
    let times: Vec<(String, DateTime<Utc>)> = lines.map(read).collect::<Result<_, _>>()?;
    let items: Vec<Item<'_>> = times.iter().map(|(_, at)| Item::at(*at)).collect();
    let decisions = keep::decide(rule, &items, DateTime::<Utc>::MAX_UTC);
    let merge = |((time, _), decision): ((String, _), keep::Decision)| Simulated {
        time,
        keep: decision.keep,
        reasons: decision.reasons,
    };
    Ok(times.into_iter().zip(decisions).map(merge).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::keep::Style;

    #[test]
    fn the_answer_is_in_the_order_of_the_list() {
        let rule = Rule::parse("last=1,daily=2", Style::Restic).unwrap();
        let list =
            "# three days\n2026-01-01T10:00:00Z\n\n2026-01-03T10:00:00+02:00\r\n2026-01-02T10:00:00Z\n";
        let answer = simulate(&rule, list).unwrap();
        let short: Vec<_> = answer.iter().map(|s| (s.time.as_str(), s.keep, s.reasons.join("; "))).collect();
        assert_eq!(
            short,
            [
                ("2026-01-01T10:00:00Z", false, "beyond last=1; beyond daily=2".to_owned()),
                ("2026-01-03T10:00:00+02:00", true, "last snapshot; daily snapshot".to_owned()),
                ("2026-01-02T10:00:00Z", true, "daily snapshot".to_owned()),
            ]
        );
    }

    #[test]
    fn a_bad_line_is_named() {
        let rule = Rule::parse("last=1", Style::Restic).unwrap();
        let error = simulate(&rule, "2026-01-01T10:00:00Z\n2026-01-01 ten\n").unwrap_err();
        assert!(error.to_string().starts_with("line 2: `2026-01-01 ten`"), "{error}");
    }
}
