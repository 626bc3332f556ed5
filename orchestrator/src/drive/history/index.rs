//! The index at a start: opened or made anew, compared with the journal, and brought up to date with it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use journal::log::{Position, Reader};
use journal::{IntentId, Record, State, Time};

use super::batch::{Batch, Broken};
use super::keys::{self, Mark};
use super::note::Notes;
use crate::drive::StartError;

/// The file that says: make this index anew.
pub(super) const CONDEMNED: &str = "condemned";

/// Memory for pages that were read.
const CACHE_BYTES: u64 = 4 << 20;

/// Writes that are made together while the index catches up.
const WRITES_AT_ONCE: usize = 4096;

/// An index that nobody writes yet.
pub(in crate::drive) struct Index {
    pub(super) db: sled::Db,
    pub(super) folder: PathBuf,
    pub(super) mark: Mark,
    pub(super) notes: Notes,
    /// Why nothing more can be taken in.
    pub(super) broken: Option<String>,
}

impl Index {
    /// Opens the index in a folder; one that is missing, unreadable, condemned or of another layout is made anew.
    pub fn open(folder: &Path) -> Result<Index, StartError> {
        if !folder.exists() {
            return Index::make(folder);
        }
        remove_half_snapshots(folder).map_err(failed("clean", folder))?;
        let why = match Index::try_open(folder) {
            Ok(Some(index)) if !folder.join(CONDEMNED).exists() => return Ok(index),
            Ok(_) => "it was given up, or made by another version".to_owned(),
            Err(why) => why,
        };
        tracing::info!(folder = %folder.display(), why, "the history index is made anew from the journal");
        Index::make(folder)
    }

    /// Forgets everything, so that the journal is read into it again.
    pub fn anew(self) -> Result<Index, StartError> {
        let folder = self.folder.clone();
        drop(self);
        Index::make(&folder)
    }

    fn make(folder: &Path) -> Result<Index, StartError> {
        remove(folder).map_err(failed("remove", folder))?;
        let made = open_store(folder).and_then(|db| {
            Batch::new(&db).commit(&Mark::NEW).map_err(|error| error.to_string())?;
            let (folder, mark, notes) = (folder.to_owned(), Mark::NEW, Notes::default());
            Ok(Index { db, folder, mark, notes, broken: None })
        });
        made.map_err(|why| failed("make", folder)(std::io::Error::other(why)))
    }

    /// `None` when it is no index, or of another layout.
    fn try_open(folder: &Path) -> Result<Option<Index>, String> {
        let db = open_store(folder)?;
        let mark = db.get(keys::MARK).map_err(|error| error.to_string())?;
        let Some(mark) = mark.as_deref().and_then(Mark::decode) else { return Ok(None) };
        let mut open = std::collections::BTreeMap::new();
        for entry in db.range(keys::intents()) {
            let (key, value) = entry.map_err(|error| error.to_string())?;
            let id = IntentId(keys::number(&key).ok_or("a key is not one of its own")?);
            open.insert(id, serde_json::from_slice(&value).map_err(|error| error.to_string())?);
        }
        let notes = Notes::going_on(open);
        Ok(Some(Index { db, folder: folder.to_owned(), mark, notes, broken: None }))
    }

    /// The newest record that is taken in.
    pub fn through(&self) -> u64 {
        self.mark.through.seq
    }

    /// Whether the journal's record there is the one that was taken in. What cannot be read tells nothing.
    pub fn is_of(&self, journal: &Path) -> bool {
        let through = self.mark.through;
        let read = || Reader::open(journal, through.seq).and_then(|mut reader| reader.next());
        through == Position::START || !matches!(read(), Ok(Some(frame)) if frame.position() != through)
    }

    /// Takes in what replay shows.
    pub fn catch_up(&mut self, journal: &Path) -> CatchUp<'_> {
        let batch = Batch::new(&self.db);
        CatchUp { at: self.mark.through, index: self, journal: journal.to_owned(), reader: None, batch }
    }

    /// Begins with what is so after record `last`: the records before it cannot be read.
    pub fn seed(&mut self, state: &State, last: Position) {
        let mark = Mark { first: last.seq + 1, through: last };
        let mut batch = Batch::new(&self.db);
        match batch.seed(state).and_then(|()| batch.commit(&mark)) {
            Ok(()) => {
                self.mark = mark;
                self.notes = Notes::going_on(Notes::open_in(state));
            }
            Err(error) => self.broken = Some(error.to_string()),
        }
    }
}

/// Takes records in, in order, as replay shows them. Replay shows no frame, so that each is read a second time, for its
/// time and its place in the hash chain.
pub(in crate::drive) struct CatchUp<'a> {
    index: &'a mut Index,
    journal: PathBuf,
    reader: Option<Reader>,
    batch: Batch,
    at: Position,
}

impl CatchUp<'_> {
    /// Takes a record in, unless it was before.
    pub fn take(&mut self, seq: u64, state: &State, record: &Record) {
        if seq > self.at.seq
            && self.index.broken.is_none()
            && let Err(error) = self.try_take(seq, state, record)
        {
            self.index.broken = Some(error.to_string());
        }
    }

    fn try_take(&mut self, seq: u64, state: &State, record: &Record) -> Result<(), Broken> {
        let expected = self.at.seq + 1;
        if seq != expected {
            return Err(Broken::Gap { expected, found: seq });
        }
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => Reader::open(&self.journal, seq)?,
        };
        let frame = reader.next()?.filter(|frame| frame.seq == seq).ok_or(Broken::Other(seq))?;
        self.reader = Some(reader);
        self.batch.take(&self.index.notes.take(seq, Time(frame.entry.time), state, record))?;
        self.at = frame.position();
        if self.batch.len() >= WRITES_AT_ONCE { self.commit() } else { Ok(()) }
    }

    fn commit(&mut self) -> Result<(), Broken> {
        let mark = Mark { through: self.at, ..self.index.mark };
        self.batch.commit(&mark)?;
        self.index.mark = mark;
        Ok(())
    }

    /// Writes the rest.
    pub fn finish(mut self) {
        if self.index.broken.is_none()
            && self.at != self.index.mark.through
            && let Err(error) = self.commit()
        {
            self.index.broken = Some(error.to_string());
        }
    }
}

fn failed(what: &'static str, folder: &Path) -> impl FnOnce(std::io::Error) -> StartError {
    let path = folder.to_owned();
    move |source| StartError::File { what, path, source }
}

/// What is left of a store may also make it panic: that is no reason for not starting.
fn open_store(folder: &Path) -> Result<sled::Db, String> {
    let config = sled::Config::default().path(folder).cache_capacity(CACHE_BYTES);
    let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
    opened.map_err(|_| "the store panicked".to_owned())?.map_err(|error| error.to_string())
}

fn remove(folder: &Path) -> std::io::Result<()> {
    let removed = match std::fs::symlink_metadata(folder) {
        Ok(found) if found.is_dir() => std::fs::remove_dir_all(folder),
        Ok(_) => std::fs::remove_file(folder),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// A kill while sled writes a snapshot leaves a file after which it will not open again (sled #1527, #1533).
fn remove_half_snapshots(folder: &Path) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
        {
            return Ok(());
        }
        entries => entries?,
    };
    let half: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "generating"))
        .collect();
    half.into_iter().try_for_each(std::fs::remove_file)
}
