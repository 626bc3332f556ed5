//! What each side says of one VM, beside one another: the journal, QEMU, the repositories, the scratch folder.
//!
//! A side that has nothing to say of a thing is null. Judges nothing: the findings do.

use std::collections::BTreeSet;

use journal::names::{Owner, owner};
use journal::observation::{BitmapSeen, DiskSeen, Machine, RepositorySeen, VmSeen};
use journal::state::{Point, Vm};
use journal::{IntentId, Process, State};

use crate::api::view::SideView;
use crate::decide::Seen;

/// How many restore points of each repository are listed: the newest ones. Those that differ are findings in any case.
const POINTS_SHOWN: usize = 3;

/// Every thing that at least one side knows, with what each says of it.
pub(super) fn sides(state: &State, vm: &Vm, seen: &Seen) -> Vec<SideView> {
    let table = Table { vm, machine: answering(&seen.vm) };
    let mut rows = vec![table.process(&seen.vm)];
    rows.extend(table.bitmaps());
    rows.extend(table.foreign());
    rows.extend(table.intents(state));
    rows.extend(seen.repositories.iter().flat_map(|repository| points(state, vm, repository)));
    rows
}

fn answering(seen: &VmSeen) -> Option<&Machine> {
    match seen {
        VmSeen::Answering(machine) => Some(machine),
        VmSeen::NotRunning { .. } | VmSeen::Silent { .. } => None,
    }
}

struct Table<'a> {
    vm: &'a Vm,
    machine: Option<&'a Machine>,
}

impl Table<'_> {
    fn row(&self, thing: String) -> SideView {
        SideView { vm: self.vm.address.name.to_string(), thing, ..SideView::default() }
    }

    fn process(&self, seen: &VmSeen) -> SideView {
        let show = |process: &Process, version: &str| format!("{process}, QEMU {version}");
        SideView {
            journal: self.vm.process.as_ref().map(|(process, version)| show(process, version)),
            qemu: Some(match seen {
                VmSeen::Answering(machine) => show(&machine.process, &machine.version),
                VmSeen::NotRunning { why } => format!("not running: {why}"),
                VmSeen::Silent { why } => format!("does not answer: {why}"),
            }),
            ..self.row("process".to_owned())
        }
    }

    fn disk(&self, name: &journal::DiskName) -> Option<&DiskSeen> {
        self.machine?.disks.iter().find(|disk| disk.disk == *name)
    }

    /// The chain's bitmaps, oldest first.
    fn bitmaps(&self) -> Vec<SideView> {
        let chain = &self.vm.chain;
        let newest = |disk| chain.of_disk(disk).next_back().map(|(id, _)| id);
        let of = chain.checkpoints.iter().flat_map(|checkpoint| {
            checkpoint.disks.iter().map(move |(disk, tracked)| (checkpoint.id, disk, tracked))
        });
        let row = |(id, disk, tracked): (_, _, &journal::state::Tracked)| {
            let recording = if newest(disk) == Some(id) { "recording" } else { "kept" };
            let there = self.disk(disk).map(|seen| seen.bitmap(&tracked.bitmap));
            SideView {
                disk: Some(disk.to_string()),
                journal: Some(format!("checkpoint {id}, {recording}")),
                qemu: there.map(|there| there.map_or_else(|| "not there".to_owned(), show)),
                ..self.row(format!("bitmap {}", tracked.bitmap))
            }
        };
        of.map(row).collect()
    }

    /// Bitmaps that the chain knows nothing of, whosever they are.
    fn foreign(&self) -> Vec<SideView> {
        let mut rows = Vec::new();
        for disk in self.machine.iter().flat_map(|machine| &machine.disks) {
            let tracked = |bitmap: &BitmapSeen| self.vm.chain.tracks(&disk.disk, &bitmap.name);
            let unknown = disk.bitmaps.iter().filter(|bitmap| !tracked(bitmap));
            rows.extend(unknown.map(|bitmap| SideView {
                disk: Some(disk.disk.to_string()),
                qemu: Some(show(bitmap)),
                ..self.row(format!("bitmap {}", bitmap.name))
            }));
        }
        rows
    }

    /// Open intents, and every temporary object by the intent whose it is.
    fn intents(&self, state: &State) -> Vec<SideView> {
        let of = |name: &String| match owner(name)? {
            Owner::Temporary(whose, intent, ..) if Some(whose) == state.installation => Some(intent),
            _ => None,
        };
        let machine = self.machine;
        let in_qemu: Vec<(IntentId, String)> = machine
            .into_iter()
            .flat_map(|machine| {
                let jobs = machine.jobs.iter().map(|job| (of(&job.id), format!("job {}", job.status)));
                let exports = machine.exports.iter().map(|name| (of(name), "export".to_owned()));
                let nodes = machine.nodes.iter().map(|name| (of(name), "node".to_owned()));
                jobs.chain(exports).chain(nodes)
            })
            .filter_map(|(intent, what)| intent.map(|intent| (intent, what)))
            .collect();
        let files: Vec<IntentId> = machine.iter().flat_map(|it| &it.files).filter_map(of).collect();
        let open = state.open_on(self.vm.address.id).map(|open| open.intent.id);
        let mut ids: BTreeSet<IntentId> = open.chain(self.vm.views.keys().copied()).collect();
        ids.extend(in_qemu.iter().map(|(intent, _)| *intent));
        ids.extend(&files);
        let row = |id: IntentId| SideView {
            journal: self.says_journal(state, id),
            qemu: machine.map(|_| count(in_qemu.iter().filter(|(it, _)| *it == id).map(|(_, what)| what))),
            files: machine.map(|_| match files.iter().filter(|it| **it == id).count() {
                0 => "none".to_owned(),
                files => format!("{files} scratch file(s)"),
            }),
            ..self.row(format!("intent {id}"))
        };
        ids.into_iter().map(row).collect()
    }

    fn says_journal(&self, state: &State, id: IntentId) -> Option<String> {
        let open = state.open.get(&id).map(|open| format!("`{}` is open", open.intent.effect.kind()));
        let view = self.vm.views.get(&id).map(|view| match view.job {
            Some(job) => format!("its view is up, for {job}"),
            None => "its view is up".to_owned(),
        });
        let owed = (self.vm.thaw_owed == Some(id)).then(|| "a thaw is owed".to_owned());
        let says: Vec<String> = [open, view, owed].into_iter().flatten().collect();
        (!says.is_empty()).then(|| says.join(", "))
    }
}

fn show(bitmap: &BitmapSeen) -> String {
    let state = match (bitmap.inconsistent, bitmap.recording) {
        (true, _) => "inconsistent",
        (false, true) => "recording",
        (false, false) => "kept",
    };
    let busy = if bitmap.busy { ", in use" } else { "" };
    format!("{state}, {} dirty bytes{busy}", bitmap.dirty_bytes)
}

/// `export, 2 node, job running`, or `nothing`.
fn count<'a>(what: impl Iterator<Item = &'a String>) -> String {
    let mut counts = std::collections::BTreeMap::<&String, usize>::new();
    what.for_each(|what| *counts.entry(what).or_default() += 1);
    let shown: Vec<String> = counts.into_iter().map(|(what, count)| format!("{count} {what}")).collect();
    if shown.is_empty() { "nothing".to_owned() } else { shown.join(", ") }
}

/// The newest points of a VM in one repository, and every one that is not there.
fn points<'a>(
    state: &'a State,
    vm: &'a Vm,
    seen: &'a RepositorySeen,
) -> impl Iterator<Item = SideView> + use<'a> {
    let known: Vec<&Point> = state.points_of(vm.address.id).filter(|it| it.repository == seen.name).collect();
    let old = known.len().saturating_sub(POINTS_SHOWN);
    let there = move |point: &Point| seen.snapshots.as_ref().ok().map(|all| all.contains(&point.snapshot));
    let shown = known
        .into_iter()
        .enumerate()
        .filter(move |(place, point)| *place >= old || there(point) == Some(false));
    shown.map(move |(_, point)| SideView {
        vm: vm.address.name.to_string(),
        thing: format!("restore point {} in {}", point.id, seen.name),
        journal: Some(match &point.suspect {
            Some(_) => format!("of checkpoint {}, in doubt", point.checkpoint),
            None => format!("of checkpoint {}", point.checkpoint),
        }),
        repository: Some(match (&seen.snapshots, there(point)) {
            (Err(failure), _) => format!("cannot be read: {}", failure.what),
            (Ok(_), Some(true)) => "there".to_owned(),
            (Ok(_), _) => "not there".to_owned(),
        }),
        ..SideView::default()
    })
}
