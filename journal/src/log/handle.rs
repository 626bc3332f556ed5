//! A log that is open for appending, as its users see it.
//!
//! Owns what is refused before it is queued, how much may wait, and the handles' end. Knows nothing of commits, and nothing
//! of where the log is kept but that a medium opened it.

use std::ops::Range;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::archive::Moved;
use super::desk::Attended;
use super::error::LogError;
use super::frame::{BODY_LIMIT, Entry, Frame, Position};
use super::medium::{Disk, Medium, Purpose, Room, Segments};
use super::reader::{Follower, Reader};
use super::recover::{Options, Recovered};
use super::writer::{Answer, Asked, Draft, News, Request, Writer};

/// Requests that wait at most; whoever comes then waits to be let in.
const QUEUE: u32 = 1024;
/// Pieces of [`PIECE`] bytes that requests in the queue have at most, taken together; one that is larger waits until it
/// is alone.
const QUEUE_PIECES: u32 = 32 << 10;
/// The unit in which the queue's bytes are counted.
const PIECE: usize = 1 << 10;

/// A log open for appending. Clones are handles of the same log.
///
/// It is closed when the last handle is dropped: what is queued is committed, the mark is written, the lock
/// is released, and the drop waits for that, a few syncs long.
#[derive(Clone)]
pub struct Log {
    desk: Arc<Attended>,
    news: News,
    shares: Arc<Semaphore>,
    medium: Arc<dyn Medium>,
    /// Held while segments are archived.
    archiving: Arc<Mutex<()>>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("durable", &*self.news.durable.borrow()).finish_non_exhaustive()
    }
}

impl Log {
    /// Opens the log in the folder `dir`, makes it if there is none, takes its lock, and replays nothing to
    /// anyone.
    ///
    /// # Errors
    /// As [`Log::open_replaying`].
    pub fn open(dir: &Path, options: &Options) -> Result<(Log, Recovered), LogError> {
        Log::open_replaying(dir, options, |_| {})
    }

    /// Opens the log in the folder `dir` and hands every frame to `replay`, in order, as it goes.
    ///
    /// A torn tail is cut. Blocks; the lock is held until the log is closed or the process ends.
    ///
    /// # Errors
    /// [`LogError::Locked`], [`LogError::Damaged`] with the first damaged place, [`LogError::Io`].
    pub fn open_replaying(
        dir: &Path,
        options: &Options,
        replay: impl FnMut(&Frame),
    ) -> Result<(Log, Recovered), LogError> {
        Log::open_in(Arc::new(Segments::create(dir)?), options, replay)
    }

    /// The same on any [`Disk`], without a lock: for a simulated one.
    ///
    /// # Errors
    /// [`LogError::Damaged`], [`LogError::Io`].
    pub fn open_on(
        disk: Arc<dyn Disk>,
        options: &Options,
        replay: impl FnMut(&Frame),
    ) -> Result<(Log, Recovered), LogError> {
        Log::open_in(Arc::new(Segments::on(disk)), options, replay)
    }

    /// The same in any [`Medium`].
    ///
    /// # Errors
    /// As [`Medium::open`].
    pub fn open_in(
        medium: Arc<dyn Medium>,
        options: &Options,
        mut replay: impl FnMut(&Frame),
    ) -> Result<(Log, Recovered), LogError> {
        let (tail, recovered) = medium.open(options, &mut replay)?;
        let head = recovered.last.unwrap_or(Position::START);
        let (writer, news) = Writer::new(tail, head, options.settle_after);
        let desk = Arc::new(Attended::start(writer)?);
        let shares = Arc::new(Semaphore::new(QUEUE_PIECES as usize));
        Ok((Log { desk, news, shares, medium, archiving: Arc::default() }, recovered))
    }

    /// Appends `entries` in their order, and returns their sequences when they are durable.
    ///
    /// To drop the future is not to take the request back: it may be appended all the same.
    ///
    /// # Errors
    /// [`LogError::TooLarge`], [`LogError::Empty`] and [`LogError::Full`]: nothing was written. [`LogError::Poisoned`],
    /// [`LogError::Superseded`], [`LogError::Closed`]: nothing of this request was written. Any other: it is not known
    /// until a restart.
    pub async fn append(&self, entries: Vec<Entry>) -> Result<Range<u64>, LogError> {
        self.append_for(Purpose::Work, entries).await
    }

    /// [`Log::append`] for a purpose: on a full disk, [`Purpose::Recovery`] may use what is held in reserve.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub async fn append_for(&self, purpose: Purpose, entries: Vec<Entry>) -> Result<Range<u64>, LogError> {
        let draft = draft(entries)?;
        let share = Arc::clone(&self.shares).acquire_many_owned(share_of(&draft)).await;
        let (request, wait) = request(purpose, draft, share.map_err(|_| LogError::Closed)?);
        self.desk.ask(request)?;
        wait.await.map_err(|_| LogError::Closed)?
    }

    /// [`Log::append`] for a thread that is not part of an async runtime, and which it blocks. When nobody else is
    /// appending, this thread writes and syncs by itself.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn append_blocking(&self, entries: Vec<Entry>) -> Result<Range<u64>, LogError> {
        let draft = draft(entries)?;
        let share = block_on(Arc::clone(&self.shares).acquire_many_owned(share_of(&draft)));
        let (request, mut wait) = request(Purpose::Work, draft, share.map_err(|_| LogError::Closed)?);
        self.desk.ask_or_do(request)?;
        match wait.try_recv() {
            Ok(answer) => answer,
            Err(_not_yet) => block_on(wait).map_err(|_| LogError::Closed)?,
        }
    }

    /// Makes sure that `bytes` of frames can be appended as ordinary work, if nobody appends in between.
    ///
    /// For one who must know before he does something that he cannot take back.
    ///
    /// # Errors
    /// [`LogError::Full`], [`LogError::Closed`], or what stood in the way of making room.
    pub async fn make_room(&self, bytes: u64) -> Result<(), LogError> {
        let (reply, wait) = oneshot::channel();
        self.desk.ask(Asked::Room(bytes, reply))?;
        wait.await.map_err(|_| LogError::Closed)?
    }

    /// Whether there is room for ordinary work, now and as it changes.
    #[must_use]
    pub fn room(&self) -> watch::Receiver<Room> {
        self.news.room.clone()
    }

    /// The error after which the log takes no more records, once there is one.
    #[must_use]
    pub fn stopped(&self) -> watch::Receiver<Option<String>> {
        self.news.stopped.clone()
    }

    /// Puts closed segments whose frames are all below `before` into the archive, oldest first, `keep` of the closed ones
    /// excepted. Blocks the calling thread; appending goes on meanwhile. What was moved stays moved after an error.
    ///
    /// # Errors
    /// [`LogError::Damaged`] when a segment is not what was written: it stays where it is. [`LogError::Io`].
    pub fn archive(&self, before: u64, keep: usize) -> Result<Moved, LogError> {
        let _one_at_a_time = self.archiving.lock().unwrap_or_else(PoisonError::into_inner);
        self.medium.archive(before, keep, &|first| self.release(first))
    }

    /// Notes the first sequence that is still kept in the medium itself and not put away.
    fn release(&self, first: u64) -> Result<(), LogError> {
        let (reply, wait) = oneshot::channel();
        self.desk.ask(Asked::Release(first, reply))?;
        block_on(wait).map_err(|_| LogError::Closed)?
    }

    /// Where it is kept.
    pub(crate) fn medium(&self) -> &Arc<dyn Medium> {
        &self.medium
    }

    /// How far the log is durable, now and as it goes on.
    #[must_use]
    pub fn durable(&self) -> watch::Receiver<Position> {
        self.news.durable.clone()
    }

    /// A reader of frames from `from` on, ending at what is durable when it gets there.
    ///
    /// # Errors
    /// [`LogError::NotHere`], [`LogError::Damaged`], [`LogError::Io`].
    pub fn reader(&self, from: u64) -> Result<Reader, LogError> {
        Ok(Reader::of(self.medium.as_ref(), from)?.bounded(self.durable()))
    }

    /// Frames from `from` on, waiting for those that are yet to come.
    ///
    /// # Errors
    /// As [`Log::reader`].
    pub fn follow(&self, from: u64) -> Result<Follower, LogError> {
        Follower::new(Arc::clone(&self.medium), from, self.durable())
    }
}

fn request(
    purpose: Purpose,
    draft: Draft,
    share: OwnedSemaphorePermit,
) -> (Asked, oneshot::Receiver<Answer>) {
    let (answer, wait) = oneshot::channel();
    (Asked::Append(Request { draft, purpose, answer, _share: share }), wait)
}

/// Entries as frames, unless they are refused.
#[expect(clippy::needless_pass_by_value, reason = "they are freed here, by the thread that made them")]
fn draft(entries: Vec<Entry>) -> Result<Draft, LogError> {
    if entries.is_empty() {
        return Err(LogError::Empty);
    }
    match entries.iter().find(|entry| entry.body.len() > BODY_LIMIT) {
        Some(entry) => Err(LogError::TooLarge { bytes: entry.body.len() }),
        None => Ok(Draft::of(&entries)),
    }
}

fn share_of(draft: &Draft) -> u32 {
    let pieces = u32::try_from(draft.bytes().div_ceil(PIECE)).unwrap_or(u32::MAX);
    pieces.clamp(QUEUE_PIECES / QUEUE, QUEUE_PIECES)
}

/// Runs a future to its end on this thread, which sleeps in between.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}
