//! Walking the bytes of one segment, frame by frame.
//!
//! Owns the read window. Finding frames behind bytes that are none is `resync`'s. Knows nothing of other segments, and does not decide what a fault means.

use std::io;

use super::frame::{self, Fault, Frame, HEADER_BYTES, Position};
use super::medium::DiskFile;
use super::resync::{self, Sightings};
use super::segment::{FRAMES_START, HeaderFault, LONGEST_SEGMENT, SEGMENT_HEADER_BYTES, SegmentHeader};

/// Bytes read at once; a longer frame makes the window as long as itself, never longer.
const WINDOW: usize = 256 << 10;

/// A body may well end in zeros, which say nothing; a frame that lacks more than these at its end was cut off.
const ZEROS_OF_A_BODY: u64 = 64;

/// What stands at the cursor.
pub(crate) enum Step {
    /// The next frame; the cursor is behind it now.
    Frame(Frame),
    /// Zeros or the end of the file, as far as a frame's header reaches.
    Blank,
    /// Something else; the cursor stays.
    Bad(Fault),
}

/// A place in a segment file.
pub(crate) struct Cursor {
    file: Box<dyn DiskFile>,
    offset: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl Cursor {
    /// Before the first frame of `file`.
    pub fn new(file: Box<dyn DiskFile>) -> Cursor {
        Cursor { file, offset: FRAMES_START, window: Vec::new(), window_at: 0 }
    }

    /// The byte offset in the file.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Goes to `offset`.
    pub fn seek(&mut self, offset: u64) {
        self.offset = offset;
    }

    /// Drops what was read, so that the next look sees what the file holds by then.
    pub fn forget(&mut self) {
        self.window.clear();
    }

    /// The file itself.
    pub fn file(&self) -> &dyn DiskFile {
        self.file.as_ref()
    }

    /// The segment's header.
    pub fn header(&mut self) -> io::Result<Result<SegmentHeader, HeaderFault>> {
        Ok(SegmentHeader::decode(self.bytes(0, SEGMENT_HEADER_BYTES)?))
    }

    /// Looks at the frame that should follow `after`, and steps over it when it is there.
    pub fn step(&mut self, after: &Position) -> io::Result<Step> {
        let found = match self.decode_at(self.offset)? {
            Ok(frame) => frame::follows(&frame, after).map(|()| frame),
            Err(Fault::Magic | Fault::PastEnd { .. }) if self.is_blank_here()? => return Ok(Step::Blank),
            Err(fault) => Err(fault),
        };
        Ok(match found {
            Ok(frame) => {
                self.offset += frame.encoded_len() as u64;
                Step::Frame(frame)
            }
            Err(fault) => Step::Bad(fault),
        })
    }

    /// The end of the last byte from the cursor on that is not zero; `None` when all of them are.
    pub fn last_written(&mut self) -> io::Result<Option<u64>> {
        let mut at = self.offset;
        let mut last = None;
        loop {
            let bytes = self.bytes(at, WINDOW)?;
            if bytes.is_empty() {
                return Ok(last);
            }
            if let Some(found) = bytes.iter().rposition(|byte| *byte != 0) {
                last = Some(at + found as u64 + 1);
            }
            at += bytes.len() as u64;
        }
    }

    /// Whether the file, or what is written in it, ends before the frame at the cursor does.
    pub fn stops_short(&mut self) -> io::Result<bool> {
        let length = frame::peek_len(self.bytes(self.offset, HEADER_BYTES)?).unwrap_or(HEADER_BYTES);
        let end = self.offset + length as u64;
        let written = self.last_written()?.unwrap_or(self.offset);
        Ok(self.file.size()? < end || written + ZEROS_OF_A_BODY < end)
    }

    /// The whole frames behind the cursor, which stays. One pass, however the bytes are made.
    pub fn sightings(&mut self) -> io::Result<Sightings> {
        let from = self.offset + 1;
        let room = self.file.size()?.saturating_sub(from).min(LONGEST_SEGMENT);
        let mut bytes = vec![0; usize::try_from(room).unwrap_or(usize::MAX)];
        let read = self.file.read_at(&mut bytes, from)?;
        bytes.truncate(read);
        Ok(Sightings::new(resync::find_frames(&bytes, from)))
    }

    fn decode_at(&mut self, at: u64) -> io::Result<Result<Frame, Fault>> {
        match frame::peek_len(self.bytes(at, HEADER_BYTES)?) {
            Ok(needed) => Ok(frame::decode(self.bytes(at, needed)?)),
            Err(fault) => Ok(Err(fault)),
        }
    }

    fn is_blank_here(&mut self) -> io::Result<bool> {
        Ok(self.bytes(self.offset, HEADER_BYTES)?.iter().all(|byte| *byte == 0))
    }

    /// The bytes at `at`: `wanted` of them, fewer only at the end of the file.
    fn bytes(&mut self, at: u64, wanted: usize) -> io::Result<&[u8]> {
        let inside = at.checked_sub(self.window_at).and_then(|skip| usize::try_from(skip).ok());
        if let Some(skip) = inside
            && self.window.len() >= skip + wanted
        {
            return Ok(&self.window[skip..skip + wanted]);
        }
        self.window.clear();
        let room = usize::try_from(self.file.size()?.saturating_sub(at)).unwrap_or(usize::MAX);
        self.window.resize(wanted.max(WINDOW).min(room), 0);
        let read = self.file.read_at(&mut self.window, at)?;
        self.window.truncate(read);
        self.window_at = at;
        Ok(&self.window[..wanted.min(read)])
    }
}
