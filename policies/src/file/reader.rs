//! Takes keys out of a TOML table by kind and gathers what is wrong, with its place. Knows no policy.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Problem;
use crate::suggest;

/// The problems found so far.
pub(super) struct Report<'t> {
    text: &'t str,
    found: Vec<(usize, String)>,
}

impl<'t> Report<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, found: Vec::new() }
    }

    pub(super) fn add(&mut self, span: &Range<usize>, what: impl Into<String>) {
        self.found.push((span.start, what.into()));
    }

    /// How many problems there are so far. Whoever finds nothing where something should be asks whether that
    /// is because of a problem already noted.
    pub(super) fn count(&self) -> usize {
        self.found.len()
    }

    /// The problems in the order of the text.
    pub(super) fn finish(mut self) -> Vec<Problem> {
        self.found.sort_by_key(|(place, _)| *place);
        let text = self.text;
        let problem = |(place, what)| {
            let before = text.get(..place).unwrap_or(text);
            let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
            let line = before.matches('\n').count() + 1;
            Problem { line, column: before[line_start..].chars().count() + 1, what }
        };
        self.found.into_iter().map(problem).collect()
    }

    /// Passes a value on, or notes the error at the place.
    pub(super) fn check<T, E: ToString>(&mut self, span: &Range<usize>, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.add(span, error.to_string())).ok()
    }
}

/// A string with its place.
#[derive(Clone, Debug)]
pub(super) struct Text<'t> {
    pub text: &'t str,
    pub span: Range<usize>,
}

/// A table whose keys are being taken; what nobody takes is unknown.
pub(super) struct Keys<'t> {
    table: &'t DeTable<'t>,
    pub span: Range<usize>,
    taken: Vec<&'static str>,
}

impl<'t> Keys<'t> {
    pub(super) fn new(table: &'t DeTable<'t>, span: Range<usize>) -> Self {
        Self { table, span, taken: Vec::new() }
    }

    /// The value of a key. Asking makes the key a known one.
    pub(super) fn take(&mut self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.taken.push(key);
        self.table.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
    }

    pub(super) fn string(&mut self, key: &'static str, report: &mut Report<'_>) -> Option<Text<'t>> {
        let value = self.take(key)?;
        string(key, value, report)
    }

    /// A list of strings; empty when the key is absent.
    pub(super) fn strings(&mut self, key: &'static str, report: &mut Report<'_>) -> Vec<Text<'t>> {
        let Some(value) = self.take(key) else { return Vec::new() };
        match value.get_ref() {
            DeValue::Array(items) => items.iter().filter_map(|item| string(key, item, report)).collect(),
            other => {
                report.add(&value.span(), format!("`{key}` is a list of strings, not {}", kind(other)));
                Vec::new()
            }
        }
    }

    /// One string, or a list of them, with the place of all; none when the key is absent.
    pub(super) fn one_or_several(
        &mut self,
        key: &'static str,
        report: &mut Report<'_>,
    ) -> Option<(Range<usize>, Vec<Text<'t>>)> {
        let value = self.take(key)?;
        let texts = match value.get_ref() {
            DeValue::String(text) => vec![Text { text, span: value.span() }],
            _ => self.strings(key, report),
        };
        Some((value.span(), texts))
    }

    pub(super) fn boolean(&mut self, key: &'static str, report: &mut Report<'_>) -> Option<bool> {
        let value = self.take(key)?;
        match value.get_ref() {
            DeValue::Boolean(boolean) => Some(*boolean),
            other => {
                report.add(&value.span(), format!("`{key}` is true or false, not {}", kind(other)));
                None
            }
        }
    }

    /// One of a few words; the default when the key is absent or wrong.
    pub(super) fn word<T: Default>(
        &mut self,
        key: &'static str,
        words: &[&str],
        from_word: impl Fn(&str) -> Option<T>,
        report: &mut Report<'_>,
    ) -> T {
        let Some(text) = self.string(key, report) else { return T::default() };
        from_word(text.text).unwrap_or_else(|| {
            let hint = did_you_mean(text.text, words);
            report.add(&text.span, format!("`{key}` is {}, not `{}`{hint}", words.join(" or "), text.text));
            T::default()
        })
    }

    pub(super) fn table(&mut self, key: &'static str, report: &mut Report<'_>) -> Option<Keys<'t>> {
        let value = self.take(key)?;
        table(key, value, report)
    }

    /// A list of tables; empty when the key is absent.
    pub(super) fn tables(&mut self, key: &'static str, report: &mut Report<'_>) -> Vec<Keys<'t>> {
        let Some(value) = self.take(key) else { return Vec::new() };
        match value.get_ref() {
            DeValue::Array(items) => items.iter().filter_map(|item| table(key, item, report)).collect(),
            other => {
                let what = format!("`{key}` is a list of tables, not {}; write `[[…{key}]]`", kind(other));
                report.add(&value.span(), what);
                Vec::new()
            }
        }
    }

    /// All keys with string values, whatever their names.
    pub(super) fn string_entries(self, report: &mut Report<'_>) -> Vec<(String, String)> {
        let entry = |(key, value): (&'t Spanned<_>, _)| {
            let key: &std::borrow::Cow<'_, str> = key.get_ref();
            Some((key.to_string(), string(key, value, report)?.text.to_owned()))
        };
        self.table.iter().filter_map(entry).collect()
    }

    /// Reports every key that was not taken.
    pub(super) fn finish(self, report: &mut Report<'_>) {
        for (key, _) in self.table.iter().filter(|(key, _)| !self.taken.contains(&key.get_ref().as_ref())) {
            let name = key.get_ref();
            let hint = did_you_mean(name, &self.taken);
            let hint =
                if hint.is_empty() { format!("; known here: {}", self.taken.join(", ")) } else { hint };
            report.add(&key.span(), format!("unknown key `{name}`{hint}"));
        }
    }
}

pub(super) fn string<'t>(
    key: &str,
    value: &'t Spanned<DeValue<'t>>,
    report: &mut Report<'_>,
) -> Option<Text<'t>> {
    match value.get_ref() {
        DeValue::String(text) => Some(Text { text, span: value.span() }),
        other => {
            report.add(&value.span(), format!("`{key}` takes a string here, not {}", kind(other)));
            None
        }
    }
}

fn table<'t>(key: &str, value: &'t Spanned<DeValue<'t>>, report: &mut Report<'_>) -> Option<Keys<'t>> {
    match value.get_ref() {
        DeValue::Table(table) => Some(Keys::new(table, value.span())),
        other => {
            report.add(&value.span(), format!("`{key}` takes a table here, not {}", kind(other)));
            None
        }
    }
}

fn did_you_mean(word: &str, candidates: &[&str]) -> String {
    suggest::nearest(word, candidates).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default()
}

pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
