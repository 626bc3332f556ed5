//! The thread that writes the index behind the journal, so that no append waits for it.
//!
//! Owns the queue between the two. One that is full, or a write that fails, ends the writing: what was missed is not
//! guessed at, the mark stays where it is, and the next start goes on from there or makes the index anew.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

use journal::log::Position;
use tokio::sync::watch;

use super::batch::{Batch, Broken};
use super::keys::Mark;
use super::note::Note;

/// Appends whose notes wait, at most.
pub(super) const QUEUE: usize = 1024;

/// How far the index is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    /// The newest record that is taken in.
    pub through: u64,
    /// Whether it goes on.
    pub going: bool,
    /// Whether what it says up to there is believed.
    pub believed: bool,
}

/// What the writer is asked.
pub(super) enum Asked {
    /// Take these in; the journal ends there.
    Notes(Vec<Note>, Position),
    /// Make it durable through this record.
    Reach(u64, SyncSender<std::io::Result<()>>),
}

pub(super) struct Writer {
    pub db: sled::Db,
    pub folder: PathBuf,
    pub mark: Mark,
    pub queue: Receiver<Asked>,
    pub progress: Arc<watch::Sender<Progress>>,
}

impl Writer {
    pub fn run(mut self) {
        while let Ok(first) = self.queue.recv() {
            let mut batch = Batch::new(&self.db);
            let mut at = self.mark.through;
            let mut reach = None;
            let mut taken = Ok(());
            let mut next = Some(first);
            while let Some(asked) = next {
                match asked {
                    Asked::Notes(notes, end) if taken.is_ok() => {
                        taken = take(&mut batch, &mut at, &notes, end);
                    }
                    Asked::Notes(..) => {}
                    Asked::Reach(seq, reply) => {
                        reach = Some((seq, reply));
                        break;
                    }
                }
                next = if batch.len() < QUEUE { self.queue.try_recv().ok() } else { None };
            }
            let written = taken.and_then(|()| self.commit(&mut batch, at));
            if let Err(error) = written {
                give_up(&self.progress, &self.folder, &error.to_string());
            }
            if let Some((seq, reply)) = reach {
                let _nobody_waits = reply.send(self.reach(seq));
            }
        }
    }

    fn commit(&mut self, batch: &mut Batch, at: Position) -> Result<(), Broken> {
        if at == self.mark.through || !self.progress.borrow().going {
            return Ok(());
        }
        let mark = Mark { through: at, ..self.mark };
        batch.commit(&mark)?;
        self.mark = mark;
        self.progress.send_modify(|progress| progress.through = at.seq);
        Ok(())
    }

    fn reach(&self, seq: u64) -> std::io::Result<()> {
        let through = self.mark.through.seq;
        if through < seq {
            let what = format!("the history index stands at record {through}; the next start mends it");
            return Err(std::io::Error::other(what));
        }
        self.db.flush().map_err(std::io::Error::other)?;
        // The flush only starts the writing (sled #1452).
        for entry in std::fs::read_dir(&self.folder)? {
            std::fs::File::open(entry?.path())?.sync_all()?;
        }
        std::fs::File::open(&self.folder)?.sync_all()
    }
}

fn take(batch: &mut Batch, at: &mut Position, notes: &[Note], end: Position) -> Result<(), Broken> {
    for (expected, note) in (at.seq + 1..).zip(notes) {
        if note.seq != expected {
            return Err(Broken::Gap { expected, found: note.seq });
        }
        batch.take(note)?;
    }
    *at = end;
    Ok(())
}

/// Takes nothing more in, and has the next start make the index anew.
pub(super) fn give_up(progress: &watch::Sender<Progress>, folder: &Path, why: &str) {
    stop(progress, folder, why);
    if !progress.send_if_modified(|progress| std::mem::replace(&mut progress.believed, false)) {
        return;
    }
    if let Err(error) = std::fs::write(folder.join(super::index::CONDEMNED), why) {
        tracing::warn!(folder = %folder.display(), %error, "the history index is not condemned: remove its folder");
    }
}

/// Takes nothing more in until the next start.
pub(super) fn stop(progress: &watch::Sender<Progress>, folder: &Path, why: &str) {
    let stopped = progress.send_if_modified(|progress| std::mem::replace(&mut progress.going, false));
    if stopped {
        tracing::warn!(
            folder = %folder.display(), why,
            "the history index takes nothing more in: what it lacks is read from the journal, and the next start mends it"
        );
    }
}
