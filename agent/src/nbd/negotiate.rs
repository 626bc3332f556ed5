//! From a fresh stream to an export that is ready: fixed newstyle with structured replies and metadata contexts.

use super::error::{End, NbdError};
use super::protocol::{self as p, Fields};
use super::{Limits, MAX_REQUEST};
use std::path::Path;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

/// The longest reply to an option: names are at most 4096 bytes, refusals are a sentence.
const MAX_OPTION_REPLY: u32 = 16 << 10;
/// The most replies to one option: a list has one for each context or export.
const MAX_OPTION_REPLIES: usize = 64 << 10;
/// The longest name (proto.md, "String lengths").
const MAX_NAME: usize = 4096;

/// An export, as agreed with the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// What the server asks requests to be.
    pub blocks: BlockSizes,
    /// The agreed contexts, in the order in which they were asked for.
    pub contexts: Vec<Context>,
    pub(super) flags: u16,
}

impl Export {
    /// Whether writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.flags & p::FLAG_READ_ONLY != 0
    }

    /// Whether several connections see each other's writes, so that one may use several.
    pub fn allows_multiple_connections(&self) -> bool {
        self.flags & p::FLAG_MULTI_CONN != 0
    }
}

/// Sizes of requests in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSizes {
    /// Offsets and lengths are multiples of this.
    pub minimum: u32,
    /// Multiples of this are served best.
    pub preferred: u32,
    /// The longest read or write, at most [`MAX_REQUEST`].
    pub maximum: u32,
}

/// A metadata context that the server agreed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// Such as `base:allocation`.
    pub name: String,
    pub(super) id: u32,
}

/// The names of all contexts that an export offers.
///
/// # Errors
/// See [`NbdError`].
pub async fn list_contexts(socket: &Path, export: &str, limits: Limits) -> Result<Vec<String>, NbdError> {
    let server = socket.display().to_string();
    let list = async {
        let mut options = Options::open(dial(socket).await?, &server).await?;
        options.structured_replies().await?;
        let contexts = options.contexts(p::OPTION_LIST_CONTEXTS, export, &[]).await?;
        options.abort().await;
        Ok(contexts.into_iter().map(|context| context.name).collect())
    };
    within_handshake(list, &server, limits).await
}

/// The names of all exports of a server.
///
/// # Errors
/// See [`NbdError`].
pub async fn list_exports(socket: &Path, limits: Limits) -> Result<Vec<String>, NbdError> {
    let server = socket.display().to_string();
    let list = async {
        let mut options = Options::open(dial(socket).await?, &server).await?;
        options.send(p::OPTION_LIST, &[]).await?;
        let mut names = Vec::new();
        while let Some((reply, data)) = options.reply(p::OPTION_LIST, "the list of exports").await? {
            let mut fields = Fields(&data);
            let name = fields.u32().and_then(|length| fields.text(length as usize));
            match name {
                Some(name) if reply == p::REPLY_SERVER => names.push(name),
                _ => return Err(options.protocol("a list of exports holds something else")),
            }
        }
        options.abort().await;
        Ok(names)
    };
    within_handshake(list, &server, limits).await
}

/// Meets a server and takes leave of it as the protocol has it: when this returns, the server has let go of the connection
/// and has nothing to say about it in its log.
///
/// # Errors
/// See [`NbdError`].
pub async fn greet(stream: &mut UnixStream, server: &str, limits: Limits) -> Result<(), NbdError> {
    let leave = async {
        Options::open(&mut *stream, server).await?.abort().await;
        // It acknowledges, or does not, and closes.
        let _ = tokio::io::copy(stream, &mut tokio::io::sink()).await;
        Ok(())
    };
    within_handshake(leave, server, limits).await
}

/// Opens a unix socket, and says what it means when that fails.
pub(super) async fn dial(socket: &Path) -> Result<UnixStream, NbdError> {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    UnixStream::connect(socket).await.map_err(|source| {
        let server = socket.display().to_string();
        match source.kind() {
            NotFound => NbdError::NotThere { server },
            ConnectionRefused => NbdError::Refused { server },
            _ => NbdError::Unreachable { server, source },
        }
    })
}

pub(super) async fn within_handshake<T>(
    step: impl Future<Output = Result<T, NbdError>>,
    server: &str,
    limits: Limits,
) -> Result<T, NbdError> {
    tokio::time::timeout(limits.handshake, step).await.unwrap_or_else(|_| {
        let during = "the negotiation".to_owned();
        Err(NbdError::Timeout { server: server.to_owned(), during, after: limits.handshake })
    })
}

/// The option phase of a connection.
pub(super) struct Options<'a, S> {
    stream: S,
    server: &'a str,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Options<'a, S> {
    /// Reads the server's opening and answers it.
    pub(super) async fn open(stream: S, server: &'a str) -> Result<Self, NbdError> {
        let mut options = Self { stream, server };
        let mut opening = [0; 18];
        options.receive(&mut opening).await?;
        let mut fields = Fields(&opening);
        if (fields.u64(), fields.u64()) != (Some(p::INIT), Some(p::HAVE_OPTIONS)) {
            return Err(options.protocol("the server does not open with fixed newstyle negotiation"));
        }
        let flags = fields.u16().unwrap_or(0);
        if flags & p::FIXED_NEWSTYLE == 0 {
            return Err(options.protocol("the server knows newstyle negotiation, but not the fixed one"));
        }
        let ours = u32::from(p::FIXED_NEWSTYLE | (flags & p::NO_ZEROES));
        options.transmit(&ours.to_be_bytes()).await?;
        Ok(options)
    }

    /// Agrees on everything and enters the transmission phase.
    pub(super) async fn go(mut self, export: &str, contexts: &[&str]) -> Result<(S, Export), NbdError> {
        self.structured_replies().await?;
        let contexts = match contexts {
            [] => Vec::new(),
            asked => self.agreed_contexts(export, asked).await?,
        };
        let mut data = name(export);
        data.extend_from_slice(&1_u16.to_be_bytes());
        data.extend_from_slice(&p::INFO_BLOCK_SIZE.to_be_bytes());
        self.send(p::OPTION_GO, &data).await?;
        let (mut size, mut blocks) = (None, None);
        while let Some((reply, data)) = self.reply_about(p::OPTION_GO, "the export", export).await? {
            let mut fields = Fields(&data);
            match (reply, fields.u16()) {
                (p::REPLY_INFO, Some(p::INFO_EXPORT)) => size = fields.u64().zip(fields.u16()),
                (p::REPLY_INFO, Some(p::INFO_BLOCK_SIZE)) => blocks = Some(self.block_sizes(fields)?),
                (p::REPLY_INFO, Some(_)) => {}
                _ => return Err(self.protocol("an export is described by something else")),
            }
        }
        let Some((size, flags)) = size else { return Err(self.protocol("the export has no size")) };
        if i64::try_from(size).is_err() {
            return Err(self.protocol("the export is larger than a disk can be"));
        }
        // What proto.md lets a client assume of a server that names no sizes.
        let blocks = blocks.unwrap_or(BlockSizes { minimum: 512, preferred: 4096, maximum: MAX_REQUEST });
        Ok((self.stream, Export { name: export.into(), size, blocks, contexts, flags }))
    }

    fn block_sizes(&self, mut fields: Fields<'_>) -> Result<BlockSizes, NbdError> {
        let (minimum, preferred, maximum) = (fields.u32(), fields.u32(), fields.u32());
        match (minimum, preferred, maximum) {
            (Some(minimum), Some(preferred), Some(maximum))
                if minimum.is_power_of_two()
                    && minimum <= 64 << 10
                    && preferred.is_power_of_two()
                    && preferred >= minimum
                    && maximum >= minimum =>
            {
                // A multiple of the minimum: the limit that we set ourselves is a power of two.
                Ok(BlockSizes { minimum, preferred, maximum: maximum.min(MAX_REQUEST) & !(minimum - 1) })
            }
            _ => Err(self.protocol("the export's block sizes make no sense")),
        }
    }

    async fn structured_replies(&mut self) -> Result<(), NbdError> {
        const WHAT: &str = "structured replies";
        self.send(p::OPTION_STRUCTURED_REPLY, &[]).await?;
        match self.reply(p::OPTION_STRUCTURED_REPLY, WHAT).await? {
            None => Ok(()),
            Some(_) => Err(self.protocol("structured replies are answered with something else")),
        }
    }

    async fn agreed_contexts(&mut self, export: &str, asked: &[&str]) -> Result<Vec<Context>, NbdError> {
        let agreed = self.contexts(p::OPTION_SET_CONTEXTS, export, asked).await?;
        let find = |name: &&str| {
            let found = agreed.iter().find(|context| context.name == *name);
            found.cloned().ok_or_else(|| NbdError::ContextNotAgreed {
                server: self.server.into(),
                export: export.into(),
                context: (*name).into(),
            })
        };
        let contexts = asked.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        let distinct: std::collections::HashSet<u32> = contexts.iter().map(|context| context.id).collect();
        if distinct.len() != asked.len() {
            return Err(self.protocol("two contexts have the same id"));
        }
        Ok(contexts)
    }

    /// Lists or sets contexts; no query lists them all.
    async fn contexts(
        &mut self,
        option: u32,
        export: &str,
        queries: &[&str],
    ) -> Result<Vec<Context>, NbdError> {
        let mut data = name(export);
        data.extend_from_slice(&length(queries.len()).to_be_bytes());
        queries.iter().for_each(|query| data.extend_from_slice(&name(query)));
        self.send(option, &data).await?;
        let mut contexts = Vec::new();
        while let Some((reply, data)) = self.reply_about(option, "the metadata contexts", export).await? {
            let mut fields = Fields(&data);
            match fields.u32() {
                Some(id) if reply == p::REPLY_CONTEXT => contexts.push(Context { id, name: fields.rest() }),
                _ => return Err(self.protocol("a list of contexts holds something else")),
            }
            if contexts.len() > MAX_OPTION_REPLIES {
                return Err(self.protocol("the list of contexts does not end"));
            }
        }
        Ok(contexts)
    }

    /// Says goodbye; the server may be gone already, and we do not care.
    async fn abort(mut self) {
        let _ = self.send(p::OPTION_ABORT, &[]).await;
    }

    async fn send(&mut self, option: u32, data: &[u8]) -> Result<(), NbdError> {
        let mut message = p::HAVE_OPTIONS.to_be_bytes().to_vec();
        message.extend_from_slice(&option.to_be_bytes());
        message.extend_from_slice(&length(data.len()).to_be_bytes());
        message.extend_from_slice(data);
        self.transmit(&message).await
    }

    /// As [`Options::reply`], for an option that names an export, which the server may not have.
    async fn reply_about(
        &mut self,
        option: u32,
        what: &'static str,
        export: &str,
    ) -> Result<Option<(u32, Vec<u8>)>, NbdError> {
        match self.raw_reply(option).await? {
            (p::REPLY_ERROR_UNKNOWN, said) => Err(NbdError::ExportNotFound {
                server: self.server.into(),
                export: export.into(),
                said: Fields(&said).rest(),
            }),
            reply => self.accept(reply, what),
        }
    }

    /// The next reply to an option; none for the acknowledgement that ends them.
    async fn reply(&mut self, option: u32, what: &'static str) -> Result<Option<(u32, Vec<u8>)>, NbdError> {
        let reply = self.raw_reply(option).await?;
        self.accept(reply, what)
    }

    fn accept(
        &self,
        reply: (u32, Vec<u8>),
        option: &'static str,
    ) -> Result<Option<(u32, Vec<u8>)>, NbdError> {
        match reply {
            (p::REPLY_ACK, _) => Ok(None),
            (refusal, said) if refusal & p::REPLY_ERROR != 0 => Err(NbdError::Rejected {
                server: self.server.into(),
                option,
                reason: p::refusal_name(refusal),
                said: Fields(&said).rest(),
            }),
            other => Ok(Some(other)),
        }
    }

    async fn raw_reply(&mut self, option: u32) -> Result<(u32, Vec<u8>), NbdError> {
        let mut head = [0; 20];
        self.receive(&mut head).await?;
        let mut fields = Fields(&head);
        if (fields.u64(), fields.u32()) != (Some(p::OPTION_REPLY), Some(option)) {
            return Err(self.protocol("the reply is not to the option that was sent"));
        }
        match (fields.u32(), fields.u32()) {
            (Some(reply), Some(length)) if length <= MAX_OPTION_REPLY => {
                let mut data = vec![0; length as usize];
                self.receive(&mut data).await?;
                Ok((reply, data))
            }
            _ => Err(self.protocol("the reply to an option is too long")),
        }
    }

    async fn receive(&mut self, into: &mut [u8]) -> Result<(), NbdError> {
        let received = self.stream.read_exact(into).await;
        received.map(drop).map_err(|error| End::from(error).error(self.server, "the negotiation"))
    }

    async fn transmit(&mut self, message: &[u8]) -> Result<(), NbdError> {
        let sent = self.stream.write_all(message).await;
        sent.map_err(|error| End::from(error).error(self.server, "the negotiation"))
    }

    fn protocol(&self, what: &str) -> NbdError {
        NbdError::Protocol { server: self.server.into(), what: what.into() }
    }
}

/// A name with its length before it. A longer one than NBD allows is cut, and then simply not found.
fn name(text: &str) -> Vec<u8> {
    let text = &text.as_bytes()[..text.len().min(MAX_NAME)];
    let mut data = length(text.len()).to_be_bytes().to_vec();
    data.extend_from_slice(text);
    data
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("options are a few names long")
}
