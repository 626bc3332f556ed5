//! One connection: a task that reads lines and hands them out, a task that writes commands, and the table of
//! commands that wait for their answer. Knows nothing about what the commands mean.

use super::error::{Fate, QmpError};
use super::event::{Event, Events};
use super::line::{End, LineReader, Message};
use serde::Serialize;
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinHandle;

/// Commands that are given but not yet written. QEMU itself takes one at a time.
const QUEUED: usize = 16;

#[derive(Debug)]
pub(super) struct Connection {
    shared: Arc<Shared>,
    outgoing: mpsc::Sender<Outgoing>,
    next: AtomicU64,
    tasks: [JoinHandle<()>; 2],
}

/// What the reader, the writer and the callers have in common.
#[derive(Debug)]
struct Shared {
    path: PathBuf,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
    /// Dropped at the end, by which every subscriber learns of it.
    events: Option<broadcast::Sender<Arc<Event>>>,
    end: Option<End>,
}

#[derive(Debug)]
enum Answer {
    Value(Value),
    Error { class: String, desc: String },
    End(End),
}

#[derive(Serialize)]
struct Command<'a> {
    execute: &'a str,
    #[serde(skip_serializing_if = "Value::is_null")]
    arguments: Value,
    id: u64,
}

struct Outgoing {
    line: Vec<u8>,
    claim: Arc<Claim>,
}

/// Decides between the writer that wants to send a command and the caller that gave up on it: whoever comes
/// first has it, so that "not sent" is a fact and not a guess.
#[derive(Debug, Default)]
struct Claim(AtomicBool);

impl Claim {
    fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

/// A command in the table. Dropped on every way out of [`Connection::ask`]: then nobody waits for it any
/// more, and if it was not written it will not be.
struct Waiting<'a> {
    shared: &'a Shared,
    id: u64,
    claim: Arc<Claim>,
}

impl Waiting<'_> {
    fn withdraw(&self) -> Fate {
        if self.claim.take() { Fate::NotSent } else { Fate::Unknown }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.claim.take();
        self.shared.table().waiting.remove(&self.id);
    }
}

impl Connection {
    /// Starts the two tasks. Ids count from 1, so the reader knows an answer to something never asked.
    pub(super) fn start<R, W>(path: &Path, lines: LineReader<R>, writer: W, events: usize) -> Self
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let table =
            Table { waiting: HashMap::new(), events: Some(broadcast::Sender::new(events.max(1))), end: None };
        let shared = Arc::new(Shared { path: path.into(), table: Mutex::new(table) });
        let (outgoing, queue) = mpsc::channel(QUEUED);
        let tasks =
            [tokio::spawn(read(shared.clone(), lines)), tokio::spawn(write(shared.clone(), queue, writer))];
        Self { shared, outgoing, next: AtomicU64::new(1), tasks }
    }

    pub(super) fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Sends a command and waits for its answer, both within `limit`.
    pub(super) async fn ask(
        &self,
        command: &str,
        arguments: Value,
        limit: Duration,
    ) -> Result<Value, QmpError> {
        let path = &self.shared.path;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut line = serde_json::to_vec(&Command { execute: command, arguments, id })
            .expect("strings, numbers and values always serialise");
        line.push(b'\n');
        let (answer, answered) = oneshot::channel();
        let claim = Arc::new(Claim::default());
        self.shared.enter(id, answer).map_err(|end| end.error(path, command, Fate::NotSent))?;
        let waiting = Waiting { shared: &self.shared, id, claim: claim.clone() };
        let exchange = async {
            // A failure to queue means that the writer ended; it has then told `answered` why.
            let _ = self.outgoing.send(Outgoing { line, claim }).await;
            answered.await
        };
        match tokio::time::timeout(limit, exchange).await {
            Ok(Ok(Answer::Value(value))) => Ok(value),
            Ok(Ok(Answer::Error { class, .. })) if class == "CommandNotFound" => {
                Err(QmpError::CommandNotFound { path: path.clone(), command: command.into() })
            }
            Ok(Ok(Answer::Error { class, desc })) => {
                Err(QmpError::Refusal { path: path.clone(), command: command.into(), class, desc })
            }
            Ok(Ok(Answer::End(end))) => Err(end.error(path, command, waiting.withdraw())),
            Ok(Err(_)) => {
                Err(End::Closed("the connection was dropped".into()).error(path, command, waiting.withdraw()))
            }
            Err(_) => Err(QmpError::Timeout {
                path: path.clone(),
                command: command.into(),
                after: limit,
                fate: waiting.withdraw(),
            }),
        }
    }

    pub(super) fn events(&self) -> Events {
        let receiver = match &self.shared.table().events {
            Some(sender) => sender.subscribe(),
            // A channel without a sender: the first wait says that the connection is closed.
            None => broadcast::channel(1).1,
        };
        Events::new(self.shared.path.clone(), receiver)
    }

    pub(super) async fn close(mut self) {
        for task in &mut self.tasks {
            task.abort();
            // An aborted task ends with "cancelled": that is what was asked for.
            let _ = task.await;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Shared {
    /// The table is only ever changed whole, so a panic elsewhere cannot have left it half done.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, id: u64, answer: oneshot::Sender<Answer>) -> Result<(), End> {
        let mut table = self.table();
        match &table.end {
            Some(end) => Err(end.clone()),
            None => {
                table.waiting.insert(id, answer);
                Ok(())
            }
        }
    }

    /// Hands an answer to whoever waits; one that nobody waits for any more came too late and is dropped.
    fn answer(&self, id: u64, answer: Answer) {
        if let Some(waiting) = self.table().waiting.remove(&id) {
            let _ = waiting.send(answer);
        }
    }

    /// The end of the connection; the first reason stays.
    fn end(&self, end: End) {
        let mut table = self.table();
        let end = table.end.get_or_insert(end).clone();
        table.events = None;
        for (_, waiting) in table.waiting.drain() {
            let _ = waiting.send(Answer::End(end.clone()));
        }
    }
}

async fn read<R: AsyncRead + Unpin>(shared: Arc<Shared>, mut lines: LineReader<R>) {
    let mut answered = false;
    let end = loop {
        match lines.next().await {
            Ok(Message::Return { id: Some(id), value }) => {
                answered = true;
                shared.answer(id, Answer::Value(value));
            }
            Ok(Message::Error { id: Some(id), class, desc }) => {
                answered = true;
                shared.answer(id, Answer::Error { class, desc });
            }
            // A QEMU that is just starting may greet twice (seen with 10.0.2). Each greeting puts it back
            // into negotiation, so one that comes after an answer has undone ours.
            Ok(Message::Greeting(_)) if !answered => {}
            Ok(Message::Greeting(_)) => break End::Closed("QEMU began the session anew".into()),
            Ok(Message::Event { name, data, seconds, microseconds }) => {
                let event = Arc::new(Event { name, data, seconds, microseconds });
                if let Some(events) = &shared.table().events {
                    // No subscriber is no failure.
                    let _ = events.send(event);
                }
            }
            // QEMU leaves the id out only where it could not read the command.
            Ok(Message::Error { id: None, desc, .. }) => {
                break End::Protocol(format!("QEMU could not read us: {desc}"));
            }
            Ok(other) => break End::Protocol(format!("{} came without an id", other.kind())),
            Err(end) => break end,
        }
    };
    shared.end(end);
}

async fn write<W: AsyncWrite + Unpin>(
    shared: Arc<Shared>,
    mut queue: mpsc::Receiver<Outgoing>,
    mut writer: W,
) {
    while let Some(Outgoing { line, claim }) = queue.recv().await {
        if !claim.take() {
            continue;
        }
        if let Err(error) = writer.write_all(&line).await {
            shared.end(End::Closed(error.to_string()));
            return;
        }
    }
}
