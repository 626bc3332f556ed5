//! Writing a disk and reading it back, on all cores. Blocks; asked to stop, it stops after the chunks in hand.

use std::io;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;

use repository::{Aligned, Digest};

use super::RestoreError;
use super::image::Image;
use super::source::{Piece, Source};
use crate::pipeline::crew::cores;
use crate::pipeline::hash::is_zero;
use crate::repositories::Watch;

/// How far a restore is: every byte is dealt with twice, written and read back.
pub(super) struct Pace<'a> {
    watch: &'a Watch,
    done: AtomicU64,
    total: u64,
}

impl<'a> Pace<'a> {
    /// The whole of it.
    pub(super) fn new(watch: &'a Watch, source: &Source) -> Self {
        Self { watch, done: AtomicU64::new(0), total: 2 * source.size }
    }

    /// Goes on where the writing ended, in a work of its own.
    pub(super) fn second_half(&self, source: &Source) {
        self.done.store(source.size, Ordering::Relaxed);
    }

    fn advance(&self, bytes: u64) -> ControlFlow<()> {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.watch.report(done, self.total)
    }
}

/// What is known of an image before it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    /// It is new: all zeros, all holes.
    Zeros,
    /// It holds something, of which what is right already stays.
    Something,
}

/// Writes what of the source the image lacks, and makes it durable; returns how many bytes were written.
pub(super) fn write(
    source: &Source,
    image: &impl Image,
    before: Before,
    pace: &Pace<'_>,
) -> Result<u64, RestoreError> {
    let written = AtomicU64::new(0);
    each(source, pace, |piece, buffer| {
        let bytes = match before {
            Before::Zeros => write_new(source, image, piece, buffer)?,
            Before::Something => write_different(source, image, piece, buffer)?,
        };
        written.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    })?;
    image.sync().map_err(RestoreError::Image)?;
    Ok(written.into_inner())
}

/// Reads everything back: every chunk must have its digest.
pub(super) fn verify(source: &Source, image: &impl Image, pace: &Pace<'_>) -> Result<(), RestoreError> {
    each(source, pace, |piece, buffer| {
        if holds(source, image, piece, buffer)? {
            return Ok(());
        }
        Err(RestoreError::NotAsWritten(piece.extent))
    })
}

/// Whether the image has a chunk already.
fn holds(
    source: &Source,
    image: &impl Image,
    piece: &Piece,
    buffer: &mut Aligned,
) -> Result<bool, RestoreError> {
    let zero = source.is_zero(piece);
    if image.is_hole(piece.extent).map_err(RestoreError::Image)? && zero {
        return Ok(true);
    }
    buffer.resize(length(piece)?);
    image.read(piece.extent.offset, buffer).map_err(RestoreError::Image)?;
    Ok(if zero { is_zero(buffer) } else { Digest::of(buffer) == piece.digest })
}

fn write_new(
    source: &Source,
    image: &impl Image,
    piece: &Piece,
    buffer: &mut Aligned,
) -> Result<u64, RestoreError> {
    if source.is_zero(piece) {
        return Ok(0);
    }
    source.repository.load_blob_into(&piece.digest, buffer)?;
    // Zeros of an unusual length: a chunk that another tool cut.
    if is_zero(buffer) {
        return Ok(0);
    }
    image.write(piece.extent.offset, buffer).map_err(RestoreError::Image)?;
    Ok(piece.extent.length)
}

fn write_different(
    source: &Source,
    image: &impl Image,
    piece: &Piece,
    buffer: &mut Aligned,
) -> Result<u64, RestoreError> {
    if holds(source, image, piece, buffer)? {
        return Ok(0);
    }
    if source.is_zero(piece) {
        image.zero(piece.extent).map_err(RestoreError::Image)?;
    } else {
        source.repository.load_blob_into(&piece.digest, buffer)?;
        image.write(piece.extent.offset, buffer).map_err(RestoreError::Image)?;
    }
    Ok(piece.extent.length)
}

fn length(piece: &Piece) -> Result<usize, RestoreError> {
    usize::try_from(piece.extent.length).map_err(|error| RestoreError::Image(io::Error::other(error)))
}

/// Has every piece dealt with, in about their order; the first error ends it.
fn each(
    source: &Source,
    pace: &Pace<'_>,
    deal: impl Fn(&Piece, &mut Aligned) -> Result<(), RestoreError> + Sync,
) -> Result<(), RestoreError> {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let failure = Mutex::new(None::<RestoreError>);
    let toil = || {
        let mut buffer = Aligned::default();
        while let (false, Some(piece)) =
            (stop.load(Ordering::Relaxed), source.pieces.get(next.fetch_add(1, Ordering::Relaxed)))
        {
            let dealt = deal(piece, &mut buffer).and_then(|()| match pace.advance(piece.extent.length) {
                ControlFlow::Continue(()) => Ok(()),
                ControlFlow::Break(()) => Err(RestoreError::Cancelled),
            });
            if let Err(error) = dealt {
                stop.store(true, Ordering::Relaxed);
                failure.lock().expect("setting a value does not panic").get_or_insert(error);
            }
        }
    };
    thread::scope(|scope| {
        // Half of them wait for the image's storage, past any cache.
        for _ in 1..2 * cores() {
            scope.spawn(toil);
        }
        toil();
    });
    failure.into_inner().expect("setting a value does not panic").map_or(Ok(()), Err)
}
