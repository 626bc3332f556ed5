//! The writer: what turns what many ask for into few syncs.
//!
//! Owns group commit, the poison after a failure, who is refused on a full disk, and the news of what is durable. Knows
//! nothing of segments (that is the medium), of bodies, or of whose thread it runs on (that is the desk).
//!
//! ```text
//!   turn(all that is queued) ──> frames ──> tail.append ──> answer all
//!   turn(nothing, after settle_after) ──> tail.settle    │ error
//!                                                        └──> poisoned: every request gets the first error
//! ```

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use super::error::LogError;
use super::frame::{Entry, HEADER_BYTES, Position, lay_out, seal};
use super::medium::{Purpose, Room, Run, Tail};

/// How often a full disk is looked at while nobody asks.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A commit takes no further request once it has this many bytes.
const COMMIT_BYTES: usize = 4 << 20;

pub(super) type Answer = Result<Range<u64>, LogError>;
pub(super) type Reply = oneshot::Sender<Result<(), LogError>>;

/// Frames that are laid out and have no place in the log yet.
///
/// Laid out by whoever asks: his records stay with his thread and its memory, and the writer's walks over one piece.
pub(super) struct Draft {
    bytes: Vec<u8>,
    lengths: Vec<usize>,
}

impl Draft {
    pub fn of(entries: &[Entry]) -> Draft {
        let lengths: Vec<usize> = entries.iter().map(|entry| HEADER_BYTES + entry.body.len()).collect();
        let mut bytes = Vec::with_capacity(lengths.iter().sum());
        entries.iter().for_each(|entry| lay_out(&mut bytes, entry));
        Draft { bytes, lengths }
    }

    /// All of them.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// An append that waits.
pub(super) struct Request {
    pub draft: Draft,
    pub purpose: Purpose,
    pub answer: oneshot::Sender<Answer>,
    /// Its share of the queue, given back when it is answered.
    pub _share: OwnedSemaphorePermit,
}

/// What the writer is asked.
pub(super) enum Asked {
    Append(Request),
    /// Frames before this one may go from the medium.
    Release(u64, Reply),
    /// So many bytes of ordinary work will be asked for next.
    Room(u64, Reply),
}

impl Asked {
    /// Bytes of frames that come with it.
    pub fn bytes(&self) -> usize {
        match self {
            Asked::Append(request) => request.draft.bytes(),
            Asked::Release(..) | Asked::Room(..) => 0,
        }
    }
}

/// What the log's users are told as it changes.
#[derive(Clone)]
pub(super) struct News {
    /// How far it is durable.
    pub durable: watch::Receiver<Position>,
    /// Whether there is room for ordinary work.
    pub room: watch::Receiver<Room>,
    /// The error after which nothing more is appended.
    pub stopped: watch::Receiver<Option<String>>,
}

/// The one who appends.
pub(super) struct Writer {
    tail: Box<dyn Tail>,
    head: Position,
    run: Run,
    news: watch::Sender<Position>,
    room_news: watch::Sender<Room>,
    /// When the room was looked at last.
    looked: Instant,
    /// The first error, after which nothing more is appended.
    poison: watch::Sender<Option<String>>,
    settle_after: Duration,
    /// The last commit since the tail settled.
    unsettled: Option<Instant>,
    /// Bytes of ordinary work that room was made for: the next commit has it, however full the disk is by then.
    promised: u64,
}

impl Writer {
    /// The writer of a log that ends at `head`, and its news: what is durable, what room there is, and what stopped it.
    pub fn new(mut tail: Box<dyn Tail>, head: Position, settle_after: Duration) -> (Writer, News) {
        let (news, durable) = watch::channel(head);
        let (room_news, room) = watch::channel(tail.room());
        let (poison, stopped) = watch::channel(None);
        let (run, looked) = (Run::default(), Instant::now());
        let (unsettled, promised) = (None, 0);
        let writer =
            Writer { tail, head, run, news, room_news, looked, poison, settle_after, unsettled, promised };
        (writer, News { durable, room, stopped })
    }

    /// Whether a commit that has so many bytes takes a further request.
    pub fn takes_more(bytes: usize) -> bool {
        bytes < COMMIT_BYTES
    }

    /// When it wants a turn though nobody asks; `None`: never.
    pub fn due(&self) -> Option<Instant> {
        if self.poison.borrow().is_some() {
            return None;
        }
        let settle = self.unsettled.and_then(|since| since.checked_add(self.settle_after));
        let short = *self.room_news.borrow() == Room::Reserve;
        let look = short.then(|| self.looked + LOOK_AGAIN);
        [settle, look].into_iter().flatten().min()
    }

    /// Does what is asked, appends in one commit; and what is due when nothing is asked.
    pub fn turn(&mut self, work: Vec<Asked>) {
        if work.is_empty() {
            self.look_after();
            return;
        }
        let mut requests = Vec::with_capacity(work.len());
        let mut others = Vec::new();
        for asked in work {
            match asked {
                Asked::Append(request) => requests.push(request),
                other => others.push(other),
            }
        }
        let poison = self.poison.borrow().clone();
        match poison {
            Some(poison) => refuse(requests, &poison),
            None => self.commit(requests),
        }
        for other in others {
            match other {
                Asked::Release(first, reply) => self.release(first, reply),
                Asked::Room(bytes, reply) => self.make_room(bytes, reply),
                Asked::Append(_) => {}
            }
        }
        // One large commit does not hold its memory for ever.
        self.run.bytes.shrink_to(2 * COMMIT_BYTES);
    }

    /// The end: nothing is appended any more.
    pub fn close(mut self) {
        self.settle();
    }

    fn look_after(&mut self) {
        self.look_for_room();
        let idle = self.unsettled.map(|since| since.elapsed());
        if idle.is_some_and(|idle| idle >= self.settle_after) {
            self.settle();
        }
    }

    fn look_for_room(&mut self) -> Room {
        let room = self.tail.room();
        self.looked = Instant::now();
        self.room_news.send_if_modified(|known| std::mem::replace(known, room) != room);
        room
    }

    /// Makes requests durable. When there is no room for all of them, those go on that bring something to its end.
    fn commit(&mut self, mut requests: Vec<Request>) {
        let work = requests.iter().filter(|request| request.purpose == Purpose::Work);
        let work: usize = work.map(|request| request.draft.bytes()).sum();
        let promised = std::mem::take(&mut self.promised);
        if self.look_for_room() == Room::Reserve && work as u64 > promised {
            let no_room = || std::io::Error::from(std::io::ErrorKind::StorageFull);
            requests = turn_away(requests, &LogError::Full { needed: 0, source: Arc::new(no_room()) });
        }
        while !requests.is_empty() {
            let all_recover = requests.iter().all(|request| request.purpose == Purpose::Recovery);
            let purpose = if all_recover { Purpose::Recovery } else { Purpose::Work };
            match self.write(&mut requests, purpose) {
                Ok(first) => return acknowledge(requests, first),
                Err(full @ LogError::Full { .. }) if !all_recover => {
                    requests = turn_away(requests, &full);
                }
                Err(error) => {
                    if !matches!(error, LogError::Full { .. }) {
                        self.poisoned_by(&error);
                    }
                    return requests.into_iter().for_each(|request| request.answer(Err(error.clone())));
                }
            }
        }
    }

    /// Appends the frames of `requests`, and returns the first's sequence.
    fn write(&mut self, requests: &mut [Request], purpose: Purpose) -> Result<u64, LogError> {
        let durable = self.head.seq;
        let end = match &mut *requests {
            // One alone is not copied: its memory is lent.
            [alone] => {
                std::mem::swap(&mut self.run.bytes, &mut alone.draft.bytes);
                self.seal(&alone.draft.lengths)
            }
            several => {
                self.run.bytes.clear();
                several.iter().for_each(|it| self.run.bytes.extend_from_slice(&it.draft.bytes));
                self.seal(several.iter().flat_map(|it| &it.draft.lengths))
            }
        };
        let done = self.tail.append(&self.head, &self.run, purpose);
        if let [alone] = requests {
            std::mem::swap(&mut self.run.bytes, &mut alone.draft.bytes);
        }
        self.look_for_room();
        done?;
        self.head = end;
        self.unsettled = Some(self.looked);
        self.news.send_replace(end);
        Ok(durable + 1)
    }

    /// Gives the frames in the run, which have these lengths, their places; where the log stands after them.
    fn seal<'a>(&mut self, lengths: impl IntoIterator<Item = &'a usize>) -> Position {
        let Run { bytes, frames } = &mut self.run;
        frames.clear();
        let mut end = self.head;
        let mut start = 0;
        for length in lengths {
            let place = start..start + length;
            end = seal(&mut bytes[place.clone()], &end, self.head.seq);
            start = place.end;
            frames.push((place, end));
        }
        end
    }

    fn make_room(&mut self, bytes: u64, reply: Reply) {
        // A poisoned log says so when it is asked to append.
        let made = if self.poison.borrow().is_some() { Ok(()) } else { self.tail.make_room(bytes) };
        self.promised = if made.is_ok() { bytes } else { 0 };
        self.look_for_room();
        let _nobody_waits = reply.send(made);
    }

    fn release(&mut self, first: u64, reply: Reply) {
        let poison = self.poison.borrow().clone();
        let done = match poison {
            Some(first) => Err(LogError::Poisoned { first }),
            None => self.tail.release(first).inspect_err(|error| self.poisoned_by(error)),
        };
        let _nobody_waits = reply.send(done);
    }

    fn settle(&mut self) {
        if self.poison.borrow().is_none()
            && let Err(error) = self.tail.settle()
        {
            self.poisoned_by(&error);
        }
        self.unsettled = None;
    }

    fn poisoned_by(&self, error: &LogError) {
        tracing::error!(%error, "the journal takes no more records");
        self.poison.send_replace(Some(error.to_string()));
    }
}

impl Request {
    fn answer(self, answer: Answer) {
        // Whoever asked may have stopped waiting; what was done stays done.
        let _nobody_waits = self.answer.send(answer);
    }
}

fn acknowledge(requests: Vec<Request>, first: u64) {
    let mut next = first;
    for request in requests {
        let start = next;
        next += request.draft.lengths.len() as u64;
        request.answer(Ok(start..next));
    }
}

/// Refuses what begins something new, and returns the rest.
fn turn_away(requests: Vec<Request>, full: &LogError) -> Vec<Request> {
    let (rest, work): (Vec<_>, Vec<_>) =
        requests.into_iter().partition(|request| request.purpose == Purpose::Recovery);
    work.into_iter().for_each(|request| request.answer(Err(full.clone())));
    rest
}

fn refuse(requests: Vec<Request>, poison: &str) {
    for request in requests {
        request.answer(Err(LogError::Poisoned { first: poison.to_owned() }));
    }
}
