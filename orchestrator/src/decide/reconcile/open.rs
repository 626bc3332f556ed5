//! Open intents that no agent is working on: what became of them, or that they are to be repeated.

use journal::Process;
use journal::effect::{AddCheckpoint, DeleteCheckpoint, Effect, Lasts, Predecessor};
use journal::observation::Machine;
use journal::outcome::{Done, Failure, FailureClass, Outcome};
use journal::state::Open;

use super::{Finding, Row, Subject, Verdict};

pub(super) fn findings(subject: Subject<'_>) -> Vec<Finding> {
    let orphans =
        subject.state.open_on(subject.id()).filter(|open| !subject.in_hand.contains(&open.intent.id));
    orphans.map(|open| finding(subject, open)).collect()
}

fn finding(subject: Subject<'_>, open: &Open) -> Finding {
    let (row, verdict) = verdict(subject, open);
    let effect = open.intent.effect.kind();
    Finding {
        row,
        disk: None,
        what: format!("{} `{effect}` is open and nobody works on it", open.intent.id),
        verdict,
    }
}

fn verdict(subject: Subject<'_>, open: &Open) -> (Row, Verdict) {
    let id = open.intent.id;
    let machine = subject.machine;
    let same = |process: Process| process == machine.process;
    let repeat = (Row::OpenSameProcess, Verdict::Repeat(id));
    let there = |done: Done| (Row::OpenNewProcessThere, Verdict::Settle(id, Outcome::Done(done)));
    let not_there = || (Row::OpenNewProcessNotThere, Verdict::Settle(id, gone()));
    match &open.intent.effect {
        Effect::Begin(begin) if same(begin.checkpoint.process) => repeat,
        Effect::AddCheckpoint(add) if same(add.process) => repeat,
        Effect::Begin(journal::effect::Begin { checkpoint: add, .. }) | Effect::AddCheckpoint(add) => {
            if was_added(add, machine) {
                there(Done::Began { instant: open.opened })
            } else {
                not_there()
            }
        }
        Effect::DeleteCheckpoint(delete) if same(delete.process) => repeat,
        Effect::DeleteCheckpoint(delete) => {
            if was_deleted(delete, machine) {
                there(Done::Plain)
            } else {
                not_there()
            }
        }
        Effect::Clean(clean) if same(clean.process) => repeat,
        // What is still to be cleaned is found anew.
        Effect::Clean(_) => not_there(),
        Effect::Freeze(_) if !subject.same_process() => {
            (Row::OpenFreezeNewProcess, Verdict::Settle(id, gone()))
        }
        // Undone, not repeated: while the thaw is owed it is thawed, and then the freeze did not hold.
        Effect::Freeze(_) if subject.vm.thaw_owed.is_some() => (Row::OpenFreeze, Verdict::Thaw),
        Effect::Freeze(_) => {
            let what = "the freeze was undone, because Backstay ended in the middle of it";
            let failure = Failure::new(FailureClass::Host, what);
            (Row::OpenFreeze, Verdict::Settle(id, Outcome::Failed(failure)))
        }
        _ => (Row::OpenElsewhere, Verdict::Repeat(id)),
    }
}

fn gone() -> Outcome {
    Outcome::Failed(Failure::new(FailureClass::ProcessGone, "QEMU ended before this was done"))
}

/// Whether a checkpoint's bitmaps, those that QEMU stores, are all there and whole. A transaction is all or nothing, so
/// one that lacks such a bitmap either did not run or was not stored in full; both mean that it cannot be counted on. Of
/// bitmaps that end with their process nothing can be seen: whether it ran shows in the others, or not at all.
pub(super) fn was_added(add: &AddCheckpoint, machine: &Machine) -> bool {
    let mut stored = add.disks.iter().filter(|mark| mark.lasts == Lasts::Persistent).peekable();
    stored.peek().is_some()
        && stored.all(|mark| {
            let disk = machine.disks.iter().find(|disk| disk.disk == mark.disk);
            disk.and_then(|disk| disk.bitmap(&mark.bitmap)).is_some_and(|bitmap| !bitmap.inconsistent)
        })
}

/// Whether a deletion ran: every bitmap that it makes is there and whole, and of what it takes away nothing. A kill in
/// between leaves none of the new ones.
pub(super) fn was_deleted(delete: &DeleteCheckpoint, machine: &Machine) -> bool {
    delete.disks.iter().all(|unmark| {
        let disk = machine.disks.iter().find(|disk| disk.disk == unmark.disk);
        let bitmap = |name: &str| disk.and_then(|disk| disk.bitmap(name));
        let made = |it: &Predecessor| {
            it.lasts == Lasts::WithProcess || bitmap(&it.becomes).is_some_and(|bitmap| !bitmap.inconsistent)
        };
        disk.is_none() || bitmap(&unmark.bitmap).is_none() && unmark.predecessor.as_ref().is_none_or(made)
    })
}
