//! Notes turned into keys and values, which become so together with the mark that counts them, or not at all.

use std::collections::BTreeMap;

use journal::record::Work;
use journal::state::{Job, Point, State};
use journal::{PointId, VmId};
use serde::{Deserialize, Serialize};

use super::keys::{self, Mark};
use super::note::{Gone, Note, Notes, PointNote};

/// Records whose times are kept as one span.
pub(super) const BLOCK: u64 = 256;

/// The index cannot be read or written, or says what cannot be.
#[derive(Debug, thiserror::Error)]
pub(in crate::drive) enum Broken {
    /// The store's own answer.
    #[error(transparent)]
    Store(#[from] sled::Error),
    /// A value is not what it should be.
    #[error("a value does not read: {0}")]
    Value(#[from] serde_json::Error),
    /// The journal that it is made of cannot be read.
    #[error(transparent)]
    Journal(#[from] journal::log::LogError),
    /// A record is not where the index or the replay has it.
    #[error("record {0} of the journal is another one than the index has")]
    Other(u64),
    /// Notes were lost on the way.
    #[error("record {found} came where {expected} was expected")]
    Gap {
        /// What should have come.
        expected: u64,
        /// What came.
        found: u64,
    },
}

/// A restore point as the index keeps it, gone or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// As it was when it was last changed.
    pub point: Point,
    /// When and why it went, if it did.
    pub gone: Option<Gone>,
}

/// Changes that become so together.
pub(super) struct Batch {
    db: sled::Db,
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Batch {
    pub fn new(db: &sled::Db) -> Batch {
        Batch { db: db.clone(), writes: BTreeMap::new() }
    }

    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// Adds what a note says.
    pub fn take(&mut self, note: &Note) -> Result<(), Broken> {
        for vm in &note.vms {
            self.put(keys::record(*vm, note.seq), keys::entry(note.kind, note.time));
        }
        let block = keys::block(note.seq / BLOCK);
        let before = self.get(&block)?.as_deref().and_then(keys::span_of);
        let (earliest, latest) = before.unwrap_or((note.time, note.time));
        self.put(block, keys::span((earliest.min(note.time), latest.max(note.time))));
        match &note.intent {
            Some((id, Some(subject))) => self.put(keys::intent(*id), serde_json::to_vec(subject)?),
            Some((id, None)) => self.remove(keys::intent(*id)),
            None => {}
        }
        if let Some(job) = &note.job {
            self.take_job(job)?;
        }
        note.points.iter().try_for_each(|point| self.take_point_note(point))
    }

    fn take_point_note(&mut self, note: &PointNote) -> Result<(), Broken> {
        match note {
            PointNote::Is(point) => self.take_point(point),
            PointNote::Went(id, gone) => {
                // One that went twice went the first time; one from before the index began is not known to it.
                if let Some(kept) = self.point(*id)?.filter(|kept| kept.gone.is_none()) {
                    let kept = Kept { gone: Some(gone.clone()), ..kept };
                    self.put(keys::point(*id), serde_json::to_vec(&kept)?);
                }
                Ok(())
            }
        }
    }

    /// Adds what a state holds, where the records that made it cannot be read.
    pub fn seed(&mut self, state: &State) -> Result<(), Broken> {
        state.points.values().try_for_each(|point| self.take_point(point))?;
        state.jobs.values().filter(|job| job.state.is_over()).try_for_each(|job| self.take_job(job))?;
        for (id, subject) in Notes::open_in(state) {
            self.put(keys::intent(id), serde_json::to_vec(&subject)?);
        }
        Ok(())
    }

    /// Makes it so, through the record that the mark names.
    pub fn commit(&mut self, mark: &Mark) -> Result<(), Broken> {
        self.put(keys::MARK.to_vec(), mark.encode());
        let mut batch = sled::Batch::default();
        for (key, value) in std::mem::take(&mut self.writes) {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        Ok(self.db.apply_batch(batch)?)
    }

    fn take_job(&mut self, job: &Job) -> Result<(), Broken> {
        self.put(keys::job(job.id), serde_json::to_vec(job)?);
        let vm = match &job.work {
            Work::Restore(work) => self.vm_of(work.point)?,
            Work::Forget { point } => self.vm_of(*point)?,
            work => work.vm(),
        };
        if let Some((vm, ended)) = vm.zip(job.ended) {
            self.put(keys::ended(vm, ended, job.id), Vec::new());
        }
        Ok(())
    }

    fn take_point(&mut self, point: &Point) -> Result<(), Broken> {
        let kept = Kept { point: point.clone(), gone: None };
        self.put(keys::point(point.id), serde_json::to_vec(&kept)?);
        self.put(keys::created(point.vm, point.created, point.id), Vec::new());
        Ok(())
    }

    fn vm_of(&self, point: PointId) -> Result<Option<VmId>, Broken> {
        Ok(self.point(point)?.map(|kept| kept.point.vm))
    }

    fn point(&self, id: PointId) -> Result<Option<Kept>, Broken> {
        let bytes = self.get(&keys::point(id))?;
        Ok(bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose()?)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Broken> {
        match self.writes.get(key) {
            Some(written) => Ok(written.clone()),
            None => Ok(self.db.get(key)?.map(|bytes| bytes.to_vec())),
        }
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.writes.insert(key, Some(value));
    }

    fn remove(&mut self, key: Vec<u8>) {
        self.writes.insert(key, None);
    }
}
