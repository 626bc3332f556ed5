//! What is under way when somebody dies: for each operation how things are made ready and which commands start it.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::point::Point;
use crate::stage::{Stage, restore_target};

/// For how long a view is exported: that of a client who died without hearing of it ends by itself.
const EXPORTED: &str = "3s";

/// An operation of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// The first backup of a VM.
    FirstFull,
    /// The next one, of one disk.
    Incremental,
    /// The next one, of several disks.
    MultiDisk,
    /// `checkpoint create`.
    Checkpoint,
    /// `checkpoint delete` of the chain's oldest.
    DeleteFirst,
    /// Of one between others: its bitmap is merged into its predecessor's.
    DeleteMiddle,
    /// Of the newest: its predecessor records again.
    DeleteLast,
    /// A backup, and `job cancel` as soon as it is queued.
    Cancel,
    /// `point forget`.
    Forget,
    /// `repo prune` after a point was forgotten.
    Prune,
    /// `restore` of all disks.
    Restore,
    /// `vm remove`.
    RemoveVm,
    /// `export create`, with a map of changes, and `export remove` as soon as it is open.
    Export,
}

/// Commands of a client, one after the other; `{job}` stands for the job that the one before has queued, or the export that
/// it has created.
pub type Commands = Vec<Vec<String>>;

impl Operation {
    /// All of them.
    pub const ALL: [Operation; 13] = [
        Operation::FirstFull,
        Operation::Incremental,
        Operation::MultiDisk,
        Operation::Checkpoint,
        Operation::DeleteFirst,
        Operation::DeleteMiddle,
        Operation::DeleteLast,
        Operation::Cancel,
        Operation::Forget,
        Operation::Prune,
        Operation::Restore,
        Operation::RemoveVm,
        Operation::Export,
    ];

    /// In the table and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Operation::FirstFull => "first-full",
            Operation::Incremental => "incremental",
            Operation::MultiDisk => "multi-disk",
            Operation::Checkpoint => "checkpoint",
            Operation::DeleteFirst => "delete-first",
            Operation::DeleteMiddle => "delete-middle",
            Operation::DeleteLast => "delete-last",
            Operation::Cancel => "cancel",
            Operation::Forget => "forget",
            Operation::Prune => "prune",
            Operation::Restore => "restore",
            Operation::RemoveVm => "remove-vm",
            Operation::Export => "export",
        }
    }

    /// How many disks the VM has, where that is ours to choose.
    pub fn disks(self) -> usize {
        match self {
            Operation::Incremental => 1,
            Operation::MultiDisk => 3,
            _ => 2,
        }
    }

    /// Makes things ready and answers the commands.
    #[track_caller]
    pub fn prepare(self, stage: &mut dyn Stage) -> Commands {
        match self {
            Operation::FirstFull => {
                stage.server().ok(&["vm", "remove", "vm"]);
                stage.add();
                commands(&[&["backup", "vm", "--wait"]])
            }
            Operation::Incremental | Operation::MultiDisk => commands(&[&["backup", "vm", "--wait"]]),
            Operation::Checkpoint => {
                // So that the chain does not grow with the walk.
                delete_by_hand(stage);
                commands(&[&["checkpoint", "create", "vm"]])
            }
            Operation::DeleteFirst => delete_first(stage),
            Operation::DeleteMiddle => delete_later(stage, true),
            Operation::DeleteLast => delete_later(stage, false),
            Operation::Cancel => {
                commands(&[&["backup", "vm", "--mode", "full"], &["job", "cancel", "{job}"]])
            }
            Operation::Forget => commands(&[&["point", "forget", &a_spare_point(stage)]]),
            Operation::Prune => {
                let spare = a_spare_point(stage);
                stage.server().ok(&["point", "forget", &spare]);
                commands(&[&["repo", "prune", "main"]])
            }
            Operation::Restore => {
                let point = Point::list(stage.server()).pop().expect("there is one");
                let to = restore_target(&stage.new_folder(), &stage.disks());
                commands(&[&["restore", &point.id, "--to", &to.to_string_lossy(), "--wait"]])
            }
            Operation::RemoveVm => commands(&[&["vm", "remove", "vm"]]),
            Operation::Export => {
                let since = Point::list(stage.server()).pop().expect("there is one").checkpoint;
                let create = ["export", "create", "vm", "--since", &since, "--ttl", EXPORTED];
                commands(&[&create, &["export", "remove", "{job}"]])
            }
        }
    }
}

impl FromStr for Operation {
    type Err = String;

    fn from_str(name: &str) -> Result<Operation, String> {
        let names = || Operation::ALL.map(Operation::name).join(", ");
        let found = Operation::ALL.into_iter().find(|operation| operation.name() == name);
        found.ok_or_else(|| format!("no operation `{name}`; there are {}", names()))
    }
}

/// The words of commands.
pub fn commands(commands: &[&[&str]]) -> Commands {
    commands.iter().map(|words| words.iter().map(ToString::to_string).collect()).collect()
}

/// A point that no other needs to be there: not the newest.
fn a_spare_point(stage: &mut dyn Stage) -> String {
    while Point::list(stage.server()).len() < 3 {
        stage.progress();
        Point::back_up(stage.server(), &[]);
    }
    Point::list(stage.server()).swap_remove(0).id
}

/// The names of the checkpoints, oldest first, each with whether it was made by hand.
pub fn checkpoints(stage: &mut dyn Stage) -> Vec<(String, bool)> {
    let list = stage.server().ok(&["checkpoint", "list", "vm"]);
    let name = |checkpoint: &Value| checkpoint["name"].as_str().expect("a name").to_owned();
    let list = list.as_array().expect("a list of checkpoints").iter();
    list.map(|checkpoint| (name(checkpoint), checkpoint["by_hand"] == true)).collect()
}

fn by_hand(stage: &mut dyn Stage) -> Vec<String> {
    checkpoints(stage).into_iter().filter(|(_, by_hand)| *by_hand).map(|(name, _)| name).collect()
}

fn create(stage: &mut dyn Stage) {
    stage.server().ok(&["checkpoint", "create", "vm"]);
}

fn delete_by_hand(stage: &mut dyn Stage) {
    for name in by_hand(stage) {
        stage.server().ok(&["checkpoint", "delete", "vm", &name]);
    }
}

/// Brings the chain to where its oldest checkpoint is one made by hand, with others after it, and deletes it.
fn delete_first(stage: &mut dyn Stage) -> Commands {
    loop {
        let chain = checkpoints(stage);
        match chain.first() {
            Some((first, true)) if chain.len() >= 2 => return deletion(stage, first, 0),
            // The first full point's own would be in the way for ever.
            Some((first, _)) if chain.iter().any(|(_, by_hand)| *by_hand) => {
                stage.server().ok(&["checkpoint", "delete", "vm", first]);
            }
            _ => {
                create(stage);
                Point::back_up(stage.server(), &[]);
            }
        }
    }
}

/// Brings the chain to where a checkpoint made by hand is the newest, or in the middle, and deletes it.
fn delete_later(stage: &mut dyn Stage, middle: bool) -> Commands {
    delete_by_hand(stage);
    create(stage);
    if middle {
        // The one before it must be by hand too: a backup lets go of those that no target needs.
        create(stage);
        Point::back_up(stage.server(), &[]);
    }
    let names = by_hand(stage);
    let victim = names.last().expect("one was made");
    let chain = checkpoints(stage);
    let from_end = if middle { 2 } else { 1 };
    deletion(stage, victim, chain.len() - from_end)
}

fn deletion(stage: &mut dyn Stage, victim: &str, place: usize) -> Commands {
    stage.progress();
    let chain = checkpoints(stage);
    assert!(chain[place].0 == victim && chain.len() >= 2, "{victim} is not at {place} of {chain:?}");
    commands(&[&["checkpoint", "delete", "vm", victim]])
}
