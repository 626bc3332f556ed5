//! The crash matrix: every operation × who dies × every place of its way. One cell is one crash, and all that has to hold
//! afterwards; [`cell::visit`] walks it, for the whole matrix (`scripts/crash-matrix`) as for the samples in the tests.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub mod cell;
pub mod operation;
pub mod results;
pub mod rows;
pub mod strike;

pub use operation::Operation;

/// Who dies, or ends, when Backstay comes to a place of its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Victim {
    /// Backstay, orchestrator and agent in one process, by SIGKILL.
    Backstay,
    /// QEMU, by SIGKILL, and it is back before Backstay does anything more.
    Qemu,
    /// QEMU, by SIGKILL, and it is back when Backstay has given up.
    QemuAway,
    /// Both, by SIGKILL: the host.
    Both,
    /// Backstay, by SIGKILL, while QEMU ends in order and is started again.
    BackstayAndQuit,
}

impl Victim {
    /// All of them.
    pub const ALL: [Victim; 5] =
        [Victim::Backstay, Victim::Qemu, Victim::QemuAway, Victim::Both, Victim::BackstayAndQuit];

    /// Whether QEMU is killed, so that its bitmaps are worth nothing afterwards.
    pub fn kills_qemu(self) -> bool {
        matches!(self, Victim::Qemu | Victim::QemuAway | Victim::Both)
    }

    /// Whether Backstay is killed.
    pub fn kills_backstay(self) -> bool {
        matches!(self, Victim::Backstay | Victim::Both | Victim::BackstayAndQuit)
    }

    /// In the table and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Victim::Backstay => "backstay",
            Victim::Qemu => "qemu",
            Victim::QemuAway => "qemu-away",
            Victim::Both => "both",
            Victim::BackstayAndQuit => "backstay-and-quit",
        }
    }
}

impl FromStr for Victim {
    type Err = String;

    fn from_str(name: &str) -> Result<Victim, String> {
        let found = Victim::ALL.into_iter().find(|victim| victim.name() == name);
        found.ok_or_else(|| {
            format!("no victim `{name}`; there are {}", Victim::ALL.map(Victim::name).join(", "))
        })
    }
}

/// The crash points of `journal/src/fault.rs`, in the order of a backup, each with what it stands for.
pub const POINTS: [(&str, &str); 7] = [
    ("append", "before a journal record"),
    ("appended", "after a journal record"),
    ("effect", "before an effect"),
    ("performed", "after an effect, its outcome untold"),
    ("qmp", "before a command to QEMU"),
    ("store.committed", "packs and index written, no snapshot"),
    ("store.snapshot", "snapshot written, its outcome untold"),
];

/// One crash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cell {
    /// What was under way.
    pub operation: Operation,
    /// Who died.
    pub victim: Victim,
    /// Which crash point.
    pub point: String,
    /// At which passage of it, from 1.
    pub passage: u64,
}

impl Cell {
    /// A cell.
    pub fn new(operation: Operation, victim: Victim, point: &str, passage: u64) -> Cell {
        Cell { operation, victim, point: point.to_owned(), passage }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cell { operation, victim, point, passage } = self;
        write!(f, "{}/{}/{point}:{passage}", operation.name(), victim.name())
    }
}
