//! A disk in memory that can lose what was not synced, tear it, fail, and count.
//!
//! Owns the model of a volatile cache over stable storage. Knows nothing of what is in the files. Every loss
//! comes from a seed, so a run can be replayed.
//!
//! The model: a write goes to the cache, sector by sector. A sync makes the file's sectors and length stable.
//! A crash keeps any subset of the sectors that were not synced, each whole or not at all, and of the changes
//! of names not synced any first few, as a file system with a journal does. A sync that fails drops what it
//! should have written, and the next one succeeds without it, as Linux does.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile};

const SECTOR: usize = 512;

/// What a crash does to what was not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// The process dies, the machine lives on: nothing is lost.
    Process,
    /// Power is lost, and the cache with it: all that was not synced is lost.
    LoseAll,
    /// Power is lost, and some of the cache had been written out: which, this seed says.
    LoseSome(u64),
}

/// A simulated disk. Clones are the same disk.
#[derive(Clone, Default)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
    /// What all names of this folder begin with on the disk; nothing, or a word and a slash.
    folder: &'static str,
}

impl std::fmt::Debug for SimulatedDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimulatedDisk").field("names", &self.lock().names).finish_non_exhaustive()
    }
}

#[derive(Default, Clone)]
struct State {
    files: Vec<Content>,
    /// As a program sees them.
    names: BTreeMap<String, usize>,
    /// As a crash leaves them.
    stable_names: BTreeMap<String, usize>,
    renamed: Vec<NameChange>,
    syncs: u64,
    operations: u64,
    /// Of the syncs, counted as in `syncs`, those that fail.
    failing: Range<u64>,
    power_off: Option<u64>,
    /// How many bytes files may grow by from now on; `None`: no limit.
    free: Option<u64>,
}

#[derive(Default, Clone)]
struct Content {
    cached: Vec<u8>,
    stable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

#[derive(Clone)]
enum NameChange {
    Add(String, usize),
    Rename(String, String),
    Remove(String),
}

impl NameChange {
    fn apply(self, names: &mut BTreeMap<String, usize>) {
        match self {
            NameChange::Add(name, id) => {
                names.insert(name, id);
            }
            NameChange::Rename(from, to) => {
                if let Some(id) = names.remove(&from) {
                    names.insert(to, id);
                }
            }
            NameChange::Remove(name) => {
                names.remove(&name);
            }
        }
    }
}

impl State {
    /// Counts an operation that changes something; from the one at which power goes, all fail.
    fn operation(&mut self) -> io::Result<()> {
        self.operations += 1;
        match self.power_off {
            Some(at) if self.operations >= at => Err(io::Error::other("simulated: the power is off")),
            _ => Ok(()),
        }
    }

    /// Whether power is off since before the operation at hand.
    fn was_off(&self) -> bool {
        self.power_off.is_some_and(|at| self.operations > at)
    }

    fn change_names(&mut self, change: NameChange) -> io::Result<()> {
        let done = self.operation();
        if !self.was_off() {
            change.clone().apply(&mut self.names);
            self.renamed.push(change);
        }
        done
    }

    /// `choose(n)` says which of `n` ways things went, 0 being the loss.
    fn after_power_loss(&self, choose: &mut dyn FnMut(usize) -> usize) -> State {
        let mut names = self.stable_names.clone();
        let kept = choose(self.renamed.len() + 1);
        self.renamed.iter().take(kept).cloned().for_each(|change| change.apply(&mut names));
        let files = self.files.iter().map(|file| file.after_power_loss(choose)).collect();
        State { files, stable_names: names.clone(), names, ..State::default() }
    }

    /// Takes room for a file to grow by `bytes`.
    fn grow(&mut self, bytes: u64) -> io::Result<()> {
        let Some(free) = &mut self.free else { return Ok(()) };
        *free = free.checked_sub(bytes).ok_or(io::ErrorKind::StorageFull)?;
        Ok(())
    }

    fn id(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl SimulatedDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> SimulatedDisk {
        SimulatedDisk::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many syncs of files there were, mark included.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// How many operations there were that change something.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Lets the `nth` sync from now on fail, once; 1 is the next.
    pub fn fail_sync(&self, nth: u64) {
        let mut state = self.lock();
        let nth = state.syncs + nth;
        state.failing = nth..nth + 1;
    }

    /// Lets every sync from now on fail, whoever asks for it.
    pub fn fail_every_sync(&self) {
        let mut state = self.lock();
        state.failing = state.syncs + 1..u64::MAX;
    }

    /// Turns the power off in the middle of the `nth` changing operation from now on; 1 is the next.
    pub fn power_off(&self, nth: u64) {
        let mut state = self.lock();
        state.power_off = Some(state.operations + nth);
    }

    /// Says how many bytes files may grow by from now on, until it is said again; removing files gives nothing back.
    pub fn free(&self, bytes: Option<u64>) {
        self.lock().free = bytes;
    }

    fn path(&self, name: &str) -> String {
        format!("{}{name}", self.folder)
    }

    /// The disk as the next start finds it. This one stays as it is.
    #[must_use]
    pub fn crashed(&self, crash: Crash) -> SimulatedDisk {
        let state = self.lock();
        let after = match crash {
            Crash::Process => State {
                failing: Range::default(),
                power_off: None,
                syncs: 0,
                operations: 0,
                free: None,
                ..state.clone()
            },
            Crash::LoseAll => state.after_power_loss(&mut |_| 0),
            Crash::LoseSome(seed) => {
                let mut dice = Dice(seed);
                state.after_power_loss(&mut |ways| dice.roll() % ways)
            }
        };
        SimulatedDisk { state: Arc::new(Mutex::new(after)), folder: "" }
    }
}

impl Content {
    fn after_power_loss(&self, choose: &mut dyn FnMut(usize) -> usize) -> Content {
        let mut after = self.stable.clone();
        for sector in &self.dirty {
            if choose(2) == 0 {
                continue;
            }
            let range = self.sector(*sector);
            after.resize(after.len().max(range.end), 0);
            after[range.clone()].copy_from_slice(&self.cached[range]);
        }
        Content { cached: after.clone(), stable: after, dirty: BTreeSet::new() }
    }

    fn sector(&self, sector: usize) -> Range<usize> {
        sector * SECTOR..((sector + 1) * SECTOR).min(self.cached.len())
    }

    fn write(&mut self, bytes: &[u8], at: usize) {
        let end = at + bytes.len();
        if self.cached.len() < end {
            self.cached.resize(end, 0);
        }
        self.cached[at..end].copy_from_slice(bytes);
        self.dirty.extend(at / SECTOR..end.div_ceil(SECTOR));
    }

    fn sync(&mut self) {
        self.stable.resize(self.cached.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            let range = self.sector(sector);
            self.stable[range.clone()].copy_from_slice(&self.cached[range]);
        }
    }
}

impl Disk for SimulatedDisk {
    fn names(&self) -> io::Result<Vec<String>> {
        let state = self.lock();
        let inside = state.names.keys().filter_map(|name| name.strip_prefix(self.folder));
        Ok(inside.filter(|name| !name.contains('/')).map(str::to_owned).collect())
    }

    fn open(&self, name: &str) -> io::Result<Option<Box<dyn DiskFile>>> {
        let id = self.lock().names.get(&self.path(name)).copied();
        Ok(id.map(|id| Box::new(SimulatedFile { disk: self.clone(), id }) as Box<dyn DiskFile>))
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.lock();
        state.grow(len)?;
        let id = state.files.len();
        let mut content = Content::default();
        content.write(&vec![0; usize::try_from(len).map_err(io::Error::other)?], 0);
        state.files.push(content);
        state.change_names(NameChange::Add(self.path(name), id))?;
        Ok(Box::new(SimulatedFile { disk: self.clone(), id }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.id(&self.path(from))?;
        state.change_names(NameChange::Rename(self.path(from), self.path(to)))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.id(&self.path(name))?;
        state.change_names(NameChange::Remove(self.path(name)))
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut state = self.lock();
        state.operation()?;
        for change in std::mem::take(&mut state.renamed) {
            change.apply(&mut state.stable_names);
        }
        Ok(())
    }

    fn archive(&self) -> Box<dyn Disk> {
        Box::new(SimulatedDisk { state: Arc::clone(&self.state), folder: "archive/" })
    }
}

struct SimulatedFile {
    disk: SimulatedDisk,
    id: usize,
}

impl DiskFile for SimulatedFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.lock().files[self.id].cached.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.lock();
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let there = state.files[self.id].cached.get(offset..).unwrap_or_default();
        let len = there.len().min(buffer.len());
        buffer[..len].copy_from_slice(&there[..len]);
        Ok(len)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        let done = state.operation();
        if !state.was_off() {
            let at = usize::try_from(offset).map_err(io::Error::other)?;
            let end = (at + bytes.len()).saturating_sub(state.files[self.id].cached.len());
            state.grow(end as u64)?;
            state.files[self.id].write(bytes, at);
        }
        done
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.operation()?;
        state.syncs += 1;
        if state.failing.contains(&state.syncs) {
            state.files[self.id].dirty.clear();
            return Err(io::Error::other("simulated: the disk could not write"));
        }
        state.files[self.id].sync();
        Ok(())
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) >> 33).unwrap_or(0)
    }
}
