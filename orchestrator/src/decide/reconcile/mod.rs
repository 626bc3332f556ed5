//! Reconcile: the journal's word held against what is there now.
//!
//! [`findings`] compares and changes nothing; each finding names its [`Row`] of the table and carries a [`Verdict`].
//! [`enact`] turns verdicts into records and intents: repeating, undoing and cleaning are effects too, so they are
//! journaled before they are done. Every row is documented in `docs/recovery.md`, and a test holds the two together.
//!
//! Order matters once: what is no longer tracked is recorded first, and only then is it a leftover.

mod chain;
mod leftovers;
mod open;
mod row;
#[cfg(test)]
mod tests;
mod views;

use std::collections::BTreeSet;

use journal::effect::{Clean, Effect, End, Thaw};
use journal::observation::{Machine, RepositorySeen};
use journal::record::{
    IntentAdopted, IntentSettled, PointGone, ProcessSeen, TrackingLost, ViewLost, Witness,
};
use journal::state::Vm;
use journal::{CheckpointId, DiskName, Installation, IntentId, Outcome, PointId, Record, State, VmId};

pub use row::Row;

use super::Decision;

/// One row of the table, as it stands for one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The row.
    pub row: Row,
    /// The disk, where it is about one.
    pub disk: Option<DiskName>,
    /// What was found.
    pub what: String,
    /// What is to be done.
    pub verdict: Verdict,
}

/// What is to be done about a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: it is as it should be.
    GoOn,
    /// Nothing: it is not ours.
    Leave,
    /// The intent's fate is plain to see.
    Settle(IntentId, Outcome),
    /// Send the intent again: the agent looks first and does what is missing.
    Repeat(IntentId),
    /// This checkpoint and every earlier one no longer cover the disk; its next backup is full.
    Lose(DiskName, CheckpointId),
    /// The view is over.
    DropView(IntentId),
    /// Take the view down.
    EndView(IntentId),
    /// Thaw the guest.
    Thaw,
    /// Remove it.
    Remove(Leftover),
    /// The point is not in its repository any more.
    DropPoint(PointId),
}

impl Verdict {
    /// In a few words, for people.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Verdict::GoOn => "go on",
            Verdict::Leave => "leave",
            Verdict::Settle(_, Outcome::Done(_)) => "settle as done",
            Verdict::Settle(_, Outcome::Failed(_)) => "settle as not done",
            Verdict::Repeat(_) => "repeat",
            Verdict::Lose(..) => "full next",
            Verdict::DropView(_) => "view is over",
            Verdict::EndView(_) => "take down",
            Verdict::Thaw => "thaw",
            Verdict::Remove(_) => "remove",
            Verdict::DropPoint(_) => "strike off",
        }
    }

    /// What carrying it out does, for people; nothing where it calls for nothing.
    #[must_use]
    pub fn step(&self) -> Option<String> {
        Some(match self {
            Verdict::GoOn | Verdict::Leave => return None,
            Verdict::Settle(intent, Outcome::Done(_)) => format!("record that {intent} is done"),
            Verdict::Settle(intent, Outcome::Failed(_)) => format!("record that {intent} is not done"),
            Verdict::Repeat(intent) => format!("send {intent} again"),
            Verdict::Lose(disk, through) => {
                format!(
                    "record that {disk} is not tracked since {through} or earlier: its next backup is full"
                )
            }
            Verdict::DropView(view) => format!("record that the view of {view} is over"),
            Verdict::EndView(view) => format!("take the view of {view} down"),
            Verdict::Thaw => "thaw the guest".to_owned(),
            Verdict::Remove(leftover) => format!("remove {leftover}"),
            Verdict::DropPoint(point) => format!("strike restore point {point} off"),
        })
    }

    /// Whether the finding calls for anything at all.
    #[must_use]
    pub fn is_rest(&self) -> bool {
        matches!(self, Verdict::GoOn | Verdict::Leave)
    }
}

/// Something of ours that nothing in the state explains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leftover {
    /// A block export.
    Export(String),
    /// A block job.
    Job(String),
    /// A node.
    Node(String),
    /// A bitmap, by node and name.
    Bitmap(String, String),
    /// A scratch file.
    File(String),
    /// The socket of an NBD server that is no more.
    Socket,
}

impl std::fmt::Display for Leftover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Leftover::Export(name) => write!(f, "export {name}"),
            Leftover::Job(name) => write!(f, "block job {name}"),
            Leftover::Node(name) => write!(f, "node {name}"),
            Leftover::Bitmap(node, name) => write!(f, "bitmap {name} from node {node}"),
            Leftover::File(name) => write!(f, "scratch file {name}"),
            Leftover::Socket => write!(f, "the socket of an NBD server that is no more"),
        }
    }
}

/// What one VM is held against.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The journal's word.
    pub state: &'a State,
    /// The intents that an agent is working on: their fate is not in question.
    pub in_hand: &'a BTreeSet<IntentId>,
    /// Our mark.
    pub installation: Installation,
    /// The VM's part of the journal's word.
    pub vm: &'a Vm,
    /// What is there now.
    pub machine: &'a Machine,
}

impl Subject<'_> {
    fn id(&self) -> VmId {
        self.vm.address.id
    }

    /// Whether QEMU is the process that the journal saw last.
    fn same_process(&self) -> bool {
        self.vm.process.as_ref().is_some_and(|(process, _)| *process == self.machine.process)
    }
}

/// Holds one VM's journal against its QEMU.
#[must_use]
pub fn findings(subject: Subject<'_>) -> Vec<Finding> {
    let mut found = open::findings(subject);
    found.extend(views::findings(subject));
    found.extend(chain::findings(subject));
    found.extend(leftovers::findings(subject));
    found
}

/// Holds a VM's restore points against what is in their repositories. One that cannot be opened says nothing, and of a
/// point that is being forgotten its intent speaks.
#[must_use]
pub fn point_findings(state: &State, vm: VmId, repositories: &[RepositorySeen]) -> Vec<Finding> {
    let forgotten: BTreeSet<PointId> = state
        .open
        .values()
        .filter_map(|open| match &open.intent.effect {
            Effect::Forget(forget) => Some(forget.point),
            _ => None,
        })
        .collect();
    let mut found = Vec::new();
    for seen in repositories {
        let Ok(snapshots) = &seen.snapshots else { continue };
        for point in state.points_of(vm).filter(|point| point.repository == seen.name) {
            if !snapshots.contains(&point.snapshot) && !forgotten.contains(&point.id) {
                found.push(Finding {
                    row: Row::PointGone,
                    disk: None,
                    what: format!("restore point {} is not in repository {}", point.id, seen.name),
                    verdict: Verdict::DropPoint(point.id),
                });
            }
        }
    }
    found
}

/// The records and intents that the findings call for. Empty when there is nothing to do.
#[must_use]
pub fn enact(subject: Subject<'_>, found: &[Finding]) -> Decision {
    let mut decision = Decision::default();
    let vm = subject.id();
    if !subject.same_process() {
        let (process, version) = (subject.machine.process, subject.machine.version.clone());
        decision.records.push(ProcessSeen { vm, process, version }.into());
    }
    for finding in found {
        decision.records.extend(recorded(vm, finding));
        if let Verdict::Repeat(intent) = finding.verdict {
            decision.send.push(intent);
        }
    }
    // What was just recorded changes what is explained: effects wait for the next look at the same observation.
    if decision.records.is_empty() {
        for effect in effects(subject, found) {
            decision.open(subject.state, None, effect);
        }
    }
    decision
}

fn recorded(vm: VmId, finding: &Finding) -> Option<Record> {
    let row = finding.row.label().to_owned();
    let why = || format!("{}: {}", finding.what, finding.row.why());
    Some(match &finding.verdict {
        Verdict::Settle(intent, outcome) => {
            IntentSettled { intent: *intent, outcome: outcome.clone(), by: Witness::Observation { row } }
                .into()
        }
        Verdict::Repeat(intent) => IntentAdopted { intent: *intent, row, why: why() }.into(),
        Verdict::Lose(disk, through) => {
            TrackingLost { vm, disk: disk.clone(), through: *through, row, reason: finding.what.clone() }
                .into()
        }
        Verdict::DropView(view) => ViewLost { vm, view: *view, row, reason: finding.what.clone() }.into(),
        Verdict::DropPoint(point) => PointGone { point: *point, why: finding.what.clone() }.into(),
        Verdict::GoOn | Verdict::Leave | Verdict::EndView(_) | Verdict::Thaw | Verdict::Remove(_) => {
            return None;
        }
    })
}

fn effects(subject: Subject<'_>, found: &[Finding]) -> Vec<Effect> {
    let Subject { installation, vm, machine, .. } = subject;
    let address = || vm.address.clone();
    let mut effects = Vec::new();
    let mut clean = Clean {
        vm: address(),
        process: machine.process,
        installation,
        exports: Vec::new(),
        jobs: Vec::new(),
        nodes: Vec::new(),
        bitmaps: Vec::new(),
        files: Vec::new(),
    };
    for finding in found {
        match &finding.verdict {
            Verdict::Thaw => effects.push(Effect::Thaw(Thaw { vm: address() })),
            Verdict::EndView(view) => {
                let process = vm.views.get(view).map_or(machine.process, |view| view.process);
                let disks = vm.views.get(view).map_or(0, |view| view.disks.len());
                effects.push(Effect::End(End { vm: address(), process, installation, view: *view, disks }));
            }
            Verdict::Remove(Leftover::Export(name)) => clean.exports.push(name.clone()),
            Verdict::Remove(Leftover::Job(name)) => clean.jobs.push(name.clone()),
            Verdict::Remove(Leftover::Node(name)) => clean.nodes.push(name.clone()),
            Verdict::Remove(Leftover::Bitmap(node, name)) => clean.bitmaps.push((node.clone(), name.clone())),
            Verdict::Remove(Leftover::File(name)) => clean.files.push(name.clone()),
            // Every clean-up removes it: there is one for each VM, always at the same place.
            Verdict::Remove(Leftover::Socket) => {}
            _ => {}
        }
    }
    if found.iter().any(|finding| matches!(finding.verdict, Verdict::Remove(_))) {
        effects.push(Effect::Clean(clean));
    }
    effects
}
