//! One connection to one export: requests out, several at a time, each with its time limit.

use super::error::{End, NbdError};
use super::extent::{Extent, Run};
use super::negotiate::{Export, Options, dial, within_handshake};
use super::protocol::{self as p, Command};
use super::reply::{Body, Pending, Table};
use super::{Limits, map};
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{Mutex, Semaphore, oneshot};
use tokio::task::JoinHandle;

/// Enough for the heads of replies; longer reads go around it into the caller's buffer.
const HEAD_BUFFER: usize = 4 << 10;
/// The longest piece in which zeros are written and blocks are trimmed, so that each fits its time limit.
const ZEROES_AT_A_TIME: u64 = 1 << 30;

type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// A connection to one export. All methods take `&self`; up to [`Limits::in_flight`] requests are on their way
/// at a time, the others wait.
///
/// A call that is dropped or runs out of time gives up its answer, not the request. Only one that is dropped
/// half-written ends the connection, since the server could not tell where the next request starts.
pub struct Nbd {
    export: Export,
    server: String,
    limits: Limits,
    table: Arc<Table>,
    writer: Mutex<Writer>,
    slots: Arc<Semaphore>,
    cookies: AtomicU64,
    reader: JoinHandle<()>,
}

impl std::fmt::Debug for Nbd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nbd")
            .field("server", &self.server)
            .field("export", &self.export)
            .finish_non_exhaustive()
    }
}

impl Nbd {
    /// Connects to an export on a unix socket and agrees on all of `contexts`.
    ///
    /// # Errors
    /// [`NbdError::NotThere`], [`NbdError::Refused`], [`NbdError::ExportNotFound`],
    /// [`NbdError::ContextNotAgreed`], and whatever else goes wrong in the negotiation.
    pub async fn connect(
        socket: impl AsRef<Path>,
        export: &str,
        contexts: &[&str],
        limits: Limits,
    ) -> Result<Self, NbdError> {
        let socket = socket.as_ref();
        let server = socket.display().to_string();
        let negotiate = async {
            let options = Options::open(dial(socket).await?, &server).await?;
            options.go(export, contexts).await
        };
        let (stream, export): (UnixStream, Export) = within_handshake(negotiate, &server, limits).await?;
        let (reader, writer) = stream.into_split();
        Ok(Self::start(reader, Box::new(writer), server, export, limits))
    }

    /// The same over a stream that is there already; `server` names its other end in errors.
    ///
    /// # Errors
    /// As [`Nbd::connect`].
    pub async fn over<S>(
        stream: S,
        server: &str,
        export: &str,
        contexts: &[&str],
        limits: Limits,
    ) -> Result<Self, NbdError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let negotiate = async { Options::open(stream, server).await?.go(export, contexts).await };
        let (stream, export) = within_handshake(negotiate, server, limits).await?;
        let (reader, writer) = tokio::io::split(stream);
        Ok(Self::start(reader, Box::new(writer), server.into(), export, limits))
    }

    fn start<R>(reader: R, writer: Writer, server: String, export: Export, limits: Limits) -> Self
    where
        R: AsyncRead + Send + Unpin + 'static,
    {
        let contexts = export.contexts.iter().map(|context| context.id).collect();
        let table = Arc::new(Table::new(&server, contexts));
        let replies = table.clone();
        let reader = tokio::spawn(async move {
            replies.receive_all(BufReader::with_capacity(HEAD_BUFFER, reader)).await;
        });
        let slots = Arc::new(Semaphore::new(limits.in_flight.clamp(1, Semaphore::MAX_PERMITS)));
        Self {
            export,
            server,
            limits,
            table,
            writer: Mutex::new(writer),
            slots,
            cookies: AtomicU64::new(1),
            reader,
        }
    }

    /// What was agreed.
    pub fn export(&self) -> &Export {
        &self.export
    }

    /// The socket or address.
    pub fn server(&self) -> &str {
        &self.server
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// Fills all of `buffer` from `offset` on and gives it back. The data is received straight into it, and
    /// holes are filled with zeros.
    ///
    /// # Errors
    /// See [`NbdError`]; the buffer is then lost.
    pub async fn read(&self, offset: u64, buffer: Vec<u8>) -> Result<Vec<u8>, NbdError> {
        let extent = Extent::new(offset, bytes(&buffer));
        self.check_payload(Command::Read, extent)?;
        match self.request(Command::Read, 0, extent, &[], Body::Data(buffer)).await? {
            Body::Data(buffer) => Ok(buffer),
            Body::Status(_) | Body::Nothing => unreachable!("a request's body keeps its kind"),
        }
    }

    /// Writes all of `data` at `offset`.
    ///
    /// # Errors
    /// See [`NbdError`].
    pub async fn write(&self, offset: u64, data: &[u8]) -> Result<(), NbdError> {
        let extent = Extent::new(offset, bytes(data));
        self.check_payload(Command::Write, extent)?;
        self.request(Command::Write, 0, extent, data, Body::Nothing).await.map(drop)
    }

    /// Makes a range of any length read as zeros; `allocate` keeps the space, otherwise it may become a hole.
    ///
    /// # Errors
    /// See [`NbdError`].
    pub async fn write_zeroes(&self, extent: Extent, allocate: bool) -> Result<(), NbdError> {
        let flags = if allocate { p::REQUEST_NO_HOLE } else { 0 };
        self.in_parts(Command::WriteZeroes, flags, extent).await
    }

    /// Gives up what is stored in a range of any length; what it reads as afterwards is undefined.
    ///
    /// # Errors
    /// See [`NbdError`].
    pub async fn trim(&self, extent: Extent) -> Result<(), NbdError> {
        self.in_parts(Command::Trim, 0, extent).await
    }

    /// Returns once everything that was answered before is on stable storage.
    ///
    /// # Errors
    /// See [`NbdError`].
    pub async fn flush(&self) -> Result<(), NbdError> {
        self.request(Command::Flush, 0, Extent::default(), &[], Body::Nothing).await.map(drop)
    }

    /// The state of the disk from the start of `extent` on: for each agreed context at least one run, and
    /// at most to the end of `extent`. The server decides how far it looks; [`Nbd::walk`] goes to the end.
    ///
    /// # Errors
    /// See [`NbdError`].
    pub async fn block_status(&self, extent: Extent) -> Result<Vec<Vec<Run>>, NbdError> {
        let asked = Extent::new(extent.offset, extent.length.min(map::STATUS_AT_A_TIME));
        self.check(Command::BlockStatus, asked)?;
        if self.export.contexts.is_empty() {
            return Err(self.misfit(Command::BlockStatus, asked, "no context was agreed"));
        }
        let body = Body::Status(vec![Vec::new(); self.export.contexts.len()]);
        match self.request(Command::BlockStatus, 0, asked, &[], body).await? {
            Body::Status(runs) => Ok(runs),
            Body::Data(_) | Body::Nothing => unreachable!("a request's body keeps its kind"),
        }
    }

    /// Says goodbye and waits for the server to close, at most [`Limits::request`]. Dropping closes without a word.
    ///
    /// # Errors
    /// [`NbdError::Timeout`] if the server does not close, [`NbdError::Closed`] if it had already.
    pub async fn close(mut self) -> Result<(), NbdError> {
        let head = p::request(Command::Disconnect, 0, 0, 0, 0);
        let goodbye = async {
            let writer = self.writer.get_mut();
            writer.write_all(&head).await?;
            writer.shutdown().await?;
            // The reader ends at the end of the stream; had it panicked, the connection would be over too.
            let _ = (&mut self.reader).await;
            Ok(())
        };
        let during = Command::Disconnect.name();
        match tokio::time::timeout(self.limits.request, goodbye).await {
            Ok(closed) => {
                closed.map_err(|error: std::io::Error| End::from(error).error(&self.server, during))
            }
            Err(_) => Err(self.timeout(during.into())),
        }
    }

    async fn in_parts(&self, command: Command, flags: u16, extent: Extent) -> Result<(), NbdError> {
        self.check(command, extent)?;
        let mut offset = extent.offset;
        while offset < extent.end() {
            let part = Extent::new(offset, (extent.end() - offset).min(ZEROES_AT_A_TIME));
            self.request(command, flags, part, &[], Body::Nothing).await?;
            offset = part.end();
        }
        Ok(())
    }

    fn check_payload(&self, command: Command, extent: Extent) -> Result<(), NbdError> {
        let maximum = self.export.blocks.maximum;
        if extent.length > u64::from(maximum) {
            return Err(self.misfit(command, extent, &format!("the server takes at most {maximum} bytes")));
        }
        self.check(command, extent)
    }

    fn check(&self, command: Command, extent: Extent) -> Result<(), NbdError> {
        let size = self.export.size;
        if extent.length == 0 || !extent.fits(size) {
            return Err(self.misfit(
                command,
                extent,
                &format!("it is empty, or not within the {size} bytes"),
            ));
        }
        Ok(())
    }

    /// Sends one request and waits for its answer, within the limit.
    async fn request(
        &self,
        command: Command,
        flags: u16,
        extent: Extent,
        payload: &[u8],
        body: Body,
    ) -> Result<Body, NbdError> {
        let needs = command.needs();
        if self.export.flags & needs != needs {
            return Err(self.misfit(command, extent, "the server does not offer it"));
        }
        if command.changes_the_disk() && self.export.is_read_only() {
            return Err(self.misfit(command, extent, "the export is read-only"));
        }
        let exchange = self.exchange(command, flags, extent, payload, body);
        match tokio::time::timeout(self.limits.request, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(self.timeout(format!("{} of {extent}", command.name()))),
        }
    }

    async fn exchange(
        &self,
        command: Command,
        flags: u16,
        extent: Extent,
        payload: &[u8],
        body: Body,
    ) -> Result<Body, NbdError> {
        let length =
            u32::try_from(extent.length).map_err(|_| self.misfit(command, extent, "it is too long"))?;
        let slot = self.slots.clone().acquire_owned().await.expect("the slots are never closed");
        let cookie = self.cookies.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.table.enter(cookie, Pending::new(command, extent, body, answer, Some(slot)))?;
        let head = p::request(command, flags, cookie, extent.offset, length);
        let closed = |why: String| End::Closed(why).error(&self.server, command.name());
        self.send(cookie, &head, payload).await.map_err(|error| closed(error.to_string()))?;
        answered.await.unwrap_or_else(|_| Err(closed("the reader ended".into())))
    }

    /// Writes head and payload without joining them in memory.
    async fn send(&self, cookie: u64, head: &[u8], payload: &[u8]) -> std::io::Result<()> {
        let total = head.len() + payload.len();
        let mut sending = Sending { table: &self.table, cookie, sent: 0, total };
        let mut writer = self.writer.lock().await;
        while sending.sent < total {
            let head_left = &head[sending.sent.min(head.len())..];
            let payload_left = &payload[sending.sent.saturating_sub(head.len())..];
            match writer.write_vectored(&[IoSlice::new(head_left), IoSlice::new(payload_left)]).await? {
                0 => return Err(std::io::ErrorKind::WriteZero.into()),
                written => sending.sent += written,
            }
        }
        Ok(())
    }

    fn misfit(&self, command: Command, extent: Extent, why: &str) -> NbdError {
        NbdError::Misfit { server: self.server.clone(), command: command.name(), extent, why: why.into() }
    }

    fn timeout(&self, during: String) -> NbdError {
        NbdError::Timeout { server: self.server.clone(), during, after: self.limits.request }
    }
}

impl Drop for Nbd {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// A request on its way out. If it is dropped before it is whole, either nothing of it was sent and it is
/// taken back, or the server has half of it and the connection is over.
struct Sending<'a> {
    table: &'a Table,
    cookie: u64,
    sent: usize,
    total: usize,
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        if self.sent == 0 {
            self.table.withdraw(self.cookie);
        } else if self.sent < self.total {
            self.table.end(End::Closed("a request was given up half-written".into()));
        }
    }
}

fn bytes(buffer: &[u8]) -> u64 {
    u64::try_from(buffer.len()).expect("memory is addressed with at most 64 bits")
}
