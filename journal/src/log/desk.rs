//! Who writes next: what is asked of the writer, and the one thread at a time that has it.
//!
//! Owns the queue, the writer while nobody has it, and the thread that takes it when nobody else does. Knows nothing of
//! what a commit is.
//!
//! ```text
//!   blocking append ─┬─ the writer is here ──> takes it and all that is queued: no thread is woken
//!                    └─ another has it ──────> queued                    │
//!   async append ────────────────────────────> queued ──> the desk's thread, woken, takes the writer
//!                                                                        │
//!   whoever has the writer does one turn, brings it back, and wakes the thread when more is queued
//! ```
//!
//! A blocking append does its own work, so that a lone one costs no way to another thread and back. One turn each: nobody
//! is held up by what others go on to ask.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use super::error::LogError;
use super::writer::{Asked, Writer};

/// The queue and the writer.
pub(super) struct Desk {
    state: Mutex<State>,
    /// The desk's thread sleeps on it.
    changed: Condvar,
}

struct State {
    asked: VecDeque<Asked>,
    seat: Seat,
    /// No handle is left: what is queued is the last.
    closed: bool,
    /// When the writer, as it was brought back last, wants to be taken even if nothing is asked.
    due: Option<Instant>,
    /// Until when the desk's thread sleeps, unless it is woken; `None`: for ever.
    sleeps_until: Option<Instant>,
}

/// Where the writer is.
enum Seat {
    Here(Box<Writer>),
    Away,
    /// Whoever had it panicked, and nobody will write any more.
    Lost,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues `asked` for whoever writes next.
    pub fn ask(&self, asked: Asked) -> Result<(), LogError> {
        let mut state = self.lock();
        state.push(asked)?;
        if matches!(state.seat, Seat::Here(_)) {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Queues `asked`; and when nobody has the writer, this thread does the next turn.
    pub fn ask_or_do(&self, asked: Asked) -> Result<(), LogError> {
        let mut state = self.lock();
        state.push(asked)?;
        if let Some(turn) = Turn::take(self, state) {
            turn.work();
        }
        Ok(())
    }

    /// The desk's thread: takes turns until nobody can ask any more.
    fn attend(&self) {
        let mut state = self.lock();
        let writer = loop {
            let now = Instant::now();
            state.sleeps_until = match &state.seat {
                Seat::Here(_) if state.wants(now) => {
                    if let Some(turn) = Turn::take(self, state) {
                        turn.work();
                    }
                    state = self.lock();
                    continue;
                }
                Seat::Here(_) if state.closed => break std::mem::replace(&mut state.seat, Seat::Lost),
                Seat::Here(_) => state.due,
                // Whoever has it wakes this thread if it is wanted earlier than that.
                Seat::Away => state.due.filter(|due| *due > now),
                Seat::Lost => return,
            };
            state = self.sleep(state);
        };
        drop(state);
        if let Seat::Here(writer) = writer {
            writer.close();
        }
    }

    fn sleep<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        match state.sleeps_until {
            None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(until) => {
                let patience = until.saturating_duration_since(Instant::now());
                self.changed.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }
}

impl State {
    fn push(&mut self, asked: Asked) -> Result<(), LogError> {
        if self.closed || matches!(self.seat, Seat::Lost) {
            return Err(LogError::Closed);
        }
        self.asked.push_back(asked);
        Ok(())
    }

    /// Whether there is a turn to do.
    fn wants(&self, now: Instant) -> bool {
        !self.asked.is_empty() || self.due.is_some_and(|due| due <= now)
    }
}

/// The writer in one thread's hands, with what it is to do.
struct Turn<'a> {
    desk: &'a Desk,
    /// There until it is brought back.
    writer: Option<Box<Writer>>,
    work: Vec<Asked>,
}

impl<'a> Turn<'a> {
    /// Takes the writer, if it is there, and what is queued, as far as one commit takes it.
    fn take(desk: &'a Desk, mut state: MutexGuard<'_, State>) -> Option<Turn<'a>> {
        let mut work = Vec::new();
        let seat = std::mem::replace(&mut state.seat, Seat::Away);
        let Seat::Here(writer) = seat else {
            state.seat = seat;
            return None;
        };
        let mut bytes = 0;
        while Writer::takes_more(bytes)
            && let Some(asked) = state.asked.pop_front()
        {
            let last = !matches!(asked, Asked::Append(_));
            bytes += asked.bytes();
            work.push(asked);
            if last {
                break;
            }
        }
        Some(Turn { desk, writer: Some(writer), work })
    }

    fn work(mut self) {
        // A panic drops the writer here, and with it what it held: it is not brought back.
        if let Some(mut writer) = self.writer.take() {
            writer.turn(std::mem::take(&mut self.work));
            self.writer = Some(writer);
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.desk.lock();
        let wake = match self.writer.take() {
            Some(writer) => {
                state.due = writer.due();
                state.seat = Seat::Here(writer);
                let earlier = state
                    .due
                    .is_some_and(|due| state.sleeps_until.is_none_or(|sleeps_until| due < sleeps_until));
                earlier || !state.asked.is_empty() || state.closed
            }
            None => {
                state.seat = Seat::Lost;
                // Whoever waits for an answer learns that there will be none.
                state.asked.clear();
                true
            }
        };
        drop(state);
        if wake {
            self.desk.changed.notify_one();
        }
    }
}

/// The desk with its thread, which ends when this is dropped; the drop waits for it.
pub(super) struct Attended {
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
}

impl Attended {
    /// Sets up a desk for `writer`.
    pub fn start(writer: Writer) -> Result<Attended, LogError> {
        let state = State {
            asked: VecDeque::new(),
            seat: Seat::Here(Box::new(writer)),
            closed: false,
            due: None,
            sleeps_until: None,
        };
        let desk = Arc::new(Desk { state: Mutex::new(state), changed: Condvar::new() });
        let attended = Arc::clone(&desk);
        let thread = std::thread::Builder::new().name("journal-writer".to_owned());
        let thread = thread
            .spawn(move || attended.attend())
            .map_err(LogError::io("start the thread of", "the writer"))?;
        Ok(Attended { desk, thread: Some(thread) })
    }
}

impl std::ops::Deref for Attended {
    type Target = Desk;

    fn deref(&self) -> &Desk {
        &self.desk
    }
}

impl Drop for Attended {
    fn drop(&mut self) {
        self.desk.lock().closed = true;
        self.desk.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A writer that panicked has answered nobody since, and there is nobody left to tell.
            let _ended = thread.join();
        }
    }
}
