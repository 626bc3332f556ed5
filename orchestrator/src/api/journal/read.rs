//! Which records a page shows, and how they are found: where the history index says they are, or by reading on.
//!
//! Owns the readers that rest between two pages, so that a page costs what it shows: a follower goes on where its last page
//! ended.

use std::sync::{Mutex, MutexGuard, PoisonError};

use journal::log::{Frame, Log, LogError, Reader};
use journal::{Time, VmId};

use super::{Api, Filter};
use crate::drive::{History, Listed, Refusal, Wanted};

/// Readers that rest, at most: each holds one window of a segment, or one archived segment.
const RESTING: usize = 4;

/// Records that a reader rather passes over than begin anew, which it does at the head of a segment.
const PASSED_OVER: u64 = 10_000;

/// Bytes of bodies after which a page takes no further record.
const PAGE_BYTES: usize = 8 << 20;

/// Readers that wait for the next page, the one that rests longest first.
#[derive(Debug, Default)]
pub(in crate::api) struct Readers(Mutex<Vec<Reader>>);

impl Readers {
    /// One that stands not far before `seq`, or else a new one.
    fn before(&self, log: &Log, seq: u64) -> Result<Reader, LogError> {
        let mut resting = self.resting();
        let stands = |reader: &Reader| reader.position().seq;
        let near = resting.iter().enumerate().filter(|(_, it)| is_near(stands(it), seq));
        match near.max_by_key(|(_, it)| stands(it)).map(|(place, _)| place) {
            Some(place) => Ok(resting.remove(place)),
            None => log.reader(seq),
        }
    }

    fn rest(&self, reader: Reader) {
        let mut resting = self.resting();
        if resting.len() == RESTING {
            resting.remove(0);
        }
        resting.push(reader);
    }

    /// Lets all of them go.
    pub fn forget(&self) {
        self.resting().clear();
    }

    fn resting(&self) -> MutexGuard<'_, Vec<Reader>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_near(stands: u64, seq: u64) -> bool {
    stands < seq && seq - stands <= PASSED_OVER
}

/// The frames that are wanted.
pub(super) async fn page(api: &Api, vm: Option<VmId>, wanted: Wanted) -> Result<Vec<Frame>, Refusal> {
    if wanted.after >= wanted.upto {
        return Ok(Vec::new());
    }
    let timed = wanted.since > Time(i64::MIN) || wanted.until < Time(i64::MAX);
    // Nothing is asked of the index where all records are wanted.
    let indexed = (vm.is_some() || timed) && api.shared.history.caught_up(wanted.upto).await;
    let api = api.clone();
    let frames = tokio::task::spawn_blocking(move || {
        let source = Source { log: &api.shared.log, history: &api.shared.history, readers: &api.readers };
        source.read(vm, &wanted, indexed)
    });
    let frames = frames.await.map_err(|error| Refusal::failed(error.to_string()))?;
    frames.map_err(|error| Refusal::failed(error.to_string()))
}

/// Where frames come from.
pub(super) struct Source<'a> {
    pub log: &'a Log,
    pub history: &'a History,
    pub readers: &'a Readers,
}

impl Source<'_> {
    pub fn read(&self, vm: Option<VmId>, wanted: &Wanted, indexed: bool) -> Result<Vec<Frame>, LogError> {
        let Some(vm) = vm else {
            let all = || vec![(wanted.after + 1, wanted.upto)];
            let stretches = if indexed { self.history.stretches(wanted) } else { None };
            return self.stretches(&stretches.unwrap_or_else(all), wanted);
        };
        let listed = if indexed { self.history.records_of(vm, wanted) } else { None };
        match listed.map(|listed| self.listed(&listed)).transpose()?.flatten() {
            Some(frames) => Ok(frames),
            None => self.scan(vm, wanted),
        }
    }

    /// The frames that the index lists; `None` when one is not what it says.
    fn listed(&self, listed: &[Listed]) -> Result<Option<Vec<Frame>>, LogError> {
        let mut taken = Taken::upto(listed.len());
        let mut walk = Walk { source: self, reader: None };
        for Listed { seq, kind, time } in listed {
            if taken.is_full() {
                break;
            }
            let frame = walk.frame(*seq)?;
            let same =
                |frame: &Frame| frame.seq == *seq && frame.entry.kind == *kind && frame.entry.time == time.0;
            match frame.filter(same) {
                Some(frame) => taken.push(frame),
                None => {
                    self.history.condemn(&format!("record {seq} is not what it says"));
                    return Ok(None);
                }
            }
        }
        walk.rest();
        Ok(Some(taken.frames))
    }

    /// The frames of these stretches that were written at the wanted times.
    fn stretches(&self, stretches: &[(u64, u64)], wanted: &Wanted) -> Result<Vec<Frame>, LogError> {
        let mut taken = Taken::upto(wanted.limit);
        let mut walk = Walk { source: self, reader: None };
        for (first, last) in stretches {
            let mut seq = *first;
            while seq <= *last
                && !taken.is_full()
                && let Some(frame) = walk.frame(seq)?
            {
                seq = frame.seq + 1;
                if is_timely(&frame, wanted) {
                    taken.push(frame);
                }
            }
        }
        walk.rest();
        Ok(taken.frames)
    }

    /// Without the index: which jobs and intents are a VM's is said where they begin, so that all records are read.
    fn scan(&self, vm: VmId, wanted: &Wanted) -> Result<Vec<Frame>, LogError> {
        let mut filter = Filter::new(vm);
        let mut taken = Taken::upto(wanted.limit);
        let mut reader = self.log.reader(1)?;
        while !taken.is_full()
            && reader.position().seq < wanted.upto
            && let Some(frame) = reader.next()?
        {
            if filter.passes(&frame) && frame.seq > wanted.after && is_timely(&frame, wanted) {
                taken.push(frame);
            }
        }
        Ok(taken.frames)
    }
}

/// What a page takes.
struct Taken {
    frames: Vec<Frame>,
    limit: usize,
    bytes: usize,
}

impl Taken {
    fn upto(limit: usize) -> Taken {
        Taken { frames: Vec::new(), limit, bytes: 0 }
    }

    fn push(&mut self, frame: Frame) {
        self.bytes += frame.entry.body.len();
        self.frames.push(frame);
    }

    fn is_full(&self) -> bool {
        self.frames.len() >= self.limit || self.bytes >= PAGE_BYTES
    }
}

fn is_timely(frame: &Frame, wanted: &Wanted) -> bool {
    (wanted.since.0..=wanted.until.0).contains(&frame.entry.time)
}

/// Goes forward from frame to frame.
struct Walk<'a> {
    source: &'a Source<'a>,
    reader: Option<Reader>,
}

impl Walk<'_> {
    /// The frame of this number, or the first after it that there is.
    fn frame(&mut self, seq: u64) -> Result<Option<Frame>, LogError> {
        let Source { log, readers, .. } = self.source;
        let at_hand = self.reader.take_if(|reader| is_near(reader.position().seq, seq));
        let mut reader = match at_hand {
            Some(reader) => reader,
            None => readers.before(log, seq)?,
        };
        // After an error it is not used again.
        let frame = loop {
            match reader.next()? {
                Some(frame) if frame.seq < seq => {}
                found => break found,
            }
        };
        if let Some(left) = self.reader.replace(reader) {
            readers.rest(left);
        }
        Ok(frame)
    }

    fn rest(self) {
        if let Some(reader) = self.reader {
            self.source.readers.rest(reader);
        }
    }
}

#[cfg(test)]
mod tests;
