//! The history index: what is over and what is gone, and where the journal speaks of a VM, in sled.
//!
//! A projection of the journal and never more. It is made anew when it is missing, torn, unreadable, of another layout,
//! or of another journal than the one beside it; where it is behind, or where a record is not what it says, the journal
//! is read instead. Nothing waits for it: a thread of its own writes it behind the journal, one batch with its mark at a
//! time, and it is durable only before a base that stands above it is written (sled's flush is no barrier against power
//! loss).
//!
//! ```text
//!   key                        value
//!   m                          mark: layout, fold, first record listed, newest record taken in, and its hash
//!   j job                      a finished job, JSON
//!   e VM ended job             nothing: finished jobs of a VM by the time of their end
//!   p point                    a restore point, JSON, with when, how and why it went if it did
//!   c VM created point         nothing: restore points of a VM, gone ones too, by their instant
//!   i intent                   an open intent's VMs and point, JSON: its settlement does not name them
//!   r VM seq                   kind and time of each record that concerns a VM
//!   b seq/256                  earliest and latest time of 256 records: the wall clock may go back
//! ```

mod batch;
mod index;
mod keys;
mod note;
#[cfg(test)]
pub(crate) mod story;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use journal::log::Position;
use journal::state::Job;
use journal::{JobId, PointId, Record, State, Time, VmId};
use tokio::sync::watch;

pub use batch::Kept;
pub(super) use index::Index;
pub use note::{Gone, How};
pub(super) use note::{Note, Notes};
use writer::{Asked, Progress, QUEUE, Writer};

/// How long a reader waits for the index to have what is durable: it is milliseconds behind.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long it may take to make the index durable before a base is written.
const FLUSH: Duration = Duration::from_secs(60);

/// The index of a journal that is open for writing. Clones are handles of the same one.
#[derive(Clone)]
pub struct History {
    inner: Arc<Inner>,
}

struct Inner {
    db: sled::Db,
    folder: std::path::PathBuf,
    /// Records of VMs are listed from this one on.
    first: u64,
    notes: Mutex<Notes>,
    progress: Arc<watch::Sender<Progress>>,
    queue: Option<SyncSender<Asked>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            // If it panicked, it has said so.
            let _ended = thread.join();
        }
    }
}

impl std::fmt::Debug for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("History").field("progress", &*self.inner.progress.borrow()).finish_non_exhaustive()
    }
}

/// Where a record is that concerns a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// Its sequence number.
    pub seq: u64,
    /// Its kind.
    pub kind: u16,
    /// When it was written.
    pub time: Time,
}

/// Which records are asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Only later ones.
    pub after: u64,
    /// None later than this one.
    pub upto: u64,
    /// None written before.
    pub since: Time,
    /// None written after.
    pub until: Time,
    /// So many at most.
    pub limit: usize,
}

impl History {
    /// Begins to write behind the journal.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn start(index: Index) -> std::io::Result<History> {
        let Index { db, folder, mark, notes, broken } = index;
        let progress =
            Arc::new(watch::Sender::new(Progress { through: mark.through.seq, going: true, believed: true }));
        if let Some(why) = broken {
            writer::give_up(&progress, &folder, &why);
        }
        let (queue, asked) = sync_channel(QUEUE);
        let writer = Writer {
            db: db.clone(),
            folder: folder.clone(),
            mark,
            queue: asked,
            progress: Arc::clone(&progress),
        };
        let thread =
            std::thread::Builder::new().name("history-index".to_owned()).spawn(move || writer.run())?;
        let inner = Inner {
            db,
            folder,
            first: mark.first,
            notes: Mutex::new(notes),
            progress,
            queue: Some(queue),
            thread: Some(thread),
        };
        Ok(History { inner: Arc::new(inner) })
    }

    /// The note of a record that was just folded into `state`, to be handed to [`History::take`] when it is durable.
    pub(super) fn note(&self, seq: u64, time: Time, state: &State, record: &Record) -> Note {
        self.inner.notes.lock().unwrap_or_else(PoisonError::into_inner).take(seq, time, state, record)
    }

    /// Takes in what was appended, durably up to `at`. Does not wait.
    pub(super) fn take(&self, notes: Vec<Note>, at: Position) {
        let Inner { progress, queue, folder, .. } = self.inner.as_ref();
        if !progress.borrow().going {
            return;
        }
        match queue.as_ref().map(|queue| queue.try_send(Asked::Notes(notes, at))) {
            Some(Err(TrySendError::Full(_))) => {
                writer::stop(progress, folder, "its disk is slower than the journal's");
            }
            Some(Err(TrySendError::Disconnected(_))) => {
                writer::stop(progress, folder, "its writer has ended");
            }
            Some(Ok(())) | None => {}
        }
    }

    /// Waits until all up to `seq` is taken in and durable: a start from a base shows nothing of before again.
    pub(super) fn reach(&self, seq: u64) -> std::io::Result<()> {
        let (reply, wait) = sync_channel(1);
        let ended = || std::io::Error::other("the history index's writer has ended");
        let queue = self.inner.queue.as_ref().ok_or_else(ended)?;
        queue.send(Asked::Reach(seq, reply)).map_err(|_| ended())?;
        wait.recv_timeout(FLUSH).map_err(|error| std::io::Error::other(error.to_string()))?
    }

    /// Waits for the index to have all up to `seq`; whether it has.
    pub async fn caught_up(&self, seq: u64) -> bool {
        let mut progress = self.inner.progress.subscribe();
        let there = progress.wait_for(|progress| progress.through >= seq || !progress.going);
        match tokio::time::timeout(PATIENCE, there).await {
            Ok(Ok(progress)) => progress.through >= seq,
            _ => false,
        }
    }

    /// Says that the index is not what the journal says. It is believed no more, and made anew at the next start.
    pub fn condemn(&self, why: &str) {
        writer::give_up(&self.inner.progress, &self.inner.folder, why);
    }

    /// The records that concern a VM, oldest first; `None` when the index does not know all of them.
    #[must_use]
    pub fn records_of(&self, vm: VmId, wanted: &Wanted) -> Option<Vec<Listed>> {
        self.knows(wanted)?;
        let mut listed = Vec::new();
        if wanted.after >= wanted.upto {
            return Some(listed);
        }
        for entry in self.inner.db.range(keys::record(vm, wanted.after + 1)..=keys::record(vm, wanted.upto)) {
            let (key, value) = self.sound(entry)?;
            let read = keys::number(&key).zip(keys::entry_of(&value));
            let (seq, (kind, time)) = self.meant(read)?;
            if (wanted.since..=wanted.until).contains(&time) {
                listed.push(Listed { seq, kind, time });
            }
            if listed.len() == wanted.limit {
                break;
            }
        }
        Some(listed)
    }

    /// Where records of the wanted times may be: the first and the last of each stretch, in order. `None` when the index
    /// does not know.
    #[must_use]
    pub fn stretches(&self, wanted: &Wanted) -> Option<Vec<(u64, u64)>> {
        self.knows(wanted)?;
        let mut stretches: Vec<(u64, u64)> = Vec::new();
        let begin = wanted.after + 1;
        for entry in self.inner.db.range(keys::blocks_from(begin / batch::BLOCK)) {
            let (key, value) = self.sound(entry)?;
            if !key.starts_with(b"b") {
                break;
            }
            let read = keys::number(&key).zip(keys::span_of(&value));
            let (number, (earliest, latest)) = self.meant(read)?;
            let (first, last) = (number * batch::BLOCK, number * batch::BLOCK + batch::BLOCK - 1);
            if first > wanted.upto {
                break;
            }
            if latest < wanted.since || earliest > wanted.until {
                continue;
            }
            let (first, last) = (first.max(begin), last.min(wanted.upto));
            match stretches.last_mut() {
                Some((_, end)) if *end + 1 == first => *end = last,
                _ => stretches.push((first, last)),
            }
        }
        Some(stretches)
    }

    fn knows(&self, wanted: &Wanted) -> Option<()> {
        let Progress { through, believed, .. } = *self.inner.progress.borrow();
        (believed && wanted.after + 1 >= self.inner.first && wanted.upto <= through).then_some(())
    }

    /// A finished job.
    #[must_use]
    pub fn job(&self, id: JobId) -> Option<Job> {
        let bytes = self.sound(self.inner.db.get(keys::job(id)))??;
        self.meant(serde_json::from_slice(&bytes).ok())
    }

    /// The newest finished jobs, newest first; of one VM, those that ended last.
    #[must_use]
    pub fn newest(&self, vm: Option<VmId>, limit: usize) -> Vec<Job> {
        let Some(vm) = vm else {
            let newest = self.inner.db.range(keys::jobs()).rev().map_while(|entry| self.sound(entry));
            let jobs = newest.map_while(|(_, bytes)| self.meant(serde_json::from_slice(&bytes).ok()));
            return jobs.take(limit).collect();
        };
        let newest = self.inner.db.scan_prefix(keys::ended_of(vm)).rev();
        let ids = newest.map_while(|entry| keys::number(&self.sound(entry)?.0));
        ids.filter_map(|id| self.job(JobId(id))).take(limit).collect()
    }

    /// A restore point, gone or not.
    #[must_use]
    pub fn point(&self, id: PointId) -> Option<Kept> {
        let bytes = self.sound(self.inner.db.get(keys::point(id)))??;
        self.meant(serde_json::from_slice(&bytes).ok())
    }

    /// The restore points that are gone, those of a VM by their instant, else by number.
    #[must_use]
    pub fn gone(&self, vm: Option<VmId>) -> Vec<Kept> {
        let keys = match vm {
            Some(vm) => self.inner.db.scan_prefix(keys::created_of(vm)),
            None => self.inner.db.range(keys::points()),
        };
        let ids = keys.map_while(|entry| keys::number(&self.sound(entry)?.0));
        ids.filter_map(|id| self.point(PointId(id))).filter(|kept| kept.gone.is_some()).collect()
    }

    /// What was read; an index that cannot be read is not believed any more.
    fn sound<T>(&self, read: sled::Result<T>) -> Option<T> {
        read.map_err(|error| self.condemn(&error.to_string())).ok()
    }

    fn meant<T>(&self, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.condemn("a key or value is not one of its own");
        }
        value
    }

    /// Has the index say that another record stands there.
    #[cfg(test)]
    pub(crate) fn falsify(&self, vm: VmId, seq: u64) {
        let another = keys::entry(u16::MAX, Time(0));
        self.inner.db.insert(keys::record(vm, seq), another).expect("an index takes an entry");
    }
}
