//! Aligned text: tables and lists of fields. Knows nothing of what stands in them.

/// Text in columns. The last column is never padded, so that long reasons do not fill lines with blanks.
#[derive(Debug)]
pub struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns. A heading that begins with `>` makes its column right-aligned: numbers and sizes.
    #[must_use]
    pub fn new(headings: &[&'static str]) -> Table {
        Table { headings: headings.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; what is missing stays empty, what is too much is dropped.
    pub fn row<C: Into<String>>(&mut self, cells: impl IntoIterator<Item = C>) {
        let mut row: Vec<String> = cells.into_iter().map(|cell| clean(&cell.into())).collect();
        row.resize(self.headings.len(), String::new());
        self.rows.push(row);
    }

    /// The text, a line for each row; `nothing` instead of a table without rows.
    #[must_use]
    pub fn render(&self, nothing: &str) -> String {
        if self.rows.is_empty() {
            return format!("{nothing}\n");
        }
        let heading = |heading: &&str| heading.trim_start_matches('>').to_uppercase();
        let headings: Vec<String> = self.headings.iter().map(heading).collect();
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| &row[column]);
            cells.chain([&headings[column]]).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..headings.len()).map(width).collect();
        let mut text = String::new();
        for row in [&headings].into_iter().chain(&self.rows) {
            let cells = row.iter().zip(&widths).zip(&self.headings).map(|((cell, width), heading)| {
                if heading.starts_with('>') { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            });
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

/// `name: value` lines, the values in one column; a value that is empty is left out.
#[must_use]
pub fn fields(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 2;
    let filled = fields.iter().filter(|(_, value)| !value.is_empty());
    filled.map(|(name, value)| format!("{:<width$}{}\n", format!("{name}:"), clean(value))).collect()
}

/// One line that is safe on a terminal: messages from a guest or from QEMU may hold anything.
#[must_use]
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The value, or a dash.
#[must_use]
pub fn or_dash(value: Option<&String>) -> String {
    value.cloned().unwrap_or_else(|| "-".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_the_last_is_not_padded() {
        let mut table = Table::new(&["name", ">size", "why"]);
        table.row(["a", "1 KiB", "short"]);
        table.row(["a-long-name", "10 MiB", "a longer reason"]);
        assert_eq!(
            table.render("none"),
            "NAME           SIZE  WHY\n\
             a             1 KiB  short\n\
             a-long-name  10 MiB  a longer reason\n"
        );
    }

    #[test]
    fn an_empty_table_says_so() {
        assert_eq!(Table::new(&["name"]).render("no VMs"), "no VMs\n");
    }

    #[test]
    fn what_a_guest_says_cannot_move_the_cursor() {
        let mut table = Table::new(&["what"]);
        table.row(["a\u{1b}[2J\nb"]);
        assert_eq!(table.render(""), "WHAT\na [2J b\n");
        assert_eq!(fields(&[("a", "1\n2".to_owned()), ("long", String::new())]), "a:    1 2\n");
    }

    #[test]
    fn width_counts_letters_and_not_bytes() {
        let mut table = Table::new(&["a", "b"]);
        table.row(["ü", "x"]);
        table.row(["uu", "x"]);
        assert_eq!(table.render(""), "A   B\nü   x\nuu  x\n");
    }
}
