//! What came of the cells that were walked: a file that grows by a line for each, so that a run can be taken up again, and
//! the table made of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Cell, POINTS};

/// On what cells are walked: results of one are none of another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ground {
    /// `qsd` or `system`.
    pub machine: String,
    /// QEMU's version.
    pub qemu: String,
    /// The seed of writers and of the order.
    pub seed: u64,
}

/// One cell's result: a line of the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Line {
    /// On what.
    pub ground: Ground,
    /// Which.
    pub cell: Cell,
    /// Whether the crash came to pass.
    pub reached: bool,
    /// The rows that the journal shows after it.
    pub rows: BTreeSet<String>,
    /// What did not hold.
    pub violation: Option<String>,
    /// How long it took.
    pub millis: u64,
}

/// How many passages an operation has of each point, counted in a dry run: also a line of the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Counted {
    /// On what.
    pub ground: Ground,
    /// Of which operation; the cell's victim and passage mean nothing.
    pub operation: super::Operation,
    /// Passages by point.
    pub passages: Vec<(String, u64)>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Entry {
    Walked(Line),
    Counted(Counted),
}

/// The file and what is in it.
#[derive(Debug)]
pub struct Results {
    file: File,
    /// The cells walked, in order.
    pub lines: Vec<Line>,
    /// The dry runs.
    pub counted: Vec<Counted>,
}

impl Results {
    /// Opens the file, keeping what is in it where `resume`.
    ///
    /// # Panics
    /// When it cannot be read or written.
    #[track_caller]
    pub fn open(path: &Path, resume: bool) -> Results {
        let text = if resume { fs::read_to_string(path).unwrap_or_default() } else { String::new() };
        let (mut lines, mut counted) = (Vec::new(), Vec::new());
        // A line that a killed run left half is walked again.
        for entry in text.lines().filter_map(|line| serde_json::from_str(line).ok()) {
            match entry {
                Entry::Walked(line) => lines.push(line),
                Entry::Counted(count) => counted.push(count),
            }
        }
        let file = File::options().create(true).append(true).open(path);
        let mut file = file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        if !resume {
            file.set_len(0).expect("a file of ours");
        } else if !text.is_empty() && !text.ends_with('\n') {
            writeln!(file).expect("a file of ours");
        }
        Results { file, lines, counted }
    }

    /// Whether a cell was walked on this ground.
    pub fn has(&self, ground: &Ground, cell: &Cell) -> bool {
        self.lines.iter().any(|line| line.ground == *ground && line.cell == *cell)
    }

    /// The dry run of an operation on this ground.
    pub fn count_of(&self, ground: &Ground, operation: super::Operation) -> Option<&Counted> {
        self.counted.iter().find(|count| count.ground == *ground && count.operation == operation)
    }

    /// Adds a cell.
    pub fn walked(&mut self, line: Line) {
        self.write(&Entry::Walked(line.clone()));
        self.lines.push(line);
    }

    /// Adds a dry run.
    pub fn count(&mut self, counted: Counted) {
        self.write(&Entry::Counted(counted.clone()));
        self.counted.push(counted);
    }

    fn write(&mut self, entry: &Entry) {
        let line = serde_json::to_string(entry).expect("an entry is plain data");
        writeln!(self.file, "{line}").expect("the results' file takes a line");
    }

    /// The table of one ground: operation × victim × point.
    pub fn table(&self, ground: &Ground) -> String {
        let mut table = String::from(
            "| operation | dies | crash point | passages | walked | held | rows of the reconcile table afterwards |\n\
             |---|---|---|---|---|---|---|\n",
        );
        for (key, tally) in self.tallies(ground) {
            let (operation, victim, point) = key;
            let counted = self.count_of(ground, operation);
            let passages =
                counted.and_then(|count| count.passages.iter().find(|(name, _)| *name == POINTS[point].0));
            let passages = passages.map_or(0, |(_, passages)| *passages);
            let rows: Vec<String> = tally.rows.iter().map(|(row, times)| format!("{row} {times}")).collect();
            let rows = if rows.is_empty() { "–".to_owned() } else { rows.join(", ") };
            let held =
                if tally.held == tally.reached { "all".to_owned() } else { format!("**{}**", tally.held) };
            let _ = writeln!(
                table,
                "| {} | {} | `{}` | {passages} | {} | {held} | {rows} |",
                operation.name(),
                victim.name(),
                POINTS[point].0,
                tally.reached,
            );
        }
        table
    }

    fn tallies(&self, ground: &Ground) -> BTreeMap<(super::Operation, super::Victim, usize), Tally> {
        let mut tallies: BTreeMap<_, Tally> = BTreeMap::new();
        for line in self.lines.iter().filter(|line| line.ground == *ground) {
            let Some(point) = POINTS.iter().position(|(point, _)| *point == line.cell.point) else {
                continue;
            };
            if !line.reached && line.violation.is_none() {
                continue;
            }
            let tally = tallies.entry((line.cell.operation, line.cell.victim, point)).or_default();
            tally.reached += 1;
            tally.held += u64::from(line.violation.is_none());
            for row in &line.rows {
                *tally.rows.entry(row.clone()).or_default() += 1;
            }
        }
        tallies
    }

    /// The whole page: how it was made, the sum, the table, what did not hold.
    pub fn page(&self, ground: &Ground, date: &str, command: &str) -> String {
        let of_ground: Vec<&Line> = self.lines.iter().filter(|line| line.ground == *ground).collect();
        let reached = of_ground.iter().filter(|line| line.reached).count();
        let violations: Vec<&&Line> = of_ground.iter().filter(|line| line.violation.is_some()).collect();
        let millis: u64 = of_ground.iter().map(|line| line.millis).sum();
        let possible: u64 = self
            .counted
            .iter()
            .filter(|count| count.ground == *ground)
            .flat_map(|count| count.passages.iter().map(|(_, passages)| passages))
            .sum::<u64>()
            * super::Victim::ALL.len() as u64;
        let mut page = format!(
            "## {}, QEMU {}, seed {}\n\n\
             {date}, `{command}`: {} of {possible} cells walked, {reached} of them came to their crash, \
             {} violations, {} s of work.\n\n",
            ground.machine,
            ground.qemu,
            ground.seed,
            of_ground.len(),
            violations.len(),
            millis / 1000,
        );
        page.push_str(&self.table(ground));
        if !violations.is_empty() {
            page.push_str("\nWhat did not hold:\n\n");
            for line in violations {
                let what = line.violation.as_deref().unwrap_or_default();
                // The first line says where; what counts is what was said.
                let said: Vec<&str> = what.lines().skip(1).collect();
                let said: String = said.join(" ").chars().take(300).collect();
                let _ = writeln!(page, "- `{}`: {said}", line.cell);
            }
        }
        page
    }
}

#[derive(Debug, Default)]
struct Tally {
    reached: u64,
    held: u64,
    rows: BTreeMap<String, u64>,
}

/// Puts a ground's part into the page, in place of an earlier one of the same machine and QEMU.
///
/// # Panics
/// When the page cannot be read or written.
#[track_caller]
pub fn put(page: &PathBuf, ground: &Ground, part: &str) {
    let text = fs::read_to_string(page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
    let heading = format!("## {}, QEMU {},", ground.machine, ground.qemu);
    let mut parts: Vec<String> = Vec::new();
    for line in text.lines() {
        if parts.is_empty() || line.starts_with("## ") {
            parts.push(String::new());
        }
        let last = parts.last_mut().expect("one was pushed");
        last.push_str(line);
        last.push('\n');
    }
    parts.retain(|old| !old.starts_with(&heading));
    parts.push(part.to_owned());
    let text: Vec<&str> = parts.iter().map(|part| part.trim_end()).collect();
    fs::write(page, text.join("\n\n") + "\n").unwrap_or_else(|error| panic!("{}: {error}", page.display()));
}
