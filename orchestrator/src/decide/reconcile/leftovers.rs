//! What is in QEMU or in the scratch folder and nothing in the journal explains; and what is not ours at all.

use std::collections::BTreeSet;

use journal::effect::Begin;
use journal::names::{Owner, Role, owner};
use journal::observation::{BitmapSeen, DiskSeen};
use journal::{Effect, IntentId};

use super::{Finding, Leftover, Row, Subject, Verdict};

pub(super) fn findings(subject: Subject<'_>) -> Vec<Finding> {
    let known = Known::of(subject);
    let mut found = Vec::new();
    found.extend(
        names(&subject.machine.exports, &known).map(|name| leftover("export", name, Leftover::Export)),
    );
    let jobs: Vec<String> = subject.machine.jobs.iter().map(|job| job.id.clone()).collect();
    found.extend(names(&jobs, &known).map(|name| leftover("block job", name, Leftover::Job)));
    let mut nodes: Vec<&String> = names(&subject.machine.nodes, &known).collect();
    // A node goes before the one below it. A filter goes with its job.
    nodes.retain(|name| role(name) != Some(Role::Filter));
    nodes.sort_by_key(|name| role(name) == Some(Role::Scratch));
    found.extend(nodes.into_iter().map(|name| leftover("node", name, Leftover::Node)));
    for disk in &subject.machine.disks {
        found.extend(disk.bitmaps.iter().filter_map(|bitmap| bitmap_finding(&known, disk, bitmap)));
    }
    let temporary = subject.machine.exports.iter().chain(&jobs).chain(&subject.machine.nodes);
    found.extend(temporary.filter_map(|name| of_another_installation(subject, name)));
    found.extend(
        names(&subject.machine.files, &known).map(|name| leftover("scratch file", name, Leftover::File)),
    );
    // It carries no mark: it is the VM's, and what serves on it or removes it is a view or an open intent.
    if subject.machine.socket_is_dead && known.intents.is_empty() {
        found.push(Finding {
            row: Row::Leftover,
            disk: None,
            what: format!("nobody listens on the NBD socket {}", subject.machine.socket),
            verdict: Verdict::Remove(Leftover::Socket),
        });
    }
    found
}

/// What the journal explains.
struct Known<'a> {
    subject: Subject<'a>,
    /// Open intents, and the intents that made the views that are up.
    intents: BTreeSet<IntentId>,
    /// Bitmaps that an open intent may be making or deleting.
    bitmaps: BTreeSet<&'a String>,
}

impl<'a> Known<'a> {
    fn of(subject: Subject<'a>) -> Self {
        let mut intents: BTreeSet<IntentId> = subject.vm.views.keys().copied().collect();
        let mut bitmaps = BTreeSet::new();
        for open in subject.state.open_on(subject.id()) {
            intents.insert(open.intent.id);
            match &open.intent.effect {
                Effect::Begin(Begin { checkpoint: add, .. }) | Effect::AddCheckpoint(add) => {
                    bitmaps.extend(add.disks.iter().map(|mark| &mark.bitmap));
                }
                Effect::DeleteCheckpoint(delete) => {
                    for unmark in &delete.disks {
                        bitmaps.insert(&unmark.bitmap);
                        bitmaps.extend(unmark.predecessor.iter().flat_map(|it| [&it.bitmap, &it.becomes]));
                    }
                }
                Effect::End(end) => drop(intents.insert(end.view)),
                _ => {}
            }
        }
        Self { subject, intents, bitmaps }
    }

    /// Whether an object of this owner is one of our leftovers.
    fn is_leftover(&self, name: &String, owner: Owner, disk: Option<&DiskSeen>) -> bool {
        if owner.installation() != self.subject.installation {
            return false;
        }
        match owner {
            Owner::Temporary(_, intent, ..) => !self.intents.contains(&intent),
            Owner::Bitmap(..) => {
                let chain = &self.subject.vm.chain;
                let tracked = |disk: &DiskSeen| chain.tracks(&disk.disk, name);
                !disk.is_some_and(tracked) && !self.bitmaps.contains(name)
            }
        }
    }
}

fn names<'a>(all: &'a [String], known: &'a Known<'_>) -> impl Iterator<Item = &'a String> {
    all.iter().filter(|name| owner(name).is_some_and(|owner| known.is_leftover(name, owner, None)))
}

/// Two installations may back one VM up; each sees the other's, and leaves it alone.
fn of_another_installation(subject: Subject<'_>, name: &str) -> Option<Finding> {
    let theirs = owner(name)?.installation();
    (theirs != subject.installation).then(|| Finding {
        row: Row::Foreign,
        disk: None,
        what: format!("{name} is of installation {theirs}"),
        verdict: Verdict::Leave,
    })
}

fn role(name: &str) -> Option<Role> {
    match owner(name)? {
        Owner::Temporary(.., role) => Some(role),
        Owner::Bitmap(..) => None,
    }
}

fn leftover(what: &str, name: &str, make: fn(String) -> Leftover) -> Finding {
    Finding {
        row: Row::Leftover,
        disk: None,
        what: format!("{what} {name} is left over"),
        verdict: Verdict::Remove(make(name.to_owned())),
    }
}

fn bitmap_finding(known: &Known<'_>, disk: &DiskSeen, bitmap: &BitmapSeen) -> Option<Finding> {
    let name = &bitmap.name;
    let (row, what, verdict) = match owner(name) {
        Some(owner) if known.is_leftover(name, owner, Some(disk)) => {
            // A busy bitmap is let go by the removal of what uses it; what else uses it is not ours to judge.
            if disk.read_only || bitmap.busy {
                (
                    Row::LeftoverStuck,
                    format!("bitmap {name} is left over and cannot be removed now"),
                    Verdict::Leave,
                )
            } else {
                let leftover = Leftover::Bitmap(disk.node.clone(), name.clone());
                (Row::Leftover, format!("bitmap {name} is left over"), Verdict::Remove(leftover))
            }
        }
        Some(owner) if owner.installation() == known.subject.installation => return None,
        _ => (Row::Foreign, format!("bitmap {name} is not ours"), Verdict::Leave),
    };
    Some(Finding { row, disk: Some(disk.disk.clone()), what, verdict })
}
