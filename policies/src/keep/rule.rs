//! A retention rule and its text, `last=3,daily=7,within=30d`. Decides nothing.

use std::fmt;

use chrono_tz::Tz;

use super::span::{Span, SpanError};
use crate::policy::words;
use crate::suggest;

words! {
    /// Whose retention a rule follows.
    Style, default Restic {
        /// Rules side by side (`restic forget`).
        Restic = "restic",
        /// Rules in turn (Proxmox `prune`).
        Proxmox = "proxmox",
    }
}

/// What a count counts, besides the points themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// The hour of the clock.
    Hour,
    /// The date.
    Day,
    /// The ISO week, from Monday.
    Week,
    /// The month.
    Month,
    /// The year.
    Year,
}

impl Period {
    /// From the shortest to the longest, the order in which rules are applied and shown.
    pub const ALL: [Period; 5] = [Period::Hour, Period::Day, Period::Week, Period::Month, Period::Year];

    /// `hourly` … `yearly`.
    #[must_use]
    pub fn word(self) -> &'static str {
        ["hourly", "daily", "weekly", "monthly", "yearly"][self as usize]
    }

    /// `hour` … `year`.
    #[must_use]
    pub fn noun(self) -> &'static str {
        ["hour", "day", "week", "month", "year"][self as usize]
    }
}

/// How many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// This many; 0 is as if it were not said.
    Of(u32),
    /// No end. Written `all` or `-1`, as in restic 0.16 and later. (restic 0.14 takes `-1` without a word and
    /// then keeps *nothing* for it; that we do not follow.)
    All,
}

impl Default for Count {
    fn default() -> Self {
        Count::Of(0)
    }
}

impl Count {
    /// True when it asks for anything.
    #[must_use]
    pub fn is_set(self) -> bool {
        self != Count::Of(0)
    }

    /// The most that may be kept.
    pub(super) fn limit(self) -> usize {
        match self {
            Count::Of(number) => usize::try_from(number).unwrap_or(usize::MAX),
            Count::All => usize::MAX,
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Count::Of(number) => write!(f, "{number}"),
            Count::All => f.write_str("all"),
        }
    }
}

/// A retention rule. The empty one keeps everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Whose rules.
    pub style: Style,
    /// Where periods begin and end, and what a day or month back means.
    pub zone: Tz,
    /// The newest points.
    pub last: Count,
    /// The newest periods, in the order of [`Period::ALL`].
    pub periods: [Count; 5],
    /// All points this long before the newest (restic only).
    pub within: Span,
    /// One point of each period, this long before the newest (restic only), in the order of [`Period::ALL`].
    pub periods_within: [Span; 5],
    /// Points that have all tags of one of these lists (restic only).
    pub tags: Vec<Vec<String>>,
}

/// A rule that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// Nothing was said.
    #[error("the rule is empty; write for example `last=3,daily=7`, or `last=all` to keep everything")]
    Empty,
    /// A part without `=`.
    #[error("`{part}` lacks a value; write `name=value`, for example `daily=7`")]
    NoValue {
        /// The part.
        part: String,
    },
    /// A name that is not known.
    #[error("`{name}` is not known{}; the names are last, hourly, daily, weekly, monthly, yearly, within, within-hourly to within-yearly, tag", did_you_mean(.suggestion))]
    UnknownName {
        /// The name.
        name: String,
        /// The nearest that is.
        suggestion: Option<&'static str>,
    },
    /// A name said twice.
    #[error("`{name}` is given twice")]
    Twice {
        /// The name.
        name: String,
    },
    /// A count that is none.
    #[error("`{name}={value}`: a count is a number from 0 to 4294967295, or `all`")]
    Count {
        /// The name.
        name: String,
        /// Its value.
        value: String,
    },
    /// A span that is none.
    #[error("`{name}`: {source}")]
    Span {
        /// The name.
        name: String,
        /// What is wrong.
        source: SpanError,
    },
    /// A tag list without tags.
    #[error("`tag={value}`: a tag is missing; write `tag=one` or `tag=both+of+these`")]
    Tag {
        /// The value.
        value: String,
    },
    /// What Proxmox does not have.
    #[error("`{name}` is restic's; style proxmox has last, hourly, daily, weekly, monthly and yearly")]
    NotInStyle {
        /// The name.
        name: String,
    },
}

fn did_you_mean(suggestion: &Option<&'static str>) -> String {
    suggestion.map(|word| format!("; did you mean `{word}`?")).unwrap_or_default()
}

/// Every name a rule may use.
pub(crate) const NAMES: [&str; 13] = [
    "last",
    "hourly",
    "daily",
    "weekly",
    "monthly",
    "yearly",
    "within",
    "within-hourly",
    "within-daily",
    "within-weekly",
    "within-monthly",
    "within-yearly",
    "tag",
];

impl Rule {
    /// The rule that says nothing, in UTC.
    #[must_use]
    pub fn empty(style: Style) -> Self {
        Self {
            style,
            zone: Tz::UTC,
            last: Count::default(),
            periods: [Count::default(); 5],
            within: Span::default(),
            periods_within: [Span::default(); 5],
            tags: Vec::new(),
        }
    }

    /// Reads `name=value` parts between commas, in UTC. Names may carry restic's and Proxmox's prefix
    /// (`keep-daily=7`). Tags that must be there together are joined by `+`; several `tag` parts are
    /// alternatives.
    ///
    /// # Errors
    /// On the first part that cannot be read.
    pub fn parse(text: &str, style: Style) -> Result<Self, RuleError> {
        let mut rule = Self::empty(style);
        let mut seen = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) =
                part.split_once('=').ok_or_else(|| RuleError::NoValue { part: part.to_owned() })?;
            let name = name.trim().trim_start_matches("--");
            let name = name.strip_prefix("keep-").unwrap_or(name);
            if seen.contains(&name) && name != "tag" {
                return Err(RuleError::Twice { name: name.to_owned() });
            }
            seen.push(name);
            rule.set(name, value.trim())?;
        }
        if seen.is_empty() { Err(RuleError::Empty) } else { Ok(rule) }
    }

    /// The same rule with the periods of another zone.
    #[must_use]
    pub fn in_zone(mut self, zone: Tz) -> Self {
        self.zone = zone;
        self
    }

    /// True when it says nothing, and so keeps everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self { style: self.style, zone: self.zone, ..Self::empty(self.style) }
    }

    /// Sets one part by name.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<(), RuleError> {
        let of = |name: &str| Period::ALL.iter().position(|period| period.word() == name);
        let span = || Span::parse(value).map_err(|source| RuleError::Span { name: name.to_owned(), source });
        let restic_only = || match self.style {
            Style::Restic => Ok(()),
            Style::Proxmox => Err(RuleError::NotInStyle { name: name.to_owned() }),
        };
        if name == "last" {
            self.last = count(name, value)?;
        } else if let Some(period) = of(name) {
            self.periods[period] = count(name, value)?;
        } else if name == "within" {
            restic_only()?;
            self.within = span()?;
        } else if let Some(period) = name.strip_prefix("within-").and_then(of) {
            restic_only()?;
            self.periods_within[period] = span()?;
        } else if name == "tag" {
            restic_only()?;
            self.tags.push(tag_list(value)?);
        } else {
            let suggestion = suggest::nearest(name, &NAMES);
            return Err(RuleError::UnknownName { name: name.to_owned(), suggestion });
        }
        Ok(())
    }

    /// Its parts as name and value, in the order of [`NAMES`]; what is not set is left out.
    pub(crate) fn parts(&self) -> Vec<(String, String)> {
        let mut parts = Vec::new();
        let mut push = |name: String, value: String| parts.push((name, value));
        if self.last.is_set() {
            push("last".to_owned(), self.last.to_string());
        }
        for (period, count) in Period::ALL.into_iter().zip(self.periods).filter(|(_, count)| count.is_set()) {
            push(period.word().to_owned(), count.to_string());
        }
        if !self.within.is_zero() {
            push("within".to_owned(), self.within.to_string());
        }
        for (period, span) in Period::ALL.into_iter().zip(self.periods_within).filter(|(_, s)| !s.is_zero()) {
            push(format!("within-{}", period.word()), span.to_string());
        }
        for tags in &self.tags {
            push("tag".to_owned(), tags.join("+"));
        }
        parts
    }
}

/// The text that [`Rule::parse`] reads back, given the style and zone.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.parts().iter().map(|(name, value)| format!("{name}={value}")).collect();
        f.write_str(if parts.is_empty() { "last=0" } else { "" })?;
        f.write_str(&parts.join(","))
    }
}

fn count(name: &str, value: &str) -> Result<Count, RuleError> {
    match value {
        "all" | "-1" => Some(Count::All),
        _ if value.bytes().all(|b| b.is_ascii_digit()) => value.parse().map(Count::Of).ok(),
        _ => None,
    }
    .ok_or_else(|| RuleError::Count { name: name.to_owned(), value: value.to_owned() })
}

fn tag_list(value: &str) -> Result<Vec<String>, RuleError> {
    let tags: Vec<String> = value.split('+').map(|tag| tag.trim().to_owned()).collect();
    if tags.iter().any(String::is_empty) { Err(RuleError::Tag { value: value.to_owned() }) } else { Ok(tags) }
}
