//! A QEMU, a guest and a repository, small enough to be tried a million times: blocks are numbers, bitmaps are sets.
//!
//! It keeps to what `docs/qemu.md` says of the real ones: persistent bitmaps reach the image on an orderly end only, a
//! stored one is inconsistent after a kill, a transaction is all or nothing. The system's tests hold the real QEMU to
//! the same histories.

use std::collections::{BTreeMap, BTreeSet};

use journal::effect::{
    AddCheckpoint, Begin, Clean, DeleteCheckpoint, DiskMode, Effect, End, Intent, Lasts, Store, Unmark, Way,
};
use journal::names::{Role, temporary};
use journal::observation::{BitmapSeen, DiskSeen, JobSeen, Machine, RepositorySeen, VmSeen};
use journal::outcome::{Done, Failure, FailureClass, Outcome, Stored, StoredDisk};
use journal::{CheckpointId, Installation, IntentId, Process, RepositoryName, Time};

/// The hook that fails; any other works.
pub const FAILS: &str = "fails";

pub const BLOCKS: usize = 24;
pub const BLOCK_BYTES: u64 = 65536;

/// What every block of every disk holds.
pub type Content = Vec<Vec<u64>>;

#[derive(Debug, Clone)]
pub struct Bitmap {
    bits: BTreeSet<usize>,
    recording: bool,
    inconsistent: bool,
    persistent: bool,
    /// It is in the image, from an earlier orderly end.
    stored: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Disk {
    pub blocks: Vec<u64>,
    pub bitmaps: BTreeMap<String, Bitmap>,
}

fn place(node: &str) -> usize {
    node.trim_start_matches("node").parse().unwrap()
}

#[derive(Debug, Clone)]
struct View {
    way: Way,
    content: Content,
    changed: Vec<Option<BTreeSet<usize>>>,
}

#[derive(Debug, Clone)]
pub struct World {
    pub installation: Option<Installation>,
    pub process: u32,
    pub running: bool,
    pub disks: Vec<Disk>,
    views: BTreeMap<IntentId, View>,
    files: BTreeSet<String>,
    pub snapshots: BTreeMap<String, Content>,
    /// What the view of each checkpoint showed: what its restore point has to hold.
    pub truth: BTreeMap<u64, Content>,
    /// What the audit of each snapshot found, disk by disk.
    distrusts: BTreeMap<String, Vec<Option<String>>>,
    /// Whether bitmaps were tampered with: only then may the audit find anything.
    pub tampered: bool,
    /// Whether the repository has no room.
    pub full: bool,
    /// The way that its disks allow.
    way: Way,
    writes: u64,
}

impl World {
    pub fn new(disks: usize, way: Way) -> Self {
        let disk = Disk { blocks: vec![0; BLOCKS], bitmaps: BTreeMap::new() };
        Self {
            installation: None,
            process: 1,
            running: true,
            disks: vec![disk; disks],
            views: BTreeMap::new(),
            files: BTreeSet::new(),
            snapshots: BTreeMap::new(),
            truth: BTreeMap::new(),
            distrusts: BTreeMap::new(),
            tampered: false,
            full: false,
            way,
            writes: 0,
        }
    }

    pub fn write(&mut self, disk: usize, block: usize) {
        if !self.running {
            return;
        }
        self.writes += 1;
        let disk = &mut self.disks[disk];
        disk.blocks[block] = self.writes;
        for bitmap in disk.bitmaps.values_mut().filter(|bitmap| bitmap.recording) {
            bitmap.bits.insert(block);
        }
    }

    /// QEMU ends by SIGKILL: what was stored is in use and so inconsistent, what was not is gone.
    pub fn kill(&mut self) {
        self.end();
        for disk in &mut self.disks {
            disk.bitmaps.retain(|_, bitmap| bitmap.persistent && bitmap.stored);
            for bitmap in disk.bitmaps.values_mut() {
                (bitmap.inconsistent, bitmap.recording) = (true, false);
                bitmap.bits.clear();
            }
        }
    }

    /// QEMU ends in order: persistent bitmaps are stored.
    pub fn quit(&mut self) {
        self.end();
        for disk in &mut self.disks {
            disk.bitmaps.retain(|_, bitmap| bitmap.persistent);
            disk.bitmaps.values_mut().for_each(|bitmap| bitmap.stored = true);
        }
    }

    /// Somebody exchanges the images of two disks while QEMU is off.
    pub fn swap_images(&mut self) {
        self.quit();
        self.disks.swap(0, 1);
    }

    /// Somebody clears a bitmap: it goes on recording, and what it held is forgotten. Where QEMU copies, nobody reads what
    /// a bitmap calls clean, so that nobody would notice.
    pub fn clear_bitmap(&mut self, disk: usize, nth: usize) {
        if self.way == Way::Push {
            return;
        }
        if let Some(bitmap) = self.disks[disk].bitmaps.values_mut().nth(nth) {
            bitmap.bits.clear();
            self.tampered = true;
        }
    }

    fn end(&mut self) {
        self.running = false;
        self.views.clear();
    }

    pub fn start(&mut self) {
        if !self.running {
            (self.running, self.process) = (true, self.process + 1);
        }
    }

    fn process(&self) -> Process {
        Process { pid: 100 + self.process, started_ticks: u64::from(self.process), boot: uuid::Uuid::nil() }
    }

    fn mark(&self) -> Installation {
        self.installation.unwrap_or(Installation(0))
    }

    pub fn observe(&self, repository: &RepositoryName) -> (VmSeen, Vec<RepositorySeen>) {
        let snapshots = Ok(self.snapshots.keys().cloned().collect());
        let repositories = vec![RepositorySeen { name: repository.clone(), snapshots }];
        if !self.running {
            return (VmSeen::NotRunning { why: "nobody listens".into() }, repositories);
        }
        let mut nodes = Vec::new();
        let mut jobs = Vec::new();
        for (id, view) in &self.views {
            for place in 0..view.content.len() {
                if view.way == Way::Push {
                    let id = temporary(self.mark(), *id, place, Role::Job);
                    jobs.push(JobSeen { id, status: "concluded".into(), error: None });
                    continue;
                }
                nodes.push(temporary(self.mark(), *id, place, Role::Fleece));
                nodes.push(temporary(self.mark(), *id, place, Role::Scratch));
                if view.way == Way::CopyBeforeWrite {
                    nodes.push(temporary(self.mark(), *id, place, Role::Filter));
                    continue;
                }
                let id = temporary(self.mark(), *id, place, Role::Job);
                jobs.push(JobSeen { id, status: "running".into(), error: None });
            }
        }
        let disks = self.disks.iter().enumerate().map(|(place, disk)| self.see(place, disk)).collect();
        let machine = Machine {
            process: self.process(),
            version: "10.0.2".into(),
            uuid: None,
            disks,
            unusable: Vec::new(),
            jobs,
            exports: Vec::new(),
            nodes,
            files: self.files.iter().cloned().collect(),
            socket: "/run/nbd".into(),
            socket_is_dead: false,
        };
        (VmSeen::Answering(Box::new(machine)), repositories)
    }

    fn see(&self, place: usize, disk: &Disk) -> DiskSeen {
        let bitmaps = disk.bitmaps.iter().map(|(name, bitmap)| BitmapSeen {
            name: name.clone(),
            recording: bitmap.recording,
            persistent: bitmap.persistent,
            busy: false,
            inconsistent: bitmap.inconsistent,
            granularity_bytes: BLOCK_BYTES,
            dirty_bytes: bitmap.bits.len() as u64 * BLOCK_BYTES,
        });
        DiskSeen {
            disk: format!("d{place}").parse().unwrap(),
            node: format!("node{place}"),
            size_bytes: BLOCKS as u64 * BLOCK_BYTES,
            format: "qcow2".into(),
            stores_bitmaps: place != 2,
            read_only: false,
            backing: String::new(),
            iothread: None,
            shared: false,
            no_filter: (self.way != Way::CopyBeforeWrite).then(|| "its way is another".to_owned()),
            takes_reader: self.way != Way::Push,
            bitmaps: bitmaps.collect(),
            below: Vec::new(),
        }
    }

    fn disk(&mut self, node: &str) -> &mut Disk {
        &mut self.disks[place(node)]
    }

    /// Performs an effect as an agent would: looks first, and does what is missing.
    pub fn perform(&mut self, intent: &Intent, now: Time) -> Outcome {
        let done = match &intent.effect {
            Effect::Begin(begin) => self.begin(intent.id, begin, now).inspect_err(|_| {
                // A view that cannot be leaves nothing of an earlier try behind.
                self.remove_scratch(intent.id, begin.disks.len());
            }),
            Effect::AddCheckpoint(add) => self.add(add).map(|()| {
                let content = self.content();
                self.truth.entry(add.checkpoint.0).or_insert(content);
                Done::Began { instant: now }
            }),
            Effect::DeleteCheckpoint(delete) => self.delete(delete),
            Effect::Store(store) => self.store(intent.id, store),
            // Its time is over as soon as it is offered.
            Effect::Offer(offer) => self.same(offer.process).and_then(|()| {
                let lost = || Failure::new(FailureClass::ViewLost, "the view is not there");
                self.views.get(&offer.view).map(|_| Done::Plain).ok_or_else(lost)
            }),
            Effect::End(end) => Ok(self.end_view(end)),
            Effect::Clean(clean) => self.clean(clean),
            Effect::Forget(forget) => {
                self.snapshots.remove(&forget.snapshot);
                self.distrusts.remove(&forget.snapshot);
                Ok(Done::Plain)
            }
            Effect::Freeze(_) => Ok(Done::Plain),
            Effect::Hook(hook) if hook.name.as_str() == FAILS => {
                Err(Failure::new(FailureClass::Refused, "exit status: 1"))
            }
            Effect::Hook(_) => Ok(Done::Plain),
            Effect::Thaw(_) => Ok(Done::Thawed { filesystems: 1 }),
            other => panic!("the simulation has no {:?}", other.kind()),
        };
        match done {
            Ok(done) => Outcome::Done(done),
            Err(failure) => Outcome::Failed(failure),
        }
    }

    fn same(&self, process: Process) -> Result<(), Failure> {
        if self.running && process == self.process() {
            return Ok(());
        }
        Err(Failure::new(FailureClass::ProcessGone, "QEMU ended"))
    }

    /// As in a real transaction: nothing of it happens when a bitmap is missing or inconsistent.
    fn usable(&mut self, node: &str, bitmap: &str) -> Result<(), Failure> {
        let there = self.disk(node).bitmaps.get(bitmap).is_some_and(|bitmap| !bitmap.inconsistent);
        there
            .then_some(())
            .ok_or_else(|| Failure::new(FailureClass::Refused, format!("Bitmap '{bitmap}' not found")))
    }

    /// A bitmap that is to stop recording at this instant has to have recorded up to it.
    fn records(&mut self, node: &str, bitmap: &str) -> Result<(), Failure> {
        let records = self.disk(node).bitmaps.get(bitmap).is_some_and(|bitmap| bitmap.recording);
        records
            .then_some(())
            .ok_or_else(|| Failure::new(FailureClass::Refused, format!("'{bitmap}' does not record")))
    }

    fn add(&mut self, add: &AddCheckpoint) -> Result<(), Failure> {
        self.same(add.process)?;
        // One of them is there: the transaction ran, and whoever removed another since is found by the chain's check.
        if add.disks.iter().any(|mark| self.disk(&mark.node).bitmaps.contains_key(&mark.bitmap)) {
            return Ok(());
        }
        for mark in &add.disks {
            mark.disable.iter().try_for_each(|old| self.records(&mark.node, old))?;
        }
        for mark in &add.disks {
            let persistent = mark.lasts == Lasts::Persistent;
            let disk = self.disk(&mark.node);
            for old in &mark.disable {
                disk.bitmaps.get_mut(old).unwrap().recording = false;
            }
            let bitmap = Bitmap {
                bits: BTreeSet::new(),
                recording: true,
                inconsistent: false,
                persistent,
                stored: false,
            };
            disk.bitmaps.insert(mark.bitmap.clone(), bitmap);
        }
        Ok(())
    }

    fn begin(&mut self, id: IntentId, begin: &Begin, now: Time) -> Result<Done, Failure> {
        self.same(begin.checkpoint.process)?;
        if !self.views.contains_key(&id) {
            for view in &begin.disks {
                view.changed_since.iter().try_for_each(|name| self.usable(&view.node, name))?;
                view.changed_since.last().map_or(Ok(()), |newest| self.records(&view.node, newest))?;
            }
            self.add(&begin.checkpoint)?;
            if begin.way == Way::CopyBeforeWrite {
                // The filters come after the transaction: the view's instant is a little later than the checkpoint's.
                self.write(0, usize::try_from(id.0).unwrap() % BLOCKS);
            }
            let mut changed = Vec::new();
            for (place, view) in begin.disks.iter().enumerate() {
                // Only what is written after the transaction is in the new bitmap.
                let new = begin.checkpoint.disks.get(place).map(|mark| &mark.bitmap);
                let disk = self.disk(&view.node);
                let mut bits = BTreeSet::new();
                for name in view.changed_since.iter().chain(new) {
                    bits.extend(&disk.bitmaps[name].bits);
                }
                changed.push((!view.changed_since.is_empty()).then_some(bits));
            }
            let content = self.content();
            self.truth.insert(begin.checkpoint.checkpoint.0, content.clone());
            for place in 0..begin.disks.len() {
                self.files.insert(temporary(self.mark(), id, place, Role::Scratch));
            }
            self.views.insert(id, View { way: begin.way, content, changed });
        }
        Ok(Done::Began { instant: now })
    }

    fn delete(&mut self, delete: &DeleteCheckpoint) -> Result<Done, Failure> {
        self.same(delete.process)?;
        let has = |node: &str, name: &str| self.disks[place(node)].bitmaps.contains_key(name);
        let made =
            |unmark: &Unmark| unmark.predecessor.as_ref().is_some_and(|it| has(&unmark.node, &it.becomes));
        let nothing_left =
            |unmark: &Unmark| unmark.predecessor.is_none() && !has(&unmark.node, &unmark.bitmap);
        if delete.disks.iter().any(made) || delete.disks.iter().all(nothing_left) {
            return Ok(Done::Plain);
        }
        for unmark in &delete.disks {
            let predecessor = unmark.predecessor.as_ref().map(|it| &it.bitmap);
            for name in predecessor.into_iter().chain([&unmark.bitmap]) {
                self.usable(&unmark.node, name)?;
            }
        }
        for unmark in &delete.disks {
            let disk = self.disk(&unmark.node);
            let gone = disk.bitmaps.remove(&unmark.bitmap).unwrap();
            if let Some(predecessor) = &unmark.predecessor {
                let mut bitmap = disk.bitmaps.remove(&predecessor.bitmap).unwrap();
                bitmap.bits.extend(gone.bits);
                (bitmap.recording, bitmap.stored) = (predecessor.records, false);
                disk.bitmaps.insert(predecessor.becomes.clone(), bitmap);
            }
        }
        Ok(Done::Plain)
    }

    fn store(&mut self, id: IntentId, store: &Store) -> Result<Done, Failure> {
        let snapshot = format!("{id}");
        if !self.snapshots.contains_key(&snapshot) {
            self.same(store.process)?;
            if self.full {
                return Err(Failure::new(FailureClass::Full, "the repository has no room"));
            }
            let lost = || Failure::new(FailureClass::ViewLost, "the view is not there");
            let view = self.views.get(&store.view).ok_or_else(lost)?;
            let mut content = Content::new();
            let mut distrusts = Vec::new();
            for (place, disk) in store.disks.iter().enumerate() {
                let mut distrust = None;
                content.push(match &disk.mode {
                    DiskMode::Full { .. } => view.content[place].clone(),
                    DiskMode::Incremental { snapshot, .. } => {
                        let gone = || Failure::new(FailureClass::Repository, "the parent is gone");
                        let mut blocks = self.snapshots.get(snapshot).ok_or_else(gone)?[place].clone();
                        for block in view.changed[place].as_ref().unwrap() {
                            blocks[*block] = view.content[place][*block];
                        }
                        // The audit of this world leaves nothing out.
                        if blocks != view.content[place] {
                            distrust = Some("a block had changed that no bitmap names".to_owned());
                        }
                        view.content[place].clone()
                    }
                });
                distrusts.push(distrust);
            }
            self.snapshots.insert(snapshot.clone(), content);
            self.distrusts.insert(snapshot.clone(), distrusts);
        }
        let distrusts = &self.distrusts[&snapshot];
        let disks = store.disks.iter().zip(distrusts).map(|(disk, distrust)| StoredDisk {
            disk: disk.disk.clone(),
            changed_bytes: 0,
            read_bytes: 0,
            stored_bytes: 0,
            audited_chunks: 0,
            distrust: distrust.clone(),
        });
        Ok(Done::Stored(Stored { snapshot, consistency: store.consistency, disks: disks.collect() }))
    }

    fn end_view(&mut self, end: &End) -> Done {
        if self.same(end.process).is_ok() {
            self.views.remove(&end.view);
        }
        self.remove_scratch(end.view, end.disks);
        Done::Plain
    }

    fn remove_scratch(&mut self, view: IntentId, disks: usize) {
        for place in 0..disks {
            self.files.remove(&temporary(self.mark(), view, place, Role::Scratch));
        }
    }

    fn clean(&mut self, clean: &Clean) -> Result<Done, Failure> {
        self.same(clean.process)?;
        for (node, bitmap) in &clean.bitmaps {
            self.disk(node).bitmaps.remove(bitmap);
        }
        for name in clean.nodes.iter().chain(&clean.jobs) {
            if let Some(journal::names::Owner::Temporary(_, intent, ..)) = journal::names::owner(name) {
                self.views.remove(&intent);
            }
        }
        for file in &clean.files {
            self.files.remove(file);
        }
        Ok(Done::Plain)
    }

    fn content(&self) -> Content {
        self.disks.iter().map(|disk| disk.blocks.clone()).collect()
    }

    /// A restore point that was made holds what its view showed. What the views of older checkpoints showed is forgotten.
    pub fn verify(&mut self, snapshot: &str, checkpoint: CheckpointId) {
        assert!(
            self.snapshots[snapshot] == self.truth[&checkpoint.0],
            "{snapshot} is not what the view of {checkpoint} showed"
        );
        self.truth = self.truth.split_off(&checkpoint.0);
    }

    /// The blocks of a view that differ from what was so at a checkpoint, although its map of changes does not name them.
    pub fn unnamed_changes(&self, view: IntentId, since: CheckpointId) -> Vec<(usize, usize)> {
        let (Some(view), Some(then)) = (self.views.get(&view), self.truth.get(&since.0)) else {
            return Vec::new();
        };
        let mut unnamed = Vec::new();
        for (disk, changed) in view.changed.iter().enumerate() {
            let Some(changed) = changed else { continue };
            let differs = |block: &usize| view.content[disk][*block] != then[disk][*block];
            let blocks = (0..BLOCKS).filter(|block| differs(block) && !changed.contains(block));
            unnamed.extend(blocks.map(|block| (disk, block)));
        }
        unnamed
    }

    /// Whether anything temporary of ours is left.
    pub fn leftovers(&self) -> Vec<String> {
        self.files.iter().cloned().chain(self.views.keys().map(|id| format!("view {id}"))).collect()
    }
}
