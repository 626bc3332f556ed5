//! Room ahead: the next segment, full of zeros before it is needed, and the reserve for when there is no more room.
//!
//! Owns the files `spare` and `reserve`, and the knowledge that the disk is full. Knows nothing of frames.
//!
//! The reserve is a segment that has no name yet, made at the first start and kept untouched. When no other segment can
//! be made, recovery's records go into it: to use it takes a rename, which needs no room. It is made again, before
//! anything else, as soon as there is room.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Disk, DiskFile, Room};

const SPARE_NAME: &str = "spare";
const RESERVE_NAME: &str = "reserve";
const FRESH_RESERVE_NAME: &str = "reserve.new";
/// What a crash may leave of these files half made, to be removed at the next start.
pub(crate) const LEFTOVERS: [&str; 2] = [SPARE_NAME, FRESH_RESERVE_NAME];
/// How long a full disk is left alone before the next try.
const AGAIN: Duration = Duration::from_secs(1);

/// A file full of zeros, synced, which becomes a segment with its name.
pub(super) struct Spare {
    pub file: Box<dyn DiskFile>,
    pub size: u64,
    pub name: &'static str,
}

/// What is ready for the next segment.
pub(super) struct Ahead {
    disk: Arc<dyn Disk>,
    reserve_bytes: u64,
    making: Option<JoinHandle<io::Result<Spare>>>,
    ready: Option<Spare>,
    /// Since when, at the latest try, there was no room; and for how much.
    full: Option<(Instant, u64)>,
}

impl Ahead {
    /// Makes the reserve, if it is not there. That there is no room for it is no error.
    pub fn new(disk: Arc<dyn Disk>, reserve_bytes: u64) -> io::Result<Ahead> {
        let mut ahead = Ahead { disk, reserve_bytes, making: None, ready: None, full: None };
        match make_reserve(ahead.disk.as_ref(), reserve_bytes) {
            Err(error) if is_full(&error) => ahead.fill(&error, reserve_bytes),
            done => done?,
        }
        Ok(ahead)
    }

    /// Whether nothing is ready, being made, or known to be impossible.
    pub fn idle(&self) -> bool {
        self.making.is_none() && self.ready.is_none() && self.full.is_none()
    }

    /// Begins to make a spare of `size` bytes, on a thread of its own.
    pub fn begin(&mut self, size: u64) {
        let (disk, reserve) = (Arc::clone(&self.disk), self.reserve_bytes);
        let work = move || make(disk.as_ref(), reserve, size);
        // Without a thread the next segment is made when it is needed.
        self.making = std::thread::Builder::new().name("journal-spare".to_owned()).spawn(work).ok();
    }

    /// How it stands. On a full disk it tries again, `again` bytes, when some time has passed.
    pub fn room(&mut self, again: u64) -> Room {
        if self.making.as_ref().is_some_and(JoinHandle::is_finished) {
            self.collect();
        }
        match self.full {
            None => Room::Enough,
            Some((since, _)) => {
                if self.making.is_none() && since.elapsed() >= AGAIN {
                    self.begin(again);
                }
                Room::Reserve
            }
        }
    }

    /// A spare of at least `size` bytes: the one that is ready, or made now.
    pub fn take(&mut self, size: u64) -> io::Result<Spare> {
        self.collect();
        // One that is too small is given up: the next one is made under the same name.
        if let Some(spare) = self.ready.take().filter(|spare| spare.size >= size) {
            return Ok(spare);
        }
        let made = make(self.disk.as_ref(), self.reserve_bytes, size);
        match &made {
            Err(error) if is_full(error) => self.fill(error, size),
            Err(_) => {}
            Ok(_) => self.empty(),
        }
        made
    }

    /// Gives back what was taken and not used.
    pub fn keep(&mut self, spare: Spare) {
        self.ready = Some(spare);
    }

    /// The reserve, if it is there and large enough.
    pub fn take_reserve(&mut self, size: u64) -> io::Result<Option<Spare>> {
        let Some(file) = self.disk.open(RESERVE_NAME)? else { return Ok(None) };
        let there = file.size()?;
        Ok((there >= size).then_some(Spare { file, size: there, name: RESERVE_NAME }))
    }

    fn collect(&mut self) {
        let Some(made) = self.making.take().map(JoinHandle::join) else { return };
        match made {
            Ok(Ok(spare)) => {
                self.ready = Some(spare);
                self.empty();
            }
            Ok(Err(error)) if is_full(&error) => self.fill(&error, 0),
            // What else stopped it will stop whoever needs the segment, and be told then.
            Ok(Err(_)) | Err(_) => {}
        }
    }

    fn fill(&mut self, error: &io::Error, bytes: u64) {
        if self.full.is_none() {
            tracing::error!(
                %error, bytes,
                "the journal's disk is full: new work is refused until there is room; what is under way goes on"
            );
        }
        self.full = Some((Instant::now(), bytes));
    }

    fn empty(&mut self) {
        if self.full.take().is_some() {
            tracing::warn!("the journal's disk has room again; work is taken");
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        let begun = self.making.is_some() || self.ready.is_some();
        if let Some(making) = self.making.take() {
            // The thread must not write into a folder that the lock no longer protects. What it made is in
            // the way of nobody: if it cannot be removed now, the next start does it.
            let _prepared_in_vain = making.join();
        }
        if begun {
            let _left_for_the_next_start = self.disk.remove(SPARE_NAME);
        }
    }
}

/// The reserve first, since recovery comes first; then a spare.
fn make(disk: &dyn Disk, reserve: u64, size: u64) -> io::Result<Spare> {
    make_reserve(disk, reserve)?;
    let file = zeroed(disk, SPARE_NAME, size)?;
    Ok(Spare { file, size, name: SPARE_NAME })
}

fn make_reserve(disk: &dyn Disk, size: u64) -> io::Result<()> {
    if size == 0 || disk.open(RESERVE_NAME)?.is_some() {
        return Ok(());
    }
    zeroed(disk, FRESH_RESERVE_NAME, size)?;
    disk.rename(FRESH_RESERVE_NAME, RESERVE_NAME)?;
    disk.sync_names()
}

/// A file of zeros, synced; nothing of it stays when there is no room for all.
fn zeroed(disk: &dyn Disk, name: &str, size: u64) -> io::Result<Box<dyn DiskFile>> {
    let made = disk.create(name, size).and_then(|file| file.sync().map(|()| file));
    if made.is_err() {
        // What was made takes room that others need. If it stays, the next start removes it.
        let _left_for_the_next_start = disk.remove(name);
    }
    made
}

/// Whether the disk, or the user's share of it, is full.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
