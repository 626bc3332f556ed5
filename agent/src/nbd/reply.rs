//! Replies: what the server sends is matched with the request it belongs to, checked against it, and received
//! into the request's own buffer. Knows no sockets; a reply is read from anything that can be read.

use super::error::{End, Errno, NbdError};
use super::extent::{Extent, Run};
use super::protocol::{self as p, Command, Fields, ReplyHead};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// The longest block status of one context. QEMU sends at most 1 MiB, nbdkit 8 MiB.
const MAX_STATUS: u32 = 16 << 20;
/// The longest error chunk: a number, a message of at most 4096 bytes, an offset.
const MAX_ERROR: u32 = 8 << 10;
/// How many separate pieces the data of one read may be in at a time. Servers send them in order, so one.
const MAX_PIECES: usize = 4096;

/// What a request carries to its reply and back.
#[derive(Debug, PartialEq)]
pub(super) enum Body {
    /// The buffer that a read fills.
    Data(Vec<u8>),
    /// The runs of each context, in the order of the agreed contexts.
    Status(Vec<Vec<Run>>),
    /// Nothing but success.
    Nothing,
}

/// A request that waits for its reply.
#[derive(Debug)]
pub(super) struct Pending {
    command: Command,
    extent: Extent,
    body: Body,
    pieces: Pieces,
    error: Option<(Errno, String)>,
    answer: oneshot::Sender<Result<Body, NbdError>>,
    /// Held until the server has answered, also when nobody waits any more: it bounds what is in flight.
    _slot: Option<OwnedSemaphorePermit>,
}

impl Pending {
    pub(super) fn new(
        command: Command,
        extent: Extent,
        body: Body,
        answer: oneshot::Sender<Result<Body, NbdError>>,
        slot: Option<OwnedSemaphorePermit>,
    ) -> Self {
        Self { command, extent, body, pieces: Pieces::default(), error: None, answer, _slot: slot }
    }
}

/// The requests that wait, and the end of the connection once it has come.
#[derive(Debug)]
pub(super) struct Table {
    server: String,
    /// The ids of the agreed contexts.
    contexts: Vec<u32>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    pending: HashMap<u64, Pending>,
    end: Option<End>,
}

impl Table {
    pub(super) fn new(server: &str, contexts: Vec<u32>) -> Self {
        Self { server: server.into(), contexts, inner: Mutex::default() }
    }

    /// Entries are put in and taken out whole, so a panic elsewhere leaves nothing half done.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn enter(&self, cookie: u64, pending: Pending) -> Result<(), NbdError> {
        let mut inner = self.inner();
        match &inner.end {
            Some(end) => Err(end.clone().error(&self.server, pending.command.name())),
            None => {
                inner.pending.insert(cookie, pending);
                Ok(())
            }
        }
    }

    /// Takes back a request of which nothing was sent.
    pub(super) fn withdraw(&self, cookie: u64) {
        self.inner().pending.remove(&cookie);
    }

    /// Ends the connection for everyone who waits and everyone who comes; the first reason stays.
    pub(super) fn end(&self, end: End) {
        let mut inner = self.inner();
        let end = inner.end.get_or_insert(end).clone();
        for (_, pending) in inner.pending.drain() {
            let error = end.clone().error(&self.server, pending.command.name());
            // Nobody waits for a request that was given up.
            let _ = pending.answer.send(Err(error));
        }
    }

    /// Receives replies until the connection is over.
    pub(super) async fn receive_all<R: AsyncRead + Unpin>(&self, mut source: R) {
        loop {
            if let Err(end) = self.receive(&mut source).await {
                return self.end(end);
            }
        }
    }

    /// Receives one simple reply or one chunk.
    async fn receive<R: AsyncRead + Unpin>(&self, source: &mut R) -> Result<(), End> {
        let mut head = [0; p::REPLY_HEAD];
        source.read_exact(&mut head).await?;
        match ReplyHead::parse(head).map_err(End::Protocol)? {
            ReplyHead::Simple { error, cookie } => {
                let mut pending = self.take(cookie)?;
                match error {
                    0 if pending.body != Body::Nothing => {
                        let what =
                            format!("{} was answered without a structured reply", pending.command.name());
                        self.put_back(cookie, pending);
                        return Err(End::Protocol(what));
                    }
                    0 => {}
                    error => {
                        pending.error.get_or_insert((Errno(error), String::new()));
                    }
                }
                self.settle(cookie, pending)
            }
            ReplyHead::Chunk { flags, kind, cookie } => {
                let mut length = [0; p::CHUNK_REST];
                source.read_exact(&mut length).await?;
                let done = flags & p::CHUNK_DONE != 0;
                let mut pending = self.take(cookie)?;
                let received = self.chunk(source, &mut pending, kind, done, u32::from_be_bytes(length)).await;
                match received {
                    Ok(()) if done => self.settle(cookie, pending),
                    received => {
                        self.put_back(cookie, pending);
                        received
                    }
                }
            }
        }
    }

    fn take(&self, cookie: u64) -> Result<Pending, End> {
        let pending = self.inner().pending.remove(&cookie);
        pending.ok_or_else(|| End::Protocol(format!("a reply has the cookie {cookie}, which no request has")))
    }

    fn put_back(&self, cookie: u64, pending: Pending) {
        self.inner().pending.insert(cookie, pending);
    }

    /// Hands the outcome of a complete reply to whoever waits.
    fn settle(&self, cookie: u64, pending: Pending) -> Result<(), End> {
        if pending.error.is_none() {
            let lacking = match &pending.body {
                Body::Data(buffer) if !pending.pieces.are_all_of(buffer.len()) => Some("a read lacks a part"),
                Body::Status(runs) if runs.iter().any(Vec::is_empty) => {
                    Some("a block status lacks a context")
                }
                _ => None,
            };
            if let Some(what) = lacking {
                self.put_back(cookie, pending);
                return Err(End::Protocol(format!("the reply to {what}")));
            }
        }
        let Pending { command, extent, body, error, answer, .. } = pending;
        let outcome = match error {
            None => Ok(body),
            Some((errno, said)) => Err(NbdError::Server {
                server: self.server.clone(),
                command: command.name(),
                extent,
                errno,
                said,
            }),
        };
        // Nobody waits for a request that was given up.
        let _ = answer.send(outcome);
        Ok(())
    }

    async fn chunk<R: AsyncRead + Unpin>(
        &self,
        source: &mut R,
        pending: &mut Pending,
        kind: u16,
        done: bool,
        length: u32,
    ) -> Result<(), End> {
        let extent = pending.extent;
        match (kind, &mut pending.body) {
            (p::CHUNK_NONE, _) if length == 0 && done => Ok(()),
            (p::CHUNK_DATA, Body::Data(buffer)) if length > 8 => {
                let chunk = Extent::new(source.read_u64().await?, u64::from(length - 8));
                let part = pending.pieces.add(extent, chunk)?;
                source.read_exact(&mut buffer[part]).await?;
                Ok(())
            }
            (p::CHUNK_HOLE, Body::Data(buffer)) if length == 12 => {
                let chunk = Extent::new(source.read_u64().await?, u64::from(source.read_u32().await?));
                let part = pending.pieces.add(extent, chunk)?;
                buffer[part].fill(0);
                Ok(())
            }
            (p::CHUNK_STATUS, Body::Status(runs))
                if (12..=MAX_STATUS).contains(&length) && length % 8 == 4 =>
            {
                let payload = payload(source, length).await?;
                self.status(&payload, extent, runs)
            }
            (kind, _) if kind & p::CHUNK_ERROR != 0 && (6..=MAX_ERROR).contains(&length) => {
                let payload = payload(source, length).await?;
                let error =
                    error(&payload).ok_or_else(|| End::Protocol("an error chunk makes no sense".into()))?;
                pending.error.get_or_insert(error);
                Ok(())
            }
            _ => {
                let command = pending.command.name();
                Err(End::Protocol(format!(
                    "{command} was answered with a chunk of kind {kind} and {length} bytes"
                )))
            }
        }
    }

    /// The runs of one context, from the start of the request on. The last one may end beyond the request:
    /// what is beyond is left out.
    fn status(&self, payload: &[u8], request: Extent, contexts: &mut [Vec<Run>]) -> Result<(), End> {
        let mut fields = Fields(payload);
        let id = fields.u32();
        let index = self.contexts.iter().position(|context| Some(*context) == id);
        let runs = index.and_then(|index| contexts.get_mut(index)).filter(|runs| runs.is_empty());
        let Some(runs) = runs else {
            return Err(End::Protocol("a block status is of a context twice, or of one never agreed".into()));
        };
        let mut offset = request.offset;
        while let (Some(length), Some(flags)) = (fields.u32(), fields.u32()) {
            if length == 0 || offset >= request.end() {
                return Err(End::Protocol(
                    "a block status has an empty run, or one beyond the request".into(),
                ));
            }
            let length = u64::from(length).min(request.end() - offset);
            Run { extent: Extent::new(offset, length), flags }.append_to(runs);
            offset += length;
        }
        Ok(())
    }
}

/// Reads what a chunk carries. The buffer grows with what arrives, not with what was announced.
async fn payload<R: AsyncRead + Unpin>(source: &mut R, length: u32) -> Result<Vec<u8>, End> {
    let mut payload = Vec::new();
    source.take(u64::from(length)).read_to_end(&mut payload).await?;
    if payload.len() == length as usize {
        Ok(payload)
    } else {
        Err(End::Closed("end of file in a reply".into()))
    }
}

/// The number and the words of an error chunk; what later versions append is ignored.
fn error(payload: &[u8]) -> Option<(Errno, String)> {
    let mut fields = Fields(payload);
    let errno = fields.u32().filter(|errno| *errno != 0)?;
    let length = fields.u16()?;
    Some((Errno(errno), fields.text(usize::from(length))?))
}

/// Which parts of a buffer have arrived: each byte exactly once. Sorted, and neighbours are joined.
#[derive(Debug, Default)]
struct Pieces(Vec<std::ops::Range<usize>>);

impl Pieces {
    /// Notes a chunk of the reply to `request`; answers its place in the buffer.
    fn add(&mut self, request: Extent, chunk: Extent) -> Result<std::ops::Range<usize>, End> {
        let refuse =
            |why: &str| End::Protocol(format!("the read of {request} was answered with {chunk}, {why}"));
        let new = p::within(request, chunk).filter(|new| !new.is_empty());
        let new = new.ok_or_else(|| refuse("which is outside"))?;
        let at = self.0.partition_point(|piece| piece.end <= new.start);
        if self.0.get(at).is_some_and(|next| next.start < new.end) {
            return Err(refuse("part of which it had sent already"));
        }
        let joins_previous = at > 0 && self.0[at - 1].end == new.start;
        let joins_next = self.0.get(at).is_some_and(|next| next.start == new.end);
        match (joins_previous, joins_next) {
            (true, true) => self.0[at - 1].end = self.0.remove(at).end,
            (true, false) => self.0[at - 1].end = new.end,
            (false, true) => self.0[at].start = new.start,
            (false, false) if self.0.len() < MAX_PIECES => self.0.insert(at, new.clone()),
            (false, false) => return Err(refuse("in too many pieces")),
        }
        Ok(new)
    }

    fn are_all_of(&self, length: usize) -> bool {
        matches!(self.0.as_slice(), [whole] if *whole == (0..length))
    }
}

#[cfg(test)]
#[path = "reply_tests.rs"]
mod tests;
