//! The numbers of NBD, and its fixed-size heads: bytes to meaning and back. No IO.

use super::extent::Extent;

pub(super) const INIT: u64 = 0x4e42_444d_4147_4943;
pub(super) const HAVE_OPTIONS: u64 = 0x4948_4156_454f_5054;
pub(super) const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const SIMPLE_REPLY: u32 = 0x6744_6698;
const CHUNK: u32 = 0x668e_33ef;

/// Handshake flags, the same in both directions.
pub(super) const FIXED_NEWSTYLE: u16 = 1;
pub(super) const NO_ZEROES: u16 = 2;

pub(super) const OPTION_ABORT: u32 = 2;
pub(super) const OPTION_LIST: u32 = 3;
pub(super) const OPTION_GO: u32 = 7;
pub(super) const OPTION_STRUCTURED_REPLY: u32 = 8;
pub(super) const OPTION_LIST_CONTEXTS: u32 = 9;
pub(super) const OPTION_SET_CONTEXTS: u32 = 10;

pub(super) const REPLY_ACK: u32 = 1;
pub(super) const REPLY_SERVER: u32 = 2;
pub(super) const REPLY_INFO: u32 = 3;
pub(super) const REPLY_CONTEXT: u32 = 4;
/// Set in every reply that is a refusal.
pub(super) const REPLY_ERROR: u32 = 1 << 31;
pub(super) const REPLY_ERROR_UNKNOWN: u32 = REPLY_ERROR | 6;

pub(super) const INFO_EXPORT: u16 = 0;
pub(super) const INFO_BLOCK_SIZE: u16 = 3;

pub(super) const FLAG_READ_ONLY: u16 = 1 << 1;
pub(super) const FLAG_FLUSH: u16 = 1 << 2;
pub(super) const FLAG_TRIM: u16 = 1 << 5;
pub(super) const FLAG_WRITE_ZEROES: u16 = 1 << 6;
pub(super) const FLAG_MULTI_CONN: u16 = 1 << 8;

/// In a write of zeros: allocate, do not punch a hole.
pub(super) const REQUEST_NO_HOLE: u16 = 1 << 1;

pub(super) const STATE_HOLE: u32 = 1;
pub(super) const STATE_ZERO: u32 = 2;

/// In a chunk: the last one of its reply.
pub(super) const CHUNK_DONE: u16 = 1;
pub(super) const CHUNK_NONE: u16 = 0;
pub(super) const CHUNK_DATA: u16 = 1;
pub(super) const CHUNK_HOLE: u16 = 2;
pub(super) const CHUNK_STATUS: u16 = 5;
/// Set in every chunk that is an error, those of later versions too.
pub(super) const CHUNK_ERROR: u16 = 1 << 15;

/// What a client may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Read,
    Write,
    Disconnect,
    Flush,
    Trim,
    WriteZeroes,
    BlockStatus,
}

impl Command {
    const fn number(self) -> u16 {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::Disconnect => 2,
            Self::Flush => 3,
            Self::Trim => 4,
            Self::WriteZeroes => 6,
            Self::BlockStatus => 7,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Read => "a read",
            Self::Write => "a write",
            Self::Disconnect => "the disconnect",
            Self::Flush => "a flush",
            Self::Trim => "a trim",
            Self::WriteZeroes => "a write of zeros",
            Self::BlockStatus => "the block status",
        }
    }

    pub(super) const fn changes_the_disk(self) -> bool {
        matches!(self, Self::Write | Self::Trim | Self::WriteZeroes)
    }

    /// The transmission flag without which it must not be sent.
    pub(super) const fn needs(self) -> u16 {
        match self {
            Self::Flush => FLAG_FLUSH,
            Self::Trim => FLAG_TRIM,
            Self::WriteZeroes => FLAG_WRITE_ZEROES,
            Self::Read | Self::Write | Self::Disconnect | Self::BlockStatus => 0,
        }
    }
}

/// The head of a request.
pub(super) fn request(command: Command, flags: u16, cookie: u64, offset: u64, length: u32) -> [u8; 28] {
    let mut head = [0; 28];
    head[..4].copy_from_slice(&REQUEST.to_be_bytes());
    head[4..6].copy_from_slice(&flags.to_be_bytes());
    head[6..8].copy_from_slice(&command.number().to_be_bytes());
    head[8..16].copy_from_slice(&cookie.to_be_bytes());
    head[16..24].copy_from_slice(&offset.to_be_bytes());
    head[24..].copy_from_slice(&length.to_be_bytes());
    head
}

/// Both kinds of reply begin with a magic number, and have this many bytes in common.
pub(super) const REPLY_HEAD: usize = 16;
/// What a chunk's head has beyond that.
pub(super) const CHUNK_REST: usize = 4;

/// The head of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReplyHead {
    Simple { error: u32, cookie: u64 },
    Chunk { flags: u16, kind: u16, cookie: u64 },
}

impl ReplyHead {
    pub(super) fn parse(head: [u8; REPLY_HEAD]) -> Result<Self, String> {
        let mut fields = Fields(&head);
        let complete = "a head has all its fields";
        let magic = fields.u32().expect(complete);
        match magic {
            SIMPLE_REPLY => {
                let error = fields.u32().expect(complete);
                Ok(Self::Simple { error, cookie: fields.u64().expect(complete) })
            }
            CHUNK => {
                let (flags, kind) = (fields.u16().expect(complete), fields.u16().expect(complete));
                Ok(Self::Chunk { flags, kind, cookie: fields.u64().expect(complete) })
            }
            _ => Err(format!("a reply begins with {magic:#010x}")),
        }
    }
}

/// Takes big-endian fields off the front of a message; none where the message is too short.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// The next `length` bytes as text.
    pub(super) fn text(&mut self, length: usize) -> Option<String> {
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(String::from_utf8_lossy(text).into_owned())
    }

    /// All that is left, as text.
    pub(super) fn rest(&mut self) -> String {
        String::from_utf8_lossy(std::mem::take(&mut self.0)).into_owned()
    }
}

/// NBD's name for the refusal of an option.
pub(super) fn refusal_name(reply: u32) -> String {
    let name = match reply & !REPLY_ERROR {
        1 => "unsupported",
        2 => "policy",
        3 => "invalid",
        4 => "platform",
        5 => "TLS required",
        6 => "unknown export",
        7 => "shutting down",
        8 => "block size required",
        9 => "too big",
        other => return format!("refusal {other}"),
    };
    name.to_owned()
}

/// The part of `chunk` within the buffer of a request for `request`; none where it is not inside.
pub(super) fn within(request: Extent, chunk: Extent) -> Option<std::ops::Range<usize>> {
    let start = chunk.offset.checked_sub(request.offset)?;
    let end = start.checked_add(chunk.length)?;
    let range = usize::try_from(start).ok()?..usize::try_from(end).ok()?;
    (end <= request.length).then_some(range)
}
